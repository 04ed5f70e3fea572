//! How rate limits and limits of requests in flight are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::forms::{is_default, one};
use crate::settings::units::Duration;

/// Limits by key: of requests in a time, and of requests at once. Routes name those that apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimits {
    /// Limits of requests in a time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rates: Vec<RateLimit>,
    /// Limits of requests at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_flight: Vec<InFlightLimit>,
    /// Keys that the node counts at once, for rates and for requests at once each; about 19 bytes apiece. Give twice as many as are in use within the time that a bucket takes to fill. A change keeps what rates have counted.
    #[schemars(range(min = 1_000, max = 100_000_000))]
    pub keys_max: u32,
    /// Tell clients by `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers).
    pub headers: bool,
}

/// A limit of requests in a time: a token bucket for each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Unique; it keeps its state across reloads.
    pub name: String,
    /// `100/s`, `5000/h`, `10/30s`: so many in each second, minute (`m`), hour, day or other duration.
    pub rate: String,
    /// How many at once after a pause. Absent: as many as the rate counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<u32>,
    /// What is counted apart. Absent: all requests together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<KeyPart>,
    /// What a request takes of it. A route may say otherwise.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub cost: u32,
    /// A header field of the response that says what the request took: it is taken afterwards, into debt if need be, and nothing beforehand. A response without it takes `cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_from_response: Option<String>,
    /// Whether it refuses, or only counts what it would have refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mode: LimitMode,
    /// Instead of refusing a request that is too early by no more than this, let it wait; at most 1m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_max: Option<Duration>,
}

/// A limit of requests at once, exact over all workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InFlightLimit {
    /// Unique.
    pub name: String,
    /// How many.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: u32,
    /// What is counted apart. Absent: all requests together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<KeyPart>,
    /// Whether a WebSocket, or another tunnel, keeps its place for as long as it lives. Else it gives it back when the
    /// tunnel begins.
    #[serde(default)]
    pub tunnels: bool,
}

/// A part of a request that is counted apart. A request without it counts with all others without it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum KeyPart {
    Word(KeyWord),
    Field(KeyField),
}

/// A part without a name of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyWord {
    /// By the listener's `trusted_hops`. Of an IPv6 address the first 64 bits: that is what one client has.
    ClientAddress,
    Listener,
    Route,
    /// In lower case, without port and without the dot at its end, as it is matched.
    Host,
    Method,
    /// Without the query.
    Path,
}

/// A part with a name; exactly one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyField {
    /// The first header field of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The first cookie of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The first query parameter of this name, both decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// Whether a limit refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitMode {
    #[default]
    Enforce,
    Shadow,
}

/// A limit that applies to a route: its name, or with what a request takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum AppliedLimit {
    Name(String),
    WithCost(CostedLimit),
}

/// A rate limit and what this route's requests take of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CostedLimit {
    /// The rate limit's name.
    pub name: String,
    /// What a request takes.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub cost: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        RateLimits { rates: Vec::new(), in_flight: Vec::new(), keys_max: 100_000, headers: true }
    }
}

impl AppliedLimit {
    pub fn name(&self) -> &str {
        match self {
            AppliedLimit::Name(name) => name,
            AppliedLimit::WithCost(costed) => &costed.name,
        }
    }
}
