//! The load harness against itself: its origin, its generator, its comparison, over real sockets.

mod command_line;
mod generator;
mod http2;
mod origin;
mod support;
mod tls;
