//! Which requests a worker refuses when it has too much to do.

pub(crate) mod compile;
mod decide;
pub mod explain;
pub mod settings;

pub use compile::Shedding;
pub use decide::{Class, Load, OVERLOAD_MEMORY, OVERLOAD_REQUESTS, Settings, Verdict, decide};

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::OverloadRequests, ReasonCode::OverloadMemory];
