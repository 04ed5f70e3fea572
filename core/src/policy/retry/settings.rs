//! How retries, their budget and hedges are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::units::{Duration, Size};

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
    /// How long one attempt may take to its response's head; from the end of a body that is uploaded as it comes. Absent: as long as the request may.
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
    /// The connection ended before the whole head of the response, so that the client has seen nothing of it.
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
