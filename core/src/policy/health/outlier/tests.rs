use proptest::prelude::*;

use super::{
    FailurePercentage, Finding, Interval, Latency, LocalOrigin, Outcome, Settings, SuccessRate, Watch,
    compare,
};

const OFF: Settings = Settings {
    consecutive_5xx: None,
    consecutive_gateway_failure: None,
    consecutive_local_origin_failure: None,
    local_origin: LocalOrigin::Joined,
    success_rate: None,
    failure_percentage: None,
    latency: None,
};

/// `.` a success, `5` a 500, `g` a 503, `c` no connection, `r` a reset, `t` a time-out.
fn outcome(letter: char) -> Outcome {
    match letter {
        '.' => Outcome::Success,
        '5' => Outcome::ServerError,
        'g' => Outcome::GatewayError,
        'c' => Outcome::ConnectFailure,
        'r' => Outcome::Reset,
        't' => Outcome::Timeout,
        other => panic!("{other}"),
    }
}

/// Limits of rows (5xx, gateway, local), where local failures count, the attempts; the findings and where.
#[track_caller]
fn check_rows(limits: [u32; 3], local_origin: LocalOrigin, attempts: &str, expected: &[(usize, Finding)]) {
    let limit = |at: usize| (limits[at] > 0).then_some(limits[at]);
    let settings = Settings {
        consecutive_5xx: limit(0),
        consecutive_gateway_failure: limit(1),
        consecutive_local_origin_failure: limit(2),
        local_origin,
        ..OFF
    };
    let mut watch = Watch::default();
    let found: Vec<(usize, Finding)> = attempts
        .chars()
        .enumerate()
        .filter_map(|(at, letter)| Some((at, watch.observe(outcome(letter), 10, &settings)?)))
        .collect();
    assert_eq!(found, expected, "{limits:?} {local_origin:?} {attempts}");
}

#[test]
fn rows_of_failures() {
    use Finding::{Consecutive5xx, ConsecutiveGatewayFailure, ConsecutiveLocalOriginFailure};
    use LocalOrigin::{Joined, Split};
    check_rows([3, 0, 0], Joined, "55.555", &[(5, Consecutive5xx)]);
    check_rows([3, 0, 0], Joined, "555555", &[(2, Consecutive5xx), (5, Consecutive5xx)]);
    check_rows([3, 0, 0], Joined, "5gc", &[(2, Consecutive5xx)]);
    check_rows([3, 0, 0], Split, "5gc5", &[(3, Consecutive5xx)]);
    check_rows([0, 2, 0], Joined, "g5gt", &[(3, ConsecutiveGatewayFailure)]);
    check_rows([0, 2, 0], Split, "gtg", &[(2, ConsecutiveGatewayFailure)]);
    check_rows([0, 2, 0], Split, "g5g", &[]);
    check_rows([0, 0, 3], Joined, "crt", &[(2, ConsecutiveLocalOriginFailure)]);
    check_rows([0, 0, 3], Split, "crt", &[(2, ConsecutiveLocalOriginFailure)]);
    check_rows([0, 0, 3], Split, "cr5t", &[]);
    check_rows([0, 0, 3], Split, "cr.t", &[]);
    check_rows([3, 3, 3], Joined, "ggg", &[(2, ConsecutiveGatewayFailure)]);
    check_rows([3, 3, 3], Joined, "ccccc", &[(2, ConsecutiveLocalOriginFailure)]);
    check_rows([1, 0, 0], Joined, "5.5", &[(0, Consecutive5xx), (2, Consecutive5xx)]);
    check_rows([0, 0, 0], Joined, "555gggccc", &[]);
}

#[test]
fn statuses() {
    for (status, expected) in [
        (101, Outcome::Success),
        (200, Outcome::Success),
        (404, Outcome::Success),
        (429, Outcome::Success),
        (500, Outcome::ServerError),
        (501, Outcome::ServerError),
        (502, Outcome::GatewayError),
        (504, Outcome::GatewayError),
        (505, Outcome::ServerError),
        (599, Outcome::ServerError),
    ] {
        assert_eq!(Outcome::of_status(status), expected, "{status}");
    }
}

#[test]
fn intervals_end_and_latency_is_remembered() {
    let mut watch = Watch::default();
    assert_eq!(watch.end_interval(), Interval::default());
    for us in [100, 200, 300] {
        watch.observe(Outcome::Success, us, &OFF);
    }
    watch.observe(Outcome::Timeout, 9_999_999, &OFF);
    assert_eq!(watch.end_interval(), Interval { successes: 3, failures: 1, latency_us: 200 });
    assert_eq!(watch.end_interval(), Interval { successes: 0, failures: 0, latency_us: 200 });
    watch.observe(Outcome::Success, 400, &OFF);
    assert_eq!(watch.end_interval(), Interval { successes: 1, failures: 0, latency_us: 300 });
    watch.observe(Outcome::Success, u64::MAX, &OFF);
    assert_eq!(watch.end_interval().latency_us, 30_000_150, "a long poll counts as one minute");
    let split = Settings { local_origin: LocalOrigin::Split, ..OFF };
    watch.observe(Outcome::Timeout, 1, &split);
    assert_eq!(watch.end_interval().failures, 0, "rates are the endpoint's own responses");
}

/// Successes, failures, latency of each; the findings.
#[track_caller]
fn check(settings: Settings, rows: &[(u32, u32, u64)], expected: &[(usize, Finding)]) {
    let intervals: Vec<Interval> = rows
        .iter()
        .map(|&(successes, failures, latency_us)| Interval { successes, failures, latency_us })
        .collect();
    assert_eq!(compare(&settings, &intervals), expected, "{settings:?} {rows:?}");
}

#[test]
fn success_rates() {
    let rule = SuccessRate { minimum_hosts: 4, request_volume: 100, stdev_factor: 1.5 };
    let settings = Settings { success_rate: Some(rule), ..OFF };
    let good = (99, 1, 0);
    check(settings, &[good, good, (60, 40, 0), good], &[(2, Finding::SuccessRate)]);
    check(settings, &[good, good, (60, 40, 0)], &[]);
    check(settings, &[good, good, (60, 39, 0), good], &[]);
    check(settings, &[good, good, good, good], &[]);
    check(settings, &[(0, 100, 0); 6], &[]);
    check(settings, &[(50, 50, 0), (50, 50, 0), (99, 1, 0), (99, 1, 0)], &[]);
    // The worst first, and those without requests are no reason to lower the mean.
    let rows = [good, (70, 30, 0), good, good, good, good, good, good, good, (10, 90, 0), (0, 0, 0)];
    check(settings, &rows, &[(9, Finding::SuccessRate)]);
    let rows = [&[good; 20][..], &[(30, 70, 0), (10, 90, 0)]].concat();
    check(settings, &rows, &[(21, Finding::SuccessRate), (20, Finding::SuccessRate)]);
}

#[test]
fn failure_percentages() {
    let rule = FailurePercentage { threshold: 50, minimum_hosts: 2, request_volume: 10 };
    let settings = Settings { failure_percentage: Some(rule), ..OFF };
    let found = Finding::FailurePercentage;
    check(settings, &[(5, 5, 0), (6, 4, 0), (0, 10, 0)], &[(2, found), (0, found)]);
    check(settings, &[(0, 9, 0), (0, 10, 0), (9, 1, 0)], &[(1, found)]);
    check(settings, &[(0, 100, 0), (0, 9, 0)], &[]);
    let rule = FailurePercentage { threshold: 0, request_volume: 0, ..rule };
    check(Settings { failure_percentage: Some(rule), ..OFF }, &[(0, 0, 0), (0, 0, 0)], &[]);
}

#[test]
fn latencies() {
    let rule = Latency { factor: 3.0, difference_us_min: 1_000, minimum_hosts: 3, request_volume: 10 };
    let settings = Settings { latency: Some(rule), ..OFF };
    let of = |latency_us| (10, 0, latency_us);
    check(settings, &[of(500), of(5_000), of(600)], &[(1, Finding::Latency)]);
    check(settings, &[of(500), of(5_000), of(6_000)], &[]);
    check(settings, &[of(100), of(1_050), of(100)], &[]);
    check(settings, &[of(500), of(5_000)], &[]);
    check(settings, &[of(500), (9, 0, 5_000), of(600), of(600)], &[]);
    check(settings, &[of(1_000), of(2_999), of(1_000), of(1_000)], &[]);
    check(settings, &[of(1_000), of(3_000), of(1_000), of(1_000)], &[]);
    check(settings, &[of(1_000), of(3_001), of(1_000), of(1_000)], &[(1, Finding::Latency)]);
    let rows = [of(700), of(90_000), of(800), of(50_000), of(900)];
    check(settings, &rows, &[(1, Finding::Latency), (3, Finding::Latency)]);
    check(Settings { latency: Some(Latency { minimum_hosts: 0, ..rule }), ..OFF }, &[of(9_000_000)], &[]);
}

#[test]
fn an_endpoint_is_found_once() {
    let settings = Settings {
        success_rate: Some(SuccessRate { minimum_hosts: 3, request_volume: 1, stdev_factor: 1.0 }),
        failure_percentage: Some(FailurePercentage { threshold: 10, minimum_hosts: 1, request_volume: 1 }),
        latency: Some(Latency { factor: 2.0, difference_us_min: 0, minimum_hosts: 2, request_volume: 1 }),
        ..OFF
    };
    check(
        settings,
        &[(99, 1, 10), (10, 90, 1_000), (80, 20, 10)],
        &[(1, Finding::SuccessRate), (2, Finding::FailurePercentage)],
    );
}

proptest! {
    /// Whatever the numbers: nobody is found twice or out of range, nobody by rates who did not fail, nobody by latency
    /// who is not slower than half of the others.
    #[test]
    fn findings_have_grounds(
        rows in prop::collection::vec((0_u32..300, 0_u32..300, 0_u64..100_000), 0..40),
        factor in 0.0_f64..4.0,
        threshold in 1_u8..=100,
    ) {
        let settings = Settings {
            success_rate: Some(SuccessRate { minimum_hosts: 1, request_volume: 0, stdev_factor: factor }),
            failure_percentage: Some(FailurePercentage { threshold, minimum_hosts: 1, request_volume: 0 }),
            latency: Some(Latency { factor: factor.max(1.0), difference_us_min: 1, minimum_hosts: 2, request_volume: 0 }),
            ..OFF
        };
        let intervals: Vec<Interval> = rows.iter()
            .map(|&(successes, failures, latency_us)| Interval { successes, failures, latency_us })
            .collect();
        let found = compare(&settings, &intervals);
        for (at, (index, finding)) in found.iter().enumerate() {
            prop_assert!(found[..at].iter().all(|(other, _)| other != index));
            let one = intervals[*index];
            match finding {
                Finding::Latency => {
                    let slower = intervals.iter().filter(|i| i.latency_us >= one.latency_us).count();
                    prop_assert!(slower * 2 <= intervals.len() + 1);
                }
                _ => prop_assert!(one.failures > 0),
            }
        }
    }

    /// A row's finding takes exactly as many failures after one another as its limit says.
    #[test]
    fn rows_are_exact(limit in 1_u32..8, attempts in prop::collection::vec(any::<bool>(), 0..200)) {
        let settings = Settings { consecutive_5xx: Some(limit), ..OFF };
        let (mut watch, mut row) = (Watch::default(), 0);
        for failed in attempts {
            let outcome = if failed { Outcome::ServerError } else { Outcome::Success };
            let found = watch.observe(outcome, 1, &settings).is_some();
            row = if failed { row + 1 } else { 0 };
            prop_assert_eq!(found, row == limit);
            row %= limit;
        }
    }
}
