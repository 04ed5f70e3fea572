//! One downstream connection of the origin: requests in, planned answers out.

use std::{hash::Hasher, io, rc::Rc};

use super::{
    Shared, pattern,
    plan::{Content, Cut, EchoHead, Plan, Request, parse_request},
};
use crate::{
    http1::{Body, Framing, HEAD_BYTES_MAX},
    http2::PREFACE,
    stream::{Broken, Buffers, Received, Stream},
    tls::{self, Handshake},
};

/// Answers up to this size are kept ready, head and body in one piece.
const PREPARED_BYTES_MAX: u64 = 64 * 1024;

/// Serves a connection in the version that the client speaks.
pub(super) async fn serve(stream: Stream, shared: Rc<Shared>) {
    let mut connection = Connection { stream, shared, pending: Vec::new(), last: None };
    // Whatever broke, the client has seen it; the origin has nobody to tell.
    match connection.choose().await {
        Ok(Version::Http1) => drop(connection.run().await),
        Ok(Version::Http2) => {
            super::http2::serve(connection.stream, connection.pending, connection.shared).await;
        }
        Err(_) => {}
    }
}

enum Version {
    Http1,
    Http2,
}

/// The previous request whose answer is the same bytes each time.
struct Prepared {
    /// The head of the request, as it arrived.
    request: Vec<u8>,
    body_bytes: usize,
    answer: Vec<u8>,
}

struct Connection {
    stream: Stream,
    shared: Rc<Shared>,
    /// Bytes received and not yet used; without memory while the connection is idle.
    pending: Vec<u8>,
    last: Option<Prepared>,
}

enum Next {
    KeepAlive,
    Close,
}

impl Connection {
    /// By ALPN under TLS, else by the first bytes.
    async fn choose(&mut self) -> Result<Version, Broken> {
        self.accept_tls().await?;
        if let Some(session) = self.stream.session() {
            return Ok(if session.alpn() == Some(b"h2") { Version::Http2 } else { Version::Http1 });
        }
        loop {
            if self.pending.starts_with(PREFACE) {
                return Ok(Version::Http2);
            }
            if !PREFACE.starts_with(&self.pending) || self.receive_more().await? == Received::End {
                return Ok(Version::Http1);
            }
        }
    }

    async fn run(&mut self) -> Result<(), Broken> {
        loop {
            if !self.pending.is_empty()
                && let Next::Close = self.answer_pending().await?
            {
                return Ok(());
            }
            self.stream.readable().await?;
            let mut repeats = 0;
            let received = {
                let (last, pending) = (&self.last, &mut self.pending);
                let last = last.as_ref().filter(|_| self.shared.stall.is_none());
                self.stream.receive(&self.shared.buffers, usize::MAX, |bytes| {
                    if pending.is_empty() && last.is_some_and(|last| last.matches(bytes)) {
                        repeats += 1;
                    } else {
                        pending.extend_from_slice(bytes);
                    }
                })?
            };
            self.stream.flush().await?;
            if let Some(last) = &self.last {
                for _ in 0..repeats {
                    send_all(&mut self.stream, &last.answer, &self.shared.buffers).await?;
                }
            }
            if received == Received::End && self.pending.is_empty() {
                return Ok(());
            }
        }
    }

    /// Completes the handshake. The first request may come with its last bytes.
    async fn accept_tls(&mut self) -> Result<(), Broken> {
        while self.stream.session().is_some_and(|session| !session.is_established()) {
            self.stream.readable().await?;
            if let Received::End = self.receive_once()? {
                return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            self.stream.flush().await?;
        }
        match self.stream.session().and_then(tls::Session::handshake) {
            Some(Handshake::Full) => self.shared.handshakes.count_full(),
            Some(Handshake::Resumed) => self.shared.handshakes.count_resumed(),
            None => {}
        }
        Ok(())
    }

    /// Answers all that stands in `pending`, reading on where a request is incomplete.
    async fn answer_pending(&mut self) -> Result<Next, Broken> {
        while !self.pending.is_empty() {
            let request = match parse_request(&self.pending) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    if self.receive_more().await? == Received::End {
                        return Ok(Next::Close);
                    }
                    continue;
                }
                Err(_) => {
                    let refusal =
                        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    send_all(&mut self.stream, refusal, &self.shared.buffers).await?;
                    return Ok(Next::Close);
                }
            };
            self.prepare(&request);
            self.pending.drain(..request.head_bytes);
            let (body_bytes, digest) = self.read_body(&request).await?;
            self.shared.wait_out_stall().await;
            if let Next::Close = self.answer(&request.plan, body_bytes, digest).await? {
                // Closing with unread data would reset the connection and could take the answer with it.
                self.stream.finish(&self.shared.buffers).await?;
                return Ok(Next::Close);
            }
        }
        self.pending = Vec::new();
        Ok(Next::KeepAlive)
    }

    /// Keeps the answer ready for the next time the same head comes.
    fn prepare(&mut self, request: &Request) {
        let plan = &request.plan;
        let Framing::Length(body_bytes) = request.body else { return };
        let content_bytes = plan.content_bytes(0);
        let small = content_bytes <= PREPARED_BYTES_MAX && body_bytes <= PREPARED_BYTES_MAX;
        if !small || !plan.is_plain() || plan.chunk_bytes.is_some() || request.expects_continue {
            self.last = None;
            return;
        }
        let mut answer = plan.head(content_bytes);
        if plan.has_body() {
            match plan.content {
                Content::Pattern(bytes) => answer.extend_from_slice(pattern::piece(0, bytes)),
                Content::Text(text) => answer.extend_from_slice(text.as_bytes()),
                Content::Echo(_) => return,
            }
        }
        let head = self.pending[..request.head_bytes].to_vec();
        self.last = Some(Prepared { request: head, body_bytes: body_bytes as usize, answer });
    }

    /// Adds what has come to `pending`.
    fn receive_once(&mut self) -> Result<Received, Broken> {
        let pending = &mut self.pending;
        self.stream.receive(&self.shared.buffers, HEAD_BYTES_MAX, |bytes| pending.extend_from_slice(bytes))
    }

    /// Waits until there is more in `pending`, or the end.
    async fn receive_more(&mut self) -> Result<Received, Broken> {
        let before = self.pending.len();
        loop {
            let received = self.receive_once()?;
            self.stream.flush().await?;
            if self.pending.len() > before {
                return Ok(Received::Some);
            }
            if received == Received::End {
                return Ok(received);
            }
            self.stream.readable().await?;
        }
    }

    /// Reads the request's body to its end. Only an echo looks at the bytes.
    async fn read_body(&mut self, request: &Request) -> Result<(u64, u64), Broken> {
        let mut body = Body::new(request.body);
        let mut hasher = twox_hash::XxHash3_64::new();
        let mut body_bytes = 0_u64;
        if request.expects_continue && !body.is_complete() {
            send_all(&mut self.stream, b"HTTP/1.1 100 Continue\r\n\r\n", &self.shared.buffers).await?;
        }
        let looks = matches!(request.plan.content, Content::Echo(_));
        loop {
            let taken = body.feed(&self.pending, |bytes| {
                body_bytes += bytes.len() as u64;
                if looks {
                    hasher.write(bytes);
                }
            });
            let taken = taken.map_err(|_| Broken::Io(io::ErrorKind::InvalidData.into()))?;
            self.pending.drain(..taken);
            let discards = !looks && self.stream.can_discard();
            while discards && !body.is_complete() && self.pending.is_empty() && body.opaque_bytes() > 0 {
                match self.stream.discard(&self.shared.buffers, body.opaque_bytes()) {
                    Ok(0) => return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())),
                    Ok(n) => {
                        body.skip(n as u64);
                        body_bytes += n as u64;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.stream.readable().await?,
                    Err(e) => return Err(Broken::Io(e)),
                }
            }
            if body.is_complete() {
                return Ok((body_bytes, hasher.finish()));
            }
            if self.receive_more().await? == Received::End {
                return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    async fn answer(&mut self, plan: &Plan, body_bytes: u64, digest: u64) -> Result<Next, Broken> {
        if !plan.delay.is_zero() {
            monoio::time::sleep(plan.delay).await;
        }
        if plan.cut == Some(Cut::ResetBeforeHead) {
            self.stream.socket().reset_on_close();
            return Err(Broken::Io(io::ErrorKind::ConnectionReset.into()));
        }
        let echo = match &plan.content {
            Content::Echo(head) => echo_body(head, body_bytes, digest, self.stream.session().map(describe)),
            Content::Pattern(_) | Content::Text(_) => Vec::new(),
        };
        let total = plan.content_bytes(echo.len() as u64);
        let content = |offset: u64, left: u64| -> &[u8] {
            match &plan.content {
                Content::Pattern(_) => pattern::piece(offset, left),
                Content::Text(text) => &text.as_bytes()[offset as usize..(offset + left) as usize],
                Content::Echo(_) => &echo[offset as usize..(offset + left) as usize],
            }
        };
        let shared = self.shared.clone();
        let buffers = &shared.buffers;
        let mut lead = plan.head(total);
        let end = match plan.cut {
            Some(Cut::ResetAfter(n) | Cut::CloseAfter(n)) => n.min(total),
            _ => total,
        };
        if plan.has_body() {
            let mut offset = 0;
            while offset < end {
                let mut left = end - offset;
                if let Some((bytes, pause)) = plan.trickle {
                    send_all(&mut self.stream, &lead, buffers).await?;
                    lead.clear();
                    monoio::time::sleep(pause).await;
                    left = left.min(bytes);
                }
                left = left.min(plan.chunk_bytes.unwrap_or(u64::MAX));
                let piece = content(offset, left);
                if plan.chunk_bytes.is_some() {
                    lead.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                }
                if plan.corrupt && offset == 0 {
                    lead.push(piece[0] ^ 1);
                    self.stream.send_both(&lead, &piece[1..], buffers).await?;
                } else {
                    self.stream.send_both(&lead, piece, buffers).await?;
                }
                lead.clear();
                if plan.chunk_bytes.is_some() {
                    lead.extend_from_slice(b"\r\n");
                }
                offset += piece.len() as u64;
            }
            if plan.chunk_bytes.is_some() && end == total {
                lead.extend_from_slice(b"0\r\n\r\n");
            }
        }
        send_all(&mut self.stream, &lead, buffers).await?;
        match plan.cut {
            Some(Cut::ResetAfter(_)) => {
                self.stream.socket().reset_on_close();
                Err(Broken::Io(io::ErrorKind::ConnectionReset.into()))
            }
            None if plan.keep_alive => Ok(Next::KeepAlive),
            _ => Ok(Next::Close),
        }
    }
}

async fn send_all(stream: &mut Stream, data: &[u8], buffers: &Buffers) -> Result<(), Broken> {
    stream.send_all(data, buffers).await.map_err(|(_, cause)| cause)
}

impl Prepared {
    fn matches(&self, received: &[u8]) -> bool {
        received.len() == self.request.len() + self.body_bytes && received.starts_with(&self.request)
    }
}

pub(super) fn echo_body(
    head: &EchoHead,
    body_bytes: u64,
    digest: u64,
    tls: Option<serde_json::Value>,
) -> Vec<u8> {
    let mut json = serde_json::json!(head);
    json["body_bytes"] = body_bytes.into();
    json["body_xxh3"] = format!("{digest:016x}").into();
    if let Some(tls) = tls {
        json["tls"] = tls;
    }
    let mut text = json.to_string().into_bytes();
    text.push(b'\n');
    text
}

/// What an echo says about TLS.
pub(super) fn describe(session: &tls::Session) -> serde_json::Value {
    let mut json = serde_json::json!(session.negotiated());
    json["handshake"] = serde_json::json!(session.handshake());
    json["client_certificate"] = session.has_peer_certificate().into();
    json
}
