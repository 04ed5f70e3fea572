//! Upstreams as one worker knows them: endpoints, their connections, who waits for one.
//!
//! This is state: it is keyed by the upstream's name and the endpoint's address and outlives reloads. What is
//! configured comes with each call or is set anew by [`Upstream::configure`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crossbeam_queue::ArrayQueue;

use crate::base::limits::LENT_CONNECTIONS_MAX;
use crate::http::message::Wire;
use crate::net::connect::Address;
use crate::net::h2::Settings as Http2Settings;
use crate::net::h2::client::{ClientStream, Session};
use crate::net::platform::{Connected, Dial};
use crate::net::proxied::ProxyVersion;
use crate::net::stream::{Peek, Transport};
use crate::net::tls::client::{Connector, ServerName, TlsClient};
use crate::policy::balance::tiers::{Distance, Layout, Member, Tiers};
use crate::policy::balance::{self, Candidate, Choice, Rule, Weight};

/// A request that may be repeated takes a connection unseen if it has been idle for less than this: should the origin
/// have closed it, the request goes out again. Looking costs a system call, 0.5 µs.
const LOOK_AFTER_IDLE_MS: u64 = 500;

/// Idle connections on loan between workers, one shelf for each endpoint of the node.
#[derive(Debug)]
pub struct Shelf {
    /// With the time since when it has been idle, on the clock that all workers share.
    sockets: ArrayQueue<(OwnedFd, u64)>,
}

impl Shelf {
    /// An empty shelf.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { sockets: ArrayQueue::new(LENT_CONNECTIONS_MAX) })
    }

    /// Puts a socket on the shelf. False, and the socket is closed, if the shelf is full.
    pub fn lend(&self, socket: OwnedFd, since_ms: u64) -> bool {
        self.sockets.push((socket, since_ms)).is_ok()
    }

    /// Takes one that somebody put there.
    pub fn borrow(&self) -> Option<OwnedFd> {
        self.sockets.pop().map(|(socket, _)| socket)
    }

    /// Closes what nobody borrowed while it was idle for `idle_ms`.
    fn expire(&self, now_ms: u64, idle_ms: u64) {
        for _ in 0..self.sockets.len() {
            let Some((socket, since_ms)) = self.sockets.pop() else { return };
            if now_ms.saturating_sub(since_ms) < idle_ms {
                let _ = self.sockets.push((socket, since_ms));
            }
        }
    }

    /// How many lie there.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// None does.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

/// One endpoint as the control thread resolved it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Where it is.
    pub address: Address,
    /// What a Host field for it says.
    pub authority: Arc<str>,
    /// At least 1.
    pub weight: u32,
    /// Its shelf on this node.
    pub shelf: Arc<Shelf>,
    /// The name that it must prove, if TLS is spoken to it.
    pub tls_name: Option<ServerName<'static>>,
}

/// Bounds and choices of one upstream, from the snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How endpoints are chosen.
    pub rule: Rule,
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
    settings: Cell<Settings>,
    endpoints: RefCell<Rc<[Rc<Endpoint<S>>]>>,
    /// This worker's way of speaking TLS to the endpoints, and what it was made of.
    connector: RefCell<Option<(Arc<TlsClient>, Rc<Connector>)>>,
    balance: RefCell<balance::State>,
    /// All endpoints, in one level.
    tiers: RefCell<Rc<Tiers>>,
    waiting: RefCell<VecDeque<Waiting>>,
    wait_ids: Cell<u64>,
}

/// One endpoint's state.
#[derive(Debug)]
pub struct Endpoint<S> {
    /// Its stable id.
    pub address: Address,
    /// What a Host field for it says.
    pub authority: Arc<str>,
    /// How connections to it are opened. All that it has were opened so.
    pub dial: Dial,
    weight: u32,
    shelf: Arc<Shelf>,
    idle: RefCell<Vec<Idle<S>>>,
    /// Connections that carry many requests at once.
    sessions: RefCell<Vec<Multiplexed>>,
    /// One of these is being opened: whoever needs one waits for it instead of opening another.
    dialling: Cell<bool>,
    /// Connections open, idle ones included.
    open: Cell<u32>,
    active: Cell<u32>,
    /// Set when the endpoint has left the configuration: its connections are not kept any more.
    retired: Cell<bool>,
    requests: Cell<u64>,
    failures: Cell<u64>,
}

#[derive(Debug)]
struct Idle<S> {
    stream: S,
    since_ms: u64,
}

#[derive(Debug)]
struct Multiplexed {
    session: Rc<Session>,
    /// When it was last seen carrying a request.
    used_ms: u64,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    waker: Option<Waker>,
    called: bool,
}

/// Why no endpoint could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// It has no endpoint: no name of it could be resolved yet.
    NoEndpoint,
    /// All endpoints are at their connection cap.
    Busy,
}

impl<S: Transport> Upstream<S> {
    /// An upstream without endpoints.
    pub fn new(name: Arc<str>, settings: Settings) -> Rc<Self> {
        Rc::new(Self {
            name,
            settings: Cell::new(settings),
            endpoints: RefCell::new(Rc::from([])),
            connector: RefCell::default(),
            balance: RefCell::default(),
            tiers: RefCell::new(Rc::new(Tiers::single(0))),
            waiting: RefCell::default(),
            wait_ids: Cell::new(0),
        })
    }

    /// Takes over settings and endpoints. Endpoints that stay keep their connections and counts; those that left stop
    /// keeping any.
    ///
    /// An endpoint with other TLS settings is another endpoint: what was opened under the old ones must not be used.
    pub fn configure(&self, settings: Settings, tls: Option<&Arc<TlsClient>>, resolved: &[Resolved]) {
        self.settings.set(settings);
        let connector = self.connector(tls);
        let dial = |r: &Resolved| {
            let tls = connector.as_ref().zip(r.tls_name.as_ref());
            Dial {
                tls: tls.map(|(connector, name)| (Rc::clone(connector), name.clone())),
                http2: settings.http2,
                proxy: settings.proxy,
            }
        };
        let old = self.endpoints.borrow().clone();
        let new: Rc<[Rc<Endpoint<S>>]> = resolved
            .iter()
            .map(|r| {
                let same = |e: &&Rc<Endpoint<S>>| {
                    e.address == r.address
                        && e.weight == r.weight
                        && e.authority == r.authority
                        && e.dial == dial(r)
                };
                old.iter().find(same).map_or_else(|| Rc::new(Endpoint::new(r, dial(r))), Rc::clone)
            })
            .collect();
        for gone in old.iter().filter(|e| !new.iter().any(|n| Rc::ptr_eq(n, e))) {
            gone.retire();
        }
        let same_places = old.len() == new.len() && old.iter().zip(new.iter()).all(|(a, b)| Rc::ptr_eq(a, b));
        if !same_places {
            *self.balance.borrow_mut() = balance::State::default();
            let member = |(number, endpoint): (u32, &Rc<Endpoint<S>>)| Member {
                number,
                weight: endpoint.weight,
                priority: 0,
                distance: Distance::Elsewhere,
            };
            let members: Vec<Member> = (0..).zip(new.iter()).map(member).collect();
            *self.tiers.borrow_mut() =
                Rc::new(Tiers::plan(&Layout::new(&members), |_| true, balance::tiers::Settings::default()));
        }
        *self.endpoints.borrow_mut() = new;
        self.call_all();
    }

    /// The connector for these settings; the one there is while they are the same.
    fn connector(&self, tls: Option<&Arc<TlsClient>>) -> Option<Rc<Connector>> {
        let mut kept = self.connector.borrow_mut();
        let stays = matches!((&*kept, tls), (Some((old, _)), Some(new)) if Arc::ptr_eq(old, new));
        if !stays {
            *kept = tls.map(|tls| (Arc::clone(tls), Rc::new(tls.connector())));
        }
        kept.as_ref().map(|(_, connector)| Rc::clone(connector))
    }

    /// The upstream has left the configuration.
    pub fn retire(&self) {
        for endpoint in self.endpoints.borrow().iter() {
            endpoint.retire();
        }
    }

    /// Chooses the endpoint for the next attempt; `avoid` is passed over unless it is the only one. `draw` gives random
    /// numbers.
    pub fn choose(
        &self,
        avoid: Option<&Rc<Endpoint<S>>>,
        mut draw: impl FnMut() -> u64,
    ) -> Result<Rc<Endpoint<S>>, Unavailable> {
        let endpoints = self.endpoints.borrow();
        let tiers = self.tiers.borrow();
        let tier = tiers.choose(&mut draw).ok_or(Unavailable::NoEndpoint)?;
        let settings = self.settings.get();
        let mut balance = self.balance.borrow_mut();
        let mut pick = |avoid: Option<&Rc<Endpoint<S>>>| {
            let candidate = |i: usize| {
                let endpoint = &endpoints[i];
                Candidate {
                    weight: Weight::whole(endpoint.weight),
                    active: endpoint.active.get(),
                    load_ns: 0,
                    usable: endpoint.has_room(&settings) && !avoid.is_some_and(|a| Rc::ptr_eq(a, endpoint)),
                }
            };
            balance.pick(Choice::new(settings.rule, tier), candidate, &mut draw)
        };
        pick(avoid).or_else(|| pick(None)).map(|i| Rc::clone(&endpoints[i])).ok_or(Unavailable::Busy)
    }

    /// Waits until a connection to this upstream may have become free. False if too many wait already.
    pub async fn wait(self: &Rc<Self>) -> bool {
        if self.waiting.borrow().len() >= self.settings.get().pending_max as usize {
            return false;
        }
        let id = self.wait_ids.get();
        self.wait_ids.set(id + 1);
        self.waiting.borrow_mut().push_back(Waiting { id, waker: None, called: false });
        let mut place = Place { upstream: self, id, came: false };
        std::future::poll_fn(|cx| {
            let mut waiting = self.waiting.borrow_mut();
            match waiting.iter_mut().find(|w| w.id == place.id) {
                Some(w) if !w.called => {
                    w.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
        place.came = true;
        true
    }

    /// Calls the one that has waited longest.
    fn call_next(&self) {
        if let Some(w) = self.waiting.borrow_mut().iter_mut().find(|w| !w.called) {
            w.called = true;
            if let Some(waker) = w.waker.take() {
                waker.wake();
            }
        }
    }

    fn call_all(&self) {
        for w in self.waiting.borrow_mut().iter_mut() {
            w.called = true;
            if let Some(waker) = w.waker.take() {
                waker.wake();
            }
        }
    }

    /// Closes what has been idle for too long or was closed by its origin, and puts surplus on the shelf for workers
    /// that have none. Returns (closed by the origin, lent).
    pub fn tend(&self, now_ms: u64, mut detach: impl FnMut(S) -> Option<OwnedFd>, lend: Lend) -> (u64, u64) {
        let settings = self.settings.get();
        let (mut stale, mut lent) = (0, 0);
        for endpoint in self.endpoints.borrow().iter() {
            let mut idle = endpoint.idle.borrow_mut();
            let before = idle.len();
            idle.retain(|i| now_ms.saturating_sub(i.since_ms) < settings.idle_ms);
            let timely = idle.len();
            idle.retain(|i| i.stream.peek() == Peek::Quiet);
            stale += (timely - idle.len()) as u64;
            endpoint.open.set(endpoint.open.get() - (before - idle.len()) as u32);
            endpoint.retain_sessions(|m| {
                if m.session.streams() > 0 {
                    m.used_ms = now_ms;
                }
                if settings.ping_ms > 0 && !m.session.look(now_ms, settings.ping_ms, settings.ping_timeout_ms)
                {
                    endpoint.failures.set(endpoint.failures.get() + 1);
                }
                !m.session.is_over() && now_ms.saturating_sub(m.used_ms) < settings.idle_ms
            });
            // The bottom of the stack has not been needed for a whole round: half of it may help others.
            let unused =
                idle.iter().filter(|i| now_ms.saturating_sub(i.since_ms) > LEND_AFTER_IDLE_MS).count();
            if lend == Lend::Surplus && endpoint.may_lend() {
                for _ in 0..unused / 2 {
                    let Idle { stream, since_ms } = idle.remove(0);
                    endpoint.open.set(endpoint.open.get() - 1);
                    let Some(socket) = detach(stream) else { break };
                    lent += u64::from(endpoint.shelf.lend(socket, since_ms));
                }
                endpoint.shelf.expire(now_ms, settings.idle_ms);
            }
        }
        if stale > 0 {
            self.call_all();
        }
        (stale, lent)
    }

    /// Closes all idle connections, those on the shelves too.
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

/// A place in the queue, given up when the wait is dropped. A place that was called but not used calls the next one.
struct Place<'u, S: Transport> {
    upstream: &'u Rc<Upstream<S>>,
    id: u64,
    came: bool,
}

impl<S: Transport> Drop for Place<'_, S> {
    fn drop(&mut self) {
        let mut waiting = self.upstream.waiting.borrow_mut();
        let Some(at) = waiting.iter().position(|w| w.id == self.id) else { return };
        let called = waiting.remove(at).is_some_and(|w| w.called);
        drop(waiting);
        if called && !self.came {
            self.upstream.call_next();
        }
    }
}

impl<S> Endpoint<S> {
    fn new(resolved: &Resolved, dial: Dial) -> Self {
        Self {
            dial,
            address: resolved.address.clone(),
            authority: Arc::clone(&resolved.authority),
            weight: resolved.weight,
            shelf: Arc::clone(&resolved.shelf),
            idle: RefCell::default(),
            sessions: RefCell::default(),
            dialling: Cell::new(false),
            open: Cell::new(0),
            active: Cell::new(0),
            retired: Cell::new(false),
            requests: Cell::new(0),
            failures: Cell::new(0),
        }
    }

    /// A TLS connection's keys can't cross to another worker.
    fn may_lend(&self) -> bool {
        self.dial.tls.is_none()
    }

    fn has_room(&self, settings: &Settings) -> bool {
        if self.dial.http2.is_none() {
            return self.open.get() < settings.connections_max || !self.idle.borrow().is_empty();
        }
        (self.open.get() < settings.connections_max && !self.dialling.get())
            || self.sessions.borrow().iter().any(|m| m.session.has_room())
    }

    /// Drops the sessions that `keep` does not want. A dropped one ends with its last stream.
    fn retain_sessions(&self, mut keep: impl FnMut(&mut Multiplexed) -> bool) -> u32 {
        let mut sessions = self.sessions.borrow_mut();
        let before = sessions.len();
        sessions.retain_mut(&mut keep);
        let dropped = (before - sessions.len()) as u32;
        self.open.set(self.open.get() - dropped);
        dropped
    }

    /// A stream on the first connection that has room for one: the others may grow idle and be closed.
    fn open_stream(&self, now_ms: u64) -> Option<ClientStream> {
        self.retain_sessions(|m| !m.session.is_over());
        self.sessions.borrow_mut().iter_mut().find_map(|m| {
            let stream = m.session.open()?;
            m.used_ms = now_ms;
            Some(stream)
        })
    }

    fn retire(&self) {
        self.retired.set(true);
        self.close_idle();
    }

    fn close_idle(&self) {
        let closed = self.idle.borrow_mut().drain(..).count() as u32;
        self.open.set(self.open.get() - closed);
        // Those that carry requests live until these are over.
        self.retain_sessions(|_| false);
        while self.shelf.borrow().is_some() {}
    }

    /// (connections, idle, requests in flight, requests, failures).
    pub fn numbers(&self) -> [u64; 5] {
        [
            u64::from(self.open.get()),
            self.idle.borrow().len() as u64,
            u64::from(self.active.get()),
            self.requests.get(),
            self.failures.get(),
        ]
    }
}

/// What the pool has for a request.
#[derive(Debug)]
pub enum Found<S> {
    /// A kept connection of this worker.
    Kept(S),
    /// A socket that another worker lent.
    Lent(OwnedFd),
    /// Nothing: connect.
    Nothing,
}

/// The right to use one connection to an endpoint. Dropping it closes the connection; [`Lease::keep`] keeps it.
#[derive(Debug)]
pub struct Lease<S: Transport> {
    upstream: Rc<Upstream<S>>,
    /// Where the connection goes.
    pub endpoint: Rc<Endpoint<S>>,
    stream: Option<S>,
    /// It has carried a request before: an origin may just be closing it.
    pub reused: bool,
    /// It has a place among the endpoint's connections to itself; a stream shares one with others.
    place: Share,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Share {
    Own,
    /// The same, while a connection is being opened that others wait for.
    Dialling,
    Stream,
}

/// What a request needs of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Any that is likely to live: if it proves dead, the request is sent again.
    Likely,
    /// One that is known to live a moment before: the request can't be sent again (RFC 9110 section 9.2.2).
    Looked,
    /// A new one: what comes is no HTTP exchange, but everything that follows on the connection.
    New,
}

impl<S: Transport + From<Box<ClientStream>>> Lease<S> {
    /// Reserves a place at the endpoint and looks for an idle connection: the one used last, as it is the most likely
    /// to live. Counts dead ones met on the way into `stale`.
    pub fn take(
        upstream: &Rc<Upstream<S>>,
        endpoint: &Rc<Endpoint<S>>,
        need: Need,
        now_ms: u64,
        stale: &mut u64,
    ) -> (Self, Found<S>) {
        let settings = upstream.settings.get();
        if endpoint.dial.http2.is_some() {
            return Self::take_stream(upstream, endpoint, now_ms);
        }
        let found = loop {
            if need == Need::New && endpoint.open.get() < settings.connections_max {
                break None;
            }
            let Some(idle) = endpoint.idle.borrow_mut().pop() else { break None };
            if need == Need::New {
                // At the cap an idle one makes room.
                endpoint.open.set(endpoint.open.get() - 1);
                break None;
            }
            let fresh = need == Need::Likely && now_ms.saturating_sub(idle.since_ms) <= LOOK_AFTER_IDLE_MS;
            if fresh || idle.stream.peek() == Peek::Quiet {
                break Some(idle.stream);
            }
            *stale += 1;
            endpoint.open.set(endpoint.open.get() - 1);
        };
        let found = if let Some(stream) = found {
            Found::Kept(stream)
        } else {
            endpoint.open.set(endpoint.open.get() + 1);
            let lent = if need == Need::New || !endpoint.may_lend() { None } else { endpoint.shelf.borrow() };
            lent.map_or(Found::Nothing, Found::Lent)
        };
        (Self::new(upstream, endpoint, Share::Own), found)
    }

    fn take_stream(upstream: &Rc<Upstream<S>>, endpoint: &Rc<Endpoint<S>>, now_ms: u64) -> (Self, Found<S>) {
        if let Some(stream) = endpoint.open_stream(now_ms) {
            return (Self::new(upstream, endpoint, Share::Stream), Found::Kept(S::from(Box::new(stream))));
        }
        endpoint.open.set(endpoint.open.get() + 1);
        endpoint.dialling.set(true);
        (Self::new(upstream, endpoint, Share::Dialling), Found::Nothing)
    }

    /// Gives the lease the connection that was opened for it. False if it is of no use: its origin allows no streams.
    pub fn connected(&mut self, connected: Connected<S>, now_ms: u64) -> bool {
        match connected {
            Connected::Stream(stream) => self.hold(stream, false),
            Connected::Session(session) => {
                let Some(stream) = session.open() else { return false };
                self.hold(S::from(Box::new(stream)), false);
                if !self.endpoint.retired.get() {
                    self.endpoint.sessions.borrow_mut().push(Multiplexed { session, used_ms: now_ms });
                    // The place is the session's now.
                    self.leave_place(Share::Stream);
                }
            }
        }
        true
    }
}

impl<S: Transport> Lease<S> {
    fn new(upstream: &Rc<Upstream<S>>, endpoint: &Rc<Endpoint<S>>, place: Share) -> Self {
        endpoint.active.set(endpoint.active.get() + 1);
        endpoint.requests.set(endpoint.requests.get() + 1);
        Self {
            upstream: Rc::clone(upstream),
            endpoint: Rc::clone(endpoint),
            stream: None,
            reused: false,
            place,
        }
    }

    fn leave_place(&mut self, next: Share) {
        if std::mem::replace(&mut self.place, next) == Share::Dialling {
            self.endpoint.dialling.set(false);
            // All that waited for it: there is room for many, or none, and then one of them must dial.
            self.upstream.call_all();
        }
    }

    /// Gives the lease its connection.
    pub fn hold(&mut self, stream: S, reused: bool) {
        self.stream = Some(stream);
        self.reused = reused;
    }

    /// The connection carries others' requests as well.
    pub fn is_shared(&self) -> bool {
        self.place == Share::Stream
    }

    /// The connection.
    pub fn stream(&self) -> &S {
        self.stream.as_ref().expect("a lease is used only after `hold`")
    }

    /// What responses come over.
    pub fn wire(&self) -> Wire {
        if self.endpoint.dial.http2.is_some() { Wire::Http2 } else { Wire::Http1 }
    }

    /// The attempt failed for a reason that is the endpoint's.
    pub fn failed(&self) {
        self.endpoint.failures.set(self.endpoint.failures.get() + 1);
    }

    /// The exchange ended cleanly: keeps the connection for the next one, if there is room.
    pub fn keep(mut self, now_ms: u64) {
        // After a PROXY header a connection is one client's, and tells nothing of the next.
        if self.place != Share::Own || self.endpoint.dial.proxy.is_some() {
            return;
        }
        let settings = self.upstream.settings.get();
        let mut idle = self.endpoint.idle.borrow_mut();
        if self.endpoint.retired.get() || idle.len() >= settings.idle_max as usize {
            return;
        }
        if let Some(stream) = self.stream.take() {
            idle.push(Idle { stream, since_ms: now_ms });
            // The drop below must not count it as closed.
            self.endpoint.open.set(self.endpoint.open.get() + 1);
        }
    }
}

impl<S: Transport> Drop for Lease<S> {
    fn drop(&mut self) {
        if self.place != Share::Stream {
            self.endpoint.open.set(self.endpoint.open.get() - 1);
        }
        self.leave_place(Share::Stream);
        // The stream's place on its connection is free before somebody is called to it.
        self.stream = None;
        self.endpoint.active.set(self.endpoint.active.get() - 1);
        self.upstream.call_next();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::Shelf;
    use crate::base::limits::LENT_CONNECTIONS_MAX;

    fn socket() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_shelf_is_bounded_and_closes_what_nobody_borrows() {
        let shelf = Shelf::new();
        for at in 0..LENT_CONNECTIONS_MAX as u64 {
            assert!(shelf.lend(socket(), at));
        }
        assert!(!shelf.lend(socket(), 0), "it is full");
        shelf.expire(100, 90);
        assert_eq!(
            shelf.len(),
            LENT_CONNECTIONS_MAX - 11,
            "those lent at 0 to 10 have been idle for 90 and more"
        );
        assert!(shelf.borrow().is_some());
        shelf.expire(1_000, 90);
        assert!(shelf.is_empty() && shelf.borrow().is_none());
    }
}
