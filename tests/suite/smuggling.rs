//! Requests and responses that two readers could read differently (RFC 9112 section 11): refused with the right status,
//! the connection ended, nothing of it seen by the origin, and what follows never taken for a request of its own. Each
//! is sent whole, in halves and byte by byte, since a reader's state must not depend on the cuts.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::wire::WireError;

/// What a smuggler hopes to have answered.
const PREY: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// Raw heads (and bodies) that must be refused: status, reason in the metrics, bytes.
const REFUSED: &[(u16, &str, &str)] = &[
    (400, "cl_and_te", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "cl_and_te", "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"),
    (400, "cl_repeated", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd"),
    (400, "cl_repeated", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd"),
    (400, "cl_repeated", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4, 4\r\n\r\nabcd"),
    (400, "cl_invalid", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: +4\r\n\r\nabcd"),
    (400, "cl_invalid", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: -4\r\n\r\nabcd"),
    (400, "cl_invalid", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0x4\r\n\r\nabcd"),
    (400, "cl_invalid", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4 4\r\n\r\nabcd"),
    (400, "cl_invalid", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length:\r\n\r\nabcd"),
    (400, "cl_overflow", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 18446744073709551616\r\n\r\nabcd"),
    (501, "te_unsupported", "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\nabcd"),
    (501, "te_unsupported", "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    (400, "te_repeated", "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    (400, "te_repeated", "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "te_http10", "POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "control_character", "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    (400, "space_before_colon", "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    (400, "space_before_colon", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length : 4\r\n\r\nabcd"),
    (400, "framing_impostor", "POST / HTTP/1.1\r\nHost: t\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "framing_impostor", "POST / HTTP/1.1\r\nHost: t\r\nContent_Length: 4\r\n\r\nabcd"),
    (400, "obs_fold", "POST / HTTP/1.1\r\nHost: t\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "bare_lf", "POST / HTTP/1.1\r\nHost: t\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "bare_cr", "POST / HTTP/1.1\r\nHost: t\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "control_character", "GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n"),
    (400, "host_missing", "GET / HTTP/1.1\r\nX: y\r\n\r\n"),
    (400, "host_repeated", "GET / HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n"),
    (400, "host_invalid", "GET / HTTP/1.1\r\nHost: t/evil\r\n\r\n"),
    (400, "host_invalid", "GET / HTTP/1.1\r\nHost: user@t\r\n\r\n"),
    (400, "host_mismatch", "GET http://evil/ HTTP/1.1\r\nHost: t\r\n\r\n"),
    (400, "request_line", "GET  / HTTP/1.1\r\nHost: t\r\n\r\n"),
    (400, "request_line", "GET / HTTP/1.1 \r\nHost: t\r\n\r\n"),
    (400, "target_fragment", "GET /a#b HTTP/1.1\r\nHost: t\r\n\r\n"),
    (505, "version_unsupported", "GET / HTTP/2.0\r\nHost: t\r\n\r\n"),
    (505, "version_unsupported", "GET / HTTP/1.2\r\nHost: t\r\n\r\n"),
];

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

/// Answers that must not be passed on: the client gets a 502 instead.
const BAD_ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
    "HTTP/1.1 200 OK\r\nContent-Length: +4\r\n\r\nabcd",
    "HTTP/1.1 200 OK\r\nContent-Length: 4, 4\r\n\r\nabcd",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabcd",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: y\r\n Z: folded\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ICY 200 OK\r\nContent-Length: 0\r\n\r\n",
    "<html>no head at all</html>\r\n\r\n",
];

/// The ways a message is cut: whole, in halves, byte by byte.
fn cuts(bytes: usize) -> [Vec<usize>; 3] {
    [Vec::new(), vec![bytes / 2], (1..bytes).collect()]
}

/// Sends and reads up to the end of the connection; a proxy that has refused may close while we still send.
fn send_and_read(client: &mut Client, bytes: &[u8], cuts: &[usize]) {
    let _ = client.send_split(bytes, cuts);
}

for_each_driver! {
    fn requests_that_are_refused(driver) within 90 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for &(status, reason, raw) in REFUSED {
            let bytes = [raw.as_bytes(), PREY.as_bytes()].concat();
            for cuts in cuts(bytes.len()) {
                let mut client = proxy.connect();
                send_and_read(&mut client, &bytes, &cuts);
                let context = || format!("{raw:?} in {} pieces", cuts.len() + 1);
                let response = client.try_response("GET").unwrap_or_else(|e| panic!("{}: {e}", context()));
                assert_eq!(response.status, status, "{}: {}", context(), response.text());
                assert_eq!(problem(&response).reason, reason, "{}", context());
                assert!(response.closes(), "{}", context());
                client.expect_end();
            }
        }
        assert_eq!(origin.accepted(), 0, "{:?}", origin.requests());
        let metrics = proxy.metrics();
        for (_, reason, _) in REFUSED {
            let expected = 3 * REFUSED.iter().filter(|row| row.1 == *reason).count();
            assert_eq!(metrics.sum("ringway_refused_total", &[("reason", reason)]), expected as f64, "{reason}");
        }
    }

    fn chunks_that_are_refused(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for raw in BAD_CHUNKS {
            let bytes =
                format!("POST /chunks HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{raw}{PREY}").into_bytes();
            for cuts in cuts(bytes.len()) {
                let mut client = proxy.connect();
                send_and_read(&mut client, &bytes, &cuts);
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

    fn answers_that_are_refused(driver) {
        let origin = Origin::with(|exchange| {
            let Ok(index) = exchange.target()[1..].parse::<usize>() else { return scripted(exchange) };
            exchange.write(BAD_ANSWERS[index])?;
            // And a second answer that nobody asked for.
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for (index, raw) in BAD_ANSWERS.iter().enumerate() {
            let response = client.get(&format!("/{index}"));
            assert_eq!(response.status, 502, "{raw:?}: {:?} {}", response.head, response.text());
            assert!(!problem(&response).reason.is_empty(), "{raw:?}");
            assert_eq!(client.get("/clean").expect(200).text(), "GET /clean", "after {raw:?}");
        }
        assert_eq!(origin.requests().iter().filter(|r| r.target() == "/clean").count(), BAD_ANSWERS.len());
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
