//! HTTP/2 by the h2 crate, over the streams of this folder.
//!
//! To the request path an HTTP/2 stream is one more [`Transport`](super::stream::Transport): bytes in HTTP/1.1 form.
//! [`http::http2`](crate::http::http2) translates, this folder moves: `wire` gives the h2 crate its reads and writes,
//! `half` the two directions of a stream, `server` and `client` the two ends of a connection. Nothing here decides
//! about requests, and what a peer may do to us is bounded by `guard`, what it makes us hold by `ledger`.

pub mod client;
pub mod guard;
mod half;
mod ledger;
pub mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::io;

/// Bounds of one HTTP/2 connection, from the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Streams open at the same time that the peer may have (server), or that we open on one connection (client).
    pub streams_max: u32,
    /// Bytes of one stream's body that the peer may send ahead of our reading: `SETTINGS_INITIAL_WINDOW_SIZE`.
    pub stream_window: u32,
    /// The same for the whole connection. It bounds what all its streams hold together.
    pub connection_window: u32,
    /// Bytes of a decoded head, as RFC 9113 section 6.5.2 counts them.
    pub header_list_bytes: u32,
}

/// What the h2 crate says, in the words of [`Transport`](super::stream::Transport).
fn broken(error: h2::Error) -> io::Error {
    match error.is_io().then(|| error.get_io()).flatten() {
        Some(inner) => inner.kind().into(),
        None => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}
