//! One downstream connection of the origin: requests in, planned answers out.

use std::{
    hash::Hasher,
    io::{self, IoSlice},
    rc::Rc,
};

use super::{
    Shared, pattern,
    plan::{Content, Cut, Plan, Request, parse_request},
};
use crate::{
    http1::{Body, Framing, HEAD_BYTES_MAX},
    net::Socket,
};

/// Answers up to this size are kept ready, head and body in one piece.
const PREPARED_BYTES_MAX: u64 = 64 * 1024;

pub(super) async fn serve(socket: Socket, shared: Rc<Shared>) {
    // Whatever broke, the client has seen it; the origin has nobody to tell.
    let _ = Connection { socket, shared, pending: Vec::new(), last: None }.run().await;
}

/// The previous request whose answer is the same bytes each time.
struct Prepared {
    /// The head of the request, as it arrived.
    request: Vec<u8>,
    body_bytes: usize,
    answer: Vec<u8>,
}

struct Connection {
    socket: Socket,
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
    async fn run(&mut self) -> io::Result<()> {
        loop {
            self.socket.readable().await?;
            let unsent_from = {
                let scratch = &mut *self.shared.scratch.borrow_mut();
                let received = match self.socket.recv(scratch) {
                    Ok(0) => return Ok(()),
                    Ok(n) => &scratch[..n],
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e),
                };
                match &self.last {
                    Some(last) if last.matches(received) && self.shared.stall.is_none() => {
                        match self.socket.send(&last.answer) {
                            Ok(n) if n == last.answer.len() => continue,
                            Ok(n) => Some(n),
                            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Some(0),
                            Err(e) => return Err(e),
                        }
                    }
                    _ => {
                        self.pending.extend_from_slice(received);
                        None
                    }
                }
            };
            match (unsent_from, &self.last) {
                (Some(from), Some(last)) => self.socket.send_all(&last.answer[from..]).await?,
                _ => {
                    if let Next::Close = self.answer_pending().await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Answers all that stands in `pending`, reading on where a request is incomplete.
    async fn answer_pending(&mut self) -> io::Result<Next> {
        while !self.pending.is_empty() {
            let request = match parse_request(&self.pending) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    if self.receive_more().await? == 0 {
                        return Ok(Next::Close);
                    }
                    continue;
                }
                Err(_) => {
                    self.socket
                        .send_all(
                            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                        )
                        .await?;
                    return Ok(Next::Close);
                }
            };
            self.prepare(&request);
            self.pending.drain(..request.head_bytes);
            let (body_bytes, digest) = self.read_body(&request).await?;
            self.shared.wait_out_stall().await;
            if let Next::Close = self.answer(&request.plan, body_bytes, digest).await? {
                // Closing with unread data would reset the connection and could take the answer with it.
                self.socket.shutdown_write();
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

    async fn receive_more(&mut self) -> io::Result<usize> {
        loop {
            let received = {
                let scratch = &mut *self.shared.scratch.borrow_mut();
                let room = HEAD_BYTES_MAX.min(scratch.len());
                let received = self.socket.recv(&mut scratch[..room]);
                if let Ok(n) = received {
                    self.pending.extend_from_slice(&scratch[..n]);
                }
                received
            };
            match received {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.socket.readable().await?,
                result => return result,
            }
        }
    }

    /// Reads the request's body to its end. Only an echo looks at the bytes.
    async fn read_body(&mut self, request: &Request) -> io::Result<(u64, u64)> {
        let mut body = Body::new(request.body);
        let mut hasher = twox_hash::XxHash3_64::new();
        let mut body_bytes = 0_u64;
        if request.expects_continue && !body.is_complete() {
            self.socket.send_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let looks = matches!(request.plan.content, Content::Echo(_));
        loop {
            let taken = body.feed(&self.pending, |bytes| {
                body_bytes += bytes.len() as u64;
                if looks {
                    hasher.write(bytes);
                }
            });
            let taken = taken.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            self.pending.drain(..taken);
            while !looks && !body.is_complete() && self.pending.is_empty() && body.opaque_bytes() > 0 {
                let discarded = {
                    let scratch = &mut *self.shared.scratch.borrow_mut();
                    let room = scratch.len().min(usize::try_from(body.opaque_bytes()).unwrap_or(usize::MAX));
                    self.socket.discard(&mut scratch[..room])
                };
                match discarded {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => {
                        body.skip(n as u64);
                        body_bytes += n as u64;
                    }
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.socket.readable().await?,
                    Err(e) => return Err(e),
                }
            }
            if body.is_complete() {
                return Ok((body_bytes, hasher.finish()));
            }
            if self.receive_more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn answer(&mut self, plan: &Plan, body_bytes: u64, digest: u64) -> io::Result<Next> {
        if !plan.delay.is_zero() {
            monoio::time::sleep(plan.delay).await;
        }
        if plan.cut == Some(Cut::ResetBeforeHead) {
            self.socket.reset_on_close();
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let echo = match &plan.content {
            Content::Echo(head) => echo_body(head, body_bytes, digest),
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
                    self.socket.send_all(&lead).await?;
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
                    self.send_both(&lead, &piece[1..]).await?;
                } else {
                    self.send_both(&lead, piece).await?;
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
        self.socket.send_all(&lead).await?;
        match plan.cut {
            Some(Cut::ResetAfter(_)) => {
                self.socket.reset_on_close();
                Err(io::ErrorKind::ConnectionReset.into())
            }
            None if plan.keep_alive => Ok(Next::KeepAlive),
            _ => Ok(Next::Close),
        }
    }

    async fn send_both(&self, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
        while !first.is_empty() {
            match self.socket.send_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
                Ok(n) if n >= first.len() => {
                    second = &second[n - first.len()..];
                    first = &[];
                }
                Ok(n) => first = &first[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                Err(e) => return Err(e),
            }
        }
        self.socket.send_all(second).await
    }
}

impl Prepared {
    fn matches(&self, received: &[u8]) -> bool {
        received.len() == self.request.len() + self.body_bytes && received.starts_with(&self.request)
    }
}

fn echo_body(head: &super::plan::EchoHead, body_bytes: u64, digest: u64) -> Vec<u8> {
    let mut json = serde_json::json!(head);
    json["body_bytes"] = body_bytes.into();
    json["body_xxh3"] = format!("{digest:016x}").into();
    let mut text = json.to_string().into_bytes();
    text.push(b'\n');
    text
}
