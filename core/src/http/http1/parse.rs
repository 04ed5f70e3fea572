//! Parses request and response heads, strictly: what this accepts, every careful HTTP/1.1 server reads the same way.
//!
//! One pass of httparse finds the lines, one loop over the fields checks and classifies them. httparse 1.10 is lenient
//! in ways that we are not, and this file closes each of them:
//! - it ends a line at a bare LF: checked by looking at the byte before each line's LF, no extra pass;
//! - it skips any number of empty lines, bare LFs too, before a start line: skipped here first, counted;
//! - it lets a method be any token, and a target any bytes above 0x20 that are UTF-8: checked afterwards;
//! - it has one error for many causes: on the way out, a cold scan finds the rule that was broken.
//!
//! It refuses by itself, with the default `ParserConfig`: bare CR, folded lines, space before the colon, control
//! characters, more than one space between the parts of a start line, versions other than 1.0 and 1.1.
//!
//! The result doesn't depend on how the bytes were cut into reads: parsing a prefix says `Partial` or what the whole
//! would say.

use std::mem::MaybeUninit;

use httparse::{ParserConfig, Status as Parse};

use crate::base::limits::{
    CONNECTION_OPTION_COUNT_MAX, HEADER_BYTES_DEFAULT, HEADER_COUNT_MAX, LEADING_EMPTY_LINE_COUNT_MAX,
    METHOD_BYTES_MAX, URI_BYTES_DEFAULT,
};
use crate::http::framing::{
    BodyLength, FramingFields, HeadError, HeadRule, Side, StartLine, body_length, content_length,
    length_is_void, transfer_coding,
};
use crate::http::grammar::{
    authenticates_connection, eq_folding_underscore, is_authority, is_field_value, is_tchar, is_token,
    list_members, split_authority, trim,
};
use crate::http::message::{
    FieldIndex, FieldSet, Method, RequestFacts, RequestHead, RequestIndex, RequestTexts, ResponseFacts,
    ResponseHead, ResponseIndex, Scheme, Status, Target, Version,
};

/// Bounds of one head. Settings lower them; `header_bytes` can't exceed the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, skipped empty lines and the closing one included.
    pub header_bytes: usize,
    /// Fields, at most `HEADER_COUNT_MAX`.
    pub header_count: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits {
            header_bytes: HEADER_BYTES_DEFAULT,
            header_count: HEADER_COUNT_MAX,
            uri_bytes: URI_BYTES_DEFAULT,
        }
    }
}

/// What a prefix of the stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<T> {
    Complete(T),
    /// Nothing wrong so far; parse again from the start when there is more.
    Partial,
}

/// Where a head that starts at 0 may end, searching from `from` (what an earlier call had already seen): the offset
/// after the first empty line. None: parsing would be in vain, so a client that sends a byte at a time costs one pass
/// over each byte instead of one parse. An offset may be a false alarm (an empty line before the request line); the
/// parser decides. Bare LFs count, so that they are refused at once rather than waited for.
#[inline]
pub fn head_end_hint(buf: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(2).min(buf.len());
    memchr::memchr_iter(b'\n', &buf[start..]).map(|at| start + at).find_map(|at| match buf[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Parses the request head at the start of `buf`. `index` then says where everything stands in it.
#[inline]
pub fn parse_request<'a>(
    buf: &'a [u8],
    index: &'a mut RequestIndex,
    limits: &HeadLimits,
) -> Result<Parsed<RequestHead<'a>>, HeadError> {
    match request(buf, index, limits) {
        Ok(Parsed::Complete(())) => Ok(Parsed::Complete(index.head(buf))),
        Ok(Parsed::Partial) => Ok(Parsed::Partial),
        Err(rule) => Err(HeadError { rule, side: Side::Downstream }),
    }
}

/// Parses the response head at the start of `buf`, the answer to a request with method `to`. `index` then says where
/// everything stands in it.
#[inline]
pub fn parse_response<'a>(
    buf: &'a [u8],
    index: &'a mut ResponseIndex,
    to: Method,
    limits: &HeadLimits,
) -> Result<Parsed<ResponseHead<'a>>, HeadError> {
    match response(buf, index, to, limits) {
        Ok(Parsed::Complete(())) => Ok(Parsed::Complete(index.head(buf))),
        Ok(Parsed::Partial) => Ok(Parsed::Partial),
        Err(rule) => Err(HeadError { rule, side: Side::Upstream }),
    }
}

/// Where httparse puts fields: 4 KiB of stack that is never cleared, as it writes before anybody reads.
type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; HEADER_COUNT_MAX];

const EMPTY_SLOTS: Slots<'static> = [const { MaybeUninit::uninit() }; HEADER_COUNT_MAX];

fn request(buf: &[u8], index: &mut RequestIndex, limits: &HeadLimits) -> Result<Parsed<()>, HeadRule> {
    // Bytes past the limit don't count, so that the verdict is the same whether or not they have arrived.
    let window = &buf[..buf.len().min(limits.header_bytes)];
    let Some(skipped) = skip_empty_lines(window)? else {
        return Ok(Parsed::Partial);
    };
    let text = &window[skipped..];
    let mut parsed = httparse::Request::new(&mut []);
    let mut slots: Slots<'_> = EMPTY_SLOTS;
    let slots = &mut slots[..limits.header_count.min(HEADER_COUNT_MAX)];
    let raw = match parsed.parse_with_uninit_headers(text, slots) {
        Ok(Parse::Complete(len)) => &text[..len],
        Ok(Parse::Partial) => {
            uri_in_bounds(text, limits)?;
            if window.len() >= limits.header_bytes {
                return Err(HeadRule::HeadTooLarge);
            }
            return Ok(Parsed::Partial);
        }
        Err(error) => {
            uri_in_bounds(text, limits)?;
            return match why_no_request(text, error) {
                Some(rule) => Err(rule),
                None if window.len() >= limits.header_bytes => Err(HeadRule::HeadTooLarge),
                None => Ok(Parsed::Partial),
            };
        }
    };
    let (Some(method_text), Some(target_text)) = (parsed.method, parsed.path) else {
        return Err(HeadRule::RequestLine);
    };
    let (method_text, target_text) = (method_text.as_bytes(), target_text.as_bytes());
    if target_text.len() > limits.uri_bytes {
        return Err(HeadRule::UriTooLong);
    }
    let method = Method::from_text(method_text);
    if method == Method::Other {
        check_method(method_text)?;
    }
    let version = version_of(parsed.version);
    let target = parse_target(method, target_text)?;
    let mut facts = classify(raw, parsed.headers, Side::Downstream, version)?;
    if version == Version::Http10 {
        // An expectation of an HTTP/1.0 client is ignored (RFC 9110 section 10.1.1). We speak 1.1 upstream, and passing
        // it on would bring a 100 that this client doesn't understand.
        facts.hop_by_hop = facts.hop_by_hop.union(facts.expect_fields);
    }
    let host = effective_host(&target, target_text, version, &facts)?;
    let body = body_length(StartLine::Request { method, version }, facts.framing)?;
    let texts =
        RequestTexts { method: method_text, target, target_text, host, upgrade: facts.upgrade(version) };
    index_fields(raw, parsed.headers, &mut index.fields);
    index.skipped = skipped;
    index.facts = RequestFacts {
        method,
        version,
        head_bytes: skipped + raw.len(),
        body,
        keep_alive: facts.keep_alive(version),
        expect_continue: facts.expect_continue && version == Version::Http11,
        te_trailers: facts.te_trailers,
        hop_by_hop: facts.hop_by_hop,
        forwarding: facts.forwarding,
        host_fields: facts.host_fields,
        length_fields: facts.length_fields,
        expect_fields: facts.expect_fields,
        authenticates_connection: facts.authenticates_connection,
        ..RequestFacts::default()
    };
    index.facts.note_texts(&texts, raw);
    Ok(Parsed::Complete(()))
}

fn response(
    buf: &[u8],
    index: &mut ResponseIndex,
    to: Method,
    limits: &HeadLimits,
) -> Result<Parsed<()>, HeadRule> {
    let window = &buf[..buf.len().min(limits.header_bytes)];
    // httparse skips empty lines; RFC 9112 section 2.2 allows that before a request only.
    if matches!(window.first(), Some(b'\r' | b'\n')) {
        return Err(HeadRule::StatusLine);
    }
    let mut parsed = httparse::Response::new(&mut []);
    let mut slots: Slots<'_> = EMPTY_SLOTS;
    let slots = &mut slots[..limits.header_count.min(HEADER_COUNT_MAX)];
    let raw = match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, window, slots) {
        Ok(Parse::Complete(len)) => &window[..len],
        Ok(Parse::Partial) if window.len() >= limits.header_bytes => return Err(HeadRule::HeadTooLarge),
        Ok(Parse::Partial) => return Ok(Parsed::Partial),
        Err(error) => return Err(why_no_response(window, error)),
    };
    let status = Status(parsed.code.filter(|&code| code >= 100).ok_or(HeadRule::StatusLine)?);
    let version = version_of(parsed.version);
    let mut facts = classify(raw, parsed.headers, Side::Upstream, version)?;
    let body = body_length(StartLine::Response { to, status, version }, facts.framing)?;
    if length_is_void(to, status) {
        facts.hop_by_hop = facts.hop_by_hop.union(facts.length_fields);
    }
    index_fields(raw, parsed.headers, &mut index.fields);
    index.facts = ResponseFacts {
        status,
        version,
        head_bytes: raw.len(),
        body,
        keep_alive: facts.keep_alive(version) && body != BodyLength::UntilClose,
        hop_by_hop: facts.hop_by_hop,
        length_fields: facts.length_fields,
        has_date: facts.has_date,
        authenticates_connection: facts.authenticates_connection,
        ..ResponseFacts::default()
    }
    .with_texts(parsed.reason.unwrap_or_default().as_bytes(), facts.upgrade(version), raw);
    Ok(Parsed::Complete(()))
}

/// Notes where the fields stand.
#[inline]
fn index_fields(raw: &[u8], headers: &[httparse::Header<'_>], fields: &mut Vec<FieldIndex>) {
    fields.clear();
    fields.extend(headers.iter().map(|header| FieldIndex::of(header.name.as_bytes(), header.value, raw)));
}

/// The offset of the request line, or None when it isn't there yet.
#[inline]
fn skip_empty_lines(buf: &[u8]) -> Result<Option<usize>, HeadRule> {
    let mut at = 0;
    loop {
        match buf[at..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if at < 2 * LEADING_EMPTY_LINE_COUNT_MAX => at += 2,
            [b'\r', b'\n', ..] => return Err(HeadRule::LeadingEmptyLines),
            [b'\r', ..] => return Err(HeadRule::BareCr),
            [b'\n', ..] => return Err(HeadRule::BareLf),
            _ => return Ok(Some(at)),
        }
    }
}

/// httparse gives the minor version, 0 or 1.
#[inline]
fn version_of(minor: Option<u8>) -> Version {
    if minor == Some(1) { Version::Http11 } else { Version::Http10 }
}

/// An unregistered method, or one outside of RFC 9110: upper-case letters, digits, '-' and '_', a letter first.
#[cold]
pub(crate) fn check_method(text: &[u8]) -> Result<(), HeadRule> {
    let plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    match text {
        _ if text.len() > METHOD_BYTES_MAX => Err(HeadRule::MethodTooLong),
        [first, rest @ ..] if first.is_ascii_uppercase() && rest.iter().all(plain) => Ok(()),
        _ => Err(HeadRule::MethodInvalid),
    }
}

#[inline]
fn parse_target(method: Method, text: &[u8]) -> Result<Target<'_>, HeadRule> {
    if !text.is_ascii() {
        return Err(HeadRule::TargetNonAscii);
    }
    match (method, text) {
        (Method::Connect, _) => match split_authority(text) {
            Some((host, Some(port))) if port != 0 => Ok(Target::Authority { host, port }),
            _ => Err(HeadRule::TargetAuthority),
        },
        (_, [b'/', ..]) => {
            let (path, query) = split_query(text)?;
            Ok(Target::Origin { path, query })
        }
        (Method::Options, b"*") => Ok(Target::Asterisk),
        _ => absolute_target(text),
    }
}

/// RFC 9112 section 3.2.2. Clients send it to proxies; a gateway must accept it all the same.
#[cold]
fn absolute_target(text: &[u8]) -> Result<Target<'_>, HeadRule> {
    let Some(colon) = memchr::memmem::find(text, b"://") else {
        return Err(HeadRule::TargetForm);
    };
    let scheme = match &text[..colon] {
        name if name.eq_ignore_ascii_case(b"http") => Scheme::Http,
        name if name.eq_ignore_ascii_case(b"https") => Scheme::Https,
        name if is_token(name) => return Err(HeadRule::TargetScheme),
        _ => return Err(HeadRule::TargetForm),
    };
    let rest = &text[colon + 3..];
    let authority_len = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(authority_len);
    if !is_authority(authority) {
        return Err(HeadRule::TargetAuthority);
    }
    let (path, query) = split_query(rest)?;
    Ok(Target::Absolute { scheme, authority, path, query })
}

#[inline]
fn split_query(text: &[u8]) -> Result<(&[u8], Option<&[u8]>), HeadRule> {
    let Some(at) = memchr::memchr2(b'?', b'#', text) else {
        return Ok((text, None));
    };
    let (path, query) = (&text[..at], &text[at + 1..]);
    if text[at] == b'#' || memchr::memchr(b'#', query).is_some() {
        return Err(HeadRule::TargetFragment);
    }
    Ok((path, Some(query)))
}

/// The authority that the request is for, RFC 9112 sections 3.2 and 3.3.
#[inline]
fn effective_host<'b>(
    target: &Target<'b>,
    target_text: &'b [u8],
    version: Version,
    facts: &Facts<'b>,
) -> Result<&'b [u8], HeadRule> {
    let authority = match target {
        Target::Origin { .. } | Target::Asterisk => None,
        Target::Absolute { authority, .. } => Some(*authority),
        Target::Authority { .. } => Some(target_text),
    };
    match (facts.host, authority) {
        (None, _) if version == Version::Http11 => Err(HeadRule::HostMissing),
        (None, authority) => Ok(authority.unwrap_or(b"")),
        (Some(host), _) if !is_authority(host) => Err(HeadRule::HostInvalid),
        (Some(host), None) => Ok(host),
        (Some(host), Some(authority)) if host.eq_ignore_ascii_case(authority) => Ok(host),
        (Some(host), Some(authority)) => match *target {
            // CONNECT names a port always; Host may leave it out.
            Target::Authority { host: name, .. } if host.eq_ignore_ascii_case(name) => Ok(authority),
            // A port that is the scheme's own may be left out in either (RFC 9110 section 4.2.3).
            Target::Absolute { scheme, .. } if same_authority(scheme, host, authority) => Ok(host),
            _ => Err(HeadRule::HostMismatch),
        },
    }
}

#[cold]
fn same_authority(scheme: Scheme, a: &[u8], b: &[u8]) -> bool {
    let own = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    match (split_authority(a), split_authority(b)) {
        (Some((a, a_port)), Some((b, b_port))) => {
            a.eq_ignore_ascii_case(b) && a_port.unwrap_or(own) == b_port.unwrap_or(own)
        }
        _ => false,
    }
}

/// What the loop over the fields gathers.
#[derive(Default)]
struct Facts<'b> {
    framing: FramingFields,
    host: Option<&'b [u8]>,
    close: bool,
    stay: bool,
    names_upgrade: bool,
    /// Connection names something else than close, keep-alive and upgrade.
    names_fields: bool,
    has_date: bool,
    expect_continue: bool,
    te_trailers: bool,
    authenticates_connection: bool,
    upgrade: UpgradeField<'b>,
    connection_fields: FieldSet,
    hop_by_hop: FieldSet,
    forwarding: FieldSet,
    host_fields: FieldSet,
    length_fields: FieldSet,
    expect_fields: FieldSet,
}

#[derive(Default, Clone, Copy)]
enum UpgradeField<'b> {
    #[default]
    None,
    One(&'b [u8]),
    Several,
}

impl<'b> Facts<'b> {
    /// RFC 9112 section 9.3.
    fn keep_alive(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.stay)
    }

    /// RFC 9110 section 7.8: only when Connection names it, and never from HTTP/1.0.
    fn upgrade(&self, version: Version) -> Option<&'b [u8]> {
        match self.upgrade {
            UpgradeField::One(value) if self.names_upgrade && version == Version::Http11 => Some(value),
            _ => None,
        }
    }
}

/// A field name's length and first letter: one comparison tells almost every name from almost every other.
const fn key(name: &[u8]) -> u32 {
    (name.len() as u32) << 8 | (name[0] | 0x20) as u32
}

const CONNECTION: u32 = key(b"connection");
const AUTHORIZATION: u32 = key(b"authorization");
const CONTENT_LENGTH: u32 = key(b"content-length");
const DATE: u32 = key(b"date");
const EXPECT: u32 = key(b"expect");
const FORWARDED: u32 = key(b"forwarded");
const HOST: u32 = key(b"host");
const HTTP2_SETTINGS: u32 = key(b"http2-settings");
const KEEP_ALIVE: u32 = key(b"keep-alive");
const PROXY: u32 = key(b"proxy");
const PROXY_AUTHENTICATE: u32 = key(b"proxy-authenticate");
const PROXY_AUTHORIZATION: u32 = key(b"proxy-authorization");
const PROXY_CONNECTION: u32 = key(b"proxy-connection");
const TE: u32 = key(b"te");
const TRANSFER_ENCODING: u32 = key(b"transfer-encoding");
const UPGRADE: u32 = key(b"upgrade");
const WWW_AUTHENTICATE: u32 = key(b"www-authenticate");

/// Checks every line's end and every field that means something to a proxy.
#[inline]
fn classify<'b>(
    raw: &[u8],
    headers: &[httparse::Header<'b>],
    side: Side,
    version: Version,
) -> Result<Facts<'b>, HeadRule> {
    let mut facts = Facts::default();
    let base = raw.as_ptr().addr();
    // The last field's line, or the start line if there is none, and the empty line.
    let mut crlf = raw.ends_with(b"\r\n\r\n");
    for (index, header) in headers.iter().enumerate() {
        let name = header.name.as_bytes();
        // httparse saw the previous line's LF right before this name.
        let start = header.name.as_ptr().addr() - base;
        crlf &= start >= 2 && raw.get(start.wrapping_sub(2)) == Some(&b'\r');
        let Some(&first) = name.first() else {
            return Err(HeadRule::FieldName);
        };
        let value = header.value;
        match (name.len() as u32) << 8 | u32::from(first | 0x20) {
            HOST if name.eq_ignore_ascii_case(b"host") => {
                if facts.host.is_some() && side == Side::Downstream {
                    return Err(HeadRule::HostRepeated);
                }
                facts.host = Some(value);
                facts.host_fields.insert(index);
            }
            CONNECTION if name.eq_ignore_ascii_case(b"connection") => {
                facts.hop_by_hop.insert(index);
                facts.connection_fields.insert(index);
                read_connection(value, &mut facts);
            }
            KEEP_ALIVE if name.eq_ignore_ascii_case(b"keep-alive") => facts.hop_by_hop.insert(index),
            CONTENT_LENGTH => {
                if name.eq_ignore_ascii_case(b"content-length") {
                    if facts.framing.content_length.is_some() {
                        return Err(HeadRule::LengthRepeated);
                    }
                    facts.framing.content_length = Some(content_length(value)?);
                    facts.length_fields.insert(index);
                } else if eq_folding_underscore(name, b"content-length") {
                    return Err(HeadRule::FramingImpostor);
                }
            }
            TRANSFER_ENCODING => {
                if name.eq_ignore_ascii_case(b"transfer-encoding") {
                    if facts.framing.chunked {
                        return Err(HeadRule::ChunkedRepeated);
                    }
                    if version == Version::Http10 {
                        return Err(HeadRule::CodingInHttp10);
                    }
                    transfer_coding(value)?;
                    facts.framing.chunked = true;
                    facts.hop_by_hop.insert(index);
                } else if eq_folding_underscore(name, b"transfer-encoding") {
                    return Err(HeadRule::FramingImpostor);
                }
            }
            UPGRADE if name.eq_ignore_ascii_case(b"upgrade") => {
                facts.hop_by_hop.insert(index);
                facts.upgrade = match facts.upgrade {
                    UpgradeField::None => UpgradeField::One(value),
                    _ => UpgradeField::Several,
                };
            }
            TE if name.eq_ignore_ascii_case(b"te") => {
                facts.hop_by_hop.insert(index);
                facts.te_trailers |=
                    list_members(value).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
            }
            EXPECT if side == Side::Downstream && name.eq_ignore_ascii_case(b"expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadRule::ExpectUnknown);
                }
                facts.expect_continue = true;
                facts.expect_fields.insert(index);
            }
            DATE if name.eq_ignore_ascii_case(b"date") => facts.has_date = true,
            FORWARDED if name.eq_ignore_ascii_case(b"forwarded") => facts.forwarding.insert(index),
            // Left over from RFC 2616 and never the origin's business; `Proxy` becomes HTTP_PROXY under CGI.
            PROXY_CONNECTION if name.eq_ignore_ascii_case(b"proxy-connection") => {
                facts.hop_by_hop.insert(index);
            }
            AUTHORIZATION if name.eq_ignore_ascii_case(b"authorization") => {
                facts.authenticates_connection |= authenticates_connection(value);
            }
            WWW_AUTHENTICATE if name.eq_ignore_ascii_case(b"www-authenticate") => {
                facts.authenticates_connection |= authenticates_connection(value);
            }
            PROXY_AUTHENTICATE if name.eq_ignore_ascii_case(b"proxy-authenticate") => {
                facts.hop_by_hop.insert(index);
                facts.authenticates_connection |= authenticates_connection(value);
            }
            PROXY_AUTHORIZATION if name.eq_ignore_ascii_case(b"proxy-authorization") => {
                facts.hop_by_hop.insert(index);
                facts.authenticates_connection |= authenticates_connection(value);
            }
            PROXY if side == Side::Downstream && name.eq_ignore_ascii_case(b"proxy") => {
                facts.hop_by_hop.insert(index);
            }
            // Only ever hop-by-hop (RFC 7540 section 3.2.1), and one half of smuggling by h2c.
            HTTP2_SETTINGS if name.eq_ignore_ascii_case(b"http2-settings") => facts.hop_by_hop.insert(index),
            _ if first | 0x20 == b'x' && side == Side::Downstream => classify_x(index, name, &mut facts),
            _ => {}
        }
    }
    if !crlf {
        return Err(HeadRule::BareLf);
    }
    if facts.names_fields {
        drop_named_fields(headers, side, &mut facts)?;
    }
    Ok(facts)
}

/// `X-Forwarded-*` and `X-Real-IP`. Their spellings with '_' are never forwarded: a server that folds them would read
/// them as the real ones.
#[inline]
fn classify_x(index: usize, name: &[u8], facts: &mut Facts<'_>) {
    const PREFIX: &[u8] = b"x-forwarded-";
    let head = &name[..name.len().min(PREFIX.len())];
    if !eq_folding_underscore(head, PREFIX) && !eq_folding_underscore(name, b"x-real-ip") {
        return;
    }
    facts.forwarding.insert(index);
    if name.contains(&b'_') {
        facts.hop_by_hop.insert(index);
    }
}

#[inline]
fn read_connection(value: &[u8], facts: &mut Facts<'_>) {
    if value.eq_ignore_ascii_case(b"keep-alive") {
        facts.stay = true;
        return;
    }
    for option in list_members(value) {
        match option.len() {
            5 if option.eq_ignore_ascii_case(b"close") => facts.close = true,
            7 if option.eq_ignore_ascii_case(b"upgrade") => facts.names_upgrade = true,
            10 if option.eq_ignore_ascii_case(b"keep-alive") => facts.stay = true,
            _ => facts.names_fields = true,
        }
    }
}

/// Fields that Connection must not name: RFC 9110 section 7.6.1 forbids options that correspond to fields meant for all
/// recipients, and obeying them lets a client strip what proxies before us added.
const PROTECTED: &[&[u8]] = &[
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"set-cookie",
    b"via",
    b"x-real-ip",
];

/// RFC 9110 section 7.6.1: removes the fields that Connection names, and refuses it if those are PROTECTED. A response
/// may name Transfer-Encoding, as a large CDN does: it is hop-by-hop anyway, and framing doesn't depend on the option.
#[cold]
fn drop_named_fields(
    headers: &[httparse::Header<'_>],
    side: Side,
    facts: &mut Facts<'_>,
) -> Result<(), HeadRule> {
    let mut option_count = 0;
    for at in facts.connection_fields {
        for option in list_members(headers[at].value) {
            option_count += 1;
            if option_count > CONNECTION_OPTION_COUNT_MAX {
                return Err(HeadRule::ConnectionTooLong);
            }
            if !is_token(option) {
                return Err(HeadRule::ConnectionMalformed);
            }
            let is = |name: &&[u8]| eq_folding_underscore(option, name);
            let forwarded = option.len() >= 12 && eq_folding_underscore(&option[..12], b"x-forwarded-");
            if PROTECTED.iter().any(is)
                || forwarded
                || (side == Side::Downstream && is(&&b"transfer-encoding"[..]))
            {
                return Err(HeadRule::ConnectionProtected);
            }
            for (index, header) in headers.iter().enumerate() {
                if header.name.as_bytes().eq_ignore_ascii_case(option) {
                    facts.hop_by_hop.insert(index);
                }
            }
        }
    }
    Ok(())
}

/// Whether the request target, as far as it has come, keeps within its bound.
#[cold]
fn uri_in_bounds(text: &[u8], limits: &HeadLimits) -> Result<(), HeadRule> {
    let Some(space) = text.iter().position(|&byte| !is_tchar(byte)).filter(|&at| at > 0 && text[at] == b' ')
    else {
        return Ok(());
    };
    let target = text[space + 1..].iter().take_while(|&&byte| byte > b' ' && byte != 0x7f);
    if target.count() > limits.uri_bytes { Err(HeadRule::UriTooLong) } else { Ok(()) }
}

/// The rule behind an error of httparse, which does not wait for the whole of a version; `None`: more has to come to tell.
#[cold]
fn why_no_request(text: &[u8], error: httparse::Error) -> Option<HeadRule> {
    use httparse::Error;
    let method_len = text.iter().position(|&byte| !is_tchar(byte)).unwrap_or(text.len());
    let target = text.get(method_len + 1..).unwrap_or_default();
    let target_len = target.iter().position(|&byte| byte <= b' ' || byte == 0x7f).unwrap_or(target.len());
    if error == Error::Version {
        return why_no_version(target.get(target_len + 1..).unwrap_or_default());
    }
    Some(match error {
        Error::TooManyHeaders => HeadRule::TooManyFields,
        Error::Token => match (text.get(method_len), target.get(target_len)) {
            (Some(b' '), _) if method_len == 0 => HeadRule::RequestLine,
            (Some(b' '), Some(b' ')) if target_len > 0 => HeadRule::TargetNonAscii,
            // A line that ends after its target is HTTP/0.9's, and no request line since (RFC 9112 section 3).
            (Some(b' '), Some(b' ' | b'\r' | b'\n')) | (Some(b'\r' | b'\n' | b'\t'), _) => {
                HeadRule::RequestLine
            }
            (Some(b' '), _) => HeadRule::TargetControl,
            (Some(byte), _) if byte.is_ascii_control() => HeadRule::ControlCharacter,
            _ => HeadRule::MethodInvalid,
        },
        Error::NewLine | Error::HeaderName | Error::HeaderValue | Error::Status | Error::Version => {
            // "HTTP/1.x" and what follows it.
            match target.get(target_len + 9..) {
                Some([b'\r', b'\n', lines @ ..] | [b'\n', lines @ ..]) => why_no_fields(lines),
                Some([b'\r', ..]) => HeadRule::BareCr,
                _ => HeadRule::RequestLine,
            }
        }
    })
}

/// Tells a version that we don't speak from what is none: RFC 9112 section 2.3, `HTTP/` DIGIT `.` DIGIT and the line's end.
#[cold]
fn why_no_version(text: &[u8]) -> Option<HeadRule> {
    for (index, form) in b"HTTP/0.0\r".iter().enumerate() {
        let byte = *text.get(index)?;
        let fits = match form {
            b'0' => byte.is_ascii_digit(),
            b'\r' => matches!(byte, b'\r' | b'\n'),
            _ => byte == *form,
        };
        if !fits {
            return Some(HeadRule::RequestLine);
        }
    }
    Some(HeadRule::VersionUnsupported)
}

/// Makes 1.1 of the version in the head at the start of `buf` if it is 1.2 to 1.9, and says whether it was. A minor
/// version that we don't know is compatible with the one that we do (RFC 9110 section 2.5). For a head that was refused
/// with `VersionUnsupported`, so that no other pays for the look.
#[cold]
pub fn lower_minor_version(buf: &mut [u8]) -> bool {
    let Ok(Some(skipped)) = skip_empty_lines(buf) else { return false };
    let Some(line_len) = memchr::memchr(b'\r', &buf[skipped..]) else { return false };
    match &mut buf[skipped..skipped + line_len] {
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9'] => {
            *minor = b'1';
            true
        }
        _ => false,
    }
}

#[cold]
fn why_no_response(text: &[u8], error: httparse::Error) -> HeadRule {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => HeadRule::TooManyFields,
        Error::Version if text.starts_with(b"HTTP/") && text.get(5).is_some_and(u8::is_ascii_digit) => {
            if text.starts_with(b"HTTP/1.0") || text.starts_with(b"HTTP/1.1") {
                HeadRule::StatusLine
            } else {
                HeadRule::VersionUnsupported
            }
        }
        Error::Version | Error::Status | Error::Token => HeadRule::StatusLine,
        Error::NewLine | Error::HeaderName | Error::HeaderValue => match memchr::memchr(b'\n', text) {
            Some(end) => why_no_fields(&text[end + 1..]),
            None => HeadRule::StatusLine,
        },
    }
}

/// The first rule that these field lines break; they do break one.
#[cold]
fn why_no_fields(lines: &[u8]) -> HeadRule {
    let mut rest = lines;
    loop {
        match rest {
            [b'\r', b'\n', ..] => return HeadRule::FieldName,
            [b'\r', ..] => return HeadRule::BareCr,
            [b'\n', ..] => return HeadRule::BareLf,
            [b' ' | b'\t', ..] => return HeadRule::ObsFold,
            _ => {}
        }
        let name_len = rest.iter().position(|&byte| !is_tchar(byte)).unwrap_or(rest.len());
        match rest.get(name_len) {
            Some(b':') if name_len > 0 => rest = &rest[name_len + 1..],
            Some(b' ' | b'\t') => return HeadRule::SpaceBeforeColon,
            Some(byte) if byte.is_ascii_control() && !matches!(byte, b'\r' | b'\n') => {
                return HeadRule::ControlCharacter;
            }
            _ => return HeadRule::FieldName,
        }
        let is_value = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        let value_len = rest.iter().position(|&byte| !is_value(byte)).unwrap_or(rest.len());
        debug_assert!(is_field_value(trim(&rest[..value_len])));
        match &rest[value_len..] {
            [b'\r', b'\n', tail @ ..] => rest = tail,
            [b'\r', ..] => return HeadRule::BareCr,
            [b'\n', ..] => return HeadRule::BareLf,
            _ => return HeadRule::ControlCharacter,
        }
    }
}
