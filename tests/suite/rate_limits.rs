//! Rate limits and limits of requests at once: how many get through, whatever connections and workers they come by, what
//! the others are told, and what an operator sees.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::wait::{Gate, eventually};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

fn limited(origin: &Origin, limit: &str) -> Config {
    Config::to(origin).top(&format!("rate_limits: {{ rates: [{limit}] }}")).route("rate_limits: [limit]")
}

/// Asks as fast as it can over so many connections for so long; how many got 200, and how many 429.
fn flood(address: SocketAddr, connections: usize, lasts: Duration) -> (usize, usize) {
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let start = Arc::new(Barrier::new(connections + 1));
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let (stop, counts, start) = (Arc::clone(&stop), Arc::clone(&counts), Arc::clone(&start));
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                start.wait();
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get("/");
                    counts[usize::from(response.status != 200)].fetch_add(1, Ordering::Relaxed);
                    if response.closes() {
                        client = Client::connect(address);
                    }
                }
            })
        })
        .collect();
    start.wait();
    std::thread::park_timeout(lasts);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no client panics");
    }
    let [admitted, refused] = [0, 1].map(|at| counts[at].load(Ordering::Relaxed));
    (admitted, refused)
}

/// Two workers, the same limit: all of it over one connection, and then over many, admits what is due and no more.
fn exact_over_connections(driver: Driver, connections: usize) {
    const RATE: usize = 200;
    const BURST: usize = 20;
    let origin = Origin::start();
    let limit = format!("{{ name: limit, rate: {RATE}/s, burst: {BURST} }}");
    let config = limited(&origin, &limit).workers(2).listener("requests_per_connection_max: 0");
    let proxy = Proxy::start(driver, &config);
    let begun = Instant::now();
    let (admitted, refused) = flood(proxy.address(), connections, Duration::from_secs(5));
    let seconds = begun.elapsed().as_secs_f64();
    let due = RATE as f64 * seconds + BURST as f64;
    assert!((admitted as f64) <= due, "{admitted} admitted, {due} due, {refused} refused in {seconds} s");
    // What was asked for is there all the time; the first and last moments are not exactly those of the clock here.
    let least = RATE as f64 * 5.0 * 0.99;
    assert!(admitted as f64 >= least, "{admitted} admitted, at least {least} due, {refused} refused");
    assert!(refused > admitted, "{refused} refused: the flood was none");
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("ringway_rate_limit_admitted_total", &[("limit", "limit")]), admitted as f64);
    assert_eq!(metrics.sum("ringway_rate_limit_rejected_total", &[("limit", "limit")]), refused as f64);
    assert_eq!(origin.request_count(), admitted);
}

for_each_driver! {
    fn all_on_one_connection(driver) within 60 {
        exact_over_connections(driver, 1);
    }

    fn spread_over_many_connections(driver) within 60 {
        exact_over_connections(driver, 24);
    }

    /// What a refused client is told, and what an admitted one is.
    fn answers_tell_of_the_limit(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &limited(&origin, "{ name: limit, rate: 2/h, key: [client_address] }"));
        for left in [1, 0] {
            let response = proxy.get("/").expect(200);
            assert_eq!(response.field("ratelimit-policy"), Some("\"limit\";q=2;w=3600"));
            let told = response.field("ratelimit").expect("RateLimit").to_owned();
            assert!(told.starts_with(&format!("\"limit\";r={left};t=")), "{told}");
        }
        let mut client = proxy.connect();
        let response = client.get("/").expect(429);
        assert_eq!(problem(&response).reason, "rate_limited");
        let wait: u64 = response.field("retry-after").expect("Retry-After").parse().expect("seconds");
        assert!((1_700..=1_800).contains(&wait), "{wait} s");
        assert!(response.field("ratelimit").is_some_and(|told| told.starts_with("\"limit\";r=0;t=")));
        // A refusal costs a client no connection.
        client.get("/").expect(429);
        assert_eq!(origin.request_count(), 2);
        let off = limited(&origin, "{ name: limit, rate: 2/h }").to_string().replace("] }\n", "], headers: false }\n");
        let quiet = Proxy::start_text(driver, &off);
        assert_eq!(quiet.get("/").expect(200).field("ratelimit"), None);
    }

    /// Both fields name the same moment, what is left is never more than the quota, and limits that only count say nothing.
    fn what_is_told_of_bursts_waits_and_shadows(driver) {
        let origin = Origin::start();
        let number = |told: &str, name: &str| -> u64 {
            let part = told.split(';').find_map(|part| part.strip_prefix(&format!("{name}="))).unwrap_or_else(|| panic!("{name} in {told}"));
            part.parse().expect("a number")
        };
        for (limit, admitted, quota) in
            [("rate: 100/10h", 100, "q=100;w=36000"), ("rate: 10/h, burst: 30", 30, "q=30;w=10800"), ("rate: 10/h, burst: 3", 3, "q=10;w=3600")]
        {
            let proxy = Proxy::start(driver, &limited(&origin, &format!("{{ name: limit, {limit} }}")));
            let mut client = proxy.connect();
            for left in (0..admitted).rev() {
                let response = client.get("/").expect(200);
                assert_eq!(response.field("ratelimit-policy"), Some(&*format!("\"limit\";{quota}")));
                let told = response.field("ratelimit").expect("RateLimit");
                assert_eq!(number(told, "r"), left, "{limit}");
                assert!((355..=360).contains(&number(told, "t")), "{limit}: {told}");
            }
            let response = client.get("/").expect(429);
            let told = response.field("ratelimit").expect("RateLimit");
            assert_eq!((number(told, "r"), number(told, "t")), (0, number(&format!("w={}", response.field("retry-after").unwrap()), "w")));
        }
        let shadow = Proxy::start(driver, &limited(&origin, "{ name: limit, rate: 1/h, mode: shadow }"));
        for _ in 0..2 {
            let response = shadow.get("/").expect(200);
            assert_eq!((response.field("ratelimit"), response.field("ratelimit-policy")), (None, None));
        }
    }

    /// So is one whose answer is our own.
    fn own_answers_tell_of_the_limit(driver) {
        let origin = Origin::start();
        for action in ["respond: { status: 204 }", "redirect: { status: 302, location: /other }"] {
            let config = Config::to(&origin)
                .top("rate_limits: { rates: [{ name: limit, rate: 1/h }] }")
                .routes(&format!("- name: own\n  rate_limits: [limit]\n  {action}"));
            let proxy = Proxy::start(driver, &config);
            let mut client = proxy.connect();
            let told = client.get("/").field("ratelimit").expect("RateLimit").to_owned();
            assert!(told.starts_with("\"limit\";r=0;t="), "{told}");
            client.get("/").expect(429);
        }
    }

    /// Keys count apart; what lacks the part counts together, so that nobody escapes by leaving it out.
    fn keys_count_apart(driver) {
        let origin = Origin::start();
        for (key, first, other, lacking) in [
            ("{ header: x-key }", "X-Key: a\r\n", "X-Key: b\r\n", ""),
            ("{ cookie: key }", "Cookie: x=1; key=a\r\n", "Cookie: key=b\r\n", "Cookie: x=1\r\n"),
        ] {
            let proxy = Proxy::start(driver, &limited(&origin, &format!("{{ name: limit, rate: 1/h, key: [{key}] }}")));
            let status = |field: &str| proxy.connect().ask(&format!("GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n")).status;
            assert_eq!([status(first), status(first)], [200, 429], "{key}");
            assert_eq!([status(other), status(other)], [200, 429], "{key}");
            assert_eq!([status(lacking), status(lacking)], [200, 429], "{key}");
        }
        let proxy = Proxy::start(driver, &limited(&origin, "{ name: limit, rate: 1/h, key: [method, path, { query: k }] }"));
        let status = |line: &str| proxy.connect().ask(&format!("{line} HTTP/1.1\r\nHost: test\r\n\r\n")).status;
        for line in ["GET /a", "GET /b", "DELETE /a", "GET /a?k=1", "GET /a?x=2&k=2"] {
            assert_eq!([status(line), status(line)], [200, 429], "{line}");
        }
    }

    /// What is matched alike is counted alike, however it is written.
    fn a_key_is_the_same_in_any_spelling(driver) {
        let origin = Origin::start();
        for (key, hosts, targets) in [
            ("host", &["test", "TEST", "test.", "test:80", "Test.:8080"][..], &["/"][..]),
            ("{ header: Host }", &["test", "TEST", "test.", "test:80"], &["/"]),
            ("{ query: k }", &["test"], &["/?k=ab", "/?k=a%62", "/?%6b=%61b", "/?x=1&k=ab&k=cd"]),
            ("{ query: k }", &["test"], &["/?k=a+b", "/?k=a%20b"]),
            ("path", &["test"], &["/a", "/%61", "/./a", "/b/../a"]),
        ] {
            let proxy = Proxy::start(driver, &limited(&origin, &format!("{{ name: limit, rate: 1/h, key: [{key}] }}")));
            let mut statuses = Vec::new();
            for (host, target) in hosts.iter().flat_map(|host| targets.iter().map(move |target| (host, target))) {
                statuses.push(proxy.connect().ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).status);
            }
            assert_eq!(statuses[0], 200, "{key}");
            assert!(statuses[1..].iter().all(|status| *status == 429), "{key}, {hosts:?}, {targets:?}: {statuses:?}");
        }
    }

    /// Several at once: the strictest refuses, and what it refuses costs the others nothing.
    fn several_limits(driver) {
        let origin = Origin::start();
        let config = Config::to(&origin)
            .top("rate_limits: { rates: [{ name: narrow, rate: 2/h }, { name: wide, rate: 5/h }, { name: shadow, rate: 1/h, mode: shadow }] }")
            .routes("- { name: both, match: { path: { prefix: /both } }, rate_limits: [narrow, wide, shadow], upstream: origin }\n- { name: dear, match: { path: { prefix: /dear } }, rate_limits: [{ name: wide, cost: 2 }], upstream: origin }\n- { name: none, upstream: origin }");
        let proxy = Proxy::start(driver, &config);
        let status = |target: &str| proxy.get(target).status;
        assert_eq!([status("/both"), status("/both"), status("/both"), status("/both")], [200, 200, 429, 429]);
        // Two of five are gone: one request of two more, and then there is but one left.
        assert_eq!([status("/dear"), status("/dear")], [200, 429]);
        assert_eq!(status("/none"), 200);
        let metrics = proxy.metrics();
        assert_eq!(metrics.sum("ringway_rate_limit_shadow_rejected_total", &[("limit", "shadow")]), 3.0);
        assert_eq!(metrics.sum("ringway_rate_limit_rejected_total", &[("limit", "narrow")]), 2.0);
        assert_eq!(metrics.sum("ringway_rate_limit_rejected_total", &[("limit", "wide")]), 1.0);
    }

    /// A delay instead of a refusal, as far as it is allowed.
    fn delays(driver) {
        let origin = Origin::start();
        let proxy = Proxy::start(driver, &limited(&origin, "{ name: limit, rate: 5/s, burst: 1, delay_max: 500ms }"));
        let begun = Instant::now();
        let mut client = proxy.connect();
        for _ in 0..4 {
            client.get("/").expect(200);
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(550), "{took:?}");
        assert!(proxy.metrics().sum("ringway_rate_limit_delayed_total", &[]) >= 2.0);
        // More at once than may wait.
        let mut clients: Vec<Client> = (0..8).map(|_| proxy.connect()).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        let refused = clients.iter_mut().filter(|_| true).map(|c| c.response("GET").status).filter(|s| *s == 429).count();
        assert!((3..=7).contains(&refused), "{refused} of 8 refused");
    }

    /// The response says what a request took.
    fn costs_from_responses(driver) {
        let origin = Origin::with(|exchange| {
            exchange.read_body()?;
            exchange.reply(200, &[("X-Cost", "4")], "dear")
        });
        let proxy = Proxy::start(driver, &limited(&origin, "{ name: limit, rate: 10/h, cost_from_response: x-cost }"));
        let statuses: Vec<u16> = (0..5).map(|_| proxy.get("/").status).collect();
        assert_eq!(statuses, [200, 200, 200, 429, 429], "4, 8 and 12 of 10: then it is in debt");
    }

    /// An attacker with a new key for each request, far more of them than in a burst of anybody's: memory stays what it
    /// was, and an honest client gets neither more nor less than its due.
    fn a_flood_of_keys(driver) within 90 {
        const KEYS: usize = 120_000;
        const RATE: f64 = 200.0;
        const BURST: f64 = 50.0;
        let origin = Origin::start();
        let config = Config::to(&origin)
            .workers(2)
            .listener("requests_per_connection_max: 0")
            .top("rate_limits: { rates: [{ name: limit, rate: 200/s, burst: 50, key: [{ header: x-key }] }], keys_max: 200000 }")
            .routes("- { name: own, rate_limits: [limit], respond: { status: 204 } }");
        let proxy = Proxy::start(driver, &config);
        let memory = || {
            let page: serde_json::Value = serde_json::from_str(&proxy.admin("/rate-limits").expect(200).text()).unwrap();
            page["memory_bytes"].as_u64().expect("bytes")
        };
        let before = memory();
        let address = proxy.address();
        let over = Arc::new(AtomicBool::new(false));
        let flood = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                let mut client = Client::connect(address);
                for batch in 0..KEYS / 100 {
                    let ask = |i| format!("GET / HTTP/1.1\r\nHost: test\r\nX-Key: {}\r\n\r\n", batch * 100 + i);
                    client.send((0..100).map(ask).collect::<String>());
                    for _ in 0..100 {
                        client.response("GET").expect(204);
                    }
                }
                over.store(true, Ordering::Relaxed);
            }
        });
        let mut honest = Client::connect(address);
        let begun = Instant::now();
        let mut admitted = 0_u32;
        while !over.load(Ordering::Relaxed) || begun.elapsed() < Duration::from_secs(2) {
            let response = honest.ask("GET / HTTP/1.1\r\nHost: test\r\nX-Key: honest\r\n\r\n");
            admitted += u32::from(response.status == 204);
        }
        let due = BURST + RATE * begun.elapsed().as_secs_f64();
        flood.join().expect("the flood does not panic");
        assert!(f64::from(admitted) <= due && f64::from(admitted) >= due * 0.99 - 1.0, "{admitted} of {due}");
        assert_eq!(memory(), before);
    }

    /// What was counted survives a reload, and an operator can see it and fill it again.
    fn reloads_and_the_admin(driver) {
        let origin = Origin::start();
        let config = limited(&origin, "{ name: limit, rate: 3/h, key: [client_address] }");
        let proxy = Proxy::start(driver, &config);
        let status = || proxy.get("/").status;
        assert_eq!([status(), status()], [200, 200]);
        proxy.reload(&config.clone().route("timeouts: { request: 9s }"));
        assert_eq!([status(), status()], [200, 429]);
        let page: serde_json::Value = serde_json::from_str(&proxy.admin("/rate-limits").expect(200).text()).unwrap();
        assert_eq!(page["rates"][0]["name"], "limit");
        assert_eq!((page["rates"][0]["admitted"].as_u64(), page["rates"][0]["rejected"].as_u64()), (Some(3), Some(1)));
        assert_eq!(page["heaviest"].as_array().map(Vec::len), Some(0), "four requests are not heavy");
        assert_eq!(page["keys_in_use"], 1);
        let key = |text: &str| proxy.admin(&format!("/rate-limits/key?{text}"));
        let state: serde_json::Value = serde_json::from_str(&key("limit=limit&key=127.0.0.1").expect(200).text()).unwrap();
        assert_eq!(state["tokens"], 0);
        for (wrong, said) in [
            ("limit=other&key=127.0.0.1", "there is no rate limit `other`"),
            ("limit=limit", "has 1 parts, not 0"),
            ("limit=limit&key=elsewhere", "is no IP address"),
            ("what=limit", "expected ?limit="),
        ] {
            let response = key(wrong).expect(400);
            assert!(response.text().contains(said), "{wrong}: {}", response.text());
        }
        let mut admin = Client::connect(proxy.admin_address());
        let reset = "POST /rate-limits/reset?limit=limit&key=127%2e0.0.1 HTTP/1.1\r\nHost: test\r\n\r\n";
        let answer: serde_json::Value = serde_json::from_str(&admin.ask(reset).expect(200).text()).unwrap();
        assert_eq!((answer["reset"].as_bool(), answer["tokens"].as_u64()), (Some(true), Some(3)));
        // A worker that has just refused the key may go on for a few milliseconds.
        eventually("that the key is admitted again", || (status() == 200).then_some(()));
        let mut client = proxy.connect();
        for _ in 0..600 {
            client.get("/");
        }
        let page: serde_json::Value = serde_json::from_str(&proxy.admin("/rate-limits").expect(200).text()).unwrap();
        assert_eq!(page["heaviest"][0]["key"], "limit 127.0.0.1");
        assert!(page["heaviest"][0]["decisions"].as_u64().is_some_and(|n| (500..=620).contains(&n)), "{page}");
        // A browser's page may not.
        let forged = "POST /rate-limits/reset?limit=limit&key=127.0.0.1 HTTP/1.1\r\nHost: test\r\nOrigin: http://evil\r\n\r\n";
        Client::connect(proxy.admin_address()).ask(forged).expect(403);
    }

    /// A rate that changed: the share that was used up stays, and the wait is the new rate's. So it is with another table.
    fn a_changed_rate_keeps_the_share_that_was_used(driver) {
        let origin = Origin::start();
        let top = |limit: &str, keys_max: u32| {
            let limits = format!("rate_limits: {{ rates: [{{ name: limit, {limit} }}], keys_max: {keys_max} }}");
            Config::to(&origin).workers(2).top(&limits).route("rate_limits: [limit]")
        };
        let proxy = Proxy::start(driver, &top("rate: 100/d", 1_000));
        let refused = |wait_s_max: u64| {
            let response = proxy.get("/").expect(429);
            let wait: u64 = response.field("retry-after").expect("Retry-After").parse().expect("seconds");
            assert!((1..=wait_s_max).contains(&wait), "{wait} s");
        };
        for _ in 0..100 {
            proxy.get("/").expect(200);
        }
        refused(864);
        for (limit, keys_max, wait_s_max) in
            [("rate: 100/h", 1_000, 36), ("rate: 100/d", 2_000, 864), ("rate: 1/m, burst: 2", 1_000, 60)]
        {
            proxy.reload(&top(limit, keys_max));
            refused(wait_s_max);
        }
        assert_eq!(origin.request_count(), 100);
    }

    /// At once, exact over both workers, and given back however a request ends.
    fn requests_at_once(driver) {
        let gate = Gate::new();
        let held = gate.clone();
        let origin = Origin::with(move |exchange| {
            if exchange.target() == "/held" {
                held.wait();
            }
            scripted(exchange)
        });
        let config = Config::to(&origin)
            .workers(2)
            .top("rate_limits: { in_flight: [{ name: few, max: 3, key: [{ header: x-key }, client_address] }] }")
            .route("in_flight_limits: [few]");
        let proxy = Proxy::start(driver, &config);
        let request = |target: &str, key: &str| format!("GET {target} HTTP/1.1\r\nHost: test\r\nX-Key: {key}\r\n\r\n");
        let mut three: Vec<Client> = (0..3)
            .map(|_| {
                let mut client = proxy.connect();
                client.send(request("/held", "a"));
                client
            })
            .collect();
        origin.await_requests(3);
        for _ in 0..6 {
            let response = proxy.connect().ask(&request("/", "a")).expect(429);
            assert_eq!(problem(&response).reason, "in_flight_limited");
            assert_eq!(response.field("retry-after"), Some("1"));
        }
        proxy.connect().ask(&request("/", "b")).expect(200);
        // One leaves without an answer, two get theirs.
        drop(three.pop());
        eventually("the place of the client that left", || {
            (proxy.connect().ask(&request("/", "a")).status == 200).then_some(())
        });
        gate.open();
        for client in &mut three {
            client.response("GET").expect(200);
        }
        for _ in 0..10 {
            proxy.connect().ask(&request("/", "a")).expect(200);
        }
    }
}
