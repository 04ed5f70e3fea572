//! What a route matches: from texts to the route table's patterns, and which routes others leave no request.

use std::collections::HashMap;
use std::fmt::Write as _;

use regex::bytes::{Regex, RegexBuilder};

use super::super::address::host_pattern;
use super::super::raw;
use super::super::report::{At, ProblemKind};
use super::Compiler;
use super::values::{is_token, path_fault};
use crate::base::limits;
use crate::policy::route::{FieldPattern, HostPattern, PathPattern, RouteRule, ValuePattern};

/// The two places where a field is matched differ in what a name may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldPlace {
    Header,
    Query,
}

impl Compiler<'_> {
    /// `None` if there were errors, which are noted.
    pub(super) fn rule(&mut self, at: &At<'_>, matches: &raw::Match) -> Option<RouteRule> {
        let errors_before = self.errors.count();
        let hosts = self.hosts(&at.field("hosts"), matches.hosts.as_deref().unwrap_or_default());
        let path = self.path(&at.field("path"), matches.path.as_ref());
        let methods = self.methods(&at.field("methods"), matches.methods.as_deref().unwrap_or_default());
        let headers = self.fields(&at.field("headers"), &matches.headers, FieldPlace::Header);
        let query = self.fields(&at.field("query"), &matches.query, FieldPlace::Query);
        let rule = RouteRule { hosts, path: path?, methods, headers, query };
        (self.errors.count() == errors_before).then_some(rule)
    }

    fn hosts(&mut self, list: &At<'_>, texts: &[String]) -> Vec<HostPattern> {
        let mut seen: HashMap<HostPattern, usize> = HashMap::new();
        for (index, text) in texts.iter().enumerate() {
            let at = list.index(index);
            match host_pattern(text) {
                Ok(pattern) => {
                    if let Some(first) = seen.insert(pattern, index) {
                        self.errors
                            .add(ProblemKind::Conflict, &at, format_args!("the host `{text}` is there twice"))
                            .with(&list.index(first));
                    }
                }
                Err(error) => self.bad_address(&at, text, &error),
            }
        }
        let mut hosts: Vec<_> = seen.into_iter().collect();
        hosts.sort_unstable_by_key(|(_, index)| *index);
        hosts.into_iter().map(|(pattern, _)| pattern).collect()
    }

    fn path(&mut self, at: &At<'_>, path: Option<&raw::PathMatch>) -> Option<PathPattern> {
        let Some(path) = path else { return Some(PathPattern::Any) };
        match (&path.exact, &path.prefix, &path.regex) {
            (Some(exact), None, None) => {
                self.matched_path(&at.field("exact"), exact);
                Some(PathPattern::Exact(exact.as_str().into()))
            }
            (None, Some(prefix), None) => {
                self.matched_path(&at.field("prefix"), prefix);
                Some(PathPattern::Prefix(prefix.as_str().into()))
            }
            (None, None, Some(pattern)) => {
                self.regex(&at.field("regex"), pattern, Anchors::BothEnds).map(PathPattern::Regex)
            }
            _ => {
                let message = "a path is matched by exactly one of `exact`, `prefix` and `regex`";
                self.errors.add(ProblemKind::Conflict, at, message);
                None
            }
        }
    }

    fn matched_path(&mut self, at: &At<'_>, path: &str) {
        if let Some(fault) = path_fault(path) {
            self.bad_value(at, format_args!("`{path}`: {fault}"));
        }
    }

    fn methods(&mut self, list: &At<'_>, texts: &[String]) -> Vec<Box<[u8]>> {
        let mut methods: Vec<Box<[u8]>> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            if !is_token(text) {
                self.bad_value(&list.index(index), format_args!("`{text}` is no method"));
            } else if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
                let message = format_args!("`{text}`: methods are written in capitals");
                self.errors
                    .add(ProblemKind::BadValue, &list.index(index), message)
                    .hint(format!("did you mean `{}`?", text.to_ascii_uppercase()));
            } else if methods.iter().any(|known| **known == *text.as_bytes()) {
                let message = format_args!("the method `{text}` is there twice");
                self.errors.add(ProblemKind::Conflict, &list.index(index), message);
            }
            methods.push(text.as_bytes().into());
        }
        methods
    }

    fn fields(&mut self, list: &At<'_>, fields: &[raw::FieldMatch], place: FieldPlace) -> Vec<FieldPattern> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut patterns = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            let at = list.index(index);
            let name = match place {
                FieldPlace::Header => field.name.to_ascii_lowercase(),
                FieldPlace::Query => field.name.clone(),
            };
            if place == FieldPlace::Header && !is_token(&name) {
                self.bad_value(&at.field("name"), format_args!("`{name}` is no header field's name"));
            } else if name.is_empty() {
                self.bad_value(&at.field("name"), "a query parameter's name can't be empty");
            }
            if let Some(first) = seen.get(&name) {
                let message = format_args!("`{name}` is matched twice");
                let first = list.index(*first);
                self.errors.add(ProblemKind::Conflict, &at.field("name"), message).with(&first.field("name"));
            }
            let value = match (&field.exact, &field.prefix, &field.regex, field.present) {
                (Some(exact), None, None, None) => Some(ValuePattern::Exact(exact.as_bytes().into())),
                (None, Some(prefix), None, None) => Some(ValuePattern::Prefix(prefix.as_bytes().into())),
                (None, None, Some(pattern), None) => {
                    self.regex(&at.field("regex"), pattern, Anchors::BothEnds).map(ValuePattern::Regex)
                }
                (None, None, None, Some(true)) => Some(ValuePattern::Present),
                (None, None, None, Some(false)) => Some(ValuePattern::Absent),
                _ => {
                    let message = format_args!(
                        "`{name}` is matched by exactly one of `exact`, `prefix`, `regex` and `present`"
                    );
                    self.errors.add(ProblemKind::Conflict, &at, message);
                    None
                }
            };
            patterns.extend(value.map(|value| FieldPattern { name: name.as_str().into(), value }));
            seen.entry(name).or_insert(index);
        }
        patterns
    }

    /// Regexes work on bytes, as paths and header values do; matching takes time linear in the text.
    pub(super) fn regex(&mut self, at: &At<'_>, pattern: &str, anchors: Anchors) -> Option<Regex> {
        if pattern.chars().count() > limits::REGEX_CHARS_MAX {
            let max = limits::REGEX_CHARS_MAX;
            self.bad_value(at, format_args!("a regex has at most {max} characters"));
            return None;
        }
        let compile = |text: &str| {
            RegexBuilder::new(text).unicode(false).size_limit(limits::REGEX_PROGRAM_BYTES_MAX).build()
        };
        // First as it stands, so that `a)(b` is refused and messages speak of the user's text.
        let compiled = compile(pattern).and_then(|plain| match anchors {
            Anchors::None => Ok(plain),
            Anchors::BothEnds => compile(&format!(r"\A(?:{pattern})\z")),
        });
        compiled
            .map_err(|error| {
                let reason = match error {
                    regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
                    other => {
                        let text = other.to_string();
                        let last = text.lines().last().unwrap_or_default();
                        last.strip_prefix("error: ").unwrap_or(last).to_owned()
                    }
                };
                self.bad_value(at, format_args!("bad regex `{pattern}`: {reason}"));
            })
            .ok()
    }

    /// A route is dead if for each of its hosts an earlier route has the very same match. One that is dead
    /// for some hosts only may be meant, so that is a warning.
    pub(super) fn shadowed(&mut self, rules: &[RouteRule]) {
        let mut owners: HashMap<String, usize> = HashMap::new();
        let list = At::Root.field("routes");
        for (index, rule) in rules.iter().enumerate() {
            let item = list.index(index);
            let match_text = match_text(rule);
            let mut lost: Vec<(String, usize)> = Vec::new();
            for host in host_texts(rule) {
                let owner = *owners.entry(format!("{host} {match_text}")).or_insert(index);
                if owner != index {
                    lost.push((host, owner));
                }
            }
            let Some((host, owner)) = lost.first() else { continue };
            let earlier = list.index(*owner);
            let name = &self.raw.routes[*owner].name;
            if lost.len() == rule.hosts.len().max(1) {
                let message = format!(
                    "route `{}` can never be reached: `{name}` before it matches the same",
                    self.raw.routes[index].name
                );
                self.errors
                    .add(ProblemKind::Conflict, &item.field("name"), message)
                    .with(&earlier.field("name"));
            } else {
                let message = format!("for the host `{host}` the route `{name}` before it matches the same");
                let at = item.field("match");
                self.warnings
                    .add(ProblemKind::Suspicious, &at.field("hosts"), message)
                    .with(&earlier.field("name"));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchors {
    None,
    BothEnds,
}

fn host_texts(rule: &RouteRule) -> Vec<String> {
    if rule.hosts.is_empty() {
        return vec![String::new()];
    }
    rule.hosts
        .iter()
        .map(|host| match host {
            HostPattern::Exact(name) => name.to_string(),
            HostPattern::Wildcard(suffix) => format!("*{suffix}"),
        })
        .collect()
}

/// Everything of a match but its host, the same for matches that say the same.
fn match_text(rule: &RouteRule) -> String {
    let mut text = match &rule.path {
        PathPattern::Any => "any".to_owned(),
        PathPattern::Exact(path) => format!("exact {path:?}"),
        PathPattern::Prefix(path) => format!("prefix {:?}", path.strip_suffix('/').unwrap_or(path)),
        PathPattern::Regex(regex) => format!("regex {:?}", regex.as_str()),
    };
    let mut methods: Vec<_> = rule.methods.iter().map(|method| String::from_utf8_lossy(method)).collect();
    methods.sort_unstable();
    for fields in [&rule.headers, &rule.query] {
        let mut lines: Vec<String> =
            fields.iter().map(|field| format!("{:?} {:?}", field.name, field.value)).collect();
        lines.sort_unstable();
        write!(text, " {lines:?}").expect("writing to a String does not fail");
    }
    write!(text, " {methods:?}").expect("writing to a String does not fail");
    text
}
