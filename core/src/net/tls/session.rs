//! One TLS connection without its socket: records go in and plaintext comes out, and the other way round.
//!
//! rustls' unbuffered API works in memory that is the caller's, so a connection that waits for nothing but the next
//! record owns no buffer. Called by `stream`; tested here against itself, with records cut anywhere.

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, ProtocolVersion};

use super::scratch::Outgoing;
use crate::base::limits::TLS_HELD_BYTES_MAX;

/// Where decrypted bytes go: to the caller, and what it has no room for into `rest`.
pub(super) struct Plaintext<'p> {
    into: &'p mut [u8],
    rest: &'p mut Vec<u8>,
    filled: usize,
}

impl<'p> Plaintext<'p> {
    pub(super) fn new(into: &'p mut [u8], rest: &'p mut Vec<u8>) -> Self {
        Self { into, rest, filled: 0 }
    }

    /// Bytes that the caller got.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    fn put(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.into.len() - self.filled);
        self.into[self.filled..self.filled + fits].copy_from_slice(&bytes[..fits]);
        self.filled += fits;
        self.rest.extend_from_slice(&bytes[fits..]);
    }
}

/// Which end of the connection we are.
///
/// rustls remembers offsets into the bytes that it was given (a handshake message that is not complete, records that are
/// worked off but not yet discarded) and panics if they are not there on its next step. So it is stepped with exactly the
/// bytes that are held, and a failed connection, whose bytes are gone, is not kept: it can't be stepped.
enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
    Failed(rustls::Error),
}

/// What one step of the state machine asks for.
enum Step {
    /// More steps follow.
    GoOn,
    /// Nothing more can be done with what is there.
    Rest,
    /// Bytes of the connection's own have to go out first, and need this much room.
    NeedRoom(usize),
}

/// What is to be encrypted when that is possible.
#[derive(Clone, Copy)]
enum Send<'p> {
    Nothing,
    Plaintext(&'p [u8]),
    CloseNotify,
}

/// One connection's state.
pub(super) struct Session {
    side: Side,
    /// Ciphertext that is not a whole record, or part of a handshake message. No allocation while empty.
    held: Vec<u8>,
    /// The peer has said that it sends nothing more.
    peer_closed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = match self.side {
            Side::Server(_) => "server",
            Side::Client(_) => "client",
            Side::Failed(_) => "failed",
        };
        f.debug_struct("Session").field("side", &side).field("held", &self.held.len()).finish_non_exhaustive()
    }
}

impl Session {
    pub(super) fn server(connection: UnbufferedServerConnection) -> Self {
        Self { side: Side::Server(connection), held: Vec::new(), peer_closed: false }
    }

    pub(super) fn client(connection: UnbufferedClientConnection) -> Self {
        Self { side: Side::Client(connection), held: Vec::new(), peer_closed: false }
    }

    /// What was agreed on, as far as it has been. None after a failure.
    pub(super) fn common(&self) -> Option<&CommonState> {
        match &self.side {
            Side::Server(connection) => Some(connection),
            Side::Client(connection) => Some(connection),
            Side::Failed(_) => None,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_some_and(CommonState::is_handshaking)
    }

    /// The peer has said that it sends nothing more: what came is all of it.
    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Bytes kept of what was received; they go in front of what is received next.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Bytes of memory for them.
    pub(super) fn held_capacity(&self) -> usize {
        self.held.capacity()
    }

    /// Ends the connection without a word.
    pub(super) fn give_up(&mut self) {
        self.fail(rustls::Error::General("no room for what is left over".into()));
    }

    /// How many bytes to receive for a caller with room for `plaintext` bytes: as much as it can take, but never less
    /// than what completes the record that is held.
    pub(super) fn receive_bytes(&self, plaintext: usize) -> usize {
        // What encryption adds to a record of AES-GCM, its header included. A guess that is wrong costs a copy.
        let overhead = match self.common().and_then(CommonState::protocol_version) {
            Some(ProtocolVersion::TLSv1_3) => 22,
            _ => 29,
        };
        let record = match self.held.get(3..5) {
            Some(length) => 5 + usize::from(u16::from_be_bytes([length[0], length[1]])),
            None => 5,
        };
        // A flight of handshake messages, or a ticket or two.
        let least = if self.is_handshaking() { 8 * 1024 } else { 512 };
        let wanted = (plaintext.min(1 << 14) + overhead).max(record).max(least);
        wanted.saturating_sub(self.held.len()).max(overhead)
    }

    /// Works off `received`, which starts with what [`held`](Self::held) says: plaintext goes to `plaintext`, what the
    /// connection has to say itself (handshake, tickets, alerts) is appended to `out`, also if this fails. A failure is
    /// final.
    pub(super) fn receive(
        &mut self,
        received: &mut [u8],
        plaintext: &mut Plaintext<'_>,
        out: &mut Outgoing,
    ) -> Result<(), rustls::Error> {
        // RFC 8446 section 6.1: what follows the peer's close_notify is ignored.
        if self.peer_closed {
            return Ok(());
        }
        let at = match self.work_off(received, plaintext, out) {
            Ok(at) => at,
            Err(error) => return Err(self.fail(error)),
        };
        let rest = if self.peer_closed { &[][..] } else { &received[at..] };
        if rest.len() > TLS_HELD_BYTES_MAX {
            return Err(self.fail(rustls::Error::General("a handshake message of too many records".into())));
        }
        if rest.is_empty() {
            // Most of the time it is empty already: nothing is freed or allocated.
            self.held = Vec::new();
        } else {
            self.held.clear();
            self.held.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Steps as long as something comes of it, and says how many bytes are done with.
    fn work_off(
        &mut self,
        received: &mut [u8],
        plaintext: &mut Plaintext<'_>,
        out: &mut Outgoing,
    ) -> Result<usize, rustls::Error> {
        let mut at = 0;
        loop {
            match self.step(&mut received[at..], Some(&mut *plaintext), Send::Nothing, out) {
                Ok((discard, Step::GoOn)) => at += discard,
                Ok((discard, Step::NeedRoom(bytes))) => {
                    at += discard;
                    out.reserve(bytes);
                }
                Ok((discard, Step::Rest)) => return Ok(at + discard),
                Err((discard, error)) => {
                    // What is to be said goes out, the alert last; a step beyond it would fail at the same record again.
                    at += discard;
                    while self.common().is_some_and(CommonState::wants_write) {
                        let said = self.step(&mut received[at..], Some(&mut *plaintext), Send::Nothing, out);
                        let Ok((discard, _)) = said else { break };
                        at += discard;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Ends the connection: nothing is decrypted or encrypted any more, and nothing held.
    fn fail(&mut self, error: rustls::Error) -> rustls::Error {
        self.side = Side::Failed(error.clone());
        self.held = Vec::new();
        error
    }

    /// Appends what the connection has to say before anything is received: a client's first message.
    pub(super) fn start(&mut self, out: &mut Outgoing) -> Result<(), rustls::Error> {
        self.receive(&mut [], &mut Plaintext::new(&mut [], &mut Vec::new()), out)
    }

    /// Appends `plaintext` as records. Only after the handshake.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], out: &mut Outgoing) -> Result<(), rustls::Error> {
        self.send(Send::Plaintext(plaintext), out)
    }

    /// Appends the alert that says that no more follows from us.
    pub(super) fn close_notify(&mut self, out: &mut Outgoing) -> Result<(), rustls::Error> {
        self.send(Send::CloseNotify, out)
    }

    fn send(&mut self, what: Send<'_>, out: &mut Outgoing) -> Result<(), rustls::Error> {
        // The state machine keeps places in what is held, so it must see it again.
        let mut held = std::mem::take(&mut self.held);
        let before = out.filled().len();
        let sent = loop {
            let step = match self.step(&mut held, None, what, out) {
                Ok((discard, step)) => {
                    held.drain(..discard);
                    step
                }
                Err((_, error)) => return Err(self.fail(error)),
            };
            match step {
                Step::GoOn => {}
                Step::NeedRoom(bytes) => out.reserve(bytes),
                Step::Rest => break out.filled().len() > before,
            }
        };
        self.held = held;
        // Not yet, or not any more.
        if sent { Ok(()) } else { Err(rustls::Error::HandshakeNotComplete) }
    }

    /// One turn of rustls' state machine.
    fn step(
        &mut self,
        received: &mut [u8],
        plaintext: Option<&mut Plaintext<'_>>,
        send: Send<'_>,
        out: &mut Outgoing,
    ) -> Result<(usize, Step), (usize, rustls::Error)> {
        let peer_closed = &mut self.peer_closed;
        match &mut self.side {
            Side::Server(connection) => {
                turn(connection.process_tls_records(received), plaintext, send, out, peer_closed)
            }
            Side::Client(connection) => {
                turn(connection.process_tls_records(received), plaintext, send, out, peer_closed)
            }
            Side::Failed(error) => Err((0, error.clone())),
        }
    }
}

fn turn<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plaintext: Option<&mut Plaintext<'_>>,
    send: Send<'_>,
    out: &mut Outgoing,
    peer_closed: &mut bool,
) -> Result<(usize, Step), (usize, rustls::Error)> {
    let UnbufferedStatus { mut discard, state, .. } = status;
    let state = state.map_err(|error| (discard, error))?;
    let step = match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            // Whoever receives takes all there is, so a sender finds none.
            let Some(sink) = plaintext else { return Err((discard, unexpected())) };
            while let Some(record) = traffic.next_record() {
                let record = record.map_err(|error| (discard, error))?;
                discard += record.discard;
                sink.put(record.payload);
            }
            Step::GoOn
        }
        ConnectionState::EncodeTlsData(mut data) => match data.encode(out.spare()) {
            Ok(bytes) => {
                out.fill(bytes);
                Step::GoOn
            }
            // The message goes with its state, so room is made here and now.
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                out.reserve(required_size);
                match data.encode(out.spare()) {
                    Ok(bytes) => out.fill(bytes),
                    Err(error) => return Err((discard, rustls::Error::General(error.to_string()))),
                }
                Step::GoOn
            }
            Err(error) => return Err((discard, rustls::Error::General(error.to_string()))),
        },
        ConnectionState::TransmitTlsData(data) => {
            // It is in `out`, which its owner sends before anything else.
            data.done();
            Step::GoOn
        }
        ConnectionState::PeerClosed => {
            *peer_closed = true;
            Step::GoOn
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            let wrote = match send {
                Send::Nothing => return Ok((discard, Step::Rest)),
                Send::Plaintext(plaintext) => traffic.encrypt(plaintext, out.spare()),
                Send::CloseNotify => traffic.queue_close_notify(out.spare()),
            };
            match wrote {
                Ok(bytes) => {
                    out.fill(bytes);
                    Step::Rest
                }
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                    Step::NeedRoom(required_size)
                }
                Err(EncryptError::EncryptExhausted) => return Err((discard, rustls::Error::EncryptError)),
            }
        }
        ConnectionState::BlockedHandshake | ConnectionState::Closed => Step::Rest,
        // Early data is never offered nor accepted, and there are no other states today.
        _ => return Err((discard, unexpected())),
    };
    Ok((discard, step))
}

fn unexpected() -> rustls::Error {
    rustls::Error::General("an unexpected state of the connection".into())
}
