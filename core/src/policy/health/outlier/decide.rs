//! Who among an upstream's endpoints is an outlier, from what one worker saw of its attempts. Named as in Envoy's
//! `outlier_detection`, from whose documentation the rules of rows and rates are taken; latency is an addition.
//!
//! Two kinds of rules. Rows ([`Watch::observe`], at each attempt's end): so many failures one after another. Comparisons
//! ([`compare`], once an interval over all endpoints): a success rate, a percentage of failures, a latency.
//!
//! It does not eject anybody: what it finds goes to `proxy::standing`, where the cap is asked. It sees what *one* worker
//! saw: request volumes are a worker's, about the node's divided by the number of workers.
//!
//! Against Envoy: there are no `enforcing_*` percentages (a rule is on or off), and failures of local origin are counted
//! in a row of their own under either [`LocalOrigin`].

/// Where failures to connect, resets and time-outs count. Envoy's `split_external_local_origin_errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalOrigin {
    /// As gateway errors as well as in their own row. Envoy's default.
    Joined,
    /// Only in their own row, and in no rate: an endpoint's own responses are judged apart.
    Split,
}

/// Settings. `None` turns a rule off. Counts are at least 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Envoy's `consecutive_5xx`.
    pub consecutive_5xx: Option<u32>,
    /// Envoy's `consecutive_gateway_failure`: 502, 503, 504.
    pub consecutive_gateway_failure: Option<u32>,
    /// Envoy's `consecutive_local_origin_failure`: connect, reset, time-out.
    pub consecutive_local_origin_failure: Option<u32>,
    /// Where those count besides.
    pub local_origin: LocalOrigin,
    /// A success rate far below the others'.
    pub success_rate: Option<SuccessRate>,
    /// A fixed part of requests that fail.
    pub failure_percentage: Option<FailurePercentage>,
    /// A latency far above the others'.
    pub latency: Option<Latency>,
}

impl Default for Settings {
    /// Envoy's, as far as they are enforced there by default: 5 responses of class 5xx in a row, and success rates.
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway_failure: None,
            consecutive_local_origin_failure: Some(5),
            local_origin: LocalOrigin::Joined,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
            latency: None,
        }
    }
}

/// Below mean − factor × standard deviation of the endpoints that had enough requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SuccessRate {
    /// Envoy's `success_rate_minimum_hosts`.
    pub minimum_hosts: u32,
    /// Envoy's `success_rate_request_volume`, in an interval.
    pub request_volume: u32,
    /// Envoy's `success_rate_stdev_factor`, there in thousandths.
    pub stdev_factor: f64,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { minimum_hosts: 5, request_volume: 100, stdev_factor: 1.9 }
    }
}

/// At least so many failures in a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Envoy's `failure_percentage_threshold`, 0 to 100.
    pub threshold: u8,
    /// Envoy's `failure_percentage_minimum_hosts`.
    pub minimum_hosts: u32,
    /// Envoy's `failure_percentage_request_volume`, in an interval.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, minimum_hosts: 5, request_volume: 50 }
    }
}

/// Above factor × the median of the others, and by so much more at least. Both are of [`Interval::latency_us`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency {
    /// At least 1.
    pub factor: f64,
    /// So that 0.2 ms beside 0.05 ms is nobody's fault.
    pub difference_us_min: u64,
    /// As for the rates; at least 2, since there must be others.
    pub minimum_hosts: u32,
    /// Successes in an interval.
    pub request_volume: u32,
}

impl Default for Latency {
    fn default() -> Self {
        Self { factor: 3.0, difference_us_min: 10_000, minimum_hosts: 3, request_volume: 50 }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response below 500. Also 4xx: that is the client's.
    Success,
    /// Another 5xx than those below.
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// No connection.
    ConnectFailure,
    /// The connection broke before the response's head was whole, or what came was no response.
    Reset,
    /// The response's head did not come in time.
    Timeout,
}

impl Outcome {
    /// Of a response.
    pub fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Success,
        }
    }

    fn is_local(self) -> bool {
        matches!(self, Self::ConnectFailure | Self::Reset | Self::Timeout)
    }
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    FailurePercentage,
    Latency,
}

/// What one worker saw of one endpoint: 40 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Watch {
    row_5xx: u32,
    row_gateway: u32,
    row_local: u32,
    /// Of this interval.
    successes: u32,
    failures: u32,
    /// Of this interval's successes, those that tell how long they took.
    timed: u32,
    /// Theirs.
    latency_sum_us: u64,
    /// Over intervals; zero: none yet.
    latency_ewma_us: f64,
}

/// One attempt's time counts up to this: a response that was held back on purpose for minutes is one long poll and not a
/// slow endpoint.
const LATENCY_US_MAX: u64 = 60_000_000;

impl Watch {
    /// Takes in an attempt. `latency_us` is the time to the response's head, 0 if it is not known; only that of successes counts, as failures
    /// may be fast or as slow as a time-out.
    ///
    /// After a finding its row begins anew, so that the next one comes a whole row later.
    #[inline]
    pub fn observe(&mut self, outcome: Outcome, latency_us: u64, settings: &Settings) -> Option<Finding> {
        if outcome == Outcome::Success {
            self.row_5xx = 0;
            self.row_gateway = 0;
            self.row_local = 0;
            self.successes = self.successes.saturating_add(1);
            self.timed = self.timed.saturating_add(u32::from(latency_us > 0));
            self.latency_sum_us = self.latency_sum_us.saturating_add(latency_us.min(LATENCY_US_MAX));
            return None;
        }
        self.fail(outcome, settings)
    }

    #[cold]
    fn fail(&mut self, outcome: Outcome, settings: &Settings) -> Option<Finding> {
        if outcome.is_local() {
            self.row_local = self.row_local.saturating_add(1);
            if settings.local_origin == LocalOrigin::Split {
                return reached(&mut self.row_local, settings.consecutive_local_origin_failure)
                    .then_some(Finding::ConsecutiveLocalOriginFailure);
            }
        } else {
            // It was reached, and it spoke.
            self.row_local = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.row_5xx = self.row_5xx.saturating_add(1);
        self.row_gateway =
            if outcome == Outcome::ServerError { 0 } else { self.row_gateway.saturating_add(1) };
        // The most telling first, should several be full at once. All full ones begin anew.
        let local = reached(&mut self.row_local, settings.consecutive_local_origin_failure);
        let gateway = reached(&mut self.row_gateway, settings.consecutive_gateway_failure);
        let any = reached(&mut self.row_5xx, settings.consecutive_5xx);
        [
            (local, Finding::ConsecutiveLocalOriginFailure),
            (gateway, Finding::ConsecutiveGatewayFailure),
            (any, Finding::Consecutive5xx),
        ]
        .into_iter()
        .find_map(|(full, finding)| full.then_some(finding))
    }

    /// Ends an interval and begins the next. Rows go on.
    pub fn end_interval(&mut self) -> Interval {
        if self.timed > 0 {
            let mean = self.latency_sum_us as f64 / f64::from(self.timed);
            // A half for the newest: a slow interval is half forgotten after the next one.
            self.latency_ewma_us =
                if self.latency_ewma_us > 0.0 { f64::midpoint(self.latency_ewma_us, mean) } else { mean };
        }
        let ended = Interval {
            successes: self.successes,
            failures: self.failures,
            latency_us: self.latency_ewma_us as u64,
        };
        (self.successes, self.failures, self.timed, self.latency_sum_us) = (0, 0, 0, 0);
        ended
    }
}

fn reached(row: &mut u32, limit: Option<u32>) -> bool {
    let full = limit.is_some_and(|limit| *row >= limit);
    if full {
        *row = 0;
    }
    full
}

/// One endpoint's numbers of one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Interval {
    pub successes: u32,
    pub failures: u32,
    /// Mean time to a successful response's head, weighted by age over intervals (1/2, 1/4, …); zero: none.
    pub latency_us: u64,
}

impl Interval {
    fn requests(&self) -> u64 {
        u64::from(self.successes) + u64::from(self.failures)
    }

    /// Of 100.
    fn success_rate(&self) -> f64 {
        100.0 * f64::from(self.successes) / self.requests().max(1) as f64
    }
}

/// Compares the endpoints of one upstream with each other, and finds those that stand out: each at most once, the worst
/// first by each rule, since the cap may not allow all. `intervals` has those that admit requests; the index is into it.
///
/// Once an interval, not once a request: it sorts and allocates, O(n log n).
pub fn compare(settings: &Settings, intervals: &[Interval]) -> Vec<(usize, Finding)> {
    let by_rule = [
        (settings.success_rate.map(|rule| low_success_rates(&rule, intervals)), Finding::SuccessRate),
        (settings.failure_percentage.map(|rule| many_failures(&rule, intervals)), Finding::FailurePercentage),
        (settings.latency.map(|rule| slow(&rule, intervals)), Finding::Latency),
    ];
    let mut found: Vec<(usize, Finding)> = Vec::new();
    for (indices, finding) in by_rule {
        for index in indices.unwrap_or_default() {
            if !found.iter().any(|(i, _)| *i == index) {
                found.push((index, finding));
            }
        }
    }
    found
}

/// Those that had enough requests, worst success rate first; none if they are too few.
fn eligible(intervals: &[Interval], request_volume: u32, minimum_hosts: u32) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = intervals
        .iter()
        .enumerate()
        .filter(|(_, i)| i.requests() > 0 && i.requests() >= u64::from(request_volume))
        .map(|(index, i)| (index, i.success_rate()))
        .collect();
    if all.len() < minimum_hosts as usize {
        all.clear();
    }
    all.sort_by(|a, b| a.1.total_cmp(&b.1));
    all
}

fn low_success_rates(rule: &SuccessRate, intervals: &[Interval]) -> Vec<usize> {
    let all = eligible(intervals, rule.request_volume, rule.minimum_hosts);
    let n = all.len().max(1) as f64;
    let mean = all.iter().map(|(_, rate)| rate).sum::<f64>() / n;
    let variance = all.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / n;
    let threshold = mean - rule.stdev_factor * variance.sqrt();
    all.into_iter().take_while(|(_, rate)| *rate < threshold).map(|(index, _)| index).collect()
}

fn many_failures(rule: &FailurePercentage, intervals: &[Interval]) -> Vec<usize> {
    eligible(intervals, rule.request_volume, rule.minimum_hosts)
        .into_iter()
        .take_while(|(_, rate)| 100.0 - rate >= f64::from(rule.threshold))
        .map(|(index, _)| index)
        .collect()
}

fn slow(rule: &Latency, intervals: &[Interval]) -> Vec<usize> {
    let mut all: Vec<(usize, u64)> = intervals
        .iter()
        .enumerate()
        .filter(|(_, i)| i.latency_us > 0 && i.successes >= rule.request_volume)
        .map(|(index, i)| (index, i.latency_us))
        .collect();
    if all.len() < rule.minimum_hosts.max(2) as usize {
        return Vec::new();
    }
    all.sort_by_key(|(_, us)| std::cmp::Reverse(*us));
    let n = all.len();
    // The median of the others: without the one at `at`, those behind it move up by one. Of an even number the slower
    // of the middle two, which accuses less.
    let median_without = |at: usize| {
        let middle = (n - 1).saturating_sub(1) / 2;
        all[if middle < at { middle } else { middle + 1 }].1
    };
    (0..n)
        .take_while(|&at| {
            let (us, median) = (all[at].1, median_without(at));
            us as f64 > median as f64 * rule.factor && us - median.min(us) >= rule.difference_us_min
        })
        .map(|at| all[at].0)
        .collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
