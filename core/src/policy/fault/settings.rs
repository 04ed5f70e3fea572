//! How faults made on purpose are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::route::settings::FieldMatch;
use crate::settings::forms::hundred_percent;
use crate::settings::units::Duration;

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
