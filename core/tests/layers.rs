//! Reads every `use` line (and path) of the engine and fails with the name of the rule that one of them breaks.
//! The rules are the table in ARCHITECTURE.md.

use std::fs;
use std::path::{Path, PathBuf};

/// A room, what it may import of ours, and which crates it may name besides std.
struct Room {
    name: &'static str,
    may_import: &'static [&'static str],
    crates: &'static [&'static str],
}

const CONTROL_CRATES: &[&str] = &[
    "tokio",
    "hyper",
    "hyper_util",
    "http_body_util",
    "bytes",
    "serde",
    "serde_json",
    "crossbeam_channel",
    "crossbeam_queue",
    "rustix",
];

const ROOMS: &[Room] = &[
    Room { name: "base", may_import: &[], crates: &["pin_project_lite"] },
    Room {
        name: "settings",
        may_import: &["base"],
        crates: &["serde", "serde_json", "schemars", "saphyr_parser"],
    },
    Room {
        name: "http",
        may_import: &["base"],
        crates: &["httparse", "memchr", "bytes", "http", "base64", "ring"],
    },
    Room { name: "telemetry", may_import: &["base"], crates: &["hdrhistogram", "crossbeam_channel"] },
    Room {
        name: "policy",
        may_import: &["base", "settings", "http"],
        crates: &["regex_automata", "regex_syntax", "regex", "memchr", "twox_hash", "serde", "schemars"],
    },
    Room {
        name: "net",
        may_import: &["base", "http", "telemetry"],
        // tokio: the traits that the h2 crate reads and writes through, and the sockets of health checks (`probe`).
        crates: &[
            "monoio",
            "io_uring",
            "rustix",
            "h2",
            "http",
            "bytes",
            "tokio",
            "rustls",
            "rustls_native_certs",
            "ring",
            "x509_parser",
            "tokio_rustls",
        ],
    },
    Room {
        name: "config",
        may_import: &["base", "settings", "http", "policy"],
        crates: &["serde", "serde_json", "schemars"],
    },
    Room {
        name: "proxy",
        may_import: &["base", "http", "telemetry", "policy", "net", "config::snapshot"],
        crates: &["crossbeam_channel", "crossbeam_queue", "crossbeam_utils", "memchr"],
    },
    Room { name: "admin", may_import: &["base", "net", "control"], crates: CONTROL_CRATES },
    Room {
        name: "control",
        may_import: &["base", "http", "policy", "config", "net", "proxy", "telemetry", "admin", "worker"],
        crates: CONTROL_CRATES,
    },
    Room { name: "worker", may_import: &["base", "net", "proxy", "telemetry"], crates: CONTROL_CRATES },
    Room { name: "server", may_import: &["control", "net"], crates: CONTROL_CRATES },
];

/// Crates whose names may only stand in some rooms; any other word before `::` is a module or type of ours or std's.
const WATCHED: &[&str] = &[
    "tokio",
    "hyper",
    "hyper_util",
    "http_body_util",
    "bytes",
    "serde",
    "serde_json",
    "schemars",
    "saphyr_parser",
    "regex",
    "regex_automata",
    "regex_syntax",
    "crossbeam_channel",
    "crossbeam_queue",
    "crossbeam_utils",
    "rustix",
    "monoio",
    "io_uring",
    "h2",
    "rustls",
    "rustls_native_certs",
    "tokio_rustls",
    "ring",
    "x509_parser",
    "libc",
    "hdrhistogram",
    "httparse",
    "memchr",
    "base64",
    "ring",
    "pin_project_lite",
    "twox_hash",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file: no comments, nothing from its tests on.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end].lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// What follows each `word` that starts a path, up to the path's end.
fn paths<'t>(code: &'t str, word: &str) -> Vec<&'t str> {
    code.match_indices(word)
        .filter(|(at, _)| {
            let before = code[..*at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
        .map(|(at, _)| {
            let rest = &code[at + word.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
            &rest[..end]
        })
        .collect()
}

#[test]
fn every_import_follows_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the engine's sources were not found");
    let mut broken = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        if inside == "lib.rs" || inside.ends_with("tests.rs") || inside.contains("/tests/") {
            continue;
        }
        let name = inside.split(['/', '.']).next().unwrap();
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            broken.push(format!("{inside}: the room `{name}` is not in the table"));
            continue;
        };
        let code = code(&fs::read_to_string(file).unwrap());
        for path in paths(&code, "crate::") {
            let first = path.split("::").next().unwrap_or_default();
            let allowed = first == room.name
                || room.may_import.iter().any(|may| path == *may || path.starts_with(&format!("{may}::")));
            if !allowed {
                broken.push(format!("{inside}: {} may not import {first} (crate::{path})", room.name));
            }
        }
        for watched in WATCHED.iter().filter(|watched| !room.crates.contains(watched)) {
            if !paths(&code, &format!("{watched}::")).is_empty() {
                broken.push(format!("{inside}: {} may not name the crate {watched}", room.name));
            }
        }
        if room.name != "net" && code.contains("unsafe ") {
            broken.push(format!("{inside}: unsafe code belongs in net"));
        }
    }
    assert!(broken.is_empty(), "broken rules:\n{}", broken.join("\n"));
}
