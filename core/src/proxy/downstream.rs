//! A client's connection, or one HTTP/2 stream of it, as the request path sees it: whose it is, what bounds it, what it may
//! still carry. `connection` makes it and reads from it.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::core::{Bound, Core, ListenerId};
use super::respond::Common;
use super::upstream::Private;
use crate::base::buffer::Share;
use crate::base::deadline::Deadline;
use crate::http::message::Wire;
use crate::net::listener::Peer;
use crate::net::platform::Platform;
use crate::net::stream::Transport;

/// What becomes of the connection after an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may follow.
    KeepAlive,
    /// It is over; nothing of the client's is unread.
    Close,
    /// It is over, but the client may still be sending: read that away for a while, or a reset would destroy what we
    /// sent before the client has read it (RFC 9112 section 9.6).
    Linger,
}

/// An exchange that counts until it is dropped.
pub(super) struct Active<'c, P: Platform>(&'c Core<P>);

impl<P: Platform> Drop for Active<'_, P> {
    fn drop(&mut self) {
        self.0.active(-1);
    }
}

/// One client's connection, or one HTTP/2 stream of it, which the request path takes for a connection that carries one
/// request.
pub(super) struct Downstream<P: Platform> {
    pub(super) core: Rc<Core<P>>,
    pub(super) stream: P::Stream,
    pub(super) peer: Peer,
    pub(super) listener: ListenerId,
    pub(super) wire: Wire,
    pub(super) deadline: Deadline,
    /// Connections to endpoints that are this client's alone.
    pub(super) private: Private<P::Stream>,
    /// Whom its buffers are counted to.
    pub(super) share: Rc<Share>,
    requests: Cell<u32>,
    peer_text: PeerText,
}

/// The client's address as it is written into heads: rendered once a connection.
#[derive(Clone, Copy)]
pub(super) struct PeerText {
    bytes: [u8; 45],
    length: u8,
}

impl PeerText {
    pub(super) fn new(ip: Option<IpAddr>) -> Self {
        use std::io::Write as _;
        let mut bytes = [0; 45];
        let mut rest = &mut bytes[..];
        // RFC 7239 section 6.3 has a word for a peer without an address. 45 bytes hold any address.
        let _ = match ip {
            Some(ip) => write!(rest, "{ip}"),
            None => rest.write_all(b"unknown"),
        };
        let length = 45 - rest.len() as u8;
        Self { bytes, length }
    }
}

impl<P: Platform> Downstream<P> {
    pub(super) fn new(
        core: Rc<Core<P>>,
        stream: P::Stream,
        peer: Peer,
        peer_text: PeerText,
        listener: ListenerId,
        wire: Wire,
        share: Rc<Share>,
    ) -> Self {
        Self {
            wire,
            share,
            deadline: core.deadlines.deadline(),
            core,
            stream,
            peer,
            listener,
            private: Private::default(),
            requests: Cell::new(0),
            peer_text,
        }
    }

    /// The address as it is written into heads.
    pub(super) fn peer_text(&self) -> &[u8] {
        &self.peer_text.bytes[..usize::from(self.peer_text.length)]
    }

    /// What answers of our own have in common here.
    pub(super) fn common<'a>(&self, bound: &'a Bound<P::Stream>, date: &'a [u8]) -> Common<'a> {
        Common { date, secure: self.stream.tls().is_some(), fields: bound.fields(self.listener) }
    }

    /// An exchange begins; it is over when the result is dropped.
    pub(super) fn started(&self) -> Active<'_, P> {
        self.requests.set(self.requests.get().saturating_add(1));
        self.core.active(1);
        Active(&self.core)
    }

    /// Whether this connection may carry another request after the one that is about to begin.
    pub(super) fn may_serve_more(&self, bound: &Bound<P::Stream>) -> bool {
        if self.core.draining.is_raised() {
            return false;
        }
        // A listener that has left the configuration takes no more requests.
        let Some(listener) = bound.listener(self.listener) else { return false };
        let max = bound.snapshot.listeners[listener.index].requests_per_connection_max;
        max.is_none_or(|max| self.requests.get() + 1 < max.get())
    }

    /// Requests that it has carried, the one under way included.
    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// How long the head of a request may take, and how long the next may let wait for itself.
    pub(super) fn timeouts(&self) -> (Duration, Duration) {
        const GONE: Duration = Duration::from_secs(1);
        let bound = self.core.bound();
        let Some(listener) = bound.listener(self.listener) else { return (GONE, GONE) };
        let timeouts = bound.snapshot.listeners[listener.index].timeouts;
        (timeouts.request_head, timeouts.keep_alive_idle)
    }

    /// How long a client that has closed its half is waited for while nothing can be sent to it.
    pub(super) fn half_closed_timeout(&self) -> Duration {
        let bound = self.core.bound();
        let listener = bound.listener(self.listener);
        listener.map_or(Duration::ZERO, |l| bound.snapshot.listeners[l.index].timeouts.half_closed)
    }
}
