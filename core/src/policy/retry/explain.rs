//! How often a request is tried.

use super::Settings;
use crate::policy::explain::line;

/// The attempts of a route.
pub fn explain(settings: &Settings, out: &mut String) {
    let attempts = settings.attempts_max;
    line(out, "attempts", format_args!("up to {attempts}, where it is safe or configured"));
}
