//! The path of a request through one worker, from its first byte to its last.
//!
//! `connection` keeps a client's connection, `request` reads like the list of phases in ARCHITECTURE.md, `attempt` is
//! one try at one endpoint, `exchange` moves bodies with `pump`, `grpc_web` shapes the heads of a translated call, `respond` makes the answers that are our own.
//! All of it is generic over [`Platform`](crate::net::platform::Platform), so it runs over a simulated world as well.

mod again;
mod attempt;
pub mod connection;
pub mod core;
mod exchange;
pub mod explain;
mod grpc_web;
pub mod handshake;
mod hedge;
mod hop;
mod inject;
pub mod limiting;
pub mod log;
mod mirror;
mod multiplex;
mod pump;
mod record;
mod replay;
mod request;
mod respond;
mod shape;
pub mod split;
pub mod standing;
mod tunnel;
pub mod upstream;
