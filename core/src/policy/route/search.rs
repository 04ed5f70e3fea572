//! The search itself, and the flat structure that it goes through. One search serves look-ups, which stop at the first
//! route that agrees, and explanations, whose observer sees every candidate that host and path lead to.

use super::automaton::Automaton;
use super::conditions::{Conditions, Disagreement, HostRank};
use super::literal_filter::LiteralFilter;
use super::table::{Range, ScopedMap};
use super::{HOST_BYTES_MAX, RequestView, RouteKey, WholeRegex};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Index {
    pub(super) exact_hosts: ScopedMap,
    pub(super) wildcard_hosts: ScopedMap,
    /// Bit n: some wildcard is n bytes long. Keeps a host of 120 labels from costing 120 hashes.
    pub(super) wildcard_bytes: [u64; 4],
    pub(super) any_host: Option<u32>,
    pub(super) hosts: Box<[HostPaths]>,
    pub(super) nodes: Box<[Node]>,
    pub(super) segments: ScopedMap,
    pub(super) matchers: Box<[Matcher]>,
    /// Numbers of variants, ascending within each range.
    pub(super) candidates: Box<[u32]>,
    /// All variants, the most specific first as far as host and path do not decide.
    pub(super) variants: Box<[Conditions]>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HostPaths {
    pub(super) root: u32,
    pub(super) any: Range,
}

/// A path segment that some route knows, or a variable in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) exact: Range,
    pub(super) prefix: Range,
    /// Templates that end here.
    pub(super) template: Range,
    /// Templates of which this is the last node before their `**`.
    pub(super) rest: Range,
    /// Of `matchers`: the regexes whose literal prefix leads here.
    pub(super) matchers: Range,
    /// The nearest ancestor that has prefix candidates, or `NONE`.
    pub(super) shorter: u32,
    /// The nearest ancestor that has matchers, or `NONE`.
    pub(super) above: u32,
    /// The child for any segment, or `NONE`.
    pub(super) variable: u32,
    /// Whether any template is at this node or below.
    pub(super) leads_to_template: bool,
    /// Whether any of them is below a literal child: else its segment need not be looked up.
    pub(super) leads_by_literal: bool,
}

pub(super) const NONE: u32 = u32::MAX;

/// Regexes that are asked in one pass over the path, or a way to them.
#[derive(Debug)]
pub(super) enum Matcher {
    Automaton {
        automaton: Arc<Automaton>,
        /// Bytes of the path that the way to the node has read already.
        skip: u32,
        /// By the number of the set of patterns that fit: its candidates.
        accepted: Box<[Range]>,
    },
    Engine {
        regex: WholeRegex,
        accepted: Range,
    },
    /// Those of other matchers that can fit.
    Filter(Box<LiteralFilter>),
}

/// Sees what a search meets. The search for look-ups is compiled with an observer that does nothing.
pub(super) trait Observer {
    /// Whether the search goes on after the first that agrees.
    const EXHAUSTIVE: bool;

    /// A host that fits; what follows is about its routes.
    fn host(&mut self, host: u32, rank: HostRank);

    /// A variant whose host and path agree with the request.
    fn candidate(&mut self, variant: u32, checked: Result<(), Disagreement>);
}

#[derive(Debug)]
pub(super) struct Nobody;

impl Observer for Nobody {
    const EXHAUSTIVE: bool = false;

    #[inline(always)]
    fn host(&mut self, _: u32, _: HostRank) {}

    #[inline(always)]
    fn candidate(&mut self, _: u32, _: Result<(), Disagreement>) {}
}

impl Index {
    /// The number of the route that wins.
    #[inline]
    pub(super) fn search<V: RequestView, O: Observer>(
        &self,
        key: &RouteKey<'_>,
        view: &V,
        observer: &mut O,
    ) -> Option<usize> {
        let mut search = Search { index: self, key, view, observer, winner: NONE };
        search.hosts();
        (search.winner != NONE).then(|| self.variants[search.winner as usize].route as usize)
    }
}

/// One search under way. Its methods say whether it is over.
struct Search<'s, 'k, V, O> {
    index: &'s Index,
    key: &'s RouteKey<'k>,
    view: &'s V,
    observer: &'s mut O,
    /// A variant, or `NONE`.
    winner: u32,
}

impl<V: RequestView, O: Observer> Search<'_, '_, V, O> {
    fn hosts(&mut self) -> bool {
        if let Some(host) = bare_host(self.key.host) {
            if let Some(at) = self.index.exact_hosts.find(0, host)
                && self.host(at, HostRank::Exact)
            {
                return true;
            }
            // Most configurations have no wildcard, and each host has a dot.
            let labels = if self.index.wildcard_bytes == [0; 4] { &[] } else { host };
            for (at, _) in labels.iter().enumerate().filter(|(at, byte)| **byte == b'.' && *at > 0) {
                let suffix = &host[at..];
                if self.index.wildcard_bytes[suffix.len() / 64] >> (suffix.len() % 64) & 1 == 0 {
                    continue;
                }
                if let Some(at) = self.index.wildcard_hosts.find(0, suffix)
                    && self.host(at, HostRank::Wildcard(suffix.len()))
                {
                    return true;
                }
            }
        }
        self.index.any_host.is_some_and(|at| self.host(at, HostRank::Any))
    }

    fn host(&mut self, host: u32, rank: HostRank) -> bool {
        self.observer.host(host, rank);
        let index = self.index;
        let paths = &index.hosts[host as usize];
        let Some(segments) = self.key.path.strip_prefix(b"/") else {
            return self.range(paths.any);
        };
        let mut way = Way::default();
        let (deepest, whole) = index.walk(paths.root, segments, &mut way);
        let node = &index.nodes[deepest as usize];
        if whole && self.range(node.exact) {
            return true;
        }
        if index.nodes[paths.root as usize].leads_to_template
            && self.templates(&way, 0, paths.root, Some(segments))
        {
            return true;
        }
        if self.regexes(deepest) {
            return true;
        }
        let mut at = deepest;
        while at != NONE {
            let node = &index.nodes[at as usize];
            if self.range(node.prefix) {
                return true;
            }
            at = node.shorter;
        }
        self.range(paths.any)
    }

    /// The templates below a node, the most specific first: literal, variable, end, `**`. Every node has one parent, so
    /// it is met once at most; and the ways double only where a template has a literal in the place of another's
    /// variable and both fit so far. Nodes that the walk has been at are not looked up again.
    fn templates(&mut self, way: &Way, depth: usize, node: u32, rest: Option<&[u8]>) -> bool {
        let index = self.index;
        let at = &index.nodes[node as usize];
        match rest {
            None => {
                if self.range(at.template) {
                    return true;
                }
            }
            Some(rest) => {
                let (segment, more) = first_segment(rest);
                if at.leads_by_literal
                    && let Some(child) = index.child(way, depth, node, segment)
                    && index.nodes[child as usize].leads_to_template
                    && self.templates(way, depth + 1, child, more)
                {
                    return true;
                }
                if at.variable != NONE
                    && !segment.is_empty()
                    && self.templates(way, depth + 1, at.variable, more)
                {
                    return true;
                }
            }
        }
        self.range(at.rest)
    }

    /// Regexes rank alike wherever they lie, so the best of all that fit is looked for.
    fn regexes(&mut self, deepest: u32) -> bool {
        let index = self.index;
        let mut best = NONE;
        let mut at = deepest;
        while at != NONE {
            let node = &index.nodes[at as usize];
            for matcher in index.matchers(node.matchers) {
                if let Matcher::Filter(filter) = matcher {
                    filter.each_group(self.key.path, |group| {
                        for matcher in index.matchers(group) {
                            best = self.better(matcher, best);
                        }
                    });
                } else {
                    best = self.better(matcher, best);
                }
            }
            at = node.above;
        }
        best != NONE && self.won(best)
    }

    /// The best variant of a matcher if it is better than one that is known.
    #[inline]
    fn better(&mut self, matcher: &Matcher, mut best: u32) -> u32 {
        let index = self.index;
        for variant in index.candidates(matcher.fitting(self.key.path)) {
            if !O::EXHAUSTIVE && *variant >= best {
                break;
            }
            if self.agrees(*variant) {
                best = best.min(*variant);
            }
        }
        best
    }

    fn range(&mut self, range: Range) -> bool {
        let index = self.index;
        index.candidates(range).iter().any(|variant| self.agrees(*variant) && self.won(*variant))
    }

    fn agrees(&mut self, variant: u32) -> bool {
        let checked = self.index.variants[variant as usize].check(self.key, self.view);
        self.observer.candidate(variant, checked);
        checked.is_ok()
    }

    fn won(&mut self, variant: u32) -> bool {
        if self.winner == NONE {
            self.winner = variant;
        }
        !O::EXHAUSTIVE
    }
}

impl Index {
    fn candidates(&self, range: Range) -> &[u32] {
        &self.candidates[range.start as usize..range.end as usize]
    }

    fn matchers(&self, range: Range) -> &[Matcher] {
        &self.matchers[range.start as usize..range.end as usize]
    }

    /// The child of a node for the path's segment at this depth, from the way where that knows it.
    #[inline]
    fn child(&self, way: &Way, depth: usize, node: u32, segment: &[u8]) -> Option<u32> {
        let known = &way.nodes[..way.known];
        match (known.get(depth), known.get(depth + 1)) {
            (Some(same), Some(child)) if *same == node => Some(*child),
            (Some(same), None) if *same == node && known.len() < WAY_NODES_MAX => None,
            _ => self.segments.find(node, segment),
        }
    }

    /// The deepest known node on the path, and whether it is the whole path.
    #[inline]
    fn walk(&self, root: u32, mut rest: &[u8], way: &mut Way) -> (u32, bool) {
        let mut node = root;
        loop {
            way.push(node);
            let (segment, more) = first_segment(rest);
            match (self.segments.find(node, segment), more) {
                (None, _) => return (node, false),
                (Some(child), None) => {
                    way.push(child);
                    return (child, true);
                }
                (Some(child), Some(more)) => (node, rest) = (child, more),
            }
        }
    }
}

/// The nodes from a root on that a path leads to by its segments, as far as there is room for them: literal children of
/// one another, to the deepest known.
#[derive(Default)]
struct Way {
    nodes: [u32; WAY_NODES_MAX],
    known: usize,
}

const WAY_NODES_MAX: usize = 16;

impl Way {
    #[inline]
    fn push(&mut self, node: u32) {
        if let Some(slot) = self.nodes.get_mut(self.known) {
            *slot = node;
            self.known += 1;
        }
    }
}

impl Matcher {
    fn fitting(&self, path: &[u8]) -> Range {
        match self {
            Matcher::Automaton { automaton, skip, accepted } => {
                let Some(rest) = path.get(*skip as usize..) else { return Range::default() };
                accepted[automaton.matching(rest)]
            }
            Matcher::Engine { regex, accepted } => {
                if regex.is_match(path) {
                    *accepted
                } else {
                    Range::default()
                }
            }
            // It stands for others, which are asked in its place.
            Matcher::Filter(_) => Range::default(),
        }
    }
}

/// A segment and what follows its slash, if it has one.
#[inline]
fn first_segment(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match position(b'/', path) {
        Some(slash) => (&path[..slash], Some(&path[slash + 1..])),
        None => (path, None),
    }
}

/// Without port and trailing dot; nothing if it can't be a host of any table.
#[inline]
fn bare_host(host: &[u8]) -> Option<&[u8]> {
    let name = without_port(host);
    let name = name.strip_suffix(b".").unwrap_or(name);
    (!name.is_empty() && name.len() <= HOST_BYTES_MAX).then_some(name)
}

#[inline]
pub(super) fn without_port(host: &[u8]) -> &[u8] {
    if host.starts_with(b"[") {
        return memchr::memchr(b']', host).map_or(host, |end| &host[..=end]);
    }
    position(b':', host).map_or(host, |colon| &host[..colon])
}

/// Where a byte is first. What is looked for here is mostly near, and then a call of `memchr` costs more than it saves.
#[inline]
fn position(wanted: u8, text: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const NEAR_BYTES: usize = 32;
    let mut at = 0;
    while let Some(word) = text[at..].first_chunk() {
        if at == NEAR_BYTES {
            return memchr::memchr(wanted, &text[at..]).map(|found| at + found);
        }
        // The lowest byte whose upper bit is set is one that is zero in `differs` (Hacker's Delight, section 6-1).
        let differs = u64::from_le_bytes(*word) ^ (u64::from(wanted) * ONES);
        let zeros = differs.wrapping_sub(ONES) & !differs & (0x80 * ONES);
        if zeros != 0 {
            return Some(at + zeros.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    text[at..].iter().position(|byte| *byte == wanted).map(|found| at + found)
}
