//! Awaits an attempt's response and relays it: interim heads, the final head, the body.

use std::future::poll_fn;
use std::io::{ErrorKind, IoSlice};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use super::body::{Body, End, Pump, PumpError, Watch, would_block, write_now};
use super::downstream::After;
use super::exchange::{Answer, Exchange, NO_BUFFER, Outgoing};
use super::in_hand::InHand;
use super::response::{Head, Shaped, shape};
use super::retry::Failed;
use super::upstream::Lease;
use super::watch::{GONE, elapsed, gone};
use crate::base::buffer::{Buffer, Purpose};
use crate::base::deadline::Expired;
use crate::base::fault::{Fault, Retry};
use crate::base::limits::{COPIED_BODY_BYTES_MAX, INTERIM_RESPONSES_MAX, WATCH_CLIENT_AFTER_MS};
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::http::flow::{Batch, Counts, Flow, FlowError, PIECES_MAX};
use crate::http::framing::BodyLength;
use crate::http::grpc_web::ResponseBody;
use crate::http::http1::parse::head_end_hint;
use crate::http::message::Wire;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::policy::outlier::Outcome;
use crate::telemetry::metrics::Counter;

/// A response that has been relayed.
pub(super) struct Relayed {
    pub(super) after: After,
    /// The upstream connection is clean and may be kept.
    pub(super) reusable: bool,
    /// After a 101: what the origin sent behind it.
    pub(super) switched: Option<Buffer>,
}

/// The way of a response from its endpoint to the client.
pub(super) struct Relay<'r, P: Platform> {
    pub(super) exchange: &'r Exchange<'r, P>,
    pub(super) lease: &'r Lease<P::Stream>,
    /// What moves its body, and whose deadline bounds each wait.
    pub(super) pump: Pump<'r, P>,
}

/// How long an endpoint has been waited for.
struct Waited {
    since_ms: u64,
    armed: bool,
}

impl<P: Platform> Relay<'_, P> {
    /// Awaits the final response's head, passing interim ones on, and relays the response. `request` is what of the request
    /// is still in hand.
    pub(super) async fn run(
        &self,
        request: &mut InHand<'_>,
        answer: &mut Answer<'_>,
    ) -> Result<Relayed, Failed<P::Stream>> {
        let Self { exchange, lease, pump } = self;
        let conn = exchange.conn;
        let mut interim = 0;
        let mut searched = 0;
        let mut waited = Waited { since_ms: conn.core.now_ms(), armed: false };
        // Taken when the first byte is there: a slow origin costs no buffer.
        let mut buffer = Buffer::nothing(&conn.share, Purpose::Response);
        loop {
            self.readable(&mut waited, request).await?;
            pump.ready(&mut buffer).await.map_err(|_| NO_BUFFER)?;
            let none_yet = buffer.is_empty() && interim == 0;
            match lease.stream().try_read(buffer.spare()) {
                Ok(0) if none_yet => return Err(exchange.closed_before_response(lease).into()),
                Ok(0) => return Err(exchange.broken(lease, ReasonCode::UpstreamHeadTruncated).into()),
                Ok(n) => buffer.fill(n),
                Err(error) if would_block(&error) => {
                    buffer.park();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::InvalidData && lease.wire() == Wire::Http2 => {
                    return Err(exchange.broken(lease, ReasonCode::UpstreamH2Malformed).into());
                }
                Err(_) if none_yet => return Err(exchange.closed_before_response(lease).into()),
                Err(_) => return Err(exchange.broken(lease, ReasonCode::UpstreamReset).into()),
            }
            loop {
                let from = std::mem::replace(&mut searched, buffer.filled().len());
                // What the first read brings is mostly a whole head, which parsing finds out for less than a search for its end.
                if from > 0 && head_end_hint(buffer.filled(), from).is_none() && !buffer.is_full() {
                    break;
                }
                match shape(exchange, lease, buffer.filled(), answer)? {
                    Head::NeedMore => break,
                    Head::Final(shaped) => {
                        // No further attempt, so nothing need be kept for one.
                        exchange.tee.stop_for_retry();
                        pump.deadline.cap_attempt(0, Duration::ZERO);
                        return self.relay(request, buffer, &shaped, answer).await.map_err(Failed::Fault);
                    }
                    Head::Interim { head_bytes, bytes } => {
                        interim += 1;
                        if interim > INTERIM_RESPONSES_MAX {
                            return Err(exchange.broken(lease, ReasonCode::TooManyInterimResponses).into());
                        }
                        buffer.consume(head_bytes);
                        searched = 0;
                        if !bytes.is_empty() {
                            let sent =
                                pump.write_all(&conn.stream, &mut [IoSlice::new(&bytes)], &mut 0).await;
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

    /// Waits for the endpoint, and after a while for signs that the client has gone.
    async fn readable(&self, waited: &mut Waited, request: &mut InHand<'_>) -> Result<(), Fault> {
        let Self { exchange, lease, pump: Pump { deadline, .. } } = self;
        let conn = exchange.conn;
        let ready = |result: std::io::Result<()>| {
            result.map_err(|_| Fault::upstream(ReasonCode::UpstreamReset, 502, Retry::Never))
        };
        let too_slow =
            || exchange.timed_out(lease, deadline, Outcome::Timeout, ReasonCode::UpstreamResponseTimeout);
        if exchange.outgoing.get() == Outgoing::Sending {
            // An origin owes nothing before it has the whole request: whatever bounds this wait bounds the request's pump,
            // which tells the client from the origin. The end of the pump brings about that this is looked at again.
            let over = || exchange.outgoing.get() != Outgoing::Sending;
            let over = pin!(poll_fn(|_| if over() { Poll::Ready(()) } else { Poll::Pending }));
            if let First::Left(result) = race(pin!(lease.stream().readable()), over).await {
                return ready(result);
            }
            conn.core.tick_ns();
            deadline.cap_attempt(conn.core.now_ms(), exchange.per_try());
        }
        let response_head = exchange.response_head();
        let watch = Duration::from_millis(WATCH_CLIENT_AFTER_MS);
        let short = response_head.is_zero() || response_head > watch;
        if !std::mem::replace(&mut waited.armed, true) {
            waited.since_ms = conn.core.now_ms();
        }
        deadline.arm(waited.since_ms, if short { watch } else { response_head });
        request.park_if_scarce();
        // The common case: the answer comes soon, and watching the client would be a wasted wait.
        match deadline.bound(lease.stream().readable()).await {
            Ok(result) => return ready(result),
            Err(_) if deadline.expired() != Expired::Phase || !short => return Err(too_slow()),
            Err(_) => {}
        }
        request.park();
        deadline.arm(waited.since_ms, response_head);
        // On the heap: the task keeps room only for what most exchanges need.
        let both = Box::pin(async {
            let origin = pin!(lease.stream().readable());
            deadline.bound(race(origin, pin!(gone(conn)))).await
        });
        match both.await {
            Ok(First::Left(result)) => ready(result),
            Ok(First::Right(())) => Err(GONE),
            Err(_) => Err(too_slow()),
        }
    }

    /// 12 send the head, pump the body.
    async fn relay(
        &self,
        request: &mut InHand<'_>,
        mut buffer: Buffer,
        shaped: &Shaped,
        answer: &mut Answer<'_>,
    ) -> Result<Relayed, Fault> {
        let Self { exchange, lease, pump } = self;
        let Answer { record, out } = answer;
        let &&Exchange { conn, plan, .. } = exchange;
        let watch = Watch::WhileReading(conn, &exchange.unread);
        let pump = Pump { content_max: u64::MAX, watch, ..*pump };
        if exchange.outgoing.get() == Outgoing::Sending {
            exchange.moved_ms.set(conn.core.now_ms());
        }
        let mut flow = match shaped.web {
            None => Flow::new(shaped.from, shaped.to),
            Some(encoding) => {
                let transforms = vec![Box::new(ResponseBody::new(encoding)) as _];
                Flow::through(shaped.from, shaped.to, Counts::AsItGoes, transforms)
            }
        };
        record.response_started = true;
        let body = &buffer.filled()[shaped.head_bytes..];
        let (wrote, consumed) = if let Some(content) = flow.whole(body) {
            // The common exchange ends here: one write of head and body together.
            let mut slices = [IoSlice::new(b""); 2];
            let pieces = behind(out, content, &mut slices);
            let mut sent = 0;
            let wrote = match write_now(&conn.stream, pieces, &mut sent) {
                Ok(None) => Ok(()),
                Ok(Some(rest)) => {
                    let writing = Box::pin(pump.write_all(&conn.stream, rest, &mut sent));
                    request.parking(pin!(writing)).await
                }
                Err(error) => Err(error),
            };
            (wrote, content.len())
        } else {
            let first = Box::pin(async {
                let mut batch = Batch::default();
                flow.step(body, &mut batch).map_err(|error| self.fault(PumpError::Malformed(error)))?;
                let mut slices = [IoSlice::new(b""); PIECES_MAX + 1];
                let count = join(out, &batch, body, &mut slices);
                let mut sent = 0;
                let writing = pin!(pump.write_all(&conn.stream, &mut slices[..count], &mut sent));
                Ok((request.parking(writing).await, batch.consumed))
            });
            first.await?
        };
        if let (Err(_), Some(unsayable)) = (&wrote, conn.stream.unsayable()) {
            // The client has seen nothing of it, and can be told.
            record.response_started = false;
            return Err(exchange.broken(lease, unsayable.reason));
        }
        wrote.map_err(|error| self.fault(error))?;
        buffer.consume(shaped.head_bytes + consumed);
        request.done();
        if shaped.switching {
            return Ok(Relayed { after: After::Close, reusable: false, switched: Some(buffer) });
        }
        if !flow.is_ended() {
            request.park();
            let mut body = Body::from(flow);
            let pumped = Box::pin(pump.body(lease.stream(), &conn.stream, &mut buffer, &mut body)).await;
            flow = body.flow;
            record.response_bytes = flow.content_bytes();
            pumped.map_err(|error| self.fault(error))?;
        }
        record.response_bytes = flow.content_bytes();
        if plan.requester.grpc.is_some()
            && let Some(status) = flow.grpc_status()
        {
            exchange.after_trailers(status, record);
        }
        // Bytes behind the response belong to nobody: such a connection is not reused.
        if !buffer.is_empty() {
            conn.core.metrics.count(Counter::UpstreamUnsolicited);
        }
        let reusable = shaped.reusable && shaped.from != BodyLength::UntilClose && buffer.is_empty();
        let after = match (shaped.keep, exchange.is_sent()) {
            (true, _) => After::KeepAlive,
            (false, true) if !plan.client_goes_on => After::Close,
            (false, _) => After::Linger,
        };
        Ok(Relayed { after, reusable, switched: None })
    }

    /// Whose fault it is that the response's body did not get through.
    fn fault(&self, error: PumpError) -> Fault {
        let Self { exchange, lease, pump: Pump { deadline, .. } } = self;
        match error {
            PumpError::Broken(End::Source) => exchange.broken(lease, ReasonCode::UpstreamResetInBody),
            PumpError::Malformed(FlowError::Truncated) => {
                exchange.broken(lease, ReasonCode::UpstreamBodyTruncated)
            }
            PumpError::Malformed(error) => exchange.broken(lease, error.reason()),
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
}

/// A head and its whole body, as pieces of one write.
pub(super) fn behind<'a, 's>(
    head: &'a mut Vec<u8>,
    content: &'a [u8],
    slices: &'s mut [IoSlice<'a>; 2],
) -> &'s mut [IoSlice<'a>] {
    let copied = content.len() <= COPIED_BODY_BYTES_MAX;
    if copied {
        head.extend_from_slice(content);
    }
    *slices = [IoSlice::new(head), IoSlice::new(content)];
    if copied { &mut slices[..1] } else { slices }
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
