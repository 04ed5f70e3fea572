//! docs/reasons.md lists every reason code, and nothing that is none.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ringway::http::framing::HeadRule;

/// The words in quotes that follow one of the places where a reason stands.
const PLACES: &[&str] = &[
    "Fault::downstream(",
    "Fault::upstream(",
    "Fault::policy(",
    "Fault::ourselves(",
    "elapsed(conn, ",
    ".refused(",
    "handshake_failed(",
    "refuse(",
    "upstream(",
    "const STALE: &str = ",
    "const GONE: &str = ",
    "const MIRROR_BODY_TOO_LARGE: &str = ",
    "const MIRROR_NO_MEMORY: &str = ",
    "const MIRROR_FAILED: &str = ",
    "const MIRROR_TIMEOUT: &str = ",
    "Incoming::Refused(",
    "const OVERLOAD_REQUESTS: &str = ",
    "const OVERLOAD_MEMORY: &str = ",
];

fn in_code(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_code(&path, found);
            continue;
        }
        if path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for place in PLACES {
            for (at, _) in code.match_indices(place) {
                let rest = code[at + place.len()..].trim_start();
                if let Some(word) = rest.strip_prefix('"').and_then(|rest| rest.split('"').next()) {
                    found.insert(word.to_owned());
                }
            }
        }
        // Enums of errors: `Self::Name => "code"` and `Type::Name => "code"` inside a `fn reason`.
        let heads = ["fn reason(self) -> &'static str {", "fn reason(&self) -> &'static str {"]
            .into_iter()
            .chain(["fn reason(error: &rustls::Error) -> &'static str {"])
            .chain(["fn reason(error: &h2::Error) -> Option<&'static str> {"]);
        for (at, _) in heads.flat_map(|head| code.match_indices(head)) {
            let body = code[at..].split("\n    }").next().unwrap_or_default();
            let words = body.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next());
            // `Status::reason` gives phrases, with capitals and spaces.
            found.extend(
                words
                    .filter(|w| w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
                    .map(str::to_owned),
            );
        }
    }
}

#[test]
fn every_reason_is_documented_and_every_documented_reason_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code: BTreeSet<String> = HeadRule::ALL.iter().map(|rule| rule.reason().to_owned()).collect();
    in_code(&root.join("src"), &mut code);
    code.remove("");
    let text = fs::read_to_string(root.join("../docs/reasons.md")).unwrap();
    let documented: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect();
    assert!(code.len() > 90, "only {} reasons were found in the code", code.len());
    let missing: Vec<_> = code.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not documented: {missing:?}; not in the code: {unknown:?}"
    );
}
