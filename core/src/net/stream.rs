//! One connected stream socket, and the trait through which the request path sees it.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::descriptors::Held;
use super::h2::client::ClientStream;
use super::h2::server::ServerStream;
use super::tls::{Agreed, TlsStream};
use crate::http::http2::Malformed;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

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
    /// The peer has said that it did not act on anything that was written (RFC 9113 section 8.7), or nothing ever
    /// reached it.
    fn was_refused(&self) -> bool {
        false
    }
    /// The peer has given up this exchange alone, on a connection that goes on: no sign of a connection that was dead
    /// before anything was written to it.
    fn was_reset(&self) -> bool {
        false
    }
    /// The connection that carries this exchange takes no further one. Of use where many share it.
    fn retire_connection(&self) {}
    /// An answer did not come in time: the connection that carries this exchange has to show that it lives before it takes
    /// another one. Of use where many share it.
    fn suspect_connection(&self, _now_ms: u64) {}
    /// Why what was written can't be said on this stream, nor on another to the same peer. Nothing of it was.
    fn unfit(&self) -> Option<Malformed> {
        None
    }
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

/// A descriptor that the runtime watches. Its reads and writes are direct calls.
///
/// monoio's `UnixStream` is used for every kind of descriptor: it is its smallest wrapper, and only readiness is asked
/// of it, which does not depend on the kind.
pub(super) struct Watched(monoio::net::UnixStream);

impl Watched {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self(monoio::net::UnixStream::from_std(fd.into())?))
    }

    // Not `async`: each layer of that would cost a state of its own at each poll.
    pub(super) fn readable(&self) -> impl Future<Output = io::Result<()>> {
        self.0.readable(false)
    }

    pub(super) fn writable(&self) -> impl Future<Output = io::Result<()>> {
        self.0.writable(false)
    }
}

#[allow(unsafe_code)]
impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // WHY: monoio's streams only give out raw descriptors; holding a duplicate beside each stream would double the
        // descriptors of the process (10,000 idle connections would need 20,000).
        // SAFETY: the descriptor is open as long as `self.0` lives, which owns it and closes it in its drop, and the
        // result borrows `self`.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}

/// A connected TCP or Unix socket.
pub struct Socket(Watched, Held);

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Socket").field(&self.0.as_fd()).finish()
    }
}

impl Socket {
    /// Takes over a connected socket, which must have `O_NONBLOCK` set. Fails outside a worker's runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(Watched::new(socket)?, Held::new()))
    }

    /// Reads what is there without taking it; 0 is the end of the stream.
    pub(super) fn peek_bytes(&self, into: &mut [u8]) -> io::Result<usize> {
        let (_, n) = rustix::net::recv(&self.0, into, RecvFlags::DONTWAIT | RecvFlags::PEEK)?;
        Ok(n)
    }

    /// The other end's address, if it has one.
    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(rustix::net::getpeername(&self.0).ok()??).ok()
    }

    /// How a connect that was in progress ended.
    pub(super) fn connect_outcome(&self) -> io::Result<()> {
        Ok(rustix::net::sockopt::socket_error(&self.0)??)
    }

    /// The socket itself, to be handed to another worker. Nothing of this stream may be waited for any more.
    pub fn into_socket(self) -> io::Result<OwnedFd> {
        // A second descriptor for the same socket: monoio hands out raw ones only, and this happens rarely.
        self.0.as_fd().try_clone_to_owned()
    }
}

impl Transport for Socket {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let (_, n) = rustix::net::recv(&self.0, into, RecvFlags::DONTWAIT)?;
        Ok(n)
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(&self.0, from, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::net::sendmsg(&self.0, from, &mut SendAncillaryBuffer::default(), flags)?)
    }

    fn readable(&self) -> impl Future<Output = io::Result<()>> {
        self.0.readable()
    }

    fn writable(&self) -> impl Future<Output = io::Result<()>> {
        self.0.writable()
    }

    fn peek(&self) -> Peek {
        let mut byte = [0_u8; 1];
        match rustix::net::recv(&self.0, &mut byte[..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((_, 0)) => Peek::Closed,
            Ok(_) => Peek::Bytes,
            Err(rustix::io::Errno::AGAIN) => Peek::Quiet,
            Err(_) => Peek::Closed,
        }
    }

    /// By poll(2), which shows the peer's end behind bytes that nobody has read; recv(2) does not, and after an end it
    /// does not show a reset either.
    fn presence(&self) -> Presence {
        let mut polled = [PollFd::new(&self.0, PollFlags::RDHUP)];
        let _ = poll(&mut polled, Some(&Timespec::default()));
        let seen = polled[0].revents();
        if seen.intersects(PollFlags::HUP | PollFlags::ERR) {
            Presence::Gone
        } else if seen.contains(PollFlags::RDHUP) {
            Presence::HalfClosed
        } else {
            Presence::Here
        }
    }

    fn shutdown_write(&self) {
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    fn abort_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.0, Some(std::time::Duration::ZERO));
    }

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn local_address(&self) -> Option<SocketAddr> {
        SocketAddr::try_from(rustix::net::getsockname(&self.0).ok()?).ok()
    }
}

/// Whatever carries a message: the stream type of [`Linux`](super::platform::Linux).
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Socket(Socket),
    /// With TLS. Boxed: the common connection is a descriptor and no more.
    Tls(Box<TlsStream>),
    /// A client's HTTP/2 stream.
    OfClient(Box<ServerStream>),
    /// An HTTP/2 stream to an origin.
    ToOrigin(Box<ClientStream>),
}

impl Stream {
    /// The socket itself, to be handed to another worker; `None` for one whose state can't go with it.
    pub fn into_socket(self) -> Option<OwnedFd> {
        match self {
            Self::Socket(socket) => socket.into_socket().ok(),
            Self::Tls(_) | Self::OfClient(_) | Self::ToOrigin(_) => None,
        }
    }
}

impl From<Box<ServerStream>> for Stream {
    fn from(stream: Box<ServerStream>) -> Self {
        Self::OfClient(stream)
    }
}

impl From<Box<ClientStream>> for Stream {
    fn from(stream: Box<ClientStream>) -> Self {
        Self::ToOrigin(stream)
    }
}

/// Calls the same method of whichever it is.
macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Socket($inner) => $call,
            Stream::Tls($inner) => $call,
            Stream::OfClient($inner) => $call,
            Stream::ToOrigin($inner) => $call,
        }
    };
}

impl Transport for Stream {
    #[inline]
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        each!(self, s => s.try_read(into))
    }

    #[inline]
    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        each!(self, s => s.try_write(from))
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        each!(self, s => s.try_write_vectored(from))
    }

    async fn readable(&self) -> io::Result<()> {
        each!(self, s => s.readable().await)
    }

    async fn writable(&self) -> io::Result<()> {
        each!(self, s => s.writable().await)
    }

    fn peek(&self) -> Peek {
        each!(self, s => s.peek())
    }

    fn peek_idle(&self) -> Peek {
        each!(self, s => s.peek_idle())
    }

    fn presence(&self) -> Presence {
        each!(self, s => s.presence())
    }

    fn shutdown_write(&self) {
        each!(self, s => s.shutdown_write());
    }

    fn abort_on_close(&self) {
        each!(self, s => s.abort_on_close());
    }

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        each!(self, s => s.splice_fd())
    }

    fn was_refused(&self) -> bool {
        each!(self, s => s.was_refused())
    }

    fn has_unsent(&self) -> bool {
        each!(self, s => s.has_unsent())
    }

    fn local_address(&self) -> Option<SocketAddr> {
        each!(self, s => s.local_address())
    }

    fn tls(&self) -> Option<&Agreed> {
        match self {
            Self::Tls(stream) => Some(stream.agreed()),
            Self::OfClient(stream) => stream.tls(),
            Self::Socket(_) | Self::ToOrigin(_) => None,
        }
    }

    fn was_reset(&self) -> bool {
        each!(self, s => s.was_reset())
    }

    fn retire_connection(&self) {
        each!(self, s => s.retire_connection());
    }

    fn suspect_connection(&self, now_ms: u64) {
        each!(self, s => s.suspect_connection(now_ms));
    }

    fn unfit(&self) -> Option<Malformed> {
        each!(self, s => s.unfit())
    }
}
