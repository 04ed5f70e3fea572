//! The node's buckets, one for each key of each rule, shared by all workers. Runs the lease protocol in the words of a
//! `Table`. Called by [`super::worker`] when a worker's own tokens don't suffice, and by the admin.
//!
//! Memory is fixed when it is made, and may be the caller's: 128 bytes for seven keys, and one overflow word for fourteen. A bucket that is full
//! again is as good as a new one, so its seat may go to another key; no other may. Keys beyond that share buckets, each
//! admitting what one of them may: whoever has a seat is not touched, whoever has none gets no more than its due.
//! Size it for twice the keys that are used within one fill time (burst / rate): with half as many again (ten million keys,
//! fifteen million seats) one key in two hundred found no seat. Far too small a table starves the keys that come late (a
//! test of ours with twenty times too few seats left them a hundredth of their due), never those that were there before.

use std::sync::atomic::AtomicU64;

use super::KeyHash;
use super::lease::{Answer, Bucket, Rate, Settlement, Want, nanoseconds, ticks};
use super::rule::Rule;
use super::table::{Seat, Table, Tenancy, Unseated};

/// The buckets of a node.
#[derive(Debug)]
pub struct Node {
    table: Table,
    workers: u32,
}

/// What is known of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyState {
    /// Tokens in the node's bucket; negative is debt.
    pub tokens: i64,
    /// Tokens that workers hold, or have spent and not reported.
    pub held: u32,
    /// Nanoseconds until the bucket is full.
    pub full_in_ns: u64,
    /// True if it shares a bucket, for want of a seat.
    pub shared: bool,
}

/// What a visit brought.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    pub(super) answer: Answer,
    /// The bucket afterwards.
    pub(super) bucket: Bucket,
    pub(super) shared: bool,
}

/// Why a visit brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missed {
    /// Another worker was in the way.
    Busy,
    /// The bucket is that of a later revision of the rule: [`Rule::latest`].
    Outdated,
}

/// A bucket's seat may go when the bucket is full again.
struct Seating {
    now: u64,
    class: usize,
}

impl Tenancy for Seating {
    fn vacates(&self, word: u64) -> Option<u64> {
        Bucket(word).is_forgettable(self.now).then(|| Bucket(word).full_at() + 1)
    }

    fn carries(&self, shared: u64) -> u64 {
        Bucket(shared).full_at()
    }

    fn class(&self) -> usize {
        self.class
    }
}

impl Node {
    /// For `workers` workers and at least `keys` keys at once.
    pub fn new(workers: u32, keys: usize) -> Self {
        Self { table: Table::new(keys, overflow(keys)), workers: workers.max(1) }
    }

    /// The same in memory of the caller's: `zeroed` gives so many words, all of them zero, and is called twice.
    pub fn within(workers: u32, keys: usize, zeroed: impl FnMut(usize) -> Box<[AtomicU64]>) -> Self {
        Self { table: Table::within(keys, overflow(keys), zeroed), workers: workers.max(1) }
    }

    /// Workers that may hold leases.
    pub fn workers(&self) -> u32 {
        self.workers
    }

    /// Bytes that the buckets take.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// A key's bucket as it is. One that has none is full.
    pub fn state(&self, rule: &Rule, key: KeyHash, now_ns: u64) -> KeyState {
        let (now, rate) = (ticks(now_ns), &rule.rate);
        let (bucket, shared) = self.look(rule, key);
        let room = bucket.room(rate, now);
        KeyState {
            tokens: room.div_euclid(rate.interval_ticks() as i64),
            held: bucket.held(),
            full_in_ns: nanoseconds(bucket.full_at().saturating_sub(now)),
            shared,
        }
    }

    /// Fills a key's bucket, but for what workers hold. Workers that have just refused the key go on for up to
    /// [`LEASE_IDLE_NS`](super::LEASE_IDLE_NS). False if it has no bucket of its own (so it is full, or shared).
    pub fn reset(&self, rule: &Rule, key: KeyHash, now_ns: u64) -> bool {
        let now = ticks(now_ns);
        let reset = |word, floor, _| Some((Bucket(word).reset(&rule.rate, now, floor).0, ()));
        self.table.amend(key.0, reset).is_some()
    }

    /// Takes over what is not full of another node's buckets, whose names are made by the same hasher. Tokens that are out
    /// there count as used up. A scan of the whole other table, for the control thread; keys that find no seat are lost.
    pub fn take_over(&self, other: &Self, now_ns: u64) {
        let seating = Seating { now: ticks(now_ns), class: 0 };
        other.table.scan(|key, word| {
            let bucket = Bucket::full_from(Bucket(word).full_at());
            if bucket.is_forgettable(seating.now) {
                return;
            }
            // Nobody else knows this table yet, so nobody is in the way.
            let _ = self.table.update(key, &seating, |seat| match seat {
                Seat::New { floor } => (bucket.not_before(floor).0, ()),
                Seat::Own { word } | Seat::Revised { word, .. } | Seat::Shared { word, .. } => (word, ()),
            });
        });
    }

    /// Buckets that are not full: a scan of the whole table, for the admin.
    pub fn keys_in_use(&self, now_ns: u64) -> usize {
        let (now, mut count) = (ticks(now_ns), 0);
        self.table.scan(|_, word| count += usize::from(!Bucket(word).is_forgettable(now)));
        count
    }

    /// Settles a lease and takes tokens, in one exchange. If it missed, nothing happened.
    #[inline]
    pub(super) fn visit(
        &self,
        key: KeyHash,
        rule: &Rule,
        done: Settlement,
        want: Want,
    ) -> Result<Visit, Missed> {
        let rate = &rule.rate;
        let seating = Seating { now: want.now, class: class(rate) };
        let visited = self.table.update(key.0, &seating, |seat| match seat {
            Seat::Own { word } => {
                let (bucket, answer) = Bucket(word).settle(done).take(rate, want);
                (bucket.0, Ok(Visit { answer, bucket, shared: false }))
            }
            Seat::Revised { word, revision, floor } => {
                let Some(carried) = rule.revision.carried(revision, Bucket(word), rate) else {
                    return (word, Err(Missed::Outdated));
                };
                let (bucket, answer) = carried.not_before(floor).take(rate, want);
                (bucket.0, Ok(Visit { answer, bucket, shared: false }))
            }
            Seat::New { floor } => {
                let (bucket, answer) = Bucket::full_from(floor).take(rate, want);
                let visit = Visit { answer, bucket, shared: false };
                // A refusal leaves nothing to remember, unless the floor came from a shared bucket.
                let fresh = bucket.is_forgettable(want.now);
                (if fresh { 0 } else { bucket.0 }, Ok(visit))
            }
            Seat::Shared { word, floor } => {
                let shared = Bucket(word).not_before(floor);
                let (bucket, answer) = shared.take(rate, Want { spare: 0, ..want });
                (bucket.0, Ok(Visit { answer, bucket, shared: true }))
            }
        });
        match visited {
            Ok((visit, _)) => visit,
            Err(Unseated::Busy | Unseated::Full) => Err(Missed::Busy),
        }
    }

    /// Settles a lease. Its key has a seat, since tokens of it are out. False: somebody was in the way, try again.
    pub(super) fn settle(&self, key: KeyHash, done: Settlement) -> bool {
        let settled = |word, _, revision| {
            let bucket = Bucket(word);
            let own = revision == key.revision();
            Some(((if own { bucket.settle(done) } else { bucket.discharge(done) }).0, ()))
        };
        self.table.amend(key.0, settled).is_some()
    }

    /// Gives back needed tokens after a grant that left the bucket full at `full_at`. If the floor has passed that,
    /// the seat may have been given away since, and then the bucket was full without them.
    pub(super) fn refund(&self, key: KeyHash, tokens: u32, interval: u64, full_at: u64) {
        self.table.amend(key.0, |word, floor, revision| {
            let same = revision == key.revision() && floor <= full_at;
            same.then(|| (Bucket(word).refund(tokens, interval).0, ()))
        });
    }

    /// Takes tokens that are spent already.
    pub(super) fn charge(&self, key: KeyHash, rule: &Rule, tokens: u32, now: u64) -> Result<(), Missed> {
        let rate = &rule.rate;
        let charged = |bucket: Bucket| (bucket.charge(rate, tokens, now).0, Ok(()));
        let done = self.table.update(key.0, &Seating { now, class: class(rate) }, |seat| match seat {
            Seat::Own { word } => charged(Bucket(word)),
            Seat::Revised { word, revision, floor } => {
                match rule.revision.carried(revision, Bucket(word), rate) {
                    Some(carried) => charged(carried.not_before(floor)),
                    None => (word, Err(Missed::Outdated)),
                }
            }
            Seat::Shared { word, floor } => charged(Bucket(word).not_before(floor)),
            Seat::New { floor } => charged(Bucket::full_from(floor)),
        });
        match done {
            Ok((done, _)) => done,
            Err(Unseated::Busy | Unseated::Full) => Err(Missed::Busy),
        }
    }

    /// A key's bucket, and whether it is shared.
    pub(super) fn look(&self, rule: &Rule, key: KeyHash) -> (Bucket, bool) {
        match self.table.look(key.0, class(&rule.rate)) {
            Seat::Own { word } => (Bucket(word), false),
            Seat::Revised { word, revision, floor } => {
                // Of a later revision no more is known here than that it is no worse than full.
                let carried = rule.revision.carried(revision, Bucket(word), &rule.rate);
                (carried.unwrap_or(Bucket::full_from(floor)).not_before(floor), false)
            }
            Seat::Shared { word, floor } => (Bucket(word).not_before(floor), true),
            Seat::New { floor } => (Bucket::full_from(floor), false),
        }
    }
}

/// Overflow words beside the seats of so many keys.
fn overflow(keys: usize) -> usize {
    keys.div_ceil(14)
}

/// Buckets that share one must be about equally slow: a class spans a factor of 16, from 60 ms to a month.
fn class(rate: &Rate) -> usize {
    let bits = (u64::BITS - rate.fill_ticks().leading_zeros()) as usize;
    (bits.saturating_sub(20) / 4).min(7)
}
