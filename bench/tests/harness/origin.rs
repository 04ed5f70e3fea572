//! The origin does what path, query and headers ask for.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use ringway_bench::{
    net::Address,
    origin::{self, pattern},
    runtime::Io,
};

use crate::support::{DEADLINE, start_origin, talk};

fn get(address: SocketAddr, target: &str) -> String {
    let (answer, end) =
        talk(address, &format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    end.unwrap_or_else(|e| panic!("{target}: {e}"));
    answer
}

#[test]
fn answers_are_framed_as_asked_for() {
    let origin = start_origin(None, Io::Auto);
    let text = std::str::from_utf8(pattern::period()).expect("ASCII");
    let cases: &[(&str, &str, String)] = &[
        ("/bytes/5", "HTTP/1.1 200 OK\r\n", text[..5].to_owned()),
        ("/bytes/0", "HTTP/1.1 200 OK\r\n", String::new()),
        (
            "/bytes/5?chunked=2",
            "HTTP/1.1 200 OK\r\n",
            format!("2\r\n{}\r\n2\r\n{}\r\n1\r\n{}\r\n0\r\n\r\n", &text[..2], &text[2..4], &text[4..5]),
        ),
        ("/bytes/5?unframed", "HTTP/1.1 200 OK\r\n", text[..5].to_owned()),
        ("/bytes/5?trickle=2,1", "HTTP/1.1 200 OK\r\n", text[..5].to_owned()),
        ("/bytes/5?truncate=3", "HTTP/1.1 200 OK\r\n", text[..3].to_owned()),
        ("/status/503", "HTTP/1.1 503 Service Unavailable\r\n", String::new()),
        ("/status/204", "HTTP/1.1 204 No Content\r\n", String::new()),
        ("/bytes/2?status=404", "HTTP/1.1 404 Not Found\r\n", text[..2].to_owned()),
        ("/nowhere", "HTTP/1.1 404 Not Found\r\n", "ask for /bytes/N, /status/CODE or /echo\n".to_owned()),
    ];
    for (target, status, body) in cases {
        let answer = get(origin, target);
        let (head, rest) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{target}: {answer:?}"));
        assert!(answer.starts_with(status), "{target}: {head}");
        assert_eq!(rest, body, "{target}");
    }
}

#[test]
fn a_body_longer_than_the_pattern_is_whole() {
    let origin = start_origin(None, Io::Auto);
    let bytes = 3 * pattern::PERIOD_BYTES as u64 + 17;
    for target in [format!("/bytes/{bytes}"), format!("/bytes/{bytes}?unframed")] {
        let answer = get(origin, &target);
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(body.len() as u64, bytes, "{target}");
        assert_eq!(twox_hash::XxHash3_64::oneshot(body.as_bytes()), pattern::digest(bytes), "{target}");
    }
}

#[test]
fn it_breaks_off_as_asked_for() {
    let origin = start_origin(None, Io::Auto);
    let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
    for target in ["/bytes/5?reset", "/bytes/5?reset=2"] {
        let (_, end) = talk(origin, &request(target));
        assert_eq!(end.map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset), "{target}");
    }
    let (answer, end) = talk(origin, &request("/bytes/5?close"));
    assert!(end.is_ok() && answer.contains("\r\nConnection: close\r\n"), "{answer}");
    let (answer, end) = talk(origin, "nonsense\r\n\r\n");
    assert!(end.is_ok() && answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn it_delays_and_corrupts() {
    let origin = start_origin(None, Io::Auto);
    let since = Instant::now();
    let answer = get(origin, "/bytes/4?delay=30");
    assert!(
        since.elapsed() >= Duration::from_millis(30)
            && answer.ends_with(&get(origin, "/bytes/4")[answer.len() - 4..])
    );
    let (right, wrong) = (get(origin, "/bytes/4"), get(origin, "/bytes/4?corrupt"));
    assert_eq!(right.len(), wrong.len());
    assert_ne!(right[right.len() - 4..], wrong[wrong.len() - 4..]);
}

#[test]
fn an_echo_tells_what_arrived() {
    let origin = start_origin(None, Io::Auto);
    let bodies = [
        ("Content-Length: 5\r\n\r\nhello", 5),
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", 5),
        ("Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", 5),
        ("\r\n", 0),
    ];
    for (rest, body_bytes) in bodies {
        let (answer, _) =
            talk(origin, &format!("POST /echo?a=b HTTP/1.1\r\nhOST: x\r\nConnection: close\r\n{rest}"));
        let (_, body) = answer.rsplit_once("\r\n\r\n").expect("a head");
        let json: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{answer}: {e}"));
        assert_eq!(
            (json["method"].as_str(), json["target"].as_str()),
            (Some("POST"), Some("/echo?a=b")),
            "{rest}"
        );
        assert_eq!(json["headers"][0], serde_json::json!(["hOST", "x"]), "{rest}");
        assert_eq!(json["body_bytes"].as_u64(), Some(body_bytes), "{rest}");
        let digest = twox_hash::XxHash3_64::oneshot(&b"hello"[..body_bytes as usize]);
        assert_eq!(json["body_xxh3"].as_str(), Some(format!("{digest:016x}").as_str()), "{rest}");
        assert_eq!(
            answer.starts_with("HTTP/1.1 100 Continue\r\n\r\n"),
            rest.starts_with("Expect"),
            "{answer}"
        );
    }
}

/// Reads one response with a Content-Length from a connection that stays open.
fn read_response(socket: &mut impl Read) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).expect("a head");
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).expect("text");
    let length =
        head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    socket.read_exact(&mut body).expect("a body");
    head + std::str::from_utf8(&body).expect("text")
}

#[test]
fn connections_are_kept_and_requests_pipelined() {
    for io in [Io::Auto, Io::Epoll] {
        let mut socket = TcpStream::connect(start_origin(None, io)).expect("the origin listens");
        socket.set_read_timeout(Some(DEADLINE)).expect("a socket");
        // The same head again and again takes the prepared answer; another, or a body, the long way.
        let one = "GET /bytes/3 HTTP/1.1\r\nHost: x\r\n\r\n";
        let post = "POST /bytes/3 HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
        let expected = [read_after(&mut socket, one), read_after(&mut socket, one)];
        assert_eq!(expected[0], expected[1]);
        for request in [post, post, one, one] {
            assert_eq!(read_after(&mut socket, request), expected[0], "{request}");
        }
        socket.write_all(format!("{one}{post}{one}GET /bytes/9 HTTP/1.1\r\n").as_bytes()).expect("a socket");
        for _ in 0..3 {
            assert_eq!(read_response(&mut socket), expected[0]);
        }
        assert!(read_after(&mut socket, "\r\n").contains("Content-Length: 9\r\n"));
        // HEAD has the head of GET and no body.
        socket.write_all(format!("HEAD /bytes/3 HTTP/1.1\r\n\r\n{one}").as_bytes()).expect("a socket");
        let mut head = vec![0; expected[0].len() - 3];
        socket.read_exact(&mut head).expect("a head");
        assert_eq!(head, &expected[0].as_bytes()[..head.len()]);
        assert_eq!(read_response(&mut socket), expected[0]);
    }
}

fn read_after(socket: &mut TcpStream, request: &str) -> String {
    socket.write_all(request.as_bytes()).expect("a socket");
    read_response(socket)
}

#[test]
fn it_listens_on_unix_sockets_and_replaces_a_dead_one() {
    let path = std::env::temp_dir().join(format!("ringway-bench-test-{}.sock", std::process::id()));
    // A listener that ends leaves its name behind.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a free name"));
    let listen = vec![Address::Unix(path.clone()), Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let config = origin::Config { listen, workers: 2, io: Io::Auto, stall: None, tls: None };
    let bound = origin::start(&config).expect("an origin").addresses;
    assert_eq!(bound.len(), 2);
    let mut socket = UnixStream::connect(&path).expect("the origin listens");
    socket.write_all(b"GET /bytes/3 HTTP/1.1\r\n\r\n").expect("a socket");
    assert!(read_response(&mut socket).starts_with("HTTP/1.1 200 OK\r\n"));
    // The name is taken by one that lives.
    assert!(origin::start(&config).is_err());
    std::fs::remove_file(path).expect("our own file");
}
