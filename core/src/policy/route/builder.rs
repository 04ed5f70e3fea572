//! Makes the structure that is searched: collects candidates for each place of the trie, then lays them out flat.
//! Called by `RouteTable::new` on the control thread.

use std::collections::HashMap;
use std::sync::Arc;

use super::automaton::{Automaton, Budget};
use super::conditions::Conditions;
use super::explain::{path_rank, path_text};
use super::literal_filter::{LiteralFilter, Window, rarest_windows};
use super::search::{HostPaths, Index, Matcher, NONE, Node};
use super::table::{Letters, Range, ScopedMapBuilder};
use super::template::{Segment, Template};
use super::{HostPattern, Named, PathPattern, RouteRule, RouteTable, WholeRegex};
use crate::base::limits::REGEX_GROUPS_MAX;

/// Patterns that are asked in one pass, if the product of their automata stays within its budget. A thousand that share
/// what is literal before their first variable part take four passes, which cost a look-up some 50 ns
/// (`lookup/10% regexes of one prefix` beside `lookup/10% regexes`).
const PRODUCT_PATTERNS_MAX: usize = 256;

/// Passes that cost a look-up no more than a filter and what is behind it: a thousand regexes of one prefix take 14 ns less
/// in four passes than behind a filter.
const UNFILTERED_PASSES_MAX: usize = 4;

/// Patterns of one group behind a filter, whose product is small and soon made. A path made for it can have all groups asked
/// once each, so groups of one pattern would let it cost sixteen times as much.
const GROUP_PATTERNS_MAX: usize = 16;

/// Patterns that are worth a filter: it costs a look-up about as much as one automaton.
const FILTER_PATTERNS_MIN: usize = 4;

/// Steps of one product, some milliseconds, and of all products of a table, below a second.
const PRODUCT_STEPS_MAX: usize = 2_000_000;
pub(super) const TABLE_STEPS_MAX: usize = 100_000_000;

/// Candidates of all sets of patterns of one product: sets overlap.
const PRODUCT_CANDIDATES_MAX: usize = 1 << 16;

/// With so many steps for the products of all regexes; without any, no two are asked in one pass.
pub(super) fn build(rules: Vec<RouteRule>, product_steps: usize) -> RouteTable {
    let (variants, of_route) = ranked_variants(&rules);
    let mut builder = Builder::default();
    for (rule, numbers) in rules.iter().zip(&of_route) {
        if rule.hosts.is_empty() {
            let host = builder.any_host();
            builder.insert(host, &rule.path, numbers);
        }
        for pattern in &rule.hosts {
            let host = builder.host(pattern);
            builder.insert(host, &rule.path, numbers);
        }
    }
    let named = rules
        .into_iter()
        .zip(of_route)
        .map(|(rule, variants)| Named {
            hosts: rule.hosts.into(),
            path: path_text(&rule.path).into(),
            path_rank: path_rank(&rule.path),
            variants: variants.into(),
        })
        .collect();
    RouteTable { index: builder.lay_out(variants, product_steps), named }
}

/// All variants of all routes by rank, and for each route the numbers of its own, ascending.
fn ranked_variants(rules: &[RouteRule]) -> (Box<[Conditions]>, Vec<Vec<u32>>) {
    let mut variants: Vec<Conditions> = Vec::with_capacity(rules.len());
    for (route, rule) in rules.iter().enumerate() {
        let route = u32::try_from(route).expect("the count of routes is bounded by limits::ROUTES_MAX");
        variants.extend(Conditions::of(rule, route));
    }
    variants.sort_by_cached_key(Conditions::rank);
    let mut of_route = vec![Vec::with_capacity(1); rules.len()];
    for (number, variant) in variants.iter().enumerate() {
        of_route[variant.route as usize].push(number as u32);
    }
    (variants.into(), of_route)
}

#[derive(Default)]
struct Builder {
    exact_hosts: ScopedMapBuilder,
    wildcard_hosts: ScopedMapBuilder,
    wildcard_bytes: [u64; 4],
    any_host: Option<u32>,
    hosts: Vec<HostDraft>,
    nodes: Vec<NodeDraft>,
    segments: ScopedMapBuilder,
    patterns: Patterns,
}

struct HostDraft {
    root: u32,
    any: Vec<u32>,
}

/// Lists of variants.
struct NodeDraft {
    parent: u32,
    variable: u32,
    leads_to_template: bool,
    leads_by_literal: bool,
    exact: Vec<u32>,
    prefix: Vec<u32>,
    template: Vec<u32>,
    rest: Vec<u32>,
    /// Pattern and variant.
    regexes: Vec<(u32, u32)>,
}

/// Regexes that say the same are one, however many routes and hosts have them.
#[derive(Default)]
struct Patterns {
    numbers: HashMap<Box<str>, u32>,
    regexes: Vec<WholeRegex>,
}

impl Builder {
    fn any_host(&mut self) -> u32 {
        if let Some(host) = self.any_host {
            return host;
        }
        let host = self.new_host();
        self.any_host = Some(host);
        host
    }

    fn host(&mut self, pattern: &HostPattern) -> u32 {
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
        self.hosts.push(HostDraft { root, any: Vec::new() });
        self.hosts.len() as u32 - 1
    }

    fn new_node(&mut self, parent: u32) -> u32 {
        self.nodes.push(NodeDraft {
            parent,
            variable: NONE,
            leads_to_template: false,
            leads_by_literal: false,
            exact: Vec::new(),
            prefix: Vec::new(),
            template: Vec::new(),
            rest: Vec::new(),
            regexes: Vec::new(),
        });
        self.nodes.len() as u32 - 1
    }

    fn insert(&mut self, host: u32, path: &PathPattern, variants: &[u32]) {
        let draft = &mut self.hosts[host as usize];
        let root = draft.root;
        let target = match path {
            PathPattern::Any => &mut draft.any,
            PathPattern::Exact(path) => {
                let node = self.grow(root, path.strip_prefix('/').unwrap_or(path).as_bytes());
                &mut self.nodes[node as usize].exact
            }
            PathPattern::Prefix(path) => {
                let path = path.strip_suffix('/').unwrap_or(path);
                let node = if path.is_empty() {
                    root
                } else {
                    self.grow(root, path.strip_prefix('/').unwrap_or(path).as_bytes())
                };
                &mut self.nodes[node as usize].prefix
            }
            PathPattern::Template(template) => self.grow_template(root, template),
            PathPattern::Regex(regex) => {
                let pattern = self.patterns.number(regex);
                let whole = whole_segments(regex.literal_prefix());
                let node = if whole.len() <= 1 { root } else { self.grow(root, &whole[1..whole.len() - 1]) };
                let regexes = &mut self.nodes[node as usize].regexes;
                regexes.extend(variants.iter().map(|variant| (pattern, *variant)));
                return;
            }
        };
        target.extend(variants);
    }

    /// The node of a path without its first slash.
    fn grow(&mut self, root: u32, path: &[u8]) -> u32 {
        path.split(|byte| *byte == b'/').fold(root, |node, segment| self.child(node, segment))
    }

    fn child(&mut self, node: u32, segment: &[u8]) -> u32 {
        let next = self.nodes.len() as u32;
        let child = self.segments.find_or_insert(node, segment, next);
        if child == next { self.new_node(node) } else { child }
    }

    fn grow_template(&mut self, root: u32, template: &Template) -> &mut Vec<u32> {
        let mut node = root;
        self.nodes[node as usize].leads_to_template = true;
        for segment in template.segments() {
            node = match segment {
                Segment::Literal(text) => {
                    self.nodes[node as usize].leads_by_literal = true;
                    self.child(node, text.as_bytes())
                }
                Segment::Variable(_) => match self.nodes[node as usize].variable {
                    NONE => {
                        let child = self.new_node(node);
                        self.nodes[node as usize].variable = child;
                        child
                    }
                    child => child,
                },
                Segment::Rest(_) => return &mut self.nodes[node as usize].rest,
            };
            self.nodes[node as usize].leads_to_template = true;
        }
        &mut self.nodes[node as usize].template
    }

    fn lay_out(self, variants: Box<[Conditions]>, product_steps: usize) -> Index {
        let mut layout = Layout::new(self.patterns.regexes, product_steps);
        let hosts = self
            .hosts
            .into_iter()
            .map(|host| HostPaths { root: host.root, any: layout.candidates(host.any) })
            .collect();
        let mut nodes: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for draft in self.nodes {
            // Parents come before their children, so theirs is known.
            let (shorter, above) = match nodes.get(draft.parent as usize) {
                None => (NONE, NONE),
                Some(parent) => (
                    if parent.prefix.is_empty() { parent.shorter } else { draft.parent },
                    if parent.matchers.is_empty() { parent.above } else { draft.parent },
                ),
            };
            nodes.push(Node {
                exact: layout.candidates(draft.exact),
                prefix: layout.candidates(draft.prefix),
                template: layout.candidates(draft.template),
                rest: layout.candidates(draft.rest),
                matchers: layout.matchers(draft.regexes),
                shorter,
                above,
                variable: draft.variable,
                leads_to_template: draft.leads_to_template,
                leads_by_literal: draft.leads_by_literal,
            });
        }
        Index {
            exact_hosts: self.exact_hosts.freeze(Letters::Lowered),
            wildcard_hosts: self.wildcard_hosts.freeze(Letters::Lowered),
            wildcard_bytes: self.wildcard_bytes,
            any_host: self.any_host,
            hosts,
            nodes: nodes.into(),
            segments: self.segments.freeze(Letters::AsTheyAre),
            matchers: layout.matchers.into(),
            candidates: layout.candidates.into(),
            variants,
        }
    }
}

impl Patterns {
    fn number(&mut self, regex: &WholeRegex) -> u32 {
        if let Some(number) = self.numbers.get(regex.as_str()) {
            return *number;
        }
        let number = self.regexes.len() as u32;
        self.numbers.insert(regex.as_str().into(), number);
        self.regexes.push(regex.clone());
        number
    }
}

impl Range {
    fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// The part of a literal prefix that ends with its last slash; at least the slash that every path starts with.
fn whole_segments(prefix: &[u8]) -> &[u8] {
    match memchr::memrchr(b'/', prefix) {
        Some(slash) if prefix[0] == b'/' => &prefix[..=slash],
        _ => b"/",
    }
}

/// A pattern and its variants.
type Asked = (u32, Vec<u32>);

struct Layout {
    candidates: Vec<u32>,
    matchers: Vec<Matcher>,
    regexes: Vec<WholeRegex>,
    /// By the numbers of its patterns. A route with a hundred hosts has the same on each.
    products: HashMap<Box<[u32]>, Arc<Automaton>>,
    budget: Budget,
}

impl Layout {
    fn new(regexes: Vec<WholeRegex>, product_steps: usize) -> Self {
        Layout {
            candidates: Vec::new(),
            matchers: Vec::new(),
            regexes,
            products: HashMap::new(),
            budget: Budget::new(product_steps),
        }
    }

    /// A route may name a host twice, and its variants come in any order.
    fn candidates(&mut self, mut variants: Vec<u32>) -> Range {
        variants.sort_unstable();
        variants.dedup();
        let start = self.candidates.len() as u32;
        self.candidates.append(&mut variants);
        Range { start, end: self.candidates.len() as u32 }
    }

    /// Of the regexes of one node.
    fn matchers(&mut self, mut regexes: Vec<(u32, u32)>) -> Range {
        regexes.sort_unstable();
        let mut grouped: Vec<Asked> = regexes
            .chunk_by(|a, b| a.0 == b.0)
            .map(|same| (same[0].0, same.iter().map(|(_, variant)| *variant).collect()))
            .collect();
        // The best first: a later matcher that can't do better is left early.
        grouped.sort_by_key(|(_, variants)| variants.first().copied());
        let (by_table, mut by_engine): (Vec<_>, Vec<_>) =
            grouped.into_iter().partition(|(pattern, _)| self.has_automaton(*pattern));
        let mut own = Vec::new();
        let mut open = by_table;
        if let Some(mut passes) = self.few_passes(&open) {
            own.append(&mut passes);
            open.clear();
        }
        open.append(&mut by_engine);
        if open.len() >= FILTER_PATTERNS_MIN {
            open = self.filter(open, &mut own);
        }
        own.append(&mut self.separate(&open));
        self.lay_down(own)
    }

    /// Large products for all of these, if they are so few that a filter would save nothing. Those that ignore most of the
    /// path, as after a `.*`, have none, and the first that fails tells.
    fn few_passes(&mut self, patterns: &[Asked]) -> Option<Vec<Matcher>> {
        if patterns.len() > PRODUCT_PATTERNS_MAX * UNFILTERED_PASSES_MAX {
            return None;
        }
        let before = self.candidates.len();
        let passes: Option<Vec<Matcher>> =
            patterns.chunks(PRODUCT_PATTERNS_MAX).map(|patterns| self.product(patterns)).collect();
        if passes.is_none() {
            self.candidates.truncate(before);
        }
        passes
    }

    fn lay_down(&mut self, mut matchers: Vec<Matcher>) -> Range {
        let start = self.matchers.len() as u32;
        self.matchers.append(&mut matchers);
        Range { start, end: self.matchers.len() as u32 }
    }

    fn has_automaton(&self, pattern: u32) -> bool {
        self.regexes[pattern as usize].automaton().is_some()
    }

    /// Puts a filter before those that have literals to be told by, and leaves the others.
    fn filter(&mut self, patterns: Vec<Asked>, own: &mut Vec<Matcher>) -> Vec<Asked> {
        let literals: Vec<_> =
            patterns.iter().map(|(pattern, _)| self.regexes[*pattern as usize].required_literals()).collect();
        let windows = rarest_windows(&literals);
        if windows.iter().flatten().count() < FILTER_PATTERNS_MIN {
            return patterns;
        }
        let mut others = Vec::new();
        let mut filtered: Vec<(Window, Asked)> = Vec::new();
        for (asked, window) in patterns.into_iter().zip(windows) {
            match window {
                Some(window) => filtered.push((window, asked)),
                None => others.push(asked),
            }
        }
        filtered.sort_by_key(|(window, _)| *window);
        let patterns_max = GROUP_PATTERNS_MAX.max(filtered.len().div_ceil(REGEX_GROUPS_MAX));
        let mut groups: Vec<(Vec<Asked>, Vec<Window>)> = Vec::new();
        let mut room = 0;
        for same in filtered.chunk_by(|a, b| a.0 == b.0) {
            if room == 0 && groups.len() < REGEX_GROUPS_MAX {
                groups.push((Vec::new(), Vec::new()));
                room = patterns_max;
            }
            let Some((asked, windows)) = groups.last_mut() else { continue };
            asked.extend(same.iter().map(|(_, asked)| asked.clone()));
            windows.push(same[0].0);
            // Engines are asked one by one, so nothing is gained by a second in a group.
            let fills = same.iter().any(|(_, (pattern, _))| !self.has_automaton(*pattern));
            room = if fills { 0 } else { room.saturating_sub(same.len()) };
        }
        let mut laid = Vec::with_capacity(groups.len());
        for (asked, windows) in groups {
            let matchers = self.separate(&asked);
            laid.push((self.lay_down(matchers), windows));
        }
        own.push(Matcher::Filter(Box::new(LiteralFilter::new(&laid))));
        others
    }

    /// Matchers that are all asked: products as large as may be, and the rest.
    fn separate(&mut self, patterns: &[Asked]) -> Vec<Matcher> {
        let (by_table, by_engine): (Vec<_>, Vec<_>) =
            patterns.iter().cloned().partition(|(pattern, _)| self.has_automaton(*pattern));
        let mut matchers = Vec::new();
        let mut width = PRODUCT_PATTERNS_MAX;
        let mut left = by_table.as_slice();
        while !left.is_empty() {
            let (these, others) = left.split_at(width.min(left.len()));
            match self.product(these) {
                Some(matcher) => matchers.push(matcher),
                None if these.len() == 1 => matchers.push(self.engine(&these[0])),
                None => {
                    width = these.len().div_ceil(2);
                    continue;
                }
            }
            left = others;
        }
        matchers.extend(by_engine.iter().map(|asked| self.engine(asked)));
        matchers
    }

    fn engine(&mut self, (pattern, variants): &Asked) -> Matcher {
        let accepted = self.candidates(variants.clone());
        Matcher::Engine { regex: self.regexes[*pattern as usize].clone(), accepted }
    }

    /// One automaton for patterns that have one each, if it does not become too large.
    fn product(&mut self, patterns: &[Asked]) -> Option<Matcher> {
        let numbers: Box<[u32]> = patterns.iter().map(|(pattern, _)| *pattern).collect();
        let prefix = whole_segments(self.regexes[*numbers.first()? as usize].literal_prefix()).to_vec();
        let automaton = match self.products.get(&numbers) {
            Some(known) => Arc::clone(known),
            None => self.new_product(&numbers, &prefix)?,
        };
        let sizes = automaton.sets().iter().flatten().map(|pattern| patterns[*pattern as usize].1.len());
        if patterns.len() > 1 && sizes.sum::<usize>() > PRODUCT_CANDIDATES_MAX {
            return None;
        }
        let accepted = automaton
            .sets()
            .iter()
            .map(|set| {
                let variants = set.iter().flat_map(|pattern| &patterns[*pattern as usize].1);
                self.candidates(variants.copied().collect())
            })
            .collect();
        Some(Matcher::Automaton { automaton, skip: prefix.len() as u32, accepted })
    }

    fn new_product(&mut self, numbers: &[u32], prefix: &[u8]) -> Option<Arc<Automaton>> {
        let parts: Vec<&Automaton> = numbers
            .iter()
            .filter_map(|number| self.regexes[*number as usize].automaton().map(Arc::as_ref))
            .collect();
        let product = if parts.len() == 1 {
            // No larger than the part itself.
            Automaton::product(&parts, prefix, &mut Budget::new(usize::MAX))
        } else {
            let mut portion = self.budget.portion(PRODUCT_STEPS_MAX);
            let product = Automaton::product(&parts, prefix, &mut portion);
            self.budget.give_back(&portion);
            product
        };
        let product = Arc::new(product?);
        self.products.insert(numbers.into(), Arc::clone(&product));
        Some(product)
    }
}
