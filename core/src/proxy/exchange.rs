//! One request on its way upstream: what all its attempts and both of its directions see. And where an attempt's outcome
//! reaches its endpoint's health.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::body::{Pump, PumpError, Tee};
use super::core::Bound;
use super::downstream::Downstream;
use super::mirror::Copies;
use super::plan::Plan;
use super::record::Record;
use super::shape;
use super::upstream::{Lease, Upstream};
use super::watch::{GONE, elapsed};
use crate::base::deadline::{Deadline, Expired};
use crate::base::fault::{Fault, Retry};
use crate::base::reason::ReasonCode;
use crate::config::snapshot::{self as configured, Destination, Route};
use crate::http::message::RequestIndex;
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::policy::outlier::Outcome;

/// How far an attempt's request has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// Its body is still on its way.
    Sending,
    /// The whole of it is out.
    Sent,
    /// The origin reads no further.
    Cut,
}

/// One exchange with an upstream: who asked, under which snapshot, what was decided, and how far it has got.
pub(super) struct Exchange<'e, P: Platform> {
    pub(super) conn: &'e Downstream<P>,
    pub(super) bound: &'e Bound<P::Stream>,
    pub(super) plan: &'e Plan,
    /// Where everything stands in the request's head.
    pub(super) index: &'e RequestIndex,
    /// The route's settings.
    pub(super) route: &'e Route,
    /// Where it goes.
    pub(super) destination: Destination,
    /// The upstream there, as this worker knows it.
    pub(super) upstream: &'e Rc<Upstream<P::Stream>>,
    /// Copies for mirrors, until they are sent.
    pub(super) copies: Option<Box<Copies<P::Stream>>>,
    /// What of the request's body is kept.
    pub(super) tee: Tee,
    pub(super) outgoing: Cell<Outgoing>,
    /// Nobody reads from the client any more: its request is out, or wanted no further.
    pub(super) unread: Cell<bool>,
    /// The client was told to go on with its body.
    pub(super) continued: Cell<bool>,
    /// See [`Pump::moved_ms`].
    pub(super) moved_ms: Cell<u64>,
    /// What connections that were opened in vain have taken.
    pub(super) connecting: Cell<Duration>,
}

/// What the client is told, and what is remembered of it.
pub(super) struct Answer<'a> {
    pub(super) record: &'a mut Record,
    /// The head that goes upstream, and in its place the client's once that is known.
    pub(super) out: &'a mut Vec<u8>,
}

impl<'e, P: Platform> Exchange<'e, P> {
    /// A Set-Cookie line that keeps the client with the endpoint, where that is configured and it is not there already.
    pub(super) fn cookie(&self, lease: &Lease<P::Stream>) -> Option<String> {
        let cookie = self.configured().sticky.as_ref()?;
        let known =
            self.plan.sticky.is_some() && self.plan.sticky == self.upstream.tagged(lease.endpoint.tag);
        if known {
            return None;
        }
        let mut line = String::from("Set-Cookie: ");
        cookie.render(lease.endpoint.tag, &mut line);
        line.push_str("\r\n");
        Some(line)
    }

    /// The request, whose head `bytes` begin with.
    pub(super) fn request<'b>(&'b self, bytes: &'b [u8]) -> shape::Request<'b, P> {
        shape::Request::new(self.conn, self.bound, self.plan, self.index.head(bytes))
    }

    /// The upstream's settings.
    fn configured(&self) -> &'e configured::Upstream {
        &self.bound.snapshot.upstreams[self.destination.upstream]
    }

    /// How long a connection to the upstream may take to open.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.configured().timeouts.connect
    }

    /// How long a response's head may take; zero: no bound.
    pub(super) fn response_head(&self) -> Duration {
        self.destination.response_head.unwrap_or_default()
    }

    /// How long one attempt may take; zero: no bound.
    pub(super) fn per_try(&self) -> Duration {
        self.route.retry.per_try_timeout_ms.map_or(Duration::ZERO, |ms| Duration::from_millis(ms.get()))
    }

    /// What moves its bodies; as it is, the request's.
    pub(super) fn pump(&self) -> Pump<'_, P> {
        let idle = self.route.timeouts.body_idle.unwrap_or_default();
        Pump { content_max: self.route.body_bytes_max, ..Pump::new(self.conn, idle) }
    }

    /// Its arm is compared with another.
    pub(super) fn is_trial(&self) -> bool {
        self.plan.arm.is_some() && self.bound.trials[self.plan.route].is_some()
    }

    /// An attempt begins to send.
    pub(super) fn begins(&self) {
        self.outgoing.set(Outgoing::Sending);
        self.unread.set(false);
        self.continued.set(false);
        self.moved_ms.set(0);
    }

    /// Nothing more of the request is sent.
    pub(super) fn sent(&self, how: Outgoing) {
        self.outgoing.set(how);
        self.unread.set(true);
    }

    /// The whole of it is out.
    pub(super) fn is_sent(&self) -> bool {
        self.outgoing.get() == Outgoing::Sent
    }

    /// The connection ended, or broke, or took too long, before the endpoint had answered.
    pub(super) fn failed(&self, lease: &Lease<P::Stream>, outcome: Outcome) {
        self.learn(lease, outcome, None);
    }

    /// A wait for an attempt's endpoint was longer than `deadline` allows.
    pub(super) fn timed_out(
        &self,
        lease: &Lease<P::Stream>,
        deadline: &Deadline,
        outcome: Outcome,
        reason: ReasonCode,
    ) -> Fault {
        let core = &self.conn.core;
        // The time of the whole request was over. If the client set it, anybody who asks for a millisecond could have
        // endpoints left out; if we did, it may have been spent before the endpoint was asked.
        let own = deadline.expired() == Expired::Request
            && (self.plan.hop.impatient || !lease.took_most(core.tick_ns()));
        if !own && !core.stopping.is_raised() {
            self.failed(lease, outcome);
        }
        elapsed(self.conn, deadline, reason, 504)
    }

    /// An attempt has sent the whole request: what is waited for from now on is the endpoint.
    pub(super) fn waits_for(&self, lease: &Lease<P::Stream>) {
        let core = &self.conn.core;
        let timed = self.upstream.is_timed() || self.is_trial();
        lease.sent(if timed { core.tick_ns() } else { core.now_ms() * 1_000_000 });
    }

    /// A response's head has come.
    pub(super) fn answered(&self, lease: &Lease<P::Stream>, status: u16) {
        self.learn(lease, Outcome::of_status(status), Some(status));
    }

    fn learn(&self, lease: &Lease<P::Stream>, outcome: Outcome, status: Option<u16>) {
        let core = &self.conn.core;
        let now_ns = if self.upstream.is_timed() || outcome != Outcome::Success {
            core.tick_ns()
        } else {
            core.now_ms() * 1_000_000
        };
        if let Some(applied) = lease.learn(outcome, status, now_ns, || core.platform.random()) {
            core.health_changed(applied);
        }
    }

    /// The fault of a response that is not to be had, by the endpoint's fault.
    pub(super) fn broken(&self, lease: &Lease<P::Stream>, reason: ReasonCode) -> Fault {
        self.failed(lease, Outcome::Reset);
        Fault::upstream(reason, 502, Retry::Never)
    }

    /// The fault of a request that could not be sent; `sent` bytes of it were.
    pub(super) fn not_sent(&self, lease: &Lease<P::Stream>, error: PumpError, sent: usize) -> Fault {
        if let Some(unsayable) = lease.stream().unsayable() {
            return match unsayable.status {
                502 => Fault::upstream(unsayable.reason, 502, Retry::Never),
                status => Fault::downstream(unsayable.reason, status),
            };
        }
        match error {
            PumpError::ClientGone => GONE,
            PumpError::Elapsed(_) => {
                let reason = ReasonCode::UpstreamWriteTimeout;
                self.timed_out(lease, &self.conn.deadline, Outcome::Timeout, reason)
            }
            _ if lease.stream().was_unprocessed() => REFUSED,
            _ if lease.reused => {
                let retry = if sent == 0 { Retry::Safe } else { Retry::IfIdempotent };
                Fault::upstream(ReasonCode::UpstreamStale, 502, retry)
            }
            PumpError::Broken(_) | PumpError::Malformed(_) | PumpError::TooLarge | PumpError::NoBuffer => {
                let retry = if sent == 0 { Retry::Safe } else { Retry::Never };
                Fault { retry, ..self.broken(lease, ReasonCode::UpstreamReset) }
            }
        }
    }

    /// The fault of a connection that ended before a byte of the response came.
    pub(super) fn closed_before_response(&self, lease: &Lease<P::Stream>) -> Fault {
        if lease.stream().was_unprocessed() {
            return REFUSED;
        }
        if lease.stream().was_given_up() {
            return self.broken(lease, ReasonCode::UpstreamReset);
        }
        if lease.reused {
            return Fault::upstream(ReasonCode::UpstreamStale, 502, Retry::IfIdempotent);
        }
        // What ended a connection that many share need not have been this request.
        let retry = if lease.is_shared() { Retry::IfIdempotent } else { Retry::Never };
        Fault { retry, ..self.broken(lease, ReasonCode::UpstreamClosed) }
    }
}

/// The origin has said that it did not act on the request, so another connection may (RFC 9113 section 8.7).
const REFUSED: Fault = Fault::upstream(ReasonCode::UpstreamRefused, 503, Retry::Safe);

/// No buffer came free in time.
pub(super) const NO_BUFFER: Fault = Fault::ourselves(ReasonCode::OutOfBuffers, 503);
