//! How much a route's requests matter.

use super::Class;
use crate::policy::explain::line;

/// A route's priority.
pub fn explain(class: Class, out: &mut String) {
    let class = match class {
        Class::High => "high",
        Class::Normal => "normal",
        Class::Low => "low",
    };
    line(out, "priority", format_args!("{class}; shed with 503 when its worker is too busy"));
}
