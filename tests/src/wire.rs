//! HTTP/1.1 as the harness reads it: its own parser, which shares nothing with the engine and forgives nothing. Where
//! RFC 9112 lets a recipient be lenient, this one fails, so that a sloppy byte from the proxy fails a test.

use std::fmt;
use std::io::{ErrorKind, Read};

/// A head or a chunk-size line longer than this is a fault of the sender.
const HEAD_BYTES_MAX: usize = 256 * 1024;

const READ_BYTES: usize = 64 * 1024;

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The peer closed before the first byte of a message: an orderly end.
    Closed,
    /// The peer closed inside a message.
    Truncated(&'static str),
    /// The peer reset the connection.
    Reset,
    /// Nothing came, or nothing was taken, within the socket's patience.
    TimedOut,
    /// The peer broke RFC 9112 in this way.
    Malformed(String),
    /// Any other failure of the socket.
    Io(ErrorKind),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl From<std::io::Error> for WireError {
    fn from(error: std::io::Error) -> WireError {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                WireError::Reset
            }
            ErrorKind::WouldBlock | ErrorKind::TimedOut => WireError::TimedOut,
            kind => WireError::Io(kind),
        }
    }
}

/// A start line and its fields.
#[derive(Clone)]
pub struct Head {
    /// The bytes as they came, the empty line included.
    pub raw: Vec<u8>,
    pub start_line: String,
    /// Names as written, values without the surrounding blanks.
    pub fields: Vec<(String, String)>,
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.raw))
    }
}

impl Head {
    /// The value of a field that must not be repeated.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} is repeated: {values:?}");
        values.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Whether a list-valued field names this token, case aside.
    pub fn names(&self, field: &str, token: &str) -> bool {
        self.all(field)
            .iter()
            .flat_map(|value| value.split(','))
            .any(|member| member.trim_matches([' ', '\t']).eq_ignore_ascii_case(token))
    }

    /// The three parts of the start line. A reason phrase may be empty and may hold blanks.
    pub fn parts(&self) -> (&str, &str, &str) {
        let mut parts = self.start_line.splitn(3, ' ');
        (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""))
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What is known of a body once it has been read to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyEnd {
    pub bytes: u64,
    pub chunks: u64,
    pub extensions: Vec<String>,
    pub trailers: Vec<(String, String)>,
}

/// A stream with what was read ahead of it.
#[derive(Debug)]
pub struct Wire<S> {
    pub stream: S,
    buffer: Vec<u8>,
    start: usize,
}

impl<S: Read> Wire<S> {
    pub fn new(stream: S) -> Wire<S> {
        Wire { stream, buffer: Vec::new(), start: 0 }
    }

    /// What has been read and not yet used.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads once more; 0 is the end of the stream.
    pub fn fill(&mut self) -> Result<usize, WireError> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > READ_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let end = self.buffer.len();
        self.buffer.resize(end + READ_BYTES, 0);
        let got = loop {
            match self.stream.read(&mut self.buffer[end..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(end + *got.as_ref().unwrap_or(&0));
        Ok(got?)
    }

    /// Takes exactly `count` bytes, for protocols that are not HTTP.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, WireError> {
        while self.buffered().len() < count {
            if self.fill()? == 0 {
                return Err(WireError::Truncated("raw bytes"));
            }
        }
        let taken = self.buffered()[..count].to_vec();
        self.start += count;
        Ok(taken)
    }

    /// Takes everything up to the end of the stream.
    pub fn to_end(&mut self) -> Result<Vec<u8>, WireError> {
        while self.fill()? != 0 {}
        let all = self.buffered().to_vec();
        self.start = self.buffer.len();
        Ok(all)
    }

    /// Reads one head: start line, fields, empty line.
    pub fn head(&mut self) -> Result<Head, WireError> {
        let mut searched = 0;
        let end = loop {
            let buffered = self.buffered();
            if let Some(at) = find(&buffered[searched..], b"\r\n\r\n") {
                break searched + at + 4;
            }
            searched = buffered.len().saturating_sub(3);
            let empty = buffered.is_empty();
            if buffered.len() > HEAD_BYTES_MAX {
                return Err(WireError::Malformed("a head without an end".into()));
            }
            if self.fill()? == 0 {
                return Err(if empty { WireError::Closed } else { WireError::Truncated("a head") });
            }
        };
        let raw = self.buffered()[..end].to_vec();
        self.start += end;
        parse_head(raw).map_err(WireError::Malformed)
    }

    /// Reads a body to its end, handing its data to `sink` as it comes.
    pub fn body(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> Result<BodyEnd, WireError> {
        let mut end = BodyEnd::default();
        match framing {
            Framing::None => {}
            Framing::Length(length) => {
                self.data(length, sink)?;
                end.bytes = length;
            }
            Framing::UntilClose => loop {
                let now = self.buffered();
                sink(now);
                end.bytes += now.len() as u64;
                self.start = self.buffer.len();
                if self.fill()? == 0 {
                    break;
                }
            },
            Framing::Chunked => self.chunks(&mut end, sink)?,
        }
        Ok(end)
    }

    fn chunks(&mut self, end: &mut BodyEnd, sink: &mut dyn FnMut(&[u8])) -> Result<(), WireError> {
        loop {
            let line = self.line()?;
            let (digits, extension) =
                line.split_once(';').map_or((line.as_str(), None), |(d, e)| (d, Some(e)));
            let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
            let size = u64::from_str_radix(digits, 16).ok().filter(|_| hex);
            let size = size.ok_or_else(|| WireError::Malformed(format!("chunk-size line {line:?}")))?;
            end.extensions.extend(extension.map(str::to_owned));
            if size == 0 {
                break;
            }
            self.data(size, sink)?;
            end.bytes += size;
            end.chunks += 1;
            if self.exactly(2)? != b"\r\n" {
                return Err(WireError::Malformed("chunk data without its CRLF".into()));
            }
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            end.trailers.push(parse_field(line.as_bytes()).map_err(WireError::Malformed)?);
        }
    }

    fn data(&mut self, length: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), WireError> {
        let mut left = length;
        while left > 0 {
            let now = (self.buffered().len() as u64).min(left) as usize;
            sink(&self.buffered()[..now]);
            self.start += now;
            left -= now as u64;
            if left > 0 && self.fill()? == 0 {
                return Err(WireError::Truncated("a body"));
            }
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, WireError> {
        let mut searched = 0;
        let end = loop {
            if let Some(at) = find(&self.buffered()[searched..], b"\r\n") {
                break searched + at;
            }
            searched = self.buffered().len().saturating_sub(1);
            if searched > HEAD_BYTES_MAX {
                return Err(WireError::Malformed("a line without an end".into()));
            }
            if self.fill()? == 0 {
                return Err(WireError::Truncated("a line of a chunked body"));
            }
        };
        let line = self.buffered()[..end].to_vec();
        self.start += end + 2;
        if line.iter().any(|&b| b == b'\n' || b == b'\r' || b == 0) {
            return Err(WireError::Malformed(format!(
                "a control byte in line {:?}",
                String::from_utf8_lossy(&line)
            )));
        }
        String::from_utf8(line).map_err(|e| WireError::Malformed(e.to_string()))
    }
}

/// How a request's body ends (RFC 9112 section 6.3), with every doubt a fault.
pub fn request_framing(head: &Head) -> Result<Framing, WireError> {
    Ok(declared(head)?.unwrap_or(Framing::None))
}

/// How a response's body ends (RFC 9112 section 6.3), given the method it answers.
pub fn response_framing(head: &Head, status: u16, method: &str) -> Result<Framing, WireError> {
    let declared = declared(head)?;
    let bodiless = status / 100 == 1 || status == 204;
    if bodiless && declared.is_some() {
        return Err(WireError::Malformed(format!("a {status} with a framing field (RFC 9110 section 8.6)")));
    }
    let tunnel = method == "CONNECT" && status / 100 == 2;
    if bodiless || status == 304 || method == "HEAD" || tunnel {
        return Ok(Framing::None);
    }
    Ok(declared.unwrap_or(Framing::UntilClose))
}

fn declared(head: &Head) -> Result<Option<Framing>, WireError> {
    let malformed = |what: String| Err(WireError::Malformed(what));
    match (head.all("transfer-encoding").as_slice(), head.all("content-length").as_slice()) {
        ([], []) => Ok(None),
        (["chunked"], []) => Ok(Some(Framing::Chunked)),
        ([], [length]) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            match length.parse() {
                Ok(length) => Ok(Some(Framing::Length(length))),
                Err(_) => malformed(format!("content-length {length}")),
            }
        }
        (codings, lengths) => malformed(format!("transfer-encoding {codings:?}, content-length {lengths:?}")),
    }
}

/// Parses a head, its empty line included.
pub fn parse_head(raw: Vec<u8>) -> Result<Head, String> {
    let shown = || String::from_utf8_lossy(&raw).into_owned();
    let text = raw.strip_suffix(b"\r\n\r\n").ok_or_else(|| format!("no empty line: {:?}", shown()))?;
    let mut lines = text.split(|&b| b == b'\n').peekable();
    let mut taken = Vec::new();
    while let Some(line) = lines.next() {
        let line = match lines.peek() {
            Some(_) => line.strip_suffix(b"\r").ok_or_else(|| format!("a bare LF: {:?}", shown()))?,
            None => line,
        };
        if let Some(bad) = line.iter().find(|&&b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(format!("control byte {bad:#04x} in {:?}", shown()));
        }
        taken.push(line);
    }
    let start_line = String::from_utf8(taken[0].to_vec()).map_err(|e| e.to_string())?;
    if start_line.split(' ').take(2).any(str::is_empty) || start_line.contains('\t') {
        return Err(format!("start line {start_line:?}"));
    }
    let fields = taken[1..].iter().map(|line| parse_field(line)).collect::<Result<Vec<_>, _>>()?;
    Ok(Head { raw, start_line, fields })
}

fn parse_field(line: &[u8]) -> Result<(String, String), String> {
    let shown = String::from_utf8_lossy(line).into_owned();
    let colon = line.iter().position(|&b| b == b':').ok_or_else(|| format!("no colon in field {shown:?}"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    // RFC 9110 section 5.6.2: a field's name is a token, which also rules out blanks before the colon and folding.
    if name.is_empty() || !name.iter().all(|&b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    {
        return Err(format!("field name in {shown:?}"));
    }
    let value = String::from_utf8_lossy(value);
    let value = value.trim_matches([' ', '\t']);
    Ok((String::from_utf8_lossy(name).into_owned(), value.to_owned()))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::{Framing, Wire, WireError, parse_head, request_framing, response_framing};

    #[test]
    fn strict_heads() {
        let table: &[(&str, bool)] = &[
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("HTTP/1.1 200 \r\nA:\r\n\r\n", true),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", false),
            ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", false),
            ("GET  HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nA\r\n\r\n", false),
        ];
        for (raw, fine) in table {
            assert_eq!(parse_head(raw.as_bytes().to_vec()).is_ok(), *fine, "{raw:?}");
        }
    }

    #[test]
    fn strict_framing() {
        let table: &[(&str, Option<Framing>)] = &[
            ("", Some(Framing::None)),
            ("Content-Length: 5\r\n", Some(Framing::Length(5))),
            ("Transfer-Encoding: chunked\r\n", Some(Framing::Chunked)),
            ("Content-Length: +5\r\n", None),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", None),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding: gzip, chunked\r\n", None),
        ];
        for (fields, expected) in table {
            let head = parse_head(format!("POST / HTTP/1.1\r\n{fields}\r\n").into_bytes()).unwrap();
            assert_eq!(request_framing(&head).ok(), *expected, "{fields:?}");
        }
        let head = parse_head(b"HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n".to_vec()).unwrap();
        assert!(response_framing(&head, 204, "GET").is_err());
        let head = parse_head(b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\n".to_vec()).unwrap();
        assert_eq!(response_framing(&head, 200, "HEAD"), Ok(Framing::None));
        assert_eq!(response_framing(&head, 304, "GET"), Ok(Framing::None));
    }

    #[test]
    fn strict_chunks() {
        let table: &[(&str, Result<&str, bool>)] = &[
            ("3\r\nabc\r\n0\r\n\r\n", Ok("abc")),
            ("1;x=y\r\na\r\n2\r\nbc\r\n0\r\nT: v\r\n\r\n", Ok("abc")),
            ("3\nabc\r\n0\r\n\r\n", Err(true)),
            ("0x3\r\nabc\r\n0\r\n\r\n", Err(true)),
            ("3\r\nabcd\r\n0\r\n\r\n", Err(true)),
            ("3\r\nabc\r\n0\r\n", Err(false)),
            ("3\r\nab", Err(false)),
        ];
        for (raw, expected) in table {
            let mut data = Vec::new();
            let end =
                Wire::new(raw.as_bytes()).body(Framing::Chunked, &mut |piece| data.extend_from_slice(piece));
            match expected {
                Ok(text) => {
                    assert_eq!((end.map(|e| e.bytes), data.as_slice()), (Ok(3), text.as_bytes()), "{raw:?}");
                }
                Err(true) => assert!(matches!(end, Err(WireError::Malformed(_))), "{raw:?}: {end:?}"),
                Err(false) => assert!(matches!(end, Err(WireError::Truncated(_))), "{raw:?}: {end:?}"),
            }
        }
    }

    #[test]
    fn heads_follow_each_other() {
        let mut wire = Wire::new(&b"HTTP/1.1 103 \r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\nrest"[..]);
        assert_eq!(wire.head().unwrap().parts(), ("HTTP/1.1", "103", ""));
        assert_eq!(wire.head().unwrap().field("a"), Some("b"));
        assert_eq!(wire.to_end().unwrap(), b"rest");
        assert_eq!(wire.head().unwrap_err(), WireError::Closed);
    }
}
