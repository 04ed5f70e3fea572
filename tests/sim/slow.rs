//! Slow peers: they get what is theirs, at their pace, and hold up nobody else.

use std::time::Duration;

use ringway_tests::payload::Payload;
use ringway_tests::sim::client::{Ask, Body, Caller};
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{After, Answer, ReadBody};
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 5;

/// One byte at a time, both ways, beside others who are in a hurry.
#[test]
fn one_byte_at_a_time() {
    each_seed("slow::one_byte_at_a_time", SEEDS, |start| {
        let config = Config::to(&[1]).listener("timeouts: { request_head: 1m }");
        let sim = Sim::new(start, 1, Weather { window: 1_000..1_001, ..Weather::fair() }, &config.text());
        sim.origin(1, |_| Answer::bytes(1_500));
        for _ in 0..3 {
            let client = sim.client();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                caller.talk.slow_write = Some((1, Duration::from_millis(2)));
                caller.talk.slow_read = Some((1, Duration::from_millis(1)));
                let reply = caller.ask(&Ask::post("/a", Body::Length(300))).await.unwrap();
                assert_eq!((reply.status, reply.bytes), (200, 1_500));
            });
        }
        for _ in 0..3 {
            let client = sim.client();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                for _ in 0..20 {
                    let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                    assert!(reply.took < Duration::from_millis(20), "{reply:?}");
                    client.pause(Duration::from_millis(200)).await;
                }
            });
        }
        sim.finish();
    });
}

/// Clients that stop reading, or stop writing, are given up after a time, and nothing of theirs is kept.
#[test]
fn clients_that_stop() {
    each_seed("slow::clients_that_stop", 2 * SEEDS, |start| {
        let config = Config::to(&[1]).route("timeouts: { body_idle: 2s, response_head: 10s }");
        let sim = Sim::new(start, 2, Weather { window: 8_000..8_001, ..Weather::fair() }, &config.text());
        sim.origin(1, |_| Answer::bytes(500_000));
        for nth in 0..6 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                if nth % 2 == 0 {
                    let begun = caller.begin(&Ask::get("/a")).await.unwrap();
                    for _ in 0..random.below(5) {
                        caller.talk.fill().await.unwrap();
                    }
                    client.pause(Duration::from_secs(10)).await;
                    // It was cut meanwhile.
                    let ended = caller.answer(&begun).await;
                    assert!(ended.is_err(), "{ended:?}");
                } else {
                    let begun = caller.begin(&Ask::post("/a", Body::Length(100_000))).await.unwrap();
                    caller.send_body(&begun, 0..random.below(60_000)).await.unwrap();
                    client.pause(Duration::from_secs(10)).await;
                    let reply = caller.answer(&begun).await.unwrap();
                    assert_eq!(reply.reason.as_deref(), Some("request_body_timeout"));
                }
            });
        }
        sim.finish();
    });
}

/// Origins that answer before they have read the request, and read it or do not.
#[test]
fn origins_that_answer_early() {
    each_seed("slow::origins_that_answer_early", 3 * SEEDS, |start| {
        // What came of the request with its head is written before anybody looks for an answer; so much fits.
        let weather = Weather { window: 20_000..70_000, ..Weather::rough() };
        let sim = Sim::new(start, 2, weather, &Config::to(&[1, 2]).text());
        for port in [1, 2] {
            let random = sim.random.fork();
            sim.origin(port, move |_| {
                let reading = *random.pick(&[ReadBody::After, ReadBody::Never]);
                Answer::bytes(random.below(30_000)).reading(reading)
            });
        }
        for _ in 0..6 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                for _ in 0..4 {
                    let mut caller = client.connect().await.unwrap();
                    let body = random.below(100_000);
                    let ask = Ask::post(
                        "/a",
                        if random.one_in(2) { Body::Length(body) } else { Body::Chunked(body) },
                    );
                    // An origin that closes without reading resets the connection, which may destroy its own answer.
                    if let Ok(reply) = caller.ask(&ask).await {
                        assert!(matches!(reply.status, 200 | 502), "{reply:?}");
                    }
                }
            });
        }
        sim.finish();
    });
}

/// An answer is seen while the request is still being written, even if the origin takes hardly any of it.
#[test]
fn origins_that_answer_and_do_not_read() {
    each_seed("slow::origins_that_answer_and_do_not_read", SEEDS, |start| {
        let sim = Sim::new(start, 1, Weather::fair(), &Config::to(&[1]).text());
        sim.origin(1, |_| {
            let answer = Answer::status(413).reading(ReadBody::Never);
            answer.after(After::CloseIn(Duration::from_secs(60)))
        });
        let client = sim.client();
        let network = std::rc::Rc::clone(&sim.network);
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            // From here on, windows are small.
            network.set_weather(Weather { window: 1_000..1_001, ..Weather::fair() });
            let begun = caller.enter(&Ask::post("/a", Body::Length(12_000)));
            let mut request = Caller::head(&Ask::post("/a", Body::Length(12_000)), begun.tag).into_bytes();
            request.extend_from_slice(&Payload::new(begun.tag.request_seed(), 12_000).to_vec());
            caller.talk.send(&request).await.unwrap();
            let reply = caller.answer(&begun).await.unwrap();
            assert_eq!(reply.status, 413, "{reply:?}");
            assert!(reply.took < Duration::from_secs(1), "{reply:?}");
        });
        sim.finish();
    });
}
