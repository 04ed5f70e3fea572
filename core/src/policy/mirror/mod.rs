//! Copies of requests for other upstreams, whose answers nobody sees.

pub(crate) mod compile;
pub mod explain;
pub mod settings;

pub use compile::Mirror;

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[
    ReasonCode::MirrorBodyTooLarge,
    ReasonCode::MirrorNoMemory,
    ReasonCode::MirrorOfACopy,
    ReasonCode::MirrorBusy,
    ReasonCode::MirrorUnavailable,
    ReasonCode::MirrorTimeout,
    ReasonCode::MirrorFailed,
];
