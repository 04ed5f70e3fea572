//! Bytes kept beyond the buffers that they came in: bodies for another attempt, copies for mirrors, requests that wait
//! for longer than a moment. All of one worker's are on one account, so that however many uploads are under way they
//! have a bound together. Whoever keeps asks for each piece, and does without when there is no room: that is counted, and
//! nobody waits.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use super::limits::KEPT_MEMORY_DIVISOR;

/// One worker's account.
#[derive(Debug)]
pub struct KeptAccount {
    bytes: Cell<usize>,
    bytes_max: Cell<usize>,
    refusals: Cell<u64>,
}

/// There is no room on the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl KeptAccount {
    /// Room for a quarter of what the buffers may take.
    pub fn new(memory_bytes_max: u64) -> Rc<Self> {
        let account = Self { bytes: Cell::new(0), bytes_max: Cell::new(0), refusals: Cell::new(0) };
        account.resize(memory_bytes_max);
        Rc::new(account)
    }

    /// Changes the bound. What is kept stays.
    pub fn resize(&self, memory_bytes_max: u64) {
        self.bytes_max.set(usize::try_from(memory_bytes_max / KEPT_MEMORY_DIVISOR).unwrap_or(usize::MAX));
    }

    /// Bytes kept now, the room that they may grow into included.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Room for `bytes` more, to be given back by [`give_back`](Self::give_back). Where there is none, nobody goes
    /// without: it is no refusal.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let fits = self.bytes_max.get().saturating_sub(self.bytes.get()) >= bytes;
        if fits {
            self.bytes.set(self.bytes.get() + bytes);
        }
        fits
    }

    /// See [`reserve`](Self::reserve).
    pub(super) fn give_back(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() - bytes);
    }

    /// How often there was no room.
    pub fn refusals(&self) -> u64 {
        self.refusals.get()
    }
}

/// Bytes on an account. Gives its room back when dropped.
pub struct Kept {
    bytes: Vec<u8>,
    account: Rc<KeptAccount>,
}

impl Kept {
    /// None yet.
    pub fn new(account: &Rc<KeptAccount>) -> Self {
        Self { bytes: Vec::new(), account: Rc::clone(account) }
    }

    /// Appends, or leaves all as it was.
    pub fn extend(&mut self, more: &[u8]) -> Result<(), Full> {
        let capacity = self.bytes.capacity();
        let needed = self.bytes.len() + more.len();
        if needed > capacity {
            let (used, bytes_max) = (self.account.bytes.get(), self.account.bytes_max.get());
            let room = bytes_max.saturating_sub(used) + capacity;
            if needed > room {
                self.account.refusals.set(self.account.refusals.get() + 1);
                return Err(Full);
            }
            // By doubling, as far as there is room: each byte is moved twice at most.
            let wanted = (capacity * 2).max(needed).min(room);
            self.bytes.reserve_exact(wanted - self.bytes.len());
            self.account.bytes.set(used + self.bytes.capacity() - capacity);
        }
        self.bytes.extend_from_slice(more);
        Ok(())
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.account.bytes.set(self.account.bytes.get() - self.bytes.capacity());
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A body may hold secrets.
        f.debug_struct("Kept").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Full, Kept, KeptAccount};

    #[test]
    fn no_more_than_a_quarter_and_all_of_it_comes_back() {
        let account = KeptAccount::new(4_000);
        let mut one = Kept::new(&account);
        assert_eq!(one.extend(&[1; 600]), Ok(()));
        let mut two = Kept::new(&account);
        assert_eq!(two.extend(&[2; 401]), Err(Full));
        assert_eq!(two.extend(&[2; 400]), Ok(()));
        assert_eq!((one.extend(&[3]), one.as_slice().len()), (Err(Full), 600));
        assert_eq!(account.bytes(), 1_000);
        drop(two);
        assert_eq!(one.extend(&[3; 400]), Ok(()));
        account.resize(40);
        assert_eq!(one.extend(&[3]), Err(Full));
        assert_eq!((one.as_slice().len(), account.bytes()), (1_000, 1_000));
        drop(one);
        assert_eq!((account.bytes(), account.refusals()), (0, 3));
        assert_eq!(Kept::new(&account).extend(&[1; 11]), Err(Full));
        assert_eq!(Kept::new(&account).extend(b""), Ok(()));
    }

    proptest! {
        #[test]
        fn the_account_is_what_is_held(
            bytes_max in 0_u64..8_000,
            pieces in prop::collection::vec((0..4_usize, 0..700_usize), 0..60),
        ) {
            let account = KeptAccount::new(bytes_max);
            let mut held: Vec<Kept> = (0..4).map(|_| Kept::new(&account)).collect();
            let mut lengths = [0; 4];
            for (which, bytes) in pieces {
                if bytes == 699 {
                    held[which] = Kept::new(&account);
                    lengths[which] = 0;
                } else if held[which].extend(&vec![7; bytes]).is_ok() {
                    lengths[which] += bytes;
                }
                prop_assert_eq!(held[which].as_slice().len(), lengths[which]);
                prop_assert!(account.bytes() >= lengths.iter().sum());
                prop_assert!(account.bytes() as u64 <= bytes_max / 4);
            }
            drop(held);
            prop_assert_eq!(account.bytes(), 0);
        }
    }
}
