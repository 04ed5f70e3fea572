//! Faults made on purpose, compiled.

use std::time::Duration;

use super::settings;
use crate::policy::chance::Chance;
use crate::policy::route;
use crate::policy::route::FieldRule;
use crate::policy::route::compile::FieldPlace;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// Faults made on purpose.
#[derive(Debug)]
pub struct FaultInjection {
    pub delay: Option<(Duration, Chance)>,
    /// The status of the answer.
    pub abort: Option<(u16, Chance)>,
    /// Only requests that carry this.
    pub matches: FieldRule,
}

/// The longest wait that is made on purpose.
const FAULT_DELAY_MAX: Duration = Duration::from_secs(600);

pub(crate) fn compile(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: Option<&settings::FaultInjection>,
) -> Option<Box<FaultInjection>> {
    let raw = raw?;
    let at = item.field("fault");
    if raw.delay.is_none() && raw.abort.is_none() {
        found.errors.add(ProblemKind::MissingField, &at, "a fault needs `delay` or `abort`");
    }
    if raw.delay.as_ref().is_some_and(|delay| delay.duration.as_std() > FAULT_DELAY_MAX) {
        let delay = at.field("delay");
        found.bad_value(&delay.field("duration"), "at most 10m");
    }
    let everybody =
        raw.headers.is_empty() && (raw.abort.as_ref().is_some_and(|abort| abort.percent >= 100.0));
    if everybody {
        found.warnings.add(ProblemKind::Suspicious, &at, "every request of this route is made to fail");
    }
    Some(Box::new(FaultInjection {
        delay: raw.delay.as_ref().map(|delay| (delay.duration.as_std(), Chance::from_percent(delay.percent))),
        abort: raw.abort.as_ref().map(|abort| (abort.status, Chance::from_percent(abort.percent))),
        matches: FieldRule {
            headers: route::compile::fields(found, &at.field("headers"), &raw.headers, FieldPlace::Header)
                .into(),
            ..FieldRule::default()
        },
    }))
}
