//! How a redirection is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A redirection. Either `location`, or the parts of the URL that change (at least one).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    #[serde(default = "default_redirect_status")]
    #[schemars(range(min = 301, max = 308))]
    pub status: u16,
    /// The whole Location field, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host of the new URL. Absent: the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port of the new URL. Absent: none is written when `scheme` or `host` is given, else the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<u16>,
    /// The path of the new URL. Absent: the request's. The query is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

fn default_redirect_status() -> u16 {
    302
}
