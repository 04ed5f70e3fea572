//! Which arm of a split a request takes, and how the arms of a canary fare.
//!
//! Shares are `policy::split`'s arithmetic; what a canary's share is the control thread decides.

use std::net::IpAddr;
use std::sync::Arc;

use super::caller::with_hashed;
use super::core::Bound;
use super::downstream::Downstream;
use super::record::Record;
use super::watch::GONE;
use crate::config::snapshot::{Action, Destination, Split};
use crate::http::grpc::GrpcStatus;
use crate::http::message::RequestHead;
use crate::net::platform::Platform;
use crate::policy::canary::Outcome;
use crate::policy::split::{Override, Point};

/// Why a request takes its arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The arm's own match.
    Match,
    /// A hash of the request.
    Hash,
    /// At random.
    Draw,
}

/// The arm that a request takes. `None`: all shares are nothing.
pub(super) fn arm(
    split: &Split,
    share_bp: Option<u32>,
    head: &RequestHead<'_>,
    client: Option<IpAddr>,
    draw: impl FnOnce() -> u64,
) -> Option<(usize, By)> {
    let agrees = |arm: &crate::config::snapshot::Arm| {
        arm.matches.as_ref().is_some_and(|rule| rule.agrees(head.query(), head))
    };
    if let Some(arm) = split.arms.iter().position(agrees) {
        return Some((arm, By::Match));
    }
    // An empty value tells nobody from another: all who send one would take the same arm.
    let point = |key: &[u8]| (!key.is_empty()).then(|| split.shares.point(key));
    let hashed = split.hash_on.as_ref().and_then(|on| with_hashed(on, head, client, point)).flatten();
    let (point, by) = hashed.map_or_else(|| (Point::drawn(draw()), By::Draw), |point| (point, By::Hash));
    let set =
        split.canary.as_ref().zip(share_bp).map(|(canary, share_bp)| Override { arm: canary.arm, share_bp });
    split.shares.arm(point, set).map(|arm| (arm, by))
}

/// Where a request goes whose route has upstreams.
pub(super) fn choose<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    route: usize,
    head: &RequestHead<'_>,
    client: Option<IpAddr>,
    record: &mut Record,
) -> Option<Destination> {
    let split = match &bound.snapshot.routes[route].action {
        Action::Upstream(destination) => return Some(*destination),
        Action::Split(split) => split,
        Action::Respond(_) | Action::Redirect(_) => return None,
    };
    let share_bp = bound.trials[route].as_ref().map(|trial| trial.share_bp());
    let (arm, _) = arm(split, share_bp, head, client, || conn.core.platform.random())?;
    record.arm = Some(arm as u16);
    if let Some(draft) = &mut record.draft {
        draft.arm = Some(Arc::clone(&split.arms[arm].name));
    }
    Some(split.arms[arm].destination)
}

/// An exchange is over after so long: counts it to its arm, and to the trial that the arm is in. Refusals count too: an arm
/// whose endpoints are all left out, or whose breaker rejects, has failed the client like any other. So does what a retry
/// has recovered: arms are compared by what they do, and behind retries one that fails every third time looks well until
/// their budget is spent.
pub(super) fn learn<S>(worker: usize, bound: &Bound<S>, record: &Record, duration_us: u64) {
    let (Some(route), Some(arm)) = (record.matched, record.arm) else { return };
    let (route, arm) = (route as usize, usize::from(arm));
    if let Some(counts) = bound.arms.get(&route).and_then(|arms| arms.get(arm)) {
        counts.count(record.status);
    }
    let (Some(trial), Action::Split(split)) = (&bound.trials[route], &bound.snapshot.routes[route].action)
    else {
        return;
    };
    let (Some(canary), Some(cells)) = (&split.canary, trial.cells.get(worker)) else { return };
    let cells = match arm {
        arm if arm == canary.arm => &cells.canary,
        arm if arm == canary.baseline => &cells.baseline,
        _ => return,
    };
    if record.ours {
        // Neither arm has had the request, or is to blame for its end.
        return;
    }
    let grpc_failed = record.grpc_status.is_some_and(GrpcStatus::is_servers_fault);
    if record.status >= 500 || record.cut_upstream || grpc_failed || record.recovered {
        cells.record(Outcome::Error, 0);
    } else if record.answered_ns > 0 {
        // An answer that came before the whole request was sent took no time.
        let sent_ns = if record.sent_ns > 0 { record.sent_ns } else { record.answered_ns };
        cells.record(Outcome::Success, record.answered_ns.saturating_sub(sent_ns) / 1_000);
    } else if record.reason == Some(GONE.reason) && record.sent_ns > 0 {
        // The client lost patience: it would have taken this long at the least. An arm that never answers shows by that.
        let ended_ns = record.started_ns + duration_us * 1_000;
        cells.record(Outcome::Success, ended_ns.saturating_sub(record.sent_ns) / 1_000);
    }
}
