//! What a route changes and answers: header operations, rewrites, direct answers, redirections.

use super::super::raw;
use super::super::snapshot::{FieldLine, PathRewrite, Redirect, RedirectTarget, Respond, Scheme};
use super::Compiler;
use crate::base::limits;
use crate::http::rewrite::HeaderOps;
use crate::policy::route::{Template, TemplateRewrite};
use crate::settings::address::host_field;
use crate::settings::report::{At, ProblemKind};
use crate::settings::text::is_token;
use regex::bytes::Regex;
impl Compiler<'_> {
    pub(super) fn header_ops(&mut self, at: &At<'_>, ops: &raw::HeaderOps) -> HeaderOps {
        let count = ops.set.len()
            + ops.remove.len()
            + ops.add.values().map(|values| values.as_slice().len()).sum::<usize>();
        self.count(at, "header operations", count, limits::HEADER_OPS_MAX);
        let list = at.field("remove");
        let mut remove = Vec::with_capacity(ops.remove.len());
        for (index, name) in ops.remove.iter().enumerate() {
            if self.field_name(&list.index(index), name) {
                remove.push(name.as_str().into());
            }
        }
        let set = self.field_lines(&at.field("set"), &ops.set);
        let adds = at.field("add");
        self.refuse_same_names(&adds, ops.add.keys());
        let mut add = Vec::new();
        for (name, values) in &ops.add {
            let entry = adds.field(name);
            let named = self.field_name(&entry, name);
            for (index, value) in values.as_slice().iter().enumerate() {
                let place = match values {
                    raw::OneOrMany::One(_) => entry,
                    raw::OneOrMany::Many(_) => entry.index(index),
                };
                if self.field_value(&place, value) && named {
                    add.push((name.as_str().into(), value.as_bytes().into()));
                }
            }
        }
        self.compile_ops(at, &remove, &set, &add)
    }

    /// What the checks above let through compiles; a rule that only the encoder knows becomes a finding as well.
    fn compile_ops(
        &mut self,
        at: &At<'_>,
        remove: &[Box<str>],
        set: &[FieldLine],
        add: &[FieldLine],
    ) -> HeaderOps {
        let text = |fields: &[FieldLine]| -> Vec<(String, String)> {
            fields.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v).into_owned())).collect()
        };
        let remove: Vec<String> = remove.iter().map(ToString::to_string).collect();
        HeaderOps::compile(&remove, &text(set), &text(add)).unwrap_or_else(|error| {
            self.errors.add(ProblemKind::BadValue, at, error);
            HeaderOps::default()
        })
    }

    pub(super) fn path_rewrite(
        &mut self,
        at: &At<'_>,
        rewrite: &raw::Rewrite,
        matches: &raw::Match,
    ) -> PathRewrite {
        match (&rewrite.path_prefix, &rewrite.path, &rewrite.path_template, &rewrite.path_regex) {
            (None, None, None, None) => PathRewrite::Keep,
            (Some(replacement), None, None, None) => {
                let place = at.field("path_prefix");
                self.rewritten_path(&place, replacement);
                let Some(matched) = matches.path.as_ref().and_then(|path| path.prefix.as_deref()) else {
                    let message =
                        "`path_prefix` replaces the prefix of `match.path.prefix`, which this route lacks";
                    self.errors
                        .add(ProblemKind::Conflict, &place, message)
                        .on_key()
                        .hint("add `match: { path: { prefix: / } }`, or use `path`");
                    return PathRewrite::Keep;
                };
                PathRewrite::Prefix {
                    matched: matched.strip_suffix('/').unwrap_or(matched).into(),
                    replacement: replacement.strip_suffix('/').unwrap_or(replacement).into(),
                }
            }
            (None, Some(path), None, None) => {
                self.rewritten_path(&at.field("path"), path);
                PathRewrite::Full(path.as_str().into())
            }
            (None, None, Some(text), None) => {
                self.template_rewrite(&at.field("path_template"), text, matches)
            }
            (None, None, None, Some(regex)) => self.regex_rewrite(&at.field("path_regex"), regex),
            _ => {
                let message = "at most one of `path_prefix`, `path`, `path_template` and `path_regex` rewrites the path";
                self.errors.add(ProblemKind::Conflict, at, message);
                PathRewrite::Keep
            }
        }
    }

    fn template_rewrite(&mut self, at: &At<'_>, text: &str, matches: &raw::Match) -> PathRewrite {
        let Some(matched) = matches.path.as_ref().and_then(|path| path.template.as_deref()) else {
            self.errors
                .add(
                    ProblemKind::Conflict,
                    at,
                    "`path_template` takes variables from `match.path.template`, which this route lacks",
                )
                .on_key();
            return PathRewrite::Keep;
        };
        // What is wrong with that one is said where it stands.
        let Ok(template) = Template::parse(matched) else { return PathRewrite::Keep };
        match TemplateRewrite::parse(text, &template) {
            Ok(rewrite) => PathRewrite::Template { template, rewrite },
            Err(error) => {
                self.bad_value(at, format_args!("`{text}`: {error}"));
                PathRewrite::Keep
            }
        }
    }

    fn regex_rewrite(&mut self, at: &At<'_>, regex: &raw::PathRegex) -> PathRewrite {
        let Some(pattern) = self.regex(&at.field("pattern"), &regex.pattern) else {
            return PathRewrite::Keep;
        };
        let place = at.field("substitution");
        for group in unknown_groups(&pattern, &regex.substitution) {
            let message = format!("the pattern has no group `{group}`");
            self.errors
                .add(ProblemKind::UnknownName, &place, message)
                .hint("write ${1}x for a group with a letter after it, $$ for a dollar sign");
        }
        if !regex.substitution.bytes().all(|byte| byte.is_ascii_graphic()) {
            self.bad_value(
                &place,
                "a path has no blanks, control or non-ASCII characters; percent-encode them",
            );
        }
        PathRewrite::Regex { pattern, substitution: regex.substitution.as_str().into() }
    }

    pub(super) fn upgrade(&mut self, list: &At<'_>, given: Option<&[String]>) -> Box<[Box<str>]> {
        let Some(texts) = given else { return Box::new(["websocket".into()]) };
        let mut protocols: Vec<Box<str>> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let at = list.index(index);
            let protocol = text.to_ascii_lowercase();
            // RFC 9110 section 7.8: a name, and perhaps a version.
            let well_formed = match protocol.split_once('/') {
                Some((name, version)) => is_token(name) && is_token(version),
                None => is_token(&protocol),
            };
            if !well_formed {
                self.bad_value(&at, format_args!("`{text}` is no protocol's name"));
            } else if protocol == "h2c" {
                self.bad_value(
                    &at,
                    "an upgrade to h2c would carry requests past the routes; it is never allowed",
                );
            } else if protocols.iter().any(|known| **known == *protocol) {
                self.errors.add(ProblemKind::Conflict, &at, format_args!("`{text}` is there twice"));
            } else {
                protocols.push(protocol.into());
            }
        }
        protocols.into()
    }

    pub(super) fn respond(&mut self, at: &At<'_>, respond: &raw::Respond) -> Option<Respond> {
        let errors_before = self.errors.count();
        let max = limits::RESPOND_BODY_BYTES_MAX;
        if respond.body.len() > max {
            let length = respond.body.len();
            self.bad_value(
                &at.field("body"),
                format_args!("{length} bytes; a direct answer has at most {max}"),
            );
        }
        // RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5.
        if matches!(respond.status, 204 | 205 | 304) && !respond.body.is_empty() {
            let message = format_args!("a response of status {} has no body", respond.status);
            self.errors.add(ProblemKind::Conflict, &at.field("body"), message).with(&at.field("status"));
        }
        if respond.content_type.is_empty() {
            self.bad_value(&at.field("content_type"), "expected a media type such as application/json");
        } else {
            self.field_value(&at.field("content_type"), &respond.content_type);
        }
        let fields = at.field("headers");
        let headers = self.field_lines(&fields, &respond.headers);
        if let Some(name) = respond.headers.keys().find(|name| name.eq_ignore_ascii_case("content-type")) {
            self.errors
                .add(ProblemKind::Conflict, &fields.field(name), "the media type is set by `content_type`")
                .on_key();
        }
        (self.errors.count() == errors_before).then(|| Respond {
            status: respond.status,
            content_type: respond.content_type.as_str().into(),
            headers: headers.into(),
            body: respond.body.as_bytes().into(),
        })
    }

    pub(super) fn redirect(&mut self, at: &At<'_>, redirect: &raw::Redirect) -> Option<Redirect> {
        let errors_before = self.errors.count();
        if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
            let message =
                format_args!("{} is no redirection; expected 301, 302, 303, 307 or 308", redirect.status);
            self.bad_value(&at.field("status"), message);
        }
        let has_parts = redirect.scheme.is_some()
            || redirect.host.is_some()
            || redirect.port.is_some()
            || redirect.path.is_some();
        let target = if let Some(location) = &redirect.location {
            if has_parts {
                let message = "either `location` or `scheme`, `host`, `port` and `path`, not both";
                self.errors.add(ProblemKind::Conflict, at, message);
            }
            if location.is_empty() || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
                let message =
                    "a location has no blanks, control or non-ASCII characters; percent-encode them";
                self.bad_value(&at.field("location"), message);
            }
            RedirectTarget::Location(location.as_str().into())
        } else {
            if !has_parts {
                let message =
                    "a redirection needs `location`, or at least one of `scheme`, `host`, `port` and `path`";
                self.errors.add(ProblemKind::MissingField, at, message);
            }
            self.redirect_parts(at, redirect)
        };
        (self.errors.count() == errors_before).then_some(Redirect { status: redirect.status, target })
    }

    fn redirect_parts(&mut self, at: &At<'_>, redirect: &raw::Redirect) -> RedirectTarget {
        let scheme = match redirect.scheme.as_deref() {
            None => None,
            Some("http") => Some(Scheme::Http),
            Some("https") => Some(Scheme::Https),
            Some(other) => {
                self.bad_value(&at.field("scheme"), format_args!("`{other}`: expected `http` or `https`"));
                None
            }
        };
        let host = redirect.host.as_ref().and_then(|text| match host_field(text) {
            Ok(host) if host.ends_with(']') || !host.contains(':') => Some(host.into()),
            Ok(_) => {
                self.bad_value(&at.field("host"), "the port is given by `port`");
                None
            }
            Err(error) => {
                self.bad_address(&at.field("host"), text, &error);
                None
            }
        });
        if let Some(path) = &redirect.path {
            self.rewritten_path(&at.field("path"), path);
        }
        RedirectTarget::Parts {
            scheme,
            host,
            port: redirect.port,
            path: redirect.path.as_deref().map(Box::from),
        }
    }
}

/// The references of a substitution that the pattern has no group for, by the rules of `Regex::replace`.
fn unknown_groups(pattern: &Regex, substitution: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    let mut rest = substitution;
    while let Some(dollar) = rest.find('$') {
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            rest = after;
            continue;
        }
        let (group, after) = if let Some(inner) = rest.strip_prefix('{') {
            let Some(split) = inner.split_once('}') else { continue };
            split
        } else {
            let end = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            rest.split_at(end)
        };
        rest = after;
        let known = match group.parse::<usize>() {
            Ok(number) => number < pattern.captures_len(),
            Err(_) => pattern.capture_names().flatten().any(|name| name == group),
        };
        // A lone `$` stands for itself.
        if !known && !group.is_empty() {
            unknown.push(group.to_owned());
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::{Regex, unknown_groups};

    #[test]
    fn groups_of_substitutions() {
        let pattern = Regex::new("(?P<who>a)(b)").unwrap();
        for (substitution, expected) in [
            ("/x", vec![]),
            ("$0$1${2}$who${who}", vec![]),
            ("$$3", vec![]),
            ("$", vec![]),
            ("$3", vec!["3"]),
            ("$1a", vec!["1a"]),
            ("${1}a", vec![]),
            ("${nobody}/$4", vec!["nobody", "4"]),
        ] {
            assert_eq!(unknown_groups(&pattern, substitution), expected, "{substitution}");
        }
    }
}
