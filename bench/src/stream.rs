//! A connection as the generator and the origin use it: a socket, in the clear or under TLS.
//!
//! Receiving is one direct call after readiness, into memory that all connections of the thread share; what came is
//! shown to the caller and kept by nobody. A connection at rest holds no buffer.

use std::{cell::RefCell, fmt, io, io::IoSlice, rc::Rc};

use crate::{
    net::Socket,
    tls::{self, Outgoing},
};

/// Received at once under TLS: a few records, so that their plaintext is still in the cache when it is looked at.
const TLS_RECEIVE_BYTES: usize = 64 * 1024;
/// Protected and sent at once.
const TLS_SEND_BYTES: usize = 64 * 1024;

/// One thread's memory for all its connections: borrowed between two awaits, never across one.
#[derive(Debug)]
pub struct Buffers {
    incoming: RefCell<Vec<u8>>,
    outgoing: RefCell<Outgoing>,
}

impl Buffers {
    /// `incoming_bytes` are received at once at most; memory that is never touched costs nothing.
    pub fn new(incoming_bytes: usize) -> Self {
        // Room for what a connection may have kept of a message that comes in pieces.
        let incoming = vec![0; incoming_bytes.max(2 * TLS_RECEIVE_BYTES)];
        Self { incoming: RefCell::new(incoming), outgoing: RefCell::default() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// What came was shown; perhaps nothing has.
    Some,
    /// The peer will send no more. Under TLS the last bytes may have come with this.
    End,
}

/// Why a connection can't go on.
#[derive(Debug)]
pub enum Broken {
    Io(io::Error),
    Tls(rustls::Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(cause) => cause.fmt(f),
            Self::Tls(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for Broken {}

impl From<io::Error> for Broken {
    fn from(cause: io::Error) -> Self {
        Self::Io(cause)
    }
}

impl From<rustls::Error> for Broken {
    fn from(cause: rustls::Error) -> Self {
        Self::Tls(cause)
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Io(cause) => cause,
            Broken::Tls(cause) => Self::new(io::ErrorKind::InvalidData, cause),
        }
    }
}

#[derive(Debug)]
pub struct Stream {
    socket: Rc<Socket>,
    tls: Option<Box<Protected>>,
}

#[derive(Debug)]
struct Protected {
    session: tls::Session,
    /// Ready for the wire and not yet taken by it: it goes before anything else.
    unsent: Vec<u8>,
}

impl Stream {
    pub fn new(socket: Rc<Socket>, session: Option<tls::Session>) -> Self {
        let tls = session.map(|session| Box::new(Protected { session, unsent: Vec::new() }));
        Self { socket, tls }
    }

    pub fn socket(&self) -> &Rc<Socket> {
        &self.socket
    }

    pub fn session(&self) -> Option<&tls::Session> {
        self.tls.as_ref().map(|tls| &tls.session)
    }

    /// As a client: completes the handshake. What comes with its last bytes goes to `sink`. Our last flight
    /// may wait for the first bytes to be sent, and then goes out with them.
    pub async fn shake_hands(
        &mut self,
        buffers: &Buffers,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(), Broken> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        tls.take(&mut [], &self.socket, buffers, &mut sink)?;
        loop {
            tls.flush(&self.socket).await?;
            self.socket.readable().await?;
            if tls.receive(&self.socket, buffers, &mut sink)? == Received::End {
                return Err(Broken::Io(io::ErrorKind::UnexpectedEof.into()));
            }
            if tls.session.is_established() {
                return Ok(());
            }
        }
    }

    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Shows what has come to `sink`, at most `bytes_max` of the wire, without waiting. Nothing may have: then
    /// await [`Stream::readable`].
    pub fn receive(
        &mut self,
        buffers: &Buffers,
        bytes_max: usize,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<Received, Broken> {
        if let Some(tls) = &mut self.tls {
            let received = tls.receive(&self.socket, buffers, &mut sink)?;
            tls.try_flush(&self.socket)?;
            return Ok(received);
        }
        let incoming = &mut *buffers.incoming.borrow_mut();
        let room = bytes_max.min(incoming.len());
        match self.socket.recv(&mut incoming[..room]) {
            Ok(0) => Ok(Received::End),
            Ok(n) => {
                sink(&incoming[..n]);
                Ok(Received::Some)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Some),
            Err(e) => Err(Broken::Io(e)),
        }
    }

    /// Whether [`Stream::discard`] can be used: under TLS every byte must be looked at.
    pub fn can_discard(&self) -> bool {
        self.tls.is_none()
    }

    /// Throws away up to `bytes_max` received bytes, mostly without copying them. Zero is the end of the stream.
    pub fn discard(&self, buffers: &Buffers, bytes_max: u64) -> io::Result<usize> {
        let incoming = &mut *buffers.incoming.borrow_mut();
        let room = incoming.len().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
        self.socket.discard(&mut incoming[..room])
    }

    /// Sends all of `data`, waiting while the peer is slow. With an error: whether any byte of it was sent.
    pub async fn send_all(&mut self, data: &[u8], buffers: &Buffers) -> Result<(), (Progress, Broken)> {
        let Some(tls) = &mut self.tls else { return send_plain(&self.socket, data).await };
        let mut progress = Progress::Nothing;
        let result = tls.send_all(data, &self.socket, buffers, &mut progress).await;
        result.map_err(|cause| (progress, cause))
    }

    /// Sends some of `data` without waiting and returns how much was taken. Zero: nothing goes now, await
    /// [`Stream::socket`]'s writability.
    pub fn try_send(&mut self, data: &[u8], buffers: &Buffers) -> Result<usize, Broken> {
        let Some(tls) = &mut self.tls else {
            return match self.socket.send(data) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
                result => Ok(result?),
            };
        };
        tls.try_flush(&self.socket)?;
        if !tls.unsent.is_empty() {
            return Ok(0);
        }
        let piece = &data[..data.len().min(TLS_SEND_BYTES)];
        tls.send_piece(piece, &self.socket, buffers)?;
        Ok(piece.len())
    }

    /// Sends what TLS has ready, without waiting. True when nothing is left.
    pub fn try_flush(&mut self) -> Result<bool, Broken> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        tls.try_flush(&self.socket)?;
        Ok(tls.unsent.is_empty())
    }

    /// Sends `first`, then `second`, in one call where it goes.
    pub async fn send_both(&mut self, first: &[u8], second: &[u8], buffers: &Buffers) -> Result<(), Broken> {
        let (mut first, mut second) = (first, second);
        while !first.is_empty() && self.tls.is_none() {
            match self.socket.send_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
                Ok(n) if n >= first.len() => {
                    second = &second[n - first.len()..];
                    first = &[];
                }
                Ok(n) => first = &first[n..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.socket.writable().await?,
                Err(e) => return Err(Broken::Io(e)),
            }
        }
        for data in [first, second] {
            if !data.is_empty() {
                self.send_all(data, buffers).await.map_err(|(_, cause)| cause)?;
            }
        }
        Ok(())
    }

    /// Says that no more will come from us.
    pub async fn finish(&mut self, buffers: &Buffers) -> Result<(), Broken> {
        if let Some(tls) = &mut self.tls {
            tls.say_end(buffers)?;
            tls.flush(&self.socket).await?;
        }
        self.socket.shutdown_write();
        Ok(())
    }

    /// The same without waiting, for a connection on which nothing is unsent.
    pub fn finish_now(&mut self, buffers: &Buffers) {
        if let Some(tls) = &mut self.tls {
            // The peer may have gone, and then needs no farewell.
            let _ = tls.say_end(buffers).and_then(|()| tls.try_flush(&self.socket));
        }
        self.socket.shutdown_write();
    }

    /// Waits until the handshake's bytes and other answers of TLS itself are sent.
    pub async fn flush(&mut self) -> Result<(), Broken> {
        match &mut self.tls {
            Some(tls) => tls.flush(&self.socket).await,
            None => Ok(()),
        }
    }
}

/// What was sent of some data before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Nothing,
    Partly,
}

async fn send_plain(socket: &Socket, data: &[u8]) -> Result<(), (Progress, Broken)> {
    let mut rest = data;
    while !rest.is_empty() {
        let result = match socket.send(rest) {
            Ok(n) => {
                rest = &rest[n..];
                Ok(())
            }
            // Also a connection that is still being made.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await,
            Err(e) => Err(e),
        };
        let progress = if rest.len() == data.len() { Progress::Nothing } else { Progress::Partly };
        result.map_err(|cause| (progress, Broken::Io(cause)))?;
    }
    Ok(())
}

impl Protected {
    /// One receive and what follows from it. Bytes for the peer are left in `unsent`.
    fn receive(
        &mut self,
        socket: &Socket,
        buffers: &Buffers,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<Received, Broken> {
        let incoming = &mut *buffers.incoming.borrow_mut();
        let lead = self.session.lead_in(incoming)?;
        let end = incoming.len().min(lead + TLS_RECEIVE_BYTES);
        match socket.recv(&mut incoming[lead..end]) {
            Ok(0) if self.session.is_closed() => Ok(Received::End),
            // Whoever cuts the connection must not pass for the peer (RFC 8446, section 6.1).
            Ok(0) => Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(n) => self.take(&mut incoming[..lead + n], socket, buffers, sink),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Received::Some),
            Err(e) => Err(Broken::Io(e)),
        }
    }

    fn take(
        &mut self,
        wire: &mut [u8],
        socket: &Socket,
        buffers: &Buffers,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<Received, Broken> {
        let out = &mut *buffers.outgoing.borrow_mut();
        out.clear();
        let result = self.session.receive(wire, out, sink);
        self.unsent.extend_from_slice(out.bytes());
        if let Err(error) = result {
            // The alert, as far as it goes: the connection is over for us.
            let _ = socket.send(&self.unsent);
            return Err(Broken::Tls(error));
        }
        Ok(if self.session.is_closed() { Received::End } else { Received::Some })
    }

    async fn send_all(
        &mut self,
        data: &[u8],
        socket: &Socket,
        buffers: &Buffers,
        progress: &mut Progress,
    ) -> Result<(), Broken> {
        for piece in data.chunks(TLS_SEND_BYTES) {
            if self.send_piece(piece, socket, buffers)? > 0 {
                *progress = Progress::Partly;
            }
            self.flush(socket).await?;
            *progress = Progress::Partly;
        }
        Ok(())
    }

    fn say_end(&mut self, buffers: &Buffers) -> Result<(), Broken> {
        let out = &mut *buffers.outgoing.borrow_mut();
        out.clear();
        self.session.close(out)?;
        self.unsent.extend_from_slice(out.bytes());
        Ok(())
    }

    /// Protects `piece` and sends, after what is unsent, as much as goes now. The rest is unsent then. Returns the
    /// bytes on the wire.
    fn send_piece(&mut self, piece: &[u8], socket: &Socket, buffers: &Buffers) -> Result<usize, Broken> {
        let out = &mut *buffers.outgoing.borrow_mut();
        out.clear();
        out.push(&self.unsent);
        self.unsent = Vec::new();
        self.session.encrypt(piece, out)?;
        let sent = match socket.send(out.bytes()) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(Broken::Io(e)),
        };
        self.unsent.extend_from_slice(&out.bytes()[sent..]);
        Ok(sent)
    }

    /// Sends what is unsent as far as it goes now.
    fn try_flush(&mut self, socket: &Socket) -> Result<(), Broken> {
        if !self.unsent.is_empty() {
            match socket.send(&self.unsent) {
                Ok(n) if n == self.unsent.len() => self.unsent = Vec::new(),
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(Broken::Io(e)),
            }
        }
        Ok(())
    }

    async fn flush(&mut self, socket: &Socket) -> Result<(), Broken> {
        let mut sent = 0;
        while sent < self.unsent.len() {
            match socket.send(&self.unsent[sent..]) {
                Ok(n) => sent += n,
                // Also a connection that is still being made.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
                Err(e) => return Err(Broken::Io(e)),
            }
        }
        self.unsent = Vec::new();
        Ok(())
    }
}
