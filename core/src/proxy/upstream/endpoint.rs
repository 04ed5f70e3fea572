//! One endpoint as one worker knows it: its connections, idle, shared and lent.

use std::cell::{Cell, Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::loans::Loans;
use super::{Resolved, Settings};
use crate::net::connect::Address;
use crate::net::h2::client::{ClientStream, Session};
use crate::net::platform::Dial;
use crate::policy::balance::Weight;
use crate::policy::balance::ewma::Ewma;
use crate::policy::balance::slow_start::Curve;
use crate::proxy::standing::Observer;

/// One endpoint's state. An endpoint is its address: what is configured about it changes in place, and what was learnt
/// about it stays.
#[derive(Debug)]
pub struct Endpoint<S> {
    /// Its stable id.
    pub address: Address,
    authority: RefCell<Arc<str>>,
    dial: RefCell<Rc<Dial>>,
    pub(super) weight: Cell<u32>,
    /// What cookies call it.
    pub tag: u64,
    /// What this worker saw of its health, and what the node knows.
    pub observer: Observer,
    /// How slow it is, for the rule that asks.
    pub(super) latency: Cell<Ewma>,
    pub(super) loans: Arc<Loans>,
    pub(super) idle: RefCell<Vec<Idle<S>>>,
    /// Connections that carry many requests at once.
    pub(super) sessions: RefCell<Vec<Multiplexed>>,
    /// One of these is being opened: whoever needs one waits for it instead of opening another.
    pub(super) dialling: Cell<bool>,
    /// Connections open, idle ones included.
    pub(super) open: Cell<u32>,
    pub(super) active: Cell<u32>,
    /// Set when the endpoint has left the configuration: its connections are not kept any more.
    pub(super) retired: Cell<bool>,
    pub(super) requests: Cell<u64>,
    pub(super) failures: Cell<u64>,
}

#[derive(Debug)]
pub(super) struct Idle<S> {
    pub(super) stream: S,
    pub(super) since_ms: u64,
    /// How it was opened. Only the oldest may have been opened otherwise than connections are now.
    pub(super) dial: Rc<Dial>,
}

#[derive(Debug)]
pub(super) struct Multiplexed {
    pub(super) session: Rc<Session>,
    /// When it was last seen carrying a request.
    pub(super) used_ms: u64,
}

impl<S> Endpoint<S> {
    pub(super) fn new(resolved: &Resolved, dial: Dial) -> Self {
        Self {
            address: resolved.address.clone(),
            authority: RefCell::new(Arc::clone(&resolved.authority)),
            dial: RefCell::new(Rc::new(dial)),
            weight: Cell::new(resolved.weight),
            tag: resolved.tag,
            observer: Observer::new(Arc::clone(&resolved.standing)),
            latency: Cell::default(),
            loans: Arc::clone(&resolved.loans),
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

    /// It is the one that was resolved: it has been there all the time.
    pub(super) fn is(&self, resolved: &Resolved) -> bool {
        self.address == resolved.address && Arc::ptr_eq(self.observer.standing(), &resolved.standing)
    }

    /// Takes over what is configured about it. Connections that were opened otherwise than they would be now serve the
    /// requests that they carry, and no others: the identity that was shown or proved on them may hold no longer. Idle
    /// ones are closed little by little, so that not all clients of an endpoint come back in the same moment.
    pub(super) fn configure(&self, resolved: &Resolved, dial: Dial) {
        self.weight.set(resolved.weight);
        self.authority.borrow_mut().clone_from(&resolved.authority);
        if **self.dial.borrow() != dial {
            *self.dial.borrow_mut() = Rc::new(dial);
            self.retain_sessions(|_| false);
            self.loans.expire(0, 0);
        }
    }

    /// What a Host field for it says.
    pub fn authority(&self) -> Ref<'_, str> {
        Ref::map(self.authority.borrow(), |authority| &**authority)
    }

    /// How connections to it are opened.
    pub fn dial(&self) -> Rc<Dial> {
        Rc::clone(&self.dial.borrow())
    }

    /// A connection that was opened so may be used for a further request.
    pub(super) fn reuses(&self, dial: &Rc<Dial>) -> bool {
        !self.retired.get() && Rc::ptr_eq(&self.dial.borrow(), dial)
    }

    /// What it has of its weight, if it is new.
    pub(super) fn weight_now(&self, curve: &Curve, whole: Weight, now_ms: u64) -> Weight {
        match self.observer.standing().word().healthy_since_ms() {
            Some(since) if since > 0 => curve.weight(whole, since, now_ms),
            _ => whole,
        }
    }

    /// A TLS connection's keys can't cross to another worker.
    pub(super) fn may_lend(&self) -> bool {
        self.dial.borrow().tls.is_none()
    }

    pub(super) fn has_room(&self, settings: &Settings) -> bool {
        if self.dial.borrow().http2.is_none() {
            return self.open.get() < settings.connections_max || !self.idle.borrow().is_empty();
        }
        (self.open.get() < settings.connections_max && !self.dialling.get())
            || self.sessions.borrow().iter().any(|m| m.session.has_room())
    }

    /// Drops the sessions that `keep` does not want. A dropped one ends with its last stream.
    pub(super) fn retain_sessions(&self, mut keep: impl FnMut(&mut Multiplexed) -> bool) -> u32 {
        let mut sessions = self.sessions.borrow_mut();
        let before = sessions.len();
        sessions.retain_mut(&mut keep);
        let dropped = (before - sessions.len()) as u32;
        self.open.set(self.open.get() - dropped);
        dropped
    }

    /// A stream on the first connection that has room for one: the others may grow idle and be closed.
    pub(super) fn open_stream(&self, now_ms: u64, idle_ms: u64) -> Option<ClientStream> {
        let is_stale =
            |m: &Multiplexed| now_ms.saturating_sub(m.used_ms) >= idle_ms && m.session.streams() == 0;
        self.retain_sessions(|m| !m.session.is_over() && !is_stale(m));
        self.sessions.borrow_mut().iter_mut().find_map(|m| {
            let stream = m.session.open()?;
            m.used_ms = now_ms;
            Some(stream)
        })
    }

    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.close_idle();
    }

    pub(super) fn close_idle(&self) {
        let closed = self.idle.borrow_mut().drain(..).count() as u32;
        self.open.set(self.open.get() - closed);
        // Those that carry requests live until these are over.
        self.retain_sessions(|_| false);
        self.loans.expire(0, 0);
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
