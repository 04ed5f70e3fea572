//! When requests are due in the open loop: pure, the clock is an argument and the chance a seed.
//!
//! The backlog of a target that does not keep up needs no memory: due times are made one at a time, on demand.

use super::Arrivals;

#[derive(Debug, Clone)]
pub struct Schedule {
    arrivals: Arrivals,
    interval_ns: f64,
    first_ns: f64,
    taken: u64,
    /// Due time of the next request, in nanoseconds from the epoch.
    next_ns: f64,
    random: Random,
}

impl Schedule {
    /// `rate_per_s` must be positive. Evenly spaced arrivals start at `first_ns`, chance ones after it.
    pub fn new(arrivals: Arrivals, rate_per_s: f64, first_ns: f64, seed: u64) -> Self {
        let interval_ns = 1e9 / rate_per_s;
        let mut random = Random::new(seed);
        let next_ns = match arrivals {
            Arrivals::Constant => first_ns,
            Arrivals::Poisson => first_ns + interval_ns * random.exponential(),
        };
        Self { arrivals, interval_ns, first_ns, taken: 0, next_ns, random }
    }

    pub fn next_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// The oldest due time that is not after `now_ns` and has not been taken.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_ns();
        if due > now_ns {
            return None;
        }
        self.taken += 1;
        self.next_ns = match self.arrivals {
            // Multiplied, not summed: hours of additions would drift.
            Arrivals::Constant => self.first_ns + self.interval_ns * self.taken as f64,
            Arrivals::Poisson => self.next_ns + self.interval_ns * self.random.exponential(),
        };
        Some(due)
    }

    /// How many requests were due before `end_ns` and not taken. Consumes them.
    pub fn drop_due(&mut self, end_ns: u64) -> u64 {
        let mut dropped = 0;
        while self.next_ns() < end_ns {
            self.take_due(end_ns);
            dropped += 1;
        }
        dropped
    }
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): enough chance for arrivals, and no dependency.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Exponentially distributed with mean 1.
    fn exponential(&mut self) -> f64 {
        // 53 random bits, shifted by half a step so that the logarithm never sees zero.
        let unit = ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -unit.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrivals, Schedule};

    #[test]
    fn constant_arrivals_are_evenly_spaced_and_never_early() {
        let mut schedule = Schedule::new(Arrivals::Constant, 1000.0, 500.0, 0);
        assert_eq!(schedule.take_due(499), None);
        assert_eq!(schedule.take_due(500), Some(500));
        assert_eq!(schedule.take_due(1_000_499), None);
        // A clock that jumps finds all that was due meanwhile, each with its own time.
        let late: Vec<u64> = std::iter::from_fn(|| schedule.take_due(3_000_500)).collect();
        assert_eq!(late, [1_000_500, 2_000_500, 3_000_500]);
        assert_eq!(schedule.drop_due(10_000_500), 6);
        assert_eq!(schedule.next_ns(), 10_000_500);
    }

    #[test]
    fn chance_arrivals_keep_the_rate_and_vary() {
        let mut schedule = Schedule::new(Arrivals::Poisson, 10_000.0, 0.0, 42);
        let mut due = Vec::new();
        while let Some(at) = schedule.take_due(10_000_000_000) {
            due.push(at);
        }
        // 100,000 expected, standard deviation 316.
        assert!((98_500..101_500).contains(&due.len()), "{}", due.len());
        let gaps: Vec<f64> = due.windows(2).map(|w| (w[1] - w[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let spread = variance.sqrt() / mean;
        assert!((0.95..1.05).contains(&spread), "an exponential gap spreads by its mean, not {spread}");
    }
}
