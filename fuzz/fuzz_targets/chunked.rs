//! Chunked bodies: the verdict doesn't depend on the cuts, and data framed afresh decodes to the same.
//!
//! The first byte picks the length of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::chunked::{
    ChunkError, ChunkEvent, ChunkedDecoder, LAST_CHUNK_SIZE, TrailerIndex, encode_chunk, encode_trailers,
    parse_trailers,
};

fuzz_target!(|data: &[u8]| {
    let [step, bytes @ ..] = data else { return };
    let whole = decode(bytes, usize::MAX);
    assert_eq!(decode(bytes, usize::from(*step).max(1)), whole);
    if let Ok(Some((content, section))) = whole {
        let mut slots = TrailerIndex::default();
        let Ok(trailers) = parse_trailers(&section, &mut slots) else { return };
        let mut out = Vec::new();
        encode_chunk(&content, &mut out);
        out.extend_from_slice(LAST_CHUNK_SIZE);
        let trailers_at = out.len();
        encode_trailers(&trailers, &mut out);
        let expected = Ok(Some((content, out[trailers_at..].to_vec())));
        assert_eq!(decode(&out, usize::MAX), expected);
    }
});

/// Data and trailer section; None when the input ends before the body does.
fn decode(input: &[u8], step: usize) -> Result<Option<(Vec<u8>, Vec<u8>)>, ChunkError> {
    let mut decoder = ChunkedDecoder::new();
    let mut content = Vec::new();
    let mut at = 0;
    let mut seen = step.min(input.len());
    loop {
        match decoder.next(&input[at..seen])? {
            ChunkEvent::NeedMore if seen == input.len() => return Ok(None),
            ChunkEvent::NeedMore => seen = seen.saturating_add(step).min(input.len()),
            ChunkEvent::Size { bytes, .. } | ChunkEvent::DataEnd { bytes } => at += bytes,
            ChunkEvent::Data { bytes } => {
                content.extend_from_slice(&input[at..at + bytes]);
                at += bytes;
            }
            ChunkEvent::End { bytes } => return Ok(Some((content, input[at..at + bytes].to_vec()))),
        }
    }
}
