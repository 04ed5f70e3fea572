//! Who waits for a connection to an upstream, in the order in which they came.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// The queue of one upstream in one worker.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: RefCell<VecDeque<Waiting>>,
    ids: Cell<u64>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    waker: Option<Waker>,
    called: bool,
}

impl Queue {
    /// Waits to be called. False if `max` wait already.
    pub(super) async fn wait(&self, max: u32) -> bool {
        if self.waiting.borrow().len() >= max as usize {
            return false;
        }
        let id = self.ids.get();
        self.ids.set(id + 1);
        self.waiting.borrow_mut().push_back(Waiting { id, waker: None, called: false });
        let mut place = Place { queue: self, id, came: false };
        std::future::poll_fn(|cx| {
            let mut waiting = self.waiting.borrow_mut();
            match waiting.iter_mut().find(|w| w.id == place.id) {
                Some(w) if !w.called => {
                    w.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
        place.came = true;
        true
    }

    /// Calls the one that has waited longest.
    pub(super) fn call_next(&self) {
        if let Some(w) = self.waiting.borrow_mut().iter_mut().find(|w| !w.called) {
            w.called = true;
            if let Some(waker) = w.waker.take() {
                waker.wake();
            }
        }
    }

    /// Calls everybody.
    pub(super) fn call_all(&self) {
        for w in self.waiting.borrow_mut().iter_mut() {
            w.called = true;
            if let Some(waker) = w.waker.take() {
                waker.wake();
            }
        }
    }
}

/// A place in the queue, given up when the wait is dropped. A place that was called but not used calls the next one.
struct Place<'q> {
    queue: &'q Queue,
    id: u64,
    came: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.waiting.borrow_mut();
        let Some(at) = waiting.iter().position(|w| w.id == self.id) else { return };
        let called = waiting.remove(at).is_some_and(|w| w.called);
        drop(waiting);
        if called && !self.came {
            self.queue.call_next();
        }
    }
}
