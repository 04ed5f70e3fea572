//! Memory that is bounded and given back: an idle connection holds no buffer, whatever it did before.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2;
use ringway_tests::h2::client::{Then, request};
use ringway_tests::origin::{BodyKind, Origin, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::Gate;

/// Both ends of each connection are in this process, beside those of the tests that run at the same time.
const IDLE: usize = 2_000;

for_each_driver! {
    fn idle_connections_hold_no_buffer(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut clients: Vec<Client> = (0..IDLE).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.get("/").expect(200);
        }
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == IDLE as f64);
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        // They are idle, not forgotten.
        for client in clients.iter_mut().step_by(97) {
            client.get("/").expect(200);
        }
    }

    fn buffers_come_back_after_large_bodies(driver) {
        let origin =
            Origin::with(|exchange| exchange.reply_payload(BodyKind::Chunked(10_000), Payload::new(1, 4 << 20)));
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut clients: Vec<Client> = (0..20).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        for client in &mut clients {
            client.response_of("GET", Payload::new(1, 4 << 20)).expect(200);
        }
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
    }

    /// While an origin thinks, at most the request's own bytes are held; a hundred requests that wait are no hundred
    /// times both directions' buffers.
    fn waiting_requests_hold_little(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut clients: Vec<Client> = (0..100).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        origin.await_requests(100);
        let taken = proxy.metrics().sum("ringway_buffers_taken", &[]);
        assert!(taken <= 100.0, "{taken} buffers for 100 waiting requests");
        gate.open();
        for client in &mut clients {
            client.response("GET").expect(200);
        }
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
    }

    /// With the smallest pool there are fewer buffers than slow readers: they wait for each other, and all are served.
    fn a_small_pool_serves_everybody(driver) within 60 {
        let origin =
            Origin::with(|exchange| exchange.reply_payload(BodyKind::Chunked(10_000), Payload::new(1, 1 << 20)));
        let proxy = Proxy::start(driver, &Config::to(&origin).top("limits: { memory_per_worker: 1MiB }"));
        let mut clients: Vec<Client> = (0..200).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        for client in &mut clients {
            client.response_of("GET", Payload::new(1, 1 << 20)).expect(200);
        }
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
    }

    /// Uploads that wait for their clients hold no buffer: with the smallest pool, of 32 buffers for requests, nobody else
    /// waits for one.
    fn idle_uploads_keep_nobody_waiting(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &small(Config::to(&origin)));
        let mut uploads: Vec<Client> = (0..48).map(|_| proxy.connect()).collect();
        for upload in &mut uploads {
            upload.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
        }
        origin.await_requests(48);
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        assert_eq!(proxy.get("/local").expect(200).text(), "here");
        assert_eq!(proxy.get("/there").expect(200).text(), "GET /there");
        for upload in &mut uploads {
            upload.send("world");
            assert_eq!(upload.response("POST").expect(200).text(), "helloworld");
        }
        nothing_is_held(&proxy);
    }

    fn idle_uploads_of_one_http2_connection_keep_nobody_waiting(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &small(Config::to(&origin)));
        for streams in [40, 100] {
            let client = h2::client::Client::connect(proxy.address());
            let mut uploads: Vec<_> = (0..streams)
                .map(|_| {
                    let mut stream = client.open(request("POST", "/", &[]), Then::More);
                    stream.send("hello", Then::More);
                    stream
                })
                .collect();
            proxy.await_metric("ringway_requests_active", &[], |active| active == f64::from(streams));
            proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
            assert_eq!(proxy.get("/local").expect(200).text(), "here");
            assert_eq!(proxy.get("/there").expect(200).text(), "GET /there");
            assert_eq!(client.get("/there").expect(200).text(), "GET /there");
            for upload in &mut uploads {
                upload.send("world", Then::End);
                assert_eq!(upload.response().expect(200).text(), "helloworld");
            }
        }
        nothing_is_held(&proxy);
    }

    /// A request that waits is kept, since it may be sent again, but at its own size, and what follows it too.
    fn requests_that_wait_are_kept_at_their_own_size(driver) within 60 {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            if exchange.target() == "/held" {
                held.wait();
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &small(Config::to(&origin)));
        let mut clients: Vec<Client> = (0..48).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/held") + &get("/next"));
        }
        origin.await_requests(48);
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        let kept = proxy.metrics().sum("ringway_kept_bytes", &[]);
        assert_eq!(kept, (48 * (get("/held").len() + get("/next").len())) as f64);
        assert_eq!(proxy.get("/there").expect(200).text(), "GET /there");
        gate.open();
        for client in &mut clients {
            assert_eq!(client.response("GET").expect(200).text(), "GET /held");
            assert_eq!(client.response("GET").expect(200).text(), "GET /next");
        }
        nothing_is_held(&proxy);
    }

    /// Heads that never end hold what has come of them.
    fn slow_heads_keep_nobody_waiting(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &small(Config::to(&origin)));
        let mut clients: Vec<Client> = (0..48).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send("GET /slow HTTP/1.1\r\nHost: t");
        }
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 48.0);
        assert_eq!(proxy.get("/there").expect(200).text(), "GET /there");
        for client in &mut clients {
            client.send("est\r\n\r\n");
            assert_eq!(client.response("GET").expect(200).text(), "GET /slow");
        }
        nothing_is_held(&proxy);
    }
}

/// 1 MiB of buffers, an answer of its own at `/local`, and bodies that may wait for as long as they like.
fn small(config: Config) -> Config {
    config.top("limits: { memory_per_worker: 1MiB }").top("timeouts: { body_idle: off }").routes(
        "- { name: local, match: { path: { exact: /local } }, respond: { status: 200, body: here } }\n\
             - { name: all, upstream: origin }",
    )
}

#[track_caller]
fn nothing_is_held(proxy: &Proxy) {
    for gauge in
        ["ringway_buffers_taken", "ringway_buffers_waiting", "ringway_kept_bytes", "ringway_requests_active"]
    {
        proxy.await_metric(gauge, &[], |held| held == 0.0);
    }
}
