//! Rewrites, compiled.

use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::PathRewrite;
use super::settings::{PathRegex, Rewrite};
use crate::base::limits;
use crate::policy::route::{Template, TemplateRewrite};
use crate::settings::address::host_field;
use crate::settings::diagnostics::Diagnostics;
use crate::settings::report::{At, ProblemKind};

/// What the route matches of a path, for the rewrites that take from it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Matched<'r> {
    pub(crate) prefix: Option<&'r str>,
    pub(crate) template: Option<&'r str>,
}

/// The Host field to send, if it is changed.
pub(crate) fn host(found: &mut Diagnostics, at: &At<'_>, rewrite: &Rewrite) -> Option<Arc<str>> {
    let text = rewrite.host.as_ref()?;
    match host_field(text) {
        Ok(host) => Some(Arc::from(host)),
        Err(error) => {
            found.bad_address(&at.field("host"), text, &error);
            None
        }
    }
}

pub(crate) fn path(
    found: &mut Diagnostics,
    at: &At<'_>,
    rewrite: &Rewrite,
    matched: Matched<'_>,
) -> PathRewrite {
    match (&rewrite.path_prefix, &rewrite.path, &rewrite.path_template, &rewrite.path_regex) {
        (None, None, None, None) => PathRewrite::Keep,
        (Some(replacement), None, None, None) => {
            let place = at.field("path_prefix");
            found.rewritten_path(&place, replacement);
            let Some(prefix) = matched.prefix else {
                let message =
                    "`path_prefix` replaces the prefix of `match.path.prefix`, which this route lacks";
                found
                    .errors
                    .add(ProblemKind::Conflict, &place, message)
                    .on_key()
                    .hint("add `match: { path: { prefix: / } }`, or use `path`");
                return PathRewrite::Keep;
            };
            PathRewrite::Prefix {
                matched: prefix.strip_suffix('/').unwrap_or(prefix).into(),
                replacement: replacement.strip_suffix('/').unwrap_or(replacement).into(),
            }
        }
        (None, Some(path), None, None) => {
            found.rewritten_path(&at.field("path"), path);
            PathRewrite::Full(path.as_str().into())
        }
        (None, None, Some(text), None) => template_rewrite(found, &at.field("path_template"), text, matched),
        (None, None, None, Some(regex)) => regex_rewrite(found, &at.field("path_regex"), regex),
        _ => {
            let message =
                "at most one of `path_prefix`, `path`, `path_template` and `path_regex` rewrites the path";
            found.errors.add(ProblemKind::Conflict, at, message);
            PathRewrite::Keep
        }
    }
}

fn template_rewrite(found: &mut Diagnostics, at: &At<'_>, text: &str, matched: Matched<'_>) -> PathRewrite {
    let Some(text_matched) = matched.template else {
        found
            .errors
            .add(
                ProblemKind::Conflict,
                at,
                "`path_template` takes variables from `match.path.template`, which this route lacks",
            )
            .on_key();
        return PathRewrite::Keep;
    };
    // What is wrong with that one is said where it stands.
    let Ok(template) = Template::parse(text_matched) else { return PathRewrite::Keep };
    match TemplateRewrite::parse(text, &template) {
        Ok(rewrite) => PathRewrite::Template { template, rewrite },
        Err(error) => {
            found.bad_value(at, format_args!("`{text}`: {error}"));
            PathRewrite::Keep
        }
    }
}

fn regex_rewrite(found: &mut Diagnostics, at: &At<'_>, regex: &PathRegex) -> PathRewrite {
    let Some(pattern) = compile_regex(found, &at.field("pattern"), &regex.pattern) else {
        return PathRewrite::Keep;
    };
    let place = at.field("substitution");
    for group in unknown_groups(&pattern, &regex.substitution) {
        let message = format!("the pattern has no group `{group}`");
        found
            .errors
            .add(ProblemKind::UnknownName, &place, message)
            .hint("write ${1}x for a group with a letter after it, $$ for a dollar sign");
    }
    if !regex.substitution.bytes().all(|byte| byte.is_ascii_graphic()) {
        found.bad_value(&place, "a path has no blanks, control or non-ASCII characters; percent-encode them");
    }
    PathRewrite::Regex { pattern, substitution: regex.substitution.as_str().into() }
}

/// One that may fit anywhere, and whose groups are used. Regexes work on bytes, as paths and header values do;
/// matching takes time linear in the text.
fn compile_regex(found: &mut Diagnostics, at: &At<'_>, pattern: &str) -> Option<Regex> {
    if pattern.chars().count() > limits::REGEX_CHARS_MAX {
        let max = limits::REGEX_CHARS_MAX;
        found.bad_value(at, format_args!("a regex has at most {max} characters"));
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
            found.bad_value(at, format_args!("bad regex `{pattern}`: {reason}"));
        })
        .ok()
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
