//! How health checks are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::forms::is_default;
use crate::settings::units::Duration;

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
