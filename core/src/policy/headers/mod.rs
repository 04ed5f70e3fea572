//! Changes to header fields of requests and responses.

pub(crate) mod compile;
pub mod settings;

pub use crate::http::rewrite::HeaderOps;
