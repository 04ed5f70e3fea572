//! What is remembered of one exchange until it is counted and logged.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::reason::ReasonCode;
use crate::http::grpc::GrpcStatus;
use crate::net::connect::Address;
use crate::net::tls::ClientIdentity;

/// One exchange, so far.
#[derive(Debug)]
pub(super) struct Record {
    /// In error documents and log lines.
    pub(super) id: u64,
    /// When the head was complete.
    pub(super) started_ns: u64,
    /// Of the final response, once its head has been made; before that 0.
    pub(super) status: u16,
    /// The route that it matched, as an index in the snapshot. It counts as the route's also if it is refused then.
    pub(super) matched: Option<u32>,
    /// Its arm, where its route's requests are divided.
    pub(super) arm: Option<u16>,
    /// When the whole request was sent, where somebody compares arms by it; else 0.
    pub(super) sent_ns: u64,
    /// When the response's head had come, where somebody compares arms by it; else 0.
    pub(super) answered_ns: u64,
    /// What a gRPC call ended with, as far as an upstream has said it.
    pub(super) grpc_status: Option<GrpcStatus>,
    /// An attempt that reached the upstream has failed by its fault, and another was made in its place.
    pub(super) recovered: bool,
    /// The origin is at fault that its response was cut.
    pub(super) cut_upstream: bool,
    /// What went wrong is this process's own fault.
    pub(super) ours: bool,
    /// Why it was refused or failed.
    pub(super) reason: Option<ReasonCode>,
    /// Body bytes taken from the client.
    pub(super) request_bytes: u64,
    /// Body bytes sent to the client.
    pub(super) response_bytes: u64,
    /// The route's name, if the log wants it.
    pub(super) route: Option<Arc<str>>,
    /// The endpoint of the last attempt, if the log wants it.
    pub(super) endpoint: Option<Address>,
    /// Attempts made.
    pub(super) attempts: u32,
    /// Of these, the ones that cost nothing: a kept connection had proved dead.
    pub(super) free_attempts: u32,
    /// Of these, failed ones of which a byte was sent.
    pub(super) sent_before: u32,
    /// Why there was no further attempt, after one that failed.
    pub(super) retry_refused: Option<&'static str>,
    /// What Retry-After says with a 503, in seconds.
    pub(super) retry_after_s: u32,
    /// Field lines that tell of the limit that refused it.
    pub(super) limit_lines: Box<[u8]>,
    /// A final response head is on its way: no other can be sent any more.
    pub(super) response_started: bool,
    /// The whole request, as far as it was read, is still in the buffer.
    pub(super) intact: bool,
    /// What the log wants of the request's head.
    pub(super) draft: Option<Box<Draft>>,
}

impl Record {
    /// An exchange that has just begun.
    pub(super) fn new(id: u64, started_ns: u64) -> Self {
        Self {
            id,
            started_ns,
            status: 0,
            matched: None,
            arm: None,
            sent_ns: 0,
            answered_ns: 0,
            grpc_status: None,
            recovered: false,
            cut_upstream: false,
            ours: false,
            reason: None,
            request_bytes: 0,
            response_bytes: 0,
            route: None,
            endpoint: None,
            attempts: 0,
            free_attempts: 0,
            sent_before: 0,
            retry_refused: None,
            retry_after_s: 1,
            limit_lines: Box::default(),
            response_started: false,
            intact: true,
            draft: None,
        }
    }
}

/// What of a request's head a line will say, copied while the head is there.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// As sent.
    pub method: String,
    /// Path and query as the client sent them.
    pub target: String,
    /// The effective authority.
    pub host: String,
    /// The client by the trusted-hops rule.
    pub client: Option<IpAddr>,
    /// User-Agent.
    pub user_agent: String,
    /// The protocol's version.
    pub version: &'static str,
    /// Whether the line is written.
    pub wanted: Wanted,
    /// The arm of its route's split.
    pub arm: Option<Arc<str>>,
    /// What TLS has settled; `None` in the clear.
    pub tls: Option<Tls>,
}

/// What a line says of TLS.
#[derive(Debug)]
pub(super) struct Tls {
    /// The version.
    pub version: &'static str,
    /// The name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// Who it has proved to be.
    pub client: Option<Rc<ClientIdentity>>,
}

/// Whether a request's line is written. Decided when its head is there, since that is what the line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Wanted {
    Never,
    /// Not of the sample: written if the answer is a 500 or above.
    IfFailed,
    #[default]
    Always,
}
