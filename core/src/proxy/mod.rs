//! The path of a request through one worker, from its first byte to its last.
//!
//! `connection` keeps a client's connection, `request` reads like the list of phases in ARCHITECTURE.md, `attempt` is
//! one try at one endpoint, `exchange` moves bodies with `pump`, `grpc_web` shapes the heads of a translated call, `respond` makes the answers that are our own.
//! All of it is generic over [`Platform`](crate::net::platform::Platform), so it runs over a simulated world as well.

mod again;
mod attempt;
mod caller;
pub mod connection;
pub mod core;
mod exchange;
pub mod explain;
mod grpc_web;
pub mod handshake;
mod hedge;
mod hop;
mod in_hand;
mod inject;
pub mod limiting;
pub mod limits;
pub mod log;
mod lookup;
mod mirror;
mod multiplex;
mod plan;
mod pump;
mod record;
mod replay;
mod request;
mod respond;
mod shape;
pub mod split;
pub mod standing;
pub mod trial;
mod tunnel;
pub mod upstream;
mod watch;
