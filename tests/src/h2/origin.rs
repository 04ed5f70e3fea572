//! The programmable origin over plain HTTP/2 with prior knowledge: behaviour by a closure, one thread a request, and a
//! log of what arrived. Of a connection it can do what only a server can: say GOAWAY, in both ways, or just vanish.

use super::client::{Then, send};
use super::{Failure, PEERS, block, fields};
use crate::config::Config;
use crate::payload::Payload;
use crate::wait::PATIENCE;
use ::h2::server::{Builder, SendResponse};
use ::h2::{Reason, RecvStream, SendStream};
use ::http::{HeaderMap, Response, StatusCode, request};
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// How much of a request's body the log keeps; more is counted and checked only.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// How a behaviour ended. A failure is kept in the log; the stream is reset as the h2 crate does for a dropped one.
pub type Outcome = Result<(), Failure>;

/// A request as it arrived here.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which connection it came on, counted from 0 in the order of acceptance.
    pub connection: usize,
    pub method: String,
    pub authority: Option<String>,
    pub scheme: Option<String>,
    /// Path and query.
    pub target: String,
    /// `:protocol` of an extended CONNECT.
    pub protocol: Option<String>,
    pub fields: HeaderMap,
    /// The body's first bytes, once the behaviour has read it.
    pub body: Vec<u8>,
    pub body_bytes: u64,
    pub trailers: Option<HeaderMap>,
    /// The request has been read to its end.
    pub whole: bool,
    /// What failed in this exchange, if anything.
    pub failure: Option<Failure>,
}

impl Record {
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        super::value(&self.fields, name)
    }
}

/// What an origin announces, where it is not what the h2 crate announces by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    pub streams_max: Option<u32>,
    pub stream_window: Option<u32>,
    pub connection_window: Option<u32>,
    /// `SETTINGS_ENABLE_CONNECT_PROTOCOL` (RFC 8441 section 3).
    pub extended_connect: bool,
}

/// What can be done to a connection.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// GOAWAY with `NO_ERROR`: streams that are here are served.
    Leave,
    /// GOAWAY with this reason: streams that are here are not.
    Abort(Reason),
    /// The connection ends without a word.
    Cut,
}

type Behaviour = dyn Fn(&mut Exchange) -> Outcome + Send + Sync;

#[derive(Default)]
struct State {
    requests: Vec<Record>,
    accepted: usize,
    ended: usize,
    open: HashMap<usize, UnboundedSender<Order>>,
    /// Streams being served, by connection.
    active: HashMap<usize, usize>,
    /// The most streams that one connection carried at once.
    active_max: usize,
    panicked: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    settings: Settings,
    behaviour: Box<Behaviour>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, apply: impl FnOnce(&mut State) -> T) -> T {
        let result = apply(&mut self.lock());
        self.changed.notify_all();
        result
    }
}

/// A listening origin; its connections end when it is dropped.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Origin {
    /// An origin that behaves as [`scripted`].
    pub fn start() -> Origin {
        Origin::with(scripted)
    }

    /// An origin that does this with every request.
    pub fn with(behaviour: impl Fn(&mut Exchange) -> Outcome + Send + Sync + 'static) -> Origin {
        Origin::announcing(Settings::default(), behaviour)
    }

    /// The same with these SETTINGS.
    pub fn announcing(
        settings: Settings,
        behaviour: impl Fn(&mut Exchange) -> Outcome + Send + Sync + 'static,
    ) -> Origin {
        let listener = block(async { TcpListener::bind("127.0.0.1:0").await.map_err(broken) });
        let listener = listener.expect("a port for an origin");
        let address = listener.local_addr().expect("the port of a bound listener");
        let behaviour = Box::new(behaviour);
        let shared =
            Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), settings, behaviour });
        let accepting = Arc::clone(&shared);
        let acceptor = PEERS.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (orders, taken) = unbounded_channel();
                let connection = accepting.change(|state| {
                    state.accepted += 1;
                    state.open.insert(state.accepted - 1, orders);
                    state.accepted - 1
                });
                let serving = Arc::clone(&accepting);
                tokio::spawn(async move {
                    serve(&serving, connection, stream, taken).await;
                    serving.change(|state| {
                        state.open.remove(&connection);
                        state.ended += 1;
                    });
                });
            }
        });
        Origin { address, shared, acceptor }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything to this origin, by HTTP/2.
    pub fn config(&self) -> Config {
        Config::to_addresses(&[self.address.into()]).upstream("protocol: http2")
    }

    pub fn requests(&self) -> Vec<Record> {
        self.shared.lock().requests.clone()
    }

    /// The one request so far.
    #[track_caller]
    pub fn only(&self) -> Record {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{:?}", requests.iter().map(|r| &r.target).collect::<Vec<_>>());
        requests.into_iter().next().expect("one request")
    }

    pub fn request_count(&self) -> usize {
        self.shared.lock().requests.len()
    }

    /// How many connections were ever accepted.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// How many of them have ended.
    pub fn ended(&self) -> usize {
        self.shared.lock().ended
    }

    /// The most streams that one connection carried at once.
    pub fn active_max(&self) -> usize {
        self.shared.lock().active_max
    }

    /// Waits until at least `count` requests have arrived.
    #[track_caller]
    pub fn await_requests(&self, count: usize) -> Vec<Record> {
        self.await_state(&format!("{count} requests"), |state| {
            (state.requests.len() >= count).then(|| state.requests.clone())
        })
    }

    /// Waits until at least `count` connections have ended.
    #[track_caller]
    pub fn await_ended(&self, count: usize) {
        self.await_state(&format!("{count} ended connections"), |state| (state.ended >= count).then_some(()));
    }

    /// Waits until request number `index` has been read to its end, or has failed.
    #[track_caller]
    pub fn await_finished(&self, index: usize) -> Record {
        self.await_state(&format!("the end of request {index}"), |state| {
            state.requests.get(index).filter(|r| r.whole || r.failure.is_some()).cloned()
        })
    }

    /// Waits until request number `index` has failed.
    #[track_caller]
    pub fn await_failed(&self, index: usize) -> Failure {
        self.await_state(&format!("failure of request {index}"), |state| {
            state.requests.get(index)?.failure.clone()
        })
    }

    #[track_caller]
    fn await_state<T>(&self, what: &str, look: impl Fn(&State) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = look(&state) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the origin saw no {what} within {PATIENCE:?}, but {} requests, {} connections, {} of them ended",
                state.requests.len(),
                state.accepted,
                state.ended
            );
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn order_all(&self, order: Order) -> usize {
        let state = self.shared.lock();
        for orders in state.open.values() {
            let _ = orders.send(order);
        }
        state.accepted
    }

    /// Says GOAWAY on every connection, and serves what is under way.
    pub fn leave(&self) {
        self.order_all(Order::Leave);
    }

    /// Ends every connection without a word, and waits until that is done.
    pub fn cut_connections(&self) {
        let accepted = self.order_all(Order::Cut);
        self.await_ended(accepted);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.order_all(Order::Cut);
        let panicked = self.shared.lock().panicked;
        assert!(
            panicked == 0 || thread::panicking(),
            "{panicked} behaviours of the origin panicked; see above"
        );
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: std::io::Error) -> Failure {
    Failure::Broken(error.to_string())
}

async fn serve(
    shared: &Arc<Shared>,
    connection: usize,
    stream: TcpStream,
    mut orders: UnboundedReceiver<Order>,
) {
    let mut builder = Builder::new();
    let Settings { streams_max, stream_window, connection_window, extended_connect } = shared.settings;
    if let Some(count) = streams_max {
        builder.max_concurrent_streams(count);
    }
    if let Some(bytes) = stream_window {
        builder.initial_window_size(bytes);
    }
    if let Some(bytes) = connection_window {
        builder.initial_connection_window_size(bytes);
    }
    if extended_connect {
        builder.enable_connect_protocol();
    }
    let Ok(mut h2) = builder.handshake::<_, Bytes>(stream).await else { return };
    let own = shared.lock().open.get(&connection).cloned();
    loop {
        tokio::select! {
            accepted = h2.accept() => match accepted {
                Some(Ok((request, respond))) => take(shared, connection, own.clone(), request, respond),
                Some(Err(_)) | None => return,
            },
            order = orders.recv() => match order {
                Some(Order::Leave) => h2.graceful_shutdown(),
                Some(Order::Abort(reason)) => h2.abrupt_shutdown(reason),
                Some(Order::Cut) | None => return,
            },
        }
    }
}

/// Logs a request and hands it to the behaviour, on a thread where it may block.
fn take(
    shared: &Arc<Shared>,
    connection: usize,
    orders: Option<UnboundedSender<Order>>,
    request: ::http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    let record = Record {
        connection,
        method: head.method.to_string(),
        authority: head.uri.authority().map(ToString::to_string),
        scheme: head.uri.scheme_str().map(str::to_owned),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        protocol: head.extensions.get::<::h2::ext::Protocol>().map(|p| p.as_str().to_owned()),
        fields: head.headers.clone(),
        body: Vec::new(),
        body_bytes: 0,
        trailers: None,
        whole: body.is_end_stream(),
        failure: None,
    };
    let index = shared.change(|state| {
        state.requests.push(record);
        let active = state.active.entry(connection).or_default();
        *active += 1;
        state.active_max = state.active_max.max(*active);
        state.requests.len() - 1
    });
    let of_thread = Arc::clone(shared);
    let serving = tokio::task::spawn_blocking(move || {
        let shared = Arc::clone(&of_thread);
        let active = Some(Active { connection, shared: Arc::clone(&shared) });
        let mut exchange = Exchange {
            head,
            connection,
            index,
            body,
            respond,
            stream: None,
            orders,
            active,
            shared: of_thread,
        };
        let outcome = (shared.behaviour)(&mut exchange);
        if let Err(failure) = outcome {
            shared.change(|state| state.requests[index].failure = Some(failure));
        }
    });
    let ending = Arc::clone(shared);
    tokio::spawn(async move {
        let outcome = serving.await;
        ending.change(|state| state.panicked += usize::from(outcome.is_err_and(|error| error.is_panic())));
    });
}

/// A stream that counts until its answer ends.
struct Active {
    connection: usize,
    shared: Arc<Shared>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.shared.change(|state| *state.active.entry(self.connection).or_default() -= 1);
    }
}

/// One request on its stream, in the hands of the behaviour.
pub struct Exchange {
    pub head: request::Parts,
    pub connection: usize,
    /// The request's number among all that this origin has seen.
    pub index: usize,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    orders: Option<UnboundedSender<Order>>,
    /// Given up before the end is sent, since the client may use the place at once.
    active: Option<Active>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Exchange {
    pub fn method(&self) -> &str {
        self.head.method.as_str()
    }

    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// The next piece of the request's body; `None` at its end.
    pub fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = block(async { self.body.data().await.transpose() })?;
        if let Some(piece) = &piece {
            // It can fail for more than was received only.
            let _ = self.body.flow_control().release_capacity(piece.len());
        }
        Ok(piece)
    }

    /// Reads the request to its end into the log. With an `x-seed` field its body must be that payload.
    pub fn read_body(&mut self) -> Outcome {
        let mut kept = Vec::new();
        let mut bytes = 0;
        let seed = self.head.headers.get("x-seed").and_then(|seed| seed.to_str().ok()?.parse().ok());
        let mut checker = seed.map(|seed| Payload::new(seed, 0).checker());
        while let Some(piece) = self.chunk()? {
            let room = KEPT_BYTES_MAX - kept.len();
            kept.extend_from_slice(&piece[..piece.len().min(room)]);
            bytes += piece.len() as u64;
            if let Some(checker) = &mut checker {
                checker.feed(&piece);
            }
        }
        let trailers = block(self.body.trailers())?;
        let wrong = checker.and_then(|checker| checker.verdict_at(bytes).err());
        self.shared.change(|state| {
            let record = &mut state.requests[self.index];
            record.body = kept;
            record.body_bytes = bytes;
            record.trailers = trailers;
            record.whole = wrong.is_none();
        });
        wrong.map_or(Ok(()), |wrong| Err(Failure::Broken(format!("the body: {wrong}"))))
    }

    /// Sends an interim response.
    pub fn interim(&mut self, status: u16, list: &[(&str, &str)]) -> Outcome {
        self.respond.send_informational(head(status, list)).map_err(Failure::from)
    }

    /// Sends the final head; a body may follow.
    pub fn answer(&mut self, status: u16, list: &[(&str, &str)], then: Then) -> Outcome {
        self.ends(then);
        self.stream = Some(self.respond.send_response(head(status, list), then == Then::End)?);
        Ok(())
    }

    /// Sends a piece of the body as the windows let it.
    pub fn send(&mut self, bytes: impl Into<Bytes>, then: Then) -> Outcome {
        // All but the last byte of a body that ends may still wait for the client's windows.
        self.ends(then);
        send(self.stream.as_mut().expect("the head comes first"), bytes.into(), then)
    }

    fn ends(&mut self, then: Then) {
        if then == Then::End {
            self.active = None;
        }
    }

    pub fn send_trailers(&mut self, list: &[(&str, &str)]) -> Outcome {
        self.ends(Then::End);
        let stream = self.stream.as_mut().expect("the head comes first");
        stream.send_trailers(fields(list)).map_err(Failure::from)
    }

    /// Answers with a whole body, and its length.
    pub fn reply(&mut self, status: u16, list: &[(&str, &str)], body: impl Into<Bytes>) -> Outcome {
        let body = body.into();
        let length = body.len().to_string();
        let mut list = list.to_vec();
        if status != 204 && status != 304 {
            list.push(("content-length", &length));
        }
        if body.is_empty() || self.method() == "HEAD" {
            return self.answer(status, &list, Then::End);
        }
        self.answer(status, &list, Then::More)?;
        self.send(body, Then::End)
    }

    /// Answers 200 with a payload, with or without telling its length.
    pub fn reply_payload(&mut self, length: Length, payload: Payload) -> Outcome {
        let text = payload.bytes.to_string();
        let told = [("content-length", text.as_str())];
        self.answer(200, if length == Length::Told { &told } else { &[] }, Then::More)?;
        payload.pieces(64 * 1024, |piece| self.send(piece.to_vec(), Then::More))?;
        self.send("", Then::End)
    }

    pub fn reset(&mut self, reason: Reason) -> Outcome {
        self.ends(Then::End);
        match &mut self.stream {
            Some(stream) => stream.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
        Ok(())
    }

    /// Waits until the client resets the stream.
    pub fn await_reset(&mut self) -> Result<Reason, Failure> {
        let (stream, respond) = (&mut self.stream, &mut self.respond);
        block(poll_fn(|cx| match stream {
            Some(stream) => stream.poll_reset(cx),
            None => respond.poll_reset(cx),
        }))
    }

    /// GOAWAY with `NO_ERROR` on this connection.
    pub fn leave(&self) {
        self.order(Order::Leave);
    }

    /// GOAWAY with this reason on this connection, which ends.
    pub fn abort(&self, reason: Reason) {
        self.order(Order::Abort(reason));
    }

    /// Ends this connection without a word.
    pub fn cut(&self) {
        self.order(Order::Cut);
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
    }

    /// Notes a failure for the log without ending the behaviour.
    pub fn note(&self, failure: Failure) {
        self.shared.change(|state| state.requests[self.index].failure = Some(failure));
    }

    /// The request as the log has it.
    pub fn record(&self) -> Record {
        self.shared.lock().requests[self.index].clone()
    }
}

/// Whether a body's length is told before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Told,
    Untold,
}

fn head(status: u16, list: &[(&str, &str)]) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    *response.headers_mut() = fields(list);
    response
}

/// The behaviour of [`Origin::start`]: reads the body, then answers 200 with `METHOD target` as its body, or with the
/// request's own body when it has one of up to 256 KiB.
pub fn scripted(exchange: &mut Exchange) -> Outcome {
    exchange.read_body()?;
    let record = exchange.record();
    let answer = if record.body.is_empty() {
        format!("{} {}", record.method, record.target).into_bytes()
    } else {
        record.body
    };
    exchange.reply(200, &[("content-type", "text/plain")], answer)
}

#[cfg(test)]
mod tests {
    use super::{Length, Origin, scripted};
    use crate::h2::client::{Client, Then, request};
    use crate::h2::{Failure, value};
    use crate::payload::Payload;
    use ::h2::Reason;

    /// Client and origin agree with each other before a proxy stands between them.
    #[test]
    fn client_and_origin_agree() {
        let origin = Origin::start();
        let client = Client::connect(origin.address());
        assert_eq!(client.get("/a").expect(200).text(), "GET /a");
        assert_eq!(client.post("/b", "body").expect(200).text(), "body");
        let mut stream = client.open(request("POST", "/c", &[("x-seed", "5")]), Then::More);
        stream.send_payload(Payload::new(5, 300_000)).unwrap();
        stream.response().expect(200);
        assert_eq!((origin.accepted(), origin.request_count()), (1, 3));
        let last = origin.await_finished(2);
        assert_eq!((last.body_bytes, last.whole, last.scheme.as_deref()), (300_000, true, Some("http")));
    }

    #[test]
    fn bodies_trailers_and_interim_answers_arrive() {
        let payload = Payload::new(3, 1_000_000);
        let origin = Origin::with(move |exchange| {
            if exchange.path() == "/payload" {
                return exchange.reply_payload(Length::Untold, payload);
            }
            exchange.interim(103, &[("link", "</a>")])?;
            exchange.answer(200, &[], Then::More)?;
            exchange.send("body", Then::More)?;
            exchange.send_trailers(&[("x-sum", "4")])
        });
        let client = Client::connect(origin.address());
        let mut stream = client.open(request("GET", "/payload", &[]), Then::End);
        stream.head();
        stream.body_of(payload);
        let mut stream = client.open(request("GET", "/", &[]), Then::End);
        assert_eq!(stream.interim().status(), 103);
        let response = stream.response().expect(200);
        assert_eq!(value(response.trailers.as_ref().expect("trailers"), "x-sum"), Some("4"));
    }

    #[test]
    fn ends_are_told_apart() {
        let origin = Origin::with(|exchange| match exchange.path() {
            "/refuse" => exchange.reset(Reason::REFUSED_STREAM),
            "/abort" => {
                exchange.abort(Reason::INTERNAL_ERROR);
                exchange.await_reset().map(drop)
            }
            "/cut" => {
                exchange.cut();
                exchange.await_reset().map(drop)
            }
            _ => scripted(exchange),
        });
        let client = Client::connect(origin.address());
        let refused = client.try_ask(request("GET", "/refuse", &[])).unwrap_err();
        assert_eq!(refused, Failure::Reset(Reason::REFUSED_STREAM));
        let aborted = client.try_ask(request("GET", "/abort", &[])).unwrap_err();
        // Whether GOAWAY is read before the close behind it breaks a write is a matter of timing.
        assert!(
            matches!(aborted, Failure::GoAway(Reason::INTERNAL_ERROR) | Failure::Broken(_)),
            "{aborted:?}"
        );
        let client = Client::connect(origin.address());
        let cut = client.try_ask(request("GET", "/cut", &[])).unwrap_err();
        assert!(matches!(cut, Failure::Broken(_)), "{cut:?}");
        let client = Client::connect(origin.address());
        client.get("/").expect(200);
        origin.leave();
        client.await_leaving();
        assert_eq!(client.await_end(), Ok(()));
    }
}
