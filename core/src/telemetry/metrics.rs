//! Counters, gauges and histograms of one worker, and their sum in Prometheus' text format.
//!
//! A worker counts in plain cells that no other core reads: one add, no atomic. On a scrape the control thread asks
//! each worker for a [`Sample`] through its mailbox and adds them up.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use hdrhistogram::Histogram;

use crate::base::reason::ReasonCode;

/// Highest latency that a histogram tells apart: ten minutes, in µs. Longer ones count as this.
const LATENCY_US_MAX: u64 = 600 * 1_000_000;

/// Upper bounds of the exported buckets, in µs.
const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000, 60_000_000,
];

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident => $metric:literal,)*) => {
        /// Everything that only rises. One word each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $($(#[doc = $help])+ $name,)* }

        impl Counter {
            const ALL: &[(Counter, &'static str, &'static str)] = &[$((Counter::$name, $metric, concat!($($help),+)),)*];
            const COUNT: usize = Self::ALL.len();
        }
    };
}

counters! {
    /// Downstream connections accepted.
    Accepted => "ringway_downstream_connections_total",
    /// Accepted connections that were handed to a less loaded worker.
    HandedOver => "ringway_downstream_handed_over_total",
    /// Connections refused because their listener or worker was full.
    ConnectionsRefused => "ringway_downstream_connections_refused_total",
    /// Accepts that failed because descriptors or memory ran out.
    AcceptErrors => "ringway_accept_errors_total",
    /// Downstream connections that spoke HTTP/2.
    Http2Connections => "ringway_downstream_http2_connections_total",
    /// Requests that came over HTTP/2.
    Http2Streams => "ringway_downstream_http2_streams_total",
    /// Bytes of request bodies forwarded.
    RequestBodyBytes => "ringway_request_body_bytes_total",
    /// Bytes of response bodies forwarded.
    ResponseBodyBytes => "ringway_response_body_bytes_total",
    /// Bytes that were moved by splice(2), in either direction.
    SplicedBytes => "ringway_spliced_bytes_total",
    /// Upstream connections opened.
    UpstreamConnects => "ringway_upstream_connects_total",
    /// Upstream connections that could not be opened.
    UpstreamConnectErrors => "ringway_upstream_connect_errors_total",
    /// TLS handshakes with clients that failed. Their reasons are among the refusals.
    HandshakesFailed => "ringway_tls_handshakes_failed_total",
    /// Requests sent on a reused upstream connection.
    UpstreamReused => "ringway_upstream_reused_total",
    /// Idle upstream connections found closed by the origin.
    UpstreamStale => "ringway_upstream_stale_total",
    /// Upstream connections closed because their origin sent bytes that no request had asked for.
    UpstreamUnsolicited => "ringway_upstream_unsolicited_total",
    /// Upstream connections opened that carry many requests at once (HTTP/2).
    UpstreamHttp2Connects => "ringway_upstream_http2_connects_total",
    /// Requests sent again.
    Retries => "ringway_retries_total",
    /// Requests sent a second time beside a slow first.
    Hedges => "ringway_hedges_total",
    /// Of these, those whose second answer came first.
    HedgesWon => "ringway_hedges_won_total",
    /// Requests copied to a mirror. Those that were not are among the refusals, as `mirror_…`.
    Mirrored => "ringway_mirrored_total",
    /// Endpoints ejected by outlier detection.
    Ejections => "ringway_outlier_ejections_total",
    /// Ejections that did not happen because too many endpoints were out.
    EjectionsAtCap => "ringway_outlier_ejections_at_cap_total",
    /// Endpoints taken back after an ejection.
    Returns => "ringway_outlier_returns_total",
    /// Idle upstream connections lent to other workers.
    Lent => "ringway_upstream_lent_total",
    /// Idle upstream connections borrowed from other workers.
    Borrowed => "ringway_upstream_borrowed_total",
    /// Connections that became tunnels (Upgrade or CONNECT).
    Tunnels => "ringway_tunnels_total",
    /// Access log lines dropped because their writer could not follow. Those that it could not write are counted apart.
    LogLinesDropped => "ringway_access_log_dropped_total",
    /// Configuration snapshots taken over.
    SnapshotsInstalled => "ringway_snapshots_installed_total",
}

/// One worker's numbers.
#[derive(Debug)]
pub struct Metrics {
    counters: [Cell<u64>; Counter::COUNT],
    /// Responses by class of status, 1xx to 5xx.
    classes: [Cell<u64>; 5],
    refused: RefCell<BTreeMap<&'static str, u64>>,
    /// Failures that no further attempt followed, by the reason for that.
    retries_refused: RefCell<BTreeMap<&'static str, u64>>,
    /// Handshakes with clients by version and whether they took up an earlier session.
    handshakes: RefCell<BTreeMap<(&'static str, bool), u64>>,
    latency_us: RefCell<Histogram<u64>>,
}

impl Metrics {
    /// Goes on counting where those of a worker that has failed stood.
    pub fn succeed(&self, earlier: &Self) {
        for (cell, before) in
            self.counters.iter().zip(&earlier.counters).chain(self.classes.iter().zip(&earlier.classes))
        {
            cell.set(cell.get() + before.take());
        }
        for (reasons, before) in
            [(&self.refused, &earlier.refused), (&self.retries_refused, &earlier.retries_refused)]
        {
            for (reason, n) in before.take() {
                *reasons.borrow_mut().entry(reason).or_default() += n;
            }
        }
        for (kind, n) in earlier.handshakes.take() {
            *self.handshakes.borrow_mut().entry(kind).or_default() += n;
        }
        // Equal bounds: adding can't fail.
        let _ = self.latency_us.borrow_mut().add(earlier.latency_us.replace(latency_histogram()));
    }

    /// All zero.
    pub fn new() -> Self {
        Self {
            counters: [const { Cell::new(0) }; Counter::COUNT],
            classes: [const { Cell::new(0) }; 5],
            refused: RefCell::default(),
            retries_refused: RefCell::default(),
            handshakes: RefCell::default(),
            latency_us: RefCell::new(latency_histogram()),
        }
    }

    /// Adds one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds `n`.
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = &self.counters[counter as usize];
        cell.set(cell.get() + n);
    }

    /// Counts a finished exchange.
    pub fn finished(&self, status: u16, latency_us: u64) {
        let class = &self.classes[usize::from((status / 100).clamp(1, 5) - 1)];
        class.set(class.get() + 1);
        self.latency_us.borrow_mut().saturating_record(latency_us);
    }

    /// Counts a refusal or failure by its reason code.
    pub fn refused(&self, reason: ReasonCode) {
        *self.refused.borrow_mut().entry(reason.code()).or_default() += 1;
    }

    /// Counts a failure that no further attempt follows, by the reason for that.
    pub fn retry_refused(&self, reason: &'static str) {
        *self.retries_refused.borrow_mut().entry(reason).or_default() += 1;
    }

    /// Counts a TLS handshake with a client that came to its end.
    pub fn handshake(&self, version: &'static str, resumed: bool) {
        *self.handshakes.borrow_mut().entry((version, resumed)).or_default() += 1;
    }

    /// Counts one that failed, by its reason code.
    pub fn handshake_failed(&self, reason: ReasonCode) {
        self.count(Counter::HandshakesFailed);
        self.refused(reason);
    }

    /// A copy of everything but the gauges.
    pub fn sample(&self) -> Sample {
        Sample {
            counters: self.counters.iter().map(Cell::get).collect(),
            classes: self.classes.each_ref().map(Cell::get),
            refused: self.refused.borrow().clone(),
            retries_refused: self.retries_refused.borrow().clone(),
            handshakes: self.handshakes.borrow().clone(),
            latency_us: self.latency_us.borrow().clone(),
            gauges: Gauges::default(),
            upstreams: Vec::new(),
            routes: Vec::new(),
            arms: Vec::new(),
            guards: Vec::new(),
            limits: Vec::new(),
            heaviest: Vec::new(),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn latency_histogram() -> Histogram<u64> {
    // Two significant figures: 1 % of error at most, 22 KiB.
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("the bounds are constant and valid")
}

/// What is true now, in one worker.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// Downstream connections open.
    pub downstream_connections: u64,
    /// Requests being worked on.
    pub requests_active: u64,
    /// I/O buffers in use.
    pub buffers_taken: u64,
    /// Exchanges that wait for an I/O buffer.
    pub buffers_waiting: u64,
    /// I/O buffers kept for reuse.
    pub buffers_free: u64,
    /// Bytes of bodies kept for retries and mirrors.
    pub kept_bytes: u64,
    /// How often there was no room for them.
    pub kept_refusals: u64,
    /// Bytes that HTTP/2 and TLS connections hold because somebody does not read.
    pub backlog_bytes: u64,
    /// How often a connection had to let go of what it held.
    pub backlog_asked: u64,
    /// Panics that were caught.
    pub panics: u64,
}

/// One upstream's numbers in one worker.
#[derive(Debug, Clone)]
pub struct UpstreamSample {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint's address.
    pub endpoint: String,
    /// Connections open, idle ones included.
    pub connections: u64,
    /// Of these, idle.
    pub idle: u64,
    /// Requests being worked on.
    pub active: u64,
    /// Requests sent.
    pub requests: u64,
    /// Attempts that failed.
    pub failures: u64,
}

/// What guards one upstream in one worker.
#[derive(Debug, Clone)]
pub struct GuardSample {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Attempts in flight.
    pub in_flight: u64,
    /// The breaker's state, if there is one.
    pub breaker: Option<&'static str>,
    /// Requests that the breaker has rejected.
    pub rejected: u64,
    /// How often it began to.
    pub trips: u64,
    /// The adaptive limit, if there is one.
    pub limit: Option<u64>,
}

/// What one rate limit has decided in one worker.
#[derive(Debug, Clone)]
pub struct LimitSample {
    /// The limit's name.
    pub limit: Arc<str>,
    /// Admitted, delayed, rejected, rejected in shadow mode.
    pub counts: [u64; 4],
}

/// One route's numbers in one worker.
#[derive(Debug, Clone)]
pub struct RouteSample {
    /// The route's name.
    pub route: Arc<str>,
    /// Responses by class of status, 1xx to 5xx.
    pub classes: [u64; 5],
}

/// One arm's numbers in one worker.
#[derive(Debug, Clone)]
pub struct ArmSample {
    /// The route's name.
    pub route: Arc<str>,
    /// The arm's name.
    pub arm: Arc<str>,
    /// Responses by class of status, 1xx to 5xx.
    pub classes: [u64; 5],
}

/// One worker's numbers at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    counters: Vec<u64>,
    classes: [u64; 5],
    refused: BTreeMap<&'static str, u64>,
    retries_refused: BTreeMap<&'static str, u64>,
    /// Handshakes by version and whether they took up an earlier session.
    pub handshakes: BTreeMap<(&'static str, bool), u64>,
    latency_us: Histogram<u64>,
    /// What is true now.
    pub gauges: Gauges,
    /// By endpoint.
    pub upstreams: Vec<UpstreamSample>,
    /// By route; those without requests are left out.
    pub routes: Vec<RouteSample>,
    /// By route and arm.
    pub arms: Vec<ArmSample>,
    /// By upstream.
    pub guards: Vec<GuardSample>,
    /// By rate limit.
    pub limits: Vec<LimitSample>,
    /// The heaviest keys of rate limits: how they read, and decisions of late.
    pub heaviest: Vec<(String, u64)>,
}

/// What the control thread adds to the workers' numbers.
#[derive(Debug, Clone, Default)]
pub struct ProcessInfo {
    /// Driver name of each worker.
    pub drivers: Vec<&'static str>,
    /// Version of the snapshot in force.
    pub snapshot_version: u64,
    /// Its hash, in hex.
    pub snapshot_hash: String,
    /// Reloads taken over.
    pub reloads: u64,
    /// Reloads refused.
    pub reloads_refused: u64,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
    /// Resident bytes of this process.
    pub resident_bytes: u64,
    /// Lines of each log that its writer could not write.
    pub log_lines_lost: [(&'static str, u64); 3],
    /// Workers that did not answer in time; their numbers are missing from this scrape.
    pub workers_silent: u64,
    /// The certificates that listeners show.
    pub certificates: Vec<CertificateInfo>,
    /// Workers that failed and were started anew.
    pub worker_restarts: u64,
    /// Changed certificates, keys or authorities that could not be used.
    pub tls_reloads_refused: u64,
    /// Names of endpoints that have no address so far.
    pub names_unresolved: u64,
    /// All endpoints' health.
    pub endpoints: Vec<EndpointInfo>,
    /// All canaries.
    pub canaries: Vec<CanaryInfo>,
}

/// One canary, as the control thread has decided.
#[derive(Debug, Clone)]
pub struct CanaryInfo {
    /// The route's name.
    pub route: Arc<str>,
    /// Its part of the requests, in basis points.
    pub share_bp: u32,
    /// `trying`, `promoted` or `rolled_back`.
    pub phase: &'static str,
}

/// One endpoint's health on this node.
#[derive(Debug, Clone)]
pub struct EndpointInfo {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint's address.
    pub endpoint: String,
    /// Requests may go there.
    pub healthy: bool,
    /// What outlier detection allows: `admitting`, `ejected` or `probing`.
    pub traffic: &'static str,
    /// Health checks made, and those that failed; `None`: nobody asks.
    pub checks: Option<(u64, u64)>,
}

/// One certificate of one listener.
#[derive(Debug, Clone)]
pub struct CertificateInfo {
    /// The listener's name.
    pub listener: Arc<str>,
    /// Its file.
    pub certificate: String,
    /// Seconds since 1970 until which it is valid.
    pub not_after_s: i64,
}

/// Prometheus text format 0.0.4 of all workers together.
pub fn render(samples: &[Sample], process: &ProcessInfo) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for (index, (_, name, help)) in Counter::ALL.iter().enumerate() {
        head(&mut out, name, help.trim(), "counter");
        let sum: u64 = samples.iter().map(|s| s.counters[index]).sum();
        let _ = writeln!(out, "{name} {sum}");
    }
    head(&mut out, "ringway_requests_total", "Responses sent, by class of status.", "counter");
    for class in 0..5 {
        let sum: u64 = samples.iter().map(|s| s.classes[class]).sum();
        let _ = writeln!(out, "ringway_requests_total{{code=\"{}xx\"}} {sum}", class + 1);
    }
    refusals(&mut out, samples);
    handshakes(&mut out, samples);
    latency(&mut out, samples);
    gauges(&mut out, samples);
    upstreams(&mut out, samples);
    guards(&mut out, samples);
    endpoints(&mut out, &process.endpoints);
    limits(&mut out, samples);
    routes(&mut out, samples);
    arms(&mut out, samples);
    this_process(&mut out, process);
    out
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn refusals(out: &mut String, samples: &[Sample]) {
    type Reasons = fn(&Sample) -> &BTreeMap<&'static str, u64>;
    const ROWS: [(&str, &str, Reasons); 2] = [
        ("ringway_refused_total", "Requests refused or failed, by reason code.", |s| &s.refused),
        (
            "ringway_retries_refused_total",
            "Failed attempts that no other followed, by the reason for that.",
            |s| &s.retries_refused,
        ),
    ];
    for (name, help, reasons) in ROWS {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for (reason, n) in samples.iter().flat_map(reasons) {
            *sums.entry(reason).or_default() += n;
        }
        head(out, name, help, "counter");
        for (reason, n) in sums {
            let _ = writeln!(out, "{name}{{reason=\"{reason}\"}} {n}");
        }
    }
}

fn handshakes(out: &mut String, samples: &[Sample]) {
    let mut sums: BTreeMap<(&str, bool), u64> = BTreeMap::new();
    for ((version, resumed), n) in samples.iter().flat_map(|s| &s.handshakes) {
        *sums.entry((version, *resumed)).or_default() += n;
    }
    let name = "ringway_tls_handshakes_total";
    head(out, name, "TLS handshakes with clients, by version and whether a session was resumed.", "counter");
    for ((version, resumed), n) in sums {
        let _ = writeln!(out, "{name}{{version=\"{version}\",resumed=\"{resumed}\"}} {n}");
    }
}

fn latency(out: &mut String, samples: &[Sample]) {
    let mut all = latency_histogram();
    for sample in samples {
        // Equal bounds: adding can't fail.
        let _ = all.add(&sample.latency_us);
    }
    let name = "ringway_request_duration_seconds";
    head(out, name, "From the request's head to the last byte of its response.", "histogram");
    for bound in BUCKETS_US {
        let below = all.count_between(0, bound);
        let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", seconds(bound));
    }
    let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", all.len());
    let sum: f64 =
        all.iter_recorded().map(|v| v.value_iterated_to() as f64 * v.count_at_value() as f64).sum();
    let _ = writeln!(out, "{name}_sum {}", sum / 1e6);
    let _ = writeln!(out, "{name}_count {}", all.len());
    let name = "ringway_request_duration_quantile_seconds";
    head(out, name, "The same, as quantiles since the start.", "gauge");
    for quantile in [0.5, 0.9, 0.99, 0.999] {
        let value = all.value_at_quantile(quantile);
        let _ = writeln!(out, "{name}{{quantile=\"{quantile}\"}} {}", seconds(value));
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn gauges(out: &mut String, samples: &[Sample]) {
    type Row = (&'static str, &'static str, fn(&Gauges) -> u64);
    const ROWS: [Row; 10] = [
        ("ringway_downstream_connections", "Downstream connections open.", |g| g.downstream_connections),
        ("ringway_requests_active", "Requests being worked on.", |g| g.requests_active),
        ("ringway_buffers_taken", "I/O buffers of 16 KiB in use.", |g| g.buffers_taken),
        ("ringway_buffers_waiting", "Requests and responses that wait for an I/O buffer.", |g| {
            g.buffers_waiting
        }),
        ("ringway_buffers_free", "I/O buffers of 16 KiB kept for reuse.", |g| g.buffers_free),
        ("ringway_kept_bytes", "Bytes of bodies kept for retries and mirrors.", |g| g.kept_bytes),
        ("ringway_kept_refused_total", "Bodies not kept for lack of room.", |g| g.kept_refusals),
        (
            "ringway_backlog_bytes",
            "Bytes that HTTP/2 and TLS connections hold because somebody does not read.",
            |g| g.backlog_bytes,
        ),
        (
            "ringway_backlog_shed_total",
            "Connections that had to let go of such bytes for lack of room.",
            |g| g.backlog_asked,
        ),
        ("ringway_panics_total", "Panics: each ended a connection, a stream or a worker's life.", |g| {
            g.panics
        }),
    ];
    for (name, help, value) in ROWS {
        head(out, name, help, if name.ends_with("_total") { "counter" } else { "gauge" });
        for (worker, sample) in samples.iter().enumerate() {
            let _ = writeln!(out, "{name}{{worker=\"{worker}\"}} {}", value(&sample.gauges));
        }
    }
}

/// What is exported of each endpoint, in the order of `UpstreamSample`.
const UPSTREAM_ROWS: [(&str, &str, &str); 5] = [
    ("ringway_upstream_connections", "Upstream connections open, idle ones included.", "gauge"),
    ("ringway_upstream_connections_idle", "Upstream connections kept for the next request.", "gauge"),
    ("ringway_upstream_requests_active", "Requests being worked on, by endpoint.", "gauge"),
    ("ringway_upstream_requests_total", "Requests sent, by endpoint.", "counter"),
    ("ringway_upstream_failures_total", "Attempts that failed, by endpoint.", "counter"),
];

fn upstreams(out: &mut String, samples: &[Sample]) {
    let mut sums: BTreeMap<(&str, &str), [u64; 5]> = BTreeMap::new();
    for sample in samples.iter().flat_map(|s| &s.upstreams) {
        let sum = sums.entry((&sample.upstream, &sample.endpoint)).or_default();
        let row = [sample.connections, sample.idle, sample.active, sample.requests, sample.failures];
        for (total, n) in sum.iter_mut().zip(row) {
            *total += n;
        }
    }
    for (index, (name, help, kind)) in UPSTREAM_ROWS.into_iter().enumerate() {
        head(out, name, help, kind);
        for ((upstream, endpoint), row) in &sums {
            let (upstream, endpoint) = (label(upstream), label(endpoint));
            let _ = writeln!(out, "{name}{{upstream=\"{upstream}\",endpoint=\"{endpoint}\"}} {}", row[index]);
        }
    }
}

/// The states of a breaker.
const BREAKER_STATES: [&str; 3] = ["admitting", "rejecting", "probing"];

/// How many workers' breakers are in which state; sums of what they let through.
fn guards(out: &mut String, samples: &[Sample]) {
    type Row = (&'static str, &'static str, &'static str, fn(&GuardSample) -> Option<u64>);
    const ROWS: [Row; 4] = [
        ("ringway_upstream_attempts_in_flight", "Attempts in flight, by upstream.", "gauge", |g| {
            Some(g.in_flight)
        }),
        ("ringway_breaker_rejected_total", "Requests rejected by a breaker.", "counter", |g| {
            g.breaker.map(|_| g.rejected)
        }),
        ("ringway_breaker_trips_total", "How often a breaker began to reject.", "counter", |g| {
            g.breaker.map(|_| g.trips)
        }),
        ("ringway_concurrency_limit", "The adaptive limits of all workers together.", "gauge", |g| g.limit),
    ];
    let all = || samples.iter().flat_map(|s| &s.guards);
    let sum = |value: fn(&GuardSample) -> Option<u64>| {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for guard in all() {
            if let Some(n) = value(guard) {
                *sums.entry(&guard.upstream).or_default() += n;
            }
        }
        sums
    };
    for (name, help, kind, value) in ROWS {
        head(out, name, help, kind);
        for (upstream, n) in sum(value) {
            let _ = writeln!(out, "{name}{{upstream=\"{}\"}} {n}", label(upstream));
        }
    }
    let mut states: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for guard in all() {
        if let Some(at) = guard.breaker.and_then(|state| BREAKER_STATES.iter().position(|s| *s == state)) {
            states.entry(&guard.upstream).or_default()[at] += 1;
        }
    }
    let name = "ringway_breaker_state";
    head(out, name, "Workers whose breaker is in this state.", "gauge");
    for (upstream, workers) in states {
        for (state, n) in BREAKER_STATES.iter().zip(workers) {
            let _ = writeln!(out, "{name}{{upstream=\"{}\",state=\"{state}\"}} {n}", label(upstream));
        }
    }
}

/// Health, as the whole node sees it.
fn endpoints(out: &mut String, all: &[EndpointInfo]) {
    type Row = (&'static str, &'static str, &'static str, fn(&EndpointInfo) -> Option<u64>);
    const ROWS: [Row; 5] = [
        ("ringway_endpoint_healthy", "1 where requests may go.", "gauge", |e| Some(u64::from(e.healthy))),
        ("ringway_endpoint_ejected", "1 where outlier detection keeps requests away.", "gauge", |e| {
            Some(u64::from(e.traffic == "ejected"))
        }),
        ("ringway_endpoint_probing", "1 where one request at a time goes to see.", "gauge", |e| {
            Some(u64::from(e.traffic == "probing"))
        }),
        ("ringway_health_checks_total", "Health checks made.", "counter", |e| e.checks.map(|c| c.0)),
        ("ringway_health_checks_failed_total", "Health checks that failed.", "counter", |e| {
            e.checks.map(|c| c.1)
        }),
    ];
    for (name, help, kind, value) in ROWS {
        head(out, name, help, kind);
        for endpoint in all {
            if let Some(n) = value(endpoint) {
                let (upstream, address) = (label(&endpoint.upstream), label(&endpoint.endpoint));
                let _ = writeln!(out, "{name}{{upstream=\"{upstream}\",endpoint=\"{address}\"}} {n}");
            }
        }
    }
}

fn limits(out: &mut String, samples: &[Sample]) {
    const ROWS: [(&str, &str); 4] = [
        ("ringway_rate_limit_admitted_total", "Requests that a rate limit let through."),
        ("ringway_rate_limit_delayed_total", "Of these, those that had to wait."),
        ("ringway_rate_limit_rejected_total", "Requests that a rate limit refused."),
        ("ringway_rate_limit_shadow_rejected_total", "Requests that it would have refused, in shadow mode."),
    ];
    let mut sums: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
    for sample in samples.iter().flat_map(|s| &s.limits) {
        let sum = sums.entry(&sample.limit).or_default();
        for (total, n) in sum.iter_mut().zip(sample.counts) {
            *total += n;
        }
    }
    for (index, (name, help)) in ROWS.into_iter().enumerate() {
        head(out, name, help, "counter");
        for (limit, counts) in &sums {
            let _ = writeln!(out, "{name}{{limit=\"{}\"}} {}", label(limit), counts[index]);
        }
    }
}

fn routes(out: &mut String, samples: &[Sample]) {
    let mut sums: BTreeMap<&str, [u64; 5]> = BTreeMap::new();
    for sample in samples.iter().flat_map(|s| &s.routes) {
        let sum = sums.entry(&sample.route).or_default();
        for (total, n) in sum.iter_mut().zip(sample.classes) {
            *total += n;
        }
    }
    let name = "ringway_route_requests_total";
    head(out, name, "Responses sent, by route and class of status.", "counter");
    for (route, classes) in sums {
        for (class, n) in classes.into_iter().enumerate().filter(|(_, n)| *n > 0) {
            let _ = writeln!(out, "{name}{{route=\"{}\",code=\"{}xx\"}} {n}", label(route), class + 1);
        }
    }
}

fn arms(out: &mut String, samples: &[Sample]) {
    let mut sums: BTreeMap<(&str, &str), [u64; 5]> = BTreeMap::new();
    for sample in samples.iter().flat_map(|sample| &sample.arms) {
        let sum = sums.entry((&sample.route, &sample.arm)).or_default();
        for (total, n) in sum.iter_mut().zip(sample.classes) {
            *total += n;
        }
    }
    let name = "ringway_split_requests_total";
    head(out, name, "Responses sent, by route, arm of its split and class of status.", "counter");
    for ((route, arm), classes) in sums {
        for (class, n) in classes.into_iter().enumerate().filter(|(_, n)| *n > 0) {
            let (route, arm) = (label(route), label(arm));
            let _ = writeln!(out, "{name}{{route=\"{route}\",arm=\"{arm}\",code=\"{}xx\"}} {n}", class + 1);
        }
    }
}

fn this_process(out: &mut String, process: &ProcessInfo) {
    head(out, "ringway_io_driver", "Workers, by the I/O driver that they run on.", "gauge");
    for driver in ["uring", "epoll"] {
        let n = process.drivers.iter().filter(|d| **d == driver).count();
        let _ = writeln!(out, "ringway_io_driver{{driver=\"{driver}\"}} {n}");
    }
    head(out, "ringway_snapshot_info", "The configuration in force.", "gauge");
    let (version, hash) = (process.snapshot_version, &process.snapshot_hash);
    let _ = writeln!(out, "ringway_snapshot_info{{version=\"{version}\",hash=\"{hash}\"}} 1");
    if !process.canaries.is_empty() {
        let name = "ringway_canary_share_ratio";
        head(out, name, "A canary's part of its route's requests, as decided.", "gauge");
        for canary in &process.canaries {
            let share = f64::from(canary.share_bp) / 10_000.0;
            let _ = writeln!(out, "{name}{{route=\"{}\"}} {share}", label(&canary.route));
        }
        let name = "ringway_canary_phase";
        head(out, name, "1 for the phase that a canary is in.", "gauge");
        for canary in &process.canaries {
            for phase in ["trying", "promoted", "rolled_back"] {
                let n = u8::from(phase == canary.phase);
                let _ = writeln!(out, "{name}{{route=\"{}\",phase=\"{phase}\"}} {n}", label(&canary.route));
            }
        }
    }
    if !process.certificates.is_empty() {
        let name = "ringway_tls_certificate_not_after_seconds";
        head(out, name, "Until when a listener's certificate is valid, in seconds since 1970.", "gauge");
        for info in &process.certificates {
            let (listener, certificate) = (label(&info.listener), label(&info.certificate));
            let end = info.not_after_s;
            let _ = writeln!(out, "{name}{{listener=\"{listener}\",cert=\"{certificate}\"}} {end}");
        }
    }
    let name = "ringway_log_lines_lost_total";
    let help = "Lines of a log that its writer could not write: the disk was full, or nobody read.";
    head(out, name, help, "counter");
    for (log, lines) in process.log_lines_lost {
        let _ = writeln!(out, "{name}{{log=\"{log}\"}} {lines}");
    }
    let rows: [(&str, &str, &str, f64); 8] = [
        (
            "ringway_worker_restarts_total",
            "Workers that failed and were started anew.",
            "counter",
            process.worker_restarts as f64,
        ),
        ("ringway_reloads_total", "Reloads taken over.", "counter", process.reloads as f64),
        ("ringway_reloads_refused_total", "Reloads refused.", "counter", process.reloads_refused as f64),
        (
            "ringway_tls_reloads_refused_total",
            "Changed certificates, keys or authorities that could not be used.",
            "counter",
            process.tls_reloads_refused as f64,
        ),
        (
            "ringway_names_unresolved",
            "Names of endpoints that have no address so far.",
            "gauge",
            process.names_unresolved as f64,
        ),
        ("ringway_uptime_seconds", "Since the start.", "gauge", process.uptime_ms as f64 / 1e3),
        ("process_resident_memory_bytes", "Resident memory.", "gauge", process.resident_bytes as f64),
        (
            "ringway_workers_silent",
            "Workers missing from this scrape.",
            "gauge",
            process.workers_silent as f64,
        ),
    ];
    for (name, help, kind, value) in rows {
        head(out, name, help, kind);
        let _ = writeln!(out, "{name} {value}");
    }
}

/// A label's value as the text format wants it.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::{Counter, Metrics, ProcessInfo, RouteSample, label, render};
    use crate::base::reason::ReasonCode;

    #[test]
    fn samples_of_workers_add_up() {
        let (first, second) = (Metrics::new(), Metrics::new());
        first.count(Counter::Accepted);
        second.add(Counter::Accepted, 2);
        first.finished(200, 90);
        second.finished(503, 1_000_000);
        second.refused(ReasonCode::NoRoute);
        let mut sample = second.sample();
        sample.routes.push(RouteSample { route: "a\"b".into(), classes: [0, 3, 0, 0, 0] });
        let text = render(&[first.sample(), sample], &ProcessInfo::default());
        for line in [
            "ringway_downstream_connections_total 3",
            "ringway_requests_total{code=\"2xx\"} 1",
            "ringway_requests_total{code=\"5xx\"} 1",
            "ringway_refused_total{reason=\"no_route\"} 1",
            "ringway_request_duration_seconds_bucket{le=\"0.0001\"} 1",
            "ringway_request_duration_seconds_bucket{le=\"+Inf\"} 2",
            "ringway_request_duration_seconds_count 2",
            "ringway_route_requests_total{route=\"a\\\"b\",code=\"2xx\"} 3",
        ] {
            assert!(text.lines().any(|l| l == line), "missing: {line}\n{text}");
        }
    }

    #[test]
    fn a_status_out_of_range_is_counted_as_an_error() {
        let metrics = Metrics::new();
        metrics.finished(999, 1);
        assert_eq!(metrics.sample().classes, [0, 0, 0, 0, 1]);
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
