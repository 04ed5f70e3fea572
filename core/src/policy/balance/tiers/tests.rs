//! Envoy's documented figures, and that nothing is lost.

use proptest::prelude::*;

use super::{Distance, Health, Layout, Locality, Member, SHARES, Settings, Tiers};
use crate::policy::balance::Weights;

fn member(number: u32, priority: u32, distance: Distance) -> Member {
    Member { number, weight: 1, priority, distance }
}

/// Each level as (endpoints, healthy ones), with a priority of its own.
fn plan(levels: &[(u32, u32)], settings: Settings) -> Tiers {
    let mut members = Vec::new();
    let mut healthy = Vec::new();
    for (priority, &(all, well)) in (0..).zip(levels) {
        for n in 0..all {
            members.push(member(members.len() as u32, priority, Distance::Elsewhere));
            healthy.push(n < well);
        }
    }
    Tiers::plan(&Layout::new(&members), |i| healthy[i], settings)
}

/// (level, shares, endpoints, panics) of all that take load.
fn loads(tiers: &Tiers) -> Vec<(usize, u32, usize, bool)> {
    let mut before = 0;
    let mut loads = Vec::new();
    for tier in tiers.iter() {
        if tier.until > before {
            let panics = tier.health() == Health::Disregarded;
            loads.push((tier.level(), tier.until - before, tier.len(), panics));
        }
        before = tier.until;
    }
    loads
}

fn check(levels: &[(u32, u32)], panic_percent: u32, expected: &[(usize, u32, usize, bool)]) {
    let tiers = plan(levels, Settings { panic_percent, ..Settings::default() });
    assert_eq!(loads(&tiers), expected, "{levels:?}, threshold {panic_percent}");
}

#[test]
fn loads_by_envoys_rule() {
    // One level.
    check(&[(10, 10)], 50, &[(0, 10_000, 10, false)]);
    check(&[(10, 8)], 50, &[(0, 10_000, 8, false)]);
    check(&[(10, 5)], 50, &[(0, 10_000, 5, false)]);
    check(&[(10, 4)], 50, &[(0, 10_000, 10, true)]);
    check(&[(10, 0)], 50, &[(0, 10_000, 10, true)]);
    check(&[(10, 4)], 0, &[(0, 10_000, 4, false)]);
    check(&[(10, 0)], 0, &[]);
    check(&[], 50, &[]);
    // Two: 72 % healthy times 1.4 is enough; 71 and 50 are not (Envoy's table for priority levels).
    check(&[(100, 72), (100, 100)], 50, &[(0, 10_000, 72, false)]);
    check(&[(100, 71), (100, 100)], 50, &[(0, 9_940, 71, false), (1, 60, 100, false)]);
    check(&[(100, 50), (100, 100)], 50, &[(0, 7_000, 50, false), (1, 3_000, 100, false)]);
    check(&[(100, 0), (100, 100)], 50, &[(1, 10_000, 100, false)]);
    // A level below its threshold does not panic while the others bear the rest.
    check(&[(100, 25), (100, 100)], 50, &[(0, 3_500, 25, false), (1, 6_500, 100, false)]);
    // Together 35 + 35 = 70 % is too little: raised in proportion, and both panic, so by number.
    check(&[(100, 25), (100, 25)], 50, &[(0, 5_000, 100, true), (1, 5_000, 100, true)]);
    check(&[(100, 25), (300, 75)], 50, &[(0, 2_500, 100, true), (1, 7_500, 300, true)]);
    check(&[(100, 25), (100, 25)], 20, &[(0, 5_000, 25, false), (1, 5_000, 25, false)]);
    // One panics: 84 + 14 = 98 %; the rounding's rest goes to the first.
    check(&[(100, 60), (100, 10)], 50, &[(0, 8_572, 60, false), (1, 1_428, 100, true)]);
    check(&[(100, 0), (100, 0)], 50, &[(0, 5_000, 100, true), (1, 5_000, 100, true)]);
    check(&[(100, 0), (100, 0)], 0, &[]);
    check(&[(1, 0), (3, 1), (3, 3)], 50, &[(1, 4_666, 1, false), (2, 5_334, 3, false)]);
}

#[test]
fn near_before_far_within_a_priority() {
    let members = [
        member(0, 1, Distance::SameZone),
        member(1, 0, Distance::Elsewhere),
        member(2, 0, Distance::SameZone),
        member(3, 0, Distance::SameRegion),
        member(4, 0, Distance::SameZone),
    ];
    let layout = Layout::new(&members);
    let levels: Vec<Vec<usize>> = layout.levels().map(Iterator::collect).collect();
    assert_eq!(levels, [vec![2, 4], vec![3], vec![1], vec![0]]);
    let tiers = Tiers::plan(&layout, |_| true, Settings::default());
    let first = tiers.choose(|| unreachable!("there is no choice")).unwrap();
    assert_eq!((first.level(), first.len(), first.at(0), first.at(1)), (0, 2, 2, 4));
    // For want of room the others are there, in order.
    assert_eq!(tiers.others(first).map(|t| t.at(0)).collect::<Vec<_>>(), [3, 1, 0]);
}

#[test]
fn localities() {
    let place = |region: &str, zone: &str| Locality { region: region.into(), zone: zone.into() };
    let node = place("eu", "a");
    for (node, endpoint, expected) in [
        (&node, place("eu", "a"), Distance::SameZone),
        (&node, place("eu", "b"), Distance::SameRegion),
        (&node, place("eu", ""), Distance::SameRegion),
        (&node, place("us", "a"), Distance::Elsewhere),
        (&node, place("", "a"), Distance::Elsewhere),
        (&place("eu", ""), place("eu", ""), Distance::SameRegion),
        (&place("", ""), place("", ""), Distance::Elsewhere),
    ] {
        assert_eq!(Distance::between(node, &endpoint), expected, "{node:?} {endpoint:?}");
    }
}

#[test]
fn a_choice_follows_the_shares() {
    let tiers = plan(&[(100, 50), (100, 100)], Settings::default());
    let level = |draw: u64| tiers.choose(|| draw).unwrap().level();
    let at = |share: u64| ((u128::from(share) << 64) / u128::from(SHARES)) as u64;
    assert_eq!([level(0), level(at(7_000) - 1), level(at(7_000) + 1), level(u64::MAX)], [0, 0, 1, 1]);
}

#[test]
fn weights_are_looked_at_once() {
    let weighted = |weights: &[u32]| {
        let members: Vec<Member> = (0..)
            .zip(weights)
            .map(|(number, &weight)| Member { weight, ..member(number, 0, Distance::SameZone) })
            .collect();
        let tiers = Tiers::plan(&Layout::new(&members), |_| true, Settings::default());
        let tier = tiers.choose(|| 0).unwrap();
        (tier.weights(), tier.weight_max().steps() / 1024)
    };
    assert_eq!(weighted(&[3, 3, 3]), (Weights::Equal, 3));
    assert_eq!(weighted(&[3, 3, 4]), (Weights::Different, 4));
    assert_eq!(weighted(&[7]), (Weights::Equal, 7));
}

proptest! {
    #[test]
    fn shares_sum_to_the_whole(
        levels in prop::collection::vec((1_u32..50, 0_u32..50), 1..6),
        panic_percent in 0_u32..=100,
        overprovisioning_percent in 0_u32..1_000,
        draw in any::<u64>(),
    ) {
        let levels: Vec<_> = levels.into_iter().map(|(all, well)| (all, well.min(all))).collect();
        let tiers = plan(&levels, Settings { overprovisioning_percent, panic_percent });
        let any = levels.iter().any(|&(_, well)| well > 0);
        let sum: u32 = loads(&tiers).iter().map(|load| load.1).sum();
        prop_assert_eq!(sum, if any || panic_percent > 0 { SHARES } else { 0 });
        for tier in tiers.iter() {
            let (all, well) = levels[tier.level()];
            prop_assert!(!tier.is_empty());
            if tier.health() == Health::Disregarded {
                prop_assert!(well * 100 < panic_percent * all);
                prop_assert_eq!(tier.len(), all as usize);
            } else {
                prop_assert_eq!(tier.len(), well as usize);
            }
        }
        prop_assert_eq!(tiers.choose(|| draw).is_some(), sum > 0);
        if let Some(tier) = tiers.choose(|| draw) {
            prop_assert_eq!(tiers.others(tier).count() + 1, tiers.iter().count());
        }
    }
}
