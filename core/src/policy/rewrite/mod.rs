//! What is changed in the request's line and Host before it is sent on.

pub(crate) mod compile;
mod decide;
pub mod explain;
pub mod settings;

pub use decide::PathRewrite;
