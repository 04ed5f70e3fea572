//! Which arm of a traffic split a request takes: by weight, and for the same key always the same.
//!
//! Every arm draws an exponentially distributed time with its weight as rate, and the first to be done has the request
//! (weighted rendezvous hashing: D. Thaler, C. Ravishankar, 1998, with the weights of J. Mosko and of Schindelhauer and
//! Schomaker, "Weighted Distributed Hash Tables", 2005). An arm's draw is a function of the key, the split's name and
//! the arm's name only, so every worker and machine of any version agrees without having to know of others, and:
//!
//! - An arm whose weight grows keeps its keys, and one whose weight falls gains none.
//! - If one arm's part of the whole changes and the others' keep their ratios, which is what two arms and a canary's
//!   steps always do, exactly as many keys move as must: half of the sum of what the arms' parts differ by (call it d).
//! - If many weights change at once, no more than 2d / (1 + d) move. No rule that looks at the present weights only can
//!   promise less (M. Bavarian et al., "Optimality of Correlated Sampling Strategies", 2020); of those that are as good
//!   at worst this is the one that can't be bettered anywhere (R. Moulton, Y. Jiang, "Maximally Consistent Sampling and
//!   the Jaccard Index of Probability Distributions", 2018).
//! - The order in which arms are listed means nothing, nor does an arm of weight 0.
//!
//! Laying arms end to end on a line of points would be cheaper (1 ns), but with more than two arms moves up to n - 1
//! times as many keys as must, and all when an arm is put first. This costs 9 ns an arm, a logarithm (benches/policies.rs).
//!
//! The hash of keys and names is xxh3-64: with seed 0 for names, with the hash of the split's name as seed for keys. An
//! arm's draw is the finaliser of `SplitMix64` of the key's hash xor the arm's, its upper 53 bits a fraction. These are
//! what machines agree on: changing them moves every key. Whoever chooses his own key can choose his arm; nothing secret
//! is in it, and nothing should depend on it but where a request goes.
//!
//! Called by the request path for routes with more than one backend. It does not know whether an arm can be reached.

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

use crate::base::limits::SPLIT_ARMS_MAX;

/// The whole, in which shares are given: a share of 1 is one basis point, a hundredth of a per cent.
pub const WHOLE_BP: u32 = 10_000;

/// One arm's share, set from outside (by a canary's decider), whatever its weight. The others share the rest by theirs;
/// if all of those are 0, it gets the rest, too, unless its own share is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// The arm's number. Of one that there is not, nothing is overridden.
    pub arm: usize,
    /// Of [`WHOLE_BP`]; more counts as the whole.
    pub share_bp: u32,
}

/// What a request is split by: 64 evenly spread bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point(u64);

impl Point {
    /// Of a request without a key: any random number.
    pub const fn drawn(draw: u64) -> Self {
        Self(draw)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Arm {
    id: u64,
    weight: u32,
    /// What the arm's draw is multiplied by, 1 / weight; infinite for weight 0.
    slowness: f64,
}

/// One traffic split, part of a snapshot: 24 bytes an arm.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    seed: u64,
    arms: Box<[Arm]>,
    total: f64,
}

impl Shares {
    /// A split with a name that stays and is unlike any other's, and arms 0, 1, 2 …, each with a name that stays and a
    /// weight, up to `SPLIT_WEIGHT_MAX`. A name may be there twice (the second is told apart by being second); of more
    /// than `SPLIT_ARMS_MAX` arms the rest is left out.
    pub fn new<'n>(name: &str, arms: impl IntoIterator<Item = (&'n str, u32)>) -> Self {
        let mut all: Vec<Arm> = Vec::new();
        for (name, weight) in arms.into_iter().take(SPLIT_ARMS_MAX) {
            let mut id = twox_hash::XxHash3_64::oneshot(name.as_bytes());
            while all.iter().any(|arm| arm.id == id) {
                id = id.wrapping_add(STEP);
            }
            all.push(Arm { id, weight, slowness: 1.0 / f64::from(weight) });
        }
        let total = all.iter().map(|arm| f64::from(arm.weight)).sum();
        Self { seed: twox_hash::XxHash3_64::oneshot(name.as_bytes()), arms: all.into(), total }
    }

    /// The point of a key: a header's or cookie's value, an address's bytes.
    #[inline]
    pub fn point(&self, key: &[u8]) -> Point {
        Point(twox_hash::XxHash3_64::oneshot_with_seed(self.seed, key))
    }

    /// The point of a request's key, or of `draw` if it has none. An empty key is none: else all who send an empty field
    /// would land on one arm together.
    #[inline]
    pub fn point_or(&self, key: Option<&[u8]>, draw: u64) -> Point {
        match key {
            Some(key) if !key.is_empty() => self.point(key),
            _ => Point::drawn(draw),
        }
    }

    /// The arm of a point; `None` if no arm takes anything.
    #[inline]
    pub fn arm(&self, point: Point, set: Option<Override>) -> Option<usize> {
        let plain = (usize::MAX, 1.0, 1.0);
        let (own_arm, own, others) = match set {
            Some(Override { arm, share_bp }) if arm < self.arms.len() => match share_bp {
                0 => (arm, f64::INFINITY, 1.0),
                WHOLE_BP.. => return Some(arm),
                // Rates share : (whole - share) × weight / the others' weights, as slownesses, without a division.
                _ => {
                    let rest = self.total - f64::from(self.arms[arm].weight);
                    (arm, f64::from(WHOLE_BP - share_bp), rest * f64::from(share_bp))
                }
            },
            _ => plain,
        };
        let (mut found, mut first) = (None, f64::INFINITY);
        for (number, arm) in self.arms.iter().enumerate() {
            // An arm that takes nothing is slower than any, infinitely, and a weight of 0 times a rest of 0 is no number:
            // neither is below.
            let slowness = if number == own_arm { own } else { arm.slowness * others };
            let time = time(mix(point.0 ^ arm.id)) * slowness;
            if time < first {
                (found, first) = (Some(number), time);
            }
        }
        found
    }

    /// How many arms it has.
    pub fn len(&self) -> usize {
        self.arms.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.arms.is_empty()
    }
}

/// Exponentially distributed with rate 1, from even bits: above 0 and below 37.5. Platforms' logarithms may differ in the
/// last bit, which matters to one key of 10^15.
#[inline]
fn time(bits: u64) -> f64 {
    -(((bits >> 11) as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64)).ln()
}

/// The finaliser of `SplitMix64` (G. Steele et al., 2014).
#[inline]
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
