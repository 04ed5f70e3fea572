//! Copies: whatever becomes of a mirror, the client's own exchange is what it would be without, and nothing is left.

use std::time::Duration;

use ringway_tests::sim::client::{Ask, Body};
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::Answer;
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 10;

fn config(port: u16) -> Config {
    Config::to(&[1])
        .and_upstream(&format!(
            "{{ name: shadow, endpoints: [\"http://10.0.1.1:{port}\"], timeouts: {{ connect: 1s }} }}"
        ))
        .route("mirrors: [{ upstream: shadow, timeout: 2s, body_bytes: 64KiB }]")
}

/// In orderly times each request is copied once, with its body as it was.
#[test]
fn each_request_once() {
    each_seed("mirrors::each_request_once", SEEDS, |start| {
        let sim = Sim::new(start, 2, Weather::rough(), &config(2).text());
        sim.origin(1, |_| Answer::bytes(2_000));
        sim.origin(2, |asked| {
            assert!(asked.is_copy);
            Answer::bytes(30_000)
        });
        for _ in 0..4 {
            let client = sim.client();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                for ask in [
                    Ask::get("/a"),
                    Ask::post("/a", Body::Length(9_000)),
                    Ask::post("/a", Body::Chunked(30_000)),
                ] {
                    let reply = caller.ask(&ask).await.unwrap();
                    assert_eq!(reply.status, 200);
                    client.pause(Duration::from_secs(3)).await;
                    assert_eq!(client.copies(reply.tag), 1, "{} {}", ask.method, reply.tag);
                }
            });
        }
        sim.finish();
    });
}

/// A mirror that fails in every way there is.
#[test]
fn mirrors_that_fail() {
    each_seed("mirrors::mirrors_that_fail", 2 * SEEDS, |start| {
        // Nobody listens at 3, and nobody answers at 4.
        let port = 2 + (start.seed % 3) as u16;
        let sim = Sim::new(start, 2, Weather::rough(), &config(port).text());
        sim.origin(1, |_| Answer::bytes(2_000).delay(10));
        let random = sim.random.fork();
        sim.origin(2, move |_| Answer::any(&random, 2));
        sim.deaf_origin(4);
        for _ in 0..5 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                for _ in 0..6 {
                    let ask = Ask::any(&random, &["/a"]);
                    let reply = caller.ask(&ask).await.unwrap();
                    assert_eq!(reply.status, 200, "{reply:?}");
                }
                // And one whose client leaves.
                let begun = caller.begin(&Ask::post("/a", Body::Length(50_000))).await.unwrap();
                let _ = caller.send_body(&begun, 0..random.below(50_000)).await;
                caller.leave(&begun);
            });
        }
        sim.finish();
    });
}
