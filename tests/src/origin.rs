//! The programmable origin: a thread a connection, behaviour by a closure, and a log of what arrived, raw heads
//! included, with a condition to wait on. The closure sees one request at a time and may do anything to the socket.

use crate::payload::Payload;
use crate::stream::{Address, Stream};
use crate::wait::PATIENCE;
use crate::wire::{BodyEnd, Framing, Head, Wire, WireError, request_framing};
use std::collections::HashMap;
use std::fmt;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// How much of a request's body the log keeps; more is counted and checked only.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// What the origin does with the connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    KeepAlive,
    Close,
    Reset,
}

/// A failed exchange closes the connection and is kept in the log.
pub type Outcome = Result<After, WireError>;

/// A request as it arrived here.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which connection it came on, counted from 0 in the order of acceptance.
    pub connection: usize,
    pub head: Head,
    /// The body's first bytes, once the behaviour has read it.
    pub body: Vec<u8>,
    /// How the body ended; `None` while it has not been read to its end.
    pub end: Option<BodyEnd>,
    /// What failed in this exchange, if anything.
    pub failure: Option<WireError>,
}

impl Record {
    pub fn method(&self) -> &str {
        self.head.parts().0
    }

    pub fn target(&self) -> &str {
        self.head.parts().1
    }

    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }
}

type Behaviour = dyn Fn(&mut Exchange<'_>) -> Outcome + Send + Sync;

#[derive(Default)]
struct State {
    requests: Vec<Record>,
    accepted: usize,
    ended: usize,
    /// The most connections that were open at once.
    open_max: usize,
    open: HashMap<usize, Stream>,
    threads: Vec<JoinHandle<()>>,
    /// Connections whose threads have panicked.
    broken: usize,
}

impl State {
    /// Joins the threads that are done: each keeps its stack until then, and some tests open thousands of connections.
    fn reap(&mut self) {
        let done: Vec<_> = self.threads.extract_if(.., |thread| thread.is_finished()).collect();
        self.broken += done.into_iter().filter_map(|thread| thread.join().err()).count();
    }
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stopping: AtomicBool,
    behaviour: Box<Behaviour>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, apply: impl FnOnce(&mut State) -> T) -> T {
        let result = apply(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

/// A listening origin; stops, and joins its threads, when dropped.
pub struct Origin {
    address: Address,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("address", &self.address).finish_non_exhaustive()
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Origin {
    /// An origin that behaves as [`scripted`].
    pub fn start() -> Origin {
        Origin::with(scripted)
    }

    /// An origin that does this with every request.
    pub fn with(behaviour: impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for an origin");
        let address = Address::Tcp(listener.local_addr().expect("the port of a bound listener"));
        Origin::serve(Listener::Tcp(listener), address, Box::new(behaviour))
    }

    /// The same where an origin was before that is gone.
    pub fn again_at(
        address: &Address,
        behaviour: impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Origin {
        let Address::Tcp(tcp) = address else { panic!("{address} is no TCP address") };
        let listener =
            crate::wait::eventually("the address of the origin that is gone", || TcpListener::bind(tcp).ok());
        Origin::serve(Listener::Tcp(listener), address.clone(), Box::new(behaviour))
    }

    /// The same on a Unix socket at `path`.
    pub fn on_unix(
        path: &Path,
        behaviour: impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Origin {
        let listener = UnixListener::bind(path).expect("a Unix socket for an origin");
        Origin::serve(Listener::Unix(listener), Address::Unix(path.to_owned()), Box::new(behaviour))
    }

    fn serve(listener: Listener, address: Address, behaviour: Box<Behaviour>) -> Origin {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            stopping: AtomicBool::new(false),
            behaviour,
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new()
            .name("origin".into())
            .spawn(move || accept(&listener, &accepting))
            .expect("a thread for an origin");
        Origin { address, shared, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The requests so far, in the order of their heads' arrival.
    pub fn requests(&self) -> Vec<Record> {
        self.shared.lock().requests.clone()
    }

    /// The one request so far.
    #[track_caller]
    pub fn only(&self) -> Record {
        let requests = self.requests();
        assert_eq!(
            requests.len(),
            1,
            "{:?}",
            requests.iter().map(|r| &r.head.start_line).collect::<Vec<_>>()
        );
        requests.into_iter().next().expect("one request")
    }

    pub fn request_count(&self) -> usize {
        self.shared.lock().requests.len()
    }

    /// How many connections were ever accepted.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// How many of them have ended.
    pub fn ended(&self) -> usize {
        self.shared.lock().ended
    }

    pub fn open_max(&self) -> usize {
        self.shared.lock().open_max
    }

    /// Waits until at least `count` heads have arrived.
    #[track_caller]
    pub fn await_requests(&self, count: usize) -> Vec<Record> {
        self.await_state(&format!("{count} requests"), |state| {
            (state.requests.len() >= count).then(|| state.requests.clone())
        })
    }

    /// Waits until at least `count` connections have ended.
    #[track_caller]
    pub fn await_ended(&self, count: usize) {
        self.await_state(&format!("{count} ended connections"), |state| (state.ended >= count).then_some(()));
    }

    /// Waits until request number `index` has been read to the end of its body, or has failed.
    #[track_caller]
    pub fn await_finished(&self, index: usize) -> Record {
        self.await_state(&format!("the end of request {index}"), |state| {
            state.requests.get(index).filter(|r| r.end.is_some() || r.failure.is_some()).cloned()
        })
    }

    #[track_caller]
    fn await_state<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&state) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the origin saw no {what} within {PATIENCE:?}, but {} requests, {} connections, {} of them ended",
                state.requests.len(),
                state.accepted,
                state.ended
            );
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends every open connection, as an origin that restarts does, and waits until that is done.
    pub fn cut_connections(&self) {
        let target = self.shared.change(|state| {
            for stream in state.open.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            state.accepted
        });
        self.await_ended(target);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let woken = match &self.address {
            Address::Tcp(address) => TcpStream::connect(address).is_ok(),
            Address::Unix(path) => UnixStream::connect(path).is_ok(),
        };
        if let (true, Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ = acceptor.join();
        }
        let threads = self.shared.change(|state| {
            for stream in state.open.values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            std::mem::take(&mut state.threads)
        });
        let last = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        let broken = self.shared.lock().broken + last;
        assert!(broken == 0 || thread::panicking(), "{broken} connections of the origin panicked; see above");
    }
}

fn accept(listener: &Listener, shared: &Arc<Shared>) {
    loop {
        let accepted = match listener {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        };
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = accepted else { continue };
        let Ok(copy) = stream.prepare().and_then(|()| stream.try_clone()) else { continue };
        let connection = shared.change(|state| {
            let connection = state.accepted;
            state.accepted += 1;
            state.open.insert(connection, copy);
            state.open_max = state.open_max.max(state.open.len());
            if state.threads.len() >= 2 * state.open.len() + 64 {
                state.reap();
            }
            connection
        });
        let serving = Arc::clone(shared);
        let thread = thread::Builder::new().name(format!("origin-{connection}")).spawn(move || {
            serve_connection(&serving, connection, stream);
        });
        shared.lock().threads.push(thread.expect("a thread for a connection"));
    }
}

fn serve_connection(shared: &Shared, connection: usize, stream: Stream) {
    /// Notes the end of the connection, also when the behaviour panics.
    struct Leave<'s>(&'s Shared, usize);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            self.0.change(|state| {
                state.open.remove(&self.1);
                state.ended += 1;
            });
        }
    }
    // Declared before the wire, so dropped after it: the socket is closed once the end is noted.
    let _leave = Leave(shared, connection);
    // An idle keep-alive connection waits for as long as the proxy keeps it.
    let mut wire = Wire::new(stream);
    loop {
        let head = match wire.head() {
            Ok(head) => head,
            Err(WireError::TimedOut) if !shared.stopping.load(Ordering::SeqCst) => continue,
            Err(_) => return,
        };
        let record = Record { connection, head: head.clone(), body: Vec::new(), end: None, failure: None };
        let index = shared.change(|state| {
            state.requests.push(record);
            state.requests.len() - 1
        });
        let framing = request_framing(&head);
        let mut exchange =
            Exchange { head, connection, index, wire: &mut wire, shared, unread: framing.clone().ok() };
        let outcome = framing.and_then(|_| (shared.behaviour)(&mut exchange)).and_then(|after| {
            // The next head starts after this body.
            if after == After::KeepAlive && exchange.unread.is_some() {
                exchange.read_body()?;
            }
            Ok(after)
        });
        match outcome {
            Ok(After::KeepAlive) => {}
            Ok(After::Close) => return,
            Ok(After::Reset) => {
                let _ = wire.stream.reset_on_close();
                return;
            }
            Err(failure) => {
                shared.change(|state| state.requests[index].failure = Some(failure));
                return;
            }
        }
    }
}

/// One request on its connection, in the hands of the behaviour.
pub struct Exchange<'o> {
    pub head: Head,
    pub connection: usize,
    /// The request's number among all that this origin has seen.
    pub index: usize,
    pub wire: &'o mut Wire<Stream>,
    shared: &'o Shared,
    unread: Option<Framing>,
}

impl fmt::Debug for Exchange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Exchange<'_> {
    pub fn method(&self) -> &str {
        self.head.parts().0
    }

    pub fn target(&self) -> &str {
        self.head.parts().1
    }

    /// Reads the request's body to its end into the log. With an `x-seed` field it must be that payload.
    pub fn read_body(&mut self) -> Result<BodyEnd, WireError> {
        let mut kept = Vec::new();
        let seed = self.head.field("x-seed").and_then(|seed| seed.parse().ok());
        let mut checker = seed.map(|seed| Payload::new(seed, 0).checker());
        let framing = self.unread.take().unwrap_or(Framing::None);
        let read = self.wire.body(framing, &mut |piece| {
            let room = KEPT_BYTES_MAX - kept.len();
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
            if let Some(checker) = &mut checker {
                checker.feed(piece);
            }
        });
        let failure = match (&read, checker) {
            (Ok(end), Some(checker)) => checker
                .verdict_at(end.bytes)
                .err()
                .map(|wrong| WireError::Malformed(format!("the body: {wrong}"))),
            (Ok(_), None) => None,
            (Err(error), _) => Some(error.clone()),
        };
        self.shared.change(|state| {
            let record = &mut state.requests[self.index];
            record.body = kept;
            record.end = read.clone().ok();
            record.failure.clone_from(&failure);
        });
        failure.map_or(read, Err)
    }

    /// Reads one body's data without keeping it, as it comes: for behaviours that answer while they read.
    pub fn stream_body(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<BodyEnd, WireError> {
        let framing = self.unread.take().unwrap_or(Framing::None);
        self.wire.body(framing, each)
    }

    /// Gives up on the body: what is unread stays unread.
    pub fn abandon_body(&mut self) {
        self.unread = None;
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), WireError> {
        Ok(self.wire.stream.write_all(bytes.as_ref())?)
    }

    /// Answers with a Content-Length body, head and body in one write.
    pub fn reply(&mut self, status: u16, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Outcome {
        let mut bytes = head_text(status, fields);
        let body = body.as_ref();
        if status != 204 && status != 304 {
            let _ = write!(bytes, "Content-Length: {}\r\n", body.len());
        }
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        if self.method() != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.write(bytes)?;
        Ok(After::KeepAlive)
    }

    /// Answers 200 with a payload framed as `kind` says.
    pub fn reply_payload(&mut self, kind: BodyKind, payload: Payload) -> Outcome {
        let piece_bytes = match kind {
            BodyKind::Chunked(chunk_bytes) => chunk_bytes,
            _ => 64 * 1024,
        };
        let head = match kind {
            BodyKind::Length => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", payload.bytes),
            BodyKind::Chunked(_) => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
            BodyKind::UntilClose => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned(),
            BodyKind::Http10 => "HTTP/1.0 200 OK\r\n\r\n".to_owned(),
        };
        self.write(head)?;
        let mut framed = Vec::new();
        payload.pieces(piece_bytes, |piece| match kind {
            BodyKind::Chunked(_) => {
                framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                framed.extend_from_slice(piece);
                framed.extend_from_slice(b"\r\n");
                // Tiny chunks leave together: the test is about their framing, not about a write each.
                if framed.len() < 64 * 1024 {
                    return Ok(());
                }
                self.write(std::mem::take(&mut framed))
            }
            _ => self.write(piece),
        })?;
        match kind {
            BodyKind::Length => Ok(After::KeepAlive),
            BodyKind::Chunked(_) => {
                framed.extend_from_slice(b"0\r\n\r\n");
                self.write(framed)?;
                Ok(After::KeepAlive)
            }
            BodyKind::UntilClose | BodyKind::Http10 => Ok(After::Close),
        }
    }
}

/// How a response's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    Length,
    /// In chunks of at most this many bytes.
    Chunked(usize),
    UntilClose,
    /// Close-delimited under an HTTP/1.0 status line.
    Http10,
}

fn head_text(status: u16, fields: &[(&str, &str)]) -> String {
    let mut text = format!("HTTP/1.1 {status} Status\r\n");
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text
}

/// The behaviour of [`Origin::start`]: reads the body, then answers 200 with `METHOD target` as its body, or with the
/// request's own body when it has one of up to 256 KiB.
pub fn scripted(exchange: &mut Exchange<'_>) -> Outcome {
    exchange.read_body()?;
    let record = exchange.shared.lock().requests[exchange.index].body.clone();
    let answer = if record.is_empty() {
        format!("{} {}", exchange.method(), exchange.target()).into_bytes()
    } else {
        record
    };
    exchange.reply(200, &[("Content-Type", "text/plain")], answer)
}

/// A behaviour that always answers 200 with this text, and so tells which origin answered.
pub fn named(name: &'static str) -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    move |exchange| {
        exchange.read_body()?;
        exchange.reply(200, &[], name)
    }
}
