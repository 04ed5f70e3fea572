//! Traffic splits: shares, users that stay on their arm, arms by what a request carries, the switch from blue to green,
//! faults made on purpose, and tunnels that outlive the change of their route.

use h2::Reason;
use ringway_tests::client::Client;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::client::{Client as Http2Client, Then, request};
use ringway_tests::load::{Load, OnClose};
use ringway_tests::origin::{After, Exchange, Origin, Outcome, named};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::eventually;
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// Two origins, `blue` and `green`, and one route with this split.
fn config(blue: &Origin, green: &Origin, split: &str) -> Config {
    Config::to(blue)
        .and_upstream("blue", blue)
        .and_upstream("green", green)
        .routes(&format!("- name: shop\n  split:\n    {}", split.replace('\n', "\n    ")))
}

fn colours() -> (Origin, Origin) {
    (Origin::with(named("blue")), Origin::with(named("green")))
}

/// Which arm answers each of these users.
fn arms(client: &mut Client, users: std::ops::Range<u32>) -> Vec<String> {
    let ask = |user| {
        client.ask(&format!("GET / HTTP/1.1\r\nHost: test\r\nX-User: user-{user}\r\n\r\n")).expect(200).text()
    };
    users.map(ask).collect()
}

/// A WebSocket's 101, and then whatever comes goes back with a name in front.
fn echo_as(name: &'static str) -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    move |exchange| {
        if !exchange.head.names("connection", "upgrade") {
            exchange.read_body()?;
            return exchange.reply(200, &[], name);
        }
        exchange.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        )?;
        loop {
            let now = exchange.wire.buffered().len();
            let bytes = exchange.wire.exactly(now)?;
            if !bytes.is_empty() {
                exchange.write(name)?;
                exchange.write(bytes)?;
            }
            if exchange.wire.fill()? == 0 {
                break;
            }
        }
        exchange.wire.stream.shutdown(Shutdown::Write)?;
        Ok(After::Close)
    }
}

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn talks(client: &mut Client, expected: &str) {
    client.send("hi");
    let answer = client.wire.exactly(expected.len() + 2).expect("an echo");
    assert_eq!(String::from_utf8_lossy(&answer), format!("{expected}hi"));
}

for_each_driver! {
    /// A hundredth of 100,000 users, give or take a tenth of it.
    fn one_percent_of_the_users(driver) within 120 {
        const USERS: u32 = 100_000;
        let (blue, green) = colours();
        let split = "hash_on: { header: x-user }\narms: [{ upstream: blue, weight: 99 }, { upstream: green, weight: 1 }]";
        let proxy = Proxy::start(driver, &config(&blue, &green, split).listener("requests_per_connection_max: 0"));
        let got = arms(&mut proxy.connect(), 0..USERS).iter().filter(|arm| *arm == "green").count();
        let share = got as f64 * 100.0 / f64::from(USERS);
        assert!((0.9..=1.1).contains(&share), "{share} %");
        let counted = |arm| proxy.metrics().sum("ringway_split_requests_total", &[("route", "shop"), ("arm", arm)]);
        assert_eq!(counted("green"), got as f64);
        assert_eq!(counted("blue"), f64::from(USERS) - got as f64);
    }

    /// The same user, the same arm: over reloads, on other connections and workers; and when the share grows, nobody who
    /// had the new version loses it.
    fn users_stay_on_their_arm(driver) within 60 {
        let (blue, green) = colours();
        let split = |share: u32, extra: &str| format!(
            "hash_on: {{ header: x-user }}\narms: [{{ upstream: blue, weight: {} }}, {{ upstream: green, weight: {share}{extra} }}]",
            100 - share,
        );
        let at = |share, extra| config(&blue, &green, &split(share, extra)).workers(2).listener("requests_per_connection_max: 0");
        let proxy = Proxy::start(driver, &at(10, ""));
        let before = arms(&mut proxy.connect(), 0..500);
        assert!(before.iter().any(|arm| arm == "green"));
        proxy.reload(&at(10, ", match: { headers: [{ name: x-tester, present: true }] }"));
        assert_eq!(arms(&mut proxy.connect(), 0..500), before, "over a reload");
        let again = Proxy::start(driver, &at(10, ""));
        assert_eq!(arms(&mut again.connect(), 0..500), before, "in another process");
        proxy.reload(&at(30, ""));
        let grown = arms(&mut proxy.connect(), 0..500);
        for (user, (before, after)) in before.iter().zip(&grown).enumerate() {
            assert!(before == "blue" || after == "green", "user {user} was taken off the new version");
        }
        let count = |arms: &[String]| arms.iter().filter(|arm| *arm == "green").count();
        assert!(count(&grown) > count(&before) + 50, "{} after {}", count(&grown), count(&before));
        // Who says nothing is drawn anew each time, and so is who says it with an empty value.
        for field in ["", "X-User:\r\n"] {
            let mut client = proxy.connect();
            let mut ask = || client.ask(&format!("GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n")).expect(200).text();
            let drawn: Vec<String> = (0..100).map(|_| ask()).collect();
            assert!((10..60).contains(&count(&drawn)), "{field:?}: {} of 100", count(&drawn));
        }
    }

    /// Testers by header, others by cookie or parameter; the first arm that agrees takes them, whatever the weights.
    fn arms_by_what_a_request_carries(driver) {
        let (blue, green) = colours();
        let split = "arms:\n\
            - { upstream: blue }\n\
            - name: testers\n  upstream: green\n  weight: 0\n  match: { headers: [{ name: x-tester, exact: 'yes' }] }\n\
            - name: beta\n  upstream: green\n  weight: 0\n  match: { cookies: [{ name: beta, exact: '1' }], query: [{ name: v, exact: '2' }] }";
        let proxy = Proxy::start(driver, &config(&blue, &green, split).top("access_log: { mode: off }"));
        for (target, field, expected) in [
            ("/", "", "blue"),
            ("/", "X-Tester: yes\r\n", "green"),
            ("/", "X-Tester: no\r\n", "blue"),
            ("/?v=2", "Cookie: a=b; beta=1\r\n", "green"),
            ("/?v=1", "Cookie: a=b; beta=1\r\n", "blue"),
            ("/?v=2", "Cookie: Beta=1\r\n", "blue"),
        ] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{field}\r\n");
            assert_eq!(proxy.connect().ask(&request).expect(200).text(), expected, "{target} {field}");
        }
        let counted = |arm| proxy.metrics().sum("ringway_split_requests_total", &[("arm", arm)]);
        assert_eq!([counted("blue"), counted("testers"), counted("beta")], [4.0, 1.0, 1.0]);
    }

    /// From blue to green and back under load: nothing is lost, and from the switch on all of it goes the new way.
    fn blue_green_under_load(driver) within 60 {
        let (blue, green) = colours();
        let active = |name: &str| {
            config(&blue, &green, &format!("active: {name}\narms: [{{ upstream: blue }}, {{ upstream: green }}]")).workers(2)
        };
        let proxy = Proxy::start(driver, &active("blue"));
        let load = Load::start(proxy.address(), 8, "/", OnClose::Reconnect);
        load.await_answers(300);
        assert_eq!(green.request_count(), 0);
        for round in 0..6 {
            let (name, to, from) = if round % 2 == 0 { ("green", &green, &blue) } else { ("blue", &blue, &green) };
            proxy.reload(&active(name));
            // What was under way when the switch came may still arrive.
            let after = |origin: &Origin| origin.request_count();
            let mut old = after(from);
            eventually("the other colour alone", || {
                let new = after(to);
                load.await_answers(200);
                let quiet = std::mem::replace(&mut old, after(from)) == after(from);
                (quiet && after(to) > new).then_some(())
            });
        }
        let tally = load.stop();
        assert_eq!(tally.failures, Vec::<String>::new(), "of {}", tally.answered);
        assert_eq!(tally.closes, 0);
    }

    /// Requests that wait or fail on purpose; those that don't carry the header are left alone.
    fn faults(driver) {
        let origin = Origin::with(named("well"));
        let fault = "fault: { abort: { status: 503 }, headers: [{ name: x-fault, exact: abort }] }";
        let proxy = Proxy::start(driver, &Config::to(&origin).route(fault));
        let mut client = proxy.connect();
        let response = client.ask("GET / HTTP/1.1\r\nHost: test\r\nX-Fault: abort\r\n\r\n").expect(503);
        assert_eq!(problem(&response).reason, "fault_injected");
        assert_eq!(client.get("/").expect(200).text(), "well", "the connection lives on");
        assert_eq!(origin.request_count(), 1, "an aborted request reaches nobody");
        proxy.await_metric("ringway_route_requests_total", &[("route", "all"), ("code", "5xx")], |n| n == 1.0);
        let slow = Config::to(&origin).route("fault: { delay: { duration: 120ms }, headers: [{ name: x-fault, exact: delay }] }");
        proxy.reload(&slow);
        let timed = |client: &mut Client, field: &str| {
            let started = Instant::now();
            client.ask(&format!("GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n")).expect(200);
            started.elapsed()
        };
        let waited = timed(&mut client, "X-Fault: delay\r\n");
        assert!(waited >= Duration::from_millis(120), "{waited:?}");
        let mut half = proxy.connect();
        half.send("GET / HTTP/1.1\r\nHost: test\r\nX-Fault: delay\r\n\r\n");
        half.half_close();
        assert_eq!(half.response("GET").expect(200).text(), "well", "who has said all it will say is not gone");
        assert!((0..10).any(|_| timed(&mut client, "") < waited));
        let half = Config::to(&origin).route("fault: { abort: { status: 418, percent: 50 } }");
        proxy.reload(&half);
        let failed = (0..200).filter(|_| client.get("/").status == 418).count();
        assert!((60..140).contains(&failed), "{failed} of 200");
    }

    /// Nobody waits for a client that has gone: not the worker, and not the upstream with a request.
    fn a_delay_ends_with_its_client(driver) {
        let origin = Origin::with(named("well"));
        let fault = "fault: { delay: { duration: 10m }, headers: [{ name: x-fault, exact: delay }] }\n    timeouts: { request: 20m }";
        let config = Config::to(&origin).route(fault).top("timeouts: { half_closed: 1s }");
        let proxy = Proxy::start(driver, &config);
        let http2 = Http2Client::connect(proxy.address());
        let cancelled = http2.open(request("GET", "/", &[("x-fault", "delay")]), Then::End);
        let mut waiting: Vec<Client> = (0..3).map(|_| proxy.connect()).collect();
        for client in &mut waiting {
            client.send("GET / HTTP/1.1\r\nHost: test\r\nX-Fault: delay\r\n\r\n");
        }
        let active = |count: f64| {
            proxy.await_metric("ringway_requests_active", &[], |now| now == count);
        };
        active(4.0);
        waiting.pop().expect("one of three").reset();
        active(3.0);
        drop(waiting);
        active(1.0);
        cancelled.reset(Reason::CANCEL);
        active(0.0);
        assert_eq!(proxy.metrics().sum("ringway_refused_total", &[("reason", "client_gone")]), 4.0);
        assert_eq!(origin.request_count(), 0);
    }

    /// A WebSocket goes on over a reload that sends new ones elsewhere.
    fn web_sockets_outlive_their_route(driver) {
        let (blue, green) = (Origin::with(echo_as("blue ")), Origin::with(echo_as("green ")));
        let active = |name: &str| {
            config(&blue, &green, &format!("active: {name}\narms: [{{ upstream: blue }}, {{ upstream: green }}]"))
        };
        let proxy = Proxy::start(driver, &active("blue"));
        let mut old = proxy.connect();
        old.ask(HANDSHAKE).expect(101);
        talks(&mut old, "blue ");
        proxy.reload(&active("green"));
        let mut new = proxy.connect();
        new.ask(HANDSHAKE).expect(101);
        for _ in 0..3 {
            talks(&mut new, "green ");
            talks(&mut old, "blue ");
        }
        // Also over one that removes the route altogether.
        proxy.reload(&Config::to(&green).routes("- { name: other, match: { path: { prefix: /other } }, upstream: origin }"));
        talks(&mut old, "blue ");
        talks(&mut new, "green ");
        proxy.connect().ask(HANDSHAKE).expect(404);
    }
}
