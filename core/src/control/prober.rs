//! The node's prober: asks endpoints how they are, once for all workers, and writes what it learns into their
//! [`Standing`]s.
//!
//! Two reasons to ask. Active checks, where an upstream has them configured. And returns: an endpoint whose ejection is
//! over is asked before it is let back (by the active check, else by connecting, TLS included); if it fails, the ejection
//! goes on for longer, if it passes, workers try it with one request each (`policy::health`).
//!
//! # Who calls what
//! The control thread, inside its tokio runtime: [`Prober::start`] once, [`Prober::configure`] after each install with
//! *all* endpoints that have a check or outlier detection (and those that had: a target without either is pardoned and
//! forgets its verdict), [`Prober::reports`] for admin and metrics, from any thread. The first install should come with
//! its `configure` before workers serve, so that first checks begin at once. Dropping the prober ends it.
//!
//! It runs as one task of its own (`schedule`), so that a reload that waits for names does not hold checks up; each check
//! (`ask`) is a task too, at most [`CHECKS_IN_FLIGHT_MAX`](crate::base::limits::CHECKS_IN_FLIGHT_MAX) of them. Endpoints
//! start as unchecked, which admits requests: serving starts at once, and the first check, which comes at once, decides
//! alone. Whoever wants an endpoint to wait for its first check makes its standing with an unhealthy verdict.

mod ask;
mod grpc;
mod schedule;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

pub use ask::Failure;
pub use grpc::Serving;

use crate::base::clock::Monotonic;
use crate::net::connect::Address;
use crate::net::proxied::ProxyVersion;
use crate::net::tls::client::{ServerName, TlsClient};
use crate::policy::health::check::{Settings, Streak};
use crate::policy::health::{Ejection, State};
use crate::proxy::standing::Standing;

/// One endpoint to look after.
#[derive(Debug, Clone)]
pub struct Target {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Where requests to it go.
    pub address: Address,
    /// What a Host field for it says, unless the check says otherwise.
    pub authority: Arc<str>,
    /// What workers read.
    pub standing: Arc<Standing>,
    /// Active checks; the same `Arc` for all endpoints of an upstream saves memory.
    pub check: Option<Arc<Settings>>,
    /// Outlier detection's, if that is configured.
    pub ejection: Option<Ejection>,
    /// How requests speak TLS to it, and the name that it must prove.
    pub tls: Option<(Arc<TlsClient>, ServerName<'static>)>,
    /// The PROXY header that it reads.
    pub proxy: Option<ProxyVersion>,
}

/// An endpoint's key.
type Key = (Arc<str>, Address);

/// What is known of one endpoint.
#[derive(Debug, Clone)]
pub struct Report {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// Which endpoint.
    pub address: Address,
    /// What workers see, as of now.
    pub state: State,
    /// Whether active checks are configured.
    pub is_checked: bool,
    /// Results in a row, and their verdict; of active checks.
    pub streak: Streak,
    /// The last check.
    pub last: Option<LastCheck>,
    /// Checks so far, those after ejections included.
    pub checks: u64,
    /// Of these, failed.
    pub failed: u64,
}

/// One finished check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended, on the shared clock.
    pub at_ms: u64,
    /// How long it took.
    pub took_ms: u64,
    /// What it said.
    pub result: Result<(), Failure>,
}

#[derive(Debug)]
struct Board {
    endpoints: Mutex<BTreeMap<Key, Posted>>,
    changes: watch::Sender<u64>,
}

impl Board {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<Key, Posted>)) {
        change(&mut self.endpoints.lock().unwrap_or_else(PoisonError::into_inner));
        self.changes.send_modify(|n| *n += 1);
    }
}

#[derive(Debug)]
struct Posted {
    standing: Arc<Standing>,
    is_checked: bool,
    streak: Streak,
    last: Option<LastCheck>,
    checks: u64,
    failed: u64,
}

/// The way to the prober's task.
#[derive(Debug)]
pub struct Prober {
    targets: watch::Sender<Arc<[Target]>>,
    board: Arc<Board>,
    task: tokio::task::JoinHandle<()>,
}

impl Prober {
    /// Starts one without targets. `seed` decides the jitter.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(clock: Monotonic, seed: u64) -> Self {
        let (targets, receiver) = watch::channel(Arc::from([]));
        let board = Arc::new(Board { endpoints: Mutex::default(), changes: watch::Sender::new(0) });
        let task = tokio::spawn(schedule::run(receiver, Arc::clone(&board), clock, seed));
        Self { targets, board, task }
    }

    /// Its task has panicked: nobody asks any more.
    pub fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Takes over the endpoints of an install. Those that stay keep their counts and their rhythm, unless what is asked
    /// has changed; those that left are asked no more. Of two with one key the first counts.
    pub fn configure(&self, targets: Vec<Target>) {
        self.targets.send_replace(targets.into());
    }

    /// What is known, by upstream and address.
    pub fn reports(&self) -> Vec<Report> {
        // The prober never panics while it holds the lock; a poisoned board would still be readable.
        let endpoints = self.board.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |((upstream, address), posted): (&Key, &Posted)| Report {
            upstream: Arc::clone(upstream),
            address: address.clone(),
            state: posted.standing.state(),
            is_checked: posted.is_checked,
            streak: posted.streak,
            last: posted.last.clone(),
            checks: posted.checks,
            failed: posted.failed,
        };
        endpoints.iter().map(report).collect()
    }

    /// Counts finished checks and configurations taken over: to wait for news instead of asking again and again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.board.changes.subscribe()
    }
}

#[cfg(test)]
mod tests;
