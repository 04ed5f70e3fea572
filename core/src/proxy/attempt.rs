//! Attempts: get a connection to an endpoint, send the request, await the response's head; again where that is safe.
//!
//! What is tried again `policy::retry` decides, by the route's settings; `again` asks it. Without any, that is what
//! provably reached no application: no connection could be had, the endpoint refused the stream, or a reused connection
//! turned out to be closed before a byte of the response came (RFC 9112 section 9.3.1).

use std::cell::Cell;
use std::io::IoSlice;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::again::{self, Again};
use super::connection::{After, Downstream};
use super::core::Core;
use super::exchange;
use super::hedge;
use super::in_hand::{InHand, parking};
use super::mirror;
use super::plan::Plan;
use super::pump::{PumpError, Pumping, Watch};
use super::record::Record;
use super::replay::Replay;
use super::request::Exchange;
use super::shape::encode_for;
use super::upstream::{Discarded, Endpoint, Found, Lease, Need, Pass, Private, Unavailable, Want};
use super::watch::{GONE, waiting};
use crate::base::buffer::Buffer;
use crate::base::deadline::{Deadline, Expired};
use crate::base::fault::{Fault, Retry};
use crate::base::reason::ReasonCode;
use crate::config::snapshot::RouteTimeouts;
use crate::http::flow::{Batch, Flow, PIECES_MAX};
use crate::net::descriptors::Shortage;
use crate::net::listener::Peer;
use crate::net::platform::{ConnectError, Connected, Dial, Platform};
use crate::net::proxied::OnBehalf;
use crate::net::stream::Transport;
use crate::policy::outlier::Outcome;
use crate::telemetry::metrics::Counter;

/// Why an attempt gave no response to relay.
#[derive(Debug)]
pub(super) enum Failed<S> {
    /// It failed.
    Fault(Fault),
    /// It was answered with what is tried again.
    Again(Again<S>),
}

impl<S> From<Fault> for Failed<S> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Tries until a response is relayed or a fault is final.
pub(super) async fn forward<P: Platform>(
    exchange: Exchange<'_, P>,
    buffer: &mut Buffer,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<After, Fault> {
    let Exchange { conn, plan, .. } = exchange;
    let core = &conn.core;
    let per_try = exchange.route().retry.per_try_timeout_ms;
    let per_try = per_try.map_or(Duration::ZERO, |ms| Duration::from_millis(ms.get()));
    if let Some(copies) = exchange.copies {
        mirror::send_whole(core, copies, &buffer.filled()[plan.head_bytes..]);
    }
    let gather = exchange.copies.and_then(|copies| copies.gather(&core.kept));
    let replay = Replay::new(exchange.replay_bytes_max(), gather);
    let mut avoid: Vec<Rc<Endpoint<P::Stream>>> = Vec::new();
    let mut encoded_for = None;
    // All of the head but what differs from attempt to attempt.
    let mut length = out.len().saturating_sub(END_OF_HEAD.len());
    exchange.upstream().budget().deposit(core.now_ms());
    let mut retrying = None;
    loop {
        record.attempts += 1;
        record.sent_ns = 0;
        // Whoever waits for an endpoint that is free waits for no attempt yet.
        conn.deadline.cap_attempt(0, Duration::ZERO);
        let pass = exchange.admit(record)?;
        let endpoint = waiting(conn, buffer, pin!(choose(exchange, &avoid))).await?;
        conn.deadline.cap_attempt(core.now_ms(), per_try);
        if plan.names_endpoint && !encoded_for.as_ref().is_some_and(|e: &Rc<_>| Rc::ptr_eq(e, &endpoint)) {
            replay.with_head(|head| {
                let bytes = head.unwrap_or_else(|| buffer.filled());
                encode_for(&exchange.request(bytes), &endpoint, out)
            })?;
            length = out.len() - END_OF_HEAD.len();
            encoded_for = Some(Rc::clone(&endpoint));
        }
        plan.hop.stamp(out, length, record.sent_before, core.now_ms());
        if record.draft.is_some() {
            record.endpoint = Some(endpoint.address.clone());
        }
        let opened = waiting(conn, buffer, pin!(open(exchange, pass, &endpoint))).await;
        let failed = match opened {
            Ok(lease) => match once(exchange, lease, buffer, &replay, record, out).await {
                Ok(after) => return Ok(after),
                Err(failed) => failed,
            },
            Err(fault) => Failed::Fault(fault),
        };
        // Each place among the retries under way is given back when its attempt is over.
        drop(retrying.take());
        let again = match failed {
            Failed::Again(again) => again,
            Failed::Fault(fault) => {
                if fault.reason == STALE {
                    core.metrics.count(Counter::UpstreamStale);
                }
                exchange.after_fault(fault, record, &replay).ok_or(fault)?
            }
        };
        core.metrics.count(Counter::Retries);
        if again.elsewhere {
            avoid.push(endpoint);
        }
        parking(buffer, pin!(exchange.pause(again.after_ms))).await?;
        retrying = again.place;
    }
}

/// The empty line that ends a head.
const END_OF_HEAD: &[u8] = b"\r\n";

/// A reused connection was closed by its origin just as it was used.
pub(super) const STALE: ReasonCode = ReasonCode::UpstreamStale;

/// The next endpoint, waiting for one if all are at their cap.
pub(super) async fn choose<P: Platform>(
    exchange: Exchange<'_, P>,
    avoid: &[Rc<Endpoint<P::Stream>>],
) -> Result<Rc<Endpoint<P::Stream>>, Fault> {
    let Exchange { conn, plan, .. } = exchange;
    let want =
        Want { group: plan.group, key: plan.key, sticky: plan.sticky, private: Some(&conn.private), avoid };
    let mut armed = false;
    loop {
        let now_ms = conn.core.now_ms();
        match exchange.upstream().choose(&want, now_ms, || conn.core.platform.random()) {
            Ok(endpoint) => return Ok(endpoint),
            Err(Unavailable::Busy) => {}
            Err(unavailable) => return Err(unavailable.fault()),
        }
        if !std::mem::replace(&mut armed, true) {
            conn.deadline.arm(conn.core.tick_ns() / 1_000_000, exchange.connect_timeout());
        }
        match conn.deadline.bound(exchange.upstream().wait()).await {
            Ok(true) => {
                conn.core.tick_ns();
            }
            Ok(false) => return Err(Fault::policy(ReasonCode::UpstreamPendingFull, 503)),
            Err(_) => return Err(elapsed(conn, &conn.deadline, ReasonCode::UpstreamBusy, 503)),
        }
    }
}

/// The fault of an expired wait: of its own phase, of the cap on the whole request, or of our own end, at which every
/// wait is over.
pub(super) fn elapsed<P: Platform>(
    conn: &Downstream<P>,
    deadline: &Deadline,
    reason: ReasonCode,
    status: u16,
) -> Fault {
    if conn.core.stopping.is_raised() {
        return Fault::ourselves(ReasonCode::Stopping, 503);
    }
    match deadline.expired() {
        Expired::Phase => Fault::upstream(reason, status, Retry::Never),
        Expired::Attempt => Fault::upstream(ReasonCode::AttemptTimeout, 504, Retry::Never),
        Expired::Request => Fault::policy(ReasonCode::RequestTimeout, 504),
    }
}

/// A connection to the endpoint: an idle one, one borrowed from another worker, or new.
pub(super) async fn open<P: Platform>(
    exchange: Exchange<'_, P>,
    pass: Pass<P::Stream>,
    endpoint: &Rc<Endpoint<P::Stream>>,
) -> Result<Lease<P::Stream>, Fault> {
    let Exchange { conn, plan, .. } = exchange;
    let core = &conn.core;
    let now = core.now_ms();
    let need = if plan.connect { Need::New } else { Need::Any };
    let (mut lease, found) = reuse(core, pass, endpoint, need, Some(&conn.private));
    if found {
        bind_if_due(plan, &lease);
        return Ok(lease);
    }
    core.metrics.count(Counter::UpstreamConnects);
    conn.deadline.arm(now, exchange.connect_timeout());
    let client = on_behalf(conn, &lease.dial);
    let dialled = core.platform.connect(&endpoint.address, &lease.dial, &client);
    let outcome = conn.deadline.bound(dialled).await;
    core.tick_ns();
    match outcome {
        Ok(Ok(connected)) => {
            if matches!(connected, Connected::Session(_)) {
                core.metrics.count(Counter::UpstreamHttp2Connects);
            }
            if lease.connected(connected, core.now_ms()) {
                bind_if_due(plan, &lease);
                return Ok(lease);
            }
            exchange.failed(&lease, Outcome::ConnectFailure);
            Err(Fault::upstream(ReasonCode::UpstreamNoStreams, 502, Retry::Safe))
        }
        Ok(Err(error)) => {
            if let Some(shortage) = error.shortage() {
                // Nothing is learned of the endpoint, and another would be reached as little.
                core.short_of(shortage, "a connection to an upstream");
                if shortage == Shortage::Descriptors {
                    // Clients between two requests make room for the next request's.
                    core.deadlines.expire_idle();
                }
                return Err(Fault::ourselves(shortage.reason(), 503));
            }
            core.metrics.count(Counter::UpstreamConnectErrors);
            exchange.failed(&lease, Outcome::ConnectFailure);
            Err(match error {
                ConnectError::Io(_) => Fault::upstream(ReasonCode::UpstreamConnectFailed, 502, Retry::Safe),
                ConnectError::Tls(error) => {
                    core.tls_failed(&exchange.upstream().name, &endpoint.address, &error);
                    Fault::upstream(ReasonCode::UpstreamTlsFailed, 502, Retry::Safe)
                }
                ConnectError::NoHttp2 => Fault::upstream(ReasonCode::UpstreamNoHttp2, 502, Retry::Safe),
            })
        }
        Err(_) => {
            core.metrics.count(Counter::UpstreamConnectErrors);
            // Another endpoint may do, unless it is the request's own time that is over.
            let own = conn.deadline.expired() == Expired::Request;
            let retry = if own { Retry::Never } else { Retry::Safe };
            let outcome = Outcome::ConnectFailure;
            Err(Fault {
                retry,
                ..exchange.timed_out(&lease, &conn.deadline, outcome, ReasonCode::UpstreamConnectTimeout)
            })
        }
    }
}

/// A request with credentials for the connection makes that the client's own.
fn bind_if_due<S: Transport>(plan: &Plan, lease: &Lease<S>) {
    if plan.authenticates_connection {
        lease.bind_to_client();
    }
}

/// A lease, and whether it has a connection already: one of this worker's, or one that another lends.
pub(super) fn reuse<P: Platform>(
    core: &Core<P>,
    pass: Pass<P::Stream>,
    endpoint: &Rc<Endpoint<P::Stream>>,
    need: Need,
    private: Option<&Private<P::Stream>>,
) -> (Lease<P::Stream>, bool) {
    let mut discarded = Discarded::default();
    let (mut lease, found) = Lease::take(pass, endpoint, need, private, core.now_ms(), &mut discarded);
    let stream = match found {
        Found::Idle(stream) => Some(stream),
        Found::Lent(socket) => {
            let stream = core.platform.attach(socket).ok().filter(|stream| discarded.look(stream));
            if stream.is_some() {
                core.metrics.count(Counter::Borrowed);
            }
            stream
        }
        Found::Nothing => None,
    };
    core.discarded(discarded);
    let found = stream.is_some();
    if let Some(stream) = stream {
        core.metrics.count(Counter::UpstreamReused);
        lease.hold(stream, true);
    }
    (lease, found)
}

/// For the PROXY header, where the endpoint reads one.
pub(super) fn on_behalf<P: Platform>(conn: &Downstream<P>, dial: &Dial) -> OnBehalf {
    match conn.peer {
        Peer::Tcp(source) if dial.proxy.is_some() => {
            OnBehalf { source: Some(source), destination: conn.stream.local_address() }
        }
        _ => OnBehalf::default(),
    }
}

/// One try on one connection.
async fn once<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: Lease<P::Stream>,
    buffer: &mut Buffer,
    replay: &Replay,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<After, Failed<P::Stream>> {
    let Exchange { conn, plan, .. } = exchange;
    let timeouts = &exchange.route().timeouts;
    let spliced = Cell::new(0);
    let pumping = pumping(conn, timeouts, exchange.route().body_bytes_max, &spliced);
    let mut flow = match plan.web {
        None => Flow::new(plan.body, plan.body),
        Some(call) => Flow::from_grpc_web(plan.body, call.request),
    };
    if !record.intact {
        Box::pin(again::resend(exchange, &lease, &pumping, &mut flow, replay, out)).await?;
        let outcome =
            Box::pin(exchange::duplex(exchange, lease, &pumping, buffer, flow, replay, record, out)).await;
        conn.core.metrics.add(Counter::SplicedBytes, spliced.get());
        return outcome;
    }
    // What of the body came with the head goes out with it, in one write.
    let consumed = {
        let mut batch = Batch::default();
        let body = &buffer.filled()[plan.head_bytes..];
        if !flow.is_ended() {
            flow.step(body, &mut batch).map_err(|error| Fault::downstream(error.reason(), 400))?;
            if flow.content_bytes() > pumping.content_max {
                return Err(Fault::policy(ReasonCode::BodyTooLarge, 413).into());
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
            return Err(not_sent(exchange, &lease, error, sent).into());
        }
        batch.consumed
    };
    let outcome = if flow.is_ended() {
        // The whole request is out, and still in the buffer for another attempt.
        exchange.sent(&lease);
        if exchange.is_trial() {
            record.sent_ns = lease.sent_ns().unwrap_or(0);
        }
        let lease = match &exchange.route().hedge {
            Some(settings) if plan.web.is_none() && plan.offered.is_none() && !lease.is_private() => {
                buffer.park_if_scarce();
                let request = buffer.filled();
                Box::pin(hedge::first(exchange, lease, settings, &pumping, request, record)).await?
            }
            _ => lease,
        };
        let mut request = InHand::new(buffer, plan.head_bytes + consumed);
        let outcome = exchange::respond(exchange, lease, &pumping, &mut request, replay, record, out).await;
        if outcome.is_ok() || record.response_started {
            record.request_bytes = flow.content_bytes();
        }
        match outcome {
            Ok(exchange::Ended::Response(after)) => Ok(after),
            Ok(exchange::Ended::Switched(lease, upstream_bytes)) => {
                lease.became_tunnel();
                Box::pin(super::tunnel::run(conn, timeouts, lease, buffer, upstream_bytes, record))
                    .await
                    .map_err(Failed::Fault)
            }
            Err(failed) => Err(failed),
        }
    } else {
        let (head, rest) = buffer.filled().split_at(plan.head_bytes);
        replay.begin(&conn.core.kept, head, &rest[..consumed]);
        buffer.consume(plan.head_bytes + consumed);
        record.intact = false;
        Box::pin(exchange::duplex(exchange, lease, &pumping, buffer, flow, replay, record, out)).await
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
        moved_ms: None,
        idle: timeouts.body_idle.unwrap_or_default(),
        content_max,
        spliced,
        watch: Watch::WhileWriting(conn),
    }
}

/// The head could not be sent.
pub(super) fn not_sent<P: Platform>(
    exchange: Exchange<'_, P>,
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
        PumpError::ClientGone => GONE,
        PumpError::Elapsed(_) => exchange.timed_out(
            lease,
            &exchange.conn.deadline,
            Outcome::Timeout,
            ReasonCode::UpstreamWriteTimeout,
        ),
        _ if lease.stream().was_refused() => refused(),
        _ if lease.reused => {
            Fault::upstream(STALE, 502, if sent == 0 { Retry::Safe } else { Retry::IfIdempotent })
        }
        PumpError::Broken(_) | PumpError::Malformed(_) | PumpError::TooLarge | PumpError::NoBuffer => {
            exchange.failed(lease, Outcome::Reset);
            Fault::upstream(
                ReasonCode::UpstreamReset,
                502,
                if sent == 0 { Retry::Safe } else { Retry::Never },
            )
        }
    }
}

/// The origin has said that it did not act on the request, so another connection may (RFC 9113 section 8.7).
fn refused() -> Fault {
    Fault::upstream(ReasonCode::UpstreamRefused, 503, Retry::Safe)
}

/// The connection ended before a byte of the response came.
pub(super) fn closed_before_response<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: &Lease<P::Stream>,
) -> Fault {
    if lease.stream().was_refused() {
        return refused();
    }
    if lease.stream().was_reset() {
        exchange.failed(lease, Outcome::Reset);
        return Fault::upstream(ReasonCode::UpstreamReset, 502, Retry::Never);
    }
    if lease.reused {
        return Fault::upstream(STALE, 502, Retry::IfIdempotent);
    }
    exchange.failed(lease, Outcome::Reset);
    // What ended a connection that many share need not have been this request.
    let retry = if lease.is_shared() { Retry::IfIdempotent } else { Retry::Never };
    Fault::upstream(ReasonCode::UpstreamClosed, 502, retry)
}
