//! The right to use one connection to an endpoint, for one exchange.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::endpoint::{Endpoint, Idle, Multiplexed};
use super::guards::Admitted;
use super::private::Private;
use crate::http::message::Wire;
use crate::net::h2::client::ClientStream;
use crate::net::platform::{Connected, Dial};
use crate::net::stream::{Peek, Transport};
use crate::policy::balance::Rule;
use crate::policy::outlier::Outcome;
use crate::proxy::standing::{Applied, Ticket};

/// Idle connections that could not be used, by what a look at them showed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Discarded {
    /// The origin has closed them.
    pub stale: u64,
    /// The origin has sent what nobody asked for: whoever took the connection next would take that for its response.
    pub unsolicited: u64,
}

impl Discarded {
    /// Looks at an idle connection. True if it may be used: its origin has neither closed it nor said anything.
    pub fn look<S: Transport>(&mut self, stream: &S) -> bool {
        match stream.peek_idle() {
            Peek::Quiet => return true,
            Peek::Bytes => self.unsolicited += 1,
            Peek::Closed => self.stale += 1,
        }
        false
    }
}

/// What the pool has for a request.
#[derive(Debug)]
pub enum Found<S> {
    /// An idle connection of this worker, or a stream on a shared one.
    Idle(S),
    /// A socket that another worker lent.
    Lent(OwnedFd),
    /// Nothing: connect.
    Nothing,
}

/// The right to use one connection to an endpoint. Dropping it closes the connection; [`Lease::give_back`] makes it idle.
#[derive(Debug)]
pub struct Lease<S: Transport> {
    admitted: Admitted<S>,
    /// Where the connection goes.
    pub endpoint: Rc<Endpoint<S>>,
    /// How its connection is opened, or was.
    pub dial: Rc<Dial>,
    stream: Option<S>,
    /// What this attempt is to the endpoint's health, until that is known.
    ticket: Cell<Option<Ticket>>,
    /// It has carried a request before: an origin may just be closing it.
    pub reused: bool,
    /// The connection is bound to the client: it goes back to nobody else.
    private: Cell<bool>,
    waits: Cell<Waits>,
    /// It has a place among the endpoint's connections to itself; a stream shares one with others.
    place: Share,
}

/// What an attempt waits for, and since when. Only what the endpoint alone can speed up counts as its latency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// The connection; then the socket that takes the request.
    Connection(u64),
    /// The client, for the rest of its body.
    Client,
    /// The response's head: the whole request is out.
    Answer(u64),
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
    /// Any.
    Any,
    /// A new one: what comes is no HTTP exchange, but everything that follows on the connection.
    New,
}

impl<S: Transport + From<Box<ClientStream>>> Lease<S> {
    /// Reserves a place at the endpoint and looks for an idle connection: the one used last, as it is the most likely
    /// to live. Each is looked at before it is used, however short it has been idle: a response that comes late, or that
    /// nobody asked for, must not become the next client's. The look is one recv(2), a microsecond.
    pub fn take(
        admitted: Admitted<S>,
        endpoint: &Rc<Endpoint<S>>,
        need: Need,
        private: Option<&Private<S>>,
        now_ms: u64,
        discarded: &mut Discarded,
    ) -> (Self, Found<S>) {
        if endpoint.dial().http2.is_some() {
            return Self::take_stream(admitted, endpoint, now_ms);
        }
        if need == Need::Any
            && let Some(stream) = private.and_then(|private| private.take(endpoint))
        {
            if discarded.look(&stream) {
                let lease = Self::new(admitted, endpoint, Share::Own, now_ms);
                lease.private.set(true);
                return (lease, Found::Idle(stream));
            }
            endpoint.open.set(endpoint.open.get() - 1);
        }
        let (connections_max, idle_ms) = {
            let settings = admitted.upstream.settings.borrow();
            (settings.connections_max, settings.idle_ms)
        };
        let found = loop {
            if need == Need::New && endpoint.open.get() < connections_max {
                break None;
            }
            let mut all = endpoint.idle.borrow_mut();
            let fits = need == Need::Any && all.last().is_some_and(|idle| endpoint.reuses(&idle.dial));
            if !fits {
                // At the cap one that can't be used makes room.
                if endpoint.open.get() >= connections_max && !all.is_empty() {
                    all.remove(0);
                    endpoint.open.set(endpoint.open.get() - 1);
                }
                break None;
            }
            let Some(idle) = all.pop() else { break None };
            drop(all);
            // The round that closes those that have been idle for too long may be a second late, and their origin early.
            if now_ms.saturating_sub(idle.since_ms) < idle_ms && discarded.look(&idle.stream) {
                break Some(idle.stream);
            }
            endpoint.open.set(endpoint.open.get() - 1);
        };
        let found = if let Some(stream) = found {
            Found::Idle(stream)
        } else {
            endpoint.open.set(endpoint.open.get() + 1);
            let lent = if need == Need::New || !endpoint.may_lend() {
                None
            } else {
                endpoint.loans.borrow(now_ms, idle_ms)
            };
            lent.map_or(Found::Nothing, Found::Lent)
        };
        (Self::new(admitted, endpoint, Share::Own, now_ms), found)
    }

    fn take_stream(admitted: Admitted<S>, endpoint: &Rc<Endpoint<S>>, now_ms: u64) -> (Self, Found<S>) {
        let idle_ms = admitted.upstream.settings.borrow().idle_ms;
        if let Some(stream) = endpoint.open_stream(now_ms, idle_ms) {
            return (
                Self::new(admitted, endpoint, Share::Stream, now_ms),
                Found::Idle(S::from(Box::new(stream))),
            );
        }
        endpoint.open.set(endpoint.open.get() + 1);
        endpoint.dialling.set(true);
        (Self::new(admitted, endpoint, Share::Dialling, now_ms), Found::Nothing)
    }

    /// Gives the lease the connection that was opened for it. False if it is of no use: its origin allows no streams.
    pub fn connected(&mut self, connected: Connected<S>, now_ms: u64) -> bool {
        match connected {
            Connected::Stream(stream) => self.hold(stream, false),
            Connected::Session(session) => {
                let Some(stream) = session.open() else { return false };
                self.hold(S::from(Box::new(stream)), false);
                if self.endpoint.reuses(&self.dial) {
                    self.endpoint.sessions.borrow_mut().push(Multiplexed { session, used_ms: now_ms });
                    // The place is the session's now.
                    self.leave_place(Share::Stream);
                } else {
                    self.leave_place(Share::Own);
                }
            }
        }
        true
    }
}

impl<S: Transport> Lease<S> {
    fn new(admitted: Admitted<S>, endpoint: &Rc<Endpoint<S>>, place: Share, now_ms: u64) -> Self {
        endpoint.active.set(endpoint.active.get() + 1);
        endpoint.requests.set(endpoint.requests.get() + 1);
        Self {
            admitted,
            ticket: Cell::new(Some(endpoint.observer.begin())),
            dial: endpoint.dial(),
            endpoint: Rc::clone(endpoint),
            stream: None,
            reused: false,
            private: Cell::new(false),
            waits: Cell::new(Waits::Connection(now_ms * 1_000_000)),
            place,
        }
    }

    fn leave_place(&mut self, next: Share) {
        if std::mem::replace(&mut self.place, next) == Share::Dialling {
            self.endpoint.dialling.set(false);
            // All that waited for it: there is room for many, or none, and then one of them must dial.
            self.admitted.upstream.queue.call_all();
        }
    }

    /// Gives the lease its connection.
    pub fn hold(&mut self, stream: S, reused: bool) {
        self.stream = Some(stream);
        self.reused = reused;
    }

    /// The exchange has authenticated the connection, or may have: it is used for nobody else from now on. A connection
    /// that many share can't be one client's, so it takes no further streams.
    pub fn bind_to_client(&self) {
        self.private.set(true);
        if self.is_shared() {
            self.stream().retire_connection();
        }
    }

    /// The connection is bound to the client.
    pub fn is_private(&self) -> bool {
        self.private.get()
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
        if self.dial.http2.is_some() { Wire::Http2 } else { Wire::Http1 }
    }

    /// The rest of the request's body comes from the client as the client likes.
    pub fn sending(&self) {
        self.waits.set(Waits::Client);
    }

    /// The whole request is out.
    pub fn sent(&self, now_ns: u64) {
        self.waits.set(Waits::Answer(now_ns));
    }

    /// When the whole request was out, if it is.
    pub fn sent_ns(&self) -> Option<u64> {
        match self.waits.get() {
            Waits::Answer(since_ns) => Some(since_ns),
            Waits::Connection(_) | Waits::Client => None,
        }
    }

    /// How long the endpoint has been waited for. `None` while its client is.
    fn latency_ns(&self, now_ns: u64) -> Option<u64> {
        match self.waits.get() {
            Waits::Connection(since_ns) | Waits::Answer(since_ns) => Some(now_ns.saturating_sub(since_ns)),
            Waits::Client => None,
        }
    }

    /// Whether the endpoint has had the larger part of the exchange's time so far: what was over before it was waited for
    /// (an upload, a queue, our own delay) is not its fault.
    pub fn took_most(&self, now_ns: u64) -> bool {
        self.latency_ns(now_ns).is_some_and(|latency_ns| {
            latency_ns >= now_ns.saturating_sub(self.admitted.began_ns()).saturating_sub(latency_ns)
        })
    }

    /// What became of the attempt: its response's head came, with a status, or it failed for a reason that is the
    /// endpoint's. Health, breaker, limit and latency learn of it; of further words only failures are counted. Tells what
    /// it did to the endpoint. An attempt of which nothing is said counts for nothing.
    pub fn learn(
        &self,
        outcome: Outcome,
        status: Option<u16>,
        now_ns: u64,
        draw: impl FnOnce() -> u64,
    ) -> Option<Applied> {
        if outcome != Outcome::Success {
            self.endpoint.failures.set(self.endpoint.failures.get() + 1);
        }
        if outcome == Outcome::Timeout
            && let Some(stream) = &self.stream
        {
            stream.suspect_connection(now_ns / 1_000_000);
        }
        let ticket = self.ticket.take()?;
        let latency_ns = self.latency_ns(now_ns);
        self.admitted.learn(outcome, status, latency_ns, now_ns);
        let settings = self.admitted.upstream.settings.borrow();
        if settings.rule == Rule::PeakEwma {
            let mut latency = self.endpoint.latency.get();
            match (status, latency_ns) {
                (Some(_), Some(latency_ns)) => latency.observe(latency_ns, now_ns, &settings.ewma),
                (Some(_), None) => {}
                (None, failed_ns) => {
                    latency.observe_failure(failed_ns.unwrap_or(0), now_ns, &settings.ewma);
                }
            }
            self.endpoint.latency.set(latency);
        }
        let Some(outliers) = &settings.outliers else {
            self.endpoint.observer.abandon(ticket);
            return None;
        };
        let now_ms = now_ns / 1_000_000;
        self.endpoint.observer.finish(
            ticket,
            outcome,
            latency_ns.unwrap_or(0) / 1_000,
            outliers,
            now_ms,
            draw,
        )
    }

    /// Another attempt has answered first: this one has taken so long already, which only its latency learns. Whether it
    /// would have been answered at all nobody knows, so health and breaker hear nothing.
    pub fn lost_race(&self, now_ns: u64) {
        let settings = self.admitted.upstream.settings.borrow();
        if settings.rule == Rule::PeakEwma
            && let Some(latency_ns) = self.latency_ns(now_ns)
        {
            let mut latency = self.endpoint.latency.get();
            latency.observe(latency_ns, now_ns, &settings.ewma);
            self.endpoint.latency.set(latency);
        }
    }

    /// The exchange has become a tunnel: no request in flight any more.
    pub fn became_tunnel(&self) {
        self.admitted.stop_counting();
    }

    /// The exchange ended cleanly: keeps the connection for the next one, if there is room. One that is bound to its
    /// client goes to `private`.
    pub fn give_back(mut self, now_ms: u64, private: Option<&Private<S>>) {
        // After a PROXY header a connection is one client's, and tells nothing of the next.
        let alone = self.dial.proxy.is_some() || self.dial.http2.is_some();
        if self.place != Share::Own || alone || !self.endpoint.reuses(&self.dial) {
            return;
        }
        if self.private.get() {
            if let Some(private) = private
                && let Some(stream) = self.stream.take()
            {
                private.put(&self.admitted.upstream, &self.endpoint, &self.dial, stream);
                // The drop below must not count it as closed.
                self.endpoint.open.set(self.endpoint.open.get() + 1);
            }
            return;
        }
        let idle_max = self.admitted.upstream.settings.borrow().idle_max;
        let mut idle = self.endpoint.idle.borrow_mut();
        if idle.len() >= idle_max as usize {
            return;
        }
        if let Some(stream) = self.stream.take() {
            idle.push(Idle { stream, since_ms: now_ms, dial: Rc::clone(&self.dial) });
            // The drop below must not count it as closed.
            self.endpoint.open.set(self.endpoint.open.get() + 1);
        }
    }
}

impl<S: Transport> Drop for Lease<S> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.endpoint.observer.abandon(ticket);
        }
        if self.place != Share::Stream {
            self.endpoint.open.set(self.endpoint.open.get() - 1);
        }
        self.leave_place(Share::Stream);
        // The stream's place on its connection is free before somebody is called to it.
        self.stream = None;
        self.endpoint.active.set(self.endpoint.active.get() - 1);
        self.admitted.upstream.queue.call_next();
    }
}
