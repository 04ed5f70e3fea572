//! Every wait has its time-out, fires when it is due, and says whose time it was.

use std::time::Duration;

use ringway_tests::sim::client::{Ask, Body, Caller, Reply};
use ringway_tests::sim::conversation::Cut;
use ringway_tests::sim::network::Weather;
use ringway_tests::sim::origin::{Answer, Ending, ReadBody};
use ringway_tests::sim::{Sim, each_seed};

use crate::Config;

const SEEDS: u64 = 8;

/// Fair weather delays by less than a millisecond a way; a deadline fires up to 20 ms late.
const SLACK_MS: u64 = 40;

/// Deadlines are in whole milliseconds of a clock that is read now and then.
const EARLY_MS: u64 = 2;

fn took(reply: &Reply, ms: u64) {
    let took = reply.took.as_millis() as u64;
    assert!((ms - EARLY_MS..ms + SLACK_MS).contains(&took), "after {took} ms: {reply:?}");
}

fn is_refused(reply: &Reply, status: u16, reason: &str) {
    assert_eq!((reply.status, reply.reason.as_deref()), (status, Some(reason)), "{reply:?}");
}

#[test]
fn a_head_that_does_not_come() {
    each_seed("timeouts::a_head_that_does_not_come", SEEDS, |start| {
        let config = Config::to(&[1]).listener("timeouts: { request_head: 700ms }");
        let sim = Sim::new(start, 2, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::bytes(10));
        let client = sim.client();
        sim.act(async move {
            // Not a byte: closed without a word.
            let mut silent = client.connect().await.unwrap();
            let before = client.now_ms();
            silent.expect_end().await.unwrap();
            let after = client.now_ms() - before;
            assert!((690..700 + SLACK_MS).contains(&after), "after {after} ms");
            // A part of one: told so. What comes in between does not move the deadline.
            let mut slow = client.connect().await.unwrap();
            let begun = slow.enter(&Ask::get("/slow"));
            for byte in b"GET /slow HTTP/1.1\r\nHos" {
                slow.talk.send(&[*byte]).await.unwrap();
                client.pause(Duration::from_millis(20)).await;
            }
            let reply = slow.answer(&begun).await.unwrap();
            is_refused(&reply, 408, "request_head_timeout");
            took(&reply, 680);
        });
        sim.finish();
    });
}

#[test]
fn an_idle_connection() {
    each_seed("timeouts::an_idle_connection", SEEDS, |start| {
        let config = Config::to(&[1]).listener("timeouts: { keep_alive_idle: 3s }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::bytes(10));
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            for _ in 0..3 {
                caller.ask(&Ask::get("/a")).await.unwrap();
                client.pause(Duration::from_millis(2_900)).await;
            }
            caller.ask(&Ask::get("/a")).await.unwrap();
            let before = client.now_ms();
            caller.expect_end().await.unwrap();
            let after = client.now_ms() - before;
            assert!((2_990..3_000 + SLACK_MS).contains(&after), "after {after} ms");
        });
        sim.finish();
    });
}

#[test]
fn an_origin_that_does_not_answer_a_connect() {
    each_seed("timeouts::an_origin_that_does_not_answer_a_connect", SEEDS, |start| {
        let config =
            Config::to(&[1]).upstream("timeouts: { connect: 800ms }").route("retry: { attempts: 2 }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.deaf_origin(1);
        let client = sim.client();
        sim.act(async move {
            let reply = client.ask(&Ask::get("/a")).await.unwrap();
            is_refused(&reply, 504, "upstream_connect_timeout");
            // Two tries, and a pause of up to 25 ms between them.
            let took = reply.took.as_millis() as u64;
            assert!((1_600 - 2 * EARLY_MS..1_625 + 2 * SLACK_MS).contains(&took), "{reply:?}");
        });
        sim.finish();
    });
}

#[test]
fn an_origin_that_does_not_answer() {
    each_seed("timeouts::an_origin_that_does_not_answer", SEEDS, |start| {
        let config = Config::to(&[1]).route("timeouts: { response_head: 900ms }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::silence());
        let client = sim.client();
        sim.act(async move {
            for ask in
                [Ask::get("/a"), Ask::post("/a", Body::Length(100)), Ask::post("/a", Body::Chunked(30_000))]
            {
                let reply = client.ask(&ask).await.unwrap();
                is_refused(&reply, 504, "upstream_response_timeout");
                took(&reply, 900);
            }
        });
        sim.finish();
    });
}

#[test]
fn the_whole_request() {
    each_seed("timeouts::the_whole_request", SEEDS, |start| {
        let config = Config::to(&[1, 2]).route("timeouts: { request: 1500ms, response_head: 1s }");
        let config = config.route("retry: { on: [per_try_timeout, 5xx], per_try_timeout: 600ms }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::silence());
        sim.origin(2, |_| Answer::silence());
        let client = sim.client();
        sim.act(async move {
            let reply = client.ask(&Ask::get("/a")).await.unwrap();
            assert_eq!(reply.status, 504, "{reply:?}");
            assert!(reply.took <= Duration::from_millis(1_500 + SLACK_MS), "{reply:?}");
        });
        sim.finish();
    });
}

#[test]
fn bodies_that_stop() {
    each_seed("timeouts::bodies_that_stop", SEEDS, |start| {
        let config = Config::to(&[1]).route("timeouts: { body_idle: 1s, response_head: 5s }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |asked| {
            if asked.head.start_line.contains("stops") {
                Answer::bytes(50_000).cut(20_000, Ending::Silence)
            } else {
                Answer::bytes(10)
            }
        });
        let client = sim.client();
        sim.act(async move {
            // The origin's: cut, so that nobody takes it for whole.
            let before = client.now_ms();
            assert_eq!(client.ask(&Ask::get("/stops")).await.unwrap_err(), Cut::Reset);
            let after = client.now_ms() - before;
            assert!((1_000 - EARLY_MS..1_000 + SLACK_MS).contains(&after), "after {after} ms");
            // The client's: told so.
            let mut caller = client.connect().await.unwrap();
            let begun = caller.begin(&Ask::post("/a", Body::Length(50_000))).await.unwrap();
            caller.send_body(&begun, 0..30_000).await.unwrap();
            let reply = caller.answer(&begun).await.unwrap();
            is_refused(&reply, 408, "request_body_timeout");
            took(&reply, 1_000);
        });
        sim.finish();
    });
}

#[test]
fn bodies_that_move_take_as_long_as_they_like() {
    each_seed("timeouts::bodies_that_move_take_as_long_as_they_like", SEEDS, |start| {
        let config = Config::to(&[1]).route("timeouts: { body_idle: 500ms, response_head: 1s }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::bytes(5_000).pieces(100, 300).reading(ReadBody::Before));
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            let begun = caller.begin(&Ask::post("/a", Body::Length(4_000))).await.unwrap();
            for part in 0..40 {
                client.pause(Duration::from_millis(300)).await;
                caller.send_body(&begun, part * 100..(part + 1) * 100).await.unwrap();
            }
            let reply = caller.answer(&begun).await.unwrap();
            assert_eq!((reply.status, reply.bytes), (200, 5_000));
            assert!(reply.took > Duration::from_secs(20), "{reply:?}");
        });
        sim.finish();
    });
}

/// The time-out of a response's head is over with the head: a request that goes on behind it changes nothing.
#[test]
fn an_answer_that_begins_before_the_request_ends() {
    each_seed("timeouts::an_answer_that_begins_before_the_request_ends", SEEDS, |start| {
        let config = Config::to(&[1]).route("timeouts: { response_head: 1s, body_idle: 20s }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::bytes(1_000).pieces(100, 2_000).reading(ReadBody::After));
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            let begun = caller.begin(&Ask::post("/a", Body::Length(40_000))).await.unwrap();
            caller.send_body(&begun, 0..30_000).await.unwrap();
            client.pause(Duration::from_millis(500)).await;
            caller.send_body(&begun, 30_000..40_000).await.unwrap();
            let reply = caller.answer(&begun).await.unwrap();
            assert_eq!((reply.status, reply.bytes), (200, 1_000));
        });
        sim.finish();
    });
}

#[test]
fn waiting_for_a_connection() {
    each_seed("timeouts::waiting_for_a_connection", SEEDS, |start| {
        let config = Config::to(&[1]).upstream("connections_max: 1").upstream("timeouts: { connect: 1s }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |_| Answer::bytes(10).delay(2_500));
        for nth in 0..4 {
            let client = sim.client();
            sim.act(async move {
                client.pause(Duration::from_millis(nth * 10)).await;
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                if nth == 0 {
                    assert_eq!(reply.status, 200, "{reply:?}");
                } else {
                    is_refused(&reply, 503, "upstream_busy");
                    took(&reply, 1_000);
                }
            });
        }
        sim.finish();
    });
}

/// A request's whole time holds during the waits of ours as well: a delay made on purpose, and one that a limit makes.
#[test]
fn our_own_delays_are_inside_the_requests_time() {
    each_seed("timeouts::our_own_delays_are_inside_the_requests_time", SEEDS, |start| {
        let delays = [
            Config::to(&[1]).route("fault: { delay: { duration: 5s, percent: 100 } }"),
            Config::to(&[1])
                .top("rate_limits: { rates: [{ name: slow, rate: 2/m, burst: 1, delay_max: 1m, key: [listener] }] }")
                .route("rate_limits: [slow]"),
        ];
        for delay in delays {
            let config = delay.route("timeouts: { request: 900ms }");
            let sim = Sim::new(start, 1, Weather::fair(), &config.text());
            sim.origin(1, |_| Answer::bytes(10));
            let client = sim.client();
            sim.act(async move {
                // The limit lets the first one through.
                let _ = client.ask(&Ask::get("/a")).await.unwrap();
                let reply = client.ask(&Ask::get("/a")).await.unwrap();
                is_refused(&reply, 504, "request_timeout");
                took(&reply, 900);
                let hurried = Ask::get("/a").field("ringway-timeout-ms: 300");
                let reply = client.ask(&hurried).await.unwrap();
                is_refused(&reply, 504, "request_timeout");
                took(&reply, 300);
            });
            sim.finish();
        }
    });
}

/// A connection that has been idle for `upstream_idle` carries no further request, whenever it is that it is closed.
#[test]
fn an_upstream_connection_that_was_idle_for_too_long() {
    each_seed("timeouts::an_upstream_connection_that_was_idle_for_too_long", SEEDS, |start| {
        let config = Config::to(&[1]).upstream("timeouts: { upstream_idle: 1500ms }");
        let sim = Sim::new(start, 1, Weather::fair(), &config.text());
        sim.origin(1, |asked| Answer::bytes(10 + u64::from(asked.nth)));
        let client = sim.client();
        sim.act(async move {
            let mut caller = client.connect().await.unwrap();
            assert_eq!(caller.ask(&Ask::get("/a")).await.unwrap().bytes, 10);
            for pause_ms in [1_510, 1_990, 1_700, 1_600, 1_850] {
                client.pause(Duration::from_millis(pause_ms)).await;
                let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.bytes, 10, "after {pause_ms} ms on another connection: {reply:?}");
                client.pause(Duration::from_millis(1_400)).await;
                let reply = caller.ask(&Ask::get("/a")).await.unwrap();
                assert_eq!(reply.bytes, 11, "after 1,400 ms on the same: {reply:?}");
            }
        });
        sim.finish();
    });
}

/// Of a connection whose peer was silenced by the network nothing is ever heard again, and it is given up all the same.
#[test]
fn silence_at_any_time() {
    each_seed("timeouts::silence_at_any_time", 4 * SEEDS, |start| {
        let config = Config::to(&[1])
            .top("timeouts: { request_head: 2s, keep_alive_idle: 5s, connect: 1s, upstream_idle: 5s, response_head: 2s, body_idle: 2s }");
        let weather = Weather { silences: 12, ..Weather::rough() };
        let sim = Sim::new(start, 2, weather, &config.text());
        sim.origin(1, |asked| Answer::bytes(u64::from(asked.tag.0) * 2_000));
        for _ in 0..6 {
            let client = sim.client();
            sim.act(async move {
                let Ok(mut caller) = client.connect().await else { return };
                let asks = [Ask::get("/a"), Ask::post("/a", Body::Length(20_000))];
                for ask in asks.iter().cycle().take(5) {
                    if !keeps(&mut caller, ask).await {
                        return;
                    }
                }
            });
        }
        sim.finish();
    });
}

async fn keeps(caller: &mut Caller, ask: &Ask) -> bool {
    caller.ask(ask).await.is_ok_and(|reply| reply.keeps)
}
