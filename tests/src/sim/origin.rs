//! Origins: what they answer, and how they fail. Every request that reaches one is checked against what its client sent.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use super::conversation::{Conversation, Cut};
use super::executor::Executor;
use super::ledger::{Ledger, Tag};
use super::network::{Answer as Dialled, Backlog, End, Network};
use super::random::Random;
use super::trace::{Event, Trace};
use crate::payload::Payload;
use crate::wire::{Framing, Head, request_framing};
use ringway::net::stream::Transport;

/// What an origin does with one request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Before anything else.
    pub delay: Duration,
    pub body: ReadBody,
    /// Interim responses before the final one.
    pub interim: u8,
    pub status: u16,
    /// Further field lines, each with its end.
    pub fields: String,
    pub framing: Framed,
    pub bytes: u64,
    /// The body is written in pieces of so many bytes,
    pub piece: usize,
    /// with a pause before each.
    pub pause: Duration,
    /// The answer ends after so many bytes, its head included, like this.
    pub cut: Option<(u64, Ending)>,
    pub after: After,
}

/// When the request's body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBody {
    Before,
    /// Once the answer is out.
    After,
    Never,
}

/// How a response's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    Length,
    Chunked,
    UntilClose,
}

/// How an answer ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Fin,
    Reset,
    /// Nothing more comes, and the connection stays open.
    Silence,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    /// Closed without a word.
    Close,
    /// The same, after a while.
    CloseIn(Duration),
    /// After a while, if no request is on the way, a response comes that nobody asked for.
    Stray(Duration),
}

impl Answer {
    /// 200 with so many bytes.
    pub fn bytes(bytes: u64) -> Self {
        Self {
            delay: Duration::ZERO,
            body: ReadBody::Before,
            interim: 0,
            status: 200,
            fields: String::new(),
            framing: Framed::Length,
            bytes,
            piece: 16 * 1024,
            pause: Duration::ZERO,
            cut: None,
            after: After::Keep,
        }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::bytes(5) }
    }

    /// Never a byte.
    pub fn silence() -> Self {
        Self { cut: Some((0, Ending::Silence)), ..Self::bytes(0) }
    }

    #[must_use]
    pub fn cut(self, after_bytes: u64, how: Ending) -> Self {
        Self { cut: Some((after_bytes, how)), ..self }
    }

    #[must_use]
    pub fn delay(self, ms: u64) -> Self {
        Self { delay: Duration::from_millis(ms), ..self }
    }

    #[must_use]
    pub fn after(self, after: After) -> Self {
        Self { after, ..self }
    }

    #[must_use]
    pub fn framing(self, framing: Framed) -> Self {
        Self { framing, ..self }
    }

    /// In pieces of so many bytes, each after so many milliseconds.
    #[must_use]
    pub fn pieces(self, piece: usize, pause_ms: u64) -> Self {
        Self { piece, pause: Duration::from_millis(pause_ms), ..self }
    }

    #[must_use]
    pub fn reading(self, body: ReadBody) -> Self {
        Self { body, ..self }
    }

    #[must_use]
    pub fn field(mut self, line: &str) -> Self {
        self.fields.push_str(line);
        self.fields.push_str("\r\n");
        self
    }

    /// Anything that an origin may do, most of it orderly. `harm`: one in so many is not.
    pub fn any(random: &Random, harm: u64) -> Self {
        let sizes = [0, 1, 5, 200, 3_000, 15_000, 16_384, 40_000, 150_000];
        let mut answer = Self::bytes(*random.pick(&sizes));
        answer.framing = *random.pick(&[Framed::Length, Framed::Length, Framed::Chunked, Framed::UntilClose]);
        answer.piece = *random.pick(&[1_000, 4_000, 16_384, 60_000]);
        if random.one_in(4) {
            answer.delay = random.ms(0..400);
        }
        if random.one_in(10) {
            answer.pause = random.ms(0..200);
        }
        if random.one_in(8) {
            answer.interim = random.below(3) as u8;
        }
        if random.one_in(12) {
            answer.status = *random.pick(&[204, 304, 404, 500, 503, 429]);
        }
        if random.one_in(12) {
            answer.body = ReadBody::After;
        }
        if random.one_in(12) {
            answer.after = After::CloseIn(random.ms(0..1_500));
        }
        if random.one_in(harm) {
            match random.below(6) {
                4 => answer.after = After::Stray(random.ms(0..900)),
                0 => answer.cut = Some((0, Ending::Silence)),
                1 => answer.cut = Some((random.below(answer.bytes + 150), Ending::Reset)),
                2 => {
                    // The end of the connection is the end of such a body: nobody could tell.
                    answer.framing = Framed::Length;
                    answer.cut = Some((random.below(answer.bytes + 60), Ending::Fin));
                }
                3 => answer.cut = Some((random.below(answer.bytes + 150), Ending::Silence)),
                _ => {
                    answer.body = ReadBody::Never;
                    answer.after = After::Close;
                }
            }
        }
        answer
    }
}

/// A request as its origin sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub tag: Tag,
    pub head: Head,
    pub at: SocketAddr,
    /// How many requests its connection had before.
    pub nth: u32,
    pub is_copy: bool,
}

/// One origin.
pub(super) struct Origin {
    pub(super) executor: Executor,
    pub(super) network: Rc<Network>,
    pub(super) ledger: Rc<Ledger>,
    pub(super) trace: Rc<Trace>,
    pub(super) address: SocketAddr,
    pub(super) answer: Box<dyn Fn(&Asked) -> Answer>,
}

/// Whoever gets this sees another's name in it.
const STRAY: &[u8] = b"HTTP/1.1 200 OK\r\nx-tag: stray\r\nx-bytes: 5\r\nContent-Length: 5\r\n\r\nstray";

/// An origin waits longer than any proxy.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);

impl Origin {
    pub(super) fn listen(self: Rc<Self>) {
        let backlog = Rc::new(Backlog::default());
        self.network.listen(self.address, Some(Dialled::Accepted(vec![Rc::clone(&backlog)])));
        let lane = self.executor.lane();
        let executor = self.executor.clone();
        executor.clone().spawn(lane, async move {
            loop {
                let (end, _) = backlog.accept().await;
                let origin = Rc::clone(&self);
                executor.spawn(executor.lane(), async move { origin.serve(end).await });
            }
        });
    }

    fn note(&self, text: impl FnOnce() -> String) {
        self.trace.add(self.executor.now_ns(), Event::Note(text()));
    }

    async fn serve(&self, end: End) {
        let connection = end.connection();
        let mut talk = Conversation::new(end, &self.executor, PATIENCE);
        let mut nth = 0;
        let ending = loop {
            match self.exchange(&mut talk, nth).await {
                Ok(After::Keep) => nth += 1,
                Ok(After::Close) => break "closed by the origin".to_owned(),
                Ok(After::CloseIn(pause)) => {
                    // A request that comes just then is lost with the connection.
                    if self.executor.within(pause, talk.end.readable()).await.is_none() {
                        break "closed by the origin while idle".to_owned();
                    }
                    nth += 1;
                }
                Ok(After::Stray(pause)) => {
                    let waited = self.executor.within(pause, talk.end.readable()).await;
                    // What was read ahead is a request that has come already.
                    if waited.is_none() && talk.ahead.is_empty() && talk.end.is_quiet() {
                        self.note(|| format!("{connection}s sends a response that nobody asked for"));
                        talk.end.send_at_once(STRAY);
                    }
                    nth += 1;
                }
                Err(Cut::Malformed(what)) => panic!("the proxy sent {what}"),
                Err(cut) => break format!("{cut:?}"),
            }
        };
        self.note(|| format!("{connection}s ends after {nth}: {ending}"));
    }

    async fn exchange(&self, talk: &mut Conversation, nth: u32) -> Result<After, Cut> {
        let head = talk.head().await?;
        let (method, target, _) = head.parts();
        let tag = head.field("x-tag").and_then(Tag::parse).expect("each request has its tag");
        assert!(target.ends_with(&format!("/{tag}")), "{target} has the fields of {tag}");
        let is_copy = head.has("ringway-mirror");
        let request = self.ledger.seen(tag, method, is_copy);
        let asked = Asked { tag, head: head.clone(), at: self.address, nth, is_copy };
        let answer = (self.answer)(&asked);
        let connection = talk.end.connection();
        self.note(|| format!("{connection}s {method} {tag} to {}: {answer:?}", self.address));
        let framing = request_framing(&head).map_err(|error| Cut::Malformed(error.to_string()))?;
        if answer.delay > Duration::ZERO {
            self.executor.pause(answer.delay).await;
        }
        if answer.body == ReadBody::Before {
            if head.names("expect", "100-continue") {
                talk.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            }
            self.read_body(talk, tag, framing, request.body_bytes).await?;
        }
        let keeps = match self.respond(talk, tag, method == "HEAD", &answer).await? {
            Some(Ending::Fin) => return Ok(After::Close),
            Some(Ending::Reset) => {
                talk.end.abort_on_close();
                return Ok(After::Close);
            }
            Some(Ending::Silence) => {
                talk.closed().await?;
                return Ok(After::Close);
            }
            None => answer.framing != Framed::UntilClose,
        };
        if answer.body == ReadBody::After {
            self.read_body(talk, tag, framing, request.body_bytes).await?;
        }
        // What was not read would be taken for the next request.
        if answer.body == ReadBody::Never && framing != Framing::None {
            if let After::CloseIn(pause) = answer.after {
                self.executor.pause(pause).await;
            }
            return Ok(After::Close);
        }
        Ok(if keeps { answer.after } else { After::Close })
    }

    async fn read_body(
        &self,
        talk: &mut Conversation,
        tag: Tag,
        framing: Framing,
        bytes: u64,
    ) -> Result<(), Cut> {
        let mut checker = Payload::new(tag.request_seed(), bytes).checker();
        let mut seen = 0;
        let read = talk
            .body(framing, u64::MAX, &mut |piece| {
                checker.feed(piece);
                seen += piece.len() as u64;
            })
            .await;
        let verdict = checker.verdict_at(if read.is_ok() { bytes } else { seen });
        verdict.unwrap_or_else(|wrong| panic!("the body of {tag} that the origin got: {wrong}"));
        read.map(drop)
    }

    /// Writes the answer; how it was cut, if it was.
    async fn respond(
        &self,
        talk: &Conversation,
        tag: Tag,
        is_head: bool,
        answer: &Answer,
    ) -> Result<Option<Ending>, Cut> {
        let bodiless = is_head || matches!(answer.status, 204 | 304);
        let mut left = answer.cut.map_or(u64::MAX, |(bytes, _)| bytes);
        let mut head = Vec::new();
        for _ in 0..answer.interim {
            head.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
        }
        let bytes = if answer.status == 204 { 0 } else { answer.bytes };
        let framing = match answer.framing {
            _ if answer.status == 204 => String::new(),
            Framed::Length => format!("Content-Length: {bytes}\r\n"),
            Framed::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framed::UntilClose => "Connection: close\r\n".to_owned(),
        };
        let status = answer.status;
        head.extend_from_slice(
            format!(
                "HTTP/1.1 {status} Said\r\nx-tag: {tag}\r\nx-bytes: {bytes}\r\n{framing}{}\r\n",
                answer.fields
            )
            .as_bytes(),
        );
        if !send_some(talk, &head, &mut left).await? {
            return Ok(answer.cut.map(|(_, how)| how));
        }
        let mut at = 0;
        while at < bytes && !bodiless {
            self.executor.pause(answer.pause).await;
            let n = (bytes - at).min(answer.piece as u64) as usize;
            let mut piece = vec![0; n];
            Payload::new(tag.response_seed(), bytes).fill(at, &mut piece);
            if answer.framing == Framed::Chunked {
                let mut chunk = format!("{n:x}\r\n").into_bytes();
                chunk.append(&mut piece);
                chunk.extend_from_slice(b"\r\n");
                piece = chunk;
            }
            if !send_some(talk, &piece, &mut left).await? {
                return Ok(answer.cut.map(|(_, how)| how));
            }
            at += n as u64;
        }
        if !bodiless && answer.framing == Framed::Chunked && !send_some(talk, b"0\r\n\r\n", &mut left).await?
        {
            return Ok(answer.cut.map(|(_, how)| how));
        }
        Ok(None)
    }
}

/// Writes as much as may be; false if that was not all.
async fn send_some(talk: &Conversation, bytes: &[u8], left: &mut u64) -> Result<bool, Cut> {
    let n = (bytes.len() as u64).min(*left) as usize;
    talk.send(&bytes[..n]).await?;
    *left -= n as u64;
    Ok(n == bytes.len())
}
