//! Copies of requests for other upstreams, whose answers nobody sees.

pub(crate) mod compile;
pub mod explain;
pub mod settings;

pub use compile::Mirror;
