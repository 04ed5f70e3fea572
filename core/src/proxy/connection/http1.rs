//! One connection of HTTP/1, or one stream of HTTP/2, which is taken for one that carries a single request: reads heads, and
//! has each request served.

use std::io::ErrorKind;
use std::time::Duration;

use super::super::body::would_block;
use super::super::downstream::{After, Downstream};
use super::super::finish;
use super::super::record::Record;
use super::super::request::{self, Progress};
use super::super::respond::{self, Requester};
use crate::base::buffer::{Buffer, Purpose};
use crate::base::fault::Fault;
use crate::base::limits::{LINGER_BYTES_MAX, LINGER_IDLE_MS, LINGER_TOTAL_MS, TURN_BYTES, TURN_REQUESTS};
use crate::base::reason::ReasonCode;
use crate::http::http1::encode::Persistence;
use crate::http::http1::parse::head_end_hint;
use crate::net::platform::Platform;
use crate::net::stream::{Peek, Transport};

/// What comes after the requests that were at hand.
pub(super) enum Next {
    Wait,
    End(After),
    /// The client speaks HTTP/2: what it has said so far.
    Http2(Vec<u8>),
}

/// How HTTP/2 begins on a plain connection, as far as it reads as a head of HTTP/1 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Serves the one request of an HTTP/2 stream.
pub(super) async fn serve_stream<P: Platform>(conn: Downstream<P>) {
    conn.deadline.arm(conn.core.tick_ns() / 1_000_000, conn.timeouts().0);
    // Nothing follows the request, and there is nothing to linger for: a reset of a stream destroys nothing.
    conn.burst().await;
}

impl<P: Platform> Downstream<P> {
    /// Waits for the first byte of a request without holding anything. False: the connection is over.
    pub(super) async fn idle(&self) -> bool {
        // Before the first request the deadline of its head is running already.
        if self.requests() == 0 {
            self.deadline.mark_idle();
        } else {
            self.deadline.arm_idle(self.core.now_ms(), self.timeouts().1);
        }
        // Without a guard, which would cost each idle connection a word: nothing but the worker's end drops this wait.
        self.core.idle(i64::from(self.requests() > 0));
        let waited = self.deadline.bound(self.stream.readable()).await;
        self.core.idle(-i64::from(self.requests() > 0));
        if let Ok(ready) = waited {
            ready.is_ok()
        } else {
            if self.requests() == 0 {
                self.core.metrics.refused(ReasonCode::RequestHeadTimeout);
            }
            // A request may have come in the moment that we stopped waiting.
            self.stream.peek() == Peek::Bytes
        }
    }

    /// Reads and serves until no byte is left over.
    pub(super) async fn burst(&self) -> Next {
        let mut buffer = Buffer::nothing(&self.share, Purpose::Request);
        // How much of the buffer has been searched for the end of a head.
        let mut searched = 0;
        let mut armed = self.requests() == 0;
        loop {
            if !buffer.try_ready() && self.deadline.bound(buffer.ready()).await.is_err() {
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
                // What a read begins is mostly a whole head, which parsing finds out for less than a search for its end. Not the
                // first: it may be the start of HTTP/2's preface, which reads as a head that is refused.
                // A head that is too long is refused at once, not when its time is over.
                let ended = (from == 0 && self.requests() > 0)
                    || head_end_hint(buffer.filled(), from).is_some()
                    || buffer.is_full()
                    || searched > self.core.bound().head_limits.header_bytes;
                if !ended {
                    break;
                }
                if self.requests() == 0 && buffer.filled().starts_with(HTTP2_PREFACE) && self.speaks_http2() {
                    return Next::Http2(buffer.filled().to_vec());
                }
                #[cfg(feature = "test-panics")]
                self.core.test_panics.look(buffer.filled());
                match request::serve(self, &mut buffer).await {
                    Progress::NeedMore => break,
                    Progress::Done(After::KeepAlive) => {
                        searched = 0;
                        armed = false;
                        if self.requests().is_multiple_of(TURN_REQUESTS) {
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
    pub(super) async fn answer_headless(&self, fault: Fault) -> After {
        let now = self.core.tick_ns();
        let mut record = Record::new(self.core.platform.random(), now);
        let mut out = self.core.take_head();
        let (date, bound) = (self.core.date(now), self.core.bound());
        let common = self.common(&bound, &date);
        respond::problem(fault, &record, Requester::UNKNOWN, Persistence::Close, &common, &mut out);
        let _ = self.write(&out).await;
        self.core.give_head(out);
        record.status = fault.status;
        record.reason = Some(fault.reason);
        let _active = self.started();
        finish::log_headless(self, &mut record);
        finish::finish(self, &self.core.bound(), &record);
        After::Linger
    }

    /// Reads away what the client is still sending, within bounds of time and bytes.
    pub(super) async fn linger(&self) {
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
