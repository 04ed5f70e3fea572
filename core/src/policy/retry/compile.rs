//! The settings of retries, compiled.

use std::num::NonZeroU64;

use super::{BackOff, BudgetSettings, Conditions, Hedge, Methods, Settings, StatusSet, settings};
use crate::base::limits;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};
use crate::settings::units::{Duration, Size};

/// `whole`: how long all attempts together may take.
pub(crate) fn compile(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: Option<&settings::Retry>,
    whole: Option<std::time::Duration>,
) -> Settings {
    let Some(raw) = raw else {
        return Settings {
            attempts_max: limits::ATTEMPTS_MAX,
            back_off: BackOff { base_ms: 0, max_ms: 0 },
            ..Settings::DEFAULT
        };
    };
    let at = item.field("retry");
    let mut conditions = Conditions::NONE;
    for on in &raw.on {
        conditions = conditions.with(match on {
            settings::RetryOn::ConnectFailure => Conditions::CONNECT_FAILURE,
            settings::RetryOn::RefusedStream => Conditions::REFUSED_STREAM,
            settings::RetryOn::Reset => Conditions::RESET,
            settings::RetryOn::PerTryTimeout => Conditions::PER_TRY_TIMEOUT,
            settings::RetryOn::GatewayError => Conditions::GATEWAY_ERROR,
            settings::RetryOn::ServerError => Conditions::SERVER_ERROR,
        });
    }
    for status in &raw.grpc_statuses {
        conditions = conditions.with(match status {
            settings::RetryGrpc::Cancelled => Conditions::CANCELLED,
            settings::RetryGrpc::DeadlineExceeded => Conditions::DEADLINE_EXCEEDED,
            settings::RetryGrpc::Internal => Conditions::INTERNAL,
            settings::RetryGrpc::ResourceExhausted => Conditions::RESOURCE_EXHAUSTED,
            settings::RetryGrpc::Unavailable => Conditions::UNAVAILABLE,
        });
    }
    let mut statuses = StatusSet::EMPTY;
    let list = at.field("statuses");
    for (index, status) in raw.statuses.iter().enumerate() {
        if !(400..=599).contains(status) || !statuses.insert(*status) {
            found.bad_value(
                &list.index(index),
                format_args!("{status}: only failures are tried again, 400 to 599"),
            );
        }
        conditions = conditions.with(Conditions::STATUS_CODES);
    }
    if let (Some(one), Some(whole)) = (raw.per_try_timeout, whole)
        && one.as_std() > whole
    {
        let message =
            format_args!("{one} is longer than the whole request may take, so no second attempt comes");
        found
            .warnings
            .add(ProblemKind::Suspicious, &at.field("per_try_timeout"), message)
            .hint("`timeouts.request` bounds all attempts together");
    }
    let timed_out = raw.on.contains(&settings::RetryOn::PerTryTimeout);
    if raw.per_try_timeout.is_some() && !timed_out {
        let message = "what takes too long is ended, but not tried again";
        found
            .warnings
            .add(ProblemKind::Suspicious, &at.field("per_try_timeout"), message)
            .hint("add `per_try_timeout` to `on`");
    }
    if raw.backoff_max < raw.backoff {
        found
            .errors
            .add(
                ProblemKind::Conflict,
                &at.field("backoff_max"),
                format_args!("{} is shorter than the first wait", raw.backoff_max),
            )
            .with(&at.field("backoff"));
    }
    for (name, wait) in [("backoff_max", raw.backoff_max), ("retry_after_max", raw.retry_after_max)] {
        if wait.millis() > limits::RETRY_WAIT_MS_MAX {
            let max = limits::RETRY_WAIT_MS_MAX / 1_000;
            found.bad_value(&at.field(name), format_args!("{wait} is too long: at most {max}s"));
        }
    }
    if raw.body_bytes.bytes() > limits::RETRY_BODY_BYTES_MAX {
        let (given, max) = (raw.body_bytes, Size::from_bytes(limits::RETRY_BODY_BYTES_MAX));
        found.bad_value(&at.field("body_bytes"), format_args!("{given} is too much: at most {max}"));
    }
    Settings {
        conditions,
        statuses,
        attempts_max: u32::from(raw.attempts),
        methods: match raw.methods {
            settings::RetryMethods::Idempotent => Methods::Idempotent,
            settings::RetryMethods::Any => Methods::Any,
        },
        per_try_timeout_ms: raw.per_try_timeout.and_then(|timeout| NonZeroU64::new(timeout.millis())),
        back_off: BackOff { base_ms: raw.backoff.millis(), max_ms: raw.backoff_max.millis() },
        retry_after_ms_max: raw.retry_after_max.millis(),
        body_bytes_max: raw.body_bytes.bytes(),
    }
}

/// `per_try_timeout`: how long an attempt may take at the most.
pub(crate) fn hedge(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: Option<settings::Hedge>,
    per_try_timeout: Option<Duration>,
) -> Option<Hedge> {
    let raw = raw?;
    if let Some(per_try) = per_try_timeout
        && raw.after >= per_try
    {
        let (at, retry) = (item.field("hedge"), item.field("retry"));
        let message = format_args!("{} is not before the attempt's own end, so no hedge comes", raw.after);
        found
            .warnings
            .add(ProblemKind::Suspicious, &at.field("after"), message)
            .with(&retry.field("per_try_timeout"));
    }
    Some(Hedge { after_ms: NonZeroU64::new(raw.after.millis())?, ..Hedge::DEFAULT })
}

pub(crate) fn budget(raw: settings::RetryBudget) -> BudgetSettings {
    BudgetSettings {
        percent: raw.percent,
        min_per_second: raw.min_per_second,
        retries_max: raw.concurrent_max,
    }
}
