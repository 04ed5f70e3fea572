//! The path of a request through one worker, from its first byte to its last.
//!
//! `connection` keeps a client's connection, `request` reads like the list of phases in ARCHITECTURE.md, `attempt` is
//! one try at one endpoint, `exchange` moves bodies with `pump`, `grpc_web` shapes the heads of a translated call, `respond` makes the answers that are our own.
//! All of it is generic over [`Platform`](crate::net::platform::Platform), so it runs over a simulated world as well.

mod attempt;
mod body;
mod caller;
mod choose;
mod connect;
pub mod connection;
pub mod core;
mod downstream;
mod exchange;
pub mod explain;
mod finish;
mod forward;
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
mod phases;
mod plan;
mod record;
mod relay;
mod request;
mod respond;
mod response;
mod retry;
mod shape;
pub mod split;
pub mod standing;
pub mod trial;
mod tunnel;
pub mod upstream;
mod watch;
