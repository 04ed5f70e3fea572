//! The whole way from text to snapshot, and what a person is told on the way.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use super::raw::{self, Io, RawConfig, Workers};
use super::snapshot::{
    Action, AdminActions, EndpointAddress, ListenAddress, LogTarget, PathRewrite, RedirectTarget, Route,
    Scheme, Snapshot, UpstreamHost,
};
use super::{ProblemKind, Report, check_text, compile, load, schema};
use crate::base::limits;
use crate::policy::route::{RequestView, RouteKey};

mod traffic;

const HEAD: &str = "\
version: 1
listeners:
  - { name: public, address: 0.0.0.0:8080 }
";

const UPSTREAM: &str = "\
upstreams:
  - { name: users, endpoints: [http://127.0.0.1:9001] }
";

fn loaded(text: &str) -> Snapshot {
    load(text.as_bytes(), "a.yaml", 7).unwrap_or_else(|report| panic!("{report}\n{text}"))
}

fn refused(text: &str) -> Report {
    match load(text.as_bytes(), "a.yaml", 7) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(report) => report,
    }
}

fn response_head(route: &Route) -> Option<Duration> {
    match &route.action {
        Action::Upstream(destination) => destination.response_head,
        other => panic!("{other:?}"),
    }
}

struct NoHeaders;

impl RequestView for NoHeaders {
    fn header(&self, _: &str) -> Option<&[u8]> {
        None
    }

    fn values(&self, _: &str) -> impl Iterator<Item = &[u8]> {
        std::iter::empty()
    }
}

#[test]
fn minimal_file_has_the_documented_defaults() {
    let snapshot = loaded(&format!("{HEAD}{UPSTREAM}routes:\n  - {{ name: all, upstream: users }}\n"));
    let seconds = Duration::from_secs;
    assert_eq!(snapshot.version, 7);
    assert_eq!((snapshot.workers, snapshot.pin, snapshot.io), (None, true, Io::Auto));
    let admin = snapshot.admin.as_ref().unwrap();
    assert_eq!(admin.address, ListenAddress::Ip(SocketAddr::from(([127, 0, 0, 1], 9901))));
    assert_eq!((admin.mode, &admin.actions, admin.hosts.len()), (0o600, &AdminActions::Here, 0));
    assert_eq!(snapshot.drain, seconds(30));
    let listener = &snapshot.listeners[0];
    assert_eq!(listener.addresses, [ListenAddress::Ip(SocketAddr::from(([0, 0, 0, 0], 8080)))]);
    assert_eq!((listener.trusted_hops, listener.connections_max), (0, 10_000));
    assert_eq!(listener.requests_per_connection_max.map(u32::from), Some(10_000));
    assert_eq!(listener.timeouts.request_head, seconds(10));
    assert_eq!(listener.timeouts.keep_alive_idle, seconds(75));
    assert_eq!(snapshot.limits.header_bytes_max, limits::HEADER_BYTES_DEFAULT);
    assert_eq!(snapshot.limits.uri_bytes_max, limits::URI_BYTES_DEFAULT);
    assert_eq!(snapshot.limits.memory_bytes_max, 256 << 20);
    assert_eq!(snapshot.forwarding.via.as_deref(), Some("ringway"));
    let upstream = &snapshot.upstreams[0];
    assert_eq!(upstream.endpoints[0].address, EndpointAddress::Ip(SocketAddr::from(([127, 0, 0, 1], 9001))));
    assert_eq!(upstream.endpoints[0].authority.as_ref(), "127.0.0.1:9001");
    assert_eq!(upstream.host, UpstreamHost::Client);
    assert_eq!((upstream.timeouts.connect, upstream.timeouts.idle), (seconds(5), seconds(60)));
    let route = &snapshot.routes[0];
    let Action::Upstream(destination) = route.action else { panic!("{route:?}") };
    assert_eq!((destination.upstream, destination.subset), (0, None));
    assert_eq!(destination.response_head, Some(seconds(60)));
    assert!(matches!(route.rewrite_path, PathRewrite::Keep));
    assert_eq!(route.timeouts.request, None);
    assert_eq!(route.timeouts.body_idle, Some(seconds(30)));
    assert_eq!(route.timeouts.tunnel_idle, Some(seconds(3_600)));
    assert_eq!(route.body_bytes_max, u64::MAX);
    assert_eq!(route.upgrade.as_ref(), ["websocket".into()]);
    assert_eq!(snapshot.access_log.target, LogTarget::Stdout);
}

#[test]
fn overrides_are_inherited_from_the_nearest() {
    let snapshot = loaded(
        "\
version: 1
admin: { address: off }
timeouts: { response_head: 10s, body_idle: off, keep_alive_idle: 1m }
limits: { body_bytes: 1MiB }
listeners:
  - name: a
    address: [127.0.0.1:1, 'unix:/run/a.sock']
    timeouts: { keep_alive_idle: 5s }
    requests_per_connection_max: 0
  - { name: b, address: 127.0.0.1:2 }
upstreams:
  - name: slow
    endpoints: [{ address: Slow.Internal:8080, weight: 3 }, unix:/run/b.sock]
    timeouts: { response_head: 5m }
    host: upstream
  - { name: fast, endpoints: ['[::1]:80'], host: Fast.Internal }
routes:
  - { name: one, upstream: slow }
  - { name: two, match: { path: { exact: /two } }, upstream: fast, timeouts: { body_idle: 1s } }
  - name: three
    match: { path: { prefix: /three/ } }
    upstream: slow
    rewrite: { path_prefix: /3/ }
    timeouts: { response_head: off }
    limits: { body_bytes: unlimited }
    upgrade: []
  - name: four
    match: { path: { exact: /four } }
    redirect: { status: 308, scheme: https, port: 8443 }
  - name: five
    match: { path: { exact: /five } }
    respond: { status: 404, body: '{}', content_type: application/json, headers: { x-a: '1' } }
",
    );
    let seconds = |s| Some(Duration::from_secs(s));
    assert_eq!(snapshot.admin, None);
    assert_eq!(snapshot.listeners[0].addresses[1], ListenAddress::Unix(PathBuf::from("/run/a.sock")));
    assert_eq!(snapshot.listeners[0].requests_per_connection_max, None);
    assert_eq!(snapshot.listeners[0].timeouts.keep_alive_idle, Duration::from_secs(5));
    assert_eq!(snapshot.listeners[1].timeouts.keep_alive_idle, Duration::from_secs(60));
    let slow = &snapshot.upstreams[0];
    assert_eq!(slow.endpoints[0].address, EndpointAddress::Name { host: "slow.internal".into(), port: 8080 });
    assert_eq!((slow.endpoints[0].weight.get(), slow.endpoints[1].weight.get()), (3, 1));
    assert_eq!(slow.host, UpstreamHost::Endpoint);
    assert_eq!(snapshot.upstreams[1].host, UpstreamHost::Literal("fast.internal".into()));
    let [one, two, three, four, five] = snapshot.routes.as_slice() else { panic!("five routes") };
    assert_eq!((response_head(one), one.timeouts.body_idle), (seconds(300), None));
    assert_eq!((response_head(two), two.timeouts.body_idle), (seconds(10), seconds(1)));
    assert_eq!(response_head(three), None);
    assert_eq!((two.body_bytes_max, three.body_bytes_max), (1 << 20, u64::MAX));
    assert!(three.upgrade.is_empty());
    assert_eq!(three.rewrite_path.apply(b"/three/x").as_deref(), Some(&b"/3/x"[..]));
    let Action::Redirect(redirect) = &four.action else { panic!("{four:?}") };
    let parts =
        RedirectTarget::Parts { scheme: Some(Scheme::Https), host: None, port: Some(8443), path: None };
    assert_eq!((redirect.status, &redirect.target), (308, &parts));
    let Action::Respond(respond) = &five.action else { panic!("{five:?}") };
    assert_eq!((respond.status, respond.body.as_ref()), (404, &b"{}"[..]));
    let key = RouteKey {
        host: b"x",
        path: b"/three/y",
        method: b"GET",
        query: None,
        source: None,
        server_name: None,
    };
    assert_eq!(snapshot.route_table.lookup(&key, &NoHeaders), Some(2));
}

#[test]
fn proxy_profile_compiles() {
    let raw = RawConfig::proxy(
        &["127.0.0.1:0", "unix:/run/a.sock"],
        &["http://127.0.0.1:9001"],
        Workers::Count(1),
        Io::Epoll,
    );
    let snapshot = compile(&raw, 1).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!((snapshot.workers, snapshot.io), (Some(1), Io::Epoll));
    assert_eq!(snapshot.listeners[0].addresses.len(), 2);
    assert_eq!(snapshot.admin, None);
}

#[test]
fn settings_made_in_code_are_checked_as_a_file_is() {
    let mut raw = RawConfig::proxy(&["127.0.0.1:0"], &["127.0.0.1"], Workers::Auto, Io::Auto);
    raw.listeners[0].trusted_hops = 33;
    raw.upstreams[0].name = "other".to_owned();
    let report = compile(&raw, 1).unwrap_err();
    assert_eq!(report.errors()[0].path, "listeners[0].trusted_hops");
    assert!(report.to_string().contains("33 is out of range: 0 to 32"), "{report}");
    raw.listeners[0].trusted_hops = 32;
    let report = compile(&raw, 1).unwrap_err();
    let paths: Vec<_> = report.errors().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["upstreams[0].endpoints[0]", "routes[0].upstream"]);
}

#[test]
fn equal_settings_have_equal_hashes() {
    let one = loaded(&format!("{HEAD}{UPSTREAM}"));
    let same = loaded(&format!("# a comment\npin: true\n{UPSTREAM}timeouts: {{ connect: 5000ms }}\n{HEAD}"));
    let other = loaded(&format!("{HEAD}{UPSTREAM}pin: false\n"));
    assert_eq!((one.hash, &one.canonical), (same.hash, &same.canonical));
    assert_ne!(one.hash, other.hash);
    assert!(one.canonical.contains(r#""connect":"5s""#), "{}", one.canonical);
}

/// Each `§` stands where an error is expected; the fragments are of their messages, in the file's order.
fn check_refusal(marked: &str, fragments: &[&str]) {
    let text = marked.replace('§', "");
    let places: Vec<_> = marked
        .lines()
        .enumerate()
        .flat_map(|(line, text)| {
            let columns = text.split('§').map(|part| part.chars().count()).scan(0, |sum, width| {
                *sum += width;
                Some(*sum)
            });
            let count = text.matches('§').count();
            columns.take(count).map(move |column| (line + 1, column + 1)).collect::<Vec<_>>()
        })
        .collect();
    let report = refused(&text);
    let found: Vec<_> = report
        .errors()
        .iter()
        .map(|problem| problem.location.as_ref().map_or((0, 0), |at| (at.line, at.column)))
        .collect();
    assert_eq!(found, places, "\n{report}\n{text}");
    for (problem, fragment) in report.errors().iter().zip(fragments) {
        let words = format!("{} = {}", problem.message, problem.hint.as_deref().unwrap_or_default());
        assert!(words.contains(fragment), "`{fragment}` is not in: {words}\n{text}");
    }
    assert_eq!(report.errors().len(), fragments.len(), "{report}");
}

#[test]
fn text_that_is_no_yaml_of_ours() {
    for (marked, fragment) in [
        ("version: 1\n§version: 1\n", "`version` is there twice"),
        ("version: 1\n§---\n", "a second document"),
        ("version: 1\n§--- \nversion: 1\n", "a second document"),
        ("version: §!!int 1\n", "tags"),
        ("version: 1\n§<<: { pin: true }\n", "merge keys"),
        ("§[a, b]: 1\n", "a key is a text"),
        ("a: &x [§*x]\n", "within the very thing"),
        ("version: §*nowhere\n", "unknown anchor"),
    ] {
        check_refusal(marked, &[fragment]);
    }
    // The place of a scanner's own errors is its affair; that there is one is ours.
    for (text, fragment) in [
        ("version: 1\nlisteners:\n\t- name: a\n", "spaces, never with tabs"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: }\n", "not valid YAML"),
        ("a: 'b\n", "not valid YAML"),
        ("a: @b\n", "put the text in quotes"),
        ("a:\n  b: 1\n c: 2\n", "not valid YAML"),
        ("a: b: c\n", "not valid YAML"),
    ] {
        let report = refused(text);
        assert!(report.to_string().contains(fragment), "{text}{report}");
        assert!(report.errors().iter().any(|problem| problem.location.is_some()), "{text}{report}");
    }
    for (text, fragment) in [("", "the file is empty"), ("# nothing\n", "the file is empty")] {
        assert!(refused(text).to_string().contains(fragment), "{}", refused(text));
    }
    let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
    assert!(refused(&deep).to_string().contains("nested deeper than 32 levels"), "{}", refused(&deep));
}

#[test]
fn bytes_that_are_no_text() {
    let report = load(b"version: 1\npin: \xff\n", "a.yaml", 1).unwrap_err();
    let at = report.errors()[0].location.clone().unwrap();
    assert_eq!((at.line, at.column), (2, 6));
    assert!(report.to_string().contains("not UTF-8 text: byte 0xff"), "{report}");
    let report = load(b"\xff\xfev\0", "a.yaml", 1).unwrap_err();
    assert!(report.to_string().contains("UTF-16"), "{report}");
    let report = load(&vec![b' '; limits::CONFIG_BYTES_MAX + 1], "a.yaml", 1).unwrap_err();
    assert_eq!(report.errors()[0].kind, ProblemKind::Unreadable);
    assert!(load(format!("\u{feff}{HEAD}").as_bytes(), "a.yaml", 1).is_ok(), "a byte order mark is skipped");
    assert!(load(HEAD.replace('\n', "\r\n").as_bytes(), "a.yaml", 1).is_ok(), "CR LF ends lines too");
}

#[test]
fn aliases_are_expanded_within_bounds() {
    let snapshot = loaded(
        "\
version: 1
listeners: [{ name: a, address: 127.0.0.1:1 }]
upstreams: [{ name: u, endpoints: [http://127.0.0.1:1], timeouts: &slow { response_head: 5m } }]
routes:
  - { name: one, upstream: u, match: { path: { exact: &path /one } }, timeouts: *slow }
  - { name: two, upstream: u, match: { path: { prefix: *path } } }
",
    );
    assert_eq!(response_head(&snapshot.routes[0]), Some(Duration::from_secs(300)));
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        writeln!(laughs, "a{level}: &a{level} [{below}]").unwrap();
    }
    assert!(refused(&laughs).to_string().contains("aliases expanded"), "{}", refused(&laughs));
}

#[test]
fn wrong_shapes_all_at_once() {
    check_refusal(
        "\
version: §2
workers: §0
pin: §yes
io: §urng
§timeout:
  connect: 5s
§admin:
listeners:
  - name: public
    adress: 0.0.0.0:8080
    trusted_hops: 1.5
"
        .replace("    adress", "    §adress")
        .replace("hops: ", "hops: §")
        .replace("- name", "- §name")
        .as_str(),
        &[
            "2 is out of range: 1 is expected",
            "0 is out of range: 1 to 1024",
            "expected `true` or `false`, found the text `yes`",
            "did you mean `uring`? = expected `auto`, `uring` or `epoll`",
            "unknown field `timeout`, did you mean `timeouts`?",
            "a value is missing: expected a mapping",
            "the field `address` is missing",
            "unknown field `adress`, did you mean `address`?",
            "expected a whole number, found `1.5`",
        ],
    );
}

#[test]
fn each_wrong_shape() {
    for (marked, fragment) in [
        ("§[]", "expected a mapping (`field: value`), found a list"),
        ("version: §'1'", "expected a whole number, found the text `1`"),
        ("version: §01", "found the text `01`"),
        ("version: §0x1", "found the text `0x1`"),
        ("version: §1e400", "found the text"),
        ("version: §-1", "-1 is out of range"),
        ("version: §18446744073709551616", "whole number"),
        ("version: §true", "found `true`"),
        ("§version: ~", "a value is missing"),
        ("§listeners: []", "the list needs at least one entry"),
        ("listeners: §x", "a list is written [a, b]"),
        ("listeners: [§x]", "expected a mapping"),
        ("listeners: [{ name: §7, address: 127.0.0.1:1 }]", "put it in quotes"),
        ("listeners: [{ name: a, §address: { b: c } }]", "expected text or a list, found a mapping"),
        ("limits: { header_count: §129 }", "129 is out of range: 1 to 128"),
        ("limits: { header_bytes: §16384 }", "`16384` has no unit; write it with one, as in 16KiB"),
        ("limits: { body_bytes: §lots }", "expected a size"),
        ("timeouts: { connect: §5 }", "`5` has no unit; write it with one, as in 5s"),
        ("timeouts: { connect: §off }", "expected a duration"),
        ("timeouts: { request: §0s }", "write `off`"),
        ("timeouts: { connect: §1.5s }", "fractions"),
        ("timeouts: { §connect: [5s] }", "expected a duration such as 5s, found a list"),
        ("routes: [{ name: a, request_headers: { set: { x-a: §1 } } }]", "put it in quotes"),
        ("routes: [{ name: a, upgrade: §websocket }]", "a list is written [a, b]"),
        ("routes: [{ name: a, match: { §host: [a] } }]", "did you mean `hosts`?"),
        ("routes: [{ name: a, match: { §hosts: [] } }]", "at least one entry"),
        ("routes: [{ §upstrem: a, name: b }]", "did you mean `upstream`?"),
        ("access_log: { mode: §none }", "expected `off`, `sampled` or `all`"),
        ("access_log: { sample: §2 }", "2 is out of range: 0 to 1"),
        ("access_log: { sample: §1.01 }", "1.01 is out of range"),
    ] {
        let text = marked.replace('§', "");
        let (line, column) = (1, marked.find('§').unwrap() + 1);
        let report = refused(&text);
        let problem = report
            .errors()
            .iter()
            .find(|problem| {
                problem.location.as_ref().is_some_and(|at| (at.line, at.column) == (line, column))
            })
            .unwrap_or_else(|| panic!("nothing at {line}:{column}\n{report}"));
        let words = format!("{} = {}", problem.message, problem.hint.as_deref().unwrap_or_default());
        assert!(words.contains(fragment), "{text}: {words}");
    }
}

#[test]
fn each_wrong_meaning() {
    let routes = |route: &str| format!("{HEAD}{UPSTREAM}routes:\n  - {{ name: r, {route} }}\n");
    let mut cases: Vec<(String, &str)> = [
        ("upstream: §user", "unknown upstream `user`, did you mean `users`?"),
        ("upstream: §nobody", "unknown upstream `nobody`"),
        ("upstream: users, §respond: { }", "not both `upstream` and `respond`"),
        ("upstream: users, match: { hosts: [a.org, §A.org] }", "is there twice"),
        ("upstream: users, match: { hosts: ['§a.org:80'] }", "without its port"),
        ("upstream: users, match: { §path: { exact: /a, prefix: /b } }", "exactly one of"),
        ("upstream: users, match: { path: { exact: §a } }", "starts with `/`"),
        ("upstream: users, match: { path: { regex: §'a(' } }", "bad regex `a(`: unclosed group"),
        ("upstream: users, match: { path: { regex: §'a)(b' } }", "bad regex `a)(b`: unopened group"),
        ("upstream: users, match: { path: { regex: §'(a{1000}){1000}' } }", "too large when compiled"),
        ("upstream: users, match: { methods: [§get] }", "did you mean `GET`?"),
        ("upstream: users, match: { methods: [§'G T'] }", "no method"),
        ("upstream: users, match: { methods: [GET, §GET] }", "is there twice"),
        ("upstream: users, match: { headers: [{ §name: a }] }", "exactly one of"),
        ("upstream: users, match: { headers: [{ name: §'a b', exact: c }] }", "no header field's name"),
        (
            "upstream: users, match: { headers: [{ name: a, exact: c }, { name: §A, exact: c }] }",
            "matched twice",
        ),
        ("upstream: users, match: { query: [{ name: §'', exact: c }] }", "can't be empty"),
        ("upstream: users, rewrite: { §path_prefix: /a }", "which this route lacks"),
        (
            "upstream: users, §rewrite: { path: /a, path_regex: { pattern: a, substitution: b } }",
            "at most one",
        ),
        ("upstream: users, rewrite: { path_regex: { pattern: (a), substitution: §/$2 } }", "no group `2`"),
        ("upstream: users, rewrite: { path: §'/a?b' }", "no query"),
        ("upstream: users, rewrite: { host: §'a b' }", "no host name"),
        ("upstream: users, request_headers: { set: { §Content-Length: '1' } }", "the proxy's own"),
        ("upstream: users, request_headers: { remove: [§transfer-encoding] }", "the proxy's own"),
        ("upstream: users, request_headers: { add: { §Host: a } }", "use `rewrite.host`"),
        ("upstream: users, request_headers: { set: { §'a b': c } }", "no header field's name"),
        ("upstream: users, response_headers: { set: { a: §\"b\\r\\nc\" } }", "control characters"),
        ("upstream: users, response_headers: { add: { a: [b, §' c'] } }", "a blank at either end"),
        ("upstream: users, response_headers: { set: { A: b, §a: c } }", "are the same field"),
        ("upstream: users, upgrade: [§h2c]", "past the routes"),
        ("upstream: users, upgrade: [§'a b']", "no protocol's name"),
        ("respond: { status: 204, body: §x }", "has no body"),
        ("respond: { headers: { §Content-Type: a } }", "set by `content_type`"),
        ("respond: { }, §rewrite: { host: a }", "no effect on a route without an upstream"),
        ("respond: { }, §timeouts: { request: 1s }", "no effect"),
        ("redirect: { status: §304, path: /a }", "304 is no redirection"),
        ("§redirect: { status: 302 }", "needs `location`"),
        ("§redirect: { location: /a, host: b }", "not both"),
        ("redirect: { location: §'/a b' }", "percent-encode"),
        ("redirect: { scheme: §ftp }", "expected `http` or `https`"),
        ("redirect: { host: §'a:80' }", "given by `port`"),
    ]
    .iter()
    .map(|(route, fragment)| (routes(route), *fragment))
    .collect();
    let whole = |text: &str| format!("{HEAD}{text}\n");
    cases.extend([
        (whole("routes: [{ §name: r }]"), "has no destination"),
        (whole("routes: [{ name: r, upstream: §u }]"), "no upstreams are defined"),
        (whole("routes: [{ name: §'', respond: {} }]"), "a name has 1 to 128"),
        (whole("routes: [{ name: r, respond: {} }, { name: §r, redirect: { path: /a }, match: { path: { exact: /b } } }]"), "route `r` is there twice"),
        (whole("routes: [{ name: r, respond: {} }, { name: §s, respond: {} }]"), "route `s` can never be reached: `r`"),
        (whole("routes: [{ name: r, respond: {}, match: { hosts: [a.org, b.org] } }, { name: §s, respond: {}, match: { hosts: [B.org] } }]"), "can never be reached"),
        (whole("upstreams: [{ name: u, endpoints: [§127.0.0.1] }]"), "the port is missing = as in 127.0.0.1:8080"),
        (whole("upstreams: [{ name: u, endpoints: ['a:1', §'http://A:1/'] }]"), "is there twice = give it a larger weight"),
        (whole("upstreams: [{ name: u, endpoints: [{ address: 'a:1', weight: §0 }] }]"), "0 is out of range: 1 to 1000"),
        (whole("upstreams: [{ name: u, endpoints: ['a:1'], host: §'a b' }]"), "expected `client`, `upstream` or a host"),
        (whole("upstreams: [{ name: u, endpoints: ['a:1'], dns: { refresh: §10ms } }]"), "at least 1s"),
        (whole("limits: { header_bytes: §32KiB }"), "32KiB is out of range: 1KiB to 16KiB"),
        (whole("limits: { header_bytes: 4KiB, uri_bytes: §8KiB }"), "1B to 4KiB"),
        (whole("limits: { memory_per_worker: §1KiB }"), "at least 1MiB"),
        (whole("state_dir: §var/lib"), "`var/lib`: expected an absolute path"),
        (whole("forwarding: { via: §'a b' }"), "a pseudonym"),
        (whole("access_log: { path: §stdot }"), "expected `stdout`, `stderr` or an absolute path"),
        (whole("admin: { address: §localhost:1 }"), "`localhost` is no IP address"),
        (whole("admin: { actions: §maybe }"), "`maybe`: "),
        (whole("admin: { address: off, actions: §127.0.0.1:1 }"), "there is no admin interface to act on"),
        (whole("admin: { actions: §127.0.0.1:9901 }"), "this is `address` itself"),
        (whole("admin: { mode: §\"0999\" }"), "`0999` is no mode"),
        (whole("admin: { mode: §\"1777\" }"), "`1777` is no mode"),
        (whole("admin: { hosts: [§a:80] }"), "`a:80` is no name"),
        ("version: 1\nadmin: { actions: 127.0.0.1:1 }\nlisteners: [{ name: a, address: §127.0.0.1:1 }]\n".to_owned(), "the admin interface has"),
        ("version: 1\nlisteners:\n  - { name: a, address: 127.0.0.1:1 }\n  - { name: §a, address: §127.0.0.1:1 }\n".to_owned(), "listener `a` is there twice"),
        ("version: 1\nadmin: { address: 127.0.0.1:1 }\nlisteners: [{ name: a, address: §127.0.0.1:1 }]\n".to_owned(), "the admin interface has"),
    ]);
    let listener =
        |tls: &str| format!("version: 1\nlisteners: [{{ name: a, address: 127.0.0.1:1, {tls} }}]\n");
    let tls = |more: &str| listener(&format!("tls: {{ certificates: [{{ cert: c, key: k }}], {more} }}"));
    let to_origin =
        |tls: &str| whole(&format!("upstreams: [{{ name: u, endpoints: ['https://a'], tls: {{ {tls} }} }}]"));
    cases.extend([
        (listener("§tls: { alpn: [h2] }"), "the field `certificates` is missing"),
        (listener("tls: { §certificates: [] }"), "at least one entry"),
        (listener("tls: { certificates: [{ §cert: c }] }"), "the field `key` is missing"),
        (listener("tls: { certificates: [{ cert: §'', key: k }] }"), "the path of a file"),
        (tls("min_version: §1.2"), "expected `1.2` or `1.3`, found the number 1.2"),
        (tls("min_version: §'1.1'"), "`1.1` is not accepted here"),
        (tls("min_version: §'1.3', max_version: '1.2'"), "newer than `max_version`"),
        (tls("alpn: [§h3]"), "expected `h2` or `http/1.1`"),
        (tls("alpn: [h2, §h2]"), "the protocol is there twice"),
        (tls("ciphers: [§TLS_AES_128_GCM_SHA265]"), "did you mean `TLS_AES_128_GCM_SHA256`?"),
        (tls("ciphers: [§TLS_RSA_WITH_NULL_MD5]"), "unknown cipher suite"),
        (tls("ciphers: [TLS_AES_128_GCM_SHA256, §TLS_AES_128_GCM_SHA256]"), "is there twice"),
        (tls("max_version: '1.2', §ciphers: [TLS_AES_128_GCM_SHA256]"), "nobody could connect"),
        (tls("client_certificates: §sometimes"), "expected `off`, `optional` or `required`"),
        (tls("§client_ca: f"), "no effect while clients are not asked = set `client_certificates`"),
        (tls("tickets: §on"), "`on` is not accepted here"),
        (tls("tickets: { rotate: §10s }"), "expected 1m to 84h"),
        (tls("§hsts: { preload: true }"), "the field `max_age` is missing"),
        (
            tls("hsts: { max_age: 60, include_subdomains: true, preload: §true }"),
            "a year = max_age: 31536000",
        ),
        (listener("redirect_to_https: §0"), "port 0 can't be connected to"),
        (listener("redirect_to_https: §70000"), "70000 is out of range"),
        (
            listener("tls: { certificates: [{ cert: c, key: k }] }, §redirect_to_https: true"),
            "redirect to itself",
        ),
        (to_origin("verify: §none"), "expected `full` or `insecure`"),
        (to_origin("verify: insecure, §ca: f"), "no effect while nothing is verified"),
        (to_origin("§client_cert: f"), "`client_cert` needs `client_key`"),
        (to_origin("§client_key: f"), "`client_key` needs `client_cert`"),
        (to_origin("server_name: §'a:1'"), "no host name or IP address"),
        (whole("upstreams: [{ name: u, endpoints: [§'http://a'], tls: {} }]"), "`http://` is plain HTTP"),
    ]);
    for (marked, fragment) in &cases {
        let marked = marked.replace("'§", "§'");
        let expected: Vec<&str> = match marked.matches('§').count() {
            2 => vec![fragment, "listened on twice"],
            _ => vec![fragment],
        };
        check_refusal(&marked, &expected);
    }
}

#[test]
fn port_zero_may_be_listened_on_twice() {
    loaded("version: 1\nlisteners: [{ name: a, address: [127.0.0.1:0, 127.0.0.1:0] }]\n");
}

#[test]
fn tls_settings_are_compiled() {
    let snapshot = loaded(
        "version: 1
listeners:
  - { name: plain, address: 127.0.0.1:1, redirect_to_https: 8443 }
  - { name: off, address: 127.0.0.1:2, redirect_to_https: false }
  - name: tls
    address: 127.0.0.1:3
    timeouts: { tls_handshake: 3s }
    tls:
      certificates: [{ cert: c.pem, key: c.key, ocsp: c.der }]
      client_certificates: required
      client_ca: clients.pem
      tickets: { keys: t }
      hsts: { max_age: 5, include_subdomains: true }
upstreams:
  - { name: a, endpoints: ['https://A.org', 'http://b.org', 'https://[::1]:8443'] }
  - { name: b, endpoints: ['c.org:443', 'unix:/d'], tls: { server_name: E.org } }
",
    );
    let [plain, off, tls] = &snapshot.listeners[..] else { panic!() };
    assert_eq!((plain.redirect_to_https, off.redirect_to_https), (Some(8443), None));
    assert_eq!(plain.timeouts.tls_handshake, Duration::from_secs(10));
    assert_eq!(tls.timeouts.tls_handshake, Duration::from_secs(3));
    let tls = tls.tls.as_ref().unwrap();
    assert_eq!(tls.certificates[0].ocsp.as_deref(), Some(std::path::Path::new("c.der")));
    assert_eq!(tls.clients, super::snapshot::ClientCertificates::Required("clients.pem".into()));
    assert_eq!(tls.tickets.as_ref().unwrap().keys.as_deref(), Some(std::path::Path::new("t")));
    assert_eq!(&*tls.hsts, "Strict-Transport-Security: max-age=5; includeSubDomains\r\n");
    let endpoints: Vec<_> = snapshot
        .upstreams
        .iter()
        .flat_map(|upstream| &upstream.endpoints)
        .map(|endpoint| (&*endpoint.authority, endpoint.tls_name.as_deref()))
        .collect();
    assert_eq!(
        endpoints,
        [
            ("a.org", Some("a.org")),
            ("b.org", None),
            ("[::1]:8443", Some("::1")),
            ("c.org", Some("e.org")),
            ("localhost", Some("e.org")),
        ]
    );
}

/// A line of the upstream, a line of the route; what is said of it, and whether it is refused or only warned of.
#[test]
fn mistakes_of_resilience_are_told() {
    let text = |top: &str, upstream: &str, route: &str| {
        format!(
            "{HEAD}{top}upstreams:\n  - name: users\n    endpoints: [http://127.0.0.1:9001]\n    {upstream}\nroutes:\n  - name: all\n    upstream: users\n    {route}\n"
        )
    };
    for (top, upstream, route, expected) in [
        ("", "balance: fastest", "", "fastest"),
        ("", "balance: maglev", "", "hashes something of each request"),
        ("", "balance: { rule: random, hash_on: { header: x } }", "", "only `ring_hash` and `maglev` hash"),
        ("", "balance: { rule: maglev, hash_on: {} }", "", "exactly one of `header`"),
        ("", "balance: { rule: maglev, hash_on: { header: x, cookie: y } }", "", "exactly one of `header`"),
        ("", "balance: { rule: maglev, hash_on: { header: 'x y' } }", "", "is no name"),
        ("", "balance: { rule: round_robin, decay: 1s }", "", "only `peak_ewma` remembers"),
        ("", "sticky: { cookie: 'a b' }", "", "is no cookie's name"),
        ("", "requests_max: 0", "", "would refuse every request"),
        ("", "panic_percent: 101", "", "101"),
        ("", "health_check: { http: { path: healthz } }", "", "a path starts with a slash"),
        ("", "health_check: { http: { path: '/a b' } }", "", "that no request line may have"),
        ("", "health_check: { http: { path: /, expect: ['2xx'] } }", "", "expected a status or a range"),
        ("", "health_check: { http: { path: /, expect: ['299-200'] } }", "", "expected a status or a range"),
        ("", "health_check: {}", "", "exactly one of `http`, `grpc` and `tcp: true`"),
        ("", "health_check: { grpc: {} }", "", "gRPC is spoken over HTTP/2"),
        ("", "health_check: { tcp: true, interval: 1ms }", "", "at least 100ms"),
        (
            "",
            "outlier_detection: { base_ejection_time: 1m, max_ejection_time: 1s }",
            "",
            "shorter than the first ejection",
        ),
        ("", "breaker: { error_percent: 0 }", "", "it would never reject"),
        ("", "breaker: { window: 1h }", "", "out of range: 1s to 10m"),
        ("", "breaker: { rejecting: 1m, rejecting_max: 1s }", "", "shorter than the first time"),
        ("", "adaptive_concurrency: { min: 10, initial: 5 }", "", "lies between"),
        ("", "retry_budget: { percent: 120 }", "", "120"),
        ("", "", "retry: { attempts: 0 }", "0"),
        ("", "", "retry: { on: [sunday] }", "sunday"),
        ("", "", "retry: { statuses: [200] }", "only failures are tried again"),
        ("", "", "retry: { backoff: 1s, backoff_max: 1ms }", "shorter than the first wait"),
        ("", "", "retry: { body_bytes: 2MiB }", "at most 1MiB"),
        ("", "", "priority: urgent", "urgent"),
        ("shedding: { low_percent: 95, normal_percent: 80 }\n", "", "", "would be refused later"),
        ("node: { locality: { zone: z } }\n", "", "", "a zone is known within its region only"),
        ("rate_limits: { rates: [{ name: a, rate: 0/s }] }\n", "", "", "to deny, answer the route with"),
        ("rate_limits: { rates: [{ name: a, rate: fast }] }\n", "", "", "as in 100/s"),
        (
            "rate_limits: { rates: [{ name: a, rate: 1/s }, { name: a, rate: 2/s }] }\n",
            "",
            "",
            "is there twice",
        ),
        ("rate_limits: { rates: [{ name: a, rate: 9999999/s }] }\n", "", "", "count in larger units"),
        ("rate_limits: { rates: [{ name: a, rate: 1/s, cost: 2 }] }\n", "", "", "is never admitted"),
        ("rate_limits: { rates: [{ name: a, rate: 1/s, key: [client] }] }\n", "", "", "client"),
        (
            "rate_limits: { rates: [{ name: a, rate: 1/s, key: [{ header: 'x y' }] }] }\n",
            "",
            "",
            "is no name",
        ),
        ("rate_limits: { rates: [{ name: a, rate: 1/s, key: [{}] }] }\n", "", "", "exactly one of"),
        ("rate_limits: { rates: [{ name: a, rate: 1/s, delay_max: 2m }] }\n", "", "", "don't wait longer"),
        (
            "rate_limits: { rates: [{ name: basic, rate: 1/s }] }\n",
            "",
            "rate_limits: [basik]",
            "did you mean `basic`?",
        ),
        (
            "rate_limits: { rates: [{ name: a, rate: 1/s }] }\n",
            "",
            "rate_limits: [a, a]",
            "`a` is there twice",
        ),
        (
            "rate_limits: { rates: [{ name: a, rate: 1/s }] }\n",
            "",
            "rate_limits: [{ name: a, cost: 5 }]",
            "is never admitted",
        ),
        ("", "", "in_flight_limits: [few]", "unknown in-flight limit `few`"),
    ] {
        let report = refused(&text(top, upstream, route)).to_string();
        assert!(report.contains(expected), "{top}{upstream}{route}: {report}");
        assert!(report.contains("a.yaml:"), "no place: {report}");
    }
    for (upstream, route, expected) in [
        (
            "",
            "timeouts: { request: 1s }\n    retry: { per_try_timeout: 2s }",
            "longer than the whole request",
        ),
        ("", "retry: { on: [reset], per_try_timeout: 2s }", "not tried again"),
        ("", "retry: { per_try_timeout: 1s }\n    hedge: { after: 2s }", "no hedge comes"),
        ("", "subset: { version: v9 }", "no endpoint of `users` has these labels"),
    ] {
        let text = text("", upstream, route);
        let checked = check_text(text.as_bytes(), "a.yaml", 1).unwrap_or_else(|report| panic!("{report}"));
        let warnings = checked.warnings.to_string();
        assert!(warnings.contains(expected) && warnings.contains("a.yaml:"), "{upstream}{route}: {warnings}");
    }
    for (top, route, expected) in [
        (
            "rates: [{ name: a, rate: 1/s, key: [{ header: x }] }]",
            "rate_limits: [a]",
            "a client escapes this limit",
        ),
        (
            "in_flight: [{ name: a, max: 1, key: [{ cookie: x }] }]",
            "in_flight_limits: [a]",
            "a client escapes this limit",
        ),
        ("rates: [{ name: a, rate: 1/s }]", "", "no route uses the rate limit `a`"),
        ("in_flight: [{ name: a, max: 1 }]", "", "no route uses the in-flight limit `a`"),
        (
            "rates: [{ name: all, rate: 1/s }, { name: each, rate: 5/s, key: [client_address] }]",
            "rate_limits: [all, each]",
            "`each` never refuses anything here",
        ),
    ] {
        let text = text(&format!("rate_limits: {{ {top} }}\n"), "", route);
        let checked = check_text(text.as_bytes(), "a.yaml", 1).unwrap_or_else(|report| panic!("{report}"));
        let warnings = checked.warnings.to_string();
        assert!(warnings.contains(expected) && warnings.contains("a.yaml:"), "{top} {route}: {warnings}");
    }
    let weight = text("", "", "").replace("[http://127.0.0.1:9001]", "[{ address: http://a:1, weight: 0 }]");
    assert!(refused(&weight).to_string().contains("weight"));
}

#[test]
fn a_report_reads_well() {
    let text = format!("{HEAD}{UPSTREAM}routes:\n  - name: all\n    upstrem: users\n");
    assert_eq!(
        refused(&text).to_string(),
        "\
error: unknown field `upstrem`, did you mean `upstream`?
 --> a.yaml:8:5 (routes[0].upstrem)
  |
8 |     upstrem: users
  |     ^^^^^^^
  = known here: name, match, rewrite, request_headers, response_headers, upstream, split, mirrors, fault, respond, redirect, upgrade, connect, grpc_web, subset, retry, hedge, rate_limits, in_flight_limits, priority, timeouts, limits

a.yaml: 1 error
"
    );
    let text = format!(
        "{HEAD}upstreams:\n  - {{ name: u, endpoints: ['a:1'] }}\n  - {{ name: u, endpoints: ['b:1'] }}\n"
    );
    let report = refused(&text).to_string();
    assert!(
        report.contains("   = the other: a.yaml:5:13") || report.contains("  = the other: a.yaml:5:13"),
        "{report}"
    );
}

#[test]
fn more_errors_than_anyone_reads_are_counted() {
    let many = (0..250).map(|n| format!("x{n}: 1")).collect::<Vec<_>>().join("\n");
    let report = refused(&many);
    assert_eq!(report.errors().len(), limits::CONFIG_ERRORS_MAX);
    assert_eq!(report.len(), 252);
    assert!(report.to_string().contains("and 152 more"), "{report}");
}

/// CONNECT opens a connection of its own, which HTTP/2 has not: from either kind of client.
#[test]
fn tunnels_need_an_upstream_of_http1() {
    let with = |upstream: &str, route: &str| {
        format!(
            "{HEAD}upstreams:\n  - {{ name: one, endpoints: ['a:1'] }}\n  - {{ name: two, {upstream} }}\n\
             routes:\n  - {{ name: r, connect: true, {route} }}\n"
        )
    };
    let plain = "endpoints: ['b:1']";
    for upstream in ["endpoints: ['b:1'], protocol: http2", "endpoints: ['h2c://b:1']"] {
        for route in ["upstream: two", "split: { arms: [{ upstream: one }, { upstream: two, name: new }] }"] {
            let report = refused(&with(upstream, route)).to_string();
            assert!(report.contains("upstream `two` speaks HTTP/2"), "{report}");
            assert!(report.contains("connect: true"), "its place is shown: {report}");
        }
        loaded(&with(upstream, "upstream: one, mirrors: [{ upstream: two }]"));
    }
    loaded(&with(plain, "upstream: two"));
}

#[test]
fn suspicious_settings_are_warned_of() {
    for (text, expected) in [
        (format!("{HEAD}{UPSTREAM}routes: [{{ name: r, upstream: users }}]\n"), vec![]),
        (
            format!("{HEAD}{UPSTREAM}routes: [{{ name: r, respond: {{}} }}]\n"),
            vec!["no route uses the upstream `users`"],
        ),
        (format!("{HEAD}{UPSTREAM}"), vec!["there are no routes", "no route uses"]),
        (
            format!(
                "{HEAD}routes: [{{ name: r, respond: {{}} }}]\nio: uring\nadmin: {{ address: '[::]:1' }}\n"
            ),
            vec!["refuses to start", "reachable from other machines"],
        ),
        (
            format!(
                "{HEAD}upstreams: [{{ name: u, endpoints: ['https://a'], tls: {{ verify: insecure }} }}]\nroutes: [{{ name: r, upstream: u }}]\n"
            ),
            vec!["endpoints are not verified"],
        ),
        (
            format!(
                "{HEAD}routes:\n  - {{ name: r, respond: {{}}, match: {{ hosts: [a.org] }} }}\n  - {{ name: s, respond: {{}}, match: {{ hosts: [b.org, a.org] }} }}\n"
            ),
            vec!["for the host `a.org` the route `r` before it"],
        ),
    ] {
        let checked = check_text(text.as_bytes(), "a.yaml", 1).unwrap_or_else(|report| panic!("{report}"));
        let warnings: Vec<_> = checked.warnings.errors().iter().map(|problem| &problem.message).collect();
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for fragment in expected {
            assert!(warnings.iter().any(|message| message.contains(fragment)), "{fragment}: {warnings:?}");
        }
    }
}

/// Every keyword of the schema must be one that `check.rs` acts on, or one that only describes.
#[test]
fn the_schema_says_nothing_that_the_checker_ignores() {
    const KNOWN: [&str; 22] = [
        "$schema",
        "title",
        "description",
        "default",
        "$ref",
        "$defs",
        "anyOf",
        "oneOf",
        "type",
        "enum",
        "const",
        "format",
        "pattern",
        "minimum",
        "maximum",
        "minItems",
        "items",
        "properties",
        "additionalProperties",
        "required",
        "examples",
        "deprecated",
    ];
    fn walk(schema: &serde_json::Value) {
        let Some(object) = schema.as_object() else { return };
        for (keyword, value) in object {
            assert!(KNOWN.contains(&keyword.as_str()), "{keyword}: {value}");
            match keyword.as_str() {
                "properties" | "$defs" => value.as_object().unwrap().values().for_each(walk),
                "anyOf" | "oneOf" => value.as_array().unwrap().iter().for_each(walk),
                "items" | "additionalProperties" => walk(value),
                _ => {}
            }
        }
        if let Some(properties) = object.get("properties").and_then(|value| value.as_object()) {
            assert_eq!(object.get("additionalProperties"), Some(&false.into()), "{object:?}");
            for (name, property) in properties {
                assert!(property.get("description").is_some(), "`{name}` has no description");
            }
        }
    }
    walk(schema());
    assert_eq!(schema()["title"], "Ringway configuration");
    assert_eq!(schema()["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

/// All fields that the schema knows, by the type that holds them.
fn schema_fields() -> Vec<(String, String)> {
    let definitions = schema()["$defs"].as_object().unwrap().iter();
    let tables = definitions.map(|(name, schema)| (name.as_str(), schema)).chain([("file", schema())]);
    tables
        .filter_map(|(table, schema)| Some((table, schema.get("properties")?.as_object()?)))
        .flat_map(|(table, properties)| properties.keys().map(move |name| (table.to_owned(), name.clone())))
        .collect()
}

/// The fields with a plain default, and that default as it is written.
fn schema_defaults() -> Vec<(String, String)> {
    let definitions = schema()["$defs"].as_object().unwrap().values();
    definitions
        .chain([schema()])
        .filter_map(|schema| schema.get("properties")?.as_object())
        .flatten()
        .filter_map(|(name, property)| match property.get("default")? {
            serde_json::Value::String(text) if !text.is_empty() => Some((name.clone(), text.clone())),
            value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => {
                Some((name.clone(), value.to_string()))
            }
            _ => None,
        })
        .collect()
}

fn repository_file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_example_loads_without_a_warning() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            count += 1;
            let name = path.display().to_string();
            let checked = check_text(&std::fs::read(&path).unwrap(), &name, 1)
                .unwrap_or_else(|report| panic!("{report}"));
            assert!(checked.warnings.is_empty(), "{}", checked.warnings);
        }
    }
    assert!(count >= 6, "{count} examples");
}

#[test]
fn the_full_example_shows_every_default() {
    let text = repository_file("examples/full.yaml");
    let checked = check_text(text.as_bytes(), "full.yaml", 1).unwrap_or_else(|report| panic!("{report}"));
    let raw = checked.raw;
    assert_eq!(raw.timeouts, raw::Timeouts::default());
    assert_eq!(raw.limits, raw::Limits::default());
    assert_eq!(raw.forwarding, raw::Forwarding::default());
    assert_eq!(raw.access_log, raw::AccessLog::default());
    assert_eq!(raw.admin, raw::Admin::default());
    assert_eq!((raw.workers, raw.pin, raw.io), (Workers::Auto, true, Io::Auto));
    assert_eq!(
        raw.listeners[0],
        raw::Listener {
            name: raw.listeners[0].name.clone(),
            address: raw.listeners[0].address.clone(),
            ..raw::Listener::new("", &[])
        }
    );
    assert_eq!(
        raw.upstreams[0],
        raw::Upstream {
            name: raw.upstreams[0].name.clone(),
            endpoints: raw.upstreams[0].endpoints.clone(),
            ..raw::Upstream::new("", &[])
        }
    );
    for (table, name) in schema_fields() {
        let written = text.lines().any(|line| line.contains(&format!("{name}:")));
        assert!(written, "examples/full.yaml does not show `{name}` of {table}");
    }
}

#[test]
fn every_field_is_documented() {
    let text = repository_file("docs/configuration.md");
    for (table, name) in schema_fields() {
        assert!(text.contains(&format!("`{name}`")), "docs/configuration.md lacks `{name}` of {table}");
    }
    for (name, default) in schema_defaults() {
        let stated = text.lines().any(|line| {
            line.contains(&format!("`{name}`"))
                && (line.contains(&format!("`{default}`")) || line.contains(&format!(" {default} ")))
        });
        assert!(stated, "docs/configuration.md has no line with `{name}` and its default `{default}`");
    }
    for block in text.split("```yaml\n").skip(1) {
        let block = block.split("```").next().unwrap();
        if block.starts_with("version:") {
            loaded(block);
        }
    }
}

fn any_duration() -> impl Strategy<Value = raw::Duration> {
    prop_oneof![1_u64..5_000, 1_u64..100_000_000].prop_map(raw::Duration::from_millis)
}

fn any_timeout() -> impl Strategy<Value = raw::Timeout> {
    prop_oneof![Just(raw::Timeout::OFF), (1_u64..100_000).prop_map(raw::Timeout::from_secs)]
}

fn any_text() -> impl Strategy<Value = String> {
    // With what trips a careless YAML reader or writer.
    prop_oneof![
        "[a-z]{1,8}",
        prop::sample::select(vec![
            "yes", "null", "1", "~", "- a", "a: b", "#x", "é\"'\\", "{{", "*a", "&a", "!t"
        ])
        .prop_map(str::to_owned),
    ]
}

fn any_header_ops() -> impl Strategy<Value = raw::HeaderOps> {
    let names = || "x-[a-z]{1,6}";
    let many = prop::collection::vec(any_text(), 1..3).prop_map(raw::OneOrMany::Many);
    (
        prop::collection::btree_map(names(), any_text(), 0..3),
        prop::collection::btree_map(
            names(),
            prop_oneof![any_text().prop_map(raw::OneOrMany::One), many],
            0..3,
        ),
        prop::collection::vec(names(), 0..3),
    )
        .prop_map(|(set, add, remove)| raw::HeaderOps { set, add, remove })
}

fn any_field_match() -> impl Strategy<Value = raw::FieldMatch> {
    let named = raw::FieldMatch { name: "x-field".to_owned(), ..raw::FieldMatch::default() };
    prop_oneof![
        any_text().prop_map(|text| (Some(text), None, None)),
        any_text().prop_map(|text| (None, Some(text), None)),
        any::<bool>().prop_map(|present| (None, None, Some(present))),
    ]
    .prop_map(move |(exact, prefix, present)| raw::FieldMatch {
        exact,
        prefix,
        present,
        ..named.clone()
    })
}

/// The number makes names and matches unique.
fn any_route(number: usize) -> impl Strategy<Value = raw::Route> {
    let path = prop_oneof![
        Just(raw::PathMatch { exact: Some(format!("/exact/{number}")), ..raw::PathMatch::default() }),
        Just(raw::PathMatch { prefix: Some(format!("/prefix/{number}/")), ..raw::PathMatch::default() }),
        Just(raw::PathMatch { regex: Some(format!("/r/{number}/[0-9]+")), ..raw::PathMatch::default() }),
    ];
    let hosts =
        prop::option::of(prop::sample::subsequence(vec!["a.org", "*.a.org", "[::1]", "10.0.0.1"], 1..4));
    let destination = prop_oneof![Just(None), any_text().prop_map(Some)];
    (
        path,
        hosts,
        prop::option::of(any_field_match()),
        any_header_ops(),
        destination,
        prop::option::of(any_timeout()),
        prop::option::of(prop::collection::vec("[a-z]{3}[0-9]", 0..2)),
    )
        .prop_map(move |(path, hosts, field, ops, body, timeout, upgrade)| {
            let direct = body.is_some();
            raw::Route {
                name: format!("route-{number}"),
                matches: raw::Match {
                    hosts: hosts.map(|hosts| hosts.into_iter().map(str::to_owned).collect()),
                    path: Some(path),
                    headers: field.clone().into_iter().collect(),
                    query: field.into_iter().collect(),
                    ..raw::Match::default()
                },
                upstream: (!direct).then(|| "users".to_owned()),
                request_headers: if direct { raw::HeaderOps::default() } else { ops.clone() },
                response_headers: ops,
                respond: body.map(|body| raw::Respond {
                    status: 200,
                    body,
                    content_type: "text/plain".to_owned(),
                    headers: std::collections::BTreeMap::new(),
                }),
                timeouts: raw::RouteTimeouts {
                    request: timeout.filter(|_| !direct),
                    ..raw::RouteTimeouts::default()
                },
                upgrade: upgrade.filter(|_| !direct).map(|mut upgrade| {
                    upgrade.dedup();
                    upgrade
                }),
                ..raw::Route::default()
            }
        })
}

fn any_raw() -> impl Strategy<Value = RawConfig> {
    let routes = (0..4_usize).map(any_route).collect::<Vec<_>>();
    (
        prop_oneof![Just(Workers::Auto), (1..=raw::WORKERS_MAX).prop_map(Workers::Count)],
        any::<bool>(),
        prop::sample::select(vec![Io::Auto, Io::Uring, Io::Epoll]),
        (any_duration(), any_timeout(), any_timeout()),
        (1024_u64..16_384, prop::option::of(0_u64..1 << 50)),
        (0_u8..=32, 0.0..=1.0_f64),
        routes,
    )
        .prop_map(|(workers, pin, io, timeouts, sizes, (hops, sample), routes)| {
            let mut raw =
                RawConfig::proxy(&["127.0.0.1:0"], &["http://127.0.0.1:1", "users.internal:80"], workers, io);
            raw.pin = pin;
            raw.upstreams[0].name = "users".to_owned();
            raw.listeners[0].trusted_hops = hops;
            raw.timeouts.connect = timeouts.0;
            raw.timeouts.request = timeouts.1;
            raw.timeouts.body_idle = timeouts.2;
            raw.limits.header_bytes = raw::Size::from_bytes(sizes.0);
            raw.limits.uri_bytes = raw::Size::from_bytes(sizes.0 / 2);
            raw.limits.body_bytes = sizes.1.map_or(raw::SizeLimit::UNLIMITED, raw::SizeLimit::from_bytes);
            raw.access_log.sample = sample;
            raw.routes = routes;
            raw
        })
}

/// Text that is nearly a configuration: its words, in YAML's punctuation, in any order.
fn any_near_yaml() -> impl Strategy<Value = String> {
    let words = vec![
        "version",
        "listeners",
        "routes",
        "match",
        "name",
        "1",
        "a",
        ": ",
        ":",
        "- ",
        "\n",
        "\n  ",
        "\n    ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "&a ",
        "*a",
        "!t ",
        "'",
        "\"",
        "#",
        "|",
        ">",
        "?",
        "---",
        "...",
        "%",
        "\t",
        "\r",
        "~",
        "<<",
        "\u{feff}",
        "é",
        "\\",
        "\0",
    ];
    prop::collection::vec(prop::sample::select(words), 0..60).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn settings_survive_being_written_and_read(raw in any_raw()) {
        let direct = compile(&raw, 1).unwrap_or_else(|report| panic!("{report}"));
        let text = serde_json::to_string_pretty(&raw).unwrap();
        let checked = check_text(text.as_bytes(), "a.yaml", 1).unwrap_or_else(|report| panic!("{report}\n{text}"));
        prop_assert_eq!(&checked.raw, &raw);
        prop_assert_eq!(checked.snapshot.hash, direct.hash);
        prop_assert_eq!(checked.snapshot.routes.len(), raw.routes.len());
    }

    #[test]
    fn random_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        assert!(!load(&bytes, "a.yaml", 1).unwrap_err().to_string().is_empty());
    }

    #[test]
    fn near_yaml_does_not_panic(text in any_near_yaml()) {
        if let Err(report) = load(text.as_bytes(), "a.yaml", 1) {
            assert!(!report.is_empty());
            assert!(!report.to_string().is_empty());
        }
    }

    #[test]
    fn a_sound_file_with_a_cut_or_a_change_does_not_panic(at in 0_usize..200, byte in any::<u8>(), cut in any::<bool>()) {
        let text = format!("{HEAD}{UPSTREAM}routes:\n  - {{ name: all, upstream: users, timeouts: {{ request: 5s }} }}\n");
        let mut bytes = text.into_bytes();
        let at = at % bytes.len();
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = byte;
        }
        if let Err(report) = load(&bytes, "a.yaml", 1) {
            assert!(!report.to_string().is_empty());
        }
    }
}
