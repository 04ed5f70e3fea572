//! Limits of requests in flight at once, by key, exact over all workers. Called by the request path, which keeps the
//! [`Permit`] as long as the request lasts.
//!
//! Not leased: a permit is held for a whole request, so a spare one in another worker's hands would refuse requests that may
//! go, and the limits that people set (1 to 100) leave nothing to spare. Cost: an atomic exchange when a request begins and
//! one when it ends, in the key's cache line; `cargo bench -p ringway --bench rate_limit -- flight`.
//!
//! Memory is fixed: 128 bytes for seven keys. A key without requests in flight loses its seat when another needs it, and
//! that loses nothing. When there is no seat, a request is refused: size it for twice the connections there may be.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::key::KeyHash;
use super::table::{Seat, Table, Tenancy, Word};

/// A word's low bits count; the rest is a generation, which makes a word unlike all that its seat had for other keys.
const COUNT_BITS: u32 = 24;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
/// Half of them, so that a generation plus one never is the table's mark.
const GENERATION_MAX: u64 = 1 << (63 - COUNT_BITS);

/// The node's counts.
#[derive(Debug)]
pub struct InFlight {
    table: Table,
}

/// A worker's way to them; permits keep it alive without touching what workers share.
#[derive(Debug, Clone)]
pub struct Gate(Rc<Handle>);

/// Behind an [`Rc`], so that a permit does not count itself in a word that all workers share.
#[derive(Debug)]
struct Handle(Arc<InFlight>);

/// The right to be in flight. Given back when it is dropped, exactly once, however the request ends.
pub struct Permit {
    gate: Gate,
    seat: u32,
}

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPermit {
    /// As many as may are in flight.
    AtLimit,
    /// No room to count another key, or another worker was in the way.
    NoSeat,
}

struct Idle;

impl Tenancy for Idle {
    fn vacates(&self, word: u64) -> Option<u64> {
        let generation = word >> COUNT_BITS;
        (word & COUNT_MAX == 0 && generation < GENERATION_MAX).then(|| (generation + 1) << COUNT_BITS)
    }

    fn carries(&self, _: u64) -> u64 {
        0
    }

    fn class(&self) -> usize {
        0
    }
}

impl InFlight {
    /// Counts for at least `keys` keys at once.
    pub fn new(keys: usize) -> Self {
        Self { table: Table::new(keys, 0) }
    }

    /// The same in memory of the caller's: `zeroed` gives so many words, all of them zero, and is called twice.
    pub fn within(keys: usize, zeroed: impl FnMut(usize) -> Box<[AtomicU64]>) -> Self {
        Self { table: Table::within(keys, 0, zeroed) }
    }

    /// Bytes that the counts take.
    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    /// Requests of a key that are in flight.
    pub fn count(&self, key: KeyHash) -> u32 {
        match self.table.look(key.0, 0) {
            // A limit of requests at once has one revision.
            Seat::Own { word } | Seat::Revised { word, .. } => (word & COUNT_MAX) as u32,
            Seat::New { .. } | Seat::Shared { .. } => 0,
        }
    }
}

impl Gate {
    /// One for each worker.
    pub fn new(counts: Arc<InFlight>) -> Self {
        Self(Rc::new(Handle(counts)))
    }

    /// Lets a request in, if fewer than `max` of its key are. A limit that was lowered lets none in until enough left.
    pub fn enter(&self, key: KeyHash, max: u32) -> Result<Permit, NoPermit> {
        let max = u64::from(max).min(COUNT_MAX - 1);
        let entered = self.0.0.table.update(key.0, &Idle, |seat| match seat {
            Seat::Own { word } | Seat::Revised { word, .. } | Seat::Shared { word, .. } => {
                if word & COUNT_MAX >= max { (word, false) } else { (word + 1, true) }
            }
            Seat::New { .. } if max == 0 => (0, false),
            // A first generation is 1: a word of zero is no word.
            Seat::New { floor } => (floor.max(1 << COUNT_BITS) + 1, true),
        });
        match entered {
            Ok((true, Some(seat))) => Ok(Permit { gate: self.clone(), seat }),
            Ok((_, _)) => Err(NoPermit::AtLimit),
            Err(_) => Err(NoPermit::NoSeat),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // The seat is the key's own until this permit's one is taken off its count.
        let word: &AtomicU64 = self.gate.0.0.table.at(self.seat);
        let mut seen = Word::load(word, Relaxed);
        while let Err(now) = word.compare_exchange_weak(seen, seen - 1, AcqRel, Acquire) {
            seen = now;
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("seat", &self.seat).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::{Gate, InFlight, NoPermit};
    use crate::policy::rate_limit::KeyHash;

    #[test]
    fn a_table_of_comings_and_goings() {
        let counts = Arc::new(InFlight::new(100));
        let (one, other) = (Gate::new(Arc::clone(&counts)), Gate::new(Arc::clone(&counts)));
        let (a, b) = (KeyHash::of(1 << 40), KeyHash::of(2 << 50));
        let first = one.enter(a, 2).unwrap();
        let second = other.enter(a, 2).unwrap();
        assert_eq!(one.enter(a, 2).unwrap_err(), NoPermit::AtLimit);
        assert!(one.enter(b, 1).is_ok());
        assert_eq!((counts.count(a), counts.count(b)), (2, 0));
        assert_eq!(one.enter(b, 0).unwrap_err(), NoPermit::AtLimit);
        drop(first);
        assert_eq!(one.enter(a, 1).unwrap_err(), NoPermit::AtLimit, "lowered, and one still in flight");
        let third = one.enter(a, 2).unwrap();
        drop((second, third));
        assert_eq!(counts.count(a), 0);
    }

    #[test]
    fn idle_keys_make_room_and_busy_ones_do_not() {
        let counts = Arc::new(InFlight::new(7));
        let gate = Gate::new(Arc::clone(&counts));
        let held: Vec<_> = (1..=7).map(|k| gate.enter(KeyHash::of(k), 1).unwrap()).collect();
        assert_eq!(gate.enter(KeyHash::of(8), 1).unwrap_err(), NoPermit::NoSeat);
        drop(held);
        for k in 8..10_000 {
            let permit = gate.enter(KeyHash::of(k), 1).unwrap();
            assert_eq!(gate.enter(KeyHash::of(k), 1).unwrap_err(), NoPermit::AtLimit);
            drop(permit);
            assert_eq!(counts.count(KeyHash::of(k)), 0);
        }
    }

    #[test]
    fn never_more_than_the_limit_over_threads() {
        let counts = Arc::new(InFlight::new(7));
        let inside: Vec<_> = (0..20).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for start in 0..4_u64 {
                let (counts, inside) = (Arc::clone(&counts), &inside);
                scope.spawn(move || {
                    let gate = Gate::new(counts);
                    let mut draw = start + 1;
                    for _ in 0..20_000 {
                        draw ^= draw << 13;
                        draw ^= draw >> 7;
                        draw ^= draw << 17;
                        let key = draw % 20;
                        if let Ok(permit) = gate.enter(KeyHash::of(key + 1), 2) {
                            assert!(inside[key as usize].fetch_add(1, SeqCst) < 2);
                            inside[key as usize].fetch_sub(1, SeqCst);
                            drop(permit);
                        }
                    }
                });
            }
        });
        assert!((1..=20).all(|key| counts.count(KeyHash::of(key)) == 0));
    }
}
