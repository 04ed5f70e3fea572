//! Which endpoints take requests.

use super::{State, Traffic, Verdict};
use crate::policy::explain::line;

/// One endpoint.
pub fn endpoint(address: impl std::fmt::Display, state: State, out: &mut String) {
    let what = match (state.verdict, state.traffic) {
        (Verdict::Unhealthy, _) => "left out: its health checks fail",
        (_, Traffic::Ejected) => "left out: ejected by outlier detection",
        (_, Traffic::Probing) => "on trial: a request at a time",
        (Verdict::Healthy, Traffic::Admitting) => "takes requests: healthy",
        (Verdict::Unchecked, Traffic::Admitting) => "takes requests",
    };
    line(out, "endpoint", format_args!("{address}: {what}"));
}
