//! THE request path, top to bottom: one exchange from its head to its record. The phases are those of
//! [`Phase`](crate::policy::Phase), in its order.
//!
//! Nothing that others wait for is taken before the attempt: permits and endpoints are the attempt loop's, so a look-up
//! holds neither.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use super::body::Tee;
use super::core::{Bound, Scratch};
use super::downstream::{After, Downstream};
use super::exchange::{Answer, Exchange, Outgoing};
use super::finish;
use super::forward;
use super::in_hand::parking;
use super::lookup::{self, Found, Question};
use super::mirror;
use super::phases::{Seen, Verdict};
use super::plan::Plan;
use super::record::Record;
use super::respond::{self, Requester};
use super::shape;
use crate::base::buffer::Buffer;
use crate::base::fault::{Blame, Fault};
use crate::base::reason::ReasonCode;
use crate::http::framing::{BodyLength, HeadRule};
use crate::http::http1::encode::Persistence;
use crate::http::http1::parse::{Parsed, lower_minor_version, parse_request};
use crate::http::message::RequestIndex;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::policy::deadline::Left;

/// What an attempt to serve a request came to.
pub(super) enum Progress {
    /// The head is not complete.
    NeedMore,
    /// An exchange has ended.
    Done(After),
}

/// One exchange, from the bytes in `buffer` on.
pub(super) async fn serve<P: Platform>(conn: &Downstream<P>, buffer: &mut Buffer) -> Progress {
    let core = &conn.core;
    // 1 pin the snapshot, take the framed head
    let bound = core.bound();
    let started_ns = core.tick_ns();
    let mut scratch = core.take_scratch();
    let Scratch { out, request: index } = &mut *scratch;
    let parsed = loop {
        let parsed = match parse_request(buffer.filled(), index, &bound.head_limits) {
            Ok(Parsed::Complete(head)) => Ok(Plan::new(conn, &bound, &head)),
            Ok(Parsed::Partial) => {
                core.give_scratch(scratch);
                return Progress::NeedMore;
            }
            Err(error) => Err(error),
        };
        let lowered = matches!(&parsed, Err(error) if error.rule == HeadRule::VersionUnsupported)
            && lower_minor_version(buffer.filled_mut());
        if !lowered {
            break parsed;
        }
    };
    let mut record = Record::new(core.platform.random(), started_ns);
    let _active = conn.started();
    let mut answer = Answer { record: &mut record, out };
    let (outcome, reply) = match parsed {
        Ok(mut plan) => {
            finish::log_head(conn, &bound, &index.head(buffer.filled()), plan.client, answer.record);
            // 2 to 9
            let outcome = match decide(conn, &bound, index, &mut plan, buffer, &mut answer).await {
                Ok(Decided::Answered(status)) => Ok(say(conn, &plan, buffer, status, &mut answer).await),
                // 10 to 12
                Ok(Decided::GoesUpstream) => send(conn, &bound, index, &plan, buffer, &mut answer).await,
                Err(fault) => Err(fault),
            };
            conn.deadline.cap(0, Duration::ZERO);
            conn.deadline.cap_attempt(0, Duration::ZERO);
            // The request's body may be half read: only what is in hand whole leaves a clean connection.
            let headless = Reply { requester: plan.requester, ..Reply::HEADLESS };
            (outcome, if answer.record.intact { plan.reply() } else { headless })
        }
        Err(error) => {
            finish::log_headless(conn, answer.record);
            (Err(Fault::downstream(error.reason(), error.status())), Reply::HEADLESS)
        }
    };
    let after = match outcome {
        Ok(after) => after,
        Err(fault) if answer.record.response_started || fault.status == 0 => {
            cut(conn, answer.record, fault);
            After::Close
        }
        Err(fault) => refuse(conn, buffer, fault, &reply, &mut answer).await,
    };
    core.give_scratch(scratch);
    // 13 record
    finish::finish(conn, &bound, &record);
    Progress::Done(after)
}

/// What becomes of a request.
enum Decided {
    /// It is answered: a response of our own with this status is encoded.
    Answered(u16),
    GoesUpstream,
}

/// 2 to 9: what is decided before anything is sent. Only here a request waits for a look-up.
async fn decide<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    index: &RequestIndex,
    plan: &mut Plan,
    buffer: &mut Buffer,
    answer: &mut Answer<'_>,
) -> Result<Decided, Fault> {
    let started_ms = answer.record.started_ns / 1_000_000;
    loop {
        let head = index.head(buffer.filled());
        let mut seen = Seen { conn, bound, head, record: answer.record, out: answer.out };
        match plan.run(&mut seen) {
            Verdict::GoOn => {
                plan.cap(conn, started_ms);
                return Ok(Decided::GoesUpstream);
            }
            Verdict::Answer(status) => return Ok(Decided::Answered(status)),
            Verdict::Refuse(fault) => return Err(fault),
            Verdict::LookUp(question) => {
                let mut asking = Box::pin(plan.look_up(conn, question, started_ms));
                let found = parking(buffer, asking.as_mut()).await?;
                drop(asking);
                plan.found = Some(found);
            }
        }
    }
}

/// Gives an answer of our own.
async fn say<P: Platform>(
    conn: &Downstream<P>,
    plan: &Plan,
    buffer: &mut Buffer,
    status: u16,
    answer: &mut Answer<'_>,
) -> After {
    answer.record.status = status;
    let after = after_body(buffer, &plan.reply());
    if parking(buffer, pin!(conn.write(answer.out))).await.is_err() { After::Close } else { after }
}

/// 10 to 12: attempts, the response's shape, its head and body.
async fn send<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    index: &RequestIndex,
    plan: &Plan,
    buffer: &mut Buffer,
    answer: &mut Answer<'_>,
) -> Result<After, Fault> {
    let destination = plan.destination.expect("`shape` has decided it before anything is sent");
    let mut exchange = Exchange {
        conn,
        bound,
        plan,
        index,
        route: &bound.snapshot.routes[plan.route],
        destination,
        upstream: conn.core.upstream(bound, destination.upstream),
        copies: mirror::copies(&shape::Request::new(conn, bound, plan, index.head(buffer.filled()))),
        tee: Tee::new(0, None),
        outgoing: Cell::new(Outgoing::Sending),
        unread: Cell::new(false),
        continued: Cell::new(false),
        moved_ms: Cell::new(0),
        connecting: Cell::new(Duration::ZERO),
    };
    if plan.connect {
        Box::pin(forward::tunnel(&exchange, buffer, answer)).await
    } else {
        forward::forward(&mut exchange, buffer, answer).await
    }
}

/// How an answer of our own is given, and what it leaves of the request.
#[derive(Debug, Clone, Copy)]
struct Reply {
    requester: Requester,
    head_bytes: usize,
    body: BodyLength,
    keep_alive: bool,
}

impl Reply {
    /// To a request that could not be read, or was read in part.
    const HEADLESS: Self = Self {
        requester: Requester::UNKNOWN,
        head_bytes: 0,
        body: BodyLength::UntilClose,
        keep_alive: false,
    };
}

impl Plan {
    fn reply(&self) -> Reply {
        let Self { requester, head_bytes, body, keep_alive, .. } = *self;
        Reply { requester, head_bytes, body, keep_alive }
    }

    /// From here on no wait lasts longer than the request may.
    fn cap<P: Platform>(&self, conn: &Downstream<P>, started_ms: u64) {
        if let Left::Ms(left) = self.hop.left(started_ms) {
            conn.deadline.cap(started_ms, Duration::from_millis(left.get()));
        }
    }

    /// Waits for what a phase has asked.
    async fn look_up<P: Platform>(
        &self,
        conn: &Downstream<P>,
        question: Question,
        started_ms: u64,
    ) -> Result<Found, Fault> {
        self.cap(conn, started_ms);
        let found = lookup::find(conn, question).await?;
        match self.hop.left(conn.core.now_ms()) {
            Left::Nothing => Err(Fault::policy(ReasonCode::RequestTimeout, 504)),
            Left::Ms(_) | Left::Unbounded => Ok(found),
        }
    }
}

/// Answers with a problem document. The connection lives on if the whole request is in hand.
async fn refuse<P: Platform>(
    conn: &Downstream<P>,
    buffer: &mut Buffer,
    fault: Fault,
    reply: &Reply,
    answer: &mut Answer<'_>,
) -> After {
    let Answer { record, out } = answer;
    let after = after_body(buffer, reply);
    let persistence = if after == After::KeepAlive { Persistence::KeepAlive } else { Persistence::Close };
    record.status = fault.status;
    record.reason = Some(fault.reason);
    record.ours = fault.blame == Blame::Ourselves;
    out.clear();
    let (date, bound) = (conn.core.date(conn.core.tick_ns()), conn.core.bound());
    respond::problem(fault, record, reply.requester, persistence, &conn.common(&bound, &date), out);
    if parking(buffer, pin!(conn.write(out))).await.is_err() { After::Close } else { after }
}

/// The client can't be told any more: the response is under way, or the client is gone.
fn cut<P: Platform>(conn: &Downstream<P>, record: &mut Record, fault: Fault) {
    record.reason = Some(fault.reason);
    record.cut_upstream = fault.blame == Blame::Upstream;
    record.ours = fault.blame == Blame::Ourselves;
    if record.status == 0 {
        record.status = 499;
    }
    if record.response_started {
        // So that the client can't take a cut body for a whole one.
        conn.stream.abort_on_close();
    }
}

/// Drops a request that is answered without being read further. If its body is not in hand whole, the connection can't
/// be used again, and its rest is read away for a while so that the answer is not lost to a reset.
fn after_body(buffer: &mut Buffer, reply: &Reply) -> After {
    let &Reply { head_bytes, body, keep_alive, .. } = reply;
    let in_hand = buffer.filled().len().saturating_sub(head_bytes) as u64;
    match body {
        BodyLength::None if keep_alive => {
            buffer.consume(head_bytes);
            After::KeepAlive
        }
        BodyLength::Length(length) if length <= in_hand && keep_alive => {
            buffer.consume(head_bytes + length as usize);
            After::KeepAlive
        }
        BodyLength::None => After::Close,
        BodyLength::Length(length) if length <= in_hand => After::Close,
        BodyLength::Length(_) | BodyLength::Chunked | BodyLength::UntilClose => After::Linger,
    }
}
