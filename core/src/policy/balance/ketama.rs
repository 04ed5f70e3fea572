//! A ring of hashes, as ketama's (R. Jones, 2007) and Envoy's ring hash: each endpoint has points on it in proportion
//! to its weight, a key belongs to the next point.
//!
//! The points of one endpoint depend on its id and on how many it has; these are its weight times a power of two that
//! is the same for all. So one endpoint that comes or goes moves its own keys and no others, except where that power
//! changes: when the sum of weights crosses `entries_min` divided by a power of two (or `entries_max`). Envoy, which
//! fits the ring to its size exactly, moves some keys of the others each time.

use super::spread::{STEP, Share, mix, scale};
use crate::base::limits::{HASH_STEPS_MAX, RING_ENTRIES_MAX};

/// How large the ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// It has at least so many points, if `entries_max` allows: the more, the closer an endpoint's keys are to its
    /// share. With n points an endpoint's share is off by about 1/√n.
    pub entries_min: u32,
    /// And no more, but at least one for each endpoint. At most [`RING_ENTRIES_MAX`].
    pub entries_max: u32,
}

impl Default for Settings {
    /// Envoy's least, and the engine's most.
    fn default() -> Self {
        Self { entries_min: 1024, entries_max: RING_ENTRIES_MAX }
    }
}

#[derive(Debug)]
pub(super) struct Ring {
    /// In ascending order.
    hashes: Box<[u64]>,
    /// The endpoint of each.
    numbers: Box<[u32]>,
    /// The first point at or after each 1/n of the ring. As hashes are evenly spread, the point sought is one or two
    /// further: a search costs the same whatever the size.
    starts: Box<[u32]>,
}

impl Ring {
    pub(super) fn build(shares: &[Share], settings: Settings) -> Self {
        let power = power(shares, settings);
        let mut points: Vec<(u64, u64, u32)> = Vec::with_capacity(sum(shares, power));
        for share in shares {
            let hash = |n: usize| mix(share.id.wrapping_add(STEP.wrapping_mul(n as u64 + 1)));
            points.extend((0..count(share.weight, power)).map(|n| (hash(n), share.id, share.number)));
        }
        points.sort_unstable();
        let len = points.len();
        let mut starts = Vec::with_capacity(len);
        let mut at = 0;
        for part in 0..len {
            while at < len && scale(points[at].0, len) < part {
                at += 1;
            }
            starts.push(at as u32);
        }
        Self {
            hashes: points.iter().map(|point| point.0).collect(),
            numbers: points.iter().map(|point| point.2).collect(),
            starts: starts.into(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// The endpoint of the first point from `key` on whose endpoint is usable, among the next few points.
    #[inline]
    pub(super) fn pick(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let len = self.hashes.len();
        let mut at = *self.starts.get(scale(key, len))? as usize;
        while at < len && self.hashes[at] < key {
            at += 1;
        }
        for _ in 0..HASH_STEPS_MAX.min(len) {
            if at == len {
                at = 0;
            }
            let number = self.numbers[at] as usize;
            if usable(number) {
                return Some(number);
            }
            at += 1;
        }
        None
    }
}

/// The least power of two, from 2^-10 on, at which the ring has `entries_min` points, or the greatest at which it has no
/// more than `entries_max`.
fn power(shares: &[Share], settings: Settings) -> i32 {
    let most = settings.entries_max.min(RING_ENTRIES_MAX) as usize;
    let least = (settings.entries_min as usize).min(most);
    let mut power = -10;
    while sum(shares, power) < least && sum(shares, power + 1) <= most && !shares.is_empty() {
        power += 1;
    }
    power
}

fn sum(shares: &[Share], power: i32) -> usize {
    shares.iter().map(|share| count(share.weight, power)).sum()
}

/// `weight` × 2^`power`, rounded, at least 1.
fn count(weight: u32, power: i32) -> usize {
    let weight = weight as usize;
    if power >= 0 { weight << power } else { ((weight + (1 << (-power - 1))) >> -power).max(1) }
}
