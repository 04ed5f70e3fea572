//! Pure decisions: functions of settings, state, the request and the time passed in.
pub mod balance;
pub mod rate_limit;
pub mod route;
