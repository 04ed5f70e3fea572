//! How endpoints are chosen, as it is written: rules, weights, places, labels, cookies.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::hash_on::settings::HashOn;
use crate::settings::forms::{is_default, one};
use crate::settings::units::Duration;

/// An endpoint with more than its address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DetailedEndpoint {
    /// `http://host`, `https://host`, each also with a port, `host:port`, `[ipv6]:port` or `unix:/path`.
    pub address: String,
    /// Its share of the requests, relative to the other endpoints.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000))]
    pub weight: u32,
    /// Endpoints of priority 0 come first. Others take over as far as those before them are unhealthy.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(range(min = 0, max = 15))]
    pub priority: u8,
    /// Where it stands. Within a priority, endpoints in the zone of this proxy (`node.locality`) come first, then those in its region.
    #[serde(default, skip_serializing_if = "is_default")]
    pub locality: Locality,
    /// What a route's `subset` selects by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// This process among others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Where this proxy stands.
    #[serde(skip_serializing_if = "is_default")]
    pub locality: Locality,
}

/// A place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Locality {
    /// For example `eu-west-1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// For example `eu-west-1a`. Needs a `region`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// How an endpoint is chosen: a rule's name, or the rule with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Balance {
    Rule(BalanceRule),
    Detailed(BalanceSettings),
}

/// A rule for choosing endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BalanceRule {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// Of two drawn at random the one with fewer requests in flight for its weight, of those that this worker sent.
    LeastRequests,
    /// Of two drawn at random the one with the lower product of recent latency and requests in flight.
    PeakEwma,
    /// At random, by weight.
    Random,
    /// By a hash of the request on a ring: the same key leads to the same endpoint. Needs `hash_on`.
    RingHash,
    /// By a hash of the request in a table (Google's Maglev): more even than a ring. Needs `hash_on`.
    Maglev,
}

/// A rule with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BalanceSettings {
    /// The rule.
    pub rule: BalanceRule,
    /// What `ring_hash` and `maglev` hash. A request without it goes to an endpoint drawn at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
    /// How fast `peak_ewma` forgets: the time in which an old latency falls to a third of its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decay: Option<Duration>,
}

/// Session affinity: a client stays with its endpoint by a cookie that names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// How long the client keeps it. Absent: until it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Duration>,
    /// Only sent back over https.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secure: bool,
}

/// How an endpoint that is new or back gets its share little by little.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    /// After how long it has its whole share.
    pub window: Duration,
    /// The share that it starts with, in per cent.
    #[serde(default = "default_min_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub min_percent: u8,
}

impl Default for Balance {
    fn default() -> Self {
        Balance::Rule(BalanceRule::default())
    }
}

impl Balance {
    /// The rule, however it is written.
    pub fn rule(&self) -> BalanceRule {
        match self {
            Balance::Rule(rule) => *rule,
            Balance::Detailed(settings) => settings.rule,
        }
    }
}

fn default_min_percent() -> u8 {
    10
}
