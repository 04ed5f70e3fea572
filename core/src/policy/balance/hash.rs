//! Consistent hashing: the same key goes to the same endpoint, whichever worker or node of whatever version decides.
//!
//! A [`Table`] is made of stable ids ([`id`], a hash of the address's text) and weights, never of an endpoint's place in
//! a list, and is immutable: the control thread builds it, workers share it. An endpoint that is unusable now is passed
//! over in an order that only the table and the key decide, so all who know of the same unusable ones agree, and keys
//! of usable endpoints stay where they are.
//!
//! Hash functions are xxh3-64 for bytes and the finaliser of `SplitMix64` for numbers. They are part of what nodes agree
//! on: changing them moves every key.

use super::ketama::Ring;
pub use super::ketama::Settings as RingSettings;
use super::maglev::Maglev;
pub use super::maglev::Settings as MaglevSettings;
use super::spread::{Share, mix};
use super::tiers::{Layout, Tier};

/// The stable id of an endpoint, from its address as text (for example `10.0.0.1:8080`).
pub fn id(address: &str) -> u64 {
    twox_hash::XxHash3_64::oneshot(address.as_bytes())
}

/// What a request is hashed by, hashed. Only made by [`Key::of`], since tables take its bits to be evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The key of some bytes: a header's value, an address, a path.
    pub fn of(bytes: &[u8]) -> Self {
        Self(twox_hash::XxHash3_64::oneshot(bytes))
    }

    /// For [`super::tiers::Tiers::choose`]: a number that the key decides, so that its tier is always the same too.
    pub fn draw(self) -> u64 {
        mix(self.0 ^ TIER_SALT)
    }
}

const TIER_SALT: u64 = 0x7469_6572_5f6f_665f;

/// Which kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A ring of hashes.
    Ring(RingSettings),
    /// Maglev's table.
    Maglev(MaglevSettings),
}

/// The tables of one layout, one for each level.
#[derive(Debug)]
pub struct Tables(Box<[Table]>);

impl Tables {
    /// Builds them, which takes milliseconds and more for thousands of endpoints: not in a worker. `endpoint` gives id
    /// and configured weight by number.
    pub fn build(layout: &Layout, shape: Shape, endpoint: impl Fn(usize) -> (u64, u32)) -> Self {
        let share = |number: usize| {
            let (id, weight) = endpoint(number);
            Share { number: number as u32, id, weight }
        };
        Self(layout.levels().map(|numbers| Table::build(shape, numbers.map(share).collect())).collect())
    }

    /// The table of a tier of the same layout; `None` if it is of another.
    #[inline]
    pub fn of(&self, tier: &Tier) -> Option<&Table> {
        self.0.get(tier.level())
    }
}

/// From keys to endpoints.
#[derive(Debug)]
pub struct Table {
    kind: Kind,
    /// By id.
    shares: Box<[Share]>,
}

#[derive(Debug)]
enum Kind {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    pub(super) fn build(shape: Shape, mut shares: Vec<Share>) -> Self {
        for share in &mut shares {
            share.weight = share.weight.max(1);
        }
        // The order in which endpoints are listed must not matter.
        shares.sort_unstable_by_key(|share| (share.id, share.number));
        let kind = match shape {
            Shape::Ring(settings) => Kind::Ring(Ring::build(&shares, settings)),
            Shape::Maglev(settings) => Kind::Maglev(Maglev::build(&shares, settings)),
        };
        Self { kind, shares: shares.into() }
    }

    /// The number of the usable endpoint that `key` belongs to; `None` if none is usable.
    #[inline]
    pub fn pick(&self, key: Key, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let found = match &self.kind {
            Kind::Ring(ring) => ring.pick(key.0, &usable),
            Kind::Maglev(maglev) => maglev.pick(key.0, &usable),
        };
        found.or_else(|| self.search(key, usable))
    }

    /// Entries of its ring or slots of its table.
    pub fn entries(&self) -> usize {
        match &self.kind {
            Kind::Ring(ring) => ring.len(),
            Kind::Maglev(maglev) => maglev.len(),
        }
    }

    /// When most endpoints are unusable: the one whose hash with the key is highest (D. Thaler, C. Ravishankar,
    /// rendezvous hashing, 1998). Looks at each, and leaves weights aside.
    #[cold]
    fn search(&self, key: Key, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let candidates = self.shares.iter().filter(|share| usable(share.number as usize));
        candidates.max_by_key(|share| mix(key.0 ^ share.id)).map(|share| share.number as usize)
    }
}

#[cfg(test)]
mod tests;
