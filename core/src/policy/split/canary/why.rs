//! What a decider decided, with the figures it had, as data for a log and in words for people.

use std::fmt;

use super::Verdict;

/// A line of the decision log.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// When, on the caller's clock.
    pub at_ms: u64,
    /// The canary's share before, in basis points.
    pub from_bp: u32,
    /// And from now on.
    pub to_bp: u32,
    /// What the window says.
    pub verdict: Verdict,
    /// The figures.
    pub why: Why,
}

/// What made a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It begins, with its first share.
    Started,
    /// The verdict is another than before; the share is not.
    Judged,
    /// Good for long enough: on to the next share.
    Advanced,
    /// Good at the last step: the canary has all.
    Promoted,
    /// Bad: the canary has nothing any more.
    RolledBack,
    /// It has stood on this step for `stalled_after_ms`. Said once a step.
    Stalled,
}

impl Reason {
    /// For metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Judged => "judged",
            Self::Advanced => "advanced",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
            Self::Stalled => "stalled",
        }
    }
}

/// The figures of one look at the window.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    pub reason: Reason,
    /// From 1.
    pub step: usize,
    pub steps: usize,
    /// The share of this step, and the one that the decision makes of it, in basis points.
    pub share_bp: u32,
    pub to_bp: u32,
    /// Requests in the window, and how many of the canary's must be.
    pub canary_requests: u64,
    pub baseline_requests: u64,
    pub requests_min: u64,
    /// If there is a rule for errors.
    pub errors: Option<Errors>,
    /// If there is a rule for latency.
    pub latency: Option<Latencies>,
    /// With which all bounds hold at once, at every look: 0 to 1.
    pub confidence: f64,
    /// Good looks in a row, and how many it takes.
    pub good_in_a_row: u32,
    pub confirm: u32,
    /// Time on this step in milliseconds, and how much it takes.
    pub step_ms: u64,
    pub interval_ms: u64,
}

/// A share of errors, 0 to 1, and its bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    pub seen: f64,
    pub low: f64,
    pub high: f64,
}

/// Error shares of both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    pub canary: Share,
    pub baseline: Share,
    /// What the canary's may be: by the absolute bound, or by what the baseline's seems to be.
    pub allowed: f64,
}

/// Bounds of a quantile in microseconds: at least, and at most (`u64::MAX`: none yet).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub low_us: u64,
    pub high_us: u64,
}

/// Latencies of both.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latencies {
    /// 0 to 1.
    pub quantile: f64,
    pub canary: Span,
    pub baseline: Span,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (f64::from(self.share_bp) / 1e4, f64::from(self.to_bp) / 1e4);
        write!(f, "step {} of {} ({}", self.step, self.steps, Percent(from))?;
        if self.to_bp != self.share_bp {
            write!(f, " -> {}", Percent(to))?;
        }
        f.write_str(")")?;
        if self.canary_requests < self.requests_min && self.reason != Reason::RolledBack {
            // Figures of a few requests would only look like some.
            write!(f, ": {} requests of the canary, {} needed", self.canary_requests, self.requests_min)?;
            return self.end(f);
        }
        let mut mark = ":";
        if let Some(errors) = &self.errors {
            write!(f, "{mark} errors {} (", Percent(errors.canary.seen))?;
            let (confidence, allowed) = (Percent(self.confidence), Percent(errors.allowed));
            match self.reason {
                Reason::RolledBack if errors.canary.low <= errors.allowed => {}
                Reason::RolledBack => {
                    write!(f, "at least {} with {confidence} confidence, ", Percent(errors.canary.low))?;
                }
                _ => write!(f, "at most {} with {confidence} confidence, ", Percent(errors.canary.high))?,
            }
            write!(f, "{allowed} allowed) against {}", Percent(errors.baseline.seen))?;
            mark = ",";
        }
        if let Some(latency) = &self.latency {
            let (quantile, canary, baseline) = (latency.quantile * 100.0, latency.canary, latency.baseline);
            write!(f, "{mark} p{} {canary} against {baseline}", Short(quantile))?;
            mark = ",";
        }
        match self.good_in_a_row {
            0 => {}
            1 => write!(f, "{mark} 1 good verdict")?,
            row => write!(f, "{mark} {row} good verdicts in a row")?,
        }
        self.end(f)
    }
}

impl Why {
    fn end(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason == Reason::Stalled {
            write!(f, "; no decision for {} s", self.step_ms / 1_000)?;
        }
        Ok(())
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scale, unit) = match self.low_us {
            0..1_000 if self.high_us < 1_000 => (1.0, "us"),
            0..10_000_000 => (1e3, "ms"),
            _ => (1e6, "s"),
        };
        let low = Short(self.low_us as f64 / scale);
        if self.high_us == u64::MAX {
            return write!(f, "{low} {unit} or more");
        }
        write!(f, "{low}-{} {unit}", Short(self.high_us as f64 / scale))
    }
}

/// A share, 0 to 1, as people read it.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", Short(self.0 * 100.0))
    }
}

/// Two digits behind the point below 10, and up to three close to 100; none behind it for what is whole.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0 {
            x if (x - x.round()).abs() < 1e-6 => 0,
            x if x < 0.1 => 3,
            x if x < 10.0 => 2,
            x if (99.0..100.0).contains(&x) => 3,
            _ => 1,
        };
        let text = format!("{:.decimals$}", self.0);
        // 99.950 reads worse than 99.95.
        f.write_str(if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text })
    }
}
