//! Time as an argument: nanoseconds since an arbitrary start. Never reads the clock behind a caller's back.
//!
//! Workers use [`Monotonic`]; tests move a [`Manual`] clock by hand.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where a worker takes its time from.
pub trait Clock {
    /// Nanoseconds since the clock's own start; never goes back.
    fn now_ns(&self) -> u64;
    /// Wall-clock time, for log lines and the Date field only.
    fn unix_time(&self) -> Duration;

    /// Milliseconds since the clock's own start.
    fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }
}

/// The machine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic {
    origin: Instant,
}

impl Monotonic {
    /// A clock that starts at one millisecond, so that zero can mean "never" in a deadline.
    pub fn start() -> Self {
        Self { origin: Instant::now().checked_sub(Duration::from_millis(1)).unwrap_or_else(Instant::now) }
    }
}

impl Clock for Monotonic {
    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct Manual {
    ns: Cell<u64>,
}

impl Manual {
    /// A clock that shows `ns`.
    pub fn at(ns: u64) -> Self {
        Self { ns: Cell::new(ns) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.ns.set(self.ns.get() + by.as_nanos() as u64);
    }
}

impl Clock for Manual {
    fn now_ns(&self) -> u64 {
        self.ns.get()
    }

    fn unix_time(&self) -> Duration {
        Duration::from_nanos(self.ns.get())
    }
}
