//! An endpoint's health, shared by the node: one word that workers read at each choice and hardly ever write.
//!
//! Like [`Loans`](super::upstream::Loans) it is state: the control thread keeps it by upstream and address, so it
//! outlives reloads, and hands it to workers with each resolved endpoint. Decisions are `policy::health`'s (what follows
//! from an event) and `policy::outlier`'s (who is one); here they meet the atomics and the cap.
//!
//! # Who calls what
//! - **Control thread**, at each install: [`Standings::of`] for each resolved endpoint (the result goes into
//!   `upstream::Resolved`), then [`Standings::keep`] with all that are live. Between two installs its prober writes
//!   verdicts by [`Standing::apply`].
//! - **Worker**, one [`Observer`] in each of its `upstream::Endpoint`s:
//!   - `choose`: a candidate is usable unless [`Observer::admission`] is [`Admission::Closed`]. If that leaves nobody,
//!     choosing once more among all is better than failing every request (Envoy's panic routing);
//!   - `Lease::new`: [`Observer::begin`], whose [`Ticket`] the lease keeps;
//!   - when the attempt's response head is there, or it failed: [`Observer::finish`] with its outcome. A lease that is
//!     dropped without an outcome (its client left) calls [`Observer::abandon`]: else a trial would never be over;
//!   - once a second, for each upstream: [`Comparison::round`].
//!
//! `now_ms` is the clock that all workers share ([`base::clock`](crate::base::clock)); the control thread must use it too.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::net::connect::Address;
use crate::policy::health::{Cause, Ejection, Event, State, Traffic, Verdict, Word, next};
use crate::policy::outlier::{self, Finding, Interval, Outcome, Watch};

/// One endpoint of one upstream, as the whole node sees it.
#[derive(Debug)]
pub struct Standing {
    word: AtomicU64,
    cohort: Arc<Cohort>,
}

/// All endpoints of an upstream, as the cap on ejections sees them.
#[derive(Debug, Default)]
pub struct Cohort {
    /// At least as many as are out; see [`Standing::apply`].
    ejected: AtomicU32,
    endpoints: AtomicU32,
    changes: AtomicU32,
}

impl Cohort {
    /// Endpoints that outlier detection keeps from admitting requests: ejected or probing.
    pub fn ejected(&self) -> u32 {
        self.ejected.load(Ordering::Acquire)
    }

    /// Changes with every change of anybody's health: whoever has planned by it plans anew.
    #[inline]
    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }

    /// Configured and resolved endpoints.
    pub fn endpoints(&self) -> u32 {
        self.endpoints.load(Ordering::Acquire)
    }

    fn take_place(&self, ejection: &Ejection) -> bool {
        let max = ejection.ejected_max(self.endpoints());
        let more = |n: u32| (n < max).then_some(n + 1);
        self.ejected.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn leave_place(&self) {
        self.ejected.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It changed the state.
    Changed { before: State, after: State },
    /// It meant nothing in the state there was: others were faster, or it came too late.
    Unchanged,
    /// An ejection was due, but the cap was reached.
    AtCap,
}

impl Standing {
    /// One that belongs to a cohort. [`Standings`] makes them.
    pub fn new(verdict: Verdict, cohort: Arc<Cohort>, now_ms: u64) -> Arc<Self> {
        Arc::new(Self { word: AtomicU64::new(Word::new(verdict, now_ms).bits()), cohort })
    }

    /// The word as it is now: one relaxed load. It carries no other memory, so no order is needed.
    #[inline]
    pub fn word(&self) -> Word {
        Word::from_bits(self.word.load(Ordering::Relaxed))
    }

    /// The word in the clear, for admin and metrics.
    pub fn state(&self) -> State {
        self.word().state()
    }

    /// The upstream's numbers.
    pub fn cohort(&self) -> &Cohort {
        &self.cohort
    }

    /// Changes the state by an event.
    ///
    /// The cap is exact: a place is taken before the word says ejected, and left after it says admitting, so there are
    /// never more endpoints out than places, nor more places than the cap. (The cap may sink below what is out when
    /// endpoints leave; then nobody is ejected until it fits again.)
    pub fn apply(&self, event: Event, ejection: &Ejection, now_ms: u64) -> Applied {
        let mut word = self.word();
        let mut has_place = false;
        let changed = loop {
            let after = next(word, event, ejection, now_ms);
            if after == word {
                break None;
            }
            let goes_out = !word.is_out() && after.is_out();
            if goes_out && !has_place {
                if !self.cohort.take_place(ejection) {
                    return Applied::AtCap;
                }
                has_place = true;
            }
            let swap =
                self.word.compare_exchange(word.bits(), after.bits(), Ordering::AcqRel, Ordering::Acquire);
            match swap {
                Ok(_) => break Some((word, after)),
                Err(newer) => word = Word::from_bits(newer),
            }
        };
        let keeps_place = changed.is_some_and(|(before, after)| !before.is_out() && after.is_out());
        if has_place && !keeps_place {
            self.cohort.leave_place();
        }
        let Some((before, after)) = changed else { return Applied::Unchanged };
        self.cohort.changes.fetch_add(1, Ordering::AcqRel);
        if before.is_out() && !after.is_out() {
            self.cohort.leave_place();
        }
        Applied::Changed { before: before.state(), after: after.state() }
    }
}

/// The standings of all endpoints of the node. Kept by the control thread, beside the lent connections.
#[derive(Debug, Default)]
pub struct Standings {
    upstreams: HashMap<Arc<str>, Members>,
}

#[derive(Debug, Default)]
struct Members {
    cohort: Arc<Cohort>,
    standings: HashMap<Address, Arc<Standing>>,
}

impl Standings {
    /// The standing of an endpoint; a new one, with this verdict, if there is none yet. At the node's start `now_ms` may
    /// be zero: then nothing is a newcomer that starts slowly.
    pub fn of(
        &mut self,
        upstream: &Arc<str>,
        address: &Address,
        verdict: Verdict,
        now_ms: u64,
    ) -> Arc<Standing> {
        let members = self.upstreams.entry(Arc::clone(upstream)).or_default();
        let cohort = &members.cohort;
        let new = || Standing::new(verdict, Arc::clone(cohort), now_ms);
        Arc::clone(members.standings.entry(address.clone()).or_insert_with(new))
    }

    /// Lets go those that `is_live` does not know, and tells cohorts how many they are. Those that left give up their
    /// places; workers may hold them for as long as their last requests take.
    pub fn keep(&mut self, is_live: impl Fn(&Arc<str>, &Address) -> bool) {
        self.upstreams.retain(|upstream, members| {
            members.standings.retain(|address, standing| {
                let live = is_live(upstream, address);
                if !live {
                    standing.apply(Event::Leave, &Ejection::default(), 0);
                }
                live
            });
            members.cohort.endpoints.store(members.standings.len() as u32, Ordering::Release);
            !members.standings.is_empty()
        });
    }

    /// Endpoints out and endpoints in all, by upstream; for metrics.
    pub fn cohorts(&self) -> impl Iterator<Item = (&Arc<str>, &Cohort)> {
        self.upstreams.iter().map(|(name, members)| (name, &*members.cohort))
    }
}

/// What outlier detection of one upstream is configured to.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Settings {
    /// Who is an outlier.
    pub outlier: outlier::Settings,
    /// What follows.
    pub ejection: Ejection,
}

/// May a request go to an endpoint?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Open,
    /// Yes, one: it decides whether more may.
    Trial,
    /// No.
    Closed,
}

/// What an attempt is to the endpoint's health. Each is to be given to [`Observer::finish`] or [`Observer::abandon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Ticket {
    /// One of many, begun in this spell.
    Ordinary(u32),
    /// The trial.
    Trial,
    /// Sent although the endpoint was closed, since all were: says no more than that it can be reached.
    Unheard,
}

/// One worker's side of an endpoint: what it saw, and whether its trial request is under way.
#[derive(Debug)]
pub struct Observer {
    standing: Arc<Standing>,
    watch: RefCell<Watch>,
    /// The spell that `watch` is about.
    spell: Cell<u32>,
    trial: Cell<bool>,
}

impl Observer {
    /// Of this endpoint.
    pub fn new(standing: Arc<Standing>) -> Self {
        let spell = Cell::new(standing.word().spell());
        Self { standing, watch: RefCell::default(), spell, trial: Cell::new(false) }
    }

    /// The node's word on it.
    pub fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// May a request go there?
    #[inline]
    pub fn admission(&self) -> Admission {
        let word = self.standing.word();
        if word.is_usable() {
            Admission::Open
        } else if word.may_probe() && !self.trial.get() {
            Admission::Trial
        } else {
            Admission::Closed
        }
    }

    /// An attempt begins.
    #[inline]
    pub fn begin(&self) -> Ticket {
        match self.admission() {
            Admission::Open => Ticket::Ordinary(self.standing.word().spell()),
            Admission::Trial => {
                self.trial.set(true);
                Ticket::Trial
            }
            Admission::Closed => Ticket::Unheard,
        }
    }

    /// An attempt's outcome is known: the head of its response came `latency_us` after the request was sent (0: not known), or it failed. `draw` is
    /// a random number. Tells what it did to the endpoint, if that is worth counting; [`Applied::AtCap`] too.
    #[inline]
    pub fn finish(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        latency_us: u64,
        settings: &Settings,
        now_ms: u64,
        draw: impl FnOnce() -> u64,
    ) -> Option<Applied> {
        let Ticket::Ordinary(spell) = ticket else {
            return self.finish_trial(ticket, outcome, settings, now_ms, draw);
        };
        let word = self.standing.word();
        // What was sent before an ejection, or before the end of one, is no news of what came after.
        if spell != word.spell() || word.is_out() {
            return None;
        }
        let mut watch = self.watch.borrow_mut();
        if self.spell.replace(spell) != spell {
            *watch = Watch::default();
        }
        let finding = watch.observe(outcome, latency_us, &settings.outlier)?;
        Some(self.standing.apply(eject(finding, draw()), &settings.ejection, now_ms))
    }

    #[cold]
    fn finish_trial(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        settings: &Settings,
        now_ms: u64,
        draw: impl FnOnce() -> u64,
    ) -> Option<Applied> {
        if ticket == Ticket::Unheard {
            let reached = outcome == Outcome::Success;
            return reached.then(|| self.standing.apply(Event::Reached, &settings.ejection, now_ms));
        }
        self.trial.set(false);
        let event = if outcome == Outcome::Success {
            Event::TrialPassed
        } else {
            Event::TrialFailed { draw: draw() }
        };
        Some(self.standing.apply(event, &settings.ejection, now_ms))
    }

    /// An attempt ended without saying anything of the endpoint.
    #[inline]
    pub fn abandon(&self, ticket: Ticket) {
        if ticket == Ticket::Trial {
            self.trial.set(false);
        }
    }

    /// Ends the interval; `None` for one that does not admit requests.
    fn end_interval(&self) -> Option<Interval> {
        let word = self.standing.word();
        let mut watch = self.watch.borrow_mut();
        if self.spell.replace(word.spell()) != word.spell() {
            *watch = Watch::default();
        }
        let interval = watch.end_interval();
        word.is_usable().then_some(interval)
    }
}

fn eject(finding: Finding, draw: u64) -> Event {
    let cause = match finding {
        Finding::Consecutive5xx => Cause::Consecutive5xx,
        Finding::ConsecutiveGatewayFailure => Cause::ConsecutiveGatewayFailure,
        Finding::ConsecutiveLocalOriginFailure => Cause::ConsecutiveLocalOriginFailure,
        Finding::SuccessRate => Cause::SuccessRate,
        Finding::FailurePercentage => Cause::FailurePercentage,
        Finding::Latency => Cause::Latency,
    };
    Event::Eject { cause, draw }
}

/// One worker's comparison of an upstream's endpoints: when the next is due.
#[derive(Debug, Default)]
pub struct Comparison {
    due_ms: Cell<u64>,
}

impl Comparison {
    /// Ends the interval if it is over, compares, ejects. Called once a second; allocates when an interval ends. Each
    /// thing that it did goes to `did`.
    pub fn round<'o>(
        &self,
        observers: impl Iterator<Item = &'o Observer>,
        settings: &Settings,
        now_ms: u64,
        draw: &mut impl FnMut() -> u64,
        mut did: impl FnMut(&'o Observer, Applied),
    ) {
        if now_ms < self.due_ms.get() {
            return;
        }
        let is_first = self.due_ms.replace(now_ms.saturating_add(settings.ejection.interval_ms)) == 0;
        let (admitting, intervals): (Vec<&Observer>, Vec<Interval>) =
            observers.filter_map(|observer| Some((observer, observer.end_interval()?))).unzip();
        // The first one began whenever the first call came.
        if is_first {
            return;
        }
        for (at, finding) in outlier::compare(&settings.outlier, &intervals) {
            let standing = admitting[at].standing();
            did(admitting[at], standing.apply(eject(finding, draw()), &settings.ejection, now_ms));
        }
    }
}

/// The word for [`Traffic`] in metrics and the admin interface.
pub fn traffic_name(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Admitting => "admitting",
        Traffic::Ejected => "ejected",
        Traffic::Probing => "probing",
    }
}

#[cfg(test)]
mod tests;
