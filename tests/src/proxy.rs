//! The proxy under test, in this process, and what its admin port tells.

use crate::client::{Client, Response, get};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::wait::eventually;
use ringway::net::driver::IoMode;
use ringway::server::{ConfigSource, Overrides, Server};
use std::fmt;
use std::net::SocketAddr;

/// Which of the engine's drivers a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Uring,
    Epoll,
}

impl Driver {
    /// As the configuration, the command line and the metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        }
    }

    fn mode(self) -> IoMode {
        match self {
            Driver::Uring => IoMode::Uring,
            Driver::Epoll => IoMode::Epoll,
        }
    }
}

/// A running proxy; stopped, with its threads joined, when dropped.
pub struct Proxy {
    server: Option<Server>,
    address: SocketAddr,
    admin: SocketAddr,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Starts a proxy on this driver. Where the kernel refuses `io_uring` the test fails and says so: a suite that
    /// silently ran on the other driver would prove nothing.
    #[track_caller]
    pub fn start(driver: Driver, config: &Config) -> Proxy {
        Proxy::start_text(driver, &config.to_string())
    }

    #[track_caller]
    pub fn start_text(driver: Driver, text: &str) -> Proxy {
        let overrides = Overrides { io: Some(driver.mode()), ..Overrides::default() };
        let source = ConfigSource::Text { name: "test.yaml".to_owned(), text: text.to_owned() };
        let server = match Server::start(source, overrides) {
            Ok(server) => server,
            Err(error) if driver == Driver::Uring => {
                panic!(
                    "no proxy on io_uring (is it allowed here? see kernel.io_uring_disabled and seccomp): {error}"
                )
            }
            Err(error) => panic!("no proxy: {error}\n{text}"),
        };
        let address = server.listeners().first().expect("a listener").1;
        let admin = server.admin_address().expect("an admin listener");
        Proxy { server: Some(server), address, admin }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("a proxy runs until it is dropped")
    }

    #[track_caller]
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// One GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.connect().get(target)
    }

    #[track_caller]
    pub fn admin(&self, path: &str) -> Response {
        admin(self.admin, path)
    }

    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        scrape(self.admin)
    }

    /// Waits until the sum of these series is as wanted, and shows the last value when it never is.
    #[track_caller]
    pub fn await_metric(&self, name: &str, labels: &[(&str, &str)], wanted: impl Fn(f64) -> bool) -> f64 {
        let mut last = f64::NAN;
        let what = format!("{name}{labels:?} as wanted");
        eventually(&what, || {
            last = self.metrics().sum(name, labels);
            wanted(last).then_some(last)
        })
    }

    /// Reloads this configuration, which must be accepted.
    #[track_caller]
    pub fn reload(&self, config: &Config) -> u64 {
        let version =
            self.server().reload(&config.to_string()).unwrap_or_else(|error| panic!("refused: {error}"));
        // Workers take messages in their order: whoever has answered this has taken over the configuration.
        self.metrics();
        version
    }

    /// Waits until the proxy has stopped by itself, as after a drain.
    #[track_caller]
    pub fn wait(self) {
        self.outcome().unwrap_or_else(|reason| panic!("it could not go on: {reason}"));
    }

    /// Waits until the proxy has stopped by itself: why, if nobody asked it to.
    pub fn outcome(mut self) -> Result<(), String> {
        self.server.take().expect("a proxy runs until it is dropped").wait()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

/// One GET to an admin port.
#[track_caller]
pub fn admin(address: SocketAddr, path: &str) -> Response {
    let mut client = Client::connect(address);
    client.send(get(path));
    client.response("GET")
}

#[track_caller]
pub fn scrape(address: SocketAddr) -> Metrics {
    let response = admin(address, "/metrics").expect(200);
    Metrics::parse(&response.text()).unwrap_or_else(|wrong| panic!("/metrics: {wrong}\n{}", response.text()))
}
