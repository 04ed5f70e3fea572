//! The server's end: a client's connection and its streams.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};

use super::guard::Guard;
use super::half::{Inbound, Opening, Outbound, gather};
use super::ledger::{Ledger, Payload, REASON, Sheds};
use super::wire::{Shared, Wire, drive};
use super::{Settings, broken};
use crate::base::backlog::Backlog;
use crate::base::clock::Monotonic;
use crate::base::reason::ReasonCode;
use crate::http::http2::absorb::{Absorber, Event};
use crate::http::http2::{Asked, render, websocket_key};
use crate::http::message::Method;
use crate::net::agreed::Agreed;
use crate::net::transport::{Peek, Transport, Unsayable};

/// A client's connection.
pub struct ServerConnection<S: Transport> {
    h2: Connection<Wire<S>, Payload>,
    shared: Rc<Shared<S>>,
    /// Of the TLS that carries it.
    agreed: Option<Rc<Agreed>>,
    local: Option<SocketAddr>,
    calmed: bool,
    /// Of the whole connection, if nothing of it is unread.
    window: u32,
    /// As it was asked for last.
    target: u32,
}

impl<S: Transport> std::fmt::Debug for ServerConnection<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConnection").field("calmed", &self.calmed).finish_non_exhaustive()
    }
}

/// Streams of one connection that the client may make us reset by breaking the rules (VU#767506, "made you reset"). Each
/// can cost an upstream request that is cancelled, and origins count those: they close connections that honest clients
/// share. An honest client makes one such mistake at most.
const LOCAL_RESETS_MAX: usize = 64;

/// What a client's connection brings next.
#[derive(Debug)]
pub enum Incoming {
    /// A request.
    Stream(Box<ServerStream>),
    /// A request that can't be forwarded, with its reason code. It has been answered, if it was not over already.
    Refused(ReasonCode),
    /// The connection is over, with a reason code if that is somebody's fault.
    Over(Option<ReasonCode>),
}

impl<S: Transport> ServerConnection<S> {
    /// Greets a client. `early` was read from the stream already; what the connection holds is on `backlog`. `None`: it did
    /// not speak HTTP/2, or went away.
    pub async fn new(
        stream: S,
        early: &[u8],
        settings: &Settings,
        clock: Monotonic,
        backlog: Rc<Backlog>,
    ) -> Option<Self> {
        let agreed = stream.tls().cloned().map(Rc::new);
        let local = stream.local_address();
        let shared = Shared::new(stream, Guard::of_client(clock), early, backlog);
        let window = shared.ledger.connection_window(settings.connection_window);
        let mut handshake = Builder::new()
            .max_concurrent_streams(settings.streams_max)
            // A client that leaves may cancel all that it has just opened; beyond that the guard counts.
            .max_pending_accept_reset_streams(settings.streams_max as usize)
            .max_local_error_reset_streams(Some(LOCAL_RESETS_MAX))
            .initial_window_size(shared.ledger.stream_window(settings.stream_window))
            .initial_connection_window_size(window)
            .max_header_list_size(settings.header_list_bytes)
            .max_send_buffer_size(shared.ledger.send_bytes())
            .enable_connect_protocol()
            .handshake(Wire::new(&shared));
        let greeted = drive(&shared, |cx| std::pin::Pin::new(&mut handshake).poll(cx)).await;
        let mut h2 = greeted.ok()?;
        // The preface ends with SETTINGS (RFC 9113 section 3.4). Streams that come with them wait.
        let whole = drive(&shared, |cx| {
            let over = h2.poll_closed(cx).is_ready();
            let guard = shared.guard.borrow();
            let whole = guard.greeted() && guard.tripped().is_none();
            if over || guard.greeted() { Poll::Ready(whole) } else { Poll::Pending }
        });
        whole.await.then_some(Self { h2, shared, agreed, local, calmed: false, window, target: window })
    }

    /// Awaits the next request, moving everything that is under way meanwhile. May be dropped at any time.
    pub async fn next(&mut self, key: impl Fn() -> [u8; 16]) -> Incoming {
        let (h2, shared, calmed) = (&mut self.h2, &self.shared, &mut self.calmed);
        let (window, target) = (self.window, &mut self.target);
        let carrier = (self.agreed.as_ref(), self.local);
        let ledger = &shared.ledger;
        drive(shared, |cx| {
            let wanted = shared.ledger.window(window);
            if wanted != *target {
                *target = wanted;
                h2.set_target_window_size(wanted);
            }
            if shared.ledger.take_shed() {
                return Poll::Ready(Incoming::Refused(REASON));
            }
            if !shared.may_accept() {
                return Poll::Pending;
            }
            let next = h2.poll_accept(cx);
            if !*calmed && shared.guard.borrow().tripped().is_some() {
                *calmed = true;
                h2.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                // Nothing is read any more; what says so is written if the peer takes it, and then it is over.
                let _ = h2.poll_closed(cx);
                return Poll::Ready(Incoming::Over(shared.guard.borrow().tripped()));
            }
            match next {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok((request, mut respond)))) => {
                    shared.accepted();
                    Poll::Ready(if respond.poll_reset(cx).is_ready() {
                        // Over before it began: nobody else shall hear of it, least of all an origin that counts resets.
                        Incoming::Refused(ReasonCode::H2ResetEarly)
                    } else {
                        ServerStream::accept(request, respond, ledger, carrier, key())
                    })
                }
                Poll::Ready(None) => Poll::Ready(Incoming::Over(None)),
                Poll::Ready(Some(Err(error))) => Poll::Ready(Incoming::Over(reason(&error))),
            }
        })
        .await
    }

    /// No more streams after those that are on their way: says so (GOAWAY twice, RFC 9113 section 6.8). The connection
    /// ends with its last stream.
    pub fn finish(&mut self) {
        self.h2.graceful_shutdown();
    }

    /// Streams that are not over.
    pub fn has_streams(&self) -> bool {
        self.h2.has_streams()
    }

    /// The next close resets the connection.
    pub fn abort_on_close(&self) {
        self.shared.stream.abort_on_close();
    }
}

/// The reason code of a connection's end, if it was not an ordinary one.
fn reason(error: &h2::Error) -> Option<ReasonCode> {
    let theirs = !error.is_io() && !error.is_remote();
    theirs.then(|| match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => ReasonCode::H2EnhanceYourCalm,
        Some(Reason::FLOW_CONTROL_ERROR) => ReasonCode::H2FlowControl,
        Some(Reason::COMPRESSION_ERROR) => ReasonCode::H2Compression,
        Some(Reason::FRAME_SIZE_ERROR) => ReasonCode::H2FrameSize,
        _ => ReasonCode::H2Protocol,
    })
}

/// One request and its response, as a stream of bytes in HTTP/1.1 form.
pub struct ServerStream {
    inner: Rc<RefCell<Inner>>,
    /// What is held for it.
    ledger: Rc<Ledger>,
    number: u32,
    agreed: Option<Rc<Agreed>>,
    local: Option<SocketAddr>,
}

struct Inner {
    inbound: Inbound,
    outbound: Outbound,
    respond: Respond,
    aborted: bool,
    /// The rest of the request was not fit to be read (RFC 9113 section 8.1.1).
    malformed: bool,
}

/// Sends heads.
struct Respond(SendResponse<Payload>);

impl Opening for Respond {
    fn open(&mut self, event: Event<'_>) -> io::Result<Option<(SendStream<Payload>, bool)>> {
        match event {
            Event::Interim(head) => {
                self.0.send_informational(head).map_err(broken)?;
                Ok(None)
            }
            Event::Response { head, end } => {
                Ok(Some((self.0.send_response(head, end).map_err(broken)?, end)))
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

impl std::fmt::Debug for ServerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerStream")
    }
}

impl ServerStream {
    fn accept(
        request: http::Request<RecvStream>,
        mut respond: SendResponse<Payload>,
        ledger: &Rc<Ledger>,
        (agreed, local): (Option<&Rc<Agreed>>, Option<SocketAddr>),
        key: [u8; 16],
    ) -> Incoming {
        let (parts, mut body) = request.into_parts();
        let mut text = Vec::with_capacity(512);
        let protocol = parts.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str);
        match render::request(&parts, protocol, body.is_end_stream(), key, &mut text) {
            Ok(framing) => {
                let asked = match protocol {
                    Some(_) => Asked { method: Method::Get, websocket_key: Some(websocket_key(key)) },
                    None => Asked {
                        method: Method::from_text(parts.method.as_str().as_bytes()),
                        websocket_key: None,
                    },
                };
                let (number, unread) = (body.stream_id().as_u32(), body.flow_control().used_capacity());
                let inner = Inner {
                    inbound: Inbound::message(ledger, text, framing, body),
                    outbound: Outbound::new(ledger, Absorber::response(asked)),
                    respond: Respond(respond),
                    aborted: false,
                    malformed: false,
                };
                let inner = Rc::new(RefCell::new(inner));
                let weak: Weak<RefCell<Inner>> = Rc::downgrade(&inner);
                ledger.enter(number, weak, unread);
                Incoming::Stream(Box::new(Self {
                    inner,
                    ledger: Rc::clone(ledger),
                    number,
                    agreed: agreed.map(Rc::clone),
                    local,
                }))
            }
            Err(malformed) => {
                let mut head = http::Response::new(());
                *head.status_mut() =
                    http::StatusCode::from_u16(malformed.status()).unwrap_or(http::StatusCode::BAD_REQUEST);
                // If it can't be told, the stream is reset when its handles go.
                let _ = respond.send_response(head, true);
                Incoming::Refused(malformed.reason())
            }
        }
    }
}

impl Inner {
    /// The peer has given the stream up, or the connection is gone.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.outbound.stream() {
            Some(stream) => stream.poll_reset(cx).map(drop),
            None => self.respond.0.poll_reset(cx).map(drop),
        }
    }

    fn reset(&mut self, reason: Reason) {
        match self.outbound.stream() {
            Some(stream) => stream.send_reset(reason),
            None => self.respond.0.send_reset(reason),
        }
    }
}

impl Sheds for RefCell<Inner> {
    fn shed(&self) {
        let inner = &mut *self.borrow_mut();
        inner.reset(Reason::ENHANCE_YOUR_CALM);
        inner.inbound.shed();
    }
}

impl Transport for ServerStream {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let inner = &mut *self.inner.borrow_mut();
        let cx = &mut Context::from_waker(Waker::noop());
        let inbound = &mut inner.inbound;
        match gather(into, |into| inbound.poll_fetch(cx).map_ok(|()| inbound.read(into))) {
            Poll::Ready(Err(error)) => {
                inner.malformed |= error.kind() == ErrorKind::InvalidData;
                Err(error)
            }
            Poll::Ready(Ok(0)) => {
                // Whoever has sent a whole request and waits has not closed anything.
                let over = inner.inbound.is_tunnel() || inner.poll_reset(cx).is_ready();
                if over { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) }
            }
            Poll::Ready(Ok(n)) => Ok(n),
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        let inner = &mut *self.inner.borrow_mut();
        inner.outbound.write(from, &mut inner.respond)
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        write_pieces(from, |piece| self.try_write(piece))
    }

    async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            let inner = &mut *self.inner.borrow_mut();
            if inner.inbound.poll_fetch(cx).is_pending() {
                return Poll::Pending;
            }
            if inner.inbound.is_ended() && !inner.inbound.is_tunnel() {
                return inner.poll_reset(cx);
            }
            Poll::Ready(())
        })
        .await;
        Ok(())
    }

    async fn writable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.inner.borrow_mut().outbound.poll_room(cx)).await
    }

    fn peek(&self) -> Peek {
        let inner = &mut *self.inner.borrow_mut();
        let cx = &mut Context::from_waker(Waker::noop());
        if inner.poll_reset(cx).is_ready() {
            Peek::Closed
        } else if inner.inbound.has_bytes() {
            Peek::Bytes
        } else {
            Peek::Quiet
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

    fn unsayable(&self) -> Option<Unsayable> {
        self.inner.borrow().outbound.unsayable()
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }

    fn tls(&self) -> Option<&Agreed> {
        self.agreed.as_deref()
    }
}

impl Drop for ServerStream {
    fn drop(&mut self) {
        self.ledger.leave(self.number);
        let inner = &mut *self.inner.borrow_mut();
        if inner.outbound.is_ended() && !inner.aborted {
            // If the request is not over the h2 crate says NO_ERROR: the client need not send the rest.
            return;
        }
        if std::thread::panicking() {
            // Dropping the stream resets it as well; these calls would panic if the h2 crate's state is locked.
            return;
        }
        let reason = if inner.malformed { Reason::PROTOCOL_ERROR } else { Reason::INTERNAL_ERROR };
        inner.reset(reason);
    }
}

/// Offers pieces one after another, as far as they are taken whole.
pub(super) fn write_pieces(
    pieces: &[IoSlice<'_>],
    mut write: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut total = 0;
    for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
        match write(piece) {
            Ok(n) => {
                total += n;
                if n < piece.len() {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && total > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}
