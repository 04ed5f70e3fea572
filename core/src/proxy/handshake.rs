//! A client's connection before its first request: the TLS handshake of listeners that have it.
//!
//! Bounded by `timeouts.tls_handshake` and counted, so that whoever opens handshakes and does not go on keeps nobody
//! else out for longer than that.

use std::rc::Rc;

use super::connection;
use super::core::{Core, ListenerId};
use crate::net::listener::Peer;
use crate::net::platform::{AcceptError, Platform};
use crate::net::stream::Transport as _;
use crate::net::tls::server::TlsServer;
use std::sync::Arc;

/// Gives the connection back to the counts if it comes to nothing.
struct Opening<P: Platform> {
    core: Rc<Core<P>>,
    listener: ListenerId,
    served: bool,
}

impl<P: Platform> Drop for Opening<P> {
    fn drop(&mut self) {
        self.core.handshake_ended();
        if !self.served {
            self.core.closed(self.listener);
        }
    }
}

/// Leads a connection through its handshake, then serves it. `Core::opened` has been called for it.
pub async fn serve<P: Platform>(
    core: Rc<Core<P>>,
    stream: P::Stream,
    peer: Peer,
    listener: ListenerId,
    server: Arc<TlsServer>,
) {
    // On the heap, and gone before the first request: an idle connection pays for none of it.
    let accepted = Box::pin(accept(&core, stream, listener, server)).await;
    match accepted {
        Some(Accepted::Served(stream)) => connection::serve(core, stream, peer, listener).await,
        Some(Accepted::PlainHttp(stream)) => {
            Box::pin(connection::refuse_plain_http(core, stream, peer, listener)).await;
        }
        None => {}
    }
}

enum Accepted<S> {
    Served(S),
    PlainHttp(S),
}

async fn accept<P: Platform>(
    core: &Rc<Core<P>>,
    stream: P::Stream,
    listener: ListenerId,
    server: Arc<TlsServer>,
) -> Option<Accepted<P::Stream>> {
    core.handshake_began();
    let mut opening = Opening { core: Rc::clone(core), listener, served: false };
    let timeout = {
        let bound = core.bound();
        let index = bound.listener(listener)?.index;
        bound.snapshot.listeners[index].timeouts.tls_handshake
    };
    let deadline = core.deadlines.deadline();
    deadline.arm(core.tick_ns() / 1_000_000, timeout);
    let accepted = match deadline.bound(core.platform.accept_tls(stream, &server)).await {
        Ok(Ok(stream)) => {
            if let Some(agreed) = stream.tls() {
                core.metrics.handshake(agreed.version.name(), agreed.resumed);
            }
            Accepted::Served(stream)
        }
        Ok(Err(AcceptError::PlainHttp(stream))) => Accepted::PlainHttp(stream),
        Ok(Err(AcceptError::Failed(reason))) => {
            core.metrics.handshake_failed(reason);
            return None;
        }
        Err(_) => {
            core.metrics.handshake_failed("tls_handshake_timeout");
            return None;
        }
    };
    opening.served = true;
    Some(accepted)
}
