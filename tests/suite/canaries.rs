//! Canaries that the proxy decides about by itself, seen from outside: a bad one is taken back, a good one promoted, and
//! the log says why. The statistics have simulations of their own (`policy::split::canary`).

use ringway_tests::client::{Client, get, post};
use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::load::{Load, OnClose};
use ringway_tests::origin::{After, Exchange, Origin, Outcome, named};
use ringway_tests::proxy::Proxy;
use ringway_tests::wait::eventually_within;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(45);

fn config(stable: &Origin, canary: &Origin, settings: &str, log: &Folder) -> Config {
    Config::to(stable)
        .and_upstream("stable", stable)
        .and_upstream("canary", canary)
        .top(&format!("decision_log: {{ path: {} }}", log.join("decisions.json").display()))
        .routes(&format!(
            "- name: shop\n  split:\n    arms: [{{ upstream: stable }}, {{ upstream: canary }}]\n    \
             canary: {{ arm: canary, interval: 1s, confirm: 2{settings} }}"
        ))
}

/// Fails one request in so many.
fn failing(one_in: u64) -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    let count = AtomicU64::new(0);
    move |exchange| {
        exchange.read_body()?;
        let fails = count.fetch_add(1, Ordering::Relaxed).is_multiple_of(one_in);
        exchange.reply(if fails { 500 } else { 200 }, &[], "canary")
    }
}

/// Answers after so long.
fn taking(ms: u64) -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    move |exchange| {
        exchange.read_body()?;
        thread::park_timeout(Duration::from_millis(ms));
        exchange.reply(200, &[], "ok")
    }
}

/// The page of the route's canary.
fn page(proxy: &Proxy) -> serde_json::Value {
    let shown: serde_json::Value =
        serde_json::from_slice(&proxy.admin("/canaries").expect(200).body).expect("JSON");
    shown["canaries"][0].clone()
}

#[track_caller]
fn await_phase(proxy: &Proxy, wanted: &str) -> serde_json::Value {
    let mut last = page(proxy);
    eventually_within(PATIENCE, &format!("the canary to be {wanted}"), || {
        last = page(proxy);
        let phase = last["phase"].as_str().expect("a phase").to_owned();
        assert!(phase == wanted || phase == "trying", "{last:#}");
        (phase == wanted).then_some(())
    });
    last
}

/// Reasons in the decision log, oldest first, once the last is `last`; each line with all that a reader needs. The log has a
/// thread of its own, so a line may come a moment after what it tells of.
fn logged(log: &Folder, last: &str) -> Vec<String> {
    eventually_within(PATIENCE, &format!("the decision log to end with {last}"), || {
        let text = std::fs::read_to_string(log.join("decisions.json")).ok()?;
        // The line that is being written is not one yet.
        let whole = &text[..=text.rfind('\n')?];
        let reasons: Vec<String> = whole.lines().map(reason).collect();
        (reasons.last().is_some_and(|reason| reason == last)).then_some(reasons)
    })
}

fn reason(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    assert_eq!((&line["route"], &line["canary"]), (&"shop".into(), &"canary".into()), "{line}");
    assert!(line["unix_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{line}");
    assert!(!line["why"].as_str().expect("why").is_empty(), "{line}");
    line["reason"].as_str().expect("a reason").to_owned()
}

for_each_driver! {
    /// 5 % errors, where 1 % more than the old version's are allowed: back to nothing, and few clients have seen one.
    fn a_failing_one_is_taken_back(driver) within 90 {
        let log = Folder::new(&format!("canary-failing-{}", driver.name()));
        let (stable, canary) = (Origin::with(named("stable")), Origin::with(failing(20)));
        let config = config(&stable, &canary, ", steps: [10, 50, 100]", &log).workers(2);
        let proxy = Proxy::start(driver, &config);
        let load = Load::start(proxy.address(), 4, "/", OnClose::Reconnect);
        let page = await_phase(&proxy, "rolled_back");
        assert_eq!(page["share_percent"], 0.0, "{page:#}");
        let metrics = proxy.metrics();
        assert_eq!(metrics.one("ringway_canary_share_ratio", &[("route", "shop")]), Some(0.0));
        assert_eq!(metrics.one("ringway_canary_phase", &[("route", "shop"), ("phase", "rolled_back")]), Some(1.0));
        assert!(page["canary"]["errors"].as_u64().expect("errors") > 0, "{page:#}");
        let before = canary.request_count();
        load.await_answers(500);
        assert!(canary.request_count() <= before + 8, "what was under way, and no more");
        let tally = load.stop();
        let share = tally.failures.len() as f64 / tally.answered as f64;
        assert!(share <= 0.01, "{} of {} failed", tally.failures.len(), tally.answered);
        let reasons = logged(&log, "rolled_back");
        assert_eq!(reasons.first().map(String::as_str), Some("started"));
        assert!(!reasons.contains(&"advanced".to_owned()), "{reasons:?}");
        // It stays so over a reload, until somebody says otherwise.
        proxy.reload(&config);
        assert_eq!(page_phase(&proxy), "rolled_back");
        let mut admin = Client::connect(proxy.admin_address());
        admin.ask(&post("/canaries/restart?route=nobody", "")).expect(404);
        admin.ask(&post("/canaries/restart?route=shop", "")).expect(200);
        assert_eq!(page_phase(&proxy), "trying");
        assert_eq!(page_share(&proxy), 10.0);
    }

    /// As good as the old one: by its steps to everything.
    fn a_good_one_is_promoted(driver) within 90 {
        let log = Folder::new(&format!("canary-good-{}", driver.name()));
        let (stable, canary) = (Origin::with(named("stable")), Origin::with(named("canary")));
        let settings = ", steps: [10, 50, 100], latency: { times_max: 4, floor: 50ms }";
        let config = config(&stable, &canary, settings, &log).workers(2);
        let proxy = Proxy::start(driver, &config);
        let load = Load::start(proxy.address(), 4, "/", OnClose::Reconnect);
        let page = await_phase(&proxy, "promoted");
        assert_eq!(page["share_percent"], 100.0);
        let before = stable.request_count();
        load.await_answers(500);
        assert!(stable.request_count() <= before + 8, "the old one gets nothing any more");
        let tally = load.stop();
        assert_eq!(tally.failures, Vec::<String>::new());
        let reasons = logged(&log, "promoted");
        let steps: Vec<&str> = reasons.iter().map(String::as_str).filter(|reason| *reason != "judged").collect();
        assert_eq!(steps, ["started", "advanced", "promoted"], "{reasons:?}");
        let shown = page["decisions"].as_array().expect("decisions").len();
        assert_eq!(shown, reasons.len(), "the page shows what the log holds");
    }

    /// Nobody of the new version takes requests: refused by us, and a failure all the same.
    fn one_without_healthy_endpoints_is_taken_back(driver) within 90 {
        let log = Folder::new(&format!("canary-none-{}", driver.name()));
        let stable = Origin::with(named("stable"));
        let closed = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
        let text = config(&stable, &stable, ", steps: [10, 100]", &log).to_string().replace(
            &format!("  - name: canary\n    endpoints: [\"{}\"]", stable.address()),
            &format!(
                "  - name: canary\n    endpoints: [\"{closed}\"]\n    panic_percent: 0\n    \
                 health_check: {{ tcp: true, interval: 100ms, unhealthy_threshold: 1 }}"
            ),
        );
        let proxy = Proxy::start_text(driver, &text);
        proxy.await_metric("ringway_endpoint_healthy", &[("upstream", "canary")], |healthy| healthy == 0.0);
        let load = Load::start(proxy.address(), 4, "/", OnClose::Reconnect);
        await_phase(&proxy, "rolled_back");
        let tally = load.stop();
        assert!(tally.failures.iter().all(|failure| failure.contains("503")), "{:?}", tally.failures.first());
        logged(&log, "rolled_back");
    }

    /// What was taken back stays so when the process begins anew, and a file that makes no sense keeps nobody from starting.
    fn the_state_outlives_the_process(driver) within 90 {
        let folder = Folder::new(&format!("canary-state-{}", driver.name()));
        let (stable, canary) = (Origin::with(named("stable")), Origin::with(failing(1)));
        let state = format!("state_dir: {}", folder.path().display());
        let config = config(&stable, &canary, ", steps: [50, 100]", &folder).top(&state);
        let proxy = Proxy::start(driver, &config);
        let load = Load::start(proxy.address(), 2, "/", OnClose::Reconnect);
        await_phase(&proxy, "rolled_back");
        load.stop();
        drop(proxy);
        let before = canary.request_count();
        let proxy = Proxy::start(driver, &config);
        assert_eq!((page_phase(&proxy), page_share(&proxy)), ("rolled_back".to_owned(), 0.0));
        for _ in 0..50 {
            proxy.get("/").expect(200);
        }
        assert_eq!(canary.request_count(), before);
        // What an operator says is kept as well, and where it can't be, it is as soon as it can.
        let (file, hidden) = (folder.join("canaries.json"), folder.join("hidden"));
        std::fs::rename(&file, &hidden).expect("renamed");
        std::fs::create_dir(&file).expect("something in its place");
        Client::connect(proxy.admin_address()).ask(&post("/canaries/restart?route=shop", "")).expect(200);
        std::fs::remove_dir(&file).expect("removed");
        eventually_within(PATIENCE, "the state to be saved", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.contains("trying")).then_some(())
        });
        drop(proxy);
        assert_eq!(page_phase(&Proxy::start(driver, &config)), "trying");
        let text = std::fs::read_to_string(&file).expect("the state");
        std::fs::write(&file, text.replace("trying", "winning")).expect("written");
        assert_eq!(page_phase(&Proxy::start(driver, &config)), "trying");
        assert!(folder.join("canaries.json.bad").exists(), "nothing is lost");
        // A directory that is not there is said at once, and not when there is something to keep.
        let nowhere = config.to_string().replace(&state, &format!("{state}/none"));
        let refused = Proxy::start(driver, &config).server().reload(&nowhere).expect_err("refused").to_string();
        assert!(refused.contains("can't keep state in") && refused.contains("/none"), "{refused}");
        // Another version is another canary.
        std::fs::write(&file, text.replace("trying", "rolled_back")).expect("written");
        let next = config.to_string().replace("arm: canary,", "arm: canary, version: two,");
        assert_eq!(page_phase(&Proxy::start_text(driver, &next)), "trying");
    }

    /// Answers that look well by their heads: the calls failed, as their trailers say.
    fn one_whose_calls_fail_is_taken_back(driver) within 90 {
        let log = Folder::new(&format!("canary-grpc-{}", driver.name()));
        let calls = |status: u8| Origin::with(move |exchange| {
            exchange.write(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: {status}\r\n\r\n"
            ))?;
            Ok(After::KeepAlive)
        });
        let (stable, canary) = (calls(0), calls(13));
        let proxy = Proxy::start(driver, &config(&stable, &canary, ", steps: [30, 100]", &log));
        let over = Arc::new(AtomicBool::new(false));
        let caller = {
            let (address, over) = (proxy.address(), Arc::clone(&over));
            let call = "POST / HTTP/1.1\r\nHost: t\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
            thread::spawn(move || {
                let mut client = Client::connect(address);
                while !over.load(Ordering::Relaxed) {
                    if client.ask(call).expect(200).closes() {
                        client = Client::connect(address);
                    }
                }
            })
        };
        let page = await_phase(&proxy, "rolled_back");
        over.store(true, Ordering::Relaxed);
        caller.join().expect("the caller saw no failure");
        assert_eq!(page["baseline"]["errors"], 0, "{page:#}");
        assert_eq!(page["canary"]["errors"], page["canary"]["requests"], "{page:#}");
    }

    /// Clients see next to nothing of it, since another attempt mends a failure. The canary is a bad one all the same.
    fn one_that_retries_cover_for_is_taken_back(driver) within 90 {
        let log = Folder::new(&format!("canary-retried-{}", driver.name()));
        let (stable, canary) = (Origin::with(named("stable")), Origin::with(failing(10)));
        let text = config(&stable, &canary, ", steps: [30, 100]", &log)
            .to_string()
            .replace("- name: shop\n", "- name: shop\n    retry: { attempts: 3, on: [5xx] }\n");
        let proxy = Proxy::start_text(driver, &text);
        let load = Load::start(proxy.address(), 4, "/", OnClose::Reconnect);
        await_phase(&proxy, "rolled_back");
        // Three of a hundred without retries. Their budget is a fifth of the requests, so most are mended.
        let tally = load.stop();
        assert!(tally.failures.len() as u64 * 200 < tally.answered, "{} of {}", tally.failures.len(), tally.answered);
    }

    /// It never answers, and its clients don't wait for that: how long they waited tells.
    fn one_that_clients_give_up_on_is_taken_back(driver) within 90 {
        let log = Folder::new(&format!("canary-hangs-{}", driver.name()));
        let stable = Origin::with(named("stable"));
        let hangs = Origin::with(|exchange| {
            let _ = exchange.wire.head();
            Ok(After::Close)
        });
        let proxy = Proxy::start(driver, &config(&stable, &hangs, ", steps: [50, 100]", &log));
        let (address, over) = (proxy.address(), Arc::new(AtomicBool::new(false)));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let over = Arc::clone(&over);
                thread::spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let mut client = Client::connect(address);
                        client.send(get("/"));
                        thread::park_timeout(Duration::from_millis(20));
                        // Whoever only closes its half is answered, and has not given up.
                        client.reset();
                    }
                })
            })
            .collect();
        let page = await_phase(&proxy, "rolled_back");
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client does not panic");
        }
        assert_eq!(page["canary"]["errors"], 0, "{page:#}");
    }

    /// A p99 four times as long, without a single error.
    fn a_slow_one_is_taken_back(driver) within 90 {
        let log = Folder::new(&format!("canary-slow-{}", driver.name()));
        let (stable, canary) = (Origin::with(taking(10)), Origin::with(taking(40)));
        let settings = ", steps: [30, 100], latency: { times_max: 1.5, floor: 5ms }";
        let proxy = Proxy::start(driver, &config(&stable, &canary, settings, &log));
        let load = Load::start(proxy.address(), 16, "/", OnClose::Reconnect);
        let page = await_phase(&proxy, "rolled_back");
        assert_eq!(page["canary"]["errors"], 0, "{page:#}");
        assert_eq!(load.stop().failures, Vec::<String>::new());
        logged(&log, "rolled_back");
    }
}

fn page_phase(proxy: &Proxy) -> String {
    page(proxy)["phase"].as_str().expect("a phase").to_owned()
}

fn page_share(proxy: &Proxy) -> f64 {
    page(proxy)["share_percent"].as_f64().expect("a share")
}
