//! Active checks: what is asked, how often, and how many answers make a verdict. Asking is `control::prober`'s.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::Verdict;

/// Settings of one upstream's checks, named as in Envoy's `health_checks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// What is asked.
    pub probe: Probe,
    /// From the start of a check to the start of the next; at least 1.
    pub interval_ms: u64,
    /// Up to so much is added to each interval.
    pub jitter_ms_max: u64,
    /// While an endpoint is unhealthy and goes on failing, the interval doubles with each check up to this. Not above
    /// `interval_ms`: it never grows.
    pub unhealthy_interval_ms_max: u64,
    /// For a whole check, from connecting to the last byte; at least 1.
    pub timeout_ms: u64,
    /// Passed checks in a row that make an unhealthy endpoint healthy; at least 1.
    pub healthy_threshold: u32,
    /// Failed checks in a row that make a healthy endpoint unhealthy; at least 1.
    pub unhealthy_threshold: u32,
    /// Another port than the requests'.
    pub port: Option<u16>,
}

impl Settings {
    /// Checks every 10 s with a second of jitter, 2 s of patience, and thresholds 2 up and 3 down.
    pub fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: 10_000,
            jitter_ms_max: 1_000,
            unhealthy_interval_ms_max: 60_000,
            timeout_ms: 2_000,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            port: None,
        }
    }
}

/// What is asked. All of it over TLS where requests are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// That it accepts a connection, and agrees to TLS where that is spoken.
    Tcp,
    /// GET.
    Http(HttpProbe),
    /// `grpc.health.v1.Health/Check` over HTTP/2.
    Grpc {
        /// Whose health; empty: the server's.
        service: Arc<str>,
        /// Instead of the endpoint's own.
        authority: Option<Arc<str>>,
    },
}

/// A GET, and what is expected of its response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProbe {
    /// By which protocol.
    pub version: HttpVersion,
    /// Instead of the endpoint's own authority: host, and port unless it is the scheme's.
    pub host: Option<Arc<str>>,
    /// In origin form: a path from `/` on, and a query if there is one.
    pub path: Arc<str>,
    /// Statuses that pass; none: 200.
    pub expected_statuses: Vec<RangeInclusive<u16>>,
}

/// By which protocol a check asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge where there is no TLS.
    Http2,
}

impl HttpProbe {
    /// Does this status pass?
    pub fn is_expected(&self, status: u16) -> bool {
        match &self.expected_statuses[..] {
            [] => status == 200,
            ranges => ranges.iter().any(|range| range.contains(&status)),
        }
    }
}

/// Where an endpoint's checks stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streak {
    /// What they amount to.
    pub verdict: Verdict,
    /// Passed in a row.
    pub passed: u32,
    /// Failed in a row.
    pub failed: u32,
}

impl Default for Streak {
    fn default() -> Self {
        Self { verdict: Verdict::Unchecked, passed: 0, failed: 0 }
    }
}

impl Streak {
    /// Takes in a check's result. Gives the verdict if it has changed. The first check decides alone, either way: that is
    /// Envoy's rule, and between one answer and none the one is the better guess.
    pub fn observe(&mut self, result: Passed, settings: &Settings) -> Option<Verdict> {
        (self.passed, self.failed) = match result {
            Passed::Yes => (self.passed.saturating_add(1), 0),
            Passed::No => (0, self.failed.saturating_add(1)),
        };
        let verdict = match self.verdict {
            Verdict::Unchecked if self.passed > 0 => Verdict::Healthy,
            Verdict::Unchecked => Verdict::Unhealthy,
            Verdict::Healthy if self.failed >= settings.unhealthy_threshold => Verdict::Unhealthy,
            Verdict::Unhealthy if self.passed >= settings.healthy_threshold => Verdict::Healthy,
            same => same,
        };
        (std::mem::replace(&mut self.verdict, verdict) != verdict).then_some(verdict)
    }

    /// From the start of the last check to the next. `draw` is a random number.
    pub fn wait_ms(&self, settings: &Settings, draw: u64) -> u64 {
        let mut wait_ms = settings.interval_ms;
        if self.verdict == Verdict::Unhealthy && wait_ms < settings.unhealthy_interval_ms_max {
            // The failures that made it unhealthy don't count.
            let doublings = self.failed.saturating_sub(settings.unhealthy_threshold).min(16);
            wait_ms = wait_ms.saturating_mul(1 << doublings).min(settings.unhealthy_interval_ms_max);
        }
        wait_ms.saturating_add(settings.jitter_ms_max.checked_add(1).map_or(draw, |n| draw % n))
    }
}

/// A check's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::{HttpProbe, HttpVersion, Passed, Probe, Settings, Streak};
    use crate::policy::health::Verdict::{self, Healthy, Unhealthy};

    fn settings() -> Settings {
        Settings {
            interval_ms: 100,
            jitter_ms_max: 9,
            unhealthy_interval_ms_max: 450,
            healthy_threshold: 2,
            unhealthy_threshold: 3,
            ..Settings::new(Probe::Tcp)
        }
    }

    /// Results (`+`, `-`); at which of them the verdict changes, and to what.
    fn check(results: &str, expected: &[(usize, Verdict)]) {
        let mut streak = Streak::default();
        let changes: Vec<(usize, Verdict)> = results
            .chars()
            .map(|c| if c == '+' { Passed::Yes } else { Passed::No })
            .enumerate()
            .filter_map(|(at, result)| Some((at, streak.observe(result, &settings())?)))
            .collect();
        assert_eq!(changes, expected, "{results}");
    }

    #[test]
    fn thresholds() {
        check("", &[]);
        check("+", &[(0, Healthy)]);
        check("-", &[(0, Unhealthy)]);
        check("+--+--", &[(0, Healthy)]);
        check("+---", &[(0, Healthy), (3, Unhealthy)]);
        check("-+-++", &[(0, Unhealthy), (4, Healthy)]);
        check("+-----++---", &[(0, Healthy), (3, Unhealthy), (7, Healthy), (10, Unhealthy)]);
    }

    #[test]
    fn intervals_grow_while_it_stays_unhealthy_and_only_so_far() {
        let of = |verdict, failed, draw| Streak { verdict, passed: 0, failed }.wait_ms(&settings(), draw);
        for (verdict, failed, draw, expected) in [
            (Healthy, 0, 0, 100),
            (Healthy, 2, 23, 103),
            (Unhealthy, 3, 0, 100),
            (Unhealthy, 4, 0, 200),
            (Unhealthy, 5, 0, 400),
            (Unhealthy, 6, 9, 459),
            (Unhealthy, u32::MAX, 0, 450),
            (Unhealthy, 0, 0, 100),
            (Verdict::Unchecked, 0, 0, 100),
        ] {
            assert_eq!(of(verdict, failed, draw), expected, "{verdict:?} {failed}");
        }
        let flat = Settings { unhealthy_interval_ms_max: 0, jitter_ms_max: u64::MAX, ..settings() };
        assert_eq!(Streak { verdict: Unhealthy, passed: 0, failed: 9 }.wait_ms(&flat, 7), 107);
    }

    #[test]
    fn statuses() {
        let mut probe = HttpProbe {
            version: HttpVersion::Http1,
            host: None,
            path: "/".into(),
            expected_statuses: Vec::new(),
        };
        assert!(probe.is_expected(200) && !probe.is_expected(204));
        probe.expected_statuses = vec![200..=299, 401..=401];
        assert!(probe.is_expected(204) && probe.is_expected(401) && !probe.is_expected(302));
    }
}
