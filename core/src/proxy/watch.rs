//! Is the client still there? Watched for as long as anything is owed to it, while something else is waited for.
//!
//! A client that has reset its connection, or its stream, has gone. One that has closed only its own half may still want
//! its answer, or may have gone: the end of its half alone does not tell. It is served; but where nothing can be sent to
//! it, it is waited for no longer than `timeouts.half_closed`. A write to a client that has gone is answered with a reset,
//! which ends the exchange.

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::downstream::Downstream;
use super::in_hand::parking;
use crate::base::buffer::Buffer;
use crate::base::deadline::{Deadline, Expired};
use crate::base::fault::{Fault, Retry};
use crate::base::limits::{LOOK_AT_CLIENT_MS, WATCH_CLIENT_AFTER_MS};
use crate::base::reason::ReasonCode;
use crate::net::platform::Platform;
use crate::net::stream::{Peek, Presence, Transport as _};

/// The client left before its answer came, or was whole.
pub(super) const GONE: Fault = Fault::downstream(ReasonCode::ClientGone, 0);

/// Resolves when the client has gone.
pub(super) async fn gone<P: Platform>(conn: &Downstream<P>) {
    watch(conn, 0).await;
}

/// The same, after a while: the common wait is over before it. From the moment on at which nobody reads from the client any more: who reads sees it go.
pub(super) async fn gone_once<P: Platform>(conn: &Downstream<P>, unread: &Cell<bool>) {
    // Looked at when this is polled again, which the end of the one who reads, in the same task, brings about.
    poll_fn(|_| if unread.get() { Poll::Ready(()) } else { Poll::Pending }).await;
    watch(conn, WATCH_CLIENT_AFTER_MS).await;
}

/// Waits, but not after the client has gone; then `None`. The watch is on the heap, and not before the wait has turned
/// out to be one: a wait that is over at once pays nothing for it, nor does the task that holds it.
pub(super) async fn unless_gone<P: Platform, F: Future>(
    conn: &Downstream<P>,
    mut wait: Pin<&mut F>,
) -> Option<F::Output> {
    let mut client = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = wait.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let client = client.get_or_insert_with(|| Box::pin(watch(conn, WATCH_CLIENT_AFTER_MS)));
        client.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// Waits on a client's behalf: parks its buffer, and gives up when it has gone.
pub(super) async fn waiting<P: Platform, T>(
    conn: &Downstream<P>,
    buffer: &mut Buffer,
    wait: Pin<&mut impl Future<Output = Result<T, Fault>>>,
) -> Result<T, Fault> {
    unless_gone(conn, pin!(parking(buffer, wait))).await.unwrap_or(Err(GONE))
}

async fn watch<P: Platform>(conn: &Downstream<P>, after_ms: u64) {
    let now_ms = || conn.core.platform.now_ms();
    let look = conn.core.deadlines.deadline();
    let mut pause_ms = after_ms;
    // The client has sent something, or its end: it is readable for good, and can only be looked at.
    let mut readable = false;
    let mut half_closed_ms = None;
    loop {
        if pause_ms > 0 {
            look.arm(now_ms(), Duration::from_millis(pause_ms));
            let _ = look.bound(pending::<()>()).await;
        }
        pause_ms = LOOK_AT_CLIENT_MS;
        if !readable {
            if conn.stream.readable().await.is_err() {
                return;
            }
            readable = conn.stream.peek() != Peek::Quiet;
        }
        match conn.stream.presence() {
            Presence::Gone => return,
            Presence::HalfClosed => {
                let since_ms = *half_closed_ms.get_or_insert_with(now_ms);
                let patience = conn.half_closed_timeout().as_millis() as u64;
                let left_ms = (since_ms + patience).saturating_sub(now_ms());
                if left_ms == 0 {
                    return;
                }
                pause_ms = pause_ms.min(left_ms);
            }
            Presence::Here => {}
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
