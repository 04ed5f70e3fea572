//! HTTP/2 connections over the harness's sockets: what the h2 crate reads and writes through, and the task around it.
//!
//! h2 asks for tokio's poll-style I/O. [`Link`] answers with direct non-blocking calls and, where those would block,
//! only notes what is awaited; [`Driver::drive`], the one task of the connection, awaits it. So no readiness future is
//! ever boxed, and all that h2 writes in one turn goes out in one send: h2 itself would flush after each DATA frame.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::{Broken, Buffers, Received, Stream};

/// As Chrome announces them: how much may come unasked on a stream, and on all streams of a connection.
pub const STREAM_WINDOW_BYTES: u32 = 6 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 15 << 20;
/// What a client says first (RFC 9113, section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Received at once. h2 itself has room for 8 KiB or less: a body of 1 MiB took 192 calls instead of 16, and 1.4 times the
/// CPU time (1 KiB the same).
const RECEIVE_BYTES: usize = 64 * 1024;
/// h2 is asked to wait when so much is unsent.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

/// The end that h2 holds.
#[derive(Debug)]
pub struct Link(Rc<RefCell<Inner>>);

/// The end that the task around it holds.
#[derive(Debug)]
pub struct Driver(Rc<RefCell<Inner>>);

#[derive(Debug)]
struct Inner {
    stream: Stream,
    buffers: Rc<Buffers>,
    /// Received, from `inbox_from` on not yet taken by h2. Without memory when all is.
    inbox: Vec<u8>,
    inbox_from: usize,
    outbox: Vec<u8>,
    awaits_read: bool,
    awaits_write: bool,
    /// h2 waits for room in the outbox.
    writer_waits: bool,
    ended: bool,
    failed: Option<Broken>,
}

/// Both ends of a connection's I/O. `inbox` has come already.
pub fn link(stream: Stream, inbox: Vec<u8>, buffers: Rc<Buffers>) -> (Link, Driver) {
    let inner = Rc::new(RefCell::new(Inner {
        stream,
        buffers,
        inbox,
        inbox_from: 0,
        outbox: Vec::new(),
        awaits_read: false,
        awaits_write: false,
        writer_waits: false,
        ended: false,
        failed: None,
    }));
    (Link(inner.clone()), Driver(inner))
}

impl Driver {
    /// Why the connection broke, if that was below HTTP/2.
    pub fn take_failure(&self) -> Option<Broken> {
        self.0.borrow_mut().failed.take()
    }

    /// Polls `connection` to its end, awaiting readiness for it and sending what it has written.
    pub async fn drive<T>(&self, mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        let socket = self.0.borrow().stream.socket().clone();
        let mut readable = pin!(socket.readable());
        let mut writable = pin!(socket.writable());
        let mut outcome = None;
        poll_fn(|cx| {
            loop {
                // A readiness that is an error shows in the call that follows.
                if self.0.borrow().awaits_read && readable.as_mut().poll(cx).is_ready() {
                    readable.set(socket.readable());
                    self.0.borrow_mut().awaits_read = false;
                }
                if self.0.borrow().awaits_write && writable.as_mut().poll(cx).is_ready() {
                    writable.set(socket.writable());
                    self.0.borrow_mut().awaits_write = false;
                }
                if outcome.is_none()
                    && let Poll::Ready(ready) = connection(cx)
                {
                    outcome = Some(ready);
                }
                let inner = &mut *self.0.borrow_mut();
                if let Sent::AskAgain = inner.send() {
                    continue;
                }
                if inner.is_all_sent()
                    && let Some(outcome) = outcome.take()
                {
                    return Poll::Ready(outcome);
                }
                let mut is_ready = false;
                if inner.awaits_read && outcome.is_none() && readable.as_mut().poll(cx).is_ready() {
                    readable.set(socket.readable());
                    inner.awaits_read = false;
                    is_ready = true;
                }
                if inner.awaits_write && writable.as_mut().poll(cx).is_ready() {
                    writable.set(socket.writable());
                    inner.awaits_write = false;
                    is_ready = true;
                }
                if !is_ready {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Says that nothing follows.
    pub fn finish(&self) {
        let inner = &mut *self.0.borrow_mut();
        inner.stream.finish_now(&inner.buffers);
    }
}

/// What [`Inner::send`] means for whoever drives the connection.
enum Sent {
    /// There is room again, or a failure to be seen: h2 has to be polled.
    AskAgain,
    Enough,
}

impl Inner {
    fn send(&mut self) -> Sent {
        if self.failed.is_some() || self.awaits_write {
            return Sent::Enough;
        }
        if let Err(cause) = self.try_send() {
            self.fail(cause);
            return Sent::AskAgain;
        }
        if self.writer_waits && self.outbox.len() < OUTBOX_BYTES_MAX {
            self.writer_waits = false;
            return Sent::AskAgain;
        }
        Sent::Enough
    }

    fn try_send(&mut self) -> Result<(), Broken> {
        let mut sent = 0;
        while sent < self.outbox.len() {
            match self.stream.try_send(&self.outbox[sent..], &self.buffers)? {
                0 => break,
                n => sent += n,
            }
        }
        let all = sent == self.outbox.len();
        if all {
            self.outbox.clear();
        } else {
            self.outbox.drain(..sent);
        }
        self.awaits_write = !(self.stream.try_flush()? && all);
        Ok(())
    }

    fn is_all_sent(&self) -> bool {
        self.failed.is_some() || (self.outbox.is_empty() && !self.awaits_write)
    }

    fn fail(&mut self, cause: Broken) {
        self.failed = Some(cause);
        self.outbox.clear();
        (self.awaits_read, self.awaits_write, self.writer_waits) = (false, false, false);
    }

    /// What h2 is told after a failure; the cause itself stays for [`Driver::take_failure`].
    fn failure(&self) -> Option<io::Error> {
        let kind = match self.failed.as_ref()? {
            Broken::Io(cause) => cause.kind(),
            Broken::Tls(_) => io::ErrorKind::InvalidData,
        };
        Some(kind.into())
    }

    fn receive(&mut self, into: &mut ReadBuf<'_>) -> Result<(), Broken> {
        let mut received_bytes = 0;
        let inbox = &mut self.inbox;
        let received = self.stream.receive(&self.buffers, RECEIVE_BYTES, |bytes| {
            received_bytes += bytes.len();
            let (fits, rest) = bytes.split_at(bytes.len().min(into.remaining()));
            into.put_slice(fits);
            inbox.extend_from_slice(rest);
        })?;
        self.ended |= received == Received::End;
        // The socket gave less than it could have: asking again would be in vain. A level-triggered poll will tell.
        self.awaits_read = !self.ended && received_bytes < RECEIVE_BYTES;
        Ok(())
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        if let Some(failure) = inner.failure() {
            return Poll::Ready(Err(failure));
        }
        if !inner.inbox.is_empty() {
            let rest = &inner.inbox[inner.inbox_from..];
            let n = rest.len().min(into.remaining());
            into.put_slice(&rest[..n]);
            inner.inbox_from += n;
            if inner.inbox_from == inner.inbox.len() {
                (inner.inbox, inner.inbox_from) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        if inner.ended {
            return Poll::Ready(Ok(()));
        }
        // The driver is this very task and polls again when there is something to read.
        if inner.awaits_read {
            return Poll::Pending;
        }
        let before = into.filled().len();
        if let Err(cause) = inner.receive(into) {
            inner.fail(cause);
        }
        match inner.failure() {
            Some(failure) => Poll::Ready(Err(failure)),
            None if into.filled().len() == before && !inner.ended => Poll::Pending,
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        if let Some(failure) = inner.failure() {
            return Poll::Ready(Err(failure));
        }
        if inner.outbox.len() >= OUTBOX_BYTES_MAX {
            inner.writer_waits = true;
            return Poll::Pending;
        }
        inner.outbox.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    /// What was written goes out at the end of the driver's turn.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
