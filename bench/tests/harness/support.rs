//! What the tests share: an origin of their own, and a client that shows raw bytes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use ringway_bench::{
    load::{self, Check, Config, Digest, Extent, Pace, Request, Target, Unobserved, stats::Report},
    net::Address,
    origin::{self, Stall},
    runtime::Io,
};

/// Nothing that works takes so long, even on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn start_origin(stall: Option<Stall>, io: Io) -> SocketAddr {
    let listen = vec![Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let bound = origin::start(&origin::Config { listen, workers: 1, io, stall }).expect("an origin");
    match bound[0] {
        Address::Tcp(address) => address,
        Address::Unix(_) => unreachable!("asked for TCP"),
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
    Config {
        targets: vec![Target::parse(&format!("http://{address}{path}"), 1).expect("a URL")],
        request: Request::default(),
        connections: 1,
        threads: 1,
        pace: Pace::Closed,
        extent: Extent::Requests(requests),
        warm_up: Duration::ZERO,
        timeout: DEADLINE,
        requests_per_connection: None,
        check: Check { status: None, body_bytes: None, digest: Digest::Unchecked },
        io: Io::Auto,
        cores: Vec::new(),
    }
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
