//! The h2 crate's reads and writes on one of our streams, and the loop that waits for it.
//!
//! The h2 crate polls; our streams say `WouldBlock` and are awaited. [`Wire`] notes which of its two directions would
//! block, and [`drive`] awaits those. No wait is boxed.
//!
//! The h2 crate flushes after each DATA frame of some size and reads into whatever is left of its buffer. Here frames
//! are gathered until it has nothing more to say, and bytes are read in one call: with 8 connections of 32 streams that
//! halved the system calls of an exchange (docs/performance.md).

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::Guard;
use super::ledger::{Ledger, Settled};
use crate::base::backlog::Backlog;
use crate::base::limits::{TURN_BYTES, TURN_REQUESTS};
use crate::net::driver::{spawn, yield_now};
use crate::net::transport::Transport;

/// Frames are gathered up to this before they are written.
const CORK_BYTES: usize = 64 * 1024;

/// Bytes read in one call.
const READ_BYTES: usize = 32 * 1024;

/// What the h2 crate's end and the loop that waits for it share.
pub(super) struct Shared<S> {
    pub(super) stream: S,
    wants_read: Cell<bool>,
    wants_write: Cell<bool>,
    /// Bytes that may still be moved in this turn: a peer that never stops sending must not keep others waiting. A turn goes
    /// on through what [`drive`] has brought, until there is nothing to do or the turn is over.
    turn_bytes: Cell<usize>,
    /// Streams that may still be accepted in this turn.
    turn_streams: Cell<u32>,
    /// Read, and not yet taken by the h2 crate. Empty and without memory most of the time.
    ahead: RefCell<Spool>,
    /// Written by the h2 crate, and not yet sent.
    corked: RefCell<Spool>,
    /// Why nothing can be sent any more.
    failed: Cell<Option<ErrorKind>>,
    /// Rises with each read.
    pub(super) reads: Rc<Cell<u64>>,
    /// Frames received, and what is too many.
    pub(super) guard: RefCell<Guard>,
    /// What is held for the connection and its streams.
    pub(super) ledger: Rc<Ledger>,
}

/// Bytes on their way. A connection holds memory for them only while there are any.
#[derive(Default)]
struct Spool {
    bytes: Vec<u8>,
    done: usize,
}

impl Spool {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.done..]
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn consume(&mut self, n: usize) {
        self.done += n;
        if self.done == self.bytes.len() {
            self.done = 0;
            let mut bytes = std::mem::take(&mut self.bytes);
            if bytes.capacity() <= 2 * CORK_BYTES {
                bytes.clear();
                SPARE.with_borrow_mut(|spare| {
                    if spare.len() < SPARE_MAX {
                        spare.push(bytes);
                    }
                });
            }
        }
    }
}

/// Spare buffers that a worker keeps for its connections.
const SPARE_MAX: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    /// What is read lands here first, whichever connection it is for.
    static LANDING: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

impl<S: Transport> Shared<S> {
    /// `early` was read from the stream already.
    pub(super) fn new(stream: S, guard: Guard, early: &[u8], backlog: Rc<Backlog>) -> Rc<Self> {
        let shared = Self {
            stream,
            wants_read: Cell::new(false),
            wants_write: Cell::new(false),
            turn_bytes: Cell::new(TURN_BYTES),
            turn_streams: Cell::new(TURN_REQUESTS),
            ahead: RefCell::default(),
            corked: RefCell::default(),
            failed: Cell::new(None),
            reads: Rc::default(),
            ledger: Ledger::new(backlog, guard.preface_bytes()),
            guard: RefCell::new(guard),
        };
        shared.guard.borrow_mut().see(early);
        if !early.is_empty() {
            shared.ahead.borrow_mut().push(early);
        }
        Rc::new(shared)
    }

    /// Another stream may be accepted in this turn. If not, whoever accepts streams leaves the rest to the next.
    pub(super) fn may_accept(&self) -> bool {
        self.turn_streams.get() > 0
    }

    /// A stream has been accepted.
    pub(super) fn accepted(&self) {
        self.turn_streams.set(self.turn_streams.get().saturating_sub(1));
    }

    /// Sends what is corked, as far as the stream takes it.
    fn send(&self) {
        let mut corked = self.corked.borrow_mut();
        while !corked.rest().is_empty() {
            match self.stream.try_write(corked.rest()) {
                Ok(n) if n > 0 => {
                    corked.consume(n);
                    self.turn_bytes.set(self.turn_bytes.get().saturating_sub(n));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wants_write.set(true);
                    return;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                failed => {
                    self.failed.set(Some(failed.map_or_else(|e| e.kind(), |_| ErrorKind::WriteZero)));
                    let rest = corked.rest().len();
                    corked.consume(rest);
                    return;
                }
            }
        }
        // A TLS stream may have taken more than its socket did.
        if self.stream.has_unsent() {
            self.wants_write.set(true);
        }
    }

    fn is_corked(&self) -> bool {
        !self.corked.borrow().rest().is_empty()
    }

    /// Says what is held after a turn, and lets go of what was asked for. True: there is something to tell the peer.
    fn settle(&self) -> bool {
        self.ledger.spooled(self.ahead.borrow().bytes.capacity() + self.corked.borrow().bytes.capacity());
        match self.ledger.settle() {
            Settled::Within => false,
            Settled::Shed => true,
            Settled::MustEnd => {
                self.guard.borrow_mut().trip_for_backlog();
                true
            }
        }
    }

    fn check(&self) -> io::Result<()> {
        self.failed.get().map_or(Ok(()), |kind| Err(kind.into()))
    }
}

/// The h2 crate's end of a stream.
pub(super) struct Wire<S>(Rc<Shared<S>>);

impl<S: Transport> Wire<S> {
    pub(super) fn new(shared: &Rc<Shared<S>>) -> Self {
        Self(Rc::clone(shared))
    }
}

impl<S: Transport> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &*self.0;
        let mut ahead = shared.ahead.borrow_mut();
        let n = ahead.rest().len().min(into.remaining());
        if n > 0 {
            into.put_slice(&ahead.rest()[..n]);
            shared.ledger.arrived(&ahead.rest()[..n]);
            ahead.consume(n);
            return Poll::Ready(Ok(()));
        }
        // Nothing new has come as long as the stream is awaited.
        if shared.wants_read.get() || shared.guard.borrow().tripped().is_some() {
            return Poll::Pending;
        }
        if shared.turn_bytes.get() == 0 {
            shared.wants_read.set(true);
            return Poll::Pending;
        }
        LANDING.with_borrow_mut(|landing| {
            loop {
                match shared.stream.try_read(landing) {
                    Ok(n) => {
                        shared.reads.set(shared.reads.get() + 1);
                        shared.turn_bytes.set(shared.turn_bytes.get().saturating_sub(n));
                        // A short read has emptied the socket: asking again would only be told so.
                        shared.wants_read.set(n > 0 && n < landing.len());
                        shared.guard.borrow_mut().see(&landing[..n]);
                        let now = n.min(into.remaining());
                        into.put_slice(&landing[..now]);
                        shared.ledger.arrived(&landing[..now]);
                        if now < n {
                            ahead.push(&landing[now..n]);
                        }
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
        })
    }
}

impl<S: Transport> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let shared = &*self.0;
        shared.check()?;
        if shared.corked.borrow().rest().len() >= CORK_BYTES {
            if shared.turn_bytes.get() == 0 {
                // The stream takes all that it is given: the rest in the next turn.
                shared.wants_write.set(true);
                return Poll::Pending;
            }
            shared.send();
            shared.check()?;
            if shared.corked.borrow().rest().len() >= CORK_BYTES {
                return Poll::Pending;
            }
        }
        shared.corked.borrow_mut().push(bytes);
        shared.guard.borrow_mut().sent(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// A frame's header and its payload, so that the h2 crate copies no payload of more than 256 bytes.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut taken = 0;
        let wire = self.get_mut();
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            match Pin::new(&mut *wire).poll_write(cx, piece) {
                Poll::Ready(Ok(n)) => taken += n,
                Poll::Pending if taken > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is corked goes out when the h2 crate has nothing more to say: [`drive`] sees to it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.send();
        self.0.check()?;
        if self.0.is_corked() || self.0.stream.has_unsent() {
            return Poll::Pending;
        }
        self.0.stream.shutdown_write();
        Poll::Ready(Ok(()))
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
        loop {
            let stepped = step(cx);
            let could = shared.failed.get().is_none();
            shared.send();
            if let Poll::Ready(done) = stepped {
                return Poll::Ready(done);
            }
            // The h2 crate hears of it when it is polled.
            let mut again = could && shared.failed.get().is_some();
            again |= shared.settle();
            if shared.ledger.poll_asked(cx).is_ready() {
                again = true;
            }
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
            let is_over = shared.turn_bytes.get() == 0 && again || !shared.may_accept();
            if is_over || !again {
                shared.turn_bytes.set(TURN_BYTES);
                shared.turn_streams.set(TURN_REQUESTS);
            }
            if !is_over && !again {
                return Poll::Pending;
            }
            if is_over {
                // It is ready still: the others first. A task that wakes itself would be the next to run.
                let waker = cx.waker().clone();
                spawn(async move {
                    yield_now().await;
                    waker.wake();
                });
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::future::Future;
    use std::io::{self, ErrorKind, IoSlice};
    use std::os::fd::BorrowedFd;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::{Backlog, CORK_BYTES, Guard, Shared, Wire, drive};
    use crate::base::backlog::BacklogAccount;
    use crate::base::clock::Monotonic;
    use crate::net::transport::{Peek, Transport};

    /// A stream as TLS is one: it takes what it is given, and part of it goes out only when it is awaited.
    #[derive(Default)]
    struct Lazy {
        incoming: RefCell<Vec<u8>>,
        taken: Cell<usize>,
        writes: Cell<usize>,
        unsent: Cell<bool>,
    }

    impl Transport for Lazy {
        fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
            let mut incoming = self.incoming.borrow_mut();
            if incoming.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let n = incoming.len().min(into.len());
            into[..n].copy_from_slice(&incoming[..n]);
            incoming.drain(..n);
            Ok(n)
        }

        fn try_write(&self, from: &[u8]) -> io::Result<usize> {
            self.taken.set(self.taken.get() + from.len());
            self.writes.set(self.writes.get() + 1);
            self.unsent.set(true);
            Ok(from.len())
        }

        fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
            self.try_write(&from[0])
        }

        async fn readable(&self) -> io::Result<()> {
            std::future::pending().await
        }

        async fn writable(&self) -> io::Result<()> {
            self.unsent.set(false);
            Ok(())
        }

        fn has_unsent(&self) -> bool {
            self.unsent.get()
        }

        fn peek(&self) -> Peek {
            Peek::Quiet
        }

        fn shutdown_write(&self) {}

        fn abort_on_close(&self) {}

        fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    fn shared(early: &[u8]) -> std::rc::Rc<Shared<Lazy>> {
        let backlog = Backlog::new(&BacklogAccount::new(u64::MAX), None);
        Shared::new(Lazy::default(), Guard::of_client(Monotonic::start()), early, backlog)
    }

    /// A connection that awaits its peer and has written meanwhile: what the stream holds back must not stay there.
    #[test]
    fn what_a_stream_took_is_seen_out() {
        let shared = shared(b"");
        let mut wire = Wire::new(&shared);
        let mut step = 0;
        let driven = drive(&shared, |cx| {
            step += 1;
            match step {
                1 => {
                    // It is read from first, so that there is a wait for reading already.
                    let mut bytes = [0; 16];
                    let read = Pin::new(&mut wire).poll_read(cx, &mut ReadBuf::new(&mut bytes));
                    assert!(read.is_pending());
                }
                2 => assert!(Pin::new(&mut wire).poll_write(cx, b"frames").is_ready()),
                _ => {}
            }
            if step > 2 && !shared.stream.unsent.get() { Poll::Ready(()) } else { Poll::Pending }
        });
        let mut driven = pin!(driven);
        let mut cx = Context::from_waker(Waker::noop());
        let done = (0..4).any(|_| driven.as_mut().poll(&mut cx).is_ready());
        assert!(done && !shared.stream.unsent.get() && shared.stream.taken.get() == 6);
    }

    #[test]
    fn frames_are_gathered_and_bounded() {
        let shared = shared(b"");
        let mut wire = Wire::new(&shared);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            assert!(Pin::new(&mut wire).poll_write(&mut cx, &[7; 1_000]).is_ready());
            assert!(Pin::new(&mut wire).poll_flush(&mut cx).is_ready());
        }
        assert_eq!(shared.stream.writes.get(), 1, "only the full cork goes out by itself");
        assert!(shared.stream.taken.get() >= CORK_BYTES);
        shared.send();
        assert_eq!((shared.stream.taken.get(), shared.is_corked()), (100_000, false));
    }

    #[test]
    fn what_was_read_early_and_ahead_comes_in_order() {
        let shared = shared(b"early ");
        shared.stream.incoming.borrow_mut().extend_from_slice(b"and then what the socket had");
        let mut wire = Wire::new(&shared);
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        loop {
            let mut bytes = [0; 5];
            let mut into = ReadBuf::new(&mut bytes);
            match Pin::new(&mut wire).poll_read(&mut cx, &mut into) {
                Poll::Ready(result) => {
                    result.unwrap();
                    all.extend_from_slice(into.filled());
                }
                Poll::Pending => break,
            }
        }
        assert_eq!(all, b"early and then what the socket had");
        assert!(shared.wants_read.get());
    }
}
