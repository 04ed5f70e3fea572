//! The file's shape: what a person writes, before anything is resolved or cross-checked.
//!
//! The doc comments here are the user's documentation: they become the JSON Schema's descriptions. Each policy defines
//! its own settings (`policy::*::settings`), and this file puts them together. Structures refuse unknown fields. What
//! can't be said by a shape alone (a route naming an upstream that does not exist) is checked by `compile.rs`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use crate::policy::balance::settings::{
    Balance, BalanceRule, BalanceSettings, DetailedEndpoint, Locality, Node, SlowStart, Sticky,
};
pub use crate::policy::breaker::settings::Breaker;
pub use crate::policy::concurrency::settings::AdaptiveConcurrency;
pub use crate::policy::deadline::settings::{ListenerTimeouts, RouteTimeouts, Timeouts, UpstreamTimeouts};
pub use crate::policy::fault::settings::{FaultAbort, FaultDelay, FaultInjection};
pub use crate::policy::hash_on::settings::HashOn;
pub use crate::policy::headers::settings::HeaderOps;
pub use crate::policy::health::outlier::settings::{
    FailurePercent, LatencyOutlier, OutlierDetection, SuccessRate,
};
pub use crate::policy::health::settings::{GrpcCheck, HealthCheck, HttpCheck};
pub use crate::policy::mirror::settings::Mirror;
pub use crate::policy::rate_limit::settings::{
    AppliedLimit, CostedLimit, InFlightLimit, KeyField, KeyPart, KeyWord, LimitMode, RateLimit, RateLimits,
};
pub use crate::policy::redirect::settings::Redirect;
pub use crate::policy::respond::settings::Respond;
pub use crate::policy::retry::settings::{Hedge, Retry, RetryBudget, RetryGrpc, RetryMethods, RetryOn};
pub use crate::policy::rewrite::settings::{PathRegex, Rewrite};
pub use crate::policy::route::settings::{FieldMatch, GrpcMatch, Match, PathMatch};
pub use crate::policy::shed::settings::{Priority, Shedding};
pub use crate::policy::split::canary::settings::{Canary, CanaryErrors, CanaryLatency, DecisionLog};
pub use crate::policy::split::settings::{Arm, ArmMatch, Split};
pub use crate::settings::forms::{Off, OffOrCount, OneOrMany};
use crate::settings::forms::{is_default, yes};
pub use crate::settings::units::{Duration, Size, SizeLimit, Timeout};

/// The version of the file's format that this build reads.
pub const FORMAT_VERSION: u32 = 1;

/// Workers that a file may ask for.
pub const WORKERS_MAX: u16 = 1_024;

/// A Ringway configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Ringway configuration")]
pub struct RawConfig {
    /// Version of this format. Always 1.
    #[schemars(range(min = 1, max = 1))]
    pub version: u32,
    /// Worker threads, each with its own ring, pools and counters. `auto` starts one for each core that this process may use.
    #[serde(default)]
    pub workers: Workers,
    /// Pin each worker to a core.
    #[serde(default = "yes")]
    pub pin: bool,
    /// How workers wait for the kernel. `auto` takes `io_uring` where the kernel offers it, and epoll elsewhere; `uring` refuses to start without it.
    #[serde(default)]
    pub io: Io,
    /// The admin interface: readiness, metrics, this configuration, drain.
    #[serde(default)]
    pub admin: Admin,
    /// Where requests come in. At least one.
    #[schemars(length(min = 1))]
    pub listeners: Vec<Listener>,
    /// Timeouts for everything that does not set its own.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Bounds on what a client may send and on what a worker may hold.
    #[serde(default)]
    pub limits: Limits,
    /// What is told to upstreams about the client and the path of a request.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// Where requests go.
    #[serde(default)]
    pub upstreams: Vec<Upstream>,
    /// Which request goes where. The order of the file matters only between equally specific routes. A request that no route matches is answered with 404.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// A line for each request.
    #[serde(default)]
    pub access_log: AccessLog,
    /// A line for each decision on a canary.
    #[serde(default, skip_serializing_if = "is_default")]
    pub decision_log: DecisionLog,
    /// A directory for what must outlive the process: how far canaries have come. Absent: they begin anew with each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
    /// This process among others: where it stands.
    #[serde(default, skip_serializing_if = "is_default")]
    pub node: Node,
    /// Which requests are refused when a worker has too much to do.
    #[serde(default)]
    pub shedding: Shedding,
    /// Limits by key: of requests in a time, and of requests at once.
    #[serde(default)]
    pub rate_limits: RateLimits,
}

/// Number of workers, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Workers {
    #[default]
    Auto,
    Count(u16),
}

/// The kernel interface of the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Io {
    #[default]
    Auto,
    Uring,
    Epoll,
}

/// The admin interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// `ip:port`, `[ipv6]:port`, `unix:/path`, or `off`. Whoever reaches it may read: keep it on a loopback address or a Unix socket.
    pub address: String,
    /// Permissions of Unix sockets, in octal digits. Who may write to one may connect.
    pub mode: String,
    /// Requests that change something (POST): `on` answers them, `off` refuses them, and an address (as in `address`) is a second listener that alone answers them.
    pub actions: String,
    /// Names in a request's Host besides `localhost` and addresses, such as `ringway.example.internal`; `*` is any. Others are refused on TCP, so that no web page reaches a loopback address through a name of its own (DNS rebinding).
    pub hosts: Vec<String>,
}

/// A place where requests come in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Unique name, used in metrics and logs.
    pub name: String,
    /// One address or a list: `ip:port`, `[ipv6]:port` or `unix:/path`.
    pub address: OneOrMany,
    /// How many proxies stand in front of this one, so how many of the right-most `X-Forwarded-For` entries are to be trusted. 0 discards what clients send.
    #[serde(default)]
    #[schemars(range(min = 0, max = 32))]
    pub trusted_hops: u8,
    /// Open connections, for each worker.
    #[serde(default = "default_listener_connections_max")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: u32,
    /// Requests served on one connection before it is closed; 0 is no bound. Ageing connections lets clients spread again over workers and replicas.
    #[serde(default = "default_requests_per_connection_max")]
    #[schemars(range(min = 0, max = 4_000_000_000u32))]
    pub requests_per_connection_max: u32,
    /// Every connection starts with a PROXY protocol header, version 1 or 2, which tells the client's address. Only for listeners that nobody but a trusted proxy can reach: a connection without one is closed.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// How old an HTTP/2 connection may grow before its client is asked to open another; or `off`. Nothing under way is cut. It varies by a tenth from connection to connection, so that clients that came together do not go together.
    #[serde(default = "default_connection_age_max")]
    pub connection_age_max: Timeout,
    /// HTTP/2: with prior knowledge on plain connections, by ALPN on TLS ones.
    #[serde(default)]
    pub http2: ListenerHttp2,
    /// How it is found out that a client has gone without a word.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp: Tcp,
    /// Overrides of the timeouts that concern clients.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: ListenerTimeouts,
    /// Serve TLS here. Absent: plain HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Answer every request with 308 to the same URL with `https`: `true` for port 443, or the port. Only without `tls`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_to_https: Option<RedirectToHttps>,
}

/// TLS for a listener's clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificates, chosen by the name that a client asks for: an exact name comes before a wildcard, and the first one listed serves everybody else. Several for one name must differ in the kind of their key; ECDSA is preferred where the client knows it. The files are watched, a changed certificate is taken over without a reload.
    #[schemars(length(min = 1))]
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that clients may use.
    #[serde(default)]
    pub min_version: TlsVersion,
    /// The newest version that clients may use.
    #[serde(default = "newest_tls")]
    pub max_version: TlsVersion,
    /// Cipher suites by their registered names, best first; ours is then the order that counts. Absent: all nine that are sound, in the client's order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub ciphers: Option<Vec<String>>,
    /// Protocols offered inside TLS (ALPN), best first. A client that asks for others only is refused; one that asks for none gets HTTP/1.1.
    #[serde(default = "default_alpn")]
    #[schemars(length(min = 1))]
    pub alpn: Vec<Alpn>,
    /// Whether clients must show a certificate of their own.
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// File with the certificates (PEM) of the authorities that vouch for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// Session tickets, with which a client takes up an earlier session instead of a full handshake; or `off`.
    #[serde(default)]
    pub tickets: Tickets,
    /// Send `Strict-Transport-Security` with every response: browsers then use nothing but https for this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Hsts>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// File with the certificate and its intermediate authorities (PEM), the certificate itself first.
    pub cert: String,
    /// File with its private key (PEM: PKCS #8, SEC 1 or PKCS #1; not encrypted).
    pub key: String,
    /// File with an OCSP response (DER) to staple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<String>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// A protocol that is spoken inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Alpn {
    #[serde(rename = "h2")]
    H2,
    #[serde(rename = "http/1.1")]
    Http11,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked. Whoever shows none is served all the same; whoever shows a wrong one is refused.
    Optional,
    /// They must.
    Required,
}

/// Session tickets, or `off`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Tickets {
    Off(Off),
    On(TicketSettings),
}

/// How session tickets are sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TicketSettings {
    /// File with keys, one a line as 64 hexadecimal digits (`openssl rand -hex 32`), at most 8. The first seals, all open. Give the same file to all nodes and tickets are good on each of them, also after a restart. Absent: a random key that only this process knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// How often a random key is replaced; its tickets stay good for as long again. With `keys` the file is what is rotated, and this bounds how long a ticket may be used.
    pub rotate: Duration,
}

/// `Strict-Transport-Security` (RFC 6797).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hsts {
    /// How long browsers remember it, in seconds. 31536000 is a year; 0 makes them forget.
    #[schemars(range(min = 0, max = 315_360_000))]
    pub max_age: u32,
    /// For all subdomains too.
    #[serde(default)]
    pub include_subdomains: bool,
    /// Consent to be built into browsers. Hard to take back; asks for `include_subdomains` and a year.
    #[serde(default)]
    pub preload: bool,
}

/// `true`, or a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RedirectToHttps {
    Enabled(bool),
    Port(u16),
}

/// TLS to an upstream's endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// The name that endpoints are asked for and must prove. Absent: the endpoint's own host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// File with the certificates (PEM) of the authorities to trust. Absent: those that this system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// How much of an endpoint's certificate is checked.
    pub verify: Verify,
    /// File with a certificate (PEM) for endpoints that ask for one, and its intermediate authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<String>,
    /// File with its private key (PEM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// The oldest version to agree on.
    pub min_version: TlsVersion,
    /// The newest version to agree on.
    pub max_version: TlsVersion,
}

/// How much of a certificate is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Name, validity and chain.
    #[default]
    Full,
    /// Nothing: anybody on the way can pose as the endpoint.
    Insecure,
}

/// HTTP/2 from clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerHttp2 {
    /// Whether it is spoken.
    pub enabled: bool,
    /// Requests under way at the same time on one connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub streams_max: u32,
    /// How much of one request's body a client may send ahead of the upstream; 16KiB to 16MiB.
    pub stream_window: Size,
    /// The same for all bodies of one connection together, beside what is stalled; 64KiB to 64MiB, not less than `stream_window`. It grows by what its streams hold that no upstream takes, while there is room.
    pub connection_window: Size,
}

/// HTTP/2 to endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamHttp2 {
    /// Requests under way at the same time on one connection. The endpoint's own bound holds as well. Another connection is opened when all are full.
    #[schemars(range(min = 1, max = 10_000))]
    pub streams_max: u32,
    /// How much of one response's body an endpoint may send ahead of the client; 16KiB to 16MiB.
    pub stream_window: Size,
    /// The same for all bodies of one connection together; 64KiB to 64MiB, not less than `stream_window`.
    pub connection_window: Size,
    /// Ask an endpoint for a sign of life (PING) when requests are under way and nothing has come for so long; at least 1s. Off by default: gRPC servers take a PING within five minutes without data for abuse.
    pub ping_interval: Timeout,
    /// How long it may take to give one. Then the connection is given up with its requests.
    pub ping_timeout: Duration,
}

/// How the kernel finds out that the peer of a TCP connection has gone without a word: its machine is off, or a firewall has forgotten the connection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tcp {
    /// Probe the peer of a connection after so long without a byte, and then every ten seconds; or `off`. 1s to 9h.
    pub keepalive: Timeout,
    /// How long bytes and probes may stay without an acknowledgement, and a peer that acknowledges may read nothing, before the connection is given up (`TCP_USER_TIMEOUT`); or `off`, which leaves it to the system. 1s to 9h.
    pub user_timeout: Timeout,
}

impl Default for Tcp {
    fn default() -> Self {
        Tcp { keepalive: Timeout::from_secs(60), user_timeout: Timeout::from_secs(120) }
    }
}

/// The form of a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What is spoken to endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: with prior knowledge in the clear, by ALPN under TLS. Endpoints `h2c://host:port` say the same.
    Http2,
}

/// Bounds on what a client may send and on what a worker may hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes of a request's or response's head, start line included; 1KiB to 16KiB. A larger request is answered with 431.
    pub header_bytes: Size,
    /// Header fields of one head.
    #[schemars(range(min = 1, max = 128))]
    pub header_count: u16,
    /// Bytes of the request target; at most `header_bytes`. A longer one is answered with 414.
    pub uri_bytes: Size,
    /// Bytes of a request's body. A larger one is answered with 413. Unlimited by default: bodies are streamed, never stored, so their size costs no memory here. A route may override it.
    pub body_bytes: SizeLimit,
    /// Ceiling of one worker's buffers; at least 1MiB. At the ceiling a worker stops reading until a buffer comes back.
    pub memory_per_worker: Size,
    /// TLS handshakes that clients may have open, for each worker. At the bound, TLS listeners accept no more until one ends: new connections wait in the kernel's queue.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub tls_handshakes: u32,
}

/// Overrides for a route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimits {
    /// Bytes of a request's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_bytes: Option<SizeLimit>,
}

/// What is told to upstreams about the client and the path of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Forwarding {
    /// This proxy's pseudonym in the `Via` field, or `off` to write none.
    pub via: String,
    /// Write `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`.
    pub x_forwarded: bool,
    /// Write `Forwarded` (RFC 7239).
    pub forwarded: bool,
}

/// A group of endpoints that serve the same thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Unique name, which routes refer to.
    pub name: String,
    /// Where it is served. At least one.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<Endpoint>,
    /// How an endpoint is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// Open connections to each endpoint, for each worker.
    #[serde(default = "default_upstream_connections_max")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections_max: u32,
    /// Idle connections kept to each endpoint, for each worker.
    #[serde(default = "default_idle_connections_max")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub idle_connections_max: u32,
    /// Requests of each worker that wait for a connection, for `timeouts.connect` at most. Beyond it, requests are answered with 503. What they take of memory, `limits.memory_per_worker` bounds.
    #[serde(default = "default_pending_max")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub pending_max: u32,
    /// Requests of each worker in flight; or `off`. Beyond it, requests are answered with 503.
    #[serde(default = "off_or_count")]
    pub requests_max: OffOrCount,
    /// Keep a client with its endpoint by a cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// When less than this share of the endpoints is healthy, in per cent, all are used: the healthy ones alone could not bear it. 0 is off.
    #[serde(default = "default_panic_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub panic_percent: u8,
    /// Give endpoints that are new or back their share little by little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Ask the endpoints whether they are well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Leave out endpoints that fail real requests. `{}` for the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Reject requests for a while when too many fail or are slow. `{}` for the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breaker>,
    /// Limit requests in flight by how latency answers to them. `{}` for the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// How many requests may be tried again.
    #[serde(default)]
    pub retry_budget: RetryBudget,
    /// The Host field that is sent: `client` passes the client's on, `upstream` sends the endpoint's own name, anything else is sent as written. A route's `rewrite.host` comes first.
    #[serde(default = "default_host")]
    pub host: String,
    /// Start each connection to an endpoint with a PROXY protocol header that tells the client's address. Such connections are not shared and not kept. Not with `protocol: http2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// What is spoken to the endpoints.
    #[serde(default)]
    pub protocol: Protocol,
    /// Bounds of HTTP/2 connections to the endpoints.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http2: UpstreamHttp2,
    /// How it is found out that an endpoint has gone without a word.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp: Tcp,
    /// Overrides of the timeouts that concern endpoints.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: UpstreamTimeouts,
    /// How endpoints that are host names are resolved.
    #[serde(default)]
    pub dns: Dns,
    /// Use TLS to all endpoints. Absent: only to those that are written `https://`, with the defaults of these settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
}

/// An address alone, or with more about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Endpoint {
    /// `http://host`, `https://host`, each also with a port, `host:port`, `[ipv6]:port` or `unix:/path`.
    Address(String),
    Detailed(DetailedEndpoint),
}

/// How host names are resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// How often names are resolved again; at least 1s. When that fails, the last addresses stay in use.
    pub refresh: Duration,
}

/// Which requests, and what becomes of them. Needs exactly one of `upstream`, `split`, `respond` and `redirect`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique name: it identifies the route in metrics and logs, and keeps its state across reloads.
    pub name: String,
    /// Which requests; everything that is named must agree. Absent: all.
    #[serde(rename = "match", default, skip_serializing_if = "is_default")]
    pub matches: Match,
    /// What is changed in the request's line and Host before it is sent on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rewrite: Rewrite,
    /// Changes to the request's header fields.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: HeaderOps,
    /// Changes to the response's header fields.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_headers: HeaderOps,
    /// The name of the upstream that the request is sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Several upstreams that the requests are divided among.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Upstreams that get a copy of the requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// Make requests wait or fail on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<FaultInjection>,
    /// Answer directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<Respond>,
    /// Answer with a redirection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Protocols that a client may upgrade the connection to. Absent: `[websocket]`. `[]` refuses every upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Vec<String>>,
    /// Accept CONNECT, and open a tunnel to the upstream, which must speak HTTP/1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub connect: bool,
    /// Translate gRPC-Web, which browsers speak, to gRPC and back. The upstream speaks gRPC, so mostly `protocol: http2`. Other requests pass as they are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub grpc_web: bool,
    /// Only endpoints of `upstream` with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subset: BTreeMap<String, String>,
    /// What is tried again, and how. Absent: what provably never reached an application. `{}` for the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Send slow requests a second time, elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// Which of `rate_limits.rates` apply; all of them must admit a request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<AppliedLimit>,
    /// Which of `rate_limits.in_flight` apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_flight_limits: Vec<String>,
    /// Who is served when a worker has too much to do; see `shedding`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: Priority,
    /// Overrides of timeouts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: RouteTimeouts,
    /// Overrides of limits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: RouteLimits,
}

/// A line for each request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessLog {
    /// Which requests are logged.
    pub mode: AccessLogMode,
    /// The share of requests that mode `sampled` logs.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,
    /// `stdout`, `stderr` or the path of a file.
    pub path: String,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessLogMode {
    #[default]
    Off,
    Sampled,
    All,
}

impl RawConfig {
    /// The configuration of `proxy --listen A --to URL`: everything that comes in on `listen` goes to `to`, round robin.
    pub fn proxy(listen: &[&str], to: &[&str], workers: Workers, io: Io) -> Self {
        RawConfig {
            version: FORMAT_VERSION,
            workers,
            pin: true,
            io,
            admin: Admin { address: "off".to_owned(), ..Admin::default() },
            listeners: vec![Listener::new("proxy", listen)],
            timeouts: Timeouts::default(),
            limits: Limits::default(),
            forwarding: Forwarding::default(),
            upstreams: vec![Upstream::new("proxy", to)],
            routes: vec![Route {
                name: "proxy".to_owned(),
                upstream: Some("proxy".to_owned()),
                ..Route::default()
            }],
            access_log: AccessLog::default(),
            decision_log: DecisionLog::default(),
            state_dir: None,
            node: Node::default(),
            shedding: Shedding::default(),
            rate_limits: RateLimits::default(),
        }
    }
}

impl Listener {
    pub fn new(name: &str, addresses: &[&str]) -> Self {
        Listener {
            name: name.to_owned(),
            address: OneOrMany::new(addresses),
            trusted_hops: 0,
            connections_max: default_listener_connections_max(),
            requests_per_connection_max: default_requests_per_connection_max(),
            proxy_protocol: false,
            connection_age_max: default_connection_age_max(),
            http2: ListenerHttp2::default(),
            tcp: Tcp::default(),
            timeouts: ListenerTimeouts::default(),
            tls: None,
            redirect_to_https: None,
        }
    }
}

impl ListenerTls {
    /// One certificate, and defaults.
    pub fn new(cert: &str, key: &str) -> Self {
        ListenerTls {
            certificates: vec![CertificateFiles { cert: cert.to_owned(), key: key.to_owned(), ocsp: None }],
            min_version: TlsVersion::default(),
            max_version: newest_tls(),
            ciphers: None,
            alpn: default_alpn(),
            client_certificates: ClientCertificates::default(),
            client_ca: None,
            tickets: Tickets::default(),
            hsts: None,
        }
    }
}

impl Default for UpstreamTls {
    fn default() -> Self {
        UpstreamTls {
            server_name: None,
            ca: None,
            verify: Verify::default(),
            client_cert: None,
            client_key: None,
            min_version: TlsVersion::default(),
            max_version: newest_tls(),
        }
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Tickets::On(TicketSettings::default())
    }
}

impl Default for TicketSettings {
    fn default() -> Self {
        TicketSettings { keys: None, rotate: Duration::from_secs(12 * 3_600) }
    }
}

impl Upstream {
    pub fn new(name: &str, endpoints: &[&str]) -> Self {
        Upstream {
            name: name.to_owned(),
            endpoints: endpoints.iter().map(|address| Endpoint::Address((*address).to_owned())).collect(),
            balance: Balance::default(),
            connections_max: default_upstream_connections_max(),
            idle_connections_max: default_idle_connections_max(),
            pending_max: default_pending_max(),
            requests_max: off_or_count(),
            sticky: None,
            panic_percent: default_panic_percent(),
            slow_start: None,
            health_check: None,
            outlier_detection: None,
            breaker: None,
            adaptive_concurrency: None,
            retry_budget: RetryBudget::default(),
            host: default_host(),
            proxy_protocol: None,
            protocol: Protocol::default(),
            http2: UpstreamHttp2::default(),
            tcp: Tcp::default(),
            timeouts: UpstreamTimeouts::default(),
            dns: Dns::default(),
            tls: None,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Admin {
            address: "127.0.0.1:9901".to_owned(),
            mode: "0600".to_owned(),
            actions: "on".to_owned(),
            hosts: Vec::new(),
        }
    }
}

impl Default for ListenerHttp2 {
    fn default() -> Self {
        ListenerHttp2 {
            enabled: true,
            streams_max: 128,
            stream_window: Size::from_bytes(256 << 10),
            connection_window: Size::from_bytes(1 << 20),
        }
    }
}

impl Default for UpstreamHttp2 {
    fn default() -> Self {
        UpstreamHttp2 {
            streams_max: 128,
            // As many full windows as there may be streams: clients that read slowly keep no others waiting.
            stream_window: Size::from_bytes(128 << 10),
            connection_window: Size::from_bytes(16 << 20),
            ping_interval: Timeout::OFF,
            ping_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: Size::from_bytes(crate::base::limits::HEADER_BYTES_DEFAULT as u64),
            header_count: 100,
            uri_bytes: Size::from_bytes(crate::base::limits::URI_BYTES_DEFAULT as u64),
            body_bytes: SizeLimit::UNLIMITED,
            memory_per_worker: Size::from_bytes(256 << 20),
            tls_handshakes: 1_024,
        }
    }
}

impl Default for Forwarding {
    fn default() -> Self {
        Forwarding { via: "ringway".to_owned(), x_forwarded: true, forwarded: false }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Dns { refresh: Duration::from_secs(30) }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        AccessLog { mode: AccessLogMode::Off, sample: 0.01, path: "stdout".to_owned() }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Workers::Auto => serializer.serialize_str("auto"),
            Workers::Count(count) => serializer.serialize_u16(*count),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Shape<'a> {
            Count(u16),
            #[serde(borrow)]
            Word(Cow<'a, str>),
        }
        match Shape::deserialize(deserializer)? {
            Shape::Count(count) if (1..=WORKERS_MAX).contains(&count) => Ok(Workers::Count(count)),
            Shape::Word(word) if word == "auto" => Ok(Workers::Auto),
            _ => Err(de::Error::custom("expected `auto` or a number of workers")),
        }
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "enum": ["auto"] },
                { "type": "integer", "minimum": 1, "maximum": WORKERS_MAX },
            ]
        })
    }
}

fn newest_tls() -> TlsVersion {
    TlsVersion::Tls13
}

fn default_alpn() -> Vec<Alpn> {
    vec![Alpn::H2, Alpn::Http11]
}

fn default_listener_connections_max() -> u32 {
    10_000
}

fn default_requests_per_connection_max() -> u32 {
    10_000
}

fn default_connection_age_max() -> Timeout {
    Timeout::OFF
}

fn default_upstream_connections_max() -> u32 {
    1_024
}

fn default_idle_connections_max() -> u32 {
    1_024
}

fn default_pending_max() -> u32 {
    100_000
}

fn off_or_count() -> OffOrCount {
    OffOrCount::Off(Off::Off)
}

fn default_panic_percent() -> u8 {
    50
}

fn default_host() -> String {
    "client".to_owned()
}
