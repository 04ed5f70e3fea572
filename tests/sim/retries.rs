//! What is tried again, what may not be, and how often.

use ringway_tests::sim::client::{Ask, Body};
use ringway_tests::sim::ledger::Repeats;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{After, Answer, Ending};
use ringway_tests::sim::{Sim, each_seed};
use std::time::Duration;

use crate::Config;

const SEEDS: u64 = 10;

/// Without any setting: what reached nobody, and nothing else.
#[test]
fn connections_that_are_refused() {
    each_seed("retries::connections_that_are_refused", SEEDS, |start| {
        let config = Config::to(&[1, 2, 3]);
        let sim = Sim::new(start, 2, Weather::rough(), &config.text());
        sim.ledger.repeats.set(Repeats { idempotent: 1, other: 1 });
        // Nobody listens at 1 and 3.
        sim.origin(2, |_| Answer::bytes(3_000));
        for _ in 0..5 {
            let client = sim.client();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                for ask in [
                    Ask::get("/a"),
                    Ask::post("/a", Body::Length(3_000)),
                    Ask::post("/a", Body::Chunked(40_000)),
                ] {
                    let reply = caller.ask(&ask).await.unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                }
            });
        }
        sim.finish();
    });
}

/// An origin that may have acted on a request gets it again only if that does no harm, and no more often than is said.
#[test]
fn resets_before_the_answer() {
    each_seed("retries::resets_before_the_answer", SEEDS, |start| {
        let config =
            Config::to(&[1, 2]).route("retry: { on: [connect_failure, reset, gateway_error], attempts: 3 }");
        let sim = Sim::new(start, 2, Weather::rough(), &config.text());
        sim.ledger.repeats.set(Repeats { idempotent: 4, other: 1 });
        sim.origin(1, |_| Answer::bytes(20).cut(0, Ending::Reset));
        sim.origin(2, |_| Answer::bytes(20_000));
        for _ in 0..5 {
            let client = sim.client();
            sim.act(async move {
                let random = ringway_tests::sim::random::Random::new(client.now_ms());
                for _ in 0..6 {
                    let ask = Ask::any(&random, &["/a"]);
                    let reply = client.ask(&ask).await.unwrap();
                    // What may be repeated is answered by the second origin at the latest.
                    if ask.method == "POST" {
                        assert!(matches!(reply.status, 200 | 502), "{reply:?}");
                    } else {
                        assert_eq!(reply.status, 200, "{reply:?}");
                    }
                }
            });
        }
        sim.finish();
    });
}

/// Bodies that are still coming are kept for another try, byte by byte as they were.
#[test]
fn bodies_are_sent_again() {
    each_seed("retries::bodies_are_sent_again", 2 * SEEDS, |start| {
        let config = Config::to(&[1, 2])
            .route("retry: { on: [reset, 5xx], methods: any, attempts: 4, body_bytes: 64KiB }");
        let sim = Sim::new(start, 1, Weather::rough(), &config.text());
        sim.ledger.repeats.set(Repeats { idempotent: 5, other: 5 });
        let random = sim.random.fork();
        for port in [1, 2] {
            let random = random.fork();
            sim.origin(port, move |_| match random.below(4) {
                0 => Answer::status(503),
                1 => Answer::bytes(10).cut(0, Ending::Reset),
                _ => Answer::bytes(10),
            });
        }
        for _ in 0..4 {
            let client = sim.client();
            sim.act(async move {
                for body in
                    [Body::Length(3_000), Body::Chunked(9_000), Body::Length(30_000), Body::Chunked(60_000)]
                {
                    let reply = client.ask(&Ask::post("/a", body)).await.unwrap();
                    assert!(matches!(reply.status, 200 | 502 | 503), "{reply:?}");
                }
            });
        }
        sim.finish();
    });
}

/// Origins close idle connections just as they are used: only who may be repeated is sent again, and nobody is told.
#[test]
fn connections_that_go_stale() {
    each_seed("retries::connections_that_go_stale", 2 * SEEDS, |start| {
        let config = Config::to(&[1]);
        let sim = Sim::new(start, 2, Weather { latency_us: 100..30_000, ..Weather::fair() }, &config.text());
        let random = sim.random.fork();
        sim.origin(1, move |_| Answer::bytes(700).after(After::CloseIn(random.ms(0..120))));
        for _ in 0..4 {
            let client = sim.client();
            sim.act(async move {
                let random = ringway_tests::sim::random::Random::new(client.now_ms());
                let mut caller = client.connect().await.unwrap();
                for nth in 0..12 {
                    client.pause(random.ms(0..150)).await;
                    let ask = if nth % 3 == 0 { Ask::post("/a", Body::Length(50)) } else { Ask::get("/a") };
                    let reply = caller.ask(&ask).await.unwrap();
                    if ask.method == "GET" {
                        assert_eq!(reply.status, 200, "{reply:?}");
                    } else {
                        assert!(matches!(reply.status, 200 | 502), "{reply:?}");
                    }
                    if !reply.keeps {
                        caller = client.connect().await.unwrap();
                    }
                }
            });
        }
        sim.finish();
    });
}

/// One try that is slow is given up for another.
#[test]
fn tries_that_take_too_long() {
    each_seed("retries::tries_that_take_too_long", SEEDS, |start| {
        let config = Config::to(&[1, 2])
            .route("retry: { on: [per_try_timeout], per_try_timeout: 300ms, attempts: 3 }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::silence());
        sim.origin(2, |_| Answer::bytes(100).delay(50));
        let client = sim.client();
        sim.act(async move {
            for _ in 0..6 {
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                assert!(reply.took < Duration::from_millis(450), "{reply:?}");
            }
        });
        sim.finish();
    });
}

/// A budget keeps a failing upstream from getting three times its load.
#[test]
fn the_budget() {
    each_seed("retries::the_budget", SEEDS, |start| {
        let config = Config::to(&[1, 2])
            .upstream("retry_budget: { percent: 10, min_per_second: 1 }")
            .route("retry: { on: [5xx], attempts: 3, backoff: 1ms, backoff_max: 1ms }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        let seen = std::rc::Rc::new(std::cell::Cell::new(0_u32));
        for port in [1, 2] {
            let seen = std::rc::Rc::clone(&seen);
            sim.origin(port, move |_| {
                seen.set(seen.get() + 1);
                Answer::status(500)
            });
        }
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            for _ in 0..200 {
                caller.ask(&Ask::get("/a")).await.unwrap();
            }
        });
        sim.run();
        // A tenth of 200, and one for each second, of which there is hardly one; ten at the start.
        assert!((200..240).contains(&seen.get()), "{} attempts", seen.get());
        sim.finish();
    });
}
