//! THE request path, top to bottom. The phases are those of [`Phase`], in its order.
//!
//! [`serve`] is one exchange. Each phase up to the attempt is a function of what is known so far ([`Plan`], which borrows
//! nothing) and of the head. It says to go on, to answer, or to look something up first; `lookup` alone waits for that, and
//! then the same phase is asked again. While nothing has to be looked up, all phases are one piece of work without a wait.
//!
//! Nothing that others wait for is taken before the attempt: permits and endpoints are the attempt loop's, so a look-up
//! holds neither.

use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use super::attempt;
use super::caller;
use super::connection::{After, Downstream, Progress};
use super::core::{Bound, Scratch};
use super::hop::Hop;
use super::in_hand::parking;
use super::inject;
use super::limiting;
use super::log;
use super::lookup::{self, Found, Question};
use super::mirror::{self, Copies};
use super::plan::Plan;
use super::record::{Draft, Record, Tls, Wanted};
use super::respond::{self, Asker, Common, Grpc};
use super::shape;
use super::split;
use super::tunnel;
use super::upstream::{Lease, Upstream};
use crate::base::buffer::Buffer;
use crate::base::fault::{Blame, Fault};
use crate::base::reason::ReasonCode;
use crate::config::snapshot::{self as configured, Action, Destination, Route};
use crate::http::framing::{BodyLength, HeadRule};
use crate::http::http1::encode::Persistence;
use crate::http::http1::parse::{Parsed, lower_minor_version, parse_request};
use crate::http::message::{Method, RequestHead, RequestIndex, Version, Wire};
use crate::http::rewrite::routed_path;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::policy::Phase;
use crate::policy::balance::hash::Key;
use crate::policy::deadline::Left;
use crate::policy::route::RouteKey;
use crate::policy::shed;

/// What one phase says.
#[derive(Debug)]
enum Verdict {
    /// On to the next phase.
    GoOn,
    /// Refuse it.
    Refuse(Fault),
    /// It is answered: a response of our own with this status is encoded.
    Answer(u16),
    /// This phase needs an answer first, and is then asked again.
    LookUp(Question),
}

/// What a phase sees, and where it writes: the log's record, and the encoded head (or answer).
struct Seen<'s, P: Platform> {
    conn: &'s Downstream<P>,
    bound: &'s Bound<P::Stream>,
    head: RequestHead<'s>,
    record: &'s mut Record,
    out: &'s mut Vec<u8>,
}

/// One exchange with an upstream: who asked, under which snapshot, and what was decided.
pub(super) struct Exchange<'e, P: Platform> {
    pub(super) conn: &'e Downstream<P>,
    pub(super) bound: &'e Bound<P::Stream>,
    pub(super) plan: &'e Plan,
    /// Copies for mirrors, until they are sent.
    pub(super) copies: Option<&'e Copies<P::Stream>>,
    /// Where everything stands in the request's head.
    pub(super) index: &'e RequestIndex,
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
            self.plan.sticky.is_some() && self.plan.sticky == self.upstream().tagged(lease.endpoint.tag);
        if known {
            return None;
        }
        let mut line = String::from("Set-Cookie: ");
        cookie.render(lease.endpoint.tag, &mut line);
        line.push_str("\r\n");
        Some(line)
    }

    /// Where it goes.
    pub(super) fn destination(self) -> &'e Destination {
        self.plan.destination.as_ref().expect("`shape` has decided it before anything is sent")
    }

    /// The request, whose head `bytes` begin with.
    pub(super) fn request(self, bytes: &'e [u8]) -> shape::Request<'e, P> {
        shape::Request::new(self.conn, self.bound, self.plan, self.index.head(bytes))
    }

    /// The upstream that it goes to.
    pub(super) fn upstream(self) -> &'e Rc<Upstream<P::Stream>> {
        self.conn.core.upstream(self.bound, self.destination().upstream)
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

/// One exchange, from the bytes in `buffer` on.
pub(super) async fn serve<P: Platform>(conn: &Downstream<P>, buffer: &mut Buffer) -> Progress {
    let core = &conn.core;
    // 1 pin the snapshot, take the framed head
    let bound = core.bound();
    let started_ns = core.tick_ns();
    let mut scratch = core.take_scratch();
    let Scratch { out, request: index } = &mut *scratch;
    let mut parsed = loop {
        let parsed = match parse_request(buffer.filled(), index, &bound.head_limits) {
            // On the heap: a stream's task is small.
            Ok(Parsed::Complete(head)) => Ok(Box::write(Box::new_uninit(), Plan::new(conn, &bound, &head))),
            Ok(Parsed::Partial) => {
                core.give_scratch(scratch);
                return Progress::NeedMore;
            }
            Err(error) => Err(error),
        };
        let lowered = matches!(&parsed, Err(error) if error.rule == HeadRule::VersionUnsupported)
            && lower_minor_version(buffer.filled_mut());
        if !lowered {
            break parsed;
        }
    };
    let mut record = Record::new(core.platform.random(), started_ns);
    let _active = conn.started();
    let outcome = match &mut parsed {
        Ok(plan) => {
            log_head(conn, &bound, &index.head(buffer.filled()), plan.client, &mut record);
            // 2 to 9 what is decided before anything is sent
            let decided = loop {
                let head = index.head(buffer.filled());
                let mut seen = Seen { conn, bound: &bound, head, record: &mut record, out };
                match plan.run(&mut seen) {
                    Verdict::GoOn => break Ok(None),
                    Verdict::Answer(status) => break Ok(Some(status)),
                    Verdict::Refuse(fault) => break Err(fault),
                    Verdict::LookUp(question) => {
                        let answer = {
                            let mut asking = Box::pin(plan.look_up(conn, question, started_ns / 1_000_000));
                            parking(buffer, asking.as_mut()).await
                        };
                        match answer {
                            Ok(found) => plan.found = Some(found),
                            Err(fault) => break Err(fault),
                        }
                    }
                }
            };
            let outcome = match decided {
                Ok(Some(status)) => {
                    record.status = status;
                    let rest = after_body(buffer, &plan.reply());
                    Ok(if parking(buffer, pin!(conn.write(out))).await.is_err() {
                        After::Close
                    } else {
                        rest
                    })
                }
                Ok(None) => {
                    plan.cap(conn, started_ns / 1_000_000);
                    // 10 to 12 attempts, the response's shape, its head and body
                    let head = index.head(buffer.filled());
                    let copies = mirror::copies(&shape::Request::new(conn, &bound, plan, head));
                    let exchange = Exchange { conn, bound: &bound, plan, copies: copies.as_deref(), index };
                    if plan.connect {
                        tunnel::connect(exchange, buffer, &mut record, out).await
                    } else {
                        attempt::forward(exchange, buffer, &mut record, out).await
                    }
                }
                Err(fault) => Err(fault),
            };
            conn.deadline.cap(0, Duration::ZERO);
            conn.deadline.cap_attempt(0, Duration::ZERO);
            // The request's body may be half read: only what is in hand whole leaves a clean connection.
            let reply = Reply { asker: plan.asker, ..Reply::HEADLESS };
            outcome.map_err(|fault| (fault, if record.intact { plan.reply() } else { reply }))
        }
        Err(error) => {
            log_headless(conn, &mut record);
            Err((Fault::downstream(error.reason(), error.status()), Reply::HEADLESS))
        }
    };
    let after = match outcome {
        Ok(after) => after,
        Err((fault, _)) if record.response_started || fault.status == 0 => {
            cut(conn, &mut record, fault);
            After::Close
        }
        Err((fault, reply)) => refuse(conn, buffer, &mut record, out, fault, &reply).await,
    };
    core.give_scratch(scratch);
    // 13 record
    finish(conn, &bound, &record);
    Progress::Done(after)
}

/// How an answer of our own is given, and what it leaves of the request.
#[derive(Debug, Clone, Copy)]
struct Reply {
    asker: Asker,
    head_bytes: usize,
    body: BodyLength,
    keep_alive: bool,
}

impl Reply {
    /// To a request that could not be read, or was read in part.
    const HEADLESS: Self =
        Self { asker: Asker::UNKNOWN, head_bytes: 0, body: BodyLength::UntilClose, keep_alive: false };
}

impl Plan {
    fn reply(&self) -> Reply {
        let Self { asker, head_bytes, body, keep_alive, .. } = *self;
        Reply { asker, head_bytes, body, keep_alive }
    }

    /// From here on no wait lasts longer than the request may.
    fn cap<P: Platform>(&self, conn: &Downstream<P>, started_ms: u64) {
        if let Left::Ms(left) = self.hop.left(started_ms) {
            conn.deadline.cap(started_ms, Duration::from_millis(left.get()));
        }
    }

    /// Waits for what a phase has asked.
    async fn look_up<P: Platform>(
        &self,
        conn: &Downstream<P>,
        question: Question,
        started_ms: u64,
    ) -> Result<Found, Fault> {
        self.cap(conn, started_ms);
        let found = lookup::find(conn, question).await?;
        match self.hop.left(conn.core.now_ms()) {
            Left::Nothing => Err(Fault::policy(ReasonCode::RequestTimeout, 504)),
            Left::Ms(_) | Left::Unbounded => Ok(found),
        }
    }

    /// Runs phases up to the attempt, or to the first that does not say to go on. After a look-up that phase comes again.
    fn run<P: Platform>(&mut self, seen: &mut Seen<'_, P>) -> Verdict {
        while let Some(phase) = Phase::ALL.get(self.next) {
            let verdict = match phase {
                Phase::Normalise => self.normalise(seen),
                Phase::Route => self.find_route(seen),
                // Limits by address and by key are one decision, so that a refusal by one charges no other.
                Phase::Pin | Phase::AdmitByAddress => Verdict::GoOn,
                Phase::Identify | Phase::Authorise | Phase::Recall => self.reserved(*phase),
                Phase::AdmitByKey => self.admit(seen),
                Phase::Shape => self.shape(seen),
                Phase::Attempt | Phase::ShapeResponse | Phase::Send | Phase::Record => return Verdict::GoOn,
            };
            if !matches!(verdict, Verdict::GoOn) {
                return verdict;
            }
            self.next += 1;
        }
        Verdict::GoOn
    }

    /// Phases that have no policy yet. Tests put one there.
    #[allow(clippy::unused_self)]
    fn reserved(&mut self, phase: Phase) -> Verdict {
        #[cfg(test)]
        if let Some(question) = lookup::tests::asked(phase, self.found.take().as_ref()) {
            return question.map_or_else(Verdict::Refuse, Verdict::LookUp);
        }
        let _ = phase;
        Verdict::GoOn
    }

    /// 2 strip and normalise.
    fn normalise<P: Platform>(&mut self, seen: &mut Seen<'_, P>) -> Verdict {
        let listener = seen.bound.listener(seen.conn.listener);
        if let Some(port) = listener.and_then(|l| seen.bound.snapshot.listeners[l.index].redirect_to_https) {
            return self.redirect_to_https(port, seen);
        }
        match routed_path(&seen.head.target(), &mut self.rewritten) {
            Ok(_) => Verdict::GoOn,
            Err(error) => Verdict::Refuse(Fault::downstream(error.reason(), 400)),
        }
    }

    #[cold]
    fn redirect_to_https<P: Platform>(&self, port: u16, seen: &mut Seen<'_, P>) -> Verdict {
        if seen.head.method == Method::Connect {
            return Verdict::Refuse(Fault::policy(ReasonCode::ConnectRefused, 405));
        }
        let head = seen.head;
        self.answer(seen, |persistence, common, out| {
            respond::to_https(port, &head, persistence, common, out).then_some(308)
        })
    }

    /// An answer of our own. `encode` gives its status, or nothing where the request does not say which host it is for.
    fn answer<P: Platform>(
        &self,
        seen: &mut Seen<'_, P>,
        encode: impl FnOnce(Persistence, &Common<'_>, &mut Vec<u8>) -> Option<u16>,
    ) -> Verdict {
        let date = seen.conn.core.date(seen.record.started_ns);
        let common = seen.conn.common(seen.bound, &date);
        let mut fields = Vec::new();
        let common = match self.grant.as_ref().and_then(|grant| grant.told) {
            // It says what is left as well.
            Some(told) => {
                fields.extend_from_slice(common.fields);
                limiting::append_lines(seen.bound, told, &mut fields);
                Common { fields: &fields, ..common }
            }
            None => common,
        };
        let persistence = if self.keep_alive { Persistence::KeepAlive } else { Persistence::Close };
        match encode(persistence, &common, seen.out) {
            Some(status) => Verdict::Answer(status),
            None => Verdict::Refuse(Fault::downstream(ReasonCode::NoHost, 400)),
        }
    }

    /// 3 match the route, and read what bounds the request's time.
    fn find_route<P: Platform>(&mut self, seen: &mut Seen<'_, P>) -> Verdict {
        let Seen { conn, bound, head, .. } = *seen;
        let snapshot = &bound.snapshot;
        let key = RouteKey {
            host: head.host(),
            path: self.path(&head),
            method: head.method_text(),
            query: head.target().query(),
            source: self.client,
            server_name: conn.stream.tls().and_then(|tls| tls.server_name.as_deref()),
        };
        let Some(index) = snapshot.route_table.lookup(&key, &head) else {
            return Verdict::Refuse(Fault::policy(ReasonCode::NoRoute, 404));
        };
        let route = &snapshot.routes[index];
        self.route = index;
        seen.record.matched = Some(index as u32);
        if seen.record.draft.is_some() {
            seen.record.route = Some(std::sync::Arc::clone(&route.name));
        }
        // TRACE would show a client what proxies and their peers add to its request (RFC 9110 section 9.3.8).
        if head.method == Method::Trace {
            return Verdict::Refuse(Fault::policy(ReasonCode::TraceRefused, 405));
        }
        if self.connect && !route.connect {
            return Verdict::Refuse(Fault::policy(ReasonCode::ConnectRefused, 405));
        }
        if let BodyLength::Length(length) = head.body
            && length > route.body_bytes_max
        {
            return Verdict::Refuse(Fault::policy(ReasonCode::BodyTooLarge, 413));
        }
        if goes_upstream(route) {
            let now_ms = seen.record.started_ns / 1_000_000;
            self.hop = Hop::read(&head, self.asker.grpc.is_some(), route.timeouts.request, now_ms);
            if self.hop.malformed {
                conn.core.metrics.refused(ReasonCode::HopFieldIgnored);
            }
            if self.hop.left(now_ms) == Left::Nothing {
                return Verdict::Refuse(Fault::policy(ReasonCode::RequestTimeout, 504));
            }
        }
        Verdict::GoOn
    }

    /// 4 and 7 limits, faults made on purpose, and shedding by priority.
    fn admit<P: Platform>(&mut self, seen: &mut Seen<'_, P>) -> Verdict {
        let Seen { conn, bound, head, .. } = *seen;
        let route = &bound.snapshot.routes[self.route];
        // Taken once, also if the request then waits on purpose and comes here again.
        if self.grant.is_none() && !(route.rates.is_empty() && route.in_flight.is_empty()) {
            let request = limiting::Request {
                head: &head,
                path: self.path(&head),
                client: self.client,
                route: self.route,
            };
            match limiting::admit(conn, bound, &request, seen.record) {
                Ok(grant) => self.grant = Some(grant),
                Err(fault) => return Verdict::Refuse(fault),
            }
        }
        if let Some(grant) = &mut self.grant
            && grant.delay_ms > 0
        {
            return Verdict::LookUp(Question::Delay { ms: std::mem::take(&mut grant.delay_ms).into() });
        }
        if let Some(fault) = &route.fault {
            let random = || conn.core.platform.random();
            let injected = self.injected.get_or_insert_with(|| inject::faults(fault, &head, random));
            if injected.delay_ms > 0 {
                return Verdict::LookUp(Question::Delay {
                    ms: std::mem::take(&mut injected.delay_ms).into(),
                });
            }
            if let Some(status) = injected.abort {
                return Verdict::Refuse(Fault::policy(ReasonCode::FaultInjected, status));
            }
        }
        if goes_upstream(route) {
            let load = conn.core.load(&bound.snapshot);
            let levels = &bound.snapshot.shedding.levels;
            if let shed::Verdict::Shed { reason, retry_after_s } = shed::decide(levels, route.class, &load) {
                seen.record.retry_after_s = retry_after_s;
                return Verdict::Refuse(Fault::policy(reason, 503));
            }
        }
        Verdict::GoOn
    }

    /// 8 shape the request: where it goes, and the head that goes there. A route without an upstream answers here.
    fn shape<P: Platform>(&mut self, seen: &mut Seen<'_, P>) -> Verdict {
        let Seen { conn, bound, head, .. } = *seen;
        let route = &bound.snapshot.routes[self.route];
        match &route.action {
            Action::Respond(respond) => {
                return self.answer(seen, |persistence, common, out| {
                    respond::configured(respond, self.asker, persistence, common, out);
                    Some(respond.status)
                });
            }
            Action::Redirect(redirect) => {
                return self.answer(seen, |persistence, common, out| {
                    let made = respond::redirect(redirect, &head, self.path(&head), persistence, common, out);
                    made.then_some(redirect.status)
                });
            }
            Action::Upstream(_) | Action::Split(_) => {}
        }
        let is_last = |(_, forwards)| forwards == 0;
        if head.method == Method::Options && shape::max_forwards(&head).is_some_and(is_last) {
            return self.answer(seen, |persistence, common, out| {
                respond::options(self.asker, persistence, common, out);
                Some(200)
            });
        }
        let Some(destination) = split::choose(conn, bound, self.route, &head, self.client, seen.record)
        else {
            return Verdict::Refuse(Fault::policy(ReasonCode::NoArm, 503));
        };
        self.arm = seen.record.arm;
        self.destination = Some(destination);
        self.group = destination.subset.map_or(0, |subset| subset + 1);
        let upstream = &bound.snapshot.upstreams[destination.upstream];
        let hash = upstream.balance.hash.as_ref();
        self.key = hash.and_then(|hash| caller::with_hashed(&hash.on, &head, self.client, Key::of));
        self.sticky = upstream.sticky.as_ref().and_then(|cookie| {
            let state = conn.core.upstream(bound, destination.upstream);
            cookie.tags(head.fields.values("cookie")).find_map(|tag| state.tagged(tag))
        });
        self.web = match self.asker.grpc {
            Some(Grpc::Web(call)) if route.grpc_web => Some(call),
            _ => None,
        };
        let offered = if self.web.is_some() { None } else { shape::offer(&head, route) };
        self.offered = offered.map(Box::from);
        let request = shape::Request::new(conn, bound, self, head);
        let names_endpoint = shape::names_endpoint(&request);
        // Which endpoint, the attempt loop knows.
        if !names_endpoint && let Err(fault) = shape::encode(&request, &shape::To::Anybody, seen.out) {
            return Verdict::Refuse(fault);
        }
        self.names_endpoint = names_endpoint;
        Verdict::GoOn
    }
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

/// Prepares the log line of a request, if it may be written.
fn log_head<P: Platform>(
    conn: &Downstream<P>,
    bound: &Bound<P::Stream>,
    head: &RequestHead<'_>,
    client: Option<IpAddr>,
    record: &mut Record,
) {
    let wanted = wanted(conn, bound);
    if wanted != Wanted::Never {
        record.draft = Some(Box::new(Draft { tls: tls(conn), ..draft(conn.wire, head, client, wanted) }));
    }
}

fn wanted<P: Platform>(conn: &Downstream<P>, bound: &Bound<P::Stream>) -> Wanted {
    let log = &bound.snapshot.access_log;
    log::wanted(log.mode, log.sample, || conn.core.platform.random())
}

fn tls<P: Platform>(conn: &Downstream<P>) -> Option<Tls> {
    let agreed = conn.stream.tls()?;
    Some(Tls {
        version: agreed.version.name(),
        server_name: agreed.server_name.clone(),
        client: agreed.client.as_ref().map(Rc::clone),
    })
}

fn draft(wire: Wire, head: &RequestHead<'_>, client: Option<IpAddr>, wanted: Wanted) -> Draft {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Draft {
        method: text(head.method_text()),
        target: text(head.target_text()),
        host: text(head.host()),
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
async fn refuse<P: Platform>(
    conn: &Downstream<P>,
    buffer: &mut Buffer,
    record: &mut Record,
    out: &mut Vec<u8>,
    fault: Fault,
    reply: &Reply,
) -> After {
    let after = after_body(buffer, reply);
    let persistence = if after == After::KeepAlive { Persistence::KeepAlive } else { Persistence::Close };
    record.status = fault.status;
    record.reason = Some(fault.reason);
    record.ours = fault.blame == Blame::Ourselves;
    out.clear();
    let (date, bound) = (conn.core.date(conn.core.tick_ns()), conn.core.bound());
    respond::problem(fault, record, reply.asker, persistence, &conn.common(&bound, &date), out);
    if parking(buffer, pin!(conn.write(out))).await.is_err() { After::Close } else { after }
}

/// The client can't be told any more: the response is under way, or the client is gone.
fn cut<P: Platform>(conn: &Downstream<P>, record: &mut Record, fault: Fault) {
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
fn after_body(buffer: &mut Buffer, reply: &Reply) -> After {
    let &Reply { head_bytes, body, keep_alive, .. } = reply;
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

fn goes_upstream(route: &Route) -> bool {
    matches!(route.action, Action::Upstream(_) | Action::Split(_))
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
