//! gRPC-Web to gRPC and back, as grpc's doc/PROTOCOL-WEB.md has it: gRPC for clients that can't read trailers.
//!
//! Messages pass as they are; what differs is the Content-Type, the trailers, which become the body's last frame, and
//! the text form, which is all of it in base64. Nothing is held but 3 characters, so no cut and no size matters.
//! Sans-IO: both bodies are [`Transform`]s.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::base::reason::ReasonCode;
use crate::http::chunked::{TrailerIndex, parse_trailers};
use crate::http::content::FlowError;
use crate::http::grammar::{is_field_value, is_token, list_members};
use crate::http::grpc::subtype;
use crate::http::transform::Transform;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Binary,
    /// In base64, padded wherever the sender liked to send what it had.
    Text,
}

/// A Content-Type of gRPC-Web.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebType<'a> {
    pub encoding: Encoding,
    /// `+` and the messages' format, or nothing.
    pub format: &'a [u8],
}

impl<'a> WebType<'a> {
    /// None for what isn't gRPC-Web.
    pub fn parse(content_type: &'a [u8]) -> Option<Self> {
        let of =
            |base: &[u8], encoding| subtype(content_type, base).map(|format| WebType { encoding, format });
        of(b"application/grpc-web", Encoding::Binary)
            .or_else(|| of(b"application/grpc-web-text", Encoding::Text))
            // Section "Text-encoded streams": the default encoding by its name.
            .or_else(|| of(b"application/grpc-web-text-base64", Encoding::Text))
    }

    /// How the client wants the response: as Accept says, else as it wrote the request.
    pub fn response_encoding(&self, accept: Option<&[u8]>) -> Encoding {
        accept
            .into_iter()
            .flat_map(list_members)
            .find_map(WebType::parse)
            .map_or(self.encoding, |web| web.encoding)
    }
}

/// Fields of the request that must go: what it says of its content is about gRPC-Web, and a response with a content
/// coding could take no frame of trailers at its end. Content-Length goes too, if the encoding is text.
pub const REQUEST_FIELDS_DROPPED: &[&str] = &["content-type", "accept", "accept-encoding"];

/// Appends the Content-Type that makes the request one of gRPC. `TE: trailers` must stand with it.
pub fn push_request_type(web: &WebType<'_>, out: &mut Vec<u8>) {
    debug_assert!(is_field_value(web.format));
    out.extend_from_slice(b"application/grpc");
    out.extend_from_slice(web.format);
}

/// Appends the Content-Type for a response that came with gRPC's `content_type`; false, and nothing, if it isn't gRPC's:
/// then neither is the body, and it goes on as it is. Content-Length must go when this says true, and Trailer.
#[must_use]
pub fn push_response_type(content_type: &[u8], encoding: Encoding, out: &mut Vec<u8>) -> bool {
    let Some(format) = subtype(content_type, b"application/grpc") else {
        return false;
    };
    out.extend_from_slice(match encoding {
        Encoding::Binary => b"application/grpc-web",
        Encoding::Text => b"application/grpc-web-text",
    });
    out.extend_from_slice(format);
    true
}

/// Why a request's body is refused, with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Not base64: another character, padding out of place, or bits that say nothing and aren't 0.
    Base64,
    /// The body ends within a group of four characters.
    Truncated,
}

impl Malformed {
    /// A stable code for logs and metrics.
    pub fn reason(self) -> ReasonCode {
        match self {
            Malformed::Base64 => ReasonCode::GrpcWebBase64,
            Malformed::Truncated => ReasonCode::GrpcWebTruncated,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gRPC-Web body refused: {}", self.reason())
    }
}

impl std::error::Error for Malformed {}

/// A request's body on its way to gRPC.
#[derive(Debug, Clone, Copy)]
pub struct RequestBody {
    encoding: Encoding,
    /// The start of a group of four.
    held: [u8; 4],
    held_bytes: usize,
}

impl RequestBody {
    pub fn new(encoding: Encoding) -> Self {
        RequestBody { encoding, held: [0; 4], held_bytes: 0 }
    }

    /// Appends what `input` brings: at most as many bytes, and three.
    pub fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        if self.encoding == Encoding::Binary {
            out.extend_from_slice(input);
            return Ok(());
        }
        let mut rest = input;
        if self.held_bytes > 0 {
            let count = rest.len().min(4 - self.held_bytes);
            self.held[self.held_bytes..][..count].copy_from_slice(&rest[..count]);
            self.held_bytes += count;
            rest = &rest[count..];
            if self.held_bytes < 4 {
                return Ok(());
            }
            self.held_bytes = 0;
            decode(&self.held, out)?;
        }
        let (groups, tail) = rest.split_at(rest.len() & !3);
        let mut groups = groups;
        while !groups.is_empty() {
            // A group with padding ends what the decoder takes for a whole text.
            let end = memchr::memchr(b'=', groups).map_or(groups.len(), |at| (at & !3) + 4);
            decode(&groups[..end], out)?;
            groups = &groups[end..];
        }
        self.held[..tail.len()].copy_from_slice(tail);
        self.held_bytes = tail.len();
        Ok(())
    }

    /// The body has ended.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.held_bytes == 0 { Ok(()) } else { Err(Malformed::Truncated) }
    }
}

impl Transform for RequestBody {
    fn data(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, FlowError> {
        self.step(input, out).map_err(|malformed| FlowError::Content(malformed.reason()))?;
        Ok(input.len())
    }

    /// A request of gRPC has no trailers.
    fn end(&mut self, trailers: &mut Vec<u8>, _: &mut Vec<u8>) -> Result<bool, FlowError> {
        trailers.clear();
        self.finish().map_err(|malformed| FlowError::Content(malformed.reason()))?;
        Ok(true)
    }
}

/// A response's body on its way from gRPC.
#[derive(Debug, Clone, Copy)]
pub struct ResponseBody {
    encoding: Encoding,
}

impl ResponseBody {
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding }
    }
}

impl Transform for ResponseBody {
    fn data(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, FlowError> {
        push_response_data(self.encoding, input, out);
        Ok(input.len())
    }

    /// The trailers become the last frame of the content.
    fn end(&mut self, trailers: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, FlowError> {
        let section = std::mem::take(trailers);
        if !section.is_empty() {
            let mut slots = TrailerIndex::default();
            let parsed = parse_trailers(&section, &mut slots).map_err(FlowError::Chunk)?;
            let passing = parsed.fields.iter().enumerate().filter_map(|(index, header)| {
                (!parsed.forbidden.contains(index)).then_some((header.name, header.value))
            });
            push_response_end(self.encoding, passing, out);
        }
        Ok(true)
    }
}

fn decode(groups: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    STANDARD.decode_vec(groups, out).map_err(|_| Malformed::Base64)
}

/// The first byte of the frame that holds the trailers.
const TRAILER_FRAME: u8 = 0x80;

/// How many bytes [`push_response_data`] appends for so many.
pub fn response_data_bytes(encoding: Encoding, data_bytes: usize) -> usize {
    match encoding {
        Encoding::Binary => data_bytes,
        Encoding::Text => data_bytes.div_ceil(3) * 4,
    }
}

/// Appends a part of a response's body. Text is padded at once, so that a client never waits for the rest of a message
/// that has been sent; a call costs up to two characters for it.
pub fn push_response_data(encoding: Encoding, data: &[u8], out: &mut Vec<u8>) {
    match encoding {
        Encoding::Binary => out.extend_from_slice(data),
        Encoding::Text => {
            let start = out.len();
            out.resize(start + response_data_bytes(encoding, data.len()), 0);
            let written = STANDARD.encode_slice(data, &mut out[start..]);
            debug_assert_eq!(written, Ok(out.len() - start));
        }
    }
}

/// Appends the end of a response's body: the trailers as a frame, as they came from a parser. Without any nothing is
/// appended, since the status stood in the head.
pub fn push_response_end<'a>(
    encoding: Encoding,
    trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    out: &mut Vec<u8>,
) {
    let mut frame = vec![TRAILER_FRAME, 0, 0, 0, 0];
    for (name, value) in trailers {
        debug_assert!(is_token(name) && is_field_value(value));
        frame.extend(name.iter().map(u8::to_ascii_lowercase));
        frame.extend_from_slice(b": ");
        frame.extend_from_slice(value);
        frame.extend_from_slice(b"\r\n");
    }
    let section_bytes = frame.len() - 5;
    if section_bytes == 0 {
        return;
    }
    // A parser's trailer section is bounded by TRAILER_BYTES_MAX.
    frame[1..5].copy_from_slice(&(section_bytes as u32).to_be_bytes());
    push_response_data(encoding, &frame, out);
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::{
        Encoding, Malformed, RequestBody, WebType, push_request_type, push_response_data, push_response_end,
        push_response_type,
    };

    #[test]
    fn content_types() {
        let table = [
            ("application/grpc-web", Some((Encoding::Binary, ""))),
            ("application/grpc-web+proto", Some((Encoding::Binary, "+proto"))),
            ("Application/gRPC-Web+json;charset=utf-8", Some((Encoding::Binary, "+json"))),
            ("application/grpc-web-text", Some((Encoding::Text, ""))),
            ("application/grpc-web-text+proto", Some((Encoding::Text, "+proto"))),
            ("application/grpc-web-text-base64", Some((Encoding::Text, ""))),
            ("application/grpc", None),
            ("application/grpc-webx", None),
            ("application/grpc-web-textx", None),
            ("text/plain", None),
        ];
        for (text, expected) in table {
            let got = WebType::parse(text.as_bytes());
            let expected = expected.map(|(encoding, format)| WebType { encoding, format: format.as_bytes() });
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn accept_decides_the_response() {
        use Encoding::{Binary, Text};
        for (encoding, accept, expected) in [
            (Binary, None, Binary),
            (Text, None, Text),
            (Binary, Some("application/grpc-web-text"), Text),
            (Text, Some("*/*, application/grpc-web+proto"), Binary),
            (Text, Some("*/*"), Text),
            (Text, Some(""), Text),
        ] {
            let web = WebType { encoding, format: b"" };
            assert_eq!(web.response_encoding(accept.map(str::as_bytes)), expected, "{encoding:?} {accept:?}");
        }
    }

    #[test]
    fn heads_change() {
        let mut out = Vec::new();
        push_request_type(&WebType { encoding: Encoding::Text, format: b"+proto" }, &mut out);
        assert_eq!(out, b"application/grpc+proto");
        for (content_type, encoding, expected) in [
            ("application/grpc+proto", Encoding::Text, Some("application/grpc-web-text+proto")),
            ("application/grpc", Encoding::Binary, Some("application/grpc-web")),
            ("text/html", Encoding::Binary, None),
            ("application/grpc-web", Encoding::Binary, None),
        ] {
            let mut out = Vec::new();
            let is_grpc = push_response_type(content_type.as_bytes(), encoding, &mut out);
            let got = is_grpc.then(|| String::from_utf8_lossy(&out).into_owned());
            assert_eq!(got.as_deref(), expected, "{content_type}");
            assert!(is_grpc || out.is_empty());
        }
    }

    fn decoded(encoding: Encoding, input: &[u8], cut: usize) -> Result<Vec<u8>, Malformed> {
        let mut body = RequestBody::new(encoding);
        let mut out = Vec::new();
        for piece in input.chunks(cut) {
            let before = out.len();
            body.step(piece, &mut out)?;
            assert!(out.len() - before <= piece.len() + 3);
        }
        body.finish().map(|()| out)
    }

    #[test]
    fn text_is_read_at_every_cut() {
        let table: &[(&str, Result<&[u8], Malformed>)] = &[
            ("", Ok(b"")),
            ("AAAAAAE=", Ok(b"\0\0\0\0\x01")),
            ("YQ==YmM=ZGVm", Ok(b"abcdef")),
            ("YQ==YQ==YQ==", Ok(b"aaa")),
            ("YWJj", Ok(b"abc")),
            ("YWJ", Err(Malformed::Truncated)),
            ("YWJjZ", Err(Malformed::Truncated)),
            ("YQ=", Err(Malformed::Truncated)),
            ("YQ=a", Err(Malformed::Base64)),
            ("Y===", Err(Malformed::Base64)),
            ("====", Err(Malformed::Base64)),
            ("=YWJ", Err(Malformed::Base64)),
            ("YR==", Err(Malformed::Base64)),
            ("YWJjYW\r\n", Err(Malformed::Base64)),
            ("YW Jj", Err(Malformed::Base64)),
            ("YW-_", Err(Malformed::Base64)),
        ];
        for (input, expected) in table {
            for cut in 1..=input.len().max(1) {
                // A broken group is found when it is whole; a cut inside the last one is all that there is otherwise.
                let got = decoded(Encoding::Text, input.as_bytes(), cut);
                assert_eq!(got.as_deref(), expected.as_deref(), "{input:?} cut {cut}");
            }
        }
    }

    #[test]
    fn responses_end_with_their_trailers() {
        let trailers: [(&[u8], &[u8]); 2] = [(b"Grpc-Status", b"0"), (b"grpc-message", b"")];
        let frame = b"\x80\0\0\0\x20grpc-status: 0\r\ngrpc-message: \r\n";
        let mut out = Vec::new();
        push_response_data(Encoding::Binary, b"\0\0\0\0\x01x", &mut out);
        push_response_end(Encoding::Binary, trailers.into_iter(), &mut out);
        assert_eq!(out, [&b"\0\0\0\0\x01x"[..], frame].concat());
        out.clear();
        push_response_data(Encoding::Text, b"\0\0\0\0\x01", &mut out);
        push_response_data(Encoding::Text, b"", &mut out);
        push_response_end(Encoding::Text, trailers.into_iter(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("AAAAAAE={}", STANDARD.encode(frame)));
        for encoding in [Encoding::Binary, Encoding::Text] {
            let mut out = Vec::new();
            push_response_end(encoding, [].into_iter(), &mut out);
            assert_eq!(out, b"");
        }
    }

    proptest! {
        /// What is written in pieces is read in other pieces.
        #[test]
        fn text_comes_back(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..8),
            cut in 1usize..100,
        ) {
            for encoding in [Encoding::Binary, Encoding::Text] {
                let mut wire = Vec::new();
                for piece in &pieces {
                    push_response_data(encoding, piece, &mut wire);
                }
                prop_assert_eq!(decoded(encoding, &wire, cut), Ok(pieces.concat()));
            }
        }

        /// Whatever comes is refused or accepted the same at any cut.
        #[test]
        fn the_verdict_does_not_depend_on_the_cut(input in "[A-Za-z0-9+/=]{0,40}", cut in 1usize..40) {
            prop_assert_eq!(decoded(Encoding::Text, input.as_bytes(), cut), decoded(Encoding::Text, input.as_bytes(), 64));
        }
    }
}
