//! The client's end: a connection to an origin that carries many requests at once.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, Reason, SendStream};

use super::guard::Guard;
use super::half::{Inbound, Opening, Outbound, gather};
use super::ledger::{Ledger, Payload, REASON, Sheds};
use super::server::write_pieces;
use super::wire::{Shared, Wire, drive};
use super::{Settings, broken};
use crate::base::backlog::Backlog;
use crate::base::clock::Monotonic;
use crate::base::panics;
use crate::base::race::race;
use crate::base::reason::ReasonCode;
use crate::base::signal::Signal;
use crate::http::http2::absorb::{Absorber, Event};
use crate::http::http2::{Asked, Malformed, render};
use crate::http::message::{Method, Scheme};
use crate::net::driver::spawn;
use crate::net::transport::{Peek, Transport, Unsayable};

/// A connection to an origin. Its task ends when this and all its streams are gone.
pub struct Session {
    requests: RefCell<SendRequest<Payload>>,
    state: Rc<State>,
    ledger: Rc<Ledger>,
    scheme: Scheme,
    streams_max: u32,
}

/// What a connection's handle, its task and its streams share.
#[derive(Debug)]
struct State {
    pings: RefCell<Pings>,
    streams: Cell<u32>,
    /// The connection takes no more streams.
    over: Cell<bool>,
    /// Raised to end the connection with all its streams.
    dead: Signal,
}

/// Held by the connection's task: however that ends, by a panic too, the connection is over.
struct OverWhenDropped(Rc<State>);

impl Drop for OverWhenDropped {
    fn drop(&mut self) {
        self.0.over.set(true);
    }
}

/// Whether the origin is still there, asked by PING (RFC 9113 section 6.7) when nothing has come for a while although
/// streams are under way, and when an answer did not come in time.
struct Pings {
    h2: Option<PingPong>,
    /// Of the wire, as they were at the last look.
    reads: Rc<Cell<u64>>,
    seen: u64,
    /// Since when nothing has come.
    quiet_since_ms: u64,
    sent_ms: Option<u64>,
    /// An answer did not come in time, and nothing else has come since: until it does, no stream is opened.
    suspect: bool,
}

impl std::fmt::Debug for Pings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pings").field("suspect", &self.suspect).finish_non_exhaustive()
    }
}

impl Pings {
    /// Takes note of what has come. True if anything has.
    fn note(&mut self, now_ms: u64) -> bool {
        let reads = self.reads.get();
        let came = reads != self.seen;
        if came {
            self.seen = reads;
            self.quiet_since_ms = now_ms;
            self.sent_ms = None;
            self.suspect = false;
        }
        came
    }

    /// False if the connection is over: see [`Session::ask`].
    fn send(&mut self, now_ms: u64) -> bool {
        let Some(h2) = &mut self.h2 else { return true };
        let sent = panics::catch(|| {
            // An earlier answer makes room for the next question.
            let _ = h2.poll_pong(&mut Context::from_waker(Waker::noop()));
            h2.send_ping(Ping::opaque()).is_ok()
        });
        if matches!(sent, Ok(true)) {
            self.sent_ms = Some(now_ms);
        }
        sent.is_ok()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Session {
    /// Greets an origin, awaits its SETTINGS, and starts the task that moves its frames. Before the SETTINGS it is not
    /// known how many streams it takes, nor whether it takes a WebSocket: what is sent earlier is refused.
    pub async fn new<S: Transport>(
        stream: S,
        scheme: Scheme,
        settings: &Settings,
        clock: Monotonic,
        backlog: Rc<Backlog>,
    ) -> io::Result<Rc<Self>> {
        let shared = Shared::new(stream, Guard::of_server(clock), &[], backlog);
        let ledger = Rc::clone(&shared.ledger);
        let window = ledger.connection_window(settings.connection_window);
        let builder = {
            let mut builder = Builder::new();
            builder
                .enable_push(false)
                .initial_window_size(ledger.stream_window(settings.stream_window))
                .initial_connection_window_size(window)
                .max_header_list_size(settings.header_list_bytes)
                .max_send_buffer_size(ledger.send_bytes());
            builder
        };
        let handshake = builder.handshake(Wire::new(&shared));
        let mut handshake = Box::pin(handshake);
        let (requests, mut connection) =
            drive(&shared, |cx| handshake.as_mut().poll(cx)).await.map_err(broken)?;
        drive(&shared, |cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(broken(error))),
            Poll::Ready(Ok(())) => Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
            Poll::Pending if shared.guard.borrow().tripped().is_some() => {
                Poll::Ready(Err(ErrorKind::InvalidData.into()))
            }
            // What has come has been taken in.
            Poll::Pending if shared.guard.borrow().greeted() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        let pings = Pings {
            h2: connection.ping_pong(),
            reads: Rc::clone(&shared.reads),
            seen: 0,
            quiet_since_ms: 0,
            sent_ms: None,
            suspect: false,
        };
        let state = Rc::new(State {
            pings: RefCell::new(pings),
            streams: Cell::new(0),
            over: Cell::new(false),
            dead: Signal::default(),
        });
        let of_task = OverWhenDropped(Rc::clone(&state));
        spawn(async move {
            let dead = of_task.0.dead.raised();
            let mut target = window;
            let frames = drive(&shared, |cx| {
                let wanted = shared.ledger.window(window);
                if wanted != target {
                    target = wanted;
                    connection.set_target_window_size(wanted);
                }
                if shared.guard.borrow().tripped().is_some() {
                    return Poll::Ready(());
                }
                Pin::new(&mut connection).poll(cx).map(drop)
            });
            race(pin!(frames), pin!(dead)).await;
        });
        Ok(Rc::new(Self {
            requests: RefCell::new(requests),
            state,
            ledger,
            scheme,
            streams_max: settings.streams_max,
        }))
    }

    /// Opens a stream, if there is room for one. It is told to the origin when a request's head is written to it.
    pub fn open(&self) -> Option<ClientStream> {
        if !self.has_room() {
            return None;
        }
        let requests = self.ask(None, |requests| Some(requests.clone()))?;
        self.state.streams.set(self.state.streams.get() + 1);
        let ledger = &self.ledger;
        let inner = Rc::new_cyclic(|me: &Weak<RefCell<Inner>>| {
            let (ledger_of_request, me) = (Rc::clone(ledger), Weak::clone(me));
            RefCell::new(Inner {
                inbound: Inbound::awaiting(ledger),
                outbound: Outbound::opening(ledger, Absorber::request(self.scheme)),
                request: Request { requests, response: None, asked: None, ledger: ledger_of_request, me },
                refused: false,
                reset: false,
                malformed: None,
                aborted: false,
            })
        });
        Some(ClientStream { inner, state: Rc::clone(&self.state) })
    }

    /// A stream could be opened now: the connection lives, and neither bound is reached (RFC 9113 section 5.1.2).
    pub fn has_room(&self) -> bool {
        if self.is_over() || self.is_suspect() {
            return false;
        }
        let theirs = self.ask(0, |requests| requests.current_max_send_streams());
        (self.state.streams.get() as usize) < theirs.min(self.streams_max as usize)
    }

    /// The connection takes no more streams: it has ended, or the origin has said so (GOAWAY).
    pub fn is_over(&self) -> bool {
        if !self.state.over.get() {
            let cx = &mut Context::from_waker(Waker::noop());
            if self.ask(true, |requests| matches!(requests.poll_ready(cx), Poll::Ready(Err(_)))) {
                self.state.over.set(true);
            }
        }
        self.state.over.get()
    }

    /// Asks the h2 crate, whose state one task may have left locked by a panic: then it panics for everybody who asks,
    /// and the connection is over. Callers are the pool and the worker itself, which must not fail with it.
    fn ask<T>(&self, otherwise: T, what: impl FnOnce(&mut SendRequest<Payload>) -> T) -> T {
        panics::catch(|| what(&mut self.requests.borrow_mut())).unwrap_or_else(|_| {
            self.state.over.set(true);
            self.state.dead.raise();
            otherwise
        })
    }

    /// An answer did not come in time, and nothing has come since.
    pub fn is_suspect(&self) -> bool {
        let pings = self.state.pings.borrow();
        pings.suspect && pings.reads.get() == pings.seen
    }

    /// Looks whether the origin lives, now and then: sends a PING if it is suspect, or if streams are under way and nothing
    /// has come for `interval_ms` (zero: however long), and gives the connection up, with its streams, if nothing comes for
    /// `timeout_ms` after that. False if it was given up.
    pub fn look(&self, now_ms: u64, interval_ms: u64, timeout_ms: u64) -> bool {
        let pings = &mut *self.state.pings.borrow_mut();
        if !pings.note(now_ms) && self.streams() == 0 && !pings.suspect {
            pings.quiet_since_ms = now_ms;
            pings.sent_ms = None;
        }
        let due = interval_ms > 0 && now_ms.saturating_sub(pings.quiet_since_ms) >= interval_ms;
        let lives = match pings.sent_ms {
            Some(sent) => now_ms.saturating_sub(sent) < timeout_ms,
            None => !(due || pings.suspect) || pings.send(now_ms),
        };
        if !lives {
            self.state.over.set(true);
            self.state.dead.raise();
        }
        lives
    }

    /// Streams under way.
    pub fn streams(&self) -> u32 {
        self.state.streams.get()
    }
}

/// One request and its response, as a stream of bytes in HTTP/1.1 form.
pub struct ClientStream {
    inner: Rc<RefCell<Inner>>,
    state: Rc<State>,
}

struct Inner {
    inbound: Inbound,
    outbound: Outbound,
    request: Request,
    /// The origin has said that it did not act on the request.
    refused: bool,
    /// The origin has reset the stream.
    reset: bool,
    /// Why the response's head can't be read, told each time that it is asked: the head itself is gone.
    malformed: Option<ReasonCode>,
    aborted: bool,
}

/// Sends the head, then awaits the response's.
struct Request {
    requests: SendRequest<Payload>,
    response: Option<ResponseFuture>,
    asked: Option<Asked>,
    ledger: Rc<Ledger>,
    /// The stream whose request it is, for the ledger.
    me: Weak<RefCell<Inner>>,
}

impl Opening for Request {
    fn open(&mut self, event: Event<'_>) -> io::Result<Option<(SendStream<Payload>, bool)>> {
        let Event::Request { mut head, end, protocol, websocket_key } = event else {
            return Err(ErrorKind::InvalidData.into());
        };
        let method = Method::from_text(head.method().as_str().as_bytes());
        let method = if websocket_key.is_some() { Method::Get } else { method };
        if let Some(protocol) = protocol {
            if !self.requests.is_extended_connect_protocol_enabled() {
                return Err(ErrorKind::Unsupported.into());
            }
            head.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
        }
        let (response, stream) = self.requests.send_request(head, end).map_err(broken)?;
        let me: Weak<RefCell<Inner>> = Weak::clone(&self.me);
        self.ledger.enter(stream.stream_id().as_u32(), me, 0);
        self.response = Some(response);
        self.asked = Some(Asked { method, websocket_key });
        Ok(Some((stream, end)))
    }
}

impl std::fmt::Debug for ClientStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientStream")
    }
}

/// RFC 9113 section 8.7: a stream that was refused, or is above the last one that a GOAWAY names, was not acted on.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

impl Inner {
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.inbound.has_begun() && !self.inbound.has_bytes() {
            if let Some(reason) = self.malformed {
                return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, reason)));
            }
            let (Some(response), Some(asked)) = (&mut self.request.response, &self.request.asked) else {
                return Poll::Pending;
            };
            let refused = &mut self.malformed;
            let mut malformed = |m: Malformed| {
                *refused = Some(m.reason());
                io::Error::new(ErrorKind::InvalidData, m.reason())
            };
            if let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
                let (parts, ()) = interim.into_parts();
                render::response(&parts, asked, false, self.inbound.text()).map_err(&mut malformed)?;
                return Poll::Ready(Ok(()));
            }
            match Pin::new(response).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => {
                    self.refused |= is_unprocessed(&error);
                    self.reset |= error.is_remote() && error.is_reset();
                    return Poll::Ready(Err(broken(error)));
                }
                Poll::Ready(Ok(response)) => {
                    let (parts, body) = response.into_parts();
                    let framing = render::response(&parts, asked, body.is_end_stream(), self.inbound.text())
                        .map_err(&mut malformed)?;
                    self.inbound.begin(framing, body);
                    self.request.response = None;
                }
            }
        }
        self.inbound.poll_fetch(cx)
    }
}

impl Sheds for RefCell<Inner> {
    fn shed(&self) {
        let inner = &mut *self.borrow_mut();
        if let Some(stream) = inner.outbound.stream() {
            stream.send_reset(Reason::CANCEL);
        }
        inner.inbound.shed();
        inner.malformed = Some(REASON);
    }
}

impl Transport for ClientStream {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let inner = &mut *self.inner.borrow_mut();
        let cx = &mut Context::from_waker(Waker::noop());
        match gather(into, |into| inner.poll_fetch(cx).map_ok(|()| inner.inbound.read(into))) {
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
            Poll::Ready(read) => read,
        }
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        let inner = &mut *self.inner.borrow_mut();
        let wrote = inner.outbound.write(from, &mut inner.request);
        let failed = wrote.as_ref().is_err_and(|e| e.kind() != ErrorKind::WouldBlock);
        if failed && inner.request.asked.is_none() && inner.outbound.unsayable().is_none() {
            // Not even the head went out.
            inner.refused = true;
        }
        wrote
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        write_pieces(from, |piece| self.try_write(piece))
    }

    async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.inner.borrow_mut().poll_fetch(cx).map(drop)).await;
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.inner.borrow_mut().outbound.poll_room(cx)).await
    }

    fn peek(&self) -> Peek {
        let inner = &mut *self.inner.borrow_mut();
        match inner.poll_fetch(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(_)) => Peek::Closed,
            Poll::Ready(Ok(())) if inner.inbound.is_ended() => Peek::Closed,
            Poll::Ready(Ok(())) => Peek::Bytes,
            Poll::Pending => Peek::Quiet,
        }
    }

    fn shutdown_write(&self) {
        self.inner.borrow_mut().outbound.finish();
    }

    fn abort_on_close(&self) {
        self.inner.borrow_mut().aborted = true;
    }

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn was_unprocessed(&self) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        // A write may have been the first to fail; why, the response's side knows.
        if !inner.refused && !inner.inbound.has_begun() {
            let _ = inner.poll_fetch(&mut Context::from_waker(Waker::noop()));
        }
        inner.refused
    }

    fn was_given_up(&self) -> bool {
        self.inner.borrow().reset
    }

    fn retire_connection(&self) {
        self.state.over.set(true);
    }

    fn suspect_connection(&self, now_ms: u64) {
        let pings = &mut *self.state.pings.borrow_mut();
        pings.note(now_ms);
        pings.suspect = true;
        if pings.sent_ms.is_none() && !pings.send(now_ms) {
            self.state.over.set(true);
            self.state.dead.raise();
        }
    }

    fn unsayable(&self) -> Option<Unsayable> {
        self.inner.borrow().outbound.unsayable()
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let inner = &mut *self.inner.borrow_mut();
        if let Some(stream) = inner.outbound.stream() {
            inner.request.ledger.leave(stream.stream_id().as_u32());
        }
        let whole = inner.outbound.is_ended() && inner.inbound.is_ended() && !inner.aborted;
        // While unwinding, dropping the stream resets it as well; the call would panic if the h2 crate's state is locked.
        if let Some(stream) = inner.outbound.stream().filter(|_| !whole && !std::thread::panicking()) {
            stream.send_reset(Reason::CANCEL);
        }
        self.state.streams.set(self.state.streams.get() - 1);
    }
}
