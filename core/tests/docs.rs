//! What is written once in the code is written the same in the documentation.

use std::fs;
use std::path::Path;

use ringway::policy::Phase;

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
