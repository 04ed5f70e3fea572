//! How an adaptive limit is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

impl Default for AdaptiveConcurrency {
    fn default() -> Self {
        AdaptiveConcurrency { min: 4, max: 1_000, initial: 32 }
    }
}
