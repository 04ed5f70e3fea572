//! Faults made on purpose: which requests wait or fail, by the route's settings. For tests of those who call; the
//! upstream hears nothing of an aborted request.

use crate::config::snapshot::FaultInjection;
use crate::http::message::RequestHead;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It waits so long first.
    pub(super) delay_ms: u32,
    /// The status that it is answered with.
    pub(super) abort: Option<u16>,
}

/// Draws for one request.
pub(super) fn faults(
    fault: &FaultInjection,
    head: &RequestHead<'_>,
    mut draw: impl FnMut() -> u64,
) -> Verdict {
    if !fault.matches.agrees(head.query(), head) {
        return Verdict { delay_ms: 0, abort: None };
    }
    let delay = fault.delay.filter(|(_, chance)| chance.hits(draw()));
    let abort = fault.abort.filter(|(_, chance)| chance.hits(draw()));
    Verdict {
        delay_ms: delay.map_or(0, |(duration, _)| duration.as_millis() as u32),
        abort: abort.map(|(status, _)| status),
    }
}
