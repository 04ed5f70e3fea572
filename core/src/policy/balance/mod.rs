//! Which endpoint takes the next request.
//!
//! [`State`] belongs to one upstream of one worker and knows nothing of other workers: what that costs, and what lessens
//! it, docs/balancing.md shows. It sees endpoints as numbers only ([`Candidate`]); who they are, whether they are
//! healthy and what a request's key is, the request path says. It never returns an endpoint that the caller calls
//! unusable, and `None` only if all of the tier are.
//!
//! | room | decides |
//! |---|---|
//! | [`tiers`] | among which endpoints: priority, locality, panic |
//! | here, `rotate`, `draw` | which of them: round robin, least requests, peak EWMA, random |
//! | `shares` | how far an endpoint is ahead of its weight's share, for least requests and peak EWMA |
//! | [`ewma`] | how slow an endpoint is |
//! | [`hash`], `ketama`, `maglev` | which of them a key belongs to |
//! | [`slow_start`] | how much of its weight a new endpoint has |
//! | [`sticky`] | which of them a client's cookie names |
//! | [`subset`] | which endpoints carry some labels |
//!
//! `proxy::upstream` calls it for each attempt; the control thread builds layouts and tables.

pub(crate) mod compile;
mod draw;
pub mod ewma;
pub mod hash;
mod ketama;
mod maglev;
mod rotate;
pub mod settings;
mod shares;
#[cfg(test)]
mod simulation;
pub mod slow_start;
mod spread;
pub mod sticky;
pub mod subset;
#[cfg(test)]
mod tests;
pub mod tiers;

pub use compile::{Balance, Hashing};

use crate::base::limits::ENDPOINT_WEIGHT_MAX;
use crate::base::reason::ReasonCode;

use hash::{Key, Tables};
use rotate::Rotation;
use shares::Shares;
use tiers::Tier;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::NoEndpoint];

/// How endpoints are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Smooth weighted round robin, nginx's: with weights 5, 1, 1 the order is a a b a c a a.
    RoundRobin,
    /// Of two, one in turn and one drawn at random, the one with fewer requests in flight. Where weights differ, both are
    /// drawn by weight, requests count for their weight, and of equals the one that is behind its share is taken.
    LeastRequests,
    /// The same by whose requests are likely to be over sooner ([`ewma`]).
    PeakEwma,
    /// At random, by weight.
    Random,
    /// By the request's key, on a ring of hashes (ketama). A request without a key goes at random.
    RingHash,
    /// By the request's key, from Maglev's table. A request without a key goes at random.
    Maglev,
}

/// An endpoint's weight in steps of 1/1024, so that a part of a weight of 1 is a whole number too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// Steps of a weight of 1.
    const STEPS: u32 = 1024;

    /// A weight as it is configured: 1 to [`ENDPOINT_WEIGHT_MAX`]; what is outside is moved to the nearer end.
    #[inline]
    pub const fn whole(configured: u32) -> Self {
        let at_least_one = if configured == 0 { 1 } else { configured };
        let bounded = if at_least_one > ENDPOINT_WEIGHT_MAX { ENDPOINT_WEIGHT_MAX } else { at_least_one };
        Self(bounded * Self::STEPS)
    }

    /// In 1/1024 of a weight of 1; at least 1, at most 1,024,000.
    #[inline]
    pub const fn steps(self) -> u32 {
        self.0
    }

    /// `parts` of 65,536 of it; at least one step.
    fn part(self, parts: u32) -> Self {
        Self((((u64::from(self.0) * u64::from(parts)) >> 16) as u32).clamp(1, self.0))
    }
}

/// Whether all endpoints of a tier count the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// They do: nothing needs to look at weights.
    Equal,
    /// Some differ, or may differ: one is in slow start.
    Different,
}

/// What a choice sees of one endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Its weight now, slow start included.
    pub weight: Weight,
    /// Requests in flight.
    pub active: u32,
    /// What [`ewma::Ewma::load_ns`] says. Only [`Rule::PeakEwma`] reads it; zero does for the others.
    pub load_ns: u64,
    /// False for endpoints that must not be chosen now.
    pub usable: bool,
}

/// What is known before an endpoint is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'c> {
    /// How to choose.
    pub rule: Rule,
    /// Among which.
    pub tier: &'c Tier,
    /// The tier's, or `Different` while an endpoint is in slow start.
    pub weights: Weights,
    /// For [`Rule::RingHash`] and [`Rule::Maglev`]: the tables and the request's key, if it has one.
    pub hashed: Option<(&'c Tables, Key)>,
}

impl<'c> Choice<'c> {
    /// A choice without key and without slow start.
    pub fn new(rule: Rule, tier: &'c Tier) -> Self {
        Self { rule, tier, weights: tier.weights(), hashed: None }
    }
}

/// Where one worker's rotations stand, for one set of endpoints. Made anew when endpoints change their numbers.
#[derive(Debug, Default)]
pub struct State {
    rotation: Rotation,
    shares: Shares,
}

impl State {
    /// A state whose rotations begin at a place that `draw` decides: a share of 2^64 of the way round. Workers (and
    /// nodes) that all begin at the first endpoint send it more than its share; best is
    /// `random of the node + worker × (2^64 / workers)`, wrapping.
    pub fn starting_at(draw: u64) -> Self {
        Self { rotation: Rotation::starting_at(draw), shares: Shares::starting_at(draw) }
    }

    /// The number of the endpoint to use; `None` if none of the tier is usable.
    ///
    /// `candidate` is asked by number and may be asked about one endpoint several times; `draw` gives uniform 64-bit
    /// numbers. Allocates only when it first meets different weights (8 bytes an endpoint, 24 for least requests and peak EWMA).
    #[inline]
    pub fn pick(
        &mut self,
        choice: Choice<'_>,
        candidate: impl Fn(usize) -> Candidate,
        mut draw: impl FnMut() -> u64,
    ) -> Option<usize> {
        let tier = choice.tier;
        if tier.len() <= 1 {
            return (0..tier.len()).map(|at| tier.at(at)).find(|&i| candidate(i).usable);
        }
        match choice.rule {
            Rule::RoundRobin => self.rotation.next(tier, choice.weights, candidate),
            Rule::LeastRequests | Rule::PeakEwma if choice.weights == Weights::Different => {
                self.shares.begin(tier, &candidate);
                let shares = &self.shares;
                let is_fuller = |a: (usize, &Candidate), b: (usize, &Candidate)| match choice.rule {
                    Rule::PeakEwma => shares.is_slower(tier, a, b),
                    _ => shares.is_fuller(tier, a, b),
                };
                let chosen = draw::two_by_weight(tier, &candidate, is_fuller, &mut draw)?;
                self.shares.took(tier, chosen, candidate(chosen).weight);
                Some(chosen)
            }
            Rule::LeastRequests | Rule::PeakEwma => {
                let load = |c: &Candidate| {
                    if choice.rule == Rule::PeakEwma { c.load_ns } else { u64::from(c.active) + 1 }
                };
                let turn = || self.rotation.turn(tier);
                draw::two_choices(tier, turn, candidate, load, &mut draw)
            }
            Rule::RingHash | Rule::Maglev => {
                let hashed = choice.hashed.and_then(|(tables, key)| Some((tables.of(tier)?, key)));
                match hashed {
                    Some((table, key)) => table.pick(key, |i| candidate(i).usable),
                    None => draw::weighted(tier, choice.weights, candidate, &mut draw),
                }
            }
            Rule::Random => draw::weighted(tier, choice.weights, candidate, &mut draw),
        }
    }
}
