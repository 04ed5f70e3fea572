//! A canary under trial, as it passes between workers and the control thread: workers write what they see, each in its own
//! cells, and read one word.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::policy::split::canary::{ArmCells, Tally};

/// A canary under trial, for all workers of this process. State: it outlives reloads.
#[derive(Debug)]
pub struct Trial {
    /// The canary's share of the requests, in basis points.
    share_bp: AtomicU32,
    /// For each worker.
    pub(super) cells: Box<[Cells]>,
}

#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) baseline: ArmCells,
    pub(super) canary: ArmCells,
}

impl Trial {
    /// With a share to begin with.
    pub fn new(workers: usize, share_bp: u32) -> Self {
        Self { share_bp: AtomicU32::new(share_bp), cells: (0..workers).map(|_| Cells::default()).collect() }
    }

    /// What has been decided.
    pub fn set_share(&self, share_bp: u32) {
        self.share_bp.store(share_bp, Ordering::Relaxed);
    }

    /// The canary's share now.
    pub fn share_bp(&self) -> u32 {
        self.share_bp.load(Ordering::Relaxed)
    }

    /// All that the baseline and the canary have done, over all workers.
    pub fn read(&self) -> (Tally, Tally) {
        let (mut baseline, mut canary) = (Tally::default(), Tally::default());
        for cells in &self.cells {
            baseline.plus(&cells.baseline.read());
            canary.plus(&cells.canary.read());
        }
        (baseline, canary)
    }
}
