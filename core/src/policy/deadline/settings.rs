//! How time-outs are written: for everything, and the overrides of a listener, an upstream and a route.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::settings::units::{Duration, Timeout};

/// Timeouts of everything that does not set its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the first byte of a request (or from the accept, for the first request) to the end of its head.
    pub request_head: Duration,
    /// No byte moved in a request or response body, in either direction. `off` for no bound.
    pub body_idle: Timeout,
    /// The whole exchange, from the end of the request's head to the last byte of the response. Off by default, for it would cut long downloads; stalls are caught by `body_idle` and `response_head`.
    pub request: Timeout,
    /// A client's TLS handshake, from the accept to its end.
    pub tls_handshake: Duration,
    /// Opening a connection to an endpoint, its TLS handshake included.
    pub connect: Duration,
    /// From the end of the request, as sent, to the response's head. `off` for no bound.
    pub response_head: Timeout,
    /// A client's connection without a request.
    pub keep_alive_idle: Duration,
    /// How long a client that has closed its half of the connection, and so may have gone, is served while nothing can be sent to it.
    pub half_closed: Duration,
    /// A pooled connection to an endpoint without a request. Keep it below the endpoint's own.
    pub upstream_idle: Duration,
    /// No byte moved, in either direction, after an upgrade or CONNECT. `off` for no bound.
    pub tunnel_idle: Timeout,
    /// How long requests in flight may go on after a stop or a drain was asked for.
    pub drain: Duration,
}

/// Overrides for a listener; what is absent is taken from the top-level `timeouts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTimeouts {
    /// From the first byte of a request (or from the accept) to the end of its head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_head: Option<Duration>,
    /// A client's connection without a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive_idle: Option<Duration>,
    /// How long a client that has closed its half of the connection is served while nothing can be sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_closed: Option<Duration>,
    /// A client's TLS handshake, from the accept to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_handshake: Option<Duration>,
}

/// Overrides for an upstream; what is absent is taken from the top-level `timeouts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTimeouts {
    /// Opening a connection to an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<Duration>,
    /// From the end of the request to the response's head. A route may override it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_head: Option<Timeout>,
    /// A pooled connection without a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_idle: Option<Duration>,
}

/// Overrides for a route; what is absent is taken from its upstream, then from the top-level `timeouts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RouteTimeouts {
    /// The whole exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Timeout>,
    /// From the end of the request to the response's head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_head: Option<Timeout>,
    /// No byte moved in a body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_idle: Option<Timeout>,
    /// No byte moved after an upgrade or CONNECT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel_idle: Option<Timeout>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            request_head: Duration::from_secs(10),
            body_idle: Timeout::from_secs(30),
            request: Timeout::OFF,
            tls_handshake: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            response_head: Timeout::from_secs(60),
            keep_alive_idle: Duration::from_secs(75),
            half_closed: Duration::from_secs(30),
            upstream_idle: Duration::from_secs(60),
            tunnel_idle: Timeout::from_secs(3_600),
            drain: Duration::from_secs(30),
        }
    }
}
