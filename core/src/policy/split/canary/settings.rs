//! How a canary is written, and where its decisions are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::units::Duration;

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
