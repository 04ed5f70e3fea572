//! How far canaries have come, in a file that outlives the process: `canaries.json` in the configured directory. Written
//! whole under another name and then renamed, so that it is always one state or the next.
//!
//! Kept is the phase of each canary and what it was a trial of, not the windows: what was seen before a restart is old by
//! then, and a step that begins anew costs its interval. Called by `canaries`, on the control thread.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::limits::CANARY_STATE_BYTES_MAX;
use crate::policy::split::canary::{Phase, Saved, WHOLE_BP};

const NAME: &str = "canaries.json";
const NEW: &str = "canaries.json.new";
const BAD: &str = "canaries.json.bad";

/// Of the file's form.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    /// By route.
    canaries: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// 16 hexadecimal digits: JSON's numbers end at 2^53.
    identity: String,
    phase: PhaseName,
    /// The share that the canary has; it says the step where it is tried.
    share_bp: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PhaseName {
    Trying,
    Promoted,
    RolledBack,
}

/// What the file says of each route; nothing if there is none. One that can't be read is set aside, as `canaries.json.bad`.
pub(super) fn load(folder: &Path) -> io::Result<BTreeMap<String, Saved>> {
    let path = folder.join(NAME);
    let found = match read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        read => read.and_then(|text| parse(&text).map_err(|why| io::Error::new(ErrorKind::InvalidData, why))),
    };
    found.map_err(|why| {
        let aside = match fs::rename(&path, folder.join(BAD)) {
            Ok(()) => format!("it is {BAD} now"),
            Err(error) => format!("nor can it be set aside: {error}"),
        };
        io::Error::new(why.kind(), format!("{why}; {aside}"))
    })
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(CANARY_STATE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Writes `text`, which [`render`] has made.
pub(super) fn save(folder: &Path, text: &str) -> io::Result<()> {
    let new = folder.join(NEW);
    let mut file = create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(new, folder.join(NAME))
}

/// Whether files can be written there.
pub(in crate::control) fn probe(folder: &Path) -> io::Result<()> {
    let new = folder.join(NEW);
    create(&new)?;
    fs::remove_file(new)
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// The file's text.
pub(super) fn render<'a>(canaries: impl Iterator<Item = (&'a str, &'a Saved)>) -> String {
    let canaries = canaries.map(|(route, saved)| {
        let (phase, share_bp) = match saved.phase {
            Phase::Trying { share_bp } => (PhaseName::Trying, share_bp),
            Phase::Promoted => (PhaseName::Promoted, WHOLE_BP),
            Phase::RolledBack => (PhaseName::RolledBack, 0),
        };
        (route.to_owned(), Entry { identity: format!("{:016x}", saved.identity), phase, share_bp })
    });
    let document = Document { version: VERSION, canaries: canaries.collect() };
    // Maps of strings to numbers and strings: there is nothing that JSON can't say.
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

fn parse(text: &str) -> Result<BTreeMap<String, Saved>, String> {
    let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!("version {}, and known is {VERSION}", document.version));
    }
    let saved = |(route, entry): (String, Entry)| {
        let identity = u64::from_str_radix(&entry.identity, 16)
            .map_err(|_| format!("`{}` of route `{route}` is no identity", entry.identity))?;
        let phase = match entry.phase {
            PhaseName::Trying if (1..WHOLE_BP).contains(&entry.share_bp) => {
                Phase::Trying { share_bp: entry.share_bp }
            }
            PhaseName::Trying => return Err(format!("no share of {} is tried", entry.share_bp)),
            PhaseName::Promoted => Phase::Promoted,
            PhaseName::RolledBack => Phase::RolledBack,
        };
        Ok((route, Saved::resumed(identity, phase)))
    };
    document.canaries.into_iter().map(saved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_found_again() {
        let folder = std::env::temp_dir().join(format!("ringway-canary-store-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(load(&folder).unwrap().is_empty());
        probe(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "a probe leaves nothing");
        let saved = [
            ("a \"route\"", Saved::resumed(u64::MAX, Phase::Trying { share_bp: 500 })),
            ("b", Saved::resumed(0, Phase::Promoted)),
            ("c", Saved::resumed(7, Phase::RolledBack)),
        ];
        save(&folder, &render(saved.iter().map(|(route, saved)| (*route, saved)))).unwrap();
        let found = load(&folder).unwrap();
        assert_eq!(found, saved.map(|(route, saved)| (route.to_owned(), saved)).into());
        save(&folder, "{ \"version\": 2, \"canaries\": {} }").unwrap();
        let error = load(&folder).unwrap_err().to_string();
        assert!(error.contains("version 2") && error.contains(BAD), "{error}");
        assert!(load(&folder).unwrap().is_empty(), "it was set aside");
        fs::write(folder.join(NAME), b"\xff").unwrap();
        assert!(load(&folder).unwrap_err().to_string().contains(BAD));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(probe(&folder).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let entry = |identity: &str, phase: &str, share_bp: i64| {
            format!(
                "{{\"version\":1,\"canaries\":{{\"r\":{{\"identity\":\"{identity}\",\"phase\":\"{phase}\",\"share_bp\":{share_bp}}}}}}}"
            )
        };
        assert!(parse(&entry("0f", "trying", 100)).is_ok());
        for text in [
            entry("0f", "trying", 0),
            entry("0f", "trying", 10_000),
            entry("0f", "trying", -1),
            entry("xyz", "trying", 100),
            entry("0f", "winning", 100),
            String::new(),
            "{\"version\":1}".to_owned(),
            "{\"version\":1,\"canaries\":{},\"more\":1}".to_owned(),
        ] {
            assert!(parse(&text).is_err(), "{text}");
        }
    }
}
