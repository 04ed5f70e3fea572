//! HTTP/2 and gRPC: the generator against the origin, and both against curl's idea of them.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::Duration,
};

use ringway_bench::{
    grpc::Method,
    load::{self, Arrivals, Digest, Extent, Grpc, Pace, Protocol, Request, Target},
    origin::{Stall, pattern},
    runtime::Io,
};

use crate::support::{Certificates, config, load, start_origin, start_tls_origin};

type Change = fn(&mut load::Config);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Two connections of four streams, in the clear.
fn h2c(origin: SocketAddr, path: &str, requests: u64) -> load::Config {
    let mut config = config(origin, path, requests);
    config.protocol = Protocol::Http2 { streams: 4 };
    config.connections = 2;
    config
}

fn check_right(origin: SocketAddr, path: &str, change: Change) {
    let mut config = h2c(origin, path, 24);
    change(&mut config);
    let report = load(&config);
    assert_eq!((report.requests, report.errors_sum()), (24, 0), "{path}: {:?}", report.errors);
    assert_eq!((report.protocol, report.streams), ("HTTP/2", 4));
}

#[test]
fn responses_are_checked() {
    let origin = start_origin(None, Io::Auto);
    let right: &[(&str, Change)] = &[
        ("/bytes/10", |c| c.check.digest = Digest::Exactly(pattern::digest(10))),
        ("/bytes/0", |c| c.check.body_bytes = Some(0)),
        ("/bytes/3000000", |c| c.check.digest = Digest::Exactly(pattern::digest(3_000_000))),
        ("/bytes/3000000?chunked=100000", |c| c.check.digest = Digest::Exactly(pattern::digest(3_000_000))),
        ("/bytes/70000?chunked=999", |c| c.check.body_bytes = Some(70_000)),
        ("/bytes/10?unframed", |c| c.check.digest = Digest::Exactly(pattern::digest(10))),
        ("/bytes/10?trickle=3,1", |c| c.check.digest = Digest::Exactly(pattern::digest(10))),
        ("/status/204", |c| c.check.status = Some(204)),
        ("/bytes/10", |c| c.request.method = "HEAD".to_owned()),
        ("/bytes/10", |c| c.io = Io::Epoll),
        ("/bytes/3000000", |c| c.io = Io::Epoll),
        ("/bytes/10?close", |_| ()),
        ("/bytes/5", |c| {
            c.request = Request { method: "POST".to_owned(), headers: Vec::new(), body: vec![b'x'; 1 << 20] };
        }),
        ("/bytes/10", |c| c.threads = 2),
        ("/bytes/10", |c| c.pace = Pace::Open { rate_per_s: 2000.0, arrivals: Arrivals::Poisson }),
    ];
    for (path, change) in right {
        check_right(origin, path, *change);
    }
}

#[test]
fn what_is_wrong_with_a_response_is_told_apart() {
    let origin = start_origin(None, Io::Auto);
    let wrong: &[(&str, Change, &str)] = &[
        ("/status/503", |_| (), "status"),
        ("/bytes/10", |c| c.check.body_bytes = Some(11), "wrong_length"),
        ("/bytes/10?truncate=5", |_| (), "wrong_length"),
        ("/bytes/10?corrupt", |c| c.check.digest = Digest::Exactly(pattern::digest(10)), "wrong_digest"),
        ("/bytes/10?reset", |_| (), "reset"),
        ("/bytes/10?delay=10000", |c| c.timeout = ms(10), "timeout"),
        ("/bytes/10?trickle=1,10000", |c| c.timeout = ms(10), "timeout"),
    ];
    for (path, change, kind) in wrong {
        let mut config = h2c(origin, path, 16);
        change(&mut config);
        let report = load(&config);
        assert_eq!((report.errors[kind], report.errors_sum()), (16, 16), "{path}: {:?}", report.errors);
        // One stream's trouble is not its connection's.
        assert_eq!((report.requests, report.connections_opened), (0, 2), "{path}");
    }
    // h2 may show a reset before the head that came with it.
    let report = load(&h2c(origin, "/bytes/100000?reset=50000", 16));
    assert_eq!(report.errors["reset"] + report.errors["wrong_length"], 16, "{:?}", report.errors);
}

#[test]
fn connections_are_used_as_often_as_asked() {
    let origin = start_origin(None, Io::Auto);
    let mut config = h2c(origin, "/bytes/10", 120);
    config.requests_per_connection = Some(10);
    let report = load(&config);
    // The two connections' shares may not be even.
    assert_eq!((report.requests, report.errors_sum()), (120, 0), "{:?}", report.errors);
    assert!((12..=13).contains(&report.connections_opened), "{}", report.connections_opened);

    // More streams than the server takes at once wait their turn within the client.
    let mut config = h2c(origin, "/bytes/10?delay=1", 600);
    config.protocol = Protocol::Http2 { streams: 150 };
    let report = load(&config);
    assert_eq!((report.requests, report.connections_opened), (600, 2), "{:?}", report.errors);
}

#[test]
fn what_a_server_did_not_process_is_sent_again() {
    // Each answer ends its connection, while the other streams of it have sent more.
    let origin = start_origin(None, Io::Auto);
    let mut config = h2c(origin, "/bytes/10?close", 400);
    config.protocol = Protocol::Http2 { streams: 16 };
    let report = load(&config);
    assert_eq!((report.requests, report.errors_sum()), (400, 0), "{:?}", report.errors);
    assert!(report.connections_opened > 2, "{}", report.connections_opened);
}

/// One frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Answers the first request of each connection with 200, and does nothing about the second: says so with a GOAWAY,
/// then a close, on every other connection, and with `REFUSED_STREAM` on the others.
fn refusing_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = |mut socket: TcpStream, says_goaway: bool| -> std::io::Result<()> {
        socket.read_exact(&mut [0; 24])?;
        socket.write_all(&frame(SETTINGS, 0, 0, &[]))?;
        let mut requests = 0;
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head)?;
            let payload_bytes = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            socket.read_exact(&mut vec![0; payload_bytes])?;
            if head[3] != HEADERS {
                continue;
            }
            requests += 1;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if requests != 2 {
                // ":status: 200" in the static table; ends headers and stream.
                socket.write_all(&frame(HEADERS, 0x5, stream, &[0x88]))?;
            } else if says_goaway {
                let last = [0, 0, 0, 1, 0, 0, 0, 0];
                socket.write_all(&frame(GOAWAY, 0, 0, &last))?;
                socket.shutdown(Shutdown::Write)?;
                // Closing with unread data would reset the connection, and could take the GOAWAY with it.
                return std::io::copy(&mut socket, &mut std::io::sink()).map(drop);
            } else {
                socket.write_all(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 7]))?;
            }
        }
    };
    thread::spawn(move || {
        // The first looks whether anybody is there, and says nothing.
        for (index, socket) in listener.incoming().enumerate() {
            let socket = socket.expect("a connection");
            thread::spawn(move || serve(socket, index % 2 == 1));
        }
    });
    address
}

#[test]
fn what_was_refused_counts_once() {
    let mut config = h2c(refusing_server(), "/", 12);
    config.connections = 1;
    config.protocol = Protocol::Http2 { streams: 2 };
    let report = load(&config);
    assert_eq!((report.requests, report.errors_sum()), (12, 0), "{:?}", report.errors);
    assert!(report.refused >= 1, "{}", report.refused);
    assert_eq!(report.statuses, [("2xx", 12)].into());
}

#[test]
fn the_open_loop_shows_a_stall() {
    let origin = start_origin(Some(Stall { period: ms(1000), length: ms(200) }), Io::Auto);
    let mut config = h2c(origin, "/bytes/100", 0);
    config.extent = Extent::For(ms(2000));
    config.protocol = Protocol::Http2 { streams: 64 };
    config.pace = Pace::Open { rate_per_s: 500.0, arrivals: Arrivals::Constant };
    let report = load(&config);
    assert!(report.latency.p99_us > 150_000.0, "{:?}", report.latency);
    assert_eq!((report.errors_sum(), report.requests + report.unsent), (0, 1000));
}

#[test]
fn alpn_chooses_the_version() {
    let certificates = Certificates::new("alpn");
    let (origin, handshakes) = start_tls_origin(certificates.server());
    let mut config = h2c(origin, "/bytes/3000", 200);
    config.targets = vec![Target::parse(&format!("https://{origin}/bytes/3000"), 1).expect("a URL")];
    config.tls = certificates.believed();
    config.check.digest = Digest::Exactly(pattern::digest(3000));
    let report = load(&config);
    assert_eq!((report.requests, report.errors_sum()), (200, 0), "{:?}", report.errors);
    let tls = report.tls.expect("it was https");
    assert_eq!((tls.alpn.as_deref(), tls.handshakes_full + tls.handshakes_resumed), (Some("h2"), 2));
    assert_eq!(handshakes.full() + handshakes.resumed(), 2);

    // 1 MiB and more, in records of TLS and in frames of HTTP/2.
    config.targets[0].path = "/bytes/3000000".to_owned();
    config.check.digest = Digest::Exactly(pattern::digest(3_000_000));
    assert_eq!(load(&config).requests, 200);

    // Resumed, one connection for each request.
    config.targets[0].path = "/bytes/10".to_owned();
    config.check.digest = Digest::Unchecked;
    config.requests_per_connection = Some(1);
    config.protocol = Protocol::Http2 { streams: 1 };
    config.extent = Extent::Requests(40);
    let report = load(&config);
    assert_eq!((report.requests, report.connections_opened), (40, 40), "{:?}", report.errors);
    let tls = report.tls.expect("it was https");
    assert!((1..=2).contains(&tls.handshakes_full) && tls.handshakes_resumed >= 38, "{tls:?}");
}

#[test]
fn a_server_without_http2_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            if socket.read(&mut [0; 4096]).unwrap_or(0) > 0 {
                let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let report = load(&h2c(address, "/", 8));
    assert_eq!((report.requests, report.errors_sum()), (0, 8), "{:?}", report.errors);
    assert_eq!(report.errors["malformed"] + report.errors["reset"], 8, "{:?}", report.errors);
}

#[test]
fn an_echo_tells_what_arrived() {
    let certificates = Certificates::new("echo");
    let (origin, _) = start_tls_origin(certificates.server());
    let output = Command::new("curl")
        .args(["-sS", "--http2", "--cacert"])
        .arg(certificates.authority.root())
        .args(["-H", "X-A: b", "-d", "hello"])
        .arg(format!("https://{origin}/echo?a=b"))
        .output();
    // What another client says; where there is none, the others of these tests still count.
    let Ok(output) = output else { return };
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (json["version"].as_str(), json["target"].as_str()),
        (Some("HTTP/2.0"), Some("/echo?a=b")),
        "{json}"
    );
    assert_eq!((json["body_bytes"].as_u64(), json["tls"]["alpn"].as_str()), (Some(5), Some("h2")), "{json}");
    let fields = json["headers"].as_array().expect("fields");
    assert!(fields.contains(&serde_json::json!(["x-a", "b"])), "{json}");
    assert!(fields.contains(&serde_json::json!([":authority", origin.to_string()])), "{json}");
}

fn call(
    origin: SocketAddr,
    method: Method,
    grpc: Grpc,
    change: impl Fn(&mut load::Config),
) -> load::stats::Report {
    let mut config = h2c(origin, method.path(), 40);
    config.grpc = Some(grpc);
    change(&mut config);
    load(&config)
}

#[test]
fn calls_are_echoed_and_counted() {
    let origin = start_origin(None, Io::Auto);
    for method in Method::ALL {
        for (message_bytes, messages) in [(0, 1), (100, 5), (70_000, 3)] {
            let report = call(origin, method, Grpc { message_bytes, messages }, |_| ());
            assert_eq!((report.requests, report.errors_sum()), (40, 0), "{method:?}: {:?}", report.errors);
            let (_, back) = method.messages(messages);
            let calls = report.grpc.expect("it was gRPC");
            assert_eq!(calls.messages, 40 * back, "{method:?}");
            assert_eq!(calls.statuses, [("0".to_owned(), 40)].into());
            assert_eq!(report.body_bytes, 40 * back * (5 + message_bytes as u64));
        }
    }
}

#[test]
fn a_call_that_fails_counts_by_its_status() {
    let origin = start_origin(None, Io::Auto);
    let grpc = Grpc { message_bytes: 10, messages: 1 };
    let report = call(origin, Method::Unary, grpc, |config| {
        config.request.headers = vec![("x-origin-grpc-status".to_owned(), "14".to_owned())];
    });
    assert_eq!((report.errors["grpc_status"], report.errors_sum()), (40, 40), "{:?}", report.errors);
    assert_eq!(report.grpc.expect("it was gRPC").statuses, [("14".to_owned(), 40)].into());
    // Neither a method that nobody knows nor an answer that is no gRPC at all is a success.
    let report =
        call(origin, Method::Unary, grpc, |config| config.targets[0].path = "/other.Service/M".to_owned());
    assert_eq!(report.grpc.expect("it was gRPC").statuses, [("12".to_owned(), 40)].into());
    let report = call(origin, Method::Unary, grpc, |config| {
        config.request.headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
        config.targets[0].path = "/bytes/5".to_owned();
    });
    assert_eq!(report.errors["grpc_status"], 40, "{:?}", report.errors);
    assert_eq!(report.grpc.expect("it was gRPC").statuses, [("none".to_owned(), 40)].into());
}

#[test]
fn the_command_line_speaks_http2_and_grpc() {
    let origin = start_origin(None, Io::Auto);
    let bench = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_ringway-bench")).arg("load").args(arguments).output();
        let output = output.expect("the program under test");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text + &String::from_utf8_lossy(&output.stderr))
    };
    let url = format!("http://{origin}/bytes/10");
    let (code, text) = bench(&[&url, "--http2-prior-knowledge", "--streams", "8", "-n", "100", "-c", "2"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("HTTP/2, 2 connections x 8 streams"), "{text}");
    let url = format!("http://{origin}");
    let (code, text) = bench(&[&url, "--grpc", "--grpc-stream", "3", "-n", "10", "-c", "1"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("/bench.Echo/Bidi") && text.contains("gRPC statuses         0: 10"), "{text}");
    for (arguments, message) in [
        ([url.as_str(), "--http2"].as_slice(), "--http2-prior-knowledge"),
        (&[url.as_str(), "--streams", "2"], "has no streams"),
        (&[url.as_str(), "--h2c", "-H", "Connection: x"], "no place in HTTP/2"),
    ] {
        let (code, text) = bench(arguments);
        assert!(code == Some(2) && text.contains(message), "{text}");
    }
}
