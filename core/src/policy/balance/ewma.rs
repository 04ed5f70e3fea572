//! How slow an endpoint is: a moving average of its latency that jumps up to every peak and comes down slowly.
//!
//! Finagle's Peak EWMA (`com.twitter.finagle.loadbalancer.PeakEwma`), also linkerd's. A latency above the average
//! replaces it; one below is mixed in by the age of the average, with the factor e^(-age / decay). What is read has
//! decayed towards zero since the last observation, so that an endpoint that was slow once is tried again.
//! In fixed point: the same observations give the same numbers on any machine.
//!
//! It measures nothing: the request path says how long an attempt took, and whether it failed.

/// Latencies are bounded to this: 275 s. It leaves 24 bits for a nanosecond's fractions, without which many small
/// steps would round the decay away.
const LATENCY_NS_MAX: u64 = 1 << 38;
const FRACTION_BITS: u32 = 24;

/// How latencies are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Halvings a nanosecond, in 2^-64.
    halvings: u64,
    failure_ns: u64,
}

impl Settings {
    /// `decay_ms`: after how long without observations an average is down to 37 %; at least 1.
    /// `failure_ms`: the least that a failed attempt counts as having taken.
    pub fn new(decay_ms: u64, failure_ms: u64) -> Self {
        let decay_ns = u128::from(decay_ms.max(1)) * 1_000_000;
        Self {
            halvings: (LOG2_E / decay_ns) as u64,
            failure_ns: failure_ms.saturating_mul(1_000_000).min(LATENCY_NS_MAX),
        }
    }

    /// e^(-`age_ns` / decay), in 2^-32.
    #[inline]
    fn remains(&self, age_ns: u64) -> u64 {
        let halvings = (u128::from(age_ns) * u128::from(self.halvings)) >> 32;
        let whole = halvings >> 32;
        if whole >= 32 {
            return 0;
        }
        let fraction = halvings as u32;
        let at = (fraction >> 26) as usize;
        let (from, to) = (POWERS[at], POWERS[at + 1]);
        let rest = u64::from(fraction & ((1 << 26) - 1));
        (from - (((from - to) * rest) >> 26)) >> whole
    }
}

impl Default for Settings {
    /// Finagle's 10 s; a failure counts as one second at least.
    fn default() -> Self {
        Self::new(10_000, 1_000)
    }
}

/// One endpoint's latency, as one worker has seen it: 16 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ewma {
    /// In 2^-24 ns; zero as long as nothing has been observed.
    average: u64,
    observed_ns: u64,
}

impl Ewma {
    /// An attempt took `latency_ns` and was over at `now_ns`.
    #[inline]
    pub fn observe(&mut self, latency_ns: u64, now_ns: u64, settings: &Settings) {
        let latency = latency_ns.clamp(1, LATENCY_NS_MAX) << FRACTION_BITS;
        if latency >= self.average {
            self.average = latency;
        } else {
            let remains = settings.remains(now_ns.saturating_sub(self.observed_ns));
            self.average = latency + scaled(self.average - latency, remains);
        }
        self.observed_ns = now_ns.max(self.observed_ns);
    }

    /// An attempt failed or was given up after `elapsed_ns`. It counts as the longest of that, the settings' latency of
    /// a failure and twice the average as it is now: an endpoint that fails at once must not look fast, also not
    /// beside endpoints that are slower than the settings expect of a failure.
    pub fn observe_failure(&mut self, elapsed_ns: u64, now_ns: u64, settings: &Settings) {
        let now = self.cost_ns(now_ns, settings).unwrap_or(0);
        self.observe(elapsed_ns.max(settings.failure_ns).max(now.saturating_mul(2)), now_ns, settings);
    }

    /// The average, decayed until `now_ns`; `None` if nothing has been observed.
    #[inline]
    pub fn cost_ns(&self, now_ns: u64, settings: &Settings) -> Option<u64> {
        if self.average == 0 {
            return None;
        }
        let remains = settings.remains(now_ns.saturating_sub(self.observed_ns));
        Some(scaled(self.average, remains) >> FRACTION_BITS)
    }

    /// What [`super::Candidate::load_ns`] wants: the average for each of `active` requests and one more.
    ///
    /// An endpoint without data counts as free, so it gets a request soon; and as slower than any other while it is
    /// busy, so it gets no second one before the first has shown how fast it is. Finagle's rule: one request for each
    /// worker, not a flood.
    #[inline]
    pub fn load_ns(&self, active: u32, now_ns: u64, settings: &Settings) -> u64 {
        let requests = u64::from(active) + 1;
        match self.cost_ns(now_ns, settings) {
            Some(cost) => (cost + 1).saturating_mul(requests),
            None if active == 0 => 0,
            None => UNKNOWN_NS.saturating_add(requests),
        }
    }
}

/// What an endpoint without data costs while it is busy: more than any other is likely to, with room above it for the
/// number of requests, by which such endpoints compare among themselves.
const UNKNOWN_NS: u64 = 1 << 62;

#[inline]
fn scaled(value: u64, parts: u64) -> u64 {
    ((u128::from(value) * u128::from(parts)) >> 32) as u64
}

/// log2(e) × 2^64.
const LOG2_E: u128 = 26_613_026_195_688_644_983;

/// 2^(-i/64) × 2^32. Between two of them a straight line is at most 1.5e-5 off.
const POWERS: [u64; 65] = {
    /// 2^(-1/64) × 2^62.
    const STEP: u128 = 4_562_008_997_483_360_349;
    let mut powers = [0; 65];
    let mut power: u128 = 1 << 62;
    let mut i = 0;
    while i < 65 {
        powers[i] = ((power + (1 << 29)) >> 30) as u64;
        power = (power * STEP) >> 62;
        i += 1;
    }
    powers
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Ewma, LATENCY_NS_MAX, Settings};

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    fn near(got: u64, expected: f64, tolerance: f64) {
        assert!((got as f64 - expected).abs() <= expected * tolerance + 1.0, "{got}, not {expected}");
    }

    #[test]
    fn peaks_jump_and_decay() {
        let settings = Settings::default();
        let mut ewma = Ewma::default();
        assert_eq!(ewma.cost_ns(5, &settings), None);
        for (at_ns, latency_ns, expected) in [
            (SECOND, 20 * MS, 20e6),
            // Up at once.
            (2 * SECOND, 100 * MS, 100e6),
            // Down by the age: 100 × e^-1 + 10 × (1 - e^-1).
            (12 * SECOND, 10 * MS, 43.109e6),
            // At the same moment nothing is mixed in.
            (12 * SECOND, MS, 43.109e6),
            // A clock that goes backwards is one that stands.
            (SECOND, MS, 43.109e6),
            (400 * SECOND, 3 * MS, 3e6),
        ] {
            ewma.observe(latency_ns, at_ns, &settings);
            near(ewma.cost_ns(at_ns, &settings).unwrap(), expected, 1e-4);
        }
        near(ewma.cost_ns(410 * SECOND, &settings).unwrap(), 3e6 * (-1_f64).exp(), 1e-4);
        assert_eq!(ewma.cost_ns(u64::MAX, &settings), Some(0), "forgotten, but not unknown");
    }

    #[test]
    fn failures_never_look_fast() {
        let settings = Settings::default();
        for (latency_ns, elapsed_ns, least_ns) in [
            (10 * MS, 50_000, SECOND),
            (0, 1, SECOND),
            // All endpoints are slow: one that refuses at once is slower still.
            (5 * SECOND, 1, 10 * SECOND),
            (5 * SECOND, 30 * SECOND, 30 * SECOND),
            (5 * SECOND, u64::MAX, LATENCY_NS_MAX),
        ] {
            let mut ewma = Ewma::default();
            if latency_ns > 0 {
                ewma.observe(latency_ns, SECOND, &settings);
            }
            ewma.observe_failure(elapsed_ns, SECOND, &settings);
            let cost = ewma.cost_ns(SECOND, &settings).unwrap();
            assert!(cost >= least_ns && cost <= LATENCY_NS_MAX, "{cost} after {latency_ns}, {elapsed_ns}");
        }
    }

    #[test]
    fn a_new_endpoint_gets_one_request_and_no_flood() {
        let settings = Settings::default();
        let mut known = Ewma::default();
        known.observe(LATENCY_NS_MAX, SECOND, &settings);
        let new = Ewma::default();
        let load = |ewma: &Ewma, active| ewma.load_ns(active, SECOND, &settings);
        assert!(load(&new, 0) < load(&known, 0), "it is tried soon");
        assert!(load(&new, 1) > load(&known, 1_000_000), "and not again before it has answered");
        assert!(load(&new, 1) < load(&new, 2));
        assert!(load(&known, 0) < load(&known, 1));
    }

    #[test]
    fn small_steps_decay_as_one_large_step_does() {
        // A request each 10 µs for 5 s; without fractions of a nanosecond each step would round to nothing or to one.
        let settings = Settings::default();
        let mut ewma = Ewma::default();
        ewma.observe(2 * MS, 0, &settings);
        for step in 1..=500_000 {
            ewma.observe(MS, step * 10_000, &settings);
        }
        near(ewma.cost_ns(5 * SECOND, &settings).unwrap(), 1e6 + 1e6 * (-0.5_f64).exp(), 3e-3);
    }

    proptest! {
        #[test]
        fn the_factor_is_the_exponential(decay_ms in 1_u64..1_000_000, age_ns in 0_u64..1 << 45) {
            let got = Settings::new(decay_ms, 0).remains(age_ns) as f64 / 2_f64.powi(32);
            let expected = (-(age_ns as f64) / (decay_ms as f64 * 1e6)).exp();
            prop_assert!((got - expected).abs() < 2e-5 * expected + 1e-9, "{} {}", got, expected);
        }

        /// Between the latest latency and the peak, whatever comes.
        #[test]
        fn it_stays_between(steps in prop::collection::vec((0..u64::MAX, 0..u64::MAX / 64), 1..50)) {
            let settings = Settings::default();
            let (mut ewma, mut now, mut peak) = (Ewma::default(), 0, 0);
            for (latency_ns, step) in steps {
                now += step;
                peak = peak.max(latency_ns.min(LATENCY_NS_MAX));
                ewma.observe(latency_ns, now, &settings);
                let cost = ewma.cost_ns(now, &settings).unwrap();
                prop_assert!(cost <= peak.max(1) && cost >= latency_ns.min(LATENCY_NS_MAX));
            }
        }
    }
}
