//! The whole connection: a client and an origin made of fuzz bytes, in memory, with a clock that moves when nothing
//! else does. Nothing may panic or hang, and what is sent upstream must be requests that our own strict parser takes,
//! one after another, without a byte in between: otherwise an origin could be made to see what the client did not send.
//!
//! Failures are tried again, so each upstream connection may get another part of the origin's bytes, or be refused. What is
//! sent again must be what was sent before, as far as both go.
#![no_main]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringway::base::backlog::BacklogAccount;
use ringway::base::reason::ReasonCode;
use ringway::base::clock::Monotonic;
use ringway::config::raw::{Duration as RawDuration, Io, Retry, RetryMethods, RetryOn, Size, Workers};
use ringway::config::{RawConfig, compile};
use ringway::control::prepare::Installer;
use ringway::http::flow::{Batch, Flow, PIECES_MAX};
use ringway::http::framing::BodyLength;
use ringway::http::http1::parse::{HeadLimits, Parsed, parse_request};
use ringway::http::message::{HeadIndex, Method};
use ringway::net::connect::Address;
use ringway::net::h2::client::ClientStream;
use ringway::net::h2::server::ServerStream;
use ringway::net::listener::Peer;
use ringway::net::platform::{AcceptError, ConnectError, Connected, Dial, Platform};
use ringway::net::proxied::OnBehalf;
use ringway::net::stream::{Peek, Transport};
use ringway::net::tls::server::TlsServer;
use ringway::policy::retry::ATTEMPT_FIELD;
use ringway::proxy::connection;
use ringway::proxy::core::{Core, Install, ListenerId, Node};
use ringway::proxy::log::LogBuffer;

/// One end of a stream: `incoming` is what the proxy will read, in pieces; then the end.
#[derive(Default)]
struct Pipe {
    incoming: RefCell<Vec<u8>>,
    read: Cell<usize>,
    piece: usize,
    outgoing: RefCell<Vec<u8>>,
    /// Every second call would block, so that each wait in the engine is taken at some time.
    stutter: Cell<bool>,
}

#[derive(Clone)]
struct Memory(Rc<Pipe>);

/// HTTP/2 has targets of its own.
impl From<Box<ServerStream>> for Memory {
    fn from(_: Box<ServerStream>) -> Self {
        unreachable!("the listener does not speak HTTP/2")
    }
}

impl From<Box<ClientStream>> for Memory {
    fn from(_: Box<ClientStream>) -> Self {
        unreachable!("the upstream does not speak HTTP/2")
    }
}

/// Pending once, then ready.
fn soon() -> impl Future<Output = io::Result<()>> {
    let mut waited = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

impl Transport for Memory {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let pipe = &self.0;
        if !pipe.stutter.replace(!pipe.stutter.get()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let incoming = pipe.incoming.borrow();
        let rest = &incoming[pipe.read.get()..];
        let n = rest.len().min(into.len()).min(pipe.piece);
        into[..n].copy_from_slice(&rest[..n]);
        pipe.read.set(pipe.read.get() + n);
        Ok(n)
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(from)])
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        let pipe = &self.0;
        if !pipe.stutter.replace(!pipe.stutter.get()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let mut left = pipe.piece.max(7);
        let mut total = 0;
        for slice in from {
            let n = slice.len().min(left);
            pipe.outgoing.borrow_mut().extend_from_slice(&slice[..n]);
            total += n;
            left -= n;
        }
        Ok(total)
    }

    async fn readable(&self) -> io::Result<()> {
        soon().await
    }

    async fn writable(&self) -> io::Result<()> {
        soon().await
    }

    fn peek(&self) -> Peek {
        match self.0.read.get() < self.0.incoming.borrow().len() {
            true => Peek::Bytes,
            false => Peek::Quiet,
        }
    }

    fn shutdown_write(&self) {}

    fn abort_on_close(&self) {}

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct World {
    now_ns: Cell<u64>,
    draws: Cell<u64>,
    /// What connections answer, one after another; the last one's is the answer of all that follow.
    origin: Vec<Vec<u8>>,
    piece: usize,
    /// What each upstream connection was sent.
    upstream: Rc<RefCell<Vec<Rc<Pipe>>>>,
    backlog: Rc<BacklogAccount>,
}

impl Platform for World {
    type Stream = Memory;

    fn clock(&self) -> Monotonic {
        unreachable!("only HTTP/2 asks for it")
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(784_111_777)
    }

    fn random(&self) -> u64 {
        // Weyl's sequence with a multiplication: even enough, and the same for the same input.
        let draw = self.draws.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.draws.set(draw);
        (draw ^ (draw >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    fn backlog(&self) -> &Rc<BacklogAccount> {
        &self.backlog
    }

    async fn connect(&self, _: &Address, _: &Dial, _: &OnBehalf) -> Result<Connected<Memory>, ConnectError> {
        let part = self.upstream.borrow().len().min(self.origin.len() - 1);
        let incoming = RefCell::new(self.origin[part].clone());
        let pipe = Rc::new(Pipe { incoming, piece: self.piece, ..Pipe::default() });
        self.upstream.borrow_mut().push(Rc::clone(&pipe));
        if self.origin[part] == REFUSED {
            return Err(ConnectError::Io(ErrorKind::ConnectionRefused.into()));
        }
        Ok(Connected::Stream(Memory(pipe)))
    }

    async fn accept_proxied(&self, _: &Memory) -> Result<Option<SocketAddr>, ReasonCode> {
        Ok(None)
    }

    async fn accept_tls(&self, _: Memory, _: &TlsServer) -> Result<Memory, AcceptError<Memory>> {
        Err(AcceptError::Failed(ReasonCode::TlsMalformed))
    }

    fn detach(&self, _: Memory) -> Option<OwnedFd> {
        None
    }

    fn attach(&self, _: OwnedFd) -> io::Result<Memory> {
        Err(ErrorKind::Unsupported.into())
    }

    fn spawn(&self, _: impl Future<Output = ()> + 'static) {
        unreachable!("only mirrors and HTTP/2 start tasks")
    }

    async fn yield_now(&self) {
        soon().await.expect("it only waits");
    }
}

/// Parts the origin's bytes: what is behind it is the next connection's.
const NEXT: &[u8] = b"\n--next--\n";

/// A part that stands for a connection that is refused.
const REFUSED: &[u8] = b"refused";

fn install() -> Arc<Install> {
    let to = ["http://127.0.0.1:2", "http://127.0.0.1:3"];
    let mut raw = RawConfig::proxy(&["127.0.0.1:1"], &to, Workers::Auto, Io::Auto);
    raw.listeners[0].http2.enabled = false;
    // The translation is worth as much as what passes.
    raw.routes[0].grpc_web = true;
    // Waits are a millisecond or none, and bodies beyond the bound are in reach.
    raw.routes[0].retry = Some(Retry {
        on: [Retry::default().on, vec![RetryOn::ServerError]].concat(),
        methods: RetryMethods::Any,
        backoff: RawDuration::from_millis(1),
        backoff_max: RawDuration::from_millis(1),
        body_bytes: Size::from_bytes(512),
        ..Retry::default()
    });
    let snapshot = Arc::new(compile(&raw, 1).expect("the settings are valid"));
    Installer::default().install(&snapshot, 0, 1).expect("it names no files")
}

thread_local! {
    static INSTALL: Arc<Install> = install();
}

/// A request as it was sent upstream.
struct Sent<'a> {
    /// Method and target.
    line: &'a [u8],
    /// Decoded, as far as it was sent.
    content: Vec<u8>,
    /// It says that it was sent before.
    again: bool,
}

/// Everything sent upstream must read as requests, back to back; the last one may be cut. After an upgrade anything goes.
/// Returns whether a head is cut, and the requests.
fn check_upstream(sent: &[u8]) -> (bool, Vec<Sent<'_>>) {
    let limits = HeadLimits { header_bytes: 1 << 20, header_count: 128, uri_bytes: 1 << 20 };
    let mut requests = Vec::new();
    let mut rest = sent;
    while !rest.is_empty() {
        let mut slots = HeadIndex::default();
        let head = match parse_request(rest, &mut slots, &limits) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => return (true, requests),
            Err(error) => panic!("sent upstream: {} in {:?}", error.reason(), String::from_utf8_lossy(rest)),
        };
        let line = rest.split(|&byte| byte == b'\r').next().unwrap_or_default();
        let again = head.header(ATTEMPT_FIELD).is_some();
        requests.push(Sent { line, content: Vec::new(), again });
        if head.upgrade().is_some() || head.method == Method::Connect {
            return (false, requests);
        }
        let request = requests.len() - 1;
        let decoded = if head.body == BodyLength::Chunked { BodyLength::UntilClose } else { head.body };
        let mut flow = Flow::new(head.body, decoded);
        let mut batch = Batch::default();
        rest = &rest[head.head_bytes..];
        while !flow.is_ended() {
            if let Err(error) = flow.step(rest, &mut batch) {
                panic!("sent upstream: {} in {:?}", error.reason(), String::from_utf8_lossy(rest));
            }
            let mut slices = [IoSlice::new(b""); PIECES_MAX];
            let count = batch.slices(rest, &mut slices);
            slices[..count].iter().for_each(|slice| requests[request].content.extend_from_slice(slice));
            rest = &rest[batch.consumed..];
            if batch.consumed == 0 && !flow.is_ended() {
                return (false, requests);
            }
        }
    }
    (false, requests)
}

/// What says that it was sent before must have been, with the same bytes as far as both attempts went. `cut`: some
/// attempt did not get as far as the end of its head, and may be the one before.
fn check_repetitions(requests: &[Sent<'_>], cut: bool) {
    for (at, request) in requests.iter().enumerate().filter(|(_, request)| request.again && !cut) {
        let is_same = |other: &Sent<'_>| {
            let both = request.content.len().min(other.content.len());
            request.line == other.line && request.content[..both] == other.content[..both]
        };
        let found = requests.iter().enumerate().any(|(i, other)| i != at && is_same(other));
        assert!(found, "sent again, but never before: {:?}", String::from_utf8_lossy(request.line));
    }
}

fuzz_target!(|data: &[u8]| {
    let [cut, piece, data @ ..] = data else { return };
    // The client's bytes and the origin's, parted at a marker, or by the first byte.
    let (client, origin) = match memchr::memmem::find(data, b"\n--origin--\n") {
        Some(at) => (&data[..at], &data[at + 12..]),
        None => data.split_at(data.len() * usize::from(*cut) / 256),
    };
    let piece = usize::from(*piece) * 16 + 1;
    let upstream = Rc::new(RefCell::new(Vec::new()));
    let world = World {
        now_ns: Cell::new(1_000_000_000),
        draws: Cell::new(7),
        origin: parts(origin),
        piece,
        upstream: Rc::clone(&upstream),
        backlog: BacklogAccount::new(1 << 20),
    };
    let (log, _lines) = crossbeam_channel::bounded(1);
    let core = INSTALL.with(|install| Core::new(0, world, Node::new(1, 7), install, LogBuffer::new(log)));
    let says_attempts =
        client.to_ascii_lowercase().windows(ATTEMPT_FIELD.len()).any(|w| w == ATTEMPT_FIELD.as_bytes());
    let client = Rc::new(Pipe { incoming: RefCell::new(client.to_vec()), piece, ..Pipe::default() });
    let id = ListenerId(0);
    core.opened(id);
    let peer = Peer::Tcp(SocketAddr::from(([127, 0, 0, 9], 9)));
    let mut task = pin!(connection::serve(Rc::clone(&core), Memory(Rc::clone(&client)), peer, id));
    let mut cx = Context::from_waker(Waker::noop());
    let mut turns = 0;
    while task.as_mut().poll(&mut cx).is_pending() {
        turns += 1;
        assert!(turns < 2_000_000, "the connection never ends");
        // Time passes slowly while bytes move, and in leaps when they don't seem to.
        let leap = if turns % 10_000 == 0 { 60_000_000_000 } else { 1_000 };
        core.platform.now_ns.set(core.platform.now_ns.get() + leap);
        if turns % 10_000 == 0 {
            core.tick_ns();
            core.deadlines.sweep(core.platform.now_ns.get() / 1_000_000);
        }
    }
    assert_eq!(core.connections(), 0);
    assert_eq!(core.buffers.taken(), 0, "a buffer was kept");
    let upstream = upstream.borrow();
    let sent: Vec<_> = upstream.iter().map(|pipe| pipe.outgoing.borrow()).collect();
    let (mut cut, mut requests) = (false, Vec::new());
    for sent in &sent {
        let (cut_here, mut requests_here) = check_upstream(sent);
        cut |= cut_here;
        requests.append(&mut requests_here);
    }
    // A client that writes the field itself says nothing about us.
    if !says_attempts {
        check_repetitions(&requests, cut);
    }
});

/// What each connection answers.
fn parts(origin: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut rest = origin;
    while let Some(at) = memchr::memmem::find(rest, NEXT) {
        parts.push(rest[..at].to_vec());
        rest = &rest[at + NEXT.len()..];
    }
    parts.push(rest.to_vec());
    parts
}
