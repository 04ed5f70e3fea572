//! The heaviest keys, in bounded memory: the Space-Saving sketch (Metwally, Agrawal, El Abbadi, "Efficient Computation of
//! Frequent and Top-k Elements in Data Streams", ICDT 2005), with weights. One a worker; merged by the admin.
//!
//! A count is never too low, and too high by at most its error; every key whose weight is above the total divided by the
//! sketch's size is in it. A worker adds keys in batches of decisions, and forgets a key that was used once and then pushed
//! out of its cache, so "total" is that of the keys that come back.

use crate::base::limits::{RATE_HEAVY_KEYS_MAX, RATE_KEY_TEXT_BYTES_MAX};

use super::key::KeyHash;

/// A heavy key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heavy {
    pub key: KeyHash,
    /// Decisions, admitted or not; at most `error` too high.
    pub count: u64,
    pub error: u64,
    /// How it reads, cut; empty if nobody has told.
    pub text: Vec<u8>,
}

/// Whether a sketch knows how a key reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    Yes,
    No,
}

/// See the module.
#[derive(Debug)]
pub struct Sketch {
    /// Apart from the rest, so that a search reads 1 KiB.
    keys: Vec<u64>,
    counts: Vec<Count>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    upper: u64,
    error: u64,
    text_bytes: u8,
    text: [u8; RATE_KEY_TEXT_BYTES_MAX],
}

impl Default for Sketch {
    fn default() -> Self {
        Self::new()
    }
}

impl Sketch {
    /// An empty one, with all the memory that it will ever take.
    pub fn new() -> Self {
        Self {
            keys: Vec::with_capacity(RATE_HEAVY_KEYS_MAX),
            counts: Vec::with_capacity(RATE_HEAVY_KEYS_MAX),
        }
    }

    /// Counts `weight` decisions of a key. Walks the sketch: 60 to 200 ns, to be shared by many decisions. Tells whether
    /// it knows how the key reads.
    pub fn add(&mut self, key: KeyHash, weight: u64) -> Named {
        let at = match self.keys.iter().position(|&k| k == key.0) {
            Some(at) => at,
            None if self.keys.len() < RATE_HEAVY_KEYS_MAX => {
                self.keys.push(key.0);
                self.counts.push(Count { upper: 0, error: 0, text_bytes: 0, text: [0; _] });
                self.keys.len() - 1
            }
            None => {
                let Some((at, least)) =
                    self.counts.iter().map(|c| c.upper).enumerate().min_by_key(|&(_, c)| c)
                else {
                    return Named::Yes;
                };
                self.keys[at] = key.0;
                self.counts[at] = Count { upper: least, error: least, text_bytes: 0, text: [0; _] };
                at
            }
        };
        let count = &mut self.counts[at];
        count.upper += weight;
        if count.text_bytes == 0 { Named::No } else { Named::Yes }
    }

    /// How a key reads; cut.
    pub fn name(&mut self, key: KeyHash, text: &[u8]) {
        let Some(at) = self.keys.iter().position(|&k| k == key.0) else { return };
        let count = &mut self.counts[at];
        let bytes = text.len().min(RATE_KEY_TEXT_BYTES_MAX);
        count.text[..bytes].copy_from_slice(&text[..bytes]);
        count.text_bytes = bytes as u8;
    }

    /// Halves all counts, so that what is heavy now stands out against what was. Called once a minute or so.
    pub fn fade(&mut self) {
        for count in &mut self.counts {
            count.upper /= 2;
            // Rounded up, so that the count is still at most this much too high.
            count.error = count.error.div_ceil(2);
        }
    }

    /// The `n` heaviest, heaviest first. Allocates: for the admin.
    pub fn heaviest(&self, n: usize) -> Vec<Heavy> {
        let all = self.keys.iter().zip(&self.counts).map(|(&key, count)| Heavy {
            key: KeyHash(key),
            count: count.upper,
            error: count.error,
            text: count.text[..usize::from(count.text_bytes)].to_vec(),
        });
        top(all.collect(), n)
    }
}

/// Adds several workers' lists up. A key that one list lacks may have been just too light for it, which is not added
/// to its error: a merged count may be too low by that list's least count.
pub fn merge(lists: impl IntoIterator<Item = Vec<Heavy>>, n: usize) -> Vec<Heavy> {
    let mut merged: Vec<Heavy> = Vec::new();
    for heavy in lists.into_iter().flatten() {
        match merged.iter_mut().find(|m| m.key == heavy.key) {
            Some(same) => {
                same.count += heavy.count;
                same.error += heavy.error;
                if same.text.is_empty() {
                    same.text = heavy.text;
                }
            }
            None => merged.push(heavy),
        }
    }
    top(merged, n)
}

fn top(mut all: Vec<Heavy>, n: usize) -> Vec<Heavy> {
    all.sort_by_key(|heavy| std::cmp::Reverse(heavy.count));
    all.truncate(n);
    all
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::{Named, Sketch, merge};
    use crate::base::limits::{RATE_HEAVY_KEYS_MAX, RATE_KEY_TEXT_BYTES_MAX};
    use crate::policy::rate_limit::KeyHash;

    proptest! {
        /// The paper's bounds, over streams with a few heavy keys among many light ones.
        #[test]
        fn counts_are_within_their_error(
            stream in prop::collection::vec(prop_oneof![1_u64..8, 1_u64..2_000], 1..4_000),
            weight in 1_u64..40,
        ) {
            let mut sketch = Sketch::new();
            let mut truth: HashMap<u64, u64> = HashMap::new();
            for &key in &stream {
                sketch.add(KeyHash(key), weight);
                *truth.entry(key).or_default() += weight;
            }
            let total: u64 = truth.values().sum();
            let list = sketch.heaviest(usize::MAX);
            prop_assert!(list.len() <= RATE_HEAVY_KEYS_MAX);
            prop_assert!(list.is_sorted_by_key(|h| std::cmp::Reverse(h.count)));
            for heavy in &list {
                let real = truth.get(&heavy.key.0).copied().unwrap_or(0);
                prop_assert!(heavy.count >= real && heavy.count - heavy.error <= real, "{heavy:?} of {real}");
            }
            for (key, real) in truth {
                if real > total / RATE_HEAVY_KEYS_MAX as u64 {
                    prop_assert!(list.iter().any(|h| h.key.0 == key), "{key} with {real} of {total}");
                }
            }
        }
    }

    #[test]
    fn texts_fading_and_merging() {
        let (mut a, mut b) = (Sketch::new(), Sketch::new());
        a.add(KeyHash(1), 5);
        assert_eq!(a.add(KeyHash(2), 6), Named::No);
        a.name(KeyHash(2), &[b'x'; 100]);
        assert_eq!(a.add(KeyHash(2), 1), Named::Yes);
        b.add(KeyHash(1), 4);
        b.name(KeyHash(1), b"one");
        b.name(KeyHash(3), b"not there");
        let merged = merge([a.heaviest(9), b.heaviest(9)], 9);
        assert_eq!(merged[0].count, 9);
        assert_eq!(merged[0].text, b"one");
        assert_eq!(merged[1].text, [b'x'; RATE_KEY_TEXT_BYTES_MAX]);
        assert_eq!(merge([a.heaviest(9), b.heaviest(9)], 1).len(), 1);
        a.fade();
        assert_eq!(a.heaviest(1)[0].count, 3);
    }
}
