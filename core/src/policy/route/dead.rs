//! Routes that no request can take, since others take all that they match. Called when a configuration is checked.
//!
//! Finds what can be proved at little cost, which is not all there is: a route is compared with single others, never
//! with several that only together leave it nothing. For each host pattern, a route is looked up among those that
//! match the very same, and compared with at most `limits::ROUTE_SHADOW_COMPARISONS_MAX` each of those with the same path
//! and names of fields and of those that take whole trees of paths (`**` and regexes that end in `.*`). So the time is
//! linear in the number of pairs of routes and hosts.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use super::template::{Segment, Template};
use super::{FieldPattern, HostPattern, PathPattern, RouteRule, ValuePattern};
use crate::base::limits::ROUTE_SHADOW_COMPARISONS_MAX;

/// A route that others take requests from, so that on some of its hosts nothing is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    pub route: usize,
    pub extent: Extent,
    /// In the order of the route's hosts.
    pub losses: Vec<Loss>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// On each of its hosts: no request can take it.
    Whole,
    /// On some.
    Part,
}

/// One host on which another route takes all requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// `None` for the route of any host.
    pub host: Option<HostPattern>,
    pub by: usize,
    pub cover: Cover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover {
    /// The other matches the same and comes first.
    Same,
    /// The other matches all of it and more, and ranks before it.
    Wider,
}

/// In the order of the file.
pub fn dead(rules: &[RouteRule]) -> Vec<Dead> {
    let shapes: Vec<Shape<'_>> = rules.iter().map(Shape::of).collect();
    let mut by_host: HashMap<Option<&HostPattern>, Vec<usize>> = HashMap::new();
    for (route, rule) in rules.iter().enumerate() {
        let mut hosts: Vec<Option<&HostPattern>> = rule.hosts.iter().map(Some).collect();
        if hosts.is_empty() {
            hosts.push(None);
        }
        for host in hosts {
            let routes = by_host.entry(host).or_default();
            // A route may name a host twice.
            if routes.last() != Some(&route) {
                routes.push(route);
            }
        }
    }
    let mut losses: HashMap<(usize, Option<&HostPattern>), (usize, Cover)> = HashMap::new();
    for (host, routes) in &by_host {
        let mut on_host = OnHost::new(&shapes, routes);
        for route in routes {
            if let Some(loss) = on_host.taker(*route) {
                losses.insert((*route, *host), loss);
            }
        }
    }
    let lost: HashSet<usize> = losses.keys().map(|(route, _)| *route).collect();
    let mut lost: Vec<usize> = lost.into_iter().collect();
    lost.sort_unstable();
    lost.into_iter()
        .map(|route| {
            let hosts = &rules[route].hosts;
            let loss = |host: Option<&HostPattern>| {
                let (by, cover) = *losses.get(&(route, host))?;
                Some(Loss { host: host.cloned(), by, cover })
            };
            let found: Vec<Loss> = if hosts.is_empty() {
                loss(None).into_iter().collect()
            } else {
                hosts.iter().filter_map(|host| loss(Some(host))).collect()
            };
            let extent = if found.len() == hosts.len().max(1) { Extent::Whole } else { Extent::Part };
            Dead { route, extent, losses: found }
        })
        .collect()
}

/// A rule, and what is compared of it, worked out once.
struct Shape<'r> {
    rule: &'r RouteRule,
    /// The same for rules that match the same, hosts aside.
    whole: String,
    /// The same for rules of the same path that name methods or not and name the same fields: only among those can one
    /// rank like another and match more.
    names: String,
    /// If all fields are to be equal to something: the same for rules with the same such values.
    exact_values: Option<String>,
    broad: Option<Broad<'r>>,
}

/// A path that takes all below some point.
enum Broad<'r> {
    /// The segments before the `**`.
    Rest(&'r [Segment]),
    /// A regex that takes whatever starts with this.
    Regex(&'r [u8]),
    /// The prefix `/`.
    Everything,
}

/// The routes of one host pattern, as far as they have been gone through.
struct OnHost<'s, 'r> {
    shapes: &'s [Shape<'r>],
    same: HashMap<&'s str, usize>,
    alike: HashMap<&'s str, Alike<'s>>,
    exact_paths: HashMap<&'r str, Vec<usize>>,
    broad: Vec<usize>,
}

#[derive(Default)]
struct Alike<'s> {
    loose: Vec<usize>,
    exact: HashMap<&'s str, Vec<usize>>,
}

impl<'s, 'r> OnHost<'s, 'r> {
    fn new(shapes: &'s [Shape<'r>], routes: &[usize]) -> Self {
        let mut exact_paths: HashMap<&'r str, Vec<usize>> = HashMap::new();
        for route in routes {
            if let PathPattern::Exact(path) = &shapes[*route].rule.path {
                exact_paths.entry(path).or_default().push(*route);
            }
        }
        OnHost {
            shapes,
            same: HashMap::new(),
            alike: HashMap::new(),
            exact_paths,
            broad: routes.iter().copied().filter(|route| shapes[*route].broad.is_some()).collect(),
        }
    }

    /// Who takes all of this route's requests on this host, if anyone can be shown to. To be asked in the order of the
    /// file.
    fn taker(&mut self, route: usize) -> Option<(usize, Cover)> {
        let shape = &self.shapes[route];
        let first = *self.same.entry(&shape.whole).or_insert(route);
        if first != route {
            return Some((first, Cover::Same));
        }
        let alike = self.alike.entry(&shape.names).or_default();
        let bounded = |routes: &[usize], wins: &dyn Fn(usize) -> bool| {
            routes.iter().copied().take(ROUTE_SHADOW_COMPARISONS_MAX).find(|other| wins(*other))
        };
        let rule = shape.rule;
        let outlasts = |other: usize| {
            let other = self.shapes[other].rule;
            covers(other, rule) && keeps_rank(other, rule)
        };
        let mut found = shape
            .exact_values
            .as_deref()
            .and_then(|values| alike.exact.get(values))
            .and_then(|routes| bounded(routes, &outlasts))
            .or_else(|| bounded(&alike.loose, &outlasts));
        match shape.exact_values.as_deref() {
            Some(values) => alike.exact.entry(values).or_default().push(route),
            None => alike.loose.push(route),
        }
        if found.is_none()
            && let PathPattern::Template(template) = &rule.path
            && let Some(path) = literal_path(template)
            && let Some(routes) = self.exact_paths.get(path.as_str())
        {
            found = bounded(routes, &|other| covers(self.shapes[other].rule, rule));
        }
        if found.is_none() {
            let takes = |other: usize| {
                let shape = &self.shapes[other];
                let Some(broad) = &shape.broad else { return false };
                let before = match (broad, &rule.path) {
                    // These two rank alike, so the rest of the rank must as well.
                    (Broad::Regex(_), PathPattern::Regex(_)) => {
                        other < route && same_counts(shape.rule, rule) && keeps_rank(shape.rule, rule)
                    }
                    (Broad::Everything, path) => matches!(path, PathPattern::Any),
                    _ => !matches!(rule.path, PathPattern::Exact(_) | PathPattern::Template(_)),
                };
                before && broad.takes(shape.rule, rule) && covers(shape.rule, rule)
            };
            found = bounded(&self.broad, &takes);
        }
        found.map(|other| (other, Cover::Wider))
    }
}

impl<'r> Shape<'r> {
    fn of(rule: &'r RouteRule) -> Self {
        let path = path_text(&rule.path);
        let mut whole = path.clone();
        let mut names = path;
        let mut exact_values = Some(String::new());
        let mut methods: Vec<_> = rule.methods.iter().map(|method| String::from_utf8_lossy(method)).collect();
        methods.sort_unstable();
        methods.dedup();
        put(&mut whole, &methods);
        put(&mut names, &[!methods.is_empty()]);
        for fields in [&rule.headers, &rule.query, &rule.cookies] {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_cached_key(|field| format!("{field:?}"));
            put(&mut whole, &fields);
            put(&mut names, &fields.iter().map(|field| &field.name).collect::<Vec<_>>());
            if fields.iter().all(|field| matches!(field.value, ValuePattern::Exact(_))) {
                if let Some(values) = &mut exact_values {
                    put(values, &fields);
                }
            } else {
                exact_values = None;
            }
        }
        let mut sources = rule.sources.clone();
        sources.sort_unstable();
        put(&mut whole, &sources);
        let mut server_names: Vec<_> = rule.server_names.iter().map(ToString::to_string).collect();
        server_names.sort_unstable();
        put(&mut whole, &server_names);
        Shape { rule, whole, names, exact_values, broad: Broad::of(&rule.path) }
    }
}

fn put(text: &mut String, part: &impl std::fmt::Debug) {
    write!(text, " {part:?}").expect("writing to a String does not fail");
}

/// The same for paths that fit the same.
fn path_text(path: &PathPattern) -> String {
    match path {
        PathPattern::Any => "any".to_owned(),
        PathPattern::Exact(path) => format!("exact {path:?}"),
        PathPattern::Prefix(path) => format!("prefix {:?}", path.strip_suffix('/').unwrap_or(path)),
        PathPattern::Regex(regex) => format!("regex {:?}", regex.as_str()),
        PathPattern::Template(template) => {
            let mut text = "template".to_owned();
            for segment in template.segments() {
                match segment {
                    Segment::Literal(literal) => put(&mut text, literal),
                    Segment::Variable(_) => text.push_str(" *"),
                    Segment::Rest(_) => text.push_str(" **"),
                }
            }
            text
        }
    }
}

/// The one path that a template without variables fits.
fn literal_path(template: &Template) -> Option<String> {
    template.names().next().is_none().then(|| template.to_string())
}

impl<'r> Broad<'r> {
    fn of(path: &'r PathPattern) -> Option<Self> {
        match path {
            PathPattern::Template(template) => match template.segments() {
                [fixed @ .., Segment::Rest(_)] => Some(Broad::Rest(fixed)),
                _ => None,
            },
            PathPattern::Regex(regex) => {
                let prefix = regex.literal_prefix();
                let prefix = if prefix.is_empty() { b"/" } else { prefix };
                regex.automaton()?.takes_all_after(prefix).then_some(Broad::Regex(prefix))
            }
            PathPattern::Prefix(prefix) if prefix.trim_end_matches('/').is_empty() && prefix.len() < 2 => {
                Some(Broad::Everything)
            }
            _ => None,
        }
    }

    /// Whether all paths of `rule` are among these.
    fn takes(&self, own: &RouteRule, rule: &RouteRule) -> bool {
        let (known, whole): (&[u8], Option<&str>) = match &rule.path {
            PathPattern::Exact(_) | PathPattern::Template(_) => return false,
            // What does not start with `/` comes with these two methods only (RFC 9112 section 3.2).
            PathPattern::Any => {
                let only_paths = !rule.methods.is_empty()
                    && rule.methods.iter().all(|method| !matches!(&**method, b"OPTIONS" | b"CONNECT"));
                if !only_paths {
                    return false;
                }
                (b"/", None)
            }
            // Regexes are asked only of paths.
            PathPattern::Regex(regex) if regex.literal_prefix().is_empty() => (b"/", None),
            PathPattern::Regex(regex) => (regex.literal_prefix(), None),
            PathPattern::Prefix(prefix) => match prefix.strip_suffix('/').unwrap_or(prefix) {
                "" => (b"/", None),
                whole => (whole.as_bytes(), Some(whole)),
            },
        };
        match self {
            Broad::Everything => true,
            Broad::Regex(start) => match whole {
                // `/a` itself, and all that goes on behind it.
                Some(whole) => {
                    let PathPattern::Regex(regex) = &own.path else { return false };
                    regex.is_match(whole.as_bytes()) && known.starts_with(start)
                }
                None => known.starts_with(start),
            },
            Broad::Rest(fixed) => {
                let Some(path) = known.strip_prefix(b"/") else { return fixed.is_empty() };
                let mut segments: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
                if whole.is_none() {
                    // The last one may go on.
                    segments.pop();
                }
                fixed.len() <= segments.len()
                    && fixed.iter().zip(segments).all(|(fixed, segment)| match fixed {
                        Segment::Literal(literal) => *literal.as_bytes() == *segment,
                        Segment::Variable(_) => !segment.is_empty(),
                        Segment::Rest(_) => false,
                    })
            }
        }
    }
}

/// Whether whatever meets `rule`'s conditions, its path aside, meets `wide`'s.
fn covers(wide: &RouteRule, rule: &RouteRule) -> bool {
    let methods = wide.methods.is_empty()
        || !rule.methods.is_empty() && rule.methods.iter().all(|method| wide.methods.contains(method));
    let fields = |wide: &[FieldPattern], narrow: &[FieldPattern]| {
        wide.iter().all(|wide| narrow.iter().any(|narrow| follows(wide, narrow)))
    };
    let sources = wide.sources.is_empty()
        || !rule.sources.is_empty()
            && rule.sources.iter().all(|narrow| wide.sources.iter().any(|wide| wide.covers(narrow)));
    let server_names = wide.server_names.is_empty()
        || !rule.server_names.is_empty()
            && rule
                .server_names
                .iter()
                .all(|narrow| wide.server_names.iter().any(|wide| host_covers(wide, narrow)));
    methods
        && fields(&wide.headers, &rule.headers)
        && fields(&wide.query, &rule.query)
        && fields(&wide.cookies, &rule.cookies)
        && sources
        && server_names
}

/// Whether the earlier of two routes that rank alike up to their cookies also does by source and server name, for every
/// request of the later one.
fn keeps_rank(earlier: &RouteRule, later: &RouteRule) -> bool {
    (later.sources.is_empty() || later.sources.iter().all(|network| earlier.sources.contains(network)))
        && (later.server_names.is_empty()
            || later.server_names.iter().all(|name| earlier.server_names.contains(name)))
}

fn same_counts(a: &RouteRule, b: &RouteRule) -> bool {
    let counts = |rule: &RouteRule| {
        (rule.methods.is_empty(), rule.headers.len(), rule.query.len(), rule.cookies.len())
    };
    counts(a) == counts(b)
}

/// Whether a value that fits `narrow` always fits `wide`.
fn follows(wide: &FieldPattern, narrow: &FieldPattern) -> bool {
    wide.name == narrow.name
        && match (&wide.value, &narrow.value) {
            (ValuePattern::Present, narrow) => *narrow != ValuePattern::Absent,
            (ValuePattern::Prefix(start), ValuePattern::Exact(value) | ValuePattern::Prefix(value)) => {
                value.starts_with(start)
            }
            // Long values are left alone: of a query's parameter with escapes, a regex sees no more.
            (ValuePattern::Regex(regex), ValuePattern::Exact(value)) => {
                value.len() <= super::query::DECODED_BYTES_MAX && regex.is_match(value)
            }
            (wide, narrow) => wide == narrow,
        }
}

fn host_covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    match (wide, narrow) {
        (HostPattern::Wildcard(suffix), HostPattern::Exact(name)) => {
            name.len() > suffix.len() && name.ends_with(&**suffix)
        }
        (HostPattern::Wildcard(wide), HostPattern::Wildcard(narrow)) => narrow.ends_with(&**wide),
        (wide, narrow) => wide == narrow,
    }
}
