//! What a TLS handshake has settled, for whoever speaks over the connection.

use std::rc::Rc;

use super::identity::ClientIdentity;

/// An application protocol, as ALPN names it (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `http/1.1`, and what is spoken when nothing was negotiated.
    Http11,
    /// `h2`.
    H2,
}

impl Protocol {
    /// The registered identifier.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http11 => "http/1.1",
            Self::H2 => "h2",
        }
    }

    pub(super) fn of(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") { Self::H2 } else { Self::Http11 }
    }
}

/// A version of the protocol that is spoken today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    /// As logs and metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// What a handshake has settled.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// The protocol's version.
    pub version: Version,
    /// What is spoken inside.
    pub protocol: Protocol,
    /// An earlier session was taken up again: no certificate was sent or checked.
    pub resumed: bool,
    /// The name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// Who the client has proved to be.
    pub client: Option<Rc<ClientIdentity>>,
}
