//! Requests and responses that two readers could read differently (RFC 9112 section 11): refused with the right status,
//! the connection ended, nothing of it seen by the origin, and what follows never taken for a request of its own. Each
//! is sent whole, in halves and byte by byte, since a reader's state must not depend on the cuts.

use ringway::http::corpus::{self, Verdict};
use ringway::http::framing::{BodyLength, HeadError, Side};
use ringway::http::message::Method;
use ringway_tests::client::get;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::wire::WireError;
use std::collections::BTreeMap;

/// What a smuggler hopes to have answered.
const PREY: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// Bodies that break the chunked coding after a good head. The origin may have seen the head; what it must not see is
/// a whole body, or a request that was hidden behind it.
const BAD_CHUNKS: &[&str] = &[
    "4\nabcd\n0\n\n",
    "4\r\nabcdX\r\n0\r\n\r\n",
    "0x4\r\nabcd\r\n0\r\n\r\n",
    "+4\r\nabcd\r\n0\r\n\r\n",
    "-1\r\nabcd\r\n0\r\n\r\n",
    " 4\r\nabcd\r\n0\r\n\r\n",
    "4 \r\nabcd\r\n0\r\n\r\n",
    "\r\nabcd\r\n0\r\n\r\n",
    "10000000000000004\r\nabcd\r\n0\r\n\r\n",
    "4;\nx\r\nabcd\r\n0\r\n\r\n",
    "4;x=\"\r\n\"\r\nabcd\r\n0\r\n\r\n",
    "4\r\nabcd\r\n0\r\nX: y\n\r\n",
    "4\r\nabcd\r\n0\r\nX : y\r\n\r\n",
    "4\r\nabcd\r\n0\r\n X: y\r\n\r\n",
];

/// The ways a message is cut: whole, in halves, byte by byte.
fn cuts(bytes: usize) -> [Vec<usize>; 3] {
    [Vec::new(), vec![bytes / 2], (1..bytes).collect()]
}

for_each_driver! {
    /// The engine's own corpus, over sockets: each head that must be refused is refused with its status and reason.
    fn requests_that_are_refused(driver) within 120 {
        let origin = Origin::start();
        // Where HTTP/2 is spoken, its preface is no malformed head.
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("http2: { enabled: false }"));
        let mut sent: BTreeMap<&str, usize> = BTreeMap::new();
        for case in corpus::REQUESTS {
            let Verdict::Refuse(rule) = case.verdict else { continue };
            let refusal = HeadError { rule, side: Side::Downstream };
            let bytes = [case.bytes, PREY.as_bytes()].concat();
            for cuts in cuts(bytes.len()) {
                let context = format!("{} in {} pieces", case.bytes.escape_ascii(), cuts.len() + 1);
                *sent.entry(refusal.reason().code()).or_default() += 1;
                let mut client = proxy.connect();
                // A proxy that has refused may close while we still send.
                let _ = client.send_split(&bytes, &cuts);
                let response = client.try_response("GET").unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(response.status, refusal.status(), "{context}: {}", response.text());
                assert_eq!(problem(&response).reason, refusal.reason().code(), "{context}");
                assert!(response.closes(), "{context}");
                client.expect_end();
            }
        }
        assert!(sent.values().sum::<usize>() > 300, "the corpus is there");
        assert_eq!(origin.accepted(), 0, "{:?}", origin.requests());
        let metrics = proxy.metrics();
        for (reason, count) in sent {
            assert_eq!(metrics.sum("ringway_refused_total", &[("reason", reason)]), count as f64, "{reason}");
        }
    }

    /// What looks odd and is sound is served, and what follows it is a request of its own.
    fn requests_that_are_accepted(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for case in corpus::REQUESTS {
            let body: &[u8] = match case.verdict {
                Verdict::Accept(BodyLength::None) => b"",
                Verdict::Accept(BodyLength::Length(bytes @ 0..=5)) => &b"hello"[..bytes as usize],
                Verdict::Accept(BodyLength::Chunked) => b"0\r\n\r\n",
                // A body of 2^64 - 1 bytes is framed well, and nobody sends it.
                _ => continue,
            };
            let line = case.bytes.trim_ascii_start();
            let method = String::from_utf8_lossy(line.split(|&b| b == b' ').next().expect("a method")).into_owned();
            if method == "CONNECT" {
                continue;
            }
            let bytes = [case.bytes, body].concat();
            for cuts in cuts(bytes.len()) {
                let before = origin.request_count();
                let context = format!("{} in {} pieces", case.bytes.escape_ascii(), cuts.len() + 1);
                let mut client = proxy.connect();
                client.send_split(&bytes, &cuts).unwrap_or_else(|error| panic!("{context}: {error}"));
                let response = client.try_response(&method).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(response.status, 200, "{context}: {}", response.text());
                assert_eq!(origin.request_count(), before + 1, "{context}");
                let keeps = !response.closes();
                if keeps {
                    assert_eq!(client.get("/next").expect(200).text(), "GET /next", "{context}");
                }
            }
        }
    }

    fn heads_that_never_end_are_nothing(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for case in corpus::REQUESTS.iter().filter(|case| case.verdict == Verdict::Partial) {
            let mut client = proxy.connect();
            client.send(case.bytes);
            client.half_close();
            let rest = client.wire.to_end();
            let fine = rest.as_ref().is_ok_and(|rest| rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 "));
            assert!(fine, "{}: {rest:?}", case.bytes.escape_ascii());
        }
        assert_eq!(origin.accepted(), 0);
    }

    fn chunks_that_are_refused(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for raw in BAD_CHUNKS {
            let bytes =
                format!("POST /chunks HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{raw}{PREY}").into_bytes();
            for cuts in cuts(bytes.len()) {
                let mut client = proxy.connect();
                let _ = client.send_split(&bytes, &cuts);
                let response = client.try_response("POST").unwrap_or_else(|e| panic!("{raw:?}: {e}"));
                assert_eq!(response.status, 400, "{raw:?} in {} pieces: {}", cuts.len() + 1, response.text());
                client.expect_end();
            }
        }
        proxy.get("/after").expect(200);
        for record in origin.requests() {
            assert_ne!(record.target(), "/smuggled");
            assert!(record.target() == "/after" || record.end.is_none(), "a broken body looked whole: {record:?}");
        }
    }

    /// The engine's own corpus of answers: what must be refused becomes a 502, and its connection is not used again.
    fn answers_that_are_refused(driver) within 60 {
        let origin = Origin::with(|exchange| {
            let Ok(index) = exchange.target()[1..].parse::<usize>() else { return scripted(exchange) };
            exchange.read_body()?;
            exchange.write(corpus::RESPONSES[index].bytes)?;
            // And a second answer that nobody asked for.
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        let mut refused = 0;
        for (index, case) in corpus::RESPONSES.iter().enumerate() {
            let Verdict::Refuse(rule) = case.verdict else { continue };
            let method = match case.to {
                Method::Get => "GET",
                Method::Head => "HEAD",
                _ => continue,
            };
            let context = format!("{} to {method}", case.bytes.escape_ascii());
            let response = client.ask(&format!("{method} /{index} HTTP/1.1\r\nHost: test\r\n\r\n"));
            assert_eq!(response.status, 502, "{context}: {:?} {}", response.head, response.text());
            if method == "GET" {
                assert_eq!(problem(&response).reason, rule.reason().code(), "{context}");
            }
            assert_eq!(client.get("/clean").expect(200).text(), "GET /clean", "after {context}");
            refused += 1;
        }
        assert!(refused > 20, "the corpus is there");
        assert_eq!(origin.requests().iter().filter(|r| r.target() == "/clean").count(), refused);
    }

    /// Broken chunks of an origin come too late for a 502: the client must see that the body is not whole.
    fn broken_chunks_of_an_origin_truncate(driver) {
        let origin = Origin::with(|exchange| {
            let Ok(index) = exchange.target()[1..].parse::<usize>() else { return scripted(exchange) };
            exchange.write(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{}", BAD_CHUNKS[index]))?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for (index, raw) in BAD_CHUNKS.iter().enumerate() {
            let mut client = proxy.connect();
            client.send(get(&format!("/{index}")));
            let got = client.try_response("GET").map(|response| response.status);
            assert!(matches!(got, Err(WireError::Truncated(_) | WireError::Reset) | Ok(502)), "{raw:?}: {got:?}");
            assert_eq!(proxy.get("/clean").expect(200).text(), "GET /clean", "after {raw:?}");
        }
    }

    /// The classic: what is left of a body that one reader thinks is over must not become the next request.
    fn the_rest_of_a_body_is_no_request(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        // A GET with a body, a HEAD with a body, a DELETE with a body: framed like any other.
        for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
            client.send(format!("{method} /framed HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{PREY}", PREY.len()));
            client.response(method).expect(200);
        }
        assert!(origin.requests().iter().all(|record| record.target() == "/framed"));
        assert!(origin.requests().iter().all(|record| record.body == PREY.as_bytes()));
    }

    /// A refusal that the proxy makes before it has read the body must not read the body as a request.
    fn a_refused_body_is_no_request(driver) {
        let origin = Origin::start();
        let routes = "- { name: only, match: { path: { exact: /only } }, upstream: origin }";
        let proxy = Proxy::start(driver, &Config::to(&origin).routes(routes));
        let hidden = PREY.replace("/smuggled", "/only");
        let mut client = proxy.connect();
        client.send(format!("POST /none HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()));
        let response = client.response("POST").expect(404);
        if response.closes() {
            client.expect_end();
        } else {
            client.get("/only").expect(200);
        }
        assert!(origin.request_count() <= 1, "the body was taken for a request: {:?}", origin.requests());
    }
}
