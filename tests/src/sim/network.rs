//! A network in memory: connections between addresses, with all that a network does to them. What is written arrives later,
//! in other pieces; each connection at its own pace, so that there is no order between two; some directions stall or fall
//! silent for ever; some connections are reset. Within a connection nothing is lost or changed: this is TCP as its users see
//! it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ringway::net::stream::{Peek, Presence, Transport};

use super::executor::Executor;
use super::random::Random;
use super::trace::{Event, Trace};

/// What the network does to connections.
#[derive(Clone, Debug)]
pub struct Weather {
    /// How long a segment is on its way, in microseconds.
    pub latency_us: Range<u64>,
    /// One call in so many moves a part of what it could.
    pub short_calls: u64,
    /// One write in so many is cut into segments that arrive apart.
    pub splits: u64,
    /// One segment in so many arrives later by [`stall_ms`](Self::stall_ms).
    pub stalls: u64,
    pub stall_ms: Range<u64>,
    /// One segment in so many is the last that this direction ever delivers.
    pub silences: u64,
    /// One segment in so many is followed by a reset of the connection.
    pub resets: u64,
    /// Bytes that one direction holds: on the way, and not yet read.
    pub window: Range<u64>,
}

impl Weather {
    /// Nothing but time passes.
    pub fn fair() -> Self {
        Self {
            latency_us: 20..200,
            short_calls: 0,
            splits: 0,
            stalls: 0,
            stall_ms: 0..1,
            silences: 0,
            resets: 0,
            window: 64_000..64_001,
        }
    }

    /// Everything happens that does no harm by itself.
    pub fn rough() -> Self {
        Self {
            latency_us: 20..20_000,
            short_calls: 4,
            splits: 3,
            stalls: 50,
            stall_ms: 1..300,
            window: 500..70_000,
            ..Self::fair()
        }
    }

    /// Connections break, too.
    pub fn stormy() -> Self {
        Self { silences: 1_500, resets: 200, stall_ms: 1..3_000, ..Self::rough() }
    }
}

/// All connections, and who listens where.
pub struct Network {
    executor: Executor,
    random: Random,
    trace: Rc<Trace>,
    weather: RefCell<Weather>,
    listeners: RefCell<BTreeMap<SocketAddr, Answer>>,
    connections: Cell<u32>,
    open: Cell<i64>,
}

/// What becomes of whoever dials an address.
#[derive(Clone, Debug)]
pub enum Answer {
    /// One of these accepts it.
    Accepted(Vec<Rc<Backlog>>),
    /// Nothing ever comes back.
    Ignored,
}

/// Connections that wait to be accepted.
#[derive(Default)]
pub struct Backlog {
    waiting: RefCell<VecDeque<(End, SocketAddr)>>,
    acceptor: RefCell<Vec<Waker>>,
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog").field("waiting", &self.waiting.borrow().len()).finish_non_exhaustive()
    }
}

impl Backlog {
    /// The next connection, and where it comes from.
    pub fn try_accept(&self) -> Option<(End, SocketAddr)> {
        self.waiting.borrow_mut().pop_front()
    }

    /// Waits until there is one.
    pub async fn ready(&self) {
        poll_fn(|cx| {
            if !self.waiting.borrow().is_empty() {
                return Poll::Ready(());
            }
            watch(&self.acceptor, cx);
            Poll::Pending
        })
        .await;
    }

    pub async fn accept(&self) -> (End, SocketAddr) {
        loop {
            self.ready().await;
            if let Some(accepted) = self.try_accept() {
                return accepted;
            }
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("connections", &self.connections.get()).finish_non_exhaustive()
    }
}

impl Network {
    pub fn new(executor: Executor, random: Random, trace: Rc<Trace>, weather: Weather) -> Rc<Self> {
        Rc::new(Self {
            executor,
            random,
            trace,
            weather: RefCell::new(weather),
            listeners: RefCell::default(),
            connections: Cell::new(0),
            open: Cell::new(0),
        })
    }

    /// Changes it for what is sent from now on, and for the windows of connections from now on.
    pub fn set_weather(&self, weather: Weather) {
        *self.weather.borrow_mut() = weather;
    }

    /// Says what becomes of whoever dials `address`; `None`: it is refused.
    pub fn listen(&self, address: SocketAddr, answer: Option<Answer>) {
        match answer {
            Some(answer) => self.listeners.borrow_mut().insert(address, answer),
            None => self.listeners.borrow_mut().remove(&address),
        };
    }

    /// Ends of connections that nobody has closed.
    pub fn open(&self) -> i64 {
        self.open.get()
    }

    fn latency_ns(&self) -> u64 {
        self.random.within(self.weather.borrow().latency_us.clone()) * 1_000
    }

    /// Opens a connection.
    pub async fn dial(self: &Rc<Self>, from: SocketAddr, to: SocketAddr) -> io::Result<End> {
        self.executor.until(self.executor.now_ns() + self.latency_ns()).await;
        let answer = self.listeners.borrow().get(&to).cloned();
        let backlogs = match answer {
            None => {
                self.executor.until(self.executor.now_ns() + self.latency_ns()).await;
                return Err(ErrorKind::ConnectionRefused.into());
            }
            Some(Answer::Ignored) => std::future::pending().await,
            Some(Answer::Accepted(backlogs)) => backlogs,
        };
        let (dialer, acceptor) = self.pair();
        let backlog = self.random.pick(&backlogs);
        backlog.waiting.borrow_mut().push_back((acceptor, from));
        wake(&backlog.acceptor);
        self.executor.until(self.executor.now_ns() + self.latency_ns()).await;
        Ok(dialer)
    }

    fn pair(self: &Rc<Self>) -> (End, End) {
        let number = self.connections.get();
        self.connections.set(number + 1);
        self.open.set(self.open.get() + 2);
        let window = || self.random.within(self.weather.borrow().window.clone()) as usize;
        let there = Direction::new(window());
        let back = Direction::new(window());
        let end = |side, incoming: &Rc<Direction>, outgoing: &Rc<Direction>| End {
            network: Rc::clone(self),
            connection: number,
            side,
            incoming: Rc::clone(incoming),
            outgoing: Rc::clone(outgoing),
            abort: Cell::new(false),
        };
        (end('c', &back, &there), end('s', &there, &back))
    }
}

/// One direction of a connection.
struct Direction {
    window: usize,
    segments: RefCell<VecDeque<Segment>>,
    held: Cell<usize>,
    /// When what was sent last arrives: nothing overtakes it.
    last_ns: Cell<u64>,
    /// The writer has said that it is done, and when that arrives.
    fin_ns: Cell<u64>,
    /// When the reader learns of a reset.
    reader_reset_ns: Cell<u64>,
    /// When the writer learns of a reset.
    writer_reset_ns: Cell<u64>,
    /// The reader has closed: whatever arrives is answered with a reset.
    reader_gone: Cell<bool>,
    /// Nothing that is sent from now on arrives, and nobody is told.
    silent: Cell<bool>,
    readers: RefCell<Vec<Waker>>,
    writers: RefCell<Vec<Waker>>,
}

struct Segment {
    arrives_ns: u64,
    bytes: Box<[u8]>,
    read: usize,
}

const NEVER: u64 = u64::MAX;

impl Direction {
    fn new(window: usize) -> Rc<Self> {
        Rc::new(Self {
            window,
            segments: RefCell::default(),
            held: Cell::new(0),
            last_ns: Cell::new(0),
            fin_ns: Cell::new(NEVER),
            reader_reset_ns: Cell::new(NEVER),
            writer_reset_ns: Cell::new(NEVER),
            reader_gone: Cell::new(false),
            silent: Cell::new(false),
            readers: RefCell::default(),
            writers: RefCell::default(),
        })
    }

    fn wake_both(&self) {
        wake(&self.readers);
        wake(&self.writers);
    }
}

/// One end of a connection. Dropping it closes it.
pub struct End {
    network: Rc<Network>,
    connection: u32,
    side: char,
    incoming: Rc<Direction>,
    outgoing: Rc<Direction>,
    abort: Cell<bool>,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.connection, self.side)
    }
}

impl End {
    pub fn connection(&self) -> u32 {
        self.connection
    }

    /// Nothing is on the way, in either direction.
    pub fn is_quiet(&self) -> bool {
        // What a direction has swallowed is still held: its sender takes it to be on the way.
        self.incoming.held.get() == 0 && self.outgoing.held.get() == 0
    }

    /// Writes something that is there at once: nothing that the peer sends can have crossed it.
    pub fn send_at_once(&self, bytes: &[u8]) {
        let arrives_ns = self.network.executor.now_ns();
        let out = &self.outgoing;
        if self.may_not_write() || out.silent.get() || out.reader_gone.get() {
            return;
        }
        self.note(|connection, side| Event::Sent { connection, side, bytes: bytes.len() as u32, arrives_ns });
        out.held.set(out.held.get() + bytes.len());
        out.segments.borrow_mut().push_back(Segment { arrives_ns, bytes: bytes.into(), read: 0 });
        wake(&out.readers);
    }

    /// One of its directions has fallen silent: whoever waits on it waits for nothing.
    pub fn is_silent(&self) -> bool {
        self.incoming.silent.get() || self.outgoing.silent.get()
    }

    fn note(&self, event: impl FnOnce(u32, char) -> Event) {
        self.network.trace.add(self.network.executor.now_ns(), event(self.connection, self.side));
    }

    /// When something that is sent now arrives.
    fn arrival(&self) -> u64 {
        let at =
            (self.network.executor.now_ns() + self.network.latency_ns()).max(self.outgoing.last_ns.get());
        self.outgoing.last_ns.set(at);
        at
    }

    fn send(&self, bytes: Box<[u8]>) {
        let Weather { stalls, stall_ms, silences, resets, .. } = self.network.weather.borrow().clone();
        let (random, out) = (&self.network.random, &self.outgoing);
        let mut arrives_ns = self.arrival();
        if random.one_in(stalls) {
            arrives_ns += random.within(stall_ms) * 1_000_000;
            out.last_ns.set(arrives_ns);
        }
        if random.one_in(silences) {
            out.silent.set(true);
        }
        let length = bytes.len();
        self.note(|connection, side| Event::Sent { connection, side, bytes: length as u32, arrives_ns });
        out.held.set(out.held.get() + length);
        if out.silent.get() {
            return;
        }
        if out.reader_gone.get() {
            out.held.set(out.held.get() - length);
            // The answer comes behind all that the peer has sent before.
            let back_ns = (arrives_ns + self.network.latency_ns()).max(self.incoming.last_ns.get());
            return self.reset_both(back_ns);
        }
        out.segments.borrow_mut().push_back(Segment { arrives_ns, bytes, read: 0 });
        let direction = Rc::clone(out);
        self.network.executor.at(arrives_ns, move || wake(&direction.readers));
        if random.one_in(resets) {
            self.reset_both(arrives_ns + random.below(5_000_000));
        }
    }

    /// Both ends learn of a reset at about this time.
    fn reset_both(&self, at_ns: u64) {
        self.note(|connection, side| Event::Reset { connection, side, arrives_ns: at_ns });
        for direction in [&self.incoming, &self.outgoing] {
            for cell in [&direction.reader_reset_ns, &direction.writer_reset_ns] {
                cell.set(cell.get().min(at_ns));
            }
            let direction = Rc::clone(direction);
            self.network.executor.at(at_ns, move || direction.wake_both());
        }
    }

    fn fin(&self) {
        if self.outgoing.fin_ns.get() != NEVER {
            return;
        }
        let arrives_ns = self.arrival();
        self.note(|connection, side| Event::Fin { connection, side, arrives_ns });
        if self.outgoing.silent.get() {
            // Known here, and nowhere else.
            self.outgoing.fin_ns.set(NEVER - 1);
            return;
        }
        self.outgoing.fin_ns.set(arrives_ns);
        let direction = Rc::clone(&self.outgoing);
        self.network.executor.at(arrives_ns, move || wake(&direction.readers));
    }

    /// What there is to read now; `None`: nothing yet.
    fn arrived(&self) -> Option<Arrived> {
        let now = self.network.executor.now_ns();
        let incoming = &self.incoming;
        match incoming.segments.borrow().front() {
            Some(segment) if segment.arrives_ns <= self.read_until_ns() => return Some(Arrived::Bytes),
            _ if incoming.reader_reset_ns.get() <= now => return Some(Arrived::Reset),
            Some(_) => return None,
            None => {}
        }
        (incoming.fin_ns.get() <= now).then_some(Arrived::End)
    }

    /// What arrives later can't be read now; behind a reset nothing arrives at all.
    fn read_until_ns(&self) -> u64 {
        self.network.executor.now_ns().min(self.incoming.reader_reset_ns.get())
    }

    fn writable_now(&self) -> bool {
        let out = &self.outgoing;
        out.held.get() < out.window || self.may_not_write()
    }

    fn may_not_write(&self) -> bool {
        let out = &self.outgoing;
        out.writer_reset_ns.get() <= self.network.executor.now_ns() || out.fin_ns.get() != NEVER
    }

    /// How much of `most` a call moves.
    fn moved(&self, most: usize) -> usize {
        let random = &self.network.random;
        if most > 1 && random.one_in(self.network.weather.borrow().short_calls) {
            // Mostly few.
            let most = if random.one_in(2) { most.min(3) } else { most };
            return 1 + random.below(most as u64) as usize;
        }
        most
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrived {
    Bytes,
    End,
    Reset,
}

impl Transport for End {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self.arrived() {
            None => return Err(ErrorKind::WouldBlock.into()),
            Some(Arrived::Reset) => return Err(ErrorKind::ConnectionReset.into()),
            Some(Arrived::End) => return Ok(0),
            Some(Arrived::Bytes) => {}
        }
        let until_ns = self.read_until_ns();
        let most = self.moved(into.len());
        let mut segments = self.incoming.segments.borrow_mut();
        let mut total = 0;
        while total < most
            && let Some(segment) = segments.front_mut().filter(|segment| segment.arrives_ns <= until_ns)
        {
            let rest = &segment.bytes[segment.read..];
            let n = rest.len().min(most - total);
            into[total..total + n].copy_from_slice(&rest[..n]);
            segment.read += n;
            total += n;
            if segment.read == segment.bytes.len() {
                segments.pop_front();
            }
        }
        drop(segments);
        self.incoming.held.set(self.incoming.held.get() - total);
        wake(&self.incoming.writers);
        self.note(|connection, side| Event::Read { connection, side, bytes: total as u32 });
        Ok(total)
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(from)])
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.may_not_write() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = self.outgoing.window.saturating_sub(self.outgoing.held.get());
        let offered: usize = from.iter().map(|slice| slice.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let taken = self.moved(offered.min(room));
        let mut bytes = Vec::with_capacity(taken);
        for slice in from {
            let n = slice.len().min(taken - bytes.len());
            bytes.extend_from_slice(&slice[..n]);
        }
        let (random, splits) = (&self.network.random, self.network.weather.borrow().splits);
        let mut rest = &bytes[..];
        while rest.len() > 1 && random.one_in(splits) {
            let (first, others) = rest.split_at(1 + random.below(rest.len() as u64 - 1) as usize);
            self.send(first.into());
            rest = others;
        }
        self.send(rest.into());
        Ok(taken)
    }

    async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            if self.arrived().is_some() {
                return Poll::Ready(Ok(()));
            }
            watch(&self.incoming.readers, cx);
            Poll::Pending
        })
        .await
    }

    async fn writable(&self) -> io::Result<()> {
        poll_fn(|cx| {
            if self.writable_now() {
                return Poll::Ready(Ok(()));
            }
            watch(&self.outgoing.writers, cx);
            Poll::Pending
        })
        .await
    }

    fn peek(&self) -> Peek {
        match self.arrived() {
            None => Peek::Quiet,
            Some(Arrived::Bytes) => Peek::Bytes,
            Some(Arrived::End | Arrived::Reset) => Peek::Closed,
        }
    }

    fn presence(&self) -> Presence {
        let now = self.network.executor.now_ns();
        if self.incoming.reader_reset_ns.get() <= now || self.outgoing.writer_reset_ns.get() <= now {
            Presence::Gone
        } else if self.incoming.fin_ns.get() <= now {
            Presence::HalfClosed
        } else {
            Presence::Here
        }
    }

    fn shutdown_write(&self) {
        self.fin();
    }

    fn abort_on_close(&self) {
        self.abort.set(true);
    }

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.network.open.set(self.network.open.get() - 1);
        self.incoming.reader_gone.set(true);
        let now = self.network.executor.now_ns();
        let segments = self.incoming.segments.take();
        // Linux resets a connection that is closed with bytes unread, and one to which more bytes come.
        let unread = segments.iter().any(|segment| segment.arrives_ns <= now);
        let broken = self.incoming.reader_reset_ns.get() <= now;
        if broken || self.outgoing.silent.get() {
            // Nobody is left to be told, or nobody hears it.
        } else if self.abort.get() || unread {
            let at_ns = self.arrival();
            if self.abort.get() && self.network.random.one_in(2) {
                // What is not out yet is dropped.
                self.outgoing.segments.borrow_mut().retain(|segment| segment.arrives_ns <= now);
            }
            self.reset_both(at_ns);
        } else {
            self.fin();
            if !segments.is_empty() && !self.incoming.silent.get() {
                let last = segments.iter().map(|segment| segment.arrives_ns).max().unwrap_or(now);
                self.reset_both((last + self.network.latency_ns()).max(self.outgoing.last_ns.get()));
            }
        }
    }
}

/// Has a task woken by the next [`wake`].
fn watch(wakers: &RefCell<Vec<Waker>>, cx: &Context<'_>) {
    let mut wakers = wakers.borrow_mut();
    if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
        wakers.push(cx.waker().clone());
    }
}

fn wake(wakers: &RefCell<Vec<Waker>>) {
    for waker in wakers.take() {
        waker.wake();
    }
}
