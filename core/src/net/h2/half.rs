//! The two directions of one HTTP/2 stream, each as a byte stream in HTTP/1.1 form.

use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::broken;
use super::ledger::{Ledger, Payload, REASON};
use crate::base::reason::ReasonCode;
use crate::http::http2::Malformed;
use crate::http::http2::absorb::{Absorber, Event};
use crate::http::http2::render::{self, Framing};
use crate::net::transport::Unsayable;

/// What the peer sends. Holds at most one DATA frame's payload; the rest waits in the h2 crate, whose windows bound it.
pub(super) struct Inbound {
    /// Bytes of our own to be read before `data`: a head, a chunk's size line, the end of a body.
    text: Vec<u8>,
    read: usize,
    data: Bytes,
    /// The line end that a chunk's data is due.
    chunk_open: bool,
    body: Option<RecvStream>,
    ledger: Rc<Ledger>,
    framing: Framing,
    ended: bool,
    /// What it broke on, told each time that it is asked.
    failed: Option<(ErrorKind, ReasonCode)>,
}

/// Reads as much as has come: a small message whole, so that it goes on in one write.
pub(super) fn gather(
    into: &mut [u8],
    mut read: impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    let mut total = 0;
    while total < into.len() {
        match read(&mut into[total..]) {
            Poll::Ready(Ok(n)) if n > 0 => total += n,
            nothing if total == 0 => return nothing,
            _ => break,
        }
    }
    Poll::Ready(Ok(total))
}

impl Inbound {
    /// Nothing yet: a client awaits its response's head.
    pub(super) fn awaiting(ledger: &Rc<Ledger>) -> Self {
        Self {
            text: Vec::new(),
            read: 0,
            data: Bytes::new(),
            chunk_open: false,
            body: None,
            ledger: Rc::clone(ledger),
            framing: Framing::None,
            ended: false,
            failed: None,
        }
    }

    /// A message whose head is `text`.
    pub(super) fn message(ledger: &Rc<Ledger>, text: Vec<u8>, framing: Framing, body: RecvStream) -> Self {
        let mut inbound = Self { text, ..Self::awaiting(ledger) };
        inbound.begin(framing, body);
        inbound
    }

    /// Room for a head.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// The head is in `text`; this follows it.
    pub(super) fn begin(&mut self, framing: Framing, body: RecvStream) {
        self.ended = framing == Framing::None;
        self.framing = framing;
        self.body = Some(body);
    }

    /// Drops what has come. Whoever reads on is told why.
    pub(super) fn shed(&mut self) {
        (self.body, self.data, self.text, self.read) = (None, Bytes::new(), Vec::new(), 0);
        self.failed = Some((ErrorKind::InvalidData, REASON));
        self.ended = false;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.body.is_some()
    }

    /// Something can be read at once.
    pub(super) fn has_bytes(&self) -> bool {
        self.read < self.text.len() || !self.data.is_empty()
    }

    /// The whole message has been fetched. In a tunnel: the peer sends no more.
    pub(super) fn is_ended(&self) -> bool {
        self.ended && !self.has_bytes()
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.framing == Framing::Tunnel
    }

    /// Fetches until something can be read or the message has ended.
    pub(super) fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.has_bytes() && !self.ended {
            if let Some((kind, reason)) = self.failed {
                return Poll::Ready(Err(io::Error::new(kind, reason)));
            }
            let Some(body) = &mut self.body else { return Poll::Pending };
            self.text.clear();
            self.read = 0;
            match body.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(Some(Ok(data))) => {
                    // An empty chunk would be the last one.
                    if self.framing == Framing::Chunked && !data.is_empty() {
                        render::chunk_head(data.len(), &mut self.text);
                        self.chunk_open = true;
                    }
                    self.data = data;
                }
                Poll::Ready(None) => {
                    let trailers = match body.poll_trailers(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(trailers)) => trailers,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(error))),
                    };
                    if let Err(malformed) = render::end(self.framing, trailers.as_ref(), &mut self.text) {
                        // The trailers are gone: asked again, the message would look whole.
                        self.failed = Some((ErrorKind::InvalidData, malformed.reason()));
                        continue;
                    }
                    self.ended = true;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Moves what can be read.
    pub(super) fn read(&mut self, into: &mut [u8]) -> usize {
        let n = into.len().min(self.text.len() - self.read);
        into[..n].copy_from_slice(&self.text[self.read..self.read + n]);
        self.read += n;
        if self.read < self.text.len() || self.data.is_empty() {
            return n;
        }
        let m = (into.len() - n).min(self.data.len());
        into[n..n + m].copy_from_slice(&self.data[..m]);
        bytes::Buf::advance(&mut self.data, m);
        if let Some(body) = &mut self.body {
            // The peer may send as much again. It fails only for more than was received.
            let _ = body.flow_control().release_capacity(m);
            self.ledger.took(body.stream_id().as_u32(), m);
        }
        if self.data.is_empty() {
            self.data = Bytes::new();
            if std::mem::take(&mut self.chunk_open) {
                self.text.clear();
                self.text.extend_from_slice(b"\r\n");
                self.read = 0;
            }
        }
        n + m
    }
}

/// What we send.
pub(super) struct Outbound {
    absorber: Absorber,
    stream: Option<SendStream<Payload>>,
    ledger: Rc<Ledger>,
    ended: bool,
    /// Bytes that may still be queued without room in the peer's window.
    ahead: usize,
    /// Why the head can't be said in HTTP/2. Nothing of the message was sent.
    unsayable: Option<Malformed>,
}

/// Bytes of a body that are queued behind its head before the peer's window is looked at; the h2 crate holds them until
/// there is room. It gives a client's stream none before its head is on its way, so that a small body would wait for
/// another turn and go out in a write of its own: an eighth of what a unary gRPC call cost (docs/performance.md).
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// A head that was written, for the end of the connection that knows how to send it.
pub(super) trait Opening {
    /// Sends what is not body. A final head gives the stream that the body goes to. `Unsupported`: it asks for what the
    /// peer has not said that it can do.
    fn open(&mut self, event: Event<'_>) -> io::Result<Option<(SendStream<Payload>, bool)>>;
}

impl Outbound {
    /// For a stream whose peer has seen its head, or is about to.
    pub(super) fn new(ledger: &Rc<Ledger>, absorber: Absorber) -> Self {
        Self { absorber, stream: None, ledger: Rc::clone(ledger), ended: false, ahead: 0, unsayable: None }
    }

    /// For a stream that this end opens.
    pub(super) fn opening(ledger: &Rc<Ledger>, absorber: Absorber) -> Self {
        Self { ahead: AHEAD_BYTES_MAX, ..Self::new(ledger, absorber) }
    }

    pub(super) fn stream(&mut self) -> Option<&mut SendStream<Payload>> {
        self.stream.as_mut()
    }

    /// The message is out whole.
    pub(super) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes bytes in HTTP/1.1 form; returns how many. `WouldBlock` if the peer's window leaves no room for any.
    pub(super) fn write(&mut self, bytes: &[u8], opening: &mut impl Opening) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let (n, event) =
                self.absorber.step(&bytes[taken..]).map_err(|malformed| self.refuse(malformed))?;
            taken += n;
            match event {
                None => return Ok(taken),
                Some(Event::Data { bytes: data, end }) => {
                    let Some(stream) = &mut self.stream else { return Err(ErrorKind::InvalidData.into()) };
                    stream.reserve_capacity(data.len());
                    let room = stream.capacity().max(self.ahead).min(data.len());
                    let room = if self.ledger.may_write() { room } else { 0 };
                    self.ahead = self.ahead.saturating_sub(data.len());
                    if room == 0 && !data.is_empty() {
                        return if taken > 0 { Ok(taken) } else { Err(ErrorKind::WouldBlock.into()) };
                    }
                    let whole = end && room == data.len();
                    let payload = self.ledger.payload(stream.stream_id().as_u32(), &data[..room]);
                    stream.send_data(payload, whole).map_err(broken)?;
                    self.absorber.took(room);
                    taken += room;
                    self.ended |= whole;
                }
                Some(Event::Trailers(trailers)) => {
                    let Some(stream) = &mut self.stream else { return Err(ErrorKind::InvalidData.into()) };
                    stream.send_trailers(trailers).map_err(broken)?;
                    self.ended = true;
                }
                Some(Event::End) => self.end()?,
                Some(head) => {
                    let opened = opening.open(head).map_err(|error| match error.kind() {
                        ErrorKind::Unsupported => self.refuse(Malformed::WebSocketUnoffered),
                        _ => error,
                    })?;
                    if let Some((stream, ended)) = opened {
                        self.stream = Some(stream);
                        self.ended = ended;
                    }
                }
            }
            if taken == bytes.len() {
                return Ok(taken);
            }
        }
    }

    fn refuse(&mut self, malformed: Malformed) -> io::Error {
        if self.stream.is_none() {
            self.unsayable = Some(malformed);
        }
        io::Error::new(ErrorKind::InvalidData, malformed.reason())
    }

    /// Why the head that was written can't be said in HTTP/2, if so.
    pub(super) fn unsayable(&self) -> Option<Unsayable> {
        self.unsayable.map(|malformed| Unsayable { reason: malformed.reason(), status: malformed.status() })
    }

    fn end(&mut self) -> io::Result<()> {
        if let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) {
            self.ended = true;
            let nothing = self.ledger.payload(stream.stream_id().as_u32(), &[]);
            stream.send_data(nothing, true).map_err(broken)?;
        }
        Ok(())
    }

    /// The writer has closed its half: the end of a tunnel, or of a body that runs until close.
    pub(super) fn finish(&mut self) {
        if let Ok(Some(Event::End)) = self.absorber.finish() {
            let _ = self.end();
        }
    }

    /// Ready when the peer's window and the connection have room again, or the stream is over.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) else { return Poll::Ready(Ok(())) };
        if self.ledger.poll_may_write(cx).is_pending() {
            return stream.poll_reset(cx).map(|_| Ok(()));
        }
        // The h2 crate tells of room once, which may have been while the connection had none.
        if stream.capacity() > 0 {
            return Poll::Ready(Ok(()));
        }
        match stream.poll_capacity(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(())),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Err(broken(error))),
            Poll::Ready(None) => Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
        }
    }
}
