//! Workers of the simulation: the engine's own `Core`, connections and rounds, on a simulated platform. What stands in for
//! `ringway::worker` is here: accepting, handing connections over, firing deadlines, rounds, draining.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use ringway::base::backlog::BacklogAccount;
use ringway::base::clock::Monotonic;
use ringway::base::race::race;
use ringway::base::reason::ReasonCode;
use ringway::base::signal::Signal;
use ringway::net::connect::Address;
use ringway::net::h2::client::ClientStream;
use ringway::net::h2::server::ServerStream;
use ringway::net::listener::Peer;
use ringway::net::platform::{AcceptError, ConnectError, Connected, Dial, Platform};
use ringway::net::proxied::OnBehalf;
use ringway::net::tls::server::TlsServer;
use ringway::proxy::connection;
use ringway::proxy::core::{Begins, Core, Install, ListenerId, Node, Place};
use ringway::proxy::log::LogBuffer;

use super::executor::{Executor, Lane};
use super::network::{Backlog, End, Network};
use super::random::Random;

/// HTTP/2 is not simulated: its sessions run on the h2 crate, over sockets.
impl From<Box<ServerStream>> for End {
    fn from(_: Box<ServerStream>) -> Self {
        unreachable!("no simulated listener speaks HTTP/2")
    }
}

impl From<Box<ClientStream>> for End {
    fn from(_: Box<ClientStream>) -> Self {
        unreachable!("no simulated upstream speaks HTTP/2")
    }
}

/// The world as one worker sees it.
#[derive(Debug)]
pub struct World {
    executor: Executor,
    network: Rc<Network>,
    random: Random,
    lane: Lane,
    address: SocketAddr,
    crossing: Rc<Crossing>,
    backlog: Rc<BacklogAccount>,
}

impl Platform for World {
    type Stream = End;

    fn clock(&self) -> Monotonic {
        unreachable!("only HTTP/2 asks for it")
    }

    fn now_ns(&self) -> u64 {
        self.executor.now_ns()
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(784_111_777) + Duration::from_nanos(self.executor.now_ns())
    }

    fn random(&self) -> u64 {
        self.random.draw()
    }

    fn backlog(&self) -> &Rc<BacklogAccount> {
        &self.backlog
    }

    async fn connect(
        &self,
        address: &Address,
        _: &Dial,
        _: &OnBehalf,
    ) -> Result<Connected<End>, ConnectError> {
        let Address::Tcp(to) = address else {
            return Err(ConnectError::Io(ErrorKind::Unsupported.into()));
        };
        self.network.dial(self.address, *to).await.map(Connected::Stream).map_err(ConnectError::Io)
    }

    async fn accept_proxied(&self, _: &End) -> Result<Option<SocketAddr>, ReasonCode> {
        Ok(None)
    }

    async fn accept_tls(&self, _: End, _: &TlsServer) -> Result<End, AcceptError<End>> {
        Err(AcceptError::Failed(ReasonCode::TlsMalformed))
    }

    fn detach(&self, stream: End) -> Option<OwnedFd> {
        Some(self.crossing.put(stream))
    }

    fn attach(&self, socket: OwnedFd) -> io::Result<End> {
        self.crossing.take(&socket).ok_or_else(|| ErrorKind::NotConnected.into())
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.executor.spawn(self.lane, task);
    }

    async fn yield_now(&self) {
        self.executor.yield_now().await;
    }
}

/// Connections on their way from worker to worker. What crosses must be a descriptor, so one end of a socket pair stands for
/// the connection; the other end tells when it was closed instead of being taken over.
#[derive(Debug, Default)]
pub struct Crossing {
    under_way: RefCell<Vec<(i32, UnixStream, End)>>,
    taken: Cell<u64>,
}

impl Crossing {
    fn put(&self, stream: End) -> OwnedFd {
        self.sweep();
        let (token, watch) = UnixStream::pair().expect("two descriptors are to be had");
        watch.set_nonblocking(true).expect("it is a socket");
        self.under_way.borrow_mut().push((token.as_raw_fd(), watch, stream));
        token.into()
    }

    fn take(&self, token: &OwnedFd) -> Option<End> {
        let mut all = self.under_way.borrow_mut();
        let at = all.iter().position(|(number, ..)| *number == token.as_raw_fd())?;
        self.taken.set(self.taken.get() + 1);
        Some(all.remove(at).2)
    }

    /// Closes the connections whose descriptors have been closed.
    pub fn sweep(&self) {
        if self.under_way.borrow().is_empty() {
            return;
        }
        let mut closed = Vec::new();
        let mut all = self.under_way.borrow_mut();
        let mut at = 0;
        while at < all.len() {
            match all[at].1.read(&mut [0; 1]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => at += 1,
                _ => closed.push(all.remove(at)),
            }
        }
        drop(all);
    }

    pub fn is_empty(&self) -> bool {
        self.under_way.borrow().is_empty()
    }

    /// How many have come to another worker.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }
}

/// How often a worker looks after its pools, as in `ringway::worker`.
const ROUND: Duration = Duration::from_secs(1);

/// For how long a drain leaves idle clients their connection, as in `ringway::worker`.
const DRAIN_IDLE_GRACE: Duration = Duration::from_secs(1);

/// What a worker is started with.
pub(super) struct Setup {
    pub(super) executor: Executor,
    pub(super) network: Rc<Network>,
    pub(super) random: Random,
    pub(super) crossing: Rc<Crossing>,
    pub(super) node: std::sync::Arc<Node>,
    /// Lines of the access log go nowhere.
    pub(super) log: crossbeam_channel::Sender<Vec<u8>>,
}

/// One worker.
pub struct Worker {
    pub core: Rc<Core<World>>,
    pub(super) backlog: Rc<Backlog>,
    listening: Rc<Signal>,
    ended: Rc<Cell<bool>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("index", &self.core.index).finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn new(index: usize, install: &Install, setup: Setup) -> Self {
        let lane = setup.executor.lane();
        let world = World {
            address: SocketAddr::from(([10, 0, 0, 1], 40_000 + index as u16)),
            executor: setup.executor,
            network: setup.network,
            random: setup.random,
            lane,
            crossing: setup.crossing,
            backlog: BacklogAccount::new(u64::MAX),
        };
        let core = Core::new(index, world, setup.node, install, LogBuffer::new(setup.log));
        core.platform.spawn(sweep(Rc::clone(&core)));
        core.platform.spawn(rounds(Rc::clone(&core)));
        core.platform.spawn(give_leases_back(Rc::clone(&core)));
        Self { core, backlog: Rc::default(), listening: Rc::default(), ended: Rc::default() }
    }

    /// Accepts for a listener until told to drain.
    pub(super) fn listen(&self, id: ListenerId, peers: Rc<[Rc<Core<World>>]>) {
        let (core, backlog) = (Rc::clone(&self.core), Rc::clone(&self.backlog));
        let closing = Rc::clone(&self.listening);
        self.core.platform.spawn(accept(core, peers, id, backlog, closing));
    }

    /// Stops accepting, closes what is idle, and ends when the last connection has.
    pub(super) fn drain(&self) {
        self.listening.raise();
        let (core, ended) = (Rc::clone(&self.core), Rc::clone(&self.ended));
        self.core.platform.spawn(async move {
            core.draining.raise();
            core.close_idle_upstreams();
            let mut pause = DRAIN_IDLE_GRACE;
            while core.connections() > 0 && pause_or_stop(&core, pause).await {
                core.deadlines.expire_idle();
                pause = DRAIN_IDLE_GRACE / 4;
            }
            ended.set(true);
        });
    }

    /// Whether a drain has come to its end.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Ends its own tasks, and with them, if need be, all others.
    pub(super) fn stop(&self) {
        self.listening.raise();
        self.core.draining.raise();
        self.core.stopping.raise();
        self.core.deadlines.expire_all();
        self.core.close_idle_upstreams();
        self.core.release_leases();
    }
}

async fn accept(
    core: Rc<Core<World>>,
    peers: Rc<[Rc<Core<World>>]>,
    id: ListenerId,
    backlog: Rc<Backlog>,
    closing: Rc<Signal>,
) {
    loop {
        let last = closing.is_raised();
        if !last && !core.has_place(id) {
            core.room.lower();
            race(pin!(core.room.raised()), pin!(closing.raised())).await;
            continue;
        }
        if !last {
            race(pin!(backlog.ready()), pin!(closing.raised())).await;
        }
        loop {
            // What is queued when a drain begins is served, however many there are.
            let place = if last { Some(core.take_last_place(id)) } else { core.take_place(core.index, id) };
            let Some(place) = place else { break };
            let Some((stream, from)) = backlog.try_accept() else {
                core.give_place(place);
                break;
            };
            admit(&core, &peers, place, stream, from);
        }
        if last {
            return;
        }
    }
}

fn admit(core: &Rc<Core<World>>, peers: &[Rc<Core<World>>], place: Place, stream: End, from: SocketAddr) {
    let theirs = core.less_loaded().and_then(|other| Some((other, core.take_place(other, place.listener)?)));
    let Some((other, theirs)) = theirs else { return serve(core, &place, stream, from) };
    core.give_place(place);
    let (other, socket) = (Rc::clone(&peers[other]), core.platform.detach(stream));
    // A message in its mailbox: it is there at the other's next turn.
    peers[other.index].platform.spawn(async move {
        match socket.and_then(|socket| other.platform.attach(socket).ok()) {
            Some(stream) => serve(&other, &theirs, stream, from),
            None => other.give_place(theirs),
        }
    });
}

fn serve(core: &Rc<Core<World>>, place: &Place, stream: End, from: SocketAddr) {
    core.arrived(place, Begins::WithRequest);
    core.platform.spawn(connection::serve(Rc::clone(core), stream, Peer::Tcp(from), place.listener));
}

async fn pause_or_stop(core: &Core<World>, pause: Duration) -> bool {
    let deadline = core.deadlines.deadline();
    deadline.arm(core.platform.now_ms(), pause);
    let _ = deadline.bound(core.stopping.raised()).await;
    !core.stopping.is_raised()
}

async fn sweep(core: Rc<Core<World>>) {
    while !core.stopping.is_raised() {
        let now = core.platform.now_ms();
        let due = match core.deadlines.next_ms() {
            Some(due) if due <= now => core.deadlines.sweep(now),
            due => due,
        };
        let alarm = async {
            match due {
                Some(due) => core.platform.executor.until(due * 1_000_000).await,
                None => std::future::pending().await,
            }
        };
        let other = async {
            race(pin!(core.deadlines.rearmed(due)), pin!(core.stopping.raised())).await;
        };
        race(pin!(alarm), pin!(other)).await;
    }
}

async fn give_leases_back(core: Rc<Core<World>>) {
    const LEASE_PAUSE: Duration = Duration::from_millis(20);
    while !core.stopping.is_raised() {
        race(pin!(core.leases.raised()), pin!(core.stopping.raised())).await;
        core.leases.lower();
        while pause_or_stop(&core, LEASE_PAUSE).await && core.return_leases() {}
    }
}

async fn rounds(core: Rc<Core<World>>) {
    while pause_or_stop(&core, ROUND).await {
        core.maintain().await;
        core.log.flush();
        core.platform.crossing.sweep();
    }
}
