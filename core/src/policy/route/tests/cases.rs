//! Reads `cases.txt`, whose head explains its form, and compares look-up and explanation with each of its cases.

use std::fs;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::{Network, PathPattern, RouteRule, RouteTable, Template};
use super::{Headers, Request, field, host, lookup, regex};

/// Read when the test runs, so that a change of the file needs no compiler.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/route/cases.txt");

struct Group<'c> {
    title: &'c str,
    names: Vec<&'c str>,
    rules: Vec<RouteRule>,
    cases: Vec<(usize, &'c str)>,
}

fn groups(text: &str) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            groups.push(Group { title, names: Vec::new(), rules: Vec::new(), cases: Vec::new() });
            continue;
        }
        let group = groups.last_mut().expect("a title comes first");
        if line.contains(" -> ") {
            group.cases.push((index + 1, line));
        } else {
            let (name, parts) = line.split_once(':').unwrap_or_else(|| panic!("line {}: {line}", index + 1));
            group.names.push(name);
            group.rules.push(rule(parts, index + 1));
        }
    }
    groups
}

fn rule(parts: &str, line: usize) -> RouteRule {
    let mut rule = RouteRule::default();
    for part in parts.split(" | ").map(str::trim).filter(|part| !part.is_empty()) {
        let (kind, values) = part.split_once(' ').unwrap_or_else(|| panic!("line {line}: {part}"));
        let fields = || values.split(' ').map(|text| field(&unescaped(text))).collect();
        match kind {
            "host" => rule.hosts = values.split(' ').map(host).collect(),
            "exact" => rule.path = PathPattern::Exact(values.into()),
            "prefix" => rule.path = PathPattern::Prefix(values.into()),
            "template" => rule.path = PathPattern::Template(Template::parse(values).unwrap()),
            "regex" => rule.path = PathPattern::Regex(regex(values)),
            "method" => rule.methods = values.split(' ').map(|method| method.as_bytes().into()).collect(),
            "header" => rule.headers = fields(),
            "query" => rule.query = fields(),
            "cookie" => rule.cookies = fields(),
            "source" => {
                rule.sources = values.split(' ').map(|text| text.parse::<Network>().unwrap()).collect();
            }
            "sni" => rule.server_names = values.split(' ').map(host).collect(),
            other => panic!("line {line}: {other}"),
        }
    }
    rule
}

/// `␣` is a space, `∅` nothing, `<ab*3>` is `ababab`.
fn unescaped(text: &str) -> String {
    let text = text.replace('␣', " ").replace('∅', "");
    match (text.find('<'), text.find('>')) {
        (Some(open), Some(close)) => {
            let (piece, count) = text[open + 1..close].split_once('*').unwrap();
            format!("{}{}{}", &text[..open], piece.repeat(count.parse().unwrap()), &text[close + 1..])
        }
        _ => text,
    }
}

fn check(group: &Group<'_>, table: &RouteTable, line: usize, case: &str) {
    let (request, expected) = case.split_once(" -> ").unwrap();
    let mut parts = request.split(" | ");
    let start: Vec<String> = parts.next().unwrap().split_whitespace().map(unescaped).collect();
    let [method, host, target] = start.as_slice() else { panic!("line {line}: {case}") };
    let mut headers: Vec<(&str, String)> = Vec::new();
    let (mut source, mut server_name) = (None, None);
    for part in parts.map(str::trim) {
        if let Some(address) = part.strip_prefix("from ") {
            source = Some(address.parse::<IpAddr>().unwrap());
        } else if let Some(name) = part.strip_prefix("sni ") {
            server_name = Some(name);
        } else {
            let (name, value) = part.split_once(':').unwrap_or_else(|| panic!("line {line}: {part}"));
            headers.push((name, unescaped(value.trim())));
        }
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let request = Request { host, target, method, headers: &headers, source, server_name };
    let number = |name: &str| {
        let position = group.names.iter().position(|known| *known == name);
        position.unwrap_or_else(|| panic!("line {line}: there is no route {name}"))
    };
    let mut clauses = expected.split(" ; ").map(str::trim);
    let winner = clauses.next().unwrap();
    let wanted = (winner != "none").then(|| number(winner));
    let name = |found: Option<usize>| found.map_or("none", |route| group.names[route]);
    let found = lookup(table, request);
    assert_eq!(name(found), name(wanted), "line {line}: {case}");
    let explanation = table.explain(&request.key(), &Headers(&headers));
    assert_eq!(explanation.winner, wanted, "line {line}: {case}");
    let mut reasons = 0;
    for clause in clauses {
        reasons += 1;
        if let Some(text) = clause.strip_prefix("because ") {
            let specificity = explanation.specificity.as_ref().unwrap().to_string();
            assert_eq!(specificity, text, "line {line}: {case}");
        } else {
            let (route, text) = clause.split_once(": ").unwrap_or_else(|| panic!("line {line}: {clause}"));
            let verdict = explanation.verdicts[number(route)].to_string();
            assert!(verdict.contains(text), "line {line}: {case}\n{route}: {verdict}");
        }
    }
    assert!(reasons > 0, "line {line}: a case says why");
}

#[test]
fn every_case() {
    let text = fs::read_to_string(FILE).unwrap();
    let groups = groups(&text);
    let (mut count, mut failed) = (0, 0);
    for group in &groups {
        let table = RouteTable::new(group.rules.clone());
        assert!(!group.cases.is_empty(), "{}", group.title);
        for (line, case) in &group.cases {
            count += 1;
            // All of them are told at once.
            failed +=
                usize::from(catch_unwind(AssertUnwindSafe(|| check(group, &table, *line, case))).is_err());
        }
    }
    assert_eq!(failed, 0, "of {count}");
    assert!(count >= 320, "{count} cases were found");
}
