//! Memory that is bounded and given back: an idle connection holds no buffer, whatever it did before.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
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
}
