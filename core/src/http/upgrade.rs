//! Leaving HTTP: which Upgrade a proxy passes on, whether a 101 keeps what was offered, and where CONNECT leads.
//!
//! A tunnel is the end of everything we check, so it starts only when both sides agreed on it in so many words. A proxy
//! that starts one on the request alone, or on any 101, can be made to tunnel requests past its own rules.

use std::fmt;

use crate::base::reason::ReasonCode;
use crate::http::grammar::{is_token, list_members};
use crate::http::message::{Method, RequestHead, ResponseHead, Status, Target};

/// Which protocols may be offered upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradePolicy {
    /// None: every Upgrade is ignored, as RFC 9110 section 7.8 allows.
    Refuse,
    /// `websocket`, with GET (RFC 6455 section 4.1).
    WebSocket,
    /// Any but HTTP itself and TLS.
    Any,
}

/// The one protocol of the client's list to offer upstream, or None to treat the request as an ordinary one.
///
/// Never `h2c`, `HTTP/*` or `TLS/*`: after that switch the client would speak HTTP past our rules. Never with a body:
/// it would have to be sent in the old protocol first, and who waits for whom is not worth finding out.
pub fn offer<'b>(head: &RequestHead<'b>, policy: UpgradePolicy) -> Option<&'b [u8]> {
    if !head.body.is_empty() {
        return None;
    }
    list_members(head.upgrade()?).find(|protocol| match policy {
        UpgradePolicy::Refuse => false,
        UpgradePolicy::WebSocket => head.method == Method::Get && protocol.eq_ignore_ascii_case(b"websocket"),
        UpgradePolicy::Any => is_protocol(protocol) && !is_http(protocol),
    })
}

/// `protocol-name [ "/" protocol-version ]`, RFC 9110 section 7.8.
fn is_protocol(text: &[u8]) -> bool {
    match memchr::memchr(b'/', text) {
        Some(at) => is_token(&text[..at]) && is_token(&text[at + 1..]),
        None => is_token(text),
    }
}

fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&byte| byte == b'/').next().unwrap_or_default();
    [&b"http"[..], b"https", b"h2", b"h2c", b"h3", b"tls"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// Why a 101 is refused: with 502, and the upstream connection closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchError {
    /// We offered nothing.
    NotOffered,
    /// No Upgrade field, or Connection doesn't name it, or HTTP/1.0.
    NotNamed,
    /// It names something else than what we offered.
    OtherProtocol,
}

impl SwitchError {
    pub fn reason(self) -> ReasonCode {
        match self {
            SwitchError::NotOffered => ReasonCode::SwitchNotOffered,
            SwitchError::NotNamed => ReasonCode::SwitchNotNamed,
            SwitchError::OtherProtocol => ReasonCode::SwitchOtherProtocol,
        }
    }
}

impl fmt::Display for SwitchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "101 refused: {}", self.reason())
    }
}

impl std::error::Error for SwitchError {}

/// What a response means for an upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch<'b> {
    /// The tunnel starts after this head; its protocol as the origin wrote it.
    Tunnel(&'b [u8]),
    /// An ordinary response; the origin stays with HTTP.
    Stay,
}

/// Decides on a response to a request that offered `offered` (from `offer`).
pub fn switched<'b>(head: &ResponseHead<'b>, offered: Option<&[u8]>) -> Result<Switch<'b>, SwitchError> {
    if head.status != Status::SWITCHING_PROTOCOLS {
        return Ok(Switch::Stay);
    }
    let offered = offered.ok_or(SwitchError::NotOffered)?;
    let named = head.upgrade().ok_or(SwitchError::NotNamed)?;
    if named.eq_ignore_ascii_case(offered) {
        Ok(Switch::Tunnel(named))
    } else {
        Err(SwitchError::OtherProtocol)
    }
}

/// Where a CONNECT wants to go; None for any other request. The parser checked host and port, and whether that
/// destination is allowed is a policy's business.
pub fn connect_target<'b>(head: &RequestHead<'b>) -> Option<(&'b [u8], u16)> {
    match head.target() {
        Target::Authority { host, port } => Some((host, port)),
        Target::Origin { .. } | Target::Absolute { .. } | Target::Asterisk => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Switch, SwitchError, UpgradePolicy, connect_target, offer, switched};
    use crate::http::http1::parse::{HeadLimits, Parsed, parse_request, parse_response};
    use crate::http::message::{HeadIndex, Method};

    #[test]
    fn offers() {
        use UpgradePolicy::{Any, Refuse, WebSocket};
        let table = [
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
                WebSocket,
                Some("WebSocket"),
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\n\r\n",
                WebSocket,
                Some("websocket"),
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", Refuse, None),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                WebSocket,
                None,
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", WebSocket, None),
            (
                "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                WebSocket,
                None,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: x\r\n\r\n",
                WebSocket,
                None,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n",
                WebSocket,
                None,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n",
                Any,
                None,
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: TLS/1.3, HTTP/2.0, H2C\r\n\r\n",
                Any,
                None,
            ),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: spdy//3, tcp/1\r\n\r\n",
                Any,
                Some("tcp/1"),
            ),
        ];
        for (text, policy, expected) in table {
            let mut slots = HeadIndex::default();
            let Ok(Parsed::Complete(head)) =
                parse_request(text.as_bytes(), &mut slots, &HeadLimits::default())
            else {
                panic!("{text}");
            };
            assert_eq!(offer(&head, policy), expected.map(str::as_bytes), "{text}");
        }
    }

    #[test]
    fn switches() {
        const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        const SOCKET: &str = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n";
        const UNNAMED: &str = "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n";
        const BARE: &str = "HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n";
        let table: &[(&str, Option<&str>, Result<Switch<'_>, SwitchError>)] = &[
            (PLAIN, None, Ok(Switch::Stay)),
            (PLAIN, Some("websocket"), Ok(Switch::Stay)),
            (SOCKET, Some("websocket"), Ok(Switch::Tunnel(b"WebSocket"))),
            (SOCKET, None, Err(SwitchError::NotOffered)),
            (SOCKET, Some("tcp/1"), Err(SwitchError::OtherProtocol)),
            (UNNAMED, Some("websocket"), Err(SwitchError::NotNamed)),
            (BARE, Some("websocket"), Err(SwitchError::NotNamed)),
        ];
        for (text, offered, expected) in table {
            let mut slots = HeadIndex::default();
            let limits = HeadLimits::default();
            let Ok(Parsed::Complete(head)) =
                parse_response(text.as_bytes(), &mut slots, Method::Get, &limits)
            else {
                panic!("{text}");
            };
            assert_eq!(switched(&head, offered.map(str::as_bytes)), *expected, "{text} {offered:?}");
        }
    }

    #[test]
    fn connects() {
        for (text, expected) in [
            ("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", Some((&b"a.example"[..], 443))),
            ("CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Some((&b"[::1]"[..], 80))),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ] {
            let mut slots = HeadIndex::default();
            let Ok(Parsed::Complete(head)) =
                parse_request(text.as_bytes(), &mut slots, &HeadLimits::default())
            else {
                panic!("{text}");
            };
            assert_eq!(connect_target(&head), expected);
        }
    }
}
