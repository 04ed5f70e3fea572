//! TLS without I/O, for the generator and the origin: bytes off the wire in, plaintext and bytes for the wire out.
//!
//! rustls' unbuffered interface works on the caller's memory: a thread has one receive and one send buffer for all
//! its connections, and a connection keeps nothing but a record that has not arrived whole. Sockets are the
//! business of `stream.rs`; what files and flags say, of `settings`.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, CommonState, HandshakeKind, InvalidMessage, ProtocolVersion, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

pub mod authority;
pub mod settings;

/// Bytes for the wire. Its memory grows to the largest flight, and is kept for the next one.
#[derive(Debug, Default)]
pub struct Outgoing {
    memory: Vec<u8>,
    filled: usize,
}

impl Outgoing {
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.filled]
    }

    pub fn clear(&mut self) {
        self.filled = 0;
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.memory.truncate(self.filled);
        self.memory.extend_from_slice(bytes);
        self.filled = self.memory.len();
    }

    /// Lets `write` fill the free part, with as much room as it asks for.
    fn fill(
        &mut self,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Short>,
    ) -> Result<(), rustls::Error> {
        loop {
            match write(&mut self.memory[self.filled..]) {
                Ok(n) => {
                    self.filled += n;
                    return Ok(());
                }
                Err(Short::Needs(bytes)) => self.memory.resize(self.filled + bytes, 0),
                Err(Short::Never) => return Err(rustls::Error::EncryptError),
            }
        }
    }
}

/// Why nothing was written.
enum Short {
    Needs(usize),
    Never,
}

impl From<EncodeError> for Short {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(short) => Self::Needs(short.required_size),
            EncodeError::AlreadyEncoded => Self::Never,
        }
    }
}

impl From<EncryptError> for Short {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(short) => Self::Needs(short.required_size),
            EncryptError::EncryptExhausted => Self::Never,
        }
    }
}

/// What both sides have agreed on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Negotiated {
    /// As users write it: `TLSv1.3`.
    pub version: &'static str,
    /// As the standards call it: `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
    pub alpn: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Handshake {
    Full,
    Resumed,
}

/// One connection's TLS.
pub struct Session {
    side: Side,
    /// The beginning of a record, waiting for its rest. Mostly empty and without memory.
    partial: Vec<u8>,
    is_established: bool,
    is_closed: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What is to be written as soon as that is allowed.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Nothing,
    Data(&'a [u8]),
    Close,
}

enum Step {
    Again,
    /// Nothing happens until more bytes come.
    Blocked,
    /// The same, and application data may be sent. The wish has been fulfilled.
    Established,
    PeerClosed,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("is_established", &self.is_established).finish_non_exhaustive()
    }
}

impl Session {
    /// Its first flight comes out of [`Session::receive`] without bytes.
    pub fn client(config: &Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        Ok(Self::new(Side::Client(UnbufferedClientConnection::new(config.clone(), name)?)))
    }

    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self::new(Side::Server(UnbufferedServerConnection::new(config.clone())?)))
    }

    fn new(side: Side) -> Self {
        Self { side, partial: Vec::new(), is_established: false, is_closed: false }
    }

    /// Application data may be sent.
    pub fn is_established(&self) -> bool {
        self.is_established
    }

    /// The peer has said that no more will come (RFC 8446, section 6.1). An end of the stream before that is a
    /// truncation.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Puts what is left of earlier bytes at the front of `buffer` and returns its length; what the socket gives
    /// belongs behind it. A peer that would fill `buffer` with pieces of one message is refused.
    pub fn lead_in(&self, buffer: &mut [u8]) -> Result<usize, rustls::Error> {
        let bytes = self.partial.len();
        if bytes >= buffer.len() {
            return Err(InvalidMessage::HandshakePayloadTooLarge.into());
        }
        buffer[..bytes].copy_from_slice(&self.partial);
        Ok(bytes)
    }

    /// Takes `wire`, which begins with [`Session::lead_in`]'s bytes. Plaintext goes to `sink`, bytes for the peer to
    /// `out`, also when there is an error: then they are the alert that tells it.
    pub fn receive(
        &mut self,
        wire: &mut [u8],
        out: &mut Outgoing,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<(), rustls::Error> {
        let mut taken = 0;
        let result = loop {
            let (discard, step) = self.side.step(&mut wire[taken..], Wish::Nothing, out, &mut sink);
            taken += discard;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::PeerClosed) => self.is_closed = true,
                Ok(Step::Established) => {
                    self.is_established = true;
                    break Ok(());
                }
                Ok(Step::Blocked) => break Ok(()),
                Err(error) => {
                    self.encode_alert(out);
                    break Err(error);
                }
            }
        };
        let left = &wire[taken..];
        if left.is_empty() {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(left);
        }
        result
    }

    /// After an error: rustls has the alert ready. It must not get as far as looking at bytes again.
    fn encode_alert(&mut self, out: &mut Outgoing) {
        while self.common().wants_write() {
            if self.side.step(&mut [], Wish::Nothing, out, &mut |_| ()).1.is_err() {
                return;
            }
        }
    }

    /// Protects `data` into `out`. Not before the session is established.
    pub fn encrypt(&mut self, data: &[u8], out: &mut Outgoing) -> Result<(), rustls::Error> {
        self.write(Wish::Data(data), out)
    }

    /// Says that nothing follows.
    pub fn close(&mut self, out: &mut Outgoing) -> Result<(), rustls::Error> {
        self.write(Wish::Close, out)
    }

    fn write(&mut self, wish: Wish<'_>, out: &mut Outgoing) -> Result<(), rustls::Error> {
        loop {
            // Not without what it has kept: pieces of a message are remembered by where they stand in it.
            let (discard, step) = self.side.step(&mut self.partial, wish, out, &mut |_| ());
            self.partial.drain(..discard);
            match step? {
                Step::Again | Step::PeerClosed => {}
                Step::Established => return Ok(()),
                Step::Blocked => return Err(rustls::Error::HandshakeNotComplete),
            }
        }
    }

    /// Both sides' state, as far as they have it in common.
    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(connection) => connection,
            Side::Server(connection) => connection,
        }
    }

    /// None before the handshake's end.
    pub fn negotiated(&self) -> Option<Negotiated> {
        let common = self.common();
        Some(Negotiated {
            version: match common.protocol_version()? {
                ProtocolVersion::TLSv1_2 => "TLSv1.2",
                ProtocolVersion::TLSv1_3 => "TLSv1.3",
                _ => "unknown",
            },
            cipher: format!("{:?}", common.negotiated_cipher_suite()?.suite()),
            alpn: common.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
        })
    }

    /// None before it is known.
    pub fn handshake(&self) -> Option<Handshake> {
        self.common().handshake_kind().map(|kind| match kind {
            HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => Handshake::Full,
            HandshakeKind::Resumed => Handshake::Resumed,
        })
    }

    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// Whether the peer has shown a certificate that was accepted.
    pub fn has_peer_certificate(&self) -> bool {
        self.common().peer_certificates().is_some()
    }
}

impl Side {
    fn step(
        &mut self,
        wire: &mut [u8],
        wish: Wish<'_>,
        out: &mut Outgoing,
        sink: &mut dyn FnMut(&[u8]),
    ) -> (usize, Result<Step, rustls::Error>) {
        match self {
            Self::Client(connection) => take(connection.process_tls_records(wire), wish, out, sink),
            Self::Server(connection) => take(connection.process_tls_records(wire), wish, out, sink),
        }
    }
}

/// Handles one state, and says how many bytes of the wire are done with.
fn take<D>(
    status: UnbufferedStatus<'_, '_, D>,
    wish: Wish<'_>,
    out: &mut Outgoing,
    sink: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, rustls::Error>) {
    let mut discard = status.discard;
    let step = status.state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut records) => {
            while let Some(record) = records.next_record() {
                let record = record?;
                discard += record.discard;
                sink(record.payload);
            }
            Ok(Step::Again)
        }
        ConnectionState::EncodeTlsData(mut data) => {
            out.fill(|room| Ok(data.encode(room)?))?;
            Ok(Step::Again)
        }
        // They are in `out`, and whoever called sends that.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            match wish {
                Wish::Nothing => {}
                Wish::Data(data) => out.fill(|room| Ok(traffic.encrypt(data, room)?))?,
                Wish::Close => out.fill(|room| Ok(traffic.queue_close_notify(room)?))?,
            }
            Ok(Step::Established)
        }
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        // Early data is never offered nor accepted here.
        _ => Ok(Step::Blocked),
    });
    (discard, step)
}

#[cfg(test)]
mod tests;
