//! How a mirror is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::forms::hundred_percent;
use crate::settings::units::{Duration, Size};

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

fn default_mirror_body_bytes() -> Size {
    Size::from_bytes(64 << 10)
}

fn default_mirror_in_flight_max() -> u32 {
    100
}

fn default_mirror_timeout() -> Duration {
    Duration::from_secs(10)
}
