//! A flag that tasks of one worker can wait for.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::task::{Poll, Waker};

/// Lowered, until somebody raises it.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Signal {
    /// Raises it and wakes everybody who waits.
    pub fn raise(&self) {
        self.raised.set(true);
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Raises it unless it is: one comparison where it mostly is.
    #[inline]
    pub fn raise_once(&self) {
        if !self.raised.get() {
            self.raise();
        }
    }

    /// Lowers it again.
    pub fn lower(&self) {
        self.raised.set(false);
    }

    /// How it stands.
    pub fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Waits until it is raised.
    pub fn raised(&self) -> impl Future<Output = ()> + '_ {
        std::future::poll_fn(|cx| {
            if self.raised.get() {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}
