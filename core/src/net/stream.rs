//! Whatever carries a message: a socket, TLS on one, or a stream of an HTTP/2 connection.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::agreed::Agreed;
use super::h2::client::ClientStream;
use super::h2::server::ServerStream;
pub use super::socket::Socket;
use super::tls::TlsStream;
pub use super::transport::{Peek, Presence, Transport, Unsayable};

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

    fn was_unprocessed(&self) -> bool {
        each!(self, s => s.was_unprocessed())
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

    fn was_given_up(&self) -> bool {
        each!(self, s => s.was_given_up())
    }

    fn retire_connection(&self) {
        each!(self, s => s.retire_connection());
    }

    fn suspect_connection(&self, now_ms: u64) {
        each!(self, s => s.suspect_connection(now_ms));
    }

    fn unsayable(&self) -> Option<Unsayable> {
        each!(self, s => s.unsayable())
    }
}
