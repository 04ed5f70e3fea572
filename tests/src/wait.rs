//! Waiting, always bounded: the watchdog around a test, waiting for a condition, and gates that hold a peer back
//! until the test says go. Nothing here sleeps for a fixed time and then hopes.

use std::panic;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long one awaited event may take before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long one test may take. A test that needs more says so: `within 90`.
pub const TEST_SECONDS_MAX: u64 = 30;

/// How often a condition that nothing announces (a metric, a refused connect) is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(4);

/// Runs one test under a watchdog: a test that hangs fails with its name instead of blocking the suite.
pub fn watched(name: &str, seconds_max: u64, body: impl FnOnce() + Send + 'static) {
    let (running, finished) = mpsc::channel::<()>();
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Dropped when the body returns or unwinds: that is the event waited for below.
            let _running = running;
            body();
        })
        .expect("a thread for the test");
    match finished.recv_timeout(Duration::from_secs(seconds_max)) {
        Err(RecvTimeoutError::Timeout) => panic!("{name}: still running after {seconds_max} s"),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => {
            if let Err(cause) = thread.join() {
                panic::resume_unwind(cause);
            }
        }
    }
}

/// Looks until `look` has an answer; panics with `what` when there is none in time.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, look)
}

/// As [`eventually`], with another patience.
pub fn eventually_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::park_timeout(LOOK_EVERY);
    }
}

/// A gate that starts shut. Whoever waits at it goes on once it is opened, for good.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    inner: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    pub fn open(&self) {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.inner.1.notify_all();
    }

    pub fn is_open(&self) -> bool {
        *self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until somebody opens the gate, for at most [`PATIENCE`]; says whether it was opened.
    pub fn wait(&self) -> bool {
        let open = self.inner.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (open, _) = self
            .inner
            .1
            .wait_timeout_while(open, PATIENCE, |open| !*open)
            .unwrap_or_else(PoisonError::into_inner);
        *open
    }
}

#[cfg(test)]
mod tests {
    use super::{Gate, watched};
    use std::panic::catch_unwind;
    use std::thread;

    #[test]
    fn a_hanging_test_is_named() {
        let gate = Gate::new();
        let held = gate.clone();
        let failure = catch_unwind(move || {
            watched("the_hanging_one", 0, move || {
                held.wait();
            });
        })
        .unwrap_err();
        gate.open();
        assert!(failure.downcast_ref::<String>().unwrap().contains("the_hanging_one"));
    }

    #[test]
    fn a_failure_inside_comes_out() {
        let failure = catch_unwind(|| watched("failing", 5, || panic!("for this reason"))).unwrap_err();
        assert_eq!(failure.downcast_ref::<&str>().unwrap(), &"for this reason");
    }

    #[test]
    fn a_gate_stays_open() {
        let gate = Gate::new();
        assert!(!gate.is_open());
        let other = gate.clone();
        let waiting = thread::spawn(move || other.wait());
        gate.open();
        assert!(waiting.join().unwrap());
        assert!(gate.wait());
    }
}
