//! HTTP/2: connections that many slots share, each slot being one stream at a time.
//!
//! A connection has a task of its own, which makes it when a stream wants one, and drives it; see [`crate::http2`].
//! A connection that ends, or is used up, is made anew by the next stream that wants one.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    hash::Hasher,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Poll, Waker},
};

use bytes::Bytes;
use h2::{
    Reason,
    client::{Builder, ResponseFuture, SendRequest},
};

use super::{
    Digest,
    outcome::{Call, Complete},
    stats::ErrorKind,
    target::{Encoded, Http2Request},
    worker::{Slot, Worker},
};
use crate::{
    grpc,
    http2::{self, CONNECTION_WINDOW_BYTES, Driver, STREAM_WINDOW_BYTES},
    net::{self, Socket},
    stream::{Broken, Stream},
    tls,
};

/// A request that is refused more often is an error.
const REFUSALS_MAX: u32 = 8;

pub(super) struct Connection {
    lane: usize,
    state: RefCell<State>,
    /// Streams that wait for the attempt under way.
    waiting: RefCell<Vec<Waker>>,
    /// Counts attempts to connect, so that a stream knows the one that it has waited for.
    attempts: Cell<u64>,
    /// The last attempt that failed, and how.
    failed: Cell<(u64, ErrorKind)>,
}

enum State {
    Closed,
    Connecting(Rc<Socket>),
    Open(Open),
}

struct Open {
    attempt: u64,
    sender: SendRequest<Bytes>,
    /// Requests sent.
    served: u64,
}

/// Serves one slot: takes a request, sends it as a stream, reads and checks the response, again.
pub(super) async fn drive(worker: Rc<Worker>, slot: Rc<Slot>, connection: Rc<Connection>) {
    while let Some(due_ns) = worker.next_request(&slot).await {
        let target = worker.next_target(slot.lane);
        let sent_ns = slot.now_ns.get();
        slot.deadline_ns.set(sent_ns + worker.timeout_ns);
        let outcome = slot.unless_over(exchange(&worker, &connection, target, due_ns)).await;
        slot.deadline_ns.set(0);
        if slot.timed_out.take() && outcome.is_none() {
            connection.give_up();
        }
        let outcome = outcome.unwrap_or(Err(ErrorKind::Timeout));
        let result = worker.settle(&slot, target, due_ns, sent_ns, outcome);
        if matches!(result, Err(ErrorKind::Connect | ErrorKind::Tls)) {
            worker.back_off().await;
            slot.now_ns.set(worker.now_ns());
        }
    }
    slot.waker.take();
    worker.leave();
}

/// One request and its response. Dropped before its end, it resets the stream.
async fn exchange(
    worker: &Rc<Worker>,
    connection: &Rc<Connection>,
    target: &Encoded,
    due_ns: u64,
) -> Result<Complete, ErrorKind> {
    let Some(request) = &target.http2 else { return Err(ErrorKind::Malformed) };
    let mut refusals = 0;
    let (head, mut body) = loop {
        match connection.begin(worker, request, due_ns).await?.await {
            Ok(response) => break response.into_parts(),
            // Servers that have answered as many requests as they like say GOAWAY while more are on their way.
            Err(error) if is_unprocessed(&error) && refusals < REFUSALS_MAX => {
                refusals += 1;
                worker.record(due_ns, |interval| interval.counts.refused += 1);
            }
            Err(error) => return Err(connection.broken(&error, ErrorKind::Reset)),
        }
    };
    let mut hasher = twox_hash::XxHash3_64::new();
    let mut messages = grpc::Messages::default();
    let mut body_bytes = 0;
    let digests = worker.plan.config.check.digest != Digest::Unchecked;
    let is_call = worker.plan.config.grpc.is_some();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|e| connection.broken(&e, ErrorKind::WrongLength))?;
        body_bytes += piece.len() as u64;
        if digests {
            hasher.write(&piece);
        }
        if is_call {
            messages.feed(&piece);
        }
        // It fails for streams that are over, which need no window.
        let _ = body.flow_control().release_capacity(piece.len());
    }
    let call = if is_call {
        let trailers = body.trailers().await.map_err(|e| connection.broken(&e, ErrorKind::WrongLength))?;
        // Without a body the status may stand in the head ("Trailers-Only").
        let status = trailers.as_ref().unwrap_or(&head.headers).get("grpc-status");
        Some(Call {
            status: status.and_then(|value| value.to_str().ok()?.parse().ok()),
            messages: messages.complete,
            is_between_messages: messages.is_between_messages(),
        })
    } else {
        None
    };
    let digest = if digests { hasher.finish() } else { 0 };
    Ok(Complete { status: head.status.as_u16(), body_bytes, digest, grpc: call })
}

/// The server has said that it did nothing about the request, so that it may be sent again (RFC 9113, section 8.7).
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    let too_late = error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    error.is_remote() && (refused || too_late)
}

impl Connection {
    pub(super) fn new(lane: usize) -> Self {
        Self {
            lane,
            state: RefCell::new(State::Closed),
            waiting: RefCell::default(),
            attempts: Cell::new(0),
            failed: Cell::new((0, ErrorKind::Connect)),
        }
    }

    /// Sends `request`, over a new connection if need be.
    async fn begin(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        request: &Http2Request,
        due_ns: u64,
    ) -> Result<ResponseFuture, ErrorKind> {
        let requests_max = worker.plan.config.requests_per_connection;
        self.opened(worker, due_ns).await?;
        let mut sent = self.send(request, requests_max);
        if sent.is_none() {
            // A connection that the server has closed meanwhile is no error: nothing was sent.
            self.opened(worker, due_ns).await?;
            sent = self.send(request, requests_max);
        }
        sent.ok_or(ErrorKind::Malformed)
    }

    /// Completes when there is a connection to send on, making one if there is none.
    async fn opened(self: &Rc<Self>, worker: &Rc<Worker>, due_ns: u64) -> Result<(), ErrorKind> {
        if matches!(&*self.state.borrow(), State::Closed) {
            self.connect(worker, due_ns)?;
        }
        let attempt = self.attempts.get();
        poll_fn(|cx| {
            let (failed, kind) = self.failed.get();
            match &*self.state.borrow() {
                State::Open(_) => Poll::Ready(Ok(())),
                _ if failed >= attempt => Poll::Ready(Err(kind)),
                State::Closed => Poll::Ready(Err(ErrorKind::Reset)),
                State::Connecting(_) => {
                    self.waiting.borrow_mut().push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn connect(self: &Rc<Self>, worker: &Rc<Worker>, due_ns: u64) -> Result<(), ErrorKind> {
        let address = &worker.plan.lanes[self.lane].address;
        let socket = net::connect(address).and_then(Socket::adopt).map_err(|_| ErrorKind::Connect)?;
        let socket = Rc::new(socket);
        worker.record(due_ns, |interval| interval.counts.connections += 1);
        self.attempts.set(self.attempts.get() + 1);
        *self.state.borrow_mut() = State::Connecting(socket.clone());
        monoio::spawn(run(worker.clone(), self.clone(), socket, due_ns));
        Ok(())
    }

    /// None: it was over before anything was sent.
    fn send(&self, request: &Http2Request, requests_max: Option<u64>) -> Option<ResponseFuture> {
        let state = &mut *self.state.borrow_mut();
        let State::Open(open) = state else { return None };
        let head = request.head.clone();
        let ends = request.body.is_none();
        // A sender whose last stream waits for the server's limit of streams takes no further; a fresh one does.
        let sent = match open.sender.send_request(head, ends) {
            Err(_) => open.sender.clone().send_request(request.head.clone(), ends),
            sent => sent,
        };
        let Ok((response, mut stream)) = sent else {
            *state = State::Closed;
            return None;
        };
        if let Some(body) = &request.body {
            // It waits within h2 for the windows, without being copied. What goes wrong shows in the response.
            let _ = stream.send_data(body.clone(), true);
        }
        open.served += 1;
        if requests_max == Some(open.served) {
            // Without a sender h2 ends the connection after its last stream.
            *state = State::Closed;
        }
        Some(response)
    }

    /// A stream's deadline is over: an attempt to connect that has not come to its end must not keep the next
    /// one from being made.
    fn give_up(&self) {
        if let State::Connecting(socket) = &*self.state.borrow() {
            socket.shutdown();
        }
    }

    /// `Err` with `otherwise` but for what tells more.
    fn broken(&self, error: &h2::Error, otherwise: ErrorKind) -> ErrorKind {
        match self.failed.get() {
            // TLS broke after its handshake: a certificate was refused.
            (attempt, ErrorKind::Tls) if attempt == self.attempts.get() && error.is_io() => ErrorKind::Tls,
            _ if error.is_library() && otherwise == ErrorKind::Reset => ErrorKind::Malformed,
            _ => otherwise,
        }
    }

    fn wake_waiting(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

type Established = (Driver, h2::client::Connection<http2::Link, Bytes>, SendRequest<Bytes>);

/// A connection's life.
async fn run(worker: Rc<Worker>, shared: Rc<Connection>, socket: Rc<Socket>, due_ns: u64) {
    let attempt = shared.attempts.get();
    let (driver, mut connection, sender) = match establish(&worker, &shared, socket, due_ns).await {
        Ok(established) => established,
        Err(kind) => {
            shared.failed.set((attempt, kind));
            *shared.state.borrow_mut() = State::Closed;
            shared.wake_waiting();
            return;
        }
    };
    *shared.state.borrow_mut() = State::Open(Open { attempt, sender, served: 0 });
    shared.wake_waiting();
    // Each stream learns by itself how the connection ended.
    let _ = driver.drive(|cx| Pin::new(&mut connection).poll(cx)).await;
    if let Some(cause @ Broken::Tls(_)) = driver.take_failure() {
        worker.note_tls_error(cause.to_string());
        shared.failed.set((attempt, ErrorKind::Tls));
    }
    let state = &mut *shared.state.borrow_mut();
    if matches!(state, State::Open(open) if open.attempt == attempt) {
        *state = State::Closed;
    }
}

async fn establish(
    worker: &Rc<Worker>,
    shared: &Connection,
    socket: Rc<Socket>,
    due_ns: u64,
) -> Result<Established, ErrorKind> {
    socket.connected().await.map_err(|_| ErrorKind::Connect)?;
    let lane = &worker.plan.lanes[shared.lane];
    let mut inbox = Vec::new();
    let stream = match (&worker.tls, &lane.server_name) {
        (Some(config), Some(name)) => {
            let failed = |cause| worker.handshake_failed(&cause);
            let session = tls::Session::client(config, name.clone()).map_err(|e| failed(e.into()))?;
            let mut stream = Stream::new(socket, Some(session));
            // A server may speak first here: its SETTINGS can come with its part of the handshake.
            let shaken = stream.shake_hands(&worker.buffers, |bytes| inbox.extend_from_slice(bytes)).await;
            shaken.map_err(failed)?;
            if let Some(session) = stream.session() {
                worker.record_handshake(due_ns, session);
                if session.alpn() != Some(b"h2") {
                    worker.note_tls_error("the server does not offer h2 (ALPN)".to_owned());
                    return Err(ErrorKind::Tls);
                }
            }
            stream
        }
        _ => Stream::new(socket, None),
    };
    let (link, driver) = http2::link(stream, inbox, worker.buffers.clone());
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .enable_push(false);
    let mut shaking = pin!(builder.handshake::<_, Bytes>(link));
    match driver.drive(|cx| shaking.as_mut().poll(cx)).await {
        Ok((sender, connection)) => Ok((driver, connection, sender)),
        Err(_) => Err(match driver.take_failure() {
            Some(Broken::Io(cause)) if cause.kind() == io::ErrorKind::ConnectionRefused => ErrorKind::Connect,
            _ => ErrorKind::Reset,
        }),
    }
}
