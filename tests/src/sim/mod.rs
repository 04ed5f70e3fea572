//! The whole proxy in a simulation: the engine's production request path, several workers of it, over a network in memory,
//! with clients and origins that behave as badly as they like, and a clock that moves by itself. Everything follows from one
//! seed. A second of the simulation takes well under a millisecond, so time-outs are tested without waiting.
//!
//! - [`executor`]: tasks, turns and time. [`random`]: where all choices come from. [`trace`]: what happened.
//! - [`network`]: connections, and what a network does to them.
//! - [`worker`]: the engine on this platform.
//! - [`client`], [`origin`]: the actors outside, who check every byte. [`conversation`]: how they read HTTP.
//! - [`ledger`]: what was asked, and how often an origin saw it.
//!
//! What holds in every run, and is looked at after every step or at the end, is in [`Sim`]. Not simulated: HTTP/2 and TLS,
//! whose streams are sockets; splice; the control thread, whose installs are made by its own code; health checks.

pub mod client;
pub mod conversation;
pub mod executor;
pub mod ledger;
pub mod network;
pub mod origin;
pub mod random;
pub mod trace;
pub mod worker;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringway::base::limits::BUFFER_BYTES;
use ringway::config::{Snapshot, load};
use ringway::control::prepare::Installer;
use ringway::proxy::core::Node;
use ringway::telemetry::metrics::Sample;

use client::Client;
use conversation::Conversation;
use executor::{Executor, Step};
use ledger::Ledger;
use network::{Answer as Dialled, Backlog, Network, Weather};
use origin::{Answer, Asked, Origin};
use random::Random;
use trace::Trace;
use worker::{Crossing, Setup, Worker};

/// Where the proxy listens.
const PROXY: ([u8; 4], u16) = ([10, 0, 0, 1], 80);

/// Turns that one run may take: far more than any does that comes to an end.
const TURNS_MAX: u64 = 3_000_000;

/// The longest that any run goes on for, on its own clock.
const RUN_MAX: Duration = Duration::from_secs(6 * 3_600);

/// After the last actor has left, everything that the proxy still does is over within this: all of its time-outs, and a
/// connection's idle ones.
const REST: Duration = Duration::from_secs(300);

/// One world.
pub struct Sim {
    pub executor: Executor,
    pub network: Rc<Network>,
    pub random: Random,
    pub ledger: Rc<Ledger>,
    pub trace: Rc<Trace>,
    pub workers: Vec<Worker>,
    installer: RefCell<Installer>,
    snapshot: RefCell<Arc<Snapshot>>,
    pub crossing: Rc<Crossing>,
    actors: Rc<Cell<u32>>,
    clients: Cell<u8>,
    /// See [`Client::patience`].
    patience: Cell<Duration>,
    versions: Cell<u64>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("executor", &self.executor).finish_non_exhaustive()
    }
}

impl Sim {
    /// A proxy with so many workers and this configuration, whose listeners are all the same, and nobody else.
    pub fn new(start: &Start, workers: usize, weather: Weather, config: &str) -> Self {
        let random = Random::new(start.seed);
        let trace = Rc::clone(&start.trace);
        let executor = Executor::new(random.fork(), Rc::clone(&trace));
        let network = Network::new(executor.clone(), random.fork(), Rc::clone(&trace), weather);
        let mut installer = Installer::default();
        let snapshot = Arc::new(compile(config, 1));
        let install = installer.install(&snapshot, 0, workers).expect("it names no files");
        let node = Node::new(workers, random.draw());
        let crossing = Rc::<Crossing>::default();
        let (log, _) = crossbeam_channel::bounded(1);
        let workers: Vec<Worker> = (0..workers)
            .map(|index| {
                let setup = Setup {
                    executor: executor.clone(),
                    network: Rc::clone(&network),
                    random: random.fork(),
                    crossing: Rc::clone(&crossing),
                    node: Arc::clone(&node),
                    log: log.clone(),
                };
                Worker::new(index, &install, setup)
            })
            .collect();
        let cores: Rc<[_]> = workers.iter().map(|worker| Rc::clone(&worker.core)).collect();
        let id = installer.listener("public").expect("the listener's name is public");
        for worker in &workers {
            worker.listen(id, Rc::clone(&cores));
        }
        let backlogs = workers.iter().map(|worker| Rc::clone(&worker.backlog)).collect();
        network.listen(SocketAddr::from(PROXY), Some(Dialled::Accepted(backlogs)));
        Self {
            executor,
            network,
            random,
            ledger: Rc::default(),
            trace,
            workers,
            installer: RefCell::new(installer),
            snapshot: RefCell::new(snapshot),
            crossing,
            actors: Rc::default(),
            clients: Cell::new(0),
            patience: Cell::new(Duration::from_secs(120)),
            versions: Cell::new(1),
        }
    }

    /// The longest that a client may have to wait for anything.
    pub fn patience(&self, patience: Duration) {
        self.patience.set(patience);
    }

    /// An origin on a port of its own, which configurations call `10.0.1.1:PORT`.
    pub fn origin(&self, port: u16, answer: impl Fn(&Asked) -> Answer + 'static) {
        Rc::new(Origin {
            executor: self.executor.clone(),
            network: Rc::clone(&self.network),
            ledger: Rc::clone(&self.ledger),
            trace: Rc::clone(&self.trace),
            address: origin_address(port),
            answer: Box::new(answer),
        })
        .listen();
    }

    /// An origin that does with each of its connections as it likes.
    pub fn raw_origin<F>(&self, port: u16, serve: impl Fn(Conversation) -> F + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        let backlog = Rc::<Backlog>::default();
        self.network.listen(origin_address(port), Some(Dialled::Accepted(vec![Rc::clone(&backlog)])));
        let executor = self.executor.clone();
        self.executor.spawn(self.executor.lane(), async move {
            loop {
                let (end, _) = backlog.accept().await;
                let talk = Conversation::new(end, &executor, origin::PATIENCE);
                executor.spawn(executor.lane(), serve(talk));
            }
        });
    }

    /// An origin that is there and never answers a connection.
    pub fn deaf_origin(&self, port: u16) {
        self.network.listen(origin_address(port), Some(Dialled::Ignored));
    }

    /// A client at an address of its own.
    pub fn client(&self) -> Client {
        let number = self.clients.get() + 1;
        self.clients.set(number);
        Client {
            executor: self.executor.clone(),
            network: Rc::clone(&self.network),
            ledger: Rc::clone(&self.ledger),
            trace: Rc::clone(&self.trace),
            address: SocketAddr::from(([10, 0, 2, number], 50_000)),
            proxy: SocketAddr::from(PROXY),
            patience: self.patience.get(),
        }
    }

    /// Starts an actor. The run goes on until all have ended.
    pub fn act(&self, actor: impl Future<Output = ()> + 'static) {
        let actors = Rc::clone(&self.actors);
        actors.set(actors.get() + 1);
        self.executor.spawn(self.executor.lane(), async move {
            actor.await;
            actors.set(actors.get() - 1);
        });
    }

    /// Has all workers take over a configuration, one after another at moments of their own.
    pub fn reload(&self, config: &str) {
        let version = self.versions.get() + 1;
        self.versions.set(version);
        let snapshot = Arc::new(compile(config, version));
        let install =
            self.installer.borrow_mut().install(&snapshot, self.executor.now_ms(), self.workers.len());
        let install = Rc::new(install.expect("it names no files"));
        *self.snapshot.borrow_mut() = snapshot;
        for worker in &self.workers {
            let (core, install) = (Rc::clone(&worker.core), Rc::clone(&install));
            ringway::net::platform::Platform::spawn(&worker.core.platform, async move {
                core.install(&install);
            });
        }
    }

    /// From now on the kernel gives all new connections to one worker.
    pub fn favour(&self, worker: usize) {
        let backlog = Rc::clone(&self.workers[worker].backlog);
        self.network.listen(SocketAddr::from(PROXY), Some(Dialled::Accepted(vec![backlog])));
    }

    /// Begins a drain: no worker accepts any more.
    pub fn drain(&self) {
        self.network.listen(SocketAddr::from(PROXY), None);
        for worker in &self.workers {
            worker.drain();
        }
    }

    /// Whether a drain has come to its end.
    pub fn has_drained(&self) -> bool {
        self.workers.iter().all(Worker::has_ended)
    }

    /// Runs until the clock shows so much more.
    pub fn run_for(&self, time: Duration) {
        let until_ns = self.executor.now_ns() + time.as_nanos() as u64;
        // So that there is an event at that time.
        self.executor.at(until_ns, || {});
        while self.executor.now_ns() < until_ns {
            self.step();
        }
    }

    /// Runs until `done`, which must come.
    pub fn run_until(&self, what: &str, done: impl Fn() -> bool) {
        let until_ns = self.executor.now_ns() + RUN_MAX.as_nanos() as u64;
        while !done() {
            assert!(self.executor.now_ns() < until_ns, "{what}: not in {RUN_MAX:?}");
            assert_ne!(self.step(), Step::Nothing, "{what}: nothing will happen any more");
        }
    }

    /// Runs until all actors have ended.
    pub fn run(&self) {
        self.run_until("all actors end", || self.actors.get() == 0);
    }

    fn step(&self) -> Step {
        let step = self.executor.step();
        assert!(self.executor.turns() < TURNS_MAX, "the run never ends");
        self.check_step();
        step
    }

    /// What holds at any time.
    fn check_step(&self) {
        let memory_max = self.snapshot.borrow().limits.memory_bytes_max;
        for worker in &self.workers {
            let core = &worker.core;
            let buffers = core.buffers.taken();
            assert!(
                (buffers * BUFFER_BYTES) as u64 <= memory_max.max(4 * BUFFER_BYTES as u64),
                "worker {} holds {buffers} buffers",
                core.index
            );
            let kept = core.kept.bytes();
            assert!(kept as u64 <= memory_max / 4, "worker {} keeps {kept} bytes", core.index);
        }
    }

    /// The numbers of all workers.
    pub fn samples(&self) -> Vec<Sample> {
        self.workers.iter().map(|worker| worker.core.sample()).collect()
    }

    /// Nothing is under way: no request, no buffer, nothing kept, no attempt in flight.
    pub fn check_idle(&self) {
        for (worker, sample) in self.workers.iter().zip(self.samples()) {
            let index = worker.core.index;
            let gauges = &sample.gauges;
            assert_eq!(gauges.requests_active, 0, "requests that are active in worker {index}");
            assert_eq!(gauges.buffers_taken, 0, "buffers that worker {index} holds");
            assert_eq!(gauges.kept_bytes, 0, "bytes that worker {index} keeps");
            for guard in &sample.guards {
                assert_eq!(guard.in_flight, 0, "attempts in flight in worker {index} to {}", guard.upstream);
            }
            for endpoint in &sample.upstreams {
                assert_eq!(endpoint.active, 0, "requests in worker {index} at {}", endpoint.endpoint);
                assert_eq!(
                    endpoint.connections, endpoint.idle,
                    "connections in worker {index} to {}, and those that are idle",
                    endpoint.endpoint
                );
            }
        }
    }

    /// Ends the run: waits until the proxy has come to rest, and makes sure that nothing is left, neither before nor after
    /// its workers end.
    pub fn finish(self) {
        self.run();
        self.ledger.check_ended();
        let outcomes = format!("all actors have ended: {:?}", self.ledger.outcomes());
        self.trace.add(self.executor.now_ns(), trace::Event::Note(outcomes));
        self.run_for(REST);
        self.check_idle();
        for worker in &self.workers {
            let core = &worker.core;
            assert_eq!(core.connections(), 0, "connections of worker {}", core.index);
        }
        for worker in &self.workers {
            worker.stop();
        }
        self.run_for(Duration::from_secs(1));
        self.crossing.sweep();
        assert!(self.crossing.is_empty(), "connections that were lent and never closed");
        for worker in &self.workers {
            let core = &worker.core;
            assert_eq!(core.deadlines.held(), 0, "deadlines that worker {} holds", core.index);
        }
        // Origins wait longer than the proxy.
        self.run_for(origin::PATIENCE + REST);
        assert_eq!(self.network.open(), 0, "connections that nobody has closed");
        self.executor.end();
        for worker in self.workers {
            assert_eq!(Rc::strong_count(&worker.core), 1, "something holds worker {}", worker.core.index);
        }
    }
}

/// Where an origin listens.
pub fn origin_address(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, 1], port))
}

fn compile(config: &str, version: u64) -> Snapshot {
    load(config.as_bytes(), "sim.yaml", version).unwrap_or_else(|report| panic!("{report}\n{config}"))
}

/// What one run starts with.
#[derive(Debug)]
pub struct Start {
    pub seed: u64,
    trace: Rc<Trace>,
}

/// Runs a scenario with several seeds, each of them twice: the second run must be the same as the first.
///
/// `RINGWAY_SIM_SEEDS` and `RINGWAY_SIM_FIRST` say how many, and from which on, instead.
pub fn each_seed(name: &str, count: u64, scenario: impl Fn(&Start) + Sync) {
    let set = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = set("RINGWAY_SIM_FIRST").unwrap_or(1);
    let count = set("RINGWAY_SIM_SEEDS").unwrap_or(count);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get) as u64;
    let threads = if count < 50 { 1 } else { threads };
    std::thread::scope(|scope| {
        let scenario = &scenario;
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    for seed in (first..first + count).filter(|seed| seed % threads == thread) {
                        one_seed(name, seed, scenario);
                    }
                })
            })
            .collect();
        for thread in running {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
}

fn one_seed(name: &str, seed: u64, scenario: &impl Fn(&Start)) {
    let all = std::env::var_os("RINGWAY_SIM_TRACE").is_some();
    let run = || {
        let start = Start { seed, trace: Rc::new(Trace::new(all)) };
        let outcome = catch_unwind(AssertUnwindSafe(|| scenario(&start)));
        (start.trace, outcome)
    };
    let again = format!(
        "RINGWAY_SIM_FIRST={seed} RINGWAY_SIM_SEEDS=1 cargo test -p ringway-tests --test sim {name} -- --exact --nocapture"
    );
    let (first, outcome) = run();
    if all || outcome.is_err() {
        eprintln!("{}", first.lines().join("\n"));
    }
    if let Err(panic) = outcome {
        eprintln!(
            "{name} failed with seed {seed}. Run it alone, with RINGWAY_SIM_TRACE=1 for all events:\n{again}"
        );
        resume_unwind(panic);
    }
    let (second, _) = run();
    if first.digest() != second.digest() {
        let (first, second) = (first.lines(), second.lines());
        let differs = first.iter().zip(&second).find(|(one, other)| one != other);
        panic!("{name}: two runs of seed {seed} differ, first (of the last events) in {differs:?}\n{again}");
    }
}
