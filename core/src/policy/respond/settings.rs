//! How a direct answer is written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A direct answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Status code.
    #[serde(default = "default_respond_status")]
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// The body, at most 64KiB; empty when absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// The media type of the body.
    #[serde(default = "default_content_type")]
    pub content_type: String,
    /// Further header fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

fn default_respond_status() -> u16 {
    200
}

fn default_content_type() -> String {
    "text/plain; charset=utf-8".to_owned()
}
