//! Several workers: connections are handed to whoever has fewest, and idle upstream connections are lent.

use std::time::Duration;

use ringway_tests::sim::client::Ask;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{After, Answer};
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

/// Connections that cross are served as others are, and none is lost on its way.
#[test]
fn connections_that_cross() {
    each_seed("workers::connections_that_cross", SEEDS, |start| {
        let sim = Sim::new(start, 4, Weather::rough(), &Config::to(&[1]).text());
        sim.favour(start.seed as usize % 4);
        sim.origin(1, |_| Answer::bytes(3_000));
        let client = sim.client();
        for _ in 0..25 {
            let client = client.clone();
            let random = sim.random.fork();
            sim.act(async move {
                client.pause(random.ms(0..1_000)).await;
                let mut caller = client.connect().await.unwrap();
                for _ in 0..3 {
                    let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                    assert_eq!(reply.status, 200);
                    client.pause(random.ms(0..2_000)).await;
                }
            });
        }
        sim.run();
        assert!(sim.crossing.taken() > 0, "no connection has crossed");
        sim.finish();
    });
}

/// A worker that has upstream connections to spare lends them, and those that died meanwhile harm nobody.
#[test]
fn upstream_connections_that_are_lent() {
    each_seed("workers::upstream_connections_that_are_lent", 2 * SEEDS, |start| {
        let config = Config::to(&[1]).upstream("timeouts: { upstream_idle: 20s }");
        let sim = Sim::new(start, 3, Weather::fair(), &config.text());
        let random = sim.random.fork();
        sim.origin(1, move |_| {
            let after = match random.below(4) {
                0 => After::CloseIn(random.ms(0..6_000)),
                1 => After::Stray(random.ms(0..6_000)),
                _ => After::Keep,
            };
            Answer::bytes(500).delay(20).after(after)
        });
        for round in 0..6_u64 {
            // A crowd at once, whose connections are then too many, and single ones later, elsewhere.
            for _ in 0..if round % 2 == 0 { 12 } else { 2 } {
                let client = sim.client();
                sim.act(async move {
                    client.pause(Duration::from_millis(round * 4_000)).await;
                    let reply = client.ask(&Ask::get("/a")).await.unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                });
            }
        }
        sim.run();
        assert!(sim.crossing.taken() > 0, "no connection has crossed");
        sim.finish();
    });
}
