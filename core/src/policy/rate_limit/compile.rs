//! Rate limits and limits of requests at once, compiled.

use std::collections::HashMap;
use std::time::Duration;

use super::settings::{self, KeyWord};
use super::{KeyHasher, KeyPart, Mode, OnExcess, Rate, RateRefusal, Rule, Warning, warnings};
use crate::base::limits;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};
use crate::settings::text::is_token;
use crate::settings::units;

/// What routes are limited by. Routes have indexes of these lists.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimits {
    pub rates: Vec<RateLimit>,
    pub in_flight: Vec<InFlightLimit>,
    /// For each of the two kinds.
    pub keys_max: usize,
    /// Clients are told.
    pub headers: bool,
}

/// One limit of requests in a time.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// With a name that is not hashed yet.
    pub rule: Rule,
    /// In lower case: the response's field that says what a request took.
    pub cost_from_response: Option<Box<str>>,
}

/// One limit of requests at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightLimit {
    pub name: Box<str>,
    pub max: u32,
    pub key: Vec<KeyPart>,
    /// Tunnels keep their places.
    pub tunnels: bool,
}

/// A limit of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedRate {
    /// Index of [`RateLimits::rates`].
    pub limit: usize,
    pub cost: u32,
}

/// Parts of a key, and limits of requests at once for one route.
const KEY_PARTS_MAX: usize = 4;

/// The longest wait for a token.
const DELAY_MAX: Duration = Duration::from_secs(60);

pub(crate) fn compile(found: &mut Diagnostics, raw: &settings::RateLimits) -> RateLimits {
    let root = At::Root.field("rate_limits");
    let list = root.field("rates");
    found.names(&list, "rate limit", raw.rates.iter().map(|limit| limit.name.as_str()));
    let rates = raw.rates.iter().enumerate();
    let rates = rates.map(|(index, limit)| rate_limit(found, &list.index(index), limit)).collect();
    let list = root.field("in_flight");
    found.names(&list, "in-flight limit", raw.in_flight.iter().map(|limit| limit.name.as_str()));
    let in_flight = raw.in_flight.iter().enumerate();
    let in_flight = in_flight
        .map(|(index, limit)| {
            let item = list.index(index);
            let key = key(found, &item.field("key"), &limit.key);
            if is_up_to_client(&key) {
                warn_up_to_client(found, &item.field("key"));
            }
            InFlightLimit { name: limit.name.as_str().into(), max: limit.max, key, tunnels: limit.tunnels }
        })
        .collect();
    RateLimits { rates, in_flight, keys_max: raw.keys_max as usize, headers: raw.headers }
}

fn rate_limit(found: &mut Diagnostics, item: &At<'_>, raw: &settings::RateLimit) -> RateLimit {
    // Rates of nothing and bad ones have a stand-in: the configuration is refused anyway.
    let stand_in = || Rate::new(1, Duration::from_secs(1), 1).expect("one a second is a rate");
    let at = item.field("rate");
    let rate = match count_and_window(&raw.rate) {
        None => {
            found
                .errors
                .add(ProblemKind::BadValue, &at, format_args!("`{}` is no rate", raw.rate))
                .hint("as in 100/s, 5000/h or 10/30s");
            stand_in()
        }
        Some((count, window)) => match Rate::new(count, window, raw.burst.unwrap_or(count)) {
            Ok(rate) => rate,
            Err(RateRefusal::Zero) => {
                found
                    .errors
                    .add(ProblemKind::BadValue, &at, "a rate of zero admits nothing at all")
                    .hint("to deny, answer the route with `respond: { status: 403 }`");
                stand_in()
            }
            Err(refusal) => {
                found.bad_value(&at, refusal);
                stand_in()
            }
        },
    };
    let key = key(found, &item.field("key"), &raw.key);
    if let Some(name) = &raw.cost_from_response
        && !is_token(name)
    {
        found.bad_value(&item.field("cost_from_response"), format_args!("`{name}` is no field's name"));
    }
    if raw.delay_max.is_some_and(|delay| delay.as_std() > DELAY_MAX) {
        found.bad_value(&item.field("delay_max"), "clients don't wait longer than 1m");
    }
    if raw.cost > rate.burst() {
        let message = format_args!(
            "a request takes {} and a full bucket holds {}: it is never admitted",
            raw.cost,
            rate.burst()
        );
        found.bad_value(&item.field("cost"), message);
    }
    if is_up_to_client(&key) {
        warn_up_to_client(found, &item.field("key"));
    }
    RateLimit {
        rule: Rule {
            mode: match raw.mode {
                settings::LimitMode::Enforce => Mode::Enforce,
                settings::LimitMode::Shadow => Mode::Shadow,
            },
            on_excess: raw.delay_max.map_or(OnExcess::Reject, |delay| OnExcess::Delay {
                wait_ms_max: delay.as_std().as_millis() as u32,
            }),
            cost: raw.cost,
            ..Rule::new(&raw.name, &unseeded(), rate, key)
        },
        cost_from_response: raw.cost_from_response.as_ref().map(|name| name.to_ascii_lowercase().into()),
    }
}

fn warn_up_to_client(found: &mut Diagnostics, at: &At<'_>) {
    found
        .warnings
        .add(ProblemKind::Suspicious, at, "a client escapes this limit by writing something else there")
        .hint("add client_address");
}

fn key(found: &mut Diagnostics, at: &At<'_>, raw: &[settings::KeyPart]) -> Vec<KeyPart> {
    if raw.len() > KEY_PARTS_MAX {
        found.bad_value(at, format_args!("{} parts; a key has at most {KEY_PARTS_MAX}", raw.len()));
    }
    let parts = raw.iter().enumerate();
    parts.filter_map(|(index, part)| key_part(found, &at.index(index), part)).collect()
}

fn key_part(found: &mut Diagnostics, at: &At<'_>, part: &settings::KeyPart) -> Option<KeyPart> {
    let field = match part {
        settings::KeyPart::Word(word) => {
            return Some(match word {
                KeyWord::ClientAddress => KeyPart::ClientAddress,
                KeyWord::Listener => KeyPart::Listener,
                KeyWord::Route => KeyPart::Route,
                KeyWord::Host => KeyPart::Host,
                KeyWord::Method => KeyPart::Method,
                KeyWord::Path => KeyPart::Path,
            });
        }
        settings::KeyPart::Field(field) => field,
    };
    let given: Vec<(&str, &String)> =
        [("header", &field.header), ("cookie", &field.cookie), ("query", &field.query)]
            .into_iter()
            .filter_map(|(name, text)| Some((name, text.as_ref()?)))
            .collect();
    let [(kind, name)] = given[..] else {
        found.bad_value(at, "exactly one of `header`, `cookie` and `query`");
        return None;
    };
    if kind != "query" && !is_token(name) {
        found.bad_value(
            &at.field(if kind == "header" { "header" } else { "cookie" }),
            format_args!("`{name}` is no name (RFC 9110 section 5.6.2)"),
        );
        return None;
    }
    Some(match kind {
        "header" if name.eq_ignore_ascii_case("host") => KeyPart::Host,
        "header" => KeyPart::Header(name.to_ascii_lowercase().into()),
        "cookie" => KeyPart::Cookie(name.as_str().into()),
        _ => KeyPart::Query(name.as_str().into()),
    })
}

/// The limits of a route: indexes of the snapshot's, with what a request takes.
pub(crate) fn applied_rates(
    found: &mut Diagnostics,
    item: &At<'_>,
    given: &[settings::AppliedLimit],
    all: &RateLimits,
) -> Vec<AppliedRate> {
    let list = item.field("rate_limits");
    let by_name: HashMap<&str, usize> =
        all.rates.iter().enumerate().map(|(index, limit)| (&*limit.rule.name, index)).collect();
    if given.len() > limits::RATE_LIMITS_PER_REQUEST_MAX {
        let max = limits::RATE_LIMITS_PER_REQUEST_MAX;
        found.bad_value(&list, format_args!("{} limits; at most {max} apply to one route", given.len()));
    }
    let mut applied: Vec<AppliedRate> = Vec::new();
    for (index, limit) in given.iter().enumerate() {
        let at = list.index(index);
        let Some(limit_index) = found.known(&at, "rate limit", limit.name(), &by_name) else { continue };
        if applied.iter().any(|a| a.limit == limit_index) {
            found.errors.add(ProblemKind::Conflict, &at, format_args!("`{}` is there twice", limit.name()));
            continue;
        }
        let rule = &all.rates[limit_index].rule;
        let cost = match limit {
            settings::AppliedLimit::Name(_) => rule.cost,
            settings::AppliedLimit::WithCost(costed) => costed.cost,
        };
        if cost > rule.rate.burst() {
            let burst = rule.rate.burst();
            found.bad_value(
                &at.field("cost"),
                format_args!("a request takes {cost} and a full bucket holds {burst}: it is never admitted"),
            );
        }
        applied.push(AppliedRate { limit: limit_index, cost });
    }
    let rules: Vec<Rule> =
        applied.iter().map(|a| Rule { cost: a.cost, ..all.rates[a.limit].rule.clone() }).collect();
    for warning in warnings(&rules) {
        if let Warning::NeverApplies { rule, by } = warning {
            let message = format_args!(
                "`{rule}` never refuses anything here: `{by}` counts the same requests and is no laxer"
            );
            found.warnings.add(ProblemKind::Suspicious, &list, message);
        }
    }
    applied
}

/// The limits of requests at once of a route.
pub(crate) fn applied_in_flight(
    found: &mut Diagnostics,
    item: &At<'_>,
    given: &[String],
    all: &RateLimits,
) -> Vec<usize> {
    let list = item.field("in_flight_limits");
    let by_name: HashMap<&str, usize> =
        all.in_flight.iter().enumerate().map(|(index, limit)| (&*limit.name, index)).collect();
    if given.len() > KEY_PARTS_MAX {
        let count = given.len();
        found.bad_value(&list, format_args!("{count} limits; at most {KEY_PARTS_MAX} apply to one route"));
    }
    let names = given.iter().enumerate();
    names
        .filter_map(|(index, name)| found.known(&list.index(index), "in-flight limit", name, &by_name))
        .collect()
}

/// `uses_rate` and `uses_in_flight` say whether any route names a limit.
pub(crate) fn warn_of_unused(
    found: &mut Diagnostics,
    raw: &settings::RateLimits,
    uses_rate: impl Fn(&str) -> bool,
    uses_in_flight: impl Fn(&str) -> bool,
) {
    let root = At::Root.field("rate_limits");
    let (rates, in_flight) = (root.field("rates"), root.field("in_flight"));
    for (index, limit) in raw.rates.iter().enumerate().filter(|(_, limit)| !uses_rate(&limit.name)) {
        let message = format_args!("no route uses the rate limit `{}`", limit.name);
        found.warnings.add(ProblemKind::Suspicious, &rates.index(index).field("name"), message);
    }
    for (index, limit) in raw.in_flight.iter().enumerate().filter(|(_, limit)| !uses_in_flight(&limit.name)) {
        let message = format_args!("no route uses the in-flight limit `{}`", limit.name);
        found.warnings.add(ProblemKind::Suspicious, &in_flight.index(index).field("name"), message);
    }
}

/// Of names that no process has hashed yet: the workers' own hasher does so when they take the snapshot over.
fn unseeded() -> KeyHasher {
    KeyHasher::new([0, 0])
}

fn is_up_to_client(key: &[KeyPart]) -> bool {
    !key.is_empty() && key.iter().all(KeyPart::is_up_to_client)
}

/// `100/s`, `10/30s`.
fn count_and_window(text: &str) -> Option<(u32, Duration)> {
    let (count, window) = text.split_once('/')?;
    let count: u32 = count.trim().parse().ok()?;
    let window = window.trim();
    let seconds = |s| Some(Duration::from_secs(s));
    let window = match window {
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        other => units::Duration::parse(other).ok().map(units::Duration::as_std),
    };
    Some((count, window?))
}

#[cfg(test)]
mod tests {
    use super::count_and_window;
    use std::time::Duration;

    #[test]
    fn rates() {
        for (text, expected) in [
            ("100/s", Some((100, 1_000))),
            ("5 / m", Some((5, 60_000))),
            ("1/h", Some((1, 3_600_000))),
            ("1/d", Some((1, 86_400_000))),
            ("10/30s", Some((10, 30_000))),
            ("10/250ms", Some((10, 250))),
            ("0/s", Some((0, 1_000))),
            ("10", None),
            ("10/", None),
            ("/s", None),
            ("-1/s", None),
            ("1.5/s", None),
            ("10/fortnight", None),
            ("10/s/s", None),
            ("99999999999/s", None),
        ] {
            let expected = expected.map(|(count, ms)| (count, Duration::from_millis(ms)));
            assert_eq!(count_and_window(text), expected, "{text}");
        }
    }
}
