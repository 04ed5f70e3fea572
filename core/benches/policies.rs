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

criterion_group!(benches, breakers, retries, limits, deadlines);
criterion_main!(benches);
