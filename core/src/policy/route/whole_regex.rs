//! A regular expression that has to fit a whole value: a path, a header field's, a parameter's or a cookie's.
//! Compiled once; matching takes time linear in the text. Refuses patterns that are too long or too large.
//!
//! Bytes, not characters: `.` is any byte but a line feed and classes such as `\w` are ASCII, as paths and fields are.

use std::fmt;
use std::sync::Arc;

use regex_automata::meta;
use regex_automata::nfa::thompson::{NFA, WhichCaptures};
use regex_automata::util::syntax;
use regex_syntax::hir::{Hir, HirKind, Look};

use super::automaton::{Automaton, Budget};
use super::literal_filter::required_literals;
use crate::base::limits;

/// Cheap to clone. Equal to another of the same text.
#[derive(Clone)]
pub struct WholeRegex(Arc<Compiled>);

struct Compiled {
    pattern: Box<str>,
    literal_prefix: Box<[u8]>,
    required_literals: Box<[Box<[u8]>]>,
    program: Program,
}

enum Program {
    /// Nearly all: no memory beyond the table, which is mostly below 2 KiB.
    Automaton(Arc<Automaton>),
    /// Patterns whose table would be too large (`.*a.{20}`) or that look at words and lines (`\b`). Keeps a cache
    /// for each thread that matches at the same time as another.
    Engine(meta::Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegexError {
    /// More than `limits::REGEX_CHARS_MAX` characters.
    TooLong,
    /// More than `limits::REGEX_PROGRAM_BYTES_MAX` bytes when compiled.
    TooLarge,
    /// What is wrong with the text, without a position.
    Syntax(String),
}

/// Bytes that the fall-back may keep for the states that it has met, for each thread.
const ENGINE_CACHE_BYTES: usize = 64 * 1024;

/// Bounds the work and the table of one pattern: a few milliseconds, and few come near it.
const AUTOMATON_STEPS_MAX: usize = 100_000;

impl WholeRegex {
    pub fn compile(pattern: &str) -> Result<Self, RegexError> {
        if pattern.chars().count() > limits::REGEX_CHARS_MAX {
            return Err(RegexError::TooLong);
        }
        let hir = regex_syntax::ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .build()
            .parse(pattern)
            .map_err(|error| RegexError::Syntax(last_line(&error.to_string())))?;
        let nfa = NFA::compiler()
            .configure(
                NFA::config()
                    .utf8(false)
                    .which_captures(WhichCaptures::None)
                    .nfa_size_limit(Some(limits::REGEX_PROGRAM_BYTES_MAX)),
            )
            .build_from_hir(&hir)
            .map_err(|error| refused(error.size_limit().is_some(), &error))?;
        let mut literal_prefix = Vec::new();
        push_literals(&hir, &mut literal_prefix);
        let required_literals = required_literals(&hir);
        let program = match Automaton::of_nfa(&nfa, &mut Budget::new(AUTOMATON_STEPS_MAX)) {
            Some(automaton) => Program::Automaton(Arc::new(automaton)),
            None => Program::Engine(engine(hir)?),
        };
        let literal_prefix = literal_prefix.into();
        Ok(WholeRegex(Arc::new(Compiled {
            pattern: pattern.into(),
            literal_prefix,
            required_literals,
            program,
        })))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0.pattern
    }

    #[inline]
    pub fn is_match(&self, text: &[u8]) -> bool {
        match &self.0.program {
            Program::Automaton(automaton) => automaton.is_match(text),
            Program::Engine(regex) => regex.is_match(text),
        }
    }

    /// Every text that fits starts with these bytes.
    pub(super) fn literal_prefix(&self) -> &[u8] {
        &self.0.literal_prefix
    }

    /// Every text that fits contains each of these.
    pub(super) fn required_literals(&self) -> &[Box<[u8]>] {
        &self.0.required_literals
    }

    pub(super) fn automaton(&self) -> Option<&Arc<Automaton>> {
        match &self.0.program {
            Program::Automaton(automaton) => Some(automaton),
            Program::Engine(_) => None,
        }
    }
}

fn engine(hir: Hir) -> Result<meta::Regex, RegexError> {
    let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
    let config = meta::Config::new()
        .utf8_empty(false)
        .which_captures(WhichCaptures::Implicit)
        .nfa_size_limit(Some(limits::REGEX_PROGRAM_BYTES_MAX))
        .hybrid_cache_capacity(ENGINE_CACHE_BYTES)
        .onepass(false)
        .backtrack(false);
    meta::Builder::new()
        .configure(config)
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .build_from_hir(&whole)
        .map_err(|error| refused(error.size_limit().is_some(), &error))
}

fn refused(too_large: bool, error: &dyn fmt::Display) -> RegexError {
    if too_large { RegexError::TooLarge } else { RegexError::Syntax(last_line(&error.to_string())) }
}

/// The parser draws the pattern with a mark below it, and says what is wrong in the last line.
fn last_line(text: &str) -> String {
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}

/// Whether what follows goes on the same literal. A literal that ignores case is a class, so it ends the prefix.
fn push_literals(hir: &Hir, prefix: &mut Vec<u8>) -> bool {
    match hir.kind() {
        HirKind::Literal(literal) => {
            prefix.extend_from_slice(&literal.0);
            true
        }
        HirKind::Concat(parts) => parts.iter().all(|part| push_literals(part, prefix)),
        HirKind::Capture(capture) => push_literals(&capture.sub, prefix),
        HirKind::Empty | HirKind::Look(Look::Start) => true,
        _ => false,
    }
}

impl PartialEq for WholeRegex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for WholeRegex {}

impl fmt::Debug for WholeRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WholeRegex").field(&self.as_str()).finish()
    }
}

impl fmt::Display for RegexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegexError::TooLong => {
                write!(f, "a regex has at most {} characters", limits::REGEX_CHARS_MAX)
            }
            RegexError::TooLarge => f.write_str("it is too large when compiled"),
            RegexError::Syntax(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for RegexError {}
