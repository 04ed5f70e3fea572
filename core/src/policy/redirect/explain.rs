//! Where a client is sent.

use super::Redirect;
use crate::policy::explain::line;

/// `location`: the field that is written, if the request says enough to write it.
pub fn explain(redirect: &Redirect, location: Option<&[u8]>, out: &mut String) {
    match location {
        Some(location) => {
            let location = String::from_utf8_lossy(location);
            line(out, "answer", format_args!("{} to {location}", redirect.status));
        }
        None => line(out, "refused", format_args!("no_host (400)")),
    }
}
