//! One try at one endpoint: opens a connection, sends the request, and has the response relayed; while a body is still coming,
//! both directions at once.

use std::io::IoSlice;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::body::{Body, End, Pump, PumpError, write_now};
use super::connect::{self, NotConnected, on_behalf, reuse};
use super::exchange::{Answer, Exchange, NO_BUFFER, Outgoing};
use super::in_hand::InHand;
use super::mirror;
use super::relay::{Relay, Relayed, behind, join};
use super::retry::Failed;
use super::upstream::{Admitted, Endpoint, Lease, Need};
use super::watch::{GONE, elapsed};
use crate::base::buffer::Buffer;
use crate::base::deadline::Expired;
use crate::base::fault::{Fault, Retry};
use crate::base::kept::Kept;
use crate::base::limits::CONNECT_TIMEOUTS_PER_REQUEST_MAX;
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::http::flow::{Batch, Counts, Flow, FlowError, PIECES_MAX};
use crate::http::framing::BodyLength;
use crate::http::grpc_web::RequestBody;
use crate::net::platform::{ConnectError, Platform};
use crate::policy::outlier::Outcome;

/// A place at the endpoint, and whether there is a connection with it: an idle one, or one borrowed from another worker.
pub(super) fn take<P: Platform>(
    exchange: &Exchange<'_, P>,
    admitted: Admitted<P::Stream>,
    endpoint: &Rc<Endpoint<P::Stream>>,
) -> (Lease<P::Stream>, bool) {
    let &Exchange { conn, plan, .. } = exchange;
    let need = if plan.connect { Need::New } else { Need::Any };
    let (lease, found) = reuse(&conn.core, admitted, endpoint, need, Some(&conn.private));
    if plan.authenticates_connection {
        // Credentials for the connection make that the client's own.
        lease.bind_to_client();
    }
    (lease, found)
}

/// Opens a connection for a place that came without.
pub(super) async fn open<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &mut Lease<P::Stream>,
) -> Result<(), Fault> {
    let conn = exchange.conn;
    let timeout = exchange.connect_timeout();
    let left = (timeout * CONNECT_TIMEOUTS_PER_REQUEST_MAX).saturating_sub(exchange.connecting.get());
    let began_ms = conn.core.now_ms();
    // A bound of zero is none.
    conn.deadline.arm(began_ms, timeout.min(left.max(Duration::from_millis(1))));
    let client = on_behalf(conn, &lease.dial);
    let opened = connect::open(&conn.core, lease, &client, &conn.deadline).await;
    let took = Duration::from_millis(conn.core.now_ms().saturating_sub(began_ms));
    exchange.connecting.set(exchange.connecting.get() + took);
    opened.map_err(|error| not_connected(exchange, lease, &error))
}

fn not_connected<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    error: &NotConnected,
) -> Fault {
    let conn = exchange.conn;
    let (reason, status) = match error {
        // Nothing is learned of the endpoint, and another would be reached as little.
        NotConnected::Short(shortage) => return Fault::ourselves(shortage.reason(), 503),
        NotConnected::Elapsed => {
            // Another endpoint may do, unless it is the request's own time that is over, or all that it has for connecting.
            let whole = exchange.connect_timeout() * CONNECT_TIMEOUTS_PER_REQUEST_MAX;
            let over = conn.deadline.expired() == Expired::Request || exchange.connecting.get() >= whole;
            let retry = if over { Retry::Never } else { Retry::Safe };
            let (outcome, reason) = (Outcome::ConnectFailure, ReasonCode::UpstreamConnectTimeout);
            return Fault { retry, ..exchange.timed_out(lease, &conn.deadline, outcome, reason) };
        }
        NotConnected::NoStreams => (ReasonCode::UpstreamNoStreams, 502),
        NotConnected::Failed(ConnectError::Io(_)) => (ReasonCode::UpstreamConnectFailed, 502),
        NotConnected::Failed(ConnectError::NoHttp2) => (ReasonCode::UpstreamNoHttp2, 502),
        NotConnected::Failed(ConnectError::Tls(error)) => {
            conn.core.tls_failed(&exchange.upstream.name, &lease.endpoint.address, error);
            (ReasonCode::UpstreamTlsFailed, 502)
        }
    };
    exchange.failed(lease, Outcome::ConnectFailure);
    Fault::upstream(reason, status, Retry::Safe)
}

/// The request's body, as an attempt sends it.
pub(super) fn request_body<'e, P: Platform>(exchange: &'e Exchange<'_, P>) -> Body<'e> {
    let from = exchange.plan.body;
    let flow = match exchange.plan.web {
        None => Flow::new(from, from),
        Some(call) => {
            let transforms = vec![Box::new(RequestBody::new(call.request)) as _];
            Flow::through(from, BodyLength::Chunked, Counts::AsItComes, transforms)
        }
    };
    Body { flow, tee: Some(&exchange.tee) }
}

/// Sends the head, which `out` holds, and what of the body came with it, in one write. Returns how many bytes of the body
/// that were, and what the endpoint does not take for now: it may have answered already, and want no more.
pub(super) async fn send<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    body: &mut Body<'_>,
    at_hand: &[u8],
    out: &mut Vec<u8>,
) -> Result<(usize, Option<Kept>), Fault> {
    let head_bytes = out.len();
    let mut sent = 0;
    let (wrote, consumed) = match body.flow.whole(at_hand) {
        // The common request ends here.
        Some(content) if body.flow.content_bytes() <= exchange.route.body_bytes_max => {
            let mut slices = [IoSlice::new(b""); 2];
            let pieces = behind(out, content, &mut slices);
            let wrote = match write_now(lease.stream(), pieces, &mut sent) {
                Ok(None) => Ok(None),
                Ok(Some(rest)) => Box::pin(keep_or_write(exchange, lease, rest, &mut sent)).await,
                Err(error) => Err(error),
            };
            (wrote, content.len())
        }
        Some(_) => return Err(Fault::policy(ReasonCode::BodyTooLarge, 413)),
        // On the heap: the task keeps room only for what most exchanges need.
        None => {
            let first = Box::pin(async {
                let mut batch = Batch::default();
                let step = body.flow.step(at_hand, &mut batch);
                step.map_err(|error| Fault::downstream(error.reason(), 400))?;
                if body.flow.content_bytes() > exchange.route.body_bytes_max {
                    return Err(Fault::policy(ReasonCode::BodyTooLarge, 413));
                }
                let mut slices = [IoSlice::new(b""); PIECES_MAX + 1];
                let count = join(out, &batch, at_hand, &mut slices);
                let wrote = match write_now(lease.stream(), &mut slices[..count], &mut sent) {
                    Ok(None) => Ok(None),
                    Ok(Some(rest)) => keep_or_write(exchange, lease, rest, &mut sent).await,
                    Err(error) => Err(error),
                };
                Ok((wrote, batch.consumed))
            });
            first.await?
        }
    };
    // The head alone stays, should there be another attempt.
    out.truncate(head_bytes);
    let rest = wrote.map_err(|error| exchange.not_sent(lease, error, sent))?;
    Ok((consumed, rest))
}

/// Keeps what is left to write, so that the response can be awaited meanwhile. Where the worker has no room for it, waits
/// until it is written.
#[cold]
async fn keep_or_write<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    rest: &mut [IoSlice<'_>],
    sent: &mut usize,
) -> Result<Option<Kept>, PumpError> {
    let mut kept = Kept::new(&exchange.conn.core.kept);
    if rest.iter().all(|piece| kept.extend(piece).is_ok()) {
        return Ok(Some(kept));
    }
    exchange.pump().write_all(lease.stream(), rest, sent).await.map(|()| None)
}

/// Sends the head and what of the body was sent before.
pub(super) async fn resend<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    body: &mut Body<'_>,
    out: &[u8],
) -> Result<(), Fault> {
    let (pump, flow) = (exchange.pump(), &mut body.flow);
    let mut sent = 0;
    let kept = exchange.tee.take();
    let bytes = kept.as_ref().map_or(&b""[..], Kept::as_slice);
    let outcome = async {
        pump.write_all(lease.stream(), &mut [IoSlice::new(out)], &mut sent).await?;
        let (mut at, mut batch) = (0, Batch::default());
        while (at < bytes.len() || batch.more) && !flow.is_ended() {
            flow.step(&bytes[at..], &mut batch).map_err(PumpError::Malformed)?;
            let mut slices = [IoSlice::new(b""); PIECES_MAX];
            let count = batch.slices(&bytes[at..], &mut slices);
            pump.write_all(lease.stream(), &mut slices[..count], &mut sent).await?;
            if batch.consumed == 0 && !batch.more {
                break;
            }
            at += batch.consumed;
        }
        Ok(())
    }
    .await;
    exchange.tee.give_back(kept);
    outcome.map_err(|error| exchange.not_sent(lease, error, sent))
}

/// The whole request is out: awaits and relays the response.
pub(super) async fn respond<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    request: &mut InHand<'_>,
    answer: &mut Answer<'_>,
) -> Result<Relayed, Failed<P::Stream>> {
    exchange.sent(Outgoing::Sent);
    let relay = Relay { exchange, lease, pump: exchange.pump() };
    relay.run(request, answer).await
}

/// What of a request is still to be sent.
pub(super) struct Upload<'u> {
    /// What the endpoint has not taken yet.
    pub(super) first: Option<Kept>,
    /// What comes behind that from the client, through this buffer; `None`: nothing.
    pub(super) buffer: Option<&'u mut Buffer>,
    pub(super) body: Body<'u>,
}

impl Upload<'_> {
    async fn run<P: Platform>(
        &mut self,
        exchange: &Exchange<'_, P>,
        lease: &Lease<P::Stream>,
        pump: &Pump<'_, P>,
    ) -> Result<(), PumpError> {
        if let Some(first) = self.first.take() {
            pump.write_all(lease.stream(), &mut [IoSlice::new(first.as_slice())], &mut 0).await?;
        }
        match &mut self.buffer {
            Some(buffer) => pump.body(&exchange.conn.stream, lease.stream(), buffer, &mut self.body).await,
            None => Ok(()),
        }
    }
}

/// A part of the request is still to be sent: sends it while the response is awaited and relayed. `request` is what of it is
/// still in hand.
pub(super) async fn upload<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    mut upload: Upload<'_>,
    request: &mut InHand<'_>,
    answer: &mut Answer<'_>,
) -> Result<Relayed, Failed<P::Stream>> {
    let conn = exchange.conn;
    lease.sending();
    // The client is waited for as well as the origin, so each has a deadline. An attempt's time is the origin's: it
    // begins when the whole request is out.
    conn.deadline.cap_attempt(0, Duration::ZERO);
    let deadline = conn.deadline.sibling();
    let requests = Pump { moved_ms: Some(&exchange.moved_ms), ..exchange.pump() };
    let relay = Relay { exchange, lease, pump: Pump { deadline: &deadline, ..requests } };
    let outcome = {
        let mut sending = pin!(upload.run(exchange, lease, &requests));
        let mut response = pin!(relay.run(request, answer));
        match race(sending.as_mut(), response.as_mut()).await {
            First::Right(relayed) => Ok(relayed),
            First::Left(Ok(())) => {
                if let Some(copies) = &exchange.copies {
                    exchange.tee.give_to_mirrors(|body| mirror::send(&conn.core, copies, body));
                }
                exchange.sent(Outgoing::Sent);
                exchange.waits_for(lease);
                Ok(response.await)
            }
            // The origin reads no further, which is its right if it has answered (RFC 9112 section 9.5).
            First::Left(Err(PumpError::Broken(End::Sink))) => {
                exchange.sent(Outgoing::Cut);
                Ok(response.await)
            }
            First::Left(Err(error)) => Err(error),
        }
    };
    let record = &mut *answer.record;
    record.request_bytes = upload.body.flow.content_bytes();
    if exchange.is_trial() && record.answered_ns == 0 {
        record.sent_ns = lease.sent_ns().unwrap_or(0);
    }
    let none_sent = record.request_bytes == 0;
    let relayed = outcome.map_err(|error| upload_fault(exchange, lease, error, none_sent))??;
    Ok(Relayed { reusable: relayed.reusable && exchange.is_sent(), ..relayed })
}

/// Whose fault it is that the request's body did not get through, of which perhaps `none` was sent.
fn upload_fault<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    error: PumpError,
    none: bool,
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
        PumpError::Elapsed(End::Source)
            if exchange.plan.expect_continue && none && !exchange.continued.get() =>
        {
            elapsed(conn, &conn.deadline, ReasonCode::UpstreamContinueTimeout, 504)
        }
        PumpError::Elapsed(End::Source) => Fault {
            retry: Retry::Never,
            ..elapsed(conn, &conn.deadline, ReasonCode::RequestBodyTimeout, 408)
        },
        PumpError::Elapsed(End::Sink) => {
            exchange.timed_out(lease, &conn.deadline, Outcome::Timeout, ReasonCode::UpstreamWriteTimeout)
        }
        PumpError::Broken(End::Sink) => exchange.broken(lease, ReasonCode::UpstreamReset),
    }
}
