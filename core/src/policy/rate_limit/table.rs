//! A table of (key, word) that all workers share: of fixed size, never resized, each lookup and change a few atomic
//! operations on two adjacent cache lines. What a word means is its user's business ([`super::node`],
//! [`super::in_flight`]); this module seats keys, gives seats away when their words say that nothing is lost by it,
//! and never lets one key have two seats.
//!
//! A key has two home sets of seven seats each. A new key takes an empty or forgettable seat of the first or else the
//! second. If all fourteen are taken by words that matter, it shares an overflow word with other such keys (or is refused,
//! if the table has none): keys that are seated are never touched by keys that are not.
//!
//! Protocol. `words[i]` governs seat i: EMPTY, CLAIMED (somebody is seating a key), or a word of its key's.
//! - A change reads the word, then the key, then exchanges the word for the next, if it still is the one that was read.
//! - To give a seat away, raise the set's floor above what the old word says, exchange the word for CLAIMED, write the
//!   key, write the word. So a change that read the old word fails its exchange. The new word is above the floor, and so
//!   are all later words of that seat: a word never comes back for another key (no ABA).
//! - Only new keys take a lock, that of their first home set, so that no key is seated twice. Its holder makes a few dozen
//!   steps without a call. Whoever does not get it within [`SPINS`] tries gives up (`Busy`, to be treated as a refusal);
//!   nobody waits for it with bounds unknown, and keys that have a seat don't notice.
//! - A key's low byte says by which revision of its rule its word is read. A key has one seat whatever its revision; to
//!   change it, under the lock of its first home, exchange the word for CLAIMED, write the key, write the word.
//! - A key that may have had a seat before starts above the floor of both its homes, as if it had kept it. So nothing
//!   depends on how far the clocks of two workers are apart.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

use super::key::KeyHash;

/// Seats of a set: with the floor and the lock two cache lines.
pub(super) const SEATS: usize = 7;

/// Words of a set, and the bytes that it is aligned to: two lines that processors fetch together.
const SET_WORDS: usize = 2 * (SEATS + 1);
const SET_ALIGN: usize = 128;

/// What a new table is made of.
const EMPTY: u64 = 0;
const CLAIMED: u64 = u64::MAX;

/// Overflow words are parted by how slow their buckets are, so that fast ones don't wait for slow ones.
const CLASSES: usize = 8;

/// Tries for a lock or a claimed seat: some 10 µs. Its holder needs 100 ns, unless it lost its core.
const SPINS: u32 = 400;

/// An atomic word: std's, or a model checker's.
pub(super) trait Word {
    const SPINS: u32;
    fn new(value: u64) -> Self;
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn exchange(&self, current: u64, new: u64, success: Ordering) -> Result<u64, u64>;
    fn raise(&self, value: u64, order: Ordering);
    fn pause();
}

impl Word for AtomicU64 {
    const SPINS: u32 = SPINS;
    fn new(value: u64) -> Self {
        Self::new(value)
    }
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }
    #[inline]
    fn exchange(&self, current: u64, new: u64, success: Ordering) -> Result<u64, u64> {
        self.compare_exchange(current, new, success, Relaxed)
    }
    fn raise(&self, value: u64, order: Ordering) {
        self.fetch_max(value, order);
    }
    fn pause() {
        std::hint::spin_loop();
    }
}

/// 128 bytes: the keys with their floor in one line, the words with their lock in the next.
struct Set<'a, W> {
    /// Every word of this set that was given up was below; every word seated since is not.
    floor: &'a W,
    keys: &'a [W; SEATS],
    lock: &'a W,
    words: &'a [W; SEATS],
}

impl<W: Word> Set<'_, W> {
    /// The seat of a key, of whatever revision.
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        (0..SEATS).find(|&i| KeyHash::is_same(self.keys[i].load(Acquire), key))
    }
}

/// Where a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// The key's own.
    Own { word: u64 },
    /// The key's own, written under another revision. To leave the word as it is leaves it to that revision; another word is
    /// this one's, and may not be below `floor`.
    Revised { word: u64, revision: u8, floor: u64 },
    /// About to be the key's own: nothing is known of it, but that it may not be below `floor`.
    New { floor: u64 },
    /// Shared with other keys that found no seat. The key may have had one, so `floor` binds it here too.
    Shared { word: u64, floor: u64 },
}

/// Why a key could not be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unseated {
    /// All seats are taken, and there are no overflow words.
    Full,
    /// Another worker was seating a key here and did not come to an end.
    Busy,
}

/// What a word means.
pub(super) trait Tenancy {
    /// The floor that the word leaves behind, above itself, if its seat may be given to another key.
    fn vacates(&self, word: u64) -> Option<u64>;
    /// The least that an overflow word allows its keys to start from, when one of them gets a seat.
    fn carries(&self, shared: u64) -> u64;
    /// 0 for the fastest buckets, 7 for the slowest.
    fn class(&self) -> usize;
}

/// The table.
pub(super) struct Table<W = AtomicU64> {
    /// The sets, from `first` on.
    memory: Box<[W]>,
    first: usize,
    sets: usize,
    overflow: Box<[W]>,
    /// Not zero once an overflow word was used: until then new keys need not look.
    overflowed: W,
}

impl<W> fmt::Debug for Table<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("sets", &self.sets).finish_non_exhaustive()
    }
}

/// What became of the attempt to change a seat of a known place.
enum Attempt<R> {
    Done(R, u32),
    /// The key has no seat.
    Absent,
    Busy,
}

impl<W: Word> Table<W> {
    /// Room for at least `keys` keys, in 128 bytes for seven, and `overflow` overflow words (0 for none).
    pub(super) fn new(keys: usize, overflow: usize) -> Self {
        Self::within(keys, overflow, |words| (0..words).map(|_| W::new(EMPTY)).collect())
    }

    /// The same in memory of the caller's: `zeroed` gives so many words, all of them zero, and is called twice. None is
    /// written before a key comes.
    pub(super) fn within(keys: usize, overflow: usize, mut zeroed: impl FnMut(usize) -> Box<[W]>) -> Self {
        let sets = keys.div_ceil(SEATS).max(1);
        // Aligned here: std's allocator writes zeros into memory that is to be aligned to more than 16 bytes, although
        // the system gives it zeroed, and then all of it is resident.
        let spare = SET_ALIGN / size_of::<u64>() - 1;
        let memory = zeroed(sets * SET_WORDS + spare);
        Self {
            first: memory.as_ptr().align_offset(SET_ALIGN).min(spare),
            memory,
            sets,
            overflow: zeroed(overflow.next_multiple_of(CLASSES)),
            overflowed: W::new(0),
        }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.memory) + size_of_val(&*self.overflow)
    }

    /// Changes the word of `key`, which gets a seat if it has none: `step` says the next word and a result, and may be
    /// called several times. A next word of zero for a new seat leaves it empty. Also the seat's number, if it has one.
    pub(super) fn update<R>(
        &self,
        key: u64,
        tenancy: &impl Tenancy,
        mut step: impl FnMut(Seat) -> (u64, R),
    ) -> Result<(R, Option<u32>), Unseated> {
        let homes = self.homes(key);
        let current = KeyHash(key).revision();
        let mut own = |word, _, revision| (revision == current).then(|| step(Seat::Own { word }));
        match self.change(homes, key, &mut own) {
            Attempt::Done(result, seat) => Ok((result, Some(seat))),
            Attempt::Busy => Err(Unseated::Busy),
            Attempt::Absent => {
                let Set { lock, .. } = self.set(homes[0]);
                // Acquire: whoever had the lock before has left the table as it is seen from here on.
                if !(0..W::SPINS).any(|_| {
                    let got = lock.load(Relaxed) == 0 && lock.exchange(0, 1, Acquire).is_ok();
                    if !got {
                        W::pause();
                    }
                    got
                }) {
                    return Err(Unseated::Busy);
                }
                let done = self.seat(homes, key, tenancy, &mut step);
                lock.store(0, Release);
                done
            }
        }
    }

    /// Changes the word of `key`, if it has a seat. `step` sees the word, its set's floor and the revision that it was
    /// written under and stays under; `None` changes nothing.
    pub(super) fn amend<R>(
        &self,
        key: u64,
        mut step: impl FnMut(u64, u64, u8) -> Option<(u64, R)>,
    ) -> Option<R> {
        match self.change(self.homes(key), key, &mut step) {
            Attempt::Done(result, _) => Some(result),
            Attempt::Absent | Attempt::Busy => None,
        }
    }

    /// The word at a seat whose word is known not to vacate it.
    pub(super) fn at(&self, seat: u32) -> &W {
        &self.set(seat as usize / SEATS).words[seat as usize % SEATS]
    }

    /// The word of `key` as it is now: its own, else the shared one.
    pub(super) fn look(&self, key: u64, class: usize) -> Seat {
        match self.amend(key, |word, floor, revision| Some((word, (word, floor, revision)))) {
            Some((word, _, revision)) if revision == KeyHash(key).revision() => Seat::Own { word },
            Some((word, floor, revision)) => Seat::Revised { word, revision, floor },
            None if self.overflow.is_empty() || self.overflowed.load(Relaxed) == 0 => Seat::New { floor: 0 },
            None => Seat::Shared {
                word: self.shared(key, class).load(Relaxed),
                floor: self.floor(self.homes(key)),
            },
        }
    }

    /// Calls `visit` with each key that has a seat and its word: a scan of the whole table, for the admin.
    pub(super) fn scan(&self, mut visit: impl FnMut(u64, u64)) {
        for set in (0..self.sets).map(|home| self.set(home)) {
            for (key, word) in set.keys.iter().zip(set.words) {
                let (word, key) = (word.load(Acquire), key.load(Acquire));
                if word != EMPTY && word != CLAIMED && key != 0 {
                    visit(key, word);
                }
            }
        }
    }

    fn change<R>(
        &self,
        homes: [usize; 2],
        key: u64,
        step: &mut impl FnMut(u64, u64, u8) -> Option<(u64, R)>,
    ) -> Attempt<R> {
        let mut spins = 0;
        'again: loop {
            for home in homes {
                let set = self.set(home);
                // Acquire: a key that was written over an old one brings the raised floor along.
                let Some(i) = set.find(key) else { continue };
                loop {
                    // Acquire, and the key only after it: a word's key was written before the word, so what is read
                    // then is its key or a later one's; and in the second case the exchange below fails.
                    let word = set.words[i].load(Acquire);
                    if word == CLAIMED {
                        spins += 1;
                        if spins > W::SPINS {
                            return Attempt::Busy;
                        }
                        W::pause();
                        continue 'again;
                    }
                    let found = set.keys[i].load(Acquire);
                    if word == EMPTY || !KeyHash::is_same(found, key) {
                        continue 'again;
                    }
                    let floor = set.floor.load(Acquire);
                    let Some((next, result)) = step(word, floor, KeyHash(found).revision()) else {
                        return Attempt::Absent;
                    };
                    // Release, so that whoever claims the seat from this word also sees what led to it.
                    if next == word || set.words[i].exchange(word, next, AcqRel).is_ok() {
                        return Attempt::Done(result, (home * SEATS + i) as u32);
                    }
                }
            }
            return Attempt::Absent;
        }
    }

    /// Finds a place for a key that had none a moment ago. The lock of its first home is held.
    fn seat<R>(
        &self,
        homes: [usize; 2],
        key: u64,
        tenancy: &impl Tenancy,
        step: &mut impl FnMut(Seat) -> (u64, R),
    ) -> Result<(R, Option<u32>), Unseated> {
        let current = KeyHash(key).revision();
        let mut own = |word, _, revision| (revision == current).then(|| step(Seat::Own { word }));
        match self.change(homes, key, &mut own) {
            Attempt::Done(result, seat) => return Ok((result, Some(seat))),
            Attempt::Busy => return Err(Unseated::Busy),
            Attempt::Absent => {}
        }
        if let Some(revised) = self.revise(homes, key, step)? {
            return Ok(revised);
        }
        // Empty seats first: where there are some, no floor rises, and a worker whose clock lags gets its due to the token.
        let empty = homes.iter().find_map(|&home| self.claim(home, |set, i| claim_empty(set, i)));
        let claimed = empty
            .or_else(|| homes.iter().find_map(|&home| self.claim(home, |set, i| vacate(set, i, tenancy))));
        if let Some((home, i)) = claimed {
            let set = self.set(home);
            let mut floor = self.floor(homes);
            if !self.overflow.is_empty() && self.overflowed.load(Relaxed) != 0 {
                // Charged for this key only under the lock that is held.
                floor = floor.max(tenancy.carries(self.shared(key, tenancy.class()).load(Relaxed)));
            }
            let (next, result) = step(Seat::New { floor });
            set.keys[i].store(if next == EMPTY { 0 } else { key }, Release);
            set.words[i].store(next, Release);
            return Ok((result, Some((home * SEATS + i) as u32)));
        }
        if self.overflow.is_empty() {
            return Err(Unseated::Full);
        }
        self.overflowed.store(1, Relaxed);
        let (shared, floor) = (self.shared(key, tenancy.class()), self.floor(homes));
        loop {
            let word = shared.load(Relaxed);
            let (next, result) = step(Seat::Shared { word, floor });
            if next == word || shared.exchange(word, next, Relaxed).is_ok() {
                return Ok((result, None));
            }
        }
    }

    /// Changes the seat of a key that has one under another revision. The lock of its first home is held, so the revision
    /// stays; the seat may go to another key meanwhile.
    fn revise<R>(
        &self,
        homes: [usize; 2],
        key: u64,
        step: &mut impl FnMut(Seat) -> (u64, R),
    ) -> Result<Option<(R, Option<u32>)>, Unseated> {
        for _ in 0..W::SPINS {
            let Some((home, i)) = homes.iter().find_map(|&home| Some((home, self.set(home).find(key)?)))
            else {
                return Ok(None);
            };
            let set = self.set(home);
            let word = set.words[i].load(Acquire);
            let found = set.keys[i].load(Acquire);
            if word == EMPTY
                || word == CLAIMED
                || !KeyHash::is_same(found, key)
                || set.words[i].exchange(word, CLAIMED, AcqRel).is_err()
            {
                W::pause();
                continue;
            }
            let revision = KeyHash(found).revision();
            let (next, result) = step(Seat::Revised { word, revision, floor: self.floor(homes) });
            if next != word {
                set.keys[i].store(if next == EMPTY { 0 } else { key }, Release);
            }
            set.words[i].store(next, Release);
            return Ok(Some((result, Some((home * SEATS + i) as u32))));
        }
        Err(Unseated::Busy)
    }

    fn claim(&self, home: usize, mut one: impl FnMut(&Set<'_, W>, usize) -> bool) -> Option<(usize, usize)> {
        let set = self.set(home);
        (0..SEATS).find(|&i| one(&set, i)).map(|i| (home, i))
    }

    /// One of the sets.
    #[inline]
    fn set(&self, home: usize) -> Set<'_, W> {
        let (lines, _) = self.memory[self.first..].as_chunks::<{ SEATS + 1 }>();
        let [[floor, keys @ ..], [lock, words @ ..]] = &lines.as_chunks().0[home];
        Set { floor, keys, lock, words }
    }

    /// Above every word that a key of these homes may have had. After the key was found to have no seat: whoever took it
    /// away had raised the floor before.
    fn floor(&self, homes: [usize; 2]) -> u64 {
        homes.iter().map(|&home| self.set(home).floor.load(Acquire)).max().unwrap_or(0)
    }

    fn homes(&self, key: u64) -> [usize; 2] {
        let scale = |hash: u64| ((u128::from(hash) * self.sets as u128) >> 64) as usize;
        let key = KeyHash::without_revision(key);
        // The key is a keyed hash; the second is made of the bits that the first uses least.
        [scale(key), scale(key.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15))]
    }

    fn shared(&self, key: u64, class: usize) -> &W {
        let key = KeyHash::without_revision(key);
        let each = self.overflow.len() / CLASSES;
        let hash = key.rotate_left(17).wrapping_mul(0xd6e8_feb8_6659_fd93);
        &self.overflow[class.min(CLASSES - 1) * each + ((u128::from(hash) * each as u128) >> 64) as usize]
    }
}

/// Makes an empty seat ours.
fn claim_empty<W: Word>(set: &Set<'_, W>, i: usize) -> bool {
    set.words[i].load(Relaxed) == EMPTY && set.words[i].exchange(EMPTY, CLAIMED, AcqRel).is_ok()
}

/// Makes a seat ours whose word may go.
fn vacate<W: Word>(set: &Set<'_, W>, i: usize, tenancy: &impl Tenancy) -> bool {
    let word = set.words[i].load(Acquire);
    if word == CLAIMED || word == EMPTY {
        return false;
    }
    let Some(floor) = tenancy.vacates(word) else { return false };
    // Before the word goes, so that nobody can miss the key and not see the floor.
    set.floor.raise(floor, AcqRel);
    set.words[i].exchange(word, CLAIMED, AcqRel).is_ok()
}
