//! Whether a request that failed is sent again, when, and where; and whether a second try is sent beside a slow first.
//!
//! [`decide`] is asked by the attempt loop after each try that failed, [`hedge`] when a try has been out for
//! [`Hedge::after_ms`] without an answer. Neither sends or waits: they answer with a [`Verdict`]. The caller says what
//! happened in [`Failure`] and [`Attempt`]; what counts as which failure is for it to know.
//!
//! Two things keep a retry from doing harm. The request must not be acted upon twice: where an origin may have seen it,
//! only methods are repeated for which the route says so, by default the idempotent ones (RFC 9110 section 9.2.2).
//! And retries must not become the load that keeps an origin down: see [`Budget`] for one hop, and for a chain of them
//! the field [`ATTEMPT_FIELD`]. A request that arrives as somebody's retry is not tried again here, unless nothing of it
//! was sent. So `D` hops with `R` tries each make at most `R + (D − 1) × (R − 1)` of one request, and not `R^D`: each
//! hop repeats only what it sent as a first try, of which there is one.
//!
//! The checks, in this order; the first that fails is the [`Refusal`]:
//! 1. the failure is one of the conditions;
//! 2. no response has begun;
//! 3. the request is nobody else's retry;
//! 4. its method may be repeated;
//! 5. there are tries left;
//! 6. the body is in hand, which is kept only where the checks before it allow another try;
//! 7. the origin does not ask for more patience than we have;
//! 8. the wait ends before the deadline;
//! 9. the budget has a retry.
//!
//! **What reached nobody** (no connection, or not a byte of the request sent) takes a try but nothing of the budget, which
//! is there to keep load from origins: one endpoint of three that refuses connections would use up a fifth of the
//! requests' budget and then fail the rest, though the other two could serve all.
//!
//! **A stale connection** (kept, and closed by its origin just as it was used) is no failure of the request or the
//! origin, but the price of keeping connections; RFC 9112 section 9.3.1 has clients expect it, and lets them send
//! again what is idempotent. So the first of a request is sent again at once, whatever the conditions, without taking
//! a try or touching the budget: it is the first time that the request has a chance to be answered, the load is one
//! request, and a restarted origin, which makes all kept connections stale at once, would drain a budget that is meant
//! for failures. Where a part of the request was sent, 3 and 4 hold all the same. A second one can
//! come where many requests share a connection, which then ends for the sake of another: it takes a try and a retry of
//! the budget, and is allowed wherever connection failures are.
//! In the worst case, of an origin that acts upon a request and closes without an answer, this adds one try a hop.
//!
//! Envoy's terms: `retry_on`, `num_retries` (one less than `attempts_max`), `per_try_timeout`, `retry_back_off`,
//! `rate_limited_retry_back_off` (there for header fields of a configured name), `hedge_policy.hedge_on_per_try_timeout`.
//! Envoy retries any method: there a route's matcher or the client's `x-envoy-retry-on` is to keep POST out.

mod budget;
pub(crate) mod compile;
mod conditions;
pub mod explain;
mod fields;
pub mod settings;
#[cfg(test)]
mod tests;

use std::num::NonZeroU64;

use crate::base::reason::ReasonCode;
use crate::http::message::Method;

pub use budget::{Budget, Settings as BudgetSettings, Spent};
pub use conditions::{Conditions, MethodSet, Methods, StatusSet};
pub use fields::{ATTEMPT_FIELD, arrived_as, push_attempt, retry_after_ms, sent_as};

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::AttemptTimeout];

/// What a route has sent again, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// After which failures.
    pub conditions: Conditions,
    /// The statuses of [`Conditions::STATUS_CODES`].
    pub statuses: StatusSet,
    /// Tries in all, the first included: 1 (never again) to `RETRY_ATTEMPTS_MAX`.
    pub attempts_max: u32,
    /// For which methods, where the origin may have acted upon the request. Where nothing reached it: for any.
    pub methods: Methods,
    /// How long one try may take, from the request sent to the response's head, in milliseconds; `None`: as long as
    /// there is time.
    pub per_try_timeout_ms: Option<NonZeroU64>,
    /// The wait before a retry.
    pub back_off: BackOff,
    /// The longest Retry-After of a 429 or 503 that is waited for, in milliseconds, up to `RETRY_WAIT_MS_MAX`. An
    /// origin that asks for more is not asked again.
    pub retry_after_ms_max: u64,
    /// Body bytes that are kept so that they can be sent again, up to `RETRY_BODY_BYTES_MAX`. A request whose body is
    /// longer is sent again only where nothing was sent.
    pub body_bytes_max: u64,
}

impl Settings {
    /// What no origin has seen is sent again, up to 3 times in all; 25 ms doubling up to 250 ms; Retry-After up to
    /// one second; bodies of up to 16 KiB.
    pub const DEFAULT: Self = Self {
        conditions: Conditions::CONNECT_FAILURE.with(Conditions::REFUSED_STREAM),
        statuses: StatusSet::EMPTY,
        attempts_max: 3,
        methods: Methods::Idempotent,
        per_try_timeout_ms: None,
        back_off: BackOff::DEFAULT,
        retry_after_ms_max: 1_000,
        body_bytes_max: 16 * 1024,
    };

    /// How long the next try may take with `left_ms` until the deadline (`None`: any time), in milliseconds.
    pub fn try_ms(&self, left_ms: Option<NonZeroU64>) -> Option<NonZeroU64> {
        match (self.per_try_timeout_ms, left_ms) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Exponential back-off with full jitter: before retry `n` a wait drawn evenly from 0 to `base × 2^(n − 1)`, at most
/// `max`. From "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015), which Envoy follows, too; of the kinds of
/// jitter compared there it makes the fewest calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// In milliseconds, 0 (no wait) to `max_ms`.
    pub base_ms: u64,
    /// In milliseconds, up to `RETRY_WAIT_MS_MAX`.
    pub max_ms: u64,
}

impl BackOff {
    /// Envoy's: 25 ms, up to ten times as long.
    pub const DEFAULT: Self = Self { base_ms: 25, max_ms: 250 };

    /// The wait before retry number `retry` (1 is the first), from a draw over all of `u64`.
    pub fn wait_ms(self, retry: u32, draw: u64) -> u64 {
        let doublings = retry.saturating_sub(1).min(63);
        let longest = self.base_ms.saturating_mul(1 << doublings).min(self.max_ms);
        // The high half of the product is even over 0..=longest, but for one part in 2^64 / longest.
        ((u128::from(draw) * (u128::from(longest) + 1)) >> 64) as u64
    }
}

/// How a try failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// There is no connection.
    Connect,
    /// The origin says that it did not act on the request (RFC 9113 section 8.7).
    Refused,
    /// A kept connection was closed before a byte of the answer.
    Stale,
    /// A connection broke before a byte of the answer, otherwise.
    ResetBeforeResponse,
    /// The try took longer than it may.
    PerTryTimeout,
    /// This status came, of which the client has seen nothing yet.
    Status(u16),
    /// This `grpc-status` came: in a response without messages, of which the client has seen nothing yet, or behind some.
    Grpc(u8),
}

/// What is known of a request's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Not a byte of the request, head included, was sent in this try, and its body, however long, is as it was.
    NothingSent,
    /// The request was sent in part or whole, and is in hand to be sent again from the beginning.
    Replayable,
    /// A part of the body is in hand no longer.
    Consumed,
}

/// Whether the client has seen anything of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// It has not: another try can take its place.
    NotStarted,
    /// A final response's head is on its way.
    Started,
}

/// What is known of a request and its tries so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The request's.
    pub method: Method,
    /// As of this try.
    pub body: Body,
    /// As of this try.
    pub response: Response,
    /// Tries made, this one and hedges included: at least 1.
    pub number: u32,
    /// Of these, those that were sent for a stale connection ([`Charge::Free`]).
    pub free: u32,
    /// The number in the request's `ringway-attempt`; see [`arrived_as`].
    pub arrived_as: u32,
    /// When the exchange must be over, on the clock of `now_ms`; `None`: never.
    pub deadline_ms: Option<u64>,
    /// What the failed response's Retry-After says, in milliseconds; see [`retry_after_ms`]. Looked at for 429 and 503.
    pub retry_after_ms: Option<u64>,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent again.
    Again {
        /// After so many milliseconds, which are less than there are until the deadline.
        after_ms: u64,
        /// Where to.
        place: Place,
        /// What it took.
        charge: Charge,
    },
    /// It is answered with what there is.
    Stop(Refusal),
}

/// Where a request is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// To the same endpoint, on a new connection.
    Same,
    /// To another endpoint, if there is one.
    Elsewhere,
}

/// What a retry took of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// One retry: [`Budget::ended`] is to be told when it has ended, however it ends.
    Budget,
    /// Nothing, as nothing of the request reached anybody: it is no load that the upstream did not have anyway.
    Unsent,
    /// Nothing. To be counted in [`Attempt::free`].
    Free,
}

/// Why a request is not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The failure is none of the conditions.
    NotConfigured,
    /// The client has the beginning of an answer.
    ResponseStarted,
    /// The request is another hop's retry.
    Nested,
    /// The origin may have acted upon it, and its method is not to be repeated.
    Method,
    /// All tries are made.
    Attempts,
    /// A part of the body is gone.
    BodyConsumed,
    /// The origin asks for more patience than is allowed.
    RetryAfter,
    /// The time would be over.
    Deadline,
    /// The upstream has had its share of retries.
    Budget,
    /// Too many retries are in flight.
    RetriesMax,
}

impl Refusal {
    /// All of them, in the order of the checks.
    pub const ALL: [Self; 10] = [
        Self::NotConfigured,
        Self::ResponseStarted,
        Self::Nested,
        Self::Method,
        Self::Attempts,
        Self::BodyConsumed,
        Self::RetryAfter,
        Self::Deadline,
        Self::Budget,
        Self::RetriesMax,
    ];

    /// The word for it in logs and as a metric's label. Stable.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ResponseStarted => "response_started",
            Self::BodyConsumed => "body_consumed",
            Self::NotConfigured => "not_configured",
            Self::Nested => "nested",
            Self::Method => "method",
            Self::Attempts => "attempts",
            Self::RetryAfter => "retry_after",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
            Self::RetriesMax => "retries_max",
        }
    }
}

impl From<Spent> for Refusal {
    fn from(spent: Spent) -> Self {
        match spent {
            Spent::Budget => Self::Budget,
            Spent::InFlight => Self::RetriesMax,
        }
    }
}

/// Whether a request whose try failed is sent again. `draw` is even over all of `u64`. Takes a retry from the budget only
/// if the answer is [`Charge::Budget`].
pub fn decide(
    settings: &Settings,
    budget: &mut Budget,
    failure: Failure,
    attempt: &Attempt,
    now_ms: u64,
    draw: u64,
) -> Verdict {
    match allowed(settings, failure, attempt, now_ms, draw) {
        Err(refusal) => Verdict::Stop(refusal),
        Ok(_) if is_free(failure, attempt) => {
            Verdict::Again { after_ms: 0, place: Place::Same, charge: Charge::Free }
        }
        Ok(after_ms) if is_unsent(failure, attempt) => {
            Verdict::Again { after_ms, place: Place::Elsewhere, charge: Charge::Unsent }
        }
        Ok(after_ms) => match budget.withdraw(now_ms) {
            Ok(()) => Verdict::Again { after_ms, place: Place::Elsewhere, charge: Charge::Budget },
            Err(spent) => Verdict::Stop(spent.into()),
        },
    }
}

/// The first stale connection of a request.
fn is_free(failure: Failure, attempt: &Attempt) -> bool {
    failure == Failure::Stale && attempt.free == 0
}

/// Nothing of the request reached anybody.
fn is_unsent(failure: Failure, attempt: &Attempt) -> bool {
    attempt.body == Body::NothingSent || failure == Failure::Connect
}

/// Checks 1 to 8, and how long to wait.
fn allowed(
    settings: &Settings,
    failure: Failure,
    attempt: &Attempt,
    now_ms: u64,
    draw: u64,
) -> Result<u64, Refusal> {
    let free = is_free(failure, attempt);
    let nothing_sent = is_unsent(failure, attempt);
    if !free && !is_configured(settings, failure, nothing_sent) {
        return Err(Refusal::NotConfigured);
    }
    not_begun(attempt)?;
    // Not for what was refused, either: a hop that refuses for its load would be asked by every hop before it.
    if attempt.arrived_as > 1 && !nothing_sent {
        return Err(Refusal::Nested);
    }
    let acted_upon = !nothing_sent && failure != Failure::Refused;
    if acted_upon && !settings.methods.contain(attempt.method) {
        return Err(Refusal::Method);
    }
    let tries = attempt.number.saturating_sub(attempt.free);
    if !free && tries >= settings.attempts_max {
        return Err(Refusal::Attempts);
    }
    in_hand(attempt)?;
    let patience_ms = match failure {
        Failure::Status(429 | 503) => attempt.retry_after_ms.unwrap_or(0),
        _ => 0,
    };
    if patience_ms > settings.retry_after_ms_max {
        return Err(Refusal::RetryAfter);
    }
    // On top of what the origin asks for, or all that it asked would be back at the same moment.
    // The first endpoint that can't be reached costs no wait at all: there is another, which did nothing wrong.
    let at_once = free || (nothing_sent && tries <= 1);
    let jitter_ms = if at_once { 0 } else { settings.back_off.wait_ms(tries, draw) };
    let after_ms = patience_ms.saturating_add(jitter_ms);
    before_deadline(attempt, now_ms, after_ms)?;
    Ok(after_ms)
}

/// Check 2.
fn not_begun(attempt: &Attempt) -> Result<(), Refusal> {
    match attempt.response {
        Response::Started => Err(Refusal::ResponseStarted),
        Response::NotStarted => Ok(()),
    }
}

/// Check 6.
fn in_hand(attempt: &Attempt) -> Result<(), Refusal> {
    match attempt.body {
        Body::Consumed => Err(Refusal::BodyConsumed),
        Body::NothingSent | Body::Replayable => Ok(()),
    }
}

/// Check 1. What was not sent is no worse than a connection that failed, however it came about.
fn is_configured(settings: &Settings, failure: Failure, nothing_sent: bool) -> bool {
    let conditions = match failure {
        Failure::Connect => Conditions::CONNECT_FAILURE,
        Failure::Refused => Conditions::REFUSED_STREAM,
        Failure::Stale => Conditions::RESET.with(Conditions::CONNECT_FAILURE),
        Failure::ResetBeforeResponse if nothing_sent => Conditions::RESET.with(Conditions::CONNECT_FAILURE),
        Failure::ResetBeforeResponse => Conditions::RESET,
        Failure::PerTryTimeout => Conditions::PER_TRY_TIMEOUT,
        Failure::Status(status) if settings.statuses.contains(status) => {
            Conditions::of_status(status).with(Conditions::STATUS_CODES)
        }
        Failure::Status(status) => Conditions::of_status(status),
        Failure::Grpc(status) => Conditions::of_grpc(status),
    };
    settings.conditions.meets(conditions)
}

/// Check 8: a millisecond at least must be left.
fn before_deadline(attempt: &Attempt, now_ms: u64, after_ms: u64) -> Result<(), Refusal> {
    match attempt.deadline_ms {
        Some(deadline_ms) if now_ms.saturating_add(after_ms) >= deadline_ms => Err(Refusal::Deadline),
        _ => Ok(()),
    }
}

/// A second try beside one that takes long, and the first answer is taken ("hedged requests", Dean and Barroso, "The
/// Tail at Scale", 2013). Envoy's `hedge_on_per_try_timeout` does so only when a try has timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedge {
    /// How long the last try has been out, in milliseconds, at least 1: counted from when the whole request was sent. To
    /// be about the upstream's 95th percentile, for then one request in twenty is sent twice.
    pub after_ms: NonZeroU64,
    /// Tries in all, retries included: 2 to `RETRY_ATTEMPTS_MAX`.
    pub attempts_max: u32,
    /// For which methods. Not the retries' set: a hedge makes the origin act twice where nothing has failed.
    pub methods: Methods,
}

impl Hedge {
    /// One more try after a second, of what is idempotent. The percentile of an upstream only a configuration knows.
    pub const DEFAULT: Self = Self {
        after_ms: NonZeroU64::new(1_000).expect("a thousand is not zero"),
        attempts_max: 2,
        methods: Methods::Idempotent,
    };
}

impl Default for Hedge {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Whether a second try is sent now, elsewhere, while the last one is still out. The checks are those of the module's
/// head that have a meaning here: 1, 2, 4, 5, 6, 8, 9. Takes a retry from the budget if it is; [`Budget::ended`] is to be
/// told when that try has ended.
pub fn hedge(hedge: &Hedge, budget: &mut Budget, attempt: &Attempt, now_ms: u64) -> Result<(), Refusal> {
    not_begun(attempt)?;
    in_hand(attempt)?;
    if attempt.arrived_as > 1 {
        return Err(Refusal::Nested);
    }
    if !hedge.methods.contain(attempt.method) {
        return Err(Refusal::Method);
    }
    if attempt.number.saturating_sub(attempt.free) >= hedge.attempts_max {
        return Err(Refusal::Attempts);
    }
    before_deadline(attempt, now_ms, 0)?;
    budget.withdraw(now_ms).map_err(Refusal::from)
}
