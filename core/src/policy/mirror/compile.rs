//! Mirrors, compiled.

use std::time::Duration;

use super::settings;
use crate::base::limits;
use crate::policy::chance::Chance;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};
use crate::settings::units::Size;

/// Who gets a copy of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirror {
    /// An index of the snapshot's upstreams.
    pub upstream: usize,
    pub chance: Chance,
    /// Of a body that is copied.
    pub body_bytes_max: usize,
    /// For each worker.
    pub in_flight_max: u32,
    pub timeout: Duration,
}

/// `own`: the upstream that the requests themselves go to.
pub(crate) fn compile(
    found: &mut Diagnostics,
    item: &At<'_>,
    given: &[settings::Mirror],
    own: Option<&str>,
    find_upstream: &dyn Fn(&mut Diagnostics, &At<'_>, &str) -> Option<usize>,
) -> Box<[Mirror]> {
    let list = item.field("mirrors");
    found.count(&list, "mirrors", given.len(), limits::MIRRORS_PER_ROUTE_MAX);
    let mirrors = given.iter().enumerate().filter_map(|(index, raw)| {
        let at = list.index(index);
        let upstream = find_upstream(found, &at.field("upstream"), &raw.upstream)?;
        if raw.body_bytes.bytes() > limits::MIRROR_BODY_BYTES_MAX as u64 {
            let max = Size::from_bytes(limits::MIRROR_BODY_BYTES_MAX as u64);
            found.bad_value(&at.field("body_bytes"), format_args!("at most {max}"));
        }
        let mirrors_itself = own == Some(raw.upstream.as_str());
        if mirrors_itself {
            let message = format_args!("`{}` gets each request twice", raw.upstream);
            found.warnings.add(ProblemKind::Suspicious, &at.field("upstream"), message);
        }
        Some(Mirror {
            upstream,
            chance: Chance::from_percent(raw.percent),
            body_bytes_max: raw.body_bytes.bytes() as usize,
            in_flight_max: raw.in_flight_max,
            timeout: raw.timeout.as_std(),
        })
    });
    mirrors.collect()
}
