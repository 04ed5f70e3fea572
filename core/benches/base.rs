//! What every exchange pays besides HTTP: buffers, deadlines, counters.

use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::base::bucket::{Bucket, Rate};
use ringway::base::buffer::{BufferPool, Purpose};
use ringway::base::deadline::Deadlines;
use ringway::base::kept::KeptAccount;
use ringway::telemetry::metrics::{Counter, Metrics};

fn buffers(c: &mut Criterion) {
    let pool = BufferPool::new(1 << 30, &KeptAccount::new(1 << 30));
    let share = pool.share(None);
    let mut cx = Context::from_waker(Waker::noop());
    c.bench_function("buffer: take for a request and give back", |b| {
        b.iter(|| match pin!(share.take(Purpose::Request)).poll(&mut cx) {
            Poll::Ready(buffer) => drop(black_box(buffer)),
            Poll::Pending => unreachable!("the pool is not at its ceiling"),
        });
    });
}

fn buckets(c: &mut Criterion) {
    let rate = Rate { per_second: 1_000, burst: 100 };
    let mut bucket = Bucket::full(rate, 0);
    let mut now_ns = 0;
    c.bench_function("bucket: take one token", |b| {
        b.iter(|| {
            now_ns += 700_000;
            bucket.take(rate, black_box(1), black_box(now_ns))
        });
    });
}

fn deadlines(c: &mut Criterion) {
    let table = Deadlines::new();
    let held: Vec<_> = (0..10_000).map(|_| table.deadline()).collect();
    for deadline in &held {
        deadline.arm(1, Duration::from_secs(3_600));
    }
    c.bench_function("deadline: arm", |b| b.iter(|| held[17].arm(black_box(5), Duration::from_secs(60))));
    c.bench_function("deadline: sweep of 10,000", |b| b.iter(|| table.sweep(black_box(7))));
}

fn metrics(c: &mut Criterion) {
    let metrics = Metrics::new();
    c.bench_function("metrics: count", |b| b.iter(|| metrics.count(black_box(Counter::UpstreamReused))));
    let mut us = 100;
    c.bench_function("metrics: record a finished exchange", |b| {
        b.iter(|| {
            us = us * 7 % 100_003;
            metrics.finished(200, black_box(us));
        });
    });
}

criterion_group!(benches, buffers, buckets, deadlines, metrics);
criterion_main!(benches);
