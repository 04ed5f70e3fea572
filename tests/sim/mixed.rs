//! Everything at once, at random: the configuration, what clients and origins do, the network, reloads and the drain.

use std::time::Duration;

use ringway_tests::sim::client::{Ask, Client, half_close};
use ringway_tests::sim::ledger::Repeats;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::Answer;
use ringway_tests::sim::random::Random;
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

/// With the other scenarios, whose seeds are about 400, these make a thousand.
const SEEDS: u64 = 1_000;

#[test]
fn everything_at_once() {
    each_seed("mixed::everything_at_once", SEEDS, |start| {
        let random = Random::new(start.seed ^ 0xa5a5);
        let weather = match random.below(4) {
            0 => Weather::fair(),
            1 | 2 => Weather::rough(),
            _ => Weather::stormy(),
        };
        let workers = 1 + random.below(3) as usize;
        // What does not change with a reload, so that what must hold is known.
        let methods = *random.pick(&["idempotent", "idempotent", "any"]);
        let hedges = random.one_in(4);
        let sim = Sim::new(start, workers, weather, &config(&random, methods, hedges).text());
        let sent = if hedges { 12 } else { 6 };
        sim.ledger.repeats.set(Repeats { idempotent: sent, other: if methods == "any" { sent } else { 1 } });
        let harm = *random.pick(&[0, 20, 5]);
        for port in 1..=4 {
            let random = random.fork();
            // One of them may not be there.
            if port < 4 || random.one_in(2) {
                sim.origin(port, move |_| Answer::any(&random, harm));
            } else if random.one_in(2) {
                sim.deaf_origin(port);
            }
        }
        let shadow = random.fork();
        sim.origin(5, move |_| Answer::any(&shadow, harm));
        for _ in 0..3 + random.below(6) {
            let (client, random) = (sim.client(), random.fork());
            sim.act(async move {
                client.pause(random.ms(0..2_000)).await;
                for _ in 0..=random.below(3) {
                    visit(&client, &random).await;
                }
            });
        }
        for _ in 0..random.below(4) {
            sim.run_for(random.ms(0..1_500));
            sim.reload(&config(&random, methods, hedges).text());
        }
        if random.one_in(3) {
            sim.run_for(random.ms(0..4_000));
            sim.drain();
        }
        sim.finish();
    });
}

/// One connection of a client, with some requests.
async fn visit(client: &Client, random: &Random) {
    let Ok(mut caller) = client.connect().await else { return };
    if random.one_in(6) {
        caller.talk.slow_read = Some((1 + random.below(3_000) as usize, random.ms(0..20)));
    }
    if random.one_in(6) {
        caller.talk.slow_write = Some((1 + random.below(3_000) as usize, random.ms(0..20)));
    }
    for _ in 0..=random.below(6) {
        client.pause(random.ms(0..400)).await;
        let ask = Ask::any(random, &["/a", "/b/c"]);
        let Ok(begun) = caller.begin(&ask).await else { return };
        match random.below(30) {
            0 => {
                // Gone in the middle of something.
                let _ = caller.send_body(&begun, 0..random.below(ask.body.bytes() + 1)).await;
                client.pause(random.ms(0..1_500)).await;
                return caller.leave(&begun);
            }
            1 => {
                // Stops in the middle of its request, and looks later.
                let _ = caller.send_body(&begun, 0..ask.body.bytes() / 2).await;
                client.pause(random.ms(0..6_000)).await;
                return caller.leave(&begun);
            }
            2 => {
                if caller.send_body(&begun, 0..ask.body.bytes()).await.is_ok() {
                    half_close(&caller);
                }
                let _ = caller.answer(&begun).await;
                return;
            }
            _ => match caller.finish(&begun).await {
                Ok(reply) if reply.keeps => {}
                _ => return,
            },
        }
    }
}

fn config(random: &Random, methods: &str, hedges: bool) -> Config {
    let mut ports: Vec<u16> = (1..=4).filter(|_| random.one_in(2)).collect();
    if ports.is_empty() {
        ports.push(1);
    }
    let mut config = Config::to(&ports)
        .top("timeouts: { request_head: 3s, keep_alive_idle: 6s, connect: 1s, upstream_idle: 4s, response_head: 2s, body_idle: 2s }")
        .listener(&format!("connections_max: {}", 2 + random.below(20)))
        .upstream(&format!("connections_max: {}", 1 + random.below(6)))
        .upstream(&format!("idle_connections_max: {}", 1 + random.below(4)))
        .upstream(&format!("pending_max: {}", 1 + random.below(20)))
        .upstream(&format!("balance: {}", random.pick(&["round_robin", "random", "least_requests", "peak_ewma"])))
        .upstream("retry_budget: { percent: 100, min_per_second: 100 }");
    if random.one_in(3) {
        config = config.top("limits: { memory_per_worker: 1MiB }");
    }
    if random.one_in(4) {
        config = config.upstream("breaker: { requests_min: 5, window: 2s, rejecting: 300ms, probes: 1 }");
    }
    if random.one_in(5) {
        config = config.upstream("adaptive_concurrency: { min: 1, max: 20, initial: 4 }");
    }
    if random.one_in(5) {
        config = config.upstream("requests_max: 4");
    }
    if random.one_in(5) {
        config = config.upstream("outlier_detection: { base_ejection_time: 1s, interval: 1s }");
    }
    if random.one_in(2) || methods == "any" {
        let per_try = if random.one_in(3) { ", per_try_timeout: 500ms" } else { "" };
        config = config.route(&format!(
            "retry: {{ on: [connect_failure, refused_stream, reset, per_try_timeout, 5xx], attempts: {}, methods: {methods}, body_bytes: {}KiB{per_try} }}",
            1 + random.below(5),
            1 + random.below(64)
        ));
    }
    if hedges {
        config = config.route(&format!("hedge: {{ after: {}ms }}", 20 + random.below(300)));
    }
    if random.one_in(3) {
        config = config.route("timeouts: { request: 4s }");
    }
    if random.one_in(4) {
        config = config
            .and_upstream("{ name: shadow, endpoints: [\"http://10.0.1.1:5\"] }")
            .route("mirrors: [{ upstream: shadow, timeout: 1s, in_flight_max: 3, body_bytes: 20KiB }]");
    }
    if random.one_in(5) {
        config = config
            .top("rate_limits: { in_flight: [{ name: few, max: 4 }], rates: [{ name: all, rate: 20/s, burst: 10 }] }")
            .route("in_flight_limits: [few]")
            .route("rate_limits: [all]");
    }
    if random.one_in(6) {
        config = config
            .route("fault: { delay: { percent: 30, duration: 700ms }, abort: { percent: 10, status: 503 } }");
    }
    config
}

/// The harness itself: two runs of a seed are the same, and two seeds are not.
#[test]
fn a_seed_is_a_run() {
    let pause = Duration::from_secs(1);
    each_seed("mixed::a_seed_is_a_run", 2, |start| {
        let sim = Sim::new(start, 2, Weather::rough(), &Config::to(&[1]).text());
        sim.origin(1, |_| Answer::bytes(10));
        let client = sim.client();
        sim.act(async move {
            client.ask(&Ask::get("/a")).await.unwrap();
            client.pause(pause).await;
        });
        sim.finish();
    });
}
