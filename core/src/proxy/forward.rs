//! 10 to 12: attempts, until a response is relayed or a fault is final.
//!
//! What is tried again `policy::retry` decides, by the route's settings. Without any, that is what provably reached no
//! application: no connection could be had, the endpoint refused the stream, or a reused connection turned out to be closed
//! before a byte of the response came (RFC 9112 section 9.3.1).

use std::rc::Rc;
use std::time::Duration;

use super::attempt::{Upload, open, request_body, resend, respond, send, take, upload};
use super::body::Tee;
use super::choose::{self, Tried, choose};
use super::downstream::After;
use super::exchange::{Answer, Exchange};
use super::hedge;
use super::in_hand::{InHand, parking};
use super::mirror;
use super::record::Record;
use super::relay::Relayed;
use super::retry::{self, Failed};
use super::shape::encode_for;
use super::tunnel;
use super::upstream::Lease;
use super::watch::{GONE, waiting};
use crate::base::buffer::{Buffer, Purpose};
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::net::platform::Platform;
use crate::policy::retry::Refusal;
use crate::telemetry::metrics::Counter;

/// The empty line that ends a head.
const END_OF_HEAD: &[u8] = b"\r\n";

/// Tries until a response is relayed or a fault is final.
pub(super) async fn forward<P: Platform>(
    exchange: &mut Exchange<'_, P>,
    buffer: &mut Buffer,
    answer: &mut Answer<'_>,
) -> Result<After, Fault> {
    let &mut Exchange { conn, plan, upstream, .. } = exchange;
    let core = &conn.core;
    let mut mirror_bytes_max = None;
    if let Some(copies) = &exchange.copies {
        mirror::send_whole(core, copies, &buffer.filled()[plan.head_bytes..]);
        mirror_bytes_max = copies.wanted_bytes();
    }
    exchange.tee = Tee::new(exchange.kept_bytes_max(), mirror_bytes_max);
    let exchange = &*exchange;
    let per_try = exchange.per_try();
    let mut tried = Tried::default();
    let mut last = None;
    let mut encoded_for = None;
    // All of the head but what differs from attempt to attempt.
    let mut length = answer.out.len().saturating_sub(END_OF_HEAD.len());
    upstream.budget().deposit(core.now_ms());
    let mut retrying = None;
    loop {
        answer.record.attempts += 1;
        answer.record.sent_ns = 0;
        // Whoever waits for an endpoint that is free waits for no attempt yet.
        conn.deadline.cap_attempt(0, Duration::ZERO);
        let admitted = exchange.admit(answer.record)?;
        let endpoint = match choose(exchange, &tried)? {
            Some(endpoint) => endpoint,
            None => waiting(conn, buffer, Box::pin(choose::wait(exchange, &tried)).as_mut()).await?,
        };
        if let Some(fault) = last.filter(|_| tried.is_hopeless(&endpoint)) {
            answer.record.attempts -= 1;
            exchange.refused(Refusal::Attempts, answer.record);
            return Err(fault);
        }
        core.metrics.add(Counter::Retries, u64::from(tried.repeat));
        conn.deadline.cap_attempt(core.now_ms(), per_try);
        if plan.names_endpoint && !encoded_for.as_ref().is_some_and(|e: &Rc<_>| Rc::ptr_eq(e, &endpoint)) {
            exchange.tee.with_head(|head| {
                let bytes = head.unwrap_or_else(|| buffer.filled());
                encode_for(&exchange.request(bytes), &endpoint, answer.out)
            })?;
            length = answer.out.len() - END_OF_HEAD.len();
            encoded_for = Some(Rc::clone(&endpoint));
        }
        plan.hop.stamp(answer.out, length, answer.record.sent_before, core.now_ms());
        if answer.record.draft.is_some() {
            answer.record.endpoint = Some(endpoint.address.clone());
        }
        let (mut lease, found) = take(exchange, admitted, &endpoint);
        let opened = if found {
            Ok(())
        } else {
            waiting(conn, buffer, Box::pin(open(exchange, &mut lease)).as_mut()).await
        };
        let failed = match opened {
            Ok(()) => match once(exchange, lease, buffer, answer).await {
                Ok(after) => return Ok(after),
                Err(failed) => failed,
            },
            Err(fault) => Failed::Fault(fault),
        };
        // Each place among the retries under way is given back when its attempt is over.
        drop(retrying.take());
        let next = match failed {
            Failed::Again(next) => next,
            Failed::Fault(fault) => {
                if retry::has_reached_nobody(fault) {
                    tried.unreached.push(Rc::clone(&endpoint));
                    last = Some(fault);
                }
                if fault.reason == ReasonCode::UpstreamStale {
                    core.metrics.count(Counter::UpstreamStale);
                }
                exchange.after_fault(fault, answer.record).ok_or(fault)?
            }
        };
        tried.repeat = true;
        if next.elsewhere {
            tried.avoid.push(endpoint);
        }
        if next.after_ms > 0 {
            parking(buffer, Box::pin(exchange.pause(next.after_ms)).as_mut()).await?;
        }
        retrying = next.place;
    }
}

/// Answers a CONNECT that its route allows: connects to the route's upstream and tunnels.
pub(super) async fn tunnel<P: Platform>(
    exchange: &Exchange<'_, P>,
    buffer: &mut Buffer,
    answer: &mut Answer<'_>,
) -> Result<After, Fault> {
    let conn = exchange.conn;
    let Answer { record, out } = answer;
    record.attempts = 1;
    let admitted = exchange.admit(record)?;
    let endpoint = match choose(exchange, &Tried::default())? {
        Some(endpoint) => endpoint,
        None => choose::wait(exchange, &Tried::default()).await?,
    };
    let (mut lease, _) = take(exchange, admitted, &endpoint);
    open(exchange, &mut lease).await?;
    exchange.answered(&lease, 200);
    buffer.consume(exchange.plan.head_bytes);
    record.intact = false;
    record.status = 200;
    record.response_started = true;
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 200 Connection Established\r\n\r\n");
    conn.write(out).await.map_err(|()| GONE)?;
    let nothing = Buffer::nothing(&conn.share, Purpose::Response);
    tunnel::run(exchange, lease, buffer, nothing, record).await
}

/// One try on one connection.
async fn once<P: Platform>(
    exchange: &Exchange<'_, P>,
    mut lease: Lease<P::Stream>,
    buffer: &mut Buffer,
    answer: &mut Answer<'_>,
) -> Result<After, Failed<P::Stream>> {
    let &Exchange { conn, plan, .. } = exchange;
    exchange.begins();
    let mut body = request_body(exchange);
    let mut first = None;
    if answer.record.intact {
        let at_hand = &buffer.filled()[plan.head_bytes..];
        let (consumed, rest) = send(exchange, &lease, &mut body, at_hand, answer.out).await?;
        if body.flow.is_ended() {
            // The whole request is out, or about to be, and still in the buffer for another attempt.
            let content_bytes = body.flow.content_bytes();
            let relayed = if rest.is_none() {
                exchange.waits_for(&lease);
                if exchange.is_trial() {
                    answer.record.sent_ns = lease.sent_ns().unwrap_or(0);
                }
                if let Some(other) = hedge(exchange, &lease, buffer, answer.record).await? {
                    lease = other;
                }
                let mut request = InHand::new(buffer, plan.head_bytes + consumed);
                respond(exchange, &lease, &mut request, answer).await
            } else {
                let mut request = InHand::new(buffer, plan.head_bytes + consumed);
                let rest = Upload { first: rest, buffer: None, body };
                Box::pin(upload(exchange, &lease, rest, &mut request, answer)).await
            };
            let counts = relayed.is_ok() || answer.record.response_started;
            answer.record.request_bytes = if counts { content_bytes } else { 0 };
            return match relayed {
                Ok(Relayed { switched: Some(upstream_bytes), .. }) => {
                    let tunnel = tunnel::run(exchange, lease, buffer, upstream_bytes, answer.record);
                    Box::pin(tunnel).await.map_err(Failed::Fault)
                }
                relayed => after(exchange, lease, relayed),
            };
        }
        let (head, behind) = buffer.filled().split_at(plan.head_bytes);
        exchange.tee.begin(&conn.core.kept, head, &behind[..consumed]);
        buffer.consume(plan.head_bytes + consumed);
        answer.record.intact = false;
        first = rest;
    } else {
        Box::pin(resend(exchange, &lease, &mut body, answer.out)).await?;
    }
    let rest = Upload { first, buffer: Some(buffer), body };
    let relayed = Box::pin(upload(exchange, &lease, rest, &mut InHand::nothing(), answer)).await;
    after(exchange, lease, relayed)
}

/// The attempt whose answer has begun to come, if that is another one.
async fn hedge<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    buffer: &mut Buffer,
    record: &mut Record,
) -> Result<Option<Lease<P::Stream>>, Fault> {
    let Some(settings) = &exchange.route.hedge else { return Ok(None) };
    if exchange.plan.web.is_some() || exchange.plan.offered.is_some() || lease.is_private() {
        return Ok(None);
    }
    buffer.park_if_scarce();
    Box::pin(hedge::first(exchange, lease, settings, buffer.filled(), record)).await
}

/// What an attempt leaves: its connection, for others, where that is clean.
fn after<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: Lease<P::Stream>,
    relayed: Result<Relayed, Failed<P::Stream>>,
) -> Result<After, Failed<P::Stream>> {
    let clean = match &relayed {
        Ok(relayed) => relayed.reusable,
        Err(Failed::Again(next)) => next.clean && exchange.is_sent(),
        Err(Failed::Fault(_)) => false,
    };
    if clean {
        lease.give_back(exchange.conn.core.now_ms(), Some(&exchange.conn.private));
    }
    relayed.map(|relayed| relayed.after)
}
