//! Where a split would send a request.

use super::{Canary, Split};
use crate::policy::explain::line;
use crate::policy::hash_on::HashOn;

/// Whether a canary's share is that of a running process, or the one that it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareIs {
    /// What workers go by.
    Now,
    /// What is configured.
    AtFirst,
}

/// A canary's share.
pub fn canary(split: &Split, canary: &Canary, share_bp: u32, share_is: ShareIs, out: &mut String) {
    let state = match share_is {
        ShareIs::Now => "now",
        ShareIs::AtFirst => "to begin with",
    };
    let name = &split.arms[canary.arm].name;
    let percent = f64::from(share_bp) / 100.0;
    line(out, "canary", format_args!("{name}: {percent} % of the requests {state}"));
}

/// The arm whose own match takes the request.
pub fn matched(split: &Split, arm: usize, out: &mut String) {
    line(out, "arm", format_args!("{} (by its own match)", split.arms[arm].name));
}

/// The arm that the hash of a key leads to.
pub fn hashed(split: &Split, arm: usize, out: &mut String) {
    let why = match &split.hash_on {
        Some(HashOn::Host) => "by the hash of the host".to_owned(),
        Some(HashOn::Header(name)) => format!("by the hash of the header `{name}`"),
        Some(HashOn::Cookie(name)) => format!("by the hash of the cookie `{name}`"),
        _ => "by the hash of the client's address".to_owned(),
    };
    line(out, "arm", format_args!("{} ({why})", split.arms[arm].name));
}

/// Any arm.
pub fn drawn(split: &Split, out: &mut String) {
    let names: Vec<&str> = split.arms.iter().map(|arm| &*arm.name).collect();
    line(out, "arm", format_args!("drawn at random by the shares of {}", names.join(", ")));
}

/// No arm.
pub fn none(out: &mut String) {
    line(out, "refused", format_args!("no_arm (503): all shares are nothing"));
}
