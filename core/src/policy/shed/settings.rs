//! How shedding is written, and what it goes by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::forms::{Off, OffOrCount};

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
