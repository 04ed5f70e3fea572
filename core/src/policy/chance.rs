//! A share of requests drawn at random: which are copied to a mirror, which are made to fail on purpose.
//! Says nothing of which request: whoever must keep a client on one side hashes (`policy::split`).

/// The probability that a draw hits, in steps of 2^-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    /// Draws below it hit, of 2^32.
    below: u64,
}

impl Chance {
    /// From per cent, 0 to 100; what is beyond counts as the bound.
    pub fn from_percent(percent: f64) -> Self {
        const WHOLE: f64 = (1_u64 << 32) as f64;
        Self { below: (percent.clamp(0.0, 100.0) / 100.0 * WHOLE).round() as u64 }
    }

    /// Whether it never hits, so that nothing need be drawn.
    pub fn is_none(self) -> bool {
        self.below == 0
    }

    /// Whether this draw, any number at random, hits.
    pub fn hits(self, draw: u64) -> bool {
        draw >> 32 < self.below
    }

    /// In per cent.
    pub fn percent(self) -> f64 {
        self.below as f64 / (1_u64 << 32) as f64 * 100.0
    }
}

#[cfg(test)]
mod tests {
    use super::Chance;

    #[test]
    fn bounds_are_exact_and_shares_are_kept() {
        let (none, all) = (Chance::from_percent(0.0), Chance::from_percent(100.0));
        for draw in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!none.hits(draw) && all.hits(draw), "{draw}");
        }
        assert!(none.is_none() && !all.is_none());
        for percent in [0.01, 1.0, 12.5, 50.0, 99.0] {
            let chance = Chance::from_percent(percent);
            // Evenly spread draws: the share of hits is the chance.
            let hits = (0..100_000_u64).filter(|i| chance.hits(i * (u64::MAX / 100_000))).count();
            assert!((hits as f64 / 1_000.0 - percent).abs() < 0.002, "{percent} %: {hits}");
            assert!((chance.percent() - percent).abs() < 1e-6);
        }
        for (beyond, bound) in [(-1.0, none), (250.0, all), (f64::NAN, none)] {
            assert_eq!(Chance::from_percent(beyond), bound, "{beyond}");
        }
    }
}
