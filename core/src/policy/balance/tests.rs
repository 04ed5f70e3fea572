//! Whatever the rule: an endpoint that may be used, and by weight.

use std::cell::Cell;

use proptest::prelude::*;

use super::hash::{Key, MaglevSettings, RingSettings, Shape, Tables};
use super::slow_start::{Curve, Settings as SlowStart};
use super::spread::{STEP, mix};
use super::tiers::{Distance, Layout, Member, Settings, Tiers};
use super::{Candidate, Choice, Rule, State, Weight, Weights};

const RULES: [Rule; 6] =
    [Rule::RoundRobin, Rule::LeastRequests, Rule::PeakEwma, Rule::Random, Rule::RingHash, Rule::Maglev];

/// `SplitMix64`.
pub(super) fn draws(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(STEP);
        mix(state)
    }
}

fn layout(weights: &[u32]) -> Layout {
    let member = |(number, &weight)| Member { number, weight, priority: 0, distance: Distance::SameZone };
    Layout::new(&(0..).zip(weights).map(member).collect::<Vec<_>>())
}

pub(super) fn tiers(weights: &[u32]) -> Tiers {
    Tiers::plan(&layout(weights), |_| true, Settings::default())
}

fn picks(rule: Rule, weights: &[u32], active: &[u32], unusable: &[usize], n: usize) -> Vec<usize> {
    let mut state = State::default();
    let tiers = tiers(weights);
    let Some(tier) = tiers.choose(|| 0) else { return Vec::new() };
    let candidate = |i: usize| Candidate {
        weight: Weight::whole(weights[i]),
        active: active[i],
        load_ns: u64::from(active[i]) + 1,
        usable: !unusable.contains(&i),
    };
    let mut draw = draws(1);
    (0..n).filter_map(|_| state.pick(Choice::new(rule, tier), candidate, &mut draw)).collect()
}

/// Rule, weights, active, unusable; the picks.
type Row<'a> = (Rule, &'a [u32], &'a [u32], &'a [usize], &'a [usize]);

#[test]
fn table() {
    let cases: &[Row<'_>] = &[
        (Rule::RoundRobin, &[1, 1, 1], &[0, 0, 0], &[], &[0, 1, 2, 0, 1, 2]),
        (Rule::RoundRobin, &[5, 1, 1], &[0, 0, 0], &[], &[0, 0, 1, 0, 2, 0, 0]),
        (Rule::RoundRobin, &[1, 1, 1], &[0, 0, 0], &[1], &[0, 2, 0, 2]),
        (Rule::RoundRobin, &[2, 1, 1], &[0, 0, 0], &[0], &[1, 2, 1, 2]),
        (Rule::RoundRobin, &[1, 1], &[0, 0], &[0, 1], &[]),
        (Rule::LeastRequests, &[1, 1, 1], &[3, 1, 2], &[], &[1, 1]),
        // For their weight both are as full, so shares decide; then one is emptier.
        (Rule::LeastRequests, &[4, 1], &[4, 1], &[], &[0, 1, 0, 0, 0, 0, 1, 0]),
        (Rule::LeastRequests, &[4, 1], &[2, 1], &[], &[0, 0]),
        (Rule::LeastRequests, &[4, 1], &[8, 1], &[], &[1, 0]),
        (Rule::LeastRequests, &[4, 1], &[40, 1], &[], &[1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (Rule::PeakEwma, &[4, 1], &[40, 1], &[], &[1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (Rule::LeastRequests, &[1, 1, 1], &[0, 0, 0], &[0, 2], &[1, 1]),
        (Rule::LeastRequests, &[1000, 999], &[u32::MAX, u32::MAX], &[], &[0, 0]),
        (Rule::LeastRequests, &[1], &[9], &[], &[0]),
        (Rule::LeastRequests, &[1], &[0], &[0], &[]),
        (Rule::PeakEwma, &[1, 1, 1], &[3, 1, 2], &[1], &[2, 2]),
        (Rule::RoundRobin, &[], &[], &[], &[]),
    ];
    for (rule, weights, active, unusable, expected) in cases {
        let got = picks(*rule, weights, active, unusable, expected.len().max(2));
        assert_eq!(&got[..expected.len().min(got.len())], *expected, "{rule:?} {weights:?} {active:?}");
        assert_eq!(got.is_empty(), expected.is_empty());
    }
}

#[test]
fn weights_hold_over_many_picks() {
    let counts = |rule, weights: &[u32], n| {
        let got = picks(rule, weights, &vec![0; weights.len()], &[], n);
        (0..weights.len()).map(|i| got.iter().filter(|&&g| g == i).count()).collect::<Vec<_>>()
    };
    assert_eq!(counts(Rule::RoundRobin, &[3, 2, 1], 600), [300, 200, 100]);
    // Without a key a hash rule draws by weight, and few of great weight among many are found by summing up.
    for rule in [Rule::Random, Rule::RingHash, Rule::Maglev] {
        let mut weights = vec![1; 100];
        weights[7] = 1_000;
        let seven = counts(rule, &weights, 10_000)[7];
        assert!(seven.abs_diff(9_099) < 150, "{seven} of 10,000, 9,099 expected");
    }
}

#[test]
fn least_requests_in_flight_follow_weights() {
    // 400 requests stay in flight; which one ends next is drawn.
    let weights = [10, 2, 1, 1, 1, 1];
    let tiers = tiers(&weights);
    let tier = tiers.choose(|| 0).unwrap();
    let (mut state, mut draw) = (State::default(), draws(3));
    let active = [const { Cell::new(0_u32) }; 6];
    let candidate = |i: usize| Candidate {
        weight: Weight::whole(weights[i]),
        active: active[i].get(),
        load_ns: 0,
        usable: true,
    };
    let mut flying = Vec::new();
    for _ in 0..20_000 {
        let i = state.pick(Choice::new(Rule::LeastRequests, tier), candidate, &mut draw).unwrap();
        active[i].set(active[i].get() + 1);
        flying.push(i);
        if flying.len() > 400 {
            let over = flying.swap_remove(super::draw::below(draw(), flying.len()));
            active[over].set(active[over].get() - 1);
        }
    }
    for (active, weight) in active.iter().zip(weights) {
        assert!(active.get().abs_diff(weight * 25) <= 5, "{active:?} at weight {weight}");
    }
}

#[test]
fn equals_take_turns_and_so_do_the_few_that_are_usable() {
    for rule in [Rule::LeastRequests, Rule::PeakEwma, Rule::Random] {
        for (len, unusable) in [(2, &[][..]), (3, &[]), (10, &[]), (3, &[1]), (10, &[2, 3, 4, 5, 6, 7])] {
            let got = picks(rule, &vec![1; len], &vec![0; len], unusable, 12_000);
            let usable = len - unusable.len();
            for i in (0..len).filter(|i| !unusable.contains(i)) {
                let count = got.iter().filter(|&&g| g == i).count();
                let fair = 12_000 / usable;
                assert!(count.abs_diff(fair) < fair / 10, "{rule:?}: {count} of {fair} to {i} of {len}");
            }
        }
    }
}

#[test]
fn a_rotation_starts_where_it_is_told() {
    for (weights, kind) in [([1; 8], Weights::Equal), ([1; 8], Weights::Different)] {
        let tiers = tiers(&weights);
        let tier = tiers.choose(|| 0).unwrap();
        let candidate = |_| Candidate { weight: Weight::whole(1), active: 0, load_ns: 0, usable: true };
        let choice = Choice { weights: kind, ..Choice::new(Rule::RoundRobin, tier) };
        let mut firsts = [0; 8];
        for worker in 0..8_000_u64 {
            let mut state = State::starting_at(worker * (u64::MAX / 8_000) + 1);
            let round: Vec<usize> =
                (0..8).filter_map(|_| state.pick(choice, candidate, || unreachable!())).collect();
            firsts[round[0]] += 1;
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7], "a round meets each once");
        }
        assert!(firsts.iter().all(|&n| (850..1_150).contains(&n)), "{firsts:?}");
    }
}

#[test]
fn tiers_do_not_disturb_each_others_rotation() {
    // Levels {0 1 2} and {3 4 5}, weights 2 1 1; half of the load to each.
    for weights in [[1, 1, 1, 1, 1, 1], [2, 1, 1, 2, 1, 1]] {
        let member = |number: u32| Member {
            number,
            weight: weights[number as usize],
            priority: number / 3,
            distance: Distance::SameZone,
        };
        let layout = Layout::new(&(0..6).map(member).collect::<Vec<_>>());
        // One of three healthy is 46 % of the load; which two of the second level are healthy changes.
        let (mut state, mut draw) = (State::default(), draws(5));
        let mut got = [0_u32; 6];
        for round in 0..6_000_usize {
            let sick = 3 + round / 100 % 3;
            let tiers = Tiers::plan(&layout, |i| i == 0 || (i > 2 && i != sick), Settings::default());
            let tier = tiers.choose(&mut draw).unwrap();
            let candidate = |i: usize| Candidate {
                weight: Weight::whole(weights[i]),
                active: 0,
                load_ns: 0,
                usable: i != sick,
            };
            got[state.pick(Choice::new(Rule::RoundRobin, tier), candidate, || 0).unwrap()] += 1;
        }
        let second: u32 = got[3..].iter().sum();
        assert_eq!(got[1..3], [0, 0]);
        assert!(got[0].abs_diff(2_800) < 200, "{got:?}");
        // Of weights 2 1 1, with each sick for a third of the time: (2/3 + 2/3) / 3, (1/2 + 1/3) / 3.
        let parts = if weights[0] == 1 { [12, 12, 12] } else { [16, 10, 10] };
        for (got, part) in got[3..].iter().zip(parts) {
            let fair = second * part / 36;
            assert!(got.abs_diff(fair) < 60, "{got} of {fair}, {weights:?}");
        }
    }
}

#[test]
fn round_robin_follows_weights_that_rise() {
    // Endpoint 2 of four comes new: in each second of its window it gets what the curve says.
    let curve = Curve::new(SlowStart { window_ms: 60_000, ..SlowStart::default() });
    let tiers = tiers(&[1; 4]);
    let choice =
        Choice { weights: Weights::Different, ..Choice::new(Rule::RoundRobin, tiers.choose(|| 0).unwrap()) };
    let mut state = State::default();
    let (mut got, mut expected) = (0.0, 0.0);
    for now_ms in 0..70_000 {
        let weight = |i: usize| {
            let whole = Weight::whole(1);
            if i == 2 { curve.weight(whole, 0, now_ms) } else { whole }
        };
        let candidate = |i: usize| Candidate { weight: weight(i), active: 0, load_ns: 0, usable: true };
        let picked = state.pick(choice, candidate, || 0).unwrap();
        let own = f64::from(weight(2).steps());
        expected += own / (own + 3.0 * 1024.0);
        got += f64::from(u32::from(picked == 2));
        assert!((got - expected).abs() < 2.0, "{got}, not {expected}, at {now_ms}");
    }
}

#[test]
fn tables_of_another_layout_are_not_followed() {
    let tables = Tables::build(&layout(&[]), Shape::Maglev(MaglevSettings::default()), |_| (0, 1));
    let tiers = tiers(&[1, 1]);
    let choice = Choice {
        hashed: Some((&tables, Key::of(b"k"))),
        ..Choice::new(Rule::Maglev, tiers.choose(|| 0).unwrap())
    };
    let candidate = |_| Candidate { weight: Weight::whole(1), active: 0, load_ns: 0, usable: true };
    assert!(State::default().pick(choice, candidate, draws(1)).is_some(), "it goes at random");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A usable one if there is one, `None` only if there is none; whatever the draws, even constant ones.
    #[test]
    fn usable_if_any_is(
        weights in prop::collection::vec(0_u32..=1_100, 1..40),
        active in prop::collection::vec(prop_oneof![0_u32..9, Just(u32::MAX)], 40),
        usable_bits in prop_oneof![any::<u64>(), Just(0), (0_u32..40).prop_map(|i| 1 << i)],
        seed in any::<u64>(),
        constant in any::<bool>(),
        start in any::<u64>(),
        weights_kind in prop_oneof![Just(Weights::Equal), Just(Weights::Different)],
    ) {
        let layout = layout(&weights);
        let tiers = Tiers::plan(&layout, |_| true, Settings::default());
        let tier = tiers.choose(|| 0).unwrap();
        let usable = |i: usize| usable_bits >> i & 1 == 1;
        let any = (0..weights.len()).any(usable);
        let candidate = |i: usize| Candidate {
            weight: Weight::whole(weights[i]),
            active: active[i],
            load_ns: u64::from(active[i]) << 32,
            usable: usable(i),
        };
        let mut random = draws(seed);
        for rule in RULES {
            let shape = if rule == Rule::Maglev {
                Shape::Maglev(MaglevSettings::default())
            } else {
                Shape::Ring(RingSettings { entries_min: 64, entries_max: 4_096 })
            };
            let tables = Tables::build(&layout, shape, |i| (mix(i as u64), weights[i]));
            let mut state = State::starting_at(start);
            for n in 0_u64..50 {
                let hashed = (n % 2 == 0).then(|| (&tables, Key::of(&n.to_le_bytes())));
                let choice = Choice { rule, tier, weights: weights_kind, hashed };
                let picked = state.pick(choice, candidate, || if constant { seed } else { random() });
                prop_assert_eq!(picked.is_some(), any, "{:?}", rule);
                prop_assert!(picked.is_none_or(usable), "{:?}", rule);
            }
        }
    }

    /// Smooth: after any number of picks no endpoint is more than three from its share.
    #[test]
    fn round_robin_stays_near_every_share(
        weights in prop::collection::vec(1_u32..=1_000, 2..12),
        start in any::<u64>(),
    ) {
        let tiers = tiers(&weights);
        let tier = tiers.choose(|| 0).unwrap();
        let candidate =
            |i: usize| Candidate { weight: Weight::whole(weights[i]), active: 0, load_ns: 0, usable: true };
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let mut state = State::starting_at(start);
        let mut counts = vec![0.0; weights.len()];
        for n in 1..500 {
            counts[state.pick(Choice::new(Rule::RoundRobin, tier), candidate, || 0).unwrap()] += 1.0;
            for (count, &weight) in counts.iter().zip(&weights) {
                let share = f64::from(n) * f64::from(weight) / total;
                prop_assert!((count - share).abs() < 3.0, "{} of {}", count, share);
            }
        }
    }

    /// The first of 20,000 draws by weight are within five deviations of their shares.
    #[test]
    fn random_follows_weights(weights in prop::collection::vec(1_u32..=50, 2..10), seed in any::<u64>()) {
        let tiers = tiers(&weights);
        let tier = tiers.choose(|| 0).unwrap();
        let candidate =
            |i: usize| Candidate { weight: Weight::whole(weights[i]), active: 0, load_ns: 0, usable: i != 1 };
        let usable: f64 = (0..).zip(&weights).filter(|(i, _)| *i != 1).map(|(_, &w)| f64::from(w)).sum();
        let (mut state, mut draw) = (State::default(), draws(seed));
        let mut counts = vec![0.0; weights.len()];
        for _ in 0..20_000 {
            counts[state.pick(Choice::new(Rule::Random, tier), candidate, &mut draw).unwrap()] += 1.0;
        }
        for (i, (count, &weight)) in counts.iter().zip(&weights).enumerate().filter(|(i, _)| *i != 1) {
            let p = f64::from(weight) / usable;
            let deviation = (20_000.0 * p * (1.0 - p)).sqrt();
            prop_assert!((count - 20_000.0 * p).abs() <= 5.0 * deviation + 1.0, "{}: {}", i, count);
        }
    }
}
