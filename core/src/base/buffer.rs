//! Fixed-size I/O buffers of one worker, reused, with a ceiling.
//!
//! A connection takes a buffer when it has bytes to read and gives it back when it has none, so idle connections hold
//! no buffer. The ceiling bounds a worker's memory. An exchange needs two buffers, one each way; requests may take
//! only half of the ceiling, so a response never waits for one and no exchange waits for another's.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::limits::{BUFFER_BYTES, FREE_BUFFERS_MAX};

/// The buffers of one worker.
#[derive(Debug)]
pub struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
    taken: Cell<usize>,
    /// Of these, for requests.
    taken_for_requests: Cell<usize>,
    count_max: Cell<usize>,
    waiting: RefCell<VecDeque<Waker>>,
}

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Request,
    Response,
    /// Nothing: its storage was taken out.
    Husk,
}

impl BufferPool {
    /// A pool that hands out at most `bytes_max` bytes at a time (rounded down to whole buffers, at least four).
    pub fn new(bytes_max: u64) -> Rc<Self> {
        let pool = Rc::new(Self {
            free: RefCell::default(),
            taken: Cell::new(0),
            taken_for_requests: Cell::new(0),
            count_max: Cell::new(0),
            waiting: RefCell::default(),
        });
        pool.resize(bytes_max);
        pool
    }

    /// Changes the ceiling; buffers already out stay out.
    pub fn resize(&self, bytes_max: u64) {
        self.count_max.set(usize::try_from(bytes_max / BUFFER_BYTES as u64).unwrap_or(usize::MAX).max(4));
    }

    /// An empty buffer to read a request into; waits while requests hold half of the ceiling.
    pub fn take_for_request(self: &Rc<Self>) -> impl Future<Output = Buffer> + '_ {
        poll_fn(move |cx| {
            if self.taken_for_requests.get() < self.count_max.get() / 2 {
                self.taken_for_requests.set(self.taken_for_requests.get() + 1);
                return Poll::Ready(self.take(Purpose::Request));
            }
            self.waiting.borrow_mut().push_back(cx.waker().clone());
            Poll::Pending
        })
    }

    /// An empty buffer to read the response into, at most one for each request's.
    pub fn take_for_response(self: &Rc<Self>) -> Buffer {
        self.take(Purpose::Response)
    }

    fn take(self: &Rc<Self>, purpose: Purpose) -> Buffer {
        self.taken.set(self.taken.get() + 1);
        let bytes = self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Buffer { bytes, start: 0, end: 0, purpose, pool: Rc::clone(self) }
    }

    /// Buffers in use now.
    pub fn taken(&self) -> usize {
        self.taken.get()
    }

    /// Buffers kept for reuse.
    pub fn free(&self) -> usize {
        self.free.borrow().len()
    }

    /// Gives half of the spare buffers back to the allocator; called now and then, so that a burst's memory is returned.
    pub fn trim(&self) {
        let mut free = self.free.borrow_mut();
        let keep = free.len().div_ceil(2);
        free.truncate(keep);
    }
}

/// Bytes read and not yet consumed, in a buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    purpose: Purpose,
    pool: Rc<BufferPool>,
}

impl Buffer {
    /// The bytes read and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The same, to be changed in place.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// Room behind them.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.end..]
    }

    /// Counts `n` bytes, just written into [`spare`](Self::spare), as filled.
    pub fn fill(&mut self, n: usize) {
        self.end = (self.end + n).min(self.bytes.len());
    }

    /// Drops the first `n` filled bytes.
    pub fn consume(&mut self, n: usize) {
        self.start = (self.start + n).min(self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.start = 0;
        self.end = 0;
    }

    /// Moves the filled bytes to the front, so that all room is behind them.
    pub fn compact(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Takes the buffer with its bytes out of its place, which is left without storage and counts as full and empty.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let pool = Rc::clone(&self.pool);
        let husk = Self { bytes: Box::default(), start: 0, end: 0, purpose: Purpose::Husk, pool };
        std::mem::replace(self, husk)
    }

    /// No bytes are held.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// No room is left behind the filled bytes.
    pub fn is_full(&self) -> bool {
        self.end == self.bytes.len()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.purpose == Purpose::Husk {
            return;
        }
        let pool = &self.pool;
        pool.taken.set(pool.taken.get() - 1);
        let mut free = pool.free.borrow_mut();
        if free.len() < FREE_BUFFERS_MAX {
            free.push(std::mem::take(&mut self.bytes));
        }
        if self.purpose == Purpose::Request {
            pool.taken_for_requests.set(pool.taken_for_requests.get() - 1);
            // Everybody, not one: whoever is called may have gone away, and this is rare.
            for waker in pool.waiting.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::{Buffer, BufferPool};
    use crate::base::limits::BUFFER_BYTES;

    fn take(pool: &std::rc::Rc<BufferPool>) -> Option<Buffer> {
        match pin!(pool.take_for_request()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(buffer) => Some(buffer),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_ceiling_holds_and_buffers_come_back() {
        let pool = BufferPool::new(8 * BUFFER_BYTES as u64);
        let mut taken: Vec<_> = (0..4).map(|_| take(&pool).unwrap()).collect();
        assert!(take(&pool).is_none(), "requests take half");
        taken.push(pool.take_for_response());
        assert!(take(&pool).is_none());
        taken.remove(0);
        assert!(take(&pool).is_some());
        drop(taken);
        assert_eq!((pool.taken(), pool.free()), (0, 5));
        pool.trim();
        assert_eq!(pool.free(), 3);
    }

    #[test]
    fn a_buffer_fills_consumes_and_compacts() {
        let pool = BufferPool::new(u64::MAX);
        let mut buffer = pool.take_for_response();
        buffer.spare()[..5].copy_from_slice(b"hello");
        buffer.fill(5);
        buffer.consume(2);
        assert_eq!(buffer.filled(), b"llo");
        buffer.compact();
        assert_eq!(buffer.filled(), b"llo");
        assert_eq!(buffer.spare().len(), BUFFER_BYTES - 3);
        buffer.consume(3);
        assert!(buffer.is_empty() && buffer.spare().len() == BUFFER_BYTES);
    }
}
