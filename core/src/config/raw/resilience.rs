//! The settings of resilience: how endpoints are chosen, watched and left out, what is tried again, what is refused
//! under load. Their meaning is the policies' own (`policy::balance` and its neighbours); here is how they are written.

use super::{Duration, Off, OffOrCount, Size};
use crate::settings::forms::{is_default, one};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An endpoint with more than its address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetailedEndpoint {
    /// `http://host`, `https://host`, each also with a port, `host:port`, `[ipv6]:port` or `unix:/path`.
    pub address: String,
    /// Its share of the requests, relative to the other endpoints.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000))]
    pub weight: u32,
    /// Endpoints of priority 0 come first. Others take over as far as those before them are unhealthy.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(range(min = 0, max = 15))]
    pub priority: u8,
    /// Where it stands. Within a priority, endpoints in the zone of this proxy (`node.locality`) come first, then those in its region.
    #[serde(default, skip_serializing_if = "is_default")]
    pub locality: Locality,
    /// What a route's `subset` selects by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// This process among others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Where this proxy stands.
    #[serde(skip_serializing_if = "is_default")]
    pub locality: Locality,
}

/// A place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    /// For example `eu-west-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// For example `eu-west-1a`. Needs a `region`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// How an endpoint is chosen: a rule's name, or the rule with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Balance {
    Rule(BalanceRule),
    Detailed(BalanceSettings),
}

/// A rule for choosing endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BalanceRule {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// Of two drawn at random the one with fewer requests in flight for its weight, of those that this worker sent.
    LeastRequests,
    /// Of two drawn at random the one with the lower product of recent latency and requests in flight.
    PeakEwma,
    /// At random, by weight.
    Random,
    /// By a hash of the request on a ring: the same key leads to the same endpoint. Needs `hash_on`.
    RingHash,
    /// By a hash of the request in a table (Google's Maglev): more even than a ring. Needs `hash_on`.
    Maglev,
}

/// A rule with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceSettings {
    /// The rule.
    pub rule: BalanceRule,
    /// What `ring_hash` and `maglev` hash. A request without it goes to an endpoint drawn at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// How fast `peak_ewma` forgets: the time in which an old latency falls to a third of its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<Duration>,
}

/// What is hashed; exactly one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HashOn {
    /// The value of a header field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The value of a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// `true`: the client's address, by the listener's `trusted_hops`.
    #[serde(skip_serializing_if = "is_default")]
    pub client_address: bool,
}

/// Session affinity: a client stays with its endpoint by a cookie that names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// How long the client keeps it. Absent: until it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Only sent back over https.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secure: bool,
}

/// How an endpoint that is new or back gets its share little by little.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    /// After how long it has its whole share.
    pub window: Duration,
    /// The share that it starts with, in per cent.
    #[serde(default = "default_min_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub min_percent: u8,
}

/// Health checks: this process asks the endpoints itself, once for all workers. Exactly one of `http`, `grpc` and `tcp`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// A GET request, over what the endpoints speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// The gRPC health protocol (grpc.health.v1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// A connection, with its TLS handshake where TLS is spoken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tcp: bool,
    /// Between two checks of one endpoint; at least 100ms.
    #[serde(default = "default_check_interval")]
    pub interval: Duration,
    /// By how much the interval varies at random, in per cent.
    #[serde(default = "default_jitter_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: u8,
    /// How long one check may take.
    #[serde(default = "default_check_timeout")]
    pub timeout: Duration,
    /// Checks in a row that must succeed before an unhealthy endpoint is used again.
    #[serde(default = "default_healthy_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy_threshold: u32,
    /// Checks in a row that must fail before an endpoint is used no more.
    #[serde(default = "default_unhealthy_threshold")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_threshold: u32,
    /// Where to ask. Absent: where requests go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
}

/// A health check by GET.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// The path, which starts with a slash.
    pub path: String,
    /// The Host field. Absent: the endpoint's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses that mean health: a number or a range as in `200-299`.
    #[serde(default = "default_expected")]
    #[schemars(length(min = 1))]
    pub expect: Vec<String>,
}

/// A health check by gRPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcCheck {
    /// The service to ask for. Empty: the server as a whole.
    pub service: String,
}

/// Outlier detection: endpoints that fail real requests are left out for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// Responses with 5xx in a row, connection failures included; 0 is off.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub consecutive_5xx: u32,
    /// Of these, 502, 503 and 504 in a row; 0 is off.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub consecutive_gateway_errors: u32,
    /// Failed connections, resets and time-outs in a row; 0 is off.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub consecutive_local_failures: u32,
    /// How often endpoints are compared with each other; at least 1s.
    pub interval: Duration,
    /// How long the first ejection lasts. Each further one lasts as much longer.
    pub base_ejection_time: Duration,
    /// The longest.
    pub max_ejection_time: Duration,
    /// How many of the endpoints may be left out at once, in per cent; but one always may.
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: u8,
    /// Leave out endpoints whose share of successes is far below the others'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Leave out endpoints that fail more than this share of an interval's requests, in per cent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<FailurePercent>,
    /// Leave out endpoints that are much slower than the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyOutlier>,
}

/// Endpoints below the mean success rate less so many standard deviations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SuccessRate {
    /// Standard deviations, in thousandths.
    #[schemars(range(min = 100, max = 100_000))]
    pub stdev_factor_thousandths: u32,
    /// Endpoints with enough requests that are needed for a comparison.
    #[schemars(range(min = 2, max = 10_000))]
    pub minimum_hosts: u32,
    /// Requests of an interval that make an endpoint comparable, in each worker.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub request_volume: u32,
}

/// Endpoints that fail too large a share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FailurePercent {
    /// The share, in per cent.
    #[schemars(range(min = 1, max = 100))]
    pub threshold: u8,
    /// Requests of an interval that are needed for a verdict, in each worker.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub request_volume: u32,
}

/// Endpoints that are much slower than the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LatencyOutlier {
    /// So many times the median of the others, in hundredths.
    #[schemars(range(min = 101, max = 100_000))]
    pub factor_hundredths: u32,
    /// And slower by so much at the least.
    pub minimum_difference: Duration,
    /// Endpoints with enough requests that are needed for a comparison.
    #[schemars(range(min = 2, max = 10_000))]
    pub minimum_hosts: u32,
    /// Requests of an interval that make an endpoint comparable, in each worker.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub request_volume: u32,
}

/// A circuit breaker: when too many requests to an upstream fail or are slow, it rejects them for a while, then lets a few through to see.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Over how long shares are counted; 1s to 10m.
    pub window: Duration,
    /// Requests of a window that are needed for a verdict, in each worker.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_min: u32,
    /// Failures (5xx, connection failures, resets, time-outs) from which on it rejects, in per cent; 0 is off.
    #[schemars(range(min = 0, max = 100))]
    pub error_percent: u8,
    /// What counts as slow, to the response's head. Absent: nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow: Option<Duration>,
    /// Slow ones from which on it rejects, in per cent.
    #[schemars(range(min = 1, max = 100))]
    pub slow_percent: u8,
    /// How long it rejects at first. It doubles each time that the requests let through fail again.
    pub rejecting: Duration,
    /// The longest.
    pub rejecting_max: Duration,
    /// How many requests are let through to see, and must all succeed.
    #[schemars(range(min = 1, max = 1_000))]
    pub probes: u32,
}

/// An adaptive limit on requests in flight to an upstream: it falls when they grow slower than they are at their best (the gradient algorithm). For each worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdaptiveConcurrency {
    /// Never below.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min: u32,
    /// Never above.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: u32,
    /// To start with.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub initial: u32,
}

/// How many requests may be tried again, so that a failing upstream isn't hit harder for failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudget {
    /// Retries for each hundred requests of the last ten seconds.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u8,
    /// Retries that are allowed each second whatever the requests, for each worker.
    #[schemars(range(min = 0, max = 10_000))]
    pub min_per_second: u32,
    /// Retries under way at once, for each worker.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrent_max: u32,
}

/// What is tried again, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// After which failures.
    #[schemars(length(min = 1))]
    pub on: Vec<RetryOn>,
    /// Further statuses that are tried again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
    /// gRPC statuses that are tried again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grpc_statuses: Vec<RetryGrpc>,
    /// Attempts in all, the first included.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u8,
    /// How long one attempt may take to its response's head. Absent: as long as the request may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// Which requests, where the failed attempt may have had an effect.
    pub methods: RetryMethods,
    /// The first wait is up to this at random; each further one up to twice as long.
    pub backoff: Duration,
    /// The longest.
    pub backoff_max: Duration,
    /// The longest `Retry-After` of a 429 or 503 that is waited for. A longer one ends the attempts.
    pub retry_after_max: Duration,
    /// How much of a request's body is kept to be sent again; at most 1MiB.
    pub body_bytes: Size,
}

/// A failure after which a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// No connection could be had, so nothing was sent.
    ConnectFailure,
    /// The endpoint said that it did not act on the request.
    RefusedStream,
    /// The connection ended before a byte of the response.
    Reset,
    /// `per_try_timeout` passed.
    PerTryTimeout,
    /// 502, 503 and 504.
    GatewayError,
    /// Any 5xx.
    #[serde(rename = "5xx")]
    ServerError,
}

/// A gRPC status after which a call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryGrpc {
    Cancelled,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
}

/// Which requests may be tried again after they may have had an effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryMethods {
    /// GET, HEAD, OPTIONS, TRACE, PUT and DELETE (RFC 9110 section 9.2.2).
    #[default]
    Idempotent,
    /// All. Only where the application knows a request that it has seen before.
    Any,
}

/// Hedging: a request that is slow is sent a second time to another endpoint, and the first answer counts. Only for idempotent requests that came whole with their head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// After how long without an answer.
    pub after: Duration,
}

/// Which requests are served when there is too much to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// As long as there is any room.
    High,
    #[default]
    Normal,
    /// Only while there is plenty.
    Low,
}

/// When a worker sheds requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shedding {
    /// Requests in flight in one worker; or `off`. Beyond it: 503.
    pub requests_max: OffOrCount,
    /// Routes of priority `low` are refused from this share of `requests_max` and of `limits.memory_per_worker` on, in per cent.
    #[schemars(range(min = 1, max = 100))]
    pub low_percent: u8,
    /// The same for `normal`.
    #[schemars(range(min = 1, max = 100))]
    pub normal_percent: u8,
    /// The `Retry-After` of a refusal, in seconds.
    #[schemars(range(min = 1, max = 3_600))]
    pub retry_after_s: u16,
}

impl Default for Balance {
    fn default() -> Self {
        Balance::Rule(BalanceRule::default())
    }
}

impl Balance {
    /// The rule, however it is written.
    pub fn rule(&self) -> BalanceRule {
        match self {
            Balance::Rule(rule) => *rule,
            Balance::Detailed(settings) => settings.rule,
        }
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 5,
            consecutive_local_failures: 3,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejected_percent: 50,
            success_rate: None,
            failure_percent: None,
            latency: None,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        SuccessRate { stdev_factor_thousandths: 1_900, minimum_hosts: 5, request_volume: 100 }
    }
}

impl Default for FailurePercent {
    fn default() -> Self {
        FailurePercent { threshold: 85, request_volume: 50 }
    }
}

impl Default for LatencyOutlier {
    fn default() -> Self {
        LatencyOutlier {
            factor_hundredths: 300,
            minimum_difference: Duration::from_millis(100),
            minimum_hosts: 3,
            request_volume: 20,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker {
            window: Duration::from_secs(10),
            requests_min: 20,
            error_percent: 50,
            slow: None,
            slow_percent: 50,
            rejecting: Duration::from_secs(5),
            rejecting_max: Duration::from_secs(60),
            probes: 3,
        }
    }
}

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        AdaptiveConcurrency { min: 4, max: 1_000, initial: 32 }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        RetryBudget { percent: 20, min_per_second: 10, concurrent_max: 1_024 }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            on: vec![
                RetryOn::ConnectFailure,
                RetryOn::RefusedStream,
                RetryOn::Reset,
                RetryOn::PerTryTimeout,
                RetryOn::GatewayError,
            ],
            statuses: Vec::new(),
            grpc_statuses: Vec::new(),
            attempts: 3,
            per_try_timeout: None,
            methods: RetryMethods::Idempotent,
            backoff: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
            retry_after_max: Duration::from_secs(1),
            body_bytes: Size::from_bytes(64 << 10),
        }
    }
}

impl Default for Shedding {
    fn default() -> Self {
        Shedding {
            requests_max: OffOrCount::Off(Off::Off),
            low_percent: 75,
            normal_percent: 90,
            retry_after_s: 1,
        }
    }
}

fn default_min_percent() -> u8 {
    10
}

fn default_check_interval() -> Duration {
    Duration::from_secs(5)
}

fn default_jitter_percent() -> u8 {
    10
}

fn default_check_timeout() -> Duration {
    Duration::from_secs(1)
}

fn default_healthy_threshold() -> u32 {
    2
}

fn default_unhealthy_threshold() -> u32 {
    3
}

fn default_expected() -> Vec<String> {
    vec!["200-299".to_owned()]
}
