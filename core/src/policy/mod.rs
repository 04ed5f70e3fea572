//! Pure decisions: functions of settings, state, the request and the time passed in.
pub mod balance;
pub mod breaker;
pub mod canary;
pub mod chance;
pub mod concurrency;
pub mod deadline;
pub mod health;
pub mod outlier;
pub mod rate_limit;
pub mod retry;
pub mod route;
pub mod shed;
pub mod split;
