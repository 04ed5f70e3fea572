//! From the file's text to a compiled snapshot, or all of its errors at once.
//!
//! Text → nodes with places (`settings::yaml`) → shape and ranges (`settings::check`) → typed settings (`raw`) → names resolved and
//! everything compiled (`compile`) → [`Snapshot`]. Called by the control thread; a worker only ever sees
//! snapshots. Reads no sockets and starts no threads.

mod compile;
pub mod raw;
pub mod snapshot;
pub mod source;
#[cfg(test)]
mod tests;

pub use crate::settings::report::{Location, Problem, ProblemKind, Report, Severity};
pub use compile::tls::CIPHERS;
pub use raw::RawConfig;
pub use snapshot::Snapshot;

use std::sync::OnceLock;

use crate::settings::check;
use crate::settings::report::{At, Findings};
use crate::settings::yaml::{self, Document};

/// The JSON Schema (draft 2020-12) of the file, for editors and for `check`.
pub fn schema() -> &'static serde_json::Value {
    static SCHEMA: OnceLock<serde_json::Value> = OnceLock::new();
    SCHEMA.get_or_init(|| schemars::schema_for!(RawConfig).to_value())
}

/// A configuration that may be used, and what looks wrong with it all the same.
#[derive(Debug)]
pub struct Checked {
    pub raw: RawConfig,
    pub snapshot: Snapshot,
    /// Legal but suspicious: an upstream that no route uses, an admin address that others can reach.
    pub warnings: Report,
}

/// Compiles a file's text. `version` becomes [`Snapshot::version`]; `file_name` is for messages only.
///
/// Takes well under a second for 10,000 routes, all of it CPU time: not for a worker.
pub fn load(text: &[u8], file_name: &str, version: u64) -> Result<Snapshot, Report> {
    check_text(text, file_name, version).map(|checked| checked.snapshot)
}

/// As [`load`], with the warnings.
pub fn check_text(text: &[u8], file_name: &str, version: u64) -> Result<Checked, Report> {
    check_document(&yaml::parse(text, file_name)?, file_name, version)
}

/// Compiles settings made in code; they are checked as a file is. Messages name the setting's path alone.
pub fn compile(raw: &RawConfig, version: u64) -> Result<Snapshot, Report> {
    const NAME: &str = "configuration";
    let json = serde_json::to_value(raw).expect("the settings have text keys and finite numbers only");
    check_document(&Document::from_json(json), NAME, version).map(|checked| checked.snapshot)
}

/// Where a configuration came from, to find places in it again.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A file's text.
    Text(Vec<u8>),
    /// Settings made in code.
    Raw(Box<RawConfig>),
}

/// Something that was found out about a setting after it was compiled: about the file that it names, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Which setting: `listeners[0].tls.certificates[1].cert`.
    pub path: String,
    pub message: String,
    pub hint: Option<String>,
}

/// A report of such remarks, each with its place in the file.
pub fn report(origin: &Origin, file_name: &str, severity: Severity, remarks: &[Remark]) -> Report {
    let mut findings = Findings::default();
    let kind = match severity {
        Severity::Error => ProblemKind::BadValue,
        Severity::Warning => ProblemKind::Suspicious,
    };
    for remark in remarks {
        let finding = findings.add_at(kind, &remark.path, &remark.message);
        if let Some(hint) = &remark.hint {
            finding.hint(hint.as_str());
        }
    }
    let document = match origin {
        Origin::Text(text) => yaml::parse(text, file_name),
        Origin::Raw(raw) => Ok(Document::from_json(serde_json::to_value(raw).unwrap_or_default())),
    };
    match document {
        Ok(document) => document.report(severity, file_name, findings),
        // It was read before, so this can't be; if it is, that is what has to be said.
        Err(report) => report,
    }
}

fn check_document(document: &Document<'_>, file_name: &str, version: u64) -> Result<Checked, Report> {
    let refuse = |findings| document.report(Severity::Error, file_name, findings);
    let mut findings = Findings::default();
    let json = check::check(&document.root, schema(), &mut findings);
    if !findings.is_empty() {
        return Err(refuse(findings));
    }
    let raw: RawConfig = match serde_json::from_value(json) {
        Ok(raw) => raw,
        Err(error) => {
            // The schema is made of the same types, so this should not be possible; a message beats a panic.
            findings.add(ProblemKind::Unreadable, &At::Root, error);
            return Err(refuse(findings));
        }
    };
    let canonical = serde_json::to_string(&raw).expect("it was JSON a moment ago");
    let compiled = compile::compile(&raw, canonical, version);
    match compiled.snapshot {
        Some(snapshot) => {
            let warnings = document.report(Severity::Warning, file_name, compiled.warnings);
            Ok(Checked { raw, snapshot, warnings })
        }
        None => Err(refuse(compiled.errors)),
    }
}
