//! Upstream connections: kept, shared, bounded, aged, and safe when the origin has closed them meanwhile.

use ringway_tests::client::{get, post};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{After, Exchange, Origin, Outcome, named, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::{Gate, eventually};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Serves one request a connection, then reads the next head and closes without a byte: the keep-alive race of RFC
/// 9112 section 9.3.1, made certain.
fn stale_after_one() -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    let served = Mutex::new(BTreeMap::<usize, usize>::new());
    move |exchange| {
        exchange.read_body()?;
        let nth = {
            let mut served = served.lock().unwrap();
            let count = served.entry(exchange.connection).or_default();
            *count += 1;
            *count
        };
        if nth == 1 { exchange.reply(200, &[], "fresh") } else { Ok(After::Close) }
    }
}

/// A response that nobody asked for.
const STRAY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray";

/// Answers each request, and `after` that says what nobody asked for; then counts it in `said`.
fn talkative(
    after: Duration,
    stray: &'static str,
    said: &Arc<AtomicUsize>,
) -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    let said = Arc::clone(said);
    move |exchange| {
        scripted(exchange)?;
        thread::park_timeout(after);
        exchange.write(stray)?;
        said.fetch_add(1, Ordering::SeqCst);
        Ok(After::KeepAlive)
    }
}

fn tally(proxy: &Proxy, requests: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    let mut client = proxy.connect();
    for _ in 0..requests {
        *answers.entry(client.get("/").expect(200).text()).or_default() += 1;
    }
    answers
}

for_each_driver! {
    /// A name that can't be resolved is its own upstream's trouble: the proxy starts, takes over reloads, says so, and goes on
    /// asking.
    fn a_name_without_addresses(driver) {
        let origin = Origin::start();
        let routes = "\
- { name: gone, match: { path: { prefix: /gone } }, upstream: gone }
- { name: all, upstream: origin }";
        let gone = "  - { name: gone, endpoints: [\"http://no-such-host.invalid:80\"] }\nroutes:\n";
        let text = Config::to(&origin).routes(routes).to_string().replace("routes:\n", gone);
        let proxy = Proxy::start_text(driver, &text);
        assert_eq!(proxy.get("/").expect(200).text(), "GET /");
        assert_eq!(problem(&proxy.get("/gone").expect(503)).reason, "no_endpoint");
        assert_eq!(proxy.metrics().sum("ringway_names_unresolved", &[]), 1.0);
        // A name that can be resolved takes its place, and the other way round.
        let found = text.replace("http://no-such-host.invalid:80", &origin.address().to_string().replace("127.0.0.1", "localhost"));
        proxy.server().reload(&found).unwrap();
        assert_eq!(proxy.get("/gone").expect(200).text(), "GET /gone");
        assert_eq!(proxy.metrics().sum("ringway_names_unresolved", &[]), 0.0);
        proxy.server().reload(&text).unwrap();
        proxy.metrics();
        assert_eq!(problem(&proxy.get("/gone").expect(503)).reason, "no_endpoint");
        assert_eq!(proxy.get("/").expect(200).text(), "GET /");
    }

    fn a_stale_connection_is_retried_when_that_is_safe(driver) {
        let origin = Origin::with(stale_after_one());
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for method in ["GET", "GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
            client.ask(&format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n")).expect(200);
        }
        assert_eq!(origin.accepted(), 6, "each second use is repeated on a new connection");
    }

    /// RFC 9110 section 9.2.2: a POST must not be repeated once a byte of it may have been acted on.
    fn a_post_is_not_repeated(driver) {
        let origin = Origin::with(stale_after_one());
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.ask(&post("/first", "body")).expect(200);
        client.ask(&post("/second", "body")).expect(502);
        let seconds = origin.requests().iter().filter(|record| record.target() == "/second").count();
        assert_eq!(seconds, 1);
    }

    /// Half an answer has been seen: repeating would be wrong even for a GET.
    fn nothing_is_repeated_after_a_byte_of_the_answer(driver) {
        let served = AtomicUsize::new(0);
        let origin = Origin::with(move |exchange| {
            if served.fetch_add(1, Ordering::SeqCst) == 0 {
                return scripted(exchange);
            }
            exchange.write("HTTP/1.1 2")?;
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        client.get("/").expect(200);
        client.get("/").expect(502);
        assert_eq!(origin.request_count(), 2);
    }

    fn an_origin_that_always_closes_is_not_asked_forever(driver) {
        let origin = Origin::with(|_| Ok(After::Close));
        let proxy = Proxy::start(driver, &Config::to(&origin));
        proxy.get("/").expect(502);
        assert_eq!(origin.request_count(), 1, "a new connection that fails is no stale one");
    }

    /// Whatever an origin says over an idle connection is nobody's response, however soon after the last one it comes.
    fn a_late_response_never_reaches_another_client(driver) {
        // The start of a response, and what is none at all, are no better than a whole one.
        let strays = [(0, STRAY), (1, STRAY), (100, STRAY), (1, "HTTP/1.1 200 OK\r\n"), (1, "\r\n")];
        for (after_ms, stray) in strays {
            let said = Arc::default();
            let origin = Origin::with(talkative(Duration::from_millis(after_ms), stray, &said));
            let proxy = Proxy::start(driver, &Config::to(&origin));
            for number in 1..=5 {
                let target = format!("/{number}");
                assert_eq!(proxy.get(&target).expect(200).text(), format!("GET {target}"), "{after_ms} ms");
                eventually("the stray", || (said.load(Ordering::SeqCst) == number).then_some(()));
            }
            assert_eq!(origin.accepted(), 5, "none was used again");
            proxy.await_metric("ringway_upstream_unsolicited_total", &[], |count| count >= 4.0);
        }
    }

    /// Both in one write: the second is read with the first, or stays in the socket behind a body that is spliced.
    fn a_second_response_in_the_same_segment(driver) {
        let big = 300_000;
        let origin = Origin::with(move |exchange| {
            exchange.read_body()?;
            let body = if exchange.target() == "/big" { "b".repeat(big) } else { "small".to_owned() };
            exchange.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}{STRAY}", body.len()))?;
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for number in 1..=5 {
            assert_eq!(proxy.get("/small").expect(200).text(), "small");
            assert_eq!(proxy.get("/big").expect(200).text().len(), big);
            assert_eq!(origin.accepted(), 2 * number);
        }
    }

    /// The newest idle connection is the one that is taken, so under load all of them are fresh.
    fn late_responses_under_load_reach_nobody(driver) within 60 {
        const CLIENTS: usize = 8;
        let (said, came) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let counted = Arc::clone(&said);
        let origin = Origin::with(move |exchange| {
            // A round is answered when it is complete: a stray that comes after the next request was sent on its connection
            // can't be told from an answer.
            let round = came.fetch_add(1, Ordering::SeqCst) / CLIENTS + 1;
            eventually("the whole round", || (came.load(Ordering::SeqCst) >= round * CLIENTS).then_some(()));
            scripted(exchange)?;
            exchange.write(STRAY)?;
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(After::KeepAlive)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).workers(2));
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.connect()).collect();
        for round in 1..=20 {
            for (number, client) in clients.iter_mut().enumerate() {
                client.send(get(&format!("/{round}/{number}")));
            }
            for (number, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.response("GET").expect(200).text(), format!("GET /{round}/{number}"));
            }
            eventually("the strays", || (said.load(Ordering::SeqCst) == round * CLIENTS).then_some(()));
        }
    }

    /// A close that has already arrived is seen before the connection is used, so that even a POST is safe.
    fn a_connection_closed_while_idle_is_not_used(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for number in 1..=5 {
            assert_eq!(client.ask(&post("/", "body")).expect(200).text(), "body");
            origin.cut_connections();
            assert_eq!(origin.accepted(), number);
        }
    }

    fn an_upstream_connection_cap_holds(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).upstream("connections_max: 2"));
        let mut clients: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(get(&format!("/{number}")));
        }
        origin.await_requests(2);
        gate.open();
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response("GET").expect(200).text(), format!("GET /{number}"));
        }
        assert_eq!(origin.open_max(), 2, "the cap");
        assert_eq!(origin.request_count(), 10, "who had to wait was served");
    }

    fn the_queue_for_a_connection_is_bounded(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let config = Config::to(&origin).upstream("connections_max: 1").upstream("pending_max: 2");
        let proxy = Proxy::start(driver, &config);
        let mut first = proxy.connect();
        first.send(get("/first"));
        origin.await_requests(1);
        let mut others: Vec<_> = (0..6).map(|_| proxy.connect()).collect();
        for client in &mut others {
            client.send(get("/"));
        }
        // One is in flight and two wait, so exactly four of the six are turned away.
        let others: Vec<_> = others
            .into_iter()
            .map(|mut client| thread::spawn(move || client.response("GET").status))
            .collect();
        eventually("four refusals", || (others.iter().filter(|t| t.is_finished()).count() >= 4).then_some(()));
        gate.open();
        let mut statuses: Vec<_> = others.into_iter().map(|thread| thread.join().unwrap()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 503, 503, 503, 503]);
        first.response("GET").expect(200);
    }

    fn few_idle_connections_are_kept(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            held.wait();
            scripted(exchange)
        });
        let proxy = Proxy::start(driver, &Config::to(&origin).upstream("idle_connections_max: 3"));
        let mut clients: Vec<_> = (0..10).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        origin.await_requests(10);
        gate.open();
        for client in &mut clients {
            client.response("GET").expect(200);
        }
        origin.await_ended(7);
        assert_eq!((origin.accepted(), origin.ended()), (10, 7), "three stay for the next requests");
    }

    fn idle_connections_age(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin).top("timeouts: { upstream_idle: 200ms }"));
        proxy.get("/").expect(200);
        origin.await_ended(1);
        proxy.get("/").expect(200);
        assert_eq!(origin.accepted(), 2);
    }

    fn round_robin_is_even(driver) {
        let (a, b, c) = (Origin::with(named("a")), Origin::with(named("b")), Origin::with(named("c")));
        let proxy = Proxy::start(driver, &Config::to_all(&[&a, &b, &c]));
        let expected = [("a", 20), ("b", 20), ("c", 20)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(tally(&proxy, 60), expected.into());
    }

    fn weights_are_kept(driver) {
        let (a, b) = (Origin::with(named("a")), Origin::with(named("b")));
        let text = Config::to(&a).to_string().replace(
            &format!("[\"{}\"]", a.address()),
            &format!("[{{ address: \"{}\", weight: 3 }}, {{ address: \"{}\", weight: 1 }}]", a.address(), b.address()),
        );
        let proxy = Proxy::start_text(driver, &text);
        let expected = [("a", 30), ("b", 10)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(tally(&proxy, 40), expected.into());
    }

    /// An endpoint is its address: what else is said of it changes in place.
    fn a_changed_weight_keeps_connections_and_counts(driver) {
        let (a, b) = (Origin::with(named("a")), Origin::with(named("b")));
        let weighted = |weight: u32| {
            let (a, b) = (a.address(), b.address());
            Config::to_urls(&["here"]).to_string().replace(
                "[\"here\"]",
                &format!("[{{ address: \"{a}\", weight: {weight} }}, {{ address: \"{b}\", weight: 1 }}]"),
            )
        };
        let proxy = Proxy::start_text(driver, &weighted(1));
        let expected = [("a", 4), ("b", 4)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(tally(&proxy, 8), expected.into());
        proxy.server().reload(&weighted(3)).unwrap();
        let requests = || proxy.metrics().sum("ringway_upstream_requests_total", &[]);
        assert_eq!(requests(), 8.0);
        let expected = [("a", 6), ("b", 2)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(tally(&proxy, 8), expected.into());
        assert_eq!(requests(), 16.0);
        assert_eq!((a.accepted(), b.accepted()), (1, 1), "their connections stay");
    }

    fn least_requests_avoids_the_busy_one(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let busy = Origin::with(move |exchange| {
            held.wait();
            exchange.reply(200, &[], "busy")
        });
        let free = Origin::with(named("free"));
        let proxy =
            Proxy::start(driver, &Config::to_all(&[&busy, &free]).upstream("balance: least_requests"));
        // Asks until one request hangs at the busy origin; from then on that one always has more in flight.
        let mut asked = Vec::new();
        while busy.request_count() == 0 {
            let mut client = proxy.connect();
            client.send(get("/"));
            asked.push(client);
            let arrived = || (busy.request_count() + free.request_count() == asked.len()).then_some(());
            eventually("the request at one of the two", arrived);
        }
        assert_eq!(tally(&proxy, 30), [("free".to_owned(), 30)].into());
        gate.open();
    }

    fn unix_sockets_are_origins_too(driver) {
        let folder = Folder::new(&format!("unix-{}", driver.name()));
        let origin = Origin::on_unix(&folder.join("origin"), scripted);
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let mut client = proxy.connect();
        for number in 0..10 {
            assert_eq!(client.get(&format!("/{number}")).expect(200).text(), format!("GET /{number}"));
        }
        assert_eq!(client.ask(&post("/", "over a Unix socket")).expect(200).text(), "over a Unix socket");
        assert_eq!(origin.accepted(), 1);
    }

    fn an_origin_that_is_not_there_is_a_bad_gateway(driver) {
        let gone = Origin::start();
        let config = Config::to(&gone);
        drop(gone);
        let proxy = Proxy::start(driver, &config);
        let mut client = proxy.connect();
        for _ in 0..3 {
            // Nothing has been sent anywhere, and the client's connection is as good as before.
            client.get("/").expect(502);
            client.ask(&post("/", "body")).expect(502);
        }
    }

    fn upstream_connections_are_counted(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &Config::to(&origin));
        for _ in 0..5 {
            proxy.get("/").expect(200);
        }
        proxy.await_metric("ringway_upstream_connects_total", &[], |opened| opened == 1.0);
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("ringway_upstream_reused_total", &[]), 4.0);
        assert_eq!(metrics.sum("ringway_upstream_requests_total", &[("upstream", "origin")]), 5.0);
        assert_eq!(metrics.sum("ringway_upstream_connections", &[("upstream", "origin")]), 1.0);
    }
}
