//! A very cheap origin for HTTP/1.1 and HTTP/2: what it answers is asked for in the path, the query or `x-origin-*` headers.
//!
//! - `/bytes/N` answers N bytes of a fixed pattern, `/status/CODE` an empty body, `/echo` a JSON description
//!   of the request; anything else is a 404.
//! - `/bench.Echo/Unary` and its like (see [`crate::grpc::Method`]) are gRPC methods, over HTTP/2.
//! - Query keys, each also a header `x-origin-KEY`: see [`plan::Plan`].
//!
//! Each worker is one thread with its own runtime; they share the listening sockets. A request whose head is the
//! same as the connection's previous one is answered from bytes prepared then, with one receive and one send.
//! HTTP/2 is chosen by ALPN, or in the clear by the client's first bytes.
//! It serves load tests: it trusts its clients, bounds only heads, and never times a connection out.

use std::{
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    net::{self, Address, Socket},
    runtime::{self, Io},
    stream::{Buffers, Stream},
    tls::{self, settings::ServerSettings},
};

mod exchange;
mod http2;
pub mod pattern;
pub mod plan;

/// All answers wait until the end of a stall: `length` at the end of every `period`, counted from the start.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    pub period: Duration,
    pub length: Duration,
}

impl Stall {
    /// How long an answer due at `elapsed` since the start must wait.
    pub fn wait(&self, elapsed: Duration) -> Option<Duration> {
        let into_period = elapsed.as_nanos() % self.period.as_nanos().max(1);
        let left =
            Duration::from_nanos(u64::try_from(self.period.as_nanos() - into_period).unwrap_or(u64::MAX));
        (left <= self.length).then_some(left)
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Vec<Address>,
    pub workers: usize,
    pub io: Io,
    pub stall: Option<Stall>,
    /// With it, all listeners speak TLS.
    pub tls: Option<ServerSettings>,
}

/// An origin that runs until the process ends.
#[derive(Debug)]
pub struct Origin {
    /// Bound, in the order asked for.
    pub addresses: Vec<Address>,
    pub handshakes: Arc<Handshakes>,
}

/// TLS handshakes completed by all workers.
#[derive(Debug, Default)]
pub struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
}

impl Handshakes {
    pub fn full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    fn count_full(&self) {
        self.full.fetch_add(1, Ordering::Relaxed);
    }

    fn count_resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Binds and starts.
pub fn start(config: &Config) -> io::Result<Origin> {
    let tls = config.tls.as_ref().map(|tls| tls.build(&["h2", "http/1.1"]).map(Arc::new)).transpose()?;
    let handshakes = Arc::<Handshakes>::default();
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    for address in &config.listen {
        let (listener, address) = net::listen(address)?;
        listeners.push(listener);
        bound.push(address);
    }
    let started = Instant::now();
    let (report, reports) = mpsc::channel();
    for worker in 0..config.workers.max(1) {
        let listeners = listeners.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        let (io, stall, report) = (config.io, config.stall, report.clone());
        let (tls, handshakes) = (tls.clone(), handshakes.clone());
        thread::Builder::new().name(format!("origin-{worker}")).spawn(move || {
            let buffers = Rc::new(Buffers::new(SCRATCH_BYTES));
            let shared = Rc::new(Shared { buffers, started, stall, tls, handshakes });
            let serve = || serve(listeners, shared, report.clone());
            if let Err(error) = runtime::block_on_with_timers(io, serve) {
                let _ = report.send(Err(error));
            }
        })?;
    }
    drop(report);
    for _ in 0..config.workers.max(1) {
        reports.recv().map_err(|_| io::Error::other("an origin worker ended at its start"))??;
    }
    Ok(Origin { addresses: bound, handshakes })
}

/// What the connections of one worker share.
#[derive(Debug)]
struct Shared {
    buffers: Rc<Buffers>,
    started: Instant,
    stall: Option<Stall>,
    tls: Option<Arc<rustls::ServerConfig>>,
    handshakes: Arc<Handshakes>,
}

impl Shared {
    async fn wait_out_stall(&self) {
        if let Some(wait) = self.stall.and_then(|stall| stall.wait(self.started.elapsed())) {
            monoio::time::sleep(wait).await;
        }
    }
}

/// Large, because discarded request bodies are "received" into it without being copied.
const SCRATCH_BYTES: usize = 256 * 1024;
/// Pause after an accept that failed, usually for want of descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(20);

async fn serve(listeners: Vec<OwnedFd>, shared: Rc<Shared>, report: mpsc::Sender<io::Result<()>>) {
    let sockets: io::Result<Vec<Socket>> = listeners.into_iter().map(Socket::adopt).collect();
    let sockets = match sockets {
        Ok(sockets) => sockets,
        Err(e) => {
            let _ = report.send(Err(e));
            return;
        }
    };
    let _ = report.send(Ok(()));
    drop(report);
    let mut loops: Vec<_> =
        sockets.into_iter().map(|s| monoio::spawn(accept_loop(s, shared.clone()))).collect();
    while let Some(accept_loop) = loops.pop() {
        accept_loop.await;
    }
}

async fn accept_loop(listener: Socket, shared: Rc<Shared>) {
    loop {
        match listener.accept().await.and_then(Socket::adopt) {
            Ok(socket) => {
                let session = shared.tls.as_ref().map(tls::Session::server).transpose();
                // It fails for configurations that were refused at the start.
                let Ok(session) = session else { continue };
                monoio::spawn(exchange::serve(Stream::new(Rc::new(socket), session), shared.clone()));
            }
            Err(_) => monoio::time::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Stall;

    #[test]
    fn a_stall_ends_each_period() {
        let ms = Duration::from_millis;
        let stall = Stall { period: ms(1000), length: ms(100) };
        let cases =
            [(0, None), (899, None), (900, Some(100)), (950, Some(50)), (1000, None), (1999, Some(1))];
        for (elapsed, wait) in cases {
            assert_eq!(stall.wait(ms(elapsed)), wait.map(ms), "after {elapsed} ms");
        }
    }
}
