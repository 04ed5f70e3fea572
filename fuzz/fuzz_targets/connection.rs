//! The whole connection: a client and an origin made of fuzz bytes, in memory, with a clock that moves when nothing
//! else does. Nothing may panic or hang, and what is sent upstream must be requests that our own strict parser takes,
//! one after another, without a byte in between: otherwise an origin could be made to see what the client did not send.
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
use ringway::base::clock::Monotonic;
use ringway::config::raw::{Io, Workers};
use ringway::config::{RawConfig, compile};
use ringway::http::flow::{Batch, Flow};
use ringway::http::http1::parse::{HeadLimits, Parsed, parse_request};
use ringway::http::message::{HeaderSlots, Method};
use ringway::net::connect::Address;
use ringway::net::h2::client::ClientStream;
use ringway::net::h2::server::ServerStream;
use ringway::net::listener::Peer;
use ringway::net::platform::{AcceptError, ConnectError, Connected, Dial, Platform};
use ringway::net::proxied::OnBehalf;
use ringway::net::stream::{Peek, Transport};
use ringway::net::tls::server::TlsServer;
use ringway::proxy::connection;
use ringway::proxy::core::{Core, Install, ListenerId, Node};
use ringway::proxy::log::LogBuffer;
use ringway::proxy::upstream::{Resolved, Shelf};

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
    origin: Vec<u8>,
    piece: usize,
    /// What each upstream connection was sent.
    upstream: Rc<RefCell<Vec<Rc<Pipe>>>>,
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
        7
    }

    async fn connect(&self, _: &Address, _: &Dial, _: &OnBehalf) -> Result<Connected<Memory>, ConnectError> {
        let incoming = RefCell::new(self.origin.clone());
        let pipe = Rc::new(Pipe { incoming, piece: self.piece, ..Pipe::default() });
        self.upstream.borrow_mut().push(Rc::clone(&pipe));
        Ok(Connected::Stream(Memory(pipe)))
    }

    async fn accept_proxied(&self, _: &Memory) -> Result<Option<SocketAddr>, &'static str> {
        Ok(None)
    }

    async fn accept_tls(&self, _: Memory, _: &TlsServer) -> Result<Memory, AcceptError<Memory>> {
        Err(AcceptError::Failed("tls_malformed"))
    }

    fn detach(&self, _: Memory) -> Option<OwnedFd> {
        None
    }

    fn attach(&self, _: OwnedFd) -> io::Result<Memory> {
        Err(ErrorKind::Unsupported.into())
    }
}

fn install() -> Install {
    let mut raw = RawConfig::proxy(&["127.0.0.1:1"], &["http://127.0.0.1:2"], Workers::Auto, Io::Auto);
    raw.listeners[0].http2.enabled = false;
    // The translation is worth as much as what passes.
    raw.routes[0].grpc_web = true;
    let snapshot = Arc::new(compile(&raw, 1).expect("the settings are valid"));
    let resolved = Resolved {
        address: Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 2))),
        authority: "127.0.0.1:2".into(),
        weight: 1,
        shelf: Shelf::new(),
        tls_name: None,
    };
    Install {
        snapshot,
        upstreams: vec![vec![resolved]],
        tls_clients: vec![None],
        tls_servers: vec![None],
        listeners: vec![Some(0)],
    }
}

thread_local! {
    static INSTALL: Install = install();
}

/// Everything sent upstream must read as requests, back to back; the last one may be cut. After an upgrade anything goes.
fn check_upstream(sent: &[u8]) {
    let limits = HeadLimits { header_bytes: 1 << 20, header_count: 128, uri_bytes: 1 << 20 };
    let mut rest = sent;
    while !rest.is_empty() {
        let mut slots = HeaderSlots::new();
        let head = match parse_request(rest, &mut slots, &limits) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => return,
            Err(error) => panic!("sent upstream: {} in {:?}", error.reason(), String::from_utf8_lossy(rest)),
        };
        if head.upgrade.is_some() || head.method == Method::Connect {
            return;
        }
        let mut flow = Flow::new(head.body, head.body);
        let mut batch = Batch::default();
        rest = &rest[head.head_bytes..];
        while !flow.is_ended() {
            if let Err(error) = flow.step(rest, &mut batch) {
                panic!("sent upstream: {} in {:?}", error.reason(), String::from_utf8_lossy(rest));
            }
            rest = &rest[batch.consumed..];
            if batch.consumed == 0 && !flow.is_ended() {
                return;
            }
        }
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
        origin: origin.to_vec(),
        piece,
        upstream: Rc::clone(&upstream),
    };
    let (log, _lines) = crossbeam_channel::bounded(1);
    let core = INSTALL.with(|install| Core::new(0, world, Node::new(1), install, LogBuffer::new(log)));
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
    for pipe in upstream.borrow().iter() {
        check_upstream(&pipe.outgoing.borrow());
    }
});
