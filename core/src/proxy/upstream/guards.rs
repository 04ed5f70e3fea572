//! What stands between a request and an upstream that has enough: bounds on what is in flight, the breaker, the adaptive
//! limit; and the budget of what may be tried again.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;

use super::{Settings, Upstream};
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::policy::breaker::{self, Breaker, Permit};
use crate::policy::concurrency::{self, Limiter};
use crate::policy::outlier::Outcome;
use crate::policy::retry::Budget;

/// One worker's guards of one upstream.
#[derive(Debug)]
pub(super) struct Guards {
    breaker: RefCell<Option<Breaker>>,
    limiter: RefCell<Option<Limiter>>,
    pub(super) budget: RefCell<Budget>,
    in_flight: Cell<u32>,
}

/// Why an attempt was not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// `requests_max` are in flight.
    TooMany,
    /// As many as the adaptive limit allows now.
    Limited,
    /// The breaker rejects, for so many milliseconds.
    Rejected(u64),
}

impl Denied {
    /// What the client is told.
    pub fn fault(self) -> Fault {
        match self {
            Self::TooMany => Fault::policy(ReasonCode::UpstreamRequestsFull, 503),
            Self::Limited => Fault::policy(ReasonCode::UpstreamConcurrencyLimit, 503),
            Self::Rejected(_) => Fault::policy(ReasonCode::BreakerRejecting, 503),
        }
    }

    /// What its Retry-After says, in seconds.
    pub fn retry_after_s(self) -> u32 {
        match self {
            Self::TooMany | Self::Limited => 1,
            Self::Rejected(ms) => u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX),
        }
    }
}

/// What the guards show: for metrics and the admin interface.
#[derive(Debug, Clone, Copy, Default)]
pub struct GuardNumbers {
    /// Attempts in flight.
    pub in_flight: u32,
    /// The breaker, if there is one.
    pub breaker: Option<breaker::Numbers>,
    /// The adaptive limit, if there is one.
    pub limiter: Option<concurrency::Numbers>,
}

impl Guards {
    pub(super) fn new(settings: &Settings, now_ms: u64) -> Self {
        let guards = Self {
            breaker: RefCell::default(),
            limiter: RefCell::default(),
            budget: RefCell::new(Budget::new(settings.budget, now_ms)),
            in_flight: Cell::new(0),
        };
        guards.configure(settings, now_ms);
        guards
    }

    /// Takes over settings; what was learnt stays.
    pub(super) fn configure(&self, settings: &Settings, now_ms: u64) {
        let mut breaker = self.breaker.borrow_mut();
        match (&mut *breaker, settings.breaker) {
            (Some(breaker), Some(settings)) => breaker.configure(settings, now_ms),
            (none, wanted) => *none = wanted.map(|settings| Breaker::new(settings, now_ms)),
        }
        let mut limiter = self.limiter.borrow_mut();
        match (&mut *limiter, settings.adaptive) {
            (Some(limiter), Some(settings)) => limiter.configure(settings),
            (none, wanted) => *none = wanted.map(|settings| Limiter::new(settings, now_ms)),
        }
        self.budget.borrow_mut().configure(settings.budget);
    }

    pub(super) fn numbers(&self) -> GuardNumbers {
        GuardNumbers {
            in_flight: self.in_flight.get(),
            breaker: self.breaker.borrow().as_ref().map(Breaker::numbers),
            limiter: self.limiter.borrow().as_ref().map(Limiter::numbers),
        }
    }
}

/// The right to make one attempt. What became of it is to be told by its lease; without that it counts for nothing.
pub struct Admitted<S> {
    pub(super) upstream: Rc<Upstream<S>>,
    permit: Cell<Option<Permit>>,
    /// It still counts among those in flight.
    counted: Cell<bool>,
    /// When the exchange began that it is for, on the worker's clock.
    began_ns: u64,
}

impl<S> std::fmt::Debug for Admitted<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admitted").field("upstream", &self.upstream.name).finish_non_exhaustive()
    }
}

impl<S> Upstream<S> {
    /// The budget of retries.
    pub fn budget(&self) -> RefMut<'_, Budget> {
        self.guards.budget.borrow_mut()
    }

    /// May an attempt be made now, for an exchange that began at `began_ns`?
    pub fn admit(self: &Rc<Self>, now_ns: u64, began_ns: u64) -> Result<Admitted<S>, Denied> {
        let guards = &self.guards;
        let in_flight = guards.in_flight.get();
        if in_flight >= self.settings.borrow().requests_max {
            return Err(Denied::TooMany);
        }
        if let Some(limiter) = &*guards.limiter.borrow() {
            limiter.try_acquire(in_flight).map_err(|_| Denied::Limited)?;
        }
        let permit = match &mut *guards.breaker.borrow_mut() {
            None => None,
            Some(breaker) => Some(
                breaker
                    .admit(now_ns / 1_000_000)
                    .map_err(|rejected| Denied::Rejected(rejected.retry_after_ms))?,
            ),
        };
        guards.in_flight.set(in_flight + 1);
        Ok(Admitted {
            upstream: Rc::clone(self),
            permit: Cell::new(permit),
            counted: Cell::new(true),
            began_ns,
        })
    }
}

impl<S> Admitted<S> {
    /// When the exchange began.
    pub(super) fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// What became of the attempt, as of its response's head, and how long the endpoint took for it, if that is known.
    /// Only the first word counts.
    pub(super) fn learn(&self, outcome: Outcome, status: Option<u16>, latency_ns: Option<u64>, now_ns: u64) {
        let guards = &self.upstream.guards;
        let now_ms = now_ns / 1_000_000;
        if let Some(permit) = self.permit.take()
            && let Some(breaker) = &mut *guards.breaker.borrow_mut()
        {
            let verdict = match outcome {
                Outcome::Success => breaker::Outcome::Success,
                _ => breaker::Outcome::Error,
            };
            breaker.record(permit, verdict, latency_ns.unwrap_or(0) / 1_000_000, now_ms);
        }
        if let Some(limiter) = &mut *guards.limiter.borrow_mut() {
            let overloaded = outcome == Outcome::Timeout || matches!(status, Some(429 | 503));
            let verdict =
                if overloaded { concurrency::Outcome::Dropped } else { concurrency::Outcome::Answered };
            // A connection that was refused at once says nothing of how long requests take.
            if overloaded || (status.is_some() && latency_ns.is_some()) {
                limiter.sample(latency_ns.unwrap_or(0) / 1_000, guards.in_flight.get(), verdict, now_ms);
            }
        }
    }

    /// The exchange has become a tunnel, which may live for days: it is no request in flight any more.
    pub(super) fn stop_counting(&self) {
        if self.counted.take() {
            let in_flight = &self.upstream.guards.in_flight;
            in_flight.set(in_flight.get() - 1);
        }
    }
}

impl<S> Drop for Admitted<S> {
    fn drop(&mut self) {
        self.stop_counting();
        if let Some(permit) = self.permit.take()
            && let Some(breaker) = &mut *self.upstream.guards.breaker.borrow_mut()
        {
            breaker.release(permit);
        }
    }
}
