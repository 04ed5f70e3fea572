//! Runs a suite: origin and contenders started, rounds interleaved, samples gathered.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    idle,
    peer::{Certificate, Content, End, Peer, Places, Settings},
    process::{Process, free_port},
    suite::{Back, Closed, FixedRate, Front, LoadCores, Suite},
};
use crate::{
    load::{
        self, Check, Config, Digest, Extent, Grpc, Observer, Pace, Protocol, Target,
        stats::{Report, Second, Totals},
    },
    net,
    origin::pattern,
    tls::{
        authority::Authority,
        settings::{Resumption, Trust, Version},
    },
    usage::{self, Memory, Usage},
};

/// From a contender's start to its first right answer.
const START_TIME_MAX: Duration = Duration::from_secs(20);
const START_POLL_PAUSE: Duration = Duration::from_millis(20);
/// After its start, before its memory is read.
const SETTLE: Duration = Duration::from_millis(300);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Options {
    pub places: Places,
    /// None: one core per worker, from core 0 on.
    pub proxy_cores: Option<Vec<usize>>,
    /// None: as the suite says.
    pub load_cores: Option<Vec<usize>>,
    pub rounds: Option<usize>,
    /// Replaces the measured time of each phase.
    pub duration: Option<Duration>,
    /// Says what is being done.
    pub progress: fn(&str),
}

/// One contender's outcome with one number of workers.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub name: String,
    pub version: String,
    pub workers: usize,
    pub closed: Vec<ClosedSample>,
    pub fixed_rate: Vec<FixedRateSample>,
    pub memory_started: Memory,
    /// The highest seen in the closed loop.
    pub memory_loaded: Option<Memory>,
    pub idle: Option<IdleSample>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ClosedSample {
    pub requests_per_s: f64,
    pub cpu_us_per_request: f64,
    pub switches_per_request: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub errors: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct FixedRateSample {
    pub cpu_us_per_request: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub errors: u64,
    pub unsent: u64,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct IdleSample {
    pub connections: usize,
    pub memory: Memory,
    /// PSS beyond that with no connections, divided among them.
    pub pss_bytes_per_connection: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub rows: Vec<Row>,
    /// Contenders that took no part, and why.
    pub absent: Vec<(String, String)>,
    pub interrupted: bool,
}

#[derive(Debug)]
pub enum Error {
    /// Nothing that was asked for is on this machine.
    NoContender(Vec<(String, String)>),
    Origin(String),
    Load(load::Error),
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoContender(absent) => {
                let reasons: Vec<String> =
                    absent.iter().map(|(name, why)| format!("{name}: {why}")).collect();
                write!(f, "no contender can be run ({})", reasons.join("; "))
            }
            Self::Origin(why) => write!(f, "the origin does not start: {why}"),
            Self::Load(cause) => cause.fmt(f),
            Self::Io(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

/// Runs `suite` with `peers`, the first of which is what the others are compared with.
pub fn run(
    suite: &Suite,
    peers: &[Peer],
    options: &Options,
    stop: &Arc<AtomicBool>,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome { rows: Vec::new(), absent: Vec::new(), interrupted: false };
    let mut found = Vec::new();
    for peer in peers {
        if let Some(why) = peer.inability(suite) {
            outcome.absent.push((peer.name.clone(), why.to_owned()));
            continue;
        }
        match peer.program(&options.places) {
            Some(program) => found.push((peer, peer.version(&program), program)),
            None => {
                outcome.absent.push((peer.name.clone(), format!("not found; {}", peer.definition.package)));
            }
        }
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for &workers in &suite.workers {
        let fits = workers < cores || workers == 1 || options.proxy_cores.is_some();
        if !fits || stop.load(Ordering::Relaxed) {
            continue;
        }
        let stage = Stage::set(suite, options, workers, cores, stop)?;
        let mut contenders = Vec::new();
        for (peer, version, program) in found.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
            match stage.audition(peer, version, program) {
                Ok(contender) => contenders.push(contender),
                Err(_) if stop.load(Ordering::Relaxed) => {}
                Err(why) => outcome.absent.push((peer.name.clone(), why)),
            }
        }
        if contenders.is_empty() && outcome.rows.is_empty() {
            return Err(Error::NoContender(outcome.absent));
        }
        stage.play(&mut contenders)?;
        outcome.rows.extend(contenders.into_iter().map(|contender| contender.row));
    }
    outcome.interrupted = stop.load(Ordering::Relaxed);
    Ok(outcome)
}

/// The origin, the cores, and what all contenders share for one number of workers.
struct Stage<'a> {
    suite: &'a Suite,
    options: &'a Options,
    stop: &'a Arc<AtomicBool>,
    workers: usize,
    proxy_cores: Vec<usize>,
    load_cores: Vec<usize>,
    load_threads: usize,
    origin_port: u16,
    origin: Process,
    /// With TLS.
    certificates: Option<Certificates>,
}

/// The files of the run's own authority, removed in the end.
struct Certificates {
    directory: PathBuf,
    root: PathBuf,
    certificate: Certificate,
}

impl Certificates {
    fn make() -> io::Result<Self> {
        let directory = scratch_directory("certificates");
        let authority = Authority::create(&directory, "ringway-bench")?;
        let identity = authority.issue("proxy", &["127.0.0.1", "localhost"])?;
        let both = directory.join("proxy-both.pem");
        fs::write(&both, [fs::read(&identity.certificates)?, fs::read(&identity.key)?].concat())?;
        let root = authority.root().to_owned();
        Ok(Self { directory, root, certificate: Certificate { identity, both } })
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

struct Contender {
    process: Process,
    port: u16,
    row: Row,
}

impl<'a> Stage<'a> {
    fn set(
        suite: &'a Suite,
        options: &'a Options,
        workers: usize,
        cores: usize,
        stop: &'a Arc<AtomicBool>,
    ) -> Result<Self, Error> {
        let proxy_cores = options.proxy_cores.clone().unwrap_or_else(|| (0..workers.min(cores)).collect());
        let load_cores = options.load_cores.clone().unwrap_or_else(|| match suite.load {
            LoadCores::LastCore => vec![cores - 1],
            LoadCores::OtherCores => (workers.min(cores - 1)..cores).collect(),
        });
        let load_threads = match suite.load {
            LoadCores::LastCore => 1,
            LoadCores::OtherCores => load_cores.len().max(1),
        };
        let origin_port = free_port()?;
        let program = std::env::current_exe()?.to_string_lossy().into_owned();
        let mut run = vec![program, "origin".into(), "--workers".into(), load_threads.to_string()];
        for host in suite.origins.hosts() {
            run.extend(["--listen".into(), format!("{host}:{origin_port}")]);
        }
        let directory = scratch_directory("origin");
        let origin =
            Process::start_command(run.into_iter(), std::iter::empty(), &directory, &load_cores, End::Kill)?;
        let mut stage = Self {
            suite,
            options,
            stop,
            workers,
            proxy_cores,
            load_cores,
            load_threads,
            origin_port,
            origin,
            certificates: suite.front.is_tls().then(Certificates::make).transpose()?,
        };
        // The origin itself is asked in the clear, in what the proxies will speak to it.
        let front = if suite.back == Back::H2c { Front::H2c } else { Front::Http };
        let config = stage.config(front, origin_port, 1, 1, Extent::Requests(1))?;
        await_answers(&config, &mut stage.origin, stop).map_err(Error::Origin)?;
        Ok(stage)
    }

    /// Starts a contender and sees that it answers as the origin would.
    fn enter(&self, peer: &Peer, version: &str, program: &Path) -> Result<Contender, String> {
        let port = free_port().map_err(|e| e.to_string())?;
        let settings = Settings {
            program: program.to_owned(),
            directory: scratch_directory(&peer.name),
            listen_port: port,
            origin_port: self.origin_port,
            workers: self.workers,
            front: self.suite.front,
            back: self.suite.back,
            origins: self.suite.origins,
            content: if self.suite.grpc.is_some() { Content::Grpc } else { Content::Plain },
            certificate: self.certificates.as_ref().map(|made| made.certificate.clone()),
        };
        let mut process = Process::start(peer, &settings, &self.proxy_cores).map_err(|e| e.to_string())?;
        let config = self.config(self.suite.front, port, 1, 1, Extent::Requests(1));
        await_answers(&config.map_err(|e| e.to_string())?, &mut process, self.stop)?;
        thread::sleep(SETTLE);
        let memory_started = usage::memory_of_tree(process.pid());
        let row = Row {
            name: peer.name.clone(),
            version: version.to_owned(),
            workers: self.workers,
            closed: Vec::new(),
            fixed_rate: Vec::new(),
            memory_started,
            memory_loaded: None,
            idle: None,
        };
        Ok(Contender { process, port, row })
    }

    /// Starts a contender for the rounds, after its memory has been measured in a process of its own: what load
    /// leaves behind in an allocator is not what idle connections need, nor the other way round.
    fn audition(&self, peer: &Peer, version: &str, program: &Path) -> Result<Contender, String> {
        let progress = self.options.progress;
        let mut measured = None;
        if let Some(idle) = self.suite.idle.as_ref().filter(|_| !self.is_stopped()) {
            progress(&format!("{}: {} idle connections", peer.name, idle.connections));
            let contender = self.enter(peer, version, program)?;
            measured = Some(self.hold_idle(&contender, idle.connections).map_err(|e| e.to_string())?);
        }
        progress(&format!("{}: starting", peer.name));
        let mut contender = self.enter(peer, version, program)?;
        contender.row.idle = measured;
        Ok(contender)
    }

    fn play(&self, contenders: &mut [Contender]) -> Result<(), Error> {
        let rounds = self.options.rounds.unwrap_or(self.suite.rounds);
        for round in 1..=rounds {
            for contender in contenders.iter_mut() {
                if let Some(closed) = self.suite.closed.as_ref().filter(|_| !self.is_stopped()) {
                    (self.options.progress)(&format!(
                        "round {round}/{rounds}: {}, closed loop",
                        contender.row.name
                    ));
                    self.play_closed(contender, closed)?;
                }
                if let Some(fixed) = self.suite.fixed_rate.as_ref().filter(|_| !self.is_stopped()) {
                    (self.options.progress)(&format!(
                        "round {round}/{rounds}: {}, fixed rate",
                        contender.row.name
                    ));
                    self.play_fixed_rate(contender, fixed)?;
                }
            }
        }
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn play_closed(&self, contender: &mut Contender, closed: &Closed) -> Result<(), Error> {
        let extent = Extent::For(self.options.duration.unwrap_or(closed.duration));
        let mut config =
            self.config(self.suite.front, contender.port, closed.connections, closed.streams, extent)?;
        config.requests_per_connection = closed.requests_per_connection;
        if !closed.resumes {
            config.tls.resumption = Resumption::Off;
        }
        let (report, window) = self.measure(contender, &config)?;
        if report.interrupted {
            return Ok(());
        }
        let answered = (report.requests + report.errors_sum()).max(1) as f64;
        let switches = window.usage.switches_voluntary + window.usage.switches_involuntary;
        contender.row.closed.push(ClosedSample {
            requests_per_s: report.requests_per_s,
            cpu_us_per_request: window.usage.cpu_ns as f64 / 1000.0 / answered,
            switches_per_request: switches as f64 / answered,
            p50_us: report.latency.p50_us,
            p99_us: report.latency.p99_us,
            errors: report.errors_sum(),
        });
        let highest = contender.row.memory_loaded.get_or_insert(window.memory);
        if window.memory.pss_bytes > highest.pss_bytes {
            *highest = window.memory;
        }
        Ok(())
    }

    fn play_fixed_rate(&self, contender: &mut Contender, fixed: &FixedRate) -> Result<(), Error> {
        let extent = Extent::For(self.options.duration.unwrap_or(fixed.duration));
        let mut config =
            self.config(self.suite.front, contender.port, fixed.connections, fixed.streams, extent)?;
        config.pace = Pace::Open { rate_per_s: fixed.per_second, arrivals: fixed.arrivals.into() };
        let (report, window) = self.measure(contender, &config)?;
        if report.interrupted {
            return Ok(());
        }
        let answered = (report.requests + report.errors_sum()).max(1) as f64;
        contender.row.fixed_rate.push(FixedRateSample {
            cpu_us_per_request: window.usage.cpu_ns as f64 / 1000.0 / answered,
            p50_us: report.latency.p50_us,
            p99_us: report.latency.p99_us,
            p999_us: report.latency.p999_us,
            errors: report.errors_sum(),
            unsent: report.unsent,
        });
        Ok(())
    }

    fn config(
        &self,
        front: Front,
        port: u16,
        connections: usize,
        streams: usize,
        extent: Extent,
    ) -> Result<Config, Error> {
        let suite = self.suite;
        let scheme = if front.is_tls() { "https" } else { "http" };
        let target = Target::parse(&format!("{scheme}://127.0.0.1:{port}{}", suite.path), 1)
            .map_err(|e| Error::Load(load::Error::Request(e.to_string())))?;
        let mut config = Config::new(vec![target], extent);
        config.request.method.clone_from(&suite.method);
        config.request.body = vec![b'x'; suite.request_bytes];
        if front.is_http2() {
            config.protocol = Protocol::Http2 { streams };
        }
        config.grpc =
            suite.grpc.map(|call| Grpc { message_bytes: call.message_bytes, messages: call.messages });
        config.connections = connections;
        config.threads = self.load_threads.min(connections);
        config.warm_up = suite.warm_up;
        config.timeout = REQUEST_TIMEOUT;
        config.check = Check { status: Some(200), body_bytes: suite.body_bytes(), digest: Digest::Unchecked };
        if let Some(certificates) = &self.certificates {
            config.tls.trust = Trust::File(certificates.root.clone());
        }
        // All contenders can do 1.3, and those that would choose otherwise are not asked.
        config.tls.version_min = Version::Tls13;
        config.cores.clone_from(&self.load_cores);
        Ok(config)
    }

    fn measure(&self, contender: &Contender, config: &Config) -> Result<(Report, Window), Error> {
        let mut window = Window { pid: contender.process.pid(), ..Window::default() };
        let report = load::run(config, self.stop, &mut window).map_err(Error::Load)?;
        Ok((report, window))
    }

    /// Opens connections one after another, each with one request, and reads the memory while they are still.
    fn hold_idle(&self, contender: &Contender, connections: usize) -> Result<IdleSample, Error> {
        let needed = connections as u64 + 64;
        net::ensure_descriptors(needed)
            .map_err(|limit| Error::Load(load::Error::Descriptors { needed, limit }))?;
        let config = self.config(self.suite.front, contender.port, connections, 1, Extent::Requests(1))?;
        let mut held = Vec::with_capacity(connections);
        let tls = self.suite.front.is_tls().then(|| config.tls.build(&["http/1.1"])).transpose();
        let tls = tls.map_err(|e| Error::Load(load::Error::Tls(e)))?.map(Arc::new);
        for _ in 0..connections {
            if self.is_stopped() {
                break;
            }
            // What it does not hold it does not hold; the count is part of the result.
            let Ok(connection) = idle::Held::open(&config.targets[0], tls.as_ref(), REQUEST_TIMEOUT) else {
                break;
            };
            held.push(connection);
        }
        thread::sleep(SETTLE);
        let memory = usage::memory_of_tree(contender.process.pid());
        let grown = memory.pss_bytes.saturating_sub(contender.row.memory_started.pss_bytes);
        Ok(IdleSample {
            connections: held.len(),
            memory,
            pss_bytes_per_connection: grown / held.len().max(1) as u64,
        })
    }
}

/// A proxy's accounts over the measured window.
#[derive(Debug, Default)]
struct Window {
    pid: u32,
    at_start: Usage,
    usage: Usage,
    memory: Memory,
}

impl Observer for Window {
    fn window_starts(&mut self) {
        self.at_start = usage::of_tree(self.pid);
    }

    fn second(&mut self, second: &Second, _totals: &Totals) {
        // Once: reading it walks the proxy's page tables.
        if second.second == 0 {
            self.memory = usage::memory_of_tree(self.pid);
        }
    }

    fn window_ends(&mut self) {
        self.usage = usage::of_tree(self.pid).since(self.at_start);
        if self.memory == Memory::default() {
            self.memory = usage::memory_of_tree(self.pid);
        }
    }
}

/// Asks until the answer is the origin's own, byte for byte.
fn await_answers(config: &Config, process: &mut Process, stop: &Arc<AtomicBool>) -> Result<(), String> {
    let mut config = config.clone();
    if let Some(bytes) = config.check.body_bytes {
        config.check.digest = Digest::Exactly(pattern::digest(bytes));
    }
    config.warm_up = Duration::ZERO;
    let since = Instant::now();
    loop {
        let why = match load::run(&config, stop, &mut load::Unobserved) {
            Ok(report) if report.requests == 1 => return Ok(()),
            Ok(report) => {
                let errors = report.errors.iter().filter(|(_, n)| **n > 0).map(|(kind, _)| *kind);
                let reason = report.tls.and_then(|tls| tls.first_error).unwrap_or_default();
                format!("{} {reason}", errors.collect::<Vec<_>>().join(", "))
            }
            Err(e) => e.to_string(),
        };
        if let Some(words) = process.last_words() {
            return Err(words);
        }
        if since.elapsed() > START_TIME_MAX || stop.load(Ordering::Relaxed) {
            return Err(format!("gives no right answer: {}", why.trim_end()));
        }
        thread::sleep(START_POLL_PAUSE);
    }
}

fn scratch_directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ringway-bench-{}-{name}", std::process::id()))
}
