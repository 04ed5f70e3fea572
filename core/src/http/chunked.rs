//! The chunked transfer coding (RFC 9112 section 7.1), both ways, without touching the data.
//!
//! The decoder looks at a buffer and says what its first bytes are; it copies nothing and holds no bytes, so the caller
//! forwards them verbatim, frames them afresh, or splices the data past it. A line is looked at only when it is whole:
//! until then `next` says `NeedMore` and the caller keeps the bytes, at most `CHUNK_LINE_BYTES_MAX` or
//! `TRAILER_BYTES_MAX` of them.
//!
//! Strict, for an origin that reads a size otherwise than we do takes the rest of the body for a request: CRLF only, one
//! to sixteen hexadecimal digits and nothing around them, extensions by their grammar. A caller that forwards verbatim
//! should write a clean size line in place of one that `had_extension`, since parsers differ on extensions most.

use std::fmt;

use httparse::Status as Parse;

use crate::base::limits::{
    CHUNK_EXCESS_BYTES_MAX, CHUNK_LINE_BYTES_MAX, HEADER_COUNT_MAX, TRAILER_BYTES_MAX,
};
use crate::base::reason::ReasonCode;
use crate::http::grammar::{eq_folding_underscore, is_tchar, is_token, trim};
use crate::http::message::{FieldIndex, FieldSet, Fields};

/// What the first bytes of the input are. `bytes` of them are dealt with: the next call starts after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEvent {
    /// Not enough to tell. Nothing was consumed.
    NeedMore,
    /// A chunk-size line. `size` is 0 for the last chunk, whose line `End` follows.
    Size { bytes: usize, size: u64, had_extension: bool },
    /// Content: all of it that belongs to this chunk and is in the input, never 0.
    Data { bytes: usize },
    /// The CRLF after a chunk's data.
    DataEnd { bytes: usize },
    /// The trailer section with its closing CRLF; just 2 bytes when it has no fields. The body ends here. Give the
    /// section to `parse_trailers`.
    End { bytes: usize },
}

/// Where the decoder stands.
///
/// ```text
/// ExpectSize ── size > 0 ──> ExpectData ── all of it ──> ExpectDataEnd ── CRLF ──> ExpectSize
///      └─────── size = 0 ──> ExpectTrailers ── empty line ──> Ended
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ExpectSize,
    ExpectData { left: u64 },
    ExpectDataEnd,
    ExpectTrailers,
    Ended,
}

/// Decodes one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkedDecoder {
    state: State,
    /// Framing bytes beyond what is fair, see `CHUNK_EXCESS_BYTES_MAX`.
    excess_bytes: u64,
}

/// Why a chunked body is refused. The connection can't be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkError {
    /// No digits, a prefix, a sign, white space, anything but CRLF or ';' after the digits.
    Size,
    /// More than 16 digits.
    SizeOverflow,
    /// Not by the grammar of RFC 9112 section 7.1.1.
    Extension,
    /// A size line beyond `CHUNK_LINE_BYTES_MAX`.
    LineTooLong,
    /// Too much framing for too little data.
    Excess,
    /// No CRLF after the data.
    DataEnd,
    /// LF without CR or CR without LF in the trailer section, a NUL, or a line that starts with no field name.
    TrailerLine,
    /// A trailer section beyond `TRAILER_BYTES_MAX`.
    TrailerTooLong,
    /// The section isn't field lines, or has more than `HEADER_COUNT_MAX`.
    TrailerField,
}

impl ChunkError {
    /// A stable code for logs and metrics. From a client it is a 400, from an origin the response is cut off.
    pub fn reason(self) -> ReasonCode {
        match self {
            ChunkError::Size => ReasonCode::ChunkSize,
            ChunkError::SizeOverflow => ReasonCode::ChunkSizeOverflow,
            ChunkError::Extension => ReasonCode::ChunkExtension,
            ChunkError::LineTooLong => ReasonCode::ChunkLineBytes,
            ChunkError::Excess => ReasonCode::ChunkExcess,
            ChunkError::DataEnd => ReasonCode::ChunkDataEnd,
            ChunkError::TrailerLine => ReasonCode::TrailerLine,
            ChunkError::TrailerTooLong => ReasonCode::TrailerBytes,
            ChunkError::TrailerField => ReasonCode::TrailerField,
        }
    }
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chunked body refused: {}", self.reason())
    }
}

impl std::error::Error for ChunkError {}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        ChunkedDecoder::new()
    }
}

impl ChunkedDecoder {
    pub const fn new() -> Self {
        ChunkedDecoder { state: State::ExpectSize, excess_bytes: 0 }
    }

    /// What `input` starts with. After `Ended` it says `End { bytes: 0 }`.
    #[inline]
    pub fn next(&mut self, input: &[u8]) -> Result<ChunkEvent, ChunkError> {
        match self.state {
            State::ExpectSize => self.size_line(input),
            State::ExpectData { .. } if input.is_empty() => Ok(ChunkEvent::NeedMore),
            State::ExpectData { left } => {
                let bytes = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                self.advance_data(bytes as u64);
                Ok(ChunkEvent::Data { bytes })
            }
            State::ExpectDataEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::ExpectSize;
                    Ok(ChunkEvent::DataEnd { bytes: 2 })
                }
                [] | [b'\r'] => Ok(ChunkEvent::NeedMore),
                _ => Err(ChunkError::DataEnd),
            },
            State::ExpectTrailers => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::Ended;
                    Ok(ChunkEvent::End { bytes: 2 })
                }
                _ => self.trailer_section(input),
            },
            State::Ended => Ok(ChunkEvent::End { bytes: 0 }),
        }
    }

    /// Bytes of the current chunk's data that are still to come: what may be spliced around the decoder.
    #[inline]
    pub fn remaining_in_chunk(&self) -> u64 {
        match self.state {
            State::ExpectData { left } => left,
            State::ExpectSize | State::ExpectDataEnd | State::ExpectTrailers | State::Ended => 0,
        }
    }

    /// Counts data that the caller moved by itself, at most `remaining_in_chunk`; what is more isn't counted.
    #[inline]
    pub fn advance_data(&mut self, bytes: u64) {
        if let State::ExpectData { left } = &mut self.state {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.state = State::ExpectDataEnd;
            }
        }
    }

    #[inline]
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    #[inline]
    fn size_line(&mut self, input: &[u8]) -> Result<ChunkEvent, ChunkError> {
        let mut size = 0u64;
        let mut digit_count = 0;
        let mut rest = input;
        while let [byte, tail @ ..] = rest {
            let value = HEX[*byte as usize];
            if value == NOT_HEX {
                break;
            }
            if digit_count == 16 {
                return Err(ChunkError::SizeOverflow);
            }
            size = size << 4 | u64::from(value);
            digit_count += 1;
            rest = tail;
        }
        let (line_bytes, had_extension) = match rest {
            [] => return Ok(ChunkEvent::NeedMore),
            _ if digit_count == 0 => return Err(ChunkError::Size),
            [b'\r', b'\n', ..] => (digit_count + 2, false),
            [b'\r'] => return Ok(ChunkEvent::NeedMore),
            [b';' | b' ' | b'\t', ..] => match extension_bytes(input, digit_count)? {
                Some(line_bytes) => (line_bytes, true),
                None => return Ok(ChunkEvent::NeedMore),
            },
            _ => return Err(ChunkError::Size),
        };
        // Fair: 16 bytes for each chunk and twice its data. What exceeds it adds up, what falls short pays it back.
        let fair = 16u64.saturating_add(size.saturating_mul(2));
        self.excess_bytes = (self.excess_bytes + line_bytes as u64 + 2).saturating_sub(fair);
        if self.excess_bytes > CHUNK_EXCESS_BYTES_MAX {
            return Err(ChunkError::Excess);
        }
        self.state = if size == 0 { State::ExpectTrailers } else { State::ExpectData { left: size } };
        Ok(ChunkEvent::Size { bytes: line_bytes, size, had_extension })
    }

    #[cold]
    fn trailer_section(&mut self, input: &[u8]) -> Result<ChunkEvent, ChunkError> {
        let window = &input[..input.len().min(TRAILER_BYTES_MAX)];
        let mut line = 0;
        loop {
            let rest = &window[line..];
            match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::Ended;
                    return Ok(ChunkEvent::End { bytes: line + 2 });
                }
                [] | [b'\r'] => break,
                [first, ..] if !is_tchar(*first) => return Err(ChunkError::TrailerLine),
                _ => {}
            }
            let Some(end) = memchr::memchr3(b'\r', b'\n', 0, rest) else { break };
            match rest[end..] {
                [b'\r', b'\n', ..] => line += end + 2,
                [b'\r'] => break,
                _ => return Err(ChunkError::TrailerLine),
            }
        }
        if window.len() == TRAILER_BYTES_MAX {
            Err(ChunkError::TrailerTooLong)
        } else {
            Ok(ChunkEvent::NeedMore)
        }
    }
}

const NOT_HEX: u8 = 0xff;

static HEX: [u8; 256] = {
    let mut table = [NOT_HEX; 256];
    let mut index = 0;
    while index < 256 {
        let byte = index as u8;
        table[index] = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => NOT_HEX,
        };
        index += 1;
    }
    table
};

/// The length of the whole size line, extensions and CRLF included, if it is all there:
/// `*( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] )`, RFC 9112 section 7.1.1. White space is allowed
/// around ';' and '=' only, not before the CRLF. `at` is where the digits end.
#[cold]
fn extension_bytes(input: &[u8], at: usize) -> Result<Option<usize>, ChunkError> {
    let window = &input[..input.len().min(CHUNK_LINE_BYTES_MAX)];
    match scan_extensions(window, at) {
        Scan::Line(bytes) => Ok(Some(bytes)),
        Scan::Bad if !trim(&window[at..]).starts_with(b";") => Err(ChunkError::Size),
        Scan::Bad => Err(ChunkError::Extension),
        Scan::Short if window.len() == CHUNK_LINE_BYTES_MAX => Err(ChunkError::LineTooLong),
        Scan::Short => Ok(None),
    }
}

enum Scan {
    Line(usize),
    Short,
    Bad,
}

fn scan_extensions(input: &[u8], at: usize) -> Scan {
    #[derive(Clone, Copy)]
    enum Expect {
        NameStart,
        Name,
        AfterName,
        ValueStart,
        Value,
        Quoted,
        QuotedPair,
        AfterValue,
        AfterQuoted,
        Lf,
    }
    // As after an extension: white space, then the ';' of the next one.
    let mut expect = Expect::AfterValue;
    for (offset, &byte) in input[at..].iter().enumerate() {
        let white = matches!(byte, b' ' | b'\t');
        let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        expect = match (expect, byte) {
            (Expect::NameStart | Expect::ValueStart, _) if white => expect,
            (Expect::NameStart | Expect::Name, _) if is_tchar(byte) => Expect::Name,
            (
                Expect::Name | Expect::AfterName | Expect::Value | Expect::AfterValue | Expect::AfterQuoted,
                b';',
            ) => Expect::NameStart,
            (Expect::Name | Expect::Value | Expect::AfterQuoted, b'\r') => Expect::Lf,
            (Expect::Name | Expect::AfterName, b'=') => Expect::ValueStart,
            (Expect::Name | Expect::AfterName, _) if white => Expect::AfterName,
            (Expect::ValueStart, b'"') => Expect::Quoted,
            (Expect::ValueStart | Expect::Value, _) if is_tchar(byte) => Expect::Value,
            (Expect::Value | Expect::AfterValue | Expect::AfterQuoted, _) if white => Expect::AfterValue,
            (Expect::Quoted, b'"') => Expect::AfterQuoted,
            (Expect::Quoted, b'\\') => Expect::QuotedPair,
            (Expect::Quoted | Expect::QuotedPair, _) if text => Expect::Quoted,
            (Expect::Lf, b'\n') => return Scan::Line(at + offset + 1),
            _ => return Scan::Bad,
        };
    }
    Scan::Short
}

/// The fields after the last chunk. Those that mustn't come so late are marked, not refused: RFC 9110 section 6.5.1 has
/// a recipient ignore them.
#[derive(Debug, Clone, Copy)]
pub struct Trailers<'a> {
    pub fields: Fields<'a>,
    /// Framing, routing, authentication, request modifiers, forwarding facts and hop-by-hop fields, in whatever
    /// spelling with '_'. Not forwarded, and not to be merged into anything.
    pub forbidden: FieldSet,
}

const FORBIDDEN: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "www-authenticate",
    "x-real-ip",
];

const FORBIDDEN_PREFIXES: &[&str] = &["x-forwarded-", "if-"];

/// Where the trailers of one body stand.
#[derive(Debug, Default)]
pub struct TrailerIndex(Vec<FieldIndex>);

/// Parses the bytes of `ChunkEvent::End`.
pub fn parse_trailers<'a>(
    section: &'a [u8],
    index: &'a mut TrailerIndex,
) -> Result<Trailers<'a>, ChunkError> {
    // Cleared, unlike a head's: httparse takes uninitialised memory only behind a start line, and trailers are rare.
    let mut slots = [httparse::EMPTY_HEADER; HEADER_COUNT_MAX];
    let Ok(Parse::Complete((bytes, found))) = httparse::parse_headers(section, &mut slots) else {
        return Err(ChunkError::TrailerField);
    };
    if bytes != section.len()
        || memchr::memchr_iter(b'\n', section).any(|at| at == 0 || section[at - 1] != b'\r')
    {
        return Err(ChunkError::TrailerLine);
    }
    index.0.clear();
    index.0.extend(found.iter().map(|field| FieldIndex::of(field.name.as_bytes(), field.value, section)));
    let fields = Fields::new(section, &index.0);
    Ok(Trailers { forbidden: fields.places(|field| is_forbidden_trailer(field.name)), fields })
}

/// Whether a field of that name mustn't come so late, see `Trailers::forbidden`.
pub(crate) fn is_forbidden_trailer(name: &[u8]) -> bool {
    FORBIDDEN.iter().any(|forbidden| eq_folding_underscore(name, forbidden.as_bytes()))
        || FORBIDDEN_PREFIXES.iter().any(|prefix| {
            name.get(..prefix.len()).is_some_and(|start| eq_folding_underscore(start, prefix.as_bytes()))
        })
}

/// Appends the trailer section without the forbidden fields, closing CRLF included: what follows `0 CRLF`.
pub fn encode_trailers(trailers: &Trailers<'_>, out: &mut Vec<u8>) {
    for (index, header) in trailers.fields.iter().enumerate() {
        debug_assert!(is_token(header.name));
        if !trailers.forbidden.contains(index) {
            for part in [header.name, b": ", header.value, b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Bytes of the longest size line that `encode_chunk_size` writes: 16 digits and CRLF.
pub const CHUNK_SIZE_LINE_BYTES_MAX: usize = 18;

/// Appends a size line without extensions. Data and CRLF are the caller's.
#[inline]
pub fn encode_chunk_size(size: u64, out: &mut Vec<u8>) {
    let mut line = [0u8; CHUNK_SIZE_LINE_BYTES_MAX];
    let mut at = 16;
    let mut rest = size;
    loop {
        at -= 1;
        line[at] = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    line[16] = b'\r';
    line[17] = b'\n';
    out.extend_from_slice(&line[at..]);
}

/// Appends one whole chunk; nothing for no data, since an empty chunk ends the body.
pub fn encode_chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        out.reserve(data.len() + CHUNK_SIZE_LINE_BYTES_MAX + 2);
        encode_chunk_size(data.len() as u64, out);
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// The last chunk and no trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The last chunk's size line, before `encode_trailers`.
pub const LAST_CHUNK_SIZE: &[u8] = b"0\r\n";

#[cfg(test)]
mod tests;
