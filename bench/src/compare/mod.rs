//! Proxies side by side: the same load on each in turn, rounds interleaved, cost read from the kernel's accounts.
//!
//! Each contender runs as its own process tree on its own core, with one configuration kept under `peers/`. Load
//! and origin share the other cores. Round after round every contender gets the same phases, so that a machine that
//! becomes slower for a while is slower for all. What is compared is CPU time a request; throughput on few cores
//! says as much about the load as about the proxy.

mod idle;
pub mod peer;
mod process;
pub mod run;
pub mod suite;
pub mod table;

pub use process::launch;
