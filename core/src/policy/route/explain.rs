//! Why a request takes the route that it takes, and not another: the same search, watched. May allocate; for people
//! (admin, the command line, tests), not for the request path.
//!
//! Says what was expected, never what a request carried: a header or a cookie may be a secret.

use super::conditions::{Conditions, Disagreement, HostRank};
use super::cookies::first_cookie;
use super::query::first_parameter;
use super::search::Observer;
use super::template::Segment;
use super::{
    FieldPattern, HostPattern, Network, PathPattern, RequestView, RouteKey, RouteTable, ValuePattern,
};
use std::fmt;

/// How specific a path is; the greater wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    Any,
    Prefix {
        segments: usize,
    },
    Regex,
    /// Compared segment by segment.
    Template(Box<[SegmentRank]>),
    Exact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SegmentRank {
    /// `**`
    Rest,
    /// The template ends where another goes on.
    End,
    Variable,
    Literal,
}

/// A route's rank: the greater wins, the earlier in the file among equals. Fields stand in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity {
    pub host: HostRank,
    pub path: PathRank,
    pub names_methods: bool,
    pub headers: usize,
    pub query: usize,
    pub cookies: usize,
    /// Bits of the prefix.
    pub source: Option<u8>,
    pub server_name: HostRank,
}

/// A rule of precedence, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precedence {
    Host,
    Path,
    Methods,
    Headers,
    Query,
    Cookies,
    Source,
    ServerName,
    Order,
}

/// What became of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Chosen,
    /// It agrees, but the chosen one is more specific.
    Outranked {
        by: Precedence,
    },
    Rejected(Reason),
}

/// The first thing in the order of precedence that a request disagrees with, and what the route expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Host(Box<[HostPattern]>),
    Path(Box<str>),
    Method(Box<[Box<[u8]>]>),
    Header(FieldMismatch),
    Query(FieldMismatch),
    Cookie(FieldMismatch),
    Source(Box<[Network]>),
    ServerName(Box<[HostPattern]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldMismatch {
    Missing { name: Box<str> },
    Unwanted { name: Box<str> },
    Other { name: Box<str>, wanted: ValuePattern },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    pub winner: Option<usize>,
    /// The winner's, by those of its hosts, sources and server names that this request fits.
    pub specificity: Option<Specificity>,
    /// By route.
    pub verdicts: Vec<Verdict>,
}

impl RouteTable {
    /// The winner is `lookup`'s: the search is the same. Takes time and memory linear in the number of routes.
    pub fn explain<V: RequestView>(&self, key: &RouteKey<'_>, view: &V) -> Explanation {
        let mut witness = Witness {
            variants: &self.index.variants,
            hosts: Vec::new(),
            rank: HostRank::Any,
            seen: vec![Seen::Nothing; self.len()],
        };
        let winner = self.index.search(key, view, &mut witness);
        let Witness { hosts, seen, .. } = witness;
        let agreed = |route: usize| match seen[route] {
            Seen::Agrees { host, variant } => Some(self.specificity_of(route, host, variant)),
            _ => None,
        };
        let best = winner.and_then(agreed);
        let verdicts = (0..self.len())
            .map(|route| match seen[route] {
                Seen::Agrees { .. } if winner == Some(route) => Verdict::Chosen,
                Seen::Agrees { .. } => {
                    let by = best.as_ref().zip(agreed(route).as_ref()).map(|(best, own)| best.decides(own));
                    Verdict::Outranked { by: by.unwrap_or(Precedence::Order) }
                }
                Seen::Fails { variant, at } => Verdict::Rejected(self.reason(route, variant, at, key, view)),
                Seen::Nothing => Verdict::Rejected(self.unseen(route, &hosts)),
            })
            .collect();
        Explanation { winner, specificity: best, verdicts }
    }

    /// A route's rank by the most specific of its hosts, sources and server names. `None` for no route.
    pub fn specificity(&self, route: usize) -> Option<Specificity> {
        let named = self.named.get(route)?;
        let host = named.hosts.iter().map(host_rank).max().unwrap_or(HostRank::Any);
        Some(self.specificity_of(route, host, *named.variants.first()?))
    }

    fn specificity_of(&self, route: usize, host: HostRank, variant: u32) -> Specificity {
        let conditions = &self.index.variants[variant as usize];
        Specificity {
            host,
            path: self.named[route].path_rank.clone(),
            names_methods: !conditions.methods.is_empty(),
            headers: conditions.headers.len(),
            query: conditions.query.len(),
            cookies: conditions.cookies.len(),
            source: conditions.sources.first().map(|network| network.prefix_bits),
            server_name: conditions.server_names.first().map_or(HostRank::Any, host_rank),
        }
    }

    /// The search did not come to this route: no host of it was among those that fit, or else its path was not.
    fn unseen(&self, route: usize, hosts: &[u32]) -> Reason {
        let named = &self.named[route];
        let fits = |pattern: &HostPattern| {
            let host = match pattern {
                HostPattern::Exact(name) => self.index.exact_hosts.find(0, name.as_bytes()),
                HostPattern::Wildcard(suffix) => self.index.wildcard_hosts.find(0, suffix.as_bytes()),
            };
            host.is_some_and(|host| hosts.contains(&host))
        };
        if named.hosts.is_empty() || named.hosts.iter().any(fits) {
            Reason::Path(named.path.clone())
        } else {
            Reason::Host(named.hosts.clone())
        }
    }

    fn reason<V: RequestView>(
        &self,
        route: usize,
        variant: u32,
        at: Disagreement,
        key: &RouteKey<'_>,
        view: &V,
    ) -> Reason {
        let conditions = &self.index.variants[variant as usize];
        // Variants hold a part of these each.
        let all = |pick: fn(&Conditions) -> &[HostPattern]| {
            let mut all: Vec<HostPattern> = Vec::new();
            for variant in &self.named[route].variants {
                let fresh = pick(&self.index.variants[*variant as usize]).iter();
                let fresh: Vec<_> = fresh.filter(|pattern| !all.contains(pattern)).cloned().collect();
                all.extend(fresh);
            }
            all.into_boxed_slice()
        };
        match at {
            Disagreement::Method => Reason::Method(conditions.methods.clone()),
            Disagreement::Header(at) => {
                let field = &conditions.headers[at];
                Reason::Header(mismatch(field, view.header(&field.name)))
            }
            Disagreement::Query(at) => {
                let field = &conditions.query[at];
                let query = key.query.unwrap_or_default();
                Reason::Query(mismatch(field, first_parameter(query, field.name.as_bytes())))
            }
            Disagreement::Cookie(at) => {
                let field = &conditions.cookies[at];
                let value = first_cookie(view.values("cookie"), field.name.as_bytes());
                Reason::Cookie(mismatch(field, value))
            }
            Disagreement::Source => {
                let mut all: Vec<Network> = Vec::new();
                for variant in &self.named[route].variants {
                    all.extend(&self.index.variants[*variant as usize].sources);
                }
                all.sort_unstable();
                all.dedup();
                Reason::Source(all.into())
            }
            Disagreement::ServerName => Reason::ServerName(all(|conditions| &conditions.server_names)),
        }
    }
}

/// What the search has told so far.
struct Witness<'t> {
    variants: &'t [Conditions],
    /// Those that fit.
    hosts: Vec<u32>,
    /// Of the last of them.
    rank: HostRank,
    /// By route.
    seen: Vec<Seen>,
}

#[derive(Clone, Copy)]
enum Seen {
    Nothing,
    Agrees {
        host: HostRank,
        variant: u32,
    },
    /// A route fails where the one of its variants fails that gets furthest.
    Fails {
        variant: u32,
        at: Disagreement,
    },
}

impl Observer for Witness<'_> {
    const EXHAUSTIVE: bool = true;

    fn host(&mut self, host: u32, rank: HostRank) {
        self.hosts.push(host);
        self.rank = rank;
    }

    fn candidate(&mut self, variant: u32, checked: Result<(), Disagreement>) {
        let seen = &mut self.seen[self.variants[variant as usize].route as usize];
        match (&*seen, checked) {
            // Hosts come from the most specific on, and so do a route's variants.
            (Seen::Agrees { .. }, _) => {}
            (_, Ok(())) => *seen = Seen::Agrees { host: self.rank, variant },
            (Seen::Fails { at: known, .. }, Err(at)) if *known >= at => {}
            (_, Err(at)) => *seen = Seen::Fails { variant, at },
        }
    }
}

impl Specificity {
    /// The rule by which this one ranks before or after another.
    pub fn decides(&self, other: &Specificity) -> Precedence {
        [
            (self.host != other.host, Precedence::Host),
            (self.path != other.path, Precedence::Path),
            (self.names_methods != other.names_methods, Precedence::Methods),
            (self.headers != other.headers, Precedence::Headers),
            (self.query != other.query, Precedence::Query),
            (self.cookies != other.cookies, Precedence::Cookies),
            (self.source != other.source, Precedence::Source),
            (self.server_name != other.server_name, Precedence::ServerName),
        ]
        .into_iter()
        .find_map(|(differs, rule)| differs.then_some(rule))
        .unwrap_or(Precedence::Order)
    }
}

fn host_rank(pattern: &HostPattern) -> HostRank {
    match pattern {
        HostPattern::Exact(_) => HostRank::Exact,
        HostPattern::Wildcard(suffix) => HostRank::Wildcard(suffix.len()),
    }
}

pub(super) fn path_rank(path: &PathPattern) -> PathRank {
    match path {
        PathPattern::Any => PathRank::Any,
        PathPattern::Exact(_) => PathRank::Exact,
        PathPattern::Regex(_) => PathRank::Regex,
        PathPattern::Prefix(prefix) => {
            let whole = prefix.strip_suffix('/').unwrap_or(prefix);
            PathRank::Prefix { segments: whole.bytes().filter(|byte| *byte == b'/').count() }
        }
        PathPattern::Template(template) => {
            let rank = |segment: &Segment| match segment {
                Segment::Literal(_) => SegmentRank::Literal,
                Segment::Variable(_) => SegmentRank::Variable,
                Segment::Rest(_) => SegmentRank::Rest,
            };
            let mut ranks: Vec<_> = template.segments().iter().map(rank).collect();
            if ranks.last() != Some(&SegmentRank::Rest) {
                ranks.push(SegmentRank::End);
            }
            PathRank::Template(ranks.into())
        }
    }
}

/// In words.
pub(super) fn path_text(path: &PathPattern) -> String {
    match path {
        PathPattern::Any => "any path".to_owned(),
        PathPattern::Exact(path) => format!("exact path {path}"),
        PathPattern::Prefix(prefix) => format!("path prefix {prefix}"),
        PathPattern::Regex(regex) => format!("path regex {}", regex.as_str()),
        PathPattern::Template(template) => format!("path template {template}"),
    }
}

fn mismatch(field: &FieldPattern, value: Option<&[u8]>) -> FieldMismatch {
    let name = field.name.clone();
    match (&field.value, value) {
        (_, None) => FieldMismatch::Missing { name },
        (ValuePattern::Absent, Some(_)) => FieldMismatch::Unwanted { name },
        (wanted, Some(_)) => FieldMismatch::Other { name, wanted: wanted.clone() },
    }
}

impl Reason {
    /// The rule of precedence that it belongs to.
    pub fn part(&self) -> Precedence {
        match self {
            Reason::Host(_) => Precedence::Host,
            Reason::Path(_) => Precedence::Path,
            Reason::Method(_) => Precedence::Methods,
            Reason::Header(_) => Precedence::Headers,
            Reason::Query(_) => Precedence::Query,
            Reason::Cookie(_) => Precedence::Cookies,
            Reason::Source(_) => Precedence::Source,
            Reason::ServerName(_) => Precedence::ServerName,
        }
    }
}

impl fmt::Display for Specificity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            HostRank::Any => f.write_str("any host")?,
            HostRank::Wildcard(bytes) => write!(f, "host wildcard of {bytes} bytes")?,
            HostRank::Exact => f.write_str("host exact")?,
        }
        match &self.path {
            PathRank::Any => f.write_str(", any path")?,
            PathRank::Prefix { segments: 0 } => f.write_str(", path prefix /")?,
            PathRank::Prefix { segments } => counted(f, "path prefix of ", *segments, "segment")?,
            PathRank::Regex => f.write_str(", path regex")?,
            PathRank::Template(segments) => {
                let count = |kind| segments.iter().filter(|segment| **segment == kind).count();
                counted(f, "path template of ", count(SegmentRank::Literal), "literal")?;
                counted(f, "", count(SegmentRank::Variable), "variable")?;
                if count(SegmentRank::Rest) > 0 {
                    f.write_str(", and the rest")?;
                }
            }
            PathRank::Exact => f.write_str(", path exact")?,
        }
        if self.names_methods {
            f.write_str(", methods")?;
        }
        for (count, what) in
            [(self.headers, "header"), (self.query, "query parameter"), (self.cookies, "cookie")]
        {
            if count > 0 {
                counted(f, "", count, what)?;
            }
        }
        if let Some(bits) = self.source {
            write!(f, ", source of {bits} bits")?;
        }
        match self.server_name {
            HostRank::Any => Ok(()),
            HostRank::Wildcard(bytes) => write!(f, ", server name wildcard of {bytes} bytes"),
            HostRank::Exact => f.write_str(", server name exact"),
        }
    }
}

fn counted(f: &mut fmt::Formatter<'_>, before: &str, count: usize, what: &str) -> fmt::Result {
    write!(f, ", {before}{count} {what}{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Precedence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precedence::Host => "a more specific host",
            Precedence::Path => "a more specific path",
            Precedence::Methods => "naming methods",
            Precedence::Headers => "more headers",
            Precedence::Query => "more query parameters",
            Precedence::Cookies => "more cookies",
            Precedence::Source => "a more specific source",
            Precedence::ServerName => "a more specific server name",
            Precedence::Order => "coming first in the file",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Chosen => f.write_str("chosen"),
            Verdict::Outranked { by } => write!(f, "agrees, but the chosen route wins by {by}"),
            Verdict::Rejected(reason) => reason.fmt(f),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Host(hosts) => listed(f, "host", hosts.iter()),
            Reason::Path(path) => write!(f, "its {path} does not match"),
            Reason::Method(methods) => {
                listed(f, "method", methods.iter().map(|method| String::from_utf8_lossy(method)))
            }
            Reason::Header(field) => field.describe(f, "header"),
            Reason::Query(field) => field.describe(f, "query parameter"),
            Reason::Cookie(field) => field.describe(f, "cookie"),
            Reason::Source(networks) => listed(f, "source", networks.iter()),
            Reason::ServerName(names) => listed(f, "server name", names.iter()),
        }
    }
}

fn listed<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    items: impl ExactSizeIterator<Item = T>,
) -> fmt::Result {
    let (plural, verb) = if items.len() == 1 { ("", "does") } else { ("s", "do") };
    write!(f, "its {what}{plural} ")?;
    for (index, item) in items.enumerate() {
        write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
    }
    write!(f, " {verb} not match")
}

impl FieldMismatch {
    fn describe(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        match self {
            FieldMismatch::Missing { name } => write!(f, "the {what} `{name}` is missing"),
            FieldMismatch::Unwanted { name } => write!(f, "the {what} `{name}` is there, and must not be"),
            FieldMismatch::Other { name, wanted } => {
                write!(f, "the {what} `{name}` does not match: ")?;
                match wanted {
                    ValuePattern::Exact(value) => write!(f, "expected `{}`", value.escape_ascii()),
                    ValuePattern::Prefix(value) => {
                        write!(f, "expected to start with `{}`", value.escape_ascii())
                    }
                    ValuePattern::Regex(regex) => write!(f, "expected to fit `{}`", regex.as_str()),
                    ValuePattern::Present | ValuePattern::Absent => f.write_str("expected another"),
                }
            }
        }
    }
}
