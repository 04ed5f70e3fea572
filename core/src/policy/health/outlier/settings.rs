//! How outlier detection is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::units::Duration;

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
