//! Where configurations come from.

pub mod file;
