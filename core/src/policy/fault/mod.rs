//! Faults made on purpose: requests that wait or fail, to see how clients bear it.

pub(crate) mod compile;
pub mod explain;
pub mod settings;

pub use compile::FaultInjection;
