//! Persistent connections (RFC 9112 section 9.3): kept when both sides may, ended when one says so, and never confused
//! between the two sides of the proxy.

use ringway_tests::client::get;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::proxy::Proxy;
use std::time::Duration;

for_each_driver! {
    fn one_connection_serves_many_requests(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for number in 0..100 {
            let response = client.get(&format!("/{number}")).expect(200);
            assert_eq!(response.text(), format!("GET /{number}"));
            assert!(!response.head.has("connection"), "HTTP/1.1 needs no Connection field to stay: {:?}", response.head);
        }
        assert_eq!((origin.accepted(), origin.request_count()), (1, 100), "the upstream connection is reused as well");
    }

    fn a_client_that_says_close_is_closed(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for value in ["close", "Close", "foo, close", "close , foo"] {
            let mut client = proxy.connect();
            let response =
                client.ask(&format!("GET / HTTP/1.1\r\nHost: test\r\nConnection: {value}\r\n\r\n")).expect(200);
            assert!(response.closes(), "the answer to {value:?} says close (RFC 9112 section 9.6)");
            client.expect_end();
        }
        assert_eq!(origin.accepted(), 1, "a client's close is not the upstream connection's");
        for record in origin.requests() {
            assert!(!record.head.names("connection", "close"), "{:?}", record.head);
        }
    }

    fn an_origin_that_says_close_does_not_close_the_client(driver) {
        let origin = Origin::with(|exchange| {
            exchange.reply(200, &[("Connection", "close")], "bye")?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..5 {
            let response = client.get("/").expect(200);
            assert_eq!(response.text(), "bye");
            assert!(!response.closes(), "{:?}", response.head);
        }
        assert_eq!(origin.accepted(), 5, "a connection that the origin closes is not used again");
    }

    fn an_idle_connection_stays_and_is_silent(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.get("/one").expect(200);
        client.expect_open(Duration::from_millis(150));
        client.get("/two").expect(200);
    }

    fn a_proxy_made_answer_keeps_the_connection(driver) {
        let origin = Origin::start();
        let routes = "- { name: only, match: { path: { prefix: /here } }, upstream: origin }";
        let proxy = Proxy::start(driver, &Config::to(&origin).routes(routes));
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.get("/nowhere").expect(404);
            client.get("/here").expect(200);
        }
        assert_eq!(origin.request_count(), 3, "what no route takes goes nowhere");
    }

    /// RFC 9112 section 2.2: a server should ignore at least one empty line before a request line.
    fn an_empty_line_between_requests_is_ignored(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.get("/one").expect(200);
        client.ask(&format!("\r\n{}", get("/two"))).expect(200);
        assert_eq!(origin.requests()[1].target(), "/two");
    }

    fn a_head_may_come_in_any_pieces(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let request = "POST /split HTTP/1.1\r\nHost: test\r\nX-A: b\r\nContent-Length: 5\r\n\r\nhello";
        let mut client = proxy.connect();
        for cut in 1..request.len() {
            client.send_split(request.as_bytes(), &[cut]).unwrap();
            assert_eq!(client.response("POST").expect(200).text(), "hello", "cut at {cut}");
        }
        client.send_bytewise(request.as_bytes()).unwrap();
        assert_eq!(client.response("POST").expect(200).text(), "hello", "byte by byte");
    }

    fn an_origin_may_answer_in_any_pieces(driver) {
        let answer = "HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        let origin = Origin::with(move |exchange| {
            let cut = exchange.target()[1..].parse().expect("a number");
            exchange.write(&answer[..cut])?;
            std::thread::yield_now();
            exchange.write(&answer[cut..])?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for cut in 0..answer.len() {
            let response = client.get(&format!("/{cut}")).expect(200);
            assert_eq!(response.text(), "abcd", "cut at {cut}");
            assert_eq!(response.field("x-a"), Some("b"));
        }
        assert_eq!(origin.accepted(), 1);
    }

    fn many_clients_share_few_upstream_connections(driver) {
        let origin = Origin::with(scripted);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for number in 0..40 {
            proxy.get(&format!("/{number}")).expect(200);
        }
        assert_eq!(origin.accepted(), 1, "clients that come one after the other share one upstream connection");
    }
}
