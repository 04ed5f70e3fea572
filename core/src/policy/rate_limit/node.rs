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
    pub fn state(&self, rate: &Rate, key: KeyHash, now_ns: u64) -> KeyState {
        let now = ticks(now_ns);
        let (bucket, shared) = self.look(rate, key);
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
    pub fn reset(&self, rate: &Rate, key: KeyHash, now_ns: u64) -> bool {
        let now = ticks(now_ns);
        self.table.amend(key.0, |word, floor| Some((Bucket(word).reset(rate, now, floor).0, ()))).is_some()
    }

    /// Buckets that are not full: a scan of the whole table, for the admin.
    pub fn keys_in_use(&self, now_ns: u64) -> usize {
        let (now, mut count) = (ticks(now_ns), 0);
        self.table.scan(|_, word| count += usize::from(!Bucket(word).is_forgettable(now)));
        count
    }

    /// Settles a lease and takes tokens, in one exchange. `None`: another worker was in the way, nothing happened.
    #[inline]
    pub(super) fn visit(&self, key: KeyHash, rate: &Rate, done: Settlement, want: Want) -> Option<Visit> {
        let seating = Seating { now: want.now, class: class(rate) };
        let visited = self.table.update(key.0, &seating, |seat| match seat {
            Seat::Own { word } => {
                let (bucket, answer) = Bucket(word).settle(done).take(rate, want);
                (bucket.0, Visit { answer, bucket, shared: false })
            }
            Seat::New { floor } => {
                let (bucket, answer) = Bucket::full_from(floor).take(rate, want);
                let visit = Visit { answer, bucket, shared: false };
                // A refusal leaves nothing to remember, unless the floor came from a shared bucket.
                let fresh = bucket.is_forgettable(want.now);
                (if fresh { 0 } else { bucket.0 }, visit)
            }
            Seat::Shared { word, floor } => {
                let shared = Bucket(word).not_before(floor);
                let (bucket, answer) = shared.take(rate, Want { spare: 0, ..want });
                (bucket.0, Visit { answer, bucket, shared: true })
            }
        });
        match visited {
            Ok((visit, _)) => Some(visit),
            Err(Unseated::Busy | Unseated::Full) => None,
        }
    }

    /// Settles a lease. Its key has a seat, since tokens of it are out. False: somebody was in the way, try again.
    pub(super) fn settle(&self, key: KeyHash, done: Settlement) -> bool {
        self.table.amend(key.0, |word, _| Some((Bucket(word).settle(done).0, ()))).is_some()
    }

    /// Gives back needed tokens after a grant that left the bucket full at `full_at`. If the floor has passed that,
    /// the seat may have been given away since, and then the bucket was full without them.
    pub(super) fn refund(&self, key: KeyHash, tokens: u32, interval: u64, full_at: u64) {
        self.table.amend(key.0, |word, floor| {
            (floor <= full_at).then(|| (Bucket(word).refund(tokens, interval).0, ()))
        });
    }

    /// Takes tokens that are spent already. False: somebody was in the way.
    pub(super) fn charge(&self, key: KeyHash, rate: &Rate, tokens: u32, now: u64) -> bool {
        let charged = |word: u64| (Bucket(word).charge(rate, tokens, now).0, ());
        self.table
            .update(key.0, &Seating { now, class: class(rate) }, |seat| match seat {
                Seat::Own { word } => charged(word),
                Seat::Shared { word, floor } => charged(Bucket(word).not_before(floor).0),
                Seat::New { floor } => charged(Bucket::full_from(floor).0),
            })
            .is_ok()
    }

    /// A key's bucket, and whether it is shared.
    pub(super) fn look(&self, rate: &Rate, key: KeyHash) -> (Bucket, bool) {
        match self.table.look(key.0, class(rate)) {
            Seat::Own { word } => (Bucket(word), false),
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
