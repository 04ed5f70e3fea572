//! The settings of an adaptive limit, compiled.

use super::{Settings, settings};
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::At;

pub(crate) fn compile(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: Option<&settings::AdaptiveConcurrency>,
) -> Option<Settings> {
    let raw = raw?;
    let at = item.field("adaptive_concurrency");
    if !(raw.min <= raw.initial && raw.initial <= raw.max) {
        let (min, initial, max) = (raw.min, raw.initial, raw.max);
        found.bad_value(
            &at,
            format_args!("`initial` ({initial}) lies between `min` ({min}) and `max` ({max})"),
        );
    }
    Some(Settings { limit_min: raw.min, limit_max: raw.max, limit_initial: raw.initial, ..Settings::DEFAULT })
}
