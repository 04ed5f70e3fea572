//! The only place that waits for what a phase asks.
//!
//! A phase of `phases` is a function. One that needs an answer from elsewhere says [`Question`]; this waits for it, and the
//! phase is asked again with what was [`Found`]. Meanwhile the exchange holds the bytes that its client has sent, what
//! limits granted, and nothing else: no permit, no endpoint, no connection. A wait ends by its answer, its time-out, the
//! end of the request's time, the client's leaving, or the worker's end.

use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use super::downstream::Downstream;
use super::watch::{GONE, elapsed, gone};
use crate::base::deadline::Expired;
use crate::base::fault::Fault;
use crate::base::limits::WATCH_CLIENT_AFTER_MS;
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::net::platform::Platform;

/// What a phase wants to know before it goes on.
#[derive(Debug)]
pub(super) enum Question {
    /// Nothing: it waits on purpose.
    Delay { ms: u64 },
    #[cfg(test)]
    Test(tests::Ask),
}

/// The answer.
#[derive(Debug)]
pub(super) enum Found {
    /// The time has passed.
    Waited,
    #[cfg(test)]
    Test(u16),
}

/// Waits for the answer to a question.
pub(super) async fn find<P: Platform>(conn: &Downstream<P>, question: Question) -> Result<Found, Fault> {
    match question {
        Question::Delay { ms } => {
            pause(conn, ms).await?;
            Ok(Found::Waited)
        }
        #[cfg(test)]
        Question::Test(ask) => {
            let found = within(conn, ask.timeout_ms, ask.answer()).await?;
            found.map(Found::Test).ok_or(Fault::ourselves(ReasonCode::RequestTimeout, 504))
        }
    }
}

/// Waits on purpose.
pub(super) async fn pause<P: Platform>(conn: &Downstream<P>, ms: u64) -> Result<(), Fault> {
    within(conn, ms, pending::<()>()).await.map(|_| ())
}

/// Waits for an answer, but not longer than `timeout_ms`: then nothing. A fault, if nobody waits for it any more. Whether
/// the client has gone is looked at after a while only: most answers come soon, and a second wait would be wasted.
async fn within<P: Platform, T>(
    conn: &Downstream<P>,
    timeout_ms: u64,
    answer: impl Future<Output = T>,
) -> Result<Option<T>, Fault> {
    let mut answer = pin!(answer);
    let since_ms = conn.core.tick_ns() / 1_000_000;
    conn.deadline.arm(since_ms, Duration::from_millis(timeout_ms.min(WATCH_CLIENT_AFTER_MS)));
    let mut found = conn.deadline.bound(answer.as_mut()).await.ok();
    if found.is_none() && timeout_ms > WATCH_CLIENT_AFTER_MS && !is_over(conn) {
        conn.deadline.arm(since_ms, Duration::from_millis(timeout_ms));
        let client = pin!(gone(conn));
        found = match conn.deadline.bound(race(answer, client)).await {
            Ok(First::Left(found)) => Some(found),
            Ok(First::Right(())) => return Err(GONE),
            Err(_) => None,
        };
    }
    conn.core.tick_ns();
    if found.is_none() && is_over(conn) {
        return Err(elapsed(conn, &conn.deadline, ReasonCode::RequestTimeout, 504));
    }
    Ok(found)
}

/// A wait has ended for another reason than its own time.
fn is_over<P: Platform>(conn: &Downstream<P>) -> bool {
    conn.core.stopping.is_raised() || conn.deadline.expired() != Expired::Phase
}

#[cfg(test)]
pub(super) mod tests;
