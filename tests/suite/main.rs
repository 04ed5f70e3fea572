//! The end-to-end suites, one module each, in one binary so that they link once. Every test runs on both drivers.

mod bodies;
mod http10;
mod keep_alive;
mod methods;
mod pipelining;
mod pools;
mod slow_and_leaving;
mod tunnels;
