//! What the tests share: an origin of their own, and a client that shows raw bytes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use ringway_bench::{
    load::{self, Config, Extent, Target, Unobserved, stats::Report},
    net::Address,
    origin::{self, Handshakes, Origin, Stall},
    runtime::Io,
    tls::{
        authority::Authority,
        settings::{ClientSettings, ServerSettings, Trust},
    },
};

/// Nothing that works takes so long, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn start_origin(stall: Option<Stall>, io: Io) -> SocketAddr {
    let listen = vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let config = origin::Config { listen, workers: 1, io, stall, tls: None };
    tcp_address(&origin::start(&config).expect("an origin"))
}

/// An origin that speaks TLS and nothing else.
pub(crate) fn start_tls_origin(tls: ServerSettings) -> (SocketAddr, Arc<Handshakes>) {
    let listen = vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let config = origin::Config { listen, workers: 1, io: Io::Auto, stall: None, tls: Some(tls) };
    let origin = origin::start(&config).expect("an origin");
    (tcp_address(&origin), origin.handshakes)
}

fn tcp_address(origin: &Origin) -> SocketAddr {
    match origin.addresses[0] {
        Address::Tcp(address) => address,
        Address::Unix(_) => unreachable!("asked for TCP"),
    }
}

/// An authority with its files, for the length of a test.
#[derive(Debug)]
pub(crate) struct Certificates {
    directory: PathBuf,
    pub(crate) authority: Authority,
}

impl Certificates {
    pub(crate) fn new(test: &str) -> Self {
        let directory =
            std::env::temp_dir().join(format!("ringway-bench-test-{test}-{}", std::process::id()));
        let authority = Authority::create(&directory, test).expect("a directory");
        Self { directory, authority }
    }

    /// For 127.0.0.1 and for bench.test.
    pub(crate) fn server(&self) -> ServerSettings {
        let identity = self.authority.issue("server", &["127.0.0.1", "bench.test"]).expect("a certificate");
        ServerSettings { identity, client_roots: None }
    }

    pub(crate) fn believed(&self) -> ClientSettings {
        let trust = Trust::File(self.authority.root().to_owned());
        ClientSettings { trust, ..ClientSettings::default() }
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sends `request` and returns all that comes until the origin closes, or what came before a reset.
pub(crate) fn talk(address: SocketAddr, request: &str) -> (String, std::io::Result<()>) {
    let mut socket = TcpStream::connect(address).expect("the origin listens");
    socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
    socket.write_all(request.as_bytes()).expect("the origin reads");
    let mut answer = Vec::new();
    let end = socket.read_to_end(&mut answer).map(|_| ());
    (String::from_utf8(answer).expect("text"), end)
}

/// One connection, closed loop, as many requests as asked for.
pub(crate) fn config(address: SocketAddr, path: &str, requests: u64) -> Config {
    let target = Target::parse(&format!("http://{address}{path}"), 1).expect("a URL");
    Config { timeout: DEADLINE, ..Config::new(vec![target], Extent::Requests(requests)) }
}

pub(crate) fn load(config: &Config) -> Report {
    load::run(config, &Arc::new(AtomicBool::new(false)), &mut Unobserved).expect("a report")
}

/// An address at which nobody listens. It stays bound as long as the socket lives: another test can't take it.
pub(crate) fn dead_address() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    (socket, address)
}
