//! Bounds of an unknown share and of an unknown quantile that hold at every look, however often one looks.
//!
//! A bound for one look (C. Wilson's score interval, 1927) is passed sooner or later by every true share if one looks each
//! second and stops at what one likes. So the share p is tested by a martingale instead: the likelihood of what was seen
//! under a mixture of all shares, weighted by a Beta density chosen beforehand, divided by that under p. With p true, the
//! quotient ever gets to 1/α with a probability of at most α (J. Ville, 1939; H. Robbins, "Statistical Methods Related to
//! the Law of the Iterated Logarithm", 1970). The shares that have not been excluded so are the interval, exact for any
//! number of requests: no normal approximation, which at shares of one in a thousand and doubts of one in a thousand is
//! wrong by orders of magnitude. Beside a bound for one look it costs about twice as many requests.
//!
//! A quantile is bounded by testing the share of latencies beyond each cell's edge (S. Howard, A. Ramdas, "Sequential
//! estimation of quantiles", 2022): the fewer are beyond, the weaker the proof that many are, so only the edge next to the
//! true quantile can lead astray, and the number of cells costs nothing.
//!
//! What it takes for granted: requests are independent of each other.

use super::tally::{CELLS, Latencies, lower_us};

/// A Beta(a, b) density. It decides where bounds are tight, never whether they hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prior {
    pub(super) a: f64,
    pub(super) b: f64,
}

impl Prior {
    /// Error shares are a few per cent at most.
    pub(super) const ERRORS: Self = Self { a: 0.5, b: 20.0 };

    /// A share that is about `p`, 0 < p < 1.
    pub(super) fn about(p: f64) -> Self {
        Self { a: 1.0, b: (1.0 - p) / p }
    }

    /// The logarithm of the martingale without its last factor, the likelihood under p.
    fn mixture(self, hits: f64, requests: f64) -> f64 {
        ln_beta(self.a + hits, self.b + requests - hits) - ln_beta(self.a, self.b)
    }

    /// The logarithm of how much what was seen speaks against a share of `p`.
    fn evidence(self, hits: f64, requests: f64, p: f64) -> f64 {
        self.mixture(hits, requests) - ln_likelihood(hits, requests, p)
    }

    /// The shares that `hits` of `requests` leave possible but for a doubt of `alpha`. Counts may be fractions.
    pub(super) fn share(self, hits: f64, requests: f64, alpha: f64) -> (f64, f64) {
        if requests <= 0.0 {
            return (0.0, 1.0);
        }
        let (mixture, needed) = (self.mixture(hits, requests), -alpha.ln());
        let excluded = |p: f64| mixture - ln_likelihood(hits, requests, p) >= needed;
        let middle = hits / requests;
        (boundary(middle, 0.0, excluded), boundary(middle, 1.0, excluded))
    }

    /// Between which edges the quantile lies, in microseconds: at least the first, at most the second (`u64::MAX`: no bound).
    /// With `self` about 1 − quantile.
    pub(super) fn quantile(self, latencies: &Latencies, quantile: f64, alpha: f64) -> (u64, u64) {
        let (beyond, needed) = (1.0 - quantile, -alpha.ln());
        let count = latencies.count();
        let n = count as f64;
        let excluded = |hits: u64| self.evidence(hits as f64, n, beyond) >= needed;
        let middle = (n * beyond) as u64;
        // So many beyond an edge prove that the quantile is beyond it, and so few that it is not.
        let many = first(middle + 1, count, excluded);
        let few = (count > 0).then(|| first(0, middle, |hits| excluded(middle - hits))).flatten();
        let (mut low, mut high) = (0, u64::MAX);
        let mut sum = 0;
        for cell in (0..CELLS).rev() {
            // `sum` is how many are beyond this cell's upper edge.
            if few.is_some_and(|fewer| sum <= middle - fewer) {
                high = lower_us(cell + 1);
            }
            sum += latencies.cells()[cell];
            if many.is_some_and(|many| sum >= many) {
                low = lower_us(cell);
                break;
            }
        }
        (low, high.max(low))
    }
}

/// 0 × ln 0 is 0: what did not happen is no surprise.
fn ln_likelihood(hits: f64, requests: f64, p: f64) -> f64 {
    let term = |count: f64, p: f64| if count > 0.0 { count * p.ln() } else { 0.0 };
    term(hits, p) + term(requests - hits, 1.0 - p)
}

/// Where between `inside`, which is not excluded, and `outside` exclusion begins; the far end if it does not.
fn boundary(mut inside: f64, mut outside: f64, excluded: impl Fn(f64) -> bool) -> f64 {
    if !excluded(outside) {
        return outside;
    }
    for _ in 0..40 {
        let middle = f64::midpoint(inside, outside);
        if excluded(middle) {
            outside = middle;
        } else {
            inside = middle;
        }
        if (outside - inside).abs() <= 1e-4 * inside.min(outside) {
            break;
        }
    }
    // The outer one, or the interval would be too narrow.
    outside
}

/// The first in `low..=high` for which `holds`, which it then does for all after it.
fn first(mut low: u64, high: u64, holds: impl Fn(u64) -> bool) -> Option<u64> {
    if low > high || !holds(high) {
        return None;
    }
    let mut found = high;
    while low < found {
        let middle = u64::midpoint(low, found);
        if holds(middle) {
            found = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(found)
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Stirling's series (NIST Digital Library of Mathematical Functions, 5.11.1), for x > 0; to ten digits.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut below) = (x, 1.0);
    while x < 8.0 {
        below *= x;
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series =
        inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1_260.0 - square / 1_680.0)));
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - f64::ln(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::split::canary::simulation_tests::Draw;

    #[test]
    fn gamma_is_the_factorials() {
        for (x, gamma) in
            [(1.0, 1.0), (0.5, std::f64::consts::PI.sqrt()), (5.0, 24.0), (11.0, 3_628_800.0_f64)]
        {
            assert!((ln_gamma(x) - gamma.ln()).abs() < 1e-9, "{x}: {}", ln_gamma(x));
        }
    }

    #[test]
    fn shares_have_bounds() {
        let check = |hits: f64, requests: f64, low: (f64, f64), high: (f64, f64)| {
            let found = Prior::ERRORS.share(hits, requests, 0.001);
            assert!((low.0..=low.1).contains(&found.0), "{hits} of {requests}: {found:?}");
            assert!((high.0..=high.1).contains(&found.1), "{hits} of {requests}: {found:?}");
        };
        check(0.0, 0.0, (0.0, 0.0), (1.0, 1.0));
        check(0.0, 1_000.0, (0.0, 0.0), (0.007, 0.012));
        check(1.0, 1.0, (1e-6, 0.01), (1.0, 1.0));
        check(50.0, 1_000.0, (0.02, 0.035), (0.07, 0.1));
        check(1e6, 2e8, (0.00497, 0.005), (0.005, 0.00503));
        check(1_000.0, 1_000.0, (0.88, 1.0), (1.0, 1.0));
    }

    #[test]
    fn quantiles_have_bounds() {
        let mut latencies = Latencies::default();
        let prior = Prior::about(0.01);
        assert_eq!(prior.quantile(&latencies, 0.99, 0.001), (0, u64::MAX));
        (0..100).for_each(|_| latencies.record(1_000));
        let (low, high) = prior.quantile(&latencies, 0.99, 0.001);
        assert!(low <= 1_000 && high == u64::MAX, "too few to bound it above: {low} {high}");
        (0..10_000).for_each(|us| latencies.record(us));
        let (low, high) = prior.quantile(&latencies, 0.99, 0.001);
        assert!((9_001..=9_899).contains(&low) && (9_899..11_000).contains(&high), "{low} {high}");
        (0..1_000_000).for_each(|_| latencies.record(u64::MAX));
        assert_eq!(prior.quantile(&latencies, 0.99, 0.001), (lower_us(CELLS - 1), u64::MAX));
    }

    #[test]
    fn bounds_hold_at_every_look() {
        // A thousand sequences, looked at after each of 2,000 requests: how many ever leave out the truth.
        for (share, alpha) in [(0.001, 0.1), (0.01, 0.1), (0.05, 0.05)] {
            let mut draw = Draw(4711);
            let prior = Prior::ERRORS;
            let missed = (0..1_000)
                .filter(|_| {
                    let mut hits = 0.0;
                    (1..=2_000).any(|requests| {
                        hits += f64::from(u8::from(draw.unit() < share));
                        prior.evidence(hits, f64::from(requests), share) >= -f64::ln(alpha)
                    })
                })
                .count();
            assert!(missed as f64 <= 1_000.0 * alpha, "seed 4711, {share}: {missed}");
        }
    }
}
