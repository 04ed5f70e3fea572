//! From a request on its way to the last byte of its response: await the head, relay the response, and, while a
//! request's body is still coming, both directions at once.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::again::Again;
use super::attempt::{Failed, closed_before_response, elapsed};
use super::connection::After;
use super::grpc_web;
use super::in_hand::InHand;
use super::limiting;
use super::mirror;
use super::pump::{End, PumpError, Pumping, Watch, would_block};
use super::record::Record;
use super::replay::Replay;
use super::request::Exchange;
use super::upstream::Lease;
use super::watch::{GONE, gone};
use crate::base::buffer::{Buffer, Purpose};
use crate::base::deadline::{Deadline, Expired};
use crate::base::fault::{Fault, Retry};
use crate::base::limits::{COPIED_BODY_BYTES_MAX, INTERIM_RESPONSES_MAX, WATCH_CLIENT_AFTER_MS};
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::http::flow::{Batch, Flow, FlowError, PIECES_MAX};
use crate::http::framing::{BodyLength, relay};
use crate::http::grpc::GrpcStatus;
use crate::http::grpc_web::Encoding;
use crate::http::http1::encode::{Persistence, ResponseRewrite, encode_response};
use crate::http::http1::parse::{Parsed, head_end_hint, parse_response};
use crate::http::message::{Status, Version, Wire};
use crate::http::upgrade::{Switch, switched};
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::policy::outlier::Outcome;
use crate::telemetry::metrics::Counter;

/// No buffer came free in time.
const NO_BUFFER: Fault = Fault::ourselves(ReasonCode::OutOfBuffers, 503);

/// How an exchange ended.
pub(super) enum Ended<S: Transport> {
    /// With a response.
    Response(After),
    /// With a 101, which the client has: what comes now is a tunnel. The buffer holds what the origin sent after it.
    Switched(Lease<S>, Buffer),
}

/// How far a request has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outgoing {
    /// Its body is still on its way.
    Sending,
    /// The whole of it is out.
    Sent,
    /// The origin reads no further.
    Cut,
}

/// What both directions of one exchange know of each other.
#[derive(Debug)]
struct Phase {
    request: Cell<Outgoing>,
    /// Nobody reads from the client any more: its request is out, or wanted no further.
    unread: Cell<bool>,
    /// The client was told to go on with its body.
    continued: Cell<bool>,
    /// See [`Pumping::moved_ms`].
    moved_ms: Cell<u64>,
}

impl Phase {
    fn new(request: Outgoing) -> Self {
        let unread = Cell::new(request != Outgoing::Sending);
        Self { request: Cell::new(request), unread, continued: Cell::new(false), moved_ms: Cell::new(0) }
    }

    /// Nothing more of the request is sent.
    fn ended(&self, how: Outgoing) {
        self.request.set(how);
        self.unread.set(true);
    }

    fn is_sent(&self) -> bool {
        self.request.get() == Outgoing::Sent
    }
}

/// A final response's head, encoded for the client.
struct Shaped {
    from: BodyLength,
    to: BodyLength,
    /// The body is gRPC's, and the client wants gRPC-Web's.
    web: Option<Encoding>,
    head_bytes: usize,
    /// The origin lets its connection live on.
    reusable: bool,
    /// The client's lives on.
    keep: bool,
    switching: bool,
}

/// A response that has been relayed.
struct Relayed {
    after: After,
    /// The upstream connection is clean and may be kept.
    reusable: bool,
    /// After a 101: what the origin sent behind it.
    switched: Option<Buffer>,
}

/// The whole request is out: awaits and relays the response.
#[allow(clippy::too_many_arguments)] // The parts of one exchange, each with its own lifetime.
pub(super) async fn respond<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: Lease<P::Stream>,
    pumping: &Pumping<'_, P>,
    request: &mut InHand<'_>,
    replay: &Replay,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<Ended<P::Stream>, Failed<P::Stream>> {
    let Exchange { conn, .. } = exchange;
    let phase = Phase::new(Outgoing::Sent);
    let relayed = match receive(exchange, &lease, &phase, pumping, request, replay, record, out).await {
        Ok(relayed) => relayed,
        Err(failed) => {
            if matches!(&failed, Failed::Again(again) if again.clean) {
                lease.give_back(conn.core.now_ms(), Some(&conn.private));
            }
            return Err(failed);
        }
    };
    if let Some(upstream_bytes) = relayed.switched {
        return Ok(Ended::Switched(lease, upstream_bytes));
    }
    if relayed.reusable {
        lease.give_back(conn.core.now_ms(), Some(&conn.private));
    }
    Ok(Ended::Response(relayed.after))
}

/// The request's body is still coming: sends it on while the response is awaited and relayed.
#[allow(clippy::too_many_arguments)] // The parts of one exchange, each with its own lifetime.
pub(super) async fn duplex<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: Lease<P::Stream>,
    pumping: &Pumping<'_, P>,
    buffer: &mut Buffer,
    mut flow: Flow,
    replay: &Replay,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<After, Failed<P::Stream>> {
    let Exchange { conn, plan, .. } = exchange;
    let phase = Phase::new(Outgoing::Sending);
    lease.sending();
    // The client is waited for as well as the origin, so each has a deadline. An attempt's time is the origin's: it
    // begins when the whole request is out.
    conn.deadline.cap_attempt(0, Duration::ZERO);
    let deadline = conn.deadline.sibling();
    let requests = Pumping { moved_ms: Some(&phase.moved_ms), ..*pumping };
    let responses = Pumping { deadline: &deadline, ..requests };
    let outcome = {
        let mut request = pin!(requests.body(&conn.stream, lease.stream(), buffer, &mut flow, Some(replay)));
        let mut no_request = InHand::nothing();
        let mut response =
            pin!(receive(exchange, &lease, &phase, &responses, &mut no_request, replay, record, out));
        match race(request.as_mut(), response.as_mut()).await {
            First::Right(relayed) => Ok(relayed),
            First::Left(Ok(())) => {
                if let (Some(copies), Some(gather)) = (exchange.copies, replay.gathered()) {
                    mirror::send_gathered(&conn.core, copies, gather);
                }
                phase.ended(Outgoing::Sent);
                exchange.sent(&lease);
                Ok(response.await)
            }
            // The origin reads no further, which is its right if it has answered (RFC 9112 section 9.5).
            First::Left(Err(PumpError::Broken(End::Sink))) => {
                phase.ended(Outgoing::Cut);
                Ok(response.await)
            }
            First::Left(Err(error)) => Err(error),
        }
    };
    record.request_bytes = flow.content_bytes();
    if exchange.is_trial() && record.answered_ns == 0 {
        record.sent_ns = lease.sent_ns().unwrap_or(0);
    }
    let relayed = match outcome {
        Ok(relayed) => relayed?,
        Err(error) => {
            let waiting_for_origin =
                plan.expect_continue && flow.content_bytes() == 0 && !phase.continued.get();
            return Err(request_fault(exchange, &lease, error, waiting_for_origin).into());
        }
    };
    if relayed.reusable && phase.is_sent() {
        lease.give_back(conn.core.now_ms(), Some(&conn.private));
    }
    Ok(relayed.after)
}

/// Whose fault it is that the request's body did not get through.
fn request_fault<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    error: PumpError,
    waiting_for_origin: bool,
) -> Fault {
    let conn = exchange.conn;
    match error {
        PumpError::Broken(End::Source) | PumpError::Malformed(FlowError::Truncated) => {
            Fault::downstream(ReasonCode::ClientGoneInBody, 0)
        }
        PumpError::Malformed(error) => Fault::downstream(error.reason(), 400),
        PumpError::NoBuffer => NO_BUFFER,
        PumpError::ClientGone => GONE,
        PumpError::TooLarge => Fault::policy(ReasonCode::BodyTooLarge, 413),
        PumpError::Elapsed(End::Source) if waiting_for_origin => {
            elapsed(conn, &conn.deadline, ReasonCode::UpstreamContinueTimeout, 504)
        }
        PumpError::Elapsed(End::Source) => Fault {
            retry: Retry::Never,
            ..elapsed(conn, &conn.deadline, ReasonCode::RequestBodyTimeout, 408)
        },
        PumpError::Elapsed(End::Sink) => {
            exchange.timed_out(lease, &conn.deadline, Outcome::Timeout, ReasonCode::UpstreamWriteTimeout)
        }
        PumpError::Broken(End::Sink) => {
            exchange.failed(lease, Outcome::Reset);
            Fault::upstream(ReasonCode::UpstreamReset, 502, Retry::Never)
        }
    }
}

/// Awaits the final response's head, passing interim ones on, and relays the response.
#[allow(clippy::too_many_arguments)] // The parts of one exchange, each with its own lifetime.
async fn receive<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    phase: &Phase,
    pumping: &Pumping<'_, P>,
    request: &mut InHand<'_>,
    replay: &Replay,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<Relayed, Failed<P::Stream>> {
    let Exchange { conn, .. } = exchange;
    let response_head = exchange.response_head();
    let mut interim = 0;
    let mut searched = 0;
    let mut waited = Wait { since_ms: conn.core.now_ms(), armed: false };
    let deadline = pumping.deadline;
    // Taken when the first byte is there: a slow origin costs no buffer.
    let mut buffer = Buffer::nothing(&conn.share, Purpose::Response);
    loop {
        waited.readable(exchange, lease, phase, request, deadline, response_head).await?;
        pumping.ready(&mut buffer).await.map_err(|_| NO_BUFFER)?;
        match lease.stream().try_read(buffer.spare()) {
            Ok(0) if buffer.is_empty() && interim == 0 => {
                return Err(closed_before_response(exchange, lease).into());
            }
            Ok(0) => {
                exchange.failed(lease, Outcome::Reset);
                return Err(Fault::upstream(ReasonCode::UpstreamHeadTruncated, 502, Retry::Never).into());
            }
            Ok(n) => buffer.fill(n),
            Err(error) if would_block(&error) => {
                buffer.park();
                continue;
            }
            Err(error) if error.kind() == ErrorKind::InvalidData && lease.wire() == Wire::Http2 => {
                exchange.failed(lease, Outcome::Reset);
                return Err(Fault::upstream(ReasonCode::UpstreamH2Malformed, 502, Retry::Never).into());
            }
            Err(_) if buffer.is_empty() && interim == 0 => {
                return Err(closed_before_response(exchange, lease).into());
            }
            Err(_) => {
                exchange.failed(lease, Outcome::Reset);
                return Err(Fault::upstream(ReasonCode::UpstreamReset, 502, Retry::Never).into());
            }
        }
        loop {
            let from = std::mem::replace(&mut searched, buffer.filled().len());
            if head_end_hint(buffer.filled(), from).is_none() && !buffer.is_full() {
                break;
            }
            match shape(exchange, lease, phase, buffer.filled(), replay, record, out)? {
                Head::NeedMore => break,
                Head::Final(shaped) => {
                    // No further attempt, so nothing need be kept for one.
                    replay.stop();
                    deadline.cap_attempt(0, Duration::ZERO);
                    return relay_response(
                        exchange, lease, phase, pumping, request, buffer, &shaped, record, out,
                    )
                    .await
                    .map_err(Failed::Fault);
                }
                Head::Interim { head_bytes, bytes } => {
                    interim += 1;
                    if interim > INTERIM_RESPONSES_MAX {
                        exchange.failed(lease, Outcome::Reset);
                        return Err(
                            Fault::upstream(ReasonCode::TooManyInterimResponses, 502, Retry::Never).into()
                        );
                    }
                    buffer.consume(head_bytes);
                    searched = 0;
                    if !bytes.is_empty() {
                        let sent = pumping.write_all(&conn.stream, &mut [IoSlice::new(&bytes)], &mut 0).await;
                        sent.map_err(|_| GONE)?;
                        // Written to: an interim answer must not be taken for a lack of any.
                        waited.armed = false;
                    }
                }
            }
        }
        // Mostly empty, or a part of a head.
        buffer.compact();
        buffer.park();
    }
}

/// Waits for an origin, and after a while for signs that its client has gone.
struct Wait {
    since_ms: u64,
    armed: bool,
}

impl Wait {
    async fn readable<P: Platform>(
        &mut self,
        exchange: Exchange<'_, P>,
        lease: &Lease<P::Stream>,
        phase: &Phase,
        request: &mut InHand<'_>,
        deadline: &Deadline,
        response_head: Duration,
    ) -> Result<(), Fault> {
        let conn = exchange.conn;
        let ready = |result: std::io::Result<()>| {
            result.map_err(|_| Fault::upstream(ReasonCode::UpstreamReset, 502, Retry::Never))
        };
        let too_slow =
            || exchange.timed_out(lease, deadline, Outcome::Timeout, ReasonCode::UpstreamResponseTimeout);
        if phase.request.get() == Outgoing::Sending {
            // An origin owes nothing before it has the whole request: whatever bounds this wait bounds the request's pump,
            // which tells the client from the origin. The end of the pump brings about that this is looked at again.
            let over = || phase.request.get() != Outgoing::Sending;
            let over = pin!(poll_fn(|_| if over() { Poll::Ready(()) } else { Poll::Pending }));
            if let First::Left(result) = race(pin!(lease.stream().readable()), over).await {
                return ready(result);
            }
            conn.core.tick_ns();
            let per_try = exchange.route().retry.per_try_timeout_ms;
            deadline.cap_attempt(
                conn.core.now_ms(),
                per_try.map_or(Duration::ZERO, |ms| Duration::from_millis(ms.get())),
            );
        }
        let watch = Duration::from_millis(WATCH_CLIENT_AFTER_MS);
        let short = response_head.is_zero() || response_head > watch;
        if !std::mem::replace(&mut self.armed, true) {
            self.since_ms = conn.core.now_ms();
            deadline.arm(self.since_ms, if short { watch } else { response_head });
        }
        request.park_if_scarce();
        // The common case: the answer comes soon, and watching the client would be a wasted wait.
        match deadline.bound(lease.stream().readable()).await {
            Ok(result) => return ready(result),
            Err(_) if deadline.expired() != Expired::Phase || !short => return Err(too_slow()),
            Err(_) => {}
        }
        request.park();
        deadline.arm(self.since_ms, response_head);
        let origin = pin!(lease.stream().readable());
        let client = pin!(gone(conn));
        match deadline.bound(race(origin, client)).await {
            Ok(First::Left(result)) => ready(result),
            Ok(First::Right(())) => Err(GONE),
            Err(_) => Err(too_slow()),
        }
    }
}

enum Head {
    NeedMore,
    /// A 1xx to pass on, encoded; nothing if the client must not see it.
    Interim {
        head_bytes: usize,
        bytes: Vec<u8>,
    },
    Final(Shaped),
}

/// 11 shape the response: parses the head and encodes the client's into `out`, replacing what it held.
#[allow(clippy::too_many_arguments)] // The parts of one exchange, each with its own lifetime.
fn shape<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    phase: &Phase,
    filled: &[u8],
    replay: &Replay,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<Head, Failed<P::Stream>> {
    let Exchange { conn, bound, plan, .. } = exchange;
    let refuse = |reason: ReasonCode| {
        exchange.failed(lease, Outcome::Reset);
        Failed::Fault(Fault::upstream(reason, 502, Retry::Never))
    };
    let mut index = conn.core.response_index.borrow_mut();
    let head = match parse_response(filled, &mut index, plan.asker.method, &bound.head_limits) {
        Ok(Parsed::Partial) => return Ok(Head::NeedMore),
        Ok(Parsed::Complete(head)) => head,
        Err(error) => return Err(refuse(error.reason())),
    };
    if head.authenticates_connection {
        lease.bind_to_client();
    }
    let route = &exchange.route();
    let tunnel = match switched(&head, plan.offered.as_deref()) {
        Ok(Switch::Tunnel(protocol)) => Some(protocol),
        Ok(Switch::Stay) => None,
        Err(error) => return Err(refuse(error.reason())),
    };
    let final_head = tunnel.is_some() || !head.status.is_informational();
    if final_head {
        exchange.answered(lease, head.status.0);
        if exchange.is_trial() {
            record.answered_ns = conn.core.tick_ns();
            record.sent_ns = lease.sent_ns().unwrap_or(0);
        }
        if plan.asker.grpc.is_some() {
            // Here it is the whole answer. Behind messages it comes as a trailer.
            record.grpc_status = head.header("grpc-status").and_then(GrpcStatus::parse);
        }
        if let Some(again) = exchange.after_response(&head, record, replay) {
            let behind = (filled.len() - head.head_bytes) as u64;
            let whole = match head.body {
                BodyLength::None => behind == 0,
                BodyLength::Length(bytes) => behind == bytes,
                BodyLength::Chunked | BodyLength::UntilClose => false,
            };
            return Err(Failed::Again(Again { clean: whole && head.keep_alive, ..again }));
        }
    }
    let mut lines = Vec::new();
    let call = plan.web.filter(|_| !head.status.is_informational());
    let web = call
        .and_then(|call| grpc_web::shape_response(&head, call.response, &route.response_headers, &mut lines));
    let mut extra = bound.fields(conn.listener);
    let cookie = exchange.cookie(lease).filter(|_| final_head);
    let grant = plan.grant.as_ref().filter(|_| final_head);
    if let Some(grant) = grant {
        grant.settle(conn, bound, |name| head.header(name));
    }
    let told = grant.and_then(|grant| grant.told);
    if web.is_some() || cookie.is_some() || told.is_some() {
        lines.extend_from_slice(extra);
        if let Some(told) = told {
            limiting::append_lines(bound, told, &mut lines);
        }
        lines.extend_from_slice(cookie.as_deref().unwrap_or_default().as_bytes());
        extra = &lines;
    }
    // Without a body there are no trailers either: the status stands in the head.
    let web_body = call.filter(|_| web.is_some() && !head.body.is_empty()).map(|call| call.response);
    let head = web.as_ref().map_or(head, |facts| head.with(facts));
    let came = if web_body.is_some() { BodyLength::Chunked } else { head.body };
    let to = relay(came, plan.asker.version);
    let keep =
        plan.keep_alive && phase.is_sent() && to != BodyLength::UntilClose && !conn.core.draining.is_raised();
    let date = conn.core.date(record.started_ns);
    let rewrite = ResponseRewrite {
        ops: &route.response_headers,
        framing: to,
        client: plan.asker.version,
        persistence: if keep { Persistence::KeepAlive } else { Persistence::Close },
        upgrade: tunnel,
        via: bound.snapshot.forwarding.via.as_deref(),
        wire: lease.wire(),
        date: &date,
        extra,
    };
    if !final_head {
        // RFC 9110 section 15.2: never to an HTTP/1.0 client; a 100 only to one that asked for it.
        let wanted =
            plan.asker.version == Version::Http11 && (head.status != Status(100) || plan.expect_continue);
        let mut bytes = Vec::new();
        if wanted {
            encode_response(&head, &rewrite, &mut bytes);
            phase.continued.set(true);
        }
        return Ok(Head::Interim { head_bytes: head.head_bytes, bytes });
    }
    out.clear();
    encode_response(&head, &rewrite, out);
    record.status = head.status.0;
    Ok(Head::Final(Shaped {
        from: head.body,
        to,
        web: web_body,
        head_bytes: head.head_bytes,
        reusable: head.keep_alive,
        keep,
        switching: tunnel.is_some(),
    }))
}

/// 12 send the head, pump the body.
#[allow(clippy::too_many_arguments)] // The parts of one exchange, each with its own lifetime.
async fn relay_response<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    phase: &Phase,
    pumping: &Pumping<'_, P>,
    request: &mut InHand<'_>,
    mut buffer: Buffer,
    shaped: &Shaped,
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Result<Relayed, Fault> {
    let Exchange { conn, plan, .. } = exchange;
    let watch = Watch::WhileReading(conn, &phase.unread);
    let pumping = Pumping { content_max: u64::MAX, watch, ..*pumping };
    let faulty = |error| body_fault(exchange, lease, pumping.deadline, error);
    if phase.request.get() == Outgoing::Sending {
        phase.moved_ms.set(conn.core.now_ms());
    }
    let mut flow = match shaped.web {
        None => Flow::new(shaped.from, shaped.to),
        Some(encoding) => Flow::to_grpc_web(shaped.from, shaped.to, encoding),
    };
    record.response_started = true;
    let consumed = {
        let mut batch = Batch::default();
        let body = &buffer.filled()[shaped.head_bytes..];
        if !flow.is_ended() {
            flow.step(body, &mut batch).map_err(|error| faulty(PumpError::Malformed(error)))?;
        }
        let mut slices = [IoSlice::new(b""); PIECES_MAX + 1];
        let count = join(out, &batch, body, &mut slices);
        // The common exchange ends here: one write of head and body together.
        let mut sent = 0;
        let wrote =
            request.parking(pin!(pumping.write_all(&conn.stream, &mut slices[..count], &mut sent))).await;
        if let (Err(_), Some(malformed)) = (&wrote, conn.stream.unfit()) {
            // The client has seen nothing of it, and can be told.
            record.response_started = false;
            exchange.failed(lease, Outcome::Reset);
            return Err(Fault::upstream(malformed.reason(), 502, Retry::Never));
        }
        wrote.map_err(faulty)?;
        batch.consumed
    };
    buffer.consume(shaped.head_bytes + consumed);
    request.done();
    if shaped.switching {
        return Ok(Relayed { after: After::Close, reusable: false, switched: Some(buffer) });
    }
    if !flow.is_ended() {
        request.park();
        let pumped = Box::pin(pumping.body(lease.stream(), &conn.stream, &mut buffer, &mut flow, None)).await;
        record.response_bytes = flow.content_bytes();
        pumped.map_err(faulty)?;
    }
    record.response_bytes = flow.content_bytes();
    if plan.asker.grpc.is_some()
        && let Some(status) = flow.grpc_status()
    {
        exchange.after_trailers(status, record);
    }
    // Bytes behind the response belong to nobody: such a connection is not reused.
    if !buffer.is_empty() {
        conn.core.metrics.count(Counter::UpstreamUnsolicited);
    }
    let reusable = shaped.reusable && shaped.from != BodyLength::UntilClose && buffer.is_empty();
    let after = match (shaped.keep, phase.is_sent()) {
        (true, _) => After::KeepAlive,
        (false, true) if !plan.client_goes_on => After::Close,
        (false, _) => After::Linger,
    };
    Ok(Relayed { after, reusable, switched: None })
}

/// A head and what of its body is at hand, as pieces of one write. A small body is copied behind the head: that is
/// cheaper than the second piece, which turns send(2) into sendmsg(2) (docs/performance.md).
pub(super) fn join<'a>(
    head: &'a mut Vec<u8>,
    batch: &'a Batch,
    body: &'a [u8],
    slices: &mut [IoSlice<'a>; PIECES_MAX + 1],
) -> usize {
    if batch.consumed <= COPIED_BODY_BYTES_MAX {
        batch.copy(body, head);
        slices[0] = IoSlice::new(head);
        return 1;
    }
    slices[0] = IoSlice::new(head);
    1 + batch.slices(body, &mut slices[1..])
}

/// Whose fault it is that the response's body did not get through.
fn body_fault<P: Platform>(
    exchange: Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    deadline: &Deadline,
    error: PumpError,
) -> Fault {
    let upstream = |reason| {
        exchange.failed(lease, Outcome::Reset);
        Fault::upstream(reason, 502, Retry::Never)
    };
    match error {
        PumpError::Broken(End::Source) => upstream(ReasonCode::UpstreamResetInBody),
        PumpError::Malformed(FlowError::Truncated) => upstream(ReasonCode::UpstreamBodyTruncated),
        PumpError::Malformed(error) => upstream(error.reason()),
        PumpError::NoBuffer => NO_BUFFER,
        PumpError::Elapsed(End::Source) => {
            exchange.timed_out(lease, deadline, Outcome::Timeout, ReasonCode::UpstreamBodyTimeout)
        }
        PumpError::Elapsed(End::Sink) => Fault {
            retry: Retry::Never,
            ..elapsed(exchange.conn, deadline, ReasonCode::ClientReadTimeout, 0)
        },
        PumpError::Broken(End::Sink) | PumpError::ClientGone | PumpError::TooLarge => GONE,
    }
}
