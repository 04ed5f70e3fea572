//! Descriptors whose readiness the runtime tells.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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
