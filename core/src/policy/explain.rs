//! What people are told of a policy: a name and a text, a line each.

use std::fmt::{Arguments, Write as _};

/// Appends a line.
pub fn line(out: &mut String, name: &str, text: Arguments<'_>) {
    let _ = writeln!(out, "{name:<16}{text}");
}
