//! Steady load over HTTP/2: connections that keep a number of requests under way, each stream asking again as soon as it
//! has its answer. Every answer that is not the expected one is counted, and every latency is kept.

use super::Failure;
use super::client::{Client, Settings, request};
use ::h2::Reason;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the clients have seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub answered: u64,
    /// Each failure with what happened; empty is the claim.
    pub failures: Vec<String>,
    /// Requests that were refused unprocessed because the connection was leaving: a client repeats those (RFC 9113
    /// section 8.7).
    pub repeated: u64,
    /// Connections opened after the first.
    pub reconnects: u64,
    pub latencies: Vec<Duration>,
}

impl Tally {
    /// The latency that this share of the answers, in per cent, stayed within.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted
            .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }
}

/// Running clients; [`Load::stop`] ends them.
#[derive(Debug)]
pub struct Load {
    stopping: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts `connections` with `streams` requests each under way to GET `target`. A connection that leaves is
    /// replaced.
    #[track_caller]
    pub fn start(address: SocketAddr, connections: usize, streams: usize, target: &str) -> Load {
        let stopping = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for _ in 0..connections {
            let shared = Arc::new(Mutex::new(Arc::new(Client::connect(address))));
            for _ in 0..streams {
                let (shared, target) = (Arc::clone(&shared), target.to_owned());
                let (stopping, answered) = (Arc::clone(&stopping), Arc::clone(&answered));
                threads.push(thread::spawn(move || ask_on(address, &shared, &target, &stopping, &answered)));
            }
        }
        Load { stopping, answered, threads }
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until `more` further answers have come.
    #[track_caller]
    pub fn await_answers(&self, more: u64) {
        let target = self.answered() + more;
        crate::wait::eventually(&format!("{more} more answers"), || {
            (self.answered() >= target).then_some(())
        });
    }

    /// Lets each stream finish its request, and adds up.
    pub fn stop(self) -> Tally {
        self.stopping.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads {
            let tally = thread.join().expect("a client does not panic");
            sum.answered += tally.answered;
            sum.repeated += tally.repeated;
            sum.reconnects += tally.reconnects;
            sum.failures.extend(tally.failures);
            sum.latencies.extend(tally.latencies);
        }
        sum
    }
}

fn ask_on(
    address: SocketAddr,
    shared: &Mutex<Arc<Client>>,
    target: &str,
    stopping: &AtomicBool,
    answered: &AtomicU64,
) -> Tally {
    let mut tally = Tally::default();
    while !stopping.load(Ordering::Relaxed) {
        let client = {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if shared.is_leaving() {
                match Client::try_with(address, Settings::default()) {
                    Ok(client) => {
                        *shared = Arc::new(client);
                        tally.reconnects += 1;
                    }
                    Err(failure) => {
                        tally.failures.push(format!("connecting: {failure}"));
                        continue;
                    }
                }
            }
            Arc::clone(&shared)
        };
        let started = Instant::now();
        match client.try_ask(request("GET", target, &[])) {
            Ok(response) if response.status == 200 => {
                tally.answered += 1;
                answered.fetch_add(1, Ordering::Relaxed);
                tally.latencies.push(started.elapsed());
            }
            Ok(response) => tally.failures.push(format!("{}: {}", response.status, response.text())),
            Err(Failure::GoAway(Reason::NO_ERROR) | Failure::Reset(Reason::REFUSED_STREAM)) => {
                tally.repeated += 1;
            }
            // The h2 crate's word for a connection that ended orderly before the stream was opened.
            Err(_) if client.ending() == Some(Ok(())) && client.is_leaving() => tally.repeated += 1,
            Err(failure) => tally.failures.push(format!("{failure}, after {:?}", started.elapsed())),
        }
    }
    tally
}
