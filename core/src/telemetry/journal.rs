//! What the process itself has to say, one line each, on standard error. Nothing of a request, no secrets.

use std::fmt::Display;

/// Something an operator may want to know.
pub fn info(text: impl Display) {
    eprintln!("ringway: {text}");
}

/// Something an operator should look into; the process goes on.
pub fn warn(text: impl Display) {
    eprintln!("ringway: warning: {text}");
}
