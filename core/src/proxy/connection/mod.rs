//! A client's connection: waits for requests, serves them one after another, ends.
//!
//! Idle, a connection is a small task that holds no buffer (a test bounds its size). When bytes come it takes a buffer
//! and serves all requests in it; that part is a future of its own on the heap, freed before the next wait.

mod http1;
mod http2;

use std::pin::Pin;
use std::rc::Rc;

use self::http1::Next;
use super::core::{Core, ListenerId};
use super::downstream::{After, Downstream, PeerText};
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::http::message::Wire;
use crate::net::listener::Peer;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::net::tls::Protocol;
use crate::telemetry::metrics::Counter;

/// A connection that counts until it is dropped.
struct Counted<P: Platform> {
    core: Rc<Core<P>>,
    listener: ListenerId,
}

impl<P: Platform> Drop for Counted<P> {
    fn drop(&mut self) {
        self.core.closed(self.listener);
    }
}

/// Serves a connection to its end. `Core::opened` has been called for it; its end is counted here.
pub async fn serve<P: Platform>(core: Rc<Core<P>>, stream: P::Stream, peer: Peer, listener: ListenerId) {
    let _counted = Counted { core: Rc::clone(&core), listener };
    let share = core.buffers.share(peer.ip());
    let conn = Downstream::new(core, stream, peer, PeerText::new(peer.ip()), listener, Wire::Http1, share);
    if conn.stream.tls().is_some_and(|agreed| agreed.protocol == Protocol::H2) {
        Box::pin(http2::serve(conn.core, conn.stream, peer, listener, Vec::new())).await;
        return;
    }
    // A client that speaks first has mostly spoken by the time it is accepted: look before waiting.
    let head = conn.timeouts().0;
    conn.deadline.arm(conn.core.tick_ns() / 1_000_000, head);
    loop {
        match on_heap(|| conn.burst()).await {
            Next::Wait => {}
            Next::Http2(early) => {
                Box::pin(http2::serve(conn.core, conn.stream, peer, listener, early)).await;
                return;
            }
            Next::End(After::Linger) => {
                Box::pin(conn.linger()).await;
                return;
            }
            Next::End(_) => return,
        }
        if !conn.idle().await {
            return;
        }
    }
}

/// Makes a large future where it stays. `Box::pin` makes it on the stack and copies it, since the allocation might unwind
/// while it exists: 370 instructions for each burst.
fn on_heap<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}

/// A client that speaks plain HTTP where TLS is served is told so, in the clear, as far as it can be.
pub(super) async fn refuse_plain_http<P: Platform>(
    core: Rc<Core<P>>,
    stream: P::Stream,
    peer: Peer,
    listener: ListenerId,
) {
    let _counted = Counted { core: Rc::clone(&core), listener };
    let share = core.buffers.share(peer.ip());
    let conn = Downstream::new(core, stream, peer, PeerText::new(peer.ip()), listener, Wire::Http1, share);
    conn.core.metrics.handshake_failed(PLAIN_HTTP);
    conn.answer_headless(Fault::downstream(ReasonCode::PlainHttpOnTlsPort, 400)).await;
    conn.linger().await;
}

/// See [`refuse_plain_http`].
const PLAIN_HTTP: ReasonCode = ReasonCode::PlainHttpOnTlsPort;

/// A connection that can't be served at all: counts it and closes it.
pub fn refuse<P: Platform>(core: &Core<P>, listener: ListenerId) {
    core.metrics.count(Counter::ConnectionsRefused);
    core.closed(listener);
}
