//! What one worker owns, and the snapshot as it sees it.
//!
//! Two kinds of things, never mixed: [`Bound`] is a snapshot made ready for this worker, swapped whole by an install
//! and pinned by each request; everything else in [`Core`] is state that outlives it.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;

use super::limits::{self, LimitCounts, Limiting, Limits};
use super::log::LogBuffer;
use super::standing::{self, Applied};
use super::trial::Trial;
use super::upstream::{self, Configured, Discarded, Lend, Upstream};
use crate::base::buffer::BufferPool;
use crate::base::deadline::Deadlines;
use crate::base::kept::KeptAccount;
use crate::base::limits::{BUFFER_BYTES, SHORTAGE_NOTE_WINDOW_MS};
use crate::base::panics;
use crate::base::signal::Signal;
use crate::config::snapshot::{self, Action, Http2, ProxyProtocol, Snapshot};
use crate::http::http1::parse::HeadLimits;
use crate::http::message::{RequestIndex, ResponseIndex};
use crate::http::rewrite::Forwarding;
use crate::net::connect::Address;
use crate::net::descriptors::{self, Shortage};
use crate::net::h2::Settings as Http2Settings;
use crate::net::liveness::Liveness;
use crate::net::pipe::PipePool;
use crate::net::platform::Platform;
use crate::net::proxied::ProxyVersion;
use crate::net::tls::HandshakeError;
use crate::net::tls::server::TlsServer;
use crate::policy::health::Traffic;
use crate::policy::rate_limit::Revision;
use crate::policy::shed;
use crate::telemetry::metrics::{
    ArmSample, Counter, Gauges, GuardSample, LimitSample, Metrics, RouteSample, Sample, UpstreamSample,
};

/// A listener's number, given by the control thread and never given again: connections keep it over reloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u32);

/// A snapshot with its names resolved: what the control thread sends to every worker.
#[derive(Debug)]
pub struct Install {
    /// What is configured.
    pub snapshot: Arc<Snapshot>,
    /// Each of its upstreams. Those that are as they were are the same as in the install before.
    pub upstreams: Arc<[Arc<Configured>]>,
    /// What is different from the install before.
    pub changes: Arc<Changes>,
    /// For each of its listeners, how TLS is served.
    pub tls_servers: Vec<Option<Arc<TlsServer>>>,
    /// For each [`ListenerId`], its index in the snapshot; `None` for those that have left it.
    pub listeners: Vec<Option<usize>>,
    /// Indexes of its routes with a split.
    pub splits: Vec<usize>,
    /// For each of its routes, the canary under trial.
    pub trials: Arc<[Option<Arc<Trial>>]>,
    /// What limits count in, if any are configured.
    pub limiting: Option<Arc<limits::Shared>>,
    /// For each of its rate limits, what it is counted by.
    pub revisions: Vec<Arc<Revision>>,
}

/// How one install differs from the one before it.
#[derive(Debug, Default)]
pub struct Changes {
    /// Upstreams that are new or changed.
    pub upstreams: Vec<Arc<Configured>>,
    /// Upstreams that have left the configuration.
    pub gone_upstreams: Vec<Arc<str>>,
    /// Routes that have left it.
    pub gone_routes: Vec<Arc<str>>,
    /// The number of the install.
    pub version: u64,
}

/// What all workers of this process share: their loads, padded, and a queue of lines for the journal, which a worker
/// must not write itself.
#[derive(Debug)]
pub struct Node {
    loads: Box<[CachePadded<Load>]>,
    listeners: Mutex<HashMap<ListenerId, ByWorker>>,
    notes: ArrayQueue<String>,
    /// Descriptors that each worker may hold.
    descriptors: AtomicU32,
    /// When a shortage may be told next, in milliseconds of the workers' clock.
    shortage_note_ms: AtomicU64,
    /// Random, for what nodes should not all do alike.
    seed: u64,
}

impl Node {
    /// For so many workers. `seed` is random.
    pub fn new(workers: usize, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            loads: (0..workers).map(|_| CachePadded::default()).collect(),
            listeners: Mutex::default(),
            notes: ArrayQueue::new(NOTES_MAX),
            descriptors: AtomicU32::new(u32::MAX),
            shortage_note_ms: AtomicU64::new(0),
            seed,
        })
    }

    /// The next line that a worker wants written.
    pub fn take_note(&self) -> Option<String> {
        self.notes.pop()
    }

    /// Each worker may hold so many descriptors from its next message on.
    pub fn allow_descriptors(&self, count: u32) {
        self.descriptors.store(count, Ordering::Relaxed);
    }

    /// How many a worker may hold.
    pub fn descriptors(&self) -> u32 {
        self.descriptors.load(Ordering::Relaxed)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.loads.len()
    }

    /// The counts of one listener's connections.
    fn listener(&self, id: ListenerId) -> ByWorker {
        // Asked once by each worker for each listener; what is inside can't be left half changed.
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || (0..self.loads.len()).map(|_| CachePadded::default()).collect();
        Arc::clone(listeners.entry(id).or_insert_with(fresh))
    }

    /// The worker to hand a connection to that `worker` has just taken a place for, if it has more of them than the least
    /// loaded one. Few are spread evenly; of many, an eighth more is not worth a crossing.
    pub fn less_loaded(&self, worker: usize) -> Option<usize> {
        if self.loads.len() < 2 {
            return None;
        }
        let load = |load: &Load| load.connections.load(Ordering::Relaxed);
        let mine = load(&self.loads[worker]);
        let (least, word) = self.loads.iter().enumerate().min_by_key(|(_, word)| load(word))?;
        let theirs = load(word);
        (least != worker && mine > theirs + 1 + theirs / 8).then_some(least)
    }
}

/// One worker's load as the others see it: what is on its way to it counts already.
#[derive(Debug, Default)]
struct Load {
    connections: AtomicU64,
    handshakes: AtomicU32,
}

/// Connections of one listener, by worker; those on their way count already.
type ByWorker = Arc<[CachePadded<AtomicU32>]>;

/// A place at a worker for a connection of a listener, taken before the connection is accepted or handed over. Whoever has it
/// lets it arrive at that worker, or gives it back.
#[derive(Debug)]
#[must_use]
pub struct Place {
    worker: usize,
    /// Whose connection it is for.
    pub listener: ListenerId,
    handshake: bool,
}

/// One listener's connections, as its worker counts them.
#[derive(Debug)]
struct Counted {
    shared: ByWorker,
    here: u32,
}

/// What a connection begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// A PROXY header or a TLS handshake.
    WithHandshake,
    /// A request.
    WithRequest,
}

/// Lines that may wait for the journal.
const NOTES_MAX: usize = 64;

/// One listener's settings, as the request path needs them.
#[derive(Debug)]
pub struct BoundListener {
    /// Index in the snapshot.
    pub index: usize,
    /// How clients are told upstream.
    pub forwarding: Forwarding,
    /// How TLS is served; `None`: in the clear.
    pub tls: Option<Arc<TlsServer>>,
    /// Field lines of every response.
    pub fields: Box<[u8]>,
}

/// A snapshot made ready for this worker.
#[derive(Debug)]
pub struct Bound<S> {
    /// What is configured.
    pub snapshot: Arc<Snapshot>,
    /// By index of the snapshot's upstreams, as they are configured.
    configured: Arc<[Arc<Configured>]>,
    /// The same, as this worker knows them, once they were used. [`Core::upstream`] looks here first.
    upstreams: Box<[OnceCell<Rc<Upstream<S>>>]>,
    /// By [`ListenerId`].
    pub listeners: Box<[Option<BoundListener>]>,
    /// For connections whose listener has left the configuration: nobody vouches for hops before them any more.
    orphan: Forwarding,
    /// By index of the snapshot's routes, once they were used.
    routes: Box<[OnceCell<Rc<RouteCounts>>]>,
    /// For each route with a split, its arms' counts.
    pub(super) arms: HashMap<usize, Box<[Rc<RouteCounts>]>>,
    /// For each route, the canary under trial.
    pub(super) trials: Arc<[Option<Arc<Trial>>]>,
    /// Bounds of heads.
    pub head_limits: HeadLimits,
    /// Rate limits and limits of requests at once.
    pub(super) limits: Limits,
}

impl<S> Bound<S> {
    /// A listener's settings, if it is still configured.
    pub fn listener(&self, id: ListenerId) -> Option<&BoundListener> {
        self.listeners.get(id.0 as usize)?.as_ref()
    }

    /// Field lines of every response to a listener's clients.
    pub fn fields(&self, id: ListenerId) -> &[u8] {
        self.listener(id).map_or(&[], |listener| &listener.fields)
    }

    /// How upstreams are told about clients of a listener.
    pub fn forwarding(&self, id: ListenerId) -> &Forwarding {
        self.listener(id).map_or(&self.orphan, |listener| &listener.forwarding)
    }
}

/// Responses of one route, by class of status.
#[derive(Debug, Default)]
pub struct RouteCounts {
    classes: [Cell<u64>; 5],
}

impl RouteCounts {
    /// Counts one response.
    pub fn count(&self, status: u16) {
        let class = &self.classes[usize::from((status / 100).clamp(1, 5) - 1)];
        class.set(class.get() + 1);
    }
}

/// State by its stable id, in an order that does not change from run to run.
type ByName<T> = BTreeMap<Arc<str>, Rc<T>>;

/// What an exchange writes its heads to. It is used again, so that a request allocates none of it.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The encoded head that goes upstream, and then the client's.
    pub(super) out: Vec<u8>,
    /// Where everything stands in the request's head.
    pub(super) request: RequestIndex,
}

/// Everything that one worker owns.
#[derive(Debug)]
pub struct Core<P: Platform> {
    /// Which worker.
    pub index: usize,
    /// Time, randomness, connections.
    pub platform: P,
    /// All deadlines of this worker.
    pub deadlines: Rc<Deadlines>,
    /// I/O buffers.
    pub buffers: Rc<BufferPool>,
    /// What is kept of bodies beside the buffers.
    pub kept: Rc<KeptAccount>,
    /// Splice pipes.
    pub pipes: PipePool,
    /// Counters.
    pub metrics: Metrics,
    /// Access log lines on their way.
    pub log: LogBuffer,
    /// Raised when this worker is to finish its connections.
    pub draining: Signal,
    /// Raised when the worker ends: its own tasks end too.
    pub stopping: Signal,
    /// Raised when one of the worker's own tasks has panicked: the worker is started anew.
    pub failed: Signal,
    /// What a test has asked for.
    #[cfg(feature = "test-panics")]
    pub test_panics: crate::base::test_panics::Asked,
    /// Raised when the last connection of a draining worker has ended.
    pub empty: Signal,
    /// Raised when a connection has ended and a listener waits for room.
    pub room: Signal,
    node: Arc<Node>,
    bound: RefCell<Rc<Bound<P::Stream>>>,
    upstreams: RefCell<ByName<Upstream<P::Stream>>>,
    /// Changes that are not taken over yet, and how many of each are.
    changes: RefCell<VecDeque<(Arc<Changes>, usize)>>,
    routes: RefCell<ByName<RouteCounts>>,
    /// By route and arm.
    arms: RefCell<HashMap<[Arc<str>; 2], Rc<RouteCounts>>>,
    limiting: RefCell<Option<Rc<Limiting>>>,
    limit_counts: RefCell<ByName<LimitCounts>>,
    /// Raised when tokens were leased that may have to be given back.
    pub leases: Signal,
    connections: Cell<u64>,
    by_listener: RefCell<HashMap<ListenerId, Counted>>,
    active: Cell<u64>,
    /// Connections between two requests.
    idle: Cell<u64>,
    recent_ms: Cell<u64>,
    fade_ms: Cell<u64>,
    handshakes: Cell<u32>,
    /// When a failure of TLS to an upstream may be written next.
    tls_note_ms: Cell<u64>,
    heads: RefCell<Vec<Vec<u8>>>,
    /// Where the fields of the response stand that is being read. Nobody waits while it is borrowed.
    pub(super) response_index: RefCell<ResponseIndex>,
    // Boxed: an exchange takes one and gives it back, and moves a word each time.
    #[allow(clippy::vec_box)]
    scratches: RefCell<Vec<Box<Scratch>>>,
    date: RefCell<Date>,
}

/// Upstreams that are taken over, or looked after, in one turn: a quarter of a millisecond or so.
const TAKEN_OVER_AT_ONCE: usize = 128;

/// Keys that each worker shows.
const HEAVIEST_SHOWN: usize = 20;

/// How often old weights of keys fade.
const FADE_MS: u64 = 60_000;

/// Encoded heads kept for reuse, and how large one may have grown to be kept.
const FREE_HEADS_MAX: usize = 256;
const FREE_HEAD_BYTES_MAX: usize = 32 * 1024;

impl<P: Platform> Core<P> {
    /// A worker without connections.
    pub fn new(index: usize, platform: P, node: Arc<Node>, install: &Install, log: LogBuffer) -> Rc<Self> {
        let kept = KeptAccount::new(install.snapshot.limits.memory_bytes_max);
        let core = Rc::new(Self {
            index,
            platform,
            deadlines: Deadlines::new(),
            buffers: BufferPool::new(install.snapshot.limits.memory_bytes_max, &kept),
            kept,
            pipes: PipePool::default(),
            metrics: Metrics::new(),
            log,
            draining: Signal::default(),
            stopping: Signal::default(),
            failed: Signal::default(),
            #[cfg(feature = "test-panics")]
            test_panics: crate::base::test_panics::Asked::default(),
            empty: Signal::default(),
            room: Signal::default(),
            node,
            bound: RefCell::new(Rc::new(Bound {
                snapshot: Arc::clone(&install.snapshot),
                configured: Arc::default(),
                upstreams: Box::default(),
                listeners: Box::default(),
                orphan: Forwarding::default(),
                routes: Box::default(),
                arms: HashMap::default(),
                trials: Arc::default(),
                head_limits: HeadLimits::default(),
                limits: Limits::default(),
            })),
            limiting: RefCell::default(),
            limit_counts: RefCell::default(),
            leases: Signal::default(),
            upstreams: RefCell::default(),
            changes: RefCell::default(),
            routes: RefCell::default(),
            arms: RefCell::default(),
            connections: Cell::new(0),
            by_listener: RefCell::default(),
            active: Cell::new(0),
            idle: Cell::new(0),
            recent_ms: Cell::new(0),
            fade_ms: Cell::new(0),
            handshakes: Cell::new(0),
            tls_note_ms: Cell::new(0),
            heads: RefCell::default(),
            response_index: RefCell::default(),
            scratches: RefCell::default(),
            date: RefCell::default(),
        });
        core.tick_ns();
        core.bind(install);
        for configured in &*install.upstreams {
            core.know(configured);
        }
        core.metrics.count(Counter::SnapshotsInstalled);
        core
    }

    /// Takes over a snapshot. Requests that pinned the old one finish on it.
    ///
    /// Only what differs from the install before costs anything, and of that only the first upstreams at once: the others
    /// are taken over by and by, or when they are used, so that no request waits for upstreams that it does not go to.
    pub fn install(self: &Rc<Self>, install: &Install) {
        self.bind(install);
        {
            let mut counts = self.routes.borrow_mut();
            for gone in &install.changes.gone_routes {
                counts.remove(gone);
            }
        }
        self.changes.borrow_mut().push_back((Arc::clone(&install.changes), 0));
        if self.take_over(TAKEN_OVER_AT_ONCE) {
            let core = Rc::clone(self);
            self.platform.spawn(async move {
                core.platform.yield_now().await;
                while core.take_over(TAKEN_OVER_AT_ONCE) {
                    core.platform.yield_now().await;
                }
            });
        }
        self.metrics.count(Counter::SnapshotsInstalled);
    }

    /// Takes over up to `max` changes. True while there are more.
    fn take_over(&self, max: usize) -> bool {
        for _ in 0..max {
            let Some((changes, at)) = self.next_change() else { return false };
            if let Some(configured) = changes.upstreams.get(at) {
                self.know(configured);
            } else if let Some(gone) = changes.gone_upstreams.get(at - changes.upstreams.len()) {
                let mut states = self.upstreams.borrow_mut();
                // It may have come back since.
                if states.get(gone).is_some_and(|state| state.version() < changes.version)
                    && let Some(state) = states.remove(gone)
                {
                    state.retire();
                }
            }
        }
        self.has_changes()
    }

    /// Installs have changed what is not taken over yet.
    pub fn has_changes(&self) -> bool {
        !self.changes.borrow().is_empty()
    }

    fn next_change(&self) -> Option<(Arc<Changes>, usize)> {
        let mut waiting = self.changes.borrow_mut();
        loop {
            let (changes, at) = waiting.front_mut()?;
            if *at < changes.upstreams.len() + changes.gone_upstreams.len() {
                *at += 1;
                return Some((Arc::clone(changes), *at - 1));
            }
            waiting.pop_front();
        }
    }

    /// An upstream's state, configured so, unless it is newer already.
    fn know(&self, configured: &Configured) -> Rc<Upstream<P::Stream>> {
        let now_ms = self.now_ms();
        // Workers begin their rotations evenly spread, and nodes each elsewhere.
        let share = u64::MAX / self.node.workers().max(1) as u64;
        let draw = self.node.seed.wrapping_add(share.wrapping_mul(self.index as u64));
        let mut states = self.upstreams.borrow_mut();
        if let Some(state) = states.get(&configured.name) {
            if state.version() < configured.version {
                state.configure(configured, now_ms, draw);
            }
            return Rc::clone(state);
        }
        let state = Upstream::new(configured, now_ms, draw);
        states.insert(Arc::clone(&configured.name), Rc::clone(&state));
        state
    }

    /// An upstream by its index in the snapshot, as that has configured it or a later one.
    pub(super) fn upstream<'b>(
        &self,
        bound: &'b Bound<P::Stream>,
        index: usize,
    ) -> &'b Rc<Upstream<P::Stream>> {
        bound.upstreams[index].get_or_init(|| {
            let configured = &bound.configured[index];
            if self.is_past(bound) && !self.upstreams.borrow().contains_key(&configured.name) {
                return Upstream::new(configured, self.now_ms(), 0);
            }
            self.know(configured)
        })
    }

    /// A later snapshot is in force: what only this one knows is gone, and must not be remembered again.
    fn is_past(&self, bound: &Bound<P::Stream>) -> bool {
        !std::ptr::eq(Rc::as_ptr(&self.bound.borrow()), bound)
    }

    /// Counts a response to its route.
    pub(super) fn count_route(&self, bound: &Bound<P::Stream>, route: usize, status: u16) {
        let counts = bound.routes[route].get_or_init(|| {
            let name = &bound.snapshot.routes[route].name;
            let mut counts = self.routes.borrow_mut();
            match counts.get(name) {
                Some(known) => Rc::clone(known),
                None if self.is_past(bound) => Rc::default(),
                None => Rc::clone(counts.entry(Arc::clone(name)).or_default()),
            }
        });
        counts.count(status);
    }

    /// Makes a snapshot ready for this worker.
    fn bind(&self, install: &Install) {
        let snapshot = &install.snapshot;
        self.tick_ns();
        let mut counts = self.arms.borrow_mut();
        let arms = install
            .splits
            .iter()
            .filter_map(|&index| {
                let route = &snapshot.routes[index];
                let Action::Split(split) = &route.action else { return None };
                let of = |arm: &snapshot::Arm| [Arc::clone(&route.name), Arc::clone(&arm.name)];
                let arms = split.arms.iter();
                Some((index, arms.map(|arm| Rc::clone(counts.entry(of(arm)).or_default())).collect()))
            })
            .collect();
        // What only the old snapshot knew has one owner left here and one in the snapshot about to go.
        counts.retain(|_, count| Rc::strong_count(count) > 1);
        drop(counts);
        let listeners =
            install.listeners.iter().map(|index| index.map(|i| bind_listener(install, i))).collect();
        self.buffers.resize(snapshot.limits.memory_bytes_max);
        self.kept.resize(snapshot.limits.memory_bytes_max);
        self.platform.backlog().resize(snapshot.limits.memory_bytes_max);
        *self.bound.borrow_mut() = Rc::new(Bound {
            snapshot: Arc::clone(snapshot),
            configured: Arc::clone(&install.upstreams),
            upstreams: std::iter::repeat_with(OnceCell::new).take(install.upstreams.len()).collect(),
            listeners,
            orphan: forwarding(snapshot, 0),
            routes: std::iter::repeat_with(OnceCell::new).take(snapshot.routes.len()).collect(),
            arms,
            trials: Arc::clone(&install.trials),
            head_limits: HeadLimits {
                header_bytes: snapshot.limits.header_bytes_max,
                header_count: snapshot.limits.header_count_max,
                uri_bytes: snapshot.limits.uri_bytes_max,
            },
            limits: self.install_limits(install),
        });
    }

    /// Takes over limits. What workers hold of the old ones goes back first.
    fn install_limits(&self, install: &Install) -> Limits {
        let mut limiting = self.limiting.borrow_mut();
        if let Some(old) = &*limiting {
            old.release();
        }
        let Some(shared) = &install.limiting else {
            *limiting = None;
            self.limit_counts.borrow_mut().clear();
            return Limits::default();
        };
        if !limiting.as_ref().is_some_and(|old| Arc::ptr_eq(&old.shared, shared)) {
            *limiting = Some(Limiting::new(shared));
        }
        let mut counts = self.limit_counts.borrow_mut();
        let configured = &install.snapshot.rate_limits;
        let names: HashSet<&str> = configured.rates.iter().map(|limit| &*limit.rule.name).collect();
        counts.retain(|name, _| names.contains(&**name));
        let count = |name: &str| Rc::clone(counts.entry(name.into()).or_default());
        Limits::new(configured, &install.revisions, &shared.hasher, count)
    }

    /// This worker's end of the limits, if any are configured.
    pub(super) fn limiting(&self) -> Option<Rc<Limiting>> {
        self.limiting.borrow().clone()
    }

    /// Gives back leases that were not used for a while. True while there are more.
    pub fn return_leases(&self) -> bool {
        let now_ns = self.platform.now_ns();
        self.limiting().is_some_and(|limiting| limiting.tick(now_ns))
    }

    /// Gives back all leases: the worker ends.
    pub fn release_leases(&self) {
        if let Some(limiting) = self.limiting() {
            limiting.release();
        }
    }

    /// The snapshot in force, pinned for as long as the result is held.
    pub fn bound(&self) -> Rc<Bound<P::Stream>> {
        Rc::clone(&self.bound.borrow())
    }

    /// Reads the clock. A request does so twice, at its start and at its end; see [`now_ms`](Self::now_ms).
    pub fn tick_ns(&self) -> u64 {
        let now = self.platform.now_ns();
        self.recent_ms.set(now / 1_000_000);
        now
    }

    /// Milliseconds on the worker's clock as of its last reading, which is at most a few requests' work ago. Good for
    /// arming deadlines right after a reading; whoever has waited reads anew.
    pub fn now_ms(&self) -> u64 {
        self.recent_ms.get()
    }

    /// Connections of this worker.
    pub fn connections(&self) -> u64 {
        self.connections.get()
    }

    fn counted<T>(&self, id: ListenerId, what: impl FnOnce(&mut Counted) -> T) -> T {
        let mut all = self.by_listener.borrow_mut();
        what(all.entry(id).or_insert_with(|| Counted { shared: self.node.listener(id), here: 0 }))
    }

    /// The bounds of a listener's connections at one worker: how many, and how many handshakes, where they begin with one.
    fn bounds(&self, id: ListenerId) -> (u32, Option<u32>) {
        let bound = self.bound();
        let Some(listener) = bound.listener(id) else { return (u32::MAX, None) };
        let configured = &bound.snapshot.listeners[listener.index];
        let handshake = (listener.tls.is_some() || configured.proxy_protocol)
            .then_some(bound.snapshot.limits.tls_handshakes_max);
        (configured.connections_max, handshake)
    }

    /// Whether this worker has a place for another connection of a listener.
    pub fn has_place(&self, id: ListenerId) -> bool {
        let (max, handshakes_max) = self.bounds(id);
        self.counted(id, |counted| counted.shared[self.index].load(Ordering::Relaxed)) < max
            && handshakes_max.is_none_or(|max| self.handshakes() < max)
    }

    /// Takes a place at a worker, if it has one.
    pub fn take_place(&self, worker: usize, id: ListenerId) -> Option<Place> {
        let (max, handshakes_max) = self.bounds(id);
        let load = &self.node.loads[worker];
        let below = |word: &AtomicU32, max: u32| {
            let next = |n: u32| (n < max).then_some(n + 1);
            word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
        };
        if let Some(max) = handshakes_max
            && !below(&load.handshakes, max)
        {
            return None;
        }
        if !self.counted(id, |counted| below(&counted.shared[worker], max)) {
            if handshakes_max.is_some() {
                load.handshakes.fetch_sub(1, Ordering::Relaxed);
            }
            return None;
        }
        load.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place { worker, listener: id, handshake: handshakes_max.is_some() })
    }

    /// Takes a place at this worker, be there one or not: what the kernel has queued when a listener closes is served.
    pub fn take_last_place(&self, id: ListenerId) -> Place {
        self.counted(id, |counted| counted.shared[self.index].fetch_add(1, Ordering::Relaxed));
        self.node.loads[self.index].connections.fetch_add(1, Ordering::Relaxed);
        Place { worker: self.index, listener: id, handshake: false }
    }

    /// Nothing came of it.
    // By value: whoever has given it back has it no more.
    #[allow(clippy::needless_pass_by_value)]
    pub fn give_place(&self, place: Place) {
        let load = &self.node.loads[place.worker];
        self.counted(place.listener, |counted| counted.shared[place.worker].fetch_sub(1, Ordering::Relaxed));
        load.connections.fetch_sub(1, Ordering::Relaxed);
        if place.handshake {
            load.handshakes.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A worker that should have this connection instead.
    pub fn less_loaded(&self) -> Option<usize> {
        self.node.less_loaded(self.index)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.node.workers()
    }

    /// A connection begins for which nobody has taken a place.
    pub fn opened(&self, listener: ListenerId) {
        let place = self.take_last_place(listener);
        self.arrived(&place, Begins::WithRequest);
    }

    /// A connection begins at its place. Call before its task is started.
    pub fn arrived(&self, place: &Place, begins: Begins) {
        self.connections.set(self.connections.get() + 1);
        self.counted(place.listener, |counted| counted.here += 1);
        let handshakes = &self.node.loads[self.index].handshakes;
        // The listener may have been configured anew since the place was taken.
        match begins {
            Begins::WithHandshake => {
                self.handshakes.set(self.handshakes.get() + 1);
                if !place.handshake {
                    handshakes.fetch_add(1, Ordering::Relaxed);
                }
            }
            Begins::WithRequest if place.handshake => {
                handshakes.fetch_sub(1, Ordering::Relaxed);
            }
            Begins::WithRequest => {}
        }
    }

    /// A connection has ended.
    pub fn closed(&self, listener: ListenerId) {
        self.connections.set(self.connections.get() - 1);
        self.node.loads[self.index].connections.fetch_sub(1, Ordering::Relaxed);
        self.counted(listener, |counted| {
            counted.here -= 1;
            counted.shared[self.index].fetch_sub(1, Ordering::Relaxed);
        });
        self.room.raise();
        if self.connections.get() == 0 && (self.draining.is_raised() || self.stopping.is_raised()) {
            self.empty.raise();
        }
    }

    /// The worker has failed: its connections are gone, whether or not their tasks could end.
    pub fn forget_connections(&self) {
        let load = &self.node.loads[self.index];
        load.connections.fetch_sub(self.connections.take(), Ordering::Relaxed);
        load.handshakes.fetch_sub(self.handshakes.take(), Ordering::Relaxed);
        for counted in self.by_listener.take().into_values() {
            counted.shared[self.index].fetch_sub(counted.here, Ordering::Relaxed);
        }
    }

    /// A client's handshake has ended, one way or the other.
    pub(super) fn handshake_ended(&self) {
        self.handshakes.set(self.handshakes.get() - 1);
        self.node.loads[self.index].handshakes.fetch_sub(1, Ordering::Relaxed);
        self.room.raise();
    }

    /// Handshakes open, and those on their way.
    pub fn handshakes(&self) -> u32 {
        self.node.loads[self.index].handshakes.load(Ordering::Relaxed)
    }

    /// TLS to an endpoint failed: has a line written that says why, at most once a second.
    pub(super) fn tls_failed(&self, upstream: &str, endpoint: &Address, error: &HandshakeError) {
        self.metrics.refused(error.reason());
        let now = self.now_ms();
        if now < self.tls_note_ms.get() {
            return;
        }
        self.tls_note_ms.set(now + 1_000);
        // Full: the journal is behind, and has enough to say.
        let _ = self.node.notes.push(format!("TLS to {endpoint} (upstream `{upstream}`) failed: {error}"));
    }

    /// There was no socket to be had, for no fault of a peer. Has a line written that says so, at most once a window for all
    /// workers together, and gives back what can be spared.
    pub fn short_of(&self, shortage: Shortage, wanted: &str) {
        if shortage == Shortage::Descriptors && u64::from(descriptors::held()) > 2 * self.connections() {
            // More than one upstream connection for each client: those that idle keep others from theirs.
            self.close_idle_upstreams();
        }
        let (now, due) = (self.now_ms(), self.node.shortage_note_ms.load(Ordering::Relaxed));
        if now < due {
            return;
        }
        let next = now + SHORTAGE_NOTE_WINDOW_MS;
        if self
            .node
            .shortage_note_ms
            .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            // Full: the journal is behind, and has enough to say.
            let _ = self.node.notes.push(format!("{wanted} could not be had: {shortage}"));
        }
    }

    /// Room among the worker's descriptors for one more client, with its connection to an upstream.
    pub fn has_descriptors(&self) -> bool {
        descriptors::has_room_for_client(self.connections.get(), self.idle.get())
    }

    /// How many descriptors the process allows each worker.
    pub fn descriptors_allowed(&self) -> u32 {
        self.node.descriptors()
    }

    /// How busy this worker is, without the request that asks.
    pub(super) fn load(&self, snapshot: &Snapshot) -> shed::Load {
        shed::Load {
            in_flight: u32::try_from(self.active.get().saturating_sub(1)).unwrap_or(u32::MAX),
            in_flight_max: snapshot.shedding.in_flight_max,
            memory_used: (self.buffers.taken() * BUFFER_BYTES) as u64,
            memory_max: snapshot.limits.memory_bytes_max,
        }
    }

    /// An endpoint's health has changed, or would have: counts it. The prober sees it too, and has a line written.
    pub(super) fn health_changed(&self, applied: Applied) {
        let (before, after) = match applied {
            Applied::Changed { before, after } => (before, after),
            Applied::AtCap => return self.metrics.count(Counter::EjectionsAtCap),
            Applied::Unchanged => return,
        };
        match (before.traffic, after.traffic) {
            (Traffic::Admitting | Traffic::Probing, Traffic::Ejected) => {
                self.metrics.count(Counter::Ejections);
            }
            (Traffic::Probing, Traffic::Admitting) => self.metrics.count(Counter::Returns),
            _ => {}
        }
    }

    /// Counts idle connections that could not be used.
    pub(super) fn discarded(&self, discarded: Discarded) {
        if discarded.stale > 0 {
            self.metrics.add(Counter::UpstreamStale, discarded.stale);
        }
        if discarded.unsolicited > 0 {
            self.metrics.add(Counter::UpstreamUnsolicited, discarded.unsolicited);
        }
    }

    /// A request begins or ends.
    pub(super) fn active(&self, delta: i64) {
        self.active.set(self.active.get().wrapping_add_signed(delta));
    }

    /// A connection begins or ends to wait for its next request.
    pub(super) fn idle(&self, delta: i64) {
        self.idle.set(self.idle.get().wrapping_add_signed(delta));
    }

    /// An empty buffer for an encoded head.
    pub(super) fn take_head(&self) -> Vec<u8> {
        self.heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(2048))
    }

    /// Gives it back.
    pub(super) fn give_head(&self, mut head: Vec<u8>) {
        let mut heads = self.heads.borrow_mut();
        if heads.len() < FREE_HEADS_MAX && head.capacity() <= FREE_HEAD_BYTES_MAX {
            head.clear();
            heads.push(head);
        }
    }

    /// What an exchange writes its heads to.
    pub(super) fn take_scratch(&self) -> Box<Scratch> {
        self.scratches.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives it back.
    pub(super) fn give_scratch(&self, mut scratch: Box<Scratch>) {
        let mut scratches = self.scratches.borrow_mut();
        if scratches.len() < FREE_HEADS_MAX && scratch.out.capacity() <= FREE_HEAD_BYTES_MAX {
            scratch.out.clear();
            scratches.push(scratch);
        }
    }

    /// The Date field's value now; the wall clock is read once a second.
    pub(super) fn date(&self, now_ns: u64) -> [u8; 29] {
        let mut date = self.date.borrow_mut();
        if now_ns >= date.stale_ns {
            let unix = self.platform.unix_time();
            date.text = imf_fixdate(unix.as_secs());
            date.stale_ns = now_ns + 1_000_000_000 - u64::from(unix.subsec_nanos());
        }
        date.text
    }

    /// Rounds: closes idle connections that are due, lends surplus ones, gives memory back. Once a second or so.
    pub async fn maintain(&self) {
        let now = self.tick_ns() / 1_000_000;
        let lend = if self.node.workers() > 1 { Lend::Surplus } else { Lend::Nothing };
        let upstreams: Vec<_> = self.upstreams.borrow().values().cloned().collect();
        for (number, upstream) in upstreams.iter().enumerate() {
            if number % TAKEN_OVER_AT_ONCE == TAKEN_OVER_AT_ONCE - 1 {
                self.platform.yield_now().await;
            }
            let (discarded, lent) = upstream.maintain(now, |stream| self.platform.detach(stream), lend);
            self.discarded(discarded);
            self.metrics.add(Counter::Lent, lent);
            upstream.compare(now, || self.platform.random(), |applied| self.health_changed(applied));
        }
        if let Some(limiting) = self.limiting()
            && now >= self.fade_ms.get()
        {
            self.fade_ms.set(now + FADE_MS);
            limiting.fade();
        }
        self.buffers.trim();
        self.pipes.trim();
    }

    /// Closes every idle upstream connection.
    pub fn close_idle_upstreams(&self) {
        for upstream in self.upstreams.borrow().values() {
            upstream.close_idle();
        }
    }

    /// All numbers of this worker.
    pub fn sample(&self) -> Sample {
        let mut sample = self.metrics.sample();
        sample.gauges = Gauges {
            downstream_connections: self.connections.get(),
            requests_active: self.active.get(),
            buffers_taken: self.buffers.taken() as u64,
            buffers_free: self.buffers.free() as u64,
            buffers_waiting: self.buffers.waiting() as u64,
            kept_bytes: self.kept.bytes() as u64,
            kept_refusals: self.kept.refusals(),
            backlog_bytes: self.platform.backlog().bytes() as u64,
            backlog_asked: self.platform.backlog().asked_count(),
            panics: panics::caught(),
        };
        for upstream in self.upstreams.borrow().values() {
            for endpoint in upstream.endpoints().iter() {
                let [connections, idle, active, requests, failures] = endpoint.numbers();
                sample.upstreams.push(UpstreamSample {
                    upstream: Arc::clone(&upstream.name),
                    endpoint: endpoint.address.to_string(),
                    connections,
                    idle,
                    active,
                    requests,
                    failures,
                });
            }
            let numbers = upstream.numbers();
            sample.guards.push(GuardSample {
                upstream: Arc::clone(&upstream.name),
                in_flight: u64::from(numbers.in_flight),
                breaker: numbers.breaker.map(|breaker| breaker.state.label()),
                rejected: numbers.breaker.map_or(0, |breaker| breaker.rejected),
                trips: numbers.breaker.map_or(0, |breaker| breaker.trips),
                limit: numbers.limiter.map(|limiter| u64::from(limiter.limit)),
            });
        }
        for (name, counts) in self.limit_counts.borrow().iter() {
            sample.limits.push(LimitSample {
                limit: Arc::clone(name),
                counts: [&counts.admitted, &counts.delayed, &counts.rejected, &counts.shadow_rejected]
                    .map(Cell::get),
            });
        }
        if let Some(limiting) = self.limiting() {
            let heaviest = limiting.heaviest(HEAVIEST_SHOWN);
            sample.heaviest = heaviest
                .into_iter()
                // A key that was hardly used has not told how it reads.
                .filter(|heavy| !heavy.text.is_empty())
                .map(|heavy| (String::from_utf8_lossy(&heavy.text).into_owned(), heavy.count))
                .collect();
        }
        for (name, counts) in self.routes.borrow().iter() {
            let classes = counts.classes.each_ref().map(Cell::get);
            if classes != [0; 5] {
                sample.routes.push(RouteSample { route: Arc::clone(name), classes });
            }
        }
        for ([route, arm], counts) in self.arms.borrow().iter() {
            sample.arms.push(ArmSample {
                route: Arc::clone(route),
                arm: Arc::clone(arm),
                classes: counts.classes.each_ref().map(Cell::get),
            });
        }
        sample
    }
}

fn bind_listener(install: &Install, index: usize) -> BoundListener {
    let snapshot = &install.snapshot;
    BoundListener {
        index,
        forwarding: forwarding(snapshot, snapshot.listeners[index].trusted_hops as u8),
        tls: install.tls_servers[index].clone(),
        fields: snapshot.listeners[index]
            .tls
            .as_ref()
            .map(|tls| Box::from(tls.hsts.as_bytes()))
            .unwrap_or_default(),
    }
}

/// Options of TCP connections.
pub fn liveness(configured: snapshot::Tcp) -> Liveness {
    Liveness { keepalive: configured.keepalive, user_timeout: configured.user_timeout }
}

/// The PROXY header of a setting.
pub fn proxy_version(configured: ProxyProtocol) -> ProxyVersion {
    match configured {
        ProxyProtocol::V1 => ProxyVersion::V1,
        ProxyProtocol::V2 => ProxyVersion::V2,
    }
}

/// Bounds and choices of an upstream, from the snapshot.
pub fn upstream_settings(snapshot: &Snapshot, configured: &snapshot::Upstream) -> upstream::Settings {
    upstream::Settings {
        rule: configured.balance.rule,
        ewma: configured.balance.ewma,
        panic_percent: configured.panic_percent,
        slow_start: configured.slow_start.clone(),
        outliers: configured.outlier_detection.as_ref().map(standing_settings),
        breaker: configured.breaker,
        adaptive: configured.adaptive_concurrency,
        requests_max: configured.requests_max,
        budget: configured.retry_budget,
        connections_max: configured.connections_max,
        idle_max: configured.idle_connections_max,
        pending_max: configured.pending_max,
        idle_ms: configured.timeouts.idle.as_millis() as u64,
        ping_ms: configured.ping_interval.map_or(0, |d| d.as_millis() as u64),
        ping_timeout_ms: configured.ping_timeout.as_millis() as u64,
        proxy: configured.proxy_protocol.map(proxy_version),
        liveness: liveness(configured.tcp),
        http2: configured.http2.map(|http2| http2_settings(snapshot, http2)),
    }
}

fn standing_settings(detection: &snapshot::OutlierDetection) -> standing::Settings {
    standing::Settings { outlier: detection.outlier, ejection: detection.ejection }
}

/// Bounds of an HTTP/2 connection, of either end.
pub(super) fn http2_settings(snapshot: &Snapshot, http2: Http2) -> Http2Settings {
    Http2Settings {
        streams_max: http2.streams_max,
        stream_window: http2.stream_window,
        connection_window: http2.connection_window,
        // RFC 9113 section 6.5.2 counts 32 bytes more for each field; the parser has the last word.
        header_list_bytes: (snapshot.limits.header_bytes_max + 32 * snapshot.limits.header_count_max) as u32,
    }
}

fn forwarding(snapshot: &Snapshot, trusted_hops: u8) -> Forwarding {
    Forwarding {
        trusted_hops,
        x_forwarded: snapshot.forwarding.x_forwarded,
        forwarded: snapshot.forwarding.forwarded,
        x_real_ip: false,
        via: snapshot.forwarding.via.as_deref().map(Box::from),
    }
}

#[derive(Debug)]
struct Date {
    stale_ns: u64,
    text: [u8; 29],
}

impl Default for Date {
    fn default() -> Self {
        Self { stale_ns: 0, text: [b' '; 29] }
    }
}

/// RFC 9110 section 5.6.7, `Sun, 06 Nov 1994 08:49:37 GMT`. Civil-from-days after Howard Hinnant.
fn imf_fixdate(unix_s: u64) -> [u8; 29] {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let text = format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[(month - 1) as usize],
        second / 3_600,
        second / 60 % 60,
        second % 60
    );
    let mut out = [b' '; 29];
    let n = text.len().min(29);
    out[..n].copy_from_slice(&text.as_bytes()[..n]);
    out
}

#[cfg(test)]
mod tests {
    use super::{Node, imf_fixdate};
    use std::sync::atomic::Ordering;

    #[test]
    fn dates() {
        for (unix, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&imf_fixdate(unix)).unwrap(), expected);
        }
    }

    #[test]
    fn few_connections_are_spread_evenly_and_of_many_only_a_clear_difference_is_handed_over() {
        let check = |loads: [u64; 3], worker: usize, expected: Option<usize>| {
            let node = Node::new(3, 7);
            for (load, connections) in node.loads.iter().zip(loads) {
                load.connections.store(connections, Ordering::Relaxed);
            }
            assert_eq!(node.less_loaded(worker), expected, "{loads:?}, worker {worker}");
        };
        check([1, 0, 0], 0, None);
        check([2, 0, 1], 0, Some(1));
        check([2, 1, 1], 0, None);
        check([3, 1, 2], 0, Some(1));
        check([91, 80, 95], 0, None);
        check([92, 80, 95], 0, Some(1));
        check([92, 80, 95], 1, None);
        let alone = Node::new(1, 7);
        alone.loads[0].connections.store(1_000, Ordering::Relaxed);
        assert_eq!(alone.less_loaded(0), None);
    }
}
