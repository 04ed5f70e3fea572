//! How a circuit breaker is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::units::Duration;

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
