//! Values of the response fields that tell a client of its limits: `RateLimit-Policy` and `RateLimit` as structured fields
//! (draft-ietf-httpapi-ratelimit-headers-11, sections 3 and 4; RFC 9651) and Retry-After (RFC 9110 section 10.2.3).
//! The request path appends them to a head that it writes anyway; nothing is allocated here.
//!
//! Members are strings, so a rule's name is written within quotes, what a string can't hold as `_`. `q` and `w` are the rate
//! as it is configured, or, of a bucket that holds more than that, what it holds and the time that it takes to fill: so `r`,
//! what is left, is never more than `q`. A window is in whole seconds; one of less or of a fraction is scaled to the next whole
//! one. `t` is the seconds until there is a token more, and on a refusal what Retry-After says; a full bucket has none.
//! Values only ever round towards the careful side.

use super::lease::Rate;
use super::rule::Rule;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Appends a member of `RateLimit-Policy`: `"per-address";q=100;w=60`.
pub fn policy(rule: &Rule, out: &mut Vec<u8>) {
    string(&rule.name, out);
    let (quota, window_s) = quota_per_seconds(&rule.rate);
    out.extend_from_slice(b";q=");
    number(quota, out);
    out.extend_from_slice(b";w=");
    number(window_s, out);
}

/// Appends a member of `RateLimit`: `"per-address";r=50;t=30`. `more_in_s`: zero for a full bucket.
pub fn remaining(rule: &Rule, remaining: u32, more_in_s: u32, out: &mut Vec<u8>) {
    string(&rule.name, out);
    out.extend_from_slice(b";r=");
    number(remaining.into(), out);
    if more_in_s > 0 {
        out.extend_from_slice(b";t=");
        number(more_in_s.into(), out);
    }
}

/// A wait as `t` and Retry-After say it: whole seconds, at least 1, so that a client that obeys is not refused again.
pub fn whole_seconds(wait_ns: u64) -> u32 {
    u32::try_from(wait_ns.div_ceil(NS_PER_SECOND).max(1)).unwrap_or(u32::MAX)
}

fn quota_per_seconds(rate: &Rate) -> (u64, u64) {
    let (count, window_ms) = rate.quota();
    let (count, burst) = (u64::from(count), u64::from(rate.burst()));
    let window_s = window_ms.div_ceil(1_000);
    let quota = count * window_s * 1_000 / window_ms;
    if burst <= quota { (quota, window_s) } else { (burst, (burst * window_ms).div_ceil(count * 1_000)) }
}

/// RFC 9651 section 4.1.6.
fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            ' '..='~' => out.push(c as u8),
            _ => out.push(b'_'),
        }
    }
    out.push(b'"');
}

fn number(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{policy, remaining, whole_seconds};
    use crate::policy::rate_limit::{KeyHasher, Rate, Rule};

    fn rule(name: &str, count: u32, window_ms: u64, burst: u32) -> Rule {
        let rate = Rate::new(count, Duration::from_millis(window_ms), burst).unwrap();
        Rule::new(name, &KeyHasher::new([0, 0]), rate, Vec::new())
    }

    #[test]
    fn policies() {
        for (name, count, window_ms, burst, expected) in [
            ("default", 100, 60_000, 100, "\"default\";q=100;w=60"),
            ("small", 100, 60_000, 7, "\"small\";q=100;w=60"),
            ("large", 100, 60_000, 250, "\"large\";q=250;w=150"),
            ("a \"b\" \\", 1, 1_000, 1, "\"a \\\"b\\\" \\\\\";q=1;w=1"),
            ("süß\r\n", 1, 86_400_000, 1, "\"s____\";q=1;w=86400"),
            ("fast", 10, 100, 10, "\"fast\";q=100;w=1"),
            ("fast", 10, 100, 250, "\"fast\";q=250;w=3"),
            ("odd", 10, 1_500, 13, "\"odd\";q=13;w=2"),
            ("odd", 10, 1_500, 14, "\"odd\";q=14;w=3"),
        ] {
            let mut out = Vec::new();
            policy(&rule(name, count, window_ms, burst), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_left_and_rounding() {
        for (left, more_in_s, expected) in [(0, 1, "\"a\";r=0;t=1"), (7, 0, "\"a\";r=7")] {
            let mut out = Vec::new();
            remaining(&rule("a", 1, 1_000, 7), left, more_in_s, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        for (wait_ns, expected) in
            [(0, 1), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2), (u64::MAX, u32::MAX)]
        {
            assert_eq!(whole_seconds(wait_ns), expected);
        }
    }
}
