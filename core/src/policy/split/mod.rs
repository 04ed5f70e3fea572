//! Which destination a request goes to, where there are several; canaries move the shares by themselves.

pub mod canary;
pub(crate) mod compile;
mod decide;
pub mod explain;
pub mod settings;

pub use compile::{Arm, Canary, Destination, Split};
pub use decide::{Override, Point, Shares, WHOLE_BP};

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::NoArm];
