//! Time-outs, with their inheritance worked out.

use std::time::Duration;

use super::settings;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerTimeouts {
    pub request_head: Duration,
    pub keep_alive_idle: Duration,
    pub half_closed: Duration,
    pub tls_handshake: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// What routes without their own inherit.
    pub response_head: Option<Duration>,
    pub idle: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteTimeouts {
    pub request: Option<Duration>,
    pub body_idle: Option<Duration>,
    pub tunnel_idle: Option<Duration>,
}

impl ListenerTimeouts {
    pub(crate) fn compile(own: &settings::ListenerTimeouts, all: &settings::Timeouts) -> Self {
        Self {
            request_head: own.request_head.unwrap_or(all.request_head).as_std(),
            keep_alive_idle: own.keep_alive_idle.unwrap_or(all.keep_alive_idle).as_std(),
            half_closed: own.half_closed.unwrap_or(all.half_closed).as_std(),
            tls_handshake: own.tls_handshake.unwrap_or(all.tls_handshake).as_std(),
        }
    }
}

impl UpstreamTimeouts {
    pub(crate) fn compile(own: &settings::UpstreamTimeouts, all: &settings::Timeouts) -> Self {
        Self {
            connect: own.connect.unwrap_or(all.connect).as_std(),
            response_head: own.response_head.unwrap_or(all.response_head).as_std(),
            idle: own.upstream_idle.unwrap_or(all.upstream_idle).as_std(),
        }
    }
}

impl RouteTimeouts {
    pub(crate) fn compile(own: &settings::RouteTimeouts, all: &settings::Timeouts) -> Self {
        Self {
            request: own.request.unwrap_or(all.request).as_std(),
            body_idle: own.body_idle.unwrap_or(all.body_idle).as_std(),
            tunnel_idle: own.tunnel_idle.unwrap_or(all.tunnel_idle).as_std(),
        }
    }
}
