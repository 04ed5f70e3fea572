//! Takes the framing off a body, for whoever changes its content on the way: what of the input is content, and the
//! trailers behind it. Called by `flow`, which does without where only the framing changes.

use super::chunked::{ChunkError, ChunkEvent, ChunkedDecoder};
use super::framing::BodyLength;
use crate::base::reason::ReasonCode;

/// One body as it comes.
#[derive(Debug)]
pub struct Content {
    source: Source,
    bytes: u64,
}

#[derive(Debug)]
enum Source {
    Length { left: u64 },
    Chunked(ChunkedDecoder),
    UntilClose,
    Ended,
}

/// What the input starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Content, never empty.
    Data(&'a [u8]),
    /// The end of the body. The trailer section is for [`parse_trailers`](super::chunked::parse_trailers); empty for a
    /// body that can't have one.
    End { trailers: &'a [u8] },
}

impl Content {
    /// A body framed so.
    pub fn new(from: BodyLength) -> Self {
        let source = match from {
            BodyLength::None | BodyLength::Length(0) => Source::Ended,
            BodyLength::Length(left) => Source::Length { left },
            BodyLength::Chunked => Source::Chunked(ChunkedDecoder::new()),
            BodyLength::UntilClose => Source::UntilClose,
        };
        Self { source, bytes: 0 }
    }

    /// The end was given out, or there is nothing else to give.
    pub fn is_ended(&self) -> bool {
        matches!(self.source, Source::Ended)
    }

    /// Content bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part, and how many bytes of the input are dealt with when it is; without a part, how many are dealt with
    /// before there is more input. Bytes behind the body's end are left alone.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Part<'a>>), FlowError> {
        let taken = match &mut self.source {
            Source::Ended => return Ok((0, Some(Part::End { trailers: b"" }))),
            Source::Chunked(_) => return self.next_chunked(input),
            Source::UntilClose => input.len(),
            Source::Length { left } => {
                let taken = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= taken as u64;
                if *left == 0 {
                    self.source = Source::Ended;
                }
                taken
            }
        };
        self.bytes += taken as u64;
        Ok((taken, (taken > 0).then(|| Part::Data(&input[..taken]))))
    }

    fn next_chunked<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Option<Part<'a>>), FlowError> {
        let Source::Chunked(decoder) = &mut self.source else { return Ok((0, None)) };
        let mut at = 0;
        loop {
            match decoder.next(&input[at..]).map_err(FlowError::Chunk)? {
                ChunkEvent::NeedMore => return Ok((at, None)),
                ChunkEvent::Size { bytes, .. } | ChunkEvent::DataEnd { bytes } => at += bytes,
                ChunkEvent::Data { bytes } => {
                    self.bytes += bytes as u64;
                    return Ok((at + bytes, Some(Part::Data(&input[at..at + bytes]))));
                }
                ChunkEvent::End { bytes } => {
                    self.source = Source::Ended;
                    return Ok((at + bytes, Some(Part::End { trailers: &input[at..at + bytes] })));
                }
            }
        }
    }

    /// The stream has ended: fine for a body that runs until then, or is over.
    pub fn finish(&mut self) -> Result<(), FlowError> {
        match self.source {
            Source::Ended => Ok(()),
            Source::UntilClose => {
                self.source = Source::Ended;
                Ok(())
            }
            Source::Length { .. } | Source::Chunked(_) => Err(FlowError::Truncated),
        }
    }
}

/// Why a body can't go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowError {
    /// The chunked coding is broken.
    Chunk(ChunkError),
    /// The stream ended before the body did.
    Truncated,
    /// The content is not what it should be, says one of those that change it.
    Content(ReasonCode),
}

impl FlowError {
    /// A stable code for logs and metrics.
    pub fn reason(self) -> ReasonCode {
        match self {
            Self::Chunk(error) => error.reason(),
            Self::Truncated => ReasonCode::BodyTruncated,
            Self::Content(reason) => reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, Part};
    use crate::http::chunked::ChunkError;
    use crate::http::flow::FlowError;
    use crate::http::framing::BodyLength;

    /// Content, trailers, and what is left, for an input that comes `cut` bytes at a time.
    type Taken = (Vec<u8>, Vec<u8>, usize);

    fn run(from: BodyLength, input: &[u8], cut: usize) -> Result<Taken, FlowError> {
        let mut content = Content::new(from);
        let (mut data, mut trailers) = (Vec::new(), Vec::new());
        let (mut start, mut end) = (0, cut.min(input.len()));
        loop {
            let (used, part) = content.next(&input[start..end])?;
            start += used;
            match part {
                Some(Part::Data(bytes)) => {
                    assert!(!bytes.is_empty());
                    data.extend_from_slice(bytes);
                }
                Some(Part::End { trailers: section }) => {
                    trailers.extend_from_slice(section);
                    break;
                }
                None if end == input.len() => {
                    content.finish()?;
                    break;
                }
                None => end = (end + cut).min(input.len()),
            }
        }
        assert!(content.is_ended());
        assert_eq!(content.bytes(), data.len() as u64);
        Ok((data, trailers, input.len() - start))
    }

    /// Framing, input; content, trailers, bytes left.
    type Row<'a> = (BodyLength, &'a str, Result<(&'a str, &'a str, usize), FlowError>);

    #[test]
    fn framing_comes_off() {
        let table: &[Row<'_>] = &[
            (BodyLength::None, "next", Ok(("", "", 4))),
            (BodyLength::Length(0), "next", Ok(("", "", 4))),
            (BodyLength::Length(3), "abcnext", Ok(("abc", "", 4))),
            (BodyLength::Length(3), "ab", Err(FlowError::Truncated)),
            (BodyLength::UntilClose, "abc", Ok(("abc", "", 0))),
            (BodyLength::UntilClose, "", Ok(("", "", 0))),
            (BodyLength::Chunked, "1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\nnext", Ok(("abc", "\r\n", 4))),
            (BodyLength::Chunked, "0\r\nA: b\r\n\r\nnext", Ok(("", "A: b\r\n\r\n", 4))),
            (BodyLength::Chunked, "1\r\na\r\n0\r\n", Err(FlowError::Truncated)),
            (BodyLength::Chunked, "1\r\nab", Err(FlowError::Chunk(ChunkError::DataEnd))),
        ];
        for (from, input, expected) in table {
            let expected = expected
                .map(|(data, trailers, left)| (data.as_bytes().to_vec(), trailers.as_bytes().to_vec(), left));
            for cut in 1..=input.len().max(1) {
                assert_eq!(run(*from, input.as_bytes(), cut), expected, "{from:?} {input:?} cut {cut}");
            }
        }
    }
}
