//! What both arms did in the same time, and how many errors that says they make.

use super::bounds::Prior;
use super::tally::Tally;
use super::why::Share;

/// What one arm did in a window.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    pub tally: Tally,
    /// Blocks of some seconds in which it had requests.
    pub blocks: u32,
    /// The sum of each block's errors² / requests, of which the scatter is made.
    pub squares: f64,
    /// Requests and errors before the block that is under way.
    pub before: (u64, u64),
}

/// What both arms did in the same time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    /// Which of the step's of its kind, from 0.
    pub number: u32,
    /// How long it has been open.
    pub open_ms: u64,
    pub baseline: Seen,
    pub canary: Seen,
}

/// The least length of a block of [`Seen`], in milliseconds.
const BLOCK_MS: u64 = 10_000;

impl Window {
    pub(super) fn add(&mut self, passed_ms: u64, more: Option<&(Tally, Tally)>) {
        let block_ends = self.open_ms / BLOCK_MS != self.open_ms.saturating_add(passed_ms) / BLOCK_MS;
        self.open_ms = self.open_ms.saturating_add(passed_ms);
        if let Some((baseline, canary)) = more {
            self.baseline.tally.plus(baseline);
            self.canary.tally.plus(canary);
        }
        if block_ends {
            self.baseline.end_block();
            self.canary.end_block();
        }
    }

    /// Begins the next.
    pub(super) fn turn(&mut self) {
        *self = Self { number: self.number.saturating_add(1), ..Self::default() };
    }
}

/// Whether errors that scatter more than chance make bounds wider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scatter {
    Counted,
    Ignored,
}

impl Seen {
    fn end_block(&mut self) {
        let requests = self.tally.requests.saturating_sub(self.before.0);
        let errors = self.tally.errors.saturating_sub(self.before.1);
        if requests > 0 {
            self.blocks = self.blocks.saturating_add(1);
            self.squares += (errors as f64).powi(2) / requests as f64;
            self.before = (self.tally.requests, self.tally.errors);
        }
    }

    /// The share of errors, with bounds.
    pub(super) fn errors(&self, alpha: f64, scatter: Scatter) -> Share {
        let (errors, requests) = (self.tally.errors as f64, self.tally.requests as f64);
        let dispersion = if scatter == Scatter::Counted { self.dispersion() } else { 1.0 };
        let (low, high) = Prior::ERRORS.share(errors / dispersion, requests / dispersion, alpha);
        Share { seen: errors / requests.max(1.0), low, high }
    }

    /// Pearson's chi-square of the blocks' error shares by its degrees of freedom: how many times more they scatter than
    /// those of independent requests would. At least 1, and 1 as long as there are few.
    fn dispersion(&self) -> f64 {
        let (requests, errors) = (self.before.0 as f64, self.before.1 as f64);
        let share = errors / requests.max(1.0);
        let variance = share * (1.0 - share);
        if self.blocks < 5 || variance <= 0.0 {
            return 1.0;
        }
        ((self.squares - share * errors) / variance / f64::from(self.blocks - 1)).max(1.0)
    }
}
