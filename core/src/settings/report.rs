//! What is wrong with a configuration, all of it at once, each with its place in the file.
//!
//! A [`Problem`] is found by path (`routes[3].match.hosts[0]`); `yaml.rs` knows where each path stands.

use std::fmt;

use crate::base::limits::CONFIG_ERRORS_MAX;

/// Everything that is wrong with one configuration, or everything that looks wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    severity: Severity,
    file_name: String,
    problems: Vec<Problem>,
    omitted: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Warning,
}

/// The kind of a problem, for programs; the text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Not UTF-8, too large, too deep.
    Unreadable,
    /// Not YAML, or YAML that this format leaves out (anchors to nowhere, tags, several documents).
    Syntax,
    UnknownField,
    MissingField,
    /// A list where a text belongs, and the like.
    WrongType,
    /// Of the right type, but not one of the values that are accepted.
    BadValue,
    /// A name that nothing bears.
    UnknownName,
    /// Two settings that can't both be meant.
    Conflict,
    /// Legal, but probably not meant.
    Suspicious,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    /// Where in the settings: `routes[3].match.hosts[0]`; empty for the whole file.
    pub path: String,
    pub message: String,
    pub hint: Option<String>,
    /// Where in the file; none for a configuration built in code.
    pub location: Option<Location>,
    /// The other setting that a conflict is with.
    pub related: Option<Location>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Characters to underline, at least 1.
    pub width: usize,
    pub excerpt: String,
}

impl Report {
    /// `omitted` were found besides.
    pub(crate) fn new(
        severity: Severity,
        file_name: &str,
        mut problems: Vec<Problem>,
        omitted: usize,
    ) -> Self {
        problems.sort_by_key(|problem| problem.location.as_ref().map(|at| (at.line, at.column)));
        Report { severity, file_name: file_name.to_owned(), problems, omitted }
    }

    /// In the order of the file; at most `limits::CONFIG_ERRORS_MAX` of them.
    pub fn errors(&self) -> &[Problem] {
        &self.problems
    }

    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// How many were found, those beyond the bound included.
    pub fn len(&self) -> usize {
        self.problems.len() + self.omitted
    }
}

impl std::error::Error for Report {}

/// ```text
/// error: unknown field `upstrem`, did you mean `upstream`?
///   --> ringway.yaml:12:5 (routes[0])
///    |
/// 12 |     upstrem: users
///    |     ^^^^^^^
///    = known here: name, match, upstream
/// ```
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        for problem in &self.problems {
            writeln!(f, "{word}: {}", problem.message)?;
            self.write_place(f, problem)?;
            writeln!(f)?;
        }
        if self.omitted > 0 {
            writeln!(f, "and {} more", self.omitted)?;
        }
        let count = self.len();
        writeln!(f, "{}: {count} {word}{}", self.file_name, if count == 1 { "" } else { "s" })
    }
}

impl Report {
    fn write_place(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        let Some(at) = &problem.location else {
            writeln!(f, "  --> {}: {}", self.file_name, problem.path)?;
            return problem.hint.iter().try_for_each(|hint| writeln!(f, "   = {hint}"));
        };
        let gutter = at.line.to_string().len();
        write!(f, "{:gutter$}--> {}:{}:{}", "", self.file_name, at.line, at.column)?;
        match problem.path.as_str() {
            "" => writeln!(f)?,
            path => writeln!(f, " ({path})")?,
        }
        let (excerpt, caret_column) = clip(&at.excerpt, at.column);
        let width = at.width.min(excerpt.chars().count().saturating_sub(caret_column - 1)).max(1);
        writeln!(f, "{:gutter$} |", "")?;
        writeln!(f, "{} | {excerpt}", at.line)?;
        writeln!(f, "{:gutter$} | {:indent$}{}", "", "", "^".repeat(width), indent = caret_column - 1)?;
        if let Some(hint) = &problem.hint {
            writeln!(f, "{:gutter$} = {hint}", "")?;
        }
        if let Some(other) = &problem.related {
            writeln!(f, "{:gutter$} = the other: {}:{}:{}", "", self.file_name, other.line, other.column)?;
        }
        Ok(())
    }
}

/// The part of a long line around the column, free of control characters, and the column within it.
fn clip(line: &str, column: usize) -> (String, usize) {
    const WIDTH: usize = 100;
    let skipped = if column > WIDTH { column - WIDTH / 2 } else { 0 };
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    (line.chars().skip(skipped).take(WIDTH).map(printable).collect(), column - skipped)
}

/// A place in the settings, built on the stack while walking down and turned into text only for a problem.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At<'p> {
    Root,
    Field(&'p At<'p>, &'p str),
    Index(&'p At<'p>, usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Field(String),
    Index(usize),
}

impl<'p> At<'p> {
    pub(crate) fn field(&'p self, name: &'p str) -> At<'p> {
        At::Field(self, name)
    }

    pub(crate) fn index(&'p self, index: usize) -> At<'p> {
        At::Index(self, index)
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = match self {
            At::Root => return Vec::new(),
            At::Field(parent, _) | At::Index(parent, _) => parent.steps(),
        };
        match self {
            At::Root => {}
            At::Field(_, name) => steps.push(Step::Field((*name).to_owned())),
            At::Index(_, index) => steps.push(Step::Index(*index)),
        }
        steps
    }
}

/// A problem before its place in the file is looked up.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) kind: ProblemKind,
    pub(crate) steps: Vec<Step>,
    pub(crate) focus: Focus,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) related: Option<Vec<Step>>,
}

/// What to underline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Focus {
    Key,
    Value,
}

/// Collects findings; those beyond `limits::CONFIG_ERRORS_MAX` are only counted, so that a file made of nothing
/// but errors costs no more memory than another.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    list: Vec<Finding>,
    omitted: usize,
    /// What a caller that is not kept may go on writing to.
    overflow: Option<Finding>,
}

impl Findings {
    pub(crate) fn add(&mut self, kind: ProblemKind, at: &At<'_>, message: impl fmt::Display) -> &mut Finding {
        let finding = Finding {
            kind,
            steps: at.steps(),
            focus: Focus::Value,
            message: message.to_string(),
            hint: None,
            related: None,
        };
        if self.is_full() {
            self.omit();
            return self.overflow.insert(finding);
        }
        self.list.push(finding);
        self.list.last_mut().expect("pushed above")
    }

    /// As `add`, for a place that is written out.
    pub(crate) fn add_at(&mut self, kind: ProblemKind, path: &str, message: &str) -> &mut Finding {
        let finding = self.add(kind, &At::Root, message);
        finding.steps = parse_steps(path);
        finding
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// No more will be kept: what a message takes to write is better saved.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= CONFIG_ERRORS_MAX
    }

    pub(crate) fn omit(&mut self) {
        self.omitted += 1;
    }

    /// How many there have been.
    pub(crate) fn count(&self) -> usize {
        self.list.len() + self.omitted
    }

    /// The kept ones, and the number of those that were not.
    pub(crate) fn into_parts(self) -> (Vec<Finding>, usize) {
        (self.list, self.omitted)
    }
}

impl Finding {
    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn on_key(&mut self) -> &mut Self {
        self.focus = Focus::Key;
        self
    }

    pub(crate) fn with(&mut self, other: &At<'_>) -> &mut Self {
        self.related = Some(other.steps());
        self
    }
}

/// `routes[3].match.hosts[0]`
pub(crate) fn render_steps(steps: &[Step]) -> String {
    use fmt::Write;
    let mut text = String::new();
    for step in steps {
        let written = match step {
            Step::Index(index) => write!(text, "[{index}]"),
            Step::Field(name) if text.is_empty() => write!(text, "{name}"),
            Step::Field(name) => write!(text, ".{name}"),
        };
        written.expect("writing to a String does not fail");
    }
    text
}

/// The reverse of [`render_steps`].
fn parse_steps(path: &str) -> Vec<Step> {
    path.split(['.', '['])
        .filter(|part| !part.is_empty())
        .map(|part| match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
            Some(index) => Step::Index(index),
            None => Step::Field(part.to_owned()),
        })
        .collect()
}

/// The nearest known name, if one is near enough to be a slip of the pen.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Longer names are not typed by hand, and the comparison is quadratic.
    if name.len() > 64 {
        return None;
    }
    let slips_max = (name.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| (edit_distance(name, candidate), candidate))
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours. Case and the
/// difference of `-` and `_` cost nothing.
fn edit_distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
    };
    let (a, b) = (fold(a), fold(b));
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substitution = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substitution.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::{clip, edit_distance, nearest, parse_steps, render_steps};

    #[test]
    fn places_are_read_as_they_are_written() {
        for path in ["", "routes", "listeners[0].tls.certificates[12].cert"] {
            assert_eq!(render_steps(&parse_steps(path)), path);
        }
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("upstrem", "upstream", 1),
            ("upstraem", "upstream", 1),
            ("Keep-Alive", "keep_alive", 0),
            ("host", "port", 2),
        ] {
            assert_eq!(edit_distance(a, b), expected, "{a} {b}");
            assert_eq!(edit_distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn nearest_names() {
        let known = ["upstream", "respond", "redirect", "name"];
        for (name, expected) in [
            ("upstrem", Some("upstream")),
            ("nmae", Some("name")),
            ("rediect", Some("redirect")),
            ("backend", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known), expected, "{name}");
        }
    }

    #[test]
    fn long_lines_are_clipped_around_the_column() {
        let line = "x".repeat(500) + "HERE" + &"y".repeat(500);
        let (text, column) = clip(&line, 501);
        assert_eq!(text.chars().skip(column - 1).take(4).collect::<String>(), "HERE");
        assert_eq!(clip("a\tb\u{7}", 1), ("a b ".to_owned(), 1));
    }
}
