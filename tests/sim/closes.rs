//! Ends of connections: half-closed by clients, with bytes behind an answer, in the middle of anything.

use std::time::Duration;

use ringway_tests::sim::client::{Ask, Body, half_close};
use ringway_tests::sim::conversation::Cut;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{After, Answer, Ending, Framed};
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

/// A client that has said all that it will say, and waits: it gets its answer.
#[test]
fn a_client_that_half_closes() {
    each_seed("closes::a_client_that_half_closes", SEEDS, |start| {
        let config = Config::to(&[1]);
        let sim = Sim::new(start, 2, Weather::rough(), &config.text());
        sim.origin(1, |_| Answer::bytes(50_000).delay(200));
        for nth in 0..4 {
            let client = sim.client();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                let ask = if nth % 2 == 0 { Ask::get("/a") } else { Ask::post("/a", Body::Chunked(30_000)) };
                let begun = caller.begin(&ask).await.unwrap();
                caller.send_body(&begun, 0..ask.body.bytes()).await.unwrap();
                half_close(&caller);
                let reply = caller.answer(&begun).await.unwrap();
                assert_eq!((reply.status, reply.bytes), (200, 50_000), "{reply:?}");
                caller.expect_end().await.unwrap();
            });
        }
        sim.finish();
    });
}

/// The same, however long the answer takes. A client that has gone is another thing, which a write or a reset tells.
#[test]
fn a_client_that_half_closes_and_waits() {
    each_seed("closes::a_client_that_half_closes_and_waits", SEEDS, |start| {
        let config = Config::to(&[1]);
        let sim = Sim::new(start, 1, Weather::rough(), &config.text());
        sim.origin(1, |_| Answer::bytes(50_000).delay(9_000));
        for nth in 0..4 {
            let client = sim.client();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                let ask = if nth % 2 == 0 { Ask::get("/a") } else { Ask::post("/a", Body::Chunked(30_000)) };
                let begun = caller.begin(&ask).await.unwrap();
                caller.send_body(&begun, 0..ask.body.bytes()).await.unwrap();
                half_close(&caller);
                let reply = caller.answer(&begun).await.unwrap();
                assert_eq!((reply.status, reply.bytes), (200, 50_000), "{reply:?}");
            });
        }
        sim.finish();
    });
}

/// A body that was cut never looks whole, however it was framed and wherever it was cut.
#[test]
fn a_cut_body_never_looks_whole() {
    each_seed("closes::a_cut_body_never_looks_whole", 2 * SEEDS, |start| {
        let config = Config::to(&[1]).route("timeouts: { body_idle: 500ms, response_head: 5s }");
        let sim = Sim::new(start, 1, Weather::rough(), &config.text());
        let random = sim.random.fork();
        sim.origin(1, move |_| {
            let framing = *random.pick(&[Framed::Length, Framed::Chunked, Framed::UntilClose]);
            let endings = [Ending::Reset, Ending::Silence, Ending::Fin];
            // The end of the connection is the end of a body that says nothing else.
            let how = *random.pick(if framing == Framed::UntilClose { &endings[..2] } else { &endings[..] });
            Answer::bytes(40_000).framing(framing).cut(120 + random.below(39_000), how)
        });
        for _ in 0..4 {
            let client = sim.client();
            sim.act(async move {
                for _ in 0..5 {
                    match client.ask(&Ask::get("/a")).await {
                        Err(Cut::Reset | Cut::Truncated) => {}
                        // A reset overtakes what is on the way: nothing of the answer may have come.
                        Ok(reply) => assert_eq!(reply.status, 502, "{reply:?}"),
                        Err(cut) => panic!("{cut:?}"),
                    }
                }
            });
        }
        sim.finish();
    });
}

/// Uploads that their clients cut never look whole to an origin: the origins of the simulation check that.
#[test]
fn clients_that_leave_at_any_moment() {
    each_seed("closes::clients_that_leave_at_any_moment", 3 * SEEDS, |start| {
        let config = Config::to(&[1, 2]).route("timeouts: { body_idle: 2s, response_head: 2s }");
        let sim = Sim::new(start, 2, Weather::rough(), &config.text());
        for port in [1, 2] {
            let random = sim.random.fork();
            sim.origin(port, move |_| Answer::any(&random, 0));
        }
        for _ in 0..8 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                for _ in 0..4 {
                    let mut caller = client.connect().await.unwrap();
                    let ask = Ask::any(&random, &["/a"]);
                    let begun = caller.begin(&ask).await.unwrap();
                    let bytes = ask.body.bytes();
                    let part = if bytes > 0 { random.below(bytes) } else { 0 };
                    let _ = caller.send_body(&begun, 0..part).await;
                    client.pause(random.ms(0..600)).await;
                    caller.leave(&begun);
                    if random.one_in(2) {
                        ringway::net::stream::Transport::abort_on_close(caller.end());
                    }
                }
            });
        }
        sim.finish();
    });
}

/// Idle upstream connections that their origins close are never the reason that a client is told of a failure.
#[test]
fn idle_upstream_connections_that_close() {
    each_seed("closes::idle_upstream_connections_that_close", SEEDS, |start| {
        let sim = Sim::new(start, 2, Weather::fair(), &Config::to(&[1]).text());
        let random = sim.random.fork();
        sim.origin(1, move |_| Answer::bytes(10).after(After::CloseIn(random.ms(0..300))));
        for _ in 0..3 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                for _ in 0..20 {
                    client.pause(random.ms(1..800)).await;
                    let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                }
            });
        }
        sim.finish();
    });
}

/// A response that nobody asked for belongs to nobody, however soon after the one before it comes.
#[test]
fn stray_responses() {
    each_seed("closes::stray_responses", 2 * SEEDS, |start| {
        let workers = 1 + start.seed as usize % 2;
        let sim = Sim::new(start, workers, Weather::fair(), &Config::to(&[1]).text());
        let random = sim.random.fork();
        sim.origin(1, move |_| Answer::bytes(10).after(After::Stray(random.ms(0..400))));
        for _ in 0..4 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                for nth in 0..20 {
                    client.pause(random.ms(0..300)).await;
                    let ask = if nth % 3 == 0 { Ask::post("/a", Body::Length(10)) } else { Ask::get("/a") };
                    let reply = caller.ask(&ask).await.unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                }
            });
        }
        sim.finish();
    });
}

/// Requests that come before the answer to the one before, in one piece or many, are answered in order.
#[test]
fn pipelined_requests() {
    each_seed("closes::pipelined_requests", SEEDS, |start| {
        let sim = Sim::new(start, 1, Weather::rough(), &Config::to(&[1]).text());
        let random = sim.random.fork();
        sim.origin(1, move |_| Answer::bytes(random.below(20_000)).delay(random.below(30)));
        for _ in 0..3 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                let mut bytes = Vec::new();
                let begun: Vec<_> = (0..8)
                    .map(|_| {
                        let ask = Ask::get("/a");
                        let begun = caller.enter(&ask);
                        bytes.extend_from_slice(
                            ringway_tests::sim::client::Caller::head(&ask, begun.tag).as_bytes(),
                        );
                        begun
                    })
                    .collect();
                caller.talk.send(&bytes).await.unwrap();
                if random.one_in(2) {
                    half_close(&caller);
                }
                for begun in &begun {
                    let reply = caller.answer(begun).await.unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                }
                client.pause(Duration::from_millis(5)).await;
            });
        }
        sim.finish();
    });
}

/// What a client held that has gone is free at once, not when somebody happens to look.
#[test]
fn a_client_that_goes_frees_its_place_at_once() {
    each_seed("closes::a_client_that_goes_frees_its_place_at_once", SEEDS, |start| {
        let config = Config::to(&[1])
            .top("rate_limits: { in_flight: [{ name: one, max: 1 }] }")
            .route("in_flight_limits: [one]");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |asked| {
            if asked.head.start_line.contains("slow") { Answer::silence() } else { Answer::bytes(10) }
        });
        let (first, second) = (sim.client(), sim.client());
        sim.act(async move {
            for wait_ms in [1, 10, 24, 100, 300] {
                let mut caller = first.connect().await.unwrap();
                let begun = caller.begin(&Ask::get("/slow")).await.unwrap();
                first.pause(Duration::from_millis(wait_ms)).await;
                ringway::net::stream::Transport::abort_on_close(caller.end());
                caller.leave(&begun);
                drop(caller);
                second.pause(Duration::from_millis(40)).await;
                let reply = second.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.status, 200, "left after {wait_ms} ms: {reply:?}");
            }
        });
        sim.finish();
    });
}
