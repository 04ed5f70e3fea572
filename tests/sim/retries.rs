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

/// A further attempt takes nobody's turn: of two endpoints in rotation each has half of the first attempts, also if one of
/// them always fails.
#[test]
fn a_repeat_moves_no_rotation() {
    each_seed("retries::a_repeat_moves_no_rotation", 3, |start| {
        let config =
            Config::to(&[1, 2]).upstream("balance: round_robin").route("retry: { on: [5xx], attempts: 2 }");
        let config = config.upstream("retry_budget: { percent: 100, min_per_second: 1000 }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.ledger.repeats.set(Repeats { idempotent: 2, other: 1 });
        let asked = std::rc::Rc::new(std::cell::Cell::new([0, 0]));
        for (port, status) in [(1, 503), (2, 200)] {
            let asked = std::rc::Rc::clone(&asked);
            sim.origin(port, move |_| {
                let mut counts = asked.get();
                counts[usize::from(port) - 1] += 1;
                asked.set(counts);
                Answer::status(status)
            });
        }
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            for _ in 0..200 {
                let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
            }
        });
        sim.finish();
        assert_eq!(asked.get(), [100, 200], "first attempts of the one that fails; all of the other");
    });
}

/// One endpoint is ejected since it could not be reached, and is back; the other is gone. The first request that reaches
/// nobody at that goes to the ejected one, and what that answers ends its ejection.
#[test]
fn an_ejected_endpoint_is_better_than_none() {
    each_seed("retries::an_ejected_endpoint_is_better_than_none", SEEDS, |start| {
        let outliers = "outlier_detection: { consecutive_local_failures: 3, base_ejection_time: 1h, max_ejection_time: 1h }";
        let config = Config::to(&[1, 2]).upstream(outliers);
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(2, |_| Answer::bytes(100));
        let client = sim.client();
        let network = std::rc::Rc::clone(&sim.network);
        let first = sim.client();
        sim.act(async move {
            for _ in 0..20 {
                assert_eq!(first.ask(&Ask::get("/a")).await.unwrap().status, 200);
            }
        });
        sim.run();
        // The first is ejected by now. It comes back, and the second goes.
        sim.origin(1, |_| Answer::bytes(200));
        network.listen(ringway_tests::sim::origin_address(2), None);
        sim.act(async move {
            client.pause(Duration::from_secs(120)).await;
            for nth in 0..20 {
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!((reply.status, reply.bytes), (200, 200), "request {nth}: {reply:?}");
            }
        });
        sim.finish();
    });
}

/// What reached nobody is tried again, but the same endpoint once more at most, and never for longer than twice the time
/// that one connection may take.
#[test]
fn connecting_is_not_multiplied() {
    each_seed("retries::connecting_is_not_multiplied", 3, |start| {
        for ports in [&[1][..], &[1, 2, 3, 4, 5]] {
            let config =
                Config::to(ports).upstream("timeouts: { connect: 800ms }").route("retry: { attempts: 10 }");
            let sim = Sim::new(start, 1, Weather::fair(), &config.text());
            for port in ports {
                sim.deaf_origin(*port);
            }
            let client = sim.client();
            sim.act(async move {
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!((reply.status, reply.reason.as_deref()), (504, Some("upstream_connect_timeout")));
                let took = reply.took.as_millis();
                assert!((1_590..1_900).contains(&took), "{reply:?}");
            });
            sim.finish();
        }
        // Nobody listens: two tries, and no more.
        let config = Config::to(&[1]).route("retry: { attempts: 10, backoff: 1s, backoff_max: 1s }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        let client = sim.client();
        sim.act(async move {
            let reply = client.ask(&Ask::get("/a")).await.unwrap();
            assert_eq!((reply.status, reply.reason.as_deref()), (502, Some("upstream_connect_failed")));
            // The pauses are up to 1 s each.
            assert!(reply.took < Duration::from_millis(2_100), "{reply:?}");
        });
        sim.finish();
    });
}

/// A response that is cut in the middle of its head has not begun: its client has seen nothing. It is tried again as one of
/// which no byte came is, and no other way with a POST than with a GET but for what may be repeated at all.
#[test]
fn a_response_cut_in_its_head_has_not_begun() {
    each_seed("retries::a_response_cut_in_its_head_has_not_begun", SEEDS, |start| {
        for (retry, ending, cut) in [
            ("", Ending::Fin, 20),
            ("retry: { on: [reset], attempts: 2 }", Ending::Fin, 20),
            ("retry: { on: [reset], attempts: 2 }", Ending::Reset, 20),
            ("retry: { on: [reset], attempts: 2 }", Ending::Reset, 0),
            ("retry: { on: [reset], attempts: 2, methods: any }", Ending::Fin, 20),
        ] {
            let config = Config::to(&[1, 2]).route(retry);
            let sim = Sim::new(start, 1, Weather::fair(), &config.text());
            sim.ledger.repeats.set(Repeats { idempotent: 2, other: 2 });
            let client = sim.client();
            let attempts = std::rc::Rc::new(std::cell::Cell::new(0));
            for port in [1, 2] {
                let attempts = std::rc::Rc::clone(&attempts);
                sim.origin(port, move |_| {
                    attempts.set(attempts.get() + 1);
                    Answer::bytes(20).cut(cut, ending)
                });
            }
            let counted = std::rc::Rc::clone(&attempts);
            sim.act(async move {
                for ask in [Ask::get("/a"), Ask::post("/a", Body::Length(300))] {
                    counted.set(0);
                    let reply = client.ask(&ask).await.unwrap();
                    assert_eq!(reply.status, 502, "{reply:?}");
                    let may_repeat = ask.method == "GET" || retry.contains("any");
                    let expected = if retry.is_empty() || !may_repeat { 1 } else { 2 };
                    assert_eq!(counted.get(), expected, "{retry} {ending:?} {cut}: {reply:?}");
                }
            });
            sim.finish();
        }
    });
}
