//! What a route asks of a request besides host and path, and how it ranks among routes of the same host and path.

use std::cmp::Reverse;

use super::cookies::first_cookie;
use super::query::{decoded, first_parameter, matches_decoded};
use super::{FieldPattern, HostPattern, Network, RequestView, RouteKey, RouteRule, ValuePattern};

/// One variant of a route. A route has one for each length of prefix among its sources and each kind of server
/// name, so that a variant's rank does not depend on the request; nearly all have just one.
#[derive(Clone, Debug)]
pub(super) struct Conditions {
    pub(super) route: u32,
    pub(super) methods: Box<[Box<[u8]>]>,
    pub(super) headers: Box<[FieldPattern]>,
    pub(super) query: Box<[FieldPattern]>,
    pub(super) cookies: Box<[FieldPattern]>,
    /// Of one length.
    pub(super) sources: Box<[Network]>,
    /// All exact, or wildcards of one length.
    pub(super) server_names: Box<[HostPattern]>,
}

/// What a request must carry, apart from any route: for whoever looks at a request that has its route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldRule {
    pub headers: Box<[FieldPattern]>,
    pub query: Box<[FieldPattern]>,
    pub cookies: Box<[FieldPattern]>,
}

impl FieldRule {
    /// Whether it does. An empty rule takes every request.
    pub fn agrees<V: RequestView>(&self, query: Option<&[u8]>, view: &V) -> bool {
        let cookie = |name: &str| first_cookie(view.values("cookie"), name.as_bytes());
        self.headers.iter().all(|field| field.agrees(view.header(&field.name)))
            && self.query.iter().all(|field| field.agrees_with_query(query.unwrap_or_default()))
            && self.cookies.iter().all(|field| field.agrees(cookie(&field.name)))
    }
}

/// How specific a host is; the greater wins. Also of server names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRank {
    Any,
    /// By the bytes behind the `*`: of two that fit the same host, the longer has more labels.
    Wildcard(usize),
    Exact,
}

/// The first condition that a request disagrees with, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Disagreement {
    Method,
    Header(usize),
    Query(usize),
    Cookie(usize),
    Source,
    ServerName,
}

/// Ascending: the more specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    names_no_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    cookies: Reverse<usize>,
    source: Reverse<u16>,
    server_name: Reverse<usize>,
    route: u32,
}

impl Conditions {
    /// The variants of a route.
    pub(super) fn of(rule: &RouteRule, route: u32) -> Vec<Self> {
        let sources = grouped(&rule.sources, |network| u16::from(network.prefix_bits) + 1);
        let server_names = grouped(&rule.server_names, server_name_rank);
        let variant = |sources: &[Network], server_names: &[HostPattern]| Conditions {
            route,
            methods: rule.methods.clone().into(),
            headers: rule.headers.clone().into(),
            query: rule.query.clone().into(),
            cookies: rule.cookies.clone().into(),
            sources: sources.into(),
            server_names: server_names.into(),
        };
        sources
            .iter()
            .flat_map(|sources| server_names.iter().map(move |names| variant(sources, names)))
            .collect()
    }

    pub(super) fn rank(&self) -> Rank {
        Rank {
            names_no_method: self.methods.is_empty(),
            headers: Reverse(self.headers.len()),
            query: Reverse(self.query.len()),
            cookies: Reverse(self.cookies.len()),
            source: Reverse(self.sources.first().map_or(0, |network| u16::from(network.prefix_bits) + 1)),
            server_name: Reverse(self.server_names.first().map_or(0, server_name_rank)),
            route: self.route,
        }
    }

    #[inline]
    pub(super) fn check<V: RequestView>(&self, key: &RouteKey<'_>, view: &V) -> Result<(), Disagreement> {
        if !self.methods.is_empty() && !self.methods.iter().any(|known| **known == *key.method) {
            return Err(Disagreement::Method);
        }
        if let Some(at) = self.headers.iter().position(|field| !field.agrees(view.header(&field.name))) {
            return Err(Disagreement::Header(at));
        }
        let query = key.query.unwrap_or_default();
        if let Some(at) = self.query.iter().position(|field| !field.agrees_with_query(query)) {
            return Err(Disagreement::Query(at));
        }
        let cookie = |name: &str| first_cookie(view.values("cookie"), name.as_bytes());
        if let Some(at) = self.cookies.iter().position(|field| !field.agrees(cookie(&field.name))) {
            return Err(Disagreement::Cookie(at));
        }
        if !self.sources.is_empty()
            && !key.source.is_some_and(|address| self.sources.iter().any(|known| known.contains(address)))
        {
            return Err(Disagreement::Source);
        }
        if !self.server_names.is_empty()
            && !key.server_name.is_some_and(|name| self.server_names.iter().any(|known| known.fits(name)))
        {
            return Err(Disagreement::ServerName);
        }
        Ok(())
    }
}

/// Exact before every wildcard, a longer wildcard before a shorter one. A name has at most 253 bytes.
fn server_name_rank(pattern: &HostPattern) -> usize {
    match pattern {
        HostPattern::Exact(_) => usize::MAX,
        HostPattern::Wildcard(suffix) => suffix.len(),
    }
}

/// Those of one rank together; one empty group for none.
fn grouped<T: Clone, K: Ord>(all: &[T], rank: impl Fn(&T) -> K) -> Vec<Vec<T>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let mut sorted = all.to_vec();
    sorted.sort_by_key(|item| Reverse(rank(item)));
    sorted.chunk_by(|a, b| rank(a) == rank(b)).map(<[T]>::to_vec).collect()
}

impl HostPattern {
    /// Whether a name, in any case of letters and without a port, is one of these.
    fn fits(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        match self {
            HostPattern::Exact(exact) => exact.as_bytes().eq_ignore_ascii_case(name),
            HostPattern::Wildcard(suffix) => {
                name.len() > suffix.len()
                    && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
            }
        }
    }
}

impl FieldPattern {
    pub(super) fn agrees(&self, value: Option<&[u8]>) -> bool {
        match (&self.value, value) {
            (ValuePattern::Absent, value) => value.is_none(),
            (_, None) => false,
            (ValuePattern::Present, Some(_)) => true,
            (ValuePattern::Exact(wanted), Some(value)) => **wanted == *value,
            (ValuePattern::Prefix(wanted), Some(value)) => value.starts_with(wanted),
            (ValuePattern::Regex(regex), Some(value)) => regex.is_match(value),
        }
    }

    fn agrees_with_query(&self, query: &[u8]) -> bool {
        let value = first_parameter(query, self.name.as_bytes());
        match (&self.value, value) {
            (ValuePattern::Absent, value) => value.is_none(),
            (_, None) => false,
            (ValuePattern::Present, Some(_)) => true,
            (ValuePattern::Exact(wanted), Some(value)) => decoded(value).eq(wanted.iter().copied()),
            (ValuePattern::Prefix(wanted), Some(value)) => {
                let mut bytes = decoded(value);
                wanted.iter().all(|byte| bytes.next() == Some(*byte))
            }
            (ValuePattern::Regex(regex), Some(value)) => matches_decoded(regex, value),
        }
    }
}
