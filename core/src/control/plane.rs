//! The control thread's state and its loop: holds the workers, hands them snapshots, takes orders.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::dns::{self, Addresses, Name};
use super::limits;
use super::order::{Order, Overrides, Readiness, ReloadError, Running, Source, StartError};
use super::prepare::{
    First, Listening, Parts, Shared, bind_address, check_files, install, listen, load, load_first, load_tls,
    log_target, resolve_names, targets,
};
use super::prober::Prober;
use super::tls::{Keeper, Tls};
use super::upstreams::{self, Known};
use crate::admin;
use crate::base::clock::{Clock as _, Monotonic};
use crate::base::limits::{
    COLLECT_TIMEOUT_MS, DESCRIPTORS_RESERVED, WORKER_FAILURES_MAX, WORKER_FAILURES_WINDOW_MS,
};
use crate::base::panics;
use crate::config::snapshot::{Io, Snapshot};
use crate::config::source::file::FileSource;
use crate::config::{self, Origin, Severity};
use crate::net::descriptors;
use crate::net::driver::{IoMode, allowed_cpus};
use crate::net::listener::{BindAddress, bind_all};
use crate::proxy::core::{Install, ListenerId, Node, liveness};
use crate::proxy::explain::{self, World};
use crate::telemetry::journal;
use crate::telemetry::log_writer::LogWriter;
use crate::telemetry::metrics::{ProcessInfo, Sample, render};
use crate::worker::{self, Failure, Message, Worker};

/// How often the configuration file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Signals to end that come within so long of the first are one with it.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// How long a start waits for an address that is taken. A process that was killed keeps its own for some milliseconds,
/// until the kernel has let go of its ring.
const BIND_PATIENCE: Duration = Duration::from_secs(2);

/// How long the end waits for workers, which need up to a second themselves.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long a message waits for room in a worker's mailbox.
const POST_PATIENCE: Duration = Duration::from_secs(5);

/// How often it tries meanwhile.
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// How often names that are due are asked for, and workers are looked after.
const ROUND: Duration = Duration::from_millis(250);

/// The control thread's state.
struct Plane {
    workers: Vec<Worker>,
    install: Arc<Install>,
    /// Snapshots that workers may still hold: freed here, not there.
    retired: Vec<Arc<Install>>,
    listening: Vec<Listening>,
    ids: BTreeMap<Arc<str>, ListenerId>,
    addresses: Addresses,
    due: HashMap<Name, Instant>,
    /// Names without addresses, and how often they were asked for in vain.
    unresolved: HashMap<Name, u32>,
    resolving: tokio::task::JoinSet<(Name, io::Result<Vec<SocketAddr>>)>,
    shared: Shared,
    prober: Prober,
    node: Arc<Node>,
    /// The workers' own.
    clock: Monotonic,
    keeper: Keeper,
    tls: Tls,
    /// Of the configuration in force, for places in messages.
    origin: Origin,
    tls_reloads_refused: u64,
    source: Option<FileSource>,
    file_name: String,
    log: LogWriter,
    started: Instant,
    version: u64,
    reloads: u64,
    reloads_refused: u64,
    last_refusal: Option<String>,
    readiness: Arc<Readiness>,
    drain_until: Option<Instant>,
    /// When a signal has said so first.
    asked_to_end: Option<Instant>,
    /// When workers have failed of late.
    failures: VecDeque<Instant>,
    worker_restarts: u64,
    descriptors: Descriptors,
}

/// What the process may open, and what of it is open for good beside listeners.
#[derive(Debug, Clone, Copy)]
struct Descriptors {
    max: u64,
    others: u64,
}

/// Runs a server until it is stopped. Tells through `started` when it serves, or why it does not. An error is why the
/// server could not go on.
pub async fn run(
    source: Source,
    overrides: Overrides,
    orders: (mpsc::Sender<Order>, mpsc::Receiver<Order>),
    started: std::sync::mpsc::Sender<Result<Running, StartError>>,
) -> Result<(), String> {
    panics::watch_thread();
    let (order, mut orders) = orders;
    let (failed, mut failures) = mpsc::channel(WORKER_FAILURES_MAX + 1);
    let (mut plane, running, admin) = match start(source, overrides, failed).await {
        Ok(all) => all,
        Err(error) => {
            let _ = started.send(Err(error));
            return Ok(());
        }
    };
    let mut signals = match Signals::new(overrides.signals) {
        Ok(signals) => signals,
        Err(error) => {
            let _ = started.send(Err(StartError::Worker(error)));
            return Ok(());
        }
    };
    let serve = |door| tokio::spawn(admin::serve(door, order.clone(), Arc::clone(&plane.readiness)));
    let admin: Vec<_> = admin.into_iter().map(serve).collect();
    drop(order);
    plane.readiness.set(true);
    let _ = started.send(Ok(running));
    let outcome = plane.serve(&mut orders, &mut signals, &mut failures).await;
    for door in admin {
        door.abort();
    }
    plane.end();
    outcome
}

/// The signals that are ours, or none.
struct Signals {
    all: Option<[UnixSignal; 4]>,
}

enum Heard {
    Drain,
    Reload,
    Rotate,
}

impl Signals {
    fn new(wanted: bool) -> io::Result<Self> {
        if !wanted {
            return Ok(Self { all: None });
        }
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::user_defined1(),
        ];
        let [term, int, hup, usr1] = kinds.map(signal);
        Ok(Self { all: Some([term?, int?, hup?, usr1?]) })
    }

    async fn next(&mut self) -> Heard {
        let Some([term, int, hup, usr1]) = &mut self.all else { return std::future::pending().await };
        tokio::select! {
            _ = term.recv() => Heard::Drain,
            _ = int.recv() => Heard::Drain,
            _ = hup.recv() => Heard::Reload,
            _ = usr1.recv() => Heard::Rotate,
        }
    }
}

async fn start(
    source: Source,
    overrides: Overrides,
    failures: mpsc::Sender<Failure>,
) -> Result<(Plane, Running, Vec<admin::Door>), StartError> {
    let descriptors_max = descriptors::raise_limit();
    let First { snapshot, file, name: file_name, origin } = load_first(source)?;
    let snapshot = Arc::new(snapshot);
    let mut keeper = Keeper::default();
    let tls = load_tls(&mut keeper, &snapshot, &Tls::default(), &origin, &file_name)?;
    let cpus = allowed_cpus();
    let count = overrides.workers.unwrap_or_else(|| snapshot.workers.map_or(cpus.len(), usize::from)).max(1);
    let io = overrides.io.unwrap_or(match snapshot.io {
        Io::Auto => IoMode::Auto,
        Io::Uring => IoMode::Uring,
        Io::Epoll => IoMode::Epoll,
    });
    let (addresses, unknown) = resolve_names(&snapshot, &Addresses::new()).await;
    check_files(&snapshot)?;
    let mut ids = BTreeMap::new();
    let patience = Instant::now() + BIND_PATIENCE;
    let listening = once_free(patience, || listen(&snapshot, &mut ids, Vec::new(), count)).await?;
    let admin_bound = match &snapshot.admin {
        Some(admin) => {
            let failed = |(address, error)| StartError::Bind { address: format!("{address} (admin)"), error };
            once_free(patience, || admin::bind(admin).map_err(failed)).await?
        }
        None => Vec::new(),
    };
    let mut shared = Shared::default();
    let clock = Monotonic::start();
    let parts =
        Parts { addresses: &addresses, ids: &ids, tls: &tls, workers: count, now_ms: 0, before: None };
    let install = Arc::new(install(&snapshot, &mut shared, &parts));
    let log = LogWriter::start("access log", journal::report).map_err(StartError::Worker)?;
    log.retarget(log_target(&snapshot));
    let node = Node::new(count, seed());
    let setup = worker::Setup {
        io,
        cpus: if overrides.pin.unwrap_or(snapshot.pin) { cpus } else { Vec::new() },
        node: Arc::clone(&node),
        install: Arc::clone(&install),
        failures,
        log: log.batches.clone(),
        clock,
    };
    let workers = worker::start_all(&setup, count).map_err(StartError::Worker)?;
    let running = Running {
        listeners: listening.iter().map(|l| (l.name.to_string(), l.bound.clone())).collect(),
        admin: admin_bound.first().map(|(_, bound)| bound.clone()),
        admin_actions: admin_bound.get(1).map(|(_, bound)| bound.clone()),
        driver: workers[0].driver,
        workers: count,
    };
    announce(&running, workers[0].refused.as_deref());
    let now = Instant::now();
    let mut plane = Plane {
        workers,
        retired: Vec::new(),
        listening,
        ids,
        due: dns::names(&snapshot).into_iter().map(|(name, refresh)| (name, now + refresh)).collect(),
        addresses,
        unresolved: HashMap::new(),
        resolving: tokio::task::JoinSet::new(),
        prober: Prober::start(clock, seed()),
        shared,
        clock,
        node,
        keeper,
        tls,
        origin,
        tls_reloads_refused: 0,
        source: file,
        file_name,
        log,
        started: now,
        version: snapshot.version,
        reloads: 0,
        reloads_refused: 0,
        last_refusal: None,
        readiness: Arc::default(),
        drain_until: None,
        asked_to_end: None,
        failures: VecDeque::new(),
        descriptors: Descriptors { max: descriptors_max, others: 0 },
        worker_restarts: 0,
        install,
    };
    plane.ask_again(unknown, &snapshot);
    plane.prober.configure(targets(&plane.install, &plane.tls));
    plane.descriptors.others = descriptors::open_now().saturating_sub(plane.listening_descriptors() / 2);
    plane.share_descriptors(None);
    plane.hand_out_sockets(0);
    Ok((plane, running, admin_bound.into_iter().map(|(door, _)| door).collect()))
}

/// Binds, and waits until `patience` while an address is taken.
async fn once_free<T>(
    patience: Instant,
    mut bind: impl FnMut() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let mut told = false;
    loop {
        match bind() {
            Err(StartError::Bind { address, error })
                if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience =>
            {
                if !std::mem::replace(&mut told, true) {
                    journal::info(format_args!("waiting for {address}: something else listens there still"));
                }
                tokio::time::sleep(BIND_PAUSE).await;
            }
            bound => return bound,
        }
    }
}

fn announce(running: &Running, refused: Option<&str>) {
    for (name, address) in &running.listeners {
        journal::info(format_args!("listening on {address} ({name})"));
    }
    if let Some(address) = &running.admin {
        journal::info(format_args!("admin on {address}"));
    }
    if let Some(address) = &running.admin_actions {
        journal::info(format_args!("admin actions on {address}"));
    }
    let workers =
        if running.workers == 1 { "1 worker".to_owned() } else { format!("{} workers", running.workers) };
    match refused {
        Some(reason) => {
            journal::warn(format_args!("{workers} on epoll, because io_uring is refused here: {reason}"));
        }
        None => journal::info(format_args!("{workers} on {}", running.driver)),
    }
}

impl Plane {
    async fn serve(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        signals: &mut Signals,
        failures: &mut mpsc::Receiver<Failure>,
    ) -> Result<(), String> {
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        let mut round = tokio::time::interval(ROUND);
        watch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Reload(text, reply)) => {
                        let name = self.file_name.clone();
                        let _ = reply.send(self.reload(text.as_bytes(), &name).await);
                    }
                    Some(Order::Drain) => self.drain(),
                    Some(Order::Stop) | None => return Ok(()),
                    Some(Order::Metrics(reply)) => {
                        let mut process = self.process_info();
                        let workers = self.workers.len();
                        self.collect(reply, move |samples| {
                            process.workers_silent = (workers - samples.len()) as u64;
                            render(samples, &process)
                        });
                    }
                    Some(Order::Limits(reply)) => {
                        let (install, now_ns) = (Arc::clone(&self.install), self.clock.now_ns());
                        self.collect(reply, move |samples| limits::page(&install, samples, now_ns));
                    }
                    Some(Order::LimitKey(asked, deed, reply)) => {
                        let _ = reply.send(limits::key(&self.install, &asked, deed, self.clock.now_ns()));
                    }
                    Some(Order::Upstreams(reply)) => {
                        let (known, now_ms) = (self.known(), self.clock.now_ms());
                        self.collect(reply, move |samples| upstreams::page(&known, samples, now_ms));
                    }
                    Some(Order::Canaries(reply)) => {
                        let _ = reply.send(self.shared.canaries.page());
                    }
                    Some(Order::CanaryRestart(route, reply)) => {
                        let _ = reply.send(self.shared.canaries.restart(&route, unix_ms()));
                    }
                    Some(Order::Explain(question, reply)) => {
                        let (install, now_ns) = (Arc::clone(&self.install), self.clock.now_ns());
                        self.collect(reply, move |samples| {
                            let world = World {
                                snapshot: &install.snapshot,
                                trials: &install.trials,
                                limiting: install.limiting.as_deref(),
                                revisions: &install.revisions,
                                upstreams: &install.upstreams,
                                samples,
                                now_ns,
                            };
                            explain::text(&world, &question)
                        });
                    }
                    Some(Order::Config(reply)) => {
                        let _ = reply.send(self.describe());
                    }
                },
                heard = signals.next() => match heard {
                    Heard::Drain => match self.asked_to_end {
                        // One word of a supervisor that signals the whole group and the process itself.
                        Some(asked) if asked.elapsed() < SAME_SIGNAL => {}
                        Some(_) => {
                            journal::info("stopping at once");
                            return Ok(());
                        }
                        None => {
                            self.asked_to_end = Some(Instant::now());
                            self.drain();
                        }
                    },
                    Heard::Reload => {
                        self.reload_file(Reason::Asked).await;
                        self.refresh_tls(Reason::Asked).await;
                    }
                    Heard::Rotate => self.log.retarget(log_target(&self.install.snapshot)),
                },
                _ = watch.tick() => {
                    self.reload_file(Reason::Changed).await;
                    self.refresh_tls(Reason::Changed).await;
                }
                _ = round.tick() => {
                    if self.look_after().await? == Next::End {
                        return Ok(());
                    }
                }
                Some(failure) = failures.recv() => self.restarted(&failure).await?,
            }
        }
    }

    /// Periodic: has everything drained, did a worker die, which names are due, which snapshots are free.
    async fn look_after(&mut self) -> Result<Next, String> {
        tell_panics();
        if self.prober.has_failed() {
            return Err("the task of health checks has failed".to_owned());
        }
        let ended = self.workers.iter().filter(|w| w.has_ended()).count();
        if let Some(until) = self.drain_until {
            if ended == self.workers.len() || Instant::now() >= until {
                return Ok(Next::End);
            }
        } else if ended > 0 {
            return Err("a worker has ended for good".to_owned());
        }
        // Who pins a snapshot holds its upstreams, too, and lets go of them last.
        self.retired
            .retain(|install| Arc::strong_count(install) > 1 || Arc::strong_count(&install.upstreams) > 1);
        while let Some(note) = self.node.take_note() {
            journal::warn(note);
        }
        if self.keeper.rotate(Instant::now()) {
            self.renew_tls().await;
        }
        self.shared.canaries.look(self.clock.now_ms(), unix_ms());
        self.refresh_names().await;
        Ok(Next::GoOn)
    }

    /// A worker has failed and begins anew with the snapshot that it had: gives it the one in force, and its listeners.
    /// An error if that happens too often.
    async fn restarted(&mut self, Failure { worker, reason }: &Failure) -> Result<(), String> {
        tell_panics();
        let now = Instant::now();
        let window = Duration::from_millis(WORKER_FAILURES_WINDOW_MS);
        self.failures.push_back(now);
        self.failures.retain(|at| now.duration_since(*at) < window);
        self.worker_restarts += 1;
        let failures = self.failures.len();
        if failures > WORKER_FAILURES_MAX {
            return Err(format!(
                "workers have failed {failures} times within {window:?}, last with: {reason}"
            ));
        }
        journal::warn(format_args!("worker {worker} has failed and is started anew: {reason}"));
        if self.drain_until.is_some() {
            // It has heard of that already, and has nothing left to finish.
            return Ok(());
        }
        self.post(*worker, Message::Install(Arc::clone(&self.install))).await;
        // What it was sent to listen on while it failed it may have or not.
        for listening in &self.listening {
            self.post(*worker, Message::Unlisten(listening.id)).await;
        }
        for at in 0..self.listening.len() {
            self.send_socket(at, *worker).await;
        }
        Ok(())
    }

    async fn refresh_names(&mut self) {
        let now = Instant::now();
        let wanted = dns::names(&self.install.snapshot);
        self.due.retain(|name, _| wanted.contains_key(name));
        for (name, refresh) in wanted {
            let due = self.due.entry(name.clone()).or_insert(now + refresh);
            if *due <= now {
                *due = now + refresh;
                self.resolving.spawn(async move {
                    let found = dns::resolve(&name).await;
                    (name, found)
                });
            }
        }
        let (mut changed, mut unknown) = (false, Vec::new());
        while let Some(done) = self.resolving.try_join_next() {
            match done {
                Ok((name, Ok(found))) => {
                    if self.unresolved.remove(&name).is_some() {
                        journal::info(format_args!("`{}` has addresses now", name.0));
                    }
                    changed |= self.addresses.get(&name) != Some(&found);
                    self.addresses.insert(name, found);
                }
                Ok((name, Err(_))) if !self.addresses.contains_key(&name) => unknown.push(name),
                Ok((name, Err(error))) => {
                    journal::warn(format_args!(
                        "can't resolve `{}`: {error}; its last addresses stay",
                        name.0
                    ));
                }
                Err(_) => {}
            }
        }
        let snapshot = Arc::clone(&self.install.snapshot);
        self.ask_again(unknown, &snapshot);
        if changed {
            let next = self.made_of(&snapshot);
            self.hand_out(next).await;
        }
    }

    /// Names that have no address so far are asked for sooner than others are refreshed.
    fn ask_again(&mut self, unknown: Vec<Name>, snapshot: &Snapshot) {
        if unknown.is_empty() && self.unresolved.is_empty() {
            return;
        }
        let wanted = dns::names(snapshot);
        self.unresolved.retain(|name, _| wanted.contains_key(name));
        for name in unknown {
            let Some(refresh) = wanted.get(&name) else { continue };
            let failures = self.unresolved.entry(name.clone()).or_default();
            *failures = failures.saturating_add(1);
            self.due.insert(name, Instant::now() + dns::retry_after(*failures, *refresh));
        }
    }

    /// Takes over certificates, keys and authorities whose files have changed. Those that can't be used are said, and
    /// what they were to replace stays.
    async fn refresh_tls(&mut self, reason: Reason) {
        self.keeper.poll();
        let changed = self.keeper.has_changed();
        if self.drain_until.is_some() || (!changed && reason == Reason::Changed) {
            return;
        }
        self.renew_tls().await;
    }

    /// Makes the TLS parts of the configuration in force anew, and hands out what differs.
    async fn renew_tls(&mut self) {
        let snapshot = Arc::clone(&self.install.snapshot);
        let (tls, findings) = self.keeper.compile(&snapshot, &self.tls, Instant::now());
        for (severity, remarks) in
            [(Severity::Error, &findings.errors), (Severity::Warning, &findings.warnings)]
        {
            if !remarks.is_empty() {
                let report = config::report(&self.origin, &self.file_name, severity, remarks);
                let outcome =
                    if severity == Severity::Error { "what it was to replace stays in use: " } else { "" };
                journal::warn(format_args!("{outcome}{report}"));
            }
        }
        self.tls_reloads_refused += u64::from(!findings.errors.is_empty());
        if self.tls.is(&tls) {
            return;
        }
        self.tls = tls;
        let next = self.made_of(&snapshot);
        self.hand_out(next).await;
    }

    async fn reload_file(&mut self, reason: Reason) {
        if self.drain_until.is_some() {
            return;
        }
        if reason == Reason::Asked {
            self.log.retarget(log_target(&self.install.snapshot));
        }
        let Some(source) = &mut self.source else {
            if reason == Reason::Asked {
                journal::warn("nothing to reload: this configuration did not come from a file");
            }
            return;
        };
        let polled = source.poll();
        let name = self.file_name.clone();
        match polled {
            Some(Ok(text)) => {
                let _ = self.reload(&text, &name).await;
            }
            Some(Err(error)) => {
                self.refuse(&StartError::Source(error.to_string()));
            }
            None if reason == Reason::Asked => journal::info("the configuration file has not changed"),
            None => {}
        }
    }

    async fn reload(&mut self, text: &[u8], name: &str) -> Result<u64, ReloadError> {
        match self.try_reload(text, name).await {
            Ok(version) => {
                self.reloads += 1;
                self.last_refusal = None;
                let hash = self.install.snapshot.hash;
                journal::info(format_args!("configuration version {version} ({hash:016x}) is in force"));
                Ok(version)
            }
            Err(error) => {
                self.refuse(&error);
                Err(error)
            }
        }
    }

    fn refuse(&mut self, error: &StartError) {
        self.reloads_refused += 1;
        let version = self.version;
        journal::warn(format_args!(
            "reload refused, configuration version {version} stays in force: {error}"
        ));
        self.last_refusal = Some(error.to_string());
    }

    async fn try_reload(&mut self, text: &[u8], name: &str) -> Result<u64, ReloadError> {
        let version = self.version + 1;
        let snapshot = Arc::new(load(text, name, version)?);
        let origin = Origin::Text(text.to_vec());
        self.keeper.poll();
        let tls = load_tls(&mut self.keeper, &snapshot, &self.tls, &origin, name)?;
        let (addresses, unknown) = resolve_names(&snapshot, &self.addresses).await;
        check_files(&snapshot)?;
        self.warn_of_fixed(&snapshot);
        let mut ids = self.ids.clone();
        // Bind what is new before anything changes; what exists is matched by address and only moved on success.
        let fresh = self.bind_new(&snapshot)?;
        let before = self.listening.len();
        let mut old = std::mem::take(&mut self.listening);
        old.extend(fresh);
        let had: Vec<(BindAddress, ListenerId)> =
            old.iter().take(before).map(|l| (l.configured.clone(), l.id)).collect();
        self.listening = listen(&snapshot, &mut ids, old, self.workers.len())?;
        self.ids = ids;
        self.addresses = addresses;
        self.ask_again(unknown, &snapshot);
        self.version = version;
        self.log.retarget(log_target(&snapshot));
        (self.tls, self.origin) = (tls, origin);
        self.keeper.forget_others(&snapshot);
        let next = self.made_of(&snapshot);
        self.hand_out(next).await;
        self.move_sockets(&had).await;
        Ok(version)
    }

    fn warn_of_fixed(&self, snapshot: &Snapshot) {
        let old = &self.install.snapshot;
        let changed = [
            ("workers", old.workers != snapshot.workers),
            ("io", old.io != snapshot.io),
            ("pin", old.pin != snapshot.pin),
            ("admin", old.admin != snapshot.admin),
        ];
        for (name, _) in changed.iter().filter(|(_, changed)| *changed) {
            journal::warn(format_args!("a change of `{name}` takes effect at the next start"));
        }
    }

    fn bind_new(&self, snapshot: &Snapshot) -> Result<Vec<Listening>, StartError> {
        let mut fresh = Vec::new();
        for listener in &snapshot.listeners {
            for address in &listener.addresses {
                let configured = bind_address(address);
                if self.listening.iter().any(|l| l.configured == configured) {
                    continue;
                }
                let (sockets, bound) = bind_all(&configured, self.workers.len(), liveness(listener.tcp))
                    .map_err(|error| StartError::Bind { address: configured.to_string(), error })?;
                fresh.push(Listening {
                    name: Arc::clone(&listener.name),
                    configured,
                    bound,
                    id: ListenerId(u32::MAX),
                    sockets,
                });
            }
        }
        Ok(fresh)
    }

    /// Sends each worker the sockets it does not have, and tells it which to leave.
    async fn move_sockets(&mut self, had: &[(BindAddress, ListenerId)]) {
        let stays = |address: &BindAddress, id: ListenerId, listening: &[Listening]| {
            listening.iter().any(|l| l.configured == *address && l.id == id)
        };
        // A listener whose sockets changed in any way is left whole and listened on again: the sockets themselves stay
        // open in `self.listening`, so no queued connection is lost in between.
        let left: std::collections::BTreeSet<u32> = had
            .iter()
            .filter(|(address, id)| !stays(address, *id, &self.listening))
            .map(|(_, id)| id.0)
            .collect();
        for id in &left {
            for worker in 0..self.workers.len() {
                self.post(worker, Message::Unlisten(ListenerId(*id))).await;
            }
        }
        for at in 0..self.listening.len() {
            let l = &self.listening[at];
            let known = had.iter().any(|(address, id)| *address == l.configured && *id == l.id);
            if !known || left.contains(&l.id.0) {
                journal::info(format_args!("listening on {} ({})", l.bound, l.name));
                self.send_sockets(at).await;
            }
        }
    }

    async fn send_sockets(&self, at: usize) {
        for worker in 0..self.workers.len() {
            self.send_socket(at, worker).await;
        }
    }

    async fn send_socket(&self, at: usize, worker: usize) {
        let listening = &self.listening[at];
        match listening.sockets[worker].try_clone() {
            Ok(socket) => self.post(worker, Message::Listen(listening.id, socket)).await,
            Err(error) => {
                journal::warn(format_args!("can't pass {} to a worker: {error}", listening.bound));
            }
        }
    }

    /// At the start, when every mailbox is empty.
    fn hand_out_sockets(&mut self, from: usize) {
        for listening in &self.listening[from..] {
            for (worker, socket) in self.workers.iter().zip(&listening.sockets) {
                match socket.try_clone() {
                    Ok(socket) => drop(worker.mailbox.send(Message::Listen(listening.id, socket))),
                    Err(error) => {
                        journal::warn(format_args!("can't pass {} to a worker: {error}", listening.bound));
                    }
                }
            }
        }
    }

    /// A snapshot with all that this process knows of its names, certificates and endpoints.
    fn made_of(&mut self, snapshot: &Arc<Snapshot>) -> Install {
        let (now_ms, workers) = (self.clock.now_ms(), self.workers.len());
        let parts = Parts {
            addresses: &self.addresses,
            ids: &self.ids,
            tls: &self.tls,
            workers,
            now_ms,
            before: Some(&self.install),
        };
        install(snapshot, &mut self.shared, &parts)
    }

    /// Of listeners: a socket for each worker, here and there.
    fn listening_descriptors(&self) -> u64 {
        2 * self.listening.iter().map(|l| l.sockets.len() as u64).sum::<u64>()
    }

    /// Gives each worker its part of what the process may open. Says where less can be served than is configured, unless
    /// that was so `before`.
    fn share_descriptors(&self, before: Option<&Snapshot>) {
        let Descriptors { max, others } = self.descriptors;
        let workers = self.workers.len() as u64;
        let reserved = DESCRIPTORS_RESERVED.min(max / 4);
        let each = max.saturating_sub(reserved + others + self.listening_descriptors()) / workers;
        // Two clients and their upstreams: less would be no proxy.
        let each = each.max(4);
        self.node.allow_descriptors(u32::try_from(each).unwrap_or(u32::MAX));
        let clients = |snapshot: &Snapshot| {
            workers * snapshot.listeners.iter().map(|l| u64::from(l.connections_max)).sum::<u64>()
        };
        let wanted = clients(&self.install.snapshot);
        if before.is_some_and(|before| clients(before) == wanted) || wanted <= each / 2 * workers {
            return;
        }
        journal::warn(format_args!(
            "listeners allow {wanted} connections, but this process may open {max} files, enough for {} clients with a \
             connection to an upstream each: more will wait. Raise the hard limit (ulimit -Hn, LimitNOFILE=) to {}, or \
             lower `connections_max`",
            each / 2 * workers,
            2 * wanted + others + self.listening_descriptors() + DESCRIPTORS_RESERVED
        ));
    }

    /// Gives all workers a snapshot.
    async fn hand_out(&mut self, next: Install) {
        let next = Arc::new(next);
        self.prober.configure(targets(&next, &self.tls));
        let old = std::mem::replace(&mut self.install, Arc::clone(&next));
        self.share_descriptors(Some(&old.snapshot));
        self.retired.push(old);
        for worker in 0..self.workers.len() {
            self.post(worker, Message::Install(Arc::clone(&next))).await;
        }
    }

    /// Sends a message that must not be lost. A worker's mailbox is full only while it is flooded with sockets.
    async fn post(&self, index: usize, mut message: Message) {
        let worker = &self.workers[index];
        let until = Instant::now() + POST_PATIENCE;
        while let Err(back) = worker.mailbox.send(message) {
            if worker.has_ended() {
                return;
            }
            if Instant::now() >= until {
                // The others, signals and the admin interface can't wait for it for ever.
                journal::warn(format_args!("worker {index} stands still and takes no messages"));
                return;
            }
            message = back;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn drain(&mut self) {
        if self.drain_until.is_some() {
            return;
        }
        let patience = self.install.snapshot.drain;
        journal::info(format_args!("draining for up to {patience:?}"));
        self.readiness.set(false);
        self.drain_until = Some(Instant::now() + patience);
        // Our own copies of the sockets go first, so that the last close is the workers'.
        self.listening.clear();
        for worker in &self.workers {
            worker.mailbox.drain();
        }
    }

    /// Asks every worker for its numbers, and answers when all have come or time is up.
    fn collect<T: Send + 'static>(
        &self,
        reply: oneshot::Sender<T>,
        render: impl FnOnce(&[Sample]) -> T + Send + 'static,
    ) {
        let (sender, receiver) = crossbeam_channel::bounded(self.workers.len());
        for worker in &self.workers {
            let _ = worker.mailbox.send(Message::Collect(sender.clone()));
        }
        drop(sender);
        let workers = self.workers.len();
        tokio::task::spawn_blocking(move || {
            let until = Instant::now() + Duration::from_millis(COLLECT_TIMEOUT_MS);
            let mut samples: Vec<(usize, Sample)> = Vec::with_capacity(workers);
            while let Ok(sample) = receiver.recv_deadline(until) {
                samples.push(sample);
            }
            samples.sort_by_key(|(index, _)| *index);
            let samples: Vec<Sample> = samples.into_iter().map(|(_, sample)| sample).collect();
            let _ = reply.send(render(&samples));
        });
    }

    fn process_info(&self) -> ProcessInfo {
        ProcessInfo {
            drivers: self.workers.iter().map(|w| w.driver.name()).collect(),
            snapshot_version: self.install.snapshot.version,
            snapshot_hash: format!("{:016x}", self.install.snapshot.hash),
            reloads: self.reloads,
            reloads_refused: self.reloads_refused,
            uptime_ms: self.started.elapsed().as_millis() as u64,
            resident_bytes: resident_bytes(),
            log_lines_lost: [
                ("access", self.log.lost()),
                ("decisions", self.shared.canaries.log_lines_lost()),
                ("journal", journal::lost()),
            ],
            workers_silent: 0,
            worker_restarts: self.worker_restarts,
            endpoints: upstreams::infos(&self.known()),
            canaries: self.shared.canaries.infos(),
            certificates: self.tls.certificates(),
            tls_reloads_refused: self.tls_reloads_refused,
            names_unresolved: self.unresolved.len() as u64,
        }
    }

    /// Everybody's health, in the order of the configuration.
    fn known(&self) -> Vec<Known> {
        upstreams::known(&self.install, &self.prober.reports(), self.clock.now_ms())
    }

    fn describe(&self) -> String {
        let snapshot = &self.install.snapshot;
        let config: serde_json::Value = serde_json::from_str(&snapshot.canonical).unwrap_or_default();
        let listeners: Vec<_> = self
            .listening
            .iter()
            .map(|l| serde_json::json!({ "name": &*l.name, "address": l.bound.to_string() }))
            .collect();
        let addresses: BTreeMap<String, Vec<String>> = self
            .addresses
            .iter()
            .map(|((host, port), all)| {
                (format!("{host}:{port}"), all.iter().map(ToString::to_string).collect())
            })
            .collect();
        let value = serde_json::json!({
            "version": snapshot.version,
            "hash": format!("{:016x}", snapshot.hash),
            "source": self.file_name,
            "last_refusal": self.last_refusal,
            "listeners": listeners,
            "resolved": addresses,
            "config": config,
        });
        format!("{value:#}\n")
    }

    fn end(self) {
        tell_panics();
        self.readiness.set(false);
        drop(self.listening);
        for worker in &self.workers {
            worker.mailbox.stop();
        }
        // One that stands still must not keep the process from its end.
        let until = Instant::now() + STOP_PATIENCE;
        for (index, worker) in self.workers.into_iter().enumerate() {
            while !worker.has_ended() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if worker.has_ended() {
                worker.join();
            } else {
                journal::warn(format_args!("worker {index} does not end; it is left behind"));
            }
        }
        self.shared.canaries.finish(journal::PATIENCE);
        let lost = self.log.finish(journal::PATIENCE);
        if lost > 0 {
            journal::warn(format_args!("{lost} lines of the access log could not be written"));
        }
    }
}

fn tell_panics() {
    for note in panics::take_notes() {
        journal::warn(note);
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The file may have changed.
    Changed,
    /// Somebody sent SIGHUP.
    Asked,
}

/// A number that differs from process to process; no secret.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// For lines that people read.
fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_millis() as u64)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
