//! The load generator: closed loop or open loop, every response checked, latency from the intended send time.
//!
//! `run` resolves and probes the targets, starts one thread with its own runtime per `threads`, gathers what
//! they count, and returns one [`Report`]. The observer hears when the measured window starts and ends (so that
//! a comparison can read a proxy's accounts at these moments) and once a second what came in.
//!
//! - Closed loop: each connection sends its next request when the last response has ended. A stall of the target
//!   slows the generator down with it, so the percentiles show one slow response per connection and no more.
//! - Open loop: requests are due at times fixed beforehand, and latency counts from then, whether or not a
//!   connection was free: what a user who does not wait for other users would see.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    net::{self, Address},
    runtime::{self, Io},
    tls::settings::{BadSettings, ClientSettings},
};

mod connection;
mod http2;
mod outcome;
pub mod schedule;
pub mod stats;
pub mod target;
mod worker;

use stats::{Interval, Report, Second, Seen, Totals};
pub use target::{Request, Target};

/// Connections and the generator's own descriptors beside them.
const DESCRIPTORS_SPARE: u64 = 64;
/// How long an unreachable target is waited for before the run.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    Closed,
    Open { rate_per_s: f64, arrivals: Arrivals },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Arrivals {
    /// Evenly spaced.
    #[default]
    Constant,
    /// Independent of each other, as many users' requests are.
    Poisson,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Http1,
    /// So many streams at once on each connection. In the clear: by prior knowledge (RFC 9113, section 3.3).
    Http2 { streams: usize },
}

/// Calls instead of requests: one stream each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grpc {
    pub message_bytes: usize,
    /// In each stream, in the directions in which the origin's method has many.
    pub messages: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Measured time, after the warm-up.
    For(Duration),
    /// Requests, the warm-up's not counted.
    Requests(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    Unchecked,
    /// Every body of a target must be what its first one was.
    SameAsFirst,
    /// XXH3-64.
    Exactly(u64),
}

/// What is asked of each response beyond being well-framed and complete.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// None: any below 400.
    pub status: Option<u16>,
    pub body_bytes: Option<u64>,
    pub digest: Digest,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub targets: Vec<Target>,
    pub request: Request,
    pub protocol: Protocol,
    /// Over HTTP/2 only; method and body of `request` are replaced.
    pub grpc: Option<Grpc>,
    pub connections: usize,
    pub threads: usize,
    pub pace: Pace,
    pub extent: Extent,
    pub warm_up: Duration,
    /// From the send (not the intended send) to the last byte, connecting included.
    pub timeout: Duration,
    /// A new connection after so many requests.
    pub requests_per_connection: Option<u64>,
    pub check: Check,
    /// Of use to targets with `https`.
    pub tls: ClientSettings,
    pub io: Io,
    /// Cores for the threads, in turn. Empty: wherever the scheduler likes.
    pub cores: Vec<usize>,
}

impl Config {
    /// One connection, closed loop, one thread, no checks but the status.
    pub fn new(targets: Vec<Target>, extent: Extent) -> Self {
        Self {
            targets,
            request: Request::default(),
            protocol: Protocol::Http1,
            grpc: None,
            connections: 1,
            threads: 1,
            pace: Pace::Closed,
            extent,
            warm_up: Duration::ZERO,
            timeout: Duration::from_secs(10),
            requests_per_connection: None,
            check: Check { status: None, body_bytes: None, digest: Digest::Unchecked },
            tls: ClientSettings::default(),
            io: Io::Auto,
            cores: Vec::new(),
        }
    }
}

#[derive(Debug)]
pub enum Error {
    /// Nobody answers there; nothing was sent.
    Unreachable { target: String, cause: io::Error },
    /// Fewer connections than threads × distinct addresses.
    TooFewConnections { connections: usize, needed: usize },
    /// The hard limit of open files is lower than what the connections need.
    Descriptors { needed: u64, limit: u64 },
    /// What can't be said in HTTP/2.
    Request(String),
    /// Certificates, keys or versions that TLS can't be made with.
    Tls(BadSettings),
    /// The generator itself could not start: runtime, thread or pinning.
    Start(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { target, cause } => write!(f, "{target} can't be reached: {cause}"),
            Self::TooFewConnections { connections, needed } => {
                write!(
                    f,
                    "{connections} connections are too few: each thread needs one to each address, {needed}"
                )
            }
            Self::Descriptors { needed, limit } => {
                write!(f, "{needed} descriptors are needed and the limit is {limit} (ulimit -Hn)")
            }
            Self::Request(why) => f.write_str(why),
            Self::Tls(cause) => cause.fmt(f),
            Self::Start(cause) => write!(f, "the generator does not start: {cause}"),
        }
    }
}

impl std::error::Error for Error {}

/// What happens outside the generator during a run.
pub trait Observer {
    fn window_starts(&mut self) {}
    fn second(&mut self, _second: &Second, _totals: &Totals) {}
    fn window_ends(&mut self) {}
}

/// Watches nothing.
#[derive(Debug, Clone, Copy)]
pub struct Unobserved;

impl Observer for Unobserved {}

/// Blocks until the run is over or `stop` is set; then the report tells what was measured so far.
pub fn run(config: &Config, stop: &Arc<AtomicBool>, observer: &mut dyn Observer) -> Result<Report, Error> {
    let lanes = target::lanes(config)?;
    let threads = config.threads.max(1);
    if config.connections < threads * lanes.len() {
        let needed = threads * lanes.len();
        return Err(Error::TooFewConnections { connections: config.connections, needed });
    }
    let needed = config.connections as u64 + DESCRIPTORS_SPARE;
    net::ensure_descriptors(needed).map_err(|limit| Error::Descriptors { needed, limit })?;
    let uses_tls = lanes.iter().any(|lane| lane.server_name.is_some());
    let tls = uses_tls.then(|| config.tls.build(config.protocol.alpn())).transpose().map_err(Error::Tls)?;
    for lane in &lanes {
        net::probe(&lane.address, PROBE_TIMEOUT)
            .map_err(|cause| Error::Unreachable { target: lane.address.to_string(), cause })?;
    }

    let plan = Arc::new(Plan {
        config: config.clone(),
        lanes,
        tls,
        seen: Seen::default(),
        epoch: OnceLock::new(),
        window_start: config.warm_up,
        stop: stop.clone(),
        failed: OnceLock::new(),
    });
    let (sender, receiver) = mpsc::channel();
    let (ready, readies) = mpsc::channel();
    for index in 0..threads {
        let (shared, sender, ready) = (plan.clone(), sender.clone(), ready.clone());
        let body = move || run_thread(&shared, index, threads, sender, ready);
        if let Err(cause) = thread::Builder::new().name(format!("load-{index}")).spawn(body) {
            // Those that have been started end at once.
            plan.stop.store(true, Ordering::Relaxed);
            plan.epoch.get_or_init(Instant::now);
            return Err(Error::Start(cause));
        }
    }
    drop(sender);
    drop(ready);
    // It ends when each has been ready or has failed.
    while readies.recv().is_ok() {}
    plan.epoch.get_or_init(Instant::now);
    let report = Gathering::new(&plan, threads).until_the_end(&receiver, observer);
    match plan.failed.get() {
        Some((kind, message)) => Err(Error::Start(io::Error::new(*kind, message.clone()))),
        None => Ok(report),
    }
}

/// What all threads of a run share, unchanging but for what is told once and the two flags.
#[derive(Debug)]
struct Plan {
    config: Config,
    lanes: Vec<target::Lane>,
    tls: Option<rustls::ClientConfig>,
    seen: Seen,
    /// The run's beginning, once every thread has its runtime: making a ring can take longer than a short warm-up.
    epoch: OnceLock<Instant>,
    /// End of the warm-up, from the epoch.
    window_start: Duration,
    stop: Arc<AtomicBool>,
    failed: OnceLock<(io::ErrorKind, String)>,
}

impl Protocol {
    /// As servers are asked for it under TLS.
    fn alpn(self) -> &'static [&'static str] {
        match self {
            Self::Http1 => &["http/1.1"],
            Self::Http2 { .. } => &["h2"],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 { .. } => "HTTP/2",
        }
    }

    pub fn streams(self) -> usize {
        match self {
            Self::Http1 => 1,
            Self::Http2 { streams } => streams,
        }
    }
}

impl Plan {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.epoch.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// For a thread that is ready: blocks until all are, or have failed.
    fn wait_for_the_start(&self, ready: mpsc::Sender<()>) {
        // Whoever waits for it drops it last.
        let _ = ready.send(());
        drop(ready);
        self.epoch.wait();
    }

    fn window_start_ns(&self) -> u64 {
        u64::try_from(self.window_start.as_nanos()).unwrap_or(u64::MAX)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn run_thread(
    plan: &Arc<Plan>,
    index: usize,
    threads: usize,
    sender: mpsc::Sender<Interval>,
    ready: mpsc::Sender<()>,
) {
    let cores = &plan.config.cores;
    let core = if cores.is_empty() { vec![] } else { vec![cores[index % cores.len()]] };
    let outcome = net::pin_thread(&core).and_then(|()| {
        let run = || {
            plan.wait_for_the_start(ready);
            worker::run(plan.clone(), worker::Share { index, threads }, sender.clone())
        };
        runtime::block_on(plan.config.io, run)?
    });
    if let Err(e) = outcome {
        let _ = plan.failed.set((e.kind(), e.to_string()));
        plan.stop.store(true, Ordering::Relaxed);
    }
    // Last: the run is over when all senders are gone, and then it looks whether one has failed.
    drop(sender);
}

/// Puts the threads' intervals together.
struct Gathering<'a> {
    plan: &'a Plan,
    threads: usize,
    totals: Totals,
    /// Seconds that not every thread has told about.
    open: BTreeMap<u64, (usize, Interval)>,
    seconds: Vec<Second>,
}

impl<'a> Gathering<'a> {
    fn new(plan: &'a Plan, threads: usize) -> Self {
        let totals = Totals::new();
        Self { plan, threads, totals, open: BTreeMap::new(), seconds: Vec::new() }
    }

    fn until_the_end(mut self, receiver: &mpsc::Receiver<Interval>, observer: &mut dyn Observer) -> Report {
        let mut started = false;
        loop {
            let until_window = self.plan.window_start.saturating_sub(self.plan.elapsed());
            let wait = if started { Duration::from_secs(3600) } else { until_window };
            let received = receiver.recv_timeout(wait);
            if !started && self.plan.elapsed() >= self.plan.window_start {
                started = true;
                observer.window_starts();
            }
            match received {
                Ok(interval) => self.take(interval, observer),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        observer.window_ends();
        for (_, (_, interval)) in std::mem::take(&mut self.open) {
            self.close(&interval, observer);
        }
        Report::new(&self.plan.config, &self.totals, &self.plan.seen, self.seconds, self.plan.is_stopped())
    }

    fn take(&mut self, interval: Interval, observer: &mut dyn Observer) {
        let second = interval.second;
        match self.open.remove(&second) {
            Some((told, mut sum)) => {
                sum.add(&interval);
                self.open.insert(second, (told + 1, sum));
            }
            None => {
                self.open.insert(second, (1, interval));
            }
        }
        while let Some(entry) = self.open.first_entry().filter(|entry| entry.get().0 == self.threads) {
            let (_, interval) = entry.remove();
            self.close(&interval, observer);
        }
    }

    fn close(&mut self, interval: &Interval, observer: &mut dyn Observer) {
        self.totals.add(interval);
        let second = Second::new(interval);
        observer.second(&second, &self.totals);
        self.seconds.push(second);
    }
}

/// Splits `total` into `parts` as evenly as it goes; the first ones get the rest.
fn share_of(total: u64, part: usize, parts: usize) -> u64 {
    total / parts as u64 + u64::from((part as u64) < total % parts as u64)
}

/// Resolves a target's authority, for [`Target::parse`].
fn resolve(authority: &str, default_port: u16) -> io::Result<Address> {
    let has_port =
        authority.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    if has_port {
        Address::resolve(authority)
    } else {
        Address::resolve(&format!("{authority}:{default_port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::share_of;

    #[test]
    fn shares_add_up() {
        for (total, parts) in [(10, 3), (2, 3), (0, 1), (7, 7)] {
            let shares: Vec<u64> = (0..parts).map(|part| share_of(total, part, parts)).collect();
            assert_eq!(shares.iter().sum::<u64>(), total, "{shares:?}");
            assert!(shares[0] - shares[parts - 1] <= 1, "{shares:?}");
        }
    }
}
