//! What a route matches: from texts to the route table's patterns, and which routes others leave no request.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};

use super::super::raw;
use super::Compiler;
use crate::base::limits;
use crate::policy::route::{
    Cover, Extent, FieldPattern, HostPattern, Network, PathPattern, RegexError, RouteRule, Template,
    ValuePattern, WholeRegex, dead,
};
use crate::settings::address::host_pattern;
use crate::settings::report::{At, ProblemKind};
use crate::settings::text::{is_token, path_fault};

/// The places where a field is matched differ in what a name may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FieldPlace {
    Header,
    Query,
    Cookie,
}

impl Compiler<'_> {
    /// `None` if there were errors, which are noted.
    pub(super) fn rule(&mut self, at: &At<'_>, matches: &raw::Match) -> Option<RouteRule> {
        let errors_before = self.errors.count();
        let hosts = self.hosts(&at.field("hosts"), matches.hosts.as_deref().unwrap_or_default());
        let path = self.path(&at.field("path"), matches.path.as_ref());
        let methods = self.methods(&at.field("methods"), matches.methods.as_deref().unwrap_or_default());
        let mut headers = self.fields(&at.field("headers"), &matches.headers, FieldPlace::Header);
        let query = self.fields(&at.field("query"), &matches.query, FieldPlace::Query);
        let cookies = self.fields(&at.field("cookies"), &matches.cookies, FieldPlace::Cookie);
        let sources = self
            .sources(&at.field("source_addresses"), matches.source_addresses.as_deref().unwrap_or_default());
        let names = matches.server_names.as_ref().map_or(0, Vec::len);
        self.count(&at.field("server_names"), "server names", names, limits::ROUTE_SOURCES_MAX);
        let server_names =
            self.hosts(&at.field("server_names"), matches.server_names.as_deref().unwrap_or_default());
        let path = match &matches.grpc {
            Some(grpc) => self.grpc(at, grpc, matches, &mut headers),
            None => path,
        };
        let rule = RouteRule { hosts, path: path?, methods, headers, query, cookies, sources, server_names };
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
        match (&path.exact, &path.prefix, &path.template, &path.regex) {
            (Some(exact), None, None, None) => {
                self.matched_path(&at.field("exact"), exact);
                Some(PathPattern::Exact(exact.as_str().into()))
            }
            (None, Some(prefix), None, None) => {
                self.matched_path(&at.field("prefix"), prefix);
                Some(PathPattern::Prefix(prefix.as_str().into()))
            }
            (None, None, Some(text), None) => match Template::parse(text) {
                Ok(template) => Some(PathPattern::Template(template)),
                Err(error) => {
                    self.bad_value(&at.field("template"), format_args!("`{text}`: {error}"));
                    None
                }
            },
            (None, None, None, Some(pattern)) => {
                self.whole_regex(&at.field("regex"), pattern).map(PathPattern::Regex)
            }
            _ => {
                let message = "a path is matched by exactly one of `exact`, `prefix`, `template` and `regex`";
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

    /// A call's path is `/service/method` (gRPC over HTTP/2, "Requests").
    fn grpc(
        &mut self,
        at: &At<'_>,
        grpc: &raw::GrpcMatch,
        matches: &raw::Match,
        headers: &mut Vec<FieldPattern>,
    ) -> Option<PathPattern> {
        let here = at.field("grpc");
        if matches.path.is_some() {
            self.errors
                .add(ProblemKind::Conflict, &here, "`grpc` says what the path is; `path` would say it again")
                .on_key()
                .with(&at.field("path"));
        }
        let mut is_fine = true;
        for (field, name) in [("service", &grpc.service), ("method", &grpc.method)] {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (c == '.' && field == "service");
            if let Some(name) = name
                && (name.is_empty() || !name.chars().all(fits))
            {
                self.bad_value(&here.field(field), format_args!("`{name}` is no name of a gRPC {field}"));
                is_fine = false;
            }
        }
        if !matches.headers.iter().any(|header| header.name.eq_ignore_ascii_case("content-type")) {
            let value = ValuePattern::Prefix(Box::from(&b"application/grpc"[..]));
            headers.push(FieldPattern { name: "content-type".into(), value });
        }
        let pattern = match (&grpc.service, &grpc.method) {
            (Some(service), Some(method)) => PathPattern::Exact(format!("/{service}/{method}").into()),
            (Some(service), None) => PathPattern::Prefix(format!("/{service}").into()),
            (None, Some(method)) if is_fine => {
                PathPattern::Template(Template::parse(&format!("/{{service}}/{method}")).ok()?)
            }
            (None, _) => PathPattern::Any,
        };
        is_fine.then_some(pattern)
    }

    fn sources(&mut self, list: &At<'_>, texts: &[String]) -> Vec<Network> {
        self.count(list, "addresses", texts.len(), limits::ROUTE_SOURCES_MAX);
        let mut sources: Vec<Network> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let at = list.index(index);
            match text.parse::<Network>() {
                Ok(network) if sources.contains(&network) => {
                    self.errors.add(ProblemKind::Conflict, &at, format_args!("`{text}` is there twice"));
                }
                Ok(network) => sources.push(network),
                Err(error) => self.bad_value(&at, format_args!("`{text}`: {error}")),
            }
        }
        sources
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

    pub(super) fn fields(
        &mut self,
        list: &At<'_>,
        fields: &[raw::FieldMatch],
        place: FieldPlace,
    ) -> Vec<FieldPattern> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut patterns = Vec::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate() {
            let at = list.index(index);
            let name = match place {
                FieldPlace::Header => field.name.to_ascii_lowercase(),
                FieldPlace::Query | FieldPlace::Cookie => field.name.clone(),
            };
            if place != FieldPlace::Query && !is_token(&name) {
                let kind = if place == FieldPlace::Header { "header field" } else { "cookie" };
                self.bad_value(&at.field("name"), format_args!("`{name}` is no {kind}'s name"));
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
                    self.whole_regex(&at.field("regex"), pattern).map(ValuePattern::Regex)
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

    /// One that must fit the whole value.
    fn whole_regex(&mut self, at: &At<'_>, pattern: &str) -> Option<WholeRegex> {
        WholeRegex::compile(pattern)
            .map_err(|error| match &error {
                RegexError::TooLong => self.bad_value(at, &error),
                RegexError::TooLarge | RegexError::Syntax(_) => {
                    self.bad_value(at, format_args!("bad regex `{pattern}`: {error}"));
                }
            })
            .ok()
    }

    /// One that may fit anywhere, and whose groups are used. Regexes work on bytes, as paths and header values do;
    /// matching takes time linear in the text.
    pub(super) fn regex(&mut self, at: &At<'_>, pattern: &str) -> Option<Regex> {
        if pattern.chars().count() > limits::REGEX_CHARS_MAX {
            let max = limits::REGEX_CHARS_MAX;
            self.bad_value(at, format_args!("a regex has at most {max} characters"));
            return None;
        }
        RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(limits::REGEX_PROGRAM_BYTES_MAX)
            .build()
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

    /// A route that matches the same as others before it on all of its hosts is refused. One that has some hosts left, or
    /// that others with wider matches leave nothing, may be meant: a warning.
    pub(super) fn shadowed(&mut self, rules: &[RouteRule]) {
        let list = At::Root.field("routes");
        for dead in dead(rules) {
            let Some(loss) = dead.losses.first() else { continue };
            let (item, other) = (list.index(dead.route), list.index(loss.by));
            let (own, name) = (&self.raw.routes[dead.route].name, &self.raw.routes[loss.by].name);
            let same = dead.losses.iter().all(|loss| loss.cover == Cover::Same);
            let takes = match loss.cover {
                Cover::Same => "before it matches the same",
                Cover::Wider => "takes all that it matches",
            };
            if dead.extent == Extent::Part {
                let host = loss.host.as_ref().map(ToString::to_string).unwrap_or_default();
                let message = format!("for the host `{host}` the route `{name}` {takes}");
                let at = item.field("match");
                self.warnings
                    .add(ProblemKind::Suspicious, &at.field("hosts"), message)
                    .with(&other.field("name"));
                continue;
            }
            let message = format!("route `{own}` can never be reached: `{name}` {takes}");
            let (findings, kind) = if same {
                (&mut self.errors, ProblemKind::Conflict)
            } else {
                (&mut self.warnings, ProblemKind::Suspicious)
            };
            findings.add(kind, &item.field("name"), message).with(&other.field("name"));
        }
    }
}
