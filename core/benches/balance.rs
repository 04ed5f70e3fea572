//! The choice of an endpoint, with endpoints as the request path keeps them: cells behind `Rc`s.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::policy::balance::ewma::{Ewma, Settings};
use ringway::policy::balance::hash::{Key, MaglevSettings, RingSettings, Shape, Tables, id};
use ringway::policy::balance::slow_start::{self, Curve};
use ringway::policy::balance::sticky::{Cookie, Travel};
use ringway::policy::balance::tiers::{self, Distance, Layout, Member, Tiers};
use ringway::policy::balance::{Candidate, Choice, Rule, State, Weight, Weights};

/// As large as the request path's, so that no two share a cache line.
#[derive(Debug)]
struct Endpoint {
    weight: u32,
    active: Cell<u32>,
    open: Cell<u32>,
    ewma: Cell<Ewma>,
    healthy: Cell<bool>,
    _rest: [Cell<u64>; 32],
}

fn endpoints(len: usize, weight: impl Fn(usize) -> u32) -> Vec<Rc<Endpoint>> {
    let settings = Settings::default();
    let endpoint = |i: usize| {
        let mut ewma = Ewma::default();
        ewma.observe(1_000_000 + i as u64 * 70_000, 1 << 30, &settings);
        Rc::new(Endpoint {
            weight: weight(i),
            active: Cell::new(i as u32 % 5),
            open: Cell::new(3),
            ewma: Cell::new(ewma),
            healthy: Cell::new(true),
            _rest: Default::default(),
        })
    };
    (0..len).map(endpoint).collect()
}

fn layout(endpoints: &[Rc<Endpoint>]) -> Layout {
    let member = |(number, endpoint): (u32, &Rc<Endpoint>)| Member {
        number,
        weight: endpoint.weight,
        priority: 0,
        distance: Distance::Elsewhere,
    };
    Layout::new(&(0..).zip(endpoints).map(member).collect::<Vec<_>>())
}

fn plan(endpoints: &[Rc<Endpoint>]) -> Tiers {
    Tiers::plan(&layout(endpoints), |i| endpoints[i].healthy.get(), tiers::Settings::default())
}

fn draws() -> impl FnMut() -> u64 {
    let mut state = 88_172_645_463_325_252_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn candidate(endpoint: &Endpoint, rule: Rule, now_ns: u64, settings: &Settings) -> Candidate {
    let active = endpoint.active.get();
    Candidate {
        weight: Weight::whole(endpoint.weight),
        active,
        load_ns: if rule == Rule::PeakEwma {
            endpoint.ewma.get().load_ns(active, now_ns, settings)
        } else {
            0
        },
        usable: endpoint.healthy.get() && endpoint.open.get() < 1_000,
    }
}

/// Name, rule, weights.
type Case = (&'static str, Rule, fn(usize) -> u32);

fn rules(c: &mut Criterion) {
    let cases: [Case; 7] = [
        ("round robin", Rule::RoundRobin, |_| 1),
        ("round robin, weights", Rule::RoundRobin, |i| 1 + i as u32 % 3),
        ("least requests", Rule::LeastRequests, |_| 1),
        ("least requests, weights", Rule::LeastRequests, |i| 1 + i as u32 % 3),
        ("peak ewma", Rule::PeakEwma, |_| 1),
        ("random", Rule::Random, |_| 1),
        ("random, weights", Rule::Random, |i| 1 + i as u32 % 3),
    ];
    for (name, rule, weight) in cases {
        for len in [2, 3, 10, 100] {
            let endpoints = endpoints(len, weight);
            let tiers = plan(&endpoints);
            let settings = Settings::default();
            let (mut state, mut draw) = (State::starting_at(draws()()), draws());
            let mut now_ns = 1 << 30;
            c.bench_function(&format!("balance: {name}, {len} endpoints"), |b| {
                b.iter(|| {
                    now_ns += 20_000;
                    let tier = tiers.choose(&mut draw).unwrap();
                    let candidate = |i: usize| candidate(&endpoints[i], rule, now_ns, &settings);
                    state.pick(Choice::new(black_box(rule), tier), candidate, &mut draw)
                });
            });
        }
    }
}

fn hashes(c: &mut Criterion) {
    let shapes = [
        ("maglev", Rule::Maglev, Shape::Maglev(MaglevSettings::default())),
        ("ring hash", Rule::RingHash, Shape::Ring(RingSettings::default())),
    ];
    for (name, rule, shape) in shapes {
        for len in [10, 100] {
            let endpoints = endpoints(len, |_| 1);
            let tiers = plan(&endpoints);
            let tables = Tables::build(&layout(&endpoints), shape, |i| (id(&format!("10.0.0.{i}:80")), 1));
            let keys: Vec<Key> = (0..4_096_u32).map(|n| Key::of(&n.to_le_bytes())).collect();
            let (mut state, mut draw, mut n) = (State::default(), draws(), 0);
            let settings = Settings::default();
            c.bench_function(&format!("balance: {name}, {len} endpoints"), |b| {
                b.iter(|| {
                    n = (n + 1) % keys.len();
                    let tier = tiers.choose(&mut draw).unwrap();
                    let choice = Choice {
                        rule: black_box(rule),
                        tier,
                        weights: Weights::Equal,
                        hashed: Some((&tables, keys[n])),
                    };
                    state.pick(choice, |i| candidate(&endpoints[i], rule, 0, &settings), &mut draw)
                });
            });
            c.bench_function(&format!("balance: build {name}, {len} endpoints"), |b| {
                b.iter(|| Tables::build(&layout(&endpoints), shape, |i| (id(&format!("10.0.0.{i}:80")), 1)));
            });
        }
    }
    c.bench_function("balance: key of 16 bytes", |b| b.iter(|| Key::of(black_box(b"user-00000001234"))));
}

fn pieces(c: &mut Criterion) {
    let settings = Settings::default();
    let mut ewma = Ewma::default();
    let mut now_ns = 1 << 30;
    c.bench_function("balance: ewma, observe", |b| {
        b.iter(|| {
            now_ns += 100_000;
            ewma.observe(black_box(now_ns & 0xf_ffff), now_ns, &settings);
        });
    });
    let curve = Curve::new(slow_start::Settings { window_ms: 60_000, ..slow_start::Settings::default() });
    let mut now_ms = 0;
    c.bench_function("balance: weight in slow start", |b| {
        b.iter(|| {
            now_ms = (now_ms + 7) % 60_000;
            curve.weight(Weight::whole(3), 0, black_box(now_ms))
        });
    });
    let endpoints = endpoints(100, |_| 1);
    let layout = layout(&endpoints);
    endpoints[17].healthy.set(false);
    c.bench_function("balance: plan tiers of 100, one unhealthy", |b| {
        b.iter(|| Tiers::plan(&layout, |i| endpoints[i].healthy.get(), tiers::Settings::default()));
    });
    let cookie = Cookie::new("route", None, Travel::Any).unwrap();
    let field: &[u8] = b"session=0123456789abcdef0123456789abcdef; theme=dark; route=00000000deadbeef";
    c.bench_function("balance: tag in a Cookie field of three", |b| {
        b.iter(|| cookie.tags([black_box(field)].into_iter()).next());
    });
}

criterion_group!(benches, rules, hashes, pieces);
criterion_main!(benches);
