//! What a route matches: from texts to the route table's patterns, and which routes others leave no request.

use std::collections::HashMap;

use super::settings::{FieldMatch, GrpcMatch, Match, PathMatch};
use super::{
    Cover, Extent, FieldPattern, HostPattern, Network, PathPattern, RegexError, RouteRule, Template,
    ValuePattern, WholeRegex, dead,
};
use crate::base::limits;
use crate::settings::address::host_pattern;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};
use crate::settings::text::{is_token, path_fault};

/// The places where a field is matched differ in what a name may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldPlace {
    Header,
    Query,
    Cookie,
}

/// `None` if there were errors, which are noted.
pub(crate) fn rule(found: &mut Diagnostics, at: &At<'_>, matches: &Match) -> Option<RouteRule> {
    let errors_before = found.errors.count();
    let hosts = compile_hosts(found, &at.field("hosts"), matches.hosts.as_deref().unwrap_or_default());
    let path = compile_path(found, &at.field("path"), matches.path.as_ref());
    let methods =
        compile_methods(found, &at.field("methods"), matches.methods.as_deref().unwrap_or_default());
    let mut headers = fields(found, &at.field("headers"), &matches.headers, FieldPlace::Header);
    let query = fields(found, &at.field("query"), &matches.query, FieldPlace::Query);
    let cookies = fields(found, &at.field("cookies"), &matches.cookies, FieldPlace::Cookie);
    let sources = compile_sources(
        found,
        &at.field("source_addresses"),
        matches.source_addresses.as_deref().unwrap_or_default(),
    );
    let names = matches.server_names.as_ref().map_or(0, Vec::len);
    found.count(&at.field("server_names"), "server names", names, limits::ROUTE_SOURCES_MAX);
    let server_names =
        compile_hosts(found, &at.field("server_names"), matches.server_names.as_deref().unwrap_or_default());
    let path = match &matches.grpc {
        Some(grpc) => compile_grpc(found, at, grpc, matches, &mut headers),
        None => path,
    };
    let rule = RouteRule { hosts, path: path?, methods, headers, query, cookies, sources, server_names };
    (found.errors.count() == errors_before).then_some(rule)
}

fn compile_hosts(found: &mut Diagnostics, list: &At<'_>, texts: &[String]) -> Vec<HostPattern> {
    let mut seen: HashMap<HostPattern, usize> = HashMap::new();
    for (index, text) in texts.iter().enumerate() {
        let at = list.index(index);
        match host_pattern(text) {
            Ok(pattern) => {
                if let Some(first) = seen.insert(pattern, index) {
                    found
                        .errors
                        .add(ProblemKind::Conflict, &at, format_args!("the host `{text}` is there twice"))
                        .with(&list.index(first));
                }
            }
            Err(error) => found.bad_address(&at, text, &error),
        }
    }
    let mut hosts: Vec<_> = seen.into_iter().collect();
    hosts.sort_unstable_by_key(|(_, index)| *index);
    hosts.into_iter().map(|(pattern, _)| pattern).collect()
}

fn compile_path(found: &mut Diagnostics, at: &At<'_>, path: Option<&PathMatch>) -> Option<PathPattern> {
    let Some(path) = path else { return Some(PathPattern::Any) };
    match (&path.exact, &path.prefix, &path.template, &path.regex) {
        (Some(exact), None, None, None) => {
            matched_path(found, &at.field("exact"), exact);
            Some(PathPattern::Exact(exact.as_str().into()))
        }
        (None, Some(prefix), None, None) => {
            matched_path(found, &at.field("prefix"), prefix);
            Some(PathPattern::Prefix(prefix.as_str().into()))
        }
        (None, None, Some(text), None) => match Template::parse(text) {
            Ok(template) => Some(PathPattern::Template(template)),
            Err(error) => {
                found.bad_value(&at.field("template"), format_args!("`{text}`: {error}"));
                None
            }
        },
        (None, None, None, Some(pattern)) => {
            whole_regex(found, &at.field("regex"), pattern).map(PathPattern::Regex)
        }
        _ => {
            let message = "a path is matched by exactly one of `exact`, `prefix`, `template` and `regex`";
            found.errors.add(ProblemKind::Conflict, at, message);
            None
        }
    }
}

fn matched_path(found: &mut Diagnostics, at: &At<'_>, path: &str) {
    if let Some(fault) = path_fault(path) {
        found.bad_value(at, format_args!("`{path}`: {fault}"));
    }
}

/// A call's path is `/service/method` (gRPC over HTTP/2, "Requests").
fn compile_grpc(
    found: &mut Diagnostics,
    at: &At<'_>,
    grpc: &GrpcMatch,
    matches: &Match,
    headers: &mut Vec<FieldPattern>,
) -> Option<PathPattern> {
    let here = at.field("grpc");
    if matches.path.is_some() {
        found
            .errors
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
            found.bad_value(&here.field(field), format_args!("`{name}` is no name of a gRPC {field}"));
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

fn compile_sources(found: &mut Diagnostics, list: &At<'_>, texts: &[String]) -> Vec<Network> {
    found.count(list, "addresses", texts.len(), limits::ROUTE_SOURCES_MAX);
    let mut sources: Vec<Network> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let at = list.index(index);
        match text.parse::<Network>() {
            Ok(network) if sources.contains(&network) => {
                found.errors.add(ProblemKind::Conflict, &at, format_args!("`{text}` is there twice"));
            }
            Ok(network) => sources.push(network),
            Err(error) => found.bad_value(&at, format_args!("`{text}`: {error}")),
        }
    }
    sources
}

fn compile_methods(found: &mut Diagnostics, list: &At<'_>, texts: &[String]) -> Vec<Box<[u8]>> {
    let mut methods: Vec<Box<[u8]>> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        if !is_token(text) {
            found.bad_value(&list.index(index), format_args!("`{text}` is no method"));
        } else if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let message = format_args!("`{text}`: methods are written in capitals");
            found
                .errors
                .add(ProblemKind::BadValue, &list.index(index), message)
                .hint(format!("did you mean `{}`?", text.to_ascii_uppercase()));
        } else if methods.iter().any(|known| **known == *text.as_bytes()) {
            let message = format_args!("the method `{text}` is there twice");
            found.errors.add(ProblemKind::Conflict, &list.index(index), message);
        }
        methods.push(text.as_bytes().into());
    }
    methods
}

pub(crate) fn fields(
    found: &mut Diagnostics,
    list: &At<'_>,
    fields: &[FieldMatch],
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
            found.bad_value(&at.field("name"), format_args!("`{name}` is no {kind}'s name"));
        } else if name.is_empty() {
            found.bad_value(&at.field("name"), "a query parameter's name can't be empty");
        }
        if let Some(first) = seen.get(&name) {
            let message = format_args!("`{name}` is matched twice");
            let first = list.index(*first);
            found.errors.add(ProblemKind::Conflict, &at.field("name"), message).with(&first.field("name"));
        }
        let value = match (&field.exact, &field.prefix, &field.regex, field.present) {
            (Some(exact), None, None, None) => Some(ValuePattern::Exact(exact.as_bytes().into())),
            (None, Some(prefix), None, None) => Some(ValuePattern::Prefix(prefix.as_bytes().into())),
            (None, None, Some(pattern), None) => {
                whole_regex(found, &at.field("regex"), pattern).map(ValuePattern::Regex)
            }
            (None, None, None, Some(true)) => Some(ValuePattern::Present),
            (None, None, None, Some(false)) => Some(ValuePattern::Absent),
            _ => {
                let message = format_args!(
                    "`{name}` is matched by exactly one of `exact`, `prefix`, `regex` and `present`"
                );
                found.errors.add(ProblemKind::Conflict, &at, message);
                None
            }
        };
        patterns.extend(value.map(|value| FieldPattern { name: name.as_str().into(), value }));
        seen.entry(name).or_insert(index);
    }
    patterns
}

/// One that must fit the whole value.
fn whole_regex(found: &mut Diagnostics, at: &At<'_>, pattern: &str) -> Option<WholeRegex> {
    WholeRegex::compile(pattern)
        .map_err(|error| match &error {
            RegexError::TooLong => found.bad_value(at, &error),
            RegexError::TooLarge | RegexError::Syntax(_) => {
                found.bad_value(at, format_args!("bad regex `{pattern}`: {error}"));
            }
        })
        .ok()
}

/// A route that matches the same as others before it on all of its hosts is refused. One that has some hosts left, or
/// that others with wider matches leave nothing, may be meant: a warning.
pub(crate) fn shadowed(found: &mut Diagnostics, rules: &[RouteRule], names: &[&str]) {
    let list = At::Root.field("routes");
    for dead in dead(rules) {
        let Some(loss) = dead.losses.first() else { continue };
        let (item, other) = (list.index(dead.route), list.index(loss.by));
        let (own, name) = (names[dead.route], names[loss.by]);
        let same = dead.losses.iter().all(|loss| loss.cover == Cover::Same);
        let takes = match loss.cover {
            Cover::Same => "before it matches the same",
            Cover::Wider => "takes all that it matches",
        };
        if dead.extent == Extent::Part {
            let host = loss.host.as_ref().map(ToString::to_string).unwrap_or_default();
            let message = format!("for the host `{host}` the route `{name}` {takes}");
            let at = item.field("match");
            found
                .warnings
                .add(ProblemKind::Suspicious, &at.field("hosts"), message)
                .with(&other.field("name"));
            continue;
        }
        let message = format!("route `{own}` can never be reached: `{name}` {takes}");
        let (findings, kind) = if same {
            (&mut found.errors, ProblemKind::Conflict)
        } else {
            (&mut found.warnings, ProblemKind::Suspicious)
        };
        findings.add(kind, &item.field("name"), message).with(&other.field("name"));
    }
}
