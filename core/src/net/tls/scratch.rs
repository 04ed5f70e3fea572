//! The buffers that TLS works in: one set a worker, not one a connection.
//!
//! Nothing in them outlives a call: what a connection has to keep (a record that is not complete, bytes that the socket
//! did not take) it keeps by itself, and only then. So an idle TLS connection holds no buffer.

use std::cell::RefCell;

use crate::base::limits::{TLS_HELD_BYTES_MAX, TLS_SEND_BYTES};

/// A record on the wire, at most: RFC 8446 section 5.2 (2^14 + 256 bytes and the header), RFC 5246 section 6.2.3 (+ 2048).
pub(super) const RECORD_BYTES_MAX: usize = 5 + (1 << 14) + 2_048;

/// What encryption adds to `TLS_SEND_BYTES`, with room for handshake messages that go first.
const SEND_OVERHEAD_BYTES: usize = 2 * 1024;

/// One worker's buffers.
#[derive(Debug)]
pub(super) struct Scratch {
    /// What was received: what a connection had kept, and new bytes behind it.
    pub(super) inbound: Box<[u8]>,
    /// What is to be sent.
    pub(super) outbound: Outgoing,
    /// Pieces of one write, gathered into one.
    pub(super) gathered: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        inbound: vec![0; TLS_HELD_BYTES_MAX + RECORD_BYTES_MAX].into_boxed_slice(),
        outbound: Outgoing::with_room(TLS_SEND_BYTES + SEND_OVERHEAD_BYTES),
        gathered: Vec::new(),
    });
}

/// Lends the worker's buffers for one call, which must not lend them again.
pub(super) fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.outbound.clear();
        work(scratch)
    })
}

/// Ciphertext to be sent. Its memory is zeroed once, not for each use.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    filled: usize,
}

impl Outgoing {
    fn with_room(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes], filled: 0 }
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// What is free.
    pub(super) fn spare(&mut self) -> &mut [u8] {
        &mut self.bytes[self.filled..]
    }

    /// Makes sure that so much is free.
    pub(super) fn reserve(&mut self, bytes: usize) {
        let wanted = self.filled + bytes;
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
    }

    /// So many bytes of [`spare`](Self::spare) have been written.
    pub(super) fn fill(&mut self, bytes: usize) {
        self.filled += bytes;
    }
}
