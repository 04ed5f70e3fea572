//! A new endpoint, or one that has become healthy again, gets its weight bit by bit, so that its caches and compilers
//! warm up on few requests. Envoy's formula (`SlowStartConfig`):
//!
//! weight × max(`min_percent` / 100, (time since / window) ^ (1 / aggression)), where time counts as a second at least.
//!
//! The power is evaluated when the settings are compiled; a request reads it from a table, in whole numbers.
//! It knows no endpoints: the caller keeps since when each is healthy. [`Ongoing`] tells whether anyone needs asking.

use super::tiers::Tier;
use super::{Weight, Weights};

/// How weights rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// After how long an endpoint has its whole weight. Zero: at once.
    pub window_ms: u64,
    /// In thousandths: 1000 rises evenly, more rises faster at first, less slower. At least 1.
    pub aggression_permille: u32,
    /// Of the weight, from the first moment on: 0 to 100.
    pub min_percent: u32,
}

impl Default for Settings {
    /// No slow start; otherwise Envoy's values.
    fn default() -> Self {
        Self { window_ms: 0, aggression_permille: 1_000, min_percent: 10 }
    }
}

/// Settings, compiled: 1 KiB.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    window_ms: u64,
    /// The least share of the weight, in 1/65,536.
    least: u32,
    /// The power, in 1/65,536, at each 1/256 of the window.
    shares: Box<[u32]>,
}

const POINTS: u64 = 256;
const WHOLE: u32 = 1 << 16;

/// Envoy's least time since the start.
const SINCE_MS_MIN: u64 = 1_000;

impl Curve {
    /// Compiles the settings.
    pub fn new(settings: Settings) -> Self {
        let least = settings.min_percent.min(100) * WHOLE / 100;
        let exponent = 1_000.0 / f64::from(settings.aggression_permille.max(1));
        let share = |point: u64| {
            let power = (point as f64 / POINTS as f64).powf(exponent);
            ((power * f64::from(WHOLE)).round() as u32).min(WHOLE)
        };
        let points = if settings.window_ms == 0 { 0 } else { POINTS + 1 };
        Self { window_ms: settings.window_ms, least, shares: (0..points).map(share).collect() }
    }

    /// What an endpoint that is healthy since `healthy_since_ms` has of `weight`. Between two points of the table the
    /// share rises evenly. A clock that goes backwards is at the start.
    pub fn weight(&self, weight: Weight, healthy_since_ms: u64, now_ms: u64) -> Weight {
        let since_ms = now_ms.saturating_sub(healthy_since_ms).max(SINCE_MS_MIN);
        if since_ms >= self.window_ms {
            return weight;
        }
        // Below POINTS × 256, as the time is less than the window.
        let place = (u128::from(since_ms) * u128::from(POINTS << 8) / u128::from(self.window_ms)) as usize;
        let (at, rest) = (place >> 8, (place & 255) as u32);
        let (from, to) = (self.shares[at], self.shares[at + 1]);
        weight.part((from + (((to - from) * rest) >> 8)).max(self.least))
    }
}

/// Until when some endpoint of an upstream is in slow start. While none is, nobody's time needs looking at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ongoing {
    until_ms: u64,
}

impl Ongoing {
    /// An endpoint has come, or become healthy.
    pub fn begin(&mut self, curve: &Curve, healthy_since_ms: u64) {
        self.until_ms = self.until_ms.max(healthy_since_ms.saturating_add(curve.window_ms));
    }

    /// Whether weights must be asked of the curve.
    #[inline]
    pub fn is_over(self, now_ms: u64) -> bool {
        now_ms >= self.until_ms
    }

    /// What a choice among the tier is told of its weights.
    #[inline]
    pub fn weights(self, tier: &Tier, now_ms: u64) -> Weights {
        if self.is_over(now_ms) { tier.weights() } else { Weights::Different }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Curve, Ongoing, Settings};
    use crate::policy::balance::Weight;
    use crate::policy::balance::Weights;
    use crate::policy::balance::tiers::Tiers;

    #[test]
    fn envoys_formula() {
        // Window, aggression, percent, time since; steps of a weight of 100.
        for (window_ms, aggression_permille, min_percent, since_ms, steps) in [
            (60_000, 1_000, 10, 0, 10_240),
            (60_000, 1_000, 10, 6_000, 10_240),
            (60_000, 1_000, 10, 15_000, 25_600),
            (60_000, 1_000, 10, 30_000, 51_200),
            (60_000, 1_000, 10, 59_999, 102_398),
            (60_000, 1_000, 10, 60_000, 102_400),
            (60_000, 1_000, 10, u64::MAX, 102_400),
            (60_000, 2_000, 10, 15_000, 51_200),
            (60_000, 500, 10, 30_000, 25_600),
            (60_000, 1_000, 0, 0, 1_706),
            (60_000, 1_000, 100, 0, 102_400),
            (0, 1_000, 10, 0, 102_400),
            // A window below Envoy's least time is none.
            (1_000, 1_000, 10, 0, 102_400),
        ] {
            let curve = Curve::new(Settings { window_ms, aggression_permille, min_percent });
            let got = curve.weight(Weight::whole(100), 7, 7_u64.saturating_add(since_ms)).steps();
            let off = got.abs_diff(steps);
            assert!(off <= 2, "{got}, not {steps}, {since_ms} of {window_ms}, {aggression_permille}");
        }
        let curve = Curve::new(Settings { window_ms: 60_000, ..Settings::default() });
        assert_eq!(curve.weight(Weight::whole(1), 50_000, 10).steps(), 102, "the clock went backwards");
    }

    #[test]
    fn costs_nothing_when_over() {
        let curve = Curve::new(Settings { window_ms: 5_000, ..Settings::default() });
        let tiers = Tiers::single(3);
        let tier = tiers.choose(|| 0).unwrap();
        let mut ongoing = Ongoing::default();
        assert!(ongoing.is_over(0));
        ongoing.begin(&curve, 1_000);
        ongoing.begin(&curve, 0);
        assert!(!ongoing.is_over(5_999) && ongoing.is_over(6_000));
        assert_eq!(ongoing.weights(tier, 5_999), Weights::Different);
        assert_eq!(ongoing.weights(tier, 6_000), Weights::Equal);
    }

    proptest! {
        /// Never falls as time passes, never leaves its bounds, and is the formula to a tenth of a per cent of the
        /// weight, but for the first point's span, where a root is too steep for a straight line.
        #[test]
        fn rises_as_the_formula_does(
            window_ms in 2_000_u64..10_000_000,
            aggression_permille in 200_u32..5_000,
            min_percent in 0_u32..=100,
            (a, b) in (0.0_f64..1.0, 0.0_f64..1.0),
            configured in 1_u32..=1_000,
        ) {
            let curve = Curve::new(Settings { window_ms, aggression_permille, min_percent });
            let whole = Weight::whole(configured);
            let at = |part: f64| (part * window_ms as f64) as u64;
            let (early, late) = (at(a.min(b)), at(a.max(b)));
            let weight = |since| curve.weight(whole, 0, since);
            prop_assert!(weight(early) <= weight(late) && weight(late) <= whole);
            let factor = late.max(1_000) as f64 / window_ms as f64;
            if factor > 4.0 / 256.0 {
                let share = factor.powf(1_000.0 / f64::from(aggression_permille)).max(f64::from(min_percent) / 100.0);
                let expected = share.min(1.0) * f64::from(whole.steps());
                let off = (f64::from(weight(late).steps()) - expected).abs();
                prop_assert!(off <= 1.5 + 0.002 * f64::from(whole.steps()), "{} of {}", off, whole.steps());
            }
        }
    }
}
