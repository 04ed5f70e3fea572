//! Each time-out, set to a few hundred milliseconds, fires: not before its time, with its status, and with its reason
//! in the metrics.

use ringway_tests::client::{get, post};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::stream::Address;
use ringway_tests::wait::Gate;
use ringway_tests::wire::WireError;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_millis(300);

/// How late a time-out may fire on a busy machine.
const LATENESS: Duration = Duration::from_secs(3);

#[track_caller]
fn fired(started: Instant) {
    let took = started.elapsed();
    // The sweep may not fire early, but the kernel's and our clock may differ by a tick.
    assert!(took + Duration::from_millis(5) >= TIMEOUT, "after {took:?}, too early");
    assert!(took < TIMEOUT + LATENESS, "after {took:?}, too late");
}

#[track_caller]
fn counted(proxy: &Proxy, reason: &str) {
    proxy.await_metric("ringway_refused_total", &[("reason", reason)], |count| count == 1.0);
}

/// A listener whose queue is full, so that a further SYN gets no answer: backlog 0 holds one connection.
fn unanswering() -> (socket2::Socket, Vec<socket2::Socket>, SocketAddr) {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = new();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    loop {
        let socket = new();
        let full = socket.connect_timeout(&address.into(), Duration::from_millis(200)).is_err();
        queued.push(socket);
        if full {
            return (listener, queued, address);
        }
    }
}

for_each_driver! {
    fn a_request_head_that_does_not_end(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { request_head: 300ms }"));
        let mut client = proxy.connect();
        let started = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: te");
        let response = client.response("GET").expect(408);
        fired(started);
        assert!(response.closes());
        client.expect_end();
        assert_eq!(problem(&response).reason, "request_head_timeout");
        counted(&proxy, "request_head_timeout");
        assert_eq!(origin.accepted(), 0);
    }

    /// A drop a second keeps no head alive: the time-out is for the whole of it.
    fn a_request_head_that_trickles(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { request_head: 300ms }"));
        let mut client = proxy.connect();
        client.wire.stream.read_patience(Duration::from_millis(20)).unwrap();
        client.send("GET / HTTP/1.1\r\nHost: test\r\nX: ");
        let started = Instant::now();
        // The 20 ms without an answer pace the drops.
        while client.wire.buffered().is_empty() && client.wire.fill() == Err(WireError::TimedOut) {
            assert!(started.elapsed() < TIMEOUT + LATENESS, "each byte buys time");
            if client.try_send(b"x").is_err() {
                break;
            }
        }
        fired(started);
        assert_eq!(origin.accepted(), 0);
    }

    /// A connection that says nothing at all is closed; there is no request to answer.
    fn a_connection_without_a_request(driver) {
        let origin = Origin::start();
        let config = Config::to(&origin).top("timeouts: { request_head: 300ms, keep_alive_idle: 300ms }");
        let proxy = Proxy::start(driver, &config);
        let started = Instant::now();
        let mut client = proxy.connect();
        client.expect_end();
        fired(started);
    }

    fn an_idle_connection(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { keep_alive_idle: 300ms }"));
        let mut client = proxy.connect();
        client.get("/").expect(200);
        let started = Instant::now();
        client.expect_end();
        fired(started);
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
    }

    /// Each request starts the time anew.
    fn a_busy_connection_is_not_idle(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { keep_alive_idle: 300ms }"));
        let mut client = proxy.connect();
        let started = Instant::now();
        while started.elapsed() < 3 * TIMEOUT {
            client.get("/").expect(200);
            client.expect_open(Duration::from_millis(100));
        }
    }

    fn a_request_body_that_stalls(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { body_idle: 300ms }"));
        for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
            let mut client = proxy.connect();
            client.send(format!("POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n5\r\nhello"));
            let started = Instant::now();
            let response = client.response("POST").expect(408);
            fired(started);
            assert!(response.closes());
            assert_eq!(problem(&response).reason, "request_body_timeout");
            client.expect_end();
        }
        origin.await_ended(2);
        assert!(origin.requests().iter().all(|record| record.failure.is_some()), "the origin sees half a body as half");
    }

    fn a_response_head_that_does_not_come(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            exchange.read_body()?;
            if exchange.target() == "/half" {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Le")?;
            }
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { response_head: 300ms }"));
        let mut client = proxy.connect();
        for request in [get("/none"), get("/half"), post("/none", "body")] {
            let started = Instant::now();
            let response = client.ask(&request).expect(504);
            fired(started);
            assert_eq!(problem(&response).reason, "upstream_response_timeout");
        }
        gate.open();
        origin.await_ended(3);
        assert_eq!(origin.request_count(), 3, "what may have been acted upon is not sent again");
    }

    /// The clock starts at the request's end: a slow upload is not the origin's fault.
    fn a_slow_upload_is_not_a_slow_answer(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { response_head: 300ms }"));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\n");
        for byte in ["a", "b", "c", "d", "e", "f"] {
            client.expect_open(Duration::from_millis(100));
            client.send(byte);
        }
        assert_eq!(client.response("POST").expect(200).text(), "abcdef");
    }

    /// An attempt's time is its origin's, so it does not run while the client uploads.
    fn a_slow_upload_is_not_a_slow_attempt(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).route("retry: { attempts: 2, per_try_timeout: 300ms }"));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\n");
        for byte in ["a", "b", "c", "d", "e", "f"] {
            client.expect_open(Duration::from_millis(100));
            client.send(byte);
        }
        assert_eq!(client.response("POST").expect(200).text(), "abcdef");
        assert_eq!(origin.request_count(), 1);
    }

    /// But when the whole request is out, it does.
    fn an_attempt_after_an_upload_that_gets_no_answer(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            exchange.read_body()?;
            held.wait();
            scripted(exchange)
        });
        let config = Config::to(&origin).route("retry: { per_try_timeout: 300ms }");
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
        client.expect_open(TIMEOUT);
        let started = Instant::now();
        client.send("b");
        let response = client.response("POST").expect(504);
        fired(started);
        assert_eq!(problem(&response).reason, "attempt_timeout");
        gate.open();
        origin.await_ended(1);
    }

    /// The response has begun, so the end of the upload starts no wait for its head (two-way gRPC half-closes and waits).
    fn the_end_of_an_upload_hurries_no_response(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")?;
            exchange.read_body()?;
            held.wait();
            exchange.write("world")?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { response_head: 300ms, body_idle: 20s }"));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
        let (_, status) = client.response_head().unwrap();
        assert_eq!(status, 200);
        client.send("b");
        client.expect_open(3 * TIMEOUT);
        gate.open();
        assert_eq!(client.wire.exactly(5).unwrap(), b"world");
        assert_eq!(proxy.metrics().sum("ringway_upstream_failures_total", &[]), 0.0);
    }

    /// Bodies move both ways: idle is an exchange in which neither does.
    fn a_client_that_only_listens_is_not_idle(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n")?;
            for _ in 0..8 {
                exchange.write("x")?;
                std::thread::park_timeout(Duration::from_millis(100));
            }
            exchange.read_body()?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { body_idle: 300ms }"));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
        client.response_head().unwrap();
        assert_eq!(client.wire.exactly(8).unwrap(), b"xxxxxxxx");
    }

    fn a_response_body_that_stalls(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")?;
            held.wait();
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { body_idle: 300ms }"));
        let mut client = proxy.connect();
        client.send(get("/"));
        let started = Instant::now();
        let cut = client.try_response("GET");
        fired(started);
        assert!(matches!(cut, Err(WireError::Truncated(_) | WireError::Reset)), "{cut:?}");
        gate.open();
        origin.await_ended(1);
        counted(&proxy, "upstream_body_timeout");
    }

    fn a_whole_request_that_takes_too_long(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).route("timeouts: { request: 300ms }"));
        let mut client = proxy.connect();
        let started = Instant::now();
        let response = client.get("/").expect(504);
        fired(started);
        assert_eq!(problem(&response).reason, "request_timeout");
        gate.open();
        origin.await_ended(1);
    }

    /// A body that drips is never idle, and still bounded by the whole request's time.
    fn a_dripping_answer_is_cut_by_the_whole(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
            exchange.wire.stream.read_patience(Duration::from_millis(30))?;
            // The proxy's close is the event; 30 ms without it pace the drips.
            while exchange.wire.fill() == Err(WireError::TimedOut) {
                exchange.write("x")?;
            }
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).route("timeouts: { request: 300ms }"));
        let mut client = proxy.connect();
        client.send(get("/"));
        let started = Instant::now();
        let cut = client.try_response("GET");
        fired(started);
        assert!(matches!(cut, Err(WireError::Truncated(_) | WireError::Reset)), "{cut:?}");
        origin.await_ended(1);
    }

    fn a_connect_that_gets_no_answer(driver) {
        let (_listener, _queued, address) = unanswering();
        let config = Config::to_addresses(&[Address::Tcp(address)]).top("timeouts: { connect: 300ms }");
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        let started = Instant::now();
        let response = client.get("/").expect(504);
        fired(started);
        assert_eq!(problem(&response).reason, "upstream_connect_timeout");
        counted(&proxy, "upstream_connect_timeout");
    }

    fn a_silent_tunnel(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")?;
            exchange.wire.to_end()?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).route("timeouts: { tunnel_idle: 300ms }"));
        let mut client = proxy.connect();
        client
            .ask("GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
            .expect(101);
        // One direction is enough to keep it.
        for _ in 0..4 {
            client.expect_open(Duration::from_millis(150));
            client.send("x");
        }
        let started = Instant::now();
        client.expect_end();
        fired(started);
        origin.await_ended(1);
    }

    fn a_route_may_have_its_own(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let routes = "- name: short\n  match: { path: { prefix: /short } }\n  timeouts: { response_head: 300ms }\n  upstream: origin\n\
                      - name: long\n  upstream: origin";
        let proxy = Proxy::start(driver, &Config::to(&origin).routes(routes));
        let mut patient = proxy.connect();
        patient.send(get("/long"));
        let started = Instant::now();
        proxy.get("/short").expect(504);
        fired(started);
        gate.open();
        patient.response("GET").expect(200);
    }
}
