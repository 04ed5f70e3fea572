//! Idle connections on loan between workers: what one has too many of, another takes instead of connecting.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::base::limits::LENT_CONNECTIONS_MAX;

/// Idle connections on loan between workers, one shelf for each endpoint of the node.
#[derive(Debug)]
pub struct Shelf {
    /// With the time since when it has been idle, on the clock that all workers share.
    sockets: ArrayQueue<(OwnedFd, u64)>,
}

impl Shelf {
    /// An empty shelf.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { sockets: ArrayQueue::new(LENT_CONNECTIONS_MAX) })
    }

    /// Puts a socket on the shelf. False, and the socket is closed, if the shelf is full.
    pub fn lend(&self, socket: OwnedFd, since_ms: u64) -> bool {
        self.sockets.push((socket, since_ms)).is_ok()
    }

    /// Takes one that somebody put there.
    pub fn borrow(&self) -> Option<OwnedFd> {
        self.sockets.pop().map(|(socket, _)| socket)
    }

    /// Closes what nobody borrowed while it was idle for `idle_ms`.
    pub(super) fn expire(&self, now_ms: u64, idle_ms: u64) {
        for _ in 0..self.sockets.len() {
            let Some((socket, since_ms)) = self.sockets.pop() else { return };
            if now_ms.saturating_sub(since_ms) < idle_ms {
                let _ = self.sockets.push((socket, since_ms));
            }
        }
    }

    /// How many lie there.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// None does.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::Shelf;
    use crate::base::limits::LENT_CONNECTIONS_MAX;

    fn socket() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_shelf_is_bounded_and_closes_what_nobody_borrows() {
        let shelf = Shelf::new();
        for at in 0..LENT_CONNECTIONS_MAX as u64 {
            assert!(shelf.lend(socket(), at));
        }
        assert!(!shelf.lend(socket(), 0), "it is full");
        shelf.expire(100, 90);
        assert_eq!(
            shelf.len(),
            LENT_CONNECTIONS_MAX - 11,
            "those lent at 0 to 10 have been idle for 90 and more"
        );
        assert!(shelf.borrow().is_some());
        shelf.expire(1_000, 90);
        assert!(shelf.is_empty() && shelf.borrow().is_none());
    }
}
