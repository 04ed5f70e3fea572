//! A circuit breaker: when too many requests to an upstream fail or are slow, it rejects them for a while.

pub(crate) mod compile;
mod decide;
pub mod explain;
pub mod settings;

pub use decide::{Breaker, Numbers, Outcome, Permit, Rejected, Settings, State};

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::BreakerRejecting];
