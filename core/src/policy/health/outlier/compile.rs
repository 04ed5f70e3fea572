//! Outlier detection, compiled.

use std::time::Duration;

use super::{FailurePercentage, Latency, LocalOrigin, Settings, SuccessRate, settings};
use crate::policy::health::Ejection;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// Who is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    pub outlier: Settings,
    pub ejection: Ejection,
    /// Between two comparisons.
    pub interval: Duration,
}

pub(crate) fn compile(
    found: &mut Diagnostics,
    item: &At<'_>,
    raw: Option<&settings::OutlierDetection>,
) -> Option<OutlierDetection> {
    let raw = raw?;
    let at = item.field("outlier_detection");
    if raw.interval.as_std() < Duration::from_secs(1) {
        found.bad_value(&at.field("interval"), "endpoints are compared at most once a second; at least 1s");
    }
    if raw.max_ejection_time < raw.base_ejection_time {
        found
            .errors
            .add(
                ProblemKind::Conflict,
                &at.field("max_ejection_time"),
                format_args!("{} is shorter than the first ejection", raw.max_ejection_time),
            )
            .with(&at.field("base_ejection_time"));
    }
    let row = |count: u32| Some(count).filter(|count| *count > 0);
    Some(OutlierDetection {
        outlier: Settings {
            consecutive_5xx: row(raw.consecutive_5xx),
            consecutive_gateway_failure: row(raw.consecutive_gateway_errors),
            consecutive_local_origin_failure: row(raw.consecutive_local_failures),
            local_origin: LocalOrigin::Joined,
            success_rate: raw.success_rate.as_ref().map(|rule| SuccessRate {
                minimum_hosts: rule.minimum_hosts,
                request_volume: rule.request_volume,
                stdev_factor: f64::from(rule.stdev_factor_thousandths) / 1_000.0,
            }),
            failure_percentage: raw.failure_percent.as_ref().map(|rule| FailurePercentage {
                threshold: rule.threshold,
                minimum_hosts: 1,
                request_volume: rule.request_volume,
            }),
            latency: raw.latency.as_ref().map(|rule| Latency {
                factor: f64::from(rule.factor_hundredths) / 100.0,
                difference_us_min: rule.minimum_difference.as_std().as_micros() as u64,
                minimum_hosts: rule.minimum_hosts,
                request_volume: rule.request_volume,
            }),
        },
        ejection: Ejection {
            base_ms: raw.base_ejection_time.millis(),
            max_ms: raw.max_ejection_time.millis(),
            // A tenth: endpoints that went together do not come back together.
            jitter_ms_max: raw.base_ejection_time.millis() / 10,
            interval_ms: raw.interval.millis(),
            percent_max: raw.max_ejected_percent,
        },
        interval: raw.interval.as_std(),
    })
}
