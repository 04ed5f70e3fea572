//! Breakers, limits on what is in flight, the adaptive limit and shedding: what is refused, how fast, and that it ends.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An origin that answers as slowly as the number says, in ms.
fn slow(ms: &Arc<AtomicU64>) -> Origin {
    let ms = Arc::clone(ms);
    Origin::with(move |exchange| {
        std::thread::park_timeout(Duration::from_millis(ms.load(Ordering::SeqCst)));
        scripted(exchange)
    })
}

/// From when on the breaker of [`SLOW_TRIPS`] calls an answer slow.
const SLOW: Duration = Duration::from_millis(200);

const SLOW_TRIPS: &str = "breaker: { window: 30s, requests_min: 5, slow: 200ms, slow_percent: 50, rejecting: 30s, rejecting_max: 30s }";

fn state(proxy: &Proxy, state: &str) -> f64 {
    proxy.metrics().sum("ringway_breaker_state", &[("state", state)])
}

for_each_driver! {
    /// All origins are slow: the breaker rejects at once, and recovers by itself.
    fn slowness_trips_the_breaker_and_it_recovers(driver) within 60 {
        let ms = Arc::new(AtomicU64::new(150));
        let origin = slow(&ms);
        let config = Config::to(&origin).upstream(
            "breaker: { window: 5s, requests_min: 5, slow: 100ms, slow_percent: 50, rejecting: 700ms, rejecting_max: 5s, probes: 2 }",
        );
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        for _ in 0..5 {
            client.get("/").expect(200);
        }
        assert_eq!(state(&proxy, "rejecting"), 1.0);
        let arrived = origin.request_count();
        // Each rejection is a round trip over loopback and a problem document, so the best of many is what the breaker costs.
        let mut fastest = Duration::MAX;
        for _ in 0..50 {
            let begun = Instant::now();
            let response = client.get("/").expect(503);
            fastest = fastest.min(begun.elapsed());
            assert_eq!(problem(&response).reason, "breaker_rejecting");
            assert_eq!(response.field("retry-after"), Some("1"));
        }
        assert!(fastest < Duration::from_millis(1), "{fastest:?}");
        assert_eq!(origin.request_count(), arrived, "nothing reached the origin");
        // Still slow when it probes: it rejects again, for longer.
        eventually("a probe", || {
            client.get("/");
            (origin.request_count() > arrived).then_some(())
        });
        eventually("that it rejects again", || (state(&proxy, "rejecting") == 1.0).then_some(()));
        ms.store(0, Ordering::SeqCst);
        eventually("that it admits again", || (client.get("/").status == 200 && state(&proxy, "admitting") == 1.0).then_some(()));
        for _ in 0..20 {
            client.get("/").expect(200);
        }
        let metrics = proxy.metrics();
        assert!(metrics.sum("ringway_breaker_trips_total", &[]) >= 2.0);
        assert!(metrics.sum("ringway_breaker_rejected_total", &[]) >= 50.0);
    }

    /// An upstream is judged by what it does with a request that it has, not by how slowly the client sends it.
    fn slow_uploads_are_not_a_slow_upstream(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).upstream(SLOW_TRIPS));
        let mut clients: Vec<Client> = (0..8).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
        }
        origin.await_requests(8);
        for client in &mut clients {
            client.expect_open(2 * SLOW);
            client.send("b");
            assert_eq!(client.response("POST").expect(200).text(), "ab");
        }
        proxy.get("/").expect(200);
        assert_eq!(state(&proxy, "admitting"), 1.0);
    }

    /// The same, but the upstream takes its time once it has the whole request.
    fn a_slow_upstream_is_one_after_an_upload_too(driver) {
        let origin = slow(&Arc::new(AtomicU64::new(3 * SLOW.as_millis() as u64)));
        let proxy = Proxy::start(driver, &Config::to(&origin).upstream(SLOW_TRIPS));
        let mut clients: Vec<Client> = (0..5).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
            client.send("b");
        }
        for client in &mut clients {
            client.response("POST").expect(200);
        }
        assert_eq!(problem(&proxy.get("/").expect(503)).reason, "breaker_rejecting");
    }

    fn our_own_delay_is_not_a_slow_upstream(driver) {
        let origin = Origin::start();
        let config = Config::to(&origin).upstream(SLOW_TRIPS).route("fault: { delay: { duration: 400ms } }");
        let proxy = Proxy::start(driver, &config);
        let mut clients: Vec<Client> = (0..8).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        for client in &mut clients {
            client.response("GET").expect(200);
        }
        proxy.get("/").expect(200);
        assert_eq!(state(&proxy, "admitting"), 1.0);
    }

    /// Requests that wait for the one connection that may be opened are not the slower for it.
    fn a_queue_is_not_a_slow_upstream(driver) {
        let origin = slow(&Arc::new(AtomicU64::new(100)));
        let config = Config::to(&origin).upstream(
            "connections_max: 1\n    breaker: { window: 30s, requests_min: 8, slow: 400ms, slow_percent: 30, rejecting: 30s }",
        );
        let proxy = Proxy::start(driver, &config);
        let mut clients: Vec<Client> = (0..10).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        for client in &mut clients {
            client.response("GET").expect(200);
        }
        proxy.get("/").expect(200);
        assert_eq!(state(&proxy, "admitting"), 1.0);
    }

    fn errors_trip_the_breaker(driver) {
        let well = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&well);
        let origin = Origin::with(move |exchange| {
            exchange.read_body()?;
            let status = if flag.load(Ordering::SeqCst) { 200 } else { 500 };
            exchange.reply(status, &[], "x")
        });
        let config = Config::to(&origin)
            .upstream("breaker: { requests_min: 10, error_percent: 50, rejecting: 300ms, probes: 1 }");
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        for _ in 0..10 {
            client.get("/").expect(500);
        }
        assert_eq!(problem(&client.get("/").expect(503)).reason, "breaker_rejecting");
        // What it learnt survives a reload.
        proxy.reload(&config.clone().route("timeouts: { request: 9s }"));
        assert_eq!(problem(&client.get("/").expect(503)).reason, "breaker_rejecting");
        assert_eq!(origin.request_count(), 10);
        well.store(true, Ordering::SeqCst);
        eventually("that it admits again", || (client.get("/").status == 200).then_some(()));
    }

    /// A client that leaves says nothing of the upstream: no probe's place is lost by it.
    fn clients_that_leave_do_not_count(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            if exchange.target() == "/held" {
                held.wait();
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).upstream("breaker: { requests_min: 2, error_percent: 1 }"));
        let mut leaving = proxy.connect();
        leaving.send(get("/held"));
        origin.await_requests(1);
        leaving.reset();
        proxy.await_metric("ringway_refused_total", &[("reason", "client_gone")], |n| n == 1.0);
        gate.open();
        for _ in 0..5 {
            proxy.get("/").expect(200);
        }
        assert_eq!(state(&proxy, "admitting"), 1.0);
    }

    fn requests_in_flight_are_bounded(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).upstream("requests_max: 2"));
        let mut two: Vec<Client> = (0..2).map(|_| proxy.connect()).collect();
        for client in &mut two {
            client.send(get("/"));
        }
        origin.await_requests(2);
        assert_eq!(problem(&proxy.get("/").expect(503)).reason, "upstream_requests_full");
        assert_eq!(proxy.metrics().sum("ringway_upstream_attempts_in_flight", &[]), 2.0);
        gate.open();
        for client in &mut two {
            client.response("GET").expect(200);
        }
        proxy.get("/").expect(200);
        proxy.await_metric("ringway_upstream_attempts_in_flight", &[], |n| n == 0.0);
    }

    /// The adaptive limit finds its way down when everything waits in one queue, and says how far.
    fn the_adaptive_limit_falls_under_queueing(driver) within 60 {
        // One request at a time, 4 ms each: whoever comes second waits.
        let one = std::sync::Mutex::new(());
        let origin = Origin::with(move |exchange| {
            let _turn = one.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            std::thread::park_timeout(Duration::from_millis(4));
            scripted(exchange)
        });
        let config = Config::to(&origin).upstream("adaptive_concurrency: { min: 1, initial: 24, max: 64 }");
        let proxy = Proxy::start(driver, &config);
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..24)
            .map(|_| {
                let (address, stop) = (proxy.address(), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut client = Client::connect(address);
                    let mut refused = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let response = client.get("/");
                        if response.status == 503 {
                            assert_eq!(problem(&response).reason, "upstream_concurrency_limit");
                            refused += 1;
                            // As a client that heeds Retry-After, only sooner.
                            std::thread::park_timeout(Duration::from_millis(10));
                        }
                    }
                    refused
                })
            })
            .collect();
        proxy.await_metric("ringway_concurrency_limit", &[], |limit| limit < 16.0);
        stop.store(true, Ordering::SeqCst);
        let refused: usize = clients.into_iter().map(|c| c.join().expect("no client panics")).sum();
        assert!(refused > 0);
        proxy.get("/").expect(200);
    }

    /// Beyond its capacity a worker refuses what matters least first, at once and with a Retry-After.
    fn shedding_by_priority(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let routes = "\
- { name: high, match: { path: { prefix: /high } }, priority: high, upstream: origin }
- { name: low, match: { path: { prefix: /low } }, priority: low, upstream: origin }
- { name: normal, upstream: origin }";
        let config = Config::to(&origin)
            .top("shedding: { requests_max: 8, low_percent: 50, normal_percent: 75, retry_after_s: 7 }")
            .routes(routes);
        let proxy = Proxy::start(driver, &config);
        let mut waiting = Vec::new();
        let mut expect = |target: &str, admitted: bool| {
            let mut client = proxy.connect();
            client.send(get(target));
            if admitted {
                waiting.push(client);
                origin.await_requests(waiting.len());
            } else {
                let response = client.response("GET").expect(503);
                assert_eq!(problem(&response).reason, "overload_requests", "{target}");
                assert_eq!(response.field("retry-after"), Some("7"), "{target}");
            }
        };
        for _ in 0..4 {
            expect("/low", true);
        }
        expect("/low", false);
        for _ in 0..2 {
            expect("/normal", true);
        }
        expect("/normal", false);
        expect("/low", false);
        for _ in 0..2 {
            expect("/high", true);
        }
        expect("/high", false);
        gate.open();
        for mut client in waiting {
            client.response("GET").expect(200);
        }
        proxy.get("/low").expect(200);
    }

    /// Three times what the origin can do: the high class keeps its latency, the rest is shed, and memory stays.
    fn overload_spares_the_high_class(driver) within 90 {
        const CAPACITY: usize = 8;
        const SERVICE: Duration = Duration::from_millis(20);
        // So many at a time, the rest in its queue.
        let places = Arc::new((std::sync::Mutex::new(CAPACITY), std::sync::Condvar::new()));
        let of_origin = Arc::clone(&places);
        let origin = Origin::with(move |exchange| {
            let (free, changed) = &*of_origin;
            let mut free_now = changed.wait_while(free.lock().unwrap(), |free| *free == 0).unwrap();
            *free_now -= 1;
            drop(free_now);
            std::thread::park_timeout(SERVICE);
            *free.lock().unwrap() += 1;
            changed.notify_one();
            scripted(exchange)
        });
        let routes = "\
- { name: high, match: { path: { prefix: /high } }, priority: high, upstream: origin }
- { name: low, priority: low, upstream: origin }";
        let config = Config::to(&origin)
            .top("shedding: { requests_max: 8, low_percent: 70, normal_percent: 80 }")
            .routes(routes);
        let proxy = Proxy::start(driver, &config);
        let high = |count: usize| {
            let mut client = proxy.connect();
            let mut times: Vec<Duration> = (0..count)
                .map(|_| {
                    let begun = Instant::now();
                    client.get("/high").expect(200);
                    begun.elapsed()
                })
                .collect();
            times.sort();
            times[count * 98 / 100]
        };
        let unloaded = high(100);
        let resident = proxy.metrics().sum("process_resident_memory_bytes", &[]);
        let stop = Arc::new(AtomicBool::new(false));
        // Three times as many as it can do at once, which ask again as soon as they are answered.
        let crowd: Vec<_> = (0..3 * CAPACITY)
            .map(|_| {
                let (address, stop) = (proxy.address(), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut client = Client::connect(address);
                    let (mut served, mut shed) = (0_u64, 0_u64);
                    while !stop.load(Ordering::SeqCst) {
                        let response = client.get("/low");
                        if response.status == 200 {
                            served += 1;
                            continue;
                        }
                        assert_eq!(problem(&response).reason, "overload_requests");
                        assert!(response.field("retry-after").is_some());
                        shed += 1;
                        std::thread::park_timeout(SERVICE / 4);
                    }
                    (served, shed)
                })
            })
            .collect();
        proxy.await_metric("ringway_refused_total", &[("reason", "overload_requests")], |n| n > 100.0);
        let loaded = high(100);
        stop.store(true, Ordering::SeqCst);
        let sums = crowd.into_iter().map(|c| c.join().expect("no client panics"));
        let (served, shed) = sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert!(served > 50 && shed > 100, "{served} served, {shed} shed");
        assert!(loaded <= unloaded * 2, "p98 {loaded:?} under load, {unloaded:?} without");
        let grown = proxy.metrics().sum("process_resident_memory_bytes", &[]) - resident;
        assert!(grown < 32.0 * 1024.0 * 1024.0, "{grown} bytes more");
    }
}
