//! The settings of traffic: how a route's requests are divided among upstreams, copied to others, and made to fail on
//! purpose. Their meaning is the policies' own (`policy::split` and its neighbours); here is how they are written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, FieldMatch, HashOn, Size};

/// A gRPC call: its path is `/service/method`, its Content-Type `application/grpc`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcMatch {
    /// The service with its package, as in `shop.v1.Orders`. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// How a route's requests are divided among several upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Where requests go.
    #[schemars(length(min = 1))]
    pub arms: Vec<Arm>,
    /// What keeps a client on its arm, over reloads and on every proxy: a stable hash of this. A request without it is drawn at random. Absent: each request is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// The name of the one arm that takes everything, whatever the weights: for a switch from blue to green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// Move requests to a new version step by step, and back if it does worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// One of the places that a split divides requests among.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// The upstream's name.
    pub upstream: String,
    /// What logs and metrics call it, unique in its split. Absent: the upstream's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its share, relative to the other arms. 0 takes nothing but what `match` says. Absent: 1. Not for the arm of a `canary`, whose share is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<u32>,
    /// Only endpoints with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subset: BTreeMap<String, String>,
    /// Requests that go here whatever the weights. The first arm that agrees takes them.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<ArmMatch>,
}

/// Requests by what they carry. Everything that is named must agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArmMatch {
    /// Header fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
    /// Query parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<FieldMatch>,
    /// Cookies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<FieldMatch>,
}

/// A new version that gets its share of the requests by steps. The proxy compares it with the old one, by errors and by latency, and goes forward or back by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The name of the arm with the new version.
    pub arm: String,
    /// The name of the arm that it is compared with. Absent: the other one, where there is but one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// What is being tried, in any words. Another text, or other endpoints of the arm's upstream, begin anew; so does a restart of the process.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its shares of the requests, in per cent, one after another. After the last it stays there.
    #[serde(default = "default_steps")]
    #[schemars(length(min = 1))]
    pub steps: Vec<f64>,
    /// How long each step lasts at the least; at least 1s.
    #[serde(default = "default_step_interval")]
    pub interval: Duration,
    /// Requests to the new version that a good verdict needs at the least. What the comparison needs to be sure comes on top.
    #[serde(default = "default_step_requests_min")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests_min: u64,
    /// Good verdicts in a row, one a second, before the next step.
    #[serde(default = "default_confirm")]
    #[schemars(range(min = 1, max = 1_000))]
    pub confirm: u32,
    /// After how long on one step it is said that nothing moves.
    #[serde(default = "default_stalled_after")]
    pub stalled_after: Duration,
    /// How many errors (5xx, and responses that were cut) the new version may have.
    #[serde(default)]
    pub errors: CanaryErrors,
    /// How slow it may be.
    #[serde(default)]
    pub latency: CanaryLatency,
}

/// Bounds on a new version's errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CanaryErrors {
    /// The largest share of its requests that may fail, in per cent.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent_max: f64,
    /// By how much that share may be above the old version's, in per cent of the requests.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub above_baseline_percent_max: f64,
}

/// Bounds on a new version's latency, to the response's head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CanaryLatency {
    /// Which quantile is compared, in per cent: 99 is the p99.
    #[schemars(range(min = 1.0, max = 99.99))]
    pub quantile_percent: f64,
    /// It may take so many times as long as the old version's. Latencies are told apart by 6 %, so 1.2 is the least that makes sense.
    #[schemars(range(min = 1.2, max = 1_000.0))]
    pub times_max: f64,
    /// Or so much longer, whichever is more.
    pub floor: Duration,
}

impl Default for CanaryErrors {
    fn default() -> Self {
        CanaryErrors { percent_max: 5.0, above_baseline_percent_max: 1.0 }
    }
}

impl Default for CanaryLatency {
    fn default() -> Self {
        CanaryLatency { quantile_percent: 99.0, times_max: 1.5, floor: Duration::from_millis(10) }
    }
}

/// A copy of requests for another upstream, whose answers nobody sees. The client never waits for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The upstream's name.
    pub upstream: String,
    /// The share of the requests that is copied, in per cent.
    #[serde(default = "hundred_percent")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent: f64,
    /// The largest body that is copied; at most 1MiB. Requests with a larger one are not copied.
    #[serde(default = "default_mirror_body_bytes")]
    pub body_bytes: Size,
    /// Copies under way at once, for each worker. Beyond it, requests are not copied.
    #[serde(default = "default_mirror_in_flight_max")]
    #[schemars(range(min = 1, max = 10_000))]
    pub in_flight_max: u32,
    /// How long a copy may take, its answer included.
    #[serde(default = "default_mirror_timeout")]
    pub timeout: Duration,
}

/// Faults made on purpose, to see how clients bear them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FaultInjection {
    /// Requests that wait before anything becomes of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Requests that are answered with an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
    /// Only requests whose header fields agree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
}

/// A wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultDelay {
    /// How long; at most 10m.
    pub duration: Duration,
    /// Of which share of the requests, in per cent.
    #[serde(default = "hundred_percent")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent: f64,
}

/// An error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultAbort {
    /// The response's status.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// For which share of the requests, in per cent.
    #[serde(default = "hundred_percent")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent: f64,
}

/// Where decisions on canaries are written, a line of JSON each. They also stand among the process's own lines and on the admin interface (`/canaries`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecisionLog {
    /// `off`, `stdout`, `stderr` or the path of a file.
    pub path: String,
}

impl Default for DecisionLog {
    fn default() -> Self {
        DecisionLog { path: "off".to_owned() }
    }
}

fn default_steps() -> Vec<f64> {
    vec![1.0, 5.0, 25.0, 50.0, 100.0]
}

fn default_step_interval() -> Duration {
    Duration::from_secs(60)
}

fn default_step_requests_min() -> u64 {
    100
}

fn default_confirm() -> u32 {
    5
}

fn default_stalled_after() -> Duration {
    Duration::from_secs(1_800)
}

fn hundred_percent() -> f64 {
    100.0
}

fn default_mirror_body_bytes() -> Size {
    Size::from_bytes(64 << 10)
}

fn default_mirror_in_flight_max() -> u32 {
    100
}

fn default_mirror_timeout() -> Duration {
    Duration::from_secs(10)
}
