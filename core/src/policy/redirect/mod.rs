//! Redirections.

pub(crate) mod compile;
pub mod explain;
pub mod settings;

pub use compile::{Redirect, RedirectTarget, Scheme};

use crate::base::reason::ReasonCode;

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::NoHost];
