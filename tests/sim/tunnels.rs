//! Tunnels, by CONNECT and by an upgrade: bytes both ways, each end by itself, and nothing is left.

use std::io::ErrorKind;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ringway_tests::payload::Payload;
use ringway_tests::sim::conversation::Conversation;
use ringway_tests::sim::executor::Executor;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::random::Random;
use ringway_tests::sim::{Sim, each_seed};

use ringway::base::race::{First, race};
use ringway::net::stream::Transport;

use crate::Config;

const SEEDS: u64 = 20;

/// One end of a tunnel: sends its own stream, its length first, and then its end; and hears the other's, all of it.
async fn talk_and_hear(
    talk: &mut Conversation,
    own: Payload,
    other_seed: u64,
    random: &Random,
    executor: &Executor,
) {
    let ahead = std::mem::take(&mut talk.ahead);
    let talk = &*talk;
    let mut speaking = pin!(speak(talk, own, random, executor));
    let mut hearing = pin!(hear(talk, ahead, other_seed));
    match race(speaking.as_mut(), hearing.as_mut()).await {
        First::Left(()) => hearing.await,
        First::Right(()) => speaking.await,
    }
}

async fn speak(talk: &Conversation, own: Payload, random: &Random, executor: &Executor) {
    talk.send(&own.bytes.to_be_bytes()).await.unwrap();
    let mut at = 0;
    while at < own.bytes {
        let n = (1 + random.below(9_000)).min(own.bytes - at);
        let mut piece = vec![0; n as usize];
        own.fill(at, &mut piece);
        talk.send(&piece).await.unwrap();
        at += n;
        if random.one_in(3) {
            executor.pause(random.ms(0..300)).await;
        }
    }
    talk.end.shutdown_write();
}

async fn hear(talk: &Conversation, mut heard: Vec<u8>, seed: u64) {
    let mut piece = vec![0; 4_096];
    loop {
        match talk.end.try_read(&mut piece) {
            Ok(0) => break,
            Ok(n) => heard.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => talk.end.readable().await.unwrap(),
            Err(error) => panic!("stream {seed}: {error}"),
        }
    }
    let (length, stream) = heard.split_at(8);
    let mut checker = Payload::new(seed, u64::from_be_bytes(length.try_into().unwrap())).checker();
    checker.feed(stream);
    checker.verdict().unwrap_or_else(|wrong| panic!("stream {seed}: {wrong}"));
}

/// Both ends talk at once, and each closes its half when it has said all.
#[test]
fn both_ways_and_each_end_by_itself() {
    each_seed("tunnels::both_ways_and_each_end_by_itself", SEEDS, |start| {
        let config = Config::to(&[1]).route("connect: true").route("timeouts: { tunnel_idle: 5s }");
        let sim = Sim::new(start, 2, Weather { window: 3_000..60_000, ..Weather::rough() }, &config.text());
        let (random, executor) = (Rc::new(sim.random.fork()), sim.executor.clone());
        sim.raw_origin(1, move |mut talk| {
            let (random, executor) = (Rc::clone(&random), executor.clone());
            async move {
                // The client says which stream it is: in the path, or in the first bytes.
                while talk.ahead.len() < 4 {
                    assert_ne!(talk.fill().await.unwrap(), 0, "the tunnel ended before it began");
                }
                let number = if talk.ahead.starts_with(b"GET ") {
                    let head = talk.head().await.unwrap();
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
                    talk.send(answer.as_bytes()).await.unwrap();
                    head.parts().1.trim_start_matches('/').parse().unwrap()
                } else {
                    let number: Vec<u8> = talk.ahead.drain(..4).collect();
                    u64::from(u32::from_be_bytes(number.try_into().unwrap()))
                };
                let own = Payload::new(number * 2 + 1, random.below(60_000));
                talk_and_hear(&mut talk, own, number * 2, &random, &executor).await;
            }
        });
        for number in 0..5_u64 {
            let (client, executor) = (sim.client(), sim.executor.clone());
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                let talk = &mut caller.talk;
                if number % 2 == 0 {
                    talk.send(b"CONNECT sim:1 HTTP/1.1\r\nHost: sim:1\r\n\r\n").await.unwrap();
                    assert_eq!(talk.head().await.unwrap().parts().1, "200");
                    talk.send(&u32::try_from(number).unwrap().to_be_bytes()).await.unwrap();
                } else {
                    let ask = format!(
                        "GET /{number} HTTP/1.1\r\nHost: sim\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
                    );
                    talk.send(ask.as_bytes()).await.unwrap();
                    assert_eq!(talk.head().await.unwrap().parts().1, "101");
                }
                let own = Payload::new(number * 2, random.below(60_000));
                talk_and_hear(talk, own, number * 2 + 1, &random, &executor).await;
            });
        }
        sim.finish();
    });
}

/// Tunnels that nobody uses any more end by themselves, and those that are cut take nothing along.
#[test]
fn silence_and_resets() {
    each_seed("tunnels::silence_and_resets", SEEDS, |start| {
        let config = Config::to(&[1]).route("connect: true").route("timeouts: { tunnel_idle: 3s }");
        let sim = Sim::new(start, 2, Weather::rough(), &config.text());
        let (random, executor) = (Rc::new(sim.random.fork()), sim.executor.clone());
        sim.raw_origin(1, move |mut talk| {
            let (random, executor) = (Rc::clone(&random), executor.clone());
            async move {
                let _ = talk.send(&vec![7; random.below(30_000) as usize]).await;
                match random.below(3) {
                    0 => {
                        executor.pause(random.ms(0..2_000)).await;
                        talk.end.abort_on_close();
                    }
                    1 => executor.pause(Duration::from_secs(60)).await,
                    _ => drop(talk.closed().await),
                }
            }
        });
        for _ in 0..6 {
            let client = sim.client();
            let random = sim.random.fork();
            sim.act(async move {
                let mut caller = client.connect().await.unwrap();
                let talk = &mut caller.talk;
                talk.send(b"CONNECT sim:1 HTTP/1.1\r\nHost: sim:1\r\n\r\n").await.unwrap();
                let Ok(head) = talk.head().await else { return };
                assert_eq!(head.parts().1, "200");
                let _ = talk.send(&vec![8; random.below(30_000) as usize]).await;
                match random.below(4) {
                    0 => talk.end.abort_on_close(),
                    1 => client.pause(random.ms(0..9_000)).await,
                    2 => {
                        talk.end.shutdown_write();
                        let _ = talk.closed().await;
                    }
                    _ => drop(talk.closed().await),
                }
            });
        }
        sim.finish();
    });
}

/// A tunnel is no request under way, but to a limit that counts tunnels.
#[test]
fn places_of_tunnels() {
    each_seed("tunnels::places_of_tunnels", SEEDS, |start| {
        for (tunnels, expected) in [("", 200), (", tunnels: true", 429)] {
            let config = Config::to(&[1])
                .top(&format!("rate_limits: {{ in_flight: [{{ name: one, max: 1{tunnels} }}] }}"))
                .route("in_flight_limits: [one]")
                .route("connect: true");
            let sim = Sim::new(start, 1, Weather::fair(), &config.text());
            sim.raw_origin(1, |mut talk| async move {
                let Ok(head) = talk.head().await else { return };
                if head.start_line.starts_with("GET") {
                    talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
                        .await
                        .unwrap();
                }
            });
            let client = sim.client();
            sim.act(async move {
                let mut tunnel = client.connect().await.unwrap();
                tunnel.talk.send(b"CONNECT sim:1 HTTP/1.1\r\nHost: sim:1\r\n\r\n").await.unwrap();
                assert_eq!(tunnel.talk.head().await.unwrap().parts().1, "200");
                let mut other = client.connect().await.unwrap();
                let get = b"GET / HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n";
                other.talk.send(get).await.unwrap();
                let status = other.talk.head().await.unwrap().parts().1.to_owned();
                assert_eq!(status, expected.to_string(), "beside a tunnel{tunnels}");
                // At its end the place is free in any case.
                drop(tunnel);
                client.pause(Duration::from_millis(100)).await;
                let mut last = client.connect().await.unwrap();
                last.talk.send(get).await.unwrap();
                assert_eq!(last.talk.head().await.unwrap().parts().1, "200");
            });
            sim.finish();
        }
    });
}
