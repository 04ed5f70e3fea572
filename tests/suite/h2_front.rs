//! HTTP/2 with clients: greeting, bounds, ageing and leaving. A client that is told to leave loses nothing by it.

use h2::Reason;
use ringway_tests::client::get;
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::h2::Failure;
use ringway_tests::h2::client::{Client, Stream, Then, request};
use ringway_tests::h2::load::Load;
use ringway_tests::h2::raw::{self, PREFACE, Raw, code, flag, kind, setting};
use ringway_tests::origin::{Origin, scripted};
use ringway_tests::payload::Payload;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, eventually};
use ringway_tests::wire::WireError;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// An origin whose answers wait for the gate.
fn gated() -> (Origin, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::with(move |exchange| {
        held.wait();
        scripted(exchange)
    });
    (origin, gate)
}

fn open_all(client: &Client, count: usize) -> Vec<Stream> {
    (0..count).map(|number| client.open(request("GET", &format!("/{number}"), &[]), Then::End)).collect()
}

#[track_caller]
fn all_answered(streams: &mut [Stream]) {
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.response().expect(200).text(), format!("GET /{number}"));
    }
}

for_each_driver! {
    /// RFC 9113 section 5.1.2: what goes beyond is refused, and the rest is not touched.
    fn too_many_streams_are_refused(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("http2: { streams_max: 5 }"));
        assert_eq!(Client::connect(proxy.address()).streams_max(), 5);
        let mut client = Raw::greet(proxy.address(), &[]);
        for number in 0..7 {
            client.send(raw::get(2 * number + 1, "/"));
        }
        for stream in [11, 13] {
            let refusal = client.await_frame("a refusal", |frame| frame.kind == kind::RST_STREAM);
            assert_eq!((refusal.stream, refusal.code()), (stream, code::REFUSED_STREAM));
        }
        origin.await_requests(5);
        gate.open();
        let mut answered: Vec<_> = (0..5)
            .map(|_| {
                let head = client.await_frame("an answer", |frame| frame.kind == kind::HEADERS);
                assert_eq!(head.status(), 200);
                head.stream
            })
            .collect();
        answered.sort_unstable();
        assert_eq!(answered, [1, 3, 5, 7, 9]);
        client.send(raw::get(15, "/"));
        assert_eq!(client.await_frame("an answer", |frame| frame.kind == kind::HEADERS).stream, 15);
        assert_eq!(origin.request_count(), 6);
    }

    fn connections_end_after_so_many_requests(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("requests_per_connection_max: 10"));
        let client = Client::connect(proxy.address());
        for _ in 0..9 {
            client.get("/").expect(200);
        }
        assert!(!client.is_leaving());
        client.get("/").expect(200);
        client.await_leaving();
        assert_eq!(client.await_end(), Ok(()), "an orderly end");
        assert_eq!(origin.request_count(), 10);
    }

    fn ageing_connections_lose_nothing(driver) within 60 {
        let origin = Origin::start();
        for line in ["requests_per_connection_max: 20", "connection_age_max: 150ms"] {
            let proxy = Proxy::start(driver, &Config::to(&origin).listener(line));
            let load = Load::start(proxy.address(), 2, 8, "/");
            let proof = |load: &Load| load.await_answers(200);
            proof(&load);
            proxy.await_metric("ringway_downstream_connections_total", &[], |opened| opened >= 10.0);
            proof(&load);
            let tally = load.stop();
            assert_eq!(tally.failures, Vec::<String>::new(), "{line}, of {} answers", tally.answered);
            assert!(tally.reconnects >= 6, "{line}: {} reconnects", tally.reconnects);
        }
    }

    /// A body under way may take longer than its connection's age.
    fn ageing_cuts_no_body(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("connection_age_max: 100ms"));
        let client = Client::connect(proxy.address());
        let mut streams = open_all(&client, 3);
        origin.await_requests(3);
        client.await_leaving();
        assert_eq!(client.ending(), None);
        gate.open();
        all_answered(&mut streams);
        drop(streams);
        assert_eq!(client.await_end(), Ok(()));
    }

    fn idle_connections_end(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { keep_alive_idle: 500ms }"));
        let started = Instant::now();
        let client = Client::connect(proxy.address());
        client.get("/").expect(200);
        assert_eq!(client.await_end(), Ok(()), "with GOAWAY, not with a cut");
        assert!(started.elapsed() >= Duration::from_millis(490), "{:?}", started.elapsed());
        // A client that does not close either is not waited for.
        let mut raw = Raw::greet(proxy.address(), &[]);
        let end = raw.to_end();
        assert_eq!((end.goaway, end.by), (Some(code::NO_ERROR), WireError::Closed));
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
    }

    /// A PING is no request: it must not keep a connection for ever.
    fn waiting_streams_are_not_idle(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { keep_alive_idle: 100ms }"));
        let client = Client::connect(proxy.address());
        let mut streams = open_all(&client, 2);
        origin.await_requests(2);
        let other = Client::connect(proxy.address());
        let idle = other.await_end();
        assert!(matches!(idle, Ok(()) | Err(Failure::Broken(_))), "{idle:?}");
        assert_eq!(client.ending(), None);
        gate.open();
        all_answered(&mut streams);
        assert_eq!(client.await_end(), Ok(()));
    }

    fn a_drain_finishes_streams(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let client = Client::connect(proxy.address());
        let idle = Client::connect(proxy.address());
        let mut streams = open_all(&client, 5);
        let mut upload = client.open(request("POST", "/upload", &[("x-seed", "1")]), Then::More);
        upload.send(Payload::new(1, 10).to_vec()[..4].to_vec(), Then::More);
        origin.await_requests(6);
        proxy.server().drain();
        client.await_leaving();
        assert_eq!(idle.await_end(), Ok(()));
        assert_eq!(client.ending(), None, "its streams are not over");
        gate.open();
        upload.send(Payload::new(1, 10).to_vec()[4..].to_vec(), Then::End);
        assert_eq!(upload.response().expect(200).body, Payload::new(1, 10).to_vec());
        all_answered(&mut streams);
        drop((streams, upload));
        assert_eq!(client.await_end(), Ok(()));
        proxy.wait();
    }

    fn a_drain_under_load_loses_nothing(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).workers(2));
        let clients: Vec<_> = (0..4).map(|_| Client::connect(proxy.address())).collect();
        for _ in 0..20 {
            for client in &clients {
                client.get("/").expect(200);
            }
        }
        let mut streams: Vec<_> = clients.iter().map(|client| open_all(client, 20)).collect();
        proxy.server().drain();
        let mut answered = 80;
        for stream in streams.iter_mut().flatten() {
            // Sent before GOAWAY was seen, and served; or after it, and told to be untouched. Nothing else.
            match stream.try_response() {
                Ok(response) => {
                    response.expect(200);
                    answered += 1;
                }
                Err(failure) => assert_eq!(failure, Failure::GoAway(Reason::NO_ERROR)),
            }
        }
        assert_eq!(origin.request_count(), answered, "what was not answered was not acted on");
        drop(streams);
        for client in &clients {
            assert_eq!(client.await_end(), Ok(()));
        }
        proxy.wait();
    }

    fn patience_ends(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { drain: 300ms }"));
        let client = Client::connect(proxy.address());
        let mut stream = client.open(request("GET", "/endless", &[]), Then::End);
        origin.await_requests(1);
        let started = Instant::now();
        proxy.server().drain();
        let cut = stream.try_response().map(|response| response.status);
        assert!(started.elapsed() >= Duration::from_millis(290), "cut after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(3), "cut after {:?}", started.elapsed());
        assert!(matches!(cut, Ok(503) | Err(_)), "{cut:?}");
        proxy.wait();
        gate.open();
    }

    fn a_reload_keeps_streams(driver) {
        let (origin, gate) = gated();
        let config = Config::to(&origin);
        let proxy = Proxy::start(driver, &config);
        let client = Client::connect(proxy.address());
        let mut streams = open_all(&client, 5);
        origin.await_requests(5);
        let routes = "- { name: others, match: { path: { exact: /after } }, upstream: origin }";
        proxy.reload(&config.routes(routes));
        proxy.await_metric("ringway_snapshots_installed_total", &[], |installed| installed >= 2.0);
        gate.open();
        all_answered(&mut streams);
        client.get("/after").expect(200);
        client.get("/0").expect(404);
        assert_eq!(client.ending(), None);
    }

    fn where_it_is_off_the_preface_is_refused(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).listener("http2: { enabled: false }"));
        let mut client = proxy.connect();
        client.send(PREFACE);
        let status = client.response("GET").status;
        assert!(matches!(status, 400 | 505), "{status}");
        client.expect_end();
        proxy.get("/").expect(200);
        assert_eq!(origin.request_count(), 1);
    }

    /// The state of a reader must not depend on how the network cuts what it reads.
    fn a_preface_in_pieces(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let bytes = [PREFACE, &raw::settings(&[(setting::HEADER_TABLE_SIZE, 0)]), &raw::get(1, "/")].concat();
        let cuts = (1..bytes.len()).map(|cut| vec![cut]).chain([(1..bytes.len()).collect()]);
        for cuts in cuts {
            let mut client = Raw::connect(proxy.address());
            let mut from = 0;
            for &to in cuts.iter().chain([&bytes.len()]) {
                client.send(&bytes[from..to]);
                from = to;
            }
            let head = client.await_frame("an answer", |frame| frame.kind == kind::HEADERS);
            assert_eq!((head.stream, head.status()), (1, 200), "cut at {cuts:?}");
        }
        assert_eq!(origin.request_count(), bytes.len());
    }

    fn a_preface_that_never_ends(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { request_head: 200ms }"));
        for bytes in [&PREFACE[..3], &PREFACE[..10], &PREFACE[..18], &PREFACE[..20], PREFACE] {
            let mut client = Raw::connect(proxy.address());
            let started = Instant::now();
            client.send(bytes);
            let rest = client.wire.to_end();
            assert!(!matches!(rest, Err(WireError::TimedOut)), "{}", bytes.escape_ascii());
            assert!(started.elapsed() < Duration::from_secs(3), "{}: {:?}", bytes.escape_ascii(), started.elapsed());
        }
        assert_eq!(origin.accepted(), 0);
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
        // What comes after the preface must be SETTINGS (RFC 9113 section 3.4).
        let mut client = Raw::connect(proxy.address());
        client.send([PREFACE, &raw::get(1, "/")].concat());
        client.to_end();
        // A preface that differs in its last bytes is no preface.
        let mut client = Raw::connect(proxy.address());
        client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
        client.to_end();
        assert_eq!(origin.accepted(), 0);
    }

    fn both_protocols_share_a_port(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let two = Client::connect(proxy.address());
        let mut one = proxy.connect();
        for number in 0..20 {
            let target = format!("/{number}");
            assert_eq!(two.get(&target).expect(200).text(), format!("GET {target}"));
            assert_eq!(one.get(&target).expect(200).text(), format!("GET {target}"));
        }
        // A connection that has carried HTTP/1.1 stays with it.
        one.send(PREFACE);
        let status = one.response("GET").status;
        assert!(matches!(status, 400 | 505), "{status}");
        proxy.connect().ask(&get("/last")).expect(200);
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("ringway_requests_total", &[("code", "2xx")]), 41.0);
    }

    fn the_access_log_says_which(driver) {
        let folder = Folder::new(&format!("log-h2-{}", driver.name()));
        let origin = Origin::start();
        let path = folder.join("access.log");
        let log = format!("access_log: {{ mode: all, path: \"{}\" }}", path.display());
        let proxy = Proxy::start(driver, &Config::to(&origin).top(&log));
        let client = Client::connect(proxy.address());
        client.ask(request("GET", "/two?x=1", &[("user-agent", "harness")])).expect(200);
        proxy.get("/one").expect(200);
        let lines: Vec<Value> = eventually("two lines", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            (text.lines().count() == 2 && text.ends_with('\n'))
                .then(|| text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
        });
        let find = |target: &str| lines.iter().find(|line| line["target"] == target).expect("a line").clone();
        let two = find("/two?x=1");
        assert_eq!((&two["protocol"], &find("/one")["protocol"]), (&"HTTP/2.0".into(), &"HTTP/1.1".into()), "{two}");
        for (name, expected) in [("method", "GET"), ("host", "test"), ("user_agent", "harness"), ("client", "127.0.0.1")] {
            assert_eq!(two[name], expected, "{two}");
        }
        assert_eq!((&two["status"], &two["response_body_bytes"]), (&200.into(), &12.into()), "{two}");
    }

    /// Frames that mean nothing to us are passed over (RFC 9113 sections 4.1, 5.5 and 6.3).
    fn unknown_frames_and_priorities_are_ignored(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = Raw::greet(proxy.address(), &[(0xface, 7)]);
        client.send(raw::frame(0xbe, 0xff, 0, [1; 100]));
        client.send(raw::frame(kind::PRIORITY, 0, 3, [0, 0, 0, 0, 16]));
        client.send(raw::frame(0xbe, 0, 3, []));
        client.send([raw::get(1, "/"), raw::frame(0xbf, 4, 1, [9; 9])].concat());
        let head = client.await_frame("an answer", |frame| frame.kind == kind::HEADERS);
        assert_eq!((head.stream, head.status()), (1, 200));
        client.settle();
    }

    /// A client that says GOAWAY is served to its end.
    fn a_client_that_says_goodbye(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = Raw::greet(proxy.address(), &[]);
        client.send([raw::get(1, "/"), raw::goaway(0, code::NO_ERROR)].concat());
        origin.await_requests(1);
        gate.open();
        let head = client.await_frame("an answer", |frame| frame.kind == kind::HEADERS);
        assert_eq!(head.status(), 200);
        client.await_frame("its end", |frame| frame.kind == kind::DATA && frame.has(flag::END_STREAM));
    }

    /// A client that vanishes: its requests are given up at the origins, and nothing of it stays.
    fn a_client_that_vanishes(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let client = Client::connect(proxy.address());
        let streams = open_all(&client, 10);
        origin.await_requests(10);
        drop(client);
        drop(streams);
        proxy.await_metric("ringway_requests_active", &[], |active| active == 0.0);
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
        gate.open();
    }

    fn a_stop_has_no_patience(driver) {
        let (origin, gate) = gated();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let client = Client::connect(proxy.address());
        let mut stream = client.open(request("GET", "/", &[]), Then::End);
        origin.await_requests(1);
        let started = Instant::now();
        drop(proxy);
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        let cut = stream.try_response().map(|response| response.status);
        assert!(matches!(cut, Ok(503) | Err(_)), "{cut:?}");
        gate.open();
    }
}
