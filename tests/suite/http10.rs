//! HTTP/1.0 on either side (RFC 9112 sections 6.1 and 9.3, RFC 9110 section 2.5).

use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, BodyKind, Origin};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use ringway_tests::wire::Framing;

for_each_driver! {
    fn a_client_without_keep_alive_is_closed(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let response = client.ask("GET /old HTTP/1.0\r\nHost: test\r\n\r\n").expect(200);
        assert_eq!(response.text(), "GET /old");
        client.expect_end();
        assert_eq!(origin.only().head.parts().2, "HTTP/1.1", "the upstream side speaks 1.1");
    }

    fn a_client_with_keep_alive_is_kept(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..3 {
            let request = "GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n";
            let response = client.ask(request).expect(200);
            assert!(response.head.names("connection", "keep-alive"), "{:?}", response.head);
            assert!(matches!(response.framing, Framing::Length(_)), "{:?}", response.head);
        }
        client.ask("GET / HTTP/1.0\r\nHost: test\r\n\r\n").expect(200);
        client.expect_end();
    }

    /// HTTP/1.0 knows no chunks: the body is delimited by the close.
    fn a_client_never_sees_chunks(driver) {
        let origin =
            Origin::with(|exchange| exchange.reply_payload(BodyKind::Chunked(1000), Payload::new(4, 100_000)));
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for connection in ["close", "keep-alive"] {
            let mut client = proxy.connect();
            client.send(format!("GET / HTTP/1.0\r\nHost: test\r\nConnection: {connection}\r\n\r\n"));
            let response = client.response_of("GET", Payload::new(4, 100_000)).expect(200);
            assert_eq!(response.framing, Framing::UntilClose, "{:?}", response.head);
            assert!(!response.head.names("connection", "keep-alive"), "{:?}", response.head);
        }
        assert_eq!(origin.accepted(), 1, "the chunked upstream connection stays clean");
    }

    fn a_client_may_leave_out_the_host(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.connect().ask("GET /hostless HTTP/1.0\r\n\r\n").expect(200);
        // RFC 9112 section 3.2: the request that we make is HTTP/1.1 and must have one.
        assert_eq!(origin.only().head.all("host").len(), 1, "{:?}", origin.only().head);
    }

    /// RFC 9112 section 6.1: a Transfer-Encoding in an HTTP/1.0 message is a framing fault.
    fn a_client_that_sends_chunks_is_refused(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let request = "POST / HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        client.ask(request).expect(400);
        client.expect_end();
        assert_eq!(origin.request_count(), 0);
    }

    fn an_origin_without_keep_alive_is_not_reused(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold")?;
            // It leaves the close to us: without keep-alive we must not send it a second request.
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..3 {
            let response = client.get("/").expect(200);
            assert_eq!(response.text(), "old");
            assert_eq!(response.head.parts().0, "HTTP/1.1", "our version, not the origin's (RFC 9110 section 6.2)");
        }
        assert_eq!(origin.accepted(), 3);
    }

    fn an_origin_with_keep_alive_is_reused(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nold")?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/").expect(200).text(), "old");
        }
        assert_eq!(origin.accepted(), 1);
    }

    fn an_origin_that_sends_chunks_is_a_bad_gateway(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.get("/").expect(502);
    }
}
