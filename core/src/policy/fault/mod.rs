//! Faults made on purpose: requests that wait or fail, to see how clients bear it.

pub(crate) mod compile;
pub mod explain;
pub mod settings;

pub use compile::FaultInjection;

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::FaultInjected];
