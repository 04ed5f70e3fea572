//! 4 and 7: rate limits and limits of requests at once. Finds the keys of a request, asks `policy::rate_limit`, and keeps
//! what it granted. Called by `phases` before anything is sent.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::IpAddr;

use super::core::Bound;
use super::downstream::Downstream;
use super::limits::Limiting;
use super::record::Record;
use crate::base::fault::Fault;
use crate::base::limits::{RATE_KEY_TEXT_BYTES_MAX, RATE_LIMITS_PER_REQUEST_MAX};
use crate::base::reason::ReasonCode;
use crate::http::message::RequestHead;
use crate::net::platform::Platform;
use crate::policy::rate_limit::{Check, KeyHash, KeyPart, Mode, Permit, Rule, Verdict, headers};
use crate::policy::route::spelling;

/// Parts of one key.
const KEY_PARTS_MAX: usize = 4;

/// What a client is told of the limit that leaves it the least.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    remaining: u32,
    /// Seconds until there is more; zero if there is all.
    more_in_s: u32,
    limit: u16,
}

/// What a request was granted.
#[derive(Debug, Default)]
pub(super) struct Grant {
    pub(super) told: Option<Told>,
    /// It is early by so much, and is to wait.
    pub(super) delay_ms: u32,
    /// What few requests have.
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Default)]
struct Rest {
    /// Limits that learn from the response what it took.
    post_paid: Vec<(usize, KeyHash)>,
    /// Its places among the requests at once.
    permits: RefCell<Vec<InFlight>>,
}

/// A place among the requests at once.
#[derive(Debug)]
struct InFlight {
    /// A tunnel keeps it.
    tunnels: bool,
    _permit: Permit,
}

impl Grant {
    /// The exchange has become a tunnel: no request is under way any more, but to limits that count tunnels.
    pub(super) fn became_tunnel(&self) {
        if let Some(rest) = &self.rest {
            rest.permits.borrow_mut().retain(|place| place.tunnels);
        }
    }

    /// Takes from limits what the response says that it took.
    pub(super) fn settle<'v, P: Platform>(
        &self,
        conn: &Downstream<P>,
        bound: &Bound<P::Stream>,
        field: impl Fn(&str) -> Option<&'v [u8]>,
    ) {
        let post_paid = self.rest.as_deref().map_or(&[][..], |rest| &rest.post_paid);
        for &(limit, hash) in post_paid {
            let Some(limiting) = conn.core.limiting() else { return };
            let Some(rule) = bound.limits.rules.get(limit) else { continue };
            let name = bound.snapshot.rate_limits.rates[limit].cost_from_response.as_deref();
            let said = name.and_then(&field).and_then(crate::http::grammar::parse_decimal);
            let cost = said.map_or(rule.cost, |cost| u32::try_from(cost).unwrap_or(u32::MAX));
            let check = Check { rule, key: hash, cost };
            limiting.worker.borrow_mut().charge(&check, conn.core.now_ms() * 1_000_000);
        }
    }
}

/// The request as limits see it.
pub(super) struct Request<'r> {
    pub(super) head: &'r RequestHead<'r>,
    pub(super) path: &'r [u8],
    pub(super) client: Option<IpAddr>,
    pub(super) route: usize,
}

/// Where a request came in, and which way it goes, by name.
pub(super) struct Place<'p> {
    pub(super) listener: &'p [u8],
    pub(super) route: &'p [u8],
}

impl<'p> Place<'p> {
    fn of<P: Platform>(conn: &Downstream<P>, bound: &'p Bound<P::Stream>, route: usize) -> Self {
        let listener = bound.listener(conn.listener);
        Self {
            listener: listener.map_or(b"", |l| bound.snapshot.listeners[l.index].name.as_bytes()),
            route: bound.snapshot.routes[route].name.as_bytes(),
        }
    }
}

/// May this request go on? The record keeps what its refusal says.
pub(super) fn admit<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    request: &Request<'_>,
    record: &mut Record,
) -> Result<Grant, Fault> {
    let route = &bound.snapshot.routes[request.route];
    let Some(limiting) = conn.core.limiting() else { return Ok(Grant::default()) };
    let mut grant = Grant::default();
    let place = Place::of(conn, bound, request.route);
    for &index in &route.in_flight {
        let limit = &bound.snapshot.rate_limits.in_flight[index];
        let hash = key(&place, request, &limit.key, |parts| {
            limiting.shared.hasher.key(bound.limits.in_flight[index], parts)
        });
        match limiting.gate.enter(hash, limit.max) {
            Ok(permit) => {
                let place = InFlight { tunnels: limit.tunnels, _permit: permit };
                grant.rest.get_or_insert_default().permits.borrow_mut().push(place);
            }
            Err(_) => return Err(Fault::policy(ReasonCode::InFlightLimited, 429)),
        }
    }
    match *route.rates {
        [] => Ok(grant),
        // The common case apart, so that it does not clear room for sixteen.
        [_] => admit_by_rates::<P, 1>(conn, bound, request, &limiting, record, grant),
        _ => admit_by_rates::<P, RATE_LIMITS_PER_REQUEST_MAX>(conn, bound, request, &limiting, record, grant),
    }
}

/// The rates of a route, `N` at the most.
fn admit_by_rates<P: Platform, const N: usize>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    request: &Request<'_>,
    limiting: &Limiting,
    record: &mut Record,
    mut grant: Grant,
) -> Result<Grant, Fault> {
    let rates = &bound.snapshot.routes[request.route].rates;
    let place = Place::of(conn, bound, request.route);
    let applied = &rates[..rates.len().min(N)];
    let mut checks: [Option<Check<'_>>; N] = [None; N];
    for (check, applied) in checks.iter_mut().zip(applied) {
        let rule = &bound.limits.rules[applied.limit];
        let hash = key(&place, request, &rule.key, |parts| limiting.shared.hasher.key(rule.id, parts));
        let post_paid = bound.snapshot.rate_limits.rates[applied.limit].cost_from_response.is_some();
        if post_paid {
            grant.rest.get_or_insert_default().post_paid.push((applied.limit, hash));
        }
        *check = Some(Check { rule, key: hash, cost: if post_paid { 0 } else { applied.cost } });
    }
    let outcome = {
        let mut worker = limiting.worker.borrow_mut();
        let outcome = if let [Some(one)] = checks[..] {
            worker.check(&[one], record.started_ns)
        } else {
            let all: Vec<Check<'_>> = checks.iter().flatten().copied().collect();
            worker.check(&all, record.started_ns)
        };
        if let Some(unnamed) = worker.unnamed()
            && let Some(check) = checks.iter().flatten().find(|check| check.key == unnamed)
        {
            let mut text = [0; RATE_KEY_TEXT_BYTES_MAX];
            let length = key(&place, request, &check.rule.key, |parts| {
                write_text(check.rule, parts, conn, request.client, &mut text)
            });
            worker.name(unnamed, &text[..length]);
        }
        outcome
    };
    conn.core.leases.raise_once();
    let strictest = applied[outcome.strictest].limit;
    for (at, applied) in applied.iter().enumerate() {
        let counts = &bound.limits.counts[applied.limit];
        if outcome.shadow_refused & (1 << at) != 0 {
            add(&counts.shadow_rejected);
        }
        if !matches!(outcome.verdict, Verdict::Reject { .. }) {
            add(&counts.admitted);
        }
    }
    // Nobody is told of limits that only count.
    let tells = bound.snapshot.rate_limits.headers && bound.limits.rules[strictest].mode == Mode::Enforce;
    let told = tells.then(|| Told {
        limit: strictest as u16,
        remaining: outcome.remaining(),
        more_in_s: outcome.more_in_ns().map_or(0, headers::whole_seconds),
    });
    match outcome.verdict {
        Verdict::Admit => {}
        Verdict::Delay { wait_ns } => {
            add(&bound.limits.counts[strictest].delayed);
            grant.delay_ms = wait_ns.div_ceil(1_000_000) as u32;
        }
        Verdict::Reject { retry_after_ns } => {
            add(&bound.limits.counts[strictest].rejected);
            record.retry_after_s = headers::whole_seconds(retry_after_ns.unwrap_or(u64::MAX));
            if let Some(told) = told {
                let mut lines = Vec::new();
                append_lines(bound, told, &mut lines);
                record.limit_lines = lines.into();
            }
            return Err(Fault::policy(ReasonCode::RateLimited, 429));
        }
    }
    grant.told = told;
    Ok(grant)
}

fn add(counter: &Cell<u64>) {
    counter.set(counter.get() + 1);
}

/// Appends the response's fields that tell of a limit.
pub(super) fn append_lines<S>(bound: &Bound<S>, told: Told, lines: &mut Vec<u8>) {
    let limits = &bound.limits;
    let limit = usize::from(told.limit);
    let Some((rule, always)) = limits.rules.get(limit).zip(limits.lines.get(limit)) else { return };
    lines.reserve(always.len() + rule.name.len() + LIMIT_LINE_BYTES);
    lines.extend_from_slice(always);
    headers::remaining(rule, told.remaining, told.more_in_s, lines);
    lines.extend_from_slice(b"\r\n");
}

/// What two numbers, their names and a line's end take at the most.
const LIMIT_LINE_BYTES: usize = 64;

/// Finds the parts of a key and gives them to `with`. What a request does not have is empty: all that lack it count
/// together, so that nobody escapes by leaving it out.
pub(super) fn key<T>(
    place: &Place<'_>,
    request: &Request<'_>,
    key: &[KeyPart],
    with: impl FnOnce(&[&[u8]]) -> T,
) -> T {
    let (octets, length) = client_octets(request.client);
    let head = request.head;
    let mut parts: [&[u8]; KEY_PARTS_MAX] = [b""; KEY_PARTS_MAX];
    // What is not as the client wrote it.
    let mut spelt: [Cow<'_, [u8]>; KEY_PARTS_MAX] = [const { Cow::Borrowed(&[]) }; KEY_PARTS_MAX];
    let count = key.len().min(KEY_PARTS_MAX);
    for ((part, spelt), of) in parts.iter_mut().zip(&mut spelt).zip(key) {
        *part = match of {
            KeyPart::ClientAddress => &octets[..length],
            KeyPart::Consumer => b"",
            KeyPart::Listener => place.listener,
            KeyPart::Route => place.route,
            KeyPart::Host => {
                *spelt = spelling::host(head.host());
                spelt
            }
            KeyPart::Method => head.method_text(),
            KeyPart::Path => request.path,
            KeyPart::Header(name) => head.header(name).unwrap_or_default(),
            KeyPart::Cookie(name) => {
                super::caller::cookie(head.fields.values("cookie"), name.as_bytes()).unwrap_or_default()
            }
            KeyPart::Query(name) => {
                let query = head.query().unwrap_or_default();
                *spelt = spelling::parameter(query, name.as_bytes()).unwrap_or_default();
                spelt
            }
        };
    }
    with(&parts[..count])
}

/// Of IPv6 the first 64 bits, which is what one client has (RFC 6177): by whole addresses it would have 2^64 buckets.
pub fn client_octets(client: Option<IpAddr>) -> ([u8; 8], usize) {
    let mut octets = [0; 8];
    match client.map(|client| client.to_canonical()) {
        Some(IpAddr::V4(address)) => {
            octets[..4].copy_from_slice(&address.octets());
            (octets, 4)
        }
        Some(IpAddr::V6(address)) => {
            octets.copy_from_slice(&address.octets()[..8]);
            (octets, 8)
        }
        None => (octets, 0),
    }
}

/// How a key reads for people: the limit's name, then its parts.
fn write_text<P: Platform>(
    rule: &Rule,
    parts: &[&[u8]],
    conn: &Downstream<P>,
    client: Option<IpAddr>,
    into: &mut [u8; RATE_KEY_TEXT_BYTES_MAX],
) -> usize {
    let mut rest = &mut into[..];
    // Cut where there is no more room.
    let _ = rest.write_all(rule.name.as_bytes());
    for (part, of) in parts.iter().zip(&rule.key) {
        let _ = rest.write_all(b" ");
        let _ = match (of, client) {
            (KeyPart::ClientAddress, client) if client == conn.peer.ip() => rest.write_all(conn.peer_text()),
            (KeyPart::ClientAddress, Some(client)) => write!(rest, "{client}"),
            _ => rest.write_all(part),
        };
    }
    let left = rest.len();
    RATE_KEY_TEXT_BYTES_MAX - left
}

#[cfg(test)]
mod tests {
    use super::client_octets;

    #[test]
    fn clients() {
        for (text, length) in [("10.0.0.1", 4), ("::ffff:10.0.0.1", 4), ("2001:db8::1", 8)] {
            assert_eq!(client_octets(text.parse().ok()).1, length, "{text}");
        }
        assert_eq!(client_octets("10.0.0.1".parse().ok()), client_octets("::ffff:10.0.0.1".parse().ok()));
        assert_eq!(client_octets("2001:db8::1".parse().ok()), client_octets("2001:db8::ffff".parse().ok()));
        assert_ne!(client_octets("2001:db8::1".parse().ok()), client_octets("2001:db8:0:1::1".parse().ok()));
        assert_eq!(client_octets(None).1, 0);
    }
}
