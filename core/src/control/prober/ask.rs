//! One health check: connects, asks, judges the answer. Keeps nothing, and knows no thresholds.
//!
//! A server is somebody else's code: what it sends is bounded (heads, bodies, the reason that is kept), and the caller
//! bounds the time.

use std::fmt;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use hyper::{HeaderMap, Method, Request, Response, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::grpc::{self, Serving};
use crate::base::limits::{CHECK_BODY_BYTES_MAX, CHECK_REASON_CHARS_MAX, HEADER_BYTES_DEFAULT};
use crate::http::grpc::{GrpcStatus, is_grpc};
use crate::net::connect::Address;
use crate::net::descriptors::Shortage;
use crate::net::probe::{self, OpenError, ProbeTls, Probing};
use crate::net::proxied::ProxyVersion;
use crate::policy::health::check::{HttpProbe, HttpVersion, Probe};

/// Everything that one check needs to know.
#[derive(Debug)]
pub(super) struct Question {
    /// With the checks' own port, if they have one.
    pub(super) address: Address,
    pub(super) authority: String,
    pub(super) probe: Probe,
    pub(super) tls: Option<ProbeTls>,
    pub(super) proxy: Option<ProxyVersion>,
}

/// Why a check failed. Always the endpoint's fault, or the configuration's, but for a shortage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It was not asked: this machine lacks what that takes, which says nothing of the endpoint.
    Shortage(Shortage),
    /// It could not be reached.
    Connect(String),
    /// It was reached, but TLS failed.
    Tls(String),
    /// It would not speak HTTP/2.
    NoHttp2,
    /// It was not done in time.
    Timeout,
    /// The connection broke, or what came over it is not the protocol.
    Broken(String),
    /// It answered with a status that was not expected.
    Status(u16),
    /// Its call to the health service failed.
    Grpc(Option<GrpcStatus>),
    /// Its health service says so.
    NotServing(Serving),
    /// The configured host or path can't be asked for.
    Unaskable(String),
}

impl Failure {
    /// For metrics' labels.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Shortage(shortage) => shortage.reason().code(),
            Self::Connect(_) => "connect",
            Self::Tls(_) => "tls",
            Self::NoHttp2 => "no_http2",
            Self::Timeout => "timeout",
            Self::Broken(_) => "broken",
            Self::Status(_) => "status",
            Self::Grpc(_) => "grpc_status",
            Self::NotServing(_) => "not_serving",
            Self::Unaskable(_) => "unaskable",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shortage(shortage) => shortage.fmt(f),
            Self::Connect(why) => write!(f, "can't connect: {why}"),
            Self::Tls(why) => write!(f, "TLS failed: {why}"),
            Self::NoHttp2 => f.write_str("it does not agree to HTTP/2"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Broken(why) => write!(f, "the answer broke off: {why}"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Grpc(Some(status)) => write!(f, "gRPC status {}", status.code()),
            Self::Grpc(None) => f.write_str("no gRPC status"),
            Self::NotServing(Serving::Serving) => f.write_str("serving"),
            Self::NotServing(Serving::NotServing) => f.write_str("its health service says: not serving"),
            Self::NotServing(Serving::ServiceUnknown) => {
                f.write_str("its health service does not know the service")
            }
            Self::NotServing(Serving::Unknown) => f.write_str("its health service does not know"),
            Self::Unaskable(why) => write!(f, "host or path can't be asked for: {why}"),
        }
    }
}

/// Asks once. The caller bounds the wait; dropping it closes the connection.
pub(super) async fn ask(question: &Question) -> Result<(), Failure> {
    let stream =
        probe::open(&question.address, question.proxy, question.tls.as_ref()).await.map_err(|error| {
            match error {
                OpenError::Io(error) => match Shortage::of(&error) {
                    Some(shortage) => Failure::Shortage(shortage),
                    None => Failure::Connect(words(&error)),
                },
                OpenError::Tls(error) => Failure::Tls(words(&error)),
                OpenError::NoHttp2 => Failure::NoHttp2,
            }
        })?;
    match &question.probe {
        Probe::Tcp => Ok(()),
        Probe::Http(http) => {
            let request = get(question, http)?;
            match http.version {
                HttpVersion::Http1 => over_http1(stream, request, Expect::Http(http)).await,
                HttpVersion::Http2 => over_http2(stream, request, Expect::Http(http)).await,
            }
        }
        Probe::Grpc { service, authority } => {
            let request = call(question, service, authority.as_deref())?;
            over_http2(stream, request, Expect::Serving).await
        }
    }
}

/// What makes a response pass.
enum Expect<'q> {
    Http(&'q HttpProbe),
    Serving,
}

impl Expect<'_> {
    async fn judge(self, response: Response<Incoming>) -> Result<(), Failure> {
        match self {
            Self::Http(http) => judge_http(response, http).await,
            Self::Serving => judge_grpc(response).await,
        }
    }
}

const AGENT: &str = "ringway-health/1";

fn get(question: &Question, http: &HttpProbe) -> Result<Request<Full<Bytes>>, Failure> {
    let host = http.host.as_deref().unwrap_or(&question.authority);
    let request = Request::builder().method(Method::GET).header(USER_AGENT, AGENT);
    let request = match http.version {
        HttpVersion::Http1 => request.uri(&*http.path).header(HOST, host),
        HttpVersion::Http2 => request.uri(uri(question, host, &http.path)),
    };
    request.body(Full::default()).map_err(|error| Failure::Unaskable(words(&error)))
}

fn call(
    question: &Question,
    service: &str,
    authority: Option<&str>,
) -> Result<Request<Full<Bytes>>, Failure> {
    Request::builder()
        .method(Method::POST)
        .uri(uri(question, authority.unwrap_or(&question.authority), "/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::new(Bytes::from(grpc::request(service))))
        .map_err(|error| Failure::Unaskable(words(&error)))
}

fn uri(question: &Question, authority: &str, path: &str) -> String {
    let scheme = if question.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{authority}{path}")
}

async fn over_http1(
    stream: Probing,
    request: Request<Full<Bytes>>,
    expect: Expect<'_>,
) -> Result<(), Failure> {
    let (mut sender, connection) = conn::http1::Builder::new()
        .max_buf_size(HEADER_BYTES_DEFAULT)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let asking = async { expect.judge(sender.send_request(request).await.map_err(broken)?).await };
    alongside(asking, connection).await
}

async fn over_http2(
    stream: Probing,
    request: Request<Full<Bytes>>,
    expect: Expect<'_>,
) -> Result<(), Failure> {
    let (mut sender, connection) = conn::http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HEADER_BYTES_DEFAULT as u32)
        .initial_stream_window_size(CHECK_BODY_BYTES_MAX as u32)
        .initial_connection_window_size(CHECK_BODY_BYTES_MAX as u32)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let asking = async { expect.judge(sender.send_request(request).await.map_err(broken)?).await };
    alongside(asking, connection).await
}

/// Drives the connection for as long as the exchange takes. One that ends first may have left the answer behind, so its
/// end is no answer itself.
async fn alongside<T>(asking: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut asking, mut connection) = (pin!(asking), pin!(connection));
    tokio::select! {
        answer = &mut asking => return answer,
        _ = &mut connection => {}
    }
    asking.await
}

/// The status decides, but the response must be whole: an endpoint that breaks off in its midst is not well.
async fn judge_http(response: Response<Incoming>, http: &HttpProbe) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if !http.is_expected(status) {
        return Err(Failure::Status(status));
    }
    read(response.into_body()).await.map(drop)
}

async fn judge_grpc(response: Response<Incoming>) -> Result<(), Failure> {
    if response.status() != 200 {
        return Err(Failure::Status(response.status().as_u16()));
    }
    let head = response.headers();
    if !head.get(CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes())) {
        return Err(Failure::Broken("the response is not gRPC's".to_owned()));
    }
    // A response without a message may say it all in its head.
    let in_head = status_in(head);
    let (body, trailers) = read(response.into_body()).await?;
    match trailers.as_ref().and_then(status_in).or(in_head) {
        Some(GrpcStatus::Ok) => {}
        // So the protocol says that it does not know the service.
        Some(GrpcStatus::NotFound) => return Err(Failure::NotServing(Serving::ServiceUnknown)),
        other => return Err(Failure::Grpc(other)),
    }
    match grpc::serving(&body) {
        Some(Serving::Serving) => Ok(()),
        Some(other) => Err(Failure::NotServing(other)),
        None => Err(Failure::Broken("its message is no HealthCheckResponse".to_owned())),
    }
}

fn status_in(fields: &HeaderMap) -> Option<GrpcStatus> {
    GrpcStatus::parse(fields.get("grpc-status")?.as_bytes())
}

/// A body up to its bound, and its trailers. One that is longer is left there.
async fn read(mut body: Incoming) -> Result<(Vec<u8>, Option<HeaderMap>), Failure> {
    let mut read = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(broken)?.into_data() {
            Ok(data) if read.len() + data.len() > CHECK_BODY_BYTES_MAX => break,
            Ok(data) => read.extend_from_slice(&data),
            Err(other) => return Ok((read, other.into_trailers().ok())),
        }
    }
    Ok((read, None))
}

#[allow(clippy::needless_pass_by_value)] // The shape that map_err wants.
fn broken(error: hyper::Error) -> Failure {
    // What hyper met is more telling than where hyper met it.
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    Failure::Broken(words(&cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))))
}

fn words(error: &impl ToString) -> String {
    let text = error.to_string();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CHECK_REASON_CHARS_MAX).collect()
}
