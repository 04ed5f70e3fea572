//! What a limit costs a request: with tokens at hand, refused, asked of the node, among ten million keys, contended.
//! `RINGWAY_KEYS` (10,000,000) says how many keys "many" is.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::net::memory;
use ringway::policy::rate_limit::in_flight::Gate;
use ringway::policy::rate_limit::{Check, InFlight, KeyHash, KeyHasher, Node, Rate, Rule, Worker};

const HASHER: [u64; 2] = [0x1234_5678, 0x9abc_def0];

fn rule(name: &str, per_second: u32, burst: u32) -> Rule {
    let rate = Rate::new(per_second, Duration::from_secs(1), burst).expect("a rate");
    Rule::new(name, &KeyHasher::new(HASHER), rate, Vec::new())
}

fn key(rule: &Rule, i: u64) -> KeyHash {
    KeyHasher::new(HASHER).key(rule.id, &[&u128::from(i).to_le_bytes()])
}

fn check(rule: &Rule, hash: KeyHash) -> [Check<'_>; 1] {
    [Check { rule, key: hash, cost: 1 }]
}

fn warm(c: &mut Criterion) {
    let hasher = KeyHasher::new(HASHER);
    let wide = rule("wide", 2_500_000, 2_500_000);
    c.bench_function("limit: hash an address", |b| {
        b.iter(|| hasher.key(black_box(wide.id), &[black_box(&[7_u8; 16])]));
    });
    let node = Arc::new(Node::new(2, 1_000));
    for (name, rule, step_ns) in [
        ("limit: warm key, tokens at hand", &wide, 1_000),
        ("limit: warm key, each token from the node", &rule("narrow", 2_500_000, 100), 1_000),
        ("limit: warm key, refused", &rule("slow", 1, 1), 1),
    ] {
        let mut worker = Worker::new(Arc::clone(&node), 8_192);
        let checks = check(rule, key(rule, 1));
        let mut now = 1_000_000_000;
        c.bench_function(name, |b| {
            b.iter(|| {
                now += step_ns;
                worker.check(black_box(&checks), black_box(now)).verdict
            });
        });
    }
    let mut worker = Worker::new(node, 8_192);
    let rules = [wide, rule("b", 2_500_000, 2_500_000), rule("c", 2_500_000, 2_500_000)];
    let checks = [0, 1, 2].map(|i| check(&rules[i], key(&rules[i], 1))[0]);
    let mut now = 1_000_000_000;
    c.bench_function("limit: three warm limits", |b| {
        b.iter(|| {
            now += 1_000;
            worker.check(black_box(&checks), black_box(now)).verdict
        });
    });
}

fn many(c: &mut Criterion) {
    let keys: u64 = std::env::var("RINGWAY_KEYS").map_or(10_000_000, |n| n.parse().expect("a number"));
    let node = Arc::new(Node::within(2, keys as usize * 2, memory::zeroed));
    let mut worker = Worker::new(Arc::clone(&node), 8_192);
    let rule = rule("many", 1_000, 100);
    let mut now = 1_000_000_000;
    // All in use: none is full again while this runs.
    let slow = Rate::new(1, Duration::from_secs(86_400), 100).expect("a rate");
    let rule = Rule { rate: slow, ..rule };
    for i in 0..keys {
        worker.check(&check(&rule, key(&rule, i)), now);
    }
    println!(
        "{} keys in use, {} bytes ({:.1} each); a worker's cache {} bytes",
        node.keys_in_use(now),
        node.bytes(),
        node.bytes() as f64 / keys as f64,
        worker.bytes()
    );
    // Hashes beforehand, in an order that caches can't guess.
    let order: Vec<_> = (0..1_u64 << 20)
        .map(|i| {
            key(&rule, ((u128::from(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)) * u128::from(keys)) >> 64) as u64)
        })
        .collect();
    let mut at = 0;
    c.bench_function("limit: one of many keys", |b| {
        b.iter(|| {
            at = (at + 1) & (order.len() - 1);
            now += 1_000;
            worker.check(black_box(&check(&rule, order[at])), now).verdict
        });
    });
    let mut fresh = keys;
    c.bench_function("limit: a new key among many", |b| {
        b.iter(|| {
            fresh += 1;
            now += 1_000;
            worker.check(black_box(&check(&rule, key(&rule, fresh))), now).verdict
        });
    });
}

fn contended(c: &mut Criterion) {
    for (name, burst) in [
        ("limit: two threads on one key, each token from the node", 100),
        ("limit: two threads on one key, leased", 2_500_000),
    ] {
        let rule = rule("hot", 2_500_000, burst);
        let node = Arc::new(Node::new(2, 1_000));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut worker = Worker::new(Arc::clone(&node), 8_192);
                let mut now = 1_000_000_000;
                while !stop.load(Relaxed) {
                    now += 1_000;
                    black_box(worker.check(&check(&rule, key(&rule, 1)), now).verdict);
                }
            });
            let mut worker = Worker::new(Arc::clone(&node), 8_192);
            let checks = check(&rule, key(&rule, 1));
            let mut now = 1_000_000_000;
            c.bench_function(name, |b| {
                b.iter(|| {
                    now += 1_000;
                    worker.check(black_box(&checks), now).verdict
                });
            });
            stop.store(true, Relaxed);
        });
    }
}

fn in_flight(c: &mut Criterion) {
    let gate = Gate::new(Arc::new(InFlight::new(1_000)));
    let rule = rule("f", 1, 1);
    let hash = key(&rule, 1);
    let _held = gate.enter(hash, 10).expect("a permit");
    c.bench_function("in flight: enter and leave", |b| {
        b.iter(|| drop(black_box(gate.enter(black_box(hash), 10))));
    });
}

criterion_group!(benches, warm, contended, in_flight, many);
criterion_main!(benches);
