//! The settings of a breaker, compiled.

use std::num::NonZeroU8;

use super::{Settings, settings};
use crate::base::limits;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};
use crate::settings::units::Duration;

pub(crate) fn compile(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: Option<&settings::Breaker>,
) -> Option<Settings> {
    let raw = raw?;
    let at = item.field("breaker");
    if raw.window < Duration::from_secs(1) || raw.window.millis() > limits::BREAKER_WINDOW_MS_MAX {
        let max = limits::BREAKER_WINDOW_MS_MAX / 60_000;
        found.bad_value(&at.field("window"), format_args!("{} is out of range: 1s to {max}m", raw.window));
    }
    if raw.error_percent == 0 && raw.slow.is_none() {
        found
            .errors
            .add(ProblemKind::Conflict, &at, "it would never reject: neither errors nor slowness matter")
            .hint("give it `error_percent` or `slow`");
    }
    if raw.rejecting_max < raw.rejecting {
        found
            .errors
            .add(
                ProblemKind::Conflict,
                &at.field("rejecting_max"),
                format_args!("{} is shorter than the first time", raw.rejecting_max),
            )
            .with(&at.field("rejecting"));
    }
    if raw.rejecting_max.millis() > limits::BREAKER_REJECTING_MS_MAX {
        let max = limits::BREAKER_REJECTING_MS_MAX / 60_000;
        found.bad_value(
            &at.field("rejecting_max"),
            format_args!("{} is too long: at most {max}m", raw.rejecting_max),
        );
    }
    Some(Settings {
        window_ms: raw.window.millis(),
        requests_min: raw.requests_min,
        error_percent: NonZeroU8::new(raw.error_percent),
        slow_ms: raw.slow.map_or(u64::MAX, Duration::millis),
        slow_percent: raw.slow.and_then(|_| NonZeroU8::new(raw.slow_percent)),
        rejecting_ms: raw.rejecting.millis(),
        rejecting_ms_max: raw.rejecting_max.millis(),
        probes: raw.probes,
    })
}
