//! The path of a request through one worker, from its first byte to its last.
//!
//! Read it from the top: `connection` keeps a client's connection, `request` is one exchange from its head to its record,
//! `phases` decide, `forward` is the attempt loop, `attempt` one try at one endpoint, `relay` awaits the response and relays
//! it. They share `exchange`, and bodies move through `body`. `respond` makes the answers that are our own.
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
