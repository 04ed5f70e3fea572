//! The subcommands: arguments in, exit codes and print-outs out. The only part that may use anyhow with main.

pub(crate) mod compare;
pub(crate) mod load;
pub(crate) mod serve;
