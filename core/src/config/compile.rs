//! From the file's shape to a snapshot: names are resolved, texts become addresses, regexes and header
//! lines, inheritance is worked out, and everything that is wrong is found in one pass.
//!
//! Called with settings whose shape and ranges `settings::check` has passed.

mod destinations;
pub(super) mod tls;
mod upgrade;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::destinations::{Destinations, destination, destinations, selects_any, upstream_named};
use super::raw::{self, RawConfig};
use super::snapshot::{
    AccessLog, Action, Admin, AdminActions, Endpoint, EndpointAddress, Forwarding, Http2, Limits,
    ListenAddress, Listener, ListenerTimeouts, LogTarget, RateLimits, Route, RouteTimeouts, Snapshot, Tcp,
    Upstream, UpstreamHost, UpstreamTimeouts,
};
use crate::base::fnv::fnv1a;
use crate::base::limits;
use crate::policy::balance::subset::Labels;
use crate::policy::balance::tiers::{Distance, Locality};
use crate::policy::health::check::HttpVersion;
use crate::policy::route::RouteTable;
use crate::policy::{
    balance, breaker, concurrency, fault, headers, health, mirror, rate_limit, redirect, respond, retry,
    rewrite, route as policy_route, shed, split,
};
use crate::settings::address::{endpoint_address, host_field, listen_address};
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, Findings, ProblemKind};
use crate::settings::text::is_token;

/// What came of it. `snapshot` is there unless `errors` has entries.
pub(super) struct Compiled {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) errors: Findings,
    pub(super) warnings: Findings,
}

/// `canonical` is the JSON form of `raw`.
pub(super) fn compile(raw: &RawConfig, canonical: String, version: u64) -> Compiled {
    let mut compiler = Compiler { raw, found: Diagnostics::default() };
    let snapshot = compiler.snapshot(canonical, version);
    let Diagnostics { errors, warnings } = compiler.found;
    Compiled { snapshot: snapshot.filter(|_| errors.is_empty()), errors, warnings }
}

struct Compiler<'r> {
    raw: &'r RawConfig,
    found: Diagnostics,
}

/// What is found is noted from everywhere here, as policies note it.
impl Deref for Compiler<'_> {
    type Target = Diagnostics;

    fn deref(&self) -> &Diagnostics {
        &self.found
    }
}

impl DerefMut for Compiler<'_> {
    fn deref_mut(&mut self) -> &mut Diagnostics {
        &mut self.found
    }
}

/// By its own setting, or by the scheme of its endpoints.
fn speaks_http2(upstream: &raw::Upstream) -> bool {
    let by_scheme = |endpoint: &raw::Endpoint| endpoint.address().starts_with("h2c://");
    upstream.protocol == raw::Protocol::Http2 || upstream.endpoints.iter().any(by_scheme)
}

/// Port 0 is a different port each time.
fn any_port(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Ip(ip) if ip.port() == 0)
}

impl Compiler<'_> {
    /// Goes on after errors so as to find them all; `None` only where a part has no stand-in.
    fn snapshot(&mut self, canonical: String, version: u64) -> Option<Snapshot> {
        let raw = self.raw;
        let root = At::Root;
        let admin = self.admin();
        let listeners = self.listeners(admin.as_ref());
        let limits = self.limits();
        let forwarding = self.forwarding();
        let upstream_names =
            self.names(&root.field("upstreams"), "upstream", raw.upstreams.iter().map(|u| u.name.as_str()));
        let mut destinations = destinations(raw, upstream_names);
        let upstreams = self.upstreams(std::mem::take(&mut destinations.subsets));
        let rate_limits = rate_limit::compile::compile(self, &raw.rate_limits);
        let (route_table, routes) = self.routes(&destinations, &rate_limits);
        let shedding = shed::compile::compile(self, &raw.shedding);
        let access_log = self.access_log();
        let decision_log = self.decision_log();
        let state_dir = self.state_dir();
        self.warn_of_unused_upstreams();
        rate_limit::compile::warn_of_unused(
            self,
            &raw.rate_limits,
            |name| raw.routes.iter().any(|route| route.rate_limits.iter().any(|limit| limit.name() == name)),
            |name| raw.routes.iter().any(|route| route.in_flight_limits.iter().any(|limit| limit == name)),
        );
        if raw.io == raw::Io::Uring {
            self.warnings
                .add(
                    ProblemKind::Suspicious,
                    &root.field("io"),
                    "`uring` refuses to start where io_uring is missing",
                )
                .hint("`auto` takes io_uring where the kernel offers it");
        }
        Some(Snapshot {
            version,
            hash: fnv1a(canonical.as_bytes()),
            canonical: canonical.into(),
            workers: match raw.workers {
                raw::Workers::Auto => None,
                raw::Workers::Count(count) => Some(count),
            },
            pin: raw.pin,
            io: raw.io,
            admin,
            listeners: listeners?,
            drain: raw.timeouts.drain.as_std(),
            limits,
            forwarding,
            upstreams: upstreams?,
            route_table,
            routes: routes?,
            access_log,
            decision_log,
            state_dir,
            shedding,
            rate_limits,
        })
    }

    fn admin(&mut self) -> Option<Admin> {
        let raw = &self.raw.admin;
        let parent = At::Root.field("admin");
        let mode = self.socket_mode(&parent.field("mode"), &raw.mode);
        for (index, host) in raw.hosts.iter().enumerate() {
            if host != "*" && (host.is_empty() || host.contains(['/', ':', '*', '@', ' '])) {
                let list = parent.field("hosts");
                self.bad_value(
                    &list.index(index),
                    format_args!("`{host}` is no name; without scheme and port"),
                );
            }
        }
        let at = parent.field("actions");
        if raw.address == "off" {
            if !matches!(raw.actions.as_str(), "on" | "off") {
                self.bad_value(&at, "there is no admin interface to act on: `address` is off");
            }
            return None;
        }
        let address = self.admin_address(&parent.field("address"), &raw.address);
        let actions = match raw.actions.as_str() {
            "on" => Some(AdminActions::Here),
            "off" => Some(AdminActions::Nowhere),
            text => self.admin_address(&at, text).map(AdminActions::At),
        };
        let admin = Admin {
            address: address?,
            mode,
            actions: actions?,
            hosts: raw.hosts.iter().map(|host| host.to_ascii_lowercase().into()).collect(),
        };
        if matches!(&admin.actions, AdminActions::At(other) if *other == admin.address && !any_port(other)) {
            self.bad_value(&at, "this is `address` itself; say `on`");
        }
        Some(admin)
    }

    fn socket_mode(&mut self, at: &At<'_>, text: &str) -> u32 {
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o777 && !text.starts_with('+') => mode,
            _ => {
                self.bad_value(
                    at,
                    format_args!("`{text}` is no mode; expected octal digits, as in \"0660\""),
                );
                0
            }
        }
    }

    fn admin_address(&mut self, at: &At<'_>, text: &str) -> Option<ListenAddress> {
        match listen_address(text) {
            Ok(address) => {
                if let ListenAddress::Ip(ip) = &address
                    && !ip.ip().is_loopback()
                {
                    self.warnings
                        .add(
                            ProblemKind::Suspicious,
                            at,
                            "the admin interface is reachable from other machines",
                        )
                        .hint("it has no access control; use 127.0.0.1 or unix:/path");
                }
                Some(address)
            }
            Err(error) => {
                self.bad_address(at, text, &error);
                None
            }
        }
    }

    fn listeners(&mut self, admin: Option<&Admin>) -> Option<Vec<Listener>> {
        let raw = self.raw;
        let list = At::Root.field("listeners");
        self.count(&list, "listeners", raw.listeners.len(), limits::LISTENERS_MAX);
        self.names(&list, "listener", raw.listeners.iter().map(|listener| listener.name.as_str()));
        let mut taken: HashMap<ListenAddress, (usize, usize)> = HashMap::new();
        let listeners: Vec<_> = raw
            .listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| {
                let item = list.index(index);
                let addresses = self.listener_addresses(index, &item, listener, admin, &mut taken);
                Listener {
                    name: listener.name.as_str().into(),
                    addresses,
                    trusted_hops: usize::from(listener.trusted_hops),
                    connections_max: listener.connections_max,
                    requests_per_connection_max: NonZeroU32::new(listener.requests_per_connection_max),
                    proxy_protocol: listener.proxy_protocol,
                    connection_age_max: listener.connection_age_max.as_std(),
                    tcp: self.tcp(&item, listener.tcp),
                    http2: self.listener_http2(&item, &listener.http2),
                    tls: self.listener_tls(&item, listener),
                    redirect_to_https: self.redirect_to_https(&item, listener),
                    timeouts: ListenerTimeouts::compile(&listener.timeouts, &raw.timeouts),
                }
            })
            .collect();
        Some(listeners).filter(|listeners| listeners.iter().all(|listener| !listener.addresses.is_empty()))
    }

    fn tcp(&mut self, item: &At<'_>, raw: raw::Tcp) -> Tcp {
        let at = item.field("tcp");
        // The bounds are the kernel's.
        let range = Duration::from_secs(1)..=Duration::from_secs(9 * 3_600);
        for (field, timeout) in [("keepalive", raw.keepalive), ("user_timeout", raw.user_timeout)] {
            if timeout.as_std().is_some_and(|timeout| !range.contains(&timeout)) {
                self.bad_value(&at.field(field), "1s to 9h, or off");
            }
        }
        Tcp { keepalive: raw.keepalive.as_std(), user_timeout: raw.user_timeout.as_std() }
    }

    fn listener_http2(&mut self, item: &At<'_>, raw: &raw::ListenerHttp2) -> Option<Http2> {
        let at = item.field("http2");
        let http2 = self.http2(&at, raw.streams_max, raw.stream_window, raw.connection_window);
        raw.enabled.then_some(http2)
    }

    fn upstream_http2(&mut self, item: &At<'_>, upstream: &raw::Upstream) -> Option<Http2> {
        let (at, raw) = (item.field("http2"), &upstream.http2);
        let http2 = self.http2(&at, raw.streams_max, raw.stream_window, raw.connection_window);
        if raw.ping_interval.as_std().is_some_and(|interval| interval < Duration::from_secs(1)) {
            self.bad_value(&at.field("ping_interval"), "at least 1s, or off");
        }
        let address = |endpoint: &raw::Endpoint| endpoint.address().starts_with("h2c://");
        if speaks_http2(upstream) && upstream.protocol == raw::Protocol::Http1 {
            let list = item.field("endpoints");
            for (index, _) in upstream.endpoints.iter().enumerate().filter(|(_, endpoint)| !address(endpoint))
            {
                self.errors
                    .add(
                        ProblemKind::Conflict,
                        &list.index(index),
                        "the endpoints of one upstream speak the same protocol, and another one is `h2c://`",
                    )
                    .hint("`protocol: http2` says it for all");
            }
        }
        speaks_http2(upstream).then_some(http2)
    }

    fn upstream_proxy_protocol(
        &mut self,
        item: &At<'_>,
        upstream: &raw::Upstream,
    ) -> Option<raw::ProxyProtocol> {
        if upstream.proxy_protocol.is_some() && upstream.protocol == raw::Protocol::Http2 {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    &item.field("proxy_protocol"),
                    "an HTTP/2 connection carries the requests of many clients; its header could name but one",
                )
                .with(&item.field("protocol"));
        }
        upstream.proxy_protocol
    }

    fn http2(&mut self, at: &At<'_>, streams_max: u32, stream: raw::Size, connection: raw::Size) -> Http2 {
        let mut window = |name: &'static str, given: raw::Size, min: raw::Size, max: u64| {
            let max = raw::Size::from_bytes(max);
            if given < min || given > max {
                let field = at.field(name);
                self.bad_value(&field, format_args!("{given} is out of range: {min} to {max}"));
            }
            u32::try_from(given.bytes()).unwrap_or(u32::MAX)
        };
        let stream_window = window("stream_window", stream, raw::Size::from_bytes(16 << 10), 16 << 20);
        let least = stream.max(raw::Size::from_bytes(64 << 10));
        let connection_window = window("connection_window", connection, least, 64 << 20);
        Http2 { streams_max, stream_window, connection_window }
    }

    fn listener_addresses(
        &mut self,
        index: usize,
        item: &At<'_>,
        listener: &raw::Listener,
        admin: Option<&Admin>,
        taken: &mut HashMap<ListenAddress, (usize, usize)>,
    ) -> Vec<ListenAddress> {
        let field = item.field("address");
        let texts = listener.address.as_slice();
        if texts.is_empty() {
            self.bad_value(&field, "a listener needs at least one address");
        }
        let mut addresses = Vec::with_capacity(texts.len());
        for (position, text) in texts.iter().enumerate() {
            let at = match listener.address {
                raw::OneOrMany::One(_) => field,
                raw::OneOrMany::Many(_) => field.index(position),
            };
            let address = match listen_address(text) {
                Ok(address) => address,
                Err(error) => {
                    self.bad_address(&at, text, &error);
                    continue;
                }
            };
            let any_port = any_port(&address);
            let of_admin = admin.and_then(|admin| admin.addresses().find(|(_, other)| **other == address));
            if !any_port && let Some((name, _)) = of_admin {
                let other = At::Root.field("admin");
                self.errors
                    .add(
                        ProblemKind::Conflict,
                        &at,
                        format_args!("the admin interface has the address `{text}`"),
                    )
                    .with(&other.field(name));
            }
            if !any_port && let Some((other, other_position)) = taken.get(&address) {
                let list = At::Root.field("listeners");
                let other_item = list.index(*other);
                let other_field = other_item.field("address");
                let other_at = match self.raw.listeners[*other].address {
                    raw::OneOrMany::One(_) => other_field,
                    raw::OneOrMany::Many(_) => other_field.index(*other_position),
                };
                self.errors
                    .add(
                        ProblemKind::Conflict,
                        &at,
                        format_args!("the address `{text}` is listened on twice"),
                    )
                    .with(&other_at);
            } else {
                taken.insert(address.clone(), (index, position));
            }
            addresses.push(address);
        }
        addresses
    }

    fn limits(&mut self) -> Limits {
        let raw = &self.raw.limits;
        let parent = At::Root.field("limits");
        let header_bytes = raw.header_bytes.bytes();
        let max = raw::Size::from_bytes(limits::BUFFER_BYTES as u64);
        if !(1024..=max.bytes()).contains(&header_bytes) {
            let given = raw.header_bytes;
            self.bad_value(
                &parent.field("header_bytes"),
                format_args!("{given} is out of range: 1KiB to {max}"),
            );
        }
        if raw.uri_bytes.bytes() == 0 || raw.uri_bytes > raw.header_bytes {
            let (given, max) = (raw.uri_bytes, raw.header_bytes);
            let bounds =
                format_args!("{given} is out of range: 1B to {max}, the bound of the head (header_bytes)");
            self.bad_value(&parent.field("uri_bytes"), bounds);
        }
        if raw.memory_per_worker.bytes() < 1 << 20 {
            let given = raw.memory_per_worker;
            self.bad_value(
                &parent.field("memory_per_worker"),
                format_args!("{given} is too little: at least 1MiB"),
            );
        }
        Limits {
            header_bytes_max: header_bytes as usize,
            header_count_max: usize::from(raw.header_count),
            uri_bytes_max: raw.uri_bytes.bytes() as usize,
            memory_bytes_max: raw.memory_per_worker.bytes(),
            tls_handshakes_max: raw.tls_handshakes,
        }
    }

    fn forwarding(&mut self) -> Forwarding {
        let raw = &self.raw.forwarding;
        if !is_token(&raw.via) {
            let parent = At::Root.field("forwarding");
            self.bad_value(
                &parent.field("via"),
                "expected `off` or a pseudonym of letters, digits and `-_.` (RFC 9110 section 7.6.3)",
            );
        }
        Forwarding {
            via: Some(raw.via.as_str()).filter(|via| *via != "off").map(Arc::from),
            x_forwarded: raw.x_forwarded,
            forwarded: raw.forwarded,
        }
    }

    fn upstreams(&mut self, subsets: Vec<Vec<Labels>>) -> Option<Vec<Upstream>> {
        let raw = self.raw;
        let list = At::Root.field("upstreams");
        let node = At::Root.field("node");
        let here = balance::compile::locality(self, &node.field("locality"), &raw.node.locality);
        self.count(&list, "upstreams", raw.upstreams.len(), limits::UPSTREAMS_MAX);
        let upstreams: Vec<_> = raw
            .upstreams
            .iter()
            .enumerate()
            .zip(subsets)
            .map(|((index, upstream), subsets)| {
                let item = list.index(index);
                let endpoints = self.endpoints(&item, upstream, &here);
                let dns = item.field("dns");
                if upstream.dns.refresh.as_std() < Duration::from_secs(1) {
                    self.bad_value(
                        &dns.field("refresh"),
                        "names are resolved at most once a second; at least 1s",
                    );
                }
                Upstream {
                    name: upstream.name.as_str().into(),
                    endpoints,
                    balance: balance::compile::compile(self, &item, &upstream.balance),
                    sticky: balance::compile::sticky(
                        self,
                        &item,
                        upstream.balance.rule(),
                        upstream.sticky.as_ref(),
                    ),
                    panic_percent: u32::from(upstream.panic_percent),
                    slow_start: balance::compile::slow_start(upstream.slow_start.as_ref()),
                    health_check: self.health_check(&item, upstream),
                    outlier_detection: health::outlier::compile::compile(
                        self,
                        &item,
                        upstream.outlier_detection.as_ref(),
                    ),
                    breaker: breaker::compile::compile(self, &item, upstream.breaker.as_ref()),
                    adaptive_concurrency: concurrency::compile::compile(
                        self,
                        &item,
                        upstream.adaptive_concurrency.as_ref(),
                    ),
                    retry_budget: retry::compile::budget(upstream.retry_budget),
                    subsets,
                    requests_max: self.off_or_count(&item.field("requests_max"), upstream.requests_max),
                    connections_max: upstream.connections_max,
                    idle_connections_max: upstream.idle_connections_max,
                    pending_max: upstream.pending_max,
                    host: self.upstream_host(&item.field("host"), &upstream.host),
                    http2: self.upstream_http2(&item, upstream),
                    proxy_protocol: self.upstream_proxy_protocol(&item, upstream),
                    tcp: self.tcp(&item, upstream.tcp),
                    ping_interval: upstream.http2.ping_interval.as_std(),
                    ping_timeout: upstream.http2.ping_timeout.as_std(),
                    timeouts: UpstreamTimeouts::compile(&upstream.timeouts, &raw.timeouts),
                    dns_refresh: upstream.dns.refresh.as_std(),
                    tls: self.upstream_tls(&item, upstream),
                }
            })
            .collect();
        Some(upstreams).filter(|upstreams| upstreams.iter().all(|upstream| !upstream.endpoints.is_empty()))
    }

    fn endpoints(&mut self, item: &At<'_>, upstream: &raw::Upstream, here: &Locality) -> Vec<Endpoint> {
        let list = item.field("endpoints");
        self.count(&list, "endpoints", upstream.endpoints.len(), limits::ENDPOINTS_MAX);
        let mut seen: HashMap<EndpointAddress, usize> = HashMap::new();
        let mut endpoints = Vec::with_capacity(upstream.endpoints.len());
        for (index, endpoint) in upstream.endpoints.iter().enumerate() {
            let entry = list.index(index);
            let text = endpoint.address();
            let (at, weight, priority, there) = match endpoint {
                raw::Endpoint::Address(_) => (entry, 1, 0, Locality::default()),
                raw::Endpoint::Detailed(detailed) => {
                    let there =
                        balance::compile::locality(self, &entry.field("locality"), &detailed.locality);
                    (entry.field("address"), detailed.weight, detailed.priority, there)
                }
            };
            let parsed = match endpoint_address(text) {
                Ok(parsed) => parsed,
                Err(error) => {
                    self.bad_address(&at, text, &error);
                    continue;
                }
            };
            let Some(weight) = NonZeroU32::new(weight) else {
                self.bad_value(
                    &entry.field("weight"),
                    "a weight is at least 1; to take an endpoint out, remove it",
                );
                continue;
            };
            let tls_name = self.tls_name(item, &at, upstream, &parsed);
            let authority = parsed.authority(if tls_name.is_some() { 443 } else { 80 });
            let address = parsed.address;
            if let Some(first) = seen.get(&address) {
                self.errors
                    .add(ProblemKind::Conflict, &at, format_args!("the endpoint `{text}` is there twice"))
                    .hint("give it a larger weight instead")
                    .with(&list.index(*first));
            }
            seen.entry(address.clone()).or_insert(index);
            endpoints.push(Endpoint {
                address,
                authority,
                weight,
                priority: u32::from(priority),
                distance: Distance::between(here, &there),
                labels: endpoint.labels(),
                tls_name,
            });
        }
        endpoints
    }

    fn upstream_host(&mut self, at: &At<'_>, text: &str) -> UpstreamHost {
        match text {
            "client" => UpstreamHost::Client,
            "upstream" => UpstreamHost::Endpoint,
            literal => match host_field(literal) {
                Ok(host) => UpstreamHost::Literal(host.into()),
                Err(error) => {
                    self.errors
                        .add(ProblemKind::BadValue, at, format_args!("`{literal}`: {error}"))
                        .hint("expected `client`, `upstream` or a host");
                    UpstreamHost::Client
                }
            },
        }
    }

    fn routes(
        &mut self,
        destinations: &Destinations<'_>,
        rate_limits: &RateLimits,
    ) -> (RouteTable, Option<Vec<Route>>) {
        let raw = self.raw;
        let list = At::Root.field("routes");
        self.count(&list, "routes", raw.routes.len(), limits::ROUTES_MAX);
        self.names(&list, "route", raw.routes.iter().map(|route| route.name.as_str()));
        if raw.routes.is_empty() {
            self.warnings.add(ProblemKind::Suspicious, &list, "there are no routes: every request gets 404");
        }
        let pairs = raw.routes.iter().map(|route| route.matches.hosts.as_ref().map_or(1, Vec::len)).sum();
        self.count(&list, "hosts in all routes", pairs, limits::ROUTE_HOSTS_MAX);
        let mut rules = Vec::with_capacity(raw.routes.len());
        let mut routes = Vec::with_capacity(raw.routes.len());
        for (index, route) in raw.routes.iter().enumerate() {
            let item = list.index(index);
            // Both are looked at, whatever becomes of the first.
            let rule = policy_route::compile::rule(self, &item.field("match"), &route.matches);
            let compiled = self.route(&item, route, destinations, rate_limits);
            if let (Some(rule), Some(compiled)) = (rule, compiled) {
                rules.push(rule);
                routes.push(compiled);
            }
        }
        // With an error among them the numbers no longer agree, and neither will be used.
        let complete = routes.len() == raw.routes.len() && pairs <= limits::ROUTE_HOSTS_MAX;
        if !complete {
            return (RouteTable::new(Vec::new()), None);
        }
        let names: Vec<&str> = raw.routes.iter().map(|route| route.name.as_str()).collect();
        policy_route::compile::shadowed(self, &rules, &names);
        (RouteTable::new(rules), Some(routes))
    }

    fn route(
        &mut self,
        item: &At<'_>,
        route: &raw::Route,
        destinations: &Destinations<'_>,
        rate_limits: &RateLimits,
    ) -> Option<Route> {
        let raw = self.raw;
        let whole = route.timeouts.request.unwrap_or(raw.timeouts.request).as_std();
        let retry = retry::compile::compile(self, item, route.retry.as_ref(), whole);
        let per_try = route.retry.as_ref().and_then(|retry| retry.per_try_timeout);
        let hedge = retry::compile::hedge(self, item, route.hedge, per_try);
        let rates = rate_limit::compile::applied_rates(self, item, &route.rate_limits, rate_limits);
        let in_flight =
            rate_limit::compile::applied_in_flight(self, item, &route.in_flight_limits, rate_limits);
        let mirrors = mirror::compile::compile(
            self,
            item,
            &route.mirrors,
            route.upstream.as_deref(),
            &|found, at, name| upstream_named(found, at, name, destinations),
        );
        let fault = fault::compile::compile(self, item, route.fault.as_ref());
        let action = self.action(item, route, destinations);
        let rewrite_at = item.field("rewrite");
        let path = route.matches.path.as_ref();
        let matched = rewrite::compile::Matched {
            prefix: path.and_then(|path| path.prefix.as_deref()),
            template: path.and_then(|path| path.template.as_deref()),
        };
        let rewrite_path = rewrite::compile::path(self, &rewrite_at, &route.rewrite, matched);
        let rewrite_host = rewrite::compile::host(self, &rewrite_at, &route.rewrite);
        let request_headers =
            headers::compile::compile(self, &item.field("request_headers"), &route.request_headers);
        let response_headers =
            headers::compile::compile(self, &item.field("response_headers"), &route.response_headers);
        let upgrade = self.upgrade(&item.field("upgrade"), route.upgrade.as_deref());
        let action = action?;
        match &action {
            Action::Upstream(destination) => {
                if !route.subset.is_empty() && !selects_any(raw, destination.upstream, &route.subset) {
                    let name = &raw.upstreams[destination.upstream].name;
                    let message =
                        format_args!("no endpoint of `{name}` has these labels: every request gets 503");
                    self.warnings.add(ProblemKind::Suspicious, &item.field("subset"), message);
                }
            }
            Action::Split(_) if !route.subset.is_empty() => {
                self.errors
                    .add(
                        ProblemKind::Conflict,
                        &item.field("subset"),
                        "the arms of a split have their own `subset`",
                    )
                    .on_key()
                    .with(&item.field("split"));
            }
            Action::Split(_) => {}
            Action::Respond(_) | Action::Redirect(_) => self.refuse_upstream_settings(item, route),
        }
        if route.connect {
            self.refuse_shared_tunnels(&item.field("connect"), &action);
        }
        Some(Route {
            name: route.name.as_str().into(),
            action,
            rewrite_path,
            rewrite_host,
            request_headers,
            response_headers,
            upgrade,
            connect: route.connect,
            grpc_web: route.grpc_web,
            timeouts: RouteTimeouts::compile(&route.timeouts, &raw.timeouts),
            body_bytes_max: route
                .limits
                .body_bytes
                .unwrap_or(raw.limits.body_bytes)
                .bytes()
                .unwrap_or(u64::MAX),
            mirrors,
            fault,
            retry,
            hedge,
            class: shed::compile::class(route.priority),
            rates,
            in_flight,
        })
    }

    fn action(
        &mut self,
        item: &At<'_>,
        route: &raw::Route,
        destinations: &Destinations<'_>,
    ) -> Option<Action> {
        let given: Vec<&str> = [
            ("upstream", route.upstream.is_some()),
            ("split", route.split.is_some()),
            ("respond", route.respond.is_some()),
            ("redirect", route.redirect.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
        match given.as_slice() {
            [_] => {}
            [] => {
                let message = format_args!("route `{}` has no destination", route.name);
                self.errors
                    .add(ProblemKind::MissingField, item, message)
                    .hint("give it one of `upstream`, `split`, `respond` and `redirect`");
                return None;
            }
            [first, second, ..] => {
                let message = format_args!("a route has one destination, not both `{first}` and `{second}`");
                self.errors
                    .add(ProblemKind::Conflict, &item.field(second), message)
                    .on_key()
                    .with(&item.field(first));
                return None;
            }
        }
        if let Some(given) = &route.respond {
            return respond::compile::compile(self, &item.field("respond"), given).map(Action::Respond);
        }
        if let Some(given) = &route.redirect {
            return redirect::compile::compile(self, &item.field("redirect"), given).map(Action::Redirect);
        }
        let raw = self.raw;
        if let Some(given) = &route.split {
            let around = split::compile::Around {
                destination: &|found, at, name, subset| {
                    destination(raw, found, at, name, subset, route, destinations)
                },
                selects_any: &|upstream, subset| selects_any(raw, upstream, subset),
                endpoints: &|name| {
                    let upstream = raw.upstreams.iter().find(|upstream| upstream.name == name);
                    upstream.map(|upstream| format!("{:?}", upstream.endpoints))
                },
            };
            let split = split::compile::compile(self, &item.field("split"), &route.name, given, &around);
            return split.map(|split| Action::Split(Box::new(split)));
        }
        let name = route.upstream.as_deref()?;
        destination(raw, self, &item.field("upstream"), name, &route.subset, route, destinations)
            .map(Action::Upstream)
    }

    /// Settings that would be silently without effect on a route that answers by itself.
    fn refuse_upstream_settings(&mut self, item: &At<'_>, route: &raw::Route) {
        for (name, given) in [
            ("rewrite", route.rewrite != raw::Rewrite::default()),
            ("request_headers", route.request_headers != raw::HeaderOps::default()),
            ("upgrade", route.upgrade.is_some()),
            ("connect", route.connect),
            ("grpc_web", route.grpc_web),
            ("timeouts", route.timeouts != raw::RouteTimeouts::default()),
            ("subset", !route.subset.is_empty()),
            ("retry", route.retry.is_some()),
            ("hedge", route.hedge.is_some()),
            ("mirrors", !route.mirrors.is_empty()),
        ] {
            if given {
                let message = format_args!("`{name}` has no effect on a route without an upstream");
                self.errors.add(ProblemKind::Conflict, &item.field(name), message).on_key();
            }
        }
    }

    fn health_check(
        &mut self,
        item: &At<'_>,
        upstream: &raw::Upstream,
    ) -> Option<Arc<health::check::Settings>> {
        let starts =
            |with: &str| upstream.endpoints.iter().any(|endpoint| endpoint.address().starts_with(with));
        let http2 = upstream.protocol == raw::Protocol::Http2 || starts("h2c://");
        let version = if http2 { HttpVersion::Http2 } else { HttpVersion::Http1 };
        health::compile::compile(self, item, upstream.health_check.as_ref(), version, starts("unix:"))
    }

    fn decision_log(&mut self) -> Option<LogTarget> {
        let parent = At::Root.field("decision_log");
        match self.raw.decision_log.path.as_str() {
            "off" => None,
            path => Some(self.log_target(&parent.field("path"), path, "`off`, ")),
        }
    }

    fn state_dir(&mut self) -> Option<PathBuf> {
        let path = self.raw.state_dir.as_deref()?;
        if !Path::new(path).is_absolute() || path.contains('\0') {
            let message = format_args!("`{path}`: expected an absolute path");
            self.bad_value(&At::Root.field("state_dir"), message);
        }
        Some(PathBuf::from(path))
    }

    /// A tunnel is a connection to the endpoint of the client's own, and there is none to an upstream of HTTP/2.
    fn refuse_shared_tunnels(&mut self, at: &At<'_>, action: &Action) {
        let destinations: Vec<usize> = match action {
            Action::Upstream(destination) => vec![destination.upstream],
            Action::Split(split) => split.arms.iter().map(|arm| arm.destination.upstream).collect(),
            Action::Respond(_) | Action::Redirect(_) => Vec::new(),
        };
        let raw = self.raw;
        if let Some(index) = destinations.into_iter().find(|index| speaks_http2(&raw.upstreams[*index])) {
            let (name, list) = (&raw.upstreams[index].name, At::Root.field("upstreams"));
            let message = format_args!(
                "upstream `{name}` speaks HTTP/2, where requests share connections: there is none for a tunnel of its own"
            );
            self.errors
                .add(ProblemKind::Conflict, at, message)
                .hint("lead CONNECT to an upstream of `protocol: http1`; WebSockets need only `upgrade`")
                .with(&list.index(index));
        }
    }

    fn access_log(&mut self) -> AccessLog {
        let raw = &self.raw.access_log;
        let parent = At::Root.field("access_log");
        let target = self.log_target(&parent.field("path"), &raw.path, "");
        AccessLog { mode: raw.mode, sample: raw.sample, target }
    }

    /// `besides`: other words that stand for a target here.
    fn log_target(&mut self, at: &At<'_>, path: &str, besides: &str) -> LogTarget {
        match path {
            "stdout" => LogTarget::Stdout,
            "stderr" => LogTarget::Stderr,
            path => {
                if !Path::new(path).is_absolute() || path.contains('\0') {
                    self.bad_value(
                        at,
                        format_args!("`{path}`: expected {besides}`stdout`, `stderr` or an absolute path"),
                    );
                }
                LogTarget::File(PathBuf::from(path))
            }
        }
    }

    fn warn_of_unused_upstreams(&mut self) {
        let used: std::collections::HashSet<&str> = self
            .raw
            .routes
            .iter()
            .flat_map(|route| {
                let arms = route.split.iter().flat_map(|split| &split.arms).map(|arm| arm.upstream.as_str());
                let mirrors = route.mirrors.iter().map(|mirror| mirror.upstream.as_str());
                route.upstream.as_deref().into_iter().chain(arms).chain(mirrors)
            })
            .collect();
        let list = At::Root.field("upstreams");
        for (index, upstream) in self.raw.upstreams.iter().enumerate() {
            if !used.contains(upstream.name.as_str()) {
                let item = list.index(index);
                let message = format_args!("no route uses the upstream `{}`", upstream.name);
                self.warnings.add(ProblemKind::Suspicious, &item.field("name"), message);
            }
        }
    }
}
