//! What is counted of one arm: requests, errors, and how long the others took. Workers write [`ArmCells`], the control
//! thread reads them and adds up [`Tally`]s.
//!
//! Latencies go into cells of a log-linear layout, as in G. Tene's `HdrHistogram`: 16 cells for each doubling, so that a
//! cell's edges are at most 6.25 % apart; below 32 µs each microsecond has its own, from 67 s on there is one for all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The logarithm of how many cells a doubling has.
const CELL_BITS: u32 = 4;

/// What is at least this, 2^26 µs or 67 s, is in the last cell.
const OVER_US: u64 = 1 << 26;

/// Cells of a histogram.
pub const CELLS: usize = cell(OVER_US) + 1;

/// The cell of a latency in microseconds, below [`CELLS`].
#[inline]
pub const fn cell_of(us: u64) -> usize {
    cell(if us < OVER_US { us } else { OVER_US })
}

/// With the highest bit at `k`, at least 4, the cell is that bit's number and the four bits below it.
#[inline]
const fn cell(us: u64) -> usize {
    if us < 1 << CELL_BITS {
        return us as usize;
    }
    let shift = us.ilog2() - CELL_BITS;
    ((shift as usize) << CELL_BITS) + (us >> shift) as usize
}

/// The least latency of a cell, in microseconds. What is in the cell is below the next cell's; in the last there is no
/// bound, and the next one's is `u64::MAX`.
pub const fn lower_us(cell: usize) -> u64 {
    if cell >= CELLS {
        return u64::MAX;
    }
    if cell < 2 << CELL_BITS {
        return cell as u64;
    }
    let shift = (cell >> CELL_BITS) - 1;
    ((cell - (shift << CELL_BITS)) as u64) << shift
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer that does not speak against the arm.
    Success,
    /// Without one, or with one that does.
    Error,
}

/// Counts of latencies by cell: 3 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies(Box<[u64; CELLS]>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Box::new([0; CELLS]))
    }
}

impl Latencies {
    /// Counts one, in microseconds.
    pub fn record(&mut self, us: u64) {
        self.0[cell_of(us)] += 1;
    }

    /// All cells, lowest first.
    pub fn cells(&self) -> &[u64; CELLS] {
        &self.0
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, cell| sum.saturating_add(*cell))
    }

    /// The edges between which the quantile (0 to 1) lies: at least the first, below the second (`u64::MAX`: no bound).
    /// `None` if there are none.
    pub fn quantile(&self, quantile: f64) -> Option<(u64, u64)> {
        let count = self.count();
        let rank = ((count as f64 * quantile).ceil() as u64).clamp(1, count.max(1));
        let mut sum = 0_u64;
        let found = self.0.iter().position(|cell| {
            sum = sum.saturating_add(*cell);
            sum >= rank
        })?;
        Some((lower_us(found), lower_us(found + 1)))
    }
}

/// What was counted of one arm, of one or of all workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those that ended: errors and latencies together.
    pub requests: u64,
    /// Those that ended in [`Outcome::Error`].
    pub errors: u64,
    /// Of the others. An error's tells nothing: one refused at once must not make an arm look fast.
    pub latencies: Latencies,
}

impl Tally {
    /// Counts a request.
    pub fn record(&mut self, outcome: Outcome, us: u64) {
        self.requests += 1;
        match outcome {
            Outcome::Error => self.errors += 1,
            Outcome::Success => self.latencies.record(us),
        }
    }

    /// What came after `earlier`; `None` if something was counted back, so a part of it began anew.
    pub fn minus(&self, earlier: &Self) -> Option<Self> {
        let mut left = Self {
            requests: self.requests.checked_sub(earlier.requests)?,
            errors: self.errors.checked_sub(earlier.errors)?,
            latencies: Latencies::default(),
        };
        let pairs = self.latencies.0.iter().zip(earlier.latencies.0.iter());
        for (cell, (now, before)) in left.latencies.0.iter_mut().zip(pairs) {
            *cell = now.checked_sub(*before)?;
        }
        Some(left)
    }

    /// Adds another's.
    pub fn plus(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        for (cell, more) in self.latencies.0.iter_mut().zip(other.latencies.0.iter()) {
            *cell = cell.saturating_add(*more);
        }
    }
}

/// One arm's counters of one worker: 1.5 KiB, on cache lines of its own. One thread writes, any may read. Cells count to
/// 2^32 and then begin anew, which whoever takes differences sees as a restart.
#[repr(align(128))]
pub struct ArmCells {
    errors: AtomicU64,
    latencies: [AtomicU32; CELLS],
}

impl Default for ArmCells {
    fn default() -> Self {
        Self { errors: AtomicU64::new(0), latencies: [const { AtomicU32::new(0) }; CELLS] }
    }
}

impl std::fmt::Debug for ArmCells {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tally = self.read();
        f.debug_struct("ArmCells").field("requests", &tally.requests).field("errors", &tally.errors).finish()
    }
}

impl ArmCells {
    /// Counts a request. To be called by one thread only: it loads and stores, so that no line is locked.
    #[inline]
    pub fn record(&self, outcome: Outcome, us: u64) {
        match outcome {
            Outcome::Error => self.errors.store(self.errors.load(Relaxed).wrapping_add(1), Relaxed),
            Outcome::Success => {
                let cell = &self.latencies[cell_of(us)];
                cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
            }
        }
    }

    /// What has been counted. Requests are the sum of the rest, so they fit however the reading falls between writes.
    pub fn read(&self) -> Tally {
        let mut tally = Tally { errors: self.errors.load(Relaxed), ..Tally::default() };
        for (into, cell) in tally.latencies.0.iter_mut().zip(&self.latencies) {
            *into = u64::from(cell.load(Relaxed));
        }
        tally.requests = tally.errors + tally.latencies.count();
        tally
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering::{Acquire, Release};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cells_have_no_gaps() {
        for number in 0..CELLS {
            let lower = lower_us(number);
            assert_eq!(cell_of(lower), number);
            let last = lower_us(number + 1) - 1;
            assert_eq!(cell_of(last), number, "{lower} to {last}");
            if lower >= 16 && number + 1 < CELLS {
                assert!((lower_us(number + 1) - lower) * 16 <= lower, "{lower}: wider than 6.25 %");
            }
        }
        for (us, cell) in [(0, 0), (1, 1), (31, 31), (32, 32), (33, 32), (34, 33), (u64::MAX, CELLS - 1)] {
            assert_eq!(cell_of(us), cell, "{us}");
        }
        assert!(lower_us(CELLS - 1) > 60_000_000);
        assert!(size_of::<ArmCells>() <= 1_536);
    }

    #[test]
    fn counters_that_go_back_are_no_difference() {
        let tally = |successes: &[u64], errors: u64| {
            let mut tally = Tally::default();
            for us in successes {
                tally.record(Outcome::Success, *us);
            }
            for _ in 0..errors {
                tally.record(Outcome::Error, 1);
            }
            tally
        };
        let check = |now: &Tally, earlier: &Tally, left: Option<Tally>| assert_eq!(now.minus(earlier), left);
        check(&tally(&[5, 9], 2), &tally(&[9], 1), Some(tally(&[5], 1)));
        check(&tally(&[5], 2), &tally(&[5], 2), Some(Tally::default()));
        check(&tally(&[5], 1), &tally(&[5], 2), None);
        check(&tally(&[5, 6], 2), &tally(&[9], 1), None);
        let mut sum = tally(&[5], 1);
        sum.plus(&tally(&[9], 2));
        assert_eq!(sum, tally(&[5, 9], 3));
    }

    #[test]
    fn a_reader_sees_whole_requests_only() {
        const REQUESTS: u64 = 200_000;
        let cells = Arc::new(ArmCells::default());
        let done = Arc::new(AtomicBool::new(false));
        let reader = {
            let (cells, done) = (Arc::clone(&cells), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut last, mut reads) = (Tally::default(), 0);
                loop {
                    let ended = done.load(Acquire);
                    let now = cells.read();
                    assert_eq!(now.requests, now.errors + now.latencies.count());
                    assert!(now.minus(&last).is_some(), "went back");
                    last = now;
                    reads += 1;
                    if ended {
                        return (last, reads);
                    }
                }
            })
        };
        for request in 0..REQUESTS {
            let outcome = if request % 10 == 0 { Outcome::Error } else { Outcome::Success };
            cells.record(outcome, request);
        }
        done.store(true, Release);
        let (last, reads) = reader.join().unwrap();
        assert_eq!((last.requests, last.errors), (REQUESTS, REQUESTS / 10), "after {reads} reads");
    }

    #[test]
    fn of_nothing_there_is_no_quantile() {
        assert_eq!(Latencies::default().quantile(0.5), None);
        let mut one = Latencies::default();
        one.record(u64::MAX);
        assert_eq!(one.quantile(0.0), Some((OVER_US, u64::MAX)));
    }

    proptest! {
        #[test]
        fn a_quantile_lies_between_its_edges(
            mut all in prop::collection::vec(0_u64..100_000_000, 1..200),
            quantile in 0.0..=1.0_f64,
        ) {
            let mut latencies = Latencies::default();
            for us in &all {
                latencies.record(*us);
            }
            all.sort_unstable();
            let rank = ((all.len() as f64 * quantile).ceil() as usize).max(1);
            let (low, high) = latencies.quantile(quantile).unwrap();
            prop_assert!(low <= all[rank - 1] && all[rank - 1] < high, "{} in {low}..{high}", all[rank - 1]);
        }
    }
}
