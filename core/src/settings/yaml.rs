//! Text to a tree of nodes that know where they stand. A strict part of YAML 1.2: one document, text keys, each
//! key once, no tags, no merge keys. Aliases are expanded, within bounds. `yes`, `off` and `010` are texts,
//! so that what a value is never depends on knowing YAML 1.1.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};
use serde_json::Number;

use super::report::{Finding, Findings, Focus, Location, Problem, ProblemKind, Report, Severity, Step};
use super::report::{nearest, render_steps};
use crate::base::limits::{CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, CONFIG_ERRORS_MAX, CONFIG_NODES_MAX};

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) name: String,
}

/// Lines from 1, columns from 0, in characters. All zero for settings that come from no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    line: u32,
    column: u32,
    /// To the end of the line for what spans several.
    width: u32,
}

/// A configuration as a tree, with its text if it has one.
#[derive(Debug)]
pub(crate) struct Document<'t> {
    lines: Vec<&'t str>,
    pub(crate) root: Node,
}

/// Parses, or says all that keeps it from being parsed.
pub(crate) fn parse<'t>(bytes: &'t [u8], file_name: &str) -> Result<Document<'t>, Report> {
    let refuse = |problem: Problem| Report::new(Severity::Error, file_name, vec![problem], 0);
    if bytes.len() > CONFIG_BYTES_MAX {
        let message = format!("the file has {} bytes; at most {CONFIG_BYTES_MAX} are read", bytes.len());
        return Err(refuse(problem(ProblemKind::Unreadable, message, None)));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| refuse(not_utf8(bytes, error.valid_up_to())))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = split_lines(text);
    let mut builder = Builder::default();
    let outcome = builder.run(text);
    let faults_omitted = builder.faults_omitted;
    let mut problems: Vec<Problem> = builder
        .faults
        .into_iter()
        .map(|fault| Problem {
            hint: fault.hint,
            related: fault.related.and_then(|span| location(&lines, span)),
            ..problem(fault.kind, fault.message, location(&lines, fault.span))
        })
        .collect();
    match outcome {
        Ok(Some(root)) if problems.is_empty() => return Ok(Document { lines, root }),
        Ok(Some(_)) | Err(Stop::Reported) => {}
        Ok(None) => problems.push(problem(ProblemKind::Unreadable, "the file is empty".to_owned(), None)),
        Err(Stop::Syntax(error)) => {
            let span = Span::at(*error.marker(), *error.marker());
            problems.push(syntax_problem(&lines, span, error.info()));
        }
    }
    Err(Report::new(Severity::Error, file_name, problems, faults_omitted))
}

fn problem(kind: ProblemKind, message: String, location: Option<Location>) -> Problem {
    Problem { kind, path: String::new(), message, hint: None, location, related: None }
}

fn not_utf8(bytes: &[u8], at: usize) -> Problem {
    let (before, byte) = (&bytes[..at], bytes[at]);
    let text = std::str::from_utf8(before).expect("valid up to here");
    let lines = split_lines(text);
    let excerpt = (*lines.last().expect("there is always a line")).to_owned();
    let column = excerpt.chars().count() + 1;
    let location = Location { line: lines.len(), column, width: 1, excerpt };
    let mut problem = problem(
        ProblemKind::Unreadable,
        format!("the file is not UTF-8 text: byte 0x{byte:02x}"),
        Some(location),
    );
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        problem.hint = Some("this looks like UTF-16; save it as UTF-8".to_owned());
    }
    problem
}

/// The parser's words are for those who know its insides; the usual slips get plainer ones.
fn syntax_problem(lines: &[&str], span: Span, info: &str) -> Problem {
    let mut problem = problem(ProblemKind::Syntax, format!("not valid YAML: {info}"), location(lines, span));
    let line =
        (span.line as usize).checked_sub(1).and_then(|index| lines.get(index)).copied().unwrap_or_default();
    let indent = &line[..line.len() - line.trim_start().len()];
    problem.hint = if indent.contains('\t') {
        Some("YAML is indented with spaces, never with tabs".to_owned())
    } else if line.trim_start().starts_with(['@', '`', '%']) || line.contains(": @") || line.contains(": `") {
        Some("put the text in quotes".to_owned())
    } else {
        None
    };
    problem
}

/// A line ends with LF, CR LF or CR (YAML 1.2 section 5.4).
fn split_lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['\n', '\r']) {
        lines.push(&rest[..at]);
        let ending = if rest[at..].starts_with("\r\n") { 2 } else { 1 };
        rest = &rest[at + ending..];
    }
    lines.push(rest);
    lines
}

fn location(lines: &[&str], span: Span) -> Option<Location> {
    let excerpt = *lines.get((span.line as usize).checked_sub(1)?)?;
    let (column, length) = (span.column as usize, excerpt.chars().count());
    let width = (span.width as usize).min(length.saturating_sub(column)).max(1);
    Some(Location { line: span.line as usize, column: column + 1, width, excerpt: excerpt.to_owned() })
}

impl Document<'_> {
    /// For settings that come from no file.
    pub(crate) fn from_json(value: serde_json::Value) -> Self {
        Document { lines: Vec::new(), root: Node::from_json(value) }
    }

    pub(crate) fn report(&self, severity: Severity, file_name: &str, findings: Findings) -> Report {
        let (findings, omitted) = findings.into_parts();
        let problems = findings.into_iter().map(|finding| self.problem(finding)).collect();
        Report::new(severity, file_name, problems, omitted)
    }

    fn problem(&self, finding: Finding) -> Problem {
        Problem {
            kind: finding.kind,
            path: render_steps(&finding.steps),
            message: finding.message,
            hint: finding.hint,
            location: location(&self.lines, self.root.find(&finding.steps, finding.focus)),
            related: finding
                .related
                .and_then(|steps| location(&self.lines, self.root.find(&steps, Focus::Value))),
        }
    }
}

impl Node {
    fn from_json(value: serde_json::Value) -> Self {
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => Value::Number(number),
            serde_json::Value::String(text) => Value::Text(text),
            serde_json::Value::Array(items) => Value::List(items.into_iter().map(Node::from_json).collect()),
            serde_json::Value::Object(fields) => {
                let fields = fields.into_iter();
                Value::Map(
                    fields
                        .map(|(name, value)| (Key { span: Span::default(), name }, Node::from_json(value)))
                        .collect(),
                )
            }
        };
        Node { span: Span::default(), value }
    }

    /// The span of what the steps lead to, or of the nearest thing around it that is in the file. A field
    /// whose value fills several lines is shown by its key.
    fn find(&self, steps: &[Step], focus: Focus) -> Span {
        let (mut node, mut span) = (self, self.head());
        for step in steps {
            match (step, &node.value) {
                (Step::Index(index), Value::List(items)) => {
                    let Some(item) = items.get(*index) else { return span };
                    (node, span) = (item, item.head());
                }
                (Step::Field(name), Value::Map(fields)) => {
                    let Some((key, value)) = fields.iter().find(|(key, _)| key.name == *name) else {
                        return span;
                    };
                    let is_container = matches!(value.value, Value::List(_) | Value::Map(_));
                    span = if is_container || focus == Focus::Key { key.span } else { value.span };
                    node = value;
                }
                _ => return span,
            }
        }
        span
    }

    fn head(&self) -> Span {
        match &self.value {
            Value::Map(fields) => fields.first().map_or(self.span, |(key, _)| key.span),
            Value::List(items) => items.first().map_or(self.span, Node::head),
            _ => self.span,
        }
    }

    /// Nodes in it, itself included, and levels.
    fn measure(&self) -> (usize, usize) {
        let add = |(nodes, depth): (usize, usize), child: &Node| {
            let (child_nodes, child_depth) = child.measure();
            (nodes + child_nodes, depth.max(child_depth + 1))
        };
        match &self.value {
            Value::List(items) => items.iter().fold((1, 1), add),
            Value::Map(fields) => fields.iter().fold((1, 1), |sum, (_, value)| add(sum, value)),
            _ => (1, 1),
        }
    }
}

impl Span {
    fn at(start: Marker, end: Marker) -> Self {
        let width =
            if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { usize::MAX };
        Span {
            line: start.line() as u32,
            column: start.col() as u32,
            width: u32::try_from(width).unwrap_or(u32::MAX),
        }
    }
}

struct Fault {
    kind: ProblemKind,
    span: Span,
    message: String,
    hint: Option<String>,
    related: Option<Span>,
}

enum Stop {
    Syntax(ScanError),
    /// A fault that leaves no tree to go on with; it is among the faults.
    Reported,
}

/// Builds the tree from the parser's events, on a stack of its own: nesting can't exhaust the thread's.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    node_count: usize,
    /// At most `CONFIG_ERRORS_MAX`, and one that stops the reading.
    faults: Vec<Fault>,
    faults_omitted: usize,
    root: Option<Node>,
}

struct Open {
    anchor: usize,
    span: Span,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    /// With the place of each key; the last key waits for its value.
    Map(Vec<(Key, Node)>, HashMap<String, Span>, Option<Key>),
}

impl Builder {
    fn run(&mut self, text: &str) -> Result<Option<Node>, Stop> {
        let mut documents = 0;
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(Stop::Syntax)?;
            let span = Span::at(span.start, span.end);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(self.stop(span, "a second document starts here; a file holds one"));
                    }
                }
                Event::Alias(anchor) => self.alias(anchor, span)?,
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_tag(tag.is_some(), span);
                    let is_key =
                        matches!(self.open.last(), Some(Open { content: Content::Map(_, _, None), .. }));
                    let plain = style == ScalarStyle::Plain && !is_key;
                    let value = if plain { resolve(&text) } else { Value::Text(text.into_owned()) };
                    self.close(anchor, Node { span, value })?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.refuse_tag(tag.is_some(), span);
                    self.push(anchor, span, Content::List(Vec::new()))?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.refuse_tag(tag.is_some(), span);
                    self.push(anchor, span, Content::Map(Vec::new(), HashMap::new(), None))?;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let open = self.open.pop().expect("the parser pairs starts and ends");
                    let value = match open.content {
                        Content::List(items) => Value::List(items),
                        Content::Map(fields, _, _) => Value::Map(fields),
                    };
                    self.close(open.anchor, Node { span: open.span, value })?;
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(self.root.take())
    }

    fn push(&mut self, anchor: usize, span: Span, content: Content) -> Result<(), Stop> {
        if let Some(Open { content: Content::Map(_, _, None), .. }) = self.open.last() {
            return Err(self.stop(span, "a key is a text, not a list or a mapping"));
        }
        if self.open.len() >= CONFIG_DEPTH_MAX {
            return Err(self.stop(span, &format!("nested deeper than {CONFIG_DEPTH_MAX} levels")));
        }
        self.open.push(Open { anchor, span, content });
        Ok(())
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Stop> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(self.stop(span, "an alias within the very thing that it stands for"));
        };
        let (nodes, depth) = node.measure();
        if self.open.len() + depth > CONFIG_DEPTH_MAX {
            return Err(self.stop(span, &format!("nested deeper than {CONFIG_DEPTH_MAX} levels")));
        }
        // Counted before it is copied: this is what stops a file of aliases of aliases.
        self.count(nodes, span)?;
        let node = self.anchors[&anchor].clone();
        self.close(0, node)
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Stop> {
        self.node_count += nodes;
        if self.node_count > CONFIG_NODES_MAX {
            return Err(self.stop(span, &format!("more than {CONFIG_NODES_MAX} values, aliases expanded")));
        }
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn close(&mut self, anchor: usize, node: Node) -> Result<(), Stop> {
        self.count(1, node.span)?;
        if anchor != 0 {
            self.count(node.measure().0, node.span)?;
            self.anchors.insert(anchor, node.clone());
        }
        if let Some(Open { content: Content::Map(_, _, None), .. }) = self.open.last() {
            let key = self.key(node)?;
            if let Some(Open { content: Content::Map(_, _, waiting), .. }) = self.open.last_mut() {
                *waiting = Some(key);
            }
            return Ok(());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { content: Content::List(items), .. }) => items.push(node),
            Some(Open { content: Content::Map(fields, names, waiting), .. }) => {
                let key = waiting.take().expect("without one the node was the key, above");
                match names.entry(key.name.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(key.span);
                        fields.push((key, node));
                    }
                    Entry::Occupied(entry) => {
                        let first = *entry.get();
                        self.fault(Fault {
                            kind: ProblemKind::Conflict,
                            span: key.span,
                            message: format!("`{}` is there twice", key.name),
                            hint: None,
                            related: Some(first),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn key(&mut self, node: Node) -> Result<Key, Stop> {
        let Value::Text(name) = node.value else {
            return Err(self.stop(node.span, "a key is a text, not a list or a mapping"));
        };
        if name == "<<" {
            self.fault(Fault {
                kind: ProblemKind::Syntax,
                span: node.span,
                message: "merge keys (`<<`) are not part of YAML 1.2".to_owned(),
                hint: Some("write the fields out, or use an alias for a whole value".to_owned()),
                related: None,
            });
        }
        Ok(Key { span: node.span, name })
    }

    fn refuse_tag(&mut self, tagged: bool, span: Span) {
        if tagged {
            self.fault(Fault {
                kind: ProblemKind::Syntax,
                span,
                message: "tags (`!…`) are not used in this format; remove it".to_owned(),
                hint: None,
                related: None,
            });
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < CONFIG_ERRORS_MAX {
            self.faults.push(fault);
        } else {
            self.faults_omitted += 1;
        }
    }

    fn stop(&mut self, span: Span, message: &str) -> Stop {
        self.faults.push(Fault {
            kind: ProblemKind::Syntax,
            span,
            message: message.to_owned(),
            hint: None,
            related: None,
        });
        Stop::Reported
    }
}

/// The core schema of YAML 1.2 (section 10.3.2), less what readers disagree about: octal and hexadecimal
/// numbers, leading zeros, `+1`, infinities. Those stay texts, and are refused where a number belongs.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte))
        && digits.starts_with(|c: char| c.is_ascii_digit())
        && !(digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit());
    if !is_decimal {
        return Value::Text(text.to_owned());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Value::Number(number.into());
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Number(number.into());
    }
    match text.parse().ok().and_then(Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::Text(text.to_owned()),
    }
}

/// The nearest of the names, in words: `, did you mean …?`, or nothing.
pub(crate) fn did_you_mean<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    nearest(name, known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"))
}
