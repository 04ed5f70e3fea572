//! What a run counts, per second while it lasts and in sum at its end.

use std::{collections::BTreeMap, sync::OnceLock};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Arrivals, Config, Extent, Pace, Target};
use crate::{grpc, tls::Negotiated};

/// Latencies are recorded in nanoseconds, from this to an hour, with three significant digits.
const LATENCY_NS_MIN: u64 = 100;
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, 3).expect("the bounds are valid constants")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// No connection came about.
    Connect,
    /// A connection came about, and no TLS over it; or TLS broke later.
    Tls,
    /// The last byte did not come in time.
    Timeout,
    /// The connection ended or was reset before a response began, or within its head.
    Reset,
    /// A complete response with a status that was not asked for.
    Status,
    /// A gRPC call that ended with another status than 0, or without one.
    Grpc,
    /// The body ended early, or is not as long as asked for.
    WrongLength,
    WrongDigest,
    /// What came is not HTTP that can be framed, or belongs to no request.
    Malformed,
}

impl ErrorKind {
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Status,
        Self::Grpc,
        Self::WrongLength,
        Self::WrongDigest,
        Self::Malformed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Status => "status",
            Self::Grpc => "grpc_status",
            Self::WrongLength => "wrong_length",
            Self::WrongDigest => "wrong_digest",
            Self::Malformed => "malformed",
        }
    }
}

/// One thread's counts of one second.
#[derive(Debug)]
pub(super) struct Interval {
    /// Since the start of the window.
    pub(super) second: u64,
    /// From the intended send to the last byte: complete responses, right or wrong, and time-outs.
    pub(super) latency: Histogram<u64>,
    /// From the actual send; kept in the open loop only.
    pub(super) service: Option<Histogram<u64>>,
    pub(super) counts: Counts,
    pub(super) cpu_ns: u64,
    /// End of what was counted, from the start of the window.
    pub(super) until_ns: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Complete responses that passed every check.
    pub requests: u64,
    /// By `ErrorKind`.
    pub errors: [u64; ErrorKind::ALL.len()],
    /// By the status's first digit; 0 for none of 1 to 5.
    pub statuses: [u64; 6],
    pub body_bytes: u64,
    /// gRPC calls by their status; the last for none.
    pub calls: [u64; grpc::STATUS_MAX + 2],
    pub messages: u64,
    pub connections: u64,
    /// With HTTP/2: sent again, because the server had said that it did nothing about it.
    pub refused: u64,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    /// Due in the open loop and not sent before the end.
    pub unsent: u64,
}

impl Counts {
    pub(super) fn count_call(&mut self, status: Option<usize>, messages: u64) {
        let none = self.calls.len() - 1;
        self.calls[status.filter(|&status| status < none).unwrap_or(none)] += 1;
        self.messages += messages;
    }

    pub fn errors_sum(&self) -> u64 {
        self.errors.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.body_bytes += other.body_bytes;
        self.connections += other.connections;
        self.refused += other.refused;
        self.handshakes_full += other.handshakes_full;
        self.handshakes_resumed += other.handshakes_resumed;
        self.unsent += other.unsent;
        for (sum, more) in self.errors.iter_mut().zip(other.errors) {
            *sum += more;
        }
        self.messages += other.messages;
        for (sum, more) in self.calls.iter_mut().zip(other.calls) {
            *sum += more;
        }
        for (sum, more) in self.statuses.iter_mut().zip(other.statuses) {
            *sum += more;
        }
    }
}

impl Interval {
    pub(super) fn new(second: u64, pace: Pace) -> Self {
        let service = matches!(pace, Pace::Open { .. }).then(histogram);
        Self { second, latency: histogram(), service, counts: Counts::default(), cpu_ns: 0, until_ns: 0 }
    }

    pub(super) fn add(&mut self, other: &Self) {
        add_histogram(&mut self.latency, &other.latency);
        if let (Some(sum), Some(more)) = (&mut self.service, &other.service) {
            add_histogram(sum, more);
        }
        self.counts.add(&other.counts);
        self.cpu_ns += other.cpu_ns;
        self.until_ns = self.until_ns.max(other.until_ns);
    }
}

fn add_histogram(sum: &mut Histogram<u64>, more: &Histogram<u64>) {
    sum.add(more).expect("all histograms have the same bounds");
}

/// All that was counted so far.
#[derive(Debug)]
pub struct Totals {
    pub latency: Histogram<u64>,
    pub service: Histogram<u64>,
    pub counts: Counts,
    cpu_ns: u64,
    until_ns: u64,
}

impl Totals {
    pub(super) fn new() -> Self {
        Self { latency: histogram(), service: histogram(), counts: Counts::default(), cpu_ns: 0, until_ns: 0 }
    }

    pub(super) fn add(&mut self, interval: &Interval) {
        add_histogram(&mut self.latency, &interval.latency);
        if let Some(service) = &interval.service {
            add_histogram(&mut self.service, service);
        }
        self.counts.add(&interval.counts);
        self.cpu_ns += interval.cpu_ns;
        self.until_ns = self.until_ns.max(interval.until_ns);
    }
}

/// One second of all threads.
#[derive(Debug, Clone, Serialize)]
pub struct Second {
    pub second: u64,
    /// The last one of a run may be shorter than a second.
    pub requests: u64,
    pub errors: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Second {
    pub(super) fn new(interval: &Interval) -> Self {
        let at = |quantile| micros(interval.latency.value_at_quantile(quantile));
        Self {
            second: interval.second,
            requests: interval.counts.requests,
            errors: interval.counts.errors_sum(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: micros(interval.latency.max()),
        }
    }
}

pub fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

/// Latency in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    pub min_us: f64,
    pub mean_us: f64,
    pub stdev_us: f64,
    pub p50_us: f64,
    pub p75_us: f64,
    pub p90_us: f64,
    pub p95_us: f64,
    pub p99_us: f64,
    #[serde(rename = "p99.9_us")]
    pub p999_us: f64,
    #[serde(rename = "p99.99_us")]
    pub p9999_us: f64,
    pub max_us: f64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| micros(histogram.value_at_quantile(quantile).min(histogram.max()));
        let empty = histogram.is_empty();
        Self {
            min_us: if empty { 0.0 } else { micros(histogram.min()) },
            mean_us: histogram.mean() / 1000.0,
            stdev_us: histogram.stdev() / 1000.0,
            p50_us: at(0.5),
            p75_us: at(0.75),
            p90_us: at(0.9),
            p95_us: at(0.95),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: micros(histogram.max()),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Calls {
    pub messages: u64,
    pub messages_per_s: f64,
    pub statuses: BTreeMap<String, u64>,
}

impl Calls {
    fn new(counts: &Counts, messages_per_s: f64) -> Self {
        let name =
            |status: usize| if status > grpc::STATUS_MAX { "none".to_owned() } else { status.to_string() };
        let calls = counts.calls.iter().enumerate().filter(|&(_, &n)| n > 0);
        let statuses = calls.map(|(status, &n)| (name(status), n)).collect();
        Self { messages: counts.messages, messages_per_s, statuses }
    }
}

/// What TLS was like.
#[derive(Debug, Clone, Serialize)]
pub struct Tls {
    /// Of the run's first handshake.
    pub version: Option<&'static str>,
    pub cipher: Option<String>,
    pub alpn: Option<String>,
    pub handshakes_full: u64,
    pub handshakes_resumed: u64,
    pub first_error: Option<String>,
}

impl Tls {
    pub(super) fn new(seen: &Seen, counts: &Counts) -> Self {
        let first = seen.negotiated.get();
        Self {
            version: first.map(|n| n.version),
            cipher: first.map(|n| n.cipher.clone()),
            alpn: first.and_then(|n| n.alpn.clone()),
            handshakes_full: counts.handshakes_full,
            handshakes_resumed: counts.handshakes_resumed,
            first_error: seen.tls_error.get().cloned(),
        }
    }
}

/// What is told once for all threads, by the first that sees it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) negotiated: OnceLock<Negotiated>,
    pub(super) tls_error: OnceLock<String>,
}

/// The outcome of a run, as printed and as JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub targets: Vec<String>,
    pub method: String,
    /// "HTTP/1.1" or "HTTP/2".
    pub protocol: &'static str,
    pub connections: usize,
    /// At once on each connection.
    pub streams: usize,
    pub threads: usize,
    /// "closed", "open constant" or "open poisson".
    pub pace: &'static str,
    pub rate_asked_per_s: Option<f64>,
    /// Ended by hand before its time.
    pub interrupted: bool,
    pub elapsed_s: f64,
    /// Complete responses that passed every check.
    pub requests: u64,
    pub requests_per_s: f64,
    pub body_bytes: u64,
    pub body_bytes_per_s: f64,
    pub connections_opened: u64,
    /// Requests that were sent again, because the server had said that it did nothing about them: HTTP/2's GOAWAY and
    /// `REFUSED_STREAM`. They count once, with all the time that it took.
    pub refused: u64,
    /// With `https`.
    pub tls: Option<Tls>,
    /// In the open loop from the intended send time.
    pub latency: Latency,
    /// In the open loop: from the actual send time, which a stall can hide.
    pub service: Option<Latency>,
    pub statuses: BTreeMap<&'static str, u64>,
    /// With gRPC: received messages, and calls by status ("none" without one).
    pub grpc: Option<Calls>,
    pub errors: BTreeMap<&'static str, u64>,
    /// Due before the end and not sent: the target, or the generator, did not keep up.
    pub unsent: u64,
    /// The generator's own price.
    pub generator_cpu_us_per_request: f64,
    pub seconds: Vec<Second>,
    #[serde(skip)]
    pub histogram: Histogram<u64>,
}

impl Report {
    pub(super) fn new(
        config: &Config,
        totals: &Totals,
        seen: &Seen,
        seconds: Vec<Second>,
        interrupted: bool,
    ) -> Self {
        const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
        let counts = &totals.counts;
        let elapsed_s = totals.until_ns as f64 / 1e9;
        let per_s = |n: u64| if elapsed_s > 0.0 { n as f64 / elapsed_s } else { 0.0 };
        let (pace, rate_asked_per_s) = match config.pace {
            Pace::Closed => ("closed", None),
            Pace::Open { rate_per_s, arrivals: Arrivals::Constant } => ("open constant", Some(rate_per_s)),
            Pace::Open { rate_per_s, arrivals: Arrivals::Poisson } => ("open poisson", Some(rate_per_s)),
        };
        let sent = (counts.requests + counts.errors_sum()).max(1);
        Self {
            targets: config.targets.iter().map(Target::url).collect(),
            method: config.request.method.clone(),
            protocol: config.protocol.name(),
            connections: config.connections,
            streams: config.protocol.streams(),
            threads: config.threads,
            pace,
            rate_asked_per_s,
            interrupted,
            elapsed_s,
            requests: counts.requests,
            requests_per_s: per_s(counts.requests),
            body_bytes: counts.body_bytes,
            body_bytes_per_s: per_s(counts.body_bytes),
            connections_opened: counts.connections,
            refused: counts.refused,
            tls: config.targets.iter().any(|t| t.server_name.is_some()).then(|| Tls::new(seen, counts)),
            latency: Latency::of(&totals.latency),
            service: rate_asked_per_s.map(|_| Latency::of(&totals.service)),
            statuses: CLASSES.into_iter().zip(counts.statuses).filter(|&(_, n)| n > 0).collect(),
            grpc: config.grpc.map(|_| Calls::new(counts, per_s(counts.messages))),
            errors: ErrorKind::ALL.iter().map(|k| (k.name(), counts.errors[*k as usize])).collect(),
            unsent: counts.unsent,
            generator_cpu_us_per_request: totals.cpu_ns as f64 / 1000.0 / sent as f64,
            seconds,
            histogram: totals.latency.clone(),
        }
    }

    pub fn errors_sum(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Whether the extent asked for was measured at all.
    pub fn is_empty(&self) -> bool {
        self.requests == 0
    }
}

impl Extent {
    pub(super) fn requests(self) -> Option<u64> {
        match self {
            Self::For(_) => None,
            Self::Requests(n) => Some(n),
        }
    }
}
