//! A slow answer is hedged, the first one counts, and nothing of the other is left.

use std::time::Duration;

use ringway_tests::sim::client::{Ask, Body};
use ringway_tests::sim::ledger::Repeats;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{Answer, Ending};
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

#[test]
fn the_faster_one_answers() {
    each_seed("hedges::the_faster_one_answers", SEEDS, |start| {
        let config = Config::to(&[1, 2])
            .route("hedge: { after: 100ms }")
            .upstream("retry_budget: { percent: 100, min_per_second: 100 }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::bytes(30_000).delay(2_000));
        sim.origin(2, |_| Answer::bytes(30_000).delay(20));
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            for _ in 0..6 {
                let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.status, 200);
                assert!(reply.took < Duration::from_millis(180), "{reply:?}");
            }
            // What may have an effect is sent once.
            for _ in 0..4 {
                let reply = caller.ask(&Ask::post("/a", Body::Length(10))).await.unwrap();
                assert_eq!(reply.status, 200);
            }
        });
        sim.finish();
    });
}

#[test]
fn whatever_becomes_of_the_two() {
    each_seed("hedges::whatever_becomes_of_the_two", 3 * SEEDS, |start| {
        let config = Config::to(&[1, 2, 3])
            .route("hedge: { after: 50ms }")
            .route("timeouts: { response_head: 1s, body_idle: 1s }")
            .route("retry: { on: [connect_failure, reset, gateway_error] }")
            .upstream("retry_budget: { percent: 100, min_per_second: 100 }");
        let sim = Sim::new(start, 2, Weather::rough(), &config.text());
        sim.ledger.repeats.set(Repeats { idempotent: 6, other: 1 });
        for port in [1, 2] {
            let random = sim.random.fork();
            sim.origin(port, move |_| {
                let answer = Answer::bytes(random.below(30_000)).delay(random.below(150));
                match random.below(6) {
                    0 => Answer::silence(),
                    1 => answer.cut(0, Ending::Reset),
                    2 => answer.cut(0, Ending::Fin),
                    3 => answer.cut(40, Ending::Silence),
                    _ => answer,
                }
            });
        }
        sim.deaf_origin(3);
        for _ in 0..5 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                for _ in 0..5 {
                    let Ok(mut caller) = client.connect().await else { continue };
                    let begun = caller.begin(&Ask::get("/a")).await.unwrap();
                    if random.one_in(4) {
                        // Gone, at any moment of it.
                        client.pause(random.ms(0..300)).await;
                        caller.leave(&begun);
                        continue;
                    }
                    let _ = caller.finish(&begun).await;
                }
            });
        }
        sim.finish();
    });
}
