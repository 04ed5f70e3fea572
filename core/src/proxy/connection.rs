//! A client's connection: waits for requests, serves them one after another, ends.
//!
//! Idle, a connection is a small task that holds no buffer (a test bounds its size). When bytes come it takes a buffer
//! and serves all requests in it; that part is a future of its own on the heap, freed before the next wait.

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::core::{Bound, Core, ListenerId};
use super::multiplex;
use super::pump::{Pumping, Watch, would_block};
use super::record::Record;
use super::request;
use super::respond::{self, Asker, Common};
use super::upstream::Private;
use crate::base::buffer::{Buffer, Purpose, Share};
use crate::base::deadline::Deadline;
use crate::base::fault::Fault;
use crate::base::limits::{LINGER_BYTES_MAX, LINGER_IDLE_MS, LINGER_TOTAL_MS, TURN_BYTES, TURN_REQUESTS};
use crate::base::reason::ReasonCode;
use crate::http::http1::encode::Persistence;
use crate::http::http1::parse::head_end_hint;
use crate::http::message::Wire;
use crate::net::listener::Peer;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::net::tls::Protocol;
use crate::telemetry::metrics::Counter;

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

/// What an attempt to serve a request came to.
pub(super) enum Progress {
    /// The head is not complete.
    NeedMore,
    /// An exchange has ended.
    Done(After),
}

enum Next {
    Wait,
    End(After),
    /// The client speaks HTTP/2: what it has said so far.
    Http2(Vec<u8>),
}

/// How HTTP/2 begins on a plain connection, as far as it reads as a head of HTTP/1 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

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

/// Serves a connection to its end. `Core::opened` has been called for it; its end is counted here.
pub async fn serve<P: Platform>(core: Rc<Core<P>>, stream: P::Stream, peer: Peer, listener: ListenerId) {
    let _counted = Counted { core: Rc::clone(&core), listener };
    let share = core.buffers.share(peer.ip());
    let conn = Downstream::new(core, stream, peer, PeerText::new(peer.ip()), listener, Wire::Http1, share);
    if conn.stream.tls().is_some_and(|agreed| agreed.protocol == Protocol::H2) {
        Box::pin(multiplex::serve(conn.core, conn.stream, peer, listener, Vec::new())).await;
        return;
    }
    // A client that speaks first has mostly spoken by the time it is accepted: look before waiting.
    let head = conn.timeouts().0;
    conn.deadline.arm(conn.core.tick_ns() / 1_000_000, head);
    loop {
        match on_heap(|| conn.burst()).await {
            Next::Wait => {}
            Next::Http2(early) => {
                Box::pin(multiplex::serve(conn.core, conn.stream, peer, listener, early)).await;
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

/// Serves the one request of an HTTP/2 stream.
pub(super) async fn serve_stream<P: Platform>(conn: Downstream<P>) {
    conn.deadline.arm(conn.core.tick_ns() / 1_000_000, conn.timeouts().0);
    // Nothing follows the request, and there is nothing to linger for: a reset of a stream destroys nothing.
    conn.burst().await;
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

    /// Waits for the first byte of a request without holding anything. False: the connection is over.
    async fn idle(&self) -> bool {
        // Before the first request the deadline of its head is running already.
        if self.requests.get() == 0 {
            self.deadline.mark_idle();
        } else {
            self.deadline.arm_idle(self.core.now_ms(), self.timeouts().1);
        }
        // Without a guard, which would cost each idle connection a word: nothing but the worker's end drops this wait.
        self.core.idle(i64::from(self.requests.get() > 0));
        let waited = self.deadline.bound(self.stream.readable()).await;
        self.core.idle(-i64::from(self.requests.get() > 0));
        if let Ok(ready) = waited {
            ready.is_ok()
        } else {
            if self.requests.get() == 0 {
                self.core.metrics.refused(ReasonCode::RequestHeadTimeout);
            }
            // A request may have come in the moment that we stopped waiting.
            self.stream.peek() == crate::net::stream::Peek::Bytes
        }
    }

    fn timeouts(&self) -> (Duration, Duration) {
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

    /// Reads and serves until no byte is left over.
    async fn burst(&self) -> Next {
        let mut buffer = Buffer::nothing(&self.share, Purpose::Request);
        // How much of the buffer has been searched for the end of a head.
        let mut searched = 0;
        let mut armed = self.requests.get() == 0;
        loop {
            if self.deadline.bound(buffer.ready()).await.is_err() {
                self.core.metrics.refused(ReasonCode::OutOfBuffers);
                return Next::End(After::Close);
            }
            match self.stream.try_read(buffer.spare()) {
                Ok(0) => {
                    if !buffer.is_empty() {
                        self.core.metrics.refused(ReasonCode::ClientGoneInHead);
                    }
                    return Next::End(After::Close);
                }
                Ok(n) => buffer.fill(n),
                Err(error) if error.kind() == ErrorKind::WouldBlock && buffer.is_empty() => {
                    return Next::Wait;
                }
                Err(error) if would_block(&error) => {
                    // From its first byte on, a head has its own deadline, which later bytes do not move.
                    if !std::mem::replace(&mut armed, true) {
                        self.deadline.arm(self.core.tick_ns() / 1_000_000, self.timeouts().0);
                    }
                    self.deadline.mark_busy();
                    buffer.park();
                    match self.deadline.bound(self.stream.readable()).await {
                        Ok(Ok(())) => continue,
                        Ok(Err(_)) => return Next::End(After::Close),
                        Err(_) => return Next::End(self.too_slow().await),
                    }
                }
                Err(_) => return Next::End(After::Close),
            }
            loop {
                let from = searched;
                searched = buffer.filled().len();
                // A head that is too long is refused at once, not when its time is over.
                let ended = head_end_hint(buffer.filled(), from).is_some()
                    || buffer.is_full()
                    || searched > self.core.bound().head_limits.header_bytes;
                if !ended {
                    break;
                }
                if self.requests.get() == 0
                    && buffer.filled().starts_with(HTTP2_PREFACE)
                    && self.speaks_http2()
                {
                    return Next::Http2(buffer.filled().to_vec());
                }
                #[cfg(feature = "test-panics")]
                self.core.test_panics.look(buffer.filled());
                match request::serve(self, &mut buffer).await {
                    Progress::NeedMore => break,
                    Progress::Done(After::KeepAlive) => {
                        searched = 0;
                        armed = false;
                        if self.requests.get().is_multiple_of(TURN_REQUESTS) {
                            // Answers of our own to requests that are there already make it wait for nothing.
                            self.core.platform.yield_now().await;
                        }
                        if buffer.is_empty() {
                            return Next::Wait;
                        }
                    }
                    Progress::Done(after) => return Next::End(after),
                }
            }
            buffer.compact();
        }
    }

    fn speaks_http2(&self) -> bool {
        let bound = self.core.bound();
        let listener = bound.listener(self.listener);
        listener.is_some_and(|l| bound.snapshot.listeners[l.index].http2.is_some())
    }

    /// The head did not come in time.
    async fn too_slow(&self) -> After {
        self.answer_headless(Fault::downstream(ReasonCode::RequestHeadTimeout, 408)).await
    }

    /// Answers what can't be read as a request.
    async fn answer_headless(&self, fault: Fault) -> After {
        let now = self.core.tick_ns();
        let mut record = Record::new(self.core.platform.random(), now);
        let mut out = self.core.take_head();
        let (date, bound) = (self.core.date(now), self.core.bound());
        let common = self.common(&bound, &date);
        respond::problem(fault, &record, Asker::UNKNOWN, Persistence::Close, &common, &mut out);
        let _ = self.write(&out).await;
        self.core.give_head(out);
        record.status = fault.status;
        record.reason = Some(fault.reason);
        let _active = self.started();
        request::log_headless(self, &mut record);
        request::finish(self, &self.core.bound(), &record);
        After::Linger
    }

    /// Sends bytes of our own.
    pub(super) async fn write(&self, bytes: &[u8]) -> Result<(), ()> {
        let spliced = Cell::new(0);
        let pumping = Pumping {
            platform: &self.core.platform,
            pipes: &self.core.pipes,
            deadline: &self.deadline,
            moved_ms: None,
            idle: Duration::from_millis(LINGER_TOTAL_MS),
            content_max: u64::MAX,
            spliced: &spliced,
            watch: Watch::Nobody,
        };
        pumping.write_all(&self.stream, &mut [IoSlice::new(bytes)], &mut 0).await.map_err(|_| ())
    }

    /// Reads away what the client is still sending, within bounds of time and bytes.
    async fn linger(&self) {
        self.stream.shutdown_write();
        let mut buffer = Buffer::nothing(&self.share, Purpose::Response);
        let end_ms = self.core.tick_ns() / 1_000_000 + LINGER_TOTAL_MS;
        let (mut bytes, mut turn) = (0, 0);
        while bytes < LINGER_BYTES_MAX && self.core.tick_ns() / 1_000_000 < end_ms {
            self.deadline.arm(self.core.now_ms(), Duration::from_millis(LINGER_IDLE_MS));
            if self.deadline.bound(buffer.ready()).await.is_err() {
                return;
            }
            match self.stream.try_read(buffer.spare()) {
                Ok(0) => return,
                Ok(n) => {
                    bytes += n;
                    turn += n;
                    if turn >= TURN_BYTES {
                        turn = 0;
                        self.core.platform.yield_now().await;
                    }
                }
                Err(error) if would_block(&error) => {
                    buffer.park();
                    if !matches!(self.deadline.bound(self.stream.readable()).await, Ok(Ok(()))) {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
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
