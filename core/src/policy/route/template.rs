//! Paths with named parts, `/users/{id}/files/{rest=**}`, and rewrites that put the parts elsewhere.
//!
//! A variable takes one whole segment that is not empty; `{name=**}` stands last and takes what is left, no segment
//! included: `/files/{rest=**}` also fits `/files` and `/files/`. All else is literal, byte by byte. The syntax is
//! that of google.api.http and of Envoy's URI templates, without their wildcards that have no name.

use std::fmt;

use crate::base::limits;

/// Fits paths that start with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    segments: Box<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    Literal(Box<str>),
    /// One segment.
    Variable(Box<str>),
    /// What is left; the last one.
    Rest(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    NoLeadingSlash,
    EmptyName,
    /// Letters, digits and `_`, no digit first.
    BadName(Box<str>),
    NameTwice(Box<str>),
    /// `{id}.json`: a variable must be all of its segment.
    NotWholeSegment(Box<str>),
    /// `{name=*.x}`: nothing but `**` may follow the `=`.
    BadPattern(Box<str>),
    RestNotLast(Box<str>),
    TooManyVariables,
    TooManySegments,
    /// Of a rewrite: the template has no variable of this name.
    UnknownVariable(Box<str>),
    /// Of a rewrite: a brace that is not closed, or closed without being opened.
    StrayBrace,
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let path = text.strip_prefix('/').ok_or(TemplateError::NoLeadingSlash)?;
        let segments = path.split('/').map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > limits::TEMPLATE_SEGMENTS_MAX {
            return Err(TemplateError::TooManySegments);
        }
        let mut names: Vec<&str> = Vec::new();
        for (index, segment) in segments.iter().enumerate() {
            let Some(name) = segment.name() else { continue };
            if names.contains(&name) {
                return Err(TemplateError::NameTwice(name.into()));
            }
            if matches!(segment, Segment::Rest(_)) && index + 1 != segments.len() {
                return Err(TemplateError::RestNotLast(name.into()));
            }
            names.push(name);
        }
        if names.len() > limits::TEMPLATE_VARIABLES_MAX {
            return Err(TemplateError::TooManyVariables);
        }
        Ok(Template { segments: segments.into() })
    }

    /// In the order in which they stand.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(Segment::name)
    }

    /// What the variables take of a path that fits, in their order; nothing of one that does not. The path is
    /// gone through twice, and nothing is allocated.
    pub fn captures<'t, 'p>(
        &'t self,
        path: &'p [u8],
    ) -> impl Iterator<Item = (&'t str, &'p [u8])> + use<'t, 'p> {
        let taken = if self.is_match(path) { &self.segments[..] } else { &[] };
        pairs(taken, path).filter_map(|(segment, part)| Some((segment.name()?, part.unwrap_or_default())))
    }

    pub fn is_match(&self, path: &[u8]) -> bool {
        let Some(rest) = path.strip_prefix(b"/") else { return false };
        let ends_in_rest = matches!(self.segments.last(), Some(Segment::Rest(_)));
        let slashes = memchr::memchr_iter(b'/', rest).count();
        let enough = if ends_in_rest {
            slashes + 2 >= self.segments.len()
        } else {
            slashes + 1 == self.segments.len()
        };
        enough
            && pairs(&self.segments, path).all(|(segment, part)| match (segment, part) {
                (Segment::Rest(_), _) => true,
                (Segment::Literal(literal), Some(part)) => *literal.as_bytes() == *part,
                (Segment::Variable(_), Some(part)) => !part.is_empty(),
                (_, None) => false,
            })
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

/// Each segment beside its part of the path, if the path has one there.
fn pairs<'t, 'p>(
    segments: &'t [Segment],
    path: &'p [u8],
) -> impl Iterator<Item = (&'t Segment, Option<&'p [u8]>)> + use<'t, 'p> {
    let mut rest = path.strip_prefix(b"/");
    segments.iter().map(move |segment| {
        let Some(left) = rest else { return (segment, None) };
        let end = match segment {
            Segment::Rest(_) => None,
            _ => memchr::memchr(b'/', left),
        };
        rest = end.map(|slash| &left[slash + 1..]);
        (segment, Some(&left[..end.unwrap_or(left.len())]))
    })
}

impl Segment {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        if !text.contains(['{', '}']) {
            return Ok(Segment::Literal(text.into()));
        }
        let inner = text
            .strip_prefix('{')
            .and_then(|inner| inner.strip_suffix('}'))
            .filter(|inner| !inner.contains(['{', '}']))
            .ok_or_else(|| TemplateError::NotWholeSegment(text.into()))?;
        let (name, pattern) = match inner.split_once('=') {
            Some((name, pattern)) => (name, Some(pattern)),
            None => (inner, None),
        };
        if name.is_empty() {
            return Err(TemplateError::EmptyName);
        }
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.bytes().all(fits) || name.as_bytes()[0].is_ascii_digit() {
            return Err(TemplateError::BadName(name.into()));
        }
        match pattern {
            None => Ok(Segment::Variable(name.into())),
            Some("**") => Ok(Segment::Rest(name.into())),
            Some(pattern) => Err(TemplateError::BadPattern(pattern.into())),
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Segment::Literal(_) => None,
            Segment::Variable(name) | Segment::Rest(name) => Some(name),
        }
    }
}

/// `/v2/u/{id}/{rest}`: a path to be filled with what a template's variables took. Unlike in a template, a
/// variable may stand anywhere, and more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateRewrite {
    parts: Box<[RewritePart]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum RewritePart {
    Literal(Box<str>),
    /// The number of a variable of the template.
    Variable(usize),
}

impl TemplateRewrite {
    pub fn parse(text: &str, template: &Template) -> Result<Self, TemplateError> {
        if !text.starts_with('/') {
            return Err(TemplateError::NoLeadingSlash);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (literal, open) = rest.split_at(at);
            let (name, after) = open
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'))
                .filter(|(name, _)| !name.contains('{'))
                .ok_or(TemplateError::StrayBrace)?;
            let number = template
                .names()
                .position(|known| known == name)
                .ok_or_else(|| TemplateError::UnknownVariable(name.into()))?;
            if !literal.is_empty() {
                parts.push(RewritePart::Literal(literal.into()));
            }
            parts.push(RewritePart::Variable(number));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(RewritePart::Literal(rest.into()));
        }
        Ok(TemplateRewrite { parts: parts.into() })
    }

    /// The new path; `None` if the path does not fit the template. Allocates the result. What variables took
    /// stands there as it came, so a normalised path gives a path as long as the rewrite's text is one; two slashes
    /// may meet where `{rest=**}` took nothing.
    pub fn apply(&self, template: &Template, path: &[u8]) -> Option<Vec<u8>> {
        if !template.is_match(path) {
            return None;
        }
        let mut taken = [&path[..0]; limits::TEMPLATE_VARIABLES_MAX];
        for (slot, (_, part)) in taken.iter_mut().zip(template.captures(path)) {
            *slot = part;
        }
        let mut written = Vec::with_capacity(path.len() + 64);
        for part in &self.parts {
            match part {
                RewritePart::Literal(literal) => written.extend_from_slice(literal.as_bytes()),
                // Nothing for a number of another template.
                RewritePart::Variable(number) => {
                    written.extend_from_slice(taken.get(*number).copied().unwrap_or_default());
                }
            }
        }
        Some(written)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| match segment {
            Segment::Literal(text) => write!(f, "/{text}"),
            Segment::Variable(name) => write!(f, "/{{{name}}}"),
            Segment::Rest(name) => write!(f, "/{{{name}=**}}"),
        })
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::NoLeadingSlash => f.write_str("it must start with `/`"),
            TemplateError::EmptyName => f.write_str("a variable without a name: write `{name}`"),
            TemplateError::BadName(name) => {
                write!(f, "`{name}` is no variable's name: letters, digits and `_`, no digit first")
            }
            TemplateError::NameTwice(name) => write!(f, "the variable `{name}` is there twice"),
            TemplateError::NotWholeSegment(text) => {
                write!(f, "`{text}`: a variable is a whole segment, as in `/{{name}}/`; a regex can do more")
            }
            TemplateError::BadPattern(pattern) => {
                write!(f, "`{pattern}`: nothing but `**` may follow the `=`")
            }
            TemplateError::RestNotLast(name) => {
                write!(f, "`{{{name}=**}}` takes all the rest, so it stands last")
            }
            TemplateError::TooManyVariables => {
                write!(f, "at most {} variables are accepted", limits::TEMPLATE_VARIABLES_MAX)
            }
            TemplateError::TooManySegments => {
                write!(f, "at most {} segments are accepted", limits::TEMPLATE_SEGMENTS_MAX)
            }
            TemplateError::UnknownVariable(name) => write!(f, "the path template has no variable `{name}`"),
            TemplateError::StrayBrace => f.write_str("a brace that does not belong to a `{name}`"),
        }
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use super::{Template, TemplateError, TemplateRewrite};

    #[test]
    fn texts() {
        for (text, expected) in [
            ("/", Ok(())),
            ("/a/{b}/{c=**}", Ok(())),
            ("/{a}/{b}/", Ok(())),
            ("/{snake_case9}", Ok(())),
            ("", Err("it must start with `/`")),
            ("{a}", Err("it must start with `/`")),
            ("/{}", Err("a variable without a name: write `{name}`")),
            ("/{=**}", Err("a variable without a name: write `{name}`")),
            ("/{a-b}", Err("`a-b` is no variable's name: letters, digits and `_`, no digit first")),
            ("/{1}", Err("`1` is no variable's name: letters, digits and `_`, no digit first")),
            ("/{a}/{a}", Err("the variable `a` is there twice")),
            ("/{a}/x/{a=**}", Err("the variable `a` is there twice")),
            (
                "/{a}.json",
                Err("`{a}.json`: a variable is a whole segment, as in `/{name}/`; a regex can do more"),
            ),
            (
                "/{a}{b}",
                Err("`{a}{b}`: a variable is a whole segment, as in `/{name}/`; a regex can do more"),
            ),
            ("/{a", Err("`{a`: a variable is a whole segment, as in `/{name}/`; a regex can do more")),
            ("/a}", Err("`a}`: a variable is a whole segment, as in `/{name}/`; a regex can do more")),
            ("/{a=*}", Err("`*`: nothing but `**` may follow the `=`")),
            ("/{a=**}/b", Err("`{a=**}` takes all the rest, so it stands last")),
            ("/{a=**}/", Err("`{a=**}` takes all the rest, so it stands last")),
        ] {
            let parsed = Template::parse(text);
            let shown = parsed.as_ref().map(|_| ()).map_err(TemplateError::to_string);
            assert_eq!(shown.as_ref().copied().map_err(String::as_str), expected, "{text}");
            if let Ok(template) = parsed {
                assert_eq!(template.to_string(), text);
            }
        }
        let many = |count: usize| {
            let segments: Vec<String> = (0..count).map(|n| format!("/{{v{n}}}")).collect();
            segments.concat()
        };
        assert!(Template::parse(&many(16)).is_ok());
        assert_eq!(Template::parse(&many(17)), Err(TemplateError::TooManyVariables));
        assert_eq!(Template::parse(&"/a".repeat(65)), Err(TemplateError::TooManySegments));
    }

    #[test]
    fn captures_and_rewrites() {
        for (template, rewrite, path, expected) in [
            ("/u/{id}", "/v2/u/{id}", "/u/7", Some("/v2/u/7")),
            ("/u/{id}", "/v2/u/{id}", "/u/", None),
            ("/u/{id}", "/v2/u/{id}", "/u/7/", None),
            ("/u/{id}", "/v2/u/{id}", "/u/7/x", None),
            ("/u/{id}", "/v2/u/{id}", "/U/7", None),
            ("/u/{id}", "/v2/u/{id}", "u/7", None),
            ("/u/{id}/{rest=**}", "/v2/{rest}/of/{id}", "/u/7/a/b", Some("/v2/a/b/of/7")),
            ("/u/{id}/{rest=**}", "/{id}/{rest}", "/u/7", Some("/7/")),
            ("/u/{id}/{rest=**}", "/{id}/{rest}", "/u/7/", Some("/7/")),
            ("/u/{id}/{rest=**}", "/{id}/{rest}", "/u/7/a/", Some("/7/a/")),
            ("/u/{id}/{rest=**}", "/{id}/{rest}", "/u//a", None),
            ("/u/{id}/{rest=**}", "/{id}/{rest}", "/u", None),
            ("/{all=**}", "/x/{all}", "/", Some("/x/")),
            ("/{all=**}", "/x/{all}", "/a//b", Some("/x/a//b")),
            ("/{all=**}", "/x/{all}", "*", None),
            ("/{a}/{b}", "/{b}-{a}.{a}", "/1/2", Some("/2-1.1")),
            ("/{a}/", "/x", "/1/", Some("/x")),
            ("/{a}/", "/x", "/1", None),
            ("/{a}", "/{a}", "/%7Bb%7D", Some("/%7Bb%7D")),
        ] {
            let template = Template::parse(template).unwrap();
            let rewrite = TemplateRewrite::parse(rewrite, &template).unwrap();
            let applied = rewrite.apply(&template, path.as_bytes());
            assert_eq!(applied.as_deref(), expected.map(str::as_bytes), "{template} {path}");
            assert_eq!(template.is_match(path.as_bytes()), expected.is_some(), "{template} {path}");
        }
        let template = Template::parse("/{a}/x/{b=**}").unwrap();
        assert_eq!(template.names().collect::<Vec<_>>(), ["a", "b"]);
        let taken: Vec<_> = template.captures(b"/1/x/2/3").collect();
        assert_eq!(taken, [("a", &b"1"[..]), ("b", &b"2/3"[..])]);
        assert_eq!(template.captures(b"/1/y/2").count(), 0);
    }

    #[test]
    fn rewrites_that_are_refused() {
        let template = Template::parse("/{id}").unwrap();
        for (text, expected) in [
            ("{id}", "it must start with `/`"),
            ("/{other}", "the path template has no variable `other`"),
            ("/{}", "the path template has no variable ``"),
            ("/{id", "a brace that does not belong to a `{name}`"),
            ("/id}", "a brace that does not belong to a `{name}`"),
            ("/{{id}}", "a brace that does not belong to a `{name}`"),
        ] {
            assert_eq!(TemplateRewrite::parse(text, &template).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
