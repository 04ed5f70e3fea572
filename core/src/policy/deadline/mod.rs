//! Time-outs, and how much of its time a request has left.

pub(crate) mod compile;
mod decide;
pub mod explain;
pub mod settings;

pub use compile::{ListenerTimeouts, RouteTimeouts, UpstreamTimeouts};
pub use decide::{Asked, Deadline, Left, TIMEOUT_FIELD, push_field, push_grpc};

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::RequestTimeout, ReasonCode::HopFieldIgnored];
