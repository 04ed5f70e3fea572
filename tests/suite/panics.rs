//! What a panic ends: its connection or its stream, or one worker's life, after which that worker goes on; never the
//! process, unless workers fail time and again. Built with the feature `test-panics`, by which a request asks for one.

use ringway::base::test_panics;
use ringway_tests::client::Client;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2;
use ringway_tests::load::{Load, OnClose};
use ringway_tests::origin::{Origin, named};
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::wait::{eventually, eventually_within};
use std::time::{Duration, Instant};

const WORKERS: usize = 2;

fn start(driver: Driver, config: &Config) -> Proxy {
    test_panics::allow();
    Proxy::start(driver, config)
}

fn asking(for_what: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: test\r\nX-Ringway-Test-Panic: {for_what}\r\n\r\n")
}

fn panics(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("ringway_panics_total", &[])
}

/// Everything that requests and connections take has been given back.
#[track_caller]
fn all_is_given_back(proxy: &Proxy) {
    for name in [
        "ringway_downstream_connections",
        "ringway_requests_active",
        "ringway_buffers_taken",
        "ringway_kept_bytes",
    ] {
        proxy.await_metric(name, &[], |n| n == 0.0);
    }
    proxy.await_metric("ringway_upstream_requests_active", &[], |n| n == 0.0);
}

for_each_driver! {
    /// Each ends its own connection, without an answer, and is counted. Load on the same workers feels nothing of it.
    fn a_panic_ends_its_connection_and_no_other(driver) within 60 {
        let origin = Origin::start();
        let proxy = start(driver, &Config::to(&origin).workers(WORKERS));
        let load = Load::start(proxy.address(), 8, "/", OnClose::Reconnect);
        load.await_answers(50);
        let asked = 20;
        for _ in 0..asked {
            let mut client = proxy.connect();
            client.get("/before").expect(200);
            client.send(asking("connection"));
            assert!(client.try_response("GET").is_err(), "the connection is over");
        }
        load.await_answers(50);
        assert_eq!(panics(&proxy), f64::from(asked));
        let tally = load.stop();
        assert_eq!(tally.failures, Vec::<String>::new());
        assert_eq!(proxy.metrics().sum("ringway_worker_restarts_total", &[]), 0.0);
        all_is_given_back(&proxy);
    }

    /// On HTTP/2 it ends its stream; the others of the connection go on.
    fn a_panic_of_a_stream_ends_that_stream(driver) within 60 {
        let origin = Origin::start();
        let proxy = start(driver, &Config::to(&origin).listener("http2: {}"));
        let client = h2::client::Client::connect(proxy.address());
        for _ in 0..10 {
            client.get("/before").expect(200);
            let asked = client.try_ask(h2::client::request("GET", "/", &[("x-ringway-test-panic", "connection")]));
            assert!(asked.is_err(), "the stream is over: {asked:?}");
            client.get("/after").expect(200);
        }
        assert_eq!(panics(&proxy), 10.0);
        drop(client);
        all_is_given_back(&proxy);
    }

    /// A worker whose task or whose loop panics begins anew, under load: with the configuration in force by then, its
    /// listener, and its counts. What the other worker serves never fails.
    fn a_worker_that_fails_begins_anew(driver) within 120 {
        let (one, two) = (Origin::with(named("one")), Origin::with(named("two")));
        let proxy = start(driver, &Config::to(&one).workers(WORKERS));
        proxy.reload(&Config::to(&two).workers(WORKERS));
        for (round, way) in (1_u32..).zip(["task", "loop", "task"]) {
            let load = Load::start(proxy.address(), 16, "/", OnClose::Reconnect);
            load.await_answers(50);
            let before = proxy.metrics().sum("ringway_requests_total", &[("code", "2xx")]);
            let mut client = proxy.connect();
            client.send(asking(way));
            // The loop panics when it is asked for its numbers, and a scrape does so.
            eventually_within(Duration::from_secs(30), "the restart", || {
                let metrics = proxy.metrics();
                (metrics.sum("ringway_worker_restarts_total", &[]) == f64::from(round)).then_some(())
            });
            proxy.await_metric("ringway_workers_silent", &[], |n| n == 0.0);
            load.await_answers(200);
            let tally = load.stop();
            // Those of the failed worker, once each; a client whose request was on its way there may be told 503.
            assert!(tally.failures.len() < 16, "the other worker's clients go on: {:?}", tally.failures);
            let metrics = proxy.metrics();
            assert!(metrics.sum("ringway_requests_total", &[("code", "2xx")]) > before, "counts go on");
            assert_eq!(metrics.sum("ringway_panics_total", &[]), f64::from(round));
            // Both workers accept, by the configuration in force.
            let clients: Vec<_> = eventually("connections on both workers", || {
                let mut clients: Vec<Client> = (0..32).map(|_| proxy.connect()).collect();
                for client in &mut clients {
                    assert_eq!(client.get("/").expect(200).text(), "two");
                }
                let metrics = proxy.metrics();
                let series = metrics.series("ringway_downstream_connections");
                (series.len() == WORKERS && series.iter().all(|s| s.value > 0.0)).then_some(clients)
            });
            drop(clients);
            drop(client);
            all_is_given_back(&proxy);
        }
        proxy.server().drain();
        proxy.wait();
    }

    /// A worker that stands still, with its mailbox full, keeps neither the others nor the end waiting.
    fn a_worker_that_stands_still_does_not_hold_the_end(driver) within 90 {
        let origin = Origin::start();
        let proxy = start(driver, &Config::to(&origin).workers(WORKERS).top("timeouts: { drain: 1s }"));
        let mut client = proxy.connect();
        client.send(asking("stall"));
        proxy.await_metric("ringway_workers_silent", &[], |n| n == 1.0);
        let started = Instant::now();
        proxy.server().drain();
        proxy.wait();
        assert!(started.elapsed() < test_panics::STALL / 2, "{:?}", started.elapsed());
    }

    /// Workers that fail time and again end the process, with the reason.
    fn a_storm_of_failures_ends_the_process(driver) within 60 {
        let origin = Origin::start();
        let proxy = start(driver, &Config::to(&origin).workers(WORKERS));
        let address = proxy.address();
        let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&ended);
        let asker = std::thread::spawn(move || {
            for _ in 0..1_000 {
                if seen.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let Ok(mut client) = Client::try_connect(&address.into()) else { continue };
                let _ = client.try_send(asking("task").as_bytes());
                let _ = client.try_response("GET");
            }
        });
        let outcome = proxy.outcome();
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        asker.join().expect("no panic here");
        let reason = outcome.expect_err("nobody asked it to end");
        assert!(reason.contains("workers have failed 9 times within 60s"), "{reason}");
        assert!(reason.contains("worker.rs:") && reason.contains("asked for by a test: task"), "{reason}");
    }
}
