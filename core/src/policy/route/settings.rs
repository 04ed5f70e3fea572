//! How a route says which requests it takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which requests. Everything that is named must agree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// Host names, without a port. `*.example.org` stands for one or more labels. Absent: any host. The more specific one wins: exact, then the longest wildcard, then any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub hosts: Option<Vec<String>>,
    /// The path. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Methods, in capitals. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub methods: Option<Vec<String>>,
    /// Header fields that must all agree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
    /// Query parameters that must all agree, compared after percent-decoding. Of a repeated parameter the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<FieldMatch>,
    /// Cookies that must all agree. Of several of one name the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<FieldMatch>,
    /// gRPC calls. Not with `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
    /// The client's address, by the listener's `trusted_hops`: addresses, or networks as in `10.0.0.0/8`. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub source_addresses: Option<Vec<String>>,
    /// The name that the client asked for in its TLS handshake (SNI), written as `hosts` are. Absent: any, and connections without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub server_names: Option<Vec<String>>,
}

/// A path; exactly one of the four. An exact path comes before a template, a template before a regex, a regex before a prefix, a longer prefix before a shorter one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PathMatch {
    /// The whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// Whole leading segments: `/users` matches `/users` and `/users/7`, not `/usersx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The whole path with variables: `/users/{id}` stands for any one segment in place of `{id}`; a last `{rest=**}` for any number of segments, also none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// A regular expression for the whole path (it is anchored at both ends), in the syntax of Rust's regex crate, over bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// A header field, query parameter or cookie; exactly one of `exact`, `prefix`, `regex` and `present`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldMatch {
    /// Its name; of header fields in any case.
    pub name: String,
    /// The whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// The start of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// A regular expression for the whole value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// `true`: it must be there, with any value. `false`: it must not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// A gRPC call: its path is `/service/method`, its Content-Type `application/grpc`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcMatch {
    /// The service with its package, as in `shop.v1.Orders`. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The method. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}
