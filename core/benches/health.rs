//! What the health of endpoints costs an exchange: a look at each candidate, a ticket, an outcome.

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::net::connect::Address;
use ringway::policy::health::{Cause, Ejection, Event, Verdict, Word, next};
use ringway::policy::outlier::{self, Interval, Latency, Outcome, Watch};
use ringway::proxy::standing::{Observer, Settings, Standings};

fn observer() -> Observer {
    let address = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 80)));
    Observer::new(Standings::default().of(&"api".into(), &address, Verdict::Healthy, 1))
}

fn reading(c: &mut Criterion) {
    let observer = observer();
    let standing = observer.standing();
    c.bench_function("standing: is it usable", |b| b.iter(|| black_box(standing).word().is_usable()));
    c.bench_function("standing: since when", |b| b.iter(|| black_box(standing).word().healthy_since_ms()));
    c.bench_function("observer: admission", |b| b.iter(|| black_box(&observer).admission()));
}

fn observing(c: &mut Criterion) {
    let settings = outlier::Settings::default();
    let mut watch = Watch::default();
    c.bench_function("watch: a success", |b| {
        b.iter(|| watch.observe(black_box(Outcome::Success), black_box(250), &settings));
    });
    c.bench_function("watch: a failure", |b| {
        b.iter(|| watch.observe(black_box(Outcome::ServerError), black_box(250), &settings));
    });
    let (observer, settings) = (observer(), Settings::default());
    c.bench_function("observer: begin and finish an attempt", |b| {
        b.iter(|| {
            let ticket = observer.begin();
            observer.finish(ticket, black_box(Outcome::Success), black_box(250), &settings, 7, || 7)
        });
    });
}

fn deciding(c: &mut Criterion) {
    let (word, ejection) = (Word::new(Verdict::Healthy, 1), Ejection::default());
    let event = Event::Eject { cause: Cause::Latency, draw: 7 };
    c.bench_function("health: a transition", |b| {
        b.iter(|| next(black_box(word), black_box(event), &ejection, black_box(99)));
    });
    let settings = outlier::Settings { latency: Some(Latency::default()), ..outlier::Settings::default() };
    let intervals: Vec<Interval> = (0..1_000)
        .map(|n| Interval { successes: 900 + n % 7, failures: n % 5, latency_us: u64::from(400 + n % 90) })
        .collect();
    c.bench_function("outlier: compare 1,000 endpoints", |b| {
        b.iter(|| outlier::compare(&settings, black_box(&intervals)));
    });
}

criterion_group!(benches, reading, observing, deciding);
criterion_main!(benches);
