//! Hedging: a request that has had no answer for a while is sent a second time to another endpoint, and whoever
//! answers first answers (Dean and Barroso, "The Tail at Scale", 2013).
//!
//! Only for requests that are whole in the connection's buffer, so that both attempts send the same bytes. The one that
//! loses is given up: its connection is closed, or its stream reset.

use std::io::IoSlice;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::attempt::{open, take};
use super::exchange::Exchange;
use super::record::Record;
use super::retry::Retrying;
use super::shape::encode_for;
use super::upstream::{Endpoint, Lease, Want};
use super::watch::{GONE, gone};
use crate::base::deadline::Expired;
use crate::base::fault::Fault;
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::http::flow::{Batch, Flow};
use crate::net::platform::Platform;
use crate::net::stream::{Peek, Transport};
use crate::policy::deadline::Deadline;
use crate::policy::outlier::Outcome;
use crate::policy::retry::{self, Attempt, Body, Hedge, Response};
use crate::telemetry::metrics::Counter;

/// Waits for the answer to an attempt that is out, hedges it if that takes too long, and gives the other attempt if that is
/// the one whose answer has begun to come. `request` is the whole request as it came.
pub(super) async fn first<P: Platform>(
    exchange: &Exchange<'_, P>,
    lease: &Lease<P::Stream>,
    hedge: &Hedge,
    request: &[u8],
    record: &mut Record,
) -> Result<Option<Lease<P::Stream>>, Fault> {
    let conn = exchange.conn;
    let core = &conn.core;
    conn.deadline.arm(core.tick_ns() / 1_000_000, Duration::from_millis(hedge.after_ms.get()));
    let waited = conn.deadline.bound(lease.stream().readable()).await;
    if waited.is_ok() || conn.deadline.expired() != Expired::Phase || core.stopping.is_raised() {
        return Ok(None);
    }
    let Some((endpoint, place)) = second(exchange, hedge, &lease.endpoint, record) else { return Ok(None) };
    let Ok(admitted) = exchange.admit(record) else { return Ok(None) };
    core.metrics.count(Counter::Hedges);
    record.attempts += 1;
    let mut bytes = core.take_head();
    let encoded = encode(exchange, request, &endpoint, record, &mut bytes);
    let opened = {
        let sent = pin!(async {
            encoded?;
            let (mut other, found) = take(exchange, admitted, &endpoint);
            if !found {
                open(exchange, &mut other).await?;
            }
            let wrote = exchange.pump().write_all(other.stream(), &mut [IoSlice::new(&bytes)], &mut 0).await;
            wrote.map_err(|error| exchange.not_sent(&other, error, 0))?;
            exchange.waits_for(&other);
            Ok::<_, Fault>(other)
        });
        // The first may answer while the second is still being sent.
        race(pin!(lease.stream().readable()), sent).await
    };
    core.give_head(bytes);
    let other = match opened {
        First::Left(_) | First::Right(Err(_)) => return Ok(None),
        First::Right(Ok(other)) => other,
    };
    conn.deadline.arm(core.tick_ns() / 1_000_000, exchange.response_head());
    let winner = {
        let either = pin!(race_readable(lease, &other));
        match conn.deadline.bound(race(either, pin!(gone(conn)))).await {
            Ok(First::Left(winner)) => winner,
            Ok(First::Right(())) => return Err(GONE),
            Err(_) => {
                let reason = ReasonCode::UpstreamResponseTimeout;
                let too_slow = |lease| exchange.timed_out(lease, &conn.deadline, Outcome::Timeout, reason);
                too_slow(lease);
                return Err(too_slow(&other));
            }
        }
    };
    drop(place);
    if winner == Winner::First {
        return Ok(None);
    }
    // It would have taken longer still: that much is known of it, and nothing else. Least of all that it is well.
    lease.lost_race(core.tick_ns());
    core.metrics.count(Counter::HedgesWon);
    if record.draft.is_some() {
        record.endpoint = Some(endpoint.address.clone());
    }
    Ok(Some(other))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Winner {
    First,
    Second,
}

/// Whose answer begins first. A connection that ends without one loses, unless both do.
async fn race_readable<S: Transport>(first: &Lease<S>, second: &Lease<S>) -> Winner {
    let closed = |lease: &Lease<S>| lease.stream().peek() == Peek::Closed;
    match race(pin!(first.stream().readable()), pin!(second.stream().readable())).await {
        First::Left(_) if closed(first) => {
            let _ = second.stream().readable().await;
            Winner::Second
        }
        First::Right(_) if closed(second) => {
            let _ = first.stream().readable().await;
            Winner::First
        }
        First::Left(_) => Winner::First,
        First::Right(_) => Winner::Second,
    }
}

/// An endpoint for a second attempt, and its place in the budget.
type Second<S> = (Rc<Endpoint<S>>, Retrying<S>);

/// Another endpoint and a place in the budget, if both are to be had.
fn second<P: Platform>(
    exchange: &Exchange<'_, P>,
    hedge: &Hedge,
    first: &Rc<Endpoint<P::Stream>>,
    record: &mut Record,
) -> Option<Second<P::Stream>> {
    let &Exchange { conn, plan, upstream, .. } = exchange;
    let now_ms = conn.core.now_ms();
    let avoid = std::slice::from_ref(first);
    let want = Want {
        group: plan.group,
        key: plan.key,
        sticky: None,
        private: None,
        avoid,
        repeat: true,
        last_resort: false,
    };
    let chosen = upstream.choose(&want, now_ms, || conn.core.platform.random()).ok()?;
    if Rc::ptr_eq(&chosen, first) {
        return None;
    }
    let attempt = Attempt {
        method: plan.requester.method,
        body: Body::Replayable,
        response: Response::NotStarted,
        number: record.attempts,
        free: record.free_attempts,
        arrived_as: plan.hop.arrived_as,
        deadline_ms: plan.hop.deadline.and_then(Deadline::at_ms),
        retry_after_ms: None,
    };
    match retry::hedge(hedge, &mut upstream.budget(), &attempt, now_ms) {
        Ok(()) => Some((chosen, Retrying::new(upstream))),
        Err(refusal) => {
            conn.core.metrics.retry_refused(refusal.label());
            None
        }
    }
}

/// The whole request, for another endpoint.
fn encode<P: Platform>(
    exchange: &Exchange<'_, P>,
    request: &[u8],
    endpoint: &Endpoint<P::Stream>,
    record: &Record,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let plan = exchange.plan;
    encode_for(&exchange.request(request), endpoint, out)?;
    let length = out.len() - 2;
    plan.hop.stamp(out, length, record.sent_before + 1, exchange.conn.core.now_ms());
    let mut flow = Flow::new(plan.body, plan.body);
    let (mut body, mut batch) = (&request[plan.head_bytes..], Batch::default());
    while !flow.is_ended() {
        flow.step(body, &mut batch).map_err(|error| Fault::downstream(error.reason(), 400))?;
        batch.copy(body, out);
        if batch.consumed == 0 {
            break;
        }
        body = &body[batch.consumed..];
    }
    Ok(())
}
