//! What is written once in the code is written the same in the documentation.

use std::fs;
use std::path::Path;

use ringway::base::reason::{ReasonCode, ReasonGroup};
use ringway::policy::{POLICIES, Phase};

fn repository_file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// ARCHITECTURE.md has the phases as a numbered list: `3. **route**: Match the route and the API version.`
#[test]
fn the_architecture_lists_the_phases_in_order() {
    let text = repository_file("ARCHITECTURE.md");
    let listed: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(". **"))
        .collect();
    let expected: Vec<String> = Phase::ALL
        .iter()
        .map(|phase| format!("{}. **{}**: {}", phase.number(), phase.name(), phase.about()))
        .collect();
    assert_eq!(listed, expected, "the phases in ARCHITECTURE.md and in policy/mod.rs differ");
}

/// The rows of a group's table.
fn rows(group: ReasonGroup) -> Vec<String> {
    let row = |reason: &ReasonCode| match reason.client() {
        "" => format!("| `{}` | {} |", reason.code(), reason.about()),
        client => format!("| `{}` | {client} | {} |", reason.code(), reason.about()),
    };
    group.reasons().iter().map(row).collect()
}

/// docs/reasons.md has a table for each group, with its reasons in order. With `UPDATE_DOCS=1` the tables are written
/// anew from the code.
#[test]
fn the_reasons_are_those_of_the_code() {
    let text = repository_file("docs/reasons.md");
    let mut groups = ReasonGroup::ALL.iter();
    let mut made: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("| `") {
            continue;
        }
        made.push(line.to_owned());
        if line.starts_with("|---") {
            made.extend(groups.next().into_iter().flat_map(|group| rows(*group)));
        }
    }
    assert_eq!(groups.next(), None, "docs/reasons.md has no table for this group");
    check("docs/reasons.md", &(made.join("\n") + "\n"));
}

/// A file of the documentation is what the code makes of it. With `UPDATE_DOCS=1` it is written anew.
fn check(name: &str, made: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name), made).unwrap();
    }
    let written = repository_file(name);
    for (made, written) in made.lines().zip(written.lines()) {
        assert_eq!(made, written, "{name}: UPDATE_DOCS=1 cargo test -p ringway --test docs");
    }
    assert_eq!(made, written, "{name}");
}

/// docs/request-path.md is a table of the phases, with the policies of each and what they refuse with.
#[test]
fn the_request_path_is_documented() {
    let mut made = String::from(
        "# The path of a request\n\nThe phases in order, with the policies that decide in each and the reason codes that they refuse with\n(reasons.md says what each means). A test makes this page from `policy::Phase` and `policy::POLICIES`.\n\n| | phase | what happens | policies | refusals |\n|---|---|---|---|---|\n",
    );
    for phase in Phase::ALL {
        let here = || POLICIES.iter().filter(|policy| policy.phase == *phase);
        let policies: Vec<&str> = here().map(|policy| policy.name).collect();
        let reasons: Vec<String> =
            here().flat_map(|policy| policy.reasons).map(|reason| format!("`{reason}`")).collect();
        let (policies, reasons) = (policies.join(", "), reasons.join(", "));
        let number = phase.number().to_string();
        let cells = [number.as_str(), phase.name(), phase.about(), &policies, &reasons].join(" | ");
        made.push_str("| ");
        made.push_str(&cells);
        made.push_str(" |\n");
    }
    check("docs/request-path.md", &made);
}

#[test]
fn policies_stand_in_the_order_of_their_phases_and_share_no_reason() {
    assert!(POLICIES.is_sorted_by_key(|policy| policy.phase));
    let mut reasons: Vec<ReasonCode> = POLICIES.iter().flat_map(|policy| policy.reasons).copied().collect();
    let count = reasons.len();
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), count);
    for folder in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy")).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        let is_policy = folder.path().is_dir() && name != "hash_on";
        assert!(!is_policy || POLICIES.iter().any(|policy| policy.name == name), "{name} is not in the list");
    }
}

#[test]
fn no_two_reasons_have_one_code() {
    let mut codes: Vec<&str> =
        ReasonGroup::ALL.iter().flat_map(|group| group.reasons()).map(|reason| reason.code()).collect();
    let count = codes.len();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), count);
}
