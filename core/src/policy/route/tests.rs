//! What does not fit into the cases' file: fields in every way, strange bytes, shapes of tables. See `cases` for
//! precedence, `literals` for what filters regexes, `naive` for the comparison with a naive reading of it, and `shadows` for routes that are dead.

mod cases;
mod literals;
mod naive;
mod shadows;

use std::net::IpAddr;

use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert_eq, proptest};

use super::{
    FieldPattern, HostPattern, PathPattern, RequestView, RouteKey, RouteRule, RouteTable, Template,
    ValuePattern, WholeRegex,
};

struct Headers<'h>(&'h [(&'h str, &'h str)]);

impl RequestView for Headers<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let named = move |(known, _): &&(&str, &str)| known.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|(_, value)| value.as_bytes())
    }
}

fn host(text: &str) -> HostPattern {
    match text.strip_prefix('*') {
        Some(suffix) => HostPattern::Wildcard(suffix.into()),
        None => HostPattern::Exact(text.into()),
    }
}

fn regex(pattern: &str) -> WholeRegex {
    WholeRegex::compile(pattern).unwrap()
}

/// `=/exact`, `/prefix`, `/template/{x}`, `~regex`, or nothing.
fn path(text: &str) -> PathPattern {
    match text.as_bytes().first() {
        None => PathPattern::Any,
        Some(b'=') => PathPattern::Exact(text[1..].into()),
        Some(b'~') => PathPattern::Regex(regex(&text[1..])),
        Some(_) if text.contains('{') => PathPattern::Template(Template::parse(text).unwrap()),
        Some(_) => PathPattern::Prefix(text.into()),
    }
}

/// `name=exact`, `name^prefix`, `name~regex`, `name+` (there), `name-` at the end (not there).
fn field(text: &str) -> FieldPattern {
    if let Some(name) = text.strip_suffix('-') {
        return FieldPattern { name: name.into(), value: ValuePattern::Absent };
    }
    let at = text.find(['=', '^', '~', '+']).unwrap();
    let (name, rest) = text.split_at(at);
    let value = match rest.split_at(1) {
        ("=", value) => ValuePattern::Exact(value.as_bytes().into()),
        ("^", value) => ValuePattern::Prefix(value.as_bytes().into()),
        ("~", value) => ValuePattern::Regex(regex(value)),
        _ => ValuePattern::Present,
    };
    FieldPattern { name: name.into(), value }
}

fn table(rule: RouteRule) -> RouteTable {
    RouteTable::new(vec![rule])
}

#[derive(Clone, Copy)]
struct Request<'r> {
    host: &'r str,
    target: &'r str,
    method: &'r str,
    headers: &'r [(&'r str, &'r str)],
    source: Option<IpAddr>,
    server_name: Option<&'r str>,
}

const GET: Request<'_> =
    Request { host: "a.test", target: "/", method: "GET", headers: &[], source: None, server_name: None };

impl<'r> Request<'r> {
    fn key(&self) -> RouteKey<'r> {
        let (path, query) = match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query.as_bytes())),
            None => (self.target, None),
        };
        RouteKey {
            host: self.host.as_bytes(),
            path: path.as_bytes(),
            method: self.method.as_bytes(),
            query,
            source: self.source,
            server_name: self.server_name,
        }
    }
}

fn lookup(table: &RouteTable, request: Request<'_>) -> Option<usize> {
    table.lookup(&request.key(), &Headers(request.headers))
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
        let by_header = table(RouteRule { headers: vec![field(pattern)], ..RouteRule::default() });
        let found = lookup(&by_header, Request { headers: &fields, ..GET });
        assert_eq!(found.is_some(), expected, "header {pattern} {value:?}");
        let by_query = table(RouteRule { query: vec![field(pattern)], ..RouteRule::default() });
        let target = value.map_or("/?other=1".to_owned(), |value| format!("/?other=1&h={value}&h=later"));
        let found = lookup(&by_query, Request { target: &target, ..GET });
        assert_eq!(found.is_some(), expected, "query {pattern} {value:?}");
        let by_cookie = table(RouteRule { cookies: vec![field(pattern)], ..RouteRule::default() });
        let cookie = value.map(|value| format!("other=1; h={value}; h=later"));
        let fields: Vec<_> = cookie.iter().map(|value| ("Cookie", value.as_str())).collect();
        let found = lookup(&by_cookie, Request { headers: &fields, ..GET });
        assert_eq!(found.is_some(), expected, "cookie {pattern} {value:?}");
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
        let by_query = table(RouteRule { query: vec![field(pattern)], ..RouteRule::default() });
        assert_eq!(lookup(&by_query, Request { target, ..GET }).is_some(), expected, "{pattern} {target}");
    }
}

#[test]
fn an_empty_table_finds_nothing() {
    let empty = RouteTable::new(Vec::new());
    assert_eq!(lookup(&empty, GET), None);
    assert!(empty.is_empty() && empty.specificity(0).is_none());
    assert_eq!(empty.explain(&GET.key(), &Headers(&[])).verdicts, []);
}

/// A prefix that is no UTF-8 is one all the same.
#[test]
fn regexes_of_any_bytes() {
    let rules = [r"~/\xff/a.*", r"~/\xff/b.*", "~/[a-z]/a.*"];
    let rules = rules.map(|pattern| RouteRule { path: path(pattern), ..RouteRule::default() });
    let table = RouteTable::new(rules.to_vec());
    for (target, expected) in [
        (&b"/\xff/ab"[..], Some(0)),
        (b"/\xff/b", Some(1)),
        (b"/x/ab", Some(2)),
        (b"/\xfe/ab", None),
        (b"/x/b", None),
    ] {
        let key = RouteKey { path: target, ..GET.key() };
        assert_eq!(table.lookup(&key, &Headers(&[])), expected, "{}", target.escape_ascii());
    }
}

/// Patterns that share a node become one automaton, or several where that would be too large; what they find must not
/// depend on it.
#[test]
fn many_regexes_on_one_node() {
    for (pattern, target) in [
        ("/api/v[0-9]+/tenant-@/.*", "/api/v2/tenant-@/x/y"),
        (".*-@/x", "/some-longer/path-@/x"),
        ("/[a-z]+/(?:x|y)@", "/path/y@"),
        // Looks at words, so it has no table.
        (r"/.*\b@\b", "/word @"),
        ("/[ab]*a[ab]{9}@", "/abababaababababab@"),
    ] {
        let at = |text: &str, n: usize| text.replace('@', &n.to_string());
        let rules = (0..600)
            .map(|n| RouteRule { path: path(&format!("~{}", at(pattern, n))), ..RouteRule::default() })
            .collect();
        let table = RouteTable::new(rules);
        for n in (0..600).step_by(7) {
            assert_eq!(lookup(&table, Request { target: &at(target, n), ..GET }), Some(n), "{pattern} {n}");
        }
        assert_eq!(lookup(&table, Request { target: &at(target, 600), ..GET }), None, "{pattern}");
    }
}

#[test]
fn a_regex_fits_the_whole_value() {
    for (pattern, text, expected) in [
        ("a|ab", "ab", true),
        ("a|b", "ab", false),
        ("a*?", "aaa", true),
        ("", "", true),
        ("", "a", false),
        ("^a$", "a", true),
        ("a$|b", "b", true),
        ("a$b", "ab", false),
        ("(?:^|x)a", "xa", true),
        ("(?:^|x)a", "a", true),
        ("(?:^|x)a", "ba", false),
        ("$^", "", true),
        ("(?m)^a$", "a", true),
        ("(?i)users", "USERS", true),
        ("(?i)/é", "/é", true),
        (".", "\n", false),
        ("(?s).", "\n", true),
        (r"\bab\b", "ab", true),
        (r"a\bb", "ab", false),
        (r"\w+", "aZ_9", true),
        (r"\w+", "é", false),
        (r"[^/]+", "é", true),
        (".*a.{12}", "xxaxxaxxxxxxxxxxxx", true),
        (".*a.{12}", "xxaxxxxxxxxxxxxxxx", false),
        (r"\xe9", "é", false),
        (r"\xc3\xa9", "é", true),
    ] {
        assert_eq!(regex(pattern).is_match(text.as_bytes()), expected, "{pattern} {text:?}");
    }
}

#[test]
fn regexes_that_are_refused() {
    for (pattern, expected) in [
        ("a)(b", "unopened group"),
        ("(", "unclosed group"),
        ("[a", "unclosed character class"),
        (r"\p{L}", "Unicode not allowed here"),
        ("(?:a{1000}){1000}", "it is too large when compiled"),
        (&"a".repeat(1_025), "a regex has at most 1024 characters"),
    ] {
        let error = WholeRegex::compile(pattern).unwrap_err().to_string();
        assert_eq!(error, expected, "{pattern}");
    }
}

/// Few letters, so that patterns and texts meet.
fn any_pattern() -> impl Strategy<Value = String> {
    let pieces = vec![
        "a",
        "b",
        "/",
        ".",
        "[ab]",
        "[^a]",
        "a*",
        "b+",
        "(?:ab)?",
        ".*",
        ".*?",
        "(?:a|b/)*",
        "a{2,3}",
        "^",
        "$",
        r"\b",
        r"\B",
        "(?m)",
        "(?i)",
        "|",
        "(?:)",
        "\n",
    ];
    prop::collection::vec(prop::sample::select(pieces), 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    /// Against the engine that the tables replace.
    #[test]
    fn a_whole_regex_is_the_anchored_regex(
        pattern in any_pattern(),
        texts in prop::collection::vec("[abA/\n]{0,8}", 1..16),
    ) {
        let anchored = regex::bytes::RegexBuilder::new(&format!(r"\A(?:{pattern})\z")).unicode(false).build();
        let whole = WholeRegex::compile(&pattern);
        prop_assert_eq!(whole.is_ok(), anchored.is_ok(), "{}", pattern);
        if let (Ok(whole), Ok(anchored)) = (whole, anchored) {
            for text in texts.iter().map(String::as_bytes) {
                prop_assert_eq!(whole.is_match(text), anchored.is_match(text), "{:?} {:?}", pattern, text);
            }
        }
    }

    #[test]
    fn random_bytes_do_not_panic(
        host in prop::collection::vec(any::<u8>(), 0..300),
        path_bytes in prop::collection::vec(prop::sample::select(b"/ax%{}.*\xff\0".to_vec()), 0..300),
        query in prop::collection::vec(prop::sample::select(b"q&=%+a2\xff\0".to_vec()), 0..300),
        cookie in prop::collection::vec(prop::sample::select(b"c;= \t\"a,".to_vec()), 0..100),
        server_name in ".{0,20}",
    ) {
        struct Cookie(Vec<u8>);
        impl RequestView for Cookie {
            fn header(&self, _: &str) -> Option<&[u8]> {
                Some(&self.0)
            }

            fn values(&self, _: &str) -> impl Iterator<Item = &[u8]> {
                std::iter::once(&self.0[..])
            }
        }
        let rule = |hosts: &[&str], path_text: &str, query: &str, cookie: &str, name: &str| RouteRule {
            hosts: hosts.iter().map(|text| self::host(text)).collect(),
            path: path(path_text),
            query: vec![field(query)],
            cookies: vec![field(cookie)],
            server_names: vec![self::host(name)],
            ..RouteRule::default()
        };
        let table = RouteTable::new(vec![
            rule(&["a"], "/", "q=1", "c-", "a"),
            rule(&["*.a"], "~.*", "q~.*", "c+", "*.a"),
            rule(&[], "/x", "q^1", "c=a", "*.b"),
            rule(&[], "/{a}/x/{b=**}", "q-", "c~a*", "*.b"),
            RouteRule { path: path("/{b=**}"), ..RouteRule::default() },
        ]);
        let key = RouteKey {
            host: &host,
            path: &path_bytes,
            method: b"GET",
            query: Some(&query),
            source: None,
            server_name: Some(&server_name),
        };
        let view = Cookie(cookie);
        let found = table.lookup(&key, &view);
        let explanation = table.explain(&key, &view);
        assert_eq!(found, explanation.winner);
        assert_eq!(found.is_some(), path_bytes.first() == Some(&b'/'));
        assert!(explanation.verdicts.iter().all(|verdict| !verdict.to_string().is_empty()));
    }
}
