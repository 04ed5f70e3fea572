//! What the request path needs from the world: time, randomness, new connections. The seam for simulation.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::connect::{self, Address};
use super::h2::client::{ClientStream, Session};
use super::h2::server::ServerStream;
use super::h2::{self};
use super::stream::{Socket, Stream, Transport};
use crate::base::clock::{Clock, Monotonic};
use crate::http::message::Scheme;

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// HTTP/2 with prior knowledge; `None`: HTTP/1.1.
    pub http2: Option<h2::Settings>,
}

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
    /// Opens a connection; the caller bounds the wait.
    async fn connect(&self, address: &Address, dial: &Dial) -> io::Result<Connected<Self::Stream>>;
    /// Makes a socket of a connection, so that it can cross to another worker; `None` where that can't be.
    fn detach(&self, stream: Self::Stream) -> Option<OwnedFd>;
    /// Takes over a socket that crossed.
    fn attach(&self, socket: OwnedFd) -> io::Result<Self::Stream>;

    /// Milliseconds since the worker's start.
    fn now_ms(&self) -> u64 {
        self.now_ns() / 1_000_000
    }
}

/// The real world.
#[derive(Debug)]
pub struct Linux {
    clock: Monotonic,
    random: Cell<u64>,
}

impl Linux {
    /// `seed` decides the random numbers.
    pub fn new(clock: Monotonic, seed: u64) -> Self {
        Self { clock, random: Cell::new(seed) }
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

    async fn connect(&self, address: &Address, dial: &Dial) -> io::Result<Connected<Stream>> {
        let socket = connect::open(address).await?;
        Ok(match &dial.http2 {
            None => Connected::Stream(Stream::Socket(socket)),
            Some(settings) => {
                Connected::Session(Session::new(socket, Scheme::Http, settings, self.clock).await?)
            }
        })
    }

    fn detach(&self, stream: Stream) -> Option<OwnedFd> {
        match stream {
            Stream::Socket(socket) => socket.into_socket().ok(),
            Stream::OfClient(_) | Stream::ToOrigin(_) => None,
        }
    }

    fn attach(&self, socket: OwnedFd) -> io::Result<Stream> {
        Socket::new(socket).map(Stream::Socket)
    }
}
