//! What one TLS connection keeps between its turns, on the worker's account: parts of records, plaintext that nobody took,
//! ciphertext that the socket did not take. Most connections keep nothing, and have no entry there.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use crate::base::backlog::{Backlog, BacklogAccount};
use crate::net::socket::Socket;

/// One connection's.
#[derive(Debug)]
pub(super) struct Kept {
    account: Rc<BacklogAccount>,
    of: Of,
    backlog: OnceCell<Rc<Backlog>>,
}

/// Whose address the bytes are counted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// The peer's.
    Client,
    /// Nobody's: an origin was chosen by us.
    Origin,
}

impl Kept {
    pub(super) fn new(account: &Rc<BacklogAccount>, of: Of) -> Self {
        Self { account: Rc::clone(account), of, backlog: OnceCell::new() }
    }

    /// The connection keeps `bytes` now.
    pub(super) fn count(&self, bytes: usize, socket: &Socket) {
        match self.backlog.get() {
            Some(backlog) if backlog.bytes() == bytes => {}
            Some(backlog) => backlog.hold(bytes),
            None if bytes == 0 => {}
            None => {
                let peer = if self.of == Of::Client { socket.peer_address() } else { None };
                let backlog = Backlog::new(&self.account, peer.as_ref().map(SocketAddr::ip));
                self.backlog.get_or_init(|| backlog).hold(bytes);
            }
        }
    }

    /// It has to let go of that, which it can only by ending.
    pub(super) fn is_asked(&self) -> bool {
        self.backlog.get().is_some_and(|backlog| backlog.asked().is_some())
    }

    /// It has, and keeps nothing.
    pub(super) fn let_go(&self) {
        if let Some(backlog) = self.backlog.get() {
            backlog.let_go();
            backlog.hold(0);
        }
    }

    /// Waits until it is asked.
    pub(super) async fn asked(&self) {
        std::future::poll_fn(|cx| self.backlog.get().map_or(Poll::Pending, |backlog| backlog.poll_asked(cx)))
            .await;
    }
}
