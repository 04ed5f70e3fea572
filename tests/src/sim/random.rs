//! Random numbers of one seed (`SplitMix64`; Steele, Lea, Flood 2014).

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

/// A sequence. Clones go on from the same place, so each part of a world gets a [`fork`](Self::fork).
#[derive(Clone, Debug)]
pub struct Random(Cell<u64>);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub fn draw(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A sequence of its own.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.draw())
    }

    /// From 0 to below `end`, which is not 0.
    pub fn below(&self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    pub fn within(&self, range: Range<u64>) -> u64 {
        range.start + self.below((range.end - range.start).max(1))
    }

    pub fn ms(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// True once in so many times on average; never for 0.
    pub fn one_in(&self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// One of these.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }
}
