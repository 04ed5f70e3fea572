//! THE request path, top to bottom. The phases are numbered as in ARCHITECTURE.md; those not built yet have no line.
//!
//! [`serve`] is one exchange. What can be decided without waiting is decided in [`decide`], in one go and while the head
//! is still borrowed from the buffer; only then does anything wait.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use super::attempt;
use super::connection::{After, Downstream, Progress};
use super::core::Bound;
use super::exchange;
use super::grpc_web::Call;
use super::hop::Hop;
use super::inject;
use super::limiting::{self, Grant};
use super::log::{self, Draft, Wanted};
use super::mirror::{self, Copies};
use super::record::Record;
use super::respond::{self, Asker, Common, Grpc};
use super::shape;
use super::split;
use super::tunnel;
use super::upstream::{Endpoint, Lease, Pass, Unavailable, Upstream, Want};
use crate::base::buffer::Buffer;
use crate::base::fault::{Blame, Fault};
use crate::config::snapshot::{self as configured, Action, Destination, HashOn, Route};
use crate::http::framing::{BodyLength, HeadRule};
use crate::http::http1::encode::Persistence;
use crate::http::http1::parse::{Parsed, lower_minor_version, parse_request};
use crate::http::message::{HeaderSlots, Method, RequestHead, Version, Wire};
use crate::http::rewrite::{client_address, routed_path};
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::policy::balance::hash::Key;
use crate::policy::deadline::Left;
use crate::policy::route::RouteKey;
use crate::policy::shed;

/// What was decided about a request that goes upstream.
pub(super) struct Plan<S> {
    /// Index in the snapshot.
    pub(super) route: usize,
    pub(super) upstream: Rc<Upstream<S>>,
    /// Of the route's split.
    pub(super) arm: Option<u16>,
    /// For the first attempt.
    pub(super) endpoint: Option<Rc<Endpoint<S>>>,
    /// The encoded head names the endpoint, so another endpoint needs another head.
    pub(super) names_endpoint: bool,
    pub(super) asker: Asker,
    pub(super) body: BodyLength,
    /// Where the body starts in the buffer.
    pub(super) head_bytes: usize,
    pub(super) keep_alive: bool,
    /// The client would go on, whatever we decide: it may have sent its next request already.
    pub(super) client_goes_on: bool,
    pub(super) expect_continue: bool,
    /// The protocol offered, if an upgrade was asked for and is allowed.
    pub(super) offered: Option<Box<[u8]>>,
    /// What the hop before says of time and tries, and what the next is told.
    pub(super) hop: Hop,
    /// For the first attempt.
    pub(super) pass: Cell<Option<Pass<S>>>,
    /// Among which endpoints: index of the upstream's group.
    pub(super) group: usize,
    /// What a rule that hashes goes by.
    pub(super) key: Option<Key>,
    /// The endpoint that the client's cookie names.
    pub(super) sticky: Option<usize>,
    /// Copies for mirrors, until they are sent.
    pub(super) copies: Option<Box<Copies<S>>>,
    /// What limits granted.
    pub(super) grant: Option<Grant>,
    /// The client speaks gRPC-Web, and the upstream gRPC.
    pub(super) web: Option<Call>,
    /// It carries credentials of NTLM or Negotiate: the connection that it goes over is the client's from then on.
    pub(super) authenticates_connection: bool,
    /// CONNECT: bytes both ways once the upstream is connected.
    pub(super) connect: bool,
}

/// One exchange with an upstream: who asked, under which snapshot, and what was decided.
pub(super) struct Exchange<'e, P: Platform> {
    pub(super) conn: &'e Downstream<P>,
    pub(super) bound: &'e Bound<P::Stream>,
    pub(super) plan: &'e Plan<P::Stream>,
}

impl<P: Platform> Clone for Exchange<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Exchange<'_, P> {}

impl<'e, P: Platform> Exchange<'e, P> {
    /// The route's settings.
    pub(super) fn route(self) -> &'e Route {
        &self.bound.snapshot.routes[self.plan.route]
    }

    /// A Set-Cookie line that keeps the client with the endpoint, where that is configured and it is not there already.
    pub(super) fn cookie(self, lease: &Lease<P::Stream>) -> Option<String> {
        let cookie = self.configured().sticky.as_ref()?;
        let known =
            self.plan.sticky.is_some() && self.plan.sticky == self.plan.upstream.tagged(lease.endpoint.tag);
        if known {
            return None;
        }
        let mut line = String::from("Set-Cookie: ");
        cookie.render(lease.endpoint.tag, &mut line);
        line.push_str("\r\n");
        Some(line)
    }

    /// Where it goes.
    fn destination(self) -> &'e Destination {
        split::destination(&self.route().action, self.plan.arm).expect("it was planned by this very route")
    }

    /// The upstream's settings.
    fn configured(self) -> &'e configured::Upstream {
        &self.bound.snapshot.upstreams[self.destination().upstream]
    }

    /// How long a connection to the upstream may take to open.
    pub(super) fn connect_timeout(self) -> Duration {
        self.configured().timeouts.connect
    }

    /// How long a response's head may take; zero: no bound.
    pub(super) fn response_head(self) -> Duration {
        self.destination().response_head.unwrap_or_default()
    }
}

/// What a head says must happen.
enum Decision<S> {
    /// Refuse it.
    Refuse { fault: Fault, asker: Asker, head_bytes: usize, body: BodyLength, keep_alive: bool },
    /// It is answered already: the response is encoded.
    Answer { status: u16, head_bytes: usize, body: BodyLength, persistence: Persistence },
    /// Send it on: the head for the upstream is encoded.
    Forward(Plan<S>),
    /// Nobody waits for an answer any more.
    Abandon(Fault),
}

/// One exchange, from the bytes in `buffer` on.
pub(super) async fn serve<P: Platform>(conn: &Downstream<P>, buffer: &mut Buffer) -> Progress {
    let core = &conn.core;
    // 1 pin the snapshot, take the framed head
    let bound = core.bound();
    let started_ns = core.tick_ns();
    let mut record = Record::new(core.platform.random(), started_ns);
    let mut out = core.take_head();
    let mut decided = decide(conn, &bound, buffer.filled(), &mut record, &mut out);
    if matches!(&decided, Some(Decision::Refuse { fault, .. }) if fault.reason == HeadRule::VersionUnsupported.reason())
        && lower_minor_version(buffer.filled_mut())
    {
        decided = decide(conn, &bound, buffer.filled(), &mut record, &mut out);
    }
    let Some(decision) = decided else {
        core.give_head(out);
        return Progress::NeedMore;
    };
    let _active = conn.started();
    let waited = match record.delay_ms {
        0 => Ok(()),
        ms => Box::pin(exchange::pause(conn, ms.into())).await,
    };
    let after = match waited.map_or_else(Decision::Abandon, |()| decision) {
        Decision::Abandon(fault) => {
            cut(conn, &mut record, &fault);
            After::Close
        }
        Decision::Refuse { fault, asker, head_bytes, body, keep_alive } => {
            refuse(conn, buffer, &mut record, &mut out, &fault, asker, head_bytes, body, keep_alive).await
        }
        Decision::Answer { status, head_bytes, body, persistence } => {
            record.status = status;
            let rest = after_body(buffer, head_bytes, body, persistence == Persistence::KeepAlive);
            if conn.write(&out).await.is_err() { After::Close } else { rest }
        }
        Decision::Forward(plan) => {
            if let Left::Ms(left) = plan.hop.left(started_ns / 1_000_000) {
                conn.deadline.cap(started_ns / 1_000_000, Duration::from_millis(left.get()));
            }
            // 10 to 12: attempts, the response's shape, its head and body
            let exchange = Exchange { conn, bound: &bound, plan: &plan };
            let outcome = if plan.connect {
                tunnel::connect(exchange, buffer, &mut record, &mut out).await
            } else {
                attempt::forward(exchange, buffer, &mut record, &mut out).await
            };
            conn.deadline.cap(0, Duration::ZERO);
            conn.deadline.cap_attempt(0, Duration::ZERO);
            match outcome {
                Ok(after) => after,
                Err(fault) if record.response_started || fault.status == 0 => {
                    cut(conn, &mut record, &fault);
                    After::Close
                }
                Err(fault) => {
                    // The request's body may be half read: only what is in hand whole leaves a clean connection.
                    let intact = record.intact;
                    let (head_bytes, body) =
                        if intact { (plan.head_bytes, plan.body) } else { (0, BodyLength::UntilClose) };
                    refuse(
                        conn,
                        buffer,
                        &mut record,
                        &mut out,
                        &fault,
                        plan.asker,
                        head_bytes,
                        body,
                        plan.keep_alive && intact,
                    )
                    .await
                }
            }
        }
    };
    core.give_head(out);
    // 13 record
    finish(conn, &bound, &record);
    Progress::Done(after)
}

/// Prepares the log line of a request without a head. Nothing of it is fit to be repeated, but that it came, and why
/// it was refused, is.
pub(super) fn log_headless<P: Platform>(conn: &Downstream<P>, record: &mut Record) {
    let wanted = wanted(conn, &conn.core.bound());
    if wanted != Wanted::Never {
        let (client, tls) = (conn.peer.ip(), tls(conn));
        record.draft = Some(Box::new(Draft { client, wanted, tls, ..Draft::default() }));
    }
}

/// Everything up to the first wait. Appends the encoded head (or answer) to `out`. `None`: the head is not complete.
fn decide<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    filled: &[u8],
    record: &mut Record,
    out: &mut Vec<u8>,
) -> Option<Decision<P::Stream>> {
    let mut slots = HeaderSlots::new();
    let head = match parse_request(filled, &mut slots, &bound.head_limits) {
        Ok(Parsed::Partial) => return None,
        Ok(Parsed::Complete(head)) => head,
        Err(error) => {
            log_headless(conn, record);
            return Some(Decision::Refuse {
                fault: Fault::downstream(error.reason(), error.status()),
                asker: Asker::UNKNOWN,
                head_bytes: 0,
                body: BodyLength::UntilClose,
                keep_alive: false,
            });
        }
    };
    let snapshot = &bound.snapshot;
    let client = client_ip(conn, bound, &head);
    let wanted = wanted(conn, bound);
    if wanted != Wanted::Never {
        record.draft = Some(Box::new(Draft { tls: tls(conn), ..draft(conn.wire, &head, client, wanted) }));
    }
    let asker = Asker::of(&head);
    let keep_alive = head.keep_alive && conn.may_serve_more(bound);
    let refuse = |fault: Fault| {
        Some(Decision::Refuse { fault, asker, head_bytes: head.head_bytes, body: head.body, keep_alive })
    };
    let persistence = if keep_alive { Persistence::KeepAlive } else { Persistence::Close };
    let date = conn.core.date(record.started_ns);
    let common = conn.common(bound, &date);
    let answer =
        |status| Some(Decision::Answer { status, head_bytes: head.head_bytes, body: head.body, persistence });
    let redirects = bound.listener(conn.listener).and_then(|l| snapshot.listeners[l.index].redirect_to_https);
    if let Some(port) = redirects {
        if head.method == Method::Connect {
            return refuse(Fault::policy("connect_refused", 405));
        }
        if respond::to_https(port, &head, persistence, &common, out) {
            return answer(308);
        }
        return refuse(Fault::downstream("no_host", 400));
    }
    // 2 strip and normalise
    let mut scratch = Vec::new();
    let path = match routed_path(&head.target, &mut scratch) {
        Ok(path) => path,
        Err(error) => return refuse(Fault::downstream(error.reason(), 400)),
    };
    // 3 match the route
    let key = RouteKey {
        host: head.host,
        path,
        method: head.method_text,
        query: head.target.query(),
        source: client,
        server_name: conn.stream.tls().and_then(|tls| tls.server_name.as_deref()),
    };
    let Some(index) = snapshot.route_table.lookup(&key, &head) else {
        return refuse(Fault::policy("no_route", 404));
    };
    let route = &snapshot.routes[index];
    record.matched = Some(index as u32);
    if record.draft.is_some() {
        record.route = Some(std::sync::Arc::clone(&route.name));
    }
    // TRACE would show a client what proxies and their peers add to its request (RFC 9110 section 9.3.8).
    if head.method == Method::Trace {
        return refuse(Fault::policy("trace_refused", 405));
    }
    if head.method == Method::Connect && !route.connect {
        return refuse(Fault::policy("connect_refused", 405));
    }
    if let BodyLength::Length(length) = head.body
        && length > route.body_bytes_max
    {
        return refuse(Fault::policy("body_too_large", 413));
    }
    // 4 admit by address, 7 by key
    let grant = if route.rates.is_empty() && route.in_flight.is_empty() {
        None
    } else {
        let request = limiting::Request { head: &head, path, client, route: index };
        match limiting::admit(conn, bound, &request, record) {
            Ok(grant) => Some(grant),
            Err(fault) => return refuse(fault),
        }
    };
    if let Some(fault) = &route.fault {
        let verdict = inject::faults(fault, &head, || conn.core.platform.random());
        record.delay_ms = verdict.delay_ms;
        if let Some(status) = verdict.abort {
            return refuse(Fault::policy("fault_injected", status));
        }
    }
    // An answer of our own says what is left as well; an upstream's is shaped later.
    let mut fields = Vec::new();
    let common = match grant.as_ref().and_then(|grant| grant.told) {
        Some(told) if matches!(route.action, Action::Respond(_) | Action::Redirect(_)) => {
            fields.extend_from_slice(common.fields);
            limiting::append_lines(bound, told, &mut fields);
            Common { fields: &fields, ..common }
        }
        _ => common,
    };
    match &route.action {
        Action::Respond(respond) => {
            respond::configured(respond, asker, persistence, &common, out);
            answer(respond.status)
        }
        Action::Redirect(redirect) => {
            if respond::redirect(redirect, &head, path, persistence, &common, out) {
                answer(redirect.status)
            } else {
                refuse(Fault::downstream("no_host", 400))
            }
        }
        Action::Upstream(_) | Action::Split(_) => {
            let is_last = |(_, forwards)| forwards == 0;
            if head.method == Method::Options && shape::max_forwards(&head).is_some_and(is_last) {
                respond::options(asker, persistence, &common, out);
                return answer(200);
            }
            let Some(destination) = split::choose(conn, bound, index, &head, client, record) else {
                return refuse(Fault::policy("no_arm", 503));
            };
            let state = conn.core.upstream(bound, destination.upstream);
            let now_ms = record.started_ns / 1_000_000;
            let load = conn.core.load(snapshot);
            if let shed::Verdict::Shed { reason, retry_after_s } =
                shed::decide(&snapshot.shedding.levels, route.class, &load)
            {
                record.retry_after_s = retry_after_s;
                return refuse(Fault::policy(reason, 503));
            }
            let hop = Hop::read(&head, asker.grpc.is_some(), route.timeouts.request, now_ms);
            if hop.malformed {
                conn.core.metrics.refused("hop_field_ignored");
            }
            if hop.left(now_ms) == Left::Nothing {
                return refuse(Fault::policy("request_timeout", 504));
            }
            let pass = match state.admit(record.started_ns, record.started_ns) {
                Ok(pass) => pass,
                Err(denied) => {
                    record.retry_after_s = denied.retry_after_s();
                    return refuse(denied.fault());
                }
            };
            let group = destination.subset.map_or(0, |subset| subset + 1);
            let affinity = &snapshot.upstreams[destination.upstream];
            let key =
                affinity.balance.hash.as_ref().and_then(|hash| with_hashed(&hash.on, &head, client, Key::of));
            let sticky = affinity.sticky.as_ref().and_then(|cookie| {
                cookie.tags(head.fields.values("cookie")).find_map(|tag| state.tagged(tag))
            });
            let want = Want { group, key, sticky, private: Some(&conn.private), avoid: &[] };
            let endpoint = match state.choose(&want, now_ms, || conn.core.platform.random()) {
                Ok(endpoint) => Some(endpoint),
                Err(Unavailable::Busy) => None,
                Err(unavailable) => return refuse(unavailable.fault()),
            };
            // 8 shape the request
            let web = match asker.grpc {
                Some(Grpc::Web(call)) if route.grpc_web => Some(call),
                _ => None,
            };
            let offered = if web.is_some() { None } else { shape::offer(&head, route) };
            let request = shape::Request {
                route: index,
                upstream: destination.upstream,
                head: &head,
                path,
                client,
                offered,
                drop: hop.fields,
            };
            if let Err(fault) =
                shape::encode(conn, bound, &request, endpoint.as_deref(), shape::For::Answer, out)
            {
                return refuse(fault);
            }
            let alone = offered.is_some() || web.is_some() || head.method == Method::Connect;
            let copies =
                if route.mirrors.is_empty() || alone { None } else { mirror::copies(conn, bound, &request) };
            Some(Decision::Forward(Plan {
                route: index,
                upstream: Rc::clone(state),
                arm: record.arm,
                endpoint,
                names_endpoint: shape::names_endpoint(bound, &request),
                asker,
                body: head.body,
                head_bytes: head.head_bytes,
                keep_alive,
                client_goes_on: head.keep_alive,
                expect_continue: head.expect_continue,
                offered: offered.map(Box::from),
                web,
                authenticates_connection: head.authenticates_connection,
                connect: head.method == Method::Connect,
                hop,
                pass: Cell::new(Some(pass)),
                group,
                key,
                sticky,
                copies,
                grant,
            }))
        }
    }
}

/// Gives what a rule hashes to `with`, if the request has it.
pub(super) fn with_hashed<T>(
    on: &HashOn,
    head: &RequestHead<'_, '_>,
    client: Option<IpAddr>,
    with: impl FnOnce(&[u8]) -> T,
) -> Option<T> {
    match on {
        HashOn::Header(name) => head.header(name).map(with),
        HashOn::Cookie(name) => cookie(head.fields.values("cookie"), name.as_bytes()).map(with),
        HashOn::ClientAddress => client.map(|client| match client {
            IpAddr::V4(address) => with(&address.octets()),
            IpAddr::V6(address) => with(&address.octets()),
        }),
    }
}

/// The value of the first cookie of this name (RFC 6265 section 5.4).
pub(super) fn cookie<'v>(values: impl IntoIterator<Item = &'v [u8]>, name: &[u8]) -> Option<&'v [u8]> {
    values.into_iter().flat_map(|value| value.split(|&byte| byte == b';')).find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        (pair[..equals].trim_ascii() == name).then(|| pair[equals + 1..].trim_ascii())
    })
}

/// The client by the trusted-hops rule.
pub(super) fn client_ip<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    head: &RequestHead<'_, '_>,
) -> Option<IpAddr> {
    let peer = conn.peer.ip();
    let hops = bound.forwarding(conn.listener).trusted_hops;
    if hops == 0 || head.forwarding.is_empty() {
        return peer;
    }
    let fallback = peer.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
    let client = client_address(head.fields.values("x-forwarded-for"), fallback, hops);
    if client.is_unspecified() { peer } else { Some(client) }
}

fn wanted<P: Platform>(conn: &Downstream<P>, bound: &Bound<P::Stream>) -> Wanted {
    let log = &bound.snapshot.access_log;
    log::wanted(log.mode, log.sample, || conn.core.platform.random())
}

fn tls<P: Platform>(conn: &Downstream<P>) -> Option<log::Tls> {
    let agreed = conn.stream.tls()?;
    Some(log::Tls {
        version: agreed.version.name(),
        server_name: agreed.server_name.clone(),
        client: agreed.client.as_ref().map(Rc::clone),
    })
}

fn draft(wire: Wire, head: &RequestHead<'_, '_>, client: Option<IpAddr>, wanted: Wanted) -> Draft {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Draft {
        method: text(head.method_text),
        target: text(head.target_text),
        host: text(head.host),
        client,
        user_agent: head.header("user-agent").map(text).unwrap_or_default(),
        version: match (wire, head.version) {
            (Wire::Http2, _) => "HTTP/2.0",
            (Wire::Http1, Version::Http10) => "HTTP/1.0",
            (Wire::Http1, Version::Http11) => "HTTP/1.1",
        },
        wanted,
        ..Draft::default()
    }
}

/// Answers with a problem document. The connection lives on if the whole request is in hand.
#[allow(clippy::too_many_arguments)] // The parts of one decision.
async fn refuse<P: Platform>(
    conn: &Downstream<P>,
    buffer: &mut Buffer,
    record: &mut Record,
    out: &mut Vec<u8>,
    fault: &Fault,
    asker: Asker,
    head_bytes: usize,
    body: BodyLength,
    keep_alive: bool,
) -> After {
    let after = after_body(buffer, head_bytes, body, keep_alive);
    let persistence = if after == After::KeepAlive { Persistence::KeepAlive } else { Persistence::Close };
    record.status = fault.status;
    record.reason = Some(fault.reason);
    record.ours = fault.blame == Blame::Ourselves;
    out.clear();
    let (date, bound) = (conn.core.date(conn.core.tick_ns()), conn.core.bound());
    respond::problem(fault, record, asker, persistence, &conn.common(&bound, &date), out);
    if conn.write(out).await.is_err() { After::Close } else { after }
}

/// The client can't be told any more: the response is under way, or the client is gone.
fn cut<P: Platform>(conn: &Downstream<P>, record: &mut Record, fault: &Fault) {
    record.reason = Some(fault.reason);
    record.cut_upstream = fault.blame == Blame::Upstream;
    record.ours = fault.blame == Blame::Ourselves;
    if record.status == 0 {
        record.status = 499;
    }
    if record.response_started {
        // So that the client can't take a cut body for a whole one.
        conn.stream.abort_on_close();
    }
}

/// Drops a request that is answered without being read further. If its body is not in hand whole, the connection can't
/// be used again, and its rest is read away for a while so that the answer is not lost to a reset.
fn after_body(buffer: &mut Buffer, head_bytes: usize, body: BodyLength, keep_alive: bool) -> After {
    let in_hand = buffer.filled().len().saturating_sub(head_bytes) as u64;
    match body {
        BodyLength::None if keep_alive => {
            buffer.consume(head_bytes);
            After::KeepAlive
        }
        BodyLength::Length(length) if length <= in_hand && keep_alive => {
            buffer.consume(head_bytes + length as usize);
            After::KeepAlive
        }
        BodyLength::None => After::Close,
        BodyLength::Length(length) if length <= in_hand => After::Close,
        BodyLength::Length(_) | BodyLength::Chunked | BodyLength::UntilClose => After::Linger,
    }
}

/// Counts and logs.
pub(super) fn finish<P: Platform>(conn: &Downstream<P>, bound: &Bound<P::Stream>, record: &Record) {
    let core = &conn.core;
    let duration_us = (core.tick_ns() - record.started_ns) / 1_000;
    core.metrics.finished(record.status, duration_us);
    if let Some(route) = record.matched {
        core.count_route(bound, route as usize, record.status);
    }
    split::learn(core.index, bound, record, duration_us);
    if let Some(reason) = record.reason {
        core.metrics.refused(reason);
    }
    if record.request_bytes > 0 {
        core.metrics.add(crate::telemetry::metrics::Counter::RequestBodyBytes, record.request_bytes);
    }
    if record.response_bytes > 0 {
        core.metrics.add(crate::telemetry::metrics::Counter::ResponseBodyBytes, record.response_bytes);
    }
    if let Some(draft) = &record.draft {
        let dropped =
            core.log.write(draft, record, core.platform.unix_time().as_millis() as u64, duration_us);
        core.metrics.add(crate::telemetry::metrics::Counter::LogLinesDropped, dropped);
    }
}
