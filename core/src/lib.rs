//! Ringway: one thread-per-core, shared-nothing HTTP proxy engine for the edge and the mesh.
//!
//! The binaries `ringway-edge` and `ringway-sidecar` are thin shells around this crate.
//! ARCHITECTURE.md draws the rooms and says who may import whom.

pub mod admin;
pub mod base;
pub mod config;
pub mod control;
pub mod http;
pub mod net;
pub mod policy;
pub mod proxy;
pub mod server;
pub mod settings;
pub mod telemetry;
pub mod worker;
