//! What a limit of a route would do.

use super::compile::{AppliedRate, InFlightLimit, RateLimit};
use super::rule::{Mode, OnExcess};
use crate::policy::explain::line;

/// `key`: what the request is counted by, in words. `tokens`: what its bucket holds, where that is known.
pub fn rate(limit: &RateLimit, applied: &AppliedRate, key: &str, tokens: Option<i64>, out: &mut String) {
    let rule = &limit.rule;
    let (count, window_ms) = rule.rate.quota();
    let excess = match rule.on_excess {
        OnExcess::Reject => "else 429 rate_limited".to_owned(),
        OnExcess::Delay { wait_ms_max } => {
            format!("else it waits up to {wait_ms_max} ms, or 429 rate_limited")
        }
    };
    let cost = match &limit.cost_from_response {
        Some(name) => format!("what the response's `{name}` says"),
        None => applied.cost.to_string(),
    };
    let shadow = if rule.mode == Mode::Shadow { ", only counted" } else { "" };
    let burst = rule.rate.burst();
    let state = tokens.map(|tokens| format!("; {tokens} left now")).unwrap_or_default();
    line(
        out,
        "rate limit",
        format_args!(
            "{}: {count} in {window_ms} ms, burst {burst}, for {key}; takes {cost}, {excess}{shadow}{state}",
            rule.name
        ),
    );
}

/// `key`: what the request is counted by, in words.
pub fn in_flight(limit: &InFlightLimit, key: &str, out: &mut String) {
    let (name, max) = (&limit.name, limit.max);
    line(out, "in-flight limit", format_args!("{name}: {max} at once for {key}, else 429 in_flight_limited"));
}
