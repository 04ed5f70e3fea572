//! Every rule of the decoder, and that neither cuts in the input nor the way through the encoder change a body.

use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{
    ChunkError, ChunkEvent, ChunkedDecoder, LAST_CHUNK, LAST_CHUNK_SIZE, TrailerIndex, encode_chunk,
    encode_chunk_size, encode_trailers, parse_trailers,
};
use crate::base::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::http::corpus::{BAD_BODIES, BODIES, BodyCase};

/// What came out of a body: its data and its trailer section, or why not.
type Decoded = Result<Option<(Vec<u8>, Vec<u8>)>, ChunkError>;

/// Feeds the decoder `step` more bytes at a time; Ok(None) when the input ends before the body.
fn decode(input: &[u8], step: usize) -> Decoded {
    let mut decoder = ChunkedDecoder::new();
    let mut data = Vec::new();
    let mut at = 0;
    let mut seen = step.min(input.len());
    loop {
        match decoder.next(&input[at..seen])? {
            ChunkEvent::NeedMore if seen == input.len() => return Ok(None),
            ChunkEvent::NeedMore => seen = (seen + step).min(input.len()),
            ChunkEvent::Size { bytes, .. } | ChunkEvent::DataEnd { bytes } => at += bytes,
            ChunkEvent::Data { bytes } => {
                data.extend_from_slice(&input[at..at + bytes]);
                at += bytes;
            }
            ChunkEvent::End { bytes } => {
                assert!(decoder.is_ended());
                return Ok(Some((data, input[at..at + bytes].to_vec())));
            }
        }
    }
}

#[test]
fn accepted() {
    for BodyCase { bytes: input, data, section } in BODIES {
        for step in 1..=input.len() {
            let expected = Ok(Some((data.to_vec(), section.to_vec())));
            assert_eq!(decode(input, step), expected, "{} by {step}", input.escape_ascii());
        }
    }
}

#[test]
fn refused() {
    for (input, error) in BAD_BODIES {
        for step in 1..=input.len() {
            assert_eq!(decode(input, step), Err(*error), "{} by {step}", input.escape_ascii());
        }
    }
}

#[test]
fn bounds() {
    let long_line = [b"1;a=".to_vec(), vec![b'x'; CHUNK_LINE_BYTES_MAX]].concat();
    assert_eq!(decode(&long_line, 100), Err(ChunkError::LineTooLong));
    let long_trailer = [b"0\r\nA: ".to_vec(), vec![b'x'; TRAILER_BYTES_MAX]].concat();
    assert_eq!(decode(&long_trailer, 1000), Err(ChunkError::TrailerTooLong));
    // A byte of data under a kilobyte of extension, again and again.
    let line = [b"1;a=".to_vec(), vec![b'x'; 1000], b"\r\ny\r\n".to_vec()].concat();
    assert_eq!(decode(&line.repeat(100), usize::MAX), Err(ChunkError::Excess));
    // The same extension is fine where the data outweighs it, and one-byte chunks without extensions always are.
    let line =
        [b"3e8;a=".to_vec(), vec![b'x'; 1000], b"\r\n".to_vec(), vec![b'y'; 1000], b"\r\n".to_vec()].concat();
    assert_eq!(decode(&line.repeat(1000), usize::MAX), Ok(None));
    assert_eq!(decode(&b"1\r\na\r\n".repeat(100_000), usize::MAX), Ok(None));
}

#[test]
fn extension_is_reported() {
    for (input, expected) in [
        (&b"5\r\n"[..], ChunkEvent::Size { bytes: 3, size: 5, had_extension: false }),
        (b"5;a\r\n", ChunkEvent::Size { bytes: 5, size: 5, had_extension: true }),
        (b"ffffffffffffffff\r\n", ChunkEvent::Size { bytes: 18, size: u64::MAX, had_extension: false }),
    ] {
        assert_eq!(ChunkedDecoder::new().next(input), Ok(expected));
    }
}

#[test]
fn splicing_around() {
    let mut decoder = ChunkedDecoder::new();
    assert_eq!(decoder.remaining_in_chunk(), 0);
    decoder.next(b"100000\r\n").unwrap();
    assert_eq!(decoder.remaining_in_chunk(), 0x10_0000);
    assert_eq!(decoder.next(b"abc"), Ok(ChunkEvent::Data { bytes: 3 }));
    decoder.advance_data(0x10_0000 - 4);
    assert_eq!(decoder.remaining_in_chunk(), 1);
    assert_eq!(decoder.next(b"z\r\n0"), Ok(ChunkEvent::Data { bytes: 1 }));
    assert_eq!(decoder.next(b"\r"), Ok(ChunkEvent::NeedMore));
    assert_eq!(decoder.next(b"\r\n0"), Ok(ChunkEvent::DataEnd { bytes: 2 }));
    decoder.advance_data(7);
    assert_eq!(decoder.next(b"0\r\n"), Ok(ChunkEvent::Size { bytes: 3, size: 0, had_extension: false }));
    assert_eq!(decoder.next(b"\r\n"), Ok(ChunkEvent::End { bytes: 2 }));
    assert_eq!(decoder.next(b"GET"), Ok(ChunkEvent::End { bytes: 0 }));
}

#[test]
fn trailers() {
    let section =
        b"X-Sum: 1\r\nContent-Length: 5\r\nTransfer_Encoding: chunked\r\nHost: b\r\nAuthorization: x\r\n\
        X-Forwarded-For: 1.1.1.1\r\nIf-Match: x\r\ngrpc-status:  0 \r\nTE: a\r\n\r\n";
    let mut slots = TrailerIndex::default();
    let trailers = parse_trailers(section, &mut slots).unwrap();
    assert_eq!(trailers.fields.len(), 9);
    assert_eq!(trailers.fields.header("grpc-status"), Some(&b"0"[..]));
    let mut out = Vec::new();
    encode_trailers(&trailers, &mut out);
    assert_eq!(
        out.escape_ascii().to_string(),
        b"X-Sum: 1\r\ngrpc-status: 0\r\n\r\n".escape_ascii().to_string()
    );

    let mut slots = TrailerIndex::default();
    let mut out = Vec::new();
    encode_trailers(&parse_trailers(b"\r\n", &mut slots).unwrap(), &mut out);
    assert_eq!(out, b"\r\n");

    for (section, error) in [
        (&b"A b: c\r\n\r\n"[..], ChunkError::TrailerField),
        (b"A : c\r\n\r\n", ChunkError::TrailerField),
        (b"A\r\n\r\n", ChunkError::TrailerField),
        (b"A: b\r\n", ChunkError::TrailerField),
        (b"A: b\n\r\n", ChunkError::TrailerLine),
        (b"A: b\r\n\r\nmore", ChunkError::TrailerLine),
    ] {
        assert_eq!(
            parse_trailers(section, &mut TrailerIndex::default()).err(),
            Some(error),
            "{}",
            section.escape_ascii()
        );
    }
    let many = [b"A: b\r\n".repeat(129), b"\r\n".to_vec()].concat();
    assert_eq!(parse_trailers(&many, &mut TrailerIndex::default()).err(), Some(ChunkError::TrailerField));
}

#[test]
fn sizes_written() {
    for size in [0, 1, 15, 16, 255, 0xabc_def0, u64::MAX] {
        let mut out = Vec::new();
        encode_chunk_size(size, &mut out);
        assert_eq!(out, format!("{size:x}\r\n").as_bytes());
    }
}

proptest! {
    #[test]
    fn encoded_is_decoded(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        step in 1usize..400,
        with_trailer in any::<bool>(),
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            encode_chunk(chunk, &mut wire);
        }
        let section: &[u8] = if with_trailer { b"A: b\r\n\r\n" } else { b"\r\n" };
        if with_trailer {
            wire.extend_from_slice(LAST_CHUNK_SIZE);
            let mut slots = TrailerIndex::default();
            encode_trailers(&parse_trailers(section, &mut slots).unwrap(), &mut wire);
        } else {
            wire.extend_from_slice(LAST_CHUNK);
        }
        prop_assert_eq!(decode(&wire, step), Ok(Some((chunks.concat(), section.to_vec()))));
    }

    /// Almost well-formed bytes: the verdict doesn't depend on the cuts.
    #[test]
    fn cuts_do_not_matter(
        parts in prop::collection::vec(
            prop::sample::select(vec!["5", "0", "1", "\r\n", "\r", "\n", ";a", ";a=b", ";a=\"", "\"", "hello", " ", "A: b", "x"]),
            0..14,
        ),
        step in 1usize..9,
    ) {
        let input = parts.concat();
        prop_assert_eq!(decode(input.as_bytes(), step), decode(input.as_bytes(), usize::MAX));
    }

    #[test]
    fn never_panics(input in prop::collection::vec(any::<u8>(), 0..200), step in 1usize..50) {
        if let Ok(Some((data, _))) = decode(&input, step) {
            prop_assert!(data.len() < input.len());
        }
    }
}
