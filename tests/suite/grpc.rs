//! gRPC through the proxy, by other people's implementation of it on both sides (grpcio, on gRPC's C core): calls of all
//! four kinds, metadata, errors in trailers alone, deadlines, and cancellation from either side. What is asked and
//! expected stands in `tests/peers/grpc_peer.py`.

use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::process::Process;
use ringway_tests::proxy::{Driver, Proxy};
use std::net::SocketAddr;
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/grpc_peer.py");

struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let mut process = Process::spawn(Command::new("python3").arg(SCRIPT).arg("server"));
        let port = process.await_output("a port (is grpcio there? pip install grpcio)", |output| {
            output.lines().find_map(|line| line.strip_prefix("port ")?.trim().parse::<u16>().ok())
        });
        Server { process, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn config(&self) -> Config {
        Config::to_addresses(&[self.address.into()]).upstream("protocol: http2")
    }
}

/// Runs these cases of the client, each of which must say that it is fine.
#[track_caller]
fn ask(address: SocketAddr, cases: &[&str]) {
    let address = address.to_string();
    let client = Process::spawn(Command::new("python3").args([SCRIPT, "client", &address]).args(cases));
    let finished = client.finish();
    let expected: Vec<_> = cases.iter().map(|case| format!("{case}: ok")).collect();
    let said: Vec<_> = finished.stdout.lines().collect();
    assert_eq!(said, expected, "{}", finished.stderr);
    assert!(finished.status.success(), "{}", finished.stderr);
}

#[track_caller]
fn through(driver: Driver, config: impl FnOnce(Config) -> Config, cases: &[&str]) {
    let server = Server::start();
    let proxy = Proxy::start(driver, &config(server.config()));
    ask(proxy.address(), cases);
    proxy.await_metric("ringway_requests_active", &[], |active| active == 0.0);
    proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
    assert!(server.process.stderr().is_empty(), "{}", server.process.stderr());
}

for_each_driver! {
    fn unary_calls(driver) within 60 {
        through(driver, |config| config, &["unary_calls", "compression", "parallel_calls"]);
    }

    fn metadata(driver) within 60 {
        through(driver, |config| config, &["metadata", "large_metadata"]);
    }

    fn errors(driver) within 60 {
        through(driver, |config| config, &["trailers_only_errors", "late_errors", "a_server_that_ends_the_chat"]);
    }

    fn streams(driver) within 60 {
        through(driver, |config| config, &["client_streaming", "server_streaming", "bidirectional_streaming"]);
    }

    fn deadlines_and_cancellation(driver) within 60 {
        through(driver, |config| config, &["deadlines", "cancelled_by_the_client"]);
    }

    /// A gRPC client keeps one connection for hours: that it is replaced now and then must not be felt.
    fn connections_that_age(driver) within 60 {
        let ageing = |config: Config| config.listener("requests_per_connection_max: 20");
        through(driver, ageing, &["connections_that_age"]);
    }
}
