//! How a body that came framed one way goes out framed another: which bytes of the input to send, and what between them.
//!
//! Copies nothing: a step answers with pieces, ranges of the input and of a few bytes of its own (size lines, the last
//! chunk), that the caller writes in one call. Data with nothing to change before or after it may also be moved
//! around this, by splice: [`Flow::movable`] says how much, [`Flow::moved`] counts it.
//!
//! Where content changes on its way ([`Transform`]), all that a step sends is its own, and bounded.

use super::chunked::{
    ChunkError, ChunkEvent, ChunkedDecoder, LAST_CHUNK, LAST_CHUNK_SIZE, TrailerIndex, Trailers,
    encode_chunk_size, encode_trailers, parse_trailers,
};
pub use super::content::FlowError;
use super::content::{Content, Part};
use super::framing::BodyLength;
use super::grpc::GrpcStatus;
use super::transform::{Chain, Transform};
use std::io::IoSlice;
use std::ops::Range;

/// Pieces that one step makes at the most; what is left of the input waits for the next step.
pub const PIECES_MAX: usize = 16;

/// One body on its way.
#[derive(Debug)]
pub struct Flow {
    source: Source,
    sink: Sink,
    grpc_status: Option<GrpcStatus>,
    content_bytes: u64,
}

#[derive(Debug)]
enum Source {
    Length {
        left: u64,
    },
    Chunked(ChunkedDecoder),
    UntilClose,
    /// Boxed: few bodies are.
    Changing(Box<Changing>),
    Ended,
}

/// A body whose content changes.
#[derive(Debug)]
struct Changing {
    content: Content,
    chain: Chain,
    /// The content has ended.
    over: bool,
    counts: Counts,
}

/// On which side of its changes a body's content is counted and bounded: on its client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    /// A request: as it comes in.
    AsItComes,
    /// A response: as it goes out.
    AsItGoes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    Plain,
    Chunked,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Input(Range<usize>),
    Own(Range<usize>),
}

/// What one step sends. Reused from step to step.
#[derive(Debug)]
pub struct Batch {
    /// In place, so that a small body costs no allocation.
    all: [Piece; PIECES_MAX],
    count: usize,
    own: Vec<u8>,
    /// Bytes of the input that are dealt with once the pieces are sent.
    pub consumed: usize,
    /// The step has not sent all that it could make of what it has: the next one needs no further input.
    pub more: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            all: [const { Piece::Own(0..0) }; PIECES_MAX],
            count: 0,
            own: Vec::new(),
            consumed: 0,
            more: false,
        }
    }
}

impl Batch {
    fn pieces(&self) -> &[Piece] {
        &self.all[..self.count]
    }

    fn last_mut(&mut self) -> Option<&mut Piece> {
        self.all[..self.count].last_mut()
    }

    /// A step stops before there are too many: see `step_chunked`.
    fn push(&mut self, piece: Piece) {
        self.all[self.count] = piece;
        self.count += 1;
    }

    fn clear(&mut self) {
        self.count = 0;
        self.own.clear();
        self.consumed = 0;
        self.more = false;
    }

    fn input(&mut self, range: Range<usize>) {
        if let Some(Piece::Input(last)) = self.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
            return;
        }
        self.push(Piece::Input(range));
    }

    fn own(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        encode(&mut self.own);
        let end = self.own.len();
        if let Some(Piece::Own(last)) = self.last_mut() {
            last.end = end;
        } else if end > start {
            self.push(Piece::Own(start..end));
        }
    }

    /// No bytes to send.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends what the pieces say to `out`.
    pub fn copy(&self, input: &[u8], out: &mut Vec<u8>) {
        for piece in self.pieces() {
            out.extend_from_slice(match piece {
                Piece::Input(range) => &input[range.clone()],
                Piece::Own(range) => &self.own[range.clone()],
            });
        }
    }

    /// The pieces over the input that the step was given, appended to `slices` as far as there is room: room for
    /// [`PIECES_MAX`] is enough. Returns how many.
    pub fn slices<'a>(&'a self, input: &'a [u8], slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(self.pieces()) {
            *slice = IoSlice::new(match piece {
                Piece::Input(range) => &input[range.clone()],
                Piece::Own(range) => &self.own[range.clone()],
            });
            count += 1;
        }
        count
    }
}

impl Flow {
    /// A body that comes as `from` and goes as `to`. Of the pairs that change the framing only these exist: chunked to
    /// until-close (an HTTP/1.0 client) and until-close to chunked.
    pub fn new(from: BodyLength, to: BodyLength) -> Self {
        let source = match from {
            BodyLength::None | BodyLength::Length(0) => Source::Ended,
            BodyLength::Length(left) => Source::Length { left },
            BodyLength::Chunked => Source::Chunked(ChunkedDecoder::new()),
            BodyLength::UntilClose => Source::UntilClose,
        };
        let sink = if to == BodyLength::Chunked { Sink::Chunked } else { Sink::Plain };
        Self { source, sink, grpc_status: None, content_bytes: 0 }
    }

    /// The same, with changes of its content on the way: any framing becomes chunks, or for a client that knows none, runs
    /// until close.
    pub fn through(
        from: BodyLength,
        to: BodyLength,
        counts: Counts,
        transforms: Vec<Box<dyn Transform>>,
    ) -> Self {
        if transforms.is_empty() {
            return Self::new(from, to);
        }
        debug_assert!(matches!(to, BodyLength::Chunked | BodyLength::UntilClose));
        let changing =
            Changing { content: Content::new(from), chain: Chain::new(transforms), over: false, counts };
        Self { source: Source::Changing(Box::new(changing)), ..Self::new(BodyLength::None, to) }
    }

    /// All of it has been through.
    pub fn is_ended(&self) -> bool {
        matches!(self.source, Source::Ended)
    }

    /// Content bytes that have been through, framing not counted.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// The status that a gRPC call ended with, once its trailers have been through.
    pub fn grpc_status(&self) -> Option<GrpcStatus> {
        self.grpc_status
    }

    /// How many of the next bytes of the stream may go from socket to socket as they are.
    pub fn movable(&self) -> u64 {
        match (&self.source, self.sink) {
            (Source::Length { left }, _) => *left,
            (Source::Chunked(decoder), _) => decoder.remaining_in_chunk(),
            (Source::UntilClose, Sink::Plain) => u64::MAX,
            (Source::UntilClose, Sink::Chunked) | (Source::Changing(_) | Source::Ended, _) => 0,
        }
    }

    /// Counts bytes that went that way, at most [`movable`](Self::movable).
    pub fn moved(&mut self, bytes: u64) {
        self.content_bytes += bytes;
        match &mut self.source {
            Source::Length { left } => {
                *left = left.saturating_sub(bytes);
                if *left == 0 {
                    self.source = Source::Ended;
                }
            }
            Source::Chunked(decoder) => decoder.advance_data(bytes),
            Source::UntilClose | Source::Changing(_) | Source::Ended => {}
        }
    }

    /// The content of a body that is at hand whole and goes as it is, all at once; `None` for any other, of which nothing
    /// has happened then.
    #[inline]
    pub fn whole<'i>(&mut self, input: &'i [u8]) -> Option<&'i [u8]> {
        let length = match self.source {
            Source::Ended => 0,
            Source::Length { left } if left <= input.len() as u64 => left as usize,
            _ => return None,
        };
        self.content_bytes += length as u64;
        self.source = Source::Ended;
        Some(&input[..length])
    }

    /// Looks at the bytes at hand and fills `batch`. Bytes after the body's end are left alone. A step that consumes
    /// nothing needs more input.
    pub fn step(&mut self, input: &[u8], batch: &mut Batch) -> Result<(), FlowError> {
        batch.clear();
        match &mut self.source {
            Source::Ended => {}
            Source::Length { left } => {
                let take = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                if take > 0 {
                    batch.input(0..take);
                    batch.consumed = take;
                    self.moved(take as u64);
                }
            }
            Source::UntilClose if input.is_empty() => {}
            Source::UntilClose => {
                match self.sink {
                    Sink::Plain => batch.input(0..input.len()),
                    Sink::Chunked => {
                        batch.own(|own| encode_chunk_size(input.len() as u64, own));
                        batch.input(0..input.len());
                        batch.own(|own| own.extend_from_slice(b"\r\n"));
                    }
                }
                batch.consumed = input.len();
                self.content_bytes += input.len() as u64;
            }
            Source::Chunked(_) => self.step_chunked(input, batch).map_err(FlowError::Chunk)?,
            Source::Changing(_) => self.step_changing(input, batch)?,
        }
        Ok(())
    }

    fn step_chunked(&mut self, input: &[u8], batch: &mut Batch) -> Result<(), ChunkError> {
        let Source::Chunked(decoder) = &mut self.source else { return Ok(()) };
        let verbatim = self.sink == Sink::Chunked;
        let mut at = 0;
        // An event adds at most one piece, and so may what follows the loop.
        while batch.count < PIECES_MAX - 2 {
            let event = decoder.next(&input[at..])?;
            let bytes = match event {
                ChunkEvent::NeedMore => break,
                ChunkEvent::Size { bytes, size, had_extension } => {
                    // Parsers differ on extensions, so none goes on (RFC 9112 section 7.1.1 lets us drop them).
                    if verbatim && had_extension {
                        batch.own(|own| encode_chunk_size(size, own));
                    } else if verbatim {
                        batch.input(at..at + bytes);
                    }
                    bytes
                }
                ChunkEvent::Data { bytes } => {
                    batch.input(at..at + bytes);
                    self.content_bytes += bytes as u64;
                    bytes
                }
                ChunkEvent::DataEnd { bytes } => {
                    if verbatim {
                        batch.input(at..at + bytes);
                    }
                    bytes
                }
                ChunkEvent::End { bytes } => {
                    if verbatim && bytes <= 2 {
                        batch.input(at..at + bytes);
                    } else if verbatim {
                        let mut slots = TrailerIndex::default();
                        let trailers = parse_trailers(&input[at..at + bytes], &mut slots)?;
                        self.grpc_status = grpc_status(&trailers);
                        batch.own(|own| {
                            encode_trailers(&trailers, own);
                        });
                    }
                    at += bytes;
                    self.source = Source::Ended;
                    break;
                }
            };
            at += bytes;
        }
        batch.consumed = at;
        Ok(())
    }

    #[cold]
    fn step_changing(&mut self, input: &[u8], batch: &mut Batch) -> Result<(), FlowError> {
        let Source::Changing(body) = &mut self.source else { return Ok(()) };
        // What the last step left over comes before anything new, or the chain would hold without bound.
        while !body.over && (batch.consumed > 0 || !body.chain.waits()) {
            let (used, part) = body.content.next(&input[batch.consumed..])?;
            batch.consumed += used;
            match part {
                None => break,
                Some(Part::Data(data)) => {
                    body.chain.push(data);
                    if body.counts == Counts::AsItComes {
                        self.content_bytes += data.len() as u64;
                    }
                }
                Some(Part::End { trailers }) => {
                    if !trailers.is_empty() {
                        let mut slots = TrailerIndex::default();
                        let parsed = parse_trailers(trailers, &mut slots).map_err(FlowError::Chunk)?;
                        self.grpc_status = grpc_status(&parsed);
                        body.chain.trailers.extend_from_slice(trailers);
                    }
                    body.over = true;
                }
            }
        }
        let mut made = Vec::new();
        let ended = body.chain.run(body.over, &mut made)?;
        batch.more = !ended && (body.over || body.chain.waits());
        if body.counts == Counts::AsItGoes {
            self.content_bytes += made.len() as u64;
        }
        let chunked = self.sink == Sink::Chunked;
        let trailers = std::mem::take(&mut body.chain.trailers);
        let mut slots = TrailerIndex::default();
        let passing = if ended && chunked && !trailers.is_empty() {
            Some(parse_trailers(&trailers, &mut slots).map_err(FlowError::Chunk)?)
        } else {
            None
        };
        batch.own(|own| {
            // One chunk for a step, and so one frame of HTTP/2; an empty one would end the body.
            if chunked && !made.is_empty() {
                encode_chunk_size(made.len() as u64, own);
            }
            own.extend_from_slice(&made);
            if chunked && !made.is_empty() {
                own.extend_from_slice(b"\r\n");
            }
            match &passing {
                Some(trailers) => {
                    own.extend_from_slice(LAST_CHUNK_SIZE);
                    encode_trailers(trailers, own);
                }
                None if ended && chunked => own.extend_from_slice(LAST_CHUNK),
                None => {}
            }
        });
        if ended {
            self.source = Source::Ended;
        } else {
            body.chain.trailers = trailers;
        }
        Ok(())
    }

    /// The stream has ended: fine for a body that runs until then, which may leave a last chunk to send. A body that changes
    /// may have [more](Batch::more) than that, for steps without input.
    pub fn finish(&mut self, batch: &mut Batch) -> Result<(), FlowError> {
        batch.clear();
        match &mut self.source {
            Source::Ended => Ok(()),
            Source::Changing(body) => {
                body.content.finish()?;
                self.step_changing(b"", batch)
            }
            Source::UntilClose => {
                if self.sink == Sink::Chunked {
                    batch.own(|own| own.extend_from_slice(b"0\r\n\r\n"));
                }
                self.source = Source::Ended;
                Ok(())
            }
            Source::Length { .. } | Source::Chunked(_) => Err(FlowError::Truncated),
        }
    }
}

fn grpc_status(trailers: &Trailers<'_>) -> Option<GrpcStatus> {
    trailers.fields.values("grpc-status").next().and_then(GrpcStatus::parse)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::super::transform::PIECE_BYTES;
    use super::super::transform::tests::Grow;
    use super::{Batch, Counts, Flow, FlowError, GrpcStatus, PIECES_MAX, Transform};
    use crate::http::framing::BodyLength;
    use crate::http::grpc_web::Encoding::{self, Binary, Text};
    use crate::http::grpc_web::{Malformed, RequestBody, ResponseBody};

    fn from_grpc_web(from: BodyLength, encoding: Encoding) -> Flow {
        Flow::through(
            from,
            BodyLength::Chunked,
            Counts::AsItComes,
            vec![Box::new(RequestBody::new(encoding))],
        )
    }

    fn to_grpc_web(from: BodyLength, to: BodyLength, encoding: Encoding) -> Flow {
        Flow::through(from, to, Counts::AsItGoes, vec![Box::new(ResponseBody::new(encoding))])
    }

    /// Sent, left over, content bytes.
    type Ran = (Vec<u8>, Vec<u8>, u64);

    /// Feeds `input` in pieces of `cut` bytes; returns what was sent, what was left, and the content's size.
    fn run(from: BodyLength, to: BodyLength, input: &[u8], cut: usize) -> Result<Ran, FlowError> {
        run_flow(Flow::new(from, to), input, cut)
    }

    fn run_flow(mut flow: Flow, input: &[u8], cut: usize) -> Result<Ran, FlowError> {
        let mut batch = Batch::default();
        let mut sent = Vec::new();
        let mut held: Vec<u8> = Vec::new();
        let mut send = |batch: &Batch, held: &[u8]| {
            let mut slices = [IoSlice::new(b""); PIECES_MAX];
            let count = batch.slices(held, &mut slices);
            for slice in &slices[..count] {
                sent.extend_from_slice(slice);
            }
        };
        let mut chunks = input.chunks(cut);
        while !flow.is_ended() {
            flow.step(&held, &mut batch)?;
            send(&batch, &held);
            held.drain(..batch.consumed);
            if batch.consumed == 0 && !batch.more && !flow.is_ended() {
                let Some(more) = chunks.next() else {
                    flow.finish(&mut batch)?;
                    send(&batch, &held);
                    if batch.more {
                        continue;
                    }
                    break;
                };
                held.extend_from_slice(more);
            }
        }
        held.extend(chunks.flatten());
        Ok((sent, held, flow.content_bytes()))
    }

    #[test]
    fn the_status_of_a_grpc_call_is_read_as_it_passes() {
        use BodyLength::{Chunked, Length, UntilClose};
        let ends: [(&str, Option<GrpcStatus>); 5] = [
            ("0\r\nGrpc-Status: 14\r\nGrpc-Message: gone\r\n\r\n", Some(GrpcStatus::Unavailable)),
            ("0\r\nx: 1\r\ngrpc-status: 0\r\n\r\n", Some(GrpcStatus::Ok)),
            ("0\r\ngrpc-status: 99\r\n\r\n", None),
            ("0\r\nx: 1\r\n\r\n", None),
            ("0\r\n\r\n", None),
        ];
        for (end, expected) in ends {
            let input = format!("2\r\nhi\r\n{end}");
            for mut flow in [Flow::new(Chunked, Chunked), to_grpc_web(Chunked, Chunked, Text)] {
                let (mut batch, mut rest) = (Batch::default(), input.as_bytes());
                assert_eq!(flow.grpc_status(), None);
                while !flow.is_ended() {
                    flow.step(rest, &mut batch).unwrap();
                    rest = &rest[batch.consumed..];
                }
                assert_eq!(flow.grpc_status(), expected, "{end}");
            }
        }
        for from in [Length(2), UntilClose] {
            assert_eq!(Flow::new(from, from).grpc_status(), None);
        }
    }

    /// From, to, input; sent, left over, content bytes.
    type Row<'a> = (BodyLength, BodyLength, &'a [u8], &'a [u8], &'a [u8], u64);

    #[test]
    fn every_pair_at_every_cut() {
        use BodyLength::{Chunked, Length, None, UntilClose};
        let chunked: &[u8] = b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\nGET";
        let clean: &[u8] = b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n";
        let trailers: &[u8] = b"2\r\nhi\r\n0\r\nX-Sum: 1\r\nContent-Length: 3\r\n\r\n";
        let table: &[Row<'_>] = &[
            (None, None, b"next", b"", b"next", 0),
            (Length(0), Length(0), b"next", b"", b"next", 0),
            (Length(3), Length(3), b"abcnext", b"abc", b"next", 3),
            (Chunked, Chunked, chunked, clean, b"GET", 6),
            (Chunked, UntilClose, chunked, b"hello!", b"GET", 6),
            (Chunked, Chunked, trailers, b"2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n", b"", 2),
            (UntilClose, UntilClose, b"abc", b"abc", b"", 3),
        ];
        for (from, to, input, sent, left, content) in table {
            for cut in 1..=input.len() {
                let got = run(*from, *to, input, cut).unwrap();
                assert_eq!(
                    (String::from_utf8_lossy(&got.0), String::from_utf8_lossy(&got.1), got.2),
                    (String::from_utf8_lossy(sent), String::from_utf8_lossy(left), *content),
                    "{from:?} {to:?} cut {cut}"
                );
            }
        }
    }

    #[test]
    fn until_close_becomes_chunks() {
        let (sent, _, content) = run(BodyLength::UntilClose, BodyLength::Chunked, b"abcdef", 4).unwrap();
        assert_eq!((&sent[..], content), (&b"4\r\nabcd\r\n2\r\nef\r\n0\r\n\r\n"[..], 6));
    }

    /// The content of a chunked body, whose chunks depend on the cut, and its trailer section.
    fn content(chunked: &[u8]) -> Vec<u8> {
        let (sent, left, _) =
            run(BodyLength::Chunked, BodyLength::UntilClose, chunked, chunked.len()).unwrap();
        assert_eq!(left, b"", "bytes behind the last chunk");
        sent
    }

    #[test]
    fn grpc_web_requests_become_grpc() {
        use BodyLength::{Chunked, Length, None};
        let table: &[(BodyLength, Encoding, &str, &str, usize)] = &[
            (Length(3), Binary, "abcnext", "abc", 4),
            (Chunked, Binary, "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc", 0),
            (None, Text, "next", "", 4),
            (Length(0), Text, "next", "", 4),
            (Length(8), Text, "YWJjZA==GET", "abcd", 3),
            (Length(12), Text, "YWI=Yw==ZGVm", "abcdef", 0),
            (Chunked, Text, "3\r\nYWJ\r\n1\r\nj\r\n0\r\nX-Late: 1\r\n\r\n", "abc", 0),
        ];
        for (from, encoding, input, expected, left) in table {
            for cut in 1..=input.len() {
                let flow = from_grpc_web(*from, *encoding);
                assert_eq!(flow.movable(), 0);
                let got = run_flow(flow, input.as_bytes(), cut).unwrap();
                assert_eq!(
                    (content(&got.0), got.1.len()),
                    (expected.as_bytes().to_vec(), *left),
                    "{from:?} {encoding:?} cut {cut}"
                );
                let wire = if let Length(length) = from { *length } else { got.2 };
                assert_eq!(got.2, wire, "content counts as the client writes it");
            }
        }
        for (input, expected) in [
            ("YWJ!", FlowError::Content(Malformed::Base64.reason())),
            ("YWJjZ", FlowError::Content(Malformed::Truncated.reason())),
            ("YW", FlowError::Content(Malformed::Truncated.reason())),
        ] {
            for cut in 1..=input.len() {
                let flow = from_grpc_web(Length(input.len() as u64), Text);
                assert_eq!(run_flow(flow, input.as_bytes(), cut).unwrap_err(), expected, "{input} cut {cut}");
            }
        }
        let cut_short = run_flow(from_grpc_web(Length(9), Text), b"YWJj", 2);
        assert_eq!(cut_short.unwrap_err(), FlowError::Truncated);
    }

    #[test]
    fn grpc_responses_become_grpc_web() {
        use BodyLength::{Chunked, Length, UntilClose};
        let chunked: &[u8] = b"6\r\n\0\0\0\0\x01x\r\n0\r\nGrpc-Status: 0\r\nContent-Type: a\r\n\r\nnext";
        let plain: &[u8] = b"\0\0\0\0\x01x";
        let frame: &[u8] = b"\x80\0\0\0\x10grpc-status: 0\r\n";
        let table = [
            (Chunked, chunked, frame, 4),
            (Length(6), &b"\0\0\0\0\x01xnext"[..], &b""[..], 4),
            (UntilClose, plain, b"", 0),
        ];
        for (from, input, trailers, left) in table {
            let expected = [plain, trailers].concat();
            for (to, encoding) in
                [(Chunked, Binary), (Chunked, Text), (UntilClose, Binary), (UntilClose, Text)]
            {
                for cut in 1..=input.len() {
                    let got = run_flow(to_grpc_web(from, to, encoding), input, cut).unwrap();
                    let sent = if to == Chunked { content(&got.0) } else { got.0 };
                    assert_eq!((got.1.len(), got.2), (left, sent.len() as u64), "{from:?} {to:?} cut {cut}");
                    let mut read = Vec::new();
                    let mut body = RequestBody::new(encoding);
                    body.step(&sent, &mut read).and_then(|()| body.finish()).unwrap();
                    assert_eq!(read, expected, "{from:?} {to:?} {encoding:?} cut {cut}");
                }
            }
        }
        let cut = run_flow(to_grpc_web(Chunked, Chunked, Binary), b"6\r\nabc", 3);
        assert_eq!(cut.unwrap_err(), FlowError::Truncated);
    }

    #[test]
    fn what_grows_goes_in_bounded_pieces_and_keeps_its_trailers() {
        use BodyLength::{Chunked, Length, UntilClose};
        let bodies: [(BodyLength, &[u8], &[u8]); 3] = [
            (Length(3), b"abcnext", b""),
            (Chunked, b"1\r\na\r\n2\r\nbc\r\n0\r\nX-Sum: 1\r\nHost: x\r\n\r\nnext", b"X-Sum: 1\r\n"),
            (UntilClose, b"abc", b""),
        ];
        for (from, input, trailers) in bodies {
            for (to, cut) in [(Chunked, 1), (Chunked, 100), (UntilClose, 100)] {
                let grow = || Box::new(Grow { by: 70_000, left: 0 }) as Box<dyn Transform>;
                let flow = Flow::through(from, to, Counts::AsItGoes, vec![grow()]);
                let (sent, left, counted) = run_flow(flow, input, cut).unwrap();
                assert_eq!((counted, left.len()), (210_001, if from == UntilClose { 0 } else { 4 }));
                if to == UntilClose {
                    assert_eq!(sent.len(), 210_001);
                    continue;
                }
                let end = [b"0\r\n", trailers, b"\r\n"].concat();
                assert!(sent.ends_with(&end), "{from:?} {:?}", sent.last_chunk::<40>());
                let mut rest = &sent[..sent.len() - end.len()];
                while !rest.is_empty() {
                    let line = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
                    let size =
                        usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
                    assert!(size <= PIECE_BYTES + 1, "{size}");
                    rest = &rest[line + 2 + size + 2..];
                }
            }
        }
    }

    #[test]
    fn a_short_body_is_truncated() {
        for (from, input) in [(BodyLength::Length(4), &b"abc"[..]), (BodyLength::Chunked, b"5\r\nhel")] {
            assert_eq!(run(from, from, input, 1).unwrap_err(), FlowError::Truncated);
        }
    }

    #[test]
    fn many_small_chunks_take_several_steps() {
        let mut input = Vec::new();
        for _ in 0..100 {
            input.extend_from_slice(b"1;e\r\nx\r\n");
        }
        input.extend_from_slice(b"0\r\n\r\n");
        let (sent, left, content) =
            run(BodyLength::Chunked, BodyLength::Chunked, &input, input.len()).unwrap();
        assert_eq!((content, left.len()), (100, 0));
        assert_eq!(sent, b"1\r\nx\r\n".repeat(100).into_iter().chain(*b"0\r\n\r\n").collect::<Vec<_>>());
    }

    #[test]
    fn a_body_at_hand_whole_goes_at_once() {
        use BodyLength::{Chunked, Length, None as Nothing, UntilClose};
        for (body, expected) in [
            (Nothing, Some(&b""[..])),
            (Length(0), Some(b"")),
            (Length(3), Some(b"abc")),
            (Length(4), None),
            (Chunked, None),
            (UntilClose, None),
        ] {
            let mut flow = Flow::new(body, body);
            assert_eq!(flow.whole(b"abc"), expected, "{body:?}");
            assert_eq!(flow.is_ended(), expected.is_some());
            assert_eq!(flow.content_bytes(), expected.map_or(0, |bytes| bytes.len() as u64));
        }
    }

    #[test]
    fn spliced_bytes_count() {
        let mut flow = Flow::new(BodyLength::Length(10), BodyLength::Length(10));
        assert_eq!(flow.movable(), 10);
        flow.moved(10);
        assert!(flow.is_ended());
        let mut flow = Flow::new(BodyLength::Chunked, BodyLength::Chunked);
        let mut batch = Batch::default();
        flow.step(b"ff\r\nabc", &mut batch).unwrap();
        assert_eq!((batch.consumed, flow.movable()), (7, 252));
        flow.moved(252);
        flow.step(b"\r\n0\r\n\r\n", &mut batch).unwrap();
        assert!(flow.is_ended() && flow.content_bytes() == 255);
    }
}
