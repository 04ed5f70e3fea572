//! Values of the response fields that tell a client of its limits: `RateLimit-Policy` and `RateLimit` as structured fields
//! (draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4; RFC 9651) and Retry-After (RFC 9110 section 10.2.3).
//! The request path appends them to a head that it writes anyway; nothing is allocated here.
//!
//! Members are strings, so a rule's name is written within quotes, what a string can't hold as `_`. `q` and `w` are the
//! quota and its window in whole seconds; a window of less or of a fraction is scaled to the next whole one. `r` is what is
//! left, `t` the seconds until everything is there again. Values only ever round towards the careful side.

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

/// Appends a member of `RateLimit`: `"per-address";r=50;t=30`.
pub fn remaining(rule: &Rule, remaining: u32, full_in_s: u32, out: &mut Vec<u8>) {
    string(&rule.name, out);
    out.extend_from_slice(b";r=");
    number(remaining.into(), out);
    out.extend_from_slice(b";t=");
    number(full_in_s.into(), out);
}

/// Appends the value of Retry-After: whole seconds, at least 1, so that a client that obeys is not refused again.
pub fn retry_after(wait_ns: u64, out: &mut Vec<u8>) {
    number(wait_ns.div_ceil(NS_PER_SECOND).max(1), out);
}

fn quota_per_seconds(rate: &Rate) -> (u64, u64) {
    let (count, window_ms) = rate.quota();
    if window_ms % 1_000 == 0 {
        return (count.into(), window_ms / 1_000);
    }
    let window_s = window_ms.div_ceil(1_000);
    (u64::from(count) * window_s * 1_000 / window_ms, window_s)
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

    use super::{policy, remaining, retry_after};
    use crate::policy::rate_limit::{KeyHasher, Rate, Rule};

    fn rule(name: &str, count: u32, window_ms: u64) -> Rule {
        let rate = Rate::new(count, Duration::from_millis(window_ms), 7).unwrap();
        Rule::new(name, &KeyHasher::new([0, 0]), rate, Vec::new())
    }

    #[test]
    fn policies() {
        for (name, count, window_ms, expected) in [
            ("default", 100, 60_000, "\"default\";q=100;w=60"),
            ("a \"b\" \\", 1, 1_000, "\"a \\\"b\\\" \\\\\";q=1;w=1"),
            ("süß\r\n", 1, 86_400_000, "\"s____\";q=1;w=86400"),
            ("fast", 10, 100, "\"fast\";q=100;w=1"),
            ("odd", 10, 1_500, "\"odd\";q=13;w=2"),
        ] {
            let mut out = Vec::new();
            policy(&rule(name, count, window_ms), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_left_and_rounding() {
        for (left, full_in_s, expected) in [(0, 1, "\"a\";r=0;t=1"), (u32::MAX, 3, "\"a\";r=4294967295;t=3")]
        {
            let mut out = Vec::new();
            remaining(&rule("a", 1, 1_000), left, full_in_s, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        for (wait_ns, expected) in
            [(0, "1"), (1, "1"), (1_000_000_000, "1"), (1_000_000_001, "2"), (u64::MAX, "18446744074")]
        {
            let mut out = Vec::new();
            retry_after(wait_ns, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
