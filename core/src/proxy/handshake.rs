//! A client's connection before its first request: the PROXY header and the TLS handshake of listeners that have them.
//!
//! Bounded by `timeouts.tls_handshake`, and handshakes are counted, so that whoever opens them and does not go on keeps
//! nobody else out for longer than that.

use std::rc::Rc;

use super::connection;
use super::core::{Core, ListenerId};
use crate::base::reason::ReasonCode;
use crate::net::listener::Peer;
use crate::net::platform::{AcceptError, Platform};
use crate::net::stream::Transport as _;
use crate::net::tls::server::TlsServer;
use std::sync::Arc;

/// What a connection begins with.
#[derive(Debug)]
pub struct Opening {
    /// A PROXY header.
    pub proxied: bool,
    /// TLS.
    pub tls: Option<Arc<TlsServer>>,
}

impl Opening {
    /// What a listener's connections begin with; `None`: with a request.
    pub fn of<P: Platform>(core: &Core<P>, listener: ListenerId) -> Option<Self> {
        let bound = core.bound();
        let listener = bound.listener(listener)?;
        let proxied = bound.snapshot.listeners[listener.index].proxy_protocol;
        (proxied || listener.tls.is_some()).then(|| Self { proxied, tls: listener.tls.clone() })
    }
}

/// Gives the connection back to the counts if it comes to nothing.
struct Counted<P: Platform> {
    core: Rc<Core<P>>,
    listener: ListenerId,
    served: bool,
}

impl<P: Platform> Drop for Counted<P> {
    fn drop(&mut self) {
        self.core.handshake_ended();
        if !self.served {
            self.core.closed(self.listener);
        }
    }
}

/// Leads a connection through its handshake, then serves it. `Core::arrived` has been called for it.
pub async fn serve<P: Platform>(
    core: Rc<Core<P>>,
    stream: P::Stream,
    peer: Peer,
    listener: ListenerId,
    opening: Opening,
) {
    // On the heap, and gone before the first request: an idle connection pays for none of it.
    let accepted = Box::pin(accept(&core, stream, peer, listener, opening)).await;
    match accepted {
        Some((Accepted::Served(stream), peer)) => connection::serve(core, stream, peer, listener).await,
        Some((Accepted::PlainHttp(stream), peer)) => {
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
    mut peer: Peer,
    listener: ListenerId,
    opening: Opening,
) -> Option<(Accepted<P::Stream>, Peer)> {
    let mut counted = Counted { core: Rc::clone(core), listener, served: false };
    let timeout = {
        let bound = core.bound();
        let index = bound.listener(listener)?.index;
        bound.snapshot.listeners[index].timeouts.tls_handshake
    };
    let deadline = core.deadlines.deadline();
    // As an idle one: nothing that a drain ends here was asked for yet.
    deadline.arm_idle(core.tick_ns() / 1_000_000, timeout);
    if opening.proxied {
        match deadline.bound(core.platform.accept_proxied(&stream)).await {
            Ok(Ok(source)) => peer = source.map_or(peer, Peer::Tcp),
            Ok(Err(reason)) => {
                core.metrics.refused(reason);
                return None;
            }
            Err(_) => {
                core.metrics.refused(ReasonCode::ProxyHeaderTimeout);
                return None;
            }
        }
    }
    let Some(server) = &opening.tls else {
        counted.served = true;
        return Some((Accepted::Served(stream), peer));
    };
    let accepted = match deadline.bound(core.platform.accept_tls(stream, server)).await {
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
            core.metrics.handshake_failed(ReasonCode::TlsHandshakeTimeout);
            return None;
        }
    };
    counted.served = true;
    Some((accepted, peer))
}
