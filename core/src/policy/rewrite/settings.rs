//! How a route says what is changed in the request's line and Host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is changed in the request's line and Host before it is sent on. At most one of the four paths.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// Replaces the prefix that `match.path.prefix` matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Replaces the whole path. The query is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Replaces the whole path, with what the variables of `match.path.template` stand for: `/v2/users/{id}`. The query is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_template: Option<String>,
    /// Replaces each match of a regular expression in the path. The query is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_regex: Option<PathRegex>,
    /// The Host field to send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// A regular expression and what stands in place of its matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PathRegex {
    /// The expression. It is not anchored.
    pub pattern: String,
    /// The substitution; `$1`, `${1}` and `${name}` stand for groups, `$$` for a dollar sign.
    pub substitution: String,
}
