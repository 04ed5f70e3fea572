//! What a person meets when something is wrong: a problem document with a reason and a request id, and not a word about
//! the inside.

use ringway_tests::client::{get, post};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use std::collections::BTreeSet;

for_each_driver! {
    fn every_refusal_is_a_problem_document(driver) {
        let origin = Origin::with(|_| Ok(After::Close));
        let routes = "- { name: origin, match: { path: { prefix: /origin } }, limits: { body_bytes: 3B }, upstream: origin }";
        let proxy = Proxy::start(driver, &Config::to(&origin).routes(routes));
        let table = [
            (get("/none"), 404, "no_route"),
            (get("/origin"), 502, "upstream_closed"),
            (post("/origin", "four"), 413, "body_too_large"),
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "host_missing"),
        ];
        let mut ids = BTreeSet::new();
        for (request, status, reason) in table {
            let response = proxy.connect().ask(&request).expect(status);
            let problem = problem(&response);
            assert_eq!(problem.reason, reason, "{request:?}");
            assert_eq!(response.field("x-request-id"), Some(problem.request_id.as_str()), "{:?}", response.head);
            assert!(problem.request_id.len() >= 16, "{problem:?}");
            assert!(ids.insert(problem.request_id.clone()), "an id that comes twice: {problem:?}");
            let text = response.text();
            assert!(!text.contains("127.0.0.1") && !text.contains("panicked"), "{text}");
            proxy.await_metric("ringway_refused_total", &[("reason", reason)], |count| count == 1.0);
        }
    }

    /// A client's bytes come back in no answer: a refusal is no mirror.
    fn a_refusal_reflects_nothing(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).routes("- { name: a, match: { path: { exact: /a } }, upstream: origin }"));
        let script = "<script>alert(1)</script>";
        for request in [
            format!("GET /{script} HTTP/1.1\r\nHost: test\r\n\r\n"),
            format!("GET / HTTP/1.1\r\nHost: {script}\r\n\r\n"),
            format!("{script} / HTTP/1.1\r\nHost: test\r\n\r\n"),
        ] {
            let response = proxy.connect().ask(&request);
            assert!(matches!(response.status, 400 | 404), "{:?}", response.head);
            assert!(!response.text().contains("script"), "{}", response.text());
            assert!(!String::from_utf8_lossy(&response.head.raw).contains("script"), "{:?}", response.head);
        }
    }

    /// HEAD gets the same head and no body, or the next answer would be read wrong.
    fn a_refused_head_has_no_body(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).routes("- { name: a, match: { path: { exact: /a } }, upstream: origin }"));
        let mut client = proxy.connect();
        let response = client.ask("HEAD /none HTTP/1.1\r\nHost: test\r\n\r\n").expect(404);
        assert_ne!(response.field("content-length"), Some("0"), "the length that a GET would have");
        client.get("/a").expect(200);
    }
}
