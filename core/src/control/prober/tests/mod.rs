//! The prober against real servers on loopback, in real time with short intervals. Nothing sleeps: tests wait for what
//! servers saw and for the prober's changes, with a deadline.

mod answers;
mod life;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::{Prober, Report};
use crate::net::connect::Address;

const DEADLINE: Duration = Duration::from_secs(20);

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, future).await.expect("done in time") })
}

/// Waits until the prober's reports are as wanted.
async fn until(prober: &Prober, wanted: impl Fn(&[Report]) -> bool) -> Vec<Report> {
    let mut changes = prober.changes();
    loop {
        let reports = prober.reports();
        if wanted(&reports) {
            return reports;
        }
        changes.changed().await.unwrap();
    }
}

/// What a server does with a connection, once it has read a head (or without waiting for one).
#[derive(Debug, Clone)]
enum Act {
    /// Sends this and closes.
    Say(Vec<u8>),
    /// Sends this and keeps the connection open.
    SayAndStay(Vec<u8>),
    /// Closes at once.
    Close,
}

fn say(text: &str) -> Act {
    Act::Say(text.as_bytes().to_vec())
}

/// A server that acts as it is told, and tells what it read.
struct Server {
    address: Address,
    act: watch::Sender<Act>,
    heads: mpsc::UnboundedReceiver<Vec<u8>>,
    open: Arc<AtomicU64>,
    open_max: Arc<AtomicU64>,
}

impl Server {
    async fn start(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let (act, acts) = watch::channel(act);
        let (tell, heads) = mpsc::unbounded_channel();
        let (open, open_max) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (count, max) = (Arc::clone(&open), Arc::clone(&open_max));
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (mut acts, tell) = (acts.clone(), tell.clone());
                let count = Arc::clone(&count);
                max.fetch_max(count.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    let act = acts.borrow_and_update().clone();
                    // An HTTP/2 client's preface ends in frames.
                    let is_whole = |head: &[u8]| {
                        head.ends_with(b"\r\n\r\n") || head.windows(6).any(|part| part == b"SM\r\n\r\n")
                    };
                    if !matches!(act, Act::Close) {
                        while !is_whole(&head) && socket.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                    }
                    let _ = tell.send(head);
                    match act {
                        Act::Say(bytes) => drop(socket.write_all(&bytes).await),
                        Act::SayAndStay(bytes) => {
                            let _ = socket.write_all(&bytes).await;
                            // Until the other end closes, or everybody is to do something else.
                            let mut rest = [0; 512];
                            let until_closed =
                                async { while socket.read(&mut rest).await.is_ok_and(|n| n > 0) {} };
                            tokio::select! {
                                () = until_closed => {}
                                _ = acts.changed() => {}
                            }
                        }
                        Act::Close => {}
                    }
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, act, heads, open, open_max }
    }

    async fn head(&mut self) -> String {
        String::from_utf8_lossy(&self.heads.recv().await.unwrap()).into_owned()
    }
}
