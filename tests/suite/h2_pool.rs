//! Connections to HTTP/2 origins: shared by many requests, within the origin's bounds and ours, given up without losing
//! a request when the origin leaves, and not used again when it has failed.

use h2::Reason;
use ringway_tests::client::{Client as Plain, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::Failure;
use ringway_tests::h2::client::{Client, Response, Stream, Then, connect_to, request};
use ringway_tests::h2::load::Load;
use ringway_tests::h2::origin::{Exchange, Origin, Outcome, Settings, scripted};
use ringway_tests::h2::raw::{self, Frame, Raw};
use ringway_tests::origin as one;
use ringway_tests::proxy::Proxy;
use ringway_tests::stream::Address;
use ringway_tests::wait::{Gate, eventually};
use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// An origin whose answers wait for the gate.
fn gated(settings: Settings) -> (Origin, Gate) {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::announcing(settings, move |exchange| {
        held.wait();
        scripted(exchange)
    });
    (origin, gate)
}

fn open_all(client: &Client, count: usize, method: &str) -> Vec<Stream> {
    (0..count).map(|number| client.open(request(method, &format!("/{number}"), &[]), Then::End)).collect()
}

#[track_caller]
fn all_answered(streams: &mut [Stream], method: &str) {
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(stream.response().expect(200).text(), format!("{method} /{number}"));
    }
}

/// Refuses what it sees for the first time, by its path, and serves the rest.
fn refusing_once() -> impl Fn(&mut Exchange) -> Outcome + Send + Sync + 'static {
    let seen = Mutex::new(HashSet::new());
    move |exchange| {
        if seen.lock().unwrap().insert(exchange.path().to_owned()) {
            return exchange.reset(Reason::REFUSED_STREAM);
        }
        scripted(exchange)
    }
}

/// An origin made of frames: the script gets each connection in turn.
struct Scripted {
    address: Address,
    thread: Option<thread::JoinHandle<()>>,
}

impl Scripted {
    fn start(script: impl FnOnce(&TcpListener) + Send + 'static) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = Address::Tcp(listener.local_addr().expect("a port"));
        Scripted { address, thread: Some(thread::spawn(move || script(&listener))) }
    }

    fn config(&self) -> Config {
        Config::to_addresses(std::slice::from_ref(&self.address)).upstream("protocol: http2")
    }

    /// The script's assertions are the test's.
    fn finish(mut self) {
        self.thread.take().expect("it is joined once").join().expect("the script went through");
    }
}

fn head_of(raw: &mut Raw) -> Frame {
    raw.await_frame("a request", |frame| frame.kind == raw::kind::HEADERS)
}

/// A whole answer: `:status 200` from the static table, and `text`.
fn answer(stream: u32, text: &str) -> Vec<u8> {
    let head = raw::frame(raw::kind::HEADERS, raw::flag::END_HEADERS, stream, [0x88]);
    [head, raw::data(stream, raw::flag::END_STREAM, text)].concat()
}

for_each_driver! {
    fn a_hundred_requests_share_a_connection(driver) {
        let (origin, gate) = gated(Settings::default());
        let proxy = Proxy::start(driver, &origin.config());
        // Half over HTTP/2, half over a connection each.
        let client = Client::connect(proxy.address());
        let mut streams = open_all(&client, 50, "GET");
        let mut plain: Vec<Plain> = (0..50).map(|_| proxy.connect()).collect();
        for client in &mut plain {
            client.send(get("/plain"));
        }
        origin.await_requests(100);
        assert_eq!((origin.accepted(), origin.active_max()), (1, 100));
        gate.open();
        all_answered(&mut streams, "GET");
        for client in &mut plain {
            client.response("GET").expect(200);
        }
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("ringway_upstream_connects_total", &[]), 1.0);
        assert_eq!(metrics.sum("ringway_upstream_reused_total", &[]), 99.0);
        assert_eq!(metrics.sum("ringway_upstream_connections", &[("upstream", "origin")]), 1.0);
        proxy.await_metric("ringway_upstream_requests_active", &[], |active| active == 0.0);
    }

    /// What does not fit waits; the origin's bound is never tried.
    fn the_origins_bound_on_streams_holds(driver) {
        let (origin, gate) = gated(Settings { streams_max: Some(5), ..Settings::default() });
        let proxy = Proxy::start(driver, &origin.config().upstream("connections_max: 2"));
        let client = Client::connect(proxy.address());
        let mut streams = open_all(&client, 60, "POST");
        origin.await_requests(10);
        gate.open();
        all_answered(&mut streams, "POST");
        assert_eq!((origin.accepted(), origin.active_max()), (2, 5));
        assert_eq!(origin.request_count(), 60, "nothing was refused and sent again");
        assert_eq!(proxy.metrics().sum("ringway_retries_total", &[]), 0.0);
    }

    fn our_own_bound_on_streams_holds(driver) {
        let (origin, gate) = gated(Settings::default());
        let config = origin.config().upstream("http2: { streams_max: 3 }").upstream("connections_max: 4");
        let proxy = Proxy::start(driver, &config);
        let client = Client::connect(proxy.address());
        let mut streams = open_all(&client, 40, "GET");
        origin.await_requests(12);
        gate.open();
        all_answered(&mut streams, "GET");
        assert_eq!((origin.accepted(), origin.active_max()), (4, 3));
    }

    fn an_origin_that_takes_no_streams(driver) {
        let (origin, _gate) = gated(Settings { streams_max: Some(0), ..Settings::default() });
        let proxy = Proxy::start(driver, &origin.config());
        let refused = Client::connect(proxy.address()).get("/").expect(502);
        assert_eq!(refused.reason(), "upstream_no_streams");
        assert_eq!(origin.request_count(), 0);
    }

    /// Who waits for room and leaves takes nobody's place.
    fn a_waiting_client_that_leaves(driver) {
        let (origin, gate) = gated(Settings { streams_max: Some(1), ..Settings::default() });
        let proxy = Proxy::start(driver, &origin.config().upstream("connections_max: 1"));
        let client = Client::connect(proxy.address());
        let mut first = client.open(request("GET", "/first", &[]), Then::End);
        origin.await_requests(1);
        let leaving = open_all(&client, 10, "GET");
        let mut last = client.open(request("GET", "/last", &[]), Then::End);
        proxy.await_metric("ringway_requests_active", &[], |active| active == 12.0);
        drop(leaving);
        gate.open();
        assert_eq!(first.response().expect(200).text(), "GET /first");
        assert_eq!(last.response().expect(200).text(), "GET /last");
        proxy.await_metric("ringway_requests_active", &[], |active| active == 0.0);
        proxy.await_metric("ringway_buffers_taken", &[], |taken| taken == 0.0);
    }

    /// An origin that is rolled over again and again: what it has is served, and what it no longer takes goes elsewhere.
    fn an_origin_that_leaves_loses_nothing(driver) within 60 {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &origin.config());
        let load = Load::start(proxy.address(), 2, 8, "/");
        for _ in 0..20 {
            load.await_answers(50);
            origin.leave();
        }
        load.await_answers(50);
        let tally = load.stop();
        assert_eq!(tally.failures, Vec::<String>::new(), "of {} answers", tally.answered);
        assert_eq!(tally.reconnects, 0, "what happens behind us is no client's business");
        assert!(origin.accepted() > 20, "{} connections", origin.accepted());
        eventually("the end of those that left", || (origin.ended() >= origin.accepted() - 1).then_some(()));
        proxy.await_metric("ringway_upstream_connections", &[], |open| open <= 1.0);
    }

    /// A body under way is finished on the connection that leaves; what comes after opens another.
    fn a_body_outlives_the_goodbye(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            if exchange.path() != "/long" {
                return scripted(exchange);
            }
            exchange.answer(200, &[], Then::More)?;
            exchange.send("first", Then::More)?;
            held.wait();
            exchange.send(", last", Then::End)
        });
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        let mut long = client.open(request("GET", "/long", &[]), Then::End);
        long.head();
        assert_eq!(long.chunk().expect("a piece").as_deref(), Some(&b"first"[..]));
        origin.leave();
        eventually("a second connection", || {
            client.get("/").expect(200);
            (origin.accepted() == 2).then_some(())
        });
        gate.open();
        assert_eq!(long.chunk().expect("the rest").as_deref(), Some(&b", last"[..]));
        assert_eq!(long.chunk(), Ok(None));
        origin.await_ended(1);
    }

    /// RFC 9113 section 8.7: a refused stream was not acted on, so that even a POST may be sent again.
    fn a_refused_stream_is_repeated(driver) {
        let origin = Origin::with(refusing_once());
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        for (number, method) in ["GET", "POST", "PATCH", "DELETE", "HEAD"].into_iter().enumerate() {
            client.ask(request(method, &format!("/{number}"), &[])).expect(200);
            assert_eq!(origin.request_count(), 2 * (number + 1), "{method}");
        }
        assert_eq!(origin.accepted(), 1, "the connection is as good as before");
        assert_eq!(proxy.metrics().sum("ringway_retries_total", &[]), 5.0);
        // A body that came with its head can be sent again, too.
        let answer = proxy.connect().ask("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody").expect(200);
        assert_eq!(answer.text(), "body");
    }

    fn an_origin_that_always_refuses(driver) {
        let origin = Origin::with(|exchange| exchange.reset(Reason::REFUSED_STREAM));
        let proxy = Proxy::start(driver, &origin.config());
        let refused = Client::connect(proxy.address()).get("/").expect(503);
        assert_eq!(refused.reason(), "upstream_refused");
        assert!((2..=4).contains(&origin.request_count()), "{} attempts", origin.request_count());
    }

    /// GOAWAY names the last stream that may be acted on (RFC 9113 section 6.8): the others are safe to repeat, and the
    /// named ones are served to their end.
    fn streams_above_the_last_one_are_repeated(driver) {
        let origin = Scripted::start(|listener| {
            let mut leaving = Raw::accept(listener, &[]);
            let (first, second) = (head_of(&mut leaving), head_of(&mut leaving));
            assert_eq!((first.stream, second.stream), (1, 3));
            leaving.send(raw::goaway(1, raw::code::NO_ERROR));
            let mut next = Raw::accept(listener, &[]);
            let repeated = head_of(&mut next);
            next.send(answer(repeated.stream, "by the next"));
            leaving.send(answer(1, "by the leaving"));
            assert_eq!(leaving.to_end().resets, []);
        });
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        let mut first = client.open(request("POST", "/1", &[]), Then::End);
        // The second must not overtake the first while the connection is being opened.
        proxy.await_metric("ringway_upstream_requests_active", &[], |active| active == 1.0);
        let mut second = client.open(request("POST", "/2", &[]), Then::End);
        let mut texts = [second.response().expect(200).text(), first.response().expect(200).text()];
        texts.sort();
        assert_eq!(texts, ["by the leaving", "by the next"]);
        drop(proxy);
        origin.finish();
    }

    /// An origin that has gone without a word: its machine is off, or a firewall has forgotten the connection. One request
    /// pays for it; the next ones go elsewhere, and the connection is given up when it can't show that it lives.
    fn a_connection_that_has_gone_silent_is_left(driver) {
        let origin = Scripted::start(|listener| {
            let mut silent = Raw::accept(listener, &[]);
            head_of(&mut silent);
            let mut next = Raw::accept(listener, &[]);
            for _ in 0..3 {
                let head = head_of(&mut next);
                next.send(answer(head.stream, "by the next"));
            }
            silent.await_frame("a PING", |frame| frame.kind == raw::kind::PING && !frame.has(raw::flag::ACK));
            silent.to_end();
        });
        let config = origin.config().upstream("http2: { ping_timeout: 1s }").upstream("timeouts: { response_head: 500ms }");
        let proxy = Proxy::start(driver, &config);
        let client = Client::connect(proxy.address());
        assert_eq!(client.get("/").expect(504).reason(), "upstream_response_timeout");
        for _ in 0..3 {
            assert_eq!(client.get("/").expect(200).text(), "by the next");
        }
        proxy.await_metric("ringway_upstream_connections", &[], |open| open == 1.0);
        drop(proxy);
        origin.finish();
    }

    /// An answer that is late says nothing of the connection if anything else comes over it, such as the answer to PING.
    fn a_late_answer_costs_no_connection(driver) {
        let (origin, gate) = gated(Settings::default());
        let config = origin.config().upstream("http2: { ping_timeout: 1s }").upstream("timeouts: { response_head: 300ms }");
        let proxy = Proxy::start(driver, &config);
        let client = Client::connect(proxy.address());
        client.get("/").expect(504);
        gate.open();
        client.get("/").expect(200);
        // Several rounds of the sweep go by, as a second upstream's idle connections show.
        let other = Origin::start();
        let beside = Proxy::start(driver, &other.config().top("timeouts: { upstream_idle: 100ms }"));
        for round in 1..=3 {
            Client::connect(beside.address()).get("/").expect(200);
            other.await_ended(round);
        }
        assert_eq!(origin.ended(), 0, "it lives, and has shown it");
        client.get("/").expect(200);
        assert!(origin.accepted() <= 2, "a second may have been opened before the first had answered");
    }

    /// Many more requests than connections to their origin: each is served in its turn, and none is refused.
    fn a_rush_of_streams_is_served_in_turn(driver) within 90 {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = one::Origin::with(move |exchange| {
            held.wait();
            one::scripted(exchange)
        });
        let config = Config::to(&origin).upstream("connections_max: 4").upstream("timeouts: { connect: 60s }");
        let proxy = Proxy::start(driver, &config);
        let clients: Vec<_> = (0..32).map(|_| Client::connect(proxy.address())).collect();
        let mut streams: Vec<_> = clients.iter().map(|client| open_all(client, 64, "GET")).collect();
        proxy.await_metric("ringway_requests_active", &[], |active| active == 2_048.0);
        gate.open();
        for streams in &mut streams {
            all_answered(streams, "GET");
        }
        assert_eq!(origin.open_max(), 4);
        assert_eq!(origin.request_count(), 2_048);
    }

    /// What a dead connection took with it was maybe acted on: only what is idempotent is tried again.
    fn an_origin_that_dies_with_streams_in_flight(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            if exchange.connection == 0 {
                held.wait();
            }
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        let mut posts: Vec<_> =
            (0..5).map(|_| client.open(request("POST", "/post", &[]), Then::End)).collect();
        let mut gets: Vec<_> = (0..5).map(|_| client.open(request("GET", "/get", &[]), Then::End)).collect();
        origin.await_requests(10);
        origin.cut_connections();
        for stream in &mut posts {
            stream.response().expect(502);
        }
        for stream in &mut gets {
            let status = stream.response().status;
            assert!(matches!(status, 200 | 502), "{status}");
        }
        let posted = origin.requests().iter().filter(|record| record.target == "/post").count();
        assert_eq!(posted, 5, "a POST must not be repeated (RFC 9110 section 9.2.2)");
        client.get("/after").expect(200);
        gate.open();
    }

    /// Between two requests: nothing is in flight, and nobody notices.
    fn an_origin_that_dies_while_idle(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        for number in 1..=5 {
            assert_eq!(client.post("/", "body").expect(200).text(), "body");
            assert_eq!(origin.accepted(), number);
            origin.cut_connections();
            proxy.await_metric("ringway_upstream_connections", &[], |open| open <= 1.0);
        }
    }

    fn idle_connections_age(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &origin.config().top("timeouts: { upstream_idle: 200ms }"));
        let client = Client::connect(proxy.address());
        client.get("/").expect(200);
        origin.await_ended(1);
        client.get("/").expect(200);
        assert_eq!(origin.accepted(), 2);
    }

    /// A connection with a request under way is not idle, however long that takes.
    fn a_waiting_request_keeps_its_connection(driver) {
        let (origin, gate) = gated(Settings::default());
        let proxy = Proxy::start(driver, &origin.config().top("timeouts: { upstream_idle: 100ms }"));
        let client = Client::connect(proxy.address());
        let mut stream = client.open(request("GET", "/0", &[]), Then::End);
        origin.await_requests(1);
        // Several rounds of the sweep go by, as a second upstream's idle connections show.
        let other = Origin::start();
        let beside = Proxy::start(driver, &other.config().top("timeouts: { upstream_idle: 100ms }"));
        for round in 1..=3 {
            Client::connect(beside.address()).get("/").expect(200);
            other.await_ended(round);
        }
        assert_eq!(origin.ended(), 0);
        gate.open();
        assert_eq!(stream.response().expect(200).text(), "GET /0");
        origin.await_ended(1);
    }

    fn a_reload_keeps_connections(driver) {
        let (origin, gate) = gated(Settings::default());
        let config = origin.config();
        let proxy = Proxy::start(driver, &config);
        let client = Client::connect(proxy.address());
        let mut streams = open_all(&client, 3, "GET");
        origin.await_requests(3);
        proxy.reload(&config.clone().route("timeouts: { request: 20s }"));
        proxy.await_metric("ringway_snapshots_installed_total", &[], |installed| installed >= 2.0);
        let mut more = client.open(request("GET", "/more", &[]), Then::End);
        origin.await_requests(4);
        gate.open();
        all_answered(&mut streams, "GET");
        assert_eq!(more.response().expect(200).text(), "GET /more");
        assert_eq!(origin.accepted(), 1);
        // An origin that leaves the configuration is let go when its last answer is out.
        let other = Origin::start();
        proxy.reload(&other.config());
        origin.await_ended(1);
        client.get("/").expect(200);
        assert_eq!(other.request_count(), 1);
    }

    fn an_origin_that_speaks_something_else(driver) {
        let http1 = one::Origin::start();
        let config = Config::to(&http1).upstream("protocol: http2");
        // Its connections wait in the kernel's queue.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silence = silent.local_addr().expect("a port");
        let silence = Config::to_addresses(&[silence.into()]).upstream("protocol: http2");
        let patience = "timeouts: { connect: 200ms }";
        for (config, status, reason) in [
            (config, 502, "upstream_connect_failed"),
            (silence.upstream(patience), 504, "upstream_connect_timeout"),
        ] {
            let proxy = Proxy::start(driver, &config);
            let answer = Client::connect(proxy.address()).ask(request("POST", "/secret", &[])).expect(status);
            assert_eq!(answer.reason(), reason);
        }
        assert!(http1.requests().iter().all(|record| record.target() != "/secret"), "{:?}", http1.requests());
    }

    fn an_origin_that_is_not_there(driver) {
        let gone = Origin::start();
        let config = gone.config();
        drop(gone);
        let proxy = Proxy::start(driver, &config);
        let client = Client::connect(proxy.address());
        for _ in 0..3 {
            assert_eq!(client.get("/").expect(502).reason(), "upstream_connect_failed");
        }
    }

    /// What breaks RFC 9113 ends the connection, and the client gets a 502: it never gets a part of it.
    fn an_origin_that_breaks_the_rules(driver) {
        type Rule = (&'static str, fn(u32) -> Vec<u8>);
        let table: [Rule; 8] = [
            ("DATA before a head", |stream| raw::data(stream, raw::flag::END_STREAM, "x")),
            ("a head on no stream", |_| raw::frame(raw::kind::HEADERS, 5, 0, [0x88])),
            ("a stream that nobody opened", |_| raw::frame(raw::kind::HEADERS, 5, 99, [0x88])),
            ("a promise that was not allowed", |stream| {
                raw::frame(raw::kind::PUSH_PROMISE, 4, stream, [&[0, 0, 0, 2][..], &raw::block(&raw::GET)].concat())
            }),
            ("a block that is no HPACK", |stream| raw::frame(raw::kind::HEADERS, 5, stream, [0xff, 0xff, 0xff, 0xff])),
            ("no status", |stream| raw::headers(stream, raw::flag::END_STREAM, &[(b"x", b"y")])),
            ("an upper-case name", |stream| {
                raw::headers(stream, raw::flag::END_STREAM, &[(b":status", b"200"), (b"X-Up", b"y")])
            }),
            ("a field of the connection", |stream| {
                raw::headers(stream, raw::flag::END_STREAM, &[(b":status", b"200"), (b"transfer-encoding", b"chunked")])
            }),
        ];
        for (rule, frames) in table {
            let origin = Scripted::start(move |listener| {
                let mut raw = Raw::accept(listener, &[]);
                let stream = head_of(&mut raw).stream;
                raw.send(frames(stream));
                raw.to_end();
            });
            let proxy = Proxy::start(driver, &origin.config());
            let client = Client::connect(proxy.address());
            let answer = client.try_ask(request("POST", "/", &[]));
            assert_eq!(answer.as_ref().map(|response| response.status), Ok(502), "{rule}: {answer:?}");
            drop(proxy);
            origin.finish();
        }
    }

    /// An origin that says nothing any more, not even to a PING, is given up with all that waits for it.
    fn an_origin_that_is_silent_is_given_up(driver) {
        let origin = Scripted::start(|listener| {
            let mut raw = Raw::accept(listener, &[]);
            head_of(&mut raw);
            // Reads on, so that it is no matter of a full socket, and answers nothing.
            raw.to_end();
        });
        let pings = "http2: { ping_interval: 1s, ping_timeout: 1s }";
        let proxy = Proxy::start(driver, &origin.config().upstream(pings));
        let started = Instant::now();
        let answer: Response = Client::connect(proxy.address()).ask(request("POST", "/", &[]));
        assert!(matches!(answer.status, 502 | 504), "{answer:?}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        origin.finish();
    }

    /// An origin that does not offer RFC 8441 can't carry a WebSocket, and another connection to it could not either.
    fn a_websocket_that_the_origin_cannot_carry(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        for kept in [false, true] {
            let mut stream = client.open(connect_to("websocket", "/", &[]), Then::More);
            let response = stream.response().expect(502);
            assert_eq!(response.reason(), "upstream_no_websocket", "on a kept connection: {kept}");
            let upgrade = "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
            let response = proxy.connect().ask(upgrade).expect(502);
            assert!(response.text().contains("upstream_no_websocket"), "on a kept connection: {kept}: {response:?}");
            client.get("/").expect(200);
        }
        assert_eq!((origin.request_count(), origin.accepted()), (2, 1));
        assert_eq!(proxy.metrics().sum("ringway_retries_total", &[]), 0.0);
    }

    /// A client that cancels: the origin is told so, stream by stream.
    fn cancelled_streams_are_cancelled_at_the_origin(driver) {
        let (origin, gate) = gated(Settings::default());
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        let streams = open_all(&client, 20, "GET");
        origin.await_requests(20);
        drop(streams);
        proxy.await_metric("ringway_upstream_requests_active", &[], |active| active == 0.0);
        gate.open();
        client.get("/after").expect(200);
        assert_eq!(origin.accepted(), 1);
    }

    fn a_failure_of_one_stream_is_its_own(driver) {
        let origin = Origin::with(|exchange| match exchange.path() {
            "/reset" => exchange.reset(Reason::INTERNAL_ERROR),
            "/calm" => exchange.reset(Reason::ENHANCE_YOUR_CALM),
            _ => scripted(exchange),
        });
        let proxy = Proxy::start(driver, &origin.config());
        let client = Client::connect(proxy.address());
        for _ in 0..20 {
            client.get("/reset").expect(502);
            client.get("/fine").expect(200);
            let calm = client.try_ask(request("GET", "/calm", &[])).map(|response| response.status);
            assert!(matches!(calm, Ok(502 | 503) | Err(Failure::Reset(_))), "{calm:?}");
        }
        assert_eq!(origin.accepted(), 1);
        assert_eq!(proxy.metrics().sum("ringway_upstream_failures_total", &[]), 40.0);
    }
}
