//! What the policies about failure and load cost a request: breaker, retry budget, concurrency limit, shedding.
//!
//!     cargo bench -p ringway --bench policies

use std::hint::black_box;
use std::num::NonZeroU64;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::http::message::Method;
use ringway::policy::breaker::{self, Breaker};
use ringway::policy::concurrency::{self, Limiter};
use ringway::policy::deadline::{Asked, Deadline, push_field};
use ringway::policy::retry::{
    Attempt, Body, Budget, BudgetSettings, Conditions, Failure, Response, Settings, decide,
};
use ringway::policy::shed::{self, Class, Load};
use ringway::policy::split::canary::{self, ArmCells, Decider, Tally};
use ringway::policy::split::{Override, Point, Shares};

fn breakers(c: &mut Criterion) {
    let mut breaker = Breaker::new(breaker::Settings::DEFAULT, 0);
    // A hundred requests a millisecond, so that buckets are turned as often as in a busy worker.
    let mut requests = 0_u64;
    c.bench_function("breaker: admit and record, admitting", |b| {
        b.iter(|| {
            requests += 1;
            let now_ms = requests / 100;
            if let Ok(permit) = breaker.admit(black_box(now_ms)) {
                breaker.record(permit, black_box(breaker::Outcome::Success), black_box(7), now_ms);
            }
        });
    });
    let mut breaker = Breaker::new(breaker::Settings { requests_min: 1, ..breaker::Settings::DEFAULT }, 0);
    if let Ok(permit) = breaker.admit(0) {
        breaker.record(permit, breaker::Outcome::Error, 7, 0);
    }
    c.bench_function("breaker: reject", |b| b.iter(|| breaker.admit(black_box(1)).is_err()));
}

fn retries(c: &mut Criterion) {
    let mut budget = Budget::new(BudgetSettings::DEFAULT, 0);
    let mut requests = 0_u64;
    c.bench_function("retry: deposit", |b| {
        b.iter(|| {
            requests += 1;
            budget.deposit(black_box(requests / 100));
        });
    });
    let attempt = Attempt {
        method: Method::Get,
        body: Body::Replayable,
        response: Response::NotStarted,
        number: 1,
        free: 0,
        arrived_as: 1,
        deadline_ms: Some(u64::MAX),
        retry_after_ms: None,
    };
    let settings = Settings { conditions: Conditions::GATEWAY_ERROR, ..Settings::DEFAULT };
    c.bench_function("retry: decide, sent again", |b| {
        b.iter(|| {
            requests += 1;
            let now_ms = requests / 100;
            for _ in 0..5 {
                budget.deposit(now_ms);
            }
            let verdict = decide(
                &settings,
                &mut budget,
                black_box(Failure::Status(503)),
                black_box(&attempt),
                now_ms,
                requests,
            );
            budget.ended();
            verdict
        });
    });
    c.bench_function("retry: decide, not configured", |b| {
        b.iter(|| {
            let failure = black_box(Failure::Status(500));
            decide(&settings, &mut budget, failure, black_box(&attempt), 0, 0)
        });
    });
}

fn limits(c: &mut Criterion) {
    let mut limiter = Limiter::new(concurrency::Settings::DEFAULT, 0);
    let mut requests = 0_u64;
    c.bench_function("concurrency: acquire and sample", |b| {
        b.iter(|| {
            requests += 1;
            let acquired = limiter.try_acquire(black_box(12)).is_ok();
            let latency_us = 900 + requests % 200;
            limiter.sample(black_box(latency_us), 12, concurrency::Outcome::Answered, requests / 100);
            acquired
        });
    });
    let load = Load { in_flight: 700, in_flight_max: 1_000, memory_used: 1 << 28, memory_max: 1 << 30 };
    c.bench_function("shed: admit", |b| {
        b.iter(|| shed::decide(black_box(&shed::Settings::DEFAULT), black_box(Class::Low), black_box(&load)));
    });
}

fn deadlines(c: &mut Criterion) {
    let route = Some(Duration::from_secs(15));
    c.bench_function("deadline: from two fields", |b| {
        b.iter(|| {
            let field = Asked::from_field(black_box([&b"12500"[..]]));
            Deadline::new(route, Asked::from_grpc(black_box(Some(b"10S"))), field, black_box(17)).left(20)
        });
    });
    let mut out = Vec::with_capacity(16);
    c.bench_function("deadline: render", |b| {
        b.iter(|| {
            out.clear();
            push_field(black_box(NonZeroU64::MIN.saturating_add(9_876)), &mut out);
            out.len()
        });
    });
}

fn splits(c: &mut Criterion) {
    let split = |arms: usize| {
        let names = ["stable", "canary", "third", "fourth", "fifth"];
        Shares::new("checkout", names.into_iter().zip([90, 10, 5, 3, 2]).take(arms))
    };
    let two = split(2);
    c.bench_function("split: point of a key of 16 bytes", |b| {
        b.iter(|| two.point(black_box(b"user-0123456789a")));
    });
    let mut draw = 0_u64;
    let mut next = move || {
        draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Point::drawn(draw)
    };
    for arms in [2, 3, 5] {
        let split = split(arms);
        c.bench_function(&format!("split: arm of {arms}"), |b| b.iter(|| split.arm(black_box(next()), None)));
    }
    let set = Some(Override { arm: 1, share_bp: 500 });
    c.bench_function("split: arm of 2, share set", |b| b.iter(|| two.arm(black_box(next()), black_box(set))));
}

fn canaries(c: &mut Criterion) {
    let cells = ArmCells::default();
    let mut requests = 0_u64;
    c.bench_function("canary: record", |b| {
        b.iter(|| {
            requests += 1;
            cells.record(black_box(canary::Outcome::Success), black_box(900 + requests % 20_000));
        });
    });
    c.bench_function("canary: read the cells", |b| b.iter(|| cells.read()));
    // Never promoted, so that each call looks at grown windows.
    let settings = canary::Settings { interval_ms: u64::MAX, ..canary::Settings::default() };
    let mut decider = Decider::new(settings, None);
    let (mut baseline, mut canary, mut now_ms) = (Tally::default(), Tally::default(), 0);
    c.bench_function("canary: a tick", |b| {
        b.iter(|| {
            for request in 0..10 {
                baseline.record(canary::Outcome::Success, 5_000 + request * 1_000);
                canary.record(canary::Outcome::Success, 5_000 + request * 1_000);
            }
            now_ms += 1_000;
            decider.tick(now_ms, &baseline, &canary)
        });
    });
}

criterion_group!(benches, breakers, retries, limits, deadlines, splits, canaries);
criterion_main!(benches);
