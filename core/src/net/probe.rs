//! Connections of health checks: opened as a worker would open one to the same endpoint (PROXY header, TLS with the
//! upstream's trust and the endpoint's name), but on the control thread's tokio.
//!
//! Here and not in `control`, because only net may name rustls. It speaks no protocol over them: `control::prober` does.
//! Not for a worker: these sockets belong to another runtime.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::connect::Address;
use super::proxied::ProxyVersion;
use super::tls::Protocol;
use super::tls::client::{ServerName, TlsClient};
use crate::http::proxy_protocol::{Endpoints, Tlvs, encode_v1, encode_v2};

/// A connection to an endpoint.
pub struct Probing(Box<dyn Wire>);

/// What a socket and TLS on one have in common.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<W: AsyncRead + AsyncWrite + Unpin + Send> Wire for W {}

impl fmt::Debug for Probing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probing").finish_non_exhaustive()
    }
}

impl AsyncRead for Probing {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, into)
    }
}

impl AsyncWrite for Probing {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// How checks of one endpoint speak TLS.
#[derive(Clone)]
pub struct ProbeTls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    offer: Offer,
}

/// Which protocols a check offers in its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Those that requests offer.
    AsConfigured,
    /// This one, and HTTP/2 must be agreed to.
    Only(Protocol),
}

impl ProbeTls {
    /// With the settings of the upstream's requests and the name that the endpoint must prove.
    pub fn new(client: &TlsClient, name: ServerName<'static>, offer: Offer) -> Self {
        let mut config = client.without_sessions();
        if let Offer::Only(protocol) = offer {
            config.alpn_protocols = vec![protocol.name().as_bytes().to_vec()];
        }
        Self { config: Arc::new(config), name, offer }
    }
}

impl fmt::Debug for ProbeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeTls").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum OpenError {
    /// It can't be reached.
    Io(io::Error),
    /// It was reached, but TLS failed.
    Tls(io::Error),
    /// HTTP/2 was offered, and not agreed to.
    NoHttp2,
}

/// Opens a connection. The caller bounds the wait; dropping it closes the socket.
pub async fn open(
    address: &Address,
    proxy: Option<ProxyVersion>,
    tls: Option<&ProbeTls>,
) -> Result<Probing, OpenError> {
    match address {
        Address::Tcp(address) => {
            let socket = TcpStream::connect(address).await.map_err(OpenError::Io)?;
            socket.set_nodelay(true).map_err(OpenError::Io)?;
            prepare(socket, proxy, tls).await
        }
        Address::Unix(path) => {
            let socket = UnixStream::connect(path.as_path()).await.map_err(OpenError::Io)?;
            prepare(socket, proxy, tls).await
        }
    }
}

async fn prepare<S: Wire + 'static>(
    mut socket: S,
    proxy: Option<ProxyVersion>,
    tls: Option<&ProbeTls>,
) -> Result<Probing, OpenError> {
    if let Some(version) = proxy {
        socket.write_all(&proxy_header(version)).await.map_err(OpenError::Io)?;
    }
    let Some(tls) = tls else { return Ok(Probing(Box::new(socket))) };
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    let stream = connector.connect(tls.name.clone(), socket).await.map_err(OpenError::Tls)?;
    let agreed = stream.get_ref().1.alpn_protocol();
    if tls.offer == Offer::Only(Protocol::H2) && agreed != Some(Protocol::H2.name().as_bytes()) {
        return Err(OpenError::NoHttp2);
    }
    Ok(Probing(Box::new(stream)))
}

/// The connection is on nobody's behalf: LOCAL, which version 1 has no word for and calls UNKNOWN.
fn proxy_header(version: ProxyVersion) -> Vec<u8> {
    let mut header = Vec::new();
    match version {
        ProxyVersion::V1 => encode_v1(&Endpoints::Local, &mut header),
        // It fits: LOCAL has no fields.
        ProxyVersion::V2 => drop(encode_v2(&Endpoints::Local, &Tlvs::default(), &mut header)),
    }
    header
}
