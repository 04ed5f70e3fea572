//! What limits count in: the node's buckets, a worker's end of them, and a snapshot's rules by the names that buckets have.
//! State; `limiting` decides with it, and the control thread makes [`Shared`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::config::snapshot::RateLimits;
use crate::net::memory;
use crate::policy::rate_limit::in_flight::Gate;
use crate::policy::rate_limit::sketch::Heavy;
use crate::policy::rate_limit::{InFlight, KeyHasher, Node, Revision, Rule, RuleId, Worker, headers};

/// Keys that a worker remembers by itself; the others it asks the node about.
const WORKER_KEYS: usize = 8_192;

/// What all workers of the node share.
#[derive(Debug)]
pub struct Shared {
    /// The buckets.
    pub node: Arc<Node>,
    /// Requests at once.
    pub in_flight: Arc<InFlight>,
    /// Names of buckets.
    pub hasher: KeyHasher,
    /// What both have room for.
    pub keys_max: usize,
}

impl Shared {
    /// Takes all the memory that it will ever have, about 38 bytes for each key; none of it is resident before keys come.
    pub fn new(workers: usize, keys_max: usize, hasher: KeyHasher) -> Arc<Self> {
        Arc::new(Self {
            node: Arc::new(Node::within(workers as u32, keys_max, memory::zeroed)),
            in_flight: Arc::new(InFlight::within(keys_max, memory::zeroed)),
            hasher,
            keys_max,
        })
    }
}

/// One worker's end.
#[derive(Debug)]
pub(super) struct Limiting {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: RefCell<Worker>,
    pub(super) gate: Gate,
}

impl Limiting {
    pub(super) fn new(shared: &Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            shared: Arc::clone(shared),
            worker: RefCell::new(Worker::new(Arc::clone(&shared.node), WORKER_KEYS)),
            gate: Gate::new(Arc::clone(&shared.in_flight)),
        })
    }

    /// Gives back what was not used for a while. True while there is more to come.
    pub(super) fn tick(&self, now_ns: u64) -> bool {
        let mut worker = self.worker.borrow_mut();
        worker.tick(now_ns);
        worker.holds_leases()
    }

    /// Gives back everything: rules have changed, or the worker ends.
    pub(super) fn release(&self) {
        self.worker.borrow_mut().release();
    }

    /// The heaviest keys, with decisions of late.
    pub(super) fn heaviest(&self, n: usize) -> Vec<Heavy> {
        self.worker.borrow_mut().heaviest(n)
    }

    /// Lets old weights fade.
    pub(super) fn fade(&self) {
        self.worker.borrow_mut().fade();
    }
}

/// A snapshot's limits, named by this process's hasher. There is a revision for each of its rates.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub(super) rules: Box<[Rule]>,
    pub(super) in_flight: Box<[RuleId]>,
    pub(super) counts: Box<[Rc<LimitCounts>]>,
    /// Of each rule: the line `RateLimit-Policy`, and `RateLimit` as far as it is always the same.
    pub(super) lines: Box<[Box<[u8]>]>,
}

impl Limits {
    pub(super) fn new(
        configured: &RateLimits,
        revisions: &[Arc<Revision>],
        hasher: &KeyHasher,
        mut counts: impl FnMut(&str) -> Rc<LimitCounts>,
    ) -> Self {
        let rules = configured.rates.iter();
        let lines = rules.clone().map(|limit| {
            let mut lines = b"RateLimit-Policy: ".to_vec();
            headers::policy(&limit.rule, &mut lines);
            lines.extend_from_slice(b"\r\nRateLimit: ");
            lines.into()
        });
        Self {
            lines: lines.collect(),
            rules: rules
                .clone()
                .zip(revisions)
                .map(|(limit, revision)| limit.rule.counted_by(revision))
                .collect(),
            counts: rules.map(|limit| counts(&limit.rule.name)).collect(),
            // Told apart from a rate limit of the same name.
            in_flight: configured
                .in_flight
                .iter()
                .map(|limit| hasher.rule(&format!("in flight {}", limit.name)))
                .collect(),
        }
    }
}

/// What one limit has decided.
#[derive(Debug, Default)]
pub struct LimitCounts {
    /// Requests that it let through, those that waited included.
    pub admitted: Cell<u64>,
    /// Of these, those that waited.
    pub delayed: Cell<u64>,
    /// Requests that it refused.
    pub rejected: Cell<u64>,
    /// Requests that it would have refused.
    pub shadow_rejected: Cell<u64>,
}
