//! Agreement, shares, and what moves when endpoints come and go.

use proptest::prelude::*;

use super::{Key, MaglevSettings, RingSettings, Shape, Share, Table, id, mix};

const RING: Shape = Shape::Ring(RingSettings { entries_min: 1024, entries_max: 1 << 20 });
const MAGLEV: Shape = Shape::Maglev(MaglevSettings { slots: None });

fn shares(numbers: impl Iterator<Item = u32>, weight: impl Fn(u32) -> u32) -> Vec<Share> {
    let share = |number| Share { number, id: id(&format!("10.0.0.{number}:8080")), weight: weight(number) };
    numbers.map(share).collect()
}

fn table(shape: Shape, endpoints: u32) -> Table {
    Table::build(shape, shares(0..endpoints, |_| 1))
}

fn keys(count: u32) -> impl Iterator<Item = Key> {
    (0..count).map(|n| Key::of(&n.to_le_bytes()))
}

fn everyone(_: usize) -> bool {
    true
}

/// If this fails, nodes of this version send keys elsewhere than those of the last one.
#[test]
fn the_same_on_every_node_of_every_version() {
    assert_eq!(id("10.0.0.1:8080"), 13_138_588_514_222_100_497);
    assert_eq!(Key::of(b"alice").0, 5_593_767_425_381_308_080);
    assert_eq!(Key::of(b"alice").draw(), 10_414_350_068_088_366_073);
    for (shape, expected) in
        [(RING, [5, 4, 4, 1, 4, 6, 2, 5, 1, 5, 0, 2]), (MAGLEV, [3, 4, 5, 2, 0, 5, 2, 6, 1, 6, 1, 4])]
    {
        let table = Table::build(shape, shares(0..7, |n| 1 + n % 3));
        let got: Vec<usize> = keys(12).filter_map(|key| table.pick(key, everyone)).collect();
        assert_eq!(got, expected, "{shape:?}");
    }
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    for shape in [RING, MAGLEV] {
        let ascending = Table::build(shape, shares(0..40, |n| 1 + n % 5));
        let descending = Table::build(shape, shares((0..40).rev(), |n| 1 + n % 5));
        for key in keys(10_000) {
            assert_eq!(ascending.pick(key, everyone), descending.pick(key, everyone));
        }
    }
}

/// Endpoints, weights; how far a share may be from its own, in per cent of it.
type Row = (Shape, u32, fn(u32) -> u32, f64);

#[test]
fn shares_follow_weights() {
    let cases: [Row; 5] = [
        (MAGLEV, 10, |_| 1, 1.0),
        (MAGLEV, 80, |_| 1, 1.0),
        (MAGLEV, 10, |n| 1 + n, 3.0),
        (RING, 10, |_| 1, 30.0),
        (Shape::Ring(RingSettings { entries_min: 100_000, entries_max: 1 << 20 }), 10, |n| 1 + n, 8.0),
    ];
    for (shape, endpoints, weight, percent) in cases {
        let table = Table::build(shape, shares(0..endpoints, weight));
        // Keys at even distances measure the table itself, without the noise of random ones.
        let count = 1_000_000_u64;
        let mut got = vec![0_u64; endpoints as usize];
        for n in 0..count {
            got[table.pick(Key(n * (u64::MAX / count)), everyone).unwrap()] += 1;
        }
        let total: u32 = (0..endpoints).map(weight).sum();
        for (number, got) in (0..).zip(got) {
            let expected = count as f64 * f64::from(weight(number)) / f64::from(total);
            let off = 100.0 * (got as f64 - expected).abs() / expected;
            assert!(off <= percent, "{shape:?} of {endpoints}: {number} is off by {off:.1} %");
        }
    }
}

/// Keys of 20,000 that moved though they did not belong to the endpoint that left.
fn moved_by_leaving(shape: Shape, endpoints: u32, leaver: u32) -> (u32, u32) {
    let before = table(shape, endpoints);
    let after = Table::build(shape, shares((0..endpoints).filter(|&n| n != leaver), |_| 1));
    let (mut own, mut others) = (0, 0);
    for key in keys(20_000) {
        let (was, is) = (before.pick(key, everyone).unwrap(), after.pick(key, everyone).unwrap());
        assert_ne!(is, leaver as usize);
        if was == leaver as usize {
            own += 1;
        } else {
            others += u32::from(was != is);
        }
    }
    (own, others)
}

#[test]
fn a_leaver_moves_its_own_keys() {
    // Shape, endpoints, the most others in 10,000.
    for (shape, endpoints, most) in [
        (RING, 2, 0),
        (RING, 10, 0),
        (RING, 50, 0),
        (RING, 400, 0),
        (MAGLEV, 2, 0),
        (MAGLEV, 5, 200),
        (MAGLEV, 10, 200),
        (MAGLEV, 50, 200),
        (MAGLEV, 81, 200),
        (MAGLEV, 80, 200),
        (MAGLEV, 400, 200),
    ] {
        let mut worst = 0;
        for leaver in [0, endpoints / 2, endpoints - 1] {
            let (own, others) = moved_by_leaving(shape, endpoints, leaver);
            let fair = 20_000 / endpoints;
            assert!(own > 0 && own < 2 * fair + 10, "{own} of {endpoints}");
            worst = worst.max(others / 2);
        }
        println!("{shape:?}, {endpoints} endpoints: {worst} of 10,000 keys of others moved");
        assert!(worst <= most, "{shape:?}, one of {endpoints}: {worst} of 10,000 keys of others");
    }
}

#[test]
fn sizes_are_bounded() {
    for (shape, endpoints, entries) in [
        (RING, 0, 0),
        (RING, 1, 1024),
        (RING, 10, 1280),
        (RING, 3_000, 3_000),
        (Shape::Ring(RingSettings { entries_min: 1024, entries_max: 100 }), 10, 80),
        (Shape::Ring(RingSettings { entries_min: 0, entries_max: 0 }), 10, 10),
        (Shape::Ring(RingSettings { entries_min: u32::MAX, entries_max: u32::MAX }), 3, 3 << 18),
        (MAGLEV, 0, 0),
        (MAGLEV, 1, 8_191),
        (MAGLEV, 81, 8_191),
        (MAGLEV, 82, 65_537),
        (MAGLEV, 2_000, 262_139),
        (MAGLEV, 5_000, 1_048_573),
        (Shape::Maglev(MaglevSettings { slots: Some(65_537) }), 3, 65_537),
        (Shape::Maglev(MaglevSettings { slots: Some(u32::MAX) }), 3, 1_048_573),
    ] {
        assert_eq!(table(shape, endpoints).entries(), entries, "{shape:?}, {endpoints}");
    }
}

#[test]
fn keys_of_an_unusable_endpoint_are_spread_over_the_others() {
    for shape in [RING, MAGLEV] {
        let table = table(shape, 10);
        let mut got = [0_u32; 10];
        for key in keys(100_000) {
            let own = table.pick(key, everyone).unwrap();
            let instead = table.pick(key, |i| i != 3).unwrap();
            if own == 3 {
                got[instead] += 1;
            } else {
                assert_eq!(own, instead, "keys of usable endpoints stay");
            }
        }
        let total: u32 = got.iter().sum();
        for (i, &count) in got.iter().enumerate().filter(|(i, _)| *i != 3) {
            assert!(count > total / 30 && count < total / 3, "{shape:?}: {count} of {total} to {i}");
        }
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        (0_u32..3_000, 0_u32..3_000)
            .prop_map(|(entries_min, entries_max)| Shape::Ring(RingSettings { entries_min, entries_max })),
        Just(MAGLEV),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A pure function of table, key and usable set; usable if any is; who is usable keeps its keys.
    #[test]
    fn picks_are_usable_and_repeatable(
        shape in shape(),
        weights in prop::collection::vec(0_u32..=1_000, 1..40),
        usable_bits in prop_oneof![any::<u64>(), Just(0), (0_u32..40).prop_map(|i| 1 << i)],
        seed in any::<u64>(),
    ) {
        let len = weights.len() as u32;
        let weight = |n: u32| weights[n as usize];
        let table = Table::build(shape, shares(0..len, weight));
        let other = Table::build(shape, shares((0..len).rev(), weight));
        let usable = |i: usize| usable_bits >> i & 1 == 1;
        let any = (0..len as usize).any(usable);
        for n in 0..200 {
            let key = Key(mix(seed.wrapping_add(n)));
            let picked = table.pick(key, usable);
            prop_assert_eq!(picked.is_some(), any);
            prop_assert!(picked.is_none_or(usable));
            prop_assert_eq!(picked, other.pick(key, usable));
            let own = table.pick(key, everyone);
            if own.is_some_and(usable) {
                prop_assert_eq!(own, picked);
            }
        }
        prop_assert_eq!(table.pick(Key(0), everyone).is_some(), true);
        prop_assert_eq!(table.pick(Key(u64::MAX), everyone).is_some(), true);
    }

    /// Whoever leaves a ring, of whatever weights, moves only its own keys, as long as the ring's power stays.
    #[test]
    fn rings_lose_exactly_the_leavers_keys(
        weights in prop::collection::vec(1_u32..=1_000, 2..30),
        leaver in any::<prop::sample::Index>(),
    ) {
        let leaver = leaver.index(weights.len());
        let weight = |n: u32| weights[n as usize];
        let len = weights.len() as u32;
        let shape = Shape::Ring(RingSettings { entries_min: 4_096, entries_max: 1 << 20 });
        let before = Table::build(shape, shares(0..len, weight));
        let after = Table::build(shape, shares((0..len).filter(|&n| n as usize != leaver), weight));
        let total: usize = weights.iter().map(|&w| w as usize).sum();
        let power = |entries: usize, total: usize| (entries as f64 / total as f64).log2().round() as i64;
        let same = power(before.entries(), total)
            == power(after.entries(), total - weights[leaver] as usize);
        if same {
            for key in keys(500) {
                let (was, is) = (before.pick(key, everyone).unwrap(), after.pick(key, everyone).unwrap());
                prop_assert!(was == is || was == leaver);
            }
        }
    }
}
