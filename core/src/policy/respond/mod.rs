//! Answers of our own.

pub(crate) mod compile;
pub mod explain;
pub mod settings;

pub use compile::Respond;
