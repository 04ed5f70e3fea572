//! What was asked and what origins saw of it: the rules that hold for every request, whatever happens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

/// Names one request: no bytes of another may ever be taken for its.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(pub u32);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl Tag {
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix('t')?.parse().ok().map(Self)
    }

    /// Of what its request's body is made.
    pub fn request_seed(self) -> u64 {
        u64::from(self.0) << 8 | 1
    }

    /// Of what its response's body is made.
    pub fn response_seed(self) -> u64 {
        u64::from(self.0) << 8 | 2
    }
}

/// One request, from both ends.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub body_bytes: u64,
    /// How often its head reached an origin, copies for mirrors aside.
    pub seen: u32,
    pub copies: u32,
    /// How it ended for its client.
    pub outcome: Option<String>,
}

/// How often an origin may see one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeats {
    /// Of a method that may be repeated (RFC 9110 section 9.2.2).
    pub idempotent: u32,
    /// Of another: once, unless the configuration says otherwise.
    pub other: u32,
}

impl Default for Repeats {
    fn default() -> Self {
        // Three tries, one more for a connection that had gone stale.
        Self { idempotent: 4, other: 1 }
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    requests: RefCell<BTreeMap<Tag, Request>>,
    pub repeats: Cell<Repeats>,
}

impl Ledger {
    pub fn begin(&self, method: &'static str, body_bytes: u64) -> Tag {
        let mut requests = self.requests.borrow_mut();
        let tag = Tag(requests.len() as u32);
        requests.insert(tag, Request { method, body_bytes, seen: 0, copies: 0, outcome: None });
        tag
    }

    /// An origin has read this head. The request that it is.
    pub fn seen(&self, tag: Tag, method: &str, is_copy: bool) -> Request {
        let mut requests = self.requests.borrow_mut();
        let request = requests.get_mut(&tag).unwrap_or_else(|| panic!("{tag} was never asked"));
        assert_eq!(request.method, method, "the method of {tag}");
        if is_copy {
            request.copies += 1;
            return request.clone();
        }
        request.seen += 1;
        let repeats = self.repeats.get();
        let may = if matches!(method, "POST" | "PATCH") { repeats.other } else { repeats.idempotent };
        assert!(request.seen <= may, "{method} {tag} reached origins {} times", request.seen);
        request.clone()
    }

    pub fn end(&self, tag: Tag, outcome: impl Into<String>) {
        let mut requests = self.requests.borrow_mut();
        requests.get_mut(&tag).expect("it was begun").outcome = Some(outcome.into());
    }

    pub fn get(&self, tag: Tag) -> Request {
        self.requests.borrow()[&tag].clone()
    }

    /// Every request has come to an end.
    pub fn check_ended(&self) {
        for (tag, request) in self.requests.borrow().iter() {
            assert!(request.outcome.is_some(), "{} {tag} has no end", request.method);
        }
    }

    /// How requests ended, counted.
    pub fn outcomes(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for request in self.requests.borrow().values() {
            *counts.entry(request.outcome.clone().unwrap_or_default()).or_default() += 1;
        }
        counts
    }
}
