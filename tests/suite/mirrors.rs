//! Mirrors: a copy of each request elsewhere, which no client ever waits for or hears of, whatever the mirror does.

use ringway_tests::client::{chunked, post};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::client::Client as Http2Client;
use ringway_tests::load::{Load, OnClose};
use ringway_tests::origin::{After, Origin, named, scripted};
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::Gate;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Everything to `origin`, and a copy to the upstream `mirror`.
fn mirrored(origin: &Origin, mirror: &Origin, settings: &str) -> Config {
    Config::to(origin)
        .and_upstream("mirror", mirror)
        .route(&format!("mirrors: [{{ upstream: mirror{settings} }}]"))
}

fn not_copied(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metrics().sum("ringway_refused_total", &[("reason", reason)])
}

for_each_driver! {
    /// The whole request arrives, with its body however framed, and says that it is a copy.
    fn copies_are_whole(driver) {
        let (origin, mirror) = (Origin::start(), Origin::with(named("nobody reads this")));
        let config = mirrored(&origin, &mirror, "").route("rewrite: { path_prefix: /v2 }\n    match: { path: { prefix: /v1 } }");
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        // Copies are in no order among themselves, so each is waited for, its answer included.
        let copy = |index: usize, target: &str, body: &str| {
            let copy = mirror.await_finished(index);
            assert_eq!((copy.target(), copy.body.len()), (target, body.len()), "copy {index}");
            assert_eq!(copy.body, body.as_bytes());
            assert_eq!(copy.field("ringway-mirror"), Some("1"));
            assert_eq!(copy.field("expect"), None, "nobody waits for a 100");
            assert_eq!(proxy.metrics().sum("ringway_mirrored_total", &[]), (index + 1) as f64);
            proxy.await_metric("ringway_upstream_requests_active", &[("upstream", "mirror")], |n| n == 0.0);
        };
        assert_eq!(client.get("/v1/a?b=c").expect(200).text(), "GET /v2/a?b=c");
        copy(0, "/v2/a?b=c", "");
        let body = "x".repeat(20_000);
        assert_eq!(client.ask(&post("/v1/length", &body)).expect(200).text(), body);
        copy(1, "/v2/length", &body);
        let mut request = b"PUT /v1/chunks HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        request.extend(chunked(body.as_bytes(), 1_000));
        client.send(&request);
        assert_eq!(client.response("PUT").expect(200).text(), body);
        copy(2, "/v2/chunks", &body);
        client.send("POST /v1/late HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n");
        std::thread::park_timeout(Duration::from_millis(20));
        client.send("abc");
        std::thread::park_timeout(Duration::from_millis(20));
        client.send("def");
        while client.response_head().expect("a head").1 != 200 {}
        copy(3, "/v2/late", "abcdef");
        assert_eq!(mirror.request_count(), 4);
        assert!(origin.requests().iter().all(|request| request.field("ringway-mirror").is_none()));
        assert_eq!(mirror.accepted(), 1, "copies share connections");
    }

    /// Bodies that are gathered hold their places, so that slow uploads can't pile them up.
    fn slow_uploads_are_counted(driver) {
        let (origin, mirror) = (Origin::start(), Origin::with(named("m")));
        let proxy = Proxy::start(driver, &mirrored(&origin, &mirror, ", in_flight_max: 2"));
        let begin = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc";
        let mut slow: Vec<_> = (0..2)
            .map(|_| {
                let mut client = proxy.connect();
                client.send(begin);
                client
            })
            .collect();
        origin.await_requests(2);
        proxy.get("/").expect(200);
        assert_eq!(not_copied(&proxy, "mirror_busy"), 1.0);
        for client in &mut slow {
            client.send("def");
            client.response("POST").expect(200);
        }
        mirror.await_requests(2);
        proxy.await_metric("ringway_mirrored_total", &[], |count| count == 2.0);
    }

    /// Where bodies have no room, there is no copy, and the client's request goes its way.
    fn bodies_without_room_are_not_copied(driver) {
        let (origin, mirror) = (Origin::start(), Origin::with(named("m")));
        let config = mirrored(&origin, &mirror, ", body_bytes: 1MiB").top("limits: { memory_per_worker: 1MiB }");
        let proxy = Proxy::start(driver, &config);
        let body = "x".repeat(400_000);
        proxy.connect().ask(&post("/", &body)).expect(200);
        assert_eq!(not_copied(&proxy, "mirror_no_memory"), 1.0);
        proxy.connect().ask(&post("/", &body[..100_000])).expect(200);
        mirror.await_requests(1);
        assert_eq!(mirror.await_finished(0).body.len(), 100_000);
    }

    /// A mirror that leads back to where the request came from copies nothing again.
    fn no_circles(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let circle = Config::to(&origin).to_string().replace(
            "routes:\n  - name: all",
            &format!(
                "  - {{ name: itself, endpoints: ['{}'] }}\nroutes:\n  - name: all\n    mirrors: [{{ upstream: itself }}]",
                proxy.address()
            ),
        );
        proxy.server().reload(&circle).expect("accepted");
        proxy.metrics();
        proxy.get("/once").expect(200);
        proxy.await_metric("ringway_refused_total", &[("reason", "mirror_of_a_copy")], |n| n == 1.0);
        assert_eq!(origin.await_requests(2).len(), 2, "the request and its copy");
        assert_eq!(proxy.metrics().sum("ringway_mirrored_total", &[]), 1.0);
    }

    fn of_http2_as_well(driver) {
        let (origin, mirror) = (Origin::start(), Origin::with(named("m")));
        let proxy = Proxy::start(driver, &mirrored(&origin, &mirror, ""));
        let client = Http2Client::connect(proxy.address());
        for number in 0..5 {
            assert_eq!(client.get(&format!("/{number}")).status, 200);
        }
        let copies = mirror.await_requests(5);
        assert!(copies.iter().any(|copy| copy.target() == "/4"));
    }

    /// A share of the requests, and bodies up to a bound; what is left out is counted.
    fn shares_and_bounds(driver) within 60 {
        let (origin, mirror) = (Origin::start(), Origin::with(named("m")));
        let proxy = Proxy::start(driver, &mirrored(&origin, &mirror, ", percent: 25, in_flight_max: 10000"));
        let mut client = proxy.connect();
        for _ in 0..2_000 {
            client.get("/").expect(200);
        }
        let copied = proxy.metrics().sum("ringway_mirrored_total", &[]);
        assert!((400.0..600.0).contains(&copied), "{copied} of 2,000");
        proxy.reload(&mirrored(&origin, &mirror, ", body_bytes: 1KiB"));
        let before = not_copied(&proxy, "mirror_body_too_large");
        for (size, too_large) in [(1_024, 0.0), (1_025, 1.0), (100_000, 2.0)] {
            client.ask(&post("/", &"x".repeat(size))).expect(200);
            assert_eq!(not_copied(&proxy, "mirror_body_too_large") - before, too_large, "{size} bytes");
        }
        let mut request = b"PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        request.extend(chunked("x".repeat(60_000).as_bytes(), 5_000));
        client.send(&request);
        client.response("PUT").expect(200);
        proxy.await_metric("ringway_refused_total", &[("reason", "mirror_body_too_large")], |n| n - before == 3.0);
    }

    /// At 100 % to a mirror that is dead, that never answers, that breaks off, that speaks nonsense, or that sends for
    /// ever: the client's answers come as ever, and what the worker holds stays small.
    fn nothing_a_mirror_does_is_felt(driver) within 120 {
        let origin = Origin::with(named("well"));
        let gate = Gate::new();
        let never = {
            let gate = gate.clone();
            Origin::with(move |exchange| {
                gate.wait();
                scripted(exchange)
            })
        };
        let breaks = Origin::with(|_| Ok(After::Reset));
        let nonsense = Origin::with(|exchange| {
            exchange.write("no HTTP at all\r\n\r\n")?;
            Ok(After::Close)
        });
        let endless = Origin::with(|exchange| {
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
            while exchange.write([b'x'; 16_384]).is_ok() {}
            Ok(After::Close)
        });
        let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        let addresses = [&never, &breaks, &nonsense, &endless].map(|origin| origin.address().to_string());
        for (what, address) in
            [("dead", closed.to_string()), ("never", addresses[0].clone()), ("breaks", addresses[1].clone()),
             ("nonsense", addresses[2].clone()), ("endless", addresses[3].clone())]
        {
            let config = Config::to(&origin).top("limits: { memory_per_worker: 8MiB }").to_string().replace(
                "routes:\n  - name: all",
                &format!(
                    "  - {{ name: mirror, endpoints: ['{address}'] }}\nroutes:\n  - name: all\n    \
                     mirrors: [{{ upstream: mirror, in_flight_max: 20, timeout: 1s }}]"
                ),
            );
            let proxy = Proxy::start_text(driver, &config);
            let load = Load::start(proxy.address(), 4, "/", OnClose::Reconnect);
            let started = Instant::now();
            load.await_answers(1_000);
            while started.elapsed() < Duration::from_millis(1_500) {
                load.await_answers(100);
            }
            let open = proxy.metrics().sum("ringway_upstream_connections", &[("upstream", "mirror")]);
            let taken = proxy.metrics().sum("ringway_buffers_taken", &[]);
            let tally = load.stop();
            assert_eq!(tally.failures, Vec::<String>::new(), "{what}: of {}", tally.answered);
            assert!(tally.slowest < Duration::from_millis(900), "{what}: {:?}", tally.slowest);
            assert!(open <= 20.0, "{what}: {open} connections to the mirror");
            assert!(taken <= 40.0, "{what}: {taken} buffers");
            let reasons = ["mirror_failed", "mirror_timeout", "mirror_busy", "mirror_unavailable"];
            let left_out: f64 = reasons.iter().map(|reason| not_copied(&proxy, reason)).sum();
            if what == "endless" {
                // Its answers are cut off after a mebibyte: good enough.
                assert!(proxy.metrics().sum("ringway_mirrored_total", &[]) > 0.0);
            } else {
                assert!(left_out > 0.0, "{what}: nothing was counted");
            }
            proxy.await_metric("ringway_upstream_requests_active", &[("upstream", "mirror")], |n| n == 0.0);
        }
        gate.open();
    }
}
