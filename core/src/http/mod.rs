//! Sans-IO HTTP: bytes in, facts and bytes out. No sockets, no clock, no policy, no configuration.

pub mod chunked;
pub mod content;
#[doc(hidden)]
pub mod corpus;
pub mod flow;
pub mod framing;
pub mod grammar;
pub mod grpc;
pub mod grpc_web;
pub mod http1;
pub mod http2;
pub mod message;
pub mod proxy_protocol;
pub mod rewrite;
pub mod transform;
pub mod upgrade;
