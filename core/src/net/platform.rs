//! What the request path needs from the world: time, randomness, new connections. The seam for simulation.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::connect::{self, Address};
use super::descriptors::Shortage;
use super::driver;
use super::h2::Settings as Http2Settings;
use super::h2::client::{ClientStream, Session};
use super::h2::server::ServerStream;
use super::liveness::Liveness;
use super::proxied::{self, OnBehalf, ProxyVersion};
use super::stream::{Socket, Stream, Transport};
use super::tls::client::{Connector, ServerName};
use super::tls::server::TlsServer;
use super::tls::{HandshakeError, Protocol, client, server};
use crate::base::backlog::{Backlog, BacklogAccount};
use crate::base::clock::{Clock, Monotonic};
use crate::base::reason::ReasonCode;
use crate::http::message::Scheme;

/// A new connection to an endpoint.
#[derive(Debug)]
pub enum Connected<S> {
    /// It carries one exchange after another.
    Stream(S),
    /// It carries many at once.
    Session(Rc<Session>),
}

/// The world as one worker sees it.
#[allow(async_fn_in_trait)] // Workers are single threads; nothing here needs Send.
pub trait Platform: 'static {
    /// A connection.
    type Stream: Transport + From<Box<ServerStream>> + From<Box<ClientStream>>;

    /// The clock that [`now_ns`](Self::now_ns) reads.
    fn clock(&self) -> Monotonic;
    /// Nanoseconds since the worker's start.
    fn now_ns(&self) -> u64;
    /// Wall-clock time since 1970.
    fn unix_time(&self) -> Duration;
    /// A random number, not for secrets.
    fn random(&self) -> u64;
    /// The account of what connections hold because somebody does not read.
    fn backlog(&self) -> &Rc<BacklogAccount>;
    /// Opens a connection; the caller bounds the wait.
    async fn connect(
        &self,
        address: &Address,
        how: &Dial,
        client: &OnBehalf,
    ) -> Result<Connected<Self::Stream>, ConnectError>;
    /// Takes a PROXY header off the front of a client's connection; the caller bounds the wait. Gives the address that
    /// it tells, or a reason code.
    async fn accept_proxied(&self, stream: &Self::Stream) -> Result<Option<SocketAddr>, ReasonCode>;
    /// Answers a client's TLS handshake; the caller bounds the wait.
    async fn accept_tls(
        &self,
        stream: Self::Stream,
        server: &TlsServer,
    ) -> Result<Self::Stream, AcceptError<Self::Stream>>;
    /// Makes a socket of a connection, so that it can cross to another worker; `None` where that can't be.
    fn detach(&self, stream: Self::Stream) -> Option<OwnedFd>;
    /// Takes over a socket that crossed.
    fn attach(&self, socket: OwnedFd) -> io::Result<Self::Stream>;
    /// Starts a task of this worker.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
    /// Lets the worker's other tasks run, and I/O be looked at, before going on.
    async fn yield_now(&self);

    /// Milliseconds since the worker's start.
    fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }
}

/// How a connection to an endpoint is opened.
#[derive(Debug, Clone, Default)]
pub struct Dial {
    /// With TLS, as this worker is configured to, and the name that the endpoint must prove.
    pub tls: Option<(Rc<Connector>, ServerName<'static>)>,
    /// With HTTP/2; `None`: HTTP/1.1.
    pub http2: Option<Http2Settings>,
    /// With a PROXY header first. Such a connection is its client's alone.
    pub proxy: Option<ProxyVersion>,
    /// With these options.
    pub liveness: Liveness,
}

/// The same connector, not one that is like it.
impl PartialEq for Dial {
    fn eq(&self, other: &Self) -> bool {
        if self.http2 != other.http2 || self.proxy != other.proxy || self.liveness != other.liveness {
            return false;
        }
        match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some((ours, our_name)), Some((theirs, their_name))) => {
                Rc::ptr_eq(ours, theirs) && our_name == their_name
            }
            _ => false,
        }
    }
}

/// Why there is no connection to an endpoint.
#[derive(Debug)]
pub enum ConnectError {
    /// It can't be reached.
    Io(io::Error),
    /// It was reached, but TLS failed.
    Tls(HandshakeError),
    /// It was to speak HTTP/2, and agreed to something else.
    NoHttp2,
}

impl ConnectError {
    /// What this machine lacks for a connection, if that is why: the endpoint is not to blame then.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            Self::Io(error) => Shortage::of(error),
            Self::Tls(_) | Self::NoHttp2 => None,
        }
    }
}

/// Why there is no TLS connection to a client.
#[derive(Debug)]
pub enum AcceptError<S> {
    /// It sent a request in the clear, and can be answered so.
    PlainHttp(S),
    /// The handshake failed; the client was told, as far as that can be.
    Failed(ReasonCode),
}

/// The real world.
#[derive(Debug)]
pub struct Linux {
    clock: Monotonic,
    random: Cell<u64>,
    backlog: Rc<BacklogAccount>,
}

impl Linux {
    /// `seed` decides the random numbers. Its account has no bound until it is given one.
    pub fn new(clock: Monotonic, seed: u64) -> Self {
        Self { clock, random: Cell::new(seed), backlog: BacklogAccount::new(u64::MAX) }
    }
}

impl Platform for Linux {
    type Stream = Stream;

    fn clock(&self) -> Monotonic {
        self.clock
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn unix_time(&self) -> Duration {
        self.clock.unix_time()
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn backlog(&self) -> &Rc<BacklogAccount> {
        &self.backlog
    }

    async fn connect(
        &self,
        address: &Address,
        how: &Dial,
        client: &OnBehalf,
    ) -> Result<Connected<Stream>, ConnectError> {
        let socket = connect::open(address, how.liveness).await.map_err(ConnectError::Io)?;
        if let Some(version) = how.proxy {
            Box::pin(proxied::send(&socket, version, client)).await.map_err(ConnectError::Io)?;
        }
        let (stream, scheme) = match &how.tls {
            None => (Stream::Socket(socket), Scheme::Http),
            Some((connector, name)) => {
                // Boxed: a handshake's state is large, and the common connection has none.
                let opened = Box::pin(client::connect(socket, connector, name, &self.backlog)).await;
                let stream = opened.map_err(ConnectError::Tls)?;
                if how.http2.is_some() && stream.agreed().protocol != Protocol::H2 {
                    return Err(ConnectError::NoHttp2);
                }
                (Stream::Tls(Box::new(stream)), Scheme::Https)
            }
        };
        let Some(settings) = &how.http2 else { return Ok(Connected::Stream(stream)) };
        let backlog = Backlog::new(&self.backlog, None);
        let session = Box::pin(Session::new(stream, scheme, settings, self.clock, backlog)).await;
        session.map(Connected::Session).map_err(ConnectError::Io)
    }

    async fn accept_proxied(&self, stream: &Stream) -> Result<Option<SocketAddr>, ReasonCode> {
        match stream {
            Stream::Socket(socket) => proxied::receive(socket).await,
            _ => Ok(None),
        }
    }

    async fn accept_tls(&self, stream: Stream, server: &TlsServer) -> Result<Stream, AcceptError<Stream>> {
        let Stream::Socket(socket) = stream else {
            return Err(AcceptError::Failed(ReasonCode::TlsMalformed));
        };
        match server::accept(socket, server, &self.backlog).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(HandshakeError::PlainHttp(socket)) => Err(AcceptError::PlainHttp(Stream::Socket(socket))),
            Err(error) => Err(AcceptError::Failed(error.reason())),
        }
    }

    fn detach(&self, stream: Stream) -> Option<OwnedFd> {
        stream.into_socket()
    }

    fn attach(&self, socket: OwnedFd) -> io::Result<Stream> {
        Socket::new(socket).map(Stream::Socket)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        driver::spawn(task);
    }

    async fn yield_now(&self) {
        driver::yield_now().await;
    }
}
