//! Opens upstream connections. Addresses are resolved: names are the control thread's work.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::stream::{Stream, Transport};

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Connects over TCP, with TCP_NODELAY. The caller bounds the wait; dropping it closes the socket.
pub async fn tcp(address: SocketAddr) -> io::Result<Stream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match connect(&socket, &address) {
        Ok(()) => return Stream::new(socket),
        Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let outcome = socket.try_clone();
    let stream = Stream::new(socket)?;
    stream.writable().await?;
    sockopt::socket_error(&outcome?)??;
    Ok(stream)
}

/// Connects to a Unix socket. A full backlog there is an error at once, as it is for everybody.
pub fn unix(path: &Path) -> io::Result<Stream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Stream::new(socket)
}
