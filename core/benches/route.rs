//! What it costs to find a request's route, by the number of routes and by how they differ; and to load them.
//!
//!     cargo bench -p ringway --bench route
//!
//! Each lookup takes the next of 1,024 requests spread over the table, so that at the larger sizes the table does
//! not sit in the nearest cache as it would for a single repeated request.

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringway::policy::route::{HostPattern, PathPattern, RequestView, RouteKey, RouteRule, RouteTable};

const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];

struct NoHeaders;

impl RequestView for NoHeaders {
    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

/// How the routes differ from one another.
#[derive(Clone, Copy)]
enum Shape {
    /// A host each, any path.
    Hosts,
    /// One host, a prefix of two segments each.
    Prefixes,
    /// A hundred routes a host; half of the hosts wildcards, prefixes and exact paths by turns.
    Mixed,
    /// As `Prefixes`, and no request matches: the path is known but for its last segment.
    Miss,
}

fn rule(shape: Shape, n: usize) -> RouteRule {
    let exact = |name: String| vec![HostPattern::Exact(name.into())];
    let (hosts, path) = match shape {
        Shape::Hosts => (exact(format!("tenant-{n}.example.com")), PathPattern::Any),
        Shape::Prefixes => {
            (exact("api.example.com".to_owned()), PathPattern::Prefix(format!("/v1/service-{n}").into()))
        }
        Shape::Miss => {
            (exact("api.example.com".to_owned()), PathPattern::Prefix(format!("/v1/service/{n}").into()))
        }
        Shape::Mixed => {
            let group = n / 100;
            let host = if group.is_multiple_of(2) {
                HostPattern::Exact(format!("tenant-{group}.example.com").into())
            } else {
                HostPattern::Wildcard(format!(".tenant-{group}.example.com").into())
            };
            let path = if n.is_multiple_of(2) {
                PathPattern::Prefix(format!("/api/v2/service-{n}").into())
            } else {
                PathPattern::Exact(format!("/api/v2/service-{n}/items").into())
            };
            (vec![host], path)
        }
    };
    RouteRule { hosts, path, methods: Vec::new(), headers: Vec::new(), query: Vec::new() }
}

/// Host and path of a request for route `n`.
fn request(shape: Shape, n: usize) -> (String, String) {
    match shape {
        Shape::Hosts => (format!("tenant-{n}.example.com:8080"), "/some/path/of/a/page.html".to_owned()),
        Shape::Prefixes => ("api.example.com".to_owned(), format!("/v1/service-{n}/items/12345")),
        Shape::Miss => ("api.example.com".to_owned(), "/v1/service/none/items".to_owned()),
        Shape::Mixed => {
            let group = n / 100;
            let label = if group.is_multiple_of(2) { "" } else { "www." };
            (format!("{label}tenant-{group}.example.com"), format!("/api/v2/service-{n}/items"))
        }
    }
}

fn lookup(c: &mut Criterion) {
    for (name, shape) in [
        ("hosts", Shape::Hosts),
        ("prefixes", Shape::Prefixes),
        ("mixed", Shape::Mixed),
        ("miss", Shape::Miss),
    ] {
        let mut group = c.benchmark_group(format!("lookup/{name}"));
        for size in SIZES {
            let table = RouteTable::new((0..size).map(|n| rule(shape, n)).collect());
            let requests: Vec<_> =
                (0..1_024_usize).map(|i| request(shape, i.wrapping_mul(7_919) % size)).collect();
            let mut next = 0;
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                b.iter(|| {
                    next = (next + 1) % requests.len();
                    let (host, path) = &requests[next];
                    let key = RouteKey {
                        host: host.as_bytes(),
                        path: path.as_bytes(),
                        method: b"GET",
                        query: None,
                    };
                    let found = black_box(&table).lookup(&key, &NoHeaders);
                    assert_eq!(found.is_none(), matches!(shape, Shape::Miss));
                    found
                });
            });
        }
        group.finish();
    }
}

fn hostile_path(c: &mut Criterion) {
    let table = RouteTable::new((0..10_000).map(|n| rule(Shape::Prefixes, n)).collect());
    let path = "/".repeat(8_000);
    let key = RouteKey { host: b"api.example.com", path: path.as_bytes(), method: b"GET", query: None };
    c.bench_function("lookup/8000 slashes", |b| b.iter(|| black_box(&table).lookup(&key, &NoHeaders)));
    let host = "a.".repeat(120);
    let key = RouteKey { host: host.as_bytes(), path: b"/", method: b"GET", query: None };
    c.bench_function("lookup/120 labels", |b| b.iter(|| black_box(&table).lookup(&key, &NoHeaders)));
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    group.sample_size(10);
    for size in [1_000, 10_000] {
        let mut text = String::from(
            "version: 1\nlisteners: [{ name: a, address: 127.0.0.1:0 }]\nupstreams:\n  - name: u\n    endpoints: [\"http://127.0.0.1:1\"]\nroutes:\n",
        );
        for n in 0..size {
            let tenant = n / 100;
            writeln!(
                text,
                "  - name: route-{n}\n    match:\n      hosts: [tenant-{tenant}.example.com]\n      path: {{ prefix: /api/service-{n} }}\n      headers: [{{ name: x-version, exact: \"2\" }}]\n    request_headers:\n      set: {{ x-route: route-{n} }}\n    upstream: u"
            )
            .expect("writing to a String does not fail");
        }
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| ringway::config::load(text.as_bytes(), "bench", 1).expect("a sound configuration"));
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, hostile_path, load);
criterion_main!(benches);
