//! NTLM and Negotiate authenticate a connection: one that was authenticated as a client serves nobody else.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::client::Client as Http2;
use ringway_tests::h2::client::request;
use ringway_tests::origin::{Exchange, Origin, Outcome};
use ringway_tests::proxy::Proxy;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Whom each connection belongs to, and for whom each request was answered, as `target user`.
#[derive(Default)]
struct Seen {
    users: BTreeMap<usize, String>,
    answered: Vec<String>,
}

/// Authenticates connections in three steps, as NTLM does: `SCHEME 1`, the challenge `SCHEME 2`, `SCHEME 3 user`. Or in
/// one, as Negotiate may: `SCHEME user`. Below `/private` nobody is served who is not known, and only there it offers to.
fn authenticating(
    scheme: &'static str,
    seen: &Arc<Mutex<Seen>>,
) -> impl Fn(&mut Exchange<'_>) -> Outcome + Send + Sync + 'static {
    let seen = Arc::clone(seen);
    move |exchange| {
        exchange.read_body()?;
        let mut seen = seen.lock().unwrap();
        let connection = exchange.connection;
        let credentials = exchange.head.field("authorization").map(str::to_owned);
        match credentials.as_deref().and_then(|text| text.split_once(' ')) {
            Some((_, "1")) => {
                seen.users.insert(connection, "challenged".to_owned());
                let challenge = format!("{scheme} 2");
                return exchange.reply(401, &[("WWW-Authenticate", &challenge)], "go on");
            }
            Some((_, step)) if step.starts_with("3 ") => {
                if seen.users.get(&connection).is_none_or(|user| user != "challenged") {
                    return exchange.reply(401, &[], "that is another connection");
                }
                seen.users.insert(connection, step[2..].to_owned());
            }
            Some((_, user)) => {
                seen.users.insert(connection, user.to_owned());
            }
            None => {}
        }
        let user = seen.users.get(&connection).cloned();
        if user.is_none() && exchange.target().starts_with("/private") {
            let offers = format!("Basic realm=\"a, b\", {scheme}");
            return exchange.reply(401, &[("WWW-Authenticate", &offers)], "who are you?");
        }
        let user = user.unwrap_or_else(|| "nobody".to_owned());
        seen.answered.push(format!("{} {user}", exchange.target()));
        exchange.reply(200, &[], user)
    }
}

fn with(client: &mut Client, target: &str, credentials: &str, status: u16) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: {credentials}\r\n\r\n");
    client.ask(&request).expect(status).text()
}

#[track_caller]
fn others_are_nobody(proxy: &Proxy) {
    for _ in 0..10 {
        assert_eq!(proxy.get("/").expect(200).text(), "nobody");
    }
}

for_each_driver! {
    fn a_connection_that_was_authenticated_is_its_clients_alone(driver) {
        for scheme in ["NTLM", "Negotiate", "ntlm"] {
            let origins = [(); 2].map(|()| Origin::with(authenticating(scheme, &Arc::default())));
            let proxy = Proxy::start(driver, &Config::to_all(&[&origins[0], &origins[1]]));
            others_are_nobody(&proxy);
            let mut alice = proxy.connect();
            alice.get("/private").expect(401);
            others_are_nobody(&proxy);
            with(&mut alice, "/private", &format!("{scheme} 1"), 401);
            others_are_nobody(&proxy);
            assert_eq!(with(&mut alice, "/private", &format!("{scheme} 3 alice"), 200), "alice");
            for _ in 0..10 {
                others_are_nobody(&proxy);
                assert_eq!(alice.get("/private").expect(200).text(), "alice", "she stays with her endpoint");
            }
            // Another client has its own.
            let mut bob = proxy.connect();
            with(&mut bob, "/private", &format!("{scheme} 1"), 401);
            assert_eq!(with(&mut bob, "/private", &format!("{scheme} 3 bob"), 200), "bob");
            assert_eq!(alice.get("/").expect(200).text(), "alice");
            let before = proxy.metrics().sum("ringway_upstream_connections", &[]);
            drop((alice, bob));
            proxy.await_metric("ringway_upstream_connections", &[], |open| open <= before - 2.0);
            others_are_nobody(&proxy);
        }
    }

    /// Credentials that are good at once, and an answer that says nothing of them.
    fn a_request_with_credentials_binds_as_well(driver) {
        let seen = Arc::default();
        let origin = Origin::with(authenticating("Negotiate", &seen));
        let proxy = Proxy::start(driver, &Config::to(&origin));
        others_are_nobody(&proxy);
        let mut alice = proxy.connect();
        assert_eq!(with(&mut alice, "/", "Negotiate alice", 200), "alice");
        others_are_nobody(&proxy);
        assert_eq!(alice.get("/").expect(200).text(), "alice");
        // Basic says who a request is from, not who a connection belongs to: it goes where others go.
        let accepted = origin.accepted();
        others_are_nobody(&proxy);
        assert_eq!(origin.accepted(), accepted);
        // The origin closes: whoever comes next on the client's connection is nobody until it authenticates again.
        origin.cut_connections();
        assert_eq!(alice.get("/").expect(200).text(), "nobody");
        assert_eq!(with(&mut alice, "/", "Negotiate alice", 200), "alice");
    }

    /// Its own connection counts among the endpoint's, and does not keep its client waiting.
    fn a_private_connection_under_the_cap(driver) {
        let seen = Arc::default();
        let origin = Origin::with(authenticating("NTLM", &seen));
        let config = Config::to(&origin).upstream("connections_max: 1").upstream("timeouts: { connect: 20s }");
        let proxy = Proxy::start(driver, &config);
        let mut alice = proxy.connect();
        with(&mut alice, "/", "NTLM 1", 401);
        let mut other = proxy.connect();
        other.send(get("/"));
        proxy.await_metric("ringway_requests_active", &[], |active| active == 1.0);
        assert_eq!(with(&mut alice, "/", "NTLM 3 alice", 200), "alice");
        assert_eq!(alice.get("/").expect(200).text(), "alice");
        assert_eq!(origin.accepted(), 1, "the other one waits");
        drop(alice);
        assert_eq!(other.response("GET").expect(200).text(), "nobody");
        assert_eq!(origin.accepted(), 2);
    }

    /// A stream can't own a connection: what it has authenticated is closed after it.
    fn streams_of_http2_own_no_connection(driver) {
        let seen = Arc::default();
        let origin = Origin::with(authenticating("Negotiate", &seen));
        let proxy = Proxy::start(driver, &Config::to(&origin));
        let client = Http2::connect(proxy.address());
        for number in 1..=3 {
            let asked = request("GET", "/", &[("authorization", "Negotiate alice")]);
            assert_eq!(client.ask(asked).expect(200).text(), "alice");
            assert_eq!(client.get("/").expect(200).text(), "nobody");
            others_are_nobody(&proxy);
            origin.await_ended(number);
        }
    }

    /// Copies carry the credentials too, and their connections go back to a pool.
    fn copies_for_mirrors_bind_nobody(driver) {
        let (seen, mirrored) = (Arc::default(), Arc::new(Mutex::new(Seen::default())));
        let origin = Origin::with(authenticating("Negotiate", &seen));
        let mirror = Origin::with(authenticating("Negotiate", &mirrored));
        let config = Config::to(&origin).and_upstream("copies", &mirror).route("mirrors: [{ upstream: copies }]");
        let proxy = Proxy::start(driver, &config);
        let mut alice = proxy.connect();
        for number in 0..5 {
            with(&mut alice, &format!("/alice/{number}"), "Negotiate alice", 200);
            mirror.await_requests(2 * number + 1);
            assert_eq!(proxy.get("/other").expect(200).text(), "nobody");
            mirror.await_requests(2 * number + 2);
            proxy.await_metric("ringway_upstream_requests_active", &[], |active| active == 0.0);
        }
        let others: Vec<_> = mirrored.lock().unwrap().answered.iter().filter(|line| line.starts_with("/other")).cloned().collect();
        assert_eq!(others, vec!["/other nobody"; 5]);
    }
}
