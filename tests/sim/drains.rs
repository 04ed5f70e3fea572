//! A drain finishes what is under way, says so to whoever asks meanwhile, and ends.

use std::rc::Rc;
use std::time::Duration;

use ringway_tests::sim::client::{Ask, Body};
use ringway_tests::sim::conversation::Cut;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::Answer;
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

/// Nobody loses a request: who is under way is answered, and who was told that the connection ends asks elsewhere.
#[test]
fn nothing_under_way_is_lost() {
    each_seed("drains::nothing_under_way_is_lost", 2 * SEEDS, |start| {
        let config = Config::to(&[1, 2]);
        let sim = Sim::new(start, 3, Weather::rough(), &config.text());
        for port in [1, 2] {
            let random = sim.random.fork();
            sim.origin(port, move |_| Answer::bytes(random.below(60_000)).delay(random.below(800)));
        }
        for _ in 0..8 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                loop {
                    let post = Ask::post("/a", Body::Chunked(random.below(50_000)));
                    let ask = if random.one_in(2) { Ask::get("/a") } else { post };
                    match caller.ask(&ask).await {
                        Ok(reply) => {
                            assert_eq!(reply.status, 200, "{reply:?}");
                            if !reply.keeps {
                                return caller.expect_end().await.unwrap();
                            }
                        }
                        // It was idle for too long after the drain had begun, and the request crossed the end.
                        Err(Cut::Closed | Cut::Reset) => return,
                        Err(cut) => panic!("{cut:?}"),
                    }
                    client.pause(random.ms(0..700)).await;
                }
            });
        }
        sim.run_for(sim.random.ms(500..3_000));
        sim.drain();
        let began = sim.executor.now_ms();
        sim.run_until("the drain ends", || sim.has_drained());
        let took = sim.executor.now_ms() - began;
        assert!(took < 15_000, "the drain took {took} ms");
        sim.finish();
    });
}

/// Clients that are silent, or hold a connection without a request, do not hold the drain.
#[test]
fn idle_clients_do_not_hold_it() {
    each_seed("drains::idle_clients_do_not_hold_it", SEEDS, |start| {
        let config = Config::to(&[1]).listener("timeouts: { keep_alive_idle: 1h, request_head: 10s }");
        let sim = Sim::new(start, 2, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::bytes(10));
        for nth in 0..6 {
            let client = Rc::new(sim.client());
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                for _ in 0..nth % 3 {
                    caller.ask(&Ask::get("/a")).await.unwrap();
                }
                caller.expect_end().await.unwrap();
            });
        }
        sim.run_for(Duration::from_millis(500));
        sim.drain();
        let began = sim.executor.now_ms();
        sim.run_until("the drain ends", || sim.has_drained());
        let took = sim.executor.now_ms() - began;
        // A fresh connection without a byte waits for its head's time-out, others for a second.
        assert!(took < 10_500, "the drain took {took} ms");
        sim.finish();
    });
}
