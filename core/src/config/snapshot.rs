//! The compiled configuration: resolved, checked, immutable, shared by all workers and swapped whole.
//!
//! Nothing here can be invalid: the only way to a [`Snapshot`] is `compile.rs`, which refuses the file
//! otherwise. Inheritance is resolved, so a reader never asks where a timeout comes from. `None` of a
//! timeout means no bound; `u64::MAX` of a size means unlimited.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use super::raw::{AccessLogMode, Alpn, Io, ProxyProtocol, TlsVersion, Verify};
use crate::http::rewrite::HeaderOps;
use crate::policy::balance::slow_start::Curve;
use crate::policy::balance::sticky::Cookie;
use crate::policy::balance::subset::Labels;
use crate::policy::balance::tiers::Distance;
pub use crate::policy::balance::{Balance, Hashing};
pub use crate::policy::deadline::{ListenerTimeouts, RouteTimeouts, UpstreamTimeouts};
pub use crate::policy::fault::FaultInjection;
pub use crate::policy::hash_on::HashOn;
pub use crate::policy::health::outlier::OutlierDetection;
pub use crate::policy::mirror::Mirror;
pub use crate::policy::rate_limit::{AppliedRate, InFlightLimit, RateLimit, RateLimits};
pub use crate::policy::redirect::{Redirect, RedirectTarget, Scheme};
pub use crate::policy::respond::Respond;
pub use crate::policy::rewrite::PathRewrite;
use crate::policy::route::RouteTable;
pub use crate::policy::shed::Shedding;
pub use crate::policy::split::{Arm, Canary, Destination, Split};
use crate::policy::{breaker, concurrency, health, retry, shed};
pub use crate::settings::address::{EndpointAddress, ListenAddress};
pub use crate::settings::diagnostics::FieldLine;

#[derive(Debug)]
pub struct Snapshot {
    /// Given by whoever loaded it; rises by one with each reload.
    pub version: u64,
    /// FNV-1a (64 bits) of `canonical`: equal settings have equal hashes, whatever the file's layout.
    pub hash: u64,
    /// The settings as JSON, every default written out. Holds no secrets.
    pub canonical: Arc<str>,
    /// `None`: one for each core that this process may use.
    pub workers: Option<u16>,
    pub pin: bool,
    pub io: Io,
    pub admin: Option<Admin>,
    pub listeners: Vec<Listener>,
    /// How long requests in flight may go on after a stop was asked for.
    pub drain: Duration,
    pub limits: Limits,
    pub forwarding: Forwarding,
    pub upstreams: Vec<Upstream>,
    /// Route numbers are indexes of `routes`.
    pub route_table: RouteTable,
    pub routes: Vec<Route>,
    pub access_log: AccessLog,
    pub decision_log: Option<LogTarget>,
    /// Where state is kept that outlives the process.
    pub state_dir: Option<PathBuf>,
    pub shedding: Shedding,
    pub rate_limits: RateLimits,
}

/// The admin interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    pub address: ListenAddress,
    /// Permissions of Unix sockets.
    pub mode: u32,
    pub actions: AdminActions,
    /// Accepted in Host, in lower case; see `config::raw::Admin`.
    pub hosts: Arc<[Box<str>]>,
}

/// Where requests that change something are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminActions {
    Here,
    Nowhere,
    At(ListenAddress),
}

impl Admin {
    /// All that is listened on, with the settings' names.
    pub fn addresses(&self) -> impl Iterator<Item = (&'static str, &ListenAddress)> {
        let actions = match &self.actions {
            AdminActions::At(address) => Some(("actions", address)),
            AdminActions::Here | AdminActions::Nowhere => None,
        };
        std::iter::once(("address", &self.address)).chain(actions)
    }
}

#[derive(Clone, Debug)]
pub struct Listener {
    pub name: Arc<str>,
    pub addresses: Vec<ListenAddress>,
    pub trusted_hops: usize,
    /// For each worker.
    pub connections_max: u32,
    pub requests_per_connection_max: Option<NonZeroU32>,
    /// Connections start with a PROXY header.
    pub proxy_protocol: bool,
    pub connection_age_max: Option<Duration>,
    pub tcp: Tcp,
    /// `None`: not spoken.
    pub http2: Option<Http2>,
    pub timeouts: ListenerTimeouts,
    pub tls: Option<ListenerTls>,
    /// The port that requests are redirected to.
    pub redirect_to_https: Option<u16>,
}

/// Files are named here and read by the control thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one.
    pub certificates: Vec<CertificateFiles>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// Registered names; empty: all, in the client's order.
    pub ciphers: Vec<String>,
    /// At least one.
    pub alpn: Vec<Alpn>,
    pub clients: ClientCertificates,
    pub tickets: Option<Tickets>,
    /// The whole header line, CRLF included; empty: none.
    pub hsts: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ocsp: Option<PathBuf>,
}

/// With the file of the authorities that vouch for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    Off,
    Optional(PathBuf),
    Required(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tickets {
    /// `None`: random keys, replaced every `rotate`.
    pub keys: Option<PathBuf>,
    pub rotate: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    pub verify: Verify,
    pub certificate: Option<CertificateFiles>,
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
}

/// Bounds of one HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    pub streams_max: u32,
    /// Bytes.
    pub stream_window: u32,
    /// Bytes, not less than `stream_window`.
    pub connection_window: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub header_bytes_max: usize,
    pub header_count_max: usize,
    pub uri_bytes_max: usize,
    /// Of one worker's buffers.
    pub memory_bytes_max: u64,
    /// TLS handshakes open in one worker.
    pub tls_handshakes_max: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The pseudonym in `Via`; `None` writes no `Via`.
    pub via: Option<Arc<str>>,
    pub x_forwarded: bool,
    pub forwarded: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub name: Arc<str>,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    pub balance: Balance,
    /// Keeps clients with their endpoints.
    pub sticky: Option<Cookie>,
    /// When all endpoints are used although some are unhealthy; 0: never.
    pub panic_percent: u32,
    pub slow_start: Option<Arc<Curve>>,
    /// How endpoints are asked whether they are well.
    pub health_check: Option<Arc<health::check::Settings>>,
    pub outlier_detection: Option<OutlierDetection>,
    pub breaker: Option<breaker::Settings>,
    pub adaptive_concurrency: Option<concurrency::Settings>,
    pub retry_budget: retry::BudgetSettings,
    /// What routes select endpoints by. [`Destination::subset`] is an index.
    pub subsets: Vec<Labels>,
    /// Requests of each worker in flight; `u32::MAX`: no bound.
    pub requests_max: u32,
    /// To each endpoint, for each worker.
    pub connections_max: u32,
    /// To each endpoint, for each worker.
    pub idle_connections_max: u32,
    /// Requests of each worker.
    pub pending_max: u32,
    pub host: UpstreamHost,
    /// `None`: HTTP/1.1.
    pub http2: Option<Http2>,
    /// `None`: HTTP/2 connections are not asked whether they live.
    pub proxy_protocol: Option<ProxyProtocol>,
    pub ping_interval: Option<Duration>,
    pub ping_timeout: Duration,
    pub tcp: Tcp,
    pub timeouts: UpstreamTimeouts,
    pub dns_refresh: Duration,
    /// For the endpoints that have a [`Endpoint::tls_name`].
    pub tls: UpstreamTls,
}

/// How it is found out that the peer of a TCP connection has gone without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// After how long without a byte the peer is probed.
    pub keepalive: Option<Duration>,
    /// How long what was sent may stay without an acknowledgement.
    pub user_timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// What a Host field for this endpoint says: `users.internal:8080`, without the port if it is the scheme's own.
    pub authority: Arc<str>,
    pub weight: NonZeroU32,
    /// 0 comes first.
    pub priority: u32,
    /// From this process.
    pub distance: Distance,
    pub labels: Labels,
    /// The name (or address) that it must prove; `None`: no TLS.
    pub tls_name: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamHost {
    /// The client's, passed on.
    Client,
    /// [`Endpoint::authority`].
    Endpoint,
    Literal(Arc<str>),
}

#[derive(Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub action: Action,
    pub rewrite_path: PathRewrite,
    pub rewrite_host: Option<Arc<str>>,
    pub request_headers: HeaderOps,
    pub response_headers: HeaderOps,
    /// In lower case. Empty: no upgrade.
    pub upgrade: Box<[Box<str>]>,
    pub connect: bool,
    /// gRPC-Web goes upstream as gRPC.
    pub grpc_web: bool,
    pub timeouts: RouteTimeouts,
    pub body_bytes_max: u64,
    /// Who gets a copy.
    pub mirrors: Box<[Mirror]>,
    /// Faults made on purpose.
    pub fault: Option<Box<FaultInjection>>,
    pub retry: retry::Settings,
    /// After how long a second attempt is made beside the first.
    pub hedge: Option<retry::Hedge>,
    /// Who is refused first.
    pub class: shed::Class,
    pub rates: Vec<AppliedRate>,
    /// Indexes of [`RateLimits::in_flight`].
    pub in_flight: Vec<usize>,
}

#[derive(Debug)]
pub enum Action {
    Upstream(Destination),
    Split(Box<Split>),
    Respond(Respond),
    Redirect(Redirect),
}

#[derive(Clone, Debug, PartialEq)]
pub struct AccessLog {
    pub mode: AccessLogMode,
    /// 0.0 to 1.0; for mode `Sampled`.
    pub sample: f64,
    pub target: LogTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    Stdout,
    Stderr,
    File(PathBuf),
}
