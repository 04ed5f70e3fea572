//! The raw client: sends exactly the bytes it is given, in the pieces it is given, and reads answers strictly.

use crate::payload::Payload;
use crate::stream::{Address, Stream};
use crate::wait::PATIENCE;
use crate::wire::{BodyEnd, Framing, Head, Wire, WireError, response_framing};
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// How much of a body a [`Response`] keeps; more is counted only.
pub const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// A final answer, with the interim ones that came before it.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    pub interim: Vec<Head>,
    pub framing: Framing,
    /// The body's first [`KEPT_BYTES_MAX`] bytes.
    pub body: Vec<u8>,
    pub end: BodyEnd,
}

impl Response {
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the sender says that this connection ends with this answer.
    pub fn closes(&self) -> bool {
        self.head.names("connection", "close")
    }

    /// Asserts the status, and shows the whole answer when it is another.
    #[track_caller]
    #[allow(clippy::return_self_not_must_use, reason = "the assertion is often all that is wanted")]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{}\n{}", self.head.start_line, self.text());
        self
    }
}

#[derive(Debug)]
pub struct Client {
    pub wire: Wire<Stream>,
}

impl Client {
    #[track_caller]
    pub fn connect(address: impl Into<Address>) -> Client {
        let address = address.into();
        Client::try_connect(&address).unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    pub fn try_connect(address: &Address) -> io::Result<Client> {
        Stream::connect(address).map(|stream| Client { wire: Wire::new(stream) })
    }

    /// Connects with a small receive buffer, so that not reading is felt by the sender at once.
    #[track_caller]
    pub fn connect_narrow(address: SocketAddr, receive_bytes: usize) -> Client {
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)
            .expect("a socket");
        // Set before connecting, since the window scale is agreed on in the handshake.
        socket.set_recv_buffer_size(receive_bytes).expect("a receive buffer");
        socket.connect(&address.into()).expect("a connection");
        let stream = Stream::Tcp(socket.into());
        stream.prepare().expect("socket options");
        Client { wire: Wire::new(stream) }
    }

    /// Sends in one write, as far as the kernel takes it in one.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("sending");
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.stream.write_all(bytes)
    }

    /// Sends in pieces cut at these offsets; each piece is a segment of its own (no Nagle).
    pub fn send_split(&mut self, bytes: &[u8], cuts: &[usize]) -> io::Result<()> {
        let mut from = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            let cut = cut.min(bytes.len());
            if cut > from {
                self.try_send(&bytes[from..cut])?;
                // Lets the other side run between two pieces on a busy machine.
                thread::yield_now();
                from = cut;
            }
        }
        Ok(())
    }

    /// Sends byte by byte.
    pub fn send_bytewise(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send_split(bytes, &(1..bytes.len()).collect::<Vec<_>>())
    }

    /// A GET with a Host field and nothing else.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.send(get(target));
        self.response("GET")
    }

    /// Sends a request and reads its answer.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Response {
        self.send(request);
        self.response(request.split(' ').next().unwrap_or("GET"))
    }

    #[track_caller]
    pub fn response(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|error| panic!("no answer to {method}: {error}"))
    }

    pub fn try_response(&mut self, method: &str) -> Result<Response, WireError> {
        let mut body = Vec::new();
        let mut response = self.response_into(method, &mut |piece| {
            let room = KEPT_BYTES_MAX - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
        })?;
        response.body = body;
        Ok(response)
    }

    /// Reads an answer whose body must be this payload.
    #[track_caller]
    pub fn response_of(&mut self, method: &str, payload: Payload) -> Response {
        let mut checker = payload.checker();
        let response = self
            .response_into(method, &mut |piece| checker.feed(piece))
            .unwrap_or_else(|error| panic!("no whole answer to {method}: {error}"));
        checker.verdict().unwrap_or_else(|wrong| panic!("{}: {wrong}", response.head.start_line));
        response
    }

    /// Reads an answer, handing its body to `sink` as it comes.
    pub fn response_into(
        &mut self,
        method: &str,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Response, WireError> {
        let mut interim = Vec::new();
        let (head, status) = loop {
            let (head, status) = self.response_head()?;
            // 101 ends HTTP on this connection; any other 1xx comes before the final answer (RFC 9110 section 15.2).
            if status / 100 == 1 && status != 101 {
                interim.push(head);
            } else {
                break (head, status);
            }
        };
        let framing = response_framing(&head, status, method)?;
        let framing = if status == 101 { Framing::None } else { framing };
        let end = self.wire.body(framing, sink)?;
        Ok(Response { status, head, interim, framing, body: Vec::new(), end })
    }

    /// Reads one response head, interim or final.
    pub fn response_head(&mut self) -> Result<(Head, u16), WireError> {
        let head = self.wire.head()?;
        let (version, code, _) = head.parts();
        if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || code.len() != 3 {
            return Err(WireError::Malformed(format!("status line {:?}", head.start_line)));
        }
        let status = code.parse().map_err(|_| WireError::Malformed(format!("status {code:?}")))?;
        Ok((head, status))
    }

    /// Asserts that the peer ends the connection without another byte. A reset counts: a server that closes with
    /// unread input can't avoid it.
    #[track_caller]
    pub fn expect_end(&mut self) {
        match self.wire.to_end() {
            Ok(rest) => assert!(rest.is_empty(), "bytes after the end: {:?}", String::from_utf8_lossy(&rest)),
            Err(WireError::Reset) => {}
            Err(error) => panic!("the connection was not closed: {error}"),
        }
    }

    /// Asserts that the connection is still open and silent after `quiet`.
    #[track_caller]
    pub fn expect_open(&mut self, quiet: Duration) {
        self.wire.stream.read_patience(quiet).expect("socket options");
        let started = Instant::now();
        let got = self.wire.fill();
        assert_eq!(got, Err(WireError::TimedOut), "after {:?}", started.elapsed());
        self.wire.stream.read_patience(PATIENCE).expect("socket options");
    }

    /// Says that nothing more will be sent, and keeps reading.
    #[track_caller]
    pub fn half_close(&mut self) {
        self.wire.stream.shutdown(Shutdown::Write).expect("half-close");
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        self.wire.stream.reset_on_close().expect("SO_LINGER");
    }
}

/// A GET request for `target`.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// A POST request with a Content-Length body.
pub fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// `body` as chunks of at most `chunk_bytes`, with the last chunk and no trailers.
pub fn chunked(body: &[u8], chunk_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(chunk_bytes) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::{Client, chunked, get, post};
    use crate::origin::{After, BodyKind, Origin, scripted};
    use crate::payload::Payload;
    use crate::wire::{Framing, WireError};
    use std::time::Duration;

    /// Client and origin agree with each other before a proxy stands between them.
    #[test]
    fn client_and_origin_agree() {
        let origin = Origin::start();
        let mut client = Client::connect(origin.address().clone());
        assert_eq!(client.get("/a").expect(200).text(), "GET /a");
        assert_eq!(client.ask(&post("/b", "body")).expect(200).text(), "body");
        let head = "POST /c HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send_bytewise(&[head.as_bytes(), &chunked(b"0123456789", 3)].concat()).unwrap();
        assert_eq!(client.response("POST").expect(200).text(), "0123456789");
        assert_eq!((origin.accepted(), origin.request_count()), (1, 3));
        assert_eq!(origin.requests()[2].end.as_ref().map(|end| (end.bytes, end.chunks)), Some((10, 4)));
    }

    #[test]
    fn every_kind_of_body_arrives() {
        let payload = Payload::new(3, 100_000);
        for (kind, framing) in [
            (BodyKind::Length, Framing::Length(100_000)),
            (BodyKind::Chunked(999), Framing::Chunked),
            (BodyKind::UntilClose, Framing::UntilClose),
            (BodyKind::Http10, Framing::UntilClose),
        ] {
            let origin = Origin::with(move |exchange| exchange.reply_payload(kind, payload));
            let mut client = Client::connect(origin.address().clone());
            client.send(get("/"));
            assert_eq!(client.response_of("GET", payload).framing, framing);
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let origin = Origin::with(|exchange| match exchange.target() {
            "/close" => Ok(After::Close),
            "/reset" => Ok(After::Reset),
            "/half" => {
                exchange.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")?;
                Ok(After::Close)
            }
            _ => scripted(exchange),
        });
        for (target, expected) in [
            ("/close", WireError::Closed),
            ("/reset", WireError::Reset),
            ("/half", WireError::Truncated("a body")),
        ] {
            let mut client = Client::connect(origin.address().clone());
            client.send(get(target));
            assert_eq!(client.try_response("GET").err(), Some(expected), "{target}");
        }
        let mut client = Client::connect(origin.address().clone());
        client.get("/").expect(200);
        client.expect_open(Duration::from_millis(20));
        origin.cut_connections();
        client.expect_end();
    }

    #[test]
    fn a_wrong_upload_is_noticed() {
        let origin = Origin::start();
        let mut client = Client::connect(origin.address().clone());
        client.send("POST / HTTP/1.1\r\nHost: test\r\nX-Seed: 1\r\nContent-Length: 5\r\n\r\nwrong");
        client.expect_end();
        assert!(matches!(origin.await_finished(0).failure, Some(WireError::Malformed(_))));
    }
}
