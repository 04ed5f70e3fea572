//! Responses that are quiet for long, and clients that leave meanwhile: in every state, by a reset or by an orderly end,
//! and those that have only closed their half.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2;
use ringway_tests::h2::client::{Then, request};
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, PATIENCE};
use ringway_tests::wire::WireError;
use std::time::Duration;

const EVENT: &str = "7\r\ndata: 1\r\n";

/// Streams of one event, a second one when the gate opens, and no end.
fn events(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::with(move |exchange| {
        if exchange.target() != "/events" {
            return scripted(exchange);
        }
        exchange.write(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n{EVENT}"
        ))?;
        exchange.read_body()?;
        gate.wait();
        exchange.write(EVENT)?;
        exchange.wire.to_end()?;
        Ok(After::Close)
    })
}

/// No bound on silence: only the client's leaving ends a stream.
fn endless(origin: &Origin, half_closed: &str) -> Config {
    Config::to(origin).top(&format!(
        "timeouts: {{ body_idle: off, response_head: off, tunnel_idle: off, half_closed: {half_closed} }}"
    ))
}

/// A client that has the first event.
fn follow(proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    client.send(get("/events"));
    assert_eq!(client.response_head().expect("a head").1, 200);
    assert_eq!(client.wire.exactly(EVENT.len()).expect("an event"), EVENT.as_bytes());
    client
}

#[track_caller]
fn nothing_is_held(proxy: &Proxy) {
    for gauge in ["ringway_requests_active", "ringway_buffers_taken", "ringway_kept_bytes"] {
        proxy.await_metric(gauge, &[], |held| held == 0.0);
    }
}

for_each_driver! {
    fn a_quiet_stream_holds_no_buffer_and_ends_with_its_client(driver) within 60 {
        let gate = Gate::new();
        let origin = events(&gate);
        let proxy = Proxy::start(driver, &endless(&origin, "1h"));
        let mut clients: Vec<Client> = (0..60).map(|_| follow(&proxy)).collect();
        let connection = h2::client::Client::connect(proxy.address());
        let mut streams: Vec<_> = (0..40)
            .map(|number| {
                // Half of them still send when the answer begins, as gRPC does.
                let early = number % 2 == 0;
                let then = if early { Then::End } else { Then::More };
                let mut stream = connection.open(request("POST", "/events", &[]), then);
                assert_eq!(stream.head().status(), 200);
                assert_eq!(stream.chunk().expect("an event").as_deref(), Some(&b"data: 1"[..]));
                if !early {
                    stream.send("rest", Then::End);
                }
                stream
            })
            .collect();
        proxy.await_metric("ringway_requests_active", &[], |active| active == 100.0);
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        gate.open();
        for client in &mut clients {
            assert_eq!(client.wire.exactly(EVENT.len()).expect("an event"), EVENT.as_bytes());
        }
        for stream in &mut streams {
            assert_eq!(stream.chunk().expect("an event").as_deref(), Some(&b"data: 1"[..]));
        }
        clients.into_iter().for_each(Client::reset);
        for stream in streams {
            stream.reset(::h2::Reason::CANCEL);
        }
        nothing_is_held(&proxy);
        assert_eq!(connection.get("/next").expect(200).text(), "GET /next");
    }

    /// An orderly end may be a half-close. It is waited for so long, since nothing is sent that would tell.
    fn clients_that_have_closed_do_not_stay_for_ever(driver) within 60 {
        let gate = Gate::new();
        let origin = events(&gate);
        let proxy = Proxy::start(driver, &endless(&origin, "1500ms"));
        let clients: Vec<Client> = (0..50).map(|_| follow(&proxy)).collect();
        proxy.await_metric("ringway_requests_active", &[], |active| active == 50.0);
        drop(clients);
        nothing_is_held(&proxy);
        origin.await_ended(origin.accepted());
        gate.open();
    }

    /// A client that has closed is sent to: its reset tells.
    fn a_write_finds_out_who_has_closed(driver) within 60 {
        let gate = Gate::new();
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                exchange.write(EVENT)?;
                std::thread::park_timeout(Duration::from_millis(20));
            }
        });
        let proxy = Proxy::start(driver, &endless(&origin, "1h"));
        let clients: Vec<Client> = (0..5).map(|_| follow(&proxy)).collect();
        drop(clients);
        nothing_is_held(&proxy);
        gate.open();
    }

    /// `nc -N`, and old clients: one who has said all gets the answer, however long it takes.
    fn a_half_closed_client_that_waits_long_is_answered(driver) within 60 {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &endless(&origin, "30s"));
        let mut client = proxy.connect();
        client.send(get("/"));
        client.half_close();
        origin.await_requests(1);
        client.expect_open(Duration::from_millis(2_500));
        gate.open();
        assert_eq!(client.response("GET").expect(200).text(), "GET /");
        client.expect_end();
        nothing_is_held(&proxy);
    }

    /// The reset of a client that had closed its half before, and that of one with bytes that nobody has read.
    fn a_reset_is_seen_behind_an_end_and_behind_bytes(driver) within 60 {
        let origin = Origin::with(|exchange| {
            exchange.wire.to_end()?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &endless(&origin, "1h"));
        let mut half = proxy.connect();
        half.send(get("/"));
        half.half_close();
        let mut early = proxy.connect();
        early.send(get("/") + &get("/next"));
        origin.await_requests(2);
        // Until the requests have been read away from it, a second one is in the proxy's hands, not in the socket.
        proxy.await_metric("ringway_kept_bytes", &[], |kept| kept > 0.0);
        early.send(get("/third"));
        half.reset();
        early.reset();
        nothing_is_held(&proxy);
    }

    /// An origin that takes no more of a body, and a client that leaves: nobody reads from it, and it is seen to go.
    fn a_client_is_watched_while_its_body_waits(driver) within 60 {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            exchange.wire.stream.receive_buffer(16 * 1024)?;
            held.wait();
            exchange.abandon_body();
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &endless(&origin, "1h"));
        let payload = Payload::new(1, 160 << 20);
        let mut client = proxy.connect();
        client.send(format!("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", payload.bytes));
        client.wire.stream.write_patience(Duration::from_millis(500)).unwrap();
        let piece = vec![0; 64 * 1024];
        while let Ok(count) = std::io::Write::write(&mut client.wire.stream, &piece) {
            assert!(count > 0);
        }
        client.reset();
        nothing_is_held(&proxy);
        gate.open();
    }

    /// A tunnel whose client has closed its half goes on for as long as something is sent to it, and not for ever.
    fn a_half_closed_tunnel(driver) within 60 {
        let (gate, end) = (Gate::new(), Gate::new());
        let (said, held) = (gate.clone(), end.clone());
        let origin = Origin::with(move |exchange| {
            exchange.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")?;
            exchange.wire.to_end()?;
            said.wait();
            exchange.write("late")?;
            held.wait();
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &endless(&origin, "4s"));
        let mut client = proxy.connect();
        client.ask("GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n").expect(101);
        client.half_close();
        client.expect_open(Duration::from_millis(1_500));
        gate.open();
        assert_eq!(client.wire.exactly(4).expect("bytes after the half-close"), b"late");
        client.wire.stream.read_patience(PATIENCE).unwrap();
        assert!(matches!(client.wire.fill(), Ok(0) | Err(WireError::Reset)), "the end of patience");
        nothing_is_held(&proxy);
        end.open();
    }
}
