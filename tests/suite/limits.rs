//! Limits: at the bound a request passes, one beyond it is refused with the right status, and is counted.

use ringway_tests::client::{Client, chunked, get, post};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Origin, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, eventually};
use std::time::Duration;

/// A GET whose head has exactly this many bytes.
fn head_of(bytes: usize) -> String {
    let bare = "GET / HTTP/1.1\r\nHost: test\r\nX-Long: \r\n\r\n";
    bare.replace("X-Long: ", &format!("X-Long: {}", "x".repeat(bytes - bare.len())))
}

/// A GET with exactly this many fields.
fn fields_of(count: usize) -> String {
    format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", "X-Field: y\r\n".repeat(count - 1))
}

#[track_caller]
fn refused(proxy: &Proxy, request: &str, status: u16, reason: &str) {
    let before = proxy.metrics().sum("ringway_refused_total", &[("reason", reason)]);
    let mut client = proxy.connect();
    // The refusal may come before everything is sent.
    let _ = client.try_send(request.as_bytes());
    let response = client.response("GET").expect(status);
    assert_eq!(problem(&response).reason, reason);
    assert!(response.closes(), "what follows an unread head can't be trusted: {:?}", response.head);
    client.expect_end();
    proxy.await_metric("ringway_refused_total", &[("reason", reason)], |count| count == before + 1.0);
}

for_each_driver! {
    fn bytes_of_a_head(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("limits: { header_bytes: 4KiB, uri_bytes: 2KiB }"));
        proxy.connect().ask(&head_of(4096)).expect(200);
        refused(&proxy, &head_of(4097), 431, "header_bytes");
        refused(&proxy, &head_of(100_000), 431, "header_bytes");
        // A head that never ends is refused as soon as it is too long, not at its time-out.
        refused(&proxy, &head_of(9000)[..5000], 431, "header_bytes");
        assert_eq!(origin.request_count(), 1);
    }

    fn the_default_head_fits_a_buffer(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.connect().ask(&head_of(16_384)).expect(200);
        refused(&proxy, &head_of(16_385), 431, "header_bytes");
    }

    fn count_of_fields(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("limits: { header_count: 20 }"));
        proxy.connect().ask(&fields_of(20)).expect(200);
        refused(&proxy, &fields_of(21), 431, "header_count");
        refused(&proxy, &fields_of(500), 431, "header_count");
        assert_eq!(origin.request_count(), 1);
    }

    fn length_of_a_target(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("limits: { uri_bytes: 1KiB }"));
        let target = |bytes: usize| format!("/{}", "a".repeat(bytes - 1));
        proxy.get(&target(1024)).expect(200);
        refused(&proxy, &get(&target(1025)), 414, "uri_too_long");
        refused(&proxy, &get(&target(60_000)), 414, "uri_too_long");
        assert_eq!(origin.request_count(), 1);
    }

    fn bytes_of_a_body_with_a_length(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("limits: { body_bytes: 1KiB }"));
        let mut client = proxy.connect();
        client.ask(&post("/", &"x".repeat(1024))).expect(200);
        // The length alone is enough: nobody waits for the body, and the origin hears nothing of it.
        client.send("POST /long HTTP/1.1\r\nHost: test\r\nContent-Length: 1025\r\n\r\n");
        let response = client.response("POST").expect(413);
        assert_eq!(problem(&response).reason, "body_too_large");
        assert_eq!(origin.request_count(), 1);
        proxy.await_metric("ringway_refused_total", &[("reason", "body_too_large")], |count| count == 1.0);
    }

    fn bytes_of_a_body_in_chunks(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("limits: { body_bytes: 1KiB }"));
        let mut client = proxy.connect();
        let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = chunked(&[b'x'; 1024], 100);
        client.send([head.as_bytes(), &body].concat());
        client.response("POST").expect(200);
        // Most of it is with the origin already when the limit is passed.
        let body = chunked(&[b'x'; 1025], 100);
        client.send([head.as_bytes(), &body[..500]].concat());
        origin.await_requests(2);
        client.send(&body[500..]);
        let response = client.response("POST").expect(413);
        assert!(response.closes(), "{:?}", response.head);
        client.expect_end();
        let record = origin.await_finished(1);
        assert!(record.failure.is_some(), "the origin must not take the part for the whole: {record:?}");
    }

    fn a_route_has_its_own_body_limit(driver) {
        let origin = Origin::start();
        let routes = "- { name: large, match: { path: { prefix: /large } }, limits: { body_bytes: 10KiB }, upstream: origin }\n\
                      - { name: rest, upstream: origin }";
        let config = Config::to(&origin).top("limits: { body_bytes: 10B }").routes(routes);
        let proxy = Proxy::start(driver, &config);
        proxy.connect().ask(&post("/large", &"x".repeat(10_240))).expect(200);
        proxy.connect().ask(&post("/large", &"x".repeat(10_241))).expect(413);
        proxy.connect().ask(&post("/small", "0123456789")).expect(200);
        proxy.connect().ask(&post("/small", "0123456789a")).expect(413);
    }

    /// Beyond the cap a connection waits in the kernel's queue and is served when another one ends.
    fn connections_of_a_listener(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("connections_max: 2"));
        let mut first = proxy.connect();
        let mut second = proxy.connect();
        first.get("/first").expect(200);
        second.get("/second").expect(200);
        let mut third = proxy.connect();
        third.send(get("/third"));
        third.expect_open(Duration::from_millis(200));
        assert_eq!(origin.request_count(), 2, "a third connection is not served beside two");
        drop(first);
        third.response("GET").expect(200);
        second.get("/still").expect(200);
    }

    /// The bound is each worker's, and sockets that workers hand to each other keep it too.
    fn connections_of_a_listener_in_each_worker(driver) within 60 {
        const MAX: usize = 10;
        const CLIENTS: usize = 120;
        let origin = Origin::start();
        for workers in [2, 4] {
            let config = Config::to(&origin).workers(workers).listener(&format!("connections_max: {MAX}"));
            let proxy = Proxy::start(driver, &config);
            let (address, start) = (proxy.address(), std::sync::Arc::new(std::sync::Barrier::new(CLIENTS)));
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let start = std::sync::Arc::clone(&start);
                    std::thread::spawn(move || {
                        start.wait();
                        let mut client = Client::connect(address);
                        client.send(get("/"));
                        client
                    })
                })
                .collect();
            let mut open = Vec::new();
            let look = || {
                open = proxy.metrics().series("ringway_downstream_connections").iter().map(|s| s.value).collect();
                assert!(open.iter().all(|n: &f64| *n <= MAX as f64), "{open:?} where {MAX} are allowed");
                (open.len() == workers && open.iter().all(|n| *n == MAX as f64)).then_some(())
            };
            eventually("as many as may be, in each worker", look);
            let clients: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
            origin.await_requests(MAX * workers);
            drop(clients);
            proxy.await_metric("ringway_downstream_connections", &[], |n| n == 0.0);
        }
    }

    /// Few connections are spread evenly, whomever the kernel gives them to; what is on its way counts.
    fn few_connections_are_spread_evenly(driver) {
        let origin = Origin::start();
        for (workers, connections) in [(4, 32), (2, 2), (2, 6)] {
            let proxy = Proxy::start(driver, &Config::to(&origin).workers(workers));
            let clients: Vec<_> =
                (0..connections).map(|_| ringway_tests::h2::client::Client::connect(proxy.address())).collect();
            let each = (connections / workers) as f64;
            let open = || {
                let metrics = proxy.metrics();
                metrics.series("ringway_downstream_connections").iter().map(|s| s.value).collect::<Vec<_>>()
            };
            let mut last = Vec::new();
            eventually("all of them open", || {
                last = open();
                (last.iter().sum::<f64>() == connections as f64).then_some(())
            });
            assert!(last.iter().all(|n| *n == each), "{last:?}, {each} each are wanted");
            for client in &clients {
                client.get("/").expect(200);
            }
        }
    }

    fn requests_of_a_connection(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("requests_per_connection_max: 3"));
        let mut client = proxy.connect();
        for number in 1..=3 {
            let response = client.get("/").expect(200);
            assert_eq!(response.closes(), number == 3, "the third answer is the last");
        }
        client.expect_end();
        // Pipelined requests beyond the last are not served.
        let mut client = proxy.connect();
        client.send(get("/").repeat(5));
        for number in 1..=3 {
            assert_eq!(client.response("GET").expect(200).closes(), number == 3);
        }
        client.expect_end();
        assert_eq!(origin.request_count(), 6);
    }

    fn bytes_of_a_response_head(driver) {
        let origin = Origin::with(|exchange| {
            let bytes: usize = exchange.target()[1..].parse().expect("a size");
            let bare = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: \r\n\r\n";
            exchange.write(bare.replace("X-Long: ", &format!("X-Long: {}", "x".repeat(bytes - bare.len()))))?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.get("/16000").expect(200);
        let response = proxy.get("/17000").expect(502);
        assert_eq!(problem(&response).reason, "header_bytes");
        proxy.get("/100").expect(200);
    }

    fn chunk_lines_are_bounded(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let endless = format!("{head}1;x={}", "y".repeat(100_000));
        let mut client = proxy.connect();
        let _ = client.try_send(endless.as_bytes());
        assert_eq!(client.response("POST").status, 400);
        client.expect_end();
        let trailers = "X-Field: y\r\n".repeat(5000);
        let mut client = proxy.connect();
        let _ = client.try_send(format!("{head}1\r\na\r\n0\r\n{trailers}\r\n").as_bytes());
        assert!(matches!(client.response("POST").status, 400 | 431));
        client.expect_end();
    }

    /// A refusal of one request must not hold up the others.
    fn a_refusal_disturbs_nobody(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut other = proxy.connect();
        other.send(get("/other"));
        origin.await_requests(1);
        refused(&proxy, &head_of(20_000), 431, "header_bytes");
        gate.open();
        assert_eq!(other.response("GET").expect(200).text(), "GET /other");
    }
}
