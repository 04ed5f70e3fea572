//! Matchers, splits, canaries, mirrors and faults: what is refused, with its place, and what is made of the rest.

use super::{HEAD, check_refusal, check_text, loaded};
use crate::config::snapshot::{Action, HashOn, LogTarget, PathRewrite};
use crate::policy::route::RouteKey;

const UPSTREAMS: &str = "\
upstreams:
  - { name: blue, endpoints: ['127.0.0.1:1'] }
  - { name: green, endpoints: [{ address: '127.0.0.1:2', labels: { v: '1' } }] }
";

/// One route `r` with these lines.
fn route(lines: &str) -> String {
    format!("{HEAD}{UPSTREAMS}routes:\n- name: r\n  {}\n", lines.replace('\n', "\n  "))
}

#[test]
fn matchers() {
    for (lines, fragments) in [
        ("upstream: blue\nmatch: { path: { template: §users } }", &["it must start with `/`"][..]),
        (
            "upstream: blue\nmatch: { path: { template: §'/u/{x}/{x}' } }",
            &["the variable `x` is there twice"],
        ),
        ("upstream: blue\nmatch: { §path: { exact: /a, template: /b } }", &["exactly one of `exact`"]),
        (
            "upstream: blue\nmatch: { path: { regex: §'([a-z]{1,500}){1,500}' } }",
            &["too large when compiled"],
        ),
        ("upstream: blue\nmatch: { cookies: [{ name: §'a b', present: true }] }", &["no cookie's name"]),
        ("upstream: blue\nmatch: { source_addresses: [§10.1.0.0/8] }", &["the network is 10.0.0.0/8"]),
        ("upstream: blue\nmatch: { source_addresses: [§here] }", &["no IP address"]),
        ("upstream: blue\nmatch: { source_addresses: [::1, §::1] }", &["is there twice"]),
        ("upstream: blue\nmatch: { server_names: [§'a:80'] }", &[""]),
        (
            "upstream: blue\nmatch: { §grpc: { service: s }, path: { exact: /a } }",
            &["`path` would say it again"],
        ),
        ("upstream: blue\nmatch: { grpc: { service: §a/b } }", &["no name of a gRPC service"]),
        ("upstream: blue\nmatch: { grpc: { method: §'a.b' } }", &["no name of a gRPC method"]),
        ("upstream: blue\nrewrite: { §path_template: '/x' }", &["which this route lacks"]),
        (
            "upstream: blue\nmatch: { path: { template: '/u/{x}' } }\nrewrite: { path_template: §'/{y}' }",
            &["`y`"],
        ),
    ] {
        check_refusal(&route(lines), fragments);
    }
}

#[test]
fn routes_that_others_leave_no_request() {
    check_refusal(
        &format!(
            "{HEAD}{UPSTREAMS}routes:\n\
             - {{ name: one, upstream: blue, match: {{ path: {{ template: '/u/{{x}}' }} }} }}\n\
             - {{ name: §two, upstream: green, match: {{ path: {{ template: '/u/{{y}}' }} }} }}\n"
        ),
        &["route `two` can never be reached: `one` before it matches the same"],
    );
    let wider = format!(
        "{HEAD}{UPSTREAMS}routes:\n\
         - {{ name: both, upstream: blue, match: {{ path: {{ prefix: /a }}, methods: [GET, POST] }} }}\n\
         - {{ name: get, upstream: green, match: {{ path: {{ prefix: /a }}, methods: [GET] }} }}\n"
    );
    let checked = check_text(wider.as_bytes(), "a.yaml", 1).unwrap_or_else(|report| panic!("{report}"));
    let warnings = checked.warnings.to_string();
    assert!(warnings.contains("route `get` can never be reached: `both` takes all"), "{warnings}");
}

#[test]
fn splits() {
    for (lines, fragments) in [
        ("split: { §arms: [] }", &["at least one entry"][..]),
        ("split: { arms: [{ upstream: §blu }] }", &["did you mean `blue`?"]),
        ("split: { arms: [{ upstream: blue }, { upstream: §blue }] }", &["`blue` is there twice"]),
        ("split: { arms: [{ upstream: blue, name: §'a b' }] }", &["a name has"]),
        (
            "split: { §arms: [{ upstream: blue, weight: 0 }, { upstream: green, weight: 0 }] }",
            &["the weights add up to nothing"],
        ),
        ("split: { arms: [{ upstream: blue, weight: §1000001 }] }", &["out of range"]),
        (
            "split: { arms: [{ upstream: green, §subset: { v: '2' } }] }",
            &["the arm `green` has no endpoints"],
        ),
        ("split: { arms: [{ upstream: green, §match: {} }] }", &["would take every request"]),
        (
            "split: { active: §gren, arms: [{ upstream: blue }, { upstream: green }] }",
            &["did you mean `green`?"],
        ),
        ("split: { §hash_on: {}, arms: [{ upstream: blue }] }", &["exactly one of `header`"]),
        ("split: { arms: [{ upstream: blue }] }\n§upstream: green", &[""]),
        ("split: { arms: [{ upstream: blue }] }\n§subset: { v: '1' }", &["have their own `subset`"]),
        (
            "split: { §active: blue, canary: { arm: green }, arms: [{ upstream: blue }, { upstream: green }] }",
            &["gives one arm everything"],
        ),
        (
            "split: { canary: { arm: green }, arms: [{ upstream: blue }, { upstream: green, §weight: 5 }] }",
            &["is decided, not 5"],
        ),
        (
            "split: { canary: { arm: green, baseline: §green }, arms: [{ upstream: blue }, { upstream: green }] }",
            &["compared with itself"],
        ),
        (
            "split: { §canary: { arm: green }, arms: [{ upstream: blue }, { upstream: green }, { upstream: blue, name: c }] }",
            &["`baseline` is missing"],
        ),
        (
            "split: { canary: { arm: green, steps: [5, §1, §200, §0] }, arms: [{ upstream: blue }, { upstream: green }] }",
            &["steps go up", "0.01 to 100", "0.01 to 100"],
        ),
        (
            "split: { canary: { arm: green, interval: §10ms }, arms: [{ upstream: blue }, { upstream: green }] }",
            &["at least 1s"],
        ),
    ] {
        // Conflicts name the second of two fields, wherever that stands.
        let marked = route(lines);
        if fragments == [""] {
            assert!(check_text(marked.replace('§', "").as_bytes(), "a.yaml", 1).is_err(), "{lines}");
        } else {
            check_refusal(&marked, fragments);
        }
    }
}

#[test]
fn mirrors_and_faults() {
    for (lines, fragments) in [
        ("upstream: blue\nmirrors: [{ upstream: §gren }]", &["did you mean `green`?"][..]),
        ("upstream: blue\nmirrors: [{ upstream: green, percent: §101 }]", &["101 is out of range: 0 to 100"]),
        ("upstream: blue\nmirrors: [{ upstream: green, body_bytes: §2MiB }]", &["at most 1MiB"]),
        ("respond: {}\n§mirrors: [{ upstream: green }]", &["has no effect on a route without an upstream"]),
        ("upstream: blue\n§fault: {}", &["needs `delay` or `abort`"]),
        ("upstream: blue\nfault: { abort: { status: §200 } }", &["400 to 599"]),
        ("upstream: blue\nfault: { delay: { duration: §11m } }", &["at most 10m"]),
    ] {
        check_refusal(&route(lines), fragments);
    }
    let five = "upstream: blue\n§mirrors: [{ upstream: green }, { upstream: green }, { upstream: green }, { upstream: green }, { upstream: green }]";
    let report = super::refused(&route(five).replace('§', "")).to_string();
    assert!(report.contains("5 mirrors; at most 4 are accepted"), "{report}");
    for (lines, expected) in [
        ("upstream: blue\nmirrors: [{ upstream: blue }]", "`blue` gets each request twice"),
        ("upstream: blue\nfault: { abort: { status: 500 } }", "every request of this route is made to fail"),
    ] {
        let checked =
            check_text(route(lines).as_bytes(), "a.yaml", 1).unwrap_or_else(|report| panic!("{report}"));
        assert!(checked.warnings.to_string().contains(expected), "{}", checked.warnings);
    }
}

#[test]
fn what_is_made_of_them() {
    let snapshot = loaded(&format!(
        "{}decision_log: {{ path: stdout }}\n",
        route(
            "match: { path: { template: '/u/{id}' }, grpc: null }\n\
             rewrite: { path_template: '/v2/{id}' }\n\
             timeouts: { response_head: 3s }\n\
             mirrors: [{ upstream: green, percent: 12.5 }]\n\
             split:\n  hash_on: { cookie: user }\n  arms: [{ upstream: blue }, { upstream: green, subset: { v: '1' } }]\n  \
             canary: { arm: green, steps: [0.5, 100], latency: { quantile_percent: 95 } }"
        )
        .replace(", grpc: null", "")
    ));
    assert_eq!(snapshot.decision_log, Some(LogTarget::Stdout));
    let route = &snapshot.routes[0];
    let Action::Split(split) = &route.action else { panic!("{route:?}") };
    assert_eq!(split.hash_on, Some(HashOn::Cookie("user".into())));
    let [blue, green] = &*split.arms else { panic!("{split:?}") };
    assert_eq!((&*blue.name, blue.destination.upstream, blue.destination.subset), ("blue", 0, None));
    assert_eq!((green.destination.upstream, green.destination.subset), (1, Some(0)));
    assert_eq!(snapshot.upstreams[1].subsets.len(), 1);
    assert_eq!(green.destination.response_head, Some(std::time::Duration::from_secs(3)));
    let canary = split.canary.as_ref().expect("a canary");
    assert_eq!((canary.arm, canary.baseline, &canary.settings.steps[..]), (1, 0, &[50, 10_000][..]));
    assert!((canary.settings.latency.expect("latency").quantile - 0.95).abs() < 1e-9);
    assert!((route.mirrors[0].chance.percent() - 12.5).abs() < 1e-6);
    assert!(matches!(route.rewrite_path, PathRewrite::Template { .. }));
    assert_eq!(route.rewrite_path.apply(b"/u/7").as_deref(), Some(&b"/v2/7"[..]));
}

/// Another version of the same canary, or other endpoints, is another canary; other steps are not.
#[test]
fn what_begins_a_canary_anew() {
    let identity = |canary: &str, address: &str| {
        let split = format!(
            "split: {{ canary: {{ arm: green{canary} }}, arms: [{{ upstream: blue }}, {{ upstream: green }}] }}"
        );
        let snapshot = loaded(&route(&split).replace("127.0.0.1:2", address));
        let Action::Split(split) = &snapshot.routes[0].action else { panic!("a split") };
        split.canary.as_ref().expect("a canary").settings.identity
    };
    let first = identity("", "127.0.0.1:2");
    assert_eq!(identity(", steps: [10, 100], interval: 2s", "127.0.0.1:2"), first);
    assert_ne!(identity(", version: '2'", "127.0.0.1:2"), first);
    assert_ne!(identity("", "127.0.0.1:3"), first);
}

/// A service and method are an exact path, a service alone a prefix, a method alone a template.
#[test]
fn grpc_is_a_path_and_a_type() {
    struct Call(&'static str);
    impl crate::policy::route::RequestView for Call {
        fn header(&self, name: &str) -> Option<&[u8]> {
            (name == "content-type").then_some(self.0.as_bytes())
        }
        fn values(&self, _: &str) -> impl Iterator<Item = &[u8]> {
            std::iter::empty()
        }
    }
    for (grpc, path, content_type, matches) in [
        ("{ service: shop.Orders, method: Place }", "/shop.Orders/Place", "application/grpc", true),
        ("{ service: shop.Orders, method: Place }", "/shop.Orders/Place", "application/json", false),
        ("{ service: shop.Orders, method: Place }", "/shop.Orders/Place/x", "application/grpc", false),
        ("{ service: shop.Orders }", "/shop.Orders/Cancel", "application/grpc+proto", true),
        ("{ service: shop.Orders }", "/shop.OrdersX/Cancel", "application/grpc", false),
        ("{ method: Place }", "/any.Thing/Place", "application/grpc", true),
        ("{ method: Place }", "/any.Thing/Other", "application/grpc", false),
        ("{}", "/any.Thing/Other", "application/grpc", true),
    ] {
        let snapshot = loaded(&route(&format!("upstream: blue\nmatch: {{ grpc: {grpc} }}")));
        let key = RouteKey {
            host: b"x",
            path: path.as_bytes(),
            method: b"POST",
            query: None,
            source: None,
            server_name: None,
        };
        let found = snapshot.route_table.lookup(&key, &Call(content_type)).is_some();
        assert_eq!(found, matches, "{grpc} {path} {content_type}");
    }
}
