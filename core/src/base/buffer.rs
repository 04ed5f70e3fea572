//! Fixed-size I/O buffers of one worker, reused, with a ceiling.
//!
//! A connection takes a buffer when it has bytes to read and gives it back when it has none, so idle connections hold
//! no buffer. The ceiling is what bounds a worker's memory: at it, [`BufferPool::take`] answers `None` and the caller
//! refuses the request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::limits::{BUFFER_BYTES, FREE_BUFFERS_MAX};

/// The buffers of one worker.
#[derive(Debug)]
pub struct BufferPool {
    free: RefCell<Vec<Box<[u8]>>>,
    taken: Cell<usize>,
    count_max: Cell<usize>,
}

impl BufferPool {
    /// A pool that hands out at most `bytes_max` bytes at a time (rounded down to whole buffers, at least four).
    pub fn new(bytes_max: u64) -> Rc<Self> {
        let pool =
            Rc::new(Self { free: RefCell::default(), taken: Cell::new(0), count_max: Cell::new(0) });
        pool.resize(bytes_max);
        pool
    }

    /// Changes the ceiling; buffers already out stay out.
    pub fn resize(&self, bytes_max: u64) {
        self.count_max.set(usize::try_from(bytes_max / BUFFER_BYTES as u64).unwrap_or(usize::MAX).max(4));
    }

    /// An empty buffer, or `None` at the ceiling.
    pub fn take(self: &Rc<Self>) -> Option<Buffer> {
        if self.taken.get() >= self.count_max.get() {
            return None;
        }
        self.taken.set(self.taken.get() + 1);
        let bytes = self.free.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        Some(Buffer { bytes, start: 0, end: 0, pool: Rc::clone(self) })
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
    pool: Rc<BufferPool>,
}

impl Buffer {
    /// The bytes read and not yet consumed.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
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
        self.pool.taken.set(self.pool.taken.get() - 1);
        let mut free = self.pool.free.borrow_mut();
        if free.len() < FREE_BUFFERS_MAX {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BufferPool;
    use crate::base::limits::BUFFER_BYTES;

    #[test]
    fn the_ceiling_holds_and_buffers_come_back() {
        let pool = BufferPool::new(4 * BUFFER_BYTES as u64);
        let taken: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_none());
        drop(taken);
        assert_eq!((pool.taken(), pool.free()), (0, 4));
        pool.trim();
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn a_buffer_fills_consumes_and_compacts() {
        let pool = BufferPool::new(u64::MAX);
        let mut buffer = pool.take().unwrap();
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
