//! The settings of resilience, compiled to what the policies take: balancing, health, breaking, retries, shedding.

use super::Compiler;
use crate::base::limits;
use crate::config::raw::{self, BalanceRule};
use crate::config::snapshot::{Balance, HashOn, Hashing, OutlierDetection, Shedding};
use crate::policy::balance::hash::{MaglevSettings, RingSettings, Shape};
use crate::policy::balance::slow_start::{self, Curve};
use crate::policy::balance::sticky::{Cookie, Travel};
use crate::policy::balance::subset::Labels;
use crate::policy::balance::tiers::Locality;
use crate::policy::balance::{Rule, ewma};
use crate::policy::health::check::{self, HttpProbe, HttpVersion, Probe};
use crate::policy::{breaker, concurrency, health, outlier, retry, shed};
use crate::settings::address::host_field;
use crate::settings::report::{At, ProblemKind};
use crate::settings::text::is_token;
use std::collections::BTreeMap;
use std::num::{NonZeroU8, NonZeroU64};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// The shortest interval of health checks.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Compiler<'_> {
    pub(super) fn shedding(&mut self) -> Shedding {
        let raw = &self.raw.shedding;
        let at = At::Root.field("shedding");
        if raw.low_percent > raw.normal_percent {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &at.field("low_percent"),
                    format_args!(
                        "routes of priority `low` would be refused later ({} %) than those of `normal` ({} %)",
                        raw.low_percent, raw.normal_percent
                    ),
                )
                .with(&at.field("normal_percent"));
        }
        Shedding {
            in_flight_max: self.off_or_count(&at.field("requests_max"), raw.requests_max),
            levels: shed::Settings {
                low_percent: raw.low_percent,
                normal_percent: raw.normal_percent,
                high_percent: 100,
                retry_after_s: u32::from(raw.retry_after_s),
            },
        }
    }

    pub(super) fn locality(&mut self, at: &At<'_>, raw: &raw::Locality) -> Locality {
        if raw.zone.is_some() && raw.region.is_none() {
            self.errors
                .add(ProblemKind::MissingField, &at.field("zone"), "a zone is known within its region only")
                .hint("add `region`");
        }
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        Locality { region: text(&raw.region), zone: text(&raw.zone) }
    }

    pub(super) fn balance(&mut self, item: &At<'_>, upstream: &raw::Upstream) -> Balance {
        let at = item.field("balance");
        let rule = match upstream.balance.rule() {
            BalanceRule::RoundRobin => Rule::RoundRobin,
            BalanceRule::LeastRequests => Rule::LeastRequests,
            BalanceRule::PeakEwma => Rule::PeakEwma,
            BalanceRule::Random => Rule::Random,
            BalanceRule::RingHash => Rule::RingHash,
            BalanceRule::Maglev => Rule::Maglev,
        };
        let (hash_on, decay) = match &upstream.balance {
            raw::Balance::Rule(_) => (None, None),
            raw::Balance::Detailed(settings) => (settings.hash_on.as_ref(), settings.decay),
        };
        if decay.is_some() && rule != Rule::PeakEwma {
            let at = at.field("decay");
            self.errors.add(ProblemKind::Conflict, &at, "only `peak_ewma` remembers latencies").on_key();
        }
        let shape = match rule {
            Rule::RingHash => Some(Shape::Ring(RingSettings::default())),
            Rule::Maglev => Some(Shape::Maglev(MaglevSettings::default())),
            Rule::RoundRobin | Rule::LeastRequests | Rule::PeakEwma | Rule::Random => None,
        };
        let hash = match (shape, hash_on) {
            (Some(shape), Some(hash_on)) => {
                self.hash_on(&at.field("hash_on"), hash_on).map(|on| Hashing { on, shape })
            }
            (Some(_), None) => {
                self.errors
                    .add(ProblemKind::MissingField, &at, "this rule hashes something of each request")
                    .hint("as in `balance: { rule: maglev, hash_on: { header: x-user } }`");
                None
            }
            (None, Some(_)) => {
                self.errors
                    .add(ProblemKind::Conflict, &at.field("hash_on"), "only `ring_hash` and `maglev` hash")
                    .on_key();
                None
            }
            (None, None) => None,
        };
        let ewma = decay.map_or_else(ewma::Settings::default, |decay| {
            ewma::Settings::new(millis(decay), millis(decay).min(1_000))
        });
        Balance { rule, ewma, hash }
    }

    pub(super) fn hash_on(&mut self, at: &At<'_>, raw: &raw::HashOn) -> Option<HashOn> {
        let given = usize::from(raw.header.is_some())
            + usize::from(raw.cookie.is_some())
            + usize::from(raw.client_address);
        if given != 1 {
            self.bad_value(at, "exactly one of `header`, `cookie` and `client_address: true` is hashed");
            return None;
        }
        let mut token = |name: &'static str, text: &String| {
            if is_token(text) {
                Some(text.clone())
            } else {
                self.bad_value(&at.field(name), format_args!("`{text}` is no name (RFC 9110 section 5.6.2)"));
                None
            }
        };
        match (&raw.header, &raw.cookie) {
            (Some(header), _) => {
                token("header", header).map(|name| HashOn::Header(name.to_ascii_lowercase().into()))
            }
            (_, Some(cookie)) => token("cookie", cookie).map(|name| HashOn::Cookie(name.into())),
            _ => Some(HashOn::ClientAddress),
        }
    }

    pub(super) fn sticky(&mut self, item: &At<'_>, upstream: &raw::Upstream) -> Option<Cookie> {
        let raw = upstream.sticky.as_ref()?;
        let at = item.field("sticky");
        if matches!(upstream.balance.rule(), BalanceRule::RingHash | BalanceRule::Maglev) {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &at,
                    "a rule that hashes keeps clients with their endpoint already",
                )
                .on_key()
                .with(&item.field("balance"));
        }
        let travel = if raw.secure { Travel::Secure } else { Travel::Any };
        let cookie = Cookie::new(&raw.cookie, raw.max_age.map(|age| age.as_std().as_secs()), travel);
        if cookie.is_none() {
            let message = format_args!("`{}` is no cookie's name (RFC 6265 section 4.1.1)", raw.cookie);
            self.bad_value(&at.field("cookie"), message);
        }
        cookie
    }

    pub(super) fn slow_start(raw: Option<&raw::SlowStart>) -> Option<Arc<Curve>> {
        raw.map(|raw| {
            Arc::new(Curve::new(slow_start::Settings {
                window_ms: millis(raw.window),
                min_percent: u32::from(raw.min_percent),
                ..slow_start::Settings::default()
            }))
        })
    }

    pub(super) fn health_check(
        &mut self,
        item: &At<'_>,
        upstream: &raw::Upstream,
    ) -> Option<Arc<check::Settings>> {
        let raw = upstream.health_check.as_ref()?;
        let at = item.field("health_check");
        if raw.interval.as_std() < CHECK_INTERVAL_MIN {
            self.bad_value(
                &at.field("interval"),
                "endpoints are asked at most ten times a second; at least 100ms",
            );
        }
        if raw.port.is_some() {
            let unix = |endpoint: &raw::Endpoint| endpoint.address().starts_with("unix:");
            if upstream.endpoints.iter().any(unix) {
                self.errors
                    .add(ProblemKind::Conflict, &at.field("port"), "a Unix socket has no port")
                    .on_key();
            }
        }
        let http2 = upstream.protocol == raw::Protocol::Http2
            || upstream.endpoints.iter().any(|endpoint| endpoint.address().starts_with("h2c://"));
        let version = if http2 { HttpVersion::Http2 } else { HttpVersion::Http1 };
        let probe = match (&raw.http, &raw.grpc, raw.tcp) {
            (Some(http), None, false) => Some(self.http_check(&at.field("http"), http, version)),
            (None, Some(grpc), false) => {
                if !http2 {
                    self.errors
                        .add(ProblemKind::Conflict, &at.field("grpc"), "gRPC is spoken over HTTP/2")
                        .on_key()
                        .hint("add `protocol: http2` to the upstream");
                }
                Some(Probe::Grpc { service: grpc.service.as_str().into(), authority: None })
            }
            (None, None, true) => Some(Probe::Tcp),
            _ => {
                self.bad_value(&at, "exactly one of `http`, `grpc` and `tcp: true` is asked");
                None
            }
        };
        let interval_ms = millis(raw.interval);
        Some(Arc::new(check::Settings {
            probe: probe?,
            interval_ms,
            jitter_ms_max: interval_ms * u64::from(raw.jitter_percent) / 100,
            // Whoever waits for an endpoint to come back knows how long that takes.
            unhealthy_interval_ms_max: interval_ms,
            timeout_ms: millis(raw.timeout),
            healthy_threshold: raw.healthy_threshold,
            unhealthy_threshold: raw.unhealthy_threshold,
            port: raw.port,
        }))
    }

    fn http_check(&mut self, at: &At<'_>, raw: &raw::HttpCheck, version: HttpVersion) -> Probe {
        let path = &raw.path;
        if !path.starts_with('/') {
            let hint = format!("did you mean `/{path}`?");
            self.errors
                .add(
                    ProblemKind::BadValue,
                    &at.field("path"),
                    format_args!("`{path}`: a path starts with a slash"),
                )
                .hint(hint);
        } else if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            self.bad_value(
                &at.field("path"),
                format_args!("`{path}` has a character that no request line may have"),
            );
        }
        let host = raw.host.as_ref().and_then(|text| match host_field(text) {
            Ok(host) => Some(Arc::from(host)),
            Err(error) => {
                self.bad_address(&at.field("host"), text, &error);
                None
            }
        });
        let list = at.field("expect");
        let expected_statuses = raw
            .expect
            .iter()
            .enumerate()
            .filter_map(|(index, text)| {
                let range = statuses(text);
                if range.is_none() {
                    self.bad_value(
                        &list.index(index),
                        format_args!("`{text}`: expected a status or a range of them, as in 200-299"),
                    );
                }
                range
            })
            .collect();
        Probe::Http(HttpProbe { version, host, path: path.as_str().into(), expected_statuses })
    }

    pub(super) fn outlier_detection(
        &mut self,
        item: &At<'_>,
        raw: Option<&raw::OutlierDetection>,
    ) -> Option<OutlierDetection> {
        let raw = raw?;
        let at = item.field("outlier_detection");
        if raw.interval.as_std() < Duration::from_secs(1) {
            self.bad_value(
                &at.field("interval"),
                "endpoints are compared at most once a second; at least 1s",
            );
        }
        if raw.max_ejection_time < raw.base_ejection_time {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &at.field("max_ejection_time"),
                    format_args!("{} is shorter than the first ejection", raw.max_ejection_time),
                )
                .with(&at.field("base_ejection_time"));
        }
        let row = |count: u32| Some(count).filter(|count| *count > 0);
        Some(OutlierDetection {
            outlier: outlier::Settings {
                consecutive_5xx: row(raw.consecutive_5xx),
                consecutive_gateway_failure: row(raw.consecutive_gateway_errors),
                consecutive_local_origin_failure: row(raw.consecutive_local_failures),
                local_origin: outlier::LocalOrigin::Joined,
                success_rate: raw.success_rate.as_ref().map(|rule| outlier::SuccessRate {
                    minimum_hosts: rule.minimum_hosts,
                    request_volume: rule.request_volume,
                    stdev_factor: f64::from(rule.stdev_factor_thousandths) / 1_000.0,
                }),
                failure_percentage: raw.failure_percent.as_ref().map(|rule| outlier::FailurePercentage {
                    threshold: rule.threshold,
                    minimum_hosts: 1,
                    request_volume: rule.request_volume,
                }),
                latency: raw.latency.as_ref().map(|rule| outlier::Latency {
                    factor: f64::from(rule.factor_hundredths) / 100.0,
                    difference_us_min: rule.minimum_difference.as_std().as_micros() as u64,
                    minimum_hosts: rule.minimum_hosts,
                    request_volume: rule.request_volume,
                }),
            },
            ejection: health::Ejection {
                base_ms: millis(raw.base_ejection_time),
                max_ms: millis(raw.max_ejection_time),
                // A tenth: endpoints that went together do not come back together.
                jitter_ms_max: millis(raw.base_ejection_time) / 10,
                interval_ms: millis(raw.interval),
                percent_max: raw.max_ejected_percent,
            },
            interval: raw.interval.as_std(),
        })
    }

    pub(super) fn breaker(&mut self, item: &At<'_>, raw: Option<&raw::Breaker>) -> Option<breaker::Settings> {
        let raw = raw?;
        let at = item.field("breaker");
        let window = raw.window.as_std();
        if window < Duration::from_secs(1) || millis(raw.window) > limits::BREAKER_WINDOW_MS_MAX {
            let max = limits::BREAKER_WINDOW_MS_MAX / 60_000;
            self.bad_value(&at.field("window"), format_args!("{} is out of range: 1s to {max}m", raw.window));
        }
        if raw.error_percent == 0 && raw.slow.is_none() {
            self.errors
                .add(ProblemKind::Conflict, &at, "it would never reject: neither errors nor slowness matter")
                .hint("give it `error_percent` or `slow`");
        }
        if raw.rejecting_max < raw.rejecting {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &at.field("rejecting_max"),
                    format_args!("{} is shorter than the first time", raw.rejecting_max),
                )
                .with(&at.field("rejecting"));
        }
        if millis(raw.rejecting_max) > limits::BREAKER_REJECTING_MS_MAX {
            let max = limits::BREAKER_REJECTING_MS_MAX / 60_000;
            self.bad_value(
                &at.field("rejecting_max"),
                format_args!("{} is too long: at most {max}m", raw.rejecting_max),
            );
        }
        Some(breaker::Settings {
            window_ms: millis(raw.window),
            requests_min: raw.requests_min,
            error_percent: NonZeroU8::new(raw.error_percent),
            slow_ms: raw.slow.map_or(u64::MAX, millis),
            slow_percent: raw.slow.and_then(|_| NonZeroU8::new(raw.slow_percent)),
            rejecting_ms: millis(raw.rejecting),
            rejecting_ms_max: millis(raw.rejecting_max),
            probes: raw.probes,
        })
    }

    pub(super) fn adaptive_concurrency(
        &mut self,
        item: &At<'_>,
        upstream: &raw::Upstream,
    ) -> Option<concurrency::Settings> {
        let raw = upstream.adaptive_concurrency.as_ref()?;
        let at = item.field("adaptive_concurrency");
        if !(raw.min <= raw.initial && raw.initial <= raw.max) {
            let (min, initial, max) = (raw.min, raw.initial, raw.max);
            self.bad_value(
                &at,
                format_args!("`initial` ({initial}) lies between `min` ({min}) and `max` ({max})"),
            );
        }
        Some(concurrency::Settings {
            limit_min: raw.min,
            limit_max: raw.max,
            limit_initial: raw.initial,
            ..concurrency::Settings::DEFAULT
        })
    }

    pub(super) fn retry_budget(raw: raw::RetryBudget) -> retry::BudgetSettings {
        retry::BudgetSettings {
            percent: raw.percent,
            min_per_second: raw.min_per_second,
            retries_max: raw.concurrent_max,
        }
    }

    pub(super) fn retry(&mut self, item: &At<'_>, route: &raw::Route) -> retry::Settings {
        let Some(raw) = &route.retry else {
            return retry::Settings {
                attempts_max: limits::ATTEMPTS_MAX,
                back_off: retry::BackOff { base_ms: 0, max_ms: 0 },
                ..retry::Settings::DEFAULT
            };
        };
        let at = item.field("retry");
        let mut conditions = retry::Conditions::NONE;
        for on in &raw.on {
            conditions = conditions.with(match on {
                raw::RetryOn::ConnectFailure => retry::Conditions::CONNECT_FAILURE,
                raw::RetryOn::RefusedStream => retry::Conditions::REFUSED_STREAM,
                raw::RetryOn::Reset => retry::Conditions::RESET,
                raw::RetryOn::PerTryTimeout => retry::Conditions::PER_TRY_TIMEOUT,
                raw::RetryOn::GatewayError => retry::Conditions::GATEWAY_ERROR,
                raw::RetryOn::ServerError => retry::Conditions::SERVER_ERROR,
            });
        }
        for status in &raw.grpc_statuses {
            conditions = conditions.with(match status {
                raw::RetryGrpc::Cancelled => retry::Conditions::CANCELLED,
                raw::RetryGrpc::DeadlineExceeded => retry::Conditions::DEADLINE_EXCEEDED,
                raw::RetryGrpc::Internal => retry::Conditions::INTERNAL,
                raw::RetryGrpc::ResourceExhausted => retry::Conditions::RESOURCE_EXHAUSTED,
                raw::RetryGrpc::Unavailable => retry::Conditions::UNAVAILABLE,
            });
        }
        let mut statuses = retry::StatusSet::EMPTY;
        let list = at.field("statuses");
        for (index, status) in raw.statuses.iter().enumerate() {
            if !(400..=599).contains(status) || !statuses.insert(*status) {
                self.bad_value(
                    &list.index(index),
                    format_args!("{status}: only failures are tried again, 400 to 599"),
                );
            }
            conditions = conditions.with(retry::Conditions::STATUS_CODES);
        }
        let whole = route.timeouts.request.unwrap_or(self.raw.timeouts.request).as_std();
        if let (Some(one), Some(whole)) = (raw.per_try_timeout, whole)
            && one.as_std() > whole
        {
            let message =
                format_args!("{one} is longer than the whole request may take, so no second attempt comes");
            self.warnings
                .add(ProblemKind::Suspicious, &at.field("per_try_timeout"), message)
                .hint("`timeouts.request` bounds all attempts together");
        }
        let timed_out = raw.on.contains(&raw::RetryOn::PerTryTimeout);
        if raw.per_try_timeout.is_some() && !timed_out {
            let message = "what takes too long is ended, but not tried again";
            self.warnings
                .add(ProblemKind::Suspicious, &at.field("per_try_timeout"), message)
                .hint("add `per_try_timeout` to `on`");
        }
        if raw.backoff_max < raw.backoff {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &at.field("backoff_max"),
                    format_args!("{} is shorter than the first wait", raw.backoff_max),
                )
                .with(&at.field("backoff"));
        }
        for (name, wait) in [("backoff_max", raw.backoff_max), ("retry_after_max", raw.retry_after_max)] {
            if millis(wait) > limits::RETRY_WAIT_MS_MAX {
                let max = limits::RETRY_WAIT_MS_MAX / 1_000;
                self.bad_value(&at.field(name), format_args!("{wait} is too long: at most {max}s"));
            }
        }
        if raw.body_bytes.bytes() > limits::RETRY_BODY_BYTES_MAX {
            let (given, max) = (raw.body_bytes, raw::Size::from_bytes(limits::RETRY_BODY_BYTES_MAX));
            self.bad_value(&at.field("body_bytes"), format_args!("{given} is too much: at most {max}"));
        }
        retry::Settings {
            conditions,
            statuses,
            attempts_max: u32::from(raw.attempts),
            methods: match raw.methods {
                raw::RetryMethods::Idempotent => retry::Methods::Idempotent,
                raw::RetryMethods::Any => retry::Methods::Any,
            },
            per_try_timeout_ms: raw.per_try_timeout.and_then(|timeout| NonZeroU64::new(millis(timeout))),
            back_off: retry::BackOff { base_ms: millis(raw.backoff), max_ms: millis(raw.backoff_max) },
            retry_after_ms_max: millis(raw.retry_after_max),
            body_bytes_max: raw.body_bytes.bytes(),
        }
    }

    pub(super) fn hedge(&mut self, item: &At<'_>, route: &raw::Route) -> Option<retry::Hedge> {
        let raw = route.hedge?;
        if let Some(per_try) = route.retry.as_ref().and_then(|retry| retry.per_try_timeout)
            && raw.after >= per_try
        {
            let (at, retry) = (item.field("hedge"), item.field("retry"));
            let message =
                format_args!("{} is not before the attempt's own end, so no hedge comes", raw.after);
            self.warnings
                .add(ProblemKind::Suspicious, &at.field("after"), message)
                .with(&retry.field("per_try_timeout"));
        }
        Some(retry::Hedge { after_ms: NonZeroU64::new(millis(raw.after))?, ..retry::Hedge::DEFAULT })
    }
}

impl raw::Endpoint {
    pub(super) fn address(&self) -> &str {
        match self {
            raw::Endpoint::Address(text) => text,
            raw::Endpoint::Detailed(detailed) => &detailed.address,
        }
    }

    pub(super) fn labels(&self) -> Labels {
        match self {
            raw::Endpoint::Address(_) => Labels::default(),
            raw::Endpoint::Detailed(detailed) => labels(&detailed.labels),
        }
    }
}

pub(super) fn labels(raw: &BTreeMap<String, String>) -> Labels {
    Labels::new(raw.iter().map(|(key, value)| (key.as_str(), value.as_str())))
}

fn millis(duration: raw::Duration) -> u64 {
    duration.as_std().as_millis() as u64
}

/// `204` or `200-299`.
fn statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (100..=599).contains(status));
    let (first, last) = (status(first)?, status(last)?);
    (first <= last).then_some(first..=last)
}
