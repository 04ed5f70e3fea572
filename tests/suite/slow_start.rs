//! Slow start: an endpoint that is new, or back, gets its share little by little. By round robin, so that the share of each
//! round of requests follows from the time that has passed, and with bounds taken from clock readings around the round:
//! they hold however long a machine keeps anybody waiting.

use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, named};
use ringway_tests::proxy::{Driver, Proxy};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Requests of a round.
const ROUND: u32 = 220;

/// Round robin by credits is off by a turn of each of the two where a round begins and ends, and where a weight changed.
const OFF: f64 = 3.0;

/// Longer than any test may take.
const ENDLESS: Duration = Duration::from_secs(3_600);

const LEAST: f64 = 0.1;

fn upstream(config: Config, window: Duration) -> Config {
    config
        .upstream("balance: round_robin")
        .upstream(&format!("slow_start: {{ window: {}ms, min_percent: 10 }}", window.as_millis()))
}

/// How many requests of a round the one of this name answered.
fn round(proxy: &Proxy, name: &str) -> u32 {
    let mut client = proxy.connect();
    (0..ROUND).map(|_| u32::from(client.get("/").expect(200).text() == name)).sum()
}

/// What an endpoint gets of a round beside one that has its whole weight, after so long.
fn share(since: Duration, window: Duration) -> f64 {
    // A second at least, as the documentation has it from Envoy.
    let since = since.max(Duration::from_secs(1));
    let weight = (since.as_secs_f64() / window.as_secs_f64()).clamp(LEAST, 1.0);
    f64::from(ROUND) * weight / (1.0 + weight)
}

/// Follows the share of an endpoint that came at some time between two readings, until its window is over.
#[track_caller]
fn follow(proxy: &Proxy, name: &str, came: [Instant; 2], window: Duration) {
    let [earliest, latest] = came;
    loop {
        let begun = Instant::now();
        let answered = f64::from(round(proxy, name));
        // A millisecond for the proxy's clock, which counts whole ones.
        let since = [begun.saturating_duration_since(latest), earliest.elapsed()];
        let least = share(since[0].saturating_sub(Duration::from_millis(2)), window) - OFF;
        let most = share(since[1] + Duration::from_millis(2), window) + OFF;
        assert!(
            (least..=most).contains(&answered),
            "{answered} of {ROUND} after {since:?}: {least:.1} to {most:.1}"
        );
        if since[0] > window {
            return;
        }
    }
}

/// Small for as long as the window is endless; then, in a window that ends, at each time as large as it is to be.
fn first_small_then_whole(
    driver: Driver,
    proxy: &Proxy,
    name: &str,
    came: [Instant; 2],
    config: &dyn Fn(Duration) -> Config,
) {
    for _ in 0..3 {
        let answered = f64::from(round(proxy, name));
        let tenth = f64::from(ROUND) / 11.0;
        assert!((answered - tenth).abs() <= OFF, "{answered} of {ROUND}, not {tenth}, by {}", driver.name());
    }
    // How long it has been there is state, and outlives a reload; how long the window is, is a setting.
    let window = came[0].elapsed() + Duration::from_secs(2);
    proxy.reload(&config(window));
    follow(proxy, name, came, window);
    assert!(
        f64::from(round(proxy, name) * 2).mul_add(-1.0, f64::from(ROUND)).abs() <= 2.0 * OFF,
        "its whole share"
    );
}

for_each_driver! {
    fn an_endpoint_that_joins(driver) within 60 {
        let (old, new) = (Origin::with(named("old")), Origin::with(named("new")));
        let both = |window| upstream(Config::to_all(&[&old, &new]), window);
        let proxy = Proxy::start(driver, &upstream(Config::to(&old), ENDLESS));
        assert_eq!(round(&proxy, "old"), ROUND, "alone");
        let earliest = Instant::now();
        proxy.reload(&both(ENDLESS));
        first_small_then_whole(driver, &proxy, "new", [earliest, Instant::now()], &both);
    }

    /// Those that are there from the start have nobody to take their share meanwhile.
    fn endpoints_of_the_start(driver) {
        let (one, other) = (Origin::with(named("one")), Origin::with(named("other")));
        let proxy = Proxy::start(driver, &upstream(Config::to_all(&[&one, &other]), ENDLESS));
        assert_eq!(round(&proxy, "one"), ROUND / 2);
        // Nor are they new after a reload that leaves them.
        proxy.reload(&upstream(Config::to_all(&[&other, &one]), ENDLESS));
        assert_eq!(round(&proxy, "one"), ROUND / 2);
    }

    fn an_endpoint_that_comes_back(driver) within 60 {
        let sick = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&sick);
        let patient = Origin::with(move |exchange| {
            exchange.read_body()?;
            let status = if flag.load(Ordering::SeqCst) && exchange.target() == "/healthz" { 503 } else { 200 };
            exchange.reply(status, &[], "patient")
        });
        let other = Origin::with(named("other"));
        let config = |window| {
            upstream(Config::to_all(&[&patient, &other]), window).upstream(
                "health_check: { http: { path: /healthz }, interval: 100ms, unhealthy_threshold: 1, healthy_threshold: 1 }",
            )
        };
        let proxy = Proxy::start(driver, &config(ENDLESS));
        let endpoint = patient.address().to_string().trim_start_matches("http://").to_owned();
        let healthy = |wanted: f64| {
            proxy.await_metric("ringway_endpoint_healthy", &[("endpoint", &endpoint)], |value| value == wanted);
        };
        healthy(1.0);
        assert_eq!(round(&proxy, "patient"), ROUND / 2, "it was there from the start");
        sick.store(true, Ordering::SeqCst);
        healthy(0.0);
        assert_eq!(round(&proxy, "patient"), 0);
        let earliest = Instant::now();
        sick.store(false, Ordering::SeqCst);
        healthy(1.0);
        first_small_then_whole(driver, &proxy, "patient", [earliest, Instant::now()], &config);
    }
}
