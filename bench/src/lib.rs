//! The parts of the load harness; `main.rs` puts them on the command line.

pub mod compare;
pub mod duration;
pub mod floor;
pub mod grpc;
pub mod http1;
pub mod http2;
pub mod load;
pub mod net;
pub mod origin;
pub mod report;
pub mod runtime;
pub mod stream;
pub mod tls;
pub mod usage;
