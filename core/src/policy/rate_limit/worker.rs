//! One worker's end of the limits: the leases it holds, what it knows of buckets that are empty, and the decision.
//! Owned by one thread; a decision on a key that it holds tokens of, or has refused lately, touches no other memory.
//!
//! Memory is fixed: a cache of keys, four to a set, the least lately used of which makes room (its tokens go back).
//! A flood of new keys can therefore make decisions dearer, never wrong: the buckets are the node's.
//!
//! How much it leases: nothing at a first visit; as long as visits for a key follow each other within 2 ms, twice the last
//! batch and one, up to [`lease::spare_max`](super::lease::spare_max). So a lease lasts a few milliseconds at the pace at
//! which this worker needs it. [`Worker::tick`] returns what was not used for 5 ms.

use std::sync::Arc;

use crate::base::limits::{RATE_LEASE_IDLE_NS, RATE_LEASES_MAX, RATE_LIMITS_PER_REQUEST_MAX};

use super::key::KeyHash;
use super::lease::{Answer, Lease, Rate, Settlement, Want, nanoseconds, spare_max, ticks};
use super::node::{Missed, Node};
use super::rule::{Mode, OnExcess, Rule};
use super::sketch::{Heavy, Named, Sketch};

/// Keys of a set of the cache.
const WAYS: usize = 4;

/// Ticks within which the next visit asks for more.
const HASTE: u64 = ticks_of(2_000_000);
const IDLE: u64 = ticks_of(RATE_LEASE_IDLE_NS);

/// Decisions on a key that are counted before they go to the sketch together.
const HITS: u16 = 32;

/// Attempts at a charge that must not be lost.
const CHARGE_TRIES: usize = 8;

const fn ticks_of(ns: u64) -> u64 {
    ns >> 2
}

/// A limit that applies to a request, the bucket it is counted in, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Check<'a> {
    pub rule: &'a Rule,
    pub key: KeyHash,
    /// Tokens. Zero, for a cost that will be known with the response ([`Worker::charge`]): refused only while the bucket is
    /// in debt.
    pub cost: u32,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Admit,
    /// Admit it, after this long.
    Delay {
        wait_ns: u64,
    },
    /// Answer 429. `None`: it costs more than the limit ever admits at once.
    Reject {
        retry_after_ns: Option<u64>,
    },
}

/// A decision, and the limit that made it: of those that refuse the one with the longest wait, else the one with the
/// fewest tokens left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Which of the checks; 0 if there were none.
    pub strictest: usize,
    /// Bit i: check i is in shadow mode and would have refused.
    pub shadow_refused: u16,
    room: u64,
    interval: u64,
    fill: u64,
}

impl Outcome {
    /// Tokens left to the strictest limit's key, as far as this worker knows: others may have taken some since it asked.
    pub fn remaining(&self) -> u32 {
        self.room.checked_div(self.interval).unwrap_or(0) as u32
    }

    /// Nanoseconds until it has a token more, as far as this worker knows; `None` if its bucket is full. To a request that
    /// was refused, until it may come again.
    pub fn more_in_ns(&self) -> Option<u64> {
        let next = self.interval - self.room.checked_rem(self.interval).unwrap_or(0);
        match self.verdict {
            Verdict::Reject { retry_after_ns } => retry_after_ns,
            // Whoever comes now waits for those before, and then for a token.
            Verdict::Delay { wait_ns } => Some(wait_ns + nanoseconds(self.interval)),
            Verdict::Admit => (self.room < self.fill).then(|| nanoseconds(next)),
        }
    }

    fn is_stricter(&self, other: &Self) -> bool {
        let left = |room: u64, interval: u64| u128::from(room) * u128::from(interval.max(1));
        left(self.room, other.interval) < left(other.room, self.interval)
    }
}

/// What a worker has decided, and how dear it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub admitted: u64,
    pub delayed: u64,
    pub rejected: u64,
    pub shadow_refused: u64,
    /// Exchanges with the node's buckets.
    pub visits: u64,
    /// Decisions in a bucket that keys without a seat share: the node's table is too small.
    pub shared: u64,
    /// Refusals because another worker was in the way.
    pub busy: u64,
    /// Costs known afterwards that could not be charged because another worker was in the way.
    pub uncharged: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Worker {
    node: Arc<Node>,
    sets: Box<[Set]>,
    /// Places in the cache whose lease is, or lately was, open.
    lent: Vec<u32>,
    sketch: Sketch,
    /// A heavy key of which it is not known how it reads.
    unnamed: Option<KeyHash>,
    counts: Counts,
    /// The latest reading: a clock that goes back stands still here.
    latest_ns: u64,
}

#[derive(Debug, Clone, Default)]
struct Set {
    /// Zero: free.
    keys: [u64; WAYS],
    entries: [Entry; WAYS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    lease: Lease,
    /// When the node's bucket will be full, as of the last visit.
    full_at: u64,
    visited_at: u64,
    hits: u16,
    batch: u8,
    /// Belongs to the place, not to its key: it stands in `lent`.
    listed: bool,
}

/// Where a check's tokens came from.
#[derive(Debug, Clone, Copy)]
enum Taken {
    Nothing,
    Leased,
    Direct { full_at: u64 },
    Shared,
}

/// One check's answer. Room is in ticks, and includes what the worker holds.
struct Step {
    /// The wait, and where from; or how long until there is enough.
    taken: Result<(u64, Taken), Option<u64>>,
    room: u64,
}

impl Worker {
    /// `keys`: how many it knows at once; 48 bytes each, rounded up to a whole set.
    pub fn new(node: Arc<Node>, keys: usize) -> Self {
        Self {
            node,
            sets: vec![Set::default(); keys.div_ceil(WAYS).max(1)].into(),
            lent: Vec::with_capacity(RATE_LEASES_MAX),
            sketch: Sketch::new(),
            unnamed: None,
            counts: Counts::default(),
            latest_ns: 0,
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.sets) + size_of_val(self.lent.as_slice())
    }

    /// Decides on a request. If any limit refuses, none is charged. `now_ns` may lag behind other workers'.
    #[inline]
    pub fn check(&mut self, checks: &[Check<'_>], now_ns: u64) -> Outcome {
        let now = self.now(now_ns);
        let outcome = match checks {
            [one] if one.rule.mode == Mode::Enforce => {
                let step = self.take(one, now);
                let mut outcome = outcome(0, one, &step);
                outcome.verdict = match step.taken {
                    Ok((0, _)) => Verdict::Admit,
                    Ok((wait, _)) => Verdict::Delay { wait_ns: nanoseconds(wait) },
                    Err(wait) => Verdict::Reject { retry_after_ns: wait.map(nanoseconds) },
                };
                outcome
            }
            checks => self.check_several(checks, now),
        };
        match outcome.verdict {
            Verdict::Admit => self.counts.admitted += 1,
            Verdict::Delay { .. } => self.counts.delayed += 1,
            Verdict::Reject { .. } => self.counts.rejected += 1,
        }
        outcome
    }

    /// Charges a cost that was learnt after the request was admitted, into debt if need be.
    pub fn charge(&mut self, check: &Check<'_>, now_ns: u64) {
        let now = self.now(now_ns);
        let &Check { rule, key, cost } = check;
        if cost == 0 {
            return;
        }
        if let Some((set, way)) = self.find(key)
            && self.sets[set].entries[way].lease.spend(cost, now)
        {
            return;
        }
        self.counts.visits += 1;
        for _ in 0..CHARGE_TRIES {
            match self.node.charge(key, rule, cost, now) {
                Ok(()) => return,
                Err(Missed::Busy) => {}
                // A response that took long: its request came before a reload.
                Err(Missed::Outdated) => {
                    let Some(rule) = rule.latest() else { break };
                    let key = key.of_revision(rule.revision.number());
                    return self.charge(&Check { rule: &rule, key, cost }, now_ns);
                }
            }
        }
        self.counts.uncharged += 1;
    }

    /// Returns what was not used for [`RATE_LEASE_IDLE_NS`]. Called about that often by the worker's timer; walks the
    /// open leases, at most [`RATE_LEASES_MAX`].
    pub fn tick(&mut self, now_ns: u64) {
        let now = self.now(now_ns);
        self.settle_leases(|entry| entry.lease.used_at() + IDLE <= now);
    }

    /// Whether anything is to be returned.
    pub fn holds_leases(&self) -> bool {
        !self.lent.is_empty()
    }

    /// Returns everything: before a new snapshot's rules are used, and when the worker ends.
    pub fn release(&mut self) {
        self.settle_leases(|_| true);
        for set in &mut self.sets {
            for entry in &mut set.entries {
                // What was refused under the old rules may be admitted under the new ones.
                entry.visited_at = 0;
                entry.batch = 0;
            }
        }
    }

    /// A key of the last decision that is among the heaviest, if [`Worker::name`] should tell how it reads.
    #[inline]
    pub fn unnamed(&mut self) -> Option<KeyHash> {
        self.unnamed.take()
    }

    /// How a key reads to people; cut to [`RATE_KEY_TEXT_BYTES_MAX`](crate::base::limits::RATE_KEY_TEXT_BYTES_MAX).
    pub fn name(&mut self, key: KeyHash, text: &[u8]) {
        self.sketch.name(key, text);
    }

    /// What it has decided.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// This worker's heaviest keys. Walks its memory: for the admin.
    pub fn heaviest(&mut self, n: usize) -> Vec<Heavy> {
        for set in &mut self.sets {
            for (key, entry) in set.keys.iter().zip(&mut set.entries) {
                forget_hits(&mut self.sketch, *key, entry);
            }
        }
        self.sketch.heaviest(n)
    }

    /// Lets the sketch of the heaviest keys forget half. Called about once a minute.
    pub fn fade(&mut self) {
        self.sketch.fade();
    }

    #[inline]
    fn now(&mut self, now_ns: u64) -> u64 {
        self.latest_ns = self.latest_ns.max(now_ns);
        ticks(self.latest_ns)
    }

    fn check_several(&mut self, checks: &[Check<'_>], now: u64) -> Outcome {
        let mut taken = [Taken::Nothing; RATE_LIMITS_PER_REQUEST_MAX];
        let none = Outcome {
            verdict: Verdict::Admit,
            strictest: 0,
            shadow_refused: 0,
            room: u64::MAX,
            interval: 1,
            fill: 0,
        };
        if checks.len() > taken.len() {
            // The configuration does not allow it; to skip a limit would be worse than to refuse.
            return Outcome { verdict: Verdict::Reject { retry_after_ns: None }, room: 0, ..none };
        }
        let (mut strictest, mut refusal) = (none, None::<Outcome>);
        let (mut wait_longest, mut shadow_refused) = (0, 0);
        for (i, check) in checks.iter().enumerate() {
            // Once one has refused, the others are asked only how long they would.
            let step = if refusal.is_none() { self.take(check, now) } else { self.look(check, now) };
            let mut this = outcome(i, check, &step);
            match step.taken {
                Ok((wait, from)) => {
                    taken[i] = from;
                    wait_longest = wait_longest.max(wait);
                    if check.rule.mode == Mode::Enforce && this.is_stricter(&strictest) {
                        strictest = this;
                    }
                }
                Err(_) if check.rule.mode == Mode::Shadow => shadow_refused |= 1 << i,
                Err(wait) => {
                    this.verdict = Verdict::Reject { retry_after_ns: wait.map(nanoseconds) };
                    if refusal.is_none_or(|other| waits_longer(this.verdict, other.verdict)) {
                        refusal = Some(this);
                    }
                }
            }
        }
        if refusal.is_some() {
            for (check, from) in checks.iter().zip(taken) {
                self.untake(check, from);
            }
        } else if wait_longest > 0 {
            strictest.verdict = Verdict::Delay { wait_ns: nanoseconds(wait_longest) };
        }
        if shadow_refused != 0 {
            self.counts.shadow_refused += 1;
        }
        Outcome { shadow_refused, ..refusal.unwrap_or(strictest) }
    }

    #[inline]
    fn take(&mut self, check: &Check<'_>, now: u64) -> Step {
        let rate = &check.rule.rate;
        let Some((set, way)) = self.find(check.key) else { return self.visit(check, None, now) };
        let entry = &mut self.sets[set].entries[way];
        entry.hits += 1;
        if entry.hits >= HITS {
            entry.hits = 0;
            if self.sketch.add(check.key, HITS.into()) == Named::No {
                self.unnamed = Some(check.key);
            }
        }
        if check.cost > 0 && entry.lease.spend(check.cost, now) {
            return Step { taken: Ok((0, Taken::Leased)), room: entry.room(rate, now) };
        }
        // What it saw 5 ms ago at most still holds, unless others gave tokens back, which are a hundredth of the burst.
        if let Some(wait) = entry.refuses(check, now) {
            return Step { taken: Err(Some(wait)), room: entry.room(rate, now) };
        }
        self.visit(check, Some((set, way)), now)
    }

    /// Asks the node: settles what is left of the lease, takes what is needed, and a new lease.
    #[inline(never)]
    fn visit(&mut self, check: &Check<'_>, place: Option<(usize, usize)>, now: u64) -> Step {
        let rate = &check.rule.rate;
        let mut done = Settlement::default();
        let mut batch = 0;
        if let Some((set, way)) = place {
            let entry = &self.sets[set].entries[way];
            done = entry.lease.account();
            if now < entry.visited_at + HASTE && (entry.listed || self.lent.len() < RATE_LEASES_MAX) {
                batch = (u32::from(entry.batch) * 2 + 1).min(spare_max(rate, self.node.workers()));
            }
        }
        self.counts.visits += 1;
        let want = Want { need: check.cost, spare: batch, patience: patience(check.rule), now };
        let visit = match self.node.visit(check.key, check.rule, done, want) {
            Ok(visit) => visit,
            Err(Missed::Outdated) => return self.visit_latest(check, now),
            Err(Missed::Busy) => {
                self.counts.busy += 1;
                return Step { taken: Err(Some(IDLE)), room: 0 };
            }
        };
        self.counts.shared += u64::from(visit.shared);
        let place = place.or_else(|| self.admit(check.key));
        let spares = match visit.answer {
            Answer::Granted { spare, .. } => spare,
            Answer::Refused { .. } => 0,
        };
        let mut room = room(rate, visit.bucket.full_at(), now) + u64::from(spares) * rate.interval_ticks();
        if let Some((set, way)) = place {
            let entry = &mut self.sets[set].entries[way];
            entry.lease.close();
            entry.full_at = visit.bucket.full_at();
            entry.visited_at = now;
            entry.batch = batch as u8;
            if spares > 0 {
                entry.lease.receive(spares, rate, now);
                if !std::mem::replace(&mut entry.listed, true) {
                    self.lent.push((set * WAYS + way) as u32);
                }
            }
            room = entry.room(rate, now);
        }
        let taken = match visit.answer {
            Answer::Granted { wait, .. } if visit.shared => Ok((wait, Taken::Shared)),
            Answer::Granted { wait, .. } => Ok((wait, Taken::Direct { full_at: visit.bucket.full_at() })),
            Answer::Refused { wait } => Err(wait),
        };
        Step { taken, room }
    }

    /// The same for a request that came before a reload that another worker has taken over: the new rate decides.
    fn visit_latest(&mut self, check: &Check<'_>, now: u64) -> Step {
        let Some(rule) = check.rule.latest() else {
            self.counts.busy += 1;
            return Step { taken: Err(Some(IDLE)), room: 0 };
        };
        let key = check.key.of_revision(rule.revision.number());
        let step = self.visit(&Check { rule: &rule, key, cost: check.cost }, None, now);
        let (from, to) = (rule.rate.fill_ticks(), check.rule.rate.fill_ticks());
        Step {
            // A refund would go by the old rate.
            taken: step.taken.map(|(wait, _)| (wait, Taken::Nothing)),
            room: (u128::from(step.room) * u128::from(to) / u128::from(from)) as u64,
        }
    }

    /// What [`Worker::take`] would answer, without taking.
    fn look(&mut self, check: &Check<'_>, now: u64) -> Step {
        let rate = &check.rule.rate;
        if let Some((set, way)) = self.find(check.key) {
            let entry = &self.sets[set].entries[way];
            let held = check.cost > 0 && entry.lease.unspent() >= check.cost;
            let refused = entry.refuses(check, now);
            if held || refused.is_some() {
                let taken = refused.map_or(Ok((0, Taken::Nothing)), |wait| Err(Some(wait)));
                return Step { taken, room: entry.room(rate, now) };
            }
        }
        let (bucket, _) = self.node.look(check.rule, check.key);
        let want = Want { need: check.cost, spare: 0, patience: patience(check.rule), now };
        let taken = match bucket.take(rate, want).1 {
            Answer::Granted { wait, .. } => Ok((wait, Taken::Nothing)),
            Answer::Refused { wait } => Err(wait),
        };
        Step { taken, room: room(rate, bucket.full_at(), now) }
    }

    /// Gives tokens back that were taken a moment ago. A lease that was settled since has reported them as spent, and a
    /// shared bucket can't tell whose they were: those are lost, to the key's disadvantage.
    fn untake(&mut self, check: &Check<'_>, from: Taken) {
        match from {
            Taken::Nothing | Taken::Shared => {}
            Taken::Leased => {
                if let Some((set, way)) = self.find(check.key) {
                    self.sets[set].entries[way].lease.unspend(check.cost);
                }
            }
            Taken::Direct { full_at } => {
                let interval = check.rule.rate.interval_ticks();
                self.node.refund(check.key, check.cost, interval, full_at);
                if let Some((set, way)) = self.find(check.key) {
                    let entry = &mut self.sets[set].entries[way];
                    entry.full_at = entry.full_at.saturating_sub(u64::from(check.cost) * interval);
                }
            }
        }
    }

    #[inline]
    fn find(&self, key: KeyHash) -> Option<(usize, usize)> {
        let set = self.home(key);
        self.sets[set].keys.iter().position(|&k| k == key.0).map(|way| (set, way))
    }

    #[inline]
    fn home(&self, key: KeyHash) -> usize {
        ((u128::from(key.0) * self.sets.len() as u128) >> 64) as usize
    }

    /// A place for a key that has none. `None` if the one to go holds tokens and can't give them back now.
    fn admit(&mut self, key: KeyHash) -> Option<(usize, usize)> {
        let home = self.home(key);
        let set = &mut self.sets[home];
        let age = |way: &usize| match set.keys[*way] {
            0 => 0,
            _ => set.entries[*way].visited_at.max(set.entries[*way].lease.used_at()) + 1,
        };
        let way = (0..WAYS).min_by_key(age)?;
        let (old, entry) = (set.keys[way], &mut set.entries[way]);
        if entry.lease.is_open() && !self.node.settle(KeyHash(old), entry.lease.account()) {
            return None;
        }
        forget_hits(&mut self.sketch, old, entry);
        *entry = Entry { listed: entry.listed, hits: 1, ..Entry::default() };
        set.keys[way] = key.0;
        Some((home, way))
    }

    fn settle_leases(&mut self, due: impl Fn(&Entry) -> bool) {
        let Self { lent, sets, node, .. } = self;
        lent.retain(|&place| {
            let (set, way) = (place as usize / WAYS, place as usize % WAYS);
            let key = sets[set].keys[way];
            let entry = &mut sets[set].entries[way];
            if entry.lease.is_open() {
                if !due(entry) || !node.settle(KeyHash(key), entry.lease.account()) {
                    return true;
                }
                entry.lease.close();
            }
            entry.listed = false;
            false
        });
    }
}

impl Entry {
    #[inline]
    fn room(&self, rate: &Rate, now: u64) -> u64 {
        room(rate, self.full_at, now) + u64::from(self.lease.unspent()) * rate.interval_ticks()
    }

    /// The wait that the node asked for when it was asked last, if that was lately and is not over.
    #[inline]
    fn refuses(&self, check: &Check<'_>, now: u64) -> Option<u64> {
        let rate = &check.rule.rate;
        let full_at = self.full_at.max(now) + u64::from(check.cost) * rate.interval_ticks();
        let wait = full_at.saturating_sub(now + rate.fill_ticks());
        let refused = wait > patience(check.rule)
            && self.lease.unspent() == 0
            && now < self.visited_at + IDLE
            && check.cost <= rate.burst();
        refused.then_some(wait)
    }
}

/// Ticks' worth of tokens that are there, if the bucket is full at `full_at`.
#[inline]
fn room(rate: &Rate, full_at: u64, now: u64) -> u64 {
    (now + rate.fill_ticks()).saturating_sub(full_at.max(now))
}

/// A shadow's delay is a refusal: nothing waits for it.
#[inline]
fn patience(rule: &Rule) -> u64 {
    match (rule.on_excess, rule.mode) {
        (OnExcess::Delay { wait_ms_max }, Mode::Enforce) => ticks(u64::from(wait_ms_max) * 1_000_000),
        (OnExcess::Reject, _) | (_, Mode::Shadow) => 0,
    }
}

#[inline]
fn outcome(strictest: usize, check: &Check<'_>, step: &Step) -> Outcome {
    Outcome {
        verdict: Verdict::Admit,
        strictest,
        shadow_refused: 0,
        room: step.room,
        interval: check.rule.rate.interval_ticks(),
        fill: check.rule.rate.fill_ticks(),
    }
}

fn waits_longer(this: Verdict, other: Verdict) -> bool {
    let wait = |verdict| match verdict {
        Verdict::Reject { retry_after_ns } => retry_after_ns.unwrap_or(u64::MAX),
        Verdict::Admit | Verdict::Delay { .. } => 0,
    };
    wait(this) > wait(other)
}

/// A key's decisions go to the sketch, but for a single one: keys that never come back are none of the heaviest.
fn forget_hits(sketch: &mut Sketch, key: u64, entry: &mut Entry) {
    if entry.hits > 1 {
        sketch.add(KeyHash(key), entry.hits.into());
    }
    entry.hits = 0;
}
