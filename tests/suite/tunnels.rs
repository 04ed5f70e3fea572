//! Upgrade (RFC 9110 section 7.8) and CONNECT (section 9.3.6): bytes both ways after the switch, each direction with
//! an end of its own, and no switch that was not asked for, offered, or allowed.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Exchange, Origin, Outcome, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use ringway_tests::wire::{Wire, WireError};
use std::net::Shutdown;
use std::thread;

/// The example key of RFC 6455 section 1.3 and the answer that belongs to it.
const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Accepts the WebSocket and sends every byte back until the client's end, then says `bye`.
fn echo(exchange: &mut Exchange<'_>) -> Outcome {
    if !exchange.head.names("connection", "upgrade") {
        return scripted(exchange);
    }
    exchange.write(switching(""))?;
    echo_raw(exchange)
}

/// The origin's 101, with what it says at once.
fn switching(first: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {ACCEPT}\r\n\r\n{first}"
    )
}

fn echo_raw(exchange: &mut Exchange<'_>) -> Outcome {
    loop {
        let now = exchange.wire.buffered().len();
        let bytes = exchange.wire.exactly(now)?;
        exchange.write(bytes)?;
        if exchange.wire.fill()? == 0 {
            break;
        }
    }
    exchange.write("bye")?;
    exchange.wire.stream.shutdown(Shutdown::Write)?;
    Ok(After::Close)
}

/// A masked client frame with a short payload (RFC 6455 section 5.2).
fn frame(opcode: u8, text: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![0x80 | opcode, 0x80 | u8::try_from(text.len()).expect("a short frame")];
    bytes.extend_from_slice(&mask);
    bytes.extend(text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn switch(proxy: &Proxy) -> Client {
    let mut client = proxy.connect();
    let response = client.ask(HANDSHAKE).expect(101);
    assert!(response.head.names("connection", "upgrade"), "{:?}", response.head);
    assert_eq!(response.field("upgrade"), Some("websocket"));
    assert_eq!(response.field("sec-websocket-accept"), Some(ACCEPT));
    client
}

for_each_driver! {
    fn websocket_frames_pass_both_ways(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = switch(&proxy);
        for text in ["Hello", "", "a second frame"] {
            let sent = frame(1, text.as_bytes());
            client.send(&sent);
            assert_eq!(client.wire.exactly(sent.len()).expect("the echo"), sent);
        }
        let head = origin.only().head;
        assert!(head.names("connection", "upgrade"), "{head:?}");
        assert_eq!(head.field("upgrade"), Some("websocket"));
        assert_eq!(head.field("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    }

    fn frames_sent_with_the_handshake_are_not_lost(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let eager = frame(1, b"eager");
        let mut client = proxy.connect();
        client.send([HANDSHAKE.as_bytes(), &eager].concat());
        client.response("GET").expect(101);
        assert_eq!(client.wire.exactly(eager.len()).expect("the echo"), eager);
    }

    fn frames_sent_with_the_switch_are_not_lost(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write(switching("first"))?;
            echo_raw(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.ask(HANDSHAKE).expect(101);
        assert_eq!(client.wire.exactly(5).expect("what came with the 101"), b"first");
    }

    /// Each direction ends by itself: after the client's end the origin can still speak.
    fn each_direction_ends_by_itself(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = switch(&proxy);
        client.send("last words");
        client.half_close();
        assert_eq!(client.wire.to_end().expect("an orderly end"), b"last wordsbye");
        origin.await_ended(1);
    }

    fn the_origin_may_end_first(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write(switching("farewell"))?;
            exchange.wire.stream.shutdown(Shutdown::Write)?;
            assert_eq!(exchange.wire.to_end()?, b"answer", "the client's direction is still open");
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.ask(HANDSHAKE).expect(101);
        assert_eq!(client.wire.to_end().expect("an orderly end"), b"farewell");
        client.send("answer");
        client.half_close();
        origin.await_ended(1);
        assert_eq!(origin.only().failure, None);
    }

    fn a_reset_on_one_side_ends_the_other(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        switch(&proxy).reset();
        origin.await_ended(1);
        let resetting = Origin::with(|exchange| {
            exchange.write(switching("!"))?;
            exchange.wire.exactly(1)?;
            Ok(After::Reset)
        });
        let proxy = Proxy::start(driver, &Config::to(&resetting));
        let mut client = proxy.connect();
        client.ask(HANDSHAKE).expect(101);
        client.wire.exactly(1).expect("the sign that the tunnel stands");
        client.send("x");
        client.expect_end();
    }

    fn sixteen_mebibytes_each_way_at_once(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = switch(&proxy);
        let payload = Payload::new(21, 16 << 20);
        let mut sending = Client { wire: Wire::new(client.wire.stream.try_clone().unwrap()) };
        let sender = thread::spawn(move || payload.pieces(100_000, |piece| sending.try_send(piece)));
        let mut checker = payload.checker();
        let mut left = payload.bytes as usize;
        while left > 0 {
            let piece = client.wire.exactly(left.min(65_536)).expect("the echo");
            checker.feed(&piece);
            left -= piece.len();
        }
        checker.verdict().unwrap();
        sender.join().unwrap().unwrap();
    }

    /// An origin that does not switch answers as usual, and the connection goes on as HTTP.
    fn an_origin_may_decline(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..2 {
            let response = client.ask(HANDSHAKE).expect(200);
            assert!(!response.head.has("upgrade"), "{:?}", response.head);
            client.get("/next").expect(200);
        }
    }

    fn a_route_may_refuse_upgrades(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin).route("upgrade: []"));
        let response = proxy.connect().ask(HANDSHAKE);
        // Ignoring the Upgrade field is any server's right (RFC 9110 section 7.8); so is saying no.
        assert!(matches!(response.status, 200 | 403), "{:?}", response.head);
        for record in origin.requests() {
            assert!(!record.head.has("upgrade") && !record.head.names("connection", "upgrade"), "{:?}", record.head);
        }
    }

    /// A protocol that the route does not name, h2c above all, is not offered to the origin: it would talk past every
    /// rule that we have.
    fn h2c_is_not_passed_on(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(
            "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        );
        client.response("GET").expect(200);
        let head = origin.only().head;
        assert!(!head.has("upgrade") && !head.has("http2-settings"), "{head:?}");
    }

    /// RFC 9110 section 15.2.2: nobody switches to what was not asked for.
    fn a_switch_nobody_asked_for_is_a_bad_gateway(driver) {
        let origin = Origin::with(|exchange| {
            let protocol = exchange.target()[1..].to_owned();
            exchange.write(format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: upgrade\r\n\r\n"))?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.get("/websocket").expect(502);
        let other = HANDSHAKE.replace("/chat", "/other");
        proxy.connect().ask(&other).expect(502);
    }

    fn connect_is_refused_unless_allowed(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let response = client.ask("CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n");
        assert!(matches!(response.status, 403 | 405 | 501), "{:?}", response.head);
        assert_eq!(origin.accepted(), 0);
    }

    fn connect_tunnels_where_a_route_allows_it(driver) {
        let origin = Origin::with(scripted);
        let proxy = Proxy::start(driver, &Config::to(&origin).route("connect: true"));
        let mut client = proxy.connect();
        let response = client.ask("CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n").expect(200);
        assert!(!response.head.has("content-length") && !response.head.has("transfer-encoding"));
        // What follows is the client's own connection to the upstream: the origin sees it untouched.
        let inner = "GET /inner HTTP/1.1\r\nHost: inner\r\nX-Own: 1\r\n\r\n";
        assert_eq!(client.ask(inner).expect(200).text(), "GET /inner");
        let record = origin.only();
        assert_eq!(String::from_utf8_lossy(&record.head.raw), inner);
        client.half_close();
        client.expect_end();
        origin.await_ended(1);
    }

    /// A tunnel is a connection of its own (RFC 9110 section 9.3.6): one that has carried requests may be about to be
    /// closed by its origin, and what a client sends into it can't be sent again.
    fn connect_opens_a_new_connection(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).route("connect: true"));
        proxy.get("/pooled").expect(200);
        let mut client = proxy.connect();
        client.ask("CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n").expect(200);
        client.get("/inner").expect(200);
        let connections: Vec<_> = origin.requests().iter().map(|record| record.connection).collect();
        assert_eq!(connections, [0, 1]);
    }

    fn connect_needs_an_authority(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).route("connect: true"));
        for target in ["/", "test", "test:0", "test:99999", "http://test:80/", "user@test:80"] {
            let request = format!("CONNECT {target} HTTP/1.1\r\nHost: test\r\n\r\n");
            let mut client = proxy.connect();
            client.send(request);
            assert_eq!(client.response_head().map(|(_, status)| status), Ok(400), "{target}");
        }
        assert_eq!(origin.accepted(), 0);
    }

    fn a_tunnel_counts_and_ends(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = switch(&proxy);
        client.send("x");
        client.wire.exactly(1).unwrap();
        proxy.await_metric("ringway_downstream_connections", &[], |open| open >= 1.0);
        drop(client);
        origin.await_ended(1);
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
    }

    fn http_goes_on_beside_a_tunnel(driver) {
        let origin = Origin::with(echo);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut tunnel = switch(&proxy);
        for number in 0..20 {
            assert_eq!(proxy.get(&format!("/{number}")).expect(200).text(), format!("GET /{number}"));
            tunnel.send([number]);
            assert_eq!(tunnel.wire.exactly(1), Ok::<_, WireError>(vec![number]));
        }
        let mut plain = proxy.connect();
        plain.send(get("/last"));
        plain.response("GET").expect(200);
    }
}
