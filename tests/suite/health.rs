//! Who is left out, and how they come back: outlier detection, active checks, and what a client notices of either.

use ringway_tests::client::Client;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::load::{Load, OnClose};
use ringway_tests::origin::{After, Origin, named, scripted};
use ringway_tests::problem::problem;
use ringway_tests::proxy::Proxy;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn healthy(proxy: &Proxy, origin: &Origin) -> f64 {
    let endpoint = origin.address().to_string();
    let endpoint = endpoint.trim_start_matches("http://").to_owned();
    proxy.metrics().sum("ringway_endpoint_healthy", &[("endpoint", &endpoint)])
}

fn await_health(proxy: &Proxy, address: &str, wanted: f64) {
    let endpoint = address.trim_start_matches("http://").to_owned();
    proxy.await_metric("ringway_endpoint_healthy", &[("endpoint", &endpoint)], |value| value == wanted);
}

/// How many of `count` requests each name answered.
fn shares(proxy: &Proxy, count: usize) -> std::collections::BTreeMap<String, usize> {
    let mut client = proxy.connect();
    let mut shares = std::collections::BTreeMap::new();
    for _ in 0..count {
        let response = client.get("/");
        *shares.entry(format!("{} {}", response.status, response.text())).or_default() += 1;
    }
    shares
}

const DETECTION: &str = "outlier_detection: { interval: 1s, base_ejection_time: 300ms, max_ejection_time: 2s, max_ejected_percent: 100 }";

for_each_driver! {
    /// One of three is killed under load: hardly anybody notices, it is out at once, and it comes back by probing.
    fn one_of_three_is_killed_and_comes_back(driver) within 60 {
        let origins: Vec<Origin> = (0..3).map(|_| Origin::start()).collect();
        let all: Vec<&Origin> = origins.iter().collect();
        let config = Config::to_all(&all).workers(2).upstream(DETECTION).route("retry: {}");
        let proxy = Proxy::start(driver, &config);
        let load = Load::start(proxy.address(), 8, "/", OnClose::Reconnect);
        load.await_answers(2_000);
        let mut origins = origins;
        let victim = origins.remove(0);
        let address = victim.address().clone();
        let killed = Instant::now();
        drop(victim);
        await_health(&proxy, &address.to_string(), 0.0);
        let out = killed.elapsed();
        load.await_answers(4_000);
        assert!(proxy.metrics().sum("ringway_outlier_ejections_total", &[]) >= 1.0);
        // Its time is over, but nobody is there: it stays out.
        proxy.await_metric("ringway_upstream_requests_total", &[], |total| total > 0.0);
        let again = Origin::again_at(&address, scripted);
        await_health(&proxy, &address.to_string(), 1.0);
        let before = again.request_count();
        load.await_answers(2_000);
        let tally = load.stop();
        assert!(again.request_count() > before + 200, "{} requests after its return", again.request_count());
        let failed = tally.failures.len() as f64 / (tally.answered as f64 + tally.failures.len() as f64);
        assert!(failed <= 0.001, "{} of {} failed: {:?}", tally.failures.len(), tally.answered, tally.failures.first());
        // Three refused connections are enough, and at this load they come within milliseconds; what is measured here
        // includes the scrape that sees it.
        assert!(out < Duration::from_secs(3), "out after {out:?}");
        assert!(proxy.metrics().sum("ringway_outlier_returns_total", &[]) >= 1.0);
    }

    /// Accepts and never answers.
    fn a_silent_endpoint_is_left_out(driver) {
        let silent = Origin::with(|exchange| {
            let _ = exchange.wire.head();
            Ok(After::Close)
        });
        let well = Origin::with(named("well"));
        let config = Config::to_all(&[&silent, &well])
            .upstream("outlier_detection: { consecutive_local_failures: 2, base_ejection_time: 1m }")
            .route("retry: { per_try_timeout: 150ms, backoff: 1ms }");
        let proxy = Proxy::start(driver, &config);
        for _ in 0..8 {
            assert_eq!(proxy.get("/").expect(200).text(), "well");
        }
        assert_eq!(healthy(&proxy, &silent), 0.0);
        let before = silent.request_count();
        assert_eq!(before, 2, "two failures and no more");
        for _ in 0..8 {
            proxy.get("/").expect(200);
        }
        assert_eq!(silent.request_count(), before);
    }

    /// Resets in the middle of a body: the client can tell, by its own connection and by the reason.
    fn a_reset_in_a_body_is_no_whole_answer(driver) {
        let broken = Origin::with(|exchange| {
            exchange.read_body()?;
            exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")?;
            Ok(After::Reset)
        });
        let proxy = Proxy::start(driver, &Config::to(&broken).upstream(DETECTION).route("retry: {}"));
        let mut client = proxy.connect();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        assert!(client.try_response("GET").is_err(), "a cut body must not look whole");
        assert_eq!(broken.request_count(), 1, "what has begun is not tried again");
        let cut = proxy.await_metric("ringway_refused_total", &[("reason", "upstream_reset_in_body")], |n| n == 1.0);
        assert_eq!(cut, 1.0);
    }

    /// Half of its answers are 503: no row of five, but far below the others.
    fn a_flaky_endpoint_is_found_by_comparison(driver) within 60 {
        let turn = AtomicUsize::new(0);
        let flaky = Origin::with(move |exchange| {
            exchange.read_body()?;
            let status = if turn.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { 503 } else { 200 };
            exchange.reply(status, &[], "flaky")
        });
        let others: Vec<Origin> = (0..4).map(|_| Origin::with(named("well"))).collect();
        let mut all = vec![&flaky];
        all.extend(&others);
        let config = Config::to_all(&all)
            .upstream("outlier_detection: { interval: 1s, base_ejection_time: 1m, success_rate: { request_volume: 10 } }")
            .route("retry: {}");
        let proxy = Proxy::start(driver, &config);
        let load = Load::start(proxy.address(), 4, "/", OnClose::Reconnect);
        await_health(&proxy, &flaky.address().to_string(), 0.0);
        let tally = load.stop();
        assert_eq!(tally.failures, Vec::<String>::new(), "retries hid all of it");
        let all = shares(&proxy, 40);
        assert_eq!(all.get("200 well"), Some(&40), "{all:?}");
    }

    /// The last endpoint that admits requests is never taken away by the default cap.
    fn the_cap_keeps_somebody(driver) {
        let bad: Vec<Origin> = (0..2).map(|_| Origin::with(|exchange| exchange.reply(500, &[], "bad"))).collect();
        let config = Config::to_all(&[&bad[0], &bad[1]])
            .upstream("outlier_detection: { consecutive_5xx: 2, base_ejection_time: 1m }");
        let proxy = Proxy::start(driver, &config);
        let all = shares(&proxy, 20);
        assert_eq!(all.get("500 bad"), Some(&20), "{all:?}");
        let out = 2.0 - proxy.metrics().sum("ringway_endpoint_healthy", &[]);
        assert_eq!(out, 1.0);
        assert!(proxy.metrics().sum("ringway_outlier_ejections_at_cap_total", &[]) > 0.0);
    }

    /// An attempt that another has outrun says nothing of its endpoint: two failures with one such between them are still
    /// two in a row.
    fn a_hedge_that_loses_says_nothing(driver) {
        let poor = Origin::with(|exchange| match exchange.target() {
            "/slow" => {
                let _ = exchange.wire.head();
                Ok(After::Close)
            }
            _ => exchange.reply(500, &[], "poor"),
        });
        let well = Origin::with(named("well"));
        let config = Config::to_all(&[&poor, &well])
            .upstream("outlier_detection: { consecutive_5xx: 2, base_ejection_time: 1m }")
            .route("hedge: { after: 80ms }");
        let proxy = Proxy::start(driver, &config);
        let ejections = || proxy.metrics().sum("ringway_outlier_ejections_total", &[]);
        let until_it_came = |target| {
            let before = poor.request_count();
            while poor.request_count() == before {
                proxy.get(target);
            }
        };
        until_it_came("/fails");
        assert_eq!(ejections(), 0.0);
        until_it_came("/slow");
        assert_eq!((ejections(), proxy.metrics().sum("ringway_hedges_won_total", &[])), (0.0, 1.0));
        until_it_came("/fails");
        assert_eq!(ejections(), 1.0);
    }

    /// All are out, and nobody wanted to hear of panic: a clear answer, at once.
    fn nobody_is_healthy(driver) {
        let bad = Origin::with(|exchange| exchange.reply(500, &[], "bad"));
        let config = Config::to(&bad)
            .upstream("outlier_detection: { consecutive_5xx: 2, base_ejection_time: 1m, max_ejected_percent: 100 }")
            .upstream("panic_percent: 0");
        let proxy = Proxy::start(driver, &config);
        proxy.get("/").expect(500);
        proxy.get("/").expect(500);
        let response = proxy.get("/").expect(503);
        assert_eq!(problem(&response).reason, "no_healthy_endpoint");
        assert_eq!(bad.request_count(), 2);
        // With panic, which is the default, somebody is asked all the same.
        let config = Config::to(&bad)
            .upstream("outlier_detection: { consecutive_5xx: 2, base_ejection_time: 1m, max_ejected_percent: 100 }");
        let proxy = Proxy::start(driver, &config);
        for _ in 0..4 {
            proxy.get("/").expect(500);
        }
    }

    /// What was learnt survives a reload.
    fn an_ejection_survives_a_reload(driver) {
        let bad = Origin::with(|exchange| exchange.reply(500, &[], "bad"));
        let well = Origin::with(named("well"));
        let config = Config::to_all(&[&bad, &well])
            .upstream("outlier_detection: { consecutive_5xx: 2, base_ejection_time: 1m }");
        let proxy = Proxy::start(driver, &config);
        shares(&proxy, 6);
        assert_eq!(healthy(&proxy, &bad), 0.0);
        let before = bad.request_count();
        proxy.reload(&config.clone().route("timeouts: { request: 9s }"));
        let all = shares(&proxy, 10);
        assert_eq!(all.get("200 well"), Some(&10), "{all:?}");
        assert_eq!(bad.request_count(), before);
        // Without outlier detection nobody is left out any more.
        proxy.reload(&Config::to_all(&[&bad, &well]));
        await_health(&proxy, &bad.address().to_string(), 1.0);
    }

    /// Active checks by HTTP: out after as many failures as are configured, back after as many successes; one prober for
    /// all workers.
    fn active_checks(driver) {
        let sick = Arc::new(AtomicBool::new(false));
        let (flag, checks) = (Arc::clone(&sick), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&checks);
        let patient = Origin::with(move |exchange| {
            exchange.read_body()?;
            if exchange.target() == "/healthz" {
                counted.fetch_add(1, Ordering::SeqCst);
                let status = if flag.load(Ordering::SeqCst) { 503 } else { 204 };
                return exchange.reply(status, &[], "");
            }
            exchange.reply(200, &[], "patient")
        });
        let other = Origin::with(named("other"));
        let config = Config::to_all(&[&patient, &other]).workers(2).upstream(
            "health_check: { http: { path: /healthz, host: health.test, expect: ['200-299'] }, interval: 100ms, unhealthy_threshold: 2, healthy_threshold: 2 }",
        );
        let proxy = Proxy::start(driver, &config);
        patient.await_requests(1);
        let check = patient.requests().into_iter().find(|r| r.target() == "/healthz").expect("a check");
        assert_eq!((check.method(), check.field("host")), ("GET", Some("health.test")));
        assert_eq!(shares(&proxy, 20).len(), 2);
        sick.store(true, Ordering::SeqCst);
        await_health(&proxy, &patient.address().to_string(), 0.0);
        let all = shares(&proxy, 10);
        assert_eq!(all.get("200 other"), Some(&10), "{all:?}");
        sick.store(false, Ordering::SeqCst);
        await_health(&proxy, &patient.address().to_string(), 1.0);
        assert_eq!(shares(&proxy, 20).len(), 2);
        // Ten checks a second and no more, whatever the number of workers.
        let (before, begun) = (checks.load(Ordering::SeqCst), Instant::now());
        patient.await_requests(patient.request_count() + 5);
        let many = (checks.load(Ordering::SeqCst) - before) as f64;
        let most = begun.elapsed().as_secs_f64() / 0.09 + 2.0;
        assert!(many <= most, "{many} checks in {:?}", begun.elapsed());
        assert!(proxy.metrics().sum("ringway_health_checks_total", &[]) >= 5.0);
        assert!(proxy.metrics().sum("ringway_health_checks_failed_total", &[]) >= 2.0);
    }

    /// A TCP check, and an endpoint that was never there: it is out before a client meets it twice.
    fn tcp_checks(driver) {
        let well = Origin::with(named("well"));
        let gone = Origin::start();
        let address = gone.address().clone();
        drop(gone);
        let addresses = [address.clone(), well.address().clone()];
        let config = Config::to_addresses(&addresses)
            .upstream("health_check: { tcp: true, interval: 100ms, unhealthy_threshold: 1, healthy_threshold: 1 }");
        let proxy = Proxy::start(driver, &config);
        await_health(&proxy, &address.to_string(), 0.0);
        let before = proxy.metrics().sum("ringway_upstream_connect_errors_total", &[]);
        let all = shares(&proxy, 10);
        assert_eq!(all.get("200 well"), Some(&10), "{all:?}");
        assert_eq!(proxy.metrics().sum("ringway_upstream_connect_errors_total", &[]), before);
        let _again = Origin::again_at(&address, named("again"));
        await_health(&proxy, &address.to_string(), 1.0);
        let mut client: Client = proxy.connect();
        let names: std::collections::BTreeSet<String> = (0..10).map(|_| client.get("/").expect(200).text()).collect();
        assert_eq!(names.len(), 2);
    }
}
