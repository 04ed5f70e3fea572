//! How long a request may take.

use std::time::Duration;

use crate::policy::explain::line;

/// The whole exchange, and the response's head.
pub fn explain(request: Option<Duration>, response_head: Option<Duration>, out: &mut String) {
    let limit = |duration: Option<Duration>| duration.map_or("off".to_owned(), |d| format!("{d:?}"));
    let (request, response_head) = (limit(request), limit(response_head));
    line(out, "timeouts", format_args!("request {request}, response head {response_head}"));
}
