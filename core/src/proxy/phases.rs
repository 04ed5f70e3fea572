//! 2 to 9: what is decided before anything is sent.
//!
//! Each phase is a function of what is known so far ([`Plan`], which borrows nothing) and of the head. It says to go on, to
//! answer, or to look something up first; `lookup` alone waits for that, and then the same phase is asked again. While
//! nothing has to be looked up, all phases are one piece of work without a wait.

use super::caller;
use super::core::Bound;
use super::downstream::Downstream;
use super::hop::Hop;
use super::inject;
use super::limiting;
#[cfg(test)]
use super::lookup;
use super::lookup::Question;
use super::plan::Plan;
use super::record::Record;
use super::respond::{self, Common, Grpc};
use super::shape;
use super::split;
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::config::snapshot::{Action, Route};
use crate::http::framing::BodyLength;
use crate::http::http1::encode::Persistence;
use crate::http::message::{Method, RequestHead};
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
pub(super) enum Verdict {
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
pub(super) struct Seen<'s, P: Platform> {
    pub(super) conn: &'s Downstream<P>,
    pub(super) bound: &'s Bound<P::Stream>,
    pub(super) head: RequestHead<'s>,
    pub(super) record: &'s mut Record,
    pub(super) out: &'s mut Vec<u8>,
}

impl Plan {
    /// Runs phases up to the attempt, or to the first that does not say to go on. After a look-up that phase comes again.
    pub(super) fn run<P: Platform>(&mut self, seen: &mut Seen<'_, P>) -> Verdict {
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
            query: head.query(),
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
            self.hop = Hop::read(&head, self.requester.grpc.is_some(), route.timeouts.request, now_ms);
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
                    respond::configured(respond, self.requester, persistence, common, out);
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
                respond::options(self.requester, persistence, common, out);
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
        self.web = match self.requester.grpc {
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

fn goes_upstream(route: &Route) -> bool {
    matches!(route.action, Action::Upstream(_) | Action::Split(_))
}
