//! Moves bytes from one stream to another with back-pressure: nothing more is read before what was read is written.
//!
//! Small amounts pass through the connection's buffer; the rest of a large body goes from socket to socket by splice
//! where both ends can. A pump that waits for its source holds neither buffer nor pipe; one that waits for its sink, one.

use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::time::Duration;

use super::super::downstream::Downstream;
use super::super::watch::{gone_once, unless_gone};
use super::Body;
use crate::base::buffer::Buffer;
use crate::base::deadline::{Deadline, Expired};
use crate::base::limits::{LINGER_TOTAL_MS, SPLICE_BYTES_MIN, TURN_BYTES};
use crate::base::race::{First, race};
use crate::http::flow::{Batch, Flow, FlowError, PIECES_MAX};
use crate::net::pipe::{Pipe, PipePool};
use crate::net::platform::Platform;
use crate::net::stream::Transport;
use crate::telemetry::metrics::{Counter, Metrics};

/// Which end of a pump something happened at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum End {
    Source,
    Sink,
}

/// Why a pump stopped before the body's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum PumpError {
    /// The stream broke, or the sink is gone.
    Broken(End),
    /// The body is malformed or cut short.
    Malformed(FlowError),
    /// More content than allowed.
    TooLarge,
    /// Waited too long for this end.
    Elapsed(End),
    /// Waited too long for a buffer.
    NoBuffer,
    /// The client has gone while the other end was waited for.
    ClientGone,
}

/// What a pump needs besides its two streams.
pub(in super::super) struct Pump<'p, P: Platform> {
    pub(in super::super) platform: &'p P,
    pub(in super::super) pipes: &'p PipePool,
    pub(in super::super) deadline: &'p Deadline,
    /// While bodies move both ways: when a byte last did, in either direction, since the response's began; before
    /// that 0. A direction that has nothing to say is not idle while the other one moves.
    pub(in super::super) moved_ms: Option<&'p Cell<u64>>,
    /// How long one wait may last; zero: no bound.
    pub(in super::super) idle: Duration,
    /// Content bytes that may pass.
    pub(in super::super) content_max: u64,
    /// Where bytes that went by splice are counted.
    pub(in super::super) metrics: &'p Metrics,
    /// The client, while the other end is waited for.
    pub(in super::super) watch: Watch<'p, P>,
}

/// Who is watched during which waits. A wait for the client itself ends when it goes.
pub(in super::super) enum Watch<'p, P: Platform> {
    /// Nobody.
    Nobody,
    /// The client, to which a response goes: while the source is awaited, once nobody reads from it any more.
    WhileReading(&'p Downstream<P>, &'p Cell<bool>),
    /// The client, from which a request comes: while the sink is awaited.
    WhileWriting(&'p Downstream<P>),
}

impl<P: Platform> Clone for Watch<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Watch<'_, P> {}

impl<'p, P: Platform> Pump<'p, P> {
    /// One that waits at most `idle` for either end (zero: no bound), and watches the client while it waits for the other.
    pub(in super::super) fn new(conn: &'p Downstream<P>, idle: Duration) -> Self {
        Self {
            platform: &conn.core.platform,
            pipes: &conn.core.pipes,
            deadline: &conn.deadline,
            moved_ms: None,
            idle,
            content_max: u64::MAX,
            metrics: &conn.core.metrics,
            watch: Watch::WhileWriting(conn),
        }
    }

    /// Arms the deadline for a wait that begins now, and tells when that is.
    fn arm(&self) -> u64 {
        let now_ms = self.platform.now_ms();
        if let Some(moved_ms) = self.moved_ms
            && moved_ms.get() > 0
        {
            moved_ms.set(now_ms);
        }
        self.deadline.arm(now_ms, self.idle);
        now_ms
    }

    /// Counts bytes that were moved in this task's `turn`, and lets others run when that has been long enough: two ends
    /// that are always ready would never make it wait.
    pub(in super::super) async fn spend(&self, turn: &mut usize, bytes: usize) {
        *turn += bytes;
        if *turn >= TURN_BYTES {
            *turn = 0;
            self.platform.yield_now().await;
        }
    }

    /// Waits until the source has something to read.
    pub(in super::super) async fn wait_readable<S: Transport>(&self, source: &S) -> Result<(), PumpError> {
        let mut since_ms = self.arm();
        loop {
            let ready = self.deadline.bound(source.readable());
            let ready = if let Watch::WhileReading(client, unread) = self.watch {
                match race(pin!(ready), pin!(gone_once(client, unread))).await {
                    First::Left(ready) => ready,
                    First::Right(()) => return Err(PumpError::ClientGone),
                }
            } else {
                ready.await
            };
            match ready {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => return Err(PumpError::Broken(End::Source)),
                Err(_) => {}
            }
            let moved_ms = self.moved_ms.map_or(0, Cell::get);
            if self.deadline.expired() != Expired::Phase || moved_ms <= since_ms {
                return Err(PumpError::Elapsed(End::Source));
            }
            since_ms = moved_ms;
            self.deadline.arm(since_ms, self.idle);
        }
    }

    async fn writable<S: Transport>(&self, sink: &S) -> Result<(), PumpError> {
        self.arm();
        let ready = self.deadline.bound(sink.writable());
        let ready = if let Watch::WhileWriting(client) = self.watch {
            unless_gone(client, pin!(ready)).await.ok_or(PumpError::ClientGone)?
        } else {
            ready.await
        };
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(PumpError::Broken(End::Sink)),
            Err(_) => Err(PumpError::Elapsed(End::Sink)),
        }
    }

    /// Writes all pieces, waiting where the sink is full. `sent` counts bytes the sink took, also if this fails.
    pub(in super::super) async fn write_all<S: Transport>(
        &self,
        sink: &S,
        mut pieces: &mut [IoSlice<'_>],
        sent: &mut usize,
    ) -> Result<(), PumpError> {
        while let Some(rest) = write_now(sink, pieces, sent)? {
            pieces = rest;
            self.writable(sink).await?;
        }
        Ok(())
    }

    /// Moves the rest of a body. `buffer` may hold bytes that came with the head, and keeps those after the body's end.
    pub(in super::super) async fn body<S: Transport, D: Transport>(
        &self,
        source: &S,
        sink: &D,
        buffer: &mut Buffer,
        body: &mut Body<'_>,
    ) -> Result<(), PumpError> {
        let Body { flow, tee } = body;
        let mut batch = Batch::default();
        let mut turn = 0;
        loop {
            flow.step(buffer.filled(), &mut batch).map_err(PumpError::Malformed)?;
            if flow.content_bytes() > self.content_max {
                return Err(PumpError::TooLarge);
            }
            self.send(sink, &batch, buffer.filled()).await?;
            if let Some(tee) = tee {
                tee.push(&buffer.filled()[..batch.consumed]);
            }
            buffer.consume(batch.consumed);
            if flow.is_ended() {
                // The other direction may go on for hours.
                buffer.park();
                return Ok(());
            }
            self.spend(&mut turn, batch.consumed).await;
            if batch.more || (batch.consumed > 0 && !buffer.is_empty()) {
                continue;
            }
            let watched = tee.is_some_and(super::Tee::is_watching);
            let mut ended = false;
            if buffer.is_empty() && !watched && flow.movable() >= SPLICE_BYTES_MIN {
                buffer.park();
                let before = flow.content_bytes();
                ended = self.splice(source, sink, flow, &mut turn).await? == Spliced::SourceEnded;
                if flow.is_ended() {
                    return Ok(());
                }
                if !ended && flow.content_bytes() > before {
                    continue;
                }
            }
            if !ended {
                buffer.compact();
                ended = self.read(source, buffer).await? == 0;
            }
            if ended {
                flow.finish(&mut batch).map_err(PumpError::Malformed)?;
                self.send(sink, &batch, &[]).await?;
                if flow.is_ended() {
                    return Ok(());
                }
            }
        }
    }

    async fn send<D: Transport>(&self, sink: &D, batch: &Batch, input: &[u8]) -> Result<(), PumpError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut slices = [IoSlice::new(b""); PIECES_MAX];
        let count = batch.slices(input, &mut slices);
        self.write_all(sink, &mut slices[..count], &mut 0).await
    }

    /// Waits for bytes and reads them behind what the buffer holds; 0 at the end of the stream.
    pub(in super::super) async fn read<S: Transport>(
        &self,
        source: &S,
        buffer: &mut Buffer,
    ) -> Result<usize, PumpError> {
        if buffer.is_full() {
            // The decoder bounds its lines far below a buffer, so this can't be; but never read into nothing.
            return Err(PumpError::Malformed(FlowError::Truncated));
        }
        loop {
            self.ready(buffer).await?;
            match source.try_read(buffer.spare()) {
                Ok(n) => {
                    buffer.fill(n);
                    return Ok(n);
                }
                Err(error) if would_block(&error) => {
                    buffer.park();
                    self.wait_readable(source).await?;
                }
                Err(_) => return Err(PumpError::Broken(End::Source)),
            }
        }
    }

    /// Waits until there is room to read into.
    pub(in super::super) async fn ready(&self, buffer: &mut Buffer) -> Result<(), PumpError> {
        if buffer.try_ready() {
            return Ok(());
        }
        // Whatever was waited for before has had its own time.
        self.arm();
        self.deadline.bound(buffer.ready()).await.map_err(|_| PumpError::NoBuffer)
    }

    /// Moves bytes through a pipe for as long as the source has any at hand. Returns how many; its end is left to be
    /// read by the caller.
    pub(in super::super) async fn splice_while_ready<S: Transport, D: Transport>(
        &self,
        source: &S,
        sink: &D,
    ) -> Result<u64, PumpError> {
        let (Some(from), Some(to)) = (source.splice_fd(), sink.splice_fd()) else { return Ok(0) };
        let Ok(mut pipe) = self.pipes.take() else { return Ok(0) };
        let (mut bytes, mut turn) = (0, 0);
        loop {
            let filled = match pipe.fill_from(from, SPLICE_CALL_BYTES) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if would_block(&error) || error.kind() == ErrorKind::InvalidInput => break,
                Err(_) => return Err(PumpError::Broken(End::Source)),
            };
            bytes += filled as u64;
            self.drain(&mut pipe, sink, to).await?;
            self.spend(&mut turn, filled).await;
        }
        self.pipes.give(pipe);
        self.metrics.add(Counter::SplicedBytes, bytes);
        Ok(bytes)
    }

    /// Writes out all that a pipe holds.
    async fn drain<D: Transport>(
        &self,
        pipe: &mut Pipe,
        sink: &D,
        to: BorrowedFd<'_>,
    ) -> Result<(), PumpError> {
        while pipe.held() > 0 {
            match pipe.drain_to(to) {
                Ok(_) => {}
                Err(error) if would_block(&error) => self.writable(sink).await?,
                Err(_) => return Err(PumpError::Broken(End::Sink)),
            }
        }
        Ok(())
    }

    /// Moves what [`Flow::movable`] allows through a pipe. Does nothing where an end has no descriptor or no pipe can be
    /// had: the caller goes on by copying.
    async fn splice<S: Transport, D: Transport>(
        &self,
        source: &S,
        sink: &D,
        flow: &mut Flow,
        turn: &mut usize,
    ) -> Result<Spliced, PumpError> {
        let (Some(from), Some(to)) = (source.splice_fd(), sink.splice_fd()) else { return Ok(Spliced::Done) };
        loop {
            let movable = flow.movable();
            if movable == 0 {
                return Ok(Spliced::Done);
            }
            let Ok(mut pipe) = self.pipes.take() else { return Ok(Spliced::Done) };
            let most = usize::try_from(movable).unwrap_or(usize::MAX).min(SPLICE_CALL_BYTES);
            let filled = match pipe.fill_from(from, most) {
                Ok(0) => return Ok(Spliced::SourceEnded),
                Ok(n) => {
                    flow.moved(n as u64);
                    self.metrics.add(Counter::SplicedBytes, n as u64);
                    if flow.content_bytes() > self.content_max {
                        return Err(PumpError::TooLarge);
                    }
                    n
                }
                Err(error) if would_block(&error) => {
                    // A transfer that waits for a slow source holds no pipe: those are two descriptors.
                    self.pipes.give(pipe);
                    self.wait_readable(source).await?;
                    continue;
                }
                // A kind of descriptor that can't be spliced from: nothing was taken, so copying can take over.
                Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(Spliced::Done),
                Err(_) => return Err(PumpError::Broken(End::Source)),
            };
            self.drain(&mut pipe, sink, to).await?;
            self.pipes.give(pipe);
            self.spend(turn, filled).await;
        }
    }
}

impl<P: Platform> Downstream<P> {
    /// Sends bytes of our own.
    pub(in super::super) async fn write(&self, bytes: &[u8]) -> Result<(), ()> {
        let pump = Pump { watch: Watch::Nobody, ..Pump::new(self, Duration::from_millis(LINGER_TOTAL_MS)) };
        pump.write_all(&self.stream, &mut [IoSlice::new(bytes)], &mut 0).await.map_err(|_| ())
    }
}

/// Writes what the sink takes without waiting, and gives what is left to write once it can go on; `None` when all is out.
#[inline]
pub(in super::super) fn write_now<'s, 'i, S: Transport>(
    sink: &S,
    mut pieces: &'s mut [IoSlice<'i>],
    sent: &mut usize,
) -> Result<Option<&'s mut [IoSlice<'i>]>, PumpError> {
    while !pieces.is_empty() {
        // One piece: send(2), which is cheaper than sendmsg(2).
        let wrote = match &*pieces {
            [one] => sink.try_write(one),
            many => sink.try_write_vectored(many),
        };
        match wrote {
            Ok(n) => {
                *sent += n;
                IoSlice::advance_slices(&mut pieces, n);
            }
            Err(error) if would_block(&error) => return Ok(Some(pieces)),
            Err(_) => return Err(PumpError::Broken(End::Sink)),
        }
    }
    // What a TLS stream took is written only when its records are out.
    Ok(sink.has_unsent().then_some(pieces))
}

/// Reads once, without waiting: `None` if nothing is there after all.
pub(in super::super) fn read_ready<S: Transport>(
    source: &S,
    buffer: &mut Buffer,
) -> Result<Option<usize>, PumpError> {
    match source.try_read(buffer.spare()) {
        Ok(n) => {
            buffer.fill(n);
            Ok(Some(n))
        }
        Err(error) if would_block(&error) => Ok(None),
        Err(_) => Err(PumpError::Broken(End::Source)),
    }
}

/// The most that one splice call is asked for; the pipe bounds it anyway.
const SPLICE_CALL_BYTES: usize = 1 << 30;

#[derive(Debug, PartialEq, Eq)]
enum Spliced {
    /// All that may be moved was, or it can't be done here.
    Done,
    /// The source's stream ended.
    SourceEnded,
}

/// True for an error that says "not now".
pub(in super::super) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{Future, poll_fn};
    use std::io::{self, IoSlice};
    use std::net::SocketAddr;
    use std::os::fd::{BorrowedFd, OwnedFd};
    use std::pin::pin;
    use std::rc::Rc;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::{Metrics, Pump, TURN_BYTES, Watch};
    use crate::base::backlog::BacklogAccount;
    use crate::base::buffer::{Buffer, BufferPool, Purpose};
    use crate::base::clock::Monotonic;
    use crate::base::deadline::Deadlines;
    use crate::base::kept::KeptAccount;
    use crate::base::reason::ReasonCode;
    use crate::http::flow::Flow;
    use crate::http::framing::BodyLength;
    use crate::net::connect::Address;
    use crate::net::h2::client::ClientStream;
    use crate::net::h2::server::ServerStream;
    use crate::net::pipe::PipePool;
    use crate::net::platform::{AcceptError, ConnectError, Connected, Dial, Platform};
    use crate::net::proxied::OnBehalf;
    use crate::net::stream::{Peek, Transport};
    use crate::net::tls::server::TlsServer;

    /// A stream that is always ready: it reads without end and takes all that is written.
    #[derive(Default)]
    struct Ready {
        written: Cell<usize>,
    }

    impl From<Box<ServerStream>> for Ready {
        fn from(_: Box<ServerStream>) -> Self {
            unreachable!("no HTTP/2 here")
        }
    }

    impl From<Box<ClientStream>> for Ready {
        fn from(_: Box<ClientStream>) -> Self {
            unreachable!("no HTTP/2 here")
        }
    }

    impl Transport for Ready {
        fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
            Ok(into.len())
        }
        fn try_write(&self, from: &[u8]) -> io::Result<usize> {
            self.written.set(self.written.get() + from.len());
            Ok(from.len())
        }
        fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
            from.iter().map(|piece| self.try_write(piece)).sum()
        }
        async fn readable(&self) -> io::Result<()> {
            Ok(())
        }
        async fn writable(&self) -> io::Result<()> {
            Ok(())
        }
        fn peek(&self) -> Peek {
            Peek::Bytes
        }
        fn shutdown_write(&self) {}
        fn abort_on_close(&self) {}
        fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    struct World(Monotonic);

    impl Platform for World {
        type Stream = Ready;

        fn clock(&self) -> Monotonic {
            self.0
        }
        fn now_ns(&self) -> u64 {
            0
        }
        fn unix_time(&self) -> Duration {
            Duration::ZERO
        }
        fn random(&self) -> u64 {
            0
        }
        fn backlog(&self) -> &Rc<BacklogAccount> {
            unreachable!("only connections and whole workers have one")
        }
        async fn connect(
            &self,
            _: &Address,
            _: &Dial,
            _: &OnBehalf,
        ) -> Result<Connected<Ready>, ConnectError> {
            unreachable!("a pump opens no connection")
        }
        async fn accept_proxied(&self, _: &Ready) -> Result<Option<SocketAddr>, ReasonCode> {
            Ok(None)
        }
        async fn accept_tls(&self, stream: Ready, _: &TlsServer) -> Result<Ready, AcceptError<Ready>> {
            Ok(stream)
        }
        fn detach(&self, _: Ready) -> Option<OwnedFd> {
            None
        }
        fn attach(&self, _: OwnedFd) -> io::Result<Ready> {
            Ok(Ready::default())
        }
        fn spawn(&self, _: impl Future<Output = ()> + 'static) {}
        async fn yield_now(&self) {
            let mut asked = false;
            poll_fn(|_| if std::mem::replace(&mut asked, true) { Poll::Ready(()) } else { Poll::Pending })
                .await;
        }
    }

    /// Two ends that never make it wait do not keep the others of its worker waiting.
    #[test]
    fn a_body_that_is_always_ready_moves_in_turns() {
        const BYTES: usize = 4 * 1024 * 1024;
        let world = World(Monotonic::start());
        let (pipes, table, metrics) = (PipePool::default(), Deadlines::new(), Metrics::new());
        let deadline = table.deadline();
        let pump = Pump {
            platform: &world,
            pipes: &pipes,
            deadline: &deadline,
            moved_ms: None,
            idle: Duration::ZERO,
            content_max: u64::MAX,
            metrics: &metrics,
            watch: Watch::Nobody,
        };
        let (source, sink) = (Ready::default(), Ready::default());
        let pool = BufferPool::new(u64::MAX, &KeptAccount::new(u64::MAX));
        let mut buffer = Buffer::nothing(&pool.share(None), Purpose::Response);
        let length = BodyLength::Length(BYTES as u64);
        let mut body = Flow::new(length, length).into();
        let mut moving = pin!(pump.body(&source, &sink, &mut buffer, &mut body));
        let (mut turns, mut before) = (0, 0);
        while moving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            let moved = sink.written.get() - before;
            assert!(moved <= TURN_BYTES + 16 * 1024, "{moved} bytes in one turn");
            before = sink.written.get();
            turns += 1;
        }
        assert_eq!(sink.written.get(), BYTES);
        assert!(turns >= BYTES / TURN_BYTES - 1, "{turns}");
    }
}
