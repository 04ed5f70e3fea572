//! A phase that asks, in a world in memory: whatever becomes of the answer, the client is answered or nobody waits, and
//! nothing is kept.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Found, Question};
use crate::base::backlog::BacklogAccount;
use crate::base::clock::Monotonic;
use crate::base::fault::Fault;
use crate::base::reason::ReasonCode;
use crate::config;
use crate::control::prepare::Installer;
use crate::net::connect::Address;
use crate::net::h2::client::ClientStream;
use crate::net::h2::server::ServerStream;
use crate::net::listener::Peer;
use crate::net::platform::{AcceptError, ConnectError, Connected, Dial, Platform};
use crate::net::proxied::OnBehalf;
use crate::net::stream::{Peek, Transport};
use crate::net::tls::server::TlsServer;
use crate::policy::Phase;
use crate::proxy::connection;
use crate::proxy::core::{Core, Node};
use crate::proxy::log::LogBuffer;

/// A question, and the place where its answer will stand.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Ask {
    pub(super) timeout_ms: u64,
    answer: Rc<Cell<Option<u16>>>,
}

impl Ask {
    pub(super) fn answer(self) -> impl Future<Output = u16> {
        poll_fn(move |_| self.answer.get().map_or(Poll::Pending, Poll::Ready))
    }
}

thread_local! {
    static ASKS: RefCell<Option<(Phase, Ask)>> = const { RefCell::new(None) };
}

/// What a test has put into this phase. An answer other than 0 is the status that it refuses with.
pub(in crate::proxy) fn asked(phase: Phase, found: Option<&Found>) -> Option<Result<Question, Fault>> {
    let ask =
        ASKS.with_borrow(|asks| asks.as_ref().filter(|(at, _)| *at == phase).map(|(_, ask)| ask.clone()))?;
    match found {
        Some(Found::Test(0)) => None,
        Some(&Found::Test(status)) => Some(Err(Fault::policy(ReasonCode::FaultInjected, status))),
        _ => Some(Ok(Question::Test(ask))),
    }
}

/// One end of a connection.
#[derive(Debug, Default)]
struct Pipe {
    incoming: RefCell<Vec<u8>>,
    outgoing: RefCell<Vec<u8>>,
    closed: Cell<bool>,
}

#[derive(Debug, Clone)]
struct Memory(Rc<Pipe>);

impl From<Box<ServerStream>> for Memory {
    fn from(_: Box<ServerStream>) -> Self {
        unreachable!("nobody speaks HTTP/2 here")
    }
}

impl From<Box<ClientStream>> for Memory {
    fn from(_: Box<ClientStream>) -> Self {
        unreachable!("nobody speaks HTTP/2 here")
    }
}

impl Transport for Memory {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut incoming = self.0.incoming.borrow_mut();
        if incoming.is_empty() && !self.0.closed.get() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = incoming.len().min(into.len());
        into[..n].copy_from_slice(&incoming[..n]);
        incoming.drain(..n);
        Ok(n)
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        self.0.outgoing.borrow_mut().extend_from_slice(from);
        Ok(from.len())
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(from.iter().map(|slice| self.try_write(slice).unwrap()).sum())
    }

    async fn readable(&self) -> io::Result<()> {
        poll_fn(|_| match self.peek() {
            Peek::Quiet => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        })
        .await
    }

    async fn writable(&self) -> io::Result<()> {
        Ok(())
    }

    fn peek(&self) -> Peek {
        match (self.0.incoming.borrow().is_empty(), self.0.closed.get()) {
            (false, _) => Peek::Bytes,
            (true, true) => Peek::Closed,
            (true, false) => Peek::Quiet,
        }
    }

    fn shutdown_write(&self) {}

    fn abort_on_close(&self) {}

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct World {
    now_ms: Cell<u64>,
    connects: Cell<u32>,
    backlog: Rc<BacklogAccount>,
}

impl Platform for World {
    type Stream = Memory;

    fn clock(&self) -> Monotonic {
        unreachable!("only HTTP/2 asks for it")
    }

    fn now_ns(&self) -> u64 {
        self.now_ms.get() * 1_000_000
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(784_111_777)
    }

    fn random(&self) -> u64 {
        7
    }

    fn backlog(&self) -> &Rc<BacklogAccount> {
        &self.backlog
    }

    /// Every origin has answered already.
    async fn connect(&self, _: &Address, _: &Dial, _: &OnBehalf) -> Result<Connected<Memory>, ConnectError> {
        self.connects.set(self.connects.get() + 1);
        let incoming = RefCell::new(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi".to_vec());
        Ok(Connected::Stream(Memory(Rc::new(Pipe { incoming, ..Pipe::default() }))))
    }

    async fn accept_proxied(&self, _: &Memory) -> Result<Option<SocketAddr>, ReasonCode> {
        Ok(None)
    }

    async fn accept_tls(&self, _: Memory, _: &TlsServer) -> Result<Memory, AcceptError<Memory>> {
        unreachable!("nobody speaks TLS here")
    }

    fn detach(&self, _: Memory) -> Option<OwnedFd> {
        None
    }

    fn attach(&self, _: OwnedFd) -> io::Result<Memory> {
        Err(ErrorKind::Unsupported.into())
    }

    fn spawn(&self, _: impl Future<Output = ()> + 'static) {
        unreachable!("nothing is mirrored here")
    }

    async fn yield_now(&self) {}
}

const CONFIG: &str = "
version: 1
listeners: [{ name: web, address: '127.0.0.1:1' }]
upstreams:
  - { name: origin, endpoints: ['127.0.0.1:2'], requests_max: 1 }
routes: [{ name: all, upstream: origin, timeouts: { request: 10s } }]
";

/// A client's connection whose first request waits for an answer.
struct Asking {
    core: Rc<Core<World>>,
    client: Rc<Pipe>,
    task: Option<Pin<Box<dyn Future<Output = ()>>>>,
    answer: Rc<Cell<Option<u16>>>,
}

impl Asking {
    fn begin(phase: Phase, timeout_ms: u64) -> Self {
        let answer = Rc::new(Cell::new(None));
        ASKS.set(Some((phase, Ask { timeout_ms, answer: Rc::clone(&answer) })));
        let snapshot = Arc::new(config::load(CONFIG.as_bytes(), "test", 1).expect("valid"));
        let mut installer = Installer::default();
        let install = installer.install(&snapshot, 0, 1).expect("no TLS");
        let backlog = BacklogAccount::new(u64::MAX);
        let world = World { now_ms: Cell::new(1_000), connects: Cell::new(0), backlog };
        let (log, _lines) = crossbeam_channel::bounded(1);
        let core = Core::new(0, world, Node::new(1, 7), &install, LogBuffer::new(log));
        let incoming = RefCell::new(b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec());
        let client = Rc::new(Pipe { incoming, ..Pipe::default() });
        let id = installer.listener("web").expect("it is installed");
        core.opened(id);
        let peer = Peer::Tcp(SocketAddr::from(([127, 0, 0, 9], 9)));
        let served = connection::serve(Rc::clone(&core), Memory(Rc::clone(&client)), peer, id);
        let mut asking = Self { core, client, task: Some(Box::pin(served)), answer };
        asking.turn();
        asking.waits();
        asking
    }

    /// Runs the connection as far as it goes.
    fn turn(&mut self) {
        if let Some(task) = &mut self.task
            && task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        {
            self.task = None;
        }
    }

    fn passes(&mut self, ms: u64) {
        let now_ms = &self.core.platform.now_ms;
        now_ms.set(now_ms.get() + ms);
        self.core.deadlines.sweep(now_ms.get());
        self.turn();
    }

    /// It is active, and holds no permit and no connection.
    fn waits(&self) {
        let sample = self.core.sample();
        assert_eq!(sample.gauges.requests_active, 1);
        assert_eq!((sample.guards[0].in_flight, sample.upstreams[0].active), (0, 0));
        assert_eq!(self.core.platform.connects.get(), 0);
        assert_eq!(self.client.outgoing.borrow()[..], b""[..]);
    }

    /// What the client got begins so, and nothing is kept of the request.
    #[track_caller]
    fn got(mut self, expected: &str, reason: &str) {
        let got = String::from_utf8(self.client.outgoing.take()).unwrap();
        assert!(got.starts_with(expected) && (got.is_empty() == expected.is_empty()), "{got}");
        assert!(got.contains(reason), "{got}");
        let sample = self.core.sample();
        assert_eq!((sample.gauges.requests_active, sample.guards[0].in_flight), (0, 0));
        self.client.closed.set(true);
        self.turn();
        assert!(self.task.is_none(), "the connection ends with its client");
        assert_eq!(self.core.buffers.taken(), 0);
        assert_eq!(self.core.deadlines.held(), 0);
    }
}

#[test]
fn an_answer_may_come_later() {
    for phase in [Phase::Identify, Phase::Authorise, Phase::Recall] {
        let mut asking = Asking::begin(phase, 5_000);
        for _ in 0..3 {
            asking.passes(1_000);
            asking.waits();
        }
        asking.answer.set(Some(0));
        asking.turn();
        assert_eq!(asking.core.platform.connects.get(), 1);
        asking.got("HTTP/1.1 200 OK\r\n", "hi");
        let mut asking = Asking::begin(phase, 5_000);
        asking.answer.set(Some(403));
        asking.turn();
        assert_eq!(asking.core.platform.connects.get(), 0);
        asking.got("HTTP/1.1 403 Forbidden\r\n", ReasonCode::FaultInjected.code());
    }
}

#[test]
fn an_answer_that_never_comes_is_not_waited_for_longer_than_its_time_or_the_requests() {
    let mut asking = Asking::begin(Phase::Identify, 5_000);
    asking.passes(1_500);
    asking.passes(3_400);
    asking.waits();
    asking.passes(200);
    asking.got("HTTP/1.1 504 Gateway Timeout\r\n", ReasonCode::RequestTimeout.code());
    // The route's time-out is shorter.
    let mut asking = Asking::begin(Phase::Authorise, 50_000);
    asking.passes(1_500);
    asking.passes(8_400);
    asking.waits();
    asking.passes(200);
    asking.got("HTTP/1.1 504 Gateway Timeout\r\n", ReasonCode::RequestTimeout.code());
}

#[test]
fn nobody_waits_for_a_client_that_has_gone() {
    let mut asking = Asking::begin(Phase::Identify, 5_000);
    asking.passes(1_500);
    asking.client.closed.set(true);
    asking.turn();
    asking.got("", "");
}

#[test]
fn a_drain_lets_it_end_and_the_workers_end_does_not() {
    let mut asking = Asking::begin(Phase::Identify, 5_000);
    asking.core.draining.raise();
    asking.core.deadlines.expire_idle();
    asking.turn();
    asking.waits();
    asking.answer.set(Some(0));
    asking.turn();
    asking.got("HTTP/1.1 200 OK\r\n", "Connection: close\r\n");
    let mut asking = Asking::begin(Phase::Identify, 5_000);
    asking.core.stopping.raise();
    asking.core.deadlines.expire_all();
    asking.turn();
    asking.got("HTTP/1.1 503 Service Unavailable\r\n", ReasonCode::Stopping.code());
}
