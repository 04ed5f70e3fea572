//! The h2 crate's reads and writes on one of our streams, and the loop that waits for it.
//!
//! The h2 crate polls; our streams say `WouldBlock` and are awaited. [`Wire`] notes which of its two directions would
//! block, and [`drive`] awaits those. No wait is boxed and none is dropped while it is pending.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::Guard;
use crate::net::driver::spawn;
use crate::net::stream::Transport;

/// Frames are gathered up to this before they are written: a call costs more than copying what it carries, and a
/// TLS stream makes whole records of it.
const CORK_BYTES: usize = 64 * 1024;

/// Bytes read before other connections have their turn.
const TURN_BYTES: usize = 128 * 1024;

/// What the h2 crate's end and the loop that waits for it share.
pub(super) struct Shared<S> {
    pub(super) stream: S,
    wants_read: Cell<bool>,
    wants_write: Cell<bool>,
    /// Bytes that may still be read in this turn: a peer that never stops sending must not keep others waiting.
    turn_bytes: Cell<usize>,
    /// Frames received, and what is too many.
    pub(super) guard: RefCell<Guard>,
}

impl<S> Shared<S> {
    pub(super) fn new(stream: S, guard: Guard) -> Rc<Self> {
        Rc::new(Self {
            stream,
            wants_read: Cell::new(false),
            wants_write: Cell::new(false),
            turn_bytes: Cell::new(TURN_BYTES),
            guard: RefCell::new(guard),
        })
    }
}

/// The h2 crate's end of a stream.
pub(super) struct Wire<S> {
    shared: Rc<Shared<S>>,
    /// Read before the h2 crate took over.
    early: Vec<u8>,
    /// Written and not yet sent.
    corked: Vec<u8>,
    sent: usize,
}

impl<S: Transport> Wire<S> {
    pub(super) fn new(shared: &Rc<Shared<S>>, early: Vec<u8>) -> Self {
        Self { shared: Rc::clone(shared), early, corked: Vec::new(), sent: 0 }
    }

    fn send(&mut self) -> Poll<io::Result<()>> {
        while self.sent < self.corked.len() {
            match self.shared.stream.try_write(&self.corked[self.sent..]) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.shared.wants_write.set(true);
                    return Poll::Pending;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.sent = 0;
        give_spare(std::mem::take(&mut self.corked));
        Poll::Ready(Ok(()))
    }
}

thread_local! {
    /// Write buffers between two flushes: a connection holds one only while it has something to send.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Spare write buffers that a worker keeps.
const SPARE_MAX: usize = 16;

fn take_spare() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn give_spare(mut buffer: Vec<u8>) {
    if buffer.capacity() > 0 && buffer.capacity() <= 2 * CORK_BYTES {
        buffer.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(buffer);
            }
        });
    }
}

impl<S: Transport> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = Rc::clone(&self.shared);
        let before = into.filled().len();
        if !self.early.is_empty() {
            let n = self.early.len().min(into.remaining());
            into.put_slice(&self.early[..n]);
            self.early.drain(..n);
            shared.guard.borrow_mut().see(&into.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        if shared.guard.borrow().tripped().is_some() {
            return Poll::Pending;
        }
        let room = into.remaining().min(shared.turn_bytes.get());
        if room == 0 {
            shared.wants_read.set(true);
            return Poll::Pending;
        }
        loop {
            match shared.stream.try_read(into.initialize_unfilled_to(room)) {
                Ok(n) => {
                    into.advance(n);
                    shared.turn_bytes.set(shared.turn_bytes.get() - n);
                    shared.guard.borrow_mut().see(&into.filled()[before..]);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    shared.wants_read.set(true);
                    return Poll::Pending;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<S: Transport> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.corked.len() >= CORK_BYTES
            && let Poll::Ready(Err(error)) = self.send()
        {
            return Poll::Ready(Err(error));
        }
        if self.corked.len() >= CORK_BYTES {
            return Poll::Pending;
        }
        if self.corked.capacity() == 0 {
            self.corked = take_spare();
        }
        self.corked.extend_from_slice(bytes);
        self.shared.guard.borrow_mut().sent(bytes.len());
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.send();
        if matches!(sent, Poll::Ready(Ok(()))) {
            self.shared.stream.shutdown_write();
        }
        sent
    }
}

/// Polls `step` whenever the stream can go on or something of h2's wakes the task, until it is ready.
pub(super) async fn drive<S: Transport, T>(
    shared: &Shared<S>,
    mut step: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> T {
    let mut reading = pin!(None);
    let mut writing = pin!(None);
    poll_fn(|cx| {
        shared.turn_bytes.set(TURN_BYTES);
        loop {
            if let Poll::Ready(done) = step(cx) {
                return Poll::Ready(done);
            }
            let mut again = false;
            if shared.wants_read.get() && reading.is_none() {
                reading.set(Some(shared.stream.readable()));
            }
            if let Some(wait) = reading.as_mut().as_pin_mut()
                && wait.poll(cx).is_ready()
            {
                reading.set(None);
                shared.wants_read.set(false);
                again = true;
            }
            if shared.wants_write.get() && writing.is_none() {
                writing.set(Some(shared.stream.writable()));
            }
            if let Some(wait) = writing.as_mut().as_pin_mut()
                && wait.poll(cx).is_ready()
            {
                writing.set(None);
                shared.wants_write.set(false);
                again = true;
            }
            if !again {
                return Poll::Pending;
            }
            if shared.turn_bytes.get() == 0 {
                // It is ready still: the others first.
                let waker = cx.waker().clone();
                spawn(async move { waker.wake() });
                return Poll::Pending;
            }
        }
    })
    .await
}
