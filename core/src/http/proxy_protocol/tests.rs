//! Tables from the specification, every cut, and headers that must come back as they went.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::{Just, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};

use super::{
    Endpoints, Header, Malformed, Parsed, SSL_CERTIFICATE_CONNECTION, SSL_CERTIFICATE_SESSION, SSL_CONNECTED,
    Ssl, Tlvs, crc32c, encode_v1, encode_v2, parse,
};

fn inet(source: &str, destination: &str) -> Endpoints<'static> {
    Endpoints::Inet { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn complete(bytes: &[u8]) -> Header<'_> {
    match parse(bytes) {
        Ok(Parsed::Complete(header)) => header,
        other => panic!("{}: {other:?}", bytes.escape_ascii()),
    }
}

/// Every prefix is partial, and what follows doesn't matter.
fn check_cuts(bytes: &[u8]) {
    let header = complete(bytes);
    assert_eq!(header.bytes, bytes.len(), "{}", bytes.escape_ascii());
    for cut in 0..bytes.len() {
        assert_eq!(parse(&bytes[..cut]), Ok(Parsed::Partial), "{} cut {cut}", bytes.escape_ascii());
    }
    let mut more = bytes.to_vec();
    more.extend_from_slice(b"GET / HTTP/1.1\r\n");
    assert_eq!(complete(&more), header);
}

/// A refusal isn't taken back by more bytes, and comes at the latest with the last of these.
fn check_refused(bytes: &[u8], why: Malformed) {
    assert_eq!(parse(bytes), Err(why), "{}", bytes.escape_ascii());
    let first = (0..=bytes.len()).find(|&cut| parse(&bytes[..cut]).is_err()).unwrap();
    for cut in 0..=bytes.len() {
        let expected = if cut < first { Ok(Parsed::Partial) } else { Err(why) };
        assert_eq!(parse(&bytes[..cut]), expected, "{} cut {cut}", bytes.escape_ascii());
    }
}

#[test]
fn version_1() {
    let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    let table = [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            inet("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", inet("192.168.0.1:56324", "192.168.0.11:443")),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 0 1\r\n", inet("1.2.3.4:0", "5.6.7.8:1")),
        (
            longest,
            inet(
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
                "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            ),
        ),
        ("PROXY TCP6 2001:DB8::1 ::1 1 2\r\n", inet("[2001:db8::1]:1", "[::1]:2")),
        ("PROXY UNKNOWN\r\n", Endpoints::Unknown),
        ("PROXY UNKNOWN \r\n", Endpoints::Unknown),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Endpoints::Unknown,
        ),
    ];
    for (line, endpoints) in table {
        check_cuts(line.as_bytes());
        assert_eq!(complete(line.as_bytes()).endpoints, endpoints, "{line}");
    }
}

#[test]
fn version_1_is_strict() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(long.len(), 108);
    let table = [
        ("", None),
        ("GET / HTTP/1.1\r\n", Some(Malformed::Signature)),
        ("proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Some(Malformed::Signature)),
        ("PROXY\tTCP4 1.2.3.4 5.6.7.8 1 2\r\n", Some(Malformed::Signature)),
        ("PROXY \r\n", Some(Malformed::Line)),
        ("PROXY TCP4\r\n", Some(Malformed::Line)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", Some(Malformed::Line)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", Some(Malformed::Line)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", Some(Malformed::Line)),
        ("PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Some(Malformed::Line)),
        ("PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", Some(Malformed::Line)),
        ("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", Some(Malformed::Line)),
        ("PROXY UNKNOWNS\r\n", Some(Malformed::Line)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", Some(Malformed::Line)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx", Some(Malformed::Line)),
        ("PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n", Some(Malformed::Address)),
        ("PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n", Some(Malformed::Address)),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Some(Malformed::Address)),
        ("PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", Some(Malformed::Address)),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", Some(Malformed::Address)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", Some(Malformed::Port)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n", Some(Malformed::Port)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", Some(Malformed::Port)),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n", Some(Malformed::Port)),
        (&long, Some(Malformed::LineTooLong)),
    ];
    for (line, why) in table {
        match why {
            Some(why) => check_refused(line.as_bytes(), why),
            None => assert_eq!(parse(line.as_bytes()), Ok(Parsed::Partial)),
        }
    }
    // Bytes after the line don't make it longer.
    let fits = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(complete(fits.as_bytes()).bytes, 107);
}

fn v2(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    out.extend_from_slice(&[version_command, family]);
    out.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    out.extend_from_slice(rest);
    out
}

const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0x1f, 0x90, 0x01, 0xbb];

#[test]
fn version_2() {
    let mut inet6 = [0; 36];
    inet6[15] = 1;
    inet6[16..18].copy_from_slice(&[0x20, 0x01]);
    inet6[31] = 2;
    inet6[32..].copy_from_slice(&[0, 80, 1, 187]);
    let mut unix = [0; 216];
    unix[..5].copy_from_slice(b"/a\0bc");
    unix[108..112].copy_from_slice(b"\0abs");
    let table: &[(u8, u8, &[u8], Endpoints<'_>)] = &[
        (0x21, 0x11, &INET, inet("192.0.2.1:8080", "198.51.100.2:443")),
        (0x21, 0x12, &INET, inet("192.0.2.1:8080", "198.51.100.2:443")),
        (0x21, 0x21, &inet6, inet("[::1]:80", "[2001::2]:443")),
        (0x21, 0x31, &unix, Endpoints::Unix { source: b"/a", destination: b"\0abs" }),
        (0x21, 0x00, b"", Endpoints::Unknown),
        (0x21, 0x10, &INET, Endpoints::Unknown),
        (0x20, 0x00, b"", Endpoints::Local),
        // LOCAL: whatever is there is skipped.
        (0x20, 0x11, &INET, Endpoints::Local),
        (0x20, 0xff, b"anything", Endpoints::Local),
    ];
    for &(version_command, family, rest, endpoints) in table {
        let bytes = v2(version_command, family, rest);
        check_cuts(&bytes);
        assert_eq!(complete(&bytes).endpoints, endpoints);
        assert_eq!(
            complete(&bytes).endpoints.source().is_some(),
            matches!(endpoints, Endpoints::Inet { .. })
        );
    }
}

#[test]
fn version_2_is_strict() {
    let tlv = |bytes: &[u8]| [&INET[..], bytes].concat();
    let table: &[(u8, u8, Vec<u8>, Malformed)] = &[
        (0x11, 0x11, INET.to_vec(), Malformed::Version),
        (0x31, 0x11, INET.to_vec(), Malformed::Version),
        (0x22, 0x11, INET.to_vec(), Malformed::Command),
        (0x21, 0x41, INET.to_vec(), Malformed::Family),
        (0x21, 0x13, INET.to_vec(), Malformed::Family),
        (0x21, 0x11, INET[..11].to_vec(), Malformed::Length),
        (0x21, 0x21, INET.to_vec(), Malformed::Length),
        (0x21, 0x11, tlv(&[0; 4069]), Malformed::Length),
        (0x21, 0x11, tlv(b"\x01"), Malformed::Tlv),
        (0x21, 0x11, tlv(b"\x01\0"), Malformed::Tlv),
        (0x21, 0x11, tlv(b"\x01\0\x03h2"), Malformed::Tlv),
        (0x21, 0x11, tlv(b"\x02\0\x01\xff"), Malformed::Tlv),
        (0x21, 0x11, tlv(&[b"\x05\0\x81", &[0; 129][..]].concat()), Malformed::Tlv),
        (0x21, 0x11, tlv(b"\x20\0\x04\0\0\0\0"), Malformed::Tlv),
        (0x21, 0x11, tlv(b"\x20\0\x08\x01\0\0\0\0\x21\0\x09"), Malformed::Tlv),
        (0x21, 0x11, tlv(b"\x03\0\x03\0\0\0"), Malformed::Tlv),
        (0x21, 0x11, tlv(b"\x03\0\x04\0\0\0\0"), Malformed::Checksum),
        (0x21, 0x11, tlv(b"\x02\0\x01a\x02\0\x01a"), Malformed::TlvRepeated),
    ];
    for (version_command, family, rest, why) in table {
        check_refused(&v2(*version_command, *family, rest), *why);
    }
    check_refused(b"\r\n\r\n\0\r\nQUIT\r", Malformed::Signature);
}

fn everything() -> Tlvs<'static> {
    Tlvs {
        authority: Some("a.example"),
        alpn: Some(b"h2"),
        unique_id: Some(b"\x00\x01"),
        ssl: Some(Ssl {
            client: SSL_CONNECTED | SSL_CERTIFICATE_SESSION,
            verify: 0,
            version: Some("TLSv1.3"),
            common_name: Some("client"),
            cipher: Some("TLS_AES_128_GCM_SHA256"),
            signature_algorithm: Some("SHA256"),
            key_algorithm: Some("EC256"),
        }),
        netns: Some("blue"),
        checksum: true,
        raw: b"",
    }
}

#[test]
fn a_flipped_bit_is_found() {
    let mut bytes = Vec::new();
    encode_v2(&inet("192.0.2.1:8080", "198.51.100.2:443"), &everything(), &mut bytes).unwrap();
    check_cuts(&bytes);
    let header = complete(&bytes);
    assert_eq!(Tlvs { raw: b"", ..header.tlvs }, everything());
    assert_eq!(header.tlvs.iter().map(|(kind, _)| kind).collect::<Vec<_>>(), [3, 1, 2, 5, 0x30, 0x20]);
    assert!(header.tlvs.ssl.is_some_and(|ssl| ssl.is_verified()));
    // Any bit of the addresses and of the checksum itself.
    for at in 16..16 + 12 + 7 {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(
                !matches!(parse(&flipped), Ok(Parsed::Complete(found)) if found.tlvs.checksum),
                "{at}.{bit}"
            );
        }
    }
    let twice = [&bytes[16 + 12..16 + 12 + 7], &bytes[16 + 12..16 + 12 + 7]].concat();
    assert!(parse(&v2(0x21, 0x11, &[&INET[..], &twice].concat())).is_err());
}

#[test]
fn certificates_count_only_over_tls_and_verified() {
    for (client, verify, expected) in [
        (SSL_CONNECTED | SSL_CERTIFICATE_CONNECTION, 0, true),
        (SSL_CONNECTED | SSL_CERTIFICATE_SESSION, 0, true),
        (SSL_CONNECTED | SSL_CERTIFICATE_CONNECTION, 1, false),
        (SSL_CONNECTED, 0, false),
        (SSL_CERTIFICATE_CONNECTION, 0, false),
    ] {
        assert_eq!(Ssl { client, verify, ..Ssl::default() }.is_verified(), expected, "{client} {verify}");
    }
}

/// RFC 3720 appendix B.4.
#[test]
fn checksums() {
    let ascending: Vec<u8> = (0..32).collect();
    for (bytes, sum) in [
        (&[0; 32][..], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&ascending, 0x46dd_794e),
        (b"123456789", 0xe306_9283),
    ] {
        assert_eq!(crc32c(0, bytes), sum);
        assert_eq!(crc32c(crc32c(0, &bytes[..7]), &bytes[7..]), sum);
    }
}

#[test]
fn version_1_is_written() {
    let table = [
        (inet("192.0.2.1:8080", "198.51.100.2:443"), "PROXY TCP4 192.0.2.1 198.51.100.2 8080 443\r\n"),
        (inet("[2001:db8::1]:1", "[::1]:2"), "PROXY TCP6 2001:db8::1 ::1 1 2\r\n"),
        (inet("192.0.2.1:1", "[::1]:2"), "PROXY TCP6 ::ffff:c000:201 ::1 1 2\r\n"),
        (Endpoints::Unknown, "PROXY UNKNOWN\r\n"),
        (Endpoints::Local, "PROXY UNKNOWN\r\n"),
        (Endpoints::Unix { source: b"/a", destination: b"/b" }, "PROXY UNKNOWN\r\n"),
    ];
    for (endpoints, expected) in table {
        let mut out = Vec::new();
        encode_v1(&endpoints, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
        check_cuts(&out);
    }
}

#[test]
fn what_does_not_fit_is_not_written() {
    let endpoints = inet("192.0.2.1:1", "192.0.2.2:2");
    let long = "x".repeat(4096);
    let path = [b'/'; 109];
    for (endpoints, tlvs, why) in [
        (endpoints, Tlvs { authority: Some(&long), ..Tlvs::default() }, Malformed::Length),
        (endpoints, Tlvs { unique_id: Some(&[0; 129]), ..Tlvs::default() }, Malformed::Tlv),
        (Endpoints::Unix { source: &path, destination: b"" }, Tlvs::default(), Malformed::Length),
    ] {
        let mut out = b"before".to_vec();
        assert_eq!(encode_v2(&endpoints, &tlvs, &mut out), Err(why));
        assert_eq!(out, b"before");
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// As the encoders write a pair: of one family.
fn widened(source: SocketAddr, destination: SocketAddr) -> Endpoints<'static> {
    let (one, other) = super::one_family(source.ip(), destination.ip());
    Endpoints::Inet {
        source: SocketAddr::new(one, source.port()),
        destination: SocketAddr::new(other, destination.port()),
    }
}

proptest! {
    #[test]
    fn headers_come_back(
        source in address(),
        destination in address(),
        authority in prop_oneof![Just(None), "\\PC{0,40}".prop_map(Some)],
        alpn in prop::option::of(prop::collection::vec(any::<u8>(), 0..10)),
        unique_id in prop::option::of(prop::collection::vec(any::<u8>(), 0..=128)),
        tls in any::<bool>(),
        checksum in any::<bool>(),
    ) {
        let endpoints = Endpoints::Inet { source, destination };
        let tlvs = Tlvs {
            authority: authority.as_deref(),
            alpn: alpn.as_deref(),
            unique_id: unique_id.as_deref(),
            ssl: everything().ssl.filter(|_| tls),
            netns: None,
            checksum,
            raw: b"",
        };
        let mut out = Vec::new();
        encode_v2(&endpoints, &tlvs, &mut out).unwrap();
        let header = complete(&out);
        prop_assert_eq!(header.endpoints, widened(source, destination));
        prop_assert_eq!(Tlvs { raw: b"", ..header.tlvs }, tlvs);
        check_cuts(&out);
        let mut line = Vec::new();
        encode_v1(&endpoints, &mut line);
        prop_assert_eq!(complete(&line).endpoints, widened(source, destination));
        check_cuts(&line);
    }

    /// Whatever comes, the verdict on a prefix is "partial" or the verdict on the whole.
    #[test]
    fn the_verdict_does_not_depend_on_the_cut(rest in prop::collection::vec(any::<u8>(), 0..80), version_2 in any::<bool>()) {
        let mut bytes = if version_2 { b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec() } else { b"PROXY ".to_vec() };
        bytes.extend_from_slice(&rest);
        let whole = parse(&bytes);
        for cut in 0..bytes.len() {
            let part = parse(&bytes[..cut]);
            if part != Ok(Parsed::Partial) {
                prop_assert_eq!(part, whole);
            }
        }
    }
}
