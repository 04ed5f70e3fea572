//! What a window says of a canary: good, bad or unclear, each with its doubt.

use super::bounds::Prior;
use super::why::{self, Span, Why};
use super::window::{Scatter, Window};
use super::{Decider, Fault, Lack, Latency, Verdict};

impl Decider {
    /// What the windows say, with the figures of the one that says it.
    pub(super) fn look(&self) -> (Verdict, Why) {
        let mut why = self.figures(&self.saved.long);
        for window in [&self.saved.long, &self.saved.recent] {
            let alpha = self.doubt_bad(window);
            let (errors, latency) = self.compare(window, alpha, Scatter::Ignored);
            if let Some(fault) = self.fault(errors.as_ref(), latency.as_ref()) {
                why = self.figures(window);
                (why.errors, why.latency) = (errors, latency);
                why.confidence = 1.0 - alpha * self.bounds();
                return (Verdict::Bad(fault), why);
            }
        }
        // One that is bad by some rule must seem good by that one: two bounds, whatever the number of rules.
        let doubt = self.settings.false_promotion_max * spent(&self.saved.long);
        let judge = |doubt: f64| {
            let (errors, latency) = self.compare(&self.saved.long, doubt / 2.0, Scatter::Counted);
            (self.verdict(errors.as_ref(), latency.as_ref()), errors, latency)
        };
        let (mut verdict, errors, latency) = judge(doubt);
        let was_good = self.saved.verdict == Verdict::Good && self.saved.good_in_a_row > 0;
        if was_good && verdict != Verdict::Good && judge((doubt * GOOD_STAYS).min(0.5)).0 == Verdict::Good {
            verdict = Verdict::Good;
        }
        (why.errors, why.latency, why.confidence) = (errors, latency, 1.0 - doubt);
        (verdict, why)
    }

    /// Good or unclear.
    fn verdict(&self, errors: Option<&why::Errors>, latency: Option<&why::Latencies>) -> Verdict {
        let (settings, window) = (&self.settings, &self.saved.long);
        if window.canary.tally.requests < settings.requests_min {
            return Verdict::Unclear(Lack::Requests);
        }
        let few_errors = settings.errors.zip(errors).is_none_or(|(rule, found)| {
            found.canary.high <= rule.share_max.min(found.baseline.low + rule.above_baseline_max)
        });
        let fast = settings
            .latency
            .zip(latency)
            .is_none_or(|(rule, found)| found.canary.high_us <= rule.allowed_us(found.baseline.low_us));
        let both_fail =
            settings.errors.zip(errors).is_some_and(|(rule, found)| found.baseline.low > rule.share_max);
        let in_time = window.open_ms >= settings.interval_ms / 2 && !self.saved.good_lost;
        if few_errors && fast && in_time {
            Verdict::Good
        } else if window.baseline.tally.requests == 0 {
            Verdict::Unclear(Lack::BaselineRequests)
        } else if both_fail {
            Verdict::Unclear(Lack::BothFail)
        } else {
            Verdict::Unclear(Lack::Evidence)
        }
    }

    /// What is clearly bad.
    fn fault(&self, errors: Option<&why::Errors>, latency: Option<&why::Latencies>) -> Option<Fault> {
        if let Some((rule, found)) = self.settings.errors.zip(errors) {
            if found.canary.low > rule.share_max && found.baseline.low <= rule.share_max {
                return Some(Fault::ErrorShare);
            }
            if found.canary.low > found.baseline.high + rule.above_baseline_max {
                return Some(Fault::ErrorsAboveBaseline);
            }
        }
        let (rule, found) = self.settings.latency.zip(latency)?;
        (found.canary.low_us > rule.allowed_us(found.baseline.high_us)).then_some(Fault::Latency)
    }

    /// The figures of both arms, each bound with a doubt of `alpha`.
    fn compare(
        &self,
        window: &Window,
        alpha: f64,
        scatter: Scatter,
    ) -> (Option<why::Errors>, Option<why::Latencies>) {
        let errors = self.settings.errors.map(|rule| {
            let canary = window.canary.errors(alpha, scatter);
            let baseline = window.baseline.errors(alpha, scatter);
            let allowed = rule.share_max.min(baseline.seen + rule.above_baseline_max);
            why::Errors { canary, baseline, allowed }
        });
        let latency = self.settings.latency.map(|rule| {
            let prior = Prior::about(1.0 - rule.quantile);
            let [canary, baseline] = [&window.canary, &window.baseline].map(|seen| {
                let (low_us, high_us) = prior.quantile(&seen.tally.latencies, rule.quantile, alpha);
                Span { low_us, high_us }
            });
            why::Latencies { quantile: rule.quantile, canary, baseline }
        });
        (errors, latency)
    }

    /// What one bound may be wrong by when it says bad.
    pub(super) fn doubt_bad(&self, window: &Window) -> f64 {
        let step = self.settings.false_rollback_max / self.settings.steps.len().max(1) as f64;
        step / 2.0 * spent(window) / self.bounds()
    }

    /// How many bounds a window is judged by: of each rule, for each arm.
    fn bounds(&self) -> f64 {
        let rules = u32::from(self.settings.errors.is_some()) + u32::from(self.settings.latency.is_some());
        f64::from(2 * rules.max(1))
    }
}

/// How much more doubt a good verdict bears than it took to become one.
const GOOD_STAYS: f64 = 8.0;

/// The part of a step's doubt that a window may use.
fn spent(window: &Window) -> f64 {
    let number = f64::from(window.number);
    1.0 / ((number + 1.0) * (number + 2.0))
}

impl Latency {
    /// What the canary's quantile may be if the baseline's is this; `u64::MAX` if there is no bound of that either.
    fn allowed_us(&self, baseline_us: u64) -> u64 {
        let times = (baseline_us as f64 * self.times_max) as u64;
        times.max(baseline_us.saturating_add(self.floor_us))
    }
}
