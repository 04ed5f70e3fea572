//! Maglev's table (D. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4): each endpoint has a permutation of the slots, and endpoints in turn take the next slot of theirs that is free.
//! Weights as in Envoy: in each round an endpoint is passed over as often as its weight is short of the greatest.
//!
//! Shares are even to a slot for each endpoint, and finding one is one look. In exchange an endpoint that comes or goes
//! also moves a few keys of the others (tests state how many), and all of them where the table's size changes.

use super::spread::{STEP, Share, mix, scale};
use crate::base::limits::{HASH_STEPS_MAX, MAGLEV_SLOTS_MAX};

/// How large the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Slots: the next prime of the list is taken. `None` decides by the number of endpoints.
    pub slots: Option<u32>,
}

/// Sizes, all prime, so that every step of a permutation meets every slot. Few and far apart, since to change the size
/// is to move nearly all keys.
const SIZES: [usize; 4] = [8_191, 65_537, 262_139, MAGLEV_SLOTS_MAX];

/// Slots for each endpoint: the paper's figure, at which shares differ by at most 1 %.
const SLOTS_PER_ENDPOINT: usize = 100;

#[derive(Debug)]
pub(super) struct Maglev {
    /// The endpoint of each slot.
    slots: Box<[u32]>,
}

impl Maglev {
    pub(super) fn build(shares: &[Share], settings: Settings) -> Self {
        if shares.is_empty() {
            return Self { slots: Box::default() };
        }
        let wanted = settings.slots.map_or(shares.len() * SLOTS_PER_ENDPOINT, |slots| slots as usize);
        let size = SIZES.into_iter().find(|&size| size >= wanted).unwrap_or(MAGLEV_SLOTS_MAX);
        let most = shares.iter().map(|share| u64::from(share.weight)).max().unwrap_or(1);
        let mut turns: Vec<Turn> = shares.iter().map(|share| Turn::new(share, size)).collect();
        let mut slots = vec![FREE; size];
        let (mut free, mut round) = (size, 0);
        // Ends, as in every round the endpoint of the greatest weight takes a slot.
        loop {
            round += 1;
            for (share, turn) in shares.iter().zip(&mut turns) {
                if round * u64::from(share.weight) < turn.due {
                    continue;
                }
                turn.due += most;
                while slots[turn.next] != FREE {
                    turn.advance(size);
                }
                slots[turn.next] = share.number;
                free -= 1;
                if free == 0 {
                    return Self { slots: slots.into() };
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The endpoint of the key's slot; while that is unusable, of the slot of the key hashed once more.
    #[inline]
    pub(super) fn pick(&self, key: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let mut hash = key;
        for _ in 0..HASH_STEPS_MAX {
            let number = *self.slots.get(scale(hash, self.slots.len()))? as usize;
            if usable(number) {
                return Some(number);
            }
            hash = mix(hash.wrapping_add(STEP));
        }
        None
    }
}

/// No endpoint has this number: a list of so many would not fit into memory.
const FREE: u32 = u32::MAX;

/// Where an endpoint's permutation stands.
struct Turn {
    next: usize,
    skip: usize,
    /// It takes a slot when the round times its weight has come to this.
    due: u64,
}

impl Turn {
    fn new(share: &Share, size: usize) -> Self {
        Self {
            next: scale(mix(share.id.wrapping_add(STEP)), size),
            skip: 1 + scale(mix(share.id.wrapping_sub(STEP)), size - 1),
            due: 0,
        }
    }

    fn advance(&mut self, size: usize) {
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}
