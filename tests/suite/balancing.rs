//! Which endpoint takes a request, by each rule, and what priorities, localities, subsets and cookies make of it.

use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, named};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn origins(count: usize) -> Vec<Origin> {
    NAMES[..count].iter().map(|name| Origin::with(named(name))).collect()
}

/// How many of `count` requests each origin answered, with this field in each.
fn shares(proxy: &Proxy, count: usize, field: impl Fn(usize) -> String) -> BTreeMap<String, usize> {
    let mut client = proxy.connect();
    let mut shares = BTreeMap::new();
    for index in 0..count {
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\n{}\r\n", field(index));
        *shares.entry(client.ask(&request).expect(200).text()).or_default() += 1;
    }
    shares
}

fn plain(_: usize) -> String {
    String::new()
}

/// An endpoint list with details.
fn detailed(origins: &[(&Origin, &str)]) -> String {
    let mut text = String::from("upstreams:\n  - name: origin\n    endpoints:\n");
    for (origin, details) in origins {
        let _ = writeln!(text, "      - {{ address: \"{}\", {details} }}", origin.address());
    }
    text
}

fn config(top: &str, upstreams: &str, upstream_lines: &str, routes: &str) -> String {
    format!(
        "version: 1\nworkers: 1\npin: false\nadmin:\n  address: 127.0.0.1:0\n{top}\nlisteners:\n  - {{ name: public, address: 127.0.0.1:0 }}\n{upstreams}{upstream_lines}\nroutes:\n{routes}\n"
    )
}

const ALL: &str = "  - { name: all, upstream: origin }";

for_each_driver! {
    fn every_rule_uses_everybody_evenly(driver) {
        for rule in ["round_robin", "least_requests", "peak_ewma", "random"] {
            let origins = origins(4);
            let all: Vec<&Origin> = origins.iter().collect();
            let proxy = Proxy::start(driver, &Config::to_all(&all).upstream(&format!("balance: {rule}")));
            let shares = shares(&proxy, 400, plain);
            if rule == "peak_ewma" {
                // One request at a time, so only latencies decide, and these differ by chance.
                assert!(shares.len() >= 2, "{shares:?}");
                continue;
            }
            assert_eq!(shares.len(), 4, "{rule}: {shares:?}");
            // Least requests is a draw among equals here.
            assert!(shares.values().all(|&n| n >= 60), "{rule}: {shares:?}");
            if rule == "round_robin" {
                assert!(shares.values().all(|&n| n == 100), "{shares:?}");
            }
        }
    }

    fn weights(driver) {
        let origins = origins(2);
        let upstreams = detailed(&[(&origins[0], "weight: 3"), (&origins[1], "weight: 1")]);
        for (rule, tolerance) in [("round_robin", 0), ("random", 50), ("least_requests", 4)] {
            let text = config("", &upstreams, &format!("    balance: {rule}"), ALL);
            let proxy = Proxy::start_text(driver, &text);
            let shares = shares(&proxy, 400, plain);
            assert!(shares["a"].abs_diff(300) <= tolerance, "{rule}: {shares:?}");
        }
    }

    /// One request at a time, and latencies that differ only by chance: weights decide.
    fn weights_of_endpoints_as_fast_as_each_other(driver) {
        let origins = ["a", "b"].map(|name| {
            Origin::with(move |exchange| {
                exchange.read_body()?;
                std::thread::park_timeout(Duration::from_millis(20));
                exchange.reply(200, &[], name)
            })
        });
        let upstreams = detailed(&[(&origins[0], "weight: 2"), (&origins[1], "weight: 1")]);
        let text = config("", &upstreams, "    balance: peak_ewma", ALL);
        let shares = shares(&Proxy::start_text(driver, &text), 90, plain);
        assert!(shares.get("a").is_some_and(|n| n.abs_diff(60) <= 4), "{shares:?}");
    }

    /// The slow one gets little.
    fn peak_ewma_avoids_the_slow(driver) {
        let fast = origins(2);
        let slow = Origin::with(|exchange| {
            exchange.read_body()?;
            std::thread::park_timeout(Duration::from_millis(40));
            exchange.reply(200, &[], "slow")
        });
        let proxy = Proxy::start(driver, &Config::to_all(&[&slow, &fast[0], &fast[1]]).upstream("balance: peak_ewma"));
        let shares = shares(&proxy, 300, plain);
        assert!(shares.get("slow").copied().unwrap_or(0) <= 15, "{shares:?}");
    }

    /// The same key to the same endpoint; different keys to all; and whoever leaves takes only his own keys along.
    fn hashing(driver) {
        for rule in ["ring_hash", "maglev"] {
            let origins = origins(3);
            let all: Vec<&Origin> = origins.iter().collect();
            let by = |on: &str| format!("balance: {{ rule: {rule}, hash_on: {{ {on} }} }}");
            let proxy = Proxy::start(driver, &Config::to_all(&all).upstream(&by("header: x-user")));
            let places = |proxy: &Proxy| -> Vec<String> {
                let mut client = proxy.connect();
                (0..200).map(|user| {
                    client.ask(&format!("GET / HTTP/1.1\r\nHost: test\r\nX-User: u{user}\r\n\r\n")).expect(200).text()
                }).collect()
            };
            let first = places(&proxy);
            assert_eq!(first, places(&proxy), "{rule}");
            assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3, "{rule}");
            // Another proxy agrees.
            let other = Proxy::start(driver, &Config::to_all(&all).upstream(&by("header: x-user")));
            assert_eq!(first, places(&other), "{rule}");
            proxy.reload(&Config::to_all(&all[..2]).upstream(&by("header: x-user")));
            let after = places(&proxy);
            let moved = first.iter().zip(&after).filter(|(before, after)| *before != "c" && before != after).count();
            assert!(moved <= if rule == "ring_hash" { 0 } else { 20 }, "{rule}: {moved} moved besides those of c");
            let cookie = Proxy::start(driver, &Config::to_all(&all).upstream(&by("cookie: sid")));
            let shares = shares(&cookie, 20, |_| "Cookie: a=1; sid=xyz; b=2\r\n".to_owned());
            assert_eq!(shares.len(), 1, "{rule}: {shares:?}");
            let host = Proxy::start(driver, &Config::to_all(&all).upstream(&by("header: host")));
            let mut client = host.connect();
            let mut at = |host: &str| client.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect(200).text();
            for (name, spellings) in [("a.test", ["A.test", "a.test.", "a.test:81"]), ("b.test", ["B.TEST:80", "b.test.:1", "b.test:"])] {
                let place = at(name);
                assert_eq!(spellings.map(&mut at), [(); 3].map(|()| place.clone()), "{rule}: {name}");
            }
            let address = Proxy::start(driver, &Config::to_all(&all).upstream(&by("client_address: true")));
            let shares = self::shares(&address, 20, plain);
            assert_eq!(shares.len(), 1, "{rule}: {shares:?}");
        }
    }

    /// A client stays where its cookie says, and gets another when that endpoint is gone.
    fn sticky_sessions(driver) {
        let origins = origins(3);
        let all: Vec<&Origin> = origins.iter().collect();
        let config = |all: &[&Origin]| Config::to_all(all).upstream("sticky: { cookie: place, max_age: 1h }");
        let proxy = Proxy::start(driver, &config(&all));
        let mut homes = BTreeMap::new();
        for _ in 0..6 {
            let response = proxy.get("/").expect(200);
            let line = response.field("set-cookie").expect("a cookie").to_owned();
            let (cookie, rest) = line.split_once(';').expect("attributes");
            assert_eq!(rest, " Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
            homes.insert(response.text(), cookie.to_owned());
        }
        assert_eq!(homes.len(), 3, "{homes:?}");
        for (home, cookie) in &homes {
            let mut client = proxy.connect();
            for _ in 0..5 {
                let response = client.ask(&format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: x=1; {cookie}\r\n\r\n")).expect(200);
                assert_eq!(&response.text(), home);
                assert_eq!(response.field("set-cookie"), None, "it has it already");
            }
        }
        let response = proxy.connect().ask("GET / HTTP/1.1\r\nHost: test\r\nCookie: place=junk\r\n\r\n").expect(200);
        assert!(response.field("set-cookie").is_some());
        // Its endpoint has left: another one, and a cookie for it.
        proxy.reload(&config(&all[1..]));
        let cookie = &homes["a"];
        let response = proxy.connect().ask(&format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: {cookie}\r\n\r\n")).expect(200);
        assert_ne!(response.text(), "a");
        assert!(response.field("set-cookie").is_some_and(|line| !line.starts_with(cookie)));
    }

    fn subsets(driver) {
        let origins = origins(3);
        let upstreams = detailed(&[
            (&origins[0], "labels: { version: v1, stage: live }"),
            (&origins[1], "labels: { version: v2, stage: live }"),
            (&origins[2], "labels: { version: v2 }"),
        ]);
        let routes = "  - { name: v2, match: { path: { prefix: /v2 } }, subset: { version: v2 }, upstream: origin }
  - { name: both, match: { path: { prefix: /both } }, subset: { version: v2, stage: live }, upstream: origin }
  - { name: none, match: { path: { prefix: /none } }, subset: { version: v9 }, upstream: origin }
  - { name: all, upstream: origin }";
        let proxy = Proxy::start_text(driver, &config("", &upstreams, "", routes));
        let names = |target: &str| -> BTreeSet<String> {
            let mut client = proxy.connect();
            (0..12).map(|_| client.get(target).expect(200).text()).collect()
        };
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(names("/v2"), set(&["b", "c"]));
        assert_eq!(names("/both"), set(&["b"]));
        assert_eq!(names("/"), set(&["a", "b", "c"]));
        assert_eq!(problem(&proxy.get("/none").expect(503)).reason, "no_endpoint");
    }

    /// The near ones serve while they are well; as they fail, the far ones take over.
    fn localities_and_priorities(driver) {
        let bad = Origin::with(|exchange| exchange.reply(500, &[], "bad"));
        let origins = origins(3);
        let here = "locality: { region: r1, zone: z1 }";
        let upstreams = detailed(&[
            (&bad, here),
            (&origins[0], "locality: { region: r1, zone: z2 }"),
            (&origins[1], "locality: { region: r2, zone: z1 }"),
            (&origins[2], "priority: 1"),
        ]);
        let lines = "    outlier_detection: { consecutive_5xx: 2, base_ejection_time: 1m, max_ejected_percent: 100 }";
        let text = config(&format!("node: {{ {here} }}"), &upstreams, lines, ALL);
        let proxy = Proxy::start_text(driver, &text);
        let mut client = proxy.connect();
        for _ in 0..2 {
            assert_eq!(client.get("/").expect(500).text(), "bad", "the same zone comes first");
        }
        for _ in 0..20 {
            assert_eq!(client.get("/").expect(200).text(), "a", "then the same region");
        }
    }
}
