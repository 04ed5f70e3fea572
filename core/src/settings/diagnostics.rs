//! What compiling settings finds wrong or suspicious, and the checks that settings of many kinds share. It goes on after
//! an error, so as to find them all.

use std::collections::{BTreeMap, HashMap};

use super::address::AddressError;
use super::forms::OffOrCount;
use super::report::{At, Findings, ProblemKind, nearest};
use super::text::{is_token, path_fault};
use crate::base::limits;

/// A field's name as the file has it, and its value.
pub type FieldLine = (Box<str>, Box<[u8]>);

/// Fields that frame the message or concern one connection (RFC 9110 section 7.6.1), and Host, which decides
/// where the request goes: the proxy writes these itself.
const OWN_FIELDS: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The findings so far.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    pub(crate) errors: Findings,
    pub(crate) warnings: Findings,
}

impl Diagnostics {
    pub(crate) fn bad_value(&mut self, at: &At<'_>, message: impl std::fmt::Display) {
        self.errors.add(ProblemKind::BadValue, at, message);
    }

    pub(crate) fn bad_address(&mut self, at: &At<'_>, text: &str, error: &AddressError) {
        let finding = self.errors.add(ProblemKind::BadValue, at, format_args!("`{text}`: {error}"));
        if *error == AddressError::NoPort {
            finding.hint(format!("as in {text}:8080"));
        }
    }

    /// Names of one kind: well-formed and unique. The map leads from a name to its first bearer.
    pub(crate) fn names<'n>(
        &mut self,
        list: &At<'_>,
        kind: &str,
        names: impl Iterator<Item = &'n str>,
    ) -> HashMap<&'n str, usize> {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for (index, name) in names.enumerate() {
            let item = list.index(index);
            let at = item.field("name");
            self.name(&at, name);
            if let Some(first) = seen.get(name) {
                let first = list.index(*first);
                self.errors
                    .add(ProblemKind::Conflict, &at, format_args!("{kind} `{name}` is there twice"))
                    .with(&first.field("name"));
            } else {
                seen.insert(name, index);
            }
        }
        seen
    }

    pub(crate) fn name(&mut self, at: &At<'_>, name: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
        if name.is_empty() || name.len() > limits::NAME_CHARS_MAX || !name.chars().all(fits) {
            let max = limits::NAME_CHARS_MAX;
            self.bad_value(
                at,
                format_args!("a name has 1 to {max} letters, digits or any of `-`, `_`, `.`, `/`, `:`"),
            );
        }
    }

    pub(crate) fn count(&mut self, at: &At<'_>, what: &str, count: usize, max: usize) {
        if count > max {
            self.bad_value(at, format_args!("{count} {what}; at most {max} are accepted"));
        }
    }

    /// The index of what bears this name; a name that nothing bears is noted.
    pub(crate) fn known(
        &mut self,
        at: &At<'_>,
        kind: &str,
        name: &str,
        by_name: &HashMap<&str, usize>,
    ) -> Option<usize> {
        let found = by_name.get(name).copied();
        if found.is_none() {
            let message = match nearest(name, by_name.keys().copied()) {
                Some(near) => format!("unknown {kind} `{name}`, did you mean `{near}`?"),
                None => format!("unknown {kind} `{name}`"),
            };
            self.errors.add(ProblemKind::UnknownName, at, message);
        }
        found
    }

    /// `u32::MAX` for `off`.
    pub(crate) fn off_or_count(&mut self, at: &At<'_>, value: OffOrCount) -> u32 {
        match value {
            OffOrCount::Off(_) => u32::MAX,
            OffOrCount::Count(0) => {
                self.errors
                    .add(ProblemKind::BadValue, at, "0 would refuse every request")
                    .hint("`off` means no bound");
                u32::MAX
            }
            OffOrCount::Count(count) => count,
        }
    }

    pub(crate) fn field_lines(&mut self, at: &At<'_>, fields: &BTreeMap<String, String>) -> Vec<FieldLine> {
        self.refuse_same_names(at, fields.keys());
        let mut lines = Vec::with_capacity(fields.len());
        for (name, value) in fields {
            let entry = at.field(name);
            let named = self.field_name(&entry, name);
            if self.field_value(&entry, value) && named {
                lines.push((name.as_str().into(), value.as_bytes().into()));
            }
        }
        lines
    }

    pub(crate) fn field_name(&mut self, at: &At<'_>, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        if !is_token(name) {
            let message = format_args!("`{name}` is no header field's name");
            self.errors.add(ProblemKind::BadValue, at, message).on_key();
        } else if OWN_FIELDS.contains(&lower.as_str()) {
            let message = format_args!("the field `{name}` is the proxy's own to write");
            let finding = self.errors.add(ProblemKind::BadValue, at, message).on_key();
            if lower == "host" {
                finding.hint("use `rewrite.host`, or the upstream's `host`");
            }
        } else {
            return true;
        }
        false
    }

    /// RFC 9110 section 5.5: no control characters; a leading or trailing blank would not arrive.
    pub(crate) fn field_value(&mut self, at: &At<'_>, value: &str) -> bool {
        let max = limits::HEADER_VALUE_BYTES_MAX;
        if value.bytes().any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
            self.bad_value(at, "control characters (line ends too) can't stand in a header field");
        } else if value.starts_with([' ', '\t']) || value.ends_with([' ', '\t']) {
            self.bad_value(at, "a blank at either end of a header field's value is not sent; remove it");
        } else if value.len() > max {
            self.bad_value(
                at,
                format_args!("{} bytes; a header field's value has at most {max}", value.len()),
            );
        } else {
            return true;
        }
        false
    }

    pub(crate) fn refuse_same_names<'n>(&mut self, at: &At<'_>, names: impl Iterator<Item = &'n String>) {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for name in names {
            if let Some(first) = seen.insert(name.to_ascii_lowercase(), name) {
                let message = format_args!("`{first}` and `{name}` are the same field");
                self.errors
                    .add(ProblemKind::Conflict, &at.field(name), message)
                    .on_key()
                    .with(&at.field(first));
            }
        }
    }

    pub(crate) fn rewritten_path(&mut self, at: &At<'_>, path: &str) {
        if let Some(fault) = path_fault(path) {
            self.bad_value(at, format_args!("`{path}`: {fault}"));
        }
    }
}
