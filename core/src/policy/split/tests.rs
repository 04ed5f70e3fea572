use proptest::prelude::*;

use super::{Override, Point, Shares, mix};

const USERS: u32 = 100_000;

fn users() -> impl Iterator<Item = String> {
    (0..USERS).map(|user| format!("user-{user}"))
}

fn split(name: &str, weights: &[u32]) -> Shares {
    let names = ["stable", "canary", "third", "fourth", "fifth", "sixth"];
    Shares::new(name, names.into_iter().zip(weights.iter().copied()))
}

/// Arms of all users.
fn arms(split: &Shares, set: Option<Override>) -> Vec<Option<usize>> {
    users().map(|user| split.arm(split.point(user.as_bytes()), set)).collect()
}

fn shares(weights: &[u32]) -> Vec<f64> {
    let total: u32 = weights.iter().sum();
    weights.iter().map(|weight| f64::from(*weight) / f64::from(total)).collect()
}

/// Half of the sum of the differences: the least that must move.
fn distance(before: &[f64], after: &[f64]) -> f64 {
    before.iter().zip(after).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

fn moved(before: &[Option<usize>], after: &[Option<usize>]) -> f64 {
    before.iter().zip(after).filter(|(a, b)| a != b).count() as f64 / f64::from(USERS)
}

#[test]
fn machines_agree_on_these() {
    // Of xxh3-64 itself, for no bytes.
    assert_eq!(twox_hash::XxHash3_64::oneshot(b""), 0x2d06_8005_38d3_94c2);
    assert_eq!(split("checkout", &[]).seed, 0xc959_7d5d_e438_33cc);
    let checkout = split("checkout", &[99, 1]);
    let check = |key: &str, point: u64, arm: usize, of_half: usize| {
        assert_eq!(
            checkout.point(key.as_bytes()),
            Point(point),
            "{key}: {:#x}",
            checkout.point(key.as_bytes()).0
        );
        assert_eq!(checkout.arm(Point(point), None), Some(arm), "{key}");
        let half = Override { arm: 1, share_bp: 5_000 };
        assert_eq!(checkout.arm(Point(point), Some(half)), Some(of_half), "{key}, half");
    };
    // Made by xxHash's own implementation (its Python binding) and a second writing of the rules in the file's head.
    check("user-1", 0x9aa8_e58f_8574_721e, 0, 0);
    check("user-3", 0x39bf_8186_4e0b_7939, 0, 1);
    check("user-126", 0xfc90_9e17_6ee4_348a, 1, 1);
    check("user-244", 0xa70e_5df7_79d0_de03, 1, 1);
    check("192.0.2.1", 0xdf79_32c2_da70_16fc, 0, 0);
    check(&"k".repeat(300), 0xe585_347c_c919_63a6, 0, 0);
}

#[test]
fn a_small_arm_gets_its_part() {
    for (weights, low, high) in
        [([99, 1], 900, 1_100), ([990_000, 10_000], 900, 1_100), ([1, 99], 98_900, 99_100)]
    {
        for name in ["a", "b", "checkout"] {
            let small = arms(&split(name, &weights), None).iter().filter(|arm| **arm == Some(1)).count();
            assert!((low..=high).contains(&small), "{name} {weights:?}: {small}");
        }
    }
}

#[test]
fn parts_are_as_weights() {
    // Chi-square with up to five degrees of freedom: 25.7 is passed once in ten thousand.
    for weights in [vec![1, 1], vec![1, 2, 3], vec![50, 30, 15, 5], vec![1, 0, 1], vec![7, 1, 1, 1, 90, 3]] {
        let split = split("parts", &weights);
        let by_key = arms(&split, None);
        let drawn: Vec<_> = (0..u64::from(USERS))
            .map(|n| split.arm(split.point_or(None, mix(n.wrapping_mul(super::STEP))), None))
            .collect();
        for found in [by_key, drawn] {
            let mut chi_square = 0.0;
            for (arm, share) in shares(&weights).iter().enumerate() {
                let count = found.iter().filter(|a| **a == Some(arm)).count() as f64;
                let expected = share * f64::from(USERS);
                if expected == 0.0 {
                    assert!(count == 0.0, "{weights:?}: arm {arm} weighs nothing");
                } else {
                    chi_square += (count - expected).powi(2) / expected;
                }
            }
            assert!(chi_square < 25.7, "{weights:?}: {chi_square}");
        }
    }
}

#[test]
fn nothing_takes_nothing() {
    let point = Point(7);
    let check = |weights: &[u32], set: Option<(usize, u32)>, arm: Option<usize>| {
        let set = set.map(|(arm, share_bp)| Override { arm, share_bp });
        assert_eq!(split("none", weights).arm(point, set), arm, "{weights:?} {set:?}");
    };
    check(&[], None, None);
    check(&[0], None, None);
    check(&[0, 0, 0], None, None);
    check(&[0, 1], None, Some(1));
    check(&[0, 1], Some((1, 0)), None);
    check(&[0, 0], Some((1, 1)), Some(1));
    check(&[0, 0], Some((1, 10_000)), Some(1));
    check(&[0, 0], Some((0, 0)), None);
    check(&[1, 0], Some((1, 10_000)), Some(1));
    check(&[1, 0], Some((1, 50_000)), Some(1));
    check(&[1, 1], Some((1, 0)), Some(0));
    check(&[1, 0], Some((9, 10_000)), Some(0));
    check(&[], Some((0, 10_000)), None);
}

#[test]
fn an_empty_key_is_none() {
    let split = split("empty", &[1, 1]);
    assert_eq!(split.point_or(Some(b""), 9), Point(9));
    assert_eq!(split.point_or(None, 9), Point(9));
    assert_eq!(split.point_or(Some(b"k"), 9), split.point(b"k"));
}

#[test]
fn who_is_on_the_small_arm_stays_there() {
    let steps: Vec<_> =
        [100, 500, 501, 2_500, 5_000, 9_999].map(|share_bp| Some(Override { arm: 1, share_bp })).to_vec();
    let split = split("grow", &[70, 1, 20, 10]);
    for pair in steps.windows(2) {
        let (before, after) = (arms(&split, pair[0]), arms(&split, pair[1]));
        for (user, (a, b)) in before.iter().zip(&after).enumerate() {
            assert!(a == b || *b == Some(1), "user {user} went from {a:?} to {b:?} at {pair:?}");
        }
    }
}

#[test]
fn an_override_leaves_the_rest_by_weight() {
    let split = split("override", &[60, 999, 30, 10]);
    for share_bp in [0, 1, 100, 2_500, 9_900] {
        let found = arms(&split, Some(Override { arm: 1, share_bp }));
        let own = f64::from(share_bp) / 10_000.0;
        for (arm, share) in
            [0.6 * (1.0 - own), own, 0.3 * (1.0 - own), 0.1 * (1.0 - own)].into_iter().enumerate()
        {
            let count = found.iter().filter(|a| **a == Some(arm)).count() as f64;
            let expected = share * f64::from(USERS);
            // Four and a half standard deviations.
            assert!(
                (count - expected).abs() <= 4.5 * expected.sqrt(),
                "{share_bp}: arm {arm}: {count} of {expected}"
            );
        }
    }
}

#[test]
fn splits_know_nothing_of_each_other() {
    // Of two independent halvings each of four combinations is a quarter: chi-square, one degree of freedom, 15.1 is
    // passed once in ten thousand. Names that differ in one bit, and in nothing but their length.
    for (one, other) in [("checkout", "search"), ("a", "b"), ("a", "aa"), ("route-1", "route-2"), ("", "x")] {
        for weights in [[1, 1], [9, 1]] {
            let (a, b) = (arms(&split(one, &weights), None), arms(&split(other, &weights), None));
            let share = shares(&weights);
            let mut chi_square = 0.0;
            for i in 0..2 {
                for j in 0..2 {
                    let both = a.iter().zip(&b).filter(|(x, y)| **x == Some(i) && **y == Some(j)).count();
                    let expected = share[i] * share[j] * f64::from(USERS);
                    chi_square += (both as f64 - expected).powi(2) / expected;
                }
            }
            // With fixed marginals three degrees of freedom: 21.1.
            assert!(chi_square < 21.1, "{one} and {other}, {weights:?}: {chi_square}");
        }
    }
}

#[test]
fn the_order_of_arms_means_nothing() {
    let one = Shares::new("order", [("a", 5), ("b", 3), ("zero", 0), ("c", 2)]);
    let other = Shares::new("order", [("c", 2), ("a", 5), ("b", 3)]);
    let (names, others) = (["a", "b", "zero", "c"], ["c", "a", "b"]);
    for user in users().take(10_000) {
        let name = one.arm(one.point(user.as_bytes()), None).map(|arm| names[arm]);
        assert_eq!(name, other.arm(other.point(user.as_bytes()), None).map(|arm| others[arm]), "{user}");
    }
}

#[test]
fn a_name_that_is_there_twice_is_two_arms() {
    let twice = Shares::new("twice", [("a", 1), ("a", 1), ("a", 2)]);
    let found = arms(&twice, None);
    let count = |arm| found.iter().filter(|a| **a == Some(arm)).count();
    assert!((24_000..26_000).contains(&count(0)) && (24_000..26_000).contains(&count(1)), "{}", count(0));
    assert!((49_000..51_000).contains(&count(2)), "{}", count(2));
}

#[test]
fn more_arms_than_the_bound_are_left_out() {
    let names: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    assert_eq!(Shares::new("many", names.iter().map(|name| (name.as_str(), 1))).len(), super::SPLIT_ARMS_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Two arms: exactly what must. Many: below 2d / (1 + d). One arm's part: exactly what must, whatever the number.
    #[test]
    fn as_few_move_as_must(
        before in prop::collection::vec(0_u32..100, 2..=6),
        after in prop::collection::vec(0_u32..100, 6),
        one in 1_u32..1_000,
    ) {
        let after = &after[..before.len()];
        prop_assume!(before.iter().sum::<u32>() > 0 && after.iter().sum::<u32>() > 0);
        // Half a per cent is more than four standard deviations of what moves by chance.
        let spare = 0.007;
        let from = arms(&split("move", &before), None);
        let share = moved(&from, &arms(&split("move", after), None));
        let must = distance(&shares(&before), &shares(after));
        prop_assert!(share >= must - spare, "{share} of at least {must}");
        let bound = if before.len() == 2 { must } else { 2.0 * must / (1.0 + must) };
        prop_assert!(share <= bound + spare, "{share}, must {must}, bound {bound}");

        let mut single = before.clone();
        single[1] = one;
        prop_assume!(single.iter().sum::<u32>() > 0);
        let share = moved(&from, &arms(&split("move", &single), None));
        let must = distance(&shares(&before), &shares(&single));
        prop_assert!((share - must).abs() <= spare, "one arm: {share}, must {must}");
    }
}
