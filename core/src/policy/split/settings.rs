//! How a route's requests are divided among several upstreams.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::canary::settings::Canary;
use crate::policy::hash_on::settings::HashOn;
use crate::policy::route::settings::FieldMatch;

/// How a route's requests are divided among several upstreams.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Where requests go.
    #[schemars(length(min = 1))]
    pub arms: Vec<Arm>,
    /// What keeps a client on its arm, over reloads and on every proxy: a stable hash of this. A request without it is drawn at random. Absent: each request is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// The name of the one arm that takes everything, whatever the weights: for a switch from blue to green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// Move requests to a new version step by step, and back if it does worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// One of the places that a split divides requests among.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// The upstream's name.
    pub upstream: String,
    /// What logs and metrics call it, unique in its split. Absent: the upstream's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its share, relative to the other arms. 0 takes nothing but what `match` says. Absent: 1. Not for the arm of a `canary`, whose share is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<u32>,
    /// Only endpoints with all of these labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subset: BTreeMap<String, String>,
    /// Requests that go here whatever the weights. The first arm that agrees takes them.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<ArmMatch>,
}

/// Requests by what they carry. Everything that is named must agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArmMatch {
    /// Header fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
    /// Query parameters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<FieldMatch>,
    /// Cookies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<FieldMatch>,
}
