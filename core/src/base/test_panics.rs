//! Panics on request, for the end-to-end suites alone: behind the feature `test-panics`, and then only in a process that
//! has called [`allow`], which no binary does.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::signal::Signal;

/// How long a worker stands still when it is asked to.
pub const STALL: std::time::Duration = std::time::Duration::from_secs(20);

static ALLOWED: AtomicBool = AtomicBool::new(false);

/// From here on requests of this process may ask for a panic.
pub fn allow() {
    ALLOWED.store(true, Ordering::Relaxed);
}

/// What a worker was asked for.
#[derive(Debug, Default)]
pub struct Asked {
    /// A panic of one of its own tasks.
    pub task: Signal,
    /// A panic of its loop itself, when it is next asked for its numbers.
    pub main: Cell<bool>,
}

impl Asked {
    /// Does what the field `x-ringway-test-panic` of a request's head asks for.
    ///
    /// # Panics
    /// If that is what it asks for.
    pub fn look(&self, head: &[u8]) {
        const FIELD: &str = "\r\nx-ringway-test-panic: ";
        if !ALLOWED.load(Ordering::Relaxed) {
            return;
        }
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        let Some((_, value)) = head.split_once(FIELD) else { return };
        match value.split("\r\n").next() {
            Some("connection") => panic!("asked for by a test: connection"),
            Some("task") => self.task.raise(),
            Some("loop") => self.main.set(true),
            // A worker that stands still, which is no panic but as little to be expected.
            Some("stall") => std::thread::sleep(STALL),
            _ => {}
        }
    }
}
