//! The trait through which the request path sees whatever carries a message.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use super::agreed::Agreed;
use crate::base::reason::ReasonCode;

/// A byte stream that tells when it is ready and moves bytes without waiting.
///
/// The seam for simulation: the request path is generic over it. `WouldBlock` is the answer of the `try_` calls when
/// nothing can be moved; then `readable` or `writable` is awaited. A wait may be dropped at any time.
#[allow(async_fn_in_trait)] // Workers are single threads; nothing here needs Send.
pub trait Transport: 'static {
    /// Reads what is there: 0 is the end of the stream.
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize>;
    /// Writes what fits.
    fn try_write(&self, from: &[u8]) -> io::Result<usize>;
    /// Writes what fits, of several pieces in one call.
    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Waits until `try_read` has something to say: bytes, the end, or an error.
    async fn readable(&self) -> io::Result<()>;
    /// Waits until `try_write` can go on.
    async fn writable(&self) -> io::Result<()>;
    /// Bytes that a `try_` call took are not out yet: whoever has no more to write waits for `writable`.
    fn has_unsent(&self) -> bool {
        false
    }
    /// Looks at the stream without taking anything from it.
    fn peek(&self) -> Peek;
    /// As [`peek`](Self::peek), for a stream over which nothing is due: parts of a message that can't be read yet are
    /// bytes, too.
    fn peek_idle(&self) -> Peek {
        self.peek()
    }
    /// Whether the peer is there, as far as can be told without taking anything from the stream.
    fn presence(&self) -> Presence {
        if self.peek() == Peek::Closed { Presence::Gone } else { Presence::Here }
    }
    /// No more bytes from us; the peer reads the end of the stream.
    fn shutdown_write(&self);
    /// The next close sends a reset instead of an orderly end, so that the peer can tell a cut body from a whole one.
    fn abort_on_close(&self);
    /// What a TLS handshake settled; `None` in the clear.
    fn tls(&self) -> Option<&Agreed> {
        None
    }
    /// Our end's address, if the stream has one.
    fn local_address(&self) -> Option<SocketAddr> {
        None
    }
    /// The descriptor, if the kernel can move bytes from and to it by itself.
    fn splice_fd(&self) -> Option<BorrowedFd<'_>>;
    /// The peer has said that it did not act on anything that was written, or nothing ever reached it.
    fn was_unprocessed(&self) -> bool {
        false
    }
    /// The peer has given up this exchange alone, on a connection that goes on: no sign of a connection that was dead
    /// before anything was written to it.
    fn was_given_up(&self) -> bool {
        false
    }
    /// The connection that carries this exchange takes no further one. Of use where many share it.
    fn retire_connection(&self) {}
    /// An answer did not come in time: the connection that carries this exchange has to show that it lives before it takes
    /// another one. Of use where many share it.
    fn suspect_connection(&self, _now_ms: u64) {}
    /// Why what was written can't be said on this stream, nor on another to the same peer. Nothing of it was.
    fn unsayable(&self) -> Option<Unsayable> {
        None
    }
}

/// Why a message can't be said on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsayable {
    /// For the log and for whoever is told.
    pub reason: ReasonCode,
    /// What a client is answered: 502 if the peer could have made it sayable.
    pub status: u16,
}

/// What a look at an idle stream shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek {
    /// Nothing has come.
    Quiet,
    /// Bytes are waiting.
    Bytes,
    /// The peer has closed, or the stream is broken.
    Closed,
}

/// Whether a peer is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Nothing speaks against it.
    Here,
    /// It sends no more. It may still read, or have gone: a write would tell.
    HalfClosed,
    /// It has reset the stream, or has closed both halves where that can be told.
    Gone,
}
