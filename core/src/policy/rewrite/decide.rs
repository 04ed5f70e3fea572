//! The path that is sent for a path that came.

use std::borrow::Cow;

use regex::bytes::Regex;

use crate::policy::route::{Template, TemplateRewrite};
use crate::settings::text::is_safe_path;

#[derive(Debug)]
pub enum PathRewrite {
    Keep,
    /// With what the variables of the route's template stand for.
    Template {
        template: Template,
        rewrite: TemplateRewrite,
    },
    /// `matched` is what the route's prefix matched; both without a trailing slash (`/` is empty).
    Prefix {
        matched: Box<str>,
        replacement: Box<str>,
    },
    Full(Box<str>),
    Regex {
        pattern: Regex,
        substitution: Box<str>,
    },
}

impl PathRewrite {
    /// The path to send for a (normalised) path. `None` if the outcome is no path, which only a regex can
    /// cause; that request must be refused. Allocates only where the path changes.
    pub fn apply<'p>(&'p self, path: &'p [u8]) -> Option<Cow<'p, [u8]>> {
        match self {
            PathRewrite::Keep => Some(Cow::Borrowed(path)),
            PathRewrite::Full(full) => Some(Cow::Borrowed(full.as_bytes())),
            PathRewrite::Template { template, rewrite } => {
                rewrite.apply(template, path).filter(|path| is_safe_path(path)).map(Cow::Owned)
            }
            PathRewrite::Prefix { matched, replacement } => {
                let rest = path.strip_prefix(matched.as_bytes())?;
                Some(match (replacement.is_empty(), rest) {
                    // Gateway API, ReplacePrefixMatch: /foo for /xyz makes /foo/bar into /xyz/bar, /foo into /xyz
                    // and /foo/ into /xyz/; what would be empty is `/`.
                    (true, []) => Cow::Borrowed(b"/"),
                    (true, rest) => Cow::Borrowed(rest),
                    (false, []) => Cow::Borrowed(replacement.as_bytes()),
                    (false, rest) => Cow::Owned([replacement.as_bytes(), rest].concat()),
                })
            }
            PathRewrite::Regex { pattern, substitution } => {
                let path = pattern.replace_all(path, substitution.as_bytes());
                is_safe_path(&path).then_some(path)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PathRewrite, Regex};

    #[test]
    fn path_rewrites() {
        let prefix = |matched: &str, replacement: &str| PathRewrite::Prefix {
            matched: matched.into(),
            replacement: replacement.into(),
        };
        let regex = |pattern: &str, substitution: &str| PathRewrite::Regex {
            pattern: Regex::new(pattern).unwrap(),
            substitution: substitution.into(),
        };
        for (rewrite, path, expected) in [
            (PathRewrite::Keep, "/a", Some("/a")),
            (PathRewrite::Full("/x".into()), "/a/b", Some("/x")),
            (prefix("/foo", "/xyz"), "/foo/bar", Some("/xyz/bar")),
            (prefix("/foo", "/xyz"), "/foo", Some("/xyz")),
            (prefix("/foo", "/xyz"), "/foo/", Some("/xyz/")),
            (prefix("/foo", ""), "/foo/bar", Some("/bar")),
            (prefix("/foo", ""), "/foo", Some("/")),
            (prefix("/foo", ""), "/foo/", Some("/")),
            (prefix("", "/v1"), "/foo", Some("/v1/foo")),
            (prefix("", "/v1"), "/", Some("/v1/")),
            (prefix("", ""), "/", Some("/")),
            (regex("^/u/([0-9]+)", "/users/$1"), "/u/7/x", Some("/users/7/x")),
            (regex("^/", ""), "/a", None),
            (regex("a", "?"), "/a", None),
            (regex("a", " "), "/a", None),
            (regex("a", ".."), "/a/b", None),
            (regex("b", "c"), "/a", Some("/a")),
            (regex("b", "c"), "/a|{x}", Some("/a|{x}")),
        ] {
            let outcome = rewrite.apply(path.as_bytes());
            let outcome = outcome.as_deref().map(|path| std::str::from_utf8(path).unwrap());
            assert_eq!(outcome, expected, "{rewrite:?} {path}");
        }
    }
}
