//! Reads every `use` line (and path) of the engine and fails with the name of the rule that one of them breaks.
//! The rules are the table in ARCHITECTURE.md: who may import whom, that no policy imports another, and that no files
//! or folders that stand side by side import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
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
    // rustix: whether a log's pipe takes bytes.
    Room {
        name: "telemetry",
        may_import: &["base"],
        crates: &["hdrhistogram", "crossbeam_channel", "rustix", "memchr"],
    },
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
    Room {
        name: "admin",
        may_import: &["base", "net", "control", "config::snapshot"],
        crates: CONTROL_CRATES,
    },
    Room {
        name: "control",
        may_import: &["base", "http", "policy", "config", "net", "proxy", "telemetry", "admin", "worker"],
        crates: CONTROL_CRATES,
    },
    Room { name: "worker", may_import: &["base", "net", "proxy", "telemetry"], crates: CONTROL_CRATES },
    Room { name: "server", may_import: &["base", "control", "net"], crates: CONTROL_CRATES },
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

/// What all policies may import of their own room: the words that several share, and how a route matches fields.
const SHARED_BY_POLICIES: &[&str] = &["chance", "explain", "hash_on", "route"];

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

/// The name of a file's module, in its parts: `proxy::upstream::lease`. A folder's `mod.rs` has the folder's name.
fn module(inside: &str) -> Vec<String> {
    let mut parts: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Reads one tree of a `use` line, or one path, from its first word on. Gives each path in it to `found`, and returns what
/// stands behind the tree.
fn read_tree<'t>(mut rest: &'t str, before: &[&'t str], found: &mut Vec<Vec<&'t str>>) -> &'t str {
    let mut path = before.to_vec();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            rest = group;
            loop {
                rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
                if rest.is_empty() || rest.starts_with('}') {
                    return rest.get(1..).unwrap_or_default();
                }
                rest = read_tree(rest, &path, found);
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            found.push(path);
            // A glob, or a bracket that no tree has: past it.
            return rest.get(rest.chars().next().map_or(0, char::len_utf8)..).unwrap_or_default();
        }
        path.push(&rest[..end]);
        rest = &rest[end..];
        let Some(after) = rest.strip_prefix("::") else {
            found.push(path);
            let renamed = rest.trim_start().strip_prefix("as ").map(str::trim_start);
            return renamed
                .map_or(rest, |name| name.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
        };
        rest = after;
    }
}

/// For each folder, which of its files and folders import which others of them.
fn imports_side_by_side() -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let inside = |file: &PathBuf| file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let of_tests = |inside: &String| inside.ends_with("tests.rs") || inside.contains("/tests/");
    let files: Vec<String> =
        files.iter().map(inside).filter(|file| file != "lib.rs" && !of_tests(file)).collect();
    let modules: BTreeSet<Vec<String>> = files
        .iter()
        .map(|file| module(file))
        .flat_map(|parts| (1..=parts.len()).map(move |length| parts[..length].to_vec()))
        .collect();
    let mut imports: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for file in &files {
        let own = module(file);
        let code = code(&fs::read_to_string(root.join(file)).unwrap());
        let starts = ["crate::", "super::", "self::"].into_iter().flat_map(|word| {
            let starts = code.match_indices(word).filter(|(at, _)| {
                !code[..*at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
            });
            starts.map(|(at, _)| at).collect::<Vec<_>>()
        });
        let mut paths = Vec::new();
        for at in starts {
            read_tree(&code[at..], &[], &mut paths);
        }
        for path in paths {
            let mut target = own.clone();
            let mut words = path.into_iter().peekable();
            match words.next() {
                Some("crate") => target.clear(),
                Some("super") => drop(target.pop()),
                _ => {}
            }
            while words.next_if_eq(&"super").is_some() {
                target.pop();
            }
            target.extend(words.map(str::to_owned));
            let shared = own.iter().zip(&target).take_while(|(own, target)| own == target).count();
            if shared > 0
                && shared < own.len()
                && target.get(..=shared).is_some_and(|sibling| modules.contains(sibling))
            {
                let folder = imports.entry(own[..shared].join("::")).or_default();
                folder.entry(own[shared].clone()).or_default().insert(target[shared].clone());
            }
        }
    }
    imports
}

/// All that `from` imports, by way of others too.
fn reached(imports: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(name) = next.pop() {
        for other in imports.get(name).into_iter().flatten() {
            if reached.insert(other.clone()) {
                next.push(other);
            }
        }
    }
    reached
}

#[test]
fn no_files_side_by_side_import_each_other_in_a_circle() {
    let all = imports_side_by_side();
    assert!(all.len() > 10, "the engine's folders were not found");
    let mut broken = Vec::new();
    for (folder, imports) in &all {
        for name in imports.keys().filter(|name| reached(imports, name).contains(*name)) {
            let circle: Vec<String> = reached(imports, name)
                .into_iter()
                .filter(|other| reached(imports, other).contains(name))
                .collect();
            broken.push(format!("in {folder}: {}", circle.join(", ")));
        }
    }
    broken.sort();
    broken.dedup();
    assert!(broken.is_empty(), "circles of imports:\n{}", broken.join("\n"));
}

#[test]
fn no_policy_imports_another() {
    let all = imports_side_by_side();
    let policies = &all["policy"];
    for (policy, imports) in policies {
        let others: Vec<_> =
            imports.iter().filter(|other| !SHARED_BY_POLICIES.contains(&other.as_str())).collect();
        assert!(others.is_empty(), "the policy {policy} imports {others:?}");
    }
}

#[test]
fn paths_of_use_lines_are_read() {
    let mut found = Vec::new();
    let rest = read_tree("crate::a::{b::{self, C as D}, e::*, f};", &[], &mut found);
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["crate::a::b::self", "crate::a::b::C", "crate::a::e", "crate::a::f"]);
    assert_eq!(rest, ";");
}
