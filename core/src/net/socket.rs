//! One connected stream socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use super::descriptors::Held;
use super::transport::{Peek, Presence, Transport};
use super::watched::Watched;

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
