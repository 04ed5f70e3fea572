//! A breaker rejects while its upstream fails, probes, and admits again; its permits come back whatever becomes of a request.

use std::time::Duration;
use std::{cell::Cell, rc::Rc};

use ringway_tests::sim::client::Ask;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{Answer, Ending};
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

#[test]
fn rejects_probes_and_admits() {
    each_seed("breakers::rejects_probes_and_admits", SEEDS, |start| {
        let config =
            Config::to(&[1]).upstream("breaker: { requests_min: 10, window: 10s, rejecting: 2s, probes: 2 }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        let ill = Rc::new(Cell::new(true));
        let seen = Rc::new(Cell::new(0_u32));
        let (is_ill, seen_there) = (Rc::clone(&ill), Rc::clone(&seen));
        sim.origin(1, move |_| {
            seen_there.set(seen_there.get() + 1);
            if is_ill.get() { Answer::status(503) } else { Answer::bytes(10) }
        });
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            for _ in 0..30 {
                caller.ask(&Ask::get("/a")).await.unwrap();
            }
            assert!((10..13).contains(&seen.get()), "{} requests got through", seen.get());
            let reply = caller.ask(&Ask::get("/a")).await.unwrap();
            assert_eq!(reply.reason.as_deref(), Some("breaker_rejecting"));
            // The probes fail: it rejects for longer.
            client.pause(Duration::from_millis(2_100)).await;
            let before = seen.get();
            for _ in 0..10 {
                caller.ask(&Ask::get("/a")).await.unwrap();
            }
            assert!((1..=2).contains(&(seen.get() - before)), "{} probes", seen.get() - before);
            ill.set(false);
            client.pause(Duration::from_millis(4_100)).await;
            for _ in 0..10 {
                let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
            }
        });
        sim.finish();
    });
}

/// Probes whose clients leave, whose origin is silent, or whose connection breaks: none of them may hold a probe for ever.
#[test]
fn probes_come_back() {
    each_seed("breakers::probes_come_back", 3 * SEEDS, |start| {
        let config = Config::to(&[1, 2])
            .upstream(
                "breaker: { requests_min: 3, window: 2s, rejecting: 500ms, rejecting_max: 1s, probes: 1 }",
            )
            .upstream("adaptive_concurrency: { min: 1, max: 20, initial: 2 }")
            .route("timeouts: { response_head: 400ms, body_idle: 400ms }")
            .route("retry: { on: [connect_failure, reset, 5xx] }");
        let sim = Sim::new(start, 2, Weather::rough(), &config.text());
        let calm_at = sim.executor.now_ms() + 20_000;
        for port in [1, 2] {
            let (random, executor) = (sim.random.fork(), sim.executor.clone());
            sim.origin(port, move |_| {
                let answer = Answer::bytes(random.below(2_000));
                match random.below(4) {
                    _ if executor.now_ms() > calm_at => answer,
                    0 => Answer::silence(),
                    1 => answer.cut(random.below(60), Ending::Reset),
                    2 => Answer::status(503),
                    _ => answer,
                }
            });
        }
        for _ in 0..4 {
            let (client, network) = (sim.client(), Rc::clone(&sim.network));
            let random = sim.random.fork();
            sim.act(async move {
                while client.now_ms() < calm_at {
                    client.pause(random.ms(0..600)).await;
                    let mut caller = client.connect().await.unwrap();
                    let begun = caller.begin(&Ask::get("/a")).await.unwrap();
                    if random.one_in(3) {
                        client.pause(random.ms(0..200)).await;
                        caller.leave(&begun);
                    } else {
                        let _ = caller.finish(&begun).await;
                    }
                }
                // All is well for a while, the network too: everybody is served.
                network.set_weather(Weather::fair());
                client.pause(Duration::from_secs(5)).await;
                for _ in 0..6 {
                    let _ = client.ask(&Ask::get("/a")).await;
                    client.pause(Duration::from_millis(700)).await;
                }
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
            });
        }
        sim.finish();
    });
}

/// A probe whose client leaves says nothing of the upstream: its place is free for the next one at once.
#[test]
fn a_probe_whose_client_leaves() {
    each_seed("breakers::a_probe_whose_client_leaves", SEEDS, |start| {
        let config =
            Config::to(&[1]).upstream("breaker: { requests_min: 3, window: 10s, rejecting: 5s, probes: 1 }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        let seen = Rc::new(Cell::new(0_u32));
        sim.origin(1, move |_| {
            seen.set(seen.get() + 1);
            match seen.get() {
                1..=3 => Answer::status(503),
                4 => Answer::silence(),
                _ => Answer::bytes(10),
            }
        });
        let client = sim.client();
        sim.act(async move {
            for _ in 0..3 {
                client.ask(&Ask::get("/a")).await.unwrap();
            }
            client.pause(Duration::from_millis(5_100)).await;
            let mut probe = client.connect().await.unwrap();
            let begun = probe.begin(&Ask::get("/a")).await.unwrap();
            client.pause(Duration::from_millis(1_500)).await;
            probe.leave(&begun);
            ringway::net::stream::Transport::abort_on_close(probe.end());
            drop(probe);
            client.pause(Duration::from_millis(50)).await;
            let reply = client.ask(&Ask::get("/a")).await.unwrap();
            assert_eq!(reply.status, 200, "{reply:?}");
        });
        sim.finish();
    });
}
