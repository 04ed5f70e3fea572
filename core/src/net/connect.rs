//! Opens upstream connections. Addresses are resolved: names are the control thread's work.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::descriptors;
use super::liveness::Liveness;
use super::socket::Socket;
use super::transport::Transport;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Where an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(Arc<PathBuf>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Connects. The caller bounds the wait; dropping it closes the socket.
pub async fn open(address: &Address, liveness: Liveness) -> io::Result<Socket> {
    match address {
        Address::Tcp(address) => tcp(*address, liveness).await,
        Address::Unix(path) => unix(path),
    }
}

/// With `TCP_NODELAY`: a proxy writes whole messages, waiting to fill segments only delays their ends.
async fn tcp(address: SocketAddr, liveness: Liveness) -> io::Result<Socket> {
    descriptors::check_room(1)?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    liveness.set(&socket)?;
    match connect(&socket, &address) {
        Ok(()) => return Socket::new(socket),
        Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = Socket::new(socket)?;
    stream.writable().await?;
    stream.connect_outcome()?;
    Ok(stream)
}

/// A full backlog there is an error at once, as it is for everybody.
fn unix(path: &Path) -> io::Result<Socket> {
    descriptors::check_room(1)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Socket::new(socket)
}
