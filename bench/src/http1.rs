//! HTTP/1.1 as a load generator and an origin need it, without any I/O: bytes in, progress out.
//!
//! Called by `load` (responses) and by `origin` (request bodies). It is not a validating proxy parser: it
//! refuses what it can't frame with certainty and reports the rest as it stands. It keeps no body bytes.

use std::ops::Range;

/// A head longer than this is refused: no server that we measure sends one by design.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Header fields in one head.
pub const HEADERS_MAX: usize = 128;
/// A chunk-size line with its extensions, or one trailer line.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    Head,
    HeadTooLong,
    /// `Transfer-Encoding` other than `chunked`, or a `Content-Length` that is no number or contradicts another.
    Framing,
    Chunk,
    /// A 101 that nobody asked for.
    Upgrade,
}

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Until the peer closes; never for requests.
    Close,
}

/// Where a body stands. Feed it what arrived; it says how much of that belonged to the body.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    ExpectBytes { left: u64 },
    ExpectChunk(Chunk),
    ExpectClose,
    Complete,
}

#[derive(Debug, Clone, Copy)]
pub enum Chunk {
    /// In the size line; `extension` is true once the digits are over.
    Size {
        size: u64,
        digits: u8,
        line_bytes: u16,
        extension: bool,
    },
    Data {
        left: u64,
    },
    /// The CR LF after a chunk's data.
    DataEnd {
        seen_cr: bool,
    },
    /// Trailer section; `line_bytes` counts the current line, without its CR.
    Trailer {
        line_bytes: u16,
    },
    End,
}

impl Chunk {
    const START: Self = Self::Size { size: 0, digits: 0, line_bytes: 0, extension: false };
}

impl Body {
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(0) => Self::Complete,
            Framing::Length(left) => Self::ExpectBytes { left },
            Framing::Chunked => Self::ExpectChunk(Chunk::START),
            Framing::Close => Self::ExpectClose,
        }
    }

    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }

    /// Bytes that may be thrown away unread: they are body data whatever they hold.
    pub fn opaque_bytes(&self) -> u64 {
        match *self {
            Self::ExpectBytes { left } | Self::ExpectChunk(Chunk::Data { left }) => left,
            Self::ExpectClose => u64::MAX,
            _ => 0,
        }
    }

    /// Takes from `data` what belongs to this body, hands its payload to `sink`, and returns the bytes taken.
    pub fn feed(&mut self, data: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < data.len() {
            let rest = &data[at..];
            match self {
                Self::Complete => break,
                Self::ExpectClose => {
                    sink(rest);
                    at = data.len();
                }
                Self::ExpectBytes { left } => {
                    let n = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    sink(&rest[..n]);
                    at += n;
                    *left -= n as u64;
                    if *left == 0 {
                        *self = Self::Complete;
                    }
                }
                Self::ExpectChunk(chunk) => {
                    at += chunk.feed(rest, &mut sink)?;
                    if matches!(chunk, Chunk::End) {
                        *self = Self::Complete;
                    }
                }
            }
        }
        Ok(at)
    }

    /// Accounts for bytes discarded without being read, at most [`Body::opaque_bytes`].
    pub fn skip(&mut self, n: u64) {
        match self {
            Self::ExpectBytes { left } => {
                *left -= n;
                if *left == 0 {
                    *self = Self::Complete;
                }
            }
            Self::ExpectChunk(chunk @ Chunk::Data { .. }) => chunk.take_data(n),
            _ => {}
        }
    }
}

impl Chunk {
    fn take_data(&mut self, n: u64) {
        if let Self::Data { left } = self {
            *left -= n;
            if *left == 0 {
                *self = Self::DataEnd { seen_cr: false };
            }
        }
    }

    /// One step: either a run of data or one byte of framing.
    fn feed(&mut self, data: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let byte = data[0];
        match self {
            Self::Data { left } => {
                let n = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                sink(&data[..n]);
                self.take_data(n as u64);
                return Ok(n);
            }
            Self::DataEnd { seen_cr } => match (byte, *seen_cr) {
                (b'\r', false) => *seen_cr = true,
                (b'\n', true) => *self = Self::START,
                _ => return Err(Malformed::Chunk),
            },
            Self::Size { size, digits, line_bytes, extension } => {
                *line_bytes += 1;
                if usize::from(*line_bytes) > CHUNK_LINE_BYTES_MAX {
                    return Err(Malformed::Chunk);
                }
                match (byte, char::from(byte).to_digit(16)) {
                    (b'\n', _) if *digits > 0 => {
                        *self = match *size {
                            0 => Self::Trailer { line_bytes: 0 },
                            left => Self::Data { left },
                        };
                    }
                    (_, Some(digit)) if !*extension => {
                        // 15 digits keep clear of an overflow, and no body is that long.
                        if *digits == 15 {
                            return Err(Malformed::Chunk);
                        }
                        *digits += 1;
                        *size = *size << 4 | u64::from(digit);
                    }
                    (b'\r' | b';' | b' ' | b'\t', _) if *digits > 0 => *extension = true,
                    _ if *extension => {}
                    _ => return Err(Malformed::Chunk),
                }
            }
            Self::Trailer { line_bytes } => match byte {
                b'\n' if *line_bytes == 0 => *self = Self::End,
                b'\n' => *line_bytes = 0,
                b'\r' => {}
                _ if usize::from(*line_bytes) >= CHUNK_LINE_BYTES_MAX => return Err(Malformed::Chunk),
                _ => *line_bytes += 1,
            },
            Self::End => return Ok(0),
        }
        Ok(1)
    }
}

/// What a message's headers say about its body and its connection.
#[derive(Debug, Clone, Copy, Default)]
struct FramingFields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl FramingFields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        for header in headers {
            // The length of the name singles out the three fields before any letter is compared.
            match header.name.len() {
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for token in header.value.split(|&b| b == b',') {
                        let token = token.trim_ascii();
                        fields.close |= token.eq_ignore_ascii_case(b"close");
                        fields.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let value = header.value.trim_ascii();
                    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                    let length = std::str::from_utf8(value).ok().filter(|_| digits);
                    let length = length.and_then(|v| v.parse().ok()).ok_or(Malformed::Framing)?;
                    if fields.length.is_some_and(|other| other != length) {
                        return Err(Malformed::Framing);
                    }
                    fields.length = Some(length);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed::Framing);
                    }
                    fields.chunked = true;
                }
                _ => {}
            }
        }
        // RFC 9112, section 6.1: both together must not be sent; a load generator reports it, not guesses.
        if fields.chunked && fields.length.is_some() {
            return Err(Malformed::Framing);
        }
        Ok(fields)
    }
}

/// Framing of a request's body, and whether the client wants the connection kept.
pub fn request_framing(
    version_minor: u8,
    headers: &[httparse::Header<'_>],
) -> Result<(Framing, bool), Malformed> {
    let fields = FramingFields::read(headers)?;
    let framing = match (fields.chunked, fields.length) {
        (true, _) => Framing::Chunked,
        (false, length) => Framing::Length(length.unwrap_or(0)),
    };
    let keep_alive = !fields.close && (version_minor == 1 || fields.keep_alive);
    Ok((framing, keep_alive))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyExpected {
    AsFramed,
    /// The answer to a HEAD request.
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    pub framing: Framing,
    pub keep_alive: bool,
}

/// Parses one response head. `Ok(None)`: more bytes are needed.
pub fn parse_response_head(data: &[u8], body: BodyExpected) -> Result<Option<(Head, usize)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(data) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if data.len() >= HEAD_BYTES_MAX => return Err(Malformed::HeadTooLong),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed::Head),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else { return Err(Malformed::Head) };
    let fields = FramingFields::read(response.headers)?;
    // RFC 9112, section 6.3, rules 1, 4, 6 and 8.
    let framing = match (status, body) {
        (101, _) => return Err(Malformed::Upgrade),
        (100..=199 | 204 | 304, _) | (_, BodyExpected::Never) => Framing::Length(0),
        _ if fields.chunked => Framing::Chunked,
        _ => fields.length.map_or(Framing::Close, Framing::Length),
    };
    let keep_alive = !fields.close && (minor == 1 || fields.keep_alive) && framing != Framing::Close;
    Ok(Some((Head { status, framing, keep_alive }, head_bytes)))
}

/// Reads the responses of one connection, one after another.
#[derive(Debug)]
pub struct ResponseReader {
    state: ReaderState,
    body_expected: BodyExpected,
    head: Head,
    body_bytes: u64,
    /// The bytes of a head that arrived in pieces. Empty, without memory, otherwise.
    partial_head: Vec<u8>,
    /// The previous head and what it meant: servers repeat themselves, and comparing 200 bytes costs
    /// 8 ns where parsing them costs 160 (`cargo bench -p ringway-bench`, "response head").
    last_head: Vec<u8>,
    last: Head,
}

#[derive(Debug, Clone, Copy)]
enum ReaderState {
    ExpectHead,
    ExpectBody(Body),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    NeedMore,
    /// The response has ended after so many bytes of what was fed.
    Complete {
        consumed: usize,
    },
}

const NO_HEAD: Head = Head { status: 0, framing: Framing::Close, keep_alive: false };

impl ResponseReader {
    pub fn new(body_expected: BodyExpected) -> Self {
        Self {
            state: ReaderState::ExpectHead,
            body_expected,
            head: NO_HEAD,
            body_bytes: 0,
            partial_head: Vec::new(),
            last_head: Vec::new(),
            last: NO_HEAD,
        }
    }

    /// Awaits the next response; `body_expected` belongs to the request just sent.
    pub fn start(&mut self, body_expected: BodyExpected) {
        self.state = ReaderState::ExpectHead;
        self.partial_head.clear();
        self.body_bytes = 0;
        if body_expected != self.body_expected {
            self.last_head.clear();
            self.body_expected = body_expected;
        }
    }

    /// The head of the response being read. Meaningful once a byte of its body was seen or it is complete.
    pub fn head(&self) -> Head {
        self.head
    }

    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    pub fn opaque_bytes(&self) -> u64 {
        match &self.state {
            ReaderState::ExpectHead => 0,
            ReaderState::ExpectBody(body) => body.opaque_bytes(),
        }
    }

    /// Accounts for `n` body bytes that were discarded unread. True if they ended the response.
    pub fn skip(&mut self, n: u64) -> bool {
        let ReaderState::ExpectBody(body) = &mut self.state else { return false };
        body.skip(n);
        self.body_bytes += n;
        body.is_complete()
    }

    /// True if the peer's close right now is the proper end of the response.
    pub fn ends_at_close(&self) -> bool {
        matches!(self.state, ReaderState::ExpectBody(Body::ExpectClose))
    }

    /// True once the final head has been read.
    pub fn is_in_body(&self) -> bool {
        matches!(self.state, ReaderState::ExpectBody(_))
    }

    pub fn feed(&mut self, data: &[u8], mut sink: impl FnMut(&[u8])) -> Result<Progress, Malformed> {
        let mut at = 0;
        loop {
            match &mut self.state {
                ReaderState::ExpectHead => match self.take_head(&data[at..])? {
                    None => return Ok(Progress::NeedMore),
                    Some(taken) => {
                        at += taken;
                        // Interim responses (RFC 9110, section 15.2) are followed by the final one.
                        if self.head.status >= 200 {
                            self.state = ReaderState::ExpectBody(Body::new(self.head.framing));
                        }
                    }
                },
                ReaderState::ExpectBody(body) => {
                    let body_bytes = &mut self.body_bytes;
                    at += body.feed(&data[at..], |bytes| {
                        *body_bytes += bytes.len() as u64;
                        sink(bytes);
                    })?;
                    let complete = body.is_complete();
                    return Ok(if complete {
                        Progress::Complete { consumed: at }
                    } else {
                        Progress::NeedMore
                    });
                }
            }
        }
    }

    /// Returns how many bytes of `data` the head took, or None after keeping them for later.
    fn take_head(&mut self, data: &[u8]) -> Result<Option<usize>, Malformed> {
        if self.partial_head.is_empty() {
            if !self.last_head.is_empty() && data.starts_with(&self.last_head) {
                self.head = self.last;
                return Ok(Some(self.last_head.len()));
            }
            let Some((head, head_bytes)) = parse_response_head(data, self.body_expected)? else {
                self.partial_head.extend_from_slice(data);
                return Ok(None);
            };
            self.remember(head, head_bytes, data);
            return Ok(Some(head_bytes));
        }
        let before = self.partial_head.len();
        self.partial_head.extend_from_slice(data);
        let Some((head, head_bytes)) = parse_response_head(&self.partial_head, self.body_expected)? else {
            return Ok(None);
        };
        self.head = head;
        self.partial_head = Vec::new();
        Ok(Some(head_bytes - before))
    }

    fn remember(&mut self, head: Head, head_bytes: usize, data: &[u8]) {
        self.head = head;
        self.last = head;
        self.last_head.clear();
        self.last_head.extend_from_slice(&data[..head_bytes]);
    }
}

/// Finds the value of `name` in a query string: `a=1&b&c=3`. A key without a value gives "".
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// Where the parts of an `http://` or `unix:` URL stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlParts {
    pub scheme: String,
    pub authority: Range<usize>,
    /// Path with its query; empty means "/".
    pub path: Range<usize>,
}

/// Splits `scheme://authority/path?query`, dropping a fragment.
pub fn split_url(url: &str) -> Option<UrlParts> {
    let scheme_end = url.find("://")?;
    let authority_start = scheme_end + 3;
    let end = url.find('#').unwrap_or(url.len());
    let tail = url.get(authority_start..end)?;
    let path_start = tail.find(['/', '?']).map_or(end, |at| authority_start + at);
    let authority = authority_start..path_start;
    let printable = url.bytes().all(|b| b.is_ascii_graphic());
    (printable && !authority.is_empty()).then(|| UrlParts {
        scheme: url[..scheme_end].to_ascii_lowercase(),
        authority,
        path: path_start..end,
    })
}

#[cfg(test)]
mod tests;
