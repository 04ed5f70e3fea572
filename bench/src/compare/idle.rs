//! Connections that make one request and then are still, with blocking calls: their number counts, not their speed.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use rustls::ClientConfig;

use crate::{
    http1::{BodyExpected, Progress, ResponseReader},
    load::Target,
    net,
    tls::{Outgoing, Session},
};

/// It lives as long as it is held.
#[derive(Debug)]
pub(super) struct Held {
    socket: TcpStream,
    session: Option<Session>,
}

impl Held {
    /// Connects and makes its one request.
    pub(super) fn open(
        target: &Target,
        tls: Option<&Arc<ClientConfig>>,
        timeout: Duration,
    ) -> io::Result<Self> {
        let socket = net::probe(&target.address, timeout)?;
        let session = match (tls, &target.server_name) {
            (Some(config), Some(name)) => {
                Some(Session::client(config, name.clone()).map_err(io::Error::other)?)
            }
            _ => None,
        };
        let mut held = Self { socket, session };
        held.shake_hands()?;
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.path, target.authority);
        held.send(request.as_bytes())?;
        held.read_response()?;
        Ok(held)
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let mut out = Outgoing::default();
        session.receive(&mut [], &mut out, |_| ()).map_err(io::Error::other)?;
        loop {
            self.socket.write_all(out.bytes())?;
            if session.is_established() {
                return Ok(());
            }
            out.clear();
            receive(&mut self.socket, Some(&mut *session), &mut out, |_| ())?;
        }
    }

    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let Some(session) = &mut self.session else { return self.socket.write_all(data) };
        let mut out = Outgoing::default();
        session.encrypt(data, &mut out).map_err(io::Error::other)?;
        self.socket.write_all(out.bytes())
    }

    fn read_response(&mut self) -> io::Result<()> {
        let mut reader = ResponseReader::new(BodyExpected::AsFramed);
        loop {
            let (mut out, mut outcome) = (Outgoing::default(), Ok(Progress::NeedMore));
            receive(&mut self.socket, self.session.as_mut(), &mut out, |bytes| {
                if outcome == Ok(Progress::NeedMore) {
                    outcome = reader.feed(bytes, |_| ());
                }
            })?;
            self.socket.write_all(out.bytes())?;
            match outcome {
                Ok(Progress::NeedMore) => {}
                Ok(Progress::Complete { .. }) if reader.head().status == 200 => return Ok(()),
                other => return Err(io::Error::other(format!("no good response: {other:?}"))),
            }
        }
    }
}

/// Blocks until something came. The end is an error here: a connection that ends can't be held.
fn receive(
    socket: &mut TcpStream,
    session: Option<&mut Session>,
    out: &mut Outgoing,
    mut sink: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let lead = match &session {
        Some(session) => session.lead_in(&mut buffer).map_err(io::Error::other)?,
        None => 0,
    };
    let end = lead
        + match socket.read(&mut buffer[lead..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => n,
        };
    let Some(session) = session else {
        sink(&buffer[..end]);
        return Ok(());
    };
    session.receive(&mut buffer[..end], out, sink).map_err(io::Error::other)
}
