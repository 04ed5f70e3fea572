//! How changes to header fields are written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::forms::OneOrMany;

/// Changes to header fields: `remove`, then `set`, then `add`. Fields that frame the message or concern one connection, and Host, are refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderOps {
    /// Fields that are there afterwards with this value alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Field lines to add to those that are there: a value or a list of values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, OneOrMany>,
    /// Fields to take out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}
