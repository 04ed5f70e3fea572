//! What the generator does for each response, apart from the kernel's part.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway_bench::{
    http1::{BodyExpected, Progress, ResponseReader, parse_response_head},
    load::{Arrivals, schedule::Schedule, stats},
};

const HEAD: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Mon, 23 Nov 2026 04:00:00 GMT\r\n\
                    Content-Type: text/plain\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\r\n";

fn response_head(c: &mut Criterion) {
    let mut group = c.benchmark_group("response head");
    group.bench_function("parsed", |b| {
        b.iter(|| parse_response_head(black_box(HEAD.as_bytes()), BodyExpected::AsFramed));
    });
    let wire = [HEAD.as_bytes(), &[b'x'; 1024]].concat();
    let mut reader = ResponseReader::new(BodyExpected::AsFramed);
    group.bench_function("with 1 KiB, repeated", |b| {
        b.iter(|| {
            reader.start(BodyExpected::AsFramed);
            let progress = reader.feed(black_box(&wire), |_| ());
            assert_eq!(progress, Ok(Progress::Complete { consumed: wire.len() }));
        });
    });
    group.finish();
}

fn chunked_body(c: &mut Criterion) {
    let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..16 {
        wire.extend_from_slice(b"400\r\n");
        wire.extend_from_slice(&[b'x'; 1024]);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    let mut group = c.benchmark_group("chunked body");
    group.throughput(Throughput::Bytes(16 * 1024));
    let mut reader = ResponseReader::new(BodyExpected::AsFramed);
    group.bench_function("16 x 1 KiB", |b| {
        b.iter(|| {
            reader.start(BodyExpected::AsFramed);
            let progress = reader.feed(black_box(&wire), |_| ());
            assert_eq!(progress, Ok(Progress::Complete { consumed: wire.len() }));
        });
    });
    group.finish();
}

fn bookkeeping(c: &mut Criterion) {
    let mut histogram = stats::histogram();
    let mut nanos = 0_u64;
    c.bench_function("histogram record", |b| {
        b.iter(|| {
            nanos = (nanos + 7_919) % 10_000_000;
            histogram.saturating_record(black_box(nanos));
        });
    });
    for (name, arrivals) in [("constant", Arrivals::Constant), ("poisson", Arrivals::Poisson)] {
        let mut schedule = Schedule::new(arrivals, 10_000.0, 0.0, 1);
        c.bench_function(&format!("arrival, {name}"), |b| b.iter(|| schedule.take_due(black_box(u64::MAX))));
    }
}

criterion_group!(benches, response_head, chunked_body, bookkeeping);
criterion_main!(benches);
