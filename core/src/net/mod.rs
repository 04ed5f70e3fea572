//! Sockets, memory and the runtime under them: the only folder that names monoio or makes system calls.
//!
//! The engine waits on the ring (or on epoll) for readiness and then reads, writes and splices with direct
//! non-blocking calls. Measured on this engine's first exchange (docs/performance.md), that costs the same as handing
//! owned buffers to the ring, and it takes three kinds of trouble away: a dropped wait loses no bytes, no buffer is
//! ever owned by the kernel, and splice(2) needs no switch of `O_NONBLOCK`. Every socket here has `O_NONBLOCK` set.

pub mod agreed;
pub mod alarm;
pub mod connect;
pub mod descriptors;
pub mod doorbell;
pub mod driver;
pub mod h2;
pub mod identity;
pub mod listener;
pub mod liveness;
pub mod memory;
pub mod pipe;
pub mod platform;
pub mod probe;
pub mod proxied;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod transport;
mod watched;
