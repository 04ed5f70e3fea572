//! A TLS connection as a [`Transport`]: a socket and a session, and between them what either could not take at once.
//!
//! Bytes are received into the worker's scratch, decrypted there and copied to the caller; bytes to send are encrypted
//! into the scratch and leave with one send(2). Only what is left over is kept here: a record that is not complete,
//! plaintext for which the caller had no room, ciphertext that the socket did not take. All three are empty between
//! requests, and an empty one is no allocation.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;

use rustls::{
    AlertDescription, CertificateError, CommonState, HandshakeKind, PeerIncompatible, ProtocolVersion,
};

use super::asked;
use super::kept::{Kept, Of};
use super::scratch::{self, Outgoing, Scratch};
use super::session::{Plaintext, Session};
use crate::base::backlog::BacklogAccount;
use crate::base::limits::{TLS_SEND_BYTES, TURN_RECEIVES};
use crate::base::race::{First, race};
use crate::base::reason::ReasonCode;
use crate::net::agreed::{Agreed, Protocol, Version};
use crate::net::driver::yield_now;
use crate::net::identity::ClientIdentity;
use crate::net::socket::Socket;
use crate::net::transport::{Peek, Presence, Transport};

/// Why there is no connection.
#[derive(Debug)]
pub enum HandshakeError {
    /// The socket broke.
    Io(io::Error),
    /// The peer closed before the end.
    Closed,
    /// The first bytes are an HTTP request in the clear. The socket, for an answer that the client can read.
    PlainHttp(Socket),
    /// What one side said was not acceptable to the other.
    Tls(rustls::Error),
    /// It kept part of a message while that was more than the worker has room for.
    NoRoom,
}

impl HandshakeError {
    /// The reason code; docs/reasons.md.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::Io(_) | Self::Closed => ReasonCode::TlsPeerGone,
            Self::PlainHttp(_) => ReasonCode::PlainHttpOnTlsPort,
            Self::Tls(error) => reason(error),
            Self::NoRoom => ReasonCode::TlsBacklog,
        }
    }
}

impl std::fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::PlainHttp(_) => f.write_str("the peer speaks HTTP without TLS"),
            Self::Tls(error) => error.fmt(f),
            Self::NoRoom => f.write_str("no room for the part of a message that came"),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// The kinds of failure that call for different measures.
fn reason(error: &rustls::Error) -> ReasonCode {
    match error {
        rustls::Error::NoApplicationProtocol
        | rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            ReasonCode::TlsNoCommonProtocol
        }
        rustls::Error::PeerIncompatible(
            PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
            | PeerIncompatible::NoCipherSuitesInCommon
            | PeerIncompatible::NoKxGroupsInCommon
            | PeerIncompatible::NoSignatureSchemesInCommon,
        )
        | rustls::Error::AlertReceived(AlertDescription::HandshakeFailure) => ReasonCode::TlsNoCommonCipher,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => ReasonCode::TlsNoCommonVersion,
        rustls::Error::NoCertificatesPresented
        | rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            ReasonCode::TlsCertificateMissing
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )
        | rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => {
            ReasonCode::TlsCertificateExpired
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => ReasonCode::TlsCertificateOtherName,
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)
        | rustls::Error::AlertReceived(AlertDescription::UnknownCA) => ReasonCode::TlsCertificateUnknownCa,
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate,
        ) => ReasonCode::TlsCertificateRefused,
        rustls::Error::General(text) if text == asked::NO_CERTIFICATE => ReasonCode::TlsNoCertificate,
        rustls::Error::AlertReceived(_) => ReasonCode::TlsRefusedByPeer,
        _ => ReasonCode::TlsMalformed,
    }
}

/// What the first bytes of a peer should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// A client's first message.
    ClientHello,
    /// A server's answer to ours.
    ServerHello,
    /// They were the start of a request in the clear.
    PlainHttp,
    /// They have come.
    Records,
}

fn agreed(common: &CommonState, server_name: Option<Box<str>>, expect: Expect) -> Agreed {
    let version = match common.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
        _ => Version::Tls12,
    };
    // A server's certificate was checked against the name that was wanted; nobody asks for it again.
    let client = match (expect, common.peer_certificates()) {
        (Expect::ClientHello, Some([leaf, ..])) => Some(Rc::new(ClientIdentity::of(leaf))),
        _ => None,
    };
    Agreed {
        version,
        protocol: Protocol::of(common.alpn_protocol()),
        resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name,
        client,
    }
}

/// A close with unread bytes is a reset, which would destroy the alert that was just sent before the peer reads it.
/// Reads away what is there; whoever sends on after that learns less.
fn let_it_be_read(socket: &Socket) {
    socket.shutdown_write();
    scratch::with(|scratch| {
        for _ in 0..8 {
            if !matches!(socket.try_read(&mut scratch.inbound), Ok(n) if n > 0) {
                return;
            }
        }
    });
}

/// One TLS connection, handshake and all.
pub struct TlsStream {
    socket: Socket,
    inner: RefCell<Inner>,
    agreed: Agreed,
    kept: Kept,
    /// The last read has taken its turn, and came to nothing: the next wait lets the others of the worker go first.
    turn_over: Cell<bool>,
    /// The close is to be a reset: nothing more is sent.
    aborted: Cell<bool>,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream")
            .field("socket", &self.socket)
            .field("agreed", &self.agreed)
            .finish_non_exhaustive()
    }
}

/// How reading has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// With the peer's `close_notify`: what came is all of it.
    Whole,
    /// Without: what came may be cut (RFC 8446 section 6.1).
    Cut,
    /// The socket or the protocol broke.
    Broken(ErrorKind),
}

/// How far our own end is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// `close_notify` is encrypted; the socket's own end follows it.
    Said,
    /// The socket's own end is sent.
    Done,
}

struct Inner {
    session: Session,
    /// Plaintext that the caller had no room for, from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// Ciphertext that the socket did not take, from `unsent_at` on.
    unsent: Vec<u8>,
    unsent_at: usize,
    end: Option<End>,
    closing: Closing,
    expect: Expect,
}

/// What a look into the socket came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Received {
    /// Something: there may be more.
    Some,
    /// All there was, or nothing.
    Drained,
}

impl Inner {
    fn new(session: Session) -> Self {
        Self {
            session,
            plain: Vec::new(),
            plain_at: 0,
            unsent: Vec::new(),
            unsent_at: 0,
            end: None,
            closing: Closing::No,
            expect: Expect::Records,
        }
    }

    fn has_unsent(&self) -> bool {
        self.unsent_at < self.unsent.len()
    }

    /// Bytes of memory for what was left over.
    fn kept_bytes(&self) -> usize {
        self.session.held_capacity() + self.plain.capacity() + self.unsent.capacity()
    }

    /// Ends the connection, and all that was left over with it.
    fn give_up(&mut self) {
        self.session.give_up();
        (self.plain, self.plain_at) = (Vec::new(), 0);
        (self.unsent, self.unsent_at) = (Vec::new(), 0);
        self.end = Some(End::Broken(ErrorKind::OutOfMemory));
    }

    fn has_plain(&self) -> bool {
        self.plain_at < self.plain.len()
    }

    /// Reading has something to say without the socket.
    fn has_news(&self) -> bool {
        self.has_plain() || self.end.is_some()
    }

    fn take_plain(&mut self, into: &mut [u8]) -> usize {
        let rest = &self.plain[self.plain_at..];
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        self.plain_at += n;
        if !self.has_plain() {
            (self.plain, self.plain_at) = (Vec::new(), 0);
        }
        n
    }

    /// Sends what was left over. True: all of it is out.
    fn flush(&mut self, socket: &Socket) -> io::Result<bool> {
        while self.has_unsent() {
            match socket.try_write(&self.unsent[self.unsent_at..]) {
                Ok(n) => self.unsent_at += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !self.unsent.is_empty() {
            (self.unsent, self.unsent_at) = (Vec::new(), 0);
        }
        if self.closing == Closing::Said {
            self.closing = Closing::Done;
            socket.shutdown_write();
        }
        Ok(true)
    }

    /// Sends ciphertext, behind what was left over; keeps what the socket does not take.
    fn send(&mut self, socket: &Socket, out: &Outgoing) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let mut bytes = out.filled();
        if self.flush(socket)? {
            while !bytes.is_empty() {
                match socket.try_write(bytes) {
                    Ok(n) => bytes = &bytes[n..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.unsent.extend_from_slice(bytes);
        Ok(())
    }

    /// One receive, into `into` and, beyond it, into what is kept. Returns bytes put into `into`. Failures of the
    /// protocol become the stream's end; their alert is sent.
    fn receive(
        &mut self,
        socket: &Socket,
        scratch: &mut Scratch,
        into: &mut [u8],
    ) -> Result<(usize, Received), rustls::Error> {
        let held = self.session.held().len();
        scratch.inbound[..held].copy_from_slice(self.session.held());
        let wanted = self.session.receive_bytes(into.len()).min(scratch.inbound.len() - held);
        let space = &mut scratch.inbound[held..held + wanted];
        let n = match socket.try_read(space) {
            Ok(0) => {
                self.end = Some(End::Cut);
                return Ok((0, Received::Drained));
            }
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok((0, Received::Drained)),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok((0, Received::Some)),
            Err(error) => {
                self.end = Some(End::Broken(error.kind()));
                return Ok((0, Received::Drained));
            }
        };
        // No method starts with the first byte of a record, 22, and no record with a capital letter.
        if self.expect == Expect::ClientHello && scratch.inbound[0].is_ascii_uppercase() {
            self.expect = Expect::PlainHttp;
            return Ok((0, Received::Drained));
        }
        self.expect = Expect::Records;
        self.take_in(socket, &mut scratch.inbound[..held + n], &mut scratch.outbound, into)
            .map(|filled| (filled, if n < wanted { Received::Drained } else { Received::Some }))
    }

    /// Works off bytes that were received.
    fn take_in(
        &mut self,
        socket: &Socket,
        received: &mut [u8],
        out: &mut Outgoing,
        into: &mut [u8],
    ) -> Result<usize, rustls::Error> {
        let mut plaintext = Plaintext::new(into, &mut self.plain);
        let outcome = self.session.receive(received, &mut plaintext, out);
        let filled = plaintext.filled();
        if self.session.peer_closed() && self.end.is_none() {
            self.end = Some(End::Whole);
        }
        if let Err(error) = self.send(socket, out)
            && self.end.is_none()
        {
            self.end = Some(End::Broken(error.kind()));
        }
        if let Err(error) = outcome {
            self.end = Some(End::Broken(ErrorKind::InvalidData));
            return Err(error);
        }
        Ok(filled)
    }

    /// Fails if nothing can be written now, or ever.
    fn may_write(&mut self, socket: &Socket) -> io::Result<()> {
        match self.end {
            Some(End::Broken(kind)) => return Err(kind.into()),
            _ if self.closing != Closing::No => return Err(ErrorKind::BrokenPipe.into()),
            _ => {}
        }
        if self.flush(socket)? { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    /// Encrypts and sends. What the socket does not take is kept, so all of `plaintext` counts as written.
    fn write(&mut self, socket: &Socket, plaintext: &[u8], out: &mut Outgoing) -> io::Result<()> {
        let encrypted = self.session.encrypt(plaintext, out);
        encrypted.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        self.send(socket, out)
    }

    /// What a read says when there is no plaintext.
    fn ended(&self) -> io::Result<usize> {
        match self.end {
            None => Err(ErrorKind::WouldBlock.into()),
            Some(End::Whole) => Ok(0),
            Some(End::Cut) => {
                Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed without a close_notify"))
            }
            Some(End::Broken(kind)) => Err(kind.into()),
        }
    }

    /// Says that we send no more, as far as that can still be said.
    fn close(&mut self, socket: &Socket, out: &mut Outgoing) {
        if self.closing != Closing::No {
            return;
        }
        // Fails after a fatal alert, which has said it already.
        let _ = self.session.close_notify(out);
        let _ = self.send(socket, out);
        // From here on the socket's own end follows as soon as all is out.
        self.closing = Closing::Said;
        let _ = self.flush(socket);
    }
}

impl TlsStream {
    /// Leads a session through its handshake; what it keeps meanwhile and later is on the account. The caller bounds the wait;
    /// dropping it closes the socket.
    pub(super) async fn handshake(
        socket: Socket,
        session: Session,
        expect: Expect,
        account: &Rc<BacklogAccount>,
    ) -> Result<Self, HandshakeError> {
        let kept = Kept::new(account, if expect == Expect::ClientHello { Of::Client } else { Of::Origin });
        let mut inner = Inner::new(session);
        inner.expect = expect;
        let mut server_name = None;
        scratch::with(|scratch| {
            inner.session.start(&mut scratch.outbound).map_err(HandshakeError::Tls)?;
            inner.send(&socket, &scratch.outbound).map_err(HandshakeError::Io)
        })?;
        // A client has mostly spoken by the time it is accepted: look before waiting. A server has not.
        let mut wait = expect == Expect::ServerHello;
        while inner.session.is_handshaking() || inner.has_unsent() {
            if std::mem::replace(&mut wait, true) {
                kept.count(inner.kept_bytes(), &socket);
                if inner.has_unsent() {
                    let moved = async { race(pin!(socket.readable()), pin!(socket.writable())).await };
                    race(pin!(moved), pin!(kept.asked())).await;
                    inner.flush(&socket).map_err(HandshakeError::Io)?;
                } else if let First::Left(ready) = race(pin!(socket.readable()), pin!(kept.asked())).await {
                    ready.map_err(HandshakeError::Io)?;
                }
                if kept.is_asked() {
                    return Err(HandshakeError::NoRoom);
                }
            }
            while inner.session.is_handshaking() {
                let received = scratch::with(|scratch| inner.receive(&socket, scratch, &mut []));
                server_name = asked::take_name().or(server_name);
                if inner.expect == Expect::PlainHttp {
                    return Err(HandshakeError::PlainHttp(socket));
                }
                let received = received.map_err(|error| {
                    let_it_be_read(&socket);
                    HandshakeError::Tls(error)
                })?;
                if received.1 == Received::Drained {
                    break;
                }
            }
            match inner.end {
                Some(End::Broken(kind)) => return Err(HandshakeError::Io(kind.into())),
                Some(End::Cut | End::Whole) if inner.session.is_handshaking() => {
                    return Err(HandshakeError::Closed);
                }
                _ => {}
            }
        }
        // What fails is reported above.
        let common = inner.session.common().ok_or(HandshakeError::Closed)?;
        let agreed = agreed(common, server_name, expect);
        kept.count(inner.kept_bytes(), &socket);
        Ok(Self {
            socket,
            inner: RefCell::new(inner),
            agreed,
            kept,
            turn_over: Cell::new(false),
            aborted: Cell::new(false),
        })
    }

    /// What the handshake settled.
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// What is left over is counted as that is let go of.
    fn use_inner<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let inner = &mut *self.inner.borrow_mut();
        if self.kept.is_asked() {
            inner.give_up();
            self.kept.let_go();
            self.abort_on_close();
        }
        let done = work(inner);
        self.kept.count(inner.kept_bytes(), &self.socket);
        done
    }

    /// Receives for nobody in particular: what comes is kept.
    fn look(&self) -> Looked {
        self.use_inner(|inner| self.look_into(inner))
    }

    fn look_into(&self, inner: &mut Inner) -> Looked {
        for _ in 0..TURN_RECEIVES {
            if inner.has_news() {
                return Looked::Enough;
            }
            // An error is kept as the stream's end.
            let received = scratch::with(|scratch| inner.receive(&self.socket, scratch, &mut []));
            if !matches!(received, Ok((_, Received::Some))) {
                return Looked::Enough;
            }
        }
        Looked::ForLong
    }

    /// Waits, with something left over, until the socket is readable or what is unsent can go on, or it is to be let go of.
    async fn moved_or_asked(&self, unsent: bool) -> io::Result<Moved> {
        let writable = async {
            // What is left over goes out although nobody writes: the peer may wait for it before it answers.
            if unsent { self.socket.writable().await } else { std::future::pending().await }
        };
        let otherwise = async { race(pin!(writable), pin!(self.kept.asked())).await };
        match race(pin!(self.socket.readable()), pin!(otherwise)).await {
            First::Left(ready) => ready.map(|()| Moved::Readable),
            First::Right(_) => Ok(Moved::ElseThanReadable),
        }
    }

    /// See [`try_read`](Transport::try_read).
    fn read_into(&self, inner: &mut Inner, into: &mut [u8]) -> io::Result<usize> {
        if inner.has_unsent()
            && let Err(error) = inner.flush(&self.socket)
        {
            inner.end.get_or_insert(End::Broken(error.kind()));
        }
        if inner.has_plain() || into.is_empty() {
            return Ok(inner.take_plain(into));
        }
        for _ in 0..TURN_RECEIVES {
            if inner.end.is_some() {
                return inner.ended();
            }
            let (n, received) = scratch::with(|scratch| inner.receive(&self.socket, scratch, into))
                .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            if n > 0 {
                return Ok(n);
            }
            if received == Received::Drained {
                return inner.ended();
            }
        }
        // A peer may send records without plaintext for as long as it likes; it is looked at again in the next turn.
        self.turn_over.set(true);
        Err(ErrorKind::WouldBlock.into())
    }
}

/// What a wait with something left over has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    Readable,
    ElseThanReadable,
}

/// How a look at what has come ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// With news, or with nothing more to receive.
    Enough,
    /// With its turn: there may be more.
    ForLong,
}

impl Transport for TlsStream {
    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        self.use_inner(|inner| self.read_into(inner, into))
    }

    fn try_write(&self, from: &[u8]) -> io::Result<usize> {
        let from = &from[..from.len().min(TLS_SEND_BYTES)];
        self.use_inner(|inner| {
            inner.may_write(&self.socket)?;
            scratch::with(|scratch| inner.write(&self.socket, from, &mut scratch.outbound))?;
            Ok(from.len())
        })
    }

    fn try_write_vectored(&self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        self.use_inner(|inner| {
            inner.may_write(&self.socket)?;
            scratch::with(|Scratch { outbound, gathered, .. }| {
                // One record for all pieces: copying them together costs less than another record for each.
                gathered.clear();
                for piece in from {
                    let room = TLS_SEND_BYTES - gathered.len();
                    gathered.extend_from_slice(&piece[..piece.len().min(room)]);
                }
                inner.write(&self.socket, gathered, outbound)?;
                Ok(gathered.len())
            })
        })
    }

    async fn readable(&self) -> io::Result<()> {
        loop {
            let (in_part, unsent) = {
                let wait = self.use_inner(|inner| {
                    if inner.has_news() {
                        return None;
                    }
                    if let Err(error) = inner.flush(&self.socket) {
                        inner.end = Some(End::Broken(error.kind()));
                        return None;
                    }
                    Some((!inner.session.held().is_empty(), inner.has_unsent()))
                });
                let Some(wait) = wait else { return Ok(()) };
                wait
            };
            if unsent || in_part {
                // On the heap: connections that wait like this are few, and the others hold no room for it.
                if Box::pin(self.moved_or_asked(unsent)).await? == Moved::ElseThanReadable {
                    continue;
                }
            } else {
                self.socket.readable().await?;
            }
            if !in_part && !self.turn_over.get() {
                return Ok(());
            }
            // Part of a record is no news: only the whole one is, or whoever waits would be woken by every piece.
            if self.turn_over.take() || self.look() == Looked::ForLong {
                yield_now().await;
            }
        }
    }

    async fn writable(&self) -> io::Result<()> {
        while !self.use_inner(|inner| inner.flush(&self.socket))? {
            if let First::Left(ready) = race(pin!(self.socket.writable()), pin!(self.kept.asked())).await {
                ready?;
            }
        }
        Ok(())
    }

    fn has_unsent(&self) -> bool {
        self.inner.borrow().has_unsent()
    }

    fn peek(&self) -> Peek {
        self.look();
        let inner = self.inner.borrow();
        match inner.end {
            _ if inner.has_plain() => Peek::Bytes,
            None => Peek::Quiet,
            Some(_) => Peek::Closed,
        }
    }

    /// Session tickets and new keys come whenever the peer likes, and `look` takes them in: they are no bytes of anybody's
    /// message. Of a record that is not whole nobody can tell what it is.
    fn peek_idle(&self) -> Peek {
        match self.peek() {
            Peek::Quiet if !self.inner.borrow().session.held().is_empty() => Peek::Bytes,
            peek => peek,
        }
    }

    fn presence(&self) -> Presence {
        match self.inner.borrow().end {
            Some(End::Broken(_)) => Presence::Gone,
            Some(End::Whole | End::Cut) if self.socket.presence() != Presence::Gone => Presence::HalfClosed,
            _ => self.socket.presence(),
        }
    }

    fn shutdown_write(&self) {
        self.use_inner(|inner| scratch::with(|scratch| inner.close(&self.socket, &mut scratch.outbound)));
    }

    fn abort_on_close(&self) {
        self.aborted.set(true);
        self.socket.abort_on_close();
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_address()
    }

    fn splice_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Drop for TlsStream {
    /// Says that no more follows, if the socket takes it at once. Whoever has more to send waits for that before.
    fn drop(&mut self) {
        let inner = self.inner.get_mut();
        // While unwinding it may be rustls that has panicked: asked again it would panic again, and abort the process.
        if std::thread::panicking()
            || self.aborted.get()
            || inner.closing != Closing::No
            || !matches!(inner.flush(&self.socket), Ok(true))
        {
            return;
        }
        scratch::with(|scratch| {
            if inner.session.close_notify(&mut scratch.outbound).is_ok() {
                let _ = self.socket.try_write(scratch.outbound.filled());
            }
        });
    }
}
