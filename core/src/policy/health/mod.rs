//! What an endpoint's traffic does, as one word that the whole node shares, and how events change it.
//!
//! Two factors, independent of each other: the **verdict** of active checks (unchecked, healthy, unhealthy), and the
//! **traffic** that outlier detection allows. An endpoint takes requests if the first does not forbid it and the second
//! is [`Traffic::Admitting`].
//!
//! ```text
//!              Eject (if the upstream's cap allows)
//!  Admitting ──────────────────────────────────────> Ejected <─┐ ReturnFailed, once its time is over: longer
//!      ^                                              │  ^ └────┘
//!      │ TrialPassed                     ReturnPassed │  │ TrialFailed: longer
//!      │                         once its time is over v  │
//!      └──────────────────────────────────────────── Probing
//! ```
//!
//! And `Reached` leads from Ejected to Admitting at once, if it was ejected because it could not be reached.
//!
//! It does not hold the word (`proxy::standing` does), does not decide who is an outlier (`policy::outlier` does), and
//! knows nothing of the cap: leaving `Admitting` and coming back to it is all that the cap counts. Everything here is a
//! pure function; times are milliseconds on the clock that all workers and the control thread share.

pub mod check;
pub(crate) mod compile;
pub mod explain;
pub mod outlier;
pub mod settings;

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::NoHealthyEndpoint];

/// What active checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet, or nobody asks. Takes requests.
    Unchecked,
    /// Takes requests.
    Healthy,
    /// Takes none.
    Unhealthy,
}

/// What outlier detection allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Requests go to it.
    Admitting,
    /// None do, until its time is over *and* a check of the node's prober has passed.
    Ejected,
    /// One at a time on each worker.
    Probing,
}

/// Why an endpoint was ejected last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Many responses of class 5xx in a row.
    Consecutive5xx,
    /// Many of 502, 503 and 504 in a row.
    ConsecutiveGatewayFailure,
    /// Many failures to connect, resets and time-outs in a row.
    ConsecutiveLocalOriginFailure,
    /// Its success rate was far below the others'.
    SuccessRate,
    /// It failed more than a fixed part of its requests.
    FailurePercentage,
    /// It was far slower than the others.
    Latency,
    /// It failed the first request after an ejection.
    TrialFailed,
    /// It failed the check after an ejection.
    ReturnFailed,
}

impl Cause {
    const ALL: [Cause; 8] = [
        Cause::Consecutive5xx,
        Cause::ConsecutiveGatewayFailure,
        Cause::ConsecutiveLocalOriginFailure,
        Cause::SuccessRate,
        Cause::FailurePercentage,
        Cause::Latency,
        Cause::TrialFailed,
        Cause::ReturnFailed,
    ];

    /// It could not be reached, or did not answer.
    fn is_unreachable(self) -> bool {
        matches!(self, Self::ConsecutiveLocalOriginFailure | Self::ReturnFailed)
    }

    /// For metrics, logs and the admin interface.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consecutive5xx => "consecutive_5xx",
            Self::ConsecutiveGatewayFailure => "consecutive_gateway_failure",
            Self::ConsecutiveLocalOriginFailure => "consecutive_local_origin_failure",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
            Self::Latency => "latency",
            Self::TrialFailed => "trial_failed",
            Self::ReturnFailed => "return_check_failed",
        }
    }
}

/// How long endpoints stay ejected, and how many at once: the part of Envoy's `outlier_detection` that is not about
/// finding them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    /// Envoy's `base_ejection_time`; at least 1. Times the number of ejections so far.
    pub base_ms: u64,
    /// Envoy's `max_ejection_time`; at least `base_ms`.
    pub max_ms: u64,
    /// Envoy's `max_ejection_time_jitter`: up to so much is added, so that what was ejected together comes back apart.
    pub jitter_ms_max: u64,
    /// Envoy's `interval`; at least 1. For each that an endpoint takes requests, one of its ejections is forgotten.
    pub interval_ms: u64,
    /// Envoy's `max_ejection_percent`, 0 to 100; see [`Ejection::ejected_max`].
    pub percent_max: u8,
}

impl Default for Ejection {
    /// Envoy's.
    fn default() -> Self {
        Self { base_ms: 30_000, max_ms: 300_000, jitter_ms_max: 0, interval_ms: 10_000, percent_max: 10 }
    }
}

impl Ejection {
    /// How many of so many endpoints may be ejected at once. One, even if the percentage comes to less: else nothing
    /// were ever ejected from an upstream of nine by the default of 10 %. That is Envoy's rule too. Never the last one
    /// that admits requests, unless 100 % was asked for: an upstream that answers some requests is better than none.
    pub fn ejected_max(&self, endpoints: u32) -> u32 {
        match self.percent_max {
            0 => 0,
            100.. => endpoints,
            percent => {
                let share = u64::from(endpoints) * u64::from(percent) / 100;
                (share as u32).max(1).min(endpoints.saturating_sub(1))
            }
        }
    }

    fn duration_ms(&self, ejections: u8, draw: u64) -> u64 {
        let grown = self.base_ms.saturating_mul(u64::from(ejections)).min(self.max_ms.max(self.base_ms));
        let jitter = self.jitter_ms_max.checked_add(1).map_or(draw, |n| draw % n);
        grown.saturating_add(jitter)
    }
}

/// What happens to an endpoint. `draw` is a random number, for the jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A worker found it an outlier. The caller has asked the cap.
    Eject { cause: Cause, draw: u64 },
    /// The prober's check after an ejection.
    ReturnPassed,
    /// See [`Event::ReturnPassed`].
    ReturnFailed { draw: u64 },
    /// The one request that a worker sent while [`Traffic::Probing`].
    TrialPassed,
    /// See [`Event::TrialPassed`].
    TrialFailed { draw: u64 },
    /// It has answered, an active check or a request that had nowhere else to go. If it was ejected because it could not be
    /// reached, that is over.
    Reached,
    /// Active checks have come to a verdict; [`Verdict::Unchecked`] if they are configured no more.
    Checked(Verdict),
    /// Outlier detection is configured no more.
    Pardon,
    /// The endpoint has left the configuration.
    Leave,
}

/// An endpoint's state in 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(u64);

/// [`Word`] in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// What active checks say.
    pub verdict: Verdict,
    /// What outlier detection allows.
    pub traffic: Traffic,
    /// Why it was ejected last, if ever.
    pub cause: Option<Cause>,
    /// Ejections that are not forgotten, as of `at_ms`.
    pub ejections: u8,
    /// While ejected: until when. Else since when it is as usable as it is.
    pub at_ms: u64,
    /// It has left the configuration: no event changes it any more.
    pub left: bool,
}

// From the low end: 2 bits verdict, 2 traffic, 1 left, 4 cause, 8 ejections, 47 time (4,400 years).
const TRAFFIC_AT: u32 = 2;
const LEFT_AT: u32 = 4;
const CAUSE_AT: u32 = 5;
const EJECTIONS_AT: u32 = 9;
const TIME_AT: u32 = 17;
const TIME_MAX: u64 = u64::MAX >> TIME_AT;
/// Verdict and traffic.
const FACTORS: u64 = 0b1111;
const UNHEALTHY: u64 = 2;

impl Word {
    /// An endpoint that was never ejected.
    pub fn new(verdict: Verdict, since_ms: u64) -> Self {
        State {
            verdict,
            traffic: Traffic::Admitting,
            cause: None,
            ejections: 0,
            at_ms: since_ms,
            left: false,
        }
        .pack()
    }

    /// From [`Word::bits`].
    #[inline]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// To be kept in an atomic.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Requests may go to it. Healthy or unchecked, and admitting.
    #[inline]
    pub fn is_usable(self) -> bool {
        // Traffic is zero and verdict below 2.
        self.0 & FACTORS < UNHEALTHY
    }

    /// One request at a time may go to it.
    #[inline]
    pub fn may_probe(self) -> bool {
        let factors = self.0 & FACTORS;
        factors >> TRAFFIC_AT == 2 && factors & 0b11 != UNHEALTHY
    }

    /// It is ejected, and nothing else speaks against it: better than nobody.
    #[inline]
    pub fn is_last_resort(self) -> bool {
        let factors = self.0 & FACTORS;
        factors >> TRAFFIC_AT == 1 && factors & 0b11 != UNHEALTHY
    }

    /// Since when it is usable, for slow start; `None` if it is not.
    #[inline]
    pub fn healthy_since_ms(self) -> Option<u64> {
        self.is_usable().then_some(self.0 >> TIME_AT)
    }

    /// Its ejection's time is over: only a check keeps it out.
    #[inline]
    pub fn is_return_due(self, now_ms: u64) -> bool {
        let state = self.state();
        state.traffic == Traffic::Ejected && !state.left && now_ms >= state.at_ms
    }

    /// Outlier detection keeps it from admitting: it takes a place of the upstream's cap.
    #[inline]
    pub fn is_out(self) -> bool {
        self.0 & (1 << LEFT_AT) == 0 && (self.0 >> TRAFFIC_AT) & 0b11 != 0
    }

    /// Tells apart the spells between two changes: what was begun in one says nothing about the next.
    #[inline]
    pub fn spell(self) -> u32 {
        (self.0 >> TIME_AT) as u32
    }

    /// In the clear. Bits that no state has are read as the most harmless one.
    pub fn state(self) -> State {
        let bits = |at: u32, count: u32| (self.0 >> at) & ((1 << count) - 1);
        State {
            verdict: match bits(0, 2) {
                1 => Verdict::Healthy,
                UNHEALTHY => Verdict::Unhealthy,
                _ => Verdict::Unchecked,
            },
            traffic: match bits(TRAFFIC_AT, 2) {
                1 => Traffic::Ejected,
                2 => Traffic::Probing,
                _ => Traffic::Admitting,
            },
            cause: (bits(CAUSE_AT, 4) as usize).checked_sub(1).and_then(|at| Cause::ALL.get(at).copied()),
            ejections: bits(EJECTIONS_AT, 8) as u8,
            at_ms: self.0 >> TIME_AT,
            left: bits(LEFT_AT, 1) == 1,
        }
    }
}

impl State {
    /// In 64 bits. A time beyond 4,400 years is taken for that.
    pub fn pack(self) -> Word {
        let verdict = match self.verdict {
            Verdict::Unchecked => 0,
            Verdict::Healthy => 1,
            Verdict::Unhealthy => UNHEALTHY,
        };
        let traffic = match self.traffic {
            Traffic::Admitting => 0,
            Traffic::Ejected => 1,
            Traffic::Probing => 2,
        };
        Word(
            verdict
                | traffic << TRAFFIC_AT
                | u64::from(self.left) << LEFT_AT
                | self.cause.map_or(0, |cause| cause as u64 + 1) << CAUSE_AT
                | u64::from(self.ejections) << EJECTIONS_AT
                | self.at_ms.min(TIME_MAX) << TIME_AT,
        )
    }

    /// Requests may go to it.
    pub fn is_usable(&self) -> bool {
        self.traffic == Traffic::Admitting && self.verdict != Verdict::Unhealthy
    }

    /// Ejections that are not forgotten by now. Nobody counts intervals down: time does.
    pub fn ejections_now(&self, ejection: &Ejection, now_ms: u64) -> u8 {
        if !self.is_usable() {
            return self.ejections;
        }
        let forgotten = now_ms.saturating_sub(self.at_ms) / ejection.interval_ms.max(1);
        u64::from(self.ejections).saturating_sub(forgotten) as u8
    }

    fn eject(self, cause: Cause, draw: u64, ejection: &Ejection, now_ms: u64) -> State {
        let ejections = self.ejections_now(ejection, now_ms).saturating_add(1);
        State {
            traffic: Traffic::Ejected,
            cause: Some(cause),
            ejections,
            at_ms: now_ms.saturating_add(ejection.duration_ms(ejections, draw)),
            ..self
        }
    }
}

/// The state after an event; the same word if the event means nothing in it.
#[must_use]
pub fn next(word: Word, event: Event, ejection: &Ejection, now_ms: u64) -> Word {
    let state = word.state();
    if state.left {
        return word;
    }
    let due = word.is_return_due(now_ms);
    let after = match (state.traffic, event) {
        (Traffic::Admitting, Event::Eject { cause, draw }) => state.eject(cause, draw, ejection, now_ms),
        (Traffic::Ejected, Event::ReturnPassed) if due => {
            State { traffic: Traffic::Probing, at_ms: now_ms, ..state }
        }
        (Traffic::Ejected, Event::ReturnFailed { draw }) if due => {
            state.eject(Cause::ReturnFailed, draw, ejection, now_ms)
        }
        (Traffic::Probing, Event::TrialFailed { draw }) => {
            state.eject(Cause::TrialFailed, draw, ejection, now_ms)
        }
        (Traffic::Probing, Event::TrialPassed) => {
            State { traffic: Traffic::Admitting, at_ms: now_ms, ..state }
        }
        (Traffic::Ejected, Event::Reached) if state.cause.is_some_and(Cause::is_unreachable) => {
            State { traffic: Traffic::Admitting, at_ms: now_ms, ..state }
        }
        (Traffic::Ejected | Traffic::Probing, Event::Pardon) => {
            State { traffic: Traffic::Admitting, ejections: 0, at_ms: now_ms, ..state }
        }
        (Traffic::Admitting, Event::Pardon) => State { ejections: 0, ..state },
        (_, Event::Checked(verdict)) => checked(state, verdict, ejection, now_ms),
        (_, Event::Leave) => State { left: true, ..state },
        // News of before the last change: a request that was under way, another worker's finding.
        _ => return word,
    };
    after.pack()
}

fn checked(state: State, verdict: Verdict, ejection: &Ejection, now_ms: u64) -> State {
    let after = State { verdict, ..state };
    // An end of ejection is not to be touched; the first "healthy" of what took requests anyway is no new start.
    if state.traffic != Traffic::Admitting || after.is_usable() == state.is_usable() {
        return after;
    }
    State { ejections: state.ejections_now(ejection, now_ms), at_ms: now_ms, ..after }
}

#[cfg(test)]
mod tests;
