//! The end-to-end suites, one module each, in one binary so that they link once. Every test runs on both drivers.

// Counters are whole numbers far below 2^53, which f64 holds exactly: equality is what is meant.
#![allow(clippy::float_cmp)]

mod access_log;
mod admin;
mod balance;
mod balancing;
mod bodies;
mod breaking;
mod canaries;
mod descriptors;
mod drain;
mod errors;
mod event_streams;
mod grpc;
mod grpc_retries;
mod grpc_tonic;
mod grpc_web;
mod h2_abuse;
mod h2_backlog;
mod h2_front;
mod h2_pairs;
mod h2_pool;
mod h2_smuggling;
mod headers;
mod health;
mod http10;
mod keep_alive;
mod limits;
mod logs;
mod memory;
mod methods;
mod mirrors;
mod panics;
mod peers;
mod pipelining;
mod pools;
mod private_connections;
mod process;
mod proxy_protocol;
mod rate_limits;
mod reload;
mod retries;
mod routing;
mod slow_and_leaving;
mod slow_start;
mod smuggling;
mod splits;
mod timeouts;
mod tls;
mod tls_hostile;
mod tls_reload;
mod tls_sessions;
mod tls_upstream;
mod tunnels;
