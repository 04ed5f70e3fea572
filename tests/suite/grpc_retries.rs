//! gRPC calls that are tried again by their status, and those that are not: a status that is listed and comes alone is one
//! more attempt; any other, or one behind a message, is the client's. Counted at the origin.

use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::h2::client::{Client, Response, Then, request};
use ringway_tests::h2::origin::{Exchange, Origin, Outcome};
use ringway_tests::h2::value;
use ringway_tests::proxy::{Driver, Proxy};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// Three bytes in gRPC's frame: not compressed, and their length.
const ASKED: &[u8] = b"\0\0\0\0\x03ask";
const TOLD: &[u8] = b"\0\0\0\0\x04told";

/// How an origin says a status that is not OK.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    /// In the head, and nothing else: "Trailers-Only".
    Alone,
    /// In trailers, behind a head without a message.
    BehindHead,
    /// In trailers, behind a message.
    BehindMessage,
}

fn fail(exchange: &mut Exchange, status: &str, says: Says) -> Outcome {
    let fields = [("grpc-status", status), ("grpc-message", "not now")];
    if says == Says::Alone {
        return exchange.answer(200, &[GRPC, fields[0], fields[1]], Then::End);
    }
    exchange.answer(200, &[GRPC], Then::More)?;
    if says == Says::BehindMessage {
        exchange.send(TOLD, Then::More)?;
    }
    exchange.send_trailers(&fields)
}

/// Fails so many times, and then answers with a message and OK. It reads each request to its end.
fn failing(status: &'static str, says: Says, times: usize) -> Origin {
    let left = AtomicUsize::new(times);
    Origin::with(move |exchange| {
        exchange.read_body()?;
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return fail(exchange, status, says);
        }
        exchange.answer(200, &[GRPC], Then::More)?;
        exchange.send(TOLD, Then::More)?;
        exchange.send_trailers(&[("grpc-status", "0")])
    })
}

/// A call with these bytes as its messages; without any, it is over with its head.
fn call(client: &Client, messages: &[u8]) -> Response {
    let head = request("POST", "/ringway.Test/Ask", &[GRPC, ("te", "trailers")]);
    if messages.is_empty() {
        return client.ask(head).expect(200);
    }
    let mut call = client.open(head, Then::More);
    call.send(messages.to_vec(), Then::End);
    call.response().expect(200)
}

/// The status of a call, wherever it stands, and only in one place.
#[track_caller]
fn status(response: &Response) -> &str {
    let behind = response.trailers.as_ref().and_then(|trailers| value(trailers, "grpc-status"));
    match (response.field("grpc-status"), behind) {
        (Some(status), None) | (None, Some(status)) => status,
        both => panic!("{both:?}"),
    }
}

fn start(driver: Driver, origin: &Origin, retry: &str) -> Proxy {
    Proxy::start(driver, &configured(origin, retry))
}

fn configured(origin: &Origin, retry: &str) -> Config {
    origin.config().route(&format!("retry: {{ backoff: 1ms, backoff_max: 1ms, {retry} }}"))
}

fn retries(proxy: &Proxy) -> f64 {
    proxy.metrics().sum("ringway_retries_total", &[])
}

/// How many requests were not tried again, in all, and for this reason.
fn refused(proxy: &Proxy, reason: &str) -> (f64, f64) {
    let metrics = proxy.metrics();
    let of = |labels: &[(&str, &str)]| metrics.sum("ringway_retries_refused_total", labels);
    (of(&[]), of(&[("reason", reason)]))
}

for_each_driver! {
    /// The client sees nothing of a listed status that came alone, and the origin is asked the same again.
    fn listed_statuses(driver) {
        for (listed, code) in [
            ("cancelled", "1"),
            ("deadline_exceeded", "4"),
            ("resource_exhausted", "8"),
            ("internal", "13"),
            ("unavailable", "14"),
            ("internal, unavailable", "14"),
        ] {
            let origin = failing(code, Says::Alone, 1);
            let proxy = start(driver, &origin, &format!("methods: any, grpc_statuses: [{listed}]"));
            let response = call(&Client::connect(proxy.address()), ASKED);
            assert_eq!((status(&response), &*response.body), ("0", TOLD), "{listed}");
            assert_eq!(response.field("grpc-message"), None, "{listed}: nothing of the first answer");
            let requests = origin.requests();
            assert_eq!(requests.len(), 2, "{listed}");
            for (request, attempt) in requests.iter().zip([None, Some("2")]) {
                assert_eq!(request.field("ringway-attempt"), attempt, "{listed}");
                assert_eq!((&*request.body, request.whole), (ASKED, true), "{listed}");
                assert_eq!(request.field("te"), Some("trailers"), "{listed}");
            }
            assert_eq!(retries(&proxy), 1.0, "{listed}");
            assert_eq!(refused(&proxy, "").0, 0.0, "{listed}");
        }
    }

    /// Whatever is not tried again reaches the client as the origin said it, and the reason is counted.
    fn what_is_not_tried_again(driver) {
        for (retry, code, says, reason) in [
            // Not listed; listed as a status of HTTP only; nothing listed.
            ("methods: any, grpc_statuses: [unavailable]", "13", Says::Alone, "not_configured"),
            ("methods: any, grpc_statuses: [unavailable]", "2", Says::Alone, "not_configured"),
            ("methods: any, on: ['5xx', gateway_error]", "14", Says::Alone, "not_configured"),
            // A call is a POST, and may have had an effect.
            ("grpc_statuses: [unavailable]", "14", Says::Alone, "method"),
            // The head has gone to the client before the status came: that is no failure of an attempt any more.
            ("methods: any, grpc_statuses: [unavailable]", "14", Says::BehindMessage, "response_started"),
            ("methods: any, grpc_statuses: [unavailable]", "14", Says::BehindHead, "response_started"),
            ("methods: any, grpc_statuses: [unavailable]", "13", Says::BehindMessage, "not_configured"),
        ] {
            let origin = failing(code, says, 1);
            let proxy = start(driver, &origin, retry);
            let client = Client::connect(proxy.address());
            let response = call(&client, ASKED);
            let case = format!("{retry}, {code} {says:?}");
            assert_eq!(status(&response), code, "{case}");
            let trailers = response.trailers.as_ref();
            let said = if says == Says::Alone {
                response.field("grpc-message")
            } else {
                trailers.and_then(|trailers| value(trailers, "grpc-message"))
            };
            assert_eq!(said, Some("not now"), "{case}: the origin's own words");
            assert_eq!(&*response.body, if says == Says::BehindMessage { TOLD } else { b"" }, "{case}");
            assert_eq!(origin.request_count(), 1, "{case}");
            assert_eq!(retries(&proxy), 0.0, "{case}");
            assert_eq!(refused(&proxy, reason), (1.0, 1.0), "{case}");
            // It was this call's trouble, and nobody else's.
            assert_eq!(status(&call(&client, ASKED)), "0", "{case}");
            assert_eq!(origin.accepted(), 1, "{case}");
        }
    }

    /// That there is no such thing is an answer, and nothing to be tried again or said of.
    fn answers_that_are_no_failures(driver) {
        for (code, says) in [("5", Says::Alone), ("5", Says::BehindMessage), ("3", Says::BehindHead), ("16", Says::Alone)] {
            let origin = failing(code, says, 1);
            let proxy = start(driver, &origin, "methods: any, grpc_statuses: [unavailable]");
            assert_eq!(status(&call(&Client::connect(proxy.address()), ASKED)), code);
            assert_eq!((origin.request_count(), refused(&proxy, "").0), (1, 0.0), "{code} {says:?}");
        }
    }

    /// `grpc-status` in an answer to what is no call of gRPC says nothing.
    fn only_calls_have_such_a_status(driver) {
        let origin = failing("14", Says::Alone, 1);
        let proxy = start(driver, &origin, "methods: any, grpc_statuses: [unavailable]");
        let client = Client::connect(proxy.address());
        let answer = client.post("/ringway.Test/Ask", "text").expect(200);
        assert_eq!(answer.field("grpc-status"), Some("14"));
        assert_eq!((origin.request_count(), retries(&proxy)), (1, 0.0));
    }

    fn attempts_are_bounded_and_the_last_status_counts(driver) {
        for attempts in [1, 2, 4] {
            let origin = failing("14", Says::Alone, usize::MAX);
            let proxy = start(driver, &origin, &format!("methods: any, grpc_statuses: [unavailable], attempts: {attempts}"));
            let response = call(&Client::connect(proxy.address()), ASKED);
            assert_eq!((status(&response), response.field("grpc-message")), ("14", Some("not now")), "{attempts}");
            assert_eq!(origin.request_count(), attempts);
            assert_eq!(retries(&proxy), (attempts - 1) as f64);
            assert_eq!(refused(&proxy, "attempts"), (1.0, 1.0), "{attempts}");
        }
    }

    /// A call whose messages are more than is kept can't be sent again, and says so.
    fn long_calls(driver) {
        let origin = failing("14", Says::Alone, 1);
        let proxy = start(driver, &origin, "methods: any, grpc_statuses: [unavailable], body_bytes: 16KiB");
        let client = Client::connect(proxy.address());
        let mut message = vec![0, 0, 1, 0, 0];
        message.resize(5 + (1 << 16), b'x');
        assert_eq!(status(&call(&client, &message)), "14");
        assert_eq!(origin.only().body_bytes, message.len() as u64);
        assert_eq!(refused(&proxy, "body_consumed"), (1.0, 1.0));
    }

    /// However many calls fail, their retries are no more than their share of the calls and the floor.
    fn a_storm_stays_within_its_budget(driver) within 60 {
        const CALLS: usize = 300;
        let origin = failing("14", Says::Alone, usize::MAX);
        let config = configured(&origin, "methods: any, grpc_statuses: [unavailable], attempts: 4")
            .upstream("retry_budget: { percent: 20, min_per_second: 1 }");
        let proxy = Proxy::start(driver, &config);
        let client = Client::connect(proxy.address());
        let begun = Instant::now();
        for _ in 0..CALLS {
            assert_eq!(status(&call(&client, ASKED)), "14");
        }
        let seconds = begun.elapsed().as_secs() as usize + 1;
        let more = origin.request_count() - CALLS;
        let bound = CALLS / 5 + 10 + seconds;
        assert!(more <= bound, "{more} retries of {CALLS} calls in {seconds} s, {bound} are allowed");
        assert!(more >= CALLS / 5, "{more} retries: the budget is there to be used");
        assert_eq!(retries(&proxy), more as f64);
        assert!(refused(&proxy, "budget").1 > 0.0);
    }
}
