//! gRPC's small texts and gRPC-Web's body: nothing panics, nothing depends on the cut, and what was read is written and
//! read again as the same.
//!
//! The first byte picks the length of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::grammar::is_field_value;
use ringway::http::grpc::{GrpcStatus, is_grpc, message, push_message, push_timeout, timeout};
use ringway::http::grpc_web::{Encoding, Malformed, RequestBody, WebType, push_response_data};

fuzz_target!(|data: &[u8]| {
    let [cut, bytes @ ..] = data else { return };
    let whole = decode(bytes, usize::MAX);
    assert_eq!(decode(bytes, usize::from(*cut).max(1)), whole);
    if let Ok(content) = whole {
        let mut wire = Vec::new();
        for piece in content.chunks(usize::from(*cut).max(1)) {
            push_response_data(Encoding::Text, piece, &mut wire);
        }
        assert_eq!(decode(&wire, 7), Ok(content));
    }
    let text = message(bytes);
    let mut value = Vec::new();
    push_message(&text, &mut value);
    assert!(is_field_value(&value));
    assert_eq!(message(&value), text);
    if let Some(asked) = timeout(bytes) {
        let mut out = Vec::new();
        push_timeout(asked, &mut out);
        let again = timeout(&out).expect("what is written is read");
        assert!(again <= asked.max(std::time::Duration::from_nanos(1)));
    }
    if let Some(web) = WebType::parse(bytes) {
        assert!(!is_grpc(bytes) && (web.format.is_empty() || web.format.starts_with(b"+")));
    }
    if let Some(status) = GrpcStatus::parse(bytes) {
        assert!(status.code() <= 16);
    }
});

fn decode(input: &[u8], cut: usize) -> Result<Vec<u8>, Malformed> {
    let mut body = RequestBody::new(Encoding::Text);
    let mut out = Vec::new();
    for piece in input.chunks(cut) {
        body.step(piece, &mut out)?;
    }
    body.finish().map(|()| out)
}
