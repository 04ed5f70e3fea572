//! Whether an exchange is tried again: says to `policy::retry` what happened, keeps what it granted, and waits as long as it
//! says.

use std::rc::Rc;
use std::time::Duration;

use super::exchange::Exchange;
use super::lookup;
use super::record::Record;
use super::upstream::{Admitted, Upstream};
use crate::base::fault::{Blame, Fault, Retry};
use crate::base::reason::ReasonCode;
use crate::http::framing::BodyLength;
use crate::http::grpc::GrpcStatus;
use crate::http::message::ResponseHead;
use crate::net::platform::Platform;
use crate::policy::deadline::{Deadline, Left};
use crate::policy::retry::{self, Attempt, Body, Charge, Failure, Place, Refusal, Response, Verdict};

/// Why an attempt gave no response to relay.
#[derive(Debug)]
pub(super) enum Failed<S> {
    /// It failed.
    Fault(Fault),
    /// It was answered with what is tried again.
    Again(Next<S>),
}

impl<S> From<Fault> for Failed<S> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What a further attempt is to be.
#[derive(Debug)]
pub(super) struct Next<S> {
    /// Wait so long before it.
    pub(super) after_ms: u64,
    /// To another endpoint, if there is one.
    pub(super) elsewhere: bool,
    /// Its place among the retries under way, held for as long as it takes.
    pub(super) place: Option<Retrying<S>>,
    /// The answer that is not relayed has been read whole, so its connection may carry another request.
    pub(super) clean: bool,
}

/// A retry under way, as the upstream's budget counts it.
#[derive(Debug)]
pub(super) struct Retrying<S>(Rc<Upstream<S>>);

impl<S> Retrying<S> {
    /// One that the budget has granted.
    pub(super) fn new(upstream: &Rc<Upstream<S>>) -> Self {
        Self(Rc::clone(upstream))
    }
}

impl<S> Drop for Retrying<S> {
    fn drop(&mut self) {
        self.0.budget().ended();
    }
}

impl<P: Platform> Exchange<'_, P> {
    /// The right to make another attempt.
    pub(super) fn admit(&self, record: &mut Record) -> Result<Admitted<P::Stream>, Fault> {
        let core = &self.conn.core;
        // The first one begins with the request, unless that has waited: then the clock has been read since.
        let now_ns = match record.attempts {
            1 => record.started_ns.max(core.now_ms() * 1_000_000),
            _ => core.tick_ns(),
        };
        self.upstream.admit(now_ns, record.started_ns).map_err(|denied| {
            record.retry_after_s = denied.retry_after_s();
            denied.fault()
        })
    }

    /// How much of the request's body to keep for another attempt; 0 where none can come once it is on its way.
    pub(super) fn kept_bytes_max(&self) -> usize {
        let settings = &self.route.retry;
        let fits = match self.plan.body {
            BodyLength::Length(bytes) => bytes <= settings.body_bytes_max,
            BodyLength::None => false,
            BodyLength::Chunked | BodyLength::UntilClose => true,
        };
        let may_repeat = settings.attempts_max > 1
            && settings.conditions.meets(retry::Conditions::AFTER_SENDING)
            && settings.methods.contain(self.plan.requester.method)
            && self.plan.hop.arrived_as == 1
            && fits;
        if may_repeat { settings.body_bytes_max as usize } else { 0 }
    }

    /// An attempt has failed: is there to be another? If not, the record says why.
    pub(super) fn after_fault(&self, fault: Fault, record: &mut Record) -> Option<Next<P::Stream>> {
        if fault.retry != Retry::Safe {
            record.sent_before += 1;
        }
        let failure = failure(fault)?;
        if self.conn.core.stopping.is_raised() {
            return None;
        }
        let body = match fault.retry {
            Retry::Safe if failure != Failure::Refused => Body::NothingSent,
            _ if record.intact || self.tee.may_resend() => Body::Replayable,
            _ => Body::Consumed,
        };
        self.decide(failure, body, None, record)
    }

    /// A response has come: is there to be another attempt in its place? If not although it is a failure, the record says
    /// why.
    pub(super) fn after_response(
        &self,
        head: &ResponseHead<'_>,
        record: &mut Record,
    ) -> Option<Next<P::Stream>> {
        let status = head.status.0;
        let settings = &self.route.retry;
        // The common case, and the only check that it pays for.
        let failure = if status >= 400 {
            if status < 500 && !settings.statuses.contains(status) {
                return None;
            }
            Failure::Status(status)
        } else if self.plan.requester.grpc.is_some() {
            // A status in the head is the whole answer; one behind messages comes too late.
            grpc_failure(record.grpc_status?)?
        } else {
            return None;
        };
        let body = if record.intact || self.tee.may_resend() { Body::Replayable } else { Body::Consumed };
        let unix_s = || self.conn.core.platform.unix_time().as_secs();
        let retry_after = head.header("retry-after").and_then(|value| retry::retry_after_ms(value, unix_s()));
        record.sent_before += 1;
        self.decide(failure, body, retry_after, record)
    }

    /// A gRPC call has ended behind its head. Its failure comes too late for another attempt, and the record says so.
    pub(super) fn after_trailers(&self, status: GrpcStatus, record: &mut Record) {
        record.grpc_status = Some(status);
        if let Some(failure) = grpc_failure(status) {
            let again = self.decide(failure, Body::Consumed, None, record);
            debug_assert!(again.is_none(), "a response has begun");
        }
    }

    fn decide(
        &self,
        failure: Failure,
        body: Body,
        retry_after_ms: Option<u64>,
        record: &mut Record,
    ) -> Option<Next<P::Stream>> {
        let core = &self.conn.core;
        let now_ms = core.tick_ns() / 1_000_000;
        let attempt = Attempt {
            method: self.plan.requester.method,
            body,
            response: if record.response_started { Response::Started } else { Response::NotStarted },
            number: record.attempts,
            free: record.free_attempts,
            arrived_as: self.plan.hop.arrived_as,
            deadline_ms: self.plan.hop.deadline.and_then(Deadline::at_ms),
            retry_after_ms,
        };
        let settings = &self.route.retry;
        let draw = core.platform.random();
        let verdict = retry::decide(settings, &mut self.upstream.budget(), failure, &attempt, now_ms, draw);
        match verdict {
            Verdict::Again { after_ms, place, charge } => {
                record.free_attempts += u32::from(charge == Charge::Free);
                let counted = charge == Charge::Budget;
                record.recovered |= counted && speaks_against(failure, record.grpc_status.take());
                Some(Next {
                    after_ms,
                    elsewhere: place == Place::Elsewhere,
                    place: counted.then(|| Retrying::new(self.upstream)),
                    clean: false,
                })
            }
            Verdict::Stop(refusal) => {
                self.refused(refusal, record);
                None
            }
        }
    }

    /// There is no further attempt.
    pub(super) fn refused(&self, refusal: Refusal, record: &mut Record) {
        self.conn.core.metrics.retry_refused(refusal.label());
        record.retry_refused = Some(refusal.label());
    }

    /// Waits before an attempt.
    pub(super) async fn pause(&self, after_ms: u64) -> Result<(), Fault> {
        let conn = self.conn;
        conn.deadline.cap_attempt(0, Duration::ZERO);
        lookup::pause(conn, after_ms).await?;
        if conn.core.stopping.is_raised() {
            return Err(Fault::ourselves(ReasonCode::Stopping, 503));
        }
        match self.plan.hop.left(conn.core.now_ms()) {
            Left::Nothing => Err(Fault::policy(ReasonCode::RequestTimeout, 504)),
            Left::Ms(_) | Left::Unbounded => Ok(()),
        }
    }
}

/// Whether an attempt's failure, had it been the last, would have been the upstream's and not the caller's.
fn speaks_against(failure: Failure, grpc_status: Option<GrpcStatus>) -> bool {
    match failure {
        Failure::Status(status) => status >= 500,
        Failure::Grpc(_) => grpc_status.is_some_and(GrpcStatus::is_servers_fault),
        Failure::Connect
        | Failure::Refused
        | Failure::Stale
        | Failure::ResetBeforeResponse
        | Failure::PerTryTimeout => true,
    }
}

/// A status to the retry policy; `None` for one that is an answer, like a 404: neither is it a server's fault nor can it be
/// listed, so that no attempt in its stead was ever thought of.
fn grpc_failure(status: GrpcStatus) -> Option<Failure> {
    let failed =
        status.is_servers_fault() || matches!(status, GrpcStatus::Cancelled | GrpcStatus::ResourceExhausted);
    failed.then(|| Failure::Grpc(status.code()))
}

/// No endpoint has seen anything of the attempt.
pub(super) fn has_reached_nobody(fault: Fault) -> bool {
    failure(fault) == Some(Failure::Connect)
}

/// What kind of failure a fault is to the retry policy; `None` for what is nobody's attempt's.
fn failure(fault: Fault) -> Option<Failure> {
    if fault.blame != Blame::Upstream {
        return None;
    }
    match (fault.reason, fault.retry) {
        (ReasonCode::UpstreamRefused, _) => Some(Failure::Refused),
        // The second: one of many that shared a connection, which may have ended for another's sake.
        (ReasonCode::UpstreamStale, _) | (ReasonCode::UpstreamClosed, Retry::IfIdempotent) => {
            Some(Failure::Stale)
        }
        (_, Retry::Safe) => Some(Failure::Connect),
        (ReasonCode::UpstreamReset | ReasonCode::UpstreamClosed | ReasonCode::UpstreamHeadTruncated, _) => {
            Some(Failure::ResetBeforeResponse)
        }
        (
            ReasonCode::AttemptTimeout
            | ReasonCode::UpstreamResponseTimeout
            | ReasonCode::UpstreamWriteTimeout,
            _,
        ) => Some(Failure::PerTryTimeout),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, GrpcStatus, failure, speaks_against};
    use crate::base::fault::{Fault, Retry};
    use crate::base::reason::ReasonCode;

    #[test]
    fn what_is_tried_again_need_not_be_the_upstreams_fault() {
        for (failure, grpc_status, expected) in [
            (Failure::Status(503), None, true),
            (Failure::Status(429), None, false),
            (Failure::Grpc(14), Some(GrpcStatus::Unavailable), true),
            (Failure::Grpc(8), Some(GrpcStatus::ResourceExhausted), false),
            (Failure::PerTryTimeout, None, true),
        ] {
            assert_eq!(speaks_against(failure, grpc_status), expected, "{failure:?}");
        }
    }

    #[test]
    fn faults_and_failures() {
        for (fault, expected) in [
            (Fault::upstream(ReasonCode::UpstreamConnectFailed, 502, Retry::Safe), Some(Failure::Connect)),
            (Fault::upstream(ReasonCode::UpstreamConnectTimeout, 504, Retry::Safe), Some(Failure::Connect)),
            (Fault::upstream(ReasonCode::UpstreamRefused, 503, Retry::Safe), Some(Failure::Refused)),
            (Fault::upstream(ReasonCode::UpstreamStale, 502, Retry::Safe), Some(Failure::Stale)),
            (Fault::upstream(ReasonCode::UpstreamStale, 502, Retry::IfIdempotent), Some(Failure::Stale)),
            (Fault::upstream(ReasonCode::UpstreamReset, 502, Retry::Safe), Some(Failure::Connect)),
            (
                Fault::upstream(ReasonCode::UpstreamReset, 502, Retry::Never),
                Some(Failure::ResetBeforeResponse),
            ),
            (
                Fault::upstream(ReasonCode::UpstreamClosed, 502, Retry::Never),
                Some(Failure::ResetBeforeResponse),
            ),
            (Fault::upstream(ReasonCode::UpstreamClosed, 502, Retry::IfIdempotent), Some(Failure::Stale)),
            (Fault::upstream(ReasonCode::AttemptTimeout, 504, Retry::Never), Some(Failure::PerTryTimeout)),
            (
                Fault::upstream(ReasonCode::UpstreamResponseTimeout, 504, Retry::Never),
                Some(Failure::PerTryTimeout),
            ),
            (Fault::upstream(ReasonCode::UpstreamBodyTruncated, 502, Retry::Never), None),
            (Fault::policy(ReasonCode::RequestTimeout, 504), None),
            (Fault::downstream(ReasonCode::ClientGone, 0), None),
            (Fault::ourselves(ReasonCode::Stopping, 503), None),
        ] {
            assert_eq!(failure(fault), expected, "{fault}");
        }
    }
}
