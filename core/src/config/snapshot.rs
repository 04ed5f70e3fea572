//! The compiled configuration: resolved, checked, immutable, shared by all workers and swapped whole.
//!
//! Nothing here can be invalid: the only way to a [`Snapshot`] is `compile.rs`, which refuses the file
//! otherwise. Inheritance is resolved, so a reader never asks where a timeout comes from. `None` of a
//! timeout means no bound; `u64::MAX` of a size means unlimited.

pub use super::raw::{AccessLogMode, Alpn, Io, ProxyProtocol, TlsVersion, Verify};
use crate::http::rewrite::HeaderOps;
use crate::policy::balance::slow_start::Curve;
use crate::policy::balance::sticky::Cookie;
use crate::policy::balance::subset::Labels;
use crate::policy::balance::tiers::Distance;
use crate::policy::balance::{self, ewma, hash};
use crate::policy::chance::Chance;
use crate::policy::rate_limit::{KeyPart, Rule};
use crate::policy::route::{FieldRule, RouteTable, Template, TemplateRewrite};
use crate::policy::{breaker, canary, concurrency, health, outlier, retry, shed, split};
pub use crate::settings::address::{EndpointAddress, ListenAddress};
pub use crate::settings::diagnostics::FieldLine;
use crate::settings::text::is_safe_path;
use regex::bytes::Regex;
use std::borrow::Cow;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    pub admin: Option<ListenAddress>,
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

/// What routes are limited by; [`Route::rates`] and [`Route::in_flight`] are indexes.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimits {
    pub rates: Vec<RateLimit>,
    pub in_flight: Vec<InFlightLimit>,
    /// For each of the two kinds.
    pub keys_max: usize,
    /// Clients are told.
    pub headers: bool,
}

/// One limit of requests in a time.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// With a name that is not hashed yet.
    pub rule: Rule,
    /// In lower case: the response's field that says what a request took.
    pub cost_from_response: Option<Box<str>>,
}

/// One limit of requests at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlightLimit {
    pub name: Box<str>,
    pub max: u32,
    pub key: Vec<KeyPart>,
}

/// A limit of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedRate {
    /// Index of [`RateLimits::rates`].
    pub limit: usize,
    pub cost: u32,
}

/// When a worker refuses requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shedding {
    /// Requests in flight in one worker; `u32::MAX`: no bound.
    pub in_flight_max: u32,
    /// From which level on, for which class.
    pub levels: shed::Settings,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    pub request_head: Duration,
    pub keep_alive_idle: Duration,
    pub tls_handshake: Duration,
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

#[derive(Clone, Debug)]
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
    pub timeouts: UpstreamTimeouts,
    pub dns_refresh: Duration,
    /// For the endpoints that have a [`Endpoint::tls_name`].
    pub tls: UpstreamTls,
}

/// How endpoints are chosen.
#[derive(Clone, Debug)]
pub struct Balance {
    pub rule: balance::Rule,
    /// How latencies are remembered, for the rule that asks for them.
    pub ewma: ewma::Settings,
    /// For the rules that hash.
    pub hash: Option<Hashing>,
}

/// What is hashed, into which kind of table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    pub on: HashOn,
    pub shape: hash::Shape,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// In lower case.
    Header(Box<str>),
    Cookie(Box<str>),
    ClientAddress,
}

/// Who is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    pub outlier: outlier::Settings,
    pub ejection: health::Ejection,
    /// Between two comparisons.
    pub interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// What routes without their own inherit.
    pub response_head: Option<Duration>,
    pub idle: Duration,
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

/// Endpoints that requests go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// An index of [`Snapshot::upstreams`].
    pub upstream: usize,
    /// An index of the upstream's `subsets`; `None`: all of its endpoints.
    pub subset: Option<usize>,
    /// How long a response's head may take.
    pub response_head: Option<Duration>,
}

/// Several destinations that requests are divided among.
#[derive(Debug)]
pub struct Split {
    /// At least one.
    pub arms: Box<[Arm]>,
    /// What no arm's own match takes.
    pub shares: split::Split,
    /// What keeps a client on its arm.
    pub hash_on: Option<HashOn>,
    pub canary: Option<Canary>,
}

/// One of them.
#[derive(Debug)]
pub struct Arm {
    /// Unique in its split.
    pub name: Arc<str>,
    pub destination: Destination,
    /// Requests that it takes whatever the shares.
    pub matches: Option<FieldRule>,
}

/// Which arm is tried against which. Indexes of [`Split::arms`].
#[derive(Debug)]
pub struct Canary {
    pub arm: usize,
    pub baseline: usize,
    pub settings: canary::Settings,
}

/// Who gets a copy of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mirror {
    /// An index of [`Snapshot::upstreams`].
    pub upstream: usize,
    pub chance: Chance,
    /// Of a body that is copied.
    pub body_bytes_max: usize,
    /// For each worker.
    pub in_flight_max: u32,
    pub timeout: Duration,
}

/// Faults made on purpose.
#[derive(Debug)]
pub struct FaultInjection {
    pub delay: Option<(Duration, Chance)>,
    /// The status of the answer.
    pub abort: Option<(u16, Chance)>,
    /// Only requests that carry this.
    pub matches: FieldRule,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Respond {
    pub status: u16,
    pub content_type: Box<str>,
    pub headers: Box<[FieldLine]>,
    pub body: Arc<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub target: RedirectTarget,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTarget {
    /// The Location field as it stands.
    Location(Box<str>),
    /// `None` keeps the request's; the query is kept. With neither `scheme` nor `host` the request's port is
    /// kept too; with either, a port is written only if it is given here.
    Parts { scheme: Option<Scheme>, host: Option<Box<str>>, port: Option<u16>, path: Option<Box<str>> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTimeouts {
    pub request: Option<Duration>,
    pub body_idle: Option<Duration>,
    pub tunnel_idle: Option<Duration>,
}

#[derive(Debug)]
pub enum PathRewrite {
    Keep,
    /// With what the variables of the route's template stand for.
    Template {
        template: Template,
        rewrite: TemplateRewrite,
    },
    /// `matched` is what the route's prefix matched; both without a trailing slash (`/` is empty).
    Prefix {
        matched: Box<str>,
        replacement: Box<str>,
    },
    Full(Box<str>),
    Regex {
        pattern: Regex,
        substitution: Box<str>,
    },
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

impl PathRewrite {
    /// The path to send for a (normalised) path. `None` if the outcome is no path, which only a regex can
    /// cause; that request must be refused. Allocates only where the path changes.
    pub fn apply<'p>(&'p self, path: &'p [u8]) -> Option<Cow<'p, [u8]>> {
        match self {
            PathRewrite::Keep => Some(Cow::Borrowed(path)),
            PathRewrite::Full(full) => Some(Cow::Borrowed(full.as_bytes())),
            PathRewrite::Template { template, rewrite } => {
                rewrite.apply(template, path).filter(|path| is_safe_path(path)).map(Cow::Owned)
            }
            PathRewrite::Prefix { matched, replacement } => {
                let rest = path.strip_prefix(matched.as_bytes())?;
                Some(match (replacement.is_empty(), rest) {
                    // Gateway API, ReplacePrefixMatch: /foo for /xyz makes /foo/bar into /xyz/bar, /foo into /xyz
                    // and /foo/ into /xyz/; what would be empty is `/`.
                    (true, []) => Cow::Borrowed(b"/"),
                    (true, rest) => Cow::Borrowed(rest),
                    (false, []) => Cow::Borrowed(replacement.as_bytes()),
                    (false, rest) => Cow::Owned([replacement.as_bytes(), rest].concat()),
                })
            }
            PathRewrite::Regex { pattern, substitution } => {
                let path = pattern.replace_all(path, substitution.as_bytes());
                is_safe_path(&path).then_some(path)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PathRewrite, Regex};

    #[test]
    fn path_rewrites() {
        let prefix = |matched: &str, replacement: &str| PathRewrite::Prefix {
            matched: matched.into(),
            replacement: replacement.into(),
        };
        let regex = |pattern: &str, substitution: &str| PathRewrite::Regex {
            pattern: Regex::new(pattern).unwrap(),
            substitution: substitution.into(),
        };
        for (rewrite, path, expected) in [
            (PathRewrite::Keep, "/a", Some("/a")),
            (PathRewrite::Full("/x".into()), "/a/b", Some("/x")),
            (prefix("/foo", "/xyz"), "/foo/bar", Some("/xyz/bar")),
            (prefix("/foo", "/xyz"), "/foo", Some("/xyz")),
            (prefix("/foo", "/xyz"), "/foo/", Some("/xyz/")),
            (prefix("/foo", ""), "/foo/bar", Some("/bar")),
            (prefix("/foo", ""), "/foo", Some("/")),
            (prefix("/foo", ""), "/foo/", Some("/")),
            (prefix("", "/v1"), "/foo", Some("/v1/foo")),
            (prefix("", "/v1"), "/", Some("/v1/")),
            (prefix("", ""), "/", Some("/")),
            (regex("^/u/([0-9]+)", "/users/$1"), "/u/7/x", Some("/users/7/x")),
            (regex("^/", ""), "/a", None),
            (regex("a", "?"), "/a", None),
            (regex("a", " "), "/a", None),
            (regex("a", ".."), "/a/b", None),
            (regex("b", "c"), "/a", Some("/a")),
            (regex("b", "c"), "/a|{x}", Some("/a|{x}")),
        ] {
            let outcome = rewrite.apply(path.as_bytes());
            let outcome = outcome.as_deref().map(|path| std::str::from_utf8(path).unwrap());
            assert_eq!(outcome, expected, "{rewrite:?} {path}");
        }
    }
}
