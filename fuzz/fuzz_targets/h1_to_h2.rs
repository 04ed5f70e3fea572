//! The HTTP/1.1 form on its way to HTTP/2: what is said doesn't depend on how the bytes were cut or how much flow
//! control took at a time, and what is said can be rendered again.
//!
//! The first byte picks the message, the second the length of the pieces, the third the window.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::http2::absorb::{Absorber, Event};
use ringway::http::http2::{Asked, Malformed, render, websocket_key};
use ringway::http::message::{Method, Scheme};

fuzz_target!(|data: &[u8]| {
    let [message, cut, window, bytes @ ..] = data else { return };
    let asked = |method| Asked { method, websocket_key: None };
    let make = || match message % 5 {
        0 => Absorber::request(Scheme::Https),
        1 => Absorber::response(asked(Method::Get)),
        2 => Absorber::response(asked(Method::Head)),
        3 => Absorber::response(asked(Method::Connect)),
        _ => Absorber::response(Asked { method: Method::Get, websocket_key: Some(websocket_key([7; 16])) }),
    };
    let whole = absorb(make(), bytes, usize::MAX, usize::MAX);
    let in_pieces = absorb(make(), bytes, usize::from(*cut).max(1), usize::from(*window).max(1));
    match (&whole.1, &in_pieces.1) {
        (Ok(()), Ok(())) => assert_eq!(whole.0, in_pieces.0),
        // A head isn't looked at before it seems to be whole.
        (Err(_), Err(Malformed::Cut)) | (Err(Malformed::Cut), Err(_)) => {}
        (Err(one), Err(other)) => assert_eq!(one, other),
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
});

/// What was said, data joined, and how it ended.
fn absorb(
    mut absorber: Absorber,
    input: &[u8],
    cut: usize,
    window: usize,
) -> (Vec<String>, Result<(), Malformed>) {
    let mut said = Vec::new();
    let mut content = Vec::new();
    let mut held: Vec<u8> = Vec::new();
    for piece in input.chunks(cut.min(input.len().max(1))) {
        held.extend_from_slice(piece);
        while !held.is_empty() {
            let (used, event) = match absorber.step(&held) {
                Ok(step) => step,
                Err(error) => return (said, Err(error)),
            };
            let mut taken = 0;
            match event {
                None => {
                    assert_eq!(used, held.len());
                    held.clear();
                    break;
                }
                Some(Event::Data { bytes, end }) => {
                    assert!(!bytes.is_empty());
                    taken = bytes.len().min(window);
                    content.extend_from_slice(&bytes[..taken]);
                    let ends = end && taken == bytes.len();
                    absorber.took(taken);
                    assert_eq!(absorber.is_ended(), ends);
                }
                Some(Event::Interim(head)) => {
                    assert!(head.status().is_informational());
                    said.push(format!("{:?} {:?}", head.status(), head.headers()));
                }
                Some(Event::Response { head, .. }) => {
                    said.push(format!("{:?} {:?}", head.status(), head.headers()));
                }
                Some(Event::Request { head, protocol, .. }) => {
                    said.push(format!("{:?} {:?} {:?}", head.method(), head.uri(), head.headers()));
                    rendered_again(head.into_parts().0, protocol);
                }
                Some(Event::Trailers(map)) => said.push(format!("{map:?}")),
                Some(Event::End) => assert!(absorber.is_ended()),
            }
            held.drain(..used + taken);
        }
    }
    said.push(content.escape_ascii().to_string());
    let end = absorber.finish().map(|_| assert!(absorber.is_ended()));
    (said, end)
}

/// A client of HTTP/2 could have sent what we send.
fn rendered_again(parts: http::request::Parts, protocol: Option<&str>) {
    let length = parts.headers.get("content-length").is_some_and(|value| value.as_bytes() != b"0");
    let mut out = Vec::new();
    if let Err(error) =
        render::request(&parts, protocol, !length && parts.method != "POST", [7; 16], &mut out)
    {
        assert_eq!(error, Malformed::Head(ringway::http::framing::HeadRule::TooManyFields), "{parts:?}");
    }
}
