//! Choices that draw: two at random and the better of them, or one at random by weight.

use super::tiers::Tier;
use super::{Candidate, Weights};

/// Draws before the usable ones are counted. With half of the endpoints unusable four pairs fail once in 256.
const PAIRS_MAX: usize = 4;

/// Draws for one other than the first: two by weight, the others evenly.
const SECONDS_MAX: usize = 5;

/// Draws of one before the usable weights are summed up.
const SINGLES_MAX: usize = 8;

/// `draw` mapped to 0..`len`; the bias is under `len` / 2^64.
#[inline]
pub(super) fn below(draw: u64, len: usize) -> usize {
    ((u128::from(draw) * len as u128) >> 64) as usize
}

/// The better of two: the one whose `turn` it is, and one drawn at random (M. Mitzenmacher, "The Power of Two Choices in
/// Randomized Load Balancing", 2001, draws both): less of `load`. Of equals the
/// one whose turn it is is taken: a worker with hardly anything in flight goes round instead of at random, which evens
/// out what many such workers send (docs/balancing.md has the figures). With three endpoints all are compared, which
/// costs one look more.
#[inline]
pub(super) fn two_choices(
    tier: &Tier,
    turn: impl FnOnce() -> usize,
    candidate: impl Fn(usize) -> Candidate,
    load: impl Fn(&Candidate) -> u64,
    draw: &mut impl FnMut() -> u64,
) -> Option<usize> {
    let better = |a: Held, b: Held| if b.load < a.load { b } else { a };
    let best = |a: Option<Held>, b: Option<Held>| match (a, b) {
        (Some(a), Some(b)) => Some(better(a, b)),
        (a, b) => a.or(b),
    };
    let look = |i: usize| {
        let c = candidate(i);
        c.usable.then(|| Held { i, load: load(&c) })
    };
    let len = tier.len();
    let first = turn();
    let second = other(first, draw(), len);
    let (a, b) = (look(tier.at(first)), look(tier.at(second)));
    if len <= 3 {
        let third = if len == 3 { look(tier.at(3 - first - second)) } else { None };
        return best(best(a, b), third).map(|held| held.i);
    }
    if let (Some(a), Some(b)) = (a, b) {
        return Some(better(a, b).i);
    }
    let mut held = a.or(b);
    for _ in 1..PAIRS_MAX {
        let (first, second) = pair(draw(), len);
        for place in [first, second] {
            match (held, look(tier.at(place))) {
                (Some(before), Some(found)) if before.i != found.i => return Some(better(before, found).i),
                (None, found) => held = found,
                _ => {}
            }
        }
    }
    // Few are usable: find them all.
    let usable = || (0..len).map(|at| tier.at(at)).filter(|&i| candidate(i).usable);
    let count = usable().count();
    let nth = |n: usize| usable().nth(n).and_then(look);
    match count {
        0 => None,
        1 => usable().next(),
        _ => {
            let (first, second) = pair(draw(), count);
            Some(better(nth(first)?, nth(second)?).i)
        }
    }
}

/// The less full of two that are drawn by weight: of n endpoints that are drawn evenly none gets more than 2/n of all
/// requests, whatever its weight. If most of the weight is the first's, the second is drawn evenly, so that there is one
/// to compare it with. Of up to three all are compared. `is_fuller` says whether the first of two is fuller than the second.
#[inline]
pub(super) fn two_by_weight(
    tier: &Tier,
    candidate: impl Fn(usize) -> Candidate,
    is_fuller: impl Fn((usize, &Candidate), (usize, &Candidate)) -> bool,
    draw: &mut impl FnMut() -> u64,
) -> Option<usize> {
    let len = tier.len();
    let emptier = |a: (usize, Candidate), b: (usize, Candidate)| {
        if is_fuller((a.0, &a.1), (b.0, &b.1)) { b } else { a }
    };
    let look = |i: usize| Some((i, candidate(i))).filter(|(_, c)| c.usable);
    if len <= 3 {
        return (0..len).filter_map(|at| look(tier.at(at))).reduce(emptier).map(|(i, _)| i);
    }
    let first = weighted(tier, Weights::Different, &candidate, draw)?;
    let mut second = None;
    for tries in 0..SECONDS_MAX {
        let i = match tries {
            0 | 1 => weighted(tier, Weights::Different, &candidate, draw)?,
            _ => tier.at(upper_below(draw(), len)),
        };
        second = look(i).filter(|&(i, _)| i != first);
        if second.is_some() {
            break;
        }
    }
    second.map_or(Some(first), |second| Some(emptier((first, candidate(first)), second).0))
}

/// One at random, by weight.
#[inline]
pub(super) fn weighted(
    tier: &Tier,
    weights: Weights,
    candidate: impl Fn(usize) -> Candidate,
    draw: &mut impl FnMut() -> u64,
) -> Option<usize> {
    // Drawing evenly and keeping what is drawn with probability weight / most weight is exact.
    for _ in 0..SINGLES_MAX {
        let bits = draw();
        let i = tier.at(upper_below(bits, tier.len()));
        let c = candidate(i);
        let kept = weights == Weights::Equal
            || upper_below(bits << 32, tier.weight_max().steps() as usize) < c.weight.steps() as usize;
        if c.usable && kept {
            return Some(i);
        }
    }
    let weight = |i: usize| {
        let c = candidate(i);
        if c.usable { u64::from(c.weight.steps()) } else { 0 }
    };
    let numbers = || (0..tier.len()).map(|at| tier.at(at));
    let total: u64 = numbers().map(weight).sum();
    let mut place = ((u128::from(draw()) * u128::from(total)) >> 64) as u64;
    numbers().find(|&i| {
        let weight = weight(i);
        let here = place < weight;
        place = place.saturating_sub(weight);
        here
    })
}

#[derive(Debug, Clone, Copy)]
struct Held {
    i: usize,
    load: u64,
}

/// Two different numbers below `len`, at least 2, from one draw: each pair is as likely as any other, but for a bias
/// under `len` / 2^32.
#[inline]
fn pair(bits: u64, len: usize) -> (usize, usize) {
    let first = upper_below(bits, len);
    (first, other(first, bits << 32, len))
}

/// A number below `len`, at least 2, that is not `first`, from the upper half of `bits`.
#[inline]
fn other(first: usize, bits: u64, len: usize) -> usize {
    let second = upper_below(bits, len - 1);
    second + usize::from(second >= first)
}

/// The upper half of `bits` mapped to 0..`len`.
#[inline]
fn upper_below(bits: u64, len: usize) -> usize {
    (((bits >> 32) * len as u64) >> 32) as usize
}
