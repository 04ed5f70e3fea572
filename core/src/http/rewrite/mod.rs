//! What a proxy changes in a message: fields, forwarding facts and the path. Each compiled once, applied many times.
//!
//! `http1::encode` applies the fields, routing applies the path. Nothing here may touch framing, hop-by-hop fields or
//! Host: those have one owner each, and a setting that names them is refused when it is compiled.

pub mod fields;
pub mod forwarding;
pub mod path;

pub use fields::{HeaderOps, HeaderOpsError};
pub use forwarding::{Forwarding, ForwardingValues, client_address};
pub use path::{PathError, normalise_path, routed_path};
