//! A client: one connection, any number of streams on it, each driven step by step from the test's own thread.

use super::{Failure, PEERS, block, value};
use crate::client::KEPT_BYTES_MAX;
use crate::payload::Payload;
use crate::wait::{PATIENCE, eventually};
use ::h2::client::{Builder, ResponseFuture, SendRequest};
use ::h2::ext::Protocol;
use ::h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use ::http::{HeaderMap, Method, Request, Response as Head, Uri, Version};
use bytes::Bytes;
use std::fmt;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::net::TcpSocket;

/// Whether more of a message follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    More,
    End,
}

/// What a client announces, where it is not what the h2 crate announces by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Bytes of one response that may come before [`Stream::chunk`] takes any.
    pub stream_window: Option<u32>,
    pub connection_window: Option<u32>,
}

/// How the connection ended, once it has.
type Ending = Arc<Mutex<Option<Result<(), Failure>>>>;

pub struct Client {
    requests: SendRequest<Bytes>,
    pings: Mutex<PingPong>,
    ending: Ending,
    task: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("ending", &self.ending).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects, and waits until the server's SETTINGS are known.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Client {
        Client::with(address, Settings::default())
    }

    #[track_caller]
    pub fn with(address: SocketAddr, settings: Settings) -> Client {
        Client::try_with(address, settings).unwrap_or_else(|e| panic!("HTTP/2 to {address}: {e}"))
    }

    pub fn try_with(address: SocketAddr, settings: Settings) -> Result<Client, Failure> {
        Client::try_from(Ipv4Addr::UNSPECIFIED, address, settings)
    }

    /// From an address of its own: to a proxy, another client.
    #[track_caller]
    pub fn from(own: Ipv4Addr, address: SocketAddr) -> Client {
        Client::try_from(own, address, Settings::default())
            .unwrap_or_else(|failure| panic!("HTTP/2 from {own} to {address}: {failure}"))
    }

    fn try_from(own: Ipv4Addr, address: SocketAddr, settings: Settings) -> Result<Client, Failure> {
        let mut builder = Builder::new();
        builder.enable_push(false);
        if let Some(bytes) = settings.stream_window {
            builder.initial_window_size(bytes);
        }
        if let Some(bytes) = settings.connection_window {
            builder.initial_connection_window_size(bytes);
        }
        let (requests, mut connection) = block(async {
            let broken = |error: std::io::Error| Failure::Broken(error.to_string());
            let socket = TcpSocket::new_v4().map_err(broken)?;
            if !own.is_unspecified() {
                socket.bind(SocketAddr::from((own, 0))).map_err(broken)?;
            }
            let stream = socket.connect(address).await.map_err(broken)?;
            stream.set_nodelay(true).map_err(broken)?;
            builder.handshake::<_, Bytes>(stream).await.map_err(Failure::from)
        })?;
        let pings = connection.ping_pong().expect("it is taken once");
        let ending = Ending::default();
        let noted = Arc::clone(&ending);
        let task = PEERS.spawn(async move {
            let outcome = connection.await.map_err(Failure::from);
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        });
        let client = Client { requests, pings: Mutex::new(pings), ending, task };
        // The answer comes behind the server's SETTINGS.
        client.ping()?;
        Ok(client)
    }

    /// Sends a PING and waits for its answer.
    pub fn ping(&self) -> Result<(), Failure> {
        let mut pings = self.pings.lock().unwrap_or_else(PoisonError::into_inner);
        block(pings.ping(Ping::opaque())).map(drop)
    }

    /// Opens a stream.
    pub fn try_open(&self, request: Request<()>, then: Then) -> Result<Stream, Failure> {
        let mut requests = self.requests.clone();
        block(poll_fn(|cx| requests.poll_ready(cx)))?;
        let (response, request) = requests.send_request(request, then == Then::End).map_err(Failure::from)?;
        Ok(Stream { request, response: Some(response), body: None })
    }

    #[track_caller]
    pub fn open(&self, request: Request<()>, then: Then) -> Stream {
        self.try_open(request, then).unwrap_or_else(|failure| panic!("no stream: {failure}"))
    }

    /// Asks without a body and reads the whole answer.
    pub fn try_ask(&self, request: Request<()>) -> Result<Response, Failure> {
        self.try_open(request, Then::End)?.try_response()
    }

    #[track_caller]
    pub fn ask(&self, request: Request<()>) -> Response {
        let what = format!("{} {}", request.method(), request.uri());
        self.try_ask(request).unwrap_or_else(|failure| panic!("no answer to {what}: {failure}"))
    }

    #[track_caller]
    pub fn get(&self, target: &str) -> Response {
        self.ask(request("GET", target, &[]))
    }

    /// Sends a body in one piece and reads the whole answer.
    #[track_caller]
    pub fn post(&self, target: &str, body: impl Into<Bytes>) -> Response {
        let mut stream = self.open(request("POST", target, &[]), Then::More);
        stream.send(body, Then::End);
        stream.response()
    }

    /// Streams that the server allows at a time.
    pub fn streams_max(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Whether the server's SETTINGS allow an extended CONNECT (RFC 8441 section 3).
    pub fn may_extend_connect(&self) -> bool {
        self.requests.is_extended_connect_protocol_enabled()
    }

    /// The server has said that it takes no more streams, or the connection is over.
    pub fn is_leaving(&self) -> bool {
        let ready = self.requests.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        self.ending().is_some() || matches!(ready, Poll::Ready(Err(_)))
    }

    #[track_caller]
    pub fn await_leaving(&self) {
        eventually("GOAWAY", || self.is_leaving().then_some(()));
    }

    /// How the connection ended, if it has.
    pub fn ending(&self) -> Option<Result<(), Failure>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the connection's end.
    #[track_caller]
    pub fn await_end(&self) -> Result<(), Failure> {
        eventually("the end of the connection", || self.ending())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request without body, on the authority `test`.
#[track_caller]
pub fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).expect("a method");
    *request.uri_mut() = format!("http://test{target}").parse().expect("a target");
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = super::fields(fields);
    request
}

/// CONNECT to an authority (RFC 9113 section 8.5).
#[track_caller]
pub fn connect(authority: &str) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::builder().authority(authority).build().expect("an authority");
    *request.version_mut() = Version::HTTP_2;
    request
}

/// An extended CONNECT (RFC 8441 section 4).
#[track_caller]
pub fn connect_to(protocol: &'static str, target: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = request("CONNECT", target, fields);
    request.extensions_mut().insert(Protocol::from_static(protocol));
    request
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub fields: HeaderMap,
    /// The body's first [`KEPT_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Response {
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        value(&self.fields, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts the status, and shows the whole answer when it is another.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use, reason = "the assertion is often all that is wanted")]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{:?}\n{}", self.fields, self.text());
        self
    }

    /// The reason code of an answer that the proxy made itself.
    #[track_caller]
    pub fn reason(&self) -> String {
        assert_eq!(self.field("content-type"), Some("application/problem+json"), "{:?}", self.fields);
        let problem: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem document");
        assert_eq!(problem["status"], self.status, "{problem}");
        problem["reason"].as_str().expect("a reason").to_owned()
    }
}

/// One request and its response. Dropped before its end, it is reset with CANCEL.
pub struct Stream {
    request: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({:?})", self.request.stream_id())
    }
}

impl Stream {
    /// Sends as the windows let it.
    pub fn try_send(&mut self, bytes: impl Into<Bytes>, then: Then) -> Result<(), Failure> {
        send(&mut self.request, bytes.into(), then)
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl Into<Bytes>, then: Then) {
        self.try_send(bytes, then).expect("sending");
    }

    /// Sends a payload in pieces of 64 KiB, and ends the request.
    pub fn send_payload(&mut self, payload: Payload) -> Result<(), Failure> {
        payload.pieces(64 * 1024, |piece| self.try_send(piece.to_vec(), Then::More))?;
        self.try_send("", Then::End)
    }

    /// Of `wanted` bytes, how many the windows have room for now.
    pub fn room(&mut self, wanted: usize) -> usize {
        self.request.reserve_capacity(wanted);
        let room = self.request.capacity();
        self.request.reserve_capacity(0);
        room
    }

    #[track_caller]
    pub fn send_trailers(&mut self, list: &[(&str, &str)]) {
        self.request.send_trailers(super::fields(list)).expect("trailers");
    }

    pub fn reset(mut self, reason: Reason) {
        self.request.send_reset(reason);
    }

    /// Waits until the server resets the stream.
    pub fn await_reset(&mut self) -> Result<Reason, Failure> {
        block(poll_fn(|cx| self.request.poll_reset(cx)))
    }

    /// Waits for the next interim response.
    #[track_caller]
    pub fn interim(&mut self) -> Head<()> {
        let response = self.response.as_mut().expect("no final head yet");
        let next = poll_fn(|cx| response.poll_informational(cx));
        let next = block(async { next.await.transpose() }).expect("an interim response");
        next.expect("an interim response before the final one")
    }

    /// Waits for the final head; interim ones that nobody took are skipped.
    pub fn try_head(&mut self) -> Result<Head<()>, Failure> {
        let response = self.response.take().expect("the final head is awaited once");
        let (parts, body) = block(response)?.into_parts();
        self.body = Some(body);
        Ok(Head::from_parts(parts, ()))
    }

    #[track_caller]
    pub fn head(&mut self) -> Head<()> {
        self.try_head().unwrap_or_else(|failure| panic!("no head: {failure}"))
    }

    /// Whether a final head has come, without waiting for it.
    pub fn has_head(&mut self) -> bool {
        if let Some(response) = &mut self.response {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(head)) = std::pin::Pin::new(response).poll(&mut cx) {
                self.body = Some(head.into_body());
                self.response = None;
            }
        }
        self.response.is_none()
    }

    /// The next piece of the body, and lets the server send as much again; `None` at its end.
    pub fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = self.chunk_held()?;
        if let Some(piece) = &piece {
            self.release(piece.len());
        }
        Ok(piece)
    }

    /// The next piece of the body; its room in the windows stays taken.
    pub fn chunk_held(&mut self) -> Result<Option<Bytes>, Failure> {
        let body = self.body.as_mut().expect("the head comes first");
        block(async {
            loop {
                match body.data().await.transpose()? {
                    // The h2 crate's word for an END_STREAM without data.
                    Some(piece) if piece.is_empty() => {}
                    other => return Ok::<_, Failure>(other),
                }
            }
        })
    }

    /// Gives room in the windows back.
    pub fn release(&mut self, bytes: usize) {
        let body = self.body.as_mut().expect("the head comes first");
        body.flow_control().release_capacity(bytes).expect("what was received");
    }

    pub fn trailers(&mut self) -> Result<Option<HeaderMap>, Failure> {
        block(self.body.as_mut().expect("the head comes first").trailers())
    }

    /// Reads the rest of the body, handing it to `sink` as it comes.
    pub fn body_into(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        while let Some(piece) = self.chunk()? {
            sink(&piece);
        }
        Ok(())
    }

    /// Reads the rest of the body, which must be this payload.
    #[track_caller]
    pub fn body_of(&mut self, payload: Payload) {
        let mut checker = payload.checker();
        self.body_into(&mut |piece| checker.feed(piece))
            .unwrap_or_else(|failure| panic!("a cut body: {failure}"));
        checker.verdict().unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    /// Reads the whole answer.
    pub fn try_response(&mut self) -> Result<Response, Failure> {
        let (parts, ()) = self.try_head()?.into_parts();
        let mut body = Vec::new();
        self.body_into(&mut |piece| {
            let room = KEPT_BYTES_MAX - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
        })?;
        let trailers = self.trailers()?;
        Ok(Response { status: parts.status.as_u16(), fields: parts.headers, body, trailers })
    }

    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response().unwrap_or_else(|failure| panic!("no answer: {failure}"))
    }
}

/// Sends all of `bytes` as the windows let it.
pub(super) fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes, then: Then) -> Result<(), Failure> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = block(async {
            loop {
                let room = stream.capacity().min(bytes.len());
                if room > 0 {
                    return Ok(room);
                }
                match poll_fn(|cx| stream.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(Failure::from(error)),
                    None => {
                        let reset = tokio::time::timeout(PATIENCE, poll_fn(|cx| stream.poll_reset(cx))).await;
                        return Err(match reset {
                            Ok(Ok(reason)) => Failure::Reset(reason),
                            Ok(Err(error)) => error.into(),
                            Err(_) => Failure::Broken("the stream is closed for sending".into()),
                        });
                    }
                }
            }
        })?;
        let piece = bytes.split_to(room);
        stream.send_data(piece, then == Then::End && bytes.is_empty()).map_err(Failure::from)?;
        if bytes.is_empty() {
            return Ok(());
        }
    }
    if then == Then::End {
        stream.send_data(Bytes::new(), true).map_err(Failure::from)?;
    }
    Ok(())
}
