//! The body of an answer that the proxy made itself (RFC 9457, `application/problem+json`).

use crate::client::Response;
use serde_json::Value;

/// What such an answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u64,
    pub reason: String,
    pub request_id: String,
}

/// Reads the problem that an answer carries; an answer that is not one fails the test.
#[track_caller]
pub fn problem(response: &Response) -> Problem {
    assert_eq!(response.field("content-type"), Some("application/problem+json"), "{:?}", response.head);
    let body: Value = serde_json::from_slice(&response.body)
        .unwrap_or_else(|error| panic!("{error} in {:?}", response.text()));
    let text = |name: &str| body[name].as_str().unwrap_or_else(|| panic!("no {name} in {body}")).to_owned();
    assert!(!text("title").is_empty(), "{body}");
    let problem = Problem {
        status: body["status"].as_u64().unwrap_or_else(|| panic!("no status in {body}")),
        reason: text("reason"),
        request_id: text("request_id"),
    };
    assert_eq!(problem.status, u64::from(response.status), "the status in the body is the one of the answer");
    problem
}
