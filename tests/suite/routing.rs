//! Routing, from the file's text to the origin that answers: hosts, paths, methods, fields, queries, their precedence,
//! and what a route does instead of or before asking an origin.

use ringway_tests::client::Response;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::{Origin, named};
use ringway_tests::problem::problem;
use ringway_tests::proxy::{Driver, Proxy};

/// One origin for each name, and a proxy with these routes to them.
fn start(driver: Driver, names: &[&'static str], routes: &str) -> (Vec<Origin>, Proxy) {
    let origins: Vec<_> = names.iter().map(|name| Origin::with(named(name))).collect();
    let mut config = Config::to(&origins[0]).routes(routes);
    for (name, origin) in names.iter().zip(&origins) {
        config = config.and_upstream(name, origin);
    }
    let proxy = Proxy::start(driver, &config);
    (origins, proxy)
}

#[track_caller]
fn ask(proxy: &Proxy, method: &str, host: &str, target: &str, lines: &str) -> Response {
    proxy.connect().ask(&format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n"))
}

/// Each row: method, host, target, further lines, and who answers; `-` for nobody.
#[track_caller]
fn check(proxy: &Proxy, table: &[(&str, &str, &str, &str, &str)]) {
    for &(method, host, target, lines, expected) in table {
        let response = ask(proxy, method, host, target, lines);
        let answered = if response.status == 404 { "-".to_owned() } else { response.text() };
        assert_eq!(answered, expected, "{method} {host} {target} {lines:?}");
    }
}

for_each_driver! {
    fn by_host(driver) {
        let (_origins, proxy) = start(driver, &["exact", "wide", "wider", "any"],
            "- { name: exact, match: { hosts: [api.example.com] }, upstream: exact }\n\
             - { name: wide, match: { hosts: [\"*.api.example.com\"] }, upstream: wide }\n\
             - { name: wider, match: { hosts: [\"*.example.com\"] }, upstream: wider }\n\
             - { name: any, match: { path: { prefix: /open } }, upstream: any }");
        check(&proxy, &[
            ("GET", "api.example.com", "/", "", "exact"),
            ("GET", "API.Example.COM", "/", "", "exact"),
            ("GET", "api.example.com:8080", "/", "", "exact"),
            ("GET", "a.api.example.com", "/", "", "wide"),
            ("GET", "a.b.api.example.com", "/", "", "wide"),
            ("GET", "www.example.com", "/", "", "wider"),
            ("GET", "example.com", "/", "", "-"),
            ("GET", "apixexample.com", "/", "", "-"),
            ("GET", "other.org", "/", "", "-"),
            ("GET", "other.org", "/open", "", "any"),
        ]);
    }

    fn by_path(driver) {
        let (_origins, proxy) = start(driver, &["exact", "long", "short", "regex"],
            "- { name: short, match: { path: { prefix: /users } }, upstream: short }\n\
             - { name: long, match: { path: { prefix: /users/admin } }, upstream: long }\n\
             - { name: exact, match: { path: { exact: /users/admin/me } }, upstream: exact }\n\
             - { name: regex, match: { path: { regex: \"/item/[0-9]+\" } }, upstream: regex }");
        check(&proxy, &[
            ("GET", "t", "/users", "", "short"),
            ("GET", "t", "/users/", "", "short"),
            ("GET", "t", "/users/7?x=/users/admin", "", "short"),
            ("GET", "t", "/usersx", "", "-"),
            ("GET", "t", "/users/admin", "", "long"),
            ("GET", "t", "/users/admin/x", "", "long"),
            ("GET", "t", "/users/administrator", "", "short"),
            ("GET", "t", "/users/admin/me", "", "exact"),
            ("GET", "t", "/users/admin/me?q", "", "exact"),
            ("GET", "t", "/users/admin/me/", "", "long"),
            ("GET", "t", "/item/42", "", "regex"),
            ("GET", "t", "/item/42x", "", "-"),
            ("GET", "t", "/Users", "", "-"),
            ("GET", "t", "/", "", "-"),
        ]);
    }

    /// What routing decides on is what the origin gets: no path means one thing here and another one there.
    fn dot_segments_cannot_slip_past(driver) {
        let (origins, proxy) = start(driver, &["open", "secret"],
            "- { name: open, match: { path: { prefix: /open } }, upstream: open }\n\
             - { name: secret, match: { path: { prefix: /secret } }, upstream: secret }");
        for target in ["/open/../secret", "/open/%2e%2e/secret", "/open/.%2E/secret", "/open/x/../../secret", "/open/./../secret"] {
            let response = ask(&proxy, "GET", "t", target, "");
            assert!(matches!(response.status, 200 | 400), "{target}: {}", response.head.start_line);
            assert_ne!(response.text(), "open", "{target} is not below /open");
        }
        for record in origins[0].requests() {
            assert!(!record.target().contains(".."), "{}", record.target());
        }
        for record in origins[1].requests() {
            assert_eq!(record.target(), "/secret", "the origin gets what was decided on");
        }
    }

    fn by_method_field_and_query(driver) {
        let (_origins, proxy) = start(driver, &["write", "canary", "absent", "v2", "rest"],
            "- { name: rest, upstream: rest }\n\
             - { name: write, match: { methods: [POST, PUT] }, upstream: write }\n\
             - { name: canary, match: { headers: [{ name: X-Canary, exact: \"1\" }] }, upstream: canary }\n\
             - { name: v2, match: { query: [{ name: v, exact: \"2\" }] }, upstream: v2 }\n\
             - { name: absent, match: { path: { prefix: /anonymous }, headers: [{ name: cookie, present: false }] }, upstream: absent }");
        check(&proxy, &[
            ("GET", "t", "/", "", "rest"),
            ("POST", "t", "/", "Content-Length: 0\r\n", "write"),
            ("PUT", "t", "/", "Content-Length: 0\r\n", "write"),
            ("GET", "t", "/", "x-canary: 1\r\n", "canary"),
            ("GET", "t", "/", "x-canary: 2\r\n", "rest"),
            ("GET", "t", "/?v=2", "", "v2"),
            ("GET", "t", "/?a=b&v=2&c", "", "v2"),
            ("GET", "t", "/?v=%32", "", "v2"),
            ("GET", "t", "/?v=22", "", "rest"),
            ("GET", "t", "/?w=v%3D2", "", "rest"),
            ("GET", "t", "/anonymous", "", "absent"),
            ("GET", "t", "/anonymous", "Cookie: a=b\r\n", "rest"),
        ]);
    }

    fn paths_are_rewritten(driver) {
        let (origins, proxy) = start(driver, &["o"],
            "- { name: strip, match: { path: { prefix: /strip } }, rewrite: { path_prefix: / }, upstream: o }\n\
             - { name: swap, match: { path: { prefix: /old/v1 } }, rewrite: { path_prefix: /new }, upstream: o }\n\
             - { name: fixed, match: { path: { prefix: /fixed } }, rewrite: { path: /always }, upstream: o }\n\
             - { name: regex, match: { path: { prefix: /r } }, rewrite: { path_regex: { pattern: \"^/r/([a-z]+)/(.*)$\", substitution: \"/$2/$1\" } }, upstream: o }\n\
             - { name: none, upstream: o }");
        for (target, expected) in [
            ("/strip", "/"),
            ("/strip/", "/"),
            ("/strip/a/b?c=d", "/a/b?c=d"),
            ("/old/v1", "/new"),
            ("/old/v1/x%20y?q=%2F", "/new/x%20y?q=%2F"),
            ("/fixed/at/all?keep=me", "/always?keep=me"),
            ("/r/abc/d/e", "/d/e/abc"),
            ("/other/%2F/;p=1?a&b", "/other/%2F/;p=1?a&b"),
            ("/?", "/?"),
        ] {
            let before = origins[0].request_count();
            ask(&proxy, "GET", "t", target, "").expect(200);
            assert_eq!(origins[0].requests()[before].target(), expected, "{target}");
        }
    }

    fn direct_answers_and_redirects(driver) {
        let (origins, proxy) = start(driver, &["o"],
            "- { name: pong, match: { path: { exact: /ping } }, respond: { status: 201, body: pong, content_type: text/x-pong, headers: { X-Own: yes-it-is } } }\n\
             - { name: https, match: { hosts: [secure.example] }, redirect: { status: 308, scheme: https } }\n\
             - { name: moved, match: { path: { prefix: /moved } }, redirect: { location: \"https://elsewhere.example/x\" } }");
        let response = ask(&proxy, "GET", "t", "/ping", "").expect(201);
        assert_eq!((response.text().as_str(), response.field("content-type")), ("pong", Some("text/x-pong")));
        assert_eq!(response.field("x-own"), Some("yes-it-is"));
        let response = ask(&proxy, "HEAD", "t", "/ping", "").expect(201);
        assert_eq!(response.field("content-length"), Some("4"));
        let response = ask(&proxy, "GET", "secure.example:8080", "/a?b=c", "").expect(308);
        assert_eq!(response.field("location"), Some("https://secure.example/a?b=c"));
        let response = ask(&proxy, "GET", "t", "/moved/on", "").expect(302);
        assert_eq!(response.field("location"), Some("https://elsewhere.example/x"));
        // A body that nobody wants is read past: the connection goes on.
        let mut client = proxy.connect();
        client.ask("POST /ping HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello").expect(201);
        client.ask("GET /ping HTTP/1.1\r\nHost: t\r\n\r\n").expect(201);
        assert_eq!(origins[0].accepted(), 0);
    }

    fn no_route_is_not_found(driver) {
        let (_origins, proxy) = start(driver, &["o"], "- { name: only, match: { path: { exact: /only } }, upstream: o }");
        let response = ask(&proxy, "GET", "t", "/else", "").expect(404);
        assert_eq!(problem(&response).reason, "no_route");
        proxy.await_metric("ringway_refused_total", &[("reason", "no_route")], |count| count == 1.0);
        ask(&proxy, "GET", "t", "/only", "").expect(200);
        proxy.await_metric("ringway_route_requests_total", &[("route", "only"), ("code", "2xx")], |count| count == 1.0);
    }

    /// Several listeners, one of them on a list of addresses, all with the same routes.
    fn every_listener_serves(driver) {
        let origin = Origin::with(named("o"));
        let text = Config::to(&origin).to_string().replace(
            "upstreams:",
            "  - name: second\n    address: [127.0.0.1:0, \"[::1]:0\"]\nupstreams:",
        );
        let proxy = Proxy::start_text(driver, &text);
        let listeners = proxy.server().listeners();
        let names: Vec<_> = listeners.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["public", "second", "second"]);
        for (_, address) in listeners {
            assert_eq!(ringway_tests::client::Client::connect(address).get("/").expect(200).text(), "o");
        }
        let last = origin.requests().pop().expect("a request");
        assert_eq!(last.field("x-forwarded-for"), Some("::1"), "the peer's address, without brackets");
    }

    /// Templates and their variables, cookies, gRPC calls, and the client's address.
    fn by_all_else(driver) {
        let (origins, proxy) = start(driver, &["template", "exact", "cookie", "call", "service", "inside"],
            "- { name: template, match: { path: { template: '/users/{id}/files/{rest=**}' } }, rewrite: { path_template: '/f/{rest}/{id}' }, upstream: template }\n\
             - { name: exact, match: { path: { exact: /users/me/files } }, upstream: exact }\n\
             - { name: cookie, match: { cookies: [{ name: beta, exact: '1' }] }, upstream: cookie }\n\
             - { name: call, match: { grpc: { service: shop.Orders, method: Place } }, upstream: call }\n\
             - { name: service, match: { grpc: { service: shop.Orders } }, upstream: service }\n\
             - { name: inside, match: { path: { prefix: /inside }, source_addresses: [127.0.0.0/8] }, upstream: inside }\n\
             - { name: outside, match: { path: { prefix: /outside }, source_addresses: [10.0.0.0/8] }, upstream: inside }");
        let grpc = "Content-Type: application/grpc+proto\r\n";
        check(&proxy, &[
            ("GET", "t", "/users/7/files/a/b?q", "", "template"),
            ("GET", "t", "/users/me/files", "", "exact"),
            ("GET", "t", "/users/me/files/x", "", "template"),
            ("GET", "t", "/users//files/x", "", "-"),
            ("GET", "t", "/", "Cookie: a=b; beta=1\r\n", "cookie"),
            ("GET", "t", "/", "Cookie: beta=2\r\n", "-"),
            ("POST", "t", "/shop.Orders/Place", grpc, "call"),
            ("POST", "t", "/shop.Orders/Cancel", grpc, "service"),
            ("POST", "t", "/shop.Orders/Place", "Content-Type: text/plain\r\n", "-"),
            ("GET", "t", "/inside", "", "inside"),
            ("GET", "t", "/outside", "", "-"),
        ]);
        let sent: Vec<_> = origins[0].requests().iter().map(|request| request.target().to_owned()).collect();
        assert_eq!(sent, ["/f/a/b/7?q", "/f/x/me"]);
    }

    /// What admin explains is what the proxy does.
    fn explained(driver) {
        let (_origins, proxy) = start(driver, &["users", "all"],
            "- { name: users, match: { hosts: [api.test], path: { prefix: /users }, headers: [{ name: x-key, present: true }] }, upstream: users }\n\
             - { name: all, upstream: all }");
        for (request, header, route, other) in [
            ("GET+http://api.test/users/7", "&header=X-Key:+k", "users", "all: agrees, but the chosen route wins by a more specific host"),
            ("GET+http://api.test/users/7", "", "all", "users: the header `x-key` is missing"),
            ("GET+http://other.test/users", "&header=X-Key:+k", "all", "users: its host api.test does not match"),
        ] {
            let text = proxy.admin(&format!("/explain?request={request}{header}")).expect(200).text();
            let chosen = text.lines().find_map(|line| line.strip_prefix("route")).expect("a route").trim();
            assert!(chosen.starts_with(&format!("{route} ")), "{text}");
            assert!(text.contains(other), "{text}");
            let (target, host) = ("/users/7", if request.contains("other") { "other.test" } else { "api.test" });
            let lines = if header.is_empty() { "" } else { "X-Key: k\r\n" };
            let answered = ask(&proxy, "GET", host, target, lines).text();
            assert_eq!(answered, route, "{text}");
        }
        let text = proxy.admin("/explain?request=http://api.test/").expect(200).text();
        assert!(text.contains(": takes requests"), "the endpoints as they are now: {text}");
        for bad in ["/explain", "/explain?request=", "/explain?nothing=1", "/explain?request=/&source=here"] {
            proxy.admin(bad).expect(400);
        }
    }
}
