//! PROXY headers in front of a connection's first byte: taken from a proxy before us, sent to an origin behind us.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use super::socket::Socket;
use super::transport::Transport;
use crate::base::limits::PROXY_HEADER_BYTES_MAX;
use crate::base::reason::ReasonCode;
use crate::http::proxy_protocol::{Endpoints, Malformed, Parsed, Tlvs, encode_v1, encode_v2, parse};

/// Which form of the header an origin reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Whose connection another one is opened for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OnBehalf {
    /// The client.
    pub source: Option<SocketAddr>,
    /// Where the client connected to.
    pub destination: Option<SocketAddr>,
}

/// Takes the header off the front of a connection, and not a byte more: what follows may be TLS. The caller bounds the
/// wait. Gives the client's address, if the header tells one, or the reason code of a refusal.
pub(super) async fn receive(socket: &Socket) -> Result<Option<SocketAddr>, ReasonCode> {
    const GONE: ReasonCode = ReasonCode::ProxyHeaderMissing;
    // Bytes taken already: all of them are the header's, since it was not complete with them.
    let mut header = Vec::new();
    let mut ahead = [0; 512];
    loop {
        let n = match socket.peek_bytes(&mut ahead) {
            Ok(0) => return Err(GONE),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket.readable().await.map_err(|_| GONE)?;
                continue;
            }
            Err(_) => return Err(GONE),
        };
        let taken = header.len();
        header.extend_from_slice(&ahead[..n]);
        let (ours, source) = match parse(&header).map_err(Malformed::reason)? {
            Parsed::Complete(parsed) => (parsed.bytes - taken, Some(parsed.endpoints.source())),
            Parsed::Partial if header.len() > PROXY_HEADER_BYTES_MAX => return Err(ReasonCode::ProxyLength),
            Parsed::Partial => (n, None),
        };
        match socket.try_read(&mut ahead[..ours]) {
            Ok(read) if read == ours => {}
            _ => return Err(GONE),
        }
        if let Some(source) = source {
            return Ok(source);
        }
    }
}

/// Sends the header. The caller bounds the wait.
pub(super) async fn send(socket: &Socket, version: ProxyVersion, client: &OnBehalf) -> io::Result<()> {
    let endpoints = match (client.source, client.destination) {
        (Some(source), Some(destination)) => Endpoints::Inet { source, destination },
        _ => Endpoints::Unknown,
    };
    let mut header = Vec::with_capacity(108);
    match version {
        ProxyVersion::V1 => encode_v1(&endpoints, &mut header),
        ProxyVersion::V2 => encode_v2(&endpoints, &Tlvs::default(), &mut header)
            .map_err(|malformed| io::Error::new(ErrorKind::InvalidInput, malformed.reason()))?,
    }
    let mut sent = 0;
    while sent < header.len() {
        match socket.try_write(&header[sent..]) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => socket.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
