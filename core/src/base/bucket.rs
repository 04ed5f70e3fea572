//! A token bucket in exact integer arithmetic: what it grants over any span is at most `burst + rate × span`, to the
//! token, and what it does not grant it does not forget. Time is passed in.

/// How fast a bucket fills, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: u32,
    /// Tokens that a full bucket holds. A request for more is never granted.
    pub burst: u32,
}

/// A token, in the unit that the level is kept in: one nanosecond at one token a second. Nothing is ever rounded.
const TOKEN: u64 = 1_000_000_000;

/// One bucket: 16 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    level: u64,
    filled_ns: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn full(rate: Rate, now_ns: u64) -> Self {
        Self { level: u64::from(rate.burst) * TOKEN, filled_ns: now_ns }
    }

    /// Takes `tokens`, all or none. A clock that goes backwards adds nothing.
    #[inline]
    pub fn take(&mut self, rate: Rate, tokens: u32, now_ns: u64) -> bool {
        self.fill(rate, now_ns);
        let cost = u64::from(tokens) * TOKEN;
        let granted = self.level >= cost;
        if granted {
            self.level -= cost;
        }
        granted
    }

    /// Adds tokens that were earned otherwise than by waiting, up to the burst.
    #[inline]
    pub fn put(&mut self, rate: Rate, tokens: u32) {
        self.level = self.level.saturating_add(u64::from(tokens) * TOKEN).min(u64::from(rate.burst) * TOKEN);
    }

    /// Whole tokens there are.
    pub fn tokens(&self) -> u32 {
        (self.level / TOKEN) as u32
    }

    fn fill(&mut self, rate: Rate, now_ns: u64) {
        let elapsed = now_ns.saturating_sub(self.filled_ns);
        if elapsed > 0 {
            self.filled_ns = now_ns;
            let gained = elapsed.saturating_mul(u64::from(rate.per_second));
            // Also how a lowered burst takes effect.
            self.level = self.level.saturating_add(gained).min(u64::from(rate.burst) * TOKEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Bucket, Rate};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_table_of_moments() {
        let rate = Rate { per_second: 2, burst: 3 };
        let mut bucket = Bucket::full(rate, 0);
        for (at_ns, tokens, granted, left) in [
            (0, 2, true, 1),
            (0, 2, false, 1),
            (0, 1, true, 0),
            (SECOND / 2 - 1, 1, false, 0),
            (SECOND / 2, 1, true, 0),
            (SECOND / 4, 1, false, 0),
            (SECOND, 1, true, 0),
            (100 * SECOND, 4, false, 3),
            (100 * SECOND, 3, true, 0),
            (u64::MAX, 0, true, 3),
        ] {
            assert_eq!(bucket.take(rate, tokens, at_ns), granted, "{tokens} at {at_ns}");
            assert_eq!(bucket.tokens(), left, "after {tokens} at {at_ns}");
        }
    }

    #[test]
    fn a_rate_of_zero_grants_its_burst_once() {
        let rate = Rate { per_second: 0, burst: 1 };
        let mut bucket = Bucket::full(rate, 0);
        assert!(bucket.take(rate, 1, 5) && !bucket.take(rate, 1, u64::MAX));
    }

    proptest! {
        /// The bound that the module's head states, over schedules with jumps of any size and direction.
        #[test]
        fn never_more_than_burst_and_rate(
            per_second in 0_u32..=u32::MAX,
            burst in 0_u32..=u32::MAX,
            steps in prop::collection::vec((0_u64..3 * SECOND, any::<bool>(), 0_u32..1_000), 1..200),
        ) {
            let rate = Rate { per_second, burst };
            let mut bucket = Bucket::full(rate, SECOND);
            let (mut now, mut latest, mut granted) = (SECOND, SECOND, 0_u128);
            for (step, forward, tokens) in steps {
                now = if forward { now + step } else { now.saturating_sub(step) };
                latest = latest.max(now);
                if bucket.take(rate, tokens, now) {
                    granted += u128::from(tokens);
                }
                let allowed = u128::from(burst) * u128::from(SECOND)
                    + u128::from(latest - SECOND) * u128::from(per_second);
                prop_assert!(granted * u128::from(SECOND) <= allowed);
            }
        }

        /// Whoever asks for one token at a time, often enough, gets all there are.
        #[test]
        fn nothing_is_forgotten(per_second in 1_u32..10_000, step in 1_u64..50_000) {
            let rate = Rate { per_second, burst: 10 };
            let mut bucket = Bucket::full(rate, 0);
            let (mut granted, mut now) = (0_u64, 0);
            while now < SECOND / 20 {
                while bucket.take(rate, 1, now) {
                    granted += 1;
                }
                now += step;
            }
            now -= step;
            prop_assert_eq!(granted, 10 + now * u64::from(per_second) / SECOND);
        }
    }
}
