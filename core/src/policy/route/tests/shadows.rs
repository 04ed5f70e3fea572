//! Routes that others leave no request: what is found, what must not be, and never one that some request takes.

use proptest::prelude::{ProptestConfig, prop, prop_assert, proptest};

use super::super::{Cover, Extent, RouteRule, RouteTable, dead};
use super::naive::{any_request, any_rule};
use super::{Headers, field, host, path};

fn rule(text: &str) -> RouteRule {
    let mut rule = RouteRule::default();
    for part in text.split_whitespace() {
        let (kind, value) = part.split_once(':').unwrap();
        match kind {
            "host" => rule.hosts.push(host(value)),
            "path" => rule.path = path(value),
            "method" => rule.methods.push(value.as_bytes().into()),
            "header" => rule.headers.push(field(value)),
            "query" => rule.query.push(field(value)),
            "cookie" => rule.cookies.push(field(value)),
            "source" => rule.sources.push(value.parse().unwrap()),
            "sni" => rule.server_names.push(host(value)),
            other => panic!("{other}"),
        }
    }
    rule
}

/// Each dead route as `route<by` with `=` if they match the same, and `*` for each that is dead on some hosts only.
fn shown(rules: &[RouteRule]) -> Vec<String> {
    dead(rules)
        .iter()
        .map(|dead| {
            let losses: Vec<String> = dead
                .losses
                .iter()
                .map(|loss| format!("{}{}", if loss.cover == Cover::Same { "=" } else { "<" }, loss.by))
                .collect();
            let extent = if dead.extent == Extent::Part { "*" } else { "" };
            format!("{}{extent}{}", dead.route, losses.join(""))
        })
        .collect()
}

#[test]
fn what_is_found_and_what_is_not() {
    for (rules, expected) in [
        (&["", ""][..], &["1=0"][..]),
        (&["path:/a", "path:/a/"], &["1=0"]),
        (&["path:/", "path:/"], &["1=0"]),
        (&["path:/a/{x}", "path:/a/{y}"], &["1=0"]),
        (&["path:/a/{x}", "path:/{y}/a"], &[]),
        (&["path:~/a.*", "path:~/a.*"], &["1=0"]),
        (&["path:=/a", "path:=/b"], &[]),
        (&["path:=/a", "path:=/a header:x=1"], &[]),
        (&["path:=/a header:x=1", "path:=/a"], &[]),
        (&["header:x=1 header:y=1", "header:y=1 header:x=1"], &["1=0"]),
        (&["method:GET method:POST", "method:POST method:GET"], &["1=0"]),
        // Methods.
        (&["path:/a method:GET method:POST", "path:/a method:GET"], &["1<0"]),
        (&["path:/a method:GET", "path:/a method:GET method:POST"], &[]),
        (&["path:/a", "path:/a method:GET"], &[]),
        (&["path:/a method:GET", "path:/a"], &[]),
        // Fields.
        (&["header:x+", "header:x=1"], &["1<0"]),
        (&["header:x=1", "header:x+"], &[]),
        (&["header:x+", "header:x-"], &[]),
        (&["header:x+", "header:y=1"], &[]),
        (&["header:x^a", "header:x=ab"], &["1<0"]),
        (&["header:x^a", "header:x^ab"], &["1<0"]),
        (&["header:x^ab", "header:x^a"], &[]),
        (&["header:x~[0-9]+", "header:x=12"], &["1<0"]),
        (&["header:x~[0-9]+", "header:x=1a"], &[]),
        (&["query:x+", "query:x=1"], &["1<0"]),
        (&["cookie:x+", "cookie:x^1"], &["1<0"]),
        (&["cookie:x+", "header:x=1"], &[]),
        (&["header:x+ query:q+", "header:x=1 query:q=1"], &["1<0"]),
        (&["header:x+ query:q=2", "header:x=1 query:q=1"], &[]),
        // Sources and server names: a longer network ranks first, so only the same ones take all.
        (&["source:10.0.0.0/8", "source:10.1.0.0/16"], &[]),
        (&["source:10.0.0.0/8 source:10.1.0.0/16", "source:10.1.0.0/16"], &["1<0"]),
        (&["source:10.1.0.0/16 source:10.0.0.0/8", "source:10.0.0.0/8 source:10.1.0.0/16"], &["1=0"]),
        (&["source:10.1.0.0/16", "source:10.0.0.0/8"], &[]),
        (&["", "source:10.0.0.0/8"], &[]),
        (&["sni:*.test", "sni:a.test"], &[]),
        (&["sni:*.test sni:a.test", "sni:a.test"], &["1<0"]),
        // Whole trees of paths, whatever the order in the file.
        (&["path:/a/b", "path:/a/{rest=**}"], &["0<1"]),
        (&["path:/a", "path:/a/{rest=**}"], &["0<1"]),
        (&["path:/", "path:/a/{rest=**}"], &[]),
        (&["path:/ab", "path:/a/{rest=**}"], &[]),
        (&["path:/a/b", "path:/{x}/{rest=**}"], &["0<1"]),
        (&["path:/", "path:/{x}/{rest=**}"], &[]),
        (&["path:/", "path:/{rest=**}"], &["0<1"]),
        (&["path:~/a/.*b", "path:/a/{rest=**}"], &["0<1"]),
        (&["path:~/a.*b", "path:/a/{rest=**}"], &[]),
        (&["path:~.*b", "path:/{rest=**}"], &["0<1"]),
        (&["path:=/a", "path:/{rest=**}"], &[]),
        (&["path:/a/{x}", "path:/{rest=**}"], &[]),
        (&["path:/a header:x=1", "path:/{rest=**} header:x+"], &["0<1"]),
        (&["path:/a header:x=1", "path:/{rest=**}"], &["0<1"]),
        (&["path:/a", "path:/{rest=**} header:x+"], &[]),
        (&["path:/a method:GET", "path:/{rest=**} method:PUT"], &[]),
        (&["path:/a/b", "path:~/a/.*"], &["0<1"]),
        (&["path:/a", "path:~/a/.*"], &[]),
        (&["path:/a", "path:~/a.*"], &["0<1"]),
        (&["path:/a", "path:~/a(/.*)?"], &[]),
        (&["path:/a", "path:~.*"], &["0<1"]),
        (&["path:/a", "path:~/a.+"], &[]),
        (&["path:/", "path:~/.*"], &["0<1"]),
        (&["path:/", "path:~/.+"], &[]),
        (&["path:~/.*", "path:~/a/[0-9]+"], &["1<0"]),
        (&["path:~/a/[0-9]+", "path:~/.*"], &[]),
        (&["path:~/.*", "path:~/a/[0-9]+ header:x=1"], &[]),
        (&["path:~/.* header:x+", "path:~/a/[0-9]+ header:x=1"], &["1<0"]),
        (&["path:=/a/b", "path:/a/b"], &[]),
        // `OPTIONS *` and CONNECT take only routes of any path.
        (&["path:/", ""], &[]),
        (&["path:/", "method:GET"], &["1<0"]),
        (&["path:/", "method:OPTIONS"], &[]),
        (&["path:/", "method:GET method:CONNECT"], &[]),
        // Hosts.
        (&["host:a.test", "host:b.test"], &[]),
        (&["host:a.test host:b.test", "host:b.test"], &["1=0"]),
        (&["host:b.test", "host:a.test host:b.test"], &["1*=0"]),
        (&["host:a.test", "host:b.test", "host:a.test host:b.test"], &["2=0=1"]),
        (&["host:*.test", "host:a.test"], &[]),
        (&["", "host:a.test"], &[]),
        (&["host:a.test", ""], &[]),
        (&["host:a.test host:a.test", "host:a.test"], &["1=0"]),
        (&["host:a.test method:GET method:PUT", "host:a.test host:b.test method:PUT"], &["1*<0"]),
    ] {
        let rules: Vec<RouteRule> = rules.iter().map(|text| rule(text)).collect();
        assert_eq!(shown(&rules), expected, "{rules:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_dead_route_is_taken(
        rules in prop::collection::vec(any_rule(), 0..24),
        requests in prop::collection::vec(any_request(), 1..24),
    ) {
        let table = RouteTable::new(rules.clone());
        let dead: Vec<usize> = dead(&rules)
            .into_iter()
            .filter(|dead| dead.extent == Extent::Whole)
            .map(|dead| dead.route)
            .collect();
        for request in &requests {
            let headers = request.headers();
            let found = table.lookup(&request.request(&headers).key(), &Headers(&headers));
            prop_assert!(found.is_none_or(|route| !dead.contains(&route)), "{request:?}: {found:?} of {dead:?}");
        }
    }
}

#[test]
fn a_table_of_many_alike_is_gone_through_in_bounded_time() {
    let rules: Vec<RouteRule> = (0..20_000)
        .map(|n| RouteRule {
            path: path("/"),
            headers: vec![field(&format!("x{}{n}", if n % 2 == 0 { "=" } else { "^p" }))],
            ..RouteRule::default()
        })
        .collect();
    let found = dead(&rules);
    // `p1` stands before `p11`, and both are among the first that are compared.
    assert!(found.iter().any(|dead| dead.route == 11 && dead.losses[0].by == 1), "{}", found.len());
}
