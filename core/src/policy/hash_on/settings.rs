//! What is hashed, as it is written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::forms::is_default;

/// What is hashed; exactly one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HashOn {
    /// The value of a header field. Of `host` as it is matched: in lower case, without port and without the dot at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The value of a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// `true`: the client's address, by the listener's `trusted_hops`.
    #[serde(skip_serializing_if = "is_default")]
    pub client_address: bool,
}
