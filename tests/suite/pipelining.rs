//! Pipelined requests (RFC 9112 section 9.3.2): answered in order, whatever bodies lie between them, and not at all
//! after a request that ends the connection.

use ringway_tests::client::{chunked, get, post};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{BodyKind, Origin, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use std::fmt::Write;

for_each_driver! {
    fn fifty_deep_in_order(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let mut all = String::new();
        for number in 0..50 {
            all.push_str(&get(&format!("/{number}")));
        }
        client.send(&all);
        for number in 0..50 {
            assert_eq!(client.response("GET").expect(200).text(), format!("GET /{number}"));
        }
        let seen: Vec<_> = origin.requests().iter().map(|r| r.target().to_owned()).collect();
        assert_eq!(seen, (0..50).map(|n| format!("/{n}")).collect::<Vec<_>>());
    }

    fn answers_of_every_size_stay_in_order(driver) {
        let origin = Origin::with(|exchange| {
            let bytes = exchange.target()[1..].parse().expect("a size");
            let kind = if bytes % 2 == 0 { BodyKind::Length } else { BodyKind::Chunked(1000) };
            exchange.reply_payload(kind, Payload::new(bytes, bytes))
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let sizes = [0_u64, 1, 300_000, 7, 16_384, 16_385, 0, 70_001, 2];
        let all: String = sizes.iter().map(|size| get(&format!("/{size}"))).collect();
        let mut client = proxy.connect();
        client.send(&all);
        for size in sizes {
            client.response_of("GET", Payload::new(size, size)).expect(200);
        }
    }

    fn bodies_of_every_kind_between_requests(driver) {
        let origin = Origin::with(scripted);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let chunks = String::from_utf8(chunked(b"chunked body", 5)).unwrap();
        let mut all = post("/length", "a body");
        let _ = write!(all, "POST /chunked HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        all.push_str("HEAD /head HTTP/1.1\r\nHost: test\r\n\r\n");
        all.push_str(&post("/empty", ""));
        all.push_str(&get("/get"));
        // Whole, and cut at every point, so that each part of a request is once the last of a read.
        for cut in 0..all.len() {
            let mut client = proxy.connect();
            client.send_split(all.as_bytes(), &[cut]).unwrap();
            assert_eq!(client.response("POST").expect(200).text(), "a body", "cut at {cut}");
            assert_eq!(client.response("POST").expect(200).text(), "chunked body", "cut at {cut}");
            assert_eq!(client.response("HEAD").expect(200).field("content-length"), Some("10"), "cut at {cut}");
            assert_eq!(client.response("POST").expect(200).text(), "POST /empty", "cut at {cut}");
            assert_eq!(client.response("GET").expect(200).text(), "GET /get", "cut at {cut}");
        }
    }

    fn nothing_is_served_after_a_close(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let last = "GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        client.send(format!("{}{last}{}", get("/first"), get("/never")));
        assert_eq!(client.response("GET").expect(200).text(), "GET /first");
        assert!(client.response("GET").expect(200).closes());
        client.expect_end();
        proxy.get("/after").expect(200);
        let seen: Vec<_> = origin.requests().iter().map(|r| r.target().to_owned()).collect();
        assert_eq!(seen, ["/first", "/last", "/after"]);
    }

    fn a_bad_request_ends_the_line_after_the_good_ones(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let bad = "GET /bad HTTP/1.1\r\nHost : test\r\n\r\n";
        client.send(format!("{}{}{bad}{}", get("/one"), get("/two"), get("/never")));
        assert_eq!(client.response("GET").expect(200).text(), "GET /one");
        assert_eq!(client.response("GET").expect(200).text(), "GET /two");
        assert!(client.response("GET").expect(400).closes());
        client.expect_end();
        assert_eq!(origin.request_count(), 2);
    }

    /// A client that pipelines without reading must not make the proxy hold more than it states.
    fn a_client_that_never_reads_is_stopped(driver) {
        let origin = Origin::with(|exchange| exchange.reply_payload(BodyKind::Length, Payload::new(1, 65_536)));
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.wire.stream.write_patience(std::time::Duration::from_millis(400)).unwrap();
        let request = get("/").repeat(64);
        let mut sent = 0;
        // The write that times out is the event: the proxy has stopped reading.
        while client.try_send(request.as_bytes()).is_ok() {
            sent += request.len();
            assert!(sent < 64 << 20, "the proxy keeps reading from a client that takes no answers");
        }
        let answered = origin.request_count() * 65_536;
        assert!(answered < 64 << 20, "{answered} bytes of answers for a client that reads none");
    }
}
