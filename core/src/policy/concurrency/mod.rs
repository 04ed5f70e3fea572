//! An adaptive limit on the requests in flight to an upstream.

pub(crate) mod compile;
mod decide;
pub mod settings;

pub use decide::{Limited, Limiter, Numbers, Outcome, Settings};

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::UpstreamConcurrencyLimit];
