//! Who waits for a connection to an upstream, in the order in which they came. To come, to be called and to leave take the
//! same time however many wait.

use std::cell::RefCell;
use std::task::{Poll, Waker};

/// How many places stay allocated when nobody waits.
const PLACES_KEPT: usize = 256;

/// The queue of one upstream in one worker.
#[derive(Debug, Default)]
pub(super) struct Queue(RefCell<Line>);

/// A doubly linked list within a vector, whose free places are reused.
#[derive(Debug, Default)]
struct Line {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Of those that are not called yet.
    first: Option<u32>,
    last: Option<u32>,
}

#[derive(Debug)]
struct Place {
    before: Option<u32>,
    behind: Option<u32>,
    waker: Option<Waker>,
    called: bool,
}

impl Line {
    fn waiting(&self) -> usize {
        self.places.len() - self.free.len()
    }

    fn join(&mut self) -> u32 {
        let place = Place { before: self.last, behind: None, waker: None, called: false };
        let at = if let Some(at) = self.free.pop() {
            self.places[at as usize] = place;
            at
        } else {
            self.places.push(place);
            (self.places.len() - 1) as u32
        };
        match self.last.replace(at) {
            Some(last) => self.places[last as usize].behind = Some(at),
            None => self.first = Some(at),
        }
        at
    }

    /// Takes somebody out of the list who is not called yet.
    fn unlink(&mut self, at: u32) {
        let Place { before, behind, .. } = self.places[at as usize];
        match before {
            Some(before) => self.places[before as usize].behind = behind,
            None => self.first = behind,
        }
        match behind {
            Some(behind) => self.places[behind as usize].before = before,
            None => self.last = before,
        }
    }

    /// The one that has waited longest is called.
    fn call(&mut self) -> Option<Waker> {
        let at = self.first?;
        self.unlink(at);
        let place = &mut self.places[at as usize];
        place.called = true;
        place.waker.take()
    }

    /// Somebody leaves; true if it had been called.
    fn leave(&mut self, at: u32) -> bool {
        let called = self.places[at as usize].called;
        if !called {
            self.unlink(at);
        }
        self.places[at as usize].waker = None;
        self.free.push(at);
        if self.waiting() == 0 && self.places.len() > PLACES_KEPT {
            // A rush is over: its memory goes.
            *self = Self::default();
        }
        called
    }
}

impl Queue {
    /// Waits to be called. False if `max` wait already.
    pub(super) async fn wait(&self, max: u32) -> bool {
        if self.0.borrow().waiting() >= max as usize {
            return false;
        }
        let at = self.0.borrow_mut().join();
        let mut turn = Turn { queue: self, at, came: false };
        std::future::poll_fn(|cx| {
            let place = &mut self.0.borrow_mut().places[at as usize];
            if place.called {
                return Poll::Ready(());
            }
            place.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
        turn.came = true;
        true
    }

    /// Calls the one that has waited longest.
    pub(super) fn call_next(&self) {
        let waker = self.0.borrow_mut().call();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Calls everybody.
    pub(super) fn call_all(&self) {
        while self.0.borrow().first.is_some() {
            self.call_next();
        }
    }
}

/// A place in the queue, given up when the wait is dropped. A place that was called but not used calls the next one.
struct Turn<'q> {
    queue: &'q Queue,
    at: u32,
    came: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let called = self.queue.0.borrow_mut().leave(self.at);
        if called && !self.came {
            self.queue.call_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Queue;
    use std::pin::Pin;
    use std::task::{Context, Waker};

    type Wait<'q> = Pin<Box<dyn Future<Output = bool> + 'q>>;

    /// What the wait has come to, if it has.
    fn poll(wait: &mut Wait<'_>) -> Option<bool> {
        match wait.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(served) => Some(served),
            std::task::Poll::Pending => None,
        }
    }

    fn waiting(queue: &Queue, count: u32) -> Vec<Wait<'_>> {
        (0..count)
            .map(|_| {
                let mut wait: Wait<'_> = Box::pin(queue.wait(count));
                assert_eq!(poll(&mut wait), None);
                wait
            })
            .collect()
    }

    #[test]
    fn who_came_first_is_called_first_and_who_left_is_passed_over() {
        let queue = Queue::default();
        let mut waits = waiting(&queue, 5);
        let mut one_too_many: Wait<'_> = Box::pin(queue.wait(5));
        assert_eq!(poll(&mut one_too_many), Some(false));
        drop(waits.remove(2));
        drop(waits.remove(0));
        for expected in 0..3 {
            queue.call_next();
            let ready: Vec<usize> =
                waits.iter_mut().enumerate().filter_map(|(at, wait)| poll(wait).map(|_| at)).collect();
            assert_eq!(ready, [0], "call {expected}");
            drop(waits.remove(0));
        }
        queue.call_next();
        assert_eq!(queue.0.borrow().waiting(), 0);
    }

    #[test]
    fn a_call_that_is_not_used_goes_to_the_next() {
        let queue = Queue::default();
        let mut waits = waiting(&queue, 3);
        queue.call_next();
        drop(waits.remove(0));
        assert_eq!((poll(&mut waits[0]), poll(&mut waits[1])), (Some(true), None));
        queue.call_all();
        assert_eq!(poll(&mut waits[1]), Some(true));
        let mut wait: Wait<'_> = Box::pin(queue.wait(3));
        assert_eq!(poll(&mut wait), None, "a place is reused");
    }

    /// In the order of leaving that a vector bears worst. With a search for each this would take minutes.
    #[test]
    fn many_come_and_leave() {
        let queue = Queue::default();
        let mut waits = waiting(&queue, 200_000);
        while waits.pop().is_some() {}
        assert_eq!(queue.0.borrow().places.capacity(), 0, "their memory is back");
    }
}
