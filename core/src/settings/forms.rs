//! Forms that settings of many kinds have, and the defaults that serde asks for by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The word `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    Off,
}

/// A number, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OffOrCount {
    Off(Off),
    Count(u32),
}

/// One text or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn new(texts: &[&str]) -> Self {
        match texts {
            [one] => OneOrMany::One((*one).to_owned()),
            many => OneOrMany::Many(many.iter().map(|text| (*text).to_owned()).collect()),
        }
    }

    pub fn as_slice(&self) -> &[String] {
        match self {
            OneOrMany::One(one) => std::slice::from_ref(one),
            OneOrMany::Many(many) => many,
        }
    }
}

/// For `#[serde(default)]`.
pub(crate) fn yes() -> bool {
    true
}

/// For `#[serde(default)]`.
pub(crate) fn one() -> u32 {
    1
}

/// For `#[serde(skip_serializing_if)]`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For `#[serde(default)]`.
pub(crate) fn hundred_percent() -> f64 {
    100.0
}
