//! The control thread: everything slow or blocking. Configuration, names, signals, admin, the workers' life.
//!
//! It runs a tokio runtime of its own, so that clients of other systems can run here; no worker ever waits for it.

mod canaries;
pub mod dns;
pub mod limits;
pub mod order;
pub mod plane;
pub mod prepare;
pub mod prober;
mod tls;
mod upstreams;
