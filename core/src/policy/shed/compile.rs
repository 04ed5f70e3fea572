//! Shedding, compiled.

use super::{Class, Settings, settings};
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// When a worker refuses requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shedding {
    /// Requests in flight in one worker; `u32::MAX`: no bound.
    pub in_flight_max: u32,
    /// From which level on, for which class.
    pub levels: Settings,
}

pub(crate) fn compile(found: &mut Diagnostics, raw: &settings::Shedding) -> Shedding {
    let at = At::Root.field("shedding");
    if raw.low_percent > raw.normal_percent {
        found
            .errors
            .add(
                ProblemKind::Conflict,
                &at.field("low_percent"),
                format_args!(
                    "routes of priority `low` would be refused later ({} %) than those of `normal` ({} %)",
                    raw.low_percent, raw.normal_percent
                ),
            )
            .with(&at.field("normal_percent"));
    }
    Shedding {
        in_flight_max: found.off_or_count(&at.field("requests_max"), raw.requests_max),
        levels: Settings {
            low_percent: raw.low_percent,
            normal_percent: raw.normal_percent,
            high_percent: 100,
            retry_after_s: u32::from(raw.retry_after_s),
        },
    }
}

/// How much a route's requests matter.
pub(crate) fn class(priority: settings::Priority) -> Class {
    match priority {
        settings::Priority::High => Class::High,
        settings::Priority::Normal => Class::Normal,
        settings::Priority::Low => Class::Low,
    }
}
