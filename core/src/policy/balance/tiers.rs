//! Among which endpoints a request is balanced: priority, locality and panic, by Envoy's rules.
//!
//! A [`Layout`] groups endpoints into levels by priority, then by distance; it is made of the configuration. [`Tiers`] are
//! a layout together with what is healthy now, planned anew when either changes:
//!
//! - A level's health is its share of healthy endpoints times the overprovisioning factor, at most 100 %. Levels take
//!   load in order, each as much as its health, until 100 % are given away. If all healths together fall short of
//!   100 %, loads are raised in proportion until they do not.
//! - A level panics when the healths of all levels together are under 100 %, and less than the panic threshold of its own
//!   endpoints are healthy: then its load is balanced over all its endpoints, healthy or not, since the few healthy
//!   ones would not bear it. With threshold 0 nothing panics.
//! - If every level panics, load is given to levels by their number of endpoints.
//! - If nothing is healthy and the threshold is 0, there is no tier.
//!
//! Health here means health checks and outlier detection, not whether an endpoint has room: see [`Tiers::others`].

use std::sync::Arc;

use super::{Weight, Weights};

/// Where somebody is. Empty: not known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// For example `eu-west-1`.
    pub region: Box<str>,
    /// For example `eu-west-1b`; two zones of the same name in different regions are different.
    pub zone: Box<str>,
}

/// How far an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// In the same zone of the same region.
    SameZone,
    /// In another zone, or an unknown one, of the same region.
    SameRegion,
    /// In another region, or an unknown one.
    Elsewhere,
}

impl Distance {
    /// From one place to the other. What is not known is nowhere near.
    pub fn between(node: &Locality, endpoint: &Locality) -> Self {
        let same = |a: &str, b: &str| !a.is_empty() && a == b;
        match (same(&node.region, &endpoint.region), same(&node.zone, &endpoint.zone)) {
            (true, true) => Self::SameZone,
            (true, false) => Self::SameRegion,
            (false, _) => Self::Elsewhere,
        }
    }
}

/// One endpoint, as a layout sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The endpoint's number, by which candidates are asked for.
    pub number: u32,
    /// As configured.
    pub weight: u32,
    /// 0 comes first.
    pub priority: u32,
    /// Within a priority the near come first.
    pub distance: Distance,
}

/// When load goes elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A level bears so much of what it would bear if all its endpoints were healthy and of 100 %: at least 100.
    pub overprovisioning_percent: u32,
    /// 0 to 100; 0: never.
    pub panic_percent: u32,
}

impl Default for Settings {
    /// Envoy's.
    fn default() -> Self {
        Self { overprovisioning_percent: 140, panic_percent: 50 }
    }
}

/// Endpoints by level.
#[derive(Debug, Clone)]
pub struct Layout {
    levels: Box<[Group]>,
}

impl Layout {
    /// Groups the members. An endpoint's number must not come twice.
    pub fn new(members: &[Member]) -> Self {
        let mut sorted = members.to_vec();
        sorted.sort_by_key(|m| (m.priority, m.distance, m.number));
        let levels = sorted.chunk_by(|a, b| (a.priority, a.distance) == (b.priority, b.distance));
        Self { levels: levels.map(Group::new).collect() }
    }

    /// The numbers of each level's endpoints.
    pub fn levels(&self) -> impl Iterator<Item = impl Iterator<Item = usize> + '_> + '_ {
        self.levels.iter().map(Group::iter)
    }
}

/// Some endpoints of one level.
#[derive(Debug, Clone)]
struct Group {
    len: u32,
    /// Their numbers; `None`: 0 to `len`, so that the common case reads no list.
    numbers: Option<Arc<[u32]>>,
    /// One above the highest number.
    end: u32,
    weights: Weights,
    weight_max: u32,
}

impl Group {
    fn new(members: &[Member]) -> Self {
        let plain = (0..).zip(members).all(|(at, m)| m.number == at);
        let most = members.iter().map(|m| m.weight).max().unwrap_or(1);
        let equal = members.iter().all(|m| m.weight == most);
        Self {
            len: members.len() as u32,
            numbers: (!plain).then(|| members.iter().map(|m| m.number).collect()),
            end: members.iter().map(|m| m.number + 1).max().unwrap_or(0),
            weights: if equal { Weights::Equal } else { Weights::Different },
            weight_max: most,
        }
    }

    #[inline]
    fn at(&self, at: usize) -> usize {
        self.numbers.as_ref().map_or(at, |numbers| numbers[at] as usize)
    }

    fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len as usize).map(|at| self.at(at))
    }

    /// Those that are healthy.
    fn only(&self, healthy: impl Fn(usize) -> bool) -> Self {
        let numbers: Arc<[u32]> = self.iter().filter(|&i| healthy(i)).map(|i| i as u32).collect();
        Self { len: numbers.len() as u32, numbers: Some(numbers), ..self.clone() }
    }
}

/// Whether a tier's endpoints are the healthy ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// They are.
    Regarded,
    /// The level panics: they are all of it, and whether one is healthy must not decide whether it is usable.
    Disregarded,
}

/// Endpoints of one level to balance over.
#[derive(Debug, Clone)]
pub struct Tier {
    group: Group,
    level: u32,
    health: Health,
    /// It takes draws below this, of [`SHARES`], that no tier before it takes.
    until: u32,
}

impl Tier {
    /// Endpoints in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.group.len as usize
    }

    /// No endpoint is: never so for one that [`Tiers::choose`] gave.
    pub fn is_empty(&self) -> bool {
        self.group.len == 0
    }

    /// The number of the endpoint at a place below `len`.
    #[inline]
    pub fn at(&self, at: usize) -> usize {
        self.group.at(at)
    }

    /// The layout's level that it is of; the first is 0.
    #[inline]
    pub fn level(&self) -> usize {
        self.level as usize
    }

    /// Whether its level panics.
    #[inline]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Whether all configured weights are the same.
    #[inline]
    pub fn weights(&self) -> Weights {
        self.group.weights
    }

    /// The greatest of its level's weights.
    #[inline]
    pub(super) fn weight_max(&self) -> Weight {
        Weight::whole(self.group.weight_max)
    }

    /// One above the highest number of its level.
    pub(super) fn numbers_end(&self) -> usize {
        self.group.end as usize
    }
}

/// What the load is counted in: 10,000 shares.
pub const SHARES: u32 = 10_000;

/// A layout and its health.
#[derive(Debug, Clone)]
pub struct Tiers(Box<[Tier]>);

impl Tiers {
    /// Plans anew; `healthy` is asked once for each endpoint. To be called when membership or health changes.
    pub fn plan(layout: &Layout, healthy: impl Fn(usize) -> bool, settings: Settings) -> Self {
        let counts: Vec<Count> = layout
            .levels
            .iter()
            .map(|group| Count {
                all: u64::from(group.len),
                healthy: group.iter().filter(|&i| healthy(i)).count() as u64,
            })
            .collect();
        let plan = shares(&counts, settings);
        let mut until = 0;
        let tiers = layout.levels.iter().zip(&counts).zip(&plan).zip(0..);
        let tiers = tiers.filter_map(|(((group, count), &(share, health)), level)| {
            until += share;
            let all = health == Health::Disregarded || count.healthy == count.all;
            let group = if all { group.clone() } else { group.only(&healthy) };
            (group.len > 0).then_some(Tier { group, level, health, until })
        });
        Self(tiers.collect())
    }

    /// One level of `len` healthy endpoints of equal weights.
    pub fn single(len: usize) -> Self {
        let member = |number| Member { number, weight: 1, priority: 0, distance: Distance::Elsewhere };
        let members: Vec<Member> = (0..len as u32).map(member).collect();
        Self::plan(&Layout::new(&members), |_| true, Settings::default())
    }

    /// The tier for one request: by chance, in proportion to load. A draw is only asked for if there is a choice. For a
    /// hashed request it must be [`super::hash::Key::draw`]. `None` if there is nothing to balance over.
    #[inline]
    pub fn choose(&self, draw: impl FnOnce() -> u64) -> Option<&Tier> {
        let first = self.0.first()?;
        if first.until >= SHARES {
            return Some(first);
        }
        let place = super::spread::scale(draw(), SHARES as usize) as u32;
        self.0.iter().find(|tier| place < tier.until)
    }

    /// The other tiers, near ones of low priority number first: for a request that found no endpoint with room in the
    /// one chosen.
    pub fn others(&self, chosen: &Tier) -> impl Iterator<Item = &Tier> + '_ {
        let level = chosen.level;
        self.0.iter().filter(move |tier| tier.level != level)
    }

    /// All tiers.
    pub fn iter(&self) -> impl Iterator<Item = &Tier> + '_ {
        self.0.iter()
    }
}

#[derive(Debug, Clone, Copy)]
struct Count {
    /// At least 1.
    all: u64,
    healthy: u64,
}

/// Each level's share of the load, of [`SHARES`], and whether its health is regarded.
fn shares(counts: &[Count], settings: Settings) -> Vec<(u32, Health)> {
    let whole = u64::from(SHARES);
    let factor = u64::from(settings.overprovisioning_percent.max(100));
    let threshold = u64::from(settings.panic_percent.min(100));
    let bearable: Vec<u64> =
        counts.iter().map(|c| (c.healthy * factor * (whole / 100) / c.all).min(whole)).collect();
    let total = bearable.iter().sum::<u64>().min(whole);
    let panics = |c: &Count| threshold > 0 && total < whole && c.healthy * 100 < threshold * c.all;
    let parts: Vec<u64> = if counts.iter().all(panics) {
        let all: u64 = counts.iter().map(|c| c.all).sum();
        counts.iter().map(|c| c.all * whole / all).collect()
    } else {
        let mut left = whole;
        let part = |bearable: &u64| {
            // Total is not zero where anything is bearable.
            let part = (bearable * whole).checked_div(total).unwrap_or(0).min(left);
            left -= part;
            part
        };
        bearable.iter().map(part).collect()
    };
    // What rounding left over goes to the first that bears anything, as in Envoy.
    let rest = if parts.iter().any(|&p| p > 0) { whole - parts.iter().sum::<u64>() } else { 0 };
    let first = parts.iter().position(|&p| p > 0);
    (0..)
        .zip(counts.iter().zip(parts))
        .map(|(at, (count, part))| {
            let share = if Some(at) == first { part + rest } else { part };
            (share as u32, if panics(count) { Health::Disregarded } else { Health::Regarded })
        })
        .collect()
}

#[cfg(test)]
mod tests;
