//! Methods and statuses that change what a message looks like: HEAD, 204, 304, 1xx and Expect: 100-continue.

use ringway_tests::client::get;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::Gate;
use std::time::Duration;

for_each_driver! {
    /// RFC 9110 section 9.3.2: the length that a GET would have, and no body.
    fn head_has_a_length_and_no_body(driver) {
        let origin = Origin::with(|exchange| match exchange.target() {
            "/length" => exchange.reply(200, &[], "12345"),
            "/chunked" => {
                exchange.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                Ok(After::KeepAlive)
            }
            _ => {
                exchange.write("HTTP/1.1 200 OK\r\nX-No: framing\r\n\r\n")?;
                Ok(After::KeepAlive)
            }
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for (target, length) in [("/length", Some("5")), ("/chunked", None), ("/none", None), ("/length", Some("5"))] {
            let response = client.ask(&format!("HEAD {target} HTTP/1.1\r\nHost: test\r\n\r\n")).expect(200);
            assert_eq!(response.field("content-length"), length, "{target}");
        }
        assert!(origin.requests().iter().all(|record| record.method() == "HEAD"));
        assert_eq!(origin.accepted(), 1, "an answer to HEAD leaves the upstream connection clean");
    }

    fn statuses_without_a_body(driver) {
        let origin = Origin::with(|exchange| match exchange.target() {
            "/204" => exchange.reply(204, &[("X-A", "b")], ""),
            // A 304 may carry the length of what it stands for (RFC 9110 section 8.6).
            "/304" => {
                exchange.write("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1234\r\n\r\n")?;
                Ok(After::KeepAlive)
            }
            _ => scripted(exchange),
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..2 {
            assert_eq!(client.get("/204").expect(204).field("x-a"), Some("b"));
            assert_eq!(client.get("/304").expect(304).field("etag"), Some("\"x\""));
            assert_eq!(client.get("/200").expect(200).text(), "GET /200");
        }
        assert_eq!(origin.accepted(), 1);
    }

    /// RFC 9110 section 8.6: no Content-Length in a 204. An origin that sends one is understood, not copied.
    fn a_length_of_nothing_is_not_passed_on(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n")?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..3 {
            assert!(!client.get("/").expect(204).head.has("content-length"));
        }
    }

    /// RFC 9110 section 7.6.2: an OPTIONS goes no further than its client wants.
    fn max_forwards_of_options(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for target in ["/m", "*"] {
            let request = format!("OPTIONS {target} HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n");
            let answer = client.ask(&request).expect(200);
            assert!(answer.field("allow").is_some_and(|allow| allow.contains("GET")), "{:?}", answer.head);
        }
        assert_eq!(origin.accepted(), 0);
        for (sent, passed) in [("1", "0"), ("10", "9"), ("018", "17"), ("x", "x"), ("", "")] {
            client.ask(&format!("OPTIONS /m HTTP/1.1\r\nHost: test\r\nMax-Forwards: {sent}\r\n\r\n")).expect(200);
            let head = origin.requests().pop().expect("a request").head;
            assert_eq!(head.field("max-forwards"), Some(passed), "{sent}");
        }
        // Of another method it means nothing.
        client.ask("GET /m HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\n\r\n").expect(200);
    }

    /// RFC 9110 section 2.5: an unknown minor version is no reason to refuse.
    fn a_later_minor_version_is_served(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for version in ["1.2", "1.9", "1.1"] {
            client.ask(&format!("GET /v HTTP/{version}\r\nHost: test\r\n\r\n")).expect(200);
            let head = origin.requests().pop().expect("a request").head;
            assert!(head.raw.starts_with(b"GET /v HTTP/1.1\r\n"), "{head:?}");
        }
        proxy.connect().ask("GET /v HTTP/2.1\r\nHost: test\r\n\r\n").expect(505);
        proxy.connect().ask("GET /v\r\nHost: test\r\n\r\n").expect(400);
    }

    /// RFC 9110 section 15.5.6.
    fn a_405_says_what_is_allowed(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for request in ["TRACE / HTTP/1.1\r\nHost: test\r\n\r\n", "CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n"] {
            let answer = proxy.connect().ask(request).expect(405);
            assert!(answer.field("allow").is_some(), "{:?}", answer.head);
        }
    }

    fn every_method_passes(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "M-SEARCH", "VERSION-CONTROL"] {
            let response = client.ask(&format!("{method} /m HTTP/1.1\r\nHost: test\r\n\r\n")).expect(200);
            assert_eq!(response.text(), format!("{method} /m"));
        }
        // Any of them may have a body (RFC 9110 section 9.3).
        let request = "DELETE /m HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(client.ask(request).expect(200).text(), "body");
        let request = "GET /m HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
        assert_eq!(client.ask(request).expect(200).text(), "body");
    }

    /// RFC 9112 section 3.2.4.
    fn options_asterisk_passes(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let response = proxy.connect().ask("OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n").expect(200);
        assert_eq!(response.text(), "OPTIONS *");
    }

    /// RFC 9112 section 3.2.2: the origin gets origin-form, and the host of the target.
    fn absolute_form_becomes_origin_form(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.connect().ask("GET http://test/a/b?c=d HTTP/1.1\r\nHost: test\r\n\r\n").expect(200);
        let record = origin.only();
        assert_eq!((record.target(), record.field("host")), ("/a/b?c=d", Some("test")));
    }

    /// RFC 9110 section 15.2: a proxy must forward 1xx.
    fn interim_answers_pass(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            exchange.write("HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n")?;
            exchange.reply(200, &[], "final")
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..3 {
            let response = client.get("/").expect(200);
            let links: Vec<_> = response.interim.iter().map(|head| head.field("link")).collect();
            assert_eq!(links, [Some("</a>"), Some("</b>")]);
            assert_eq!(response.text(), "final");
        }
        assert_eq!(origin.accepted(), 1);
    }

    /// The 103 must reach the client before the origin has made up its mind.
    fn an_interim_answer_does_not_wait_for_the_final_one(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            exchange.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            held.wait();
            exchange.reply(200, &[], "final")
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send(get("/"));
        assert_eq!(client.response_head().expect("the interim answer").1, 103);
        gate.open();
        assert_eq!(client.response("GET").expect(200).text(), "final");
    }

    /// RFC 9110 section 15.2: no 1xx to an HTTP/1.0 client.
    fn interim_answers_stay_away_from_http10(driver) {
        let origin = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            exchange.reply(200, &[], "final")
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let response = proxy.connect().ask("GET / HTTP/1.0\r\nHost: test\r\n\r\n").expect(200);
        assert_eq!((response.interim.len(), response.text().as_str()), (0, "final"));
    }

    /// A client that waits gets its 100 before it has sent a byte of the body (RFC 9110 section 10.1.1).
    fn a_client_that_waits_is_told_to_continue(driver) {
        let origin = Origin::with(|exchange| {
            if exchange.head.has("expect") {
                exchange.write("HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
            assert_eq!(client.response_head().expect("an interim answer").1, 100);
            client.send("hello");
            let response = client.response("POST").expect(200);
            assert_eq!(response.text(), "hello");
            assert!(response.interim.is_empty(), "one 100 is enough: {:?}", response.interim);
        }
    }

    /// A client that does not wait sends its body at once and still gets one final answer.
    fn a_client_that_does_not_wait_is_served(driver) {
        let origin = Origin::with(|exchange| {
            if exchange.head.has("expect") {
                exchange.write("HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..3 {
            client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
            assert_eq!(client.response("POST").expect(200).text(), "hello");
        }
    }

    /// The origin refuses before the body: the client learns it, and nobody takes the next request for that body.
    fn a_final_status_instead_of_continue(driver) {
        let origin = Origin::with(|exchange| {
            exchange.abandon_body();
            exchange.reply(417, &[], "no")?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        let response = client.response("POST");
        // A proxy that asked for the body itself has sent a 100 first; the final status is the origin's either way.
        assert_eq!(response.clone().expect(417).text(), "no");
        if response.closes() {
            client.expect_end();
        } else {
            // Kept open, the connection still owes the five bytes of the body: they are no request.
            client.send("hello");
            client.get("/next").expect(417);
        }
        assert!(origin.requests().iter().all(|record| matches!(record.target(), "/" | "/next")));
    }

    /// Without a body nothing is expected, and HTTP/1.0 has no Expect (RFC 9110 section 10.1.1).
    fn an_expectation_of_http10_is_ignored(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.send("POST / HTTP/1.0\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
        let response = client.response("POST").expect(200);
        assert_eq!((response.interim.len(), response.text().as_str()), (0, "hello"));
    }

    /// RFC 9110 section 10.1.1: an expectation that nobody here can meet.
    fn an_unknown_expectation_fails(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.ask("POST / HTTP/1.1\r\nHost: test\r\nExpect: the-best\r\nContent-Length: 0\r\n\r\n").expect(417);
        assert_eq!(origin.request_count(), 0);
    }

    /// An unsolicited 100 from the origin harms nobody.
    fn an_unsolicited_continue_is_harmless(driver) {
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            exchange.write("HTTP/1.1 100 Continue\r\n\r\n")?;
            exchange.reply(200, &[], "final")
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for _ in 0..2 {
            assert_eq!(client.get("/").expect(200).text(), "final");
        }
        client.expect_open(Duration::from_millis(50));
    }
}
