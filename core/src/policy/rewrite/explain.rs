//! What a rewrite makes of a path.

use super::PathRewrite;
use crate::policy::explain::line;

/// Whether the request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With the path that was told.
    GoesOn,
    /// The outcome is no path.
    Refused,
}

/// The path that is sent.
pub fn path(rewrite: &PathRewrite, path: &[u8], out: &mut String) -> Outcome {
    match rewrite.apply(path) {
        None => {
            line(out, "refused", format_args!("rewrite_made_no_path (400)"));
            return Outcome::Refused;
        }
        Some(path) if !matches!(rewrite, PathRewrite::Keep) => {
            line(out, "rewrite", format_args!("path {}", String::from_utf8_lossy(&path)));
        }
        Some(_) => {}
    }
    Outcome::GoesOn
}
