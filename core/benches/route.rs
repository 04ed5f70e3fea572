//! What it costs to find a request's route, by the number of routes and by how they differ; to make the table; to keep
//! it in memory; and to load a configuration.
//!
//!     cargo bench -p ringway --bench route
//!
//! Each lookup takes the next of 1,024 requests spread over the table, so that at the larger sizes the table does
//! not sit in the nearest cache as it would for a single repeated request. Lines that start with `memory` count the
//! live bytes of a table after every route was found by two threads, and are printed while benches are set up; a lookup
//! that allocates fails the bench.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use criterion::{Bencher, BenchmarkId, Criterion, criterion_group, criterion_main};
use ringway::policy::route::{
    HostPattern, PathPattern, RequestView, RouteKey, RouteRule, RouteTable, Template, WholeRegex,
};
use rustix::time::{ClockId, clock_gettime};

/// Counts what is alive and how often memory was asked for.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// WHY: nothing safe tells what a table holds, its regexes' caches included.
// SAFETY: every call goes to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct NoHeaders;

impl RequestView for NoHeaders {
    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }

    fn values(&self, _: &str) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }
}

/// How the routes differ from one another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A host each, any path.
    Hosts,
    /// One host, a prefix of two segments each.
    Prefixes,
    /// A hundred routes a host; half of the hosts wildcards, prefixes and exact paths by turns.
    Mixed,
    /// As `Prefixes`, and no request matches: the path is known but for its last segment.
    Miss,
    /// One host; a tenth regexes whose first two segments are literal and their own, half of the others exact, half
    /// prefixes.
    Regexes,
    /// As `Regexes`, but the regexes share all that is literal before their first variable part.
    SharedPrefix,
    /// As `Regexes`, but half of the prefixes, and all exact paths, are templates.
    Templates,
    /// As `Regexes`, but the regexes start with nothing literal: they can be told apart only by what is inside.
    InnerLiteral,
    /// Only such regexes: the worst case.
    OnlyRegexes,
}

const SHAPES: [(&str, Shape, &[usize]); 9] = [
    ("hosts", Shape::Hosts, &[100, 10_000, 100_000]),
    ("prefixes", Shape::Prefixes, &[100, 1_000, 10_000, 100_000]),
    ("mixed", Shape::Mixed, &[100, 10_000]),
    ("miss", Shape::Miss, &[100, 10_000]),
    ("10% regexes", Shape::Regexes, &[100, 1_000, 10_000]),
    ("10% regexes of one prefix", Shape::SharedPrefix, &[100, 1_000, 10_000]),
    ("templates and 10% regexes", Shape::Templates, &[100, 1_000, 10_000]),
    ("10% regexes without prefix", Shape::InnerLiteral, &[100, 1_000, 10_000]),
    ("regexes without prefix", Shape::OnlyRegexes, &[100, 1_000]),
];

fn rule(shape: Shape, n: usize) -> RouteRule {
    let exact = |name: String| vec![HostPattern::Exact(name.into())];
    let regex = |pattern: String| {
        PathPattern::Regex(WholeRegex::compile(&pattern).expect("the pattern is a sound one"))
    };
    let template =
        |text: String| PathPattern::Template(Template::parse(&text).expect("the template is a sound one"));
    let api = || exact("api.example.com".to_owned());
    let (hosts, path) = match shape {
        Shape::Hosts => (exact(format!("tenant-{n}.example.com")), PathPattern::Any),
        Shape::Prefixes => (api(), PathPattern::Prefix(format!("/v1/service-{n}").into())),
        Shape::Miss => (api(), PathPattern::Prefix(format!("/v1/service/{n}").into())),
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
        Shape::OnlyRegexes => (api(), regex(format!(".*/service-{n}/items/[0-9]+"))),
        Shape::InnerLiteral if n.is_multiple_of(10) => (api(), regex(format!(".*/service-{n}/items/[0-9]+"))),
        Shape::SharedPrefix if n.is_multiple_of(10) => {
            (api(), regex(format!("/v[0-9]+/service-{n}/items/.*")))
        }
        Shape::Regexes | Shape::Templates if n.is_multiple_of(10) => {
            (api(), regex(format!("/v1/service-{n}/items/[0-9]+")))
        }
        Shape::Templates if n % 4 != 1 => (api(), template(format!("/v1/service-{n}/{{kind}}/{{id}}"))),
        Shape::Templates => (api(), template(format!("/{{version}}/service-{n}/{{rest=**}}"))),
        Shape::Regexes | Shape::SharedPrefix | Shape::InnerLiteral if n.is_multiple_of(2) => {
            (api(), PathPattern::Exact(format!("/v1/service-{n}/items/12345").into()))
        }
        Shape::Regexes | Shape::SharedPrefix | Shape::InnerLiteral => {
            (api(), PathPattern::Prefix(format!("/v1/service-{n}").into()))
        }
    };
    RouteRule { hosts, path, ..RouteRule::default() }
}

fn rules(shape: Shape, size: usize) -> Vec<RouteRule> {
    (0..size).map(|n| rule(shape, n)).collect()
}

/// Host and path of a request for route `n`.
fn request(shape: Shape, n: usize) -> (String, String) {
    match shape {
        Shape::Hosts => (format!("tenant-{n}.example.com:8080"), "/some/path/of/a/page.html".to_owned()),
        Shape::Miss => ("api.example.com".to_owned(), "/v1/service/none/items".to_owned()),
        Shape::Mixed => {
            let group = n / 100;
            let label = if group.is_multiple_of(2) { "" } else { "www." };
            (format!("{label}tenant-{group}.example.com"), format!("/api/v2/service-{n}/items"))
        }
        _ => ("api.example.com".to_owned(), format!("/v1/service-{n}/items/12345")),
    }
}

fn key<'r>(host: &'r str, path: &'r str) -> RouteKey<'r> {
    RouteKey {
        host: host.as_bytes(),
        path: path.as_bytes(),
        method: b"GET",
        query: None,
        source: None,
        server_name: None,
    }
}

/// What this thread took of its core: on a machine that others use, the clock on the wall tells of them.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let before = now();
    work();
    now().saturating_sub(before)
}

fn find(b: &mut Bencher<'_>, table: &RouteTable, keys: &[RouteKey<'_>]) {
    b.iter_custom(|rounds| {
        cpu_time(|| {
            for key in keys.iter().cycle().take(rounds as usize) {
                black_box(black_box(table).lookup(key, &NoHeaders));
            }
        })
    });
}

/// The table, after two threads have found every route in it.
fn table(name: &str, shape: Shape, size: usize) -> RouteTable {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let table = RouteTable::new(rules(shape, size));
    let made = LIVE_BYTES.load(Ordering::Relaxed) - before;
    let find_all = || {
        for n in 0..size {
            let (host, path) = request(shape, n);
            let expected = (shape != Shape::Miss).then_some(n);
            assert_eq!(table.lookup(&key(&host, &path), &NoHeaders), expected);
        }
    };
    thread::scope(|scope| [(); 2].map(|()| scope.spawn(find_all)).map(|thread| thread.join().is_ok()));
    let used = LIVE_BYTES.load(Ordering::Relaxed) - before;
    eprintln!(
        "memory {name}/{size}: {} bytes a route when made, {} when used by two threads",
        made / size,
        used / size
    );
    table
}

fn lookup(c: &mut Criterion) {
    for (name, shape, sizes) in SHAPES {
        let mut group = c.benchmark_group(format!("lookup/{name}"));
        group
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .sample_size(20);
        for size in sizes.iter().copied() {
            // Made where it is asked for, so that a filter on names saves the time.
            let mut made = None;
            group.bench_function(BenchmarkId::from_parameter(size), |b| {
                let table = &*made.get_or_insert_with(|| table(name, shape, size));
                let requests: Vec<_> =
                    (0..1_024_usize).map(|i| request(shape, i.wrapping_mul(7_919) % size)).collect();
                let keys: Vec<_> = requests.iter().map(|(host, path)| key(host, path)).collect();
                let allocations = ALLOCATIONS.load(Ordering::Relaxed);
                assert!(
                    keys.iter()
                        .all(|key| { table.lookup(key, &NoHeaders).is_none() == (shape == Shape::Miss) })
                );
                assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), allocations, "a lookup does not allocate");
                find(b, table, &keys);
            });
        }
        group.finish();
    }
}

fn hostile_path(c: &mut Criterion) {
    let table = RouteTable::new(rules(Shape::Prefixes, 10_000));
    let path = "/".repeat(8_000);
    c.bench_function("hostile/8000 slashes", |b| {
        find(b, &table, &[key("api.example.com", &path)]);
    });
    let host = "a.".repeat(120);
    c.bench_function("hostile/120 labels", |b| {
        find(b, &table, &[key(&host, "/")]);
    });
    // Every template with a literal or a variable in each of ten places, but the one that would fit.
    let template = |n: u32| {
        let segment =
            |place: u32| if n >> place & 1 == 0 { "/a".to_owned() } else { format!("/{{v{place}}}") };
        let text: String = (0..10).map(segment).collect();
        let path = PathPattern::Template(Template::parse(&text).expect("the template is a sound one"));
        RouteRule { path, methods: vec![b"PUT"[..].into()], ..RouteRule::default() }
    };
    let table = RouteTable::new((0..1_024).map(template).collect());
    let path = "/a".repeat(10);
    c.bench_function("hostile/1024 templates that all fit but for the method", |b| {
        find(b, &table, &[key("a", &path)]);
    });
}

/// From texts, regexes compiled.
fn make(c: &mut Criterion) {
    let mut group = c.benchmark_group("make");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (name, shape, _) in SHAPES {
        let size = if shape == Shape::OnlyRegexes { 1_000 } else { 10_000 };
        group.bench_function(BenchmarkId::new(name, size), |b| {
            b.iter_custom(|rounds| {
                cpu_time(|| (0..rounds).for_each(|_| drop(black_box(RouteTable::new(rules(shape, size))))))
            });
        });
    }
    group.finish();
}

fn shadows(c: &mut Criterion) {
    let mut group = c.benchmark_group("dead");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (name, shape, _) in SHAPES {
        let size = if shape == Shape::OnlyRegexes { 1_000 } else { 10_000 };
        let rules = rules(shape, size);
        group.bench_function(BenchmarkId::new(name, size), |b| {
            b.iter_custom(|rounds| {
                cpu_time(|| (0..rounds).for_each(|_| drop(black_box(ringway::policy::route::dead(&rules)))))
            });
        });
    }
    group.finish();
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

criterion_group!(benches, lookup, hostile_path, make, shadows, load);
criterion_main!(benches);
