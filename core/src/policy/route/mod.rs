//! Which route a request takes. Called once for each request; does not allocate, does not look at the body,
//! and trusts its caller to pass the path normalised (what is matched here must be what is sent upstream).
//!
//! Of all the routes that agree with a request in everything that they name, the most specific wins:
//! 1. host: exact, then the longest wildcard, then any;
//! 2. path: exact; then templates, compared segment by segment: a literal before a variable, the path's end before
//!    `**`, a variable before `**`; then regex; then the longest prefix; then any;
//! 3. a route that names methods before one that does not;
//! 4. more header matches; 5. more query matches; 6. more cookie matches;
//! 7. a route that names a source before one that does not, of two the one whose matching network has the longer prefix;
//! 8. a route that names a server name before one that does not: exact, then the longest wildcard;
//! 9. the one that comes first in the file.
//!
//! That is the order of the Kubernetes Gateway API (`HTTPRouteRule.matches`), which leaves the place of a
//! regex open: here it stands before prefixes, for behind them a catch-all `/` would hide every regex.
//! A host whose routes all disagree with the request does not hide the routes of a less specific host:
//! "absent" means any host, also one that other routes name. Tests compare this with a naive reading of the
//! rule above.
//!
//! `lookup` and `explain` are one search (`search`) over one structure, which `builder` makes: a hash table from host
//! to a trie of path segments. All tries share one arena and one hash table keyed by (node, segment), so a lookup
//! costs a hash for each segment that some route knows and stops at the first that none knows: a path of 4,000 slashes
//! costs no more than the deepest configured one. A template's variable is one more child of its node; a regex lies on
//! the node that its literal prefix reaches and is asked only there, together with all that lie there (`automaton`), or,
//! where those are many, with those whose literals the path has (`literal_filter`).
//! Figures: `cargo bench -p ringway --bench route`.

mod automaton;
mod builder;
pub(crate) mod compile;
mod conditions;
mod cookies;
mod dead;
mod explain;
mod literal_filter;
mod network;
mod query;
mod search;
pub mod settings;
pub mod spelling;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod whole_regex;

use crate::base::reason::ReasonCode;
use crate::http::message::RequestHead;
pub use crate::settings::address::HostPattern;
pub use conditions::{FieldRule, HostRank};
pub use dead::{Cover, Dead, Extent, Loss, dead};
pub use explain::{
    Explanation, FieldMismatch, PathRank, Precedence, Reason, SegmentRank, Specificity, Verdict,
};
pub use network::{Network, NetworkError};
use std::fmt;
use std::net::IpAddr;
pub use template::{Template, TemplateError, TemplateRewrite};
pub use whole_regex::{RegexError, WholeRegex};

/// Its reason codes.
pub const REASONS: &[ReasonCode] = &[ReasonCode::NoRoute];

/// Longest host that is looked up: RFC 1035 section 2.3.4 ends names at 253 characters. A longer one takes
/// the routes that name no host.
const HOST_BYTES_MAX: usize = 255;

/// What a lookup asks of a request's header fields.
pub trait RequestView {
    /// The value of the first field of this name, in any case of letters.
    fn header(&self, name: &str) -> Option<&[u8]>;

    /// The values of all fields of this name, in their order. Asked for `cookie`.
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]>;
}

impl RequestView for RequestHead<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.header(name)
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields.values(name)
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
    /// The client's address. Without one (a Unix socket), only routes that name no source.
    pub source: Option<IpAddr>,
    /// What the client asked for in its TLS handshake (RFC 6066 section 3). Without one, only routes that name none.
    pub server_name: Option<&'r str>,
}

/// The match of one route. Empty lists mean any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteRule {
    pub hosts: Vec<HostPattern>,
    pub path: PathPattern,
    pub methods: Vec<Box<[u8]>>,
    pub headers: Vec<FieldPattern>,
    pub query: Vec<FieldPattern>,
    pub cookies: Vec<FieldPattern>,
    pub sources: Vec<Network>,
    pub server_names: Vec<HostPattern>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum PathPattern {
    #[default]
    Any,
    Exact(Box<str>),
    Template(Template),
    Regex(WholeRegex),
    /// Whole segments; a trailing slash says nothing.
    Prefix(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPattern {
    /// Of a header: in lower case. Of a parameter or a cookie: as it is.
    pub name: Box<str>,
    pub value: ValuePattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(WholeRegex),
    Present,
    Absent,
}

/// All routes of a snapshot, ready for lookup. Immutable.
pub struct RouteTable {
    index: search::Index,
    /// By route number: what it names, in words for people.
    named: Box<[Named]>,
}

/// What explanations need of a route. The search does not read this, and a regex leaves nothing but its text here.
#[derive(Debug)]
struct Named {
    hosts: Box<[HostPattern]>,
    path: Box<str>,
    path_rank: PathRank,
    /// Ascending: the most specific first.
    variants: Box<[u32]>,
}

impl RouteTable {
    /// Rule n becomes route n. At most `limits::ROUTES_MAX` rules.
    pub fn new(rules: Vec<RouteRule>) -> Self {
        builder::build(rules, builder::TABLE_STEPS_MAX)
    }

    pub fn len(&self) -> usize {
        self.named.len()
    }

    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// The number of the route that this request takes. Time is linear in the request and bounded by the table: each
    /// node of the trie is met once at most, each regex reads the path once at most.
    pub fn lookup<V: RequestView>(&self, key: &RouteKey<'_>, view: &V) -> Option<usize> {
        self.index.search(key, view, &mut search::Nobody)
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable").field("routes", &self.named.len()).finish_non_exhaustive()
    }
}
