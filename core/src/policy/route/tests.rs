//! The precedence as a table, and against a naive reading of it.

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use regex::bytes::Regex;

use super::{
    FieldPattern, HostPattern, PathPattern, RequestView, RouteKey, RouteRule, RouteTable, ValuePattern,
};

struct Headers<'h>(&'h [(&'h str, &'h str)]);

impl RequestView for Headers<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_bytes())
    }
}

fn host(text: &str) -> HostPattern {
    match text.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact(text.into()),
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap()
}

/// `=/exact`, `/prefix`, `~regex`, or nothing.
fn path(text: &str) -> PathPattern {
    match text.as_bytes().first() {
        None => PathPattern::Any,
        Some(b'=') => PathPattern::Exact(text[1..].into()),
        Some(b'~') => PathPattern::Regex(regex(&text[1..])),
        Some(_) => PathPattern::Prefix(text.into()),
    }
}

/// `name=exact`, `name^prefix`, `name~regex`, `name+` (there), `name-` (not there).
fn field(text: &str) -> FieldPattern {
    let at = text.find(['=', '^', '~', '+', '-']).unwrap();
    let (name, rest) = text.split_at(at);
    let value = match rest.split_at(1) {
        ("=", value) => ValuePattern::Exact(value.as_bytes().into()),
        ("^", value) => ValuePattern::Prefix(value.as_bytes().into()),
        ("~", value) => ValuePattern::Regex(regex(value)),
        ("+", _) => ValuePattern::Present,
        _ => ValuePattern::Absent,
    };
    FieldPattern { name: name.into(), value }
}

fn rule(hosts: &[&str], path_text: &str, methods: &[&str], headers: &[&str], query: &[&str]) -> RouteRule {
    RouteRule {
        hosts: hosts.iter().map(|text| host(text)).collect(),
        path: path(path_text),
        methods: methods.iter().map(|method| method.as_bytes().into()).collect(),
        headers: headers.iter().map(|text| field(text)).collect(),
        query: query.iter().map(|text| field(text)).collect(),
    }
}

#[derive(Clone, Copy)]
struct Request<'r> {
    host: &'r str,
    target: &'r str,
    method: &'r str,
    headers: &'r [(&'r str, &'r str)],
}

const GET: Request<'_> = Request { host: "a.test", target: "/", method: "GET", headers: &[] };

fn lookup(table: &RouteTable, request: Request<'_>) -> Option<usize> {
    let (path, query) = match request.target.split_once('?') {
        Some((path, query)) => (path, Some(query.as_bytes())),
        None => (request.target, None),
    };
    let key = RouteKey {
        host: request.host.as_bytes(),
        path: path.as_bytes(),
        method: request.method.as_bytes(),
        query,
    };
    table.lookup(&key, &Headers(request.headers))
}

fn check(rules: Vec<RouteRule>, cases: &[(Request<'_>, Option<usize>)]) {
    let table = RouteTable::new(rules);
    for (request, expected) in cases {
        let Request { host, target, method, .. } = request;
        assert_eq!(lookup(&table, *request), *expected, "{method} {host} {target}");
    }
}

#[test]
fn hosts_from_exact_to_any() {
    let on = |host| Request { host, ..GET };
    check(
        vec![
            rule(&[], "", &[], &[], &[]),
            rule(&["*.test"], "", &[], &[], &[]),
            rule(&["*.b.test"], "", &[], &[], &[]),
            rule(&["a.b.test", "[::1]"], "", &[], &[], &[]),
        ],
        &[
            (on("other"), Some(0)),
            (on("test"), Some(0)),
            (on(".test"), Some(0)),
            (on("a.test"), Some(1)),
            (on("b.test"), Some(1)),
            (on("a.b.test"), Some(3)),
            (on("A.B.Test"), Some(3)),
            (on("a.b.test."), Some(3)),
            (on("a.b.test:8080"), Some(3)),
            (on("a.b.test.:8080"), Some(3)),
            (on("x.b.test"), Some(2)),
            (on("y.x.b.test:1"), Some(2)),
            (on("xb.test"), Some(1)),
            (on("[::1]"), Some(3)),
            (on("[::1]:80"), Some(3)),
            (on("[::2]:80"), Some(0)),
            (on("[::1"), Some(0)),
            (on(""), Some(0)),
            (on("."), Some(0)),
            (on(&format!("{}.test", "a.".repeat(120))), Some(1)),
            (on(&format!("{}.test", "a".repeat(400))), Some(0)),
        ],
    );
}

#[test]
fn a_specific_host_does_not_hide_a_general_one() {
    let on = |host, target| Request { host, target, ..GET };
    check(
        vec![
            rule(&["a.test"], "/one", &[], &[], &[]),
            rule(&["*.test"], "/two", &[], &[], &[]),
            rule(&[], "/three", &[], &[], &[]),
        ],
        &[
            (on("a.test", "/one"), Some(0)),
            (on("a.test", "/two"), Some(1)),
            (on("a.test", "/three"), Some(2)),
            (on("a.test", "/four"), None),
            (on("b.test", "/one"), None),
            (on("x", "/three"), Some(2)),
        ],
    );
}

#[test]
fn paths_from_exact_to_any() {
    let at = |target| Request { target, ..GET };
    check(
        vec![
            rule(&[], "", &[], &[], &[]),
            rule(&[], "/", &[], &[], &[]),
            rule(&[], "/users", &[], &[], &[]),
            rule(&[], "/users/a/", &[], &[], &[]),
            rule(&[], "=/users", &[], &[], &[]),
            rule(&[], "=/users/a/b", &[], &[], &[]),
            rule(&[], "~/users/[0-9]+", &[], &[], &[]),
            rule(&[], "=/dir/", &[], &[], &[]),
            rule(&[], "~/users/a/b", &[], &[], &[]),
            rule(&[], "//", &[], &[], &[]),
        ],
        &[
            (at("*"), Some(0)),
            (at(""), Some(0)),
            (at("/"), Some(9)),
            (at("/x"), Some(1)),
            (at("/usersx"), Some(1)),
            (at("/users"), Some(4)),
            (at("/users/"), Some(2)),
            (at("/users//"), Some(2)),
            (at("//x"), Some(9)),
            (at("/users/7"), Some(6)),
            (at("/users/7/x"), Some(2)),
            (at("/users/a"), Some(3)),
            (at("/users/a/"), Some(3)),
            (at("/users/ab"), Some(2)),
            (at("/users/a/b"), Some(5)),
            (at("/users/a/b?q"), Some(5)),
            (at("/users/a/b/"), Some(3)),
            (at("/Users"), Some(1)),
            (at("/dir"), Some(1)),
            (at("/dir/"), Some(7)),
        ],
    );
}

#[test]
fn a_longer_path_that_disagrees_gives_way() {
    let get = |target, method| Request { target, method, ..GET };
    check(
        vec![
            rule(&[], "/a", &[], &[], &[]),
            rule(&[], "/a/b", &["PUT"], &[], &[]),
            rule(&[], "=/a/b/c", &["POST"], &[], &[]),
            rule(&[], "~/a/b/.", &["PATCH"], &[], &[]),
        ],
        &[
            (get("/a/b/c", "POST"), Some(2)),
            (get("/a/b/c", "PATCH"), Some(3)),
            (get("/a/b/c", "PUT"), Some(1)),
            (get("/a/b/c", "GET"), Some(0)),
            (get("/a/b/c", "put"), Some(0)),
            (get("/b", "GET"), None),
        ],
    );
}

#[test]
fn methods_then_headers_then_query_then_order() {
    let with = |target, headers| Request { target, headers, ..GET };
    check(
        vec![
            rule(&[], "/", &[], &[], &[]),
            rule(&[], "/", &[], &[], &[]),
            rule(&[], "/", &[], &["x=1"], &[]),
            rule(&[], "/", &[], &["x=1", "y+"], &[]),
            rule(&[], "/", &[], &["x=1"], &["q=1"]),
            rule(&[], "/", &["GET", "PURGE"], &["m+"], &[]),
            rule(&[], "/", &[], &[], &["q=2"]),
            rule(&[], "/", &[], &["x=2"], &[]),
        ],
        &[
            (with("/", &[]), Some(0)),
            (with("/", &[("X", "1")]), Some(2)),
            (with("/", &[("x", "1"), ("y", "")]), Some(3)),
            (with("/?q=1", &[("x", "1")]), Some(4)),
            (with("/?q=1", &[("x", "1"), ("y", "")]), Some(3)),
            (with("/?q=1", &[("x", "1"), ("y", ""), ("m", "")]), Some(5)),
            (with("/?q=2", &[]), Some(6)),
            (with("/?q=2", &[("x", "2")]), Some(7)),
            (with("/?q=2", &[("x", "3")]), Some(6)),
            (Request { method: "PURGE", ..with("/", &[("m", "")]) }, Some(5)),
            (Request { method: "POST", ..with("/", &[("m", "")]) }, Some(0)),
        ],
    );
}

#[test]
fn fields_in_every_way() {
    for (pattern, value, expected) in [
        ("h=v", Some("v"), true),
        ("h=v", Some("V"), false),
        ("h=v", Some("vv"), false),
        ("h=", Some(""), true),
        ("h=v", None, false),
        ("h^ab", Some("abc"), true),
        ("h^ab", Some("a"), false),
        ("h~[0-9]+", Some("12"), true),
        ("h~[0-9]+", Some("12a"), false),
        ("h~[0-9]*", None, false),
        ("h+", Some(""), true),
        ("h+", None, false),
        ("h-", None, true),
        ("h-", Some(""), false),
    ] {
        let fields: Vec<_> = value.map(|value| ("H", value)).into_iter().collect();
        let by_header = RouteTable::new(vec![rule(&[], "", &[], &[pattern], &[])]);
        let found = lookup(&by_header, Request { headers: &fields, ..GET });
        assert_eq!(found.is_some(), expected, "header {pattern} {value:?}");
        let by_query = RouteTable::new(vec![rule(&[], "", &[], &[], &[pattern])]);
        let target = value.map_or("/?other=1".to_owned(), |value| format!("/?other=1&h={value}&h=later"));
        let found = lookup(&by_query, Request { target: &target, ..GET });
        assert_eq!(found.is_some(), expected, "query {pattern} {value:?}");
    }
}

#[test]
fn query_is_compared_decoded() {
    let long = format!("/?h={}%20", "a".repeat(2_000));
    for (pattern, target, expected) in [
        ("h=a b", "/?h=a+b", true),
        ("h=a b", "/?h=a%20b", true),
        ("h=a+b", "/?h=a%2bb", true),
        ("h=%", "/?h=%", true),
        ("h=%zz", "/?h=%zz", true),
        ("h=%4", "/?h=%4", true),
        ("hé=x", "/?h%C3%A9=x", true),
        ("h^a b", "/?h=a%20bc", true),
        ("h~a.b", "/?h=a%20b", true),
        ("h~a.b", "/?h=a%20bc", false),
        ("h~a+ ", &long, false),
        ("h=", "/?h", true),
        ("h=", "/?h=", true),
        ("h+", "/?&&h", true),
        ("h+", "/?", false),
        ("h+", "/", false),
        ("h+", "/?H=1", false),
        ("h=1=2", "/?h=1=2", true),
    ] {
        let table = RouteTable::new(vec![rule(&[], "", &[], &[], &[pattern])]);
        assert_eq!(lookup(&table, Request { target, ..GET }).is_some(), expected, "{pattern} {target}");
    }
}

#[test]
fn an_empty_table_finds_nothing() {
    check(Vec::new(), &[(GET, None)]);
}

/// The documented rule, word by word, at the cost of looking at every route.
fn naive(rules: &[RouteRule], request: Request<'_>) -> Option<usize> {
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let host_rank = |rule: &RouteRule| {
        if rule.hosts.is_empty() {
            return Some((0, 0));
        }
        let rank = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(name) => (**name == *request.host).then_some((2, 0)),
            HostPattern::Wildcard(suffix) => (request.host.ends_with(&**suffix)
                && request.host.len() > suffix.len())
            .then_some((1, suffix.len())),
        };
        rule.hosts.iter().filter_map(rank).max()
    };
    let path_rank = |rule: &RouteRule| match &rule.path {
        PathPattern::Any => Some((0, 0)),
        PathPattern::Exact(exact) => (**exact == *path).then_some((3, 0)),
        PathPattern::Regex(regex) => regex.is_match(path.as_bytes()).then_some((2, 0)),
        PathPattern::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            let rest = path.strip_prefix(prefix)?;
            (path.starts_with('/') && (rest.is_empty() || rest.starts_with('/'))).then_some((1, prefix.len()))
        }
    };
    let agrees = |field: &FieldPattern, value: Option<&str>| match (&field.value, value) {
        (ValuePattern::Absent, None) | (ValuePattern::Present, Some(_)) => true,
        (ValuePattern::Exact(wanted), Some(value)) => **wanted == *value.as_bytes(),
        _ => false,
    };
    let parameter = |name: &str| {
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(key, _)| !key.is_empty() && *key == name)
            .map(|(_, value)| value)
    };
    let header = |name: &str| request.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| {
            (rule.methods.is_empty()
                || rule.methods.iter().any(|method| **method == *request.method.as_bytes()))
                && rule.headers.iter().all(|field| agrees(field, header(&field.name)))
                && rule.query.iter().all(|field| agrees(field, parameter(&field.name)))
        })
        .filter_map(|(index, rule)| {
            let rank = (
                host_rank(rule)?,
                path_rank(rule)?,
                !rule.methods.is_empty(),
                rule.headers.len(),
                rule.query.len(),
                std::cmp::Reverse(index),
            );
            Some((rank, index))
        })
        .max()
        .map(|(_, index)| index)
}

/// Few labels and segments, so that rules and requests meet often.
fn any_host() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("test")], 1..4)
        .prop_map(|labels| labels.join("."))
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just(""), 1 => Just("ab")], 0..4)
        .prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_rule() -> impl Strategy<Value = RouteRule> {
    let hosts = prop::collection::vec(
        (any_host(), any::<bool>()).prop_map(|(name, wild)| if wild { format!("*.{name}") } else { name }),
        0..3,
    );
    let path = prop_oneof![
        Just(String::new()),
        any_path(),
        any_path().prop_map(|path| format!("={path}")),
        Just("~/a/.*".to_owned()),
        Just("~/.*b".to_owned()),
    ];
    let fields = || prop::sample::subsequence(vec!["x=1", "y+", "z-"], 0..3);
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 0..2);
    (hosts, path, methods, fields(), fields()).prop_map(|(hosts, path, methods, headers, query)| {
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        rule(&hosts, &path, &methods, &headers, &query)
    })
}

proptest! {
    #[test]
    fn agrees_with_the_naive_reading(
        rules in prop::collection::vec(any_rule(), 0..24),
        requests in prop::collection::vec(
            (
                any_host(),
                prop_oneof![8 => any_path(), 1 => Just("*".to_owned())],
                prop::sample::subsequence(vec!["x=1", "x=2", "y=", "z=3"], 0..4),
                prop::sample::select(vec!["GET", "POST", "PUT"]),
                prop::sample::subsequence(vec![("x", "1"), ("y", "2"), ("z", "3")], 0..3),
            ),
            1..24,
        ),
    ) {
        let table = RouteTable::new(rules.clone());
        for (host, path, query, method, headers) in &requests {
            let target = format!("{path}?{}", query.join("&"));
            let request = Request { host, target: &target, method, headers };
            prop_assert_eq!(lookup(&table, request), naive(&rules, request), "{:?} {} {}", host, target, method);
        }
    }

    #[test]
    fn random_bytes_do_not_panic(
        host in prop::collection::vec(any::<u8>(), 0..300),
        path in prop::collection::vec(any::<u8>(), 0..300),
        query in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let table = RouteTable::new(vec![
            rule(&["a"], "/", &[], &[], &["q=1"]),
            rule(&["*.a"], "~.*", &[], &[], &["q~.*"]),
            rule(&[], "/x", &[], &["h+"], &["q^1"]),
        ]);
        let key = RouteKey { host: &host, path: &path, method: b"GET", query: Some(&query) };
        assert!(table.lookup(&key, &Headers(&[])).is_none_or(|route| route < 3));
    }
}
