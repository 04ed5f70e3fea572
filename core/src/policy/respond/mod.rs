//! Answers of our own.

pub(crate) mod compile;
pub mod settings;

pub use compile::Respond;
