//! Upstreams as one worker knows them: endpoints, their connections, who waits for one.
//!
//! This is state: it is keyed by the upstream's name and the endpoint's address and outlives reloads. What is
//! configured comes with each call or is set anew by [`Upstream::configure`].

mod endpoint;
mod group;
mod guards;
mod lease;
mod loans;
mod private;
mod queue;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use endpoint::Idle;
use group::Balancer;
use guards::Guards;
use queue::Queue;

use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::net::connect::Address;
use crate::net::h2::Settings as Http2Settings;
use crate::net::liveness::Liveness;
use crate::net::platform::Dial;
use crate::net::proxied::ProxyVersion;
use crate::net::stream::Transport;
use crate::net::tls::client::{Connector, ServerName, TlsClient};
use crate::policy::balance::hash::Key;
use crate::policy::balance::slow_start::Curve;
use crate::policy::balance::sticky::Tags;
use crate::policy::balance::{Rule, ewma};
use crate::policy::{breaker, concurrency, retry};
use crate::proxy::standing::{self, Applied, Comparison, Standing};

pub use endpoint::Endpoint;
pub use group::Group;
pub use guards::{Admitted, Denied, GuardNumbers};
pub use lease::{Discarded, Found, Lease, Need};
pub use loans::Loans;
pub use private::Private;

/// One endpoint as the control thread resolved it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Where it is.
    pub address: Address,
    /// What a Host field for it says.
    pub authority: Arc<str>,
    /// At least 1.
    pub weight: u32,
    /// Idle connections to it that workers have lent to each other.
    pub loans: Arc<Loans>,
    /// Its health on this node.
    pub standing: Arc<Standing>,
    /// What cookies call it.
    pub tag: u64,
    /// The name that it must prove, if TLS is spoken to it.
    pub tls_name: Option<ServerName<'static>>,
}

/// The same, with what is shared of it: nothing is to be taken over.
impl PartialEq for Resolved {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
            && self.authority == other.authority
            && self.weight == other.weight
            && Arc::ptr_eq(&self.loans, &other.loans)
            && Arc::ptr_eq(&self.standing, &other.standing)
            && self.tag == other.tag
            && self.tls_name == other.tls_name
    }
}

/// One upstream as the control thread resolved it.
#[derive(Debug, Clone, Default)]
pub struct Members {
    /// Its endpoints, in the order of their numbers.
    pub endpoints: Vec<Resolved>,
    /// All of them, and then those of each subset.
    pub groups: Vec<Arc<Group>>,
    /// By what cookies call them, where clients are kept with their endpoint.
    pub tags: Option<Arc<Tags>>,
}

/// One upstream as the control thread made it ready. Installs share it for as long as nothing of it changes.
#[derive(Debug)]
pub struct Configured {
    /// The upstream's stable id.
    pub name: Arc<str>,
    /// The number of the install that brought it. Of two, the one with the larger holds.
    pub version: u64,
    /// Bounds and choices.
    pub settings: Settings,
    /// How TLS is spoken to those endpoints that have a name to prove.
    pub tls: Option<Arc<TlsClient>>,
    /// Who serves it.
    pub members: Members,
}

/// Bounds and choices of one upstream, from the snapshot.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How endpoints are chosen.
    pub rule: Rule,
    /// How latencies are remembered.
    pub ewma: ewma::Settings,
    /// When all endpoints are used although some are unhealthy, in per cent; 0: never.
    pub panic_percent: u32,
    /// How new endpoints get their share.
    pub slow_start: Option<Arc<Curve>>,
    /// Who is left out, and for how long.
    pub outliers: Option<standing::Settings>,
    /// When requests are rejected.
    pub breaker: Option<breaker::Settings>,
    /// How many attempts may be in flight, by what they do to latency.
    pub adaptive: Option<concurrency::Settings>,
    /// How many attempts may be in flight.
    pub requests_max: u32,
    /// How much may be tried again.
    pub budget: retry::BudgetSettings,
    /// Connections to one endpoint, idle ones included.
    pub connections_max: u32,
    /// Of these, idle.
    pub idle_max: u32,
    /// Requests that may wait for a connection.
    pub pending_max: u32,
    /// After how long an idle connection is closed.
    pub idle_ms: u64,
    /// Bounds of HTTP/2 connections, if that is what its endpoints speak.
    pub http2: Option<Http2Settings>,
    /// The PROXY header that its endpoints read in front of each connection.
    pub proxy: Option<ProxyVersion>,
    /// Options of connections.
    pub liveness: Liveness,
    /// After how long without a byte a connection with streams is asked for a sign of life; zero: never.
    pub ping_ms: u64,
    /// How long it may take to give it.
    pub ping_timeout_ms: u64,
}

/// One upstream's state.
#[derive(Debug)]
pub struct Upstream<S> {
    /// Its stable id.
    pub name: Arc<str>,
    /// See [`Configured::version`].
    version: Cell<u64>,
    settings: RefCell<Settings>,
    endpoints: RefCell<Rc<[Rc<Endpoint<S>>]>>,
    /// This worker's way of speaking TLS to the endpoints, and what it was made of.
    connector: RefCell<Option<(Arc<TlsClient>, Rc<Connector>)>>,
    /// One for each group.
    balancers: RefCell<Vec<Balancer>>,
    tags: RefCell<Option<Arc<Tags>>>,
    guards: Guards,
    comparison: Comparison,
    /// Somebody reads how long attempts took.
    timed: Cell<bool>,
    /// Copies under way, where this is a mirror.
    pub mirrors: Cell<u32>,
    queue: Queue,
}

/// Why no endpoint could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// It has no endpoint: no name of it could be resolved yet.
    NoEndpoint,
    /// It has some, but all are unhealthy or left out.
    Unhealthy,
    /// All endpoints are at their connection cap.
    Busy,
}

impl Unavailable {
    /// What the client is told.
    pub fn fault(self) -> Fault {
        match self {
            Self::NoEndpoint => Fault::policy(ReasonCode::NoEndpoint, 503),
            Self::Unhealthy => Fault::policy(ReasonCode::NoHealthyEndpoint, 503),
            Self::Busy => Fault::policy(ReasonCode::UpstreamBusy, 503),
        }
    }
}

/// What is asked of an endpoint.
#[derive(Debug)]
pub struct Want<'w, S> {
    /// Index of the group: 0 for all endpoints.
    pub group: usize,
    /// What a rule that hashes goes by.
    pub key: Option<Key>,
    /// The endpoint that the client was with.
    pub sticky: Option<usize>,
    /// Connections of the client's own: who is known to an endpoint goes to it.
    pub private: Option<&'w Private<S>>,
    /// Passed over unless nobody else has room: those that have failed this request.
    pub avoid: &'w [Rc<Endpoint<S>>],
    /// Not a request's first attempt: it takes nobody's turn.
    pub repeat: bool,
    /// Attempts of it have reached nobody: rather than those, an ejected endpoint.
    pub last_resort: bool,
}

impl<S: Transport> Upstream<S> {
    /// An upstream of which nothing has happened yet.
    pub fn new(configured: &Configured, now_ms: u64, draw: u64) -> Rc<Self> {
        let upstream = Rc::new(Self {
            name: Arc::clone(&configured.name),
            version: Cell::new(0),
            guards: Guards::new(&configured.settings, now_ms),
            settings: RefCell::new(configured.settings.clone()),
            endpoints: RefCell::new(Rc::from([])),
            connector: RefCell::default(),
            balancers: RefCell::default(),
            tags: RefCell::default(),
            comparison: Comparison::default(),
            timed: Cell::new(false),
            mirrors: Cell::new(0),
            queue: Queue::default(),
        });
        upstream.configure(configured, now_ms, draw);
        upstream
    }

    /// See [`Configured::version`].
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Takes over settings and endpoints. Endpoints that stay keep their connections, counts, averages and health; those
    /// that left stop keeping connections.
    ///
    /// Rotations over endpoints that are the same as before go on; others begin where `draw` says.
    pub fn configure(&self, configured: &Configured, now_ms: u64, draw: u64) {
        let Configured { version, settings, members, .. } = configured;
        self.version.set(*version);
        self.guards.configure(settings, now_ms);
        self.timed.set(
            settings.rule == Rule::PeakEwma
                || settings.outliers.is_some_and(|outliers| outliers.outlier.latency.is_some())
                || settings.breaker.is_some_and(|breaker| breaker.slow_percent.is_some())
                || settings.adaptive.is_some(),
        );
        let connector = self.connector(configured.tls.as_ref());
        let dial = |r: &Resolved| {
            let tls = connector.as_ref().zip(r.tls_name.as_ref());
            Dial {
                tls: tls.map(|(connector, name)| (Rc::clone(connector), name.clone())),
                http2: settings.http2,
                proxy: settings.proxy,
                liveness: settings.liveness,
            }
        };
        let old = self.endpoints.borrow().clone();
        // Two names may have the same address, which is then two endpoints.
        let mut known: HashMap<&Address, Vec<&Rc<Endpoint<S>>>> = HashMap::with_capacity(old.len());
        for endpoint in old.iter().rev() {
            known.entry(&endpoint.address).or_default().push(endpoint);
        }
        let new: Rc<[Rc<Endpoint<S>>]> = members
            .endpoints
            .iter()
            .map(|r| {
                let same = known.get_mut(&r.address).and_then(|all| all.pop_if(|e| e.is(r)));
                let Some(endpoint) = same else { return Rc::new(Endpoint::new(r, dial(r))) };
                endpoint.configure(r, dial(r));
                Rc::clone(endpoint)
            })
            .collect();
        // In their order, which the map does not have: the same run is the same again.
        let is_left = |e: &&Rc<Endpoint<S>>| {
            known.get(&e.address).is_some_and(|left| left.iter().any(|l| Rc::ptr_eq(l, e)))
        };
        for gone in old.iter().filter(is_left) {
            gone.retire();
        }
        let same_places = old.len() == new.len() && old.iter().zip(new.iter()).all(|(a, b)| Rc::ptr_eq(a, b));
        let mut balancers = self.balancers.borrow_mut();
        if same_places && balancers.len() == members.groups.len() {
            for (balancer, group) in balancers.iter_mut().zip(&members.groups) {
                balancer.replace(Arc::clone(group));
            }
        } else {
            let groups = members.groups.iter();
            *balancers = groups.map(|group| Balancer::new(Arc::clone(group), draw)).collect();
        }
        drop(balancers);
        self.tags.borrow_mut().clone_from(&members.tags);
        *self.endpoints.borrow_mut() = new;
        self.settings.borrow_mut().clone_from(settings);
        self.queue.call_all();
    }

    /// The connector for these settings; the one there is while they are the same.
    fn connector(&self, tls: Option<&Arc<TlsClient>>) -> Option<Rc<Connector>> {
        let mut current = self.connector.borrow_mut();
        let stays = matches!((&*current, tls), (Some((old, _)), Some(new)) if Arc::ptr_eq(old, new));
        if !stays {
            *current = tls.map(|tls| (Arc::clone(tls), Rc::new(tls.connector())));
        }
        current.as_ref().map(|(_, connector)| Rc::clone(connector))
    }

    /// The upstream has left the configuration.
    pub fn retire(&self) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.retire();
        }
    }

    /// Chooses the endpoint for the next attempt.
    pub fn choose(
        &self,
        want: &Want<'_, S>,
        now_ms: u64,
        draw: impl FnMut() -> u64,
    ) -> Result<Rc<Endpoint<S>>, Unavailable> {
        let endpoints = self.endpoints.borrow();
        let mut balancers = self.balancers.borrow_mut();
        let Some(balancer) = balancers.get_mut(want.group).filter(|_| !endpoints.is_empty()) else {
            return Err(Unavailable::NoEndpoint);
        };
        let changes = endpoints[0].observer.standing().cohort().changes();
        let settings = self.settings.borrow();
        if let Some(known) = want.private.and_then(|private| private.endpoint(self))
            && let Some(number) = endpoints.iter().position(|e| Rc::ptr_eq(e, &known))
            && balancer.may_return(&endpoints, number, want)
        {
            return Ok(known);
        }
        let number = balancer.choose(&endpoints, &settings, changes, want, now_ms, draw)?;
        Ok(Rc::clone(&endpoints[number]))
    }

    /// The endpoint that a cookie's tag names.
    pub fn tagged(&self, tag: u64) -> Option<usize> {
        self.tags.borrow().as_ref()?.number(tag)
    }

    /// Waits until a connection to this upstream may have become free. False if too many wait already.
    pub async fn wait(&self) -> bool {
        let max = self.settings.borrow().pending_max;
        self.queue.wait(max).await
    }

    /// Closes what has been idle for too long or was closed by its origin, and lends surplus to workers
    /// that have none. Returns what it discarded, and how many it lent.
    pub fn maintain(
        &self,
        now_ms: u64,
        mut detach: impl FnMut(S) -> Option<OwnedFd>,
        lend: Lend,
    ) -> (Discarded, u64) {
        let settings = self.settings.borrow();
        let (mut discarded, mut lent, mut closed_sessions) = (Discarded::default(), 0, 0);
        let mut room = false;
        for endpoint in self.endpoints.borrow().iter() {
            let mut idle = endpoint.idle.borrow_mut();
            let mut closed = idle.len();
            idle.retain(|i| now_ms.saturating_sub(i.since_ms) < settings.idle_ms);
            idle.retain(|i| discarded.look(&i.stream));
            closed -= idle.len();
            closed_sessions += endpoint.retain_sessions(|m| {
                if m.session.streams() > 0 {
                    m.used_ms = now_ms;
                }
                if !m.session.look(now_ms, settings.ping_ms, settings.ping_timeout_ms) {
                    endpoint.failures.set(endpoint.failures.get() + 1);
                }
                // One that was suspect may have shown that it lives.
                room |= m.session.has_room();
                !m.session.is_over() && now_ms.saturating_sub(m.used_ms) < settings.idle_ms
            });
            // Those that were opened otherwise than connections are now: an eighth of them, and at least one.
            let old = idle.iter().take_while(|i| !endpoint.reuses(&i.dial)).count();
            closed += old.div_ceil(8);
            idle.drain(..old.div_ceil(8));
            // The bottom of the stack has not been needed for a whole round: half of it may help others.
            let unused =
                idle.iter().filter(|i| now_ms.saturating_sub(i.since_ms) > LEND_AFTER_IDLE_MS).count();
            endpoint.open.set(endpoint.open.get() - closed as u32);
            if lend == Lend::Surplus && old == 0 && endpoint.may_lend() {
                for _ in 0..unused / 2 {
                    let Idle { stream, since_ms, .. } = idle.remove(0);
                    endpoint.open.set(endpoint.open.get() - 1);
                    let Some(socket) = detach(stream) else { break };
                    lent += u64::from(endpoint.loans.lend(socket, since_ms));
                }
                endpoint.loans.expire(now_ms, settings.idle_ms);
            }
        }
        if discarded.stale + discarded.unsolicited > 0 || closed_sessions > 0 || room {
            self.queue.call_all();
        }
        (discarded, lent)
    }

    /// Compares the endpoints with each other, if that is due. What it did goes to `did`.
    pub fn compare(&self, now_ms: u64, mut draw: impl FnMut() -> u64, mut did: impl FnMut(Applied)) {
        let Some(settings) = self.settings.borrow().outliers else { return };
        let endpoints = self.endpoints();
        let observers = endpoints.iter().map(|endpoint| &endpoint.observer);
        self.comparison.round(observers, &settings, now_ms, &mut draw, |_, applied| did(applied));
    }

    /// Whether anybody reads how long attempts take, so that the clock must be read.
    pub fn is_timed(&self) -> bool {
        self.timed.get()
    }

    /// The state of breaker and limits.
    pub fn numbers(&self) -> GuardNumbers {
        self.guards.numbers()
    }

    /// Closes all idle connections, those on loan too.
    pub fn close_idle(&self) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.close_idle();
        }
    }

    /// All endpoints, for metrics.
    pub fn endpoints(&self) -> Rc<[Rc<Endpoint<S>>]> {
        self.endpoints.borrow().clone()
    }
}

/// Whether surplus idle connections are offered to other workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lend {
    /// Yes: there are others.
    Surplus,
    /// No.
    Nothing,
}

/// Idle for longer than this, a connection is surplus to its worker.
const LEND_AFTER_IDLE_MS: u64 = 1_000;
