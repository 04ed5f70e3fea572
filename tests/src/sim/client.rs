//! Clients: what they ask, how they behave, and what they make sure of: each answer is their own, and whole if it says so.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::conversation::{Conversation, Cut};
use super::executor::Executor;
use super::ledger::{Ledger, Tag};
use super::network::{End, Network};
use super::random::Random;
use super::trace::{Event, Trace};
use crate::payload::Payload;
use crate::wire::{Framing, Head, response_framing};
use ringway::net::stream::Transport;

/// A request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    Length(u64),
    Chunked(u64),
}

impl Body {
    pub fn bytes(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Length(bytes) | Self::Chunked(bytes) => bytes,
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: &'static str,
    /// Before the request's tag: `/prefix`.
    pub path: &'static str,
    pub body: Body,
    /// Further field lines, each with its end.
    pub fields: String,
}

impl Ask {
    pub fn get(path: &'static str) -> Self {
        Self { method: "GET", path, body: Body::None, fields: String::new() }
    }

    pub fn post(path: &'static str, body: Body) -> Self {
        Self { method: "POST", body, ..Self::get(path) }
    }

    pub fn put(path: &'static str, body: Body) -> Self {
        Self { method: "PUT", body, ..Self::get(path) }
    }

    #[must_use]
    pub fn field(mut self, line: &str) -> Self {
        self.fields.push_str(line);
        self.fields.push_str("\r\n");
        self
    }

    pub fn any(random: &Random, paths: &[&'static str]) -> Self {
        let method = *random.pick(&["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE"]);
        let sizes = [0, 1, 100, 2_000, 16_000, 17_000, 60_000];
        let body = match method {
            "POST" | "PUT" if random.one_in(2) => Body::Chunked(*random.pick(&sizes)),
            "POST" | "PUT" => Body::Length(*random.pick(&sizes)),
            _ => Body::None,
        };
        let ask = Self {
            method,
            path: paths[random.below(paths.len() as u64) as usize],
            body,
            fields: String::new(),
        };
        if body.bytes() > 0 && random.one_in(6) { ask.field("Expect: 100-continue") } else { ask }
    }
}

/// An answer that came whole.
#[derive(Clone, Debug)]
pub struct Reply {
    pub tag: Tag,
    pub status: u16,
    /// Why the proxy itself answered, if it did.
    pub reason: Option<String>,
    pub head: Head,
    /// Of the body.
    pub bytes: u64,
    /// From the request's begin to the answer's end.
    pub took: Duration,
    /// Whether the connection goes on.
    pub keeps: bool,
}

/// Who asks: an address, and how to reach the proxy.
#[derive(Clone)]
pub struct Client {
    pub(super) executor: Executor,
    pub(super) network: Rc<Network>,
    pub(super) ledger: Rc<Ledger>,
    pub(super) trace: Rc<Trace>,
    pub(super) address: SocketAddr,
    pub(super) proxy: SocketAddr,
    /// No wait of a client that does its part takes longer than this.
    pub(super) patience: Duration,
}

impl Client {
    pub async fn connect(&self) -> Result<Caller, Cut> {
        let dialled = self.executor.within(self.patience, self.network.dial(self.address, self.proxy)).await;
        let end = dialled.ok_or(Cut::Stalled)?.map_err(|_| Cut::Reset)?;
        Ok(Caller { talk: Conversation::new(end, &self.executor, self.patience), client: self.clone() })
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, ask: &Ask) -> Result<Reply, Cut> {
        self.connect().await?.ask(ask).await
    }

    pub fn note(&self, text: impl FnOnce() -> String) {
        self.trace.add(self.executor.now_ns(), Event::Note(text()));
    }

    /// How many copies of a request mirrors have seen.
    pub fn copies(&self, tag: Tag) -> u32 {
        self.ledger.get(tag).copies
    }

    pub async fn pause(&self, pause: Duration) {
        self.executor.pause(pause).await;
    }

    pub fn now_ms(&self) -> u64 {
        self.executor.now_ms()
    }
}

/// A client's connection.
pub struct Caller {
    pub talk: Conversation,
    pub client: Client,
}

/// A request that was begun.
#[derive(Clone, Debug)]
pub struct Begun {
    pub tag: Tag,
    pub method: &'static str,
    body: Body,
    began_ns: u64,
}

impl Caller {
    /// Sends a request and takes its answer.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Reply, Cut> {
        let begun = self.begin(ask).await?;
        self.finish(&begun).await
    }

    /// Sends a request's head.
    pub async fn begin(&mut self, ask: &Ask) -> Result<Begun, Cut> {
        let begun = self.enter(ask);
        let head = Self::head(ask, begun.tag);
        let sent = self.talk.send(head.as_bytes()).await;
        self.ended(begun.tag, sent)?;
        Ok(begun)
    }

    /// Enters a request into the ledger without sending anything.
    pub fn enter(&self, ask: &Ask) -> Begun {
        let tag = self.client.ledger.begin(ask.method, ask.body.bytes());
        let connection = self.talk.end.connection();
        self.client.note(|| format!("{connection}c asks {} {tag} {:?}", ask.method, ask.body));
        let began_ns = self.client.executor.now_ns();
        Begun { tag, method: ask.method, body: ask.body, began_ns }
    }

    pub fn head(ask: &Ask, tag: Tag) -> String {
        let framing = match ask.body {
            Body::None => String::new(),
            Body::Length(bytes) => format!("Content-Length: {bytes}\r\n"),
            Body::Chunked(_) => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        let Ask { method, path, fields, .. } = ask;
        format!("{method} {path}/{tag} HTTP/1.1\r\nHost: sim\r\nx-tag: {tag}\r\n{framing}{fields}\r\n")
    }

    /// Sends the body and takes the answer. Most clients send the body without looking; the answer may come first.
    pub async fn finish(&mut self, begun: &Begun) -> Result<Reply, Cut> {
        let upload = self.send_body(begun, 0..begun.body.bytes()).await;
        if let Err(Cut::Stalled) = upload {
            return Err(self.lost(begun, Cut::Stalled));
        }
        // It was not taken, but why may be said all the same.
        self.answer(begun).await
    }

    /// Sends a part of a request's body, in pieces, and its end.
    pub async fn send_body(&mut self, begun: &Begun, range: std::ops::Range<u64>) -> Result<(), Cut> {
        const PIECE: u64 = 5_000;
        let total = begun.body.bytes();
        let payload = Payload::new(begun.tag.request_seed(), total);
        let mut at = range.start;
        while at < range.end {
            let n = PIECE.min(range.end - at);
            let mut piece = vec![0; n as usize];
            payload.fill(at, &mut piece);
            if matches!(begun.body, Body::Chunked(_)) {
                let mut chunk = format!("{n:x}\r\n").into_bytes();
                chunk.append(&mut piece);
                chunk.extend_from_slice(b"\r\n");
                piece = chunk;
            }
            self.talk.send(&piece).await?;
            at += n;
        }
        if at == total && matches!(begun.body, Body::Chunked(_)) {
            self.talk.send(b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    /// Takes the answer to a request.
    pub async fn answer(&mut self, begun: &Begun) -> Result<Reply, Cut> {
        let taken = self.take(begun).await;
        let outcome = match &taken {
            Ok(reply) => match &reply.reason {
                Some(reason) => format!("{} {reason}", reply.status),
                None => format!("{}", reply.status),
            },
            Err(cut) => format!("{cut:?}"),
        };
        self.client.note(|| format!("{}c {} ended: {outcome}", self.talk.end.connection(), begun.tag));
        self.client.ledger.end(begun.tag, outcome);
        match taken {
            Err(Cut::Malformed(what)) => panic!("the answer to {}: {what}", begun.tag),
            Err(Cut::Stalled) => Err(self.lost(begun, Cut::Stalled)),
            other => other,
        }
    }

    async fn take(&mut self, begun: &Begun) -> Result<Reply, Cut> {
        let head = loop {
            let head = self.talk.head().await?;
            if head.parts().1.starts_with('1') {
                continue;
            }
            break head;
        };
        let status: u16 = head.parts().1.parse().map_err(|_| Cut::Malformed(head.start_line.clone()))?;
        let framing = response_framing(&head, status, begun.method)
            .map_err(|error| Cut::Malformed(error.to_string()))?;
        let from_origin = head.field("x-tag").map(str::to_owned);
        let mut reason = None;
        let bytes = if let Some(tag) = from_origin {
            assert_eq!(tag, begun.tag.to_string(), "the answer that {} got", begun.tag);
            let declared: u64 = head.field("x-bytes").and_then(|n| n.parse().ok()).expect("it says how many");
            let expected = if framing == Framing::None { 0 } else { declared };
            let mut checker = Payload::new(begun.tag.response_seed(), expected).checker();
            let mut seen = 0;
            let read = self
                .talk
                .body(framing, u64::MAX, &mut |piece| {
                    checker.feed(piece);
                    seen += piece.len() as u64;
                })
                .await;
            let verdict = checker.verdict_at(if read.is_ok() { expected } else { seen });
            verdict.unwrap_or_else(|wrong| panic!("the answer that {} got: {wrong}", begun.tag));
            read?
        } else {
            let mut body = Vec::new();
            self.talk.body(framing, u64::MAX, &mut |piece| body.extend_from_slice(piece)).await?;
            let text = String::from_utf8_lossy(&body).into_owned();
            let said = text.split("\"reason\":\"").nth(1).and_then(|rest| rest.split('"').next());
            // A configured answer has none, nor has one to HEAD.
            reason = Some(said.unwrap_or("none").to_owned());
            body.len() as u64
        };
        let took = Duration::from_nanos(self.client.executor.now_ns() - begun.began_ns);
        let keeps = !head.names("connection", "close") && framing != Framing::UntilClose;
        Ok(Reply { tag: begun.tag, status, reason, head, bytes, took, keeps })
    }

    /// The client gives this request up.
    pub fn leave(&self, begun: &Begun) {
        self.client.ledger.end(begun.tag, "left");
    }

    fn ended(&self, tag: Tag, outcome: Result<(), Cut>) -> Result<(), Cut> {
        if let Err(cut) = &outcome {
            self.client.ledger.end(tag, format!("{cut:?}"));
        }
        outcome
    }

    /// A client that has done its part waited for as long as anything may take. That must not be, unless the network has
    /// fallen silent.
    fn lost(&self, begun: &Begun, cut: Cut) -> Cut {
        self.client.ledger.end(begun.tag, format!("{cut:?}"));
        assert!(self.talk.end.is_silent(), "{} {} has no end", begun.method, begun.tag);
        cut
    }

    /// Nothing but the end comes now: what else would it belong to?
    pub async fn expect_end(&mut self) -> Result<(), Cut> {
        match self.talk.closed().await {
            Ok(0) => Ok(()),
            Ok(bytes) => panic!("{bytes} bytes came that nobody asked for"),
            Err(cut) => Err(cut),
        }
    }

    pub fn end(&self) -> &End {
        &self.talk.end
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("talk", &self.talk.end).finish_non_exhaustive()
    }
}

/// Half-closes, as `nc -N` does.
pub fn half_close(caller: &Caller) {
    caller.talk.end.shutdown_write();
}
