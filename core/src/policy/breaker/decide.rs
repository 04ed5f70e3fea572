//! A breaker: keeps requests from an upstream that fails or drags, and lets a few through to see whether it still does.
//!
//! ```text
//!              too many errors or slow calls                  rejecting_ms is over
//!   Admitting ───────────────────────────────> Rejecting ───────────────────────────> Probing
//!       ^                                          ^   a probe fails, or is slow: twice    │ │
//!       │                                          └───────── the rejecting_ms ────────────┘ │
//!       └─────────────────────────────── `probes` probes succeed ──────────────────────────┘
//! ```
//!
//! The model is resilience4j's `CircuitBreaker` with a time-based sliding window: rates over a ring of ten buckets, once
//! there are enough requests in it. Its names and ours: CLOSED is Admitting, OPEN is Rejecting, `HALF_OPEN` is Probing;
//! `failureRateThreshold`, `slowCallRateThreshold`, `minimumNumberOfCalls`, `waitDurationInOpenState` and
//! `permittedNumberOfCallsInHalfOpenState` are `error_percent`, `slow_percent`, `requests_min`, `rejecting_ms` and
//! `probes`. Different here: one failed probe ends probing (there: the rate over all probes), and the time of rejecting
//! grows. What Envoy calls circuit breakers are maxima of connections, requests and retries (for us: pools,
//! `concurrency`, `retry::Budget`); its counterpart to this file is outlier detection, but for single endpoints.
//!
//! Requests hold a [`Permit`], which says in which epoch they were admitted; each change of state begins a new one, and
//! what belongs to an old one is not counted. So a slow failure from before the change can't speak against an upstream
//! that has recovered, nor a late success for one that has not.
//!
//! A permit is given back by [`Breaker::record`] or, where nothing was learnt (the client left, the request was never
//! sent), by [`Breaker::release`], which frees a probe's place and counts for neither side. Should a probe's permit be
//! lost for good (or its request not end), the place is lost no longer than the time of rejecting: when no probe has
//! begun for so long, all places are free again. A result that comes still later counts all the same, or an upstream
//! whose good answers take longer than the time of rejecting would be probed for ever.
//!
//! Called by the attempt loop: one breaker for each upstream of one worker, asked before each attempt. It does not
//! decide what an error is, and knows nothing of endpoints.

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

use std::num::NonZeroU8;

/// When a breaker rejects, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Over how long rates are taken, in milliseconds: 10 to `BREAKER_WINDOW_MS_MAX`. A request is forgotten after
    /// nine tenths to the whole of it.
    pub window_ms: u64,
    /// No rate is looked at before so many requests of the window have ended; at least 1.
    pub requests_min: u32,
    /// The share of errors from which on it rejects, 1 to 100; `None`: errors don't matter.
    pub error_percent: Option<NonZeroU8>,
    /// A request that takes as long as this, in milliseconds, is slow.
    pub slow_ms: u64,
    /// The share of slow requests from which on it rejects, 1 to 100; `None`: slowness does not matter.
    pub slow_percent: Option<NonZeroU8>,
    /// For how long it rejects, in milliseconds, at least 1. Twice as long after each time of probing that fails.
    pub rejecting_ms: u64,
    /// But never longer than this, in milliseconds: at least `rejecting_ms`, at most `BREAKER_REJECTING_MS_MAX`.
    pub rejecting_ms_max: u64,
    /// How many requests are let through at once while probing, and how many must succeed; 1 to `BREAKER_PROBES_MAX`.
    pub probes: u32,
}

impl Settings {
    /// Half of at least 20 requests in 10 s failed: 5 s, doubling up to one minute, then 3 probes. Slowness does not
    /// matter, for what is slow only a configuration knows.
    pub const DEFAULT: Self = Self {
        window_ms: 10_000,
        requests_min: 20,
        error_percent: NonZeroU8::new(50),
        slow_ms: 5_000,
        slow_percent: None,
        rejecting_ms: 5_000,
        rejecting_ms_max: 60_000,
        probes: 3,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What a breaker does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All go through, and are counted.
    Admitting,
    /// None does.
    Rejecting,
    /// A few do.
    Probing,
}

impl State {
    /// For metrics and the admin listener.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Admitting => "admitting",
            Self::Rejecting => "rejecting",
            Self::Probing => "probing",
        }
    }
}

/// The right to send one request. To be given back by [`Breaker::record`] or [`Breaker::release`].
#[derive(Debug)]
#[must_use = "a permit that is not given back takes a probe's place"]
pub struct Permit {
    epoch: u32,
}

/// The breaker lets nothing through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// When asking again may be worth while, in milliseconds, at least 1.
    pub retry_after_ms: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The upstream did its part, whatever it answered.
    Success,
    /// It could not be reached, broke off, took too long or answered as it should not.
    Error,
}

/// The numbers of a breaker, for metrics and the admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// As of its last request: it begins to probe when it is asked, not when its time comes.
    pub state: State,
    /// Requests that ended within the window; while rejecting, those that made it reject.
    pub requests: u32,
    /// Of these, errors.
    pub errors: u32,
    /// Of these, slow ones.
    pub slow: u32,
    /// Probes that have succeeded.
    pub probes_succeeded: u32,
    /// Probes that are under way.
    pub probes_in_flight: u32,
    /// How often it began to reject, ever.
    pub trips: u64,
    /// Requests it rejected, ever.
    pub rejected: u64,
    /// Since when it has been in this state, on the caller's clock.
    pub since_ms: u64,
    /// How long it rejects, or will the next time.
    pub rejecting_ms: u64,
}

/// Buckets of the window.
const BUCKETS: usize = 10;

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    requests: u32,
    errors: u32,
    slow: u32,
}

/// One breaker: about 250 bytes. Nothing allocates.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    state: State,
    epoch: u32,
    /// When this state began.
    since_ms: u64,
    /// Rejecting: when it ends. Probing: when places that nobody gave back are handed out anew.
    until_ms: u64,
    /// The next time of rejecting.
    rejecting_ms: u64,
    in_flight: u32,
    succeeded: u32,
    total: Counts,
    buckets: [Counts; BUCKETS],
    at: usize,
    bucket_ms: u64,
    /// When the bucket at `at` is over.
    bucket_until_ms: u64,
    trips: u64,
    rejected: u64,
}

impl Breaker {
    /// One that admits and has seen nothing.
    pub fn new(settings: Settings, now_ms: u64) -> Self {
        let bucket_ms = (settings.window_ms / BUCKETS as u64).max(1);
        Self {
            settings,
            state: State::Admitting,
            epoch: 0,
            since_ms: now_ms,
            until_ms: 0,
            rejecting_ms: settings.rejecting_ms,
            in_flight: 0,
            succeeded: 0,
            total: Counts::default(),
            buckets: [Counts::default(); BUCKETS],
            at: 0,
            bucket_ms,
            bucket_until_ms: now_ms.saturating_add(bucket_ms),
            trips: 0,
            rejected: 0,
        }
    }

    /// Takes new settings. The state stays; a window of another length begins empty.
    pub fn configure(&mut self, settings: Settings, now_ms: u64) {
        if settings == self.settings {
            return;
        }
        let doubled = self.rejecting_ms > self.settings.rejecting_ms;
        self.rejecting_ms = if doubled { self.rejecting_ms } else { settings.rejecting_ms }
            .clamp(settings.rejecting_ms, settings.rejecting_ms_max.max(settings.rejecting_ms));
        if settings.window_ms != self.settings.window_ms {
            self.bucket_ms = (settings.window_ms / BUCKETS as u64).max(1);
            self.forget(now_ms);
        }
        // There is always one more probe to come, or nobody would end probing.
        self.succeeded = self.succeeded.min(settings.probes.saturating_sub(1));
        self.settings = settings;
    }

    /// May a request go through now?
    #[inline]
    pub fn admit(&mut self, now_ms: u64) -> Result<Permit, Rejected> {
        if self.state == State::Admitting {
            return Ok(Permit { epoch: self.epoch });
        }
        self.admit_probe(now_ms)
    }

    /// A request has ended, `latency_ms` after it was sent.
    #[inline]
    #[allow(clippy::needless_pass_by_value)] // A permit is used up.
    pub fn record(&mut self, permit: Permit, outcome: Outcome, latency_ms: u64, now_ms: u64) {
        if permit.epoch != self.epoch {
            return;
        }
        let error = outcome == Outcome::Error;
        let slow = latency_ms >= self.settings.slow_ms;
        match self.state {
            State::Admitting => {
                if now_ms >= self.bucket_until_ms {
                    self.turn(now_ms);
                }
                for counts in [&mut self.buckets[self.at], &mut self.total] {
                    counts.requests = counts.requests.saturating_add(1);
                    counts.errors = counts.errors.saturating_add(u32::from(error));
                    counts.slow = counts.slow.saturating_add(u32::from(slow));
                }
                if self.total.requests >= self.settings.requests_min && self.is_too_much() {
                    self.reject(now_ms);
                }
            }
            State::Probing => {
                self.record_probe(error || (slow && self.settings.slow_percent.is_some()), now_ms);
            }
            // No permit is of an epoch of rejecting.
            State::Rejecting => {}
        }
    }

    /// A request has ended without telling anything of the upstream.
    #[allow(clippy::needless_pass_by_value)] // A permit is used up.
    pub fn release(&mut self, permit: Permit) {
        if permit.epoch == self.epoch && self.state == State::Probing {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
    }

    /// What it does now, as far as it has been asked.
    pub fn state(&self) -> State {
        self.state
    }

    /// All that can be said of it.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            state: self.state,
            requests: self.total.requests,
            errors: self.total.errors,
            slow: self.total.slow,
            probes_succeeded: self.succeeded,
            probes_in_flight: self.in_flight,
            trips: self.trips,
            rejected: self.rejected,
            since_ms: self.since_ms,
            rejecting_ms: self.rejecting_ms,
        }
    }

    #[cold]
    fn admit_probe(&mut self, now_ms: u64) -> Result<Permit, Rejected> {
        if now_ms >= self.until_ms {
            // Either it has rejected for long enough, or probes have been away for as long a time again.
            if self.state == State::Rejecting {
                self.enter(State::Probing, now_ms);
            }
            self.in_flight = 0;
        }
        if self.state == State::Probing && self.in_flight + self.succeeded < self.settings.probes.max(1) {
            self.in_flight += 1;
            self.until_ms = now_ms.saturating_add(self.rejecting_ms);
            return Ok(Permit { epoch: self.epoch });
        }
        self.rejected += 1;
        Err(Rejected { retry_after_ms: self.until_ms.saturating_sub(now_ms).max(1) })
    }

    fn record_probe(&mut self, failed: bool, now_ms: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if failed {
            let longest = self.settings.rejecting_ms_max.max(self.settings.rejecting_ms);
            self.rejecting_ms = self.rejecting_ms.saturating_mul(2).min(longest);
            self.reject(now_ms);
            return;
        }
        self.succeeded += 1;
        if self.succeeded >= self.settings.probes {
            self.rejecting_ms = self.settings.rejecting_ms;
            self.forget(now_ms);
            self.enter(State::Admitting, now_ms);
        }
    }

    #[inline]
    fn is_too_much(&self) -> bool {
        let reaches = |count: u32, percent: Option<NonZeroU8>| {
            percent.is_some_and(|percent| {
                u64::from(count) * 100 >= u64::from(self.total.requests) * u64::from(percent.get())
            })
        };
        reaches(self.total.errors, self.settings.error_percent)
            | reaches(self.total.slow, self.settings.slow_percent)
    }

    #[cold]
    fn reject(&mut self, now_ms: u64) {
        self.trips += 1;
        self.enter(State::Rejecting, now_ms);
        self.until_ms = now_ms.saturating_add(self.rejecting_ms.max(1));
    }

    /// Begins a state, and with it an epoch. An epoch of 2^32 changes ago is taken for this one, which takes a request
    /// that has lasted through as many.
    fn enter(&mut self, state: State, now_ms: u64) {
        self.state = state;
        self.since_ms = now_ms;
        self.epoch = self.epoch.wrapping_add(1);
        self.in_flight = 0;
        self.succeeded = 0;
    }

    /// Goes on to the bucket of `now_ms`, emptying those that are older than the window.
    #[cold]
    fn turn(&mut self, now_ms: u64) {
        let steps = (now_ms - self.bucket_until_ms) / self.bucket_ms + 1;
        if steps >= BUCKETS as u64 {
            self.forget(now_ms);
            return;
        }
        for _ in 0..steps {
            self.at = (self.at + 1) % BUCKETS;
            let old = std::mem::take(&mut self.buckets[self.at]);
            self.total.requests = self.total.requests.saturating_sub(old.requests);
            self.total.errors = self.total.errors.saturating_sub(old.errors);
            self.total.slow = self.total.slow.saturating_sub(old.slow);
        }
        self.bucket_until_ms = self.bucket_until_ms.saturating_add(steps * self.bucket_ms);
    }

    fn forget(&mut self, now_ms: u64) {
        self.total = Counts::default();
        self.buckets = [Counts::default(); BUCKETS];
        self.bucket_until_ms = now_ms.saturating_add(self.bucket_ms);
    }
}
