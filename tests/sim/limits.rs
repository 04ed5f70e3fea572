//! Limits of requests, at once and in a time, which all workers share: what was granted comes back, whatever becomes of it.

use std::time::Duration;

use ringway_tests::sim::client::Ask;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{Answer, Ending};
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

/// Places of requests at once come back: after any amount of trouble as many are admitted as at first.
#[test]
fn places_come_back() {
    each_seed("limits::places_come_back", 2 * SEEDS, |start| {
        let config = Config::to(&[1])
            .top("rate_limits: { in_flight: [{ name: few, max: 3 }] }")
            .route("in_flight_limits: [few]")
            .route("timeouts: { response_head: 500ms, body_idle: 500ms }");
        let sim = Sim::new(start, 3, Weather::rough(), &config.text());
        let random = sim.random.fork();
        let calm_at = sim.executor.now_ms() + 6_000;
        let executor = sim.executor.clone();
        sim.origin(1, move |_| {
            let answer = Answer::bytes(random.below(20_000)).delay(random.below(100));
            match random.below(4) {
                _ if executor.now_ms() >= calm_at => Answer::bytes(10).delay(400),
                0 => Answer::silence(),
                1 => answer.cut(random.below(10_000), Ending::Reset),
                _ => answer,
            }
        });
        for _ in 0..6 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                while client.now_ms() < calm_at - 1_000 {
                    let mut caller = client.connect().await.unwrap();
                    let begun = caller.begin(&Ask::get("/a")).await.unwrap();
                    if random.one_in(3) {
                        client.pause(random.ms(0..300)).await;
                        caller.leave(&begun);
                    } else {
                        let _ = caller.finish(&begun).await;
                    }
                }
            });
        }
        let (client, mut callers) = (sim.client(), Vec::new());
        sim.run_for(Duration::from_secs(10));
        sim.network.set_weather(Weather::fair());
        let served = std::rc::Rc::new(std::cell::Cell::new(0));
        for _ in 0..5 {
            callers.push((client.clone(), std::rc::Rc::clone(&served)));
        }
        for (client, served) in callers {
            sim.act(async move {
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                assert!(matches!(reply.status, 200 | 429), "{reply:?}");
                served.set(served.get() + u32::from(reply.status == 200));
            });
        }
        sim.run();
        assert_eq!(served.get(), 3, "admitted at once");
        sim.finish();
    });
}

/// However many workers ask: no more than the burst and the rate get through, and no fewer.
#[test]
fn a_rate_that_workers_share() {
    each_seed("limits::a_rate_that_workers_share", SEEDS / 2, |start| {
        let config = Config::to(&[1])
            .top("rate_limits: { rates: [{ name: all, rate: 50/s, burst: 20 }] }")
            .route("rate_limits: [all]");
        let sim = Sim::new(start, 3, Weather::fair(), &config.text());
        let seen = std::rc::Rc::new(std::cell::Cell::new(0_u64));
        let counted = std::rc::Rc::clone(&seen);
        sim.origin(1, move |_| {
            counted.set(counted.get() + 1);
            Answer::bytes(10)
        });
        let end = sim.executor.now_ms() + 4_000;
        for _ in 0..6 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                while client.now_ms() < end {
                    caller.ask(&Ask::get("/a")).await.unwrap();
                    client.pause(random.ms(0..20)).await;
                }
            });
        }
        sim.run();
        // 20 at once and 50 in each of four seconds; leases make the last tokens travel for some milliseconds.
        assert!((200..=222).contains(&seen.get()), "{} got through", seen.get());
        sim.finish();
    });
}
