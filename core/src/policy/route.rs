//! Which route a request takes. Called once for each request; does not allocate, does not look at the body,
//! and trusts its caller to pass the path normalised (what is matched here must be what is sent upstream).
//!
//! Of all the routes that agree with a request in everything that they name, the most specific wins:
//! 1. host: exact, then the longest wildcard, then any;
//! 2. path: exact, then regex, then the longest prefix, then any;
//! 3. a route that names methods before one that does not;
//! 4. more header matches; 5. more query matches; 6. the one that comes first in the file.
//!
//! That is the order of the Kubernetes Gateway API (`HTTPRouteRule.matches`), which leaves the place of a
//! regex open: here it stands before prefixes, for behind them a catch-all `/` would hide every regex.
//! A host whose routes all disagree with the request does not hide the routes of a less specific host:
//! "absent" means any host, also one that other routes name. Tests compare this with a naive reading of the
//! rule above.
//!
//! Method: a hash table from host to a trie of path segments. All tries share one arena and one hash table keyed by
//! (node, segment), so a lookup costs a hash for each segment that some route knows and stops at the first
//! that none knows: a path of 4,000 slashes costs no more than the deepest configured one.
//! Figures: `cargo bench -p ringway --bench route`.

mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use regex::bytes::Regex;

use crate::http::message::RequestHead;

use table::{ScopedMap, ScopedMapBuilder};

/// Longest host that is looked up: RFC 1035 section 2.3.4 ends names at 253 characters. A longer one takes
/// the routes that name no host.
const HOST_BYTES_MAX: usize = 255;

/// What a lookup asks of a request's header fields.
pub trait RequestView {
    /// The value of the first field of this name, in any case of letters.
    fn header(&self, name: &str) -> Option<&[u8]>;
}

impl RequestView for RequestHead<'_, '_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.header(name)
    }
}

/// What a lookup needs of a request besides its header fields.
#[derive(Clone, Copy, Debug)]
pub struct RouteKey<'r> {
    /// The effective authority; a port and a trailing dot are ignored, so is the case.
    pub host: &'r [u8],
    /// The normalised path without the query. Anything that does not start with `/` (`*`, a CONNECT) takes
    /// only routes that name no path.
    pub path: &'r [u8],
    pub method: &'r [u8],
    /// The query without the `?`.
    pub query: Option<&'r [u8]>,
}

/// The match of one route. Empty lists mean any.
#[derive(Clone, Debug)]
pub struct RouteRule {
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    pub methods: Vec<Box<[u8]>>,
    pub headers: Vec<FieldPattern>,
    pub query: Vec<FieldPattern>,
}

/// In lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Box<str>),
    /// What follows the `*`, with its dot: `.example.org`.
    Wildcard(Box<str>),
}

#[derive(Clone, Debug)]
pub enum PathPattern {
    Any,
    Exact(Box<str>),
    /// Whole segments; a trailing slash says nothing.
    Prefix(Box<str>),
    /// Must be anchored at both ends by whoever compiled it.
    Regex(Regex),
}

#[derive(Clone, Debug)]
pub struct FieldPattern {
    /// Of a header: in lower case.
    pub name: Box<str>,
    pub value: ValuePattern,
}

#[derive(Clone, Debug)]
pub enum ValuePattern {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Regex),
    Present,
    Absent,
}

/// All routes of a snapshot, ready for lookup. Immutable.
pub struct RouteTable {
    exact_hosts: ScopedMap,
    wildcard_hosts: ScopedMap,
    /// Bit n: some wildcard is n bytes long. Keeps a host of 120 labels from costing 120 hashes.
    wildcard_bytes: [u64; 4],
    any_host: Option<u32>,
    hosts: Box<[HostPaths]>,
    nodes: Box<[Node]>,
    segments: ScopedMap,
    /// Route numbers, most specific first within each range.
    candidates: Box<[u32]>,
    /// By route number.
    conditions: Box<[Conditions]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct HostPaths {
    root: u32,
    regex: Range,
    any: Range,
}

/// A path segment that some route knows.
#[derive(Clone, Copy, Debug)]
struct Node {
    exact: Range,
    prefix: Range,
    /// The nearest ancestor that has prefix candidates, or `NONE`.
    shorter: u32,
}

/// A range of `candidates`.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    start: u32,
    end: u32,
}

const NONE: u32 = u32::MAX;

/// What remains to be agreed on once host and path do.
#[derive(Debug)]
struct Conditions {
    methods: Methods,
    /// Some for a path that is a regex.
    path: Option<Regex>,
    headers: Box<[FieldPattern]>,
    query: Box<[FieldPattern]>,
}

#[derive(Debug)]
enum Methods {
    Any,
    Some(Box<[Box<[u8]>]>),
}

impl RouteTable {
    /// Rule n becomes route n.
    pub fn new(rules: Vec<RouteRule>) -> Self {
        Builder::default().build(rules)
    }

    pub fn len(&self) -> usize {
        self.conditions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The number of the route that this request takes.
    pub fn lookup<V: RequestView>(&self, key: &RouteKey<'_>, view: &V) -> Option<usize> {
        let mut lowered = [0; HOST_BYTES_MAX];
        if let Some(host) = lower_host(key.host, &mut lowered) {
            if let Some(found) = self.exact_hosts.find(0, host).and_then(|at| self.in_host(at, key, view)) {
                return Some(found);
            }
            for (at, _) in host.iter().enumerate().filter(|(at, byte)| **byte == b'.' && *at > 0) {
                let suffix = &host[at..];
                if self.wildcard_bytes[suffix.len() / 64] >> (suffix.len() % 64) & 1 == 0 {
                    continue;
                }
                let found = self.wildcard_hosts.find(0, suffix).and_then(|at| self.in_host(at, key, view));
                if found.is_some() {
                    return found;
                }
            }
        }
        self.any_host.and_then(|at| self.in_host(at, key, view))
    }

    fn in_host<V: RequestView>(&self, host: u32, key: &RouteKey<'_>, view: &V) -> Option<usize> {
        let paths = &self.hosts[host as usize];
        let Some(segments) = key.path.strip_prefix(b"/") else {
            return self.first_agreeing(paths.any, key, view);
        };
        let (deepest, whole) = self.walk(paths.root, segments);
        if whole && let Some(found) = self.first_agreeing(self.nodes[deepest as usize].exact, key, view) {
            return Some(found);
        }
        if let Some(found) = self.first_agreeing(paths.regex, key, view) {
            return Some(found);
        }
        let mut at = deepest;
        while at != NONE {
            let node = &self.nodes[at as usize];
            if let Some(found) = self.first_agreeing(node.prefix, key, view) {
                return Some(found);
            }
            at = node.shorter;
        }
        self.first_agreeing(paths.any, key, view)
    }

    /// The deepest known node on the path, and whether it is the whole path.
    fn walk(&self, root: u32, mut rest: &[u8]) -> (u32, bool) {
        let mut node = root;
        loop {
            let (segment, more) = match memchr::memchr(b'/', rest) {
                Some(slash) => (&rest[..slash], Some(&rest[slash + 1..])),
                None => (rest, None),
            };
            match (self.segments.find(node, segment), more) {
                (None, _) => return (node, false),
                (Some(child), None) => return (child, true),
                (Some(child), Some(more)) => (node, rest) = (child, more),
            }
        }
    }

    fn first_agreeing<V: RequestView>(&self, range: Range, key: &RouteKey<'_>, view: &V) -> Option<usize> {
        self.candidates[range.start as usize..range.end as usize]
            .iter()
            .map(|route| *route as usize)
            .find(|route| self.conditions[*route].agree(key, view))
    }
}

impl Conditions {
    fn agree<V: RequestView>(&self, key: &RouteKey<'_>, view: &V) -> bool {
        self.methods.contain(key.method)
            && self.headers.iter().all(|field| field.agrees_with_header(view.header(&field.name)))
            && self.query.iter().all(|field| field.agrees_with_query(key.query.unwrap_or_default()))
            && self.path.as_ref().is_none_or(|regex| regex.is_match(key.path))
    }

    /// Ascending: the more specific first. The sort is stable, so the file's order decides the rest.
    fn rank(&self) -> (bool, usize, usize) {
        let names_methods = matches!(self.methods, Methods::Some(_));
        (!names_methods, usize::MAX - self.headers.len(), usize::MAX - self.query.len())
    }
}

impl Methods {
    fn contain(&self, method: &[u8]) -> bool {
        match self {
            Methods::Any => true,
            Methods::Some(methods) => methods.iter().any(|known| **known == *method),
        }
    }
}

impl FieldPattern {
    fn agrees_with_header(&self, value: Option<&[u8]>) -> bool {
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

/// The raw value of the first parameter whose decoded name is `name`.
fn first_parameter<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (key, value) = match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &pair[pair.len()..]),
        };
        decoded(key).eq(name.iter().copied()).then_some(value)
    })
}

/// `application/x-www-form-urlencoded` as browsers write it: `+` is a space, a broken escape stands for itself.
fn decoded(raw: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        let escape = match after {
            [high, low, tail @ ..] if *first == b'%' => hex(*high).zip(hex(*low)).map(|pair| (pair, tail)),
            _ => None,
        };
        if let Some(((high, low), tail)) = escape {
            rest = tail;
            return Some(high << 4 | low);
        }
        rest = after;
        Some(if *first == b'+' { b' ' } else { *first })
    })
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// A regex needs its text in one piece. A value without escapes is that already; another is decoded on the
/// stack, and one that is longer there than any sensible parameter does not match.
fn matches_decoded(regex: &Regex, raw: &[u8]) -> bool {
    const DECODED_BYTES_MAX: usize = 1024;
    if memchr::memchr2(b'%', b'+', raw).is_none() {
        return regex.is_match(raw);
    }
    let mut text = [0; DECODED_BYTES_MAX];
    let mut length = 0;
    for byte in decoded(raw) {
        let Some(slot) = text.get_mut(length) else { return false };
        *slot = byte;
        length += 1;
    }
    regex.is_match(&text[..length])
}

/// Lower case, without port and trailing dot; nothing if it can't be a host of any table.
fn lower_host<'b>(host: &[u8], lowered: &'b mut [u8; HOST_BYTES_MAX]) -> Option<&'b [u8]> {
    let name = without_port(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    let target = lowered.get_mut(..name.len())?;
    target.copy_from_slice(name);
    target.make_ascii_lowercase();
    (!target.is_empty()).then_some(&*target)
}

fn without_port(host: &[u8]) -> &[u8] {
    if host.starts_with(b"[") {
        return memchr::memchr(b']', host).map_or(host, |end| &host[..=end]);
    }
    memchr::memchr(b':', host).map_or(host, |colon| &host[..colon])
}

/// Collects candidates for each place of the tables, then lays them out flat.
#[derive(Default)]
struct Builder {
    exact_hosts: ScopedMapBuilder,
    wildcard_hosts: ScopedMapBuilder,
    wildcard_bytes: [u64; 4],
    any_host: Option<u32>,
    hosts: Vec<HostDraft>,
    nodes: Vec<NodeDraft>,
    segments: ScopedMapBuilder,
}

struct HostDraft {
    root: u32,
    regex: Vec<u32>,
    any: Vec<u32>,
}

struct NodeDraft {
    parent: u32,
    exact: Vec<u32>,
    prefix: Vec<u32>,
}

impl Builder {
    fn build(mut self, rules: Vec<RouteRule>) -> RouteTable {
        let mut conditions = Vec::with_capacity(rules.len());
        for (route, rule) in rules.into_iter().enumerate() {
            let route = u32::try_from(route).expect("the count of routes is bounded by limits::ROUTES_MAX");
            if rule.hosts.is_empty() {
                let host = self.any_host_draft();
                self.insert(host, &rule.path, route);
            }
            for pattern in &rule.hosts {
                let host = self.host_draft(pattern);
                self.insert(host, &rule.path, route);
            }
            conditions.push(Conditions {
                methods: if rule.methods.is_empty() {
                    Methods::Any
                } else {
                    Methods::Some(rule.methods.into())
                },
                path: if let PathPattern::Regex(regex) = rule.path { Some(regex) } else { None },
                headers: rule.headers.into(),
                query: rule.query.into(),
            });
        }
        self.lay_out(conditions)
    }

    fn any_host_draft(&mut self) -> u32 {
        if let Some(host) = self.any_host {
            return host;
        }
        let host = self.new_host();
        self.any_host = Some(host);
        host
    }

    fn host_draft(&mut self, pattern: &HostPattern) -> u32 {
        let next = self.hosts.len() as u32;
        let host = match pattern {
            HostPattern::Exact(name) => self.exact_hosts.find_or_insert(0, name.as_bytes(), next),
            HostPattern::Wildcard(suffix) => {
                if let Some(word) = self.wildcard_bytes.get_mut(suffix.len() / 64) {
                    *word |= 1 << (suffix.len() % 64);
                }
                self.wildcard_hosts.find_or_insert(0, suffix.as_bytes(), next)
            }
        };
        if host == next { self.new_host() } else { host }
    }

    fn new_host(&mut self) -> u32 {
        let root = self.new_node(NONE);
        self.hosts.push(HostDraft { root, regex: Vec::new(), any: Vec::new() });
        self.hosts.len() as u32 - 1
    }

    fn new_node(&mut self, parent: u32) -> u32 {
        self.nodes.push(NodeDraft { parent, exact: Vec::new(), prefix: Vec::new() });
        self.nodes.len() as u32 - 1
    }

    fn insert(&mut self, host: u32, path: &PathPattern, route: u32) {
        let draft = &mut self.hosts[host as usize];
        let root = draft.root;
        // A route may name a host twice; one entry is enough.
        let target = match path {
            PathPattern::Any => &mut draft.any,
            PathPattern::Regex(_) => &mut draft.regex,
            PathPattern::Exact(path) => {
                let node = self.grow(root, path.strip_prefix('/').unwrap_or(path));
                &mut self.nodes[node as usize].exact
            }
            PathPattern::Prefix(path) => {
                let path = path.strip_suffix('/').unwrap_or(path);
                let node = if path.is_empty() {
                    root
                } else {
                    self.grow(root, path.strip_prefix('/').unwrap_or(path))
                };
                &mut self.nodes[node as usize].prefix
            }
        };
        if target.last() != Some(&route) {
            target.push(route);
        }
    }

    fn grow(&mut self, root: u32, path: &str) -> u32 {
        path.split('/').fold(root, |node, segment| {
            let next = self.nodes.len() as u32;
            let child = self.segments.find_or_insert(node, segment.as_bytes(), next);
            if child == next { self.new_node(node) } else { child }
        })
    }

    fn lay_out(self, conditions: Vec<Conditions>) -> RouteTable {
        let mut candidates = Vec::new();
        let mut flatten = |mut routes: Vec<u32>| {
            routes.sort_by_key(|route| conditions[*route as usize].rank());
            let start = candidates.len() as u32;
            candidates.append(&mut routes);
            Range { start, end: candidates.len() as u32 }
        };
        let hosts = self
            .hosts
            .into_iter()
            .map(|host| HostPaths { root: host.root, regex: flatten(host.regex), any: flatten(host.any) })
            .collect();
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for draft in self.nodes {
            // Parents come before their children, so theirs is known.
            let shorter = match nodes.get(draft.parent as usize) {
                None => NONE,
                Some(parent) if parent.prefix.start == parent.prefix.end => parent.shorter,
                Some(_) => draft.parent,
            };
            nodes.push(Node { exact: flatten(draft.exact), prefix: flatten(draft.prefix), shorter });
        }
        RouteTable {
            exact_hosts: self.exact_hosts.freeze(),
            wildcard_hosts: self.wildcard_hosts.freeze(),
            wildcard_bytes: self.wildcard_bytes,
            any_host: self.any_host,
            hosts,
            nodes: nodes.into(),
            segments: self.segments.freeze(),
            candidates: candidates.into(),
            conditions: conditions.into(),
        }
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("routes", &self.conditions.len())
            .field("hosts", &self.hosts.len())
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}
