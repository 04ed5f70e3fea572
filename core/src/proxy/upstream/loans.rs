//! Idle connections on loan between workers: what one has too many of, another takes instead of connecting.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::base::limits::LENT_CONNECTIONS_MAX;

/// The connections to one endpoint of the node that are on loan.
#[derive(Debug)]
pub struct Loans {
    /// With the time since when it has been idle, on the clock that all workers share.
    sockets: ArrayQueue<(OwnedFd, u64)>,
}

impl Loans {
    /// Nothing is on loan yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { sockets: ArrayQueue::new(LENT_CONNECTIONS_MAX) })
    }

    /// Lends a socket. False, and the socket is closed, if as many as may be are on loan already.
    pub fn lend(&self, socket: OwnedFd, since_ms: u64) -> bool {
        self.sockets.push((socket, since_ms)).is_ok()
    }

    /// Takes one that somebody lent, and that has not been idle for `idle_ms`.
    pub fn borrow(&self, now_ms: u64, idle_ms: u64) -> Option<OwnedFd> {
        loop {
            let (socket, since_ms) = self.sockets.pop()?;
            if now_ms.saturating_sub(since_ms) < idle_ms {
                return Some(socket);
            }
        }
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

    /// How many are on loan.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// None is.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::Loans;
    use crate::base::limits::LENT_CONNECTIONS_MAX;

    fn socket() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn loans_are_bounded_and_close_when_nobody_borrows() {
        let loans = Loans::new();
        for at in 0..LENT_CONNECTIONS_MAX as u64 {
            assert!(loans.lend(socket(), at));
        }
        assert!(!loans.lend(socket(), 0), "it is full");
        loans.expire(100, 90);
        assert_eq!(
            loans.len(),
            LENT_CONNECTIONS_MAX - 11,
            "those lent at 0 to 10 have been idle for 90 and more"
        );
        assert!(loans.borrow(0, 1).is_some());
        loans.expire(1_000, 90);
        assert!(loans.is_empty() && loans.borrow(0, 1).is_none());
    }
}
