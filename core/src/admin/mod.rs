//! The admin interface: readiness, metrics, the configuration in force, drain. Plain HTTP for a loopback address; it
//! runs on the control thread and never touches a worker but through its mailbox.

mod access;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};

use access::Access;

use crate::base::limits::ADMIN_CONNECTIONS_MAX;
use crate::config::snapshot::{Admin, AdminActions, ListenAddress};
use crate::control::limits::{Asked, Deed};
use crate::control::order::{Order, Question, Readiness};
use crate::net::listener::{BindAddress, bind_all, bind_unix};
use crate::net::liveness::Liveness;

const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A bound admin socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

/// A listener that is bound, and what it allows.
#[derive(Debug)]
pub struct Door {
    socket: Socket,
    access: Arc<Access>,
}

/// Binds all that is configured, with the same checks as any listener. Needs the control thread's runtime.
///
/// # Errors
/// Where, and why not.
pub fn bind(admin: &Admin) -> Result<Vec<(Door, BindAddress)>, (BindAddress, io::Error)> {
    let doors = admin.addresses().map(|(setting, address)| {
        let address = match address {
            ListenAddress::Ip(address) => BindAddress::Tcp(*address),
            ListenAddress::Unix(path) => BindAddress::Unix(path.clone()),
        };
        let acts = setting == "actions" || admin.actions == AdminActions::Here;
        let bound = bind_one(&address, admin.mode).map_err(|error| (address, error));
        bound.map(|(socket, bound)| {
            let hosts = match bound {
                BindAddress::Tcp(_) => Some(Arc::clone(&admin.hosts)),
                // No browser connects to a Unix socket.
                BindAddress::Unix(_) => None,
            };
            (Door { socket, access: Arc::new(Access { hosts, acts }) }, bound)
        })
    });
    doors.collect()
}

fn bind_one(address: &BindAddress, mode: u32) -> io::Result<(Socket, BindAddress)> {
    if let BindAddress::Unix(path) = address {
        let socket = UnixListener::from_std(bind_unix(path, Some(mode))?.into())?;
        return Ok((Socket::Unix(socket), address.clone()));
    }
    let (mut sockets, bound) = bind_all(address, 1, Liveness::default())?;
    let socket = sockets.pop().ok_or_else(|| io::Error::other("no socket was bound"))?;
    Ok((Socket::Tcp(TcpListener::from_std(socket.into())?), bound))
}

/// Serves until dropped.
pub async fn serve(door: Door, orders: mpsc::Sender<Order>, readiness: Arc<Readiness>) {
    let Door { socket, access } = door;
    let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let service = Service {
            orders: orders.clone(),
            readiness: Arc::clone(&readiness),
            access: Arc::clone(&access),
        };
        let accepted = match &socket {
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    connection(stream, service).await;
                    drop(place);
                })
            }),
            Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    connection(stream, service).await;
                    drop(place);
                })
            }),
        };
        if accepted.is_err() {
            // Descriptors have run out: wait a little instead of spinning.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What the requests of a connection work with.
#[derive(Clone)]
struct Service {
    orders: mpsc::Sender<Order>,
    readiness: Arc<Readiness>,
    access: Arc<Access>,
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(stream: S, service: Service) {
    let service = service_fn(|request| {
        let Service { orders, readiness, access } = service.clone();
        async move {
            Ok::<_, Infallible>(match access.refuses(&request) {
                Some(refusal) => refusal,
                None => answer(request, &orders, &readiness).await,
            })
        }
    });
    // A client that breaks off is nobody's problem.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

const TEXT: &str = "text/plain; charset=utf-8";

async fn answer(
    request: Request<Incoming>,
    orders: &mpsc::Sender<Order>,
    readiness: &Readiness,
) -> Response<Full<Bytes>> {
    let (method, path) = (request.method(), request.uri().path());
    match (method, path) {
        (&Method::GET | &Method::HEAD, "/") => reply(StatusCode::OK, TEXT, INDEX),
        (&Method::GET | &Method::HEAD, "/live") => reply(StatusCode::OK, TEXT, "live\n"),
        (&Method::GET | &Method::HEAD, "/ready") if readiness.is_ready() => {
            reply(StatusCode::OK, TEXT, "ready\n")
        }
        (&Method::GET | &Method::HEAD, "/ready") => {
            reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n")
        }
        (&Method::GET | &Method::HEAD, "/metrics") => {
            ask(orders, Order::Metrics, "text/plain; version=0.0.4; charset=utf-8").await
        }
        (&Method::GET | &Method::HEAD, "/upstreams") => {
            ask(orders, Order::Upstreams, "application/json").await
        }
        (&Method::GET | &Method::HEAD, "/config") => ask(orders, Order::Config, "application/json").await,
        (&Method::GET | &Method::HEAD, "/rate-limits") => {
            ask(orders, Order::Limits, "application/json").await
        }
        (&Method::GET | &Method::HEAD, "/canaries") => ask(orders, Order::Canaries, "application/json").await,
        (&Method::GET | &Method::HEAD, "/explain") => explain(orders, request.uri().query()).await,
        (&Method::GET | &Method::HEAD, "/rate-limits/key") => {
            limit_key(orders, request.uri().query(), Deed::Show).await
        }
        (&Method::POST, "/drain") => match orders.send(Order::Drain).await {
            Ok(()) => reply(StatusCode::ACCEPTED, TEXT, "draining\n"),
            Err(_) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
        },
        (&Method::POST, "/rate-limits/reset") => limit_key(orders, request.uri().query(), Deed::Reset).await,
        (&Method::POST, "/canaries/restart") => canary_restart(orders, request.uri().query()).await,
        (_, "/drain" | "/rate-limits/reset" | "/canaries/restart") => not_allowed("POST"),
        (
            _,
            "/" | "/live" | "/ready" | "/metrics" | "/upstreams" | "/config" | "/rate-limits"
            | "/rate-limits/key" | "/canaries" | "/explain",
        ) => not_allowed("GET, HEAD"),
        _ => reply(StatusCode::NOT_FOUND, TEXT, INDEX),
    }
}

const INDEX: &str = "\
Ringway admin
GET  /ready      200 while requests are taken, else 503
GET  /live       200 while the process runs
GET  /metrics    Prometheus text format
GET  /upstreams  who is well, and what guards them
GET  /config     the configuration in force, and why the last reload was refused, if it was
GET  /rate-limits  what limits have decided, and the heaviest keys
GET  /rate-limits/key?limit=NAME&key=PART[&key=PART]  the state of a key
POST /rate-limits/reset?limit=NAME&key=PART           fill its bucket
GET  /canaries   how canaries fare, and what was decided
POST /canaries/restart?route=NAME  begin one anew
GET  /explain?request=METHOD URL[&header=NAME: VALUE][&source=ADDRESS][&server_name=NAME]  what would become of a request
POST /drain      stop accepting, finish, end
";

/// The state of a rate limit's key.
async fn limit_key(orders: &mpsc::Sender<Order>, query: Option<&str>, deed: Deed) -> Response<Full<Bytes>> {
    let mut asked = Asked { limit: String::new(), key: Vec::new() };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("limit", value)) => asked.limit = decode(value),
            Some(("key", value)) if asked.key.len() < KEY_PARTS_MAX => asked.key.push(decode(value)),
            _ => {
                return reply(
                    StatusCode::BAD_REQUEST,
                    TEXT,
                    "expected ?limit=NAME&key=PART, at most 4 parts\n",
                );
            }
        }
    }
    let (reply_to, answer) = oneshot::channel();
    let outcome = match orders.send(Order::LimitKey(asked, deed, reply_to)).await {
        Ok(()) => answer.await.ok(),
        Err(_) => None,
    };
    match outcome {
        Some(Ok(text)) => reply(StatusCode::OK, "application/json", text),
        Some(Err(wrong)) => reply(StatusCode::BAD_REQUEST, TEXT, format!("{wrong}\n")),
        None => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
    }
}

/// What would become of a request.
async fn explain(orders: &mpsc::Sender<Order>, query: Option<&str>) -> Response<Full<Bytes>> {
    let mut question = Question::default();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("request", value)) => question.request = decode_form(value),
            Some(("header", value)) => question.headers.push(decode_form(value)),
            Some(("source", value)) => question.source = Some(decode_form(value)),
            Some(("server_name", value)) => question.server_name = Some(decode_form(value)),
            _ => {
                let expected = "expected ?request=GET+http://host/path[&header=Name:+value]\
                                [&source=ADDRESS][&server_name=NAME]\n";
                return reply(StatusCode::BAD_REQUEST, TEXT, expected);
            }
        }
    }
    let (reply_to, answer) = oneshot::channel();
    let outcome = match orders.send(Order::Explain(question, reply_to)).await {
        Ok(()) => answer.await.ok(),
        Err(_) => None,
    };
    match outcome {
        Some(Ok(text)) => reply(StatusCode::OK, TEXT, text),
        Some(Err(wrong)) => reply(StatusCode::BAD_REQUEST, TEXT, format!("{wrong}\n")),
        None => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
    }
}

async fn canary_restart(orders: &mpsc::Sender<Order>, query: Option<&str>) -> Response<Full<Bytes>> {
    let Some(route) = query.and_then(|query| query.strip_prefix("route=")) else {
        return reply(StatusCode::BAD_REQUEST, TEXT, "expected ?route=NAME\n");
    };
    let (reply_to, answer) = oneshot::channel();
    let outcome = match orders.send(Order::CanaryRestart(decode(route), reply_to)).await {
        Ok(()) => answer.await.ok(),
        Err(_) => None,
    };
    match outcome {
        Some(true) => reply(StatusCode::OK, TEXT, "begun anew\n"),
        Some(false) => reply(StatusCode::NOT_FOUND, TEXT, "this route has no canary\n"),
        None => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
    }
}

/// As forms are written: `+` is a space.
fn decode_form(text: &str) -> String {
    decode(&text.replace('+', " "))
}

/// Parts of a key.
const KEY_PARTS_MAX: usize = 4;

/// Percent-decoded; what is no valid escape stays as it is.
fn decode(text: &str) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let escape = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escape {
            bytes.push(high << 4 | low);
            rest = &rest[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn ask(
    orders: &mpsc::Sender<Order>,
    order: impl FnOnce(oneshot::Sender<String>) -> Order,
    content_type: &'static str,
) -> Response<Full<Bytes>> {
    let (reply_to, answer) = oneshot::channel();
    let text = match orders.send(order(reply_to)).await {
        Ok(()) => answer.await.ok(),
        Err(_) => None,
    };
    match text {
        Some(text) => reply(StatusCode::OK, content_type, text),
        None => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n"),
    }
}

fn not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
