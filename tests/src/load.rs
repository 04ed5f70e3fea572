//! Steady load: clients that ask again as soon as they have an answer, and count every answer that is not the
//! expected one. Used where the claim is "zero failed requests".

use crate::client::{Client, get};
use crate::stream::Address;
use crate::wire::WireError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What the clients have seen.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub answered: u64,
    /// Each failure with what happened; empty is the claim.
    pub failures: Vec<String>,
    /// Answers that announced the end of their connection.
    pub closes: u64,
    /// The slowest answer.
    pub slowest: Duration,
}

/// Running clients; [`Load::stop`] ends them.
#[derive(Debug)]
pub struct Load {
    stopping: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What a client does when the proxy has announced the end of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClose {
    /// Opens the next one; that it can't is a failure.
    Reconnect,
    /// Is done: the proxy is leaving.
    Leave,
}

impl Load {
    /// Starts `clients` connections that GET `target`.
    pub fn start(address: SocketAddr, clients: usize, target: &str, on_close: OnClose) -> Load {
        let stopping = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let clients = (0..clients)
            .map(|_| {
                let (stopping, answered) = (Arc::clone(&stopping), Arc::clone(&answered));
                let request = get(target);
                thread::spawn(move || ask_on(address, &request, on_close, &stopping, &answered))
            })
            .collect();
        Load { stopping, answered, clients }
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

    /// Lets each client finish its request, and adds up.
    pub fn stop(self) -> Tally {
        self.stopping.store(true, Ordering::Relaxed);
        self.join()
    }

    /// Waits until each client has left by itself ([`OnClose::Leave`]), and adds up.
    pub fn join(self) -> Tally {
        let mut sum = Tally::default();
        for client in self.clients {
            let tally = client.join().expect("a client does not panic");
            sum.answered += tally.answered;
            sum.closes += tally.closes;
            sum.slowest = sum.slowest.max(tally.slowest);
            sum.failures.extend(tally.failures);
        }
        sum
    }
}

fn ask_on(
    address: SocketAddr,
    request: &str,
    on_close: OnClose,
    stopping: &AtomicBool,
    answered: &AtomicU64,
) -> Tally {
    let mut tally = Tally::default();
    let mut client: Option<Client> = None;
    while !stopping.load(Ordering::Relaxed) {
        let asking = match client.take() {
            Some(client) => Ok(client),
            None => Client::try_connect(&Address::Tcp(address)).map_err(|e| format!("connecting: {e}")),
        };
        let started = Instant::now();
        let outcome = asking.and_then(|mut client| {
            client.try_send(request.as_bytes()).map_err(|e| format!("sending: {e}"))?;
            let response = client.try_response("GET").map_err(|e: WireError| format!("receiving: {e}"))?;
            Ok((client, response))
        });
        let (kept, response) = match outcome {
            Ok(both) => both,
            Err(failure) => {
                tally.failures.push(format!("{failure}, after {:?}", started.elapsed()));
                if on_close == OnClose::Leave {
                    return tally;
                }
                continue;
            }
        };
        tally.slowest = tally.slowest.max(started.elapsed());
        if response.status == 200 {
            tally.answered += 1;
            answered.fetch_add(1, Ordering::Relaxed);
        } else {
            tally.failures.push(format!("{}: {}", response.head.start_line, response.text()));
        }
        if response.closes() {
            tally.closes += 1;
            if on_close == OnClose::Leave {
                return tally;
            }
        } else {
            client = Some(kept);
        }
    }
    tally
}
