//! What would become of a request: its route, why every other was passed over, and what each policy would do, in the
//! order of the request path's phases. For people: the command line and the admin interface.
//!
//! Parsing, normalising, matching and dividing are the request path's own functions, so this can't tell another story than
//! the proxy does. Nothing is spent and nothing is sent: where a verdict depends on what other requests do, it says on what.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use super::respond;
use super::split::{self, By};
use super::trial::Trial;
use super::upstream::Configured;
use super::{limiting, limits};
use crate::base::limits::EXPLAINED_ROUTES_MAX;
use crate::config::snapshot::{Action, AppliedRate, Destination, Route, Snapshot, Split, UpstreamHost};
use crate::http::http1::parse::{HeadLimits, Parsed, parse_request};
use crate::http::message::{HeadIndex, Method, RequestHead};
use crate::http::rewrite::routed_path;
use crate::policy::Phase;
use crate::policy::explain::line;
use crate::policy::rate_limit::{self, KeyPart, Revision, Rule};
use crate::policy::route::{Explanation, Reason, RouteKey, Verdict};
use crate::policy::split::explain::ShareIs;
use crate::policy::{
    breaker, deadline, fault, health, mirror, redirect, respond as respond_policy, retry, rewrite, shed,
    split as policy_split,
};
use crate::telemetry::metrics::Sample;

/// A request as somebody writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// `GET http://host/path?query`; without a method it is GET, without scheme and host only the path is known.
    pub request: String,
    /// `Name: value` each.
    pub headers: Vec<String>,
    /// The client's address. Absent: 127.0.0.1.
    pub source: Option<String>,
    /// The name in the TLS handshake. Absent: the host of an `https` URL.
    pub server_name: Option<String>,
}

/// What there is to look into.
#[derive(Debug, Clone, Copy)]
pub struct World<'w> {
    /// What is configured.
    pub snapshot: &'w Snapshot,
    /// By route, as workers have them; empty where nothing runs.
    pub trials: &'w [Option<Arc<Trial>>],
    /// The node's buckets, where something runs and limits are configured.
    pub limiting: Option<&'w limits::Shared>,
    /// What each of the snapshot's rate limits is counted by, if there are any buckets.
    pub revisions: &'w [Arc<Revision>],
    /// By upstream, the endpoints with their health; empty where nothing runs.
    pub upstreams: &'w [Arc<Configured>],
    /// The workers' numbers; empty where nothing runs.
    pub samples: &'w [Sample],
    /// On the workers' clock.
    pub now_ns: u64,
}

impl<'w> World<'w> {
    /// Only what is configured.
    pub fn at_rest(snapshot: &'w Snapshot) -> Self {
        Self {
            snapshot,
            trials: &[],
            limiting: None,
            revisions: &[],
            upstreams: &[],
            samples: &[],
            now_ns: 0,
        }
    }
}

/// The explanation, in lines.
///
/// # Errors
/// What is wrong with the question. A request that the proxy would refuse is none: that is the answer.
pub fn text(world: &World<'_>, question: &Question) -> Result<String, String> {
    let asked = Asked::read(question)?;
    let limits = &world.snapshot.limits;
    let limits = HeadLimits {
        header_bytes: limits.header_bytes_max,
        header_count: limits.header_count_max,
        uri_bytes: limits.uri_bytes_max,
    };
    let mut slots = HeadIndex::default();
    let head = match parse_request(&asked.bytes, &mut slots, &limits) {
        Ok(Parsed::Complete(head)) => head,
        Ok(Parsed::Partial) => return Err("the request is not complete".to_owned()),
        Err(error) => return Ok(format!("refused: {} ({})\n", error.reason(), error.status())),
    };
    let mut scratch = Vec::new();
    let path = match routed_path(&head.target(), &mut scratch) {
        Ok(path) => path,
        Err(error) => return Ok(format!("refused: {} (400)\n", error.reason())),
    };
    let key = RouteKey {
        host: head.host(),
        path,
        method: head.method_text(),
        query: head.query(),
        source: Some(asked.source),
        server_name: asked.server_name.as_deref(),
    };
    let explanation = world.snapshot.route_table.explain(&key, &head);
    let mut out = String::new();
    let plain = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    line(
        &mut out,
        "request",
        format_args!("{} {}{}", plain(head.method_text()), plain(head.host()), plain(head.target_text())),
    );
    if path != head.path() {
        line(&mut out, "path", format_args!("normalised to {}", plain(path)));
    }
    line(&mut out, "client", format_args!("{}", asked.source));
    let Some(index) = explanation.winner else {
        line(&mut out, "route", format_args!("none: 404 no_route"));
        candidates(world.snapshot, &explanation, &mut out);
        return Ok(out);
    };
    let route = &world.snapshot.routes[index];
    let how = explanation.specificity.as_ref().map(|s| format!(" ({s})")).unwrap_or_default();
    line(&mut out, "route", format_args!("{}{how}", route.name));
    let matched = Matched { world, asked: &asked, head: &head, path, index, route };
    matched.policies(&mut out);
    candidates(world.snapshot, &explanation, &mut out);
    Ok(out)
}

/// A question that makes sense.
struct Asked {
    /// The head as it would come.
    bytes: Vec<u8>,
    source: IpAddr,
    server_name: Option<String>,
    secure: bool,
}

impl Asked {
    fn read(question: &Question) -> Result<Self, String> {
        let text = question.request.trim();
        let (method, url) = match text.split_once(' ') {
            Some((method, url)) => (method, url.trim()),
            None => ("GET", text),
        };
        if url.is_empty() {
            return Err("expected a request such as `GET http://host/path`".to_owned());
        }
        let (secure, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, Some(rest)),
            (_, Some(rest)) => (true, Some(rest)),
            _ => (false, None),
        };
        let (authority, target) = match rest {
            Some(rest) => match rest.find(['/', '?']) {
                Some(at) if rest[at..].starts_with('/') => (rest[..at].to_owned(), rest[at..].to_owned()),
                Some(at) => (rest[..at].to_owned(), format!("/{}", &rest[at..])),
                None => (rest.to_owned(), "/".to_owned()),
            },
            None if method == "CONNECT" => (url.to_owned(), url.to_owned()),
            None if !url.starts_with('/') && url != "*" => {
                return Err(format!("`{url}`: expected `http://host/path`, or a path"));
            }
            None => (String::new(), url.to_owned()),
        };
        let has_host = question.headers.iter().any(|header| {
            header.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("host"))
        });
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !has_host {
            let _ = write!(head, "Host: {authority}\r\n");
        }
        for header in &question.headers {
            let Some((name, value)) = header.split_once(':') else {
                return Err(format!("`{header}`: expected `Name: value`"));
            };
            let _ = write!(head, "{}: {}\r\n", name.trim(), value.trim());
        }
        head.push_str("\r\n");
        let source = match &question.source {
            None => IpAddr::from([127, 0, 0, 1]),
            Some(text) => text.parse().map_err(|_| format!("`{text}` is no IP address"))?,
        };
        let host = authority.rsplit_once(':').map_or(authority.as_str(), |(host, _)| host);
        let server_name =
            question.server_name.clone().or_else(|| (secure && !host.is_empty()).then(|| host.to_owned()));
        Ok(Self { bytes: head.into_bytes(), source, server_name, secure })
    }
}

/// Whether there is more to tell after a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoesOn,
    Ends,
}

/// A request and the route that it takes.
struct Matched<'t> {
    world: &'t World<'t>,
    asked: &'t Asked,
    head: &'t RequestHead<'t>,
    path: &'t [u8],
    index: usize,
    route: &'t Route,
}

impl Matched<'_> {
    /// In the order of the request path.
    fn policies(&self, out: &mut String) {
        for phase in Phase::ALL {
            if self.phase(*phase, out) == Then::Ends {
                return;
            }
        }
    }

    /// What one phase would do. What comes before the route has been told already.
    fn phase(&self, phase: Phase, out: &mut String) -> Then {
        let (head, route) = (self.head, self.route);
        match phase {
            Phase::Route => {
                if head.method == Method::Trace {
                    line(out, "refused", format_args!("trace_refused (405): TRACE is never forwarded"));
                    return Then::Ends;
                }
                if head.method == Method::Connect && !route.connect {
                    let why = "the route has no `connect: true`";
                    line(out, "refused", format_args!("connect_refused (405): {why}"));
                    return Then::Ends;
                }
                if route.body_bytes_max != u64::MAX {
                    let max = route.body_bytes_max;
                    line(out, "body", format_args!("up to {max} bytes, else 413 body_too_large"));
                }
            }
            Phase::AdmitByKey => self.admission(out),
            Phase::Shape => match &route.action {
                Action::Respond(respond) => {
                    respond_policy::explain::explain(respond, out);
                    return Then::Ends;
                }
                Action::Redirect(redirect) => {
                    let location = respond::location(&redirect.target, head, self.path, self.asked.secure);
                    redirect::explain::explain(redirect, location.as_deref(), out);
                    return Then::Ends;
                }
                Action::Upstream(destination) => self.forward(*destination, out),
                Action::Split(split) => self.divide(split, out),
            },
            // Nothing to tell of a request that nobody sends, or no policy yet.
            Phase::Pin
            | Phase::Normalise
            | Phase::AdmitByAddress
            | Phase::Identify
            | Phase::Authorise
            | Phase::Recall
            | Phase::Attempt
            | Phase::ShapeResponse
            | Phase::Send
            | Phase::Record => {}
        }
        Then::GoesOn
    }

    /// Limits, faults made on purpose, shedding.
    fn admission(&self, out: &mut String) {
        let route = self.route;
        for index in &route.in_flight {
            let limit = &self.world.snapshot.rate_limits.in_flight[*index];
            rate_limit::explain::in_flight(limit, &self.key(&limit.key), out);
        }
        for applied in &route.rates {
            self.rate(applied, out);
        }
        self.fault(out);
        if matches!(route.action, Action::Upstream(_) | Action::Split(_)) {
            shed::explain::explain(route.class, out);
        }
    }

    fn key(&self, parts: &[KeyPart]) -> String {
        if parts.is_empty() {
            return "all requests together".to_owned();
        }
        let place = limiting::Place { listener: b"(any listener)", route: self.route.name.as_bytes() };
        let request = limiting::Request {
            head: self.head,
            path: self.path,
            client: Some(self.asked.source),
            route: self.index,
        };
        limiting::key(&place, &request, parts, |found| {
            let texts = parts.iter().zip(found).map(|(part, value)| match part {
                KeyPart::ClientAddress => self.asked.source.to_string(),
                _ => format!("`{}`", String::from_utf8_lossy(value)),
            });
            texts.collect::<Vec<_>>().join(", ")
        })
    }

    fn rate(&self, applied: &AppliedRate, out: &mut String) {
        let limit = &self.world.snapshot.rate_limits.rates[applied.limit];
        let key = self.key(&limit.rule.key);
        let revision = self.world.revisions.get(applied.limit);
        let tokens = revision.and_then(|revision| self.tokens(&limit.rule.counted_by(revision)));
        rate_limit::explain::rate(limit, applied, &key, tokens, out);
    }

    /// What the node's bucket holds, if every part of its key is known here.
    fn tokens(&self, rule: &Rule) -> Option<i64> {
        let shared = self.world.limiting?;
        if rule.key.contains(&KeyPart::Listener) {
            return None;
        }
        let place = limiting::Place { listener: b"", route: self.route.name.as_bytes() };
        let request = limiting::Request {
            head: self.head,
            path: self.path,
            client: Some(self.asked.source),
            route: self.index,
        };
        let hash = limiting::key(&place, &request, &rule.key, |parts| shared.hasher.key(rule.id, parts));
        let state = shared.node.state(rule, hash, self.world.now_ns);
        Some(state.tokens.saturating_add(i64::from(state.held)))
    }

    fn fault(&self, out: &mut String) {
        if let Some(fault) = &self.route.fault {
            let agrees = fault.matches.agrees(self.head.query(), self.head);
            fault::explain::explain(fault, agrees, out);
        }
    }

    /// Who takes requests and who does not.
    fn endpoints(&self, upstream: usize, out: &mut String) {
        let Some(configured) = self.world.upstreams.get(upstream) else { return };
        let members = &configured.members;
        for endpoint in members.endpoints.iter().take(ENDPOINTS_SHOWN) {
            health::explain::endpoint(&endpoint.address, endpoint.standing.state(), out);
        }
        if members.endpoints.len() > ENDPOINTS_SHOWN {
            line(out, "endpoint", format_args!("and {} more", members.endpoints.len() - ENDPOINTS_SHOWN));
        }
    }

    fn divide(&self, split: &Split, out: &mut String) {
        let trial = self.world.trials.get(self.index).and_then(Option::as_ref);
        let share_bp = split.canary.as_ref().map(|canary| {
            trial
                .map_or_else(|| canary.settings.steps.first().copied().unwrap_or(0), |trial| trial.share_bp())
        });
        if let (Some(canary), Some(share_bp)) = (&split.canary, share_bp) {
            let share_is = if trial.is_some() { ShareIs::Now } else { ShareIs::AtFirst };
            policy_split::explain::canary(split, canary, share_bp, share_is, out);
        }
        let chosen = split::arm(split, share_bp, self.head, Some(self.asked.source), || 0);
        match chosen {
            Some((arm, By::Match)) => {
                policy_split::explain::matched(split, arm, out);
                self.forward(split.arms[arm].destination, out);
            }
            Some((arm, By::Hash)) => {
                policy_split::explain::hashed(split, arm, out);
                self.forward(split.arms[arm].destination, out);
            }
            Some((_, By::Draw)) => {
                policy_split::explain::drawn(split, out);
                for arm in &split.arms {
                    self.forward(arm.destination, out);
                }
            }
            None => policy_split::explain::none(out),
        }
    }

    fn forward(&self, destination: Destination, out: &mut String) {
        let (route, snapshot) = (self.route, self.world.snapshot);
        let upstream = &snapshot.upstreams[destination.upstream];
        let subset = destination.subset.map(|_| ", a subset").unwrap_or_default();
        let count = upstream.endpoints.len();
        let plural = if count == 1 { "" } else { "s" };
        line(out, "upstream", format_args!("{} ({count} endpoint{plural}{subset})", upstream.name));
        self.endpoints(destination.upstream, out);
        if upstream.breaker.is_some() {
            let guards = self.world.samples.iter().flat_map(|sample| &sample.guards);
            let states: Vec<&str> = guards
                .filter(|guard| guard.upstream == upstream.name)
                .filter_map(|guard| guard.breaker)
                .collect();
            breaker::explain::explain(&states, out);
        }
        if rewrite::explain::path(&route.rewrite_path, self.path, out) == rewrite::explain::Outcome::Refused {
            return;
        }
        match (&route.rewrite_host, &upstream.host) {
            (Some(host), _) | (None, UpstreamHost::Literal(host)) => {
                line(out, "rewrite", format_args!("host {host}"));
            }
            (None, UpstreamHost::Endpoint) => line(out, "rewrite", format_args!("host of the endpoint")),
            (None, UpstreamHost::Client) => {}
        }
        deadline::explain::explain(route.timeouts.request, destination.response_head, out);
        retry::explain::explain(&route.retry, out);
        for mirror in &route.mirrors {
            mirror::explain::explain(mirror, &snapshot.upstreams[mirror.upstream].name, out);
        }
    }
}

/// Endpoints of one upstream that are shown.
const ENDPOINTS_SHOWN: usize = 16;

/// Every other route, the interesting ones first: what agreed in host and path.
fn candidates(snapshot: &Snapshot, explanation: &Explanation, out: &mut String) {
    let rank = |verdict: &Verdict| match verdict {
        Verdict::Chosen => 0,
        Verdict::Outranked { .. } => 1,
        Verdict::Rejected(Reason::Path(_)) => 3,
        Verdict::Rejected(Reason::Host(_)) => 4,
        Verdict::Rejected(_) => 2,
    };
    let mut order: Vec<usize> = (0..explanation.verdicts.len()).collect();
    order.sort_by_key(|route| rank(&explanation.verdicts[*route]));
    order.retain(|route| explanation.verdicts[*route] != Verdict::Chosen);
    if order.is_empty() {
        return;
    }
    out.push_str("other routes\n");
    for route in order.iter().take(EXPLAINED_ROUTES_MAX) {
        let _ = writeln!(out, "  {}: {}", snapshot.routes[*route].name, explanation.verdicts[*route]);
    }
    if order.len() > EXPLAINED_ROUTES_MAX {
        let _ = writeln!(out, "  and {} more that agree no better", order.len() - EXPLAINED_ROUTES_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::{Question, World, text};
    use crate::config::check_text;

    const CONFIG: &str = "
version: 1
listeners: [{ name: web, address: '127.0.0.1:0' }]
rate_limits: { rates: [{ name: each, rate: 10/s, key: [client_address] }] }
upstreams:
  - { name: blue, endpoints: ['127.0.0.1:1'] }
  - { name: green, endpoints: ['127.0.0.1:2'] }
routes:
  - { name: all, upstream: blue }
  - name: users
    match: { hosts: [api.test], path: { template: '/users/{id}' }, headers: [{ name: x-key, present: true }] }
    rewrite: { path_template: '/v2/{id}' }
    rate_limits: [each]
    split:
      hash_on: { cookie: uid }
      arms: [{ upstream: blue, match: { headers: [{ name: x-arm, exact: blue }] } }, { upstream: green }]
  - { name: admin, match: { hosts: [admin.test] }, respond: { status: 403 } }
  - { name: old, match: { hosts: [api.test], path: { prefix: /old } }, redirect: { status: 301, path: /new } }
";

    fn explained(request: &str, headers: &[&str]) -> Result<String, String> {
        let checked = check_text(CONFIG.as_bytes(), "test", 1).expect("valid");
        let world = World::at_rest(&checked.snapshot);
        let headers = headers.iter().map(ToString::to_string).collect();
        text(&world, &Question { request: request.to_owned(), headers, ..Question::default() })
    }

    /// Words of each line that must be there, in this order.
    #[track_caller]
    fn check(request: &str, headers: &[&str], expected: &[&str]) {
        let text = explained(request, headers).expect("a good question");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines = text.lines().map(words);
        for expected in expected {
            assert!(lines.any(|line| line.contains(expected)), "{expected} in\n{text}");
        }
    }

    #[test]
    fn tells_the_route_the_policies_and_the_others() {
        check(
            "GET http://api.test/users/../users/7?x=1",
            &["X-Key: k", "X-Arm: blue"],
            &[
                "request GET api.test/users/../users/7?x=1",
                "path normalised to /users/7",
                "route users (host exact, path template of 1 literal, 1 variable, 1 header)",
                "rate limit each: 10 in 1000 ms, burst 10, for 127.0.0.1; takes 1, else 429 rate_limited",
                "arm blue (by its own match)",
                "upstream blue (1 endpoint)",
                "rewrite path /v2/7",
                "all: agrees, but the chosen route wins by a more specific host",
                "old: its path prefix",
                "admin: its host admin.test does not match",
            ],
        );
        check("http://api.test/users/7", &[], &["route all", "users: the header `x-key` is missing"]);
        check(
            "GET http://api.test/users/7",
            &["X-Key: k", "Cookie: uid=1"],
            &["by the hash of the cookie `uid`"],
        );
        check(
            "GET http://api.test/users/7",
            &["X-Key: k"],
            &["drawn at random by the shares of blue, green"],
        );
        check("GET http://admin.test", &[], &["answer 403, our own"]);
        check("GET http://api.test/old/a?b=c", &[], &["answer 301 to http://api.test/new?b=c"]);
        check("TRACE http://x.test/", &[], &["refused trace_refused (405)"]);
    }

    #[test]
    fn what_the_proxy_refuses_is_an_answer_and_what_makes_no_sense_an_error() {
        check("GET http://api.test/%zz", &[], &["refused: "]);
        check("GET http://api.test/", &["Transfer-Encoding: gzip"], &["refused: "]);
        for (request, headers) in [("", &[][..]), ("GET ", &[]), ("GET http://a/", &["no colon"])] {
            assert!(explained(request, headers).is_err(), "{request}");
        }
        let checked = check_text(CONFIG.as_bytes(), "test", 1).expect("valid");
        let world = World::at_rest(&checked.snapshot);
        let question = Question { request: "/".into(), source: Some("here".into()), ..Question::default() };
        assert_eq!(text(&world, &question), Err("`here` is no IP address".to_owned()));
    }
}
