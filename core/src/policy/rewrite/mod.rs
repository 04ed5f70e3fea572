//! What is changed in the request's line and Host before it is sent on.

pub(crate) mod compile;
mod decide;
pub mod explain;
pub mod settings;

pub use decide::PathRewrite;

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::RewriteMadeNoPath];
