//! What a breaker does.

use crate::policy::explain::line;

/// `states`: of the workers, where any run.
pub fn explain(states: &[&str], out: &mut String) {
    let now = if states.is_empty() { String::new() } else { format!("; workers: {}", states.join(", ")) };
    line(out, "breaker", format_args!("503 breaker_rejecting while it rejects{now}"));
}
