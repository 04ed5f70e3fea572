//! PROXY headers: the verdict doesn't depend on the cut, and what was read is written and read again as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::proxy_protocol::{Endpoints, Parsed, Tlvs, encode_v1, encode_v2, parse};

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    for cut in 0..data.len().min(256) {
        let part = parse(&data[..cut]);
        assert!(part == Ok(Parsed::Partial) || part == whole, "cut {cut}: {part:?}, {whole:?}");
    }
    let Ok(Parsed::Complete(header)) = whole else { return };
    assert!(header.bytes <= data.len() && header.bytes <= 4096);
    let mut out = Vec::new();
    encode_v2(&header.endpoints, &header.tlvs, &mut out).expect("what was read fits");
    match parse(&out) {
        Ok(Parsed::Complete(again)) => {
            assert_eq!((again.bytes, again.endpoints), (out.len(), header.endpoints));
            if header.endpoints != Endpoints::Local {
                assert_eq!(Tlvs { raw: b"", ..again.tlvs }, Tlvs { raw: b"", ..header.tlvs });
            }
        }
        other => panic!("{}: {other:?}", out.escape_ascii()),
    }
    let mut line = Vec::new();
    encode_v1(&header.endpoints, &mut line);
    match parse(&line) {
        Ok(Parsed::Complete(again)) => {
            assert_eq!((again.bytes, again.endpoints.source()), (line.len(), header.endpoints.source()));
        }
        other => panic!("{}: {other:?}", line.escape_ascii()),
    }
});
