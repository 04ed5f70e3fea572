//! What settings of every kind are made of: places in the file, units, addresses, reports, the reader.
//!
//! Knows no policy and no file's shape: policies define their settings with these (`policy::*::settings`), and `config`
//! puts the file together. Imports nothing but `base`.

pub mod address;
pub(crate) mod check;
pub(crate) mod diagnostics;
pub mod forms;
pub mod report;
pub(crate) mod text;
pub mod units;
pub(crate) mod yaml;
