//! Redirections.

pub(crate) mod compile;
pub mod explain;
pub mod settings;

pub use compile::{Redirect, RedirectTarget, Scheme};
