//! A client's HTTP/2 connection: each stream becomes a task that serves one request; the connection's own task moves
//! frames, and sees to its age, its idleness and its end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::super::core::{Core, ListenerId, http2_settings};
use super::super::downstream::{Downstream, PeerText};
use super::http1::serve_stream;
use crate::base::backlog::Backlog;
use crate::base::deadline::Deadline;
use crate::base::reason::ReasonCode;
use crate::http::message::Wire;
use crate::net::h2::server::{Incoming, ServerConnection};
use crate::net::listener::Peer;
use crate::net::platform::Platform;
use crate::telemetry::metrics::Counter;

/// What the connection's task and its streams' tasks share.
struct Shared {
    /// Streams being served.
    live: Cell<u32>,
    /// When the last one ended.
    idle_since_ms: Cell<u64>,
}

/// A stream being served, however that ends.
struct Live<P: Platform> {
    core: Rc<Core<P>>,
    shared: Rc<Shared>,
}

impl<P: Platform> Drop for Live<P> {
    fn drop(&mut self) {
        self.shared.live.set(self.shared.live.get() - 1);
        self.shared.idle_since_ms.set(self.core.now_ms());
    }
}

/// How long a client that was told that its idle connection ends may take to say what it had sent meanwhile.
const FINISH_GRACE_MS: u64 = 5_000;

/// The same in a drain, which must not wait for clients that never answer: an honest one answers within a round trip.
const DRAIN_GRACE_MS: u64 = 1_000;

/// Serves a connection to its end. `early` was read from the stream already.
pub(super) async fn serve<P: Platform>(
    core: Rc<Core<P>>,
    stream: P::Stream,
    peer: Peer,
    listener: ListenerId,
    early: Vec<u8>,
) {
    let Some(limits) = Limits::of(&core, listener) else { return };
    let deadline = core.deadlines.deadline();
    let born_ms = core.tick_ns() / 1_000_000;
    // As an idle one: nothing was asked for yet.
    deadline.arm_idle(born_ms, limits.preface);
    // Boxed, so that an idle connection does not go on holding the room for it.
    let clock = core.platform.clock();
    let backlog = Backlog::new(core.platform.backlog(), peer.ip());
    let greeting = Box::pin(ServerConnection::new(stream, &early, &limits.settings, clock, backlog));
    let Ok(Some(mut connection)) = deadline.bound(greeting).await else {
        core.metrics.refused(ReasonCode::H2Preface);
        return;
    };
    core.metrics.count(Counter::Http2Connections);
    let shared = Rc::new(Shared { live: Cell::new(0), idle_since_ms: Cell::new(born_ms) });
    // A tenth to either side, so that clients that came together do not go together.
    let age_ms = limits.age.map(|age| {
        let age = age.as_millis() as u64;
        born_ms + age - age / 10 + core.platform.random() % (age / 5).max(1)
    });
    let peer_text = PeerText::new(peer.ip());
    let share = core.buffers.share(peer.ip()).connection();
    let mut served = 0_u32;
    let mut finishing = false;
    let mut told_ms = 0;
    loop {
        arm(&core, &deadline, &shared, &limits, age_ms.filter(|_| !finishing));
        match deadline.bound(connection.next(|| key(&core))).await {
            Ok(Incoming::Stream(stream)) => {
                core.metrics.count(Counter::Http2Streams);
                served = served.saturating_add(1);
                shared.live.set(shared.live.get() + 1);
                let stream = P::Stream::from(stream);
                let (of_stream, share) = (Rc::clone(&core), Rc::clone(&share));
                let conn = Downstream::new(of_stream, stream, peer, peer_text, listener, Wire::Http2, share);
                let live = Live { core: Rc::clone(&core), shared: Rc::clone(&shared) };
                core.platform.spawn(async move {
                    let _live = live;
                    serve_stream(conn).await;
                });
                if !finishing && limits.requests_max.is_some_and(|max| served >= max) {
                    finishing = true;
                    connection.finish();
                }
            }
            Ok(Incoming::Refused(reason)) => core.metrics.refused(reason),
            Ok(Incoming::Over(reason)) => {
                if let Some(reason) = reason {
                    core.metrics.refused(reason);
                }
                return;
            }
            Err(_) if core.stopping.is_raised() => return,
            Err(_) => {
                let now = core.tick_ns() / 1_000_000;
                let idle_ms = limits.idle.as_millis() as u64;
                let quiet_ms = now.saturating_sub(shared.idle_since_ms.get().max(told_ms));
                let old = age_ms.is_some_and(|age| now >= age);
                if (old || core.draining.is_raised()) && !finishing {
                    finishing = true;
                    told_ms = now;
                    connection.finish();
                } else if core.draining.is_raised() && shared.live.get() == 0 && quiet_ms >= DRAIN_GRACE_MS {
                    // It was told, and answers neither that nor anything else.
                    return;
                } else if shared.live.get() == 0 && now.saturating_sub(shared.idle_since_ms.get()) >= idle_ms
                {
                    if finishing {
                        // It was told, and neither says nor closes anything.
                        return;
                    }
                    finishing = true;
                    connection.finish();
                    // A request may be on its way; whoever answers is gone as soon as that is known.
                    let grace_ms = idle_ms.min(FINISH_GRACE_MS);
                    shared.idle_since_ms.set((now + grace_ms).saturating_sub(idle_ms));
                }
            }
        }
    }
}

/// Arms the next look at the connection: its age, or the end of its idleness as things stand.
fn arm<P: Platform>(
    core: &Core<P>,
    deadline: &Deadline,
    shared: &Shared,
    limits: &Limits,
    age_ms: Option<u64>,
) {
    let now = core.now_ms();
    let idle_from = if shared.live.get() > 0 { now } else { shared.idle_since_ms.get() };
    let idle_end = idle_from + limits.idle.as_millis() as u64;
    let next = age_ms.map_or(idle_end, |age| age.min(idle_end));
    // As an idle one, so that a drain has it looked at: a wait for the drain itself would be one more waker on a list that
    // all connections share.
    deadline.arm_idle(now, Duration::from_millis(next.saturating_sub(now).max(1)));
}

/// What bounds a client's connection.
struct Limits {
    settings: crate::net::h2::Settings,
    preface: Duration,
    idle: Duration,
    age: Option<Duration>,
    requests_max: Option<u32>,
}

impl Limits {
    /// `None` if the listener has left the configuration or does not speak HTTP/2 any more.
    fn of<P: Platform>(core: &Core<P>, listener: ListenerId) -> Option<Self> {
        let bound = core.bound();
        let listener = &bound.snapshot.listeners[bound.listener(listener)?.index];
        Some(Self {
            settings: http2_settings(&bound.snapshot, listener.http2?),
            preface: listener.timeouts.request_head,
            idle: listener.timeouts.keep_alive_idle,
            age: listener.connection_age_max,
            requests_max: listener.requests_per_connection_max.map(Into::into),
        })
    }
}

/// For a WebSocket's handshake with an HTTP/1.1 origin (RFC 6455 section 4.1): a nonce, no secret.
fn key<P: Platform>(core: &Core<P>) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&core.platform.random().to_ne_bytes());
    key[8..].copy_from_slice(&core.platform.random().to_ne_bytes());
    key
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{Core, Downstream, ListenerId, Peer, serve, serve_stream};
    use crate::net::platform::{Linux, Platform};

    type Stream = <Linux as Platform>::Stream;

    type Serve<F> = fn(Rc<Core<Linux>>, Stream, Peer, ListenerId, Vec<u8>) -> F;

    /// Sizes without calling anything: only the types matter.
    fn size_of_connection<F>(_: Serve<F>) -> usize {
        size_of::<F>()
    }

    fn size_of_stream<F>(_: fn(Downstream<Linux>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn tasks_are_small() {
        let connection = size_of_connection(serve::<Linux>);
        assert!(connection <= 5_120, "an idle connection's task takes {connection} bytes");
        let stream = size_of_stream(serve_stream::<Linux>);
        // Watching the client, a deadline for each direction and a catch for panics are in it.
        assert!(stream <= 3_328, "a stream's task takes {stream} bytes");
    }
}
