//! Attempts: get a connection to an endpoint, send the request, await the response's head; again where that is safe.
//!
//! Safe is: nothing of the request was sent (no connection, or the first write failed whole), or a kept connection
//! turned out to be closed before a byte of the response came and the method is idempotent (RFC 9112 section 9.3.1).
//! A body that has been read further than what came with the head can't be sent again.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::time::Duration;

use super::connection::{After, Downstream};
use super::core::Bound;
use super::exchange;
use super::pump::{End, PumpError, Pumping};
use super::record::Record;
use super::request::{Plan, encode_again};
use super::upstream::{Endpoint, Found, Lease, Need, Unavailable};
use crate::base::buffer::Buffer;
use crate::base::fault::{Fault, Retry};
use crate::base::limits::ATTEMPTS_MAX;
use crate::config::snapshot::RouteTimeouts;
use crate::http::flow::{Batch, Flow, PIECES_MAX};
use crate::net::listener::Peer;
use crate::net::platform::{ConnectError, Connected, Platform};
use crate::net::proxied::OnBehalf;
use crate::net::stream::{Peek, Transport};
use crate::telemetry::metrics::Counter;

/// Tries until a response is relayed or a fault is final.
pub(super) async fn forward<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    plan: &Plan<P::Stream>,
    buffer: &mut Buffer,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<After, Fault> {
    let mut failed: Option<Rc<Endpoint<P::Stream>>> = None;
    let mut encoded_for = plan.endpoint.clone();
    loop {
        record.attempts += 1;
        let endpoint = match (&failed, &plan.endpoint) {
            (None, Some(endpoint)) => Rc::clone(endpoint),
            _ => choose(conn, bound, plan, failed.as_ref()).await?,
        };
        if plan.names_endpoint && !encoded_for.as_ref().is_some_and(|e| Rc::ptr_eq(e, &endpoint)) {
            encode_again(conn, bound, plan, buffer.filled(), &endpoint, out)?;
            encoded_for = Some(Rc::clone(&endpoint));
        }
        if record.draft.is_some() {
            record.endpoint = Some(endpoint.address.clone());
        }
        let fault = match open(conn, bound, plan, &endpoint).await {
            Ok(lease) => match once(conn, bound, plan, lease, buffer, record, out).await {
                Ok(after) => return Ok(after),
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        let safe = match fault.retry {
            Retry::Safe => true,
            Retry::IfIdempotent => plan.asker.method.is_idempotent(),
            Retry::Never => false,
        };
        if !safe || record.response_started || !record.intact || record.attempts >= ATTEMPTS_MAX {
            return Err(fault);
        }
        conn.core.metrics.count(Counter::Retries);
        // A dead kept connection says nothing against its endpoint; a refused connect does.
        failed = (fault.reason != STALE).then_some(endpoint);
        if failed.is_none() {
            conn.core.metrics.count(Counter::UpstreamStale);
        }
    }
}

/// A kept connection was closed by its origin just as it was used.
const STALE: &str = "upstream_stale";

/// The next endpoint, waiting for one if all are at their cap.
pub(super) async fn choose<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    plan: &Plan<P::Stream>,
    failed: Option<&Rc<Endpoint<P::Stream>>>,
) -> Result<Rc<Endpoint<P::Stream>>, Fault> {
    let connect = connect_timeout(bound, plan);
    let mut armed = false;
    loop {
        match plan.upstream.choose(failed) {
            Ok(endpoint) => return Ok(endpoint),
            Err(Unavailable::NoEndpoint) => return Err(Fault::policy("no_endpoint", 503)),
            Err(Unavailable::Busy) => {}
        }
        if !std::mem::replace(&mut armed, true) {
            conn.deadline.arm(conn.core.tick_ns() / 1_000_000, connect);
        }
        match conn.deadline.bound(plan.upstream.wait()).await {
            Ok(true) => {}
            Ok(false) => return Err(Fault::policy("upstream_pending_full", 503)),
            Err(_) => return Err(elapsed(conn, "upstream_busy", 503)),
        }
    }
}

fn connect_timeout<S>(bound: &Bound<S>, plan: &Plan<S>) -> Duration {
    match &bound.snapshot.routes[plan.route].action {
        crate::config::snapshot::Action::Upstream(index) => bound.snapshot.upstreams[*index].timeouts.connect,
        _ => Duration::ZERO,
    }
}

/// The fault of an expired wait: of its own phase, of the cap on the whole request, or of our own end, at which every
/// wait is over.
pub(super) fn elapsed<P: Platform>(conn: &Downstream<P>, reason: &'static str, status: u16) -> Fault {
    if conn.core.stopping.is_raised() {
        return Fault::ourselves("stopping", 503);
    }
    if conn.deadline.cap_was_hit() {
        return Fault::policy("request_timeout", 504);
    }
    Fault::upstream(reason, status, Retry::Never)
}

/// A connection to the endpoint: kept, borrowed from another worker, or new.
pub(super) async fn open<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    plan: &Plan<P::Stream>,
    endpoint: &Rc<Endpoint<P::Stream>>,
) -> Result<Lease<P::Stream>, Fault> {
    let core = &conn.core;
    let mut stale = 0;
    let now = core.now_ms();
    let need = match plan.connect {
        true => Need::New,
        false if plan.asker.method.is_idempotent() => Need::Likely,
        false => Need::Looked,
    };
    let (mut lease, found) = Lease::take(&plan.upstream, endpoint, need, now, &mut stale);
    if stale > 0 {
        core.metrics.add(Counter::UpstreamStale, stale);
    }
    match found {
        Found::Kept(stream) => {
            core.metrics.count(Counter::UpstreamReused);
            lease.hold(stream, true);
            return Ok(lease);
        }
        Found::Lent(socket) => {
            if let Ok(stream) = core.platform.attach(socket)
                && stream.peek() == Peek::Quiet
            {
                core.metrics.count(Counter::Borrowed);
                core.metrics.count(Counter::UpstreamReused);
                lease.hold(stream, true);
                return Ok(lease);
            }
            core.metrics.count(Counter::UpstreamStale);
        }
        Found::Nothing => {}
    }
    core.metrics.count(Counter::UpstreamConnects);
    conn.deadline.arm(now, connect_timeout(bound, plan));
    let client = on_behalf(conn, endpoint);
    let outcome =
        conn.deadline.bound(core.platform.connect(&endpoint.address, &endpoint.dial, &client)).await;
    core.tick_ns();
    match outcome {
        Ok(Ok(connected)) => {
            if matches!(connected, Connected::Session(_)) {
                core.metrics.count(Counter::UpstreamHttp2Connects);
            }
            if lease.connected(connected, core.now_ms()) {
                return Ok(lease);
            }
            lease.failed();
            Err(Fault::upstream("upstream_no_streams", 502, Retry::Safe))
        }
        Ok(Err(error)) => {
            core.metrics.count(Counter::UpstreamConnectErrors);
            lease.failed();
            Err(match error {
                ConnectError::Io(_) => Fault::upstream("upstream_connect_failed", 502, Retry::Safe),
                ConnectError::Tls(error) => {
                    core.tls_failed(&plan.upstream.name, &endpoint.address, &error);
                    Fault::upstream("upstream_tls_failed", 502, Retry::Safe)
                }
                ConnectError::NoHttp2 => Fault::upstream("upstream_no_http2", 502, Retry::Safe),
            })
        }
        Err(_) => {
            core.metrics.count(Counter::UpstreamConnectErrors);
            lease.failed();
            // Another endpoint may do, unless it is the request's own time that is over.
            let retry = if conn.deadline.cap_was_hit() { Retry::Never } else { Retry::Safe };
            Err(Fault { retry, ..elapsed(conn, "upstream_connect_timeout", 504) })
        }
    }
}

/// For the PROXY header, where the endpoint reads one.
fn on_behalf<P: Platform>(conn: &Downstream<P>, endpoint: &Endpoint<P::Stream>) -> OnBehalf {
    match conn.peer {
        Peer::Tcp(source) if endpoint.dial.proxy.is_some() => {
            OnBehalf { source: Some(source), destination: conn.stream.local_address() }
        }
        _ => OnBehalf::default(),
    }
}

/// One try on one connection.
async fn once<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    plan: &Plan<P::Stream>,
    lease: Lease<P::Stream>,
    buffer: &mut Buffer,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<After, Fault> {
    let timeouts = &bound.snapshot.routes[plan.route].timeouts;
    let spliced = Cell::new(0);
    let pumping = pumping(conn, timeouts, bound.snapshot.routes[plan.route].body_bytes_max, &spliced);
    let mut flow = match plan.web {
        None => Flow::new(plan.body, plan.body),
        Some(call) => Flow::from_grpc_web(plan.body, call.request),
    };
    // What of the body came with the head goes out with it, in one write.
    let consumed = {
        let mut batch = Batch::default();
        let body = &buffer.filled()[plan.head_bytes..];
        if !flow.is_ended() {
            flow.step(body, &mut batch).map_err(|error| Fault::downstream(error.reason(), 400))?;
            if flow.content_bytes() > pumping.content_max {
                return Err(Fault::policy("body_too_large", 413));
            }
        }
        let head_bytes = out.len();
        let mut slices = [IoSlice::new(b""); PIECES_MAX + 1];
        let count = exchange::join(out, &batch, body, &mut slices);
        let mut sent = 0;
        let wrote = pumping.write_all(lease.stream(), &mut slices[..count], &mut sent).await;
        // The head alone stays, should there be another attempt.
        out.truncate(head_bytes);
        if let Err(error) = wrote {
            return Err(not_sent(conn, &lease, error, sent));
        }
        batch.consumed
    };
    let outcome = if flow.is_ended() {
        // The whole request is out, and still in the buffer for another attempt.
        let outcome = exchange::respond(conn, bound, plan, lease, &pumping, record, out).await;
        if outcome.is_ok() || record.response_started {
            buffer.consume(plan.head_bytes + consumed);
            record.request_bytes = flow.content_bytes();
        }
        match outcome {
            Ok(exchange::Ended::Response(after)) => Ok(after),
            Ok(exchange::Ended::Switched(lease, upstream_bytes)) => {
                Box::pin(super::tunnel::run(conn, timeouts, lease, buffer, upstream_bytes, record)).await
            }
            Err(fault) => Err(fault),
        }
    } else {
        buffer.consume(plan.head_bytes + consumed);
        record.intact = false;
        Box::pin(exchange::duplex(conn, bound, plan, lease, &pumping, buffer, flow, record, out)).await
    };
    conn.core.metrics.add(Counter::SplicedBytes, spliced.get());
    outcome
}

/// The pump of one exchange.
pub(super) fn pumping<'c, P: Platform>(
    conn: &'c Downstream<P>,
    timeouts: &RouteTimeouts,
    content_max: u64,
    spliced: &'c Cell<u64>,
) -> Pumping<'c, P> {
    Pumping {
        platform: &conn.core.platform,
        pipes: &conn.core.pipes,
        deadline: &conn.deadline,
        idle: timeouts.body_idle.unwrap_or_default(),
        content_max,
        spliced,
    }
}

/// The head could not be sent.
fn not_sent<P: Platform>(
    conn: &Downstream<P>,
    lease: &Lease<P::Stream>,
    error: PumpError,
    sent: usize,
) -> Fault {
    if let Some(malformed) = lease.stream().unfit() {
        return match malformed.status() {
            502 => Fault::upstream(malformed.reason(), 502, Retry::Never),
            status => Fault::downstream(malformed.reason(), status),
        };
    }
    match error {
        PumpError::Elapsed(_) => {
            lease.failed();
            elapsed(conn, "upstream_write_timeout", 504)
        }
        _ if lease.stream().was_refused() => refused(),
        _ if lease.reused => {
            Fault::upstream(STALE, 502, if sent == 0 { Retry::Safe } else { Retry::IfIdempotent })
        }
        PumpError::Broken(End::Source | End::Sink) | PumpError::Malformed(_) | PumpError::TooLarge => {
            lease.failed();
            Fault::upstream("upstream_reset", 502, if sent == 0 { Retry::Safe } else { Retry::Never })
        }
    }
}

/// The origin has said that it did not act on the request, so another connection may (RFC 9113 section 8.7).
fn refused() -> Fault {
    Fault::upstream("upstream_refused", 503, Retry::Safe)
}

/// The connection ended before a byte of the response came.
pub(super) fn closed_before_response<S: Transport>(lease: &Lease<S>) -> Fault {
    if lease.stream().was_refused() {
        return refused();
    }
    if lease.stream().was_reset() {
        lease.failed();
        return Fault::upstream("upstream_reset", 502, Retry::Never);
    }
    if lease.reused {
        return Fault::upstream(STALE, 502, Retry::IfIdempotent);
    }
    lease.failed();
    // What ended a connection that many share need not have been this request.
    let retry = if lease.is_shared() { Retry::IfIdempotent } else { Retry::Never };
    Fault::upstream("upstream_closed", 502, retry)
}
