//! Configurations change while requests are under way: none is lost, and what has left is left alone.

use std::time::Duration;

use ringway_tests::sim::client::{Ask, Body};
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::Answer;
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

/// Endpoints come and go, and so do settings. Every request is answered by an origin.
#[test]
fn endpoints_come_and_go() {
    each_seed("reloads::endpoints_come_and_go", 2 * SEEDS, |start| {
        let sim = Sim::new(start, 3, Weather::rough(), &Config::to(&[1, 2]).text());
        for port in 1..=4 {
            let random = sim.random.fork();
            sim.origin(port, move |_| Answer::bytes(random.below(40_000)).delay(random.below(300)));
        }
        let end = sim.executor.now_ms() + 8_000;
        for _ in 0..8 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                while client.now_ms() < end {
                    let post = Ask::post("/a", Body::Length(random.below(50_000)));
                    let ask = if random.one_in(2) { Ask::get("/a") } else { post };
                    let reply = caller.ask(&ask).await.unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                    client.pause(random.ms(0..100)).await;
                }
            });
        }
        while sim.executor.now_ms() < end {
            sim.run_for(sim.random.ms(50..900));
            let mut ports: Vec<u16> = (1..=4).filter(|_| sim.random.one_in(2)).collect();
            if ports.is_empty() {
                ports.push(1 + sim.random.below(4) as u16);
            }
            let config = Config::to(&ports)
                .upstream(&format!("connections_max: {}", 8 + sim.random.below(20)))
                .upstream(&format!("idle_connections_max: {}", 1 + sim.random.below(9)))
                .upstream(&format!(
                    "balance: {}",
                    sim.random.pick(&["round_robin", "random", "least_requests"])
                ));
            sim.reload(&config.text());
        }
        sim.finish();
    });
}

/// A request goes on by the settings that it began with; the next one has the new ones. What waits for a connection to an
/// endpoint that has left does not wait for ever.
#[test]
fn whoever_waits_goes_on() {
    each_seed("reloads::whoever_waits_goes_on", SEEDS, |start| {
        let narrow = Config::to(&[1]).upstream("connections_max: 1").upstream("timeouts: { connect: 20s }");
        let sim = Sim::new(start, 1, Weather::fair(), &narrow.text());
        sim.origin(1, |_| Answer::bytes(10).delay(6_000));
        sim.origin(2, |_| Answer::bytes(10).delay(10));
        for nth in 0..4 {
            let client = sim.client();
            sim.act(async move {
                client.pause(Duration::from_millis(nth * 50)).await;
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.status, 200, "{reply:?}");
                // The first has the only connection; the others are called when there are other endpoints.
                let expected = if nth == 0 { 6_000..6_100 } else { 700..1_200 };
                let took = reply.took.as_millis() as u64;
                assert!(expected.contains(&took), "{nth} after {took} ms");
            });
        }
        sim.run_for(Duration::from_secs(1));
        sim.reload(&Config::to(&[2]).upstream("timeouts: { connect: 20s }").text());
        sim.finish();
    });
}
