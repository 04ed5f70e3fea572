//! From a request's head to the answer that it asks for.

use std::time::Duration;

use crate::http1::{self, Framing, Malformed};

/// How the answer is to be given. Keys are read from the query, then from `x-origin-KEY` headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// `status=CODE`: 200 unless asked otherwise.
    pub status: u16,
    pub content: Content,
    /// `chunked=BYTES`: chunked coding with chunks of that size instead of a Content-Length.
    pub chunk_bytes: Option<u64>,
    /// `unframed`: neither; the close ends the body.
    pub unframed: bool,
    /// `delay=MS`: waits before the first byte of the answer.
    pub delay: Duration,
    /// `trickle=BYTES,MS`: the body in pieces of that size, a pause before each.
    pub trickle: Option<(u64, Duration)>,
    /// `reset=BYTES`, `truncate=BYTES`: breaks off after so many body bytes. `reset` alone: before the head.
    pub cut: Option<Cut>,
    /// `corrupt`: the first body byte is wrong.
    pub corrupt: bool,
    /// The answer to HEAD: a head as for GET.
    pub head_only: bool,
    /// False with `close`, or when the client asks for it.
    pub keep_alive: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Pattern(u64),
    /// The request described in JSON; its head is kept here until the body has been read.
    Echo(EchoHead),
    Text(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct EchoHead {
    pub method: String,
    pub target: String,
    pub version: &'static str,
    /// In the order and the spelling received.
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    ResetBeforeHead,
    ResetAfter(u64),
    CloseAfter(u64),
}

/// A request head as far as the origin cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub head_bytes: usize,
    pub body: Framing,
    pub expects_continue: bool,
    pub plan: Plan,
}

/// `Ok(None)`: more bytes are needed.
pub fn parse_request(data: &[u8]) -> Result<Option<Request>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; http1::HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(data) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) if data.len() >= http1::HEAD_BYTES_MAX => {
            return Err(Malformed::HeadTooLong);
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed::Head),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(Malformed::Head);
    };
    let (body, keep_alive) = http1::request_framing(minor, request.headers)?;
    let expects_continue = request.headers.iter().any(|h| {
        h.name.eq_ignore_ascii_case("expect") && h.value.trim_ascii().eq_ignore_ascii_case(b"100-continue")
    });
    let version = if minor == 1 { "HTTP/1.1" } else { "HTTP/1.0" };
    let mut plan = plan(method, target, version, request.headers);
    plan.keep_alive &= keep_alive && minor == 1;
    Ok(Some(Request { head_bytes, body, expects_continue, plan }))
}

/// What a request of any version asks for.
pub fn plan(method: &str, target: &str, version: &'static str, headers: &[httparse::Header<'_>]) -> Plan {
    let wishes = Wishes { query: target.split_once('?').map_or("", |(_, query)| query), headers };
    let mut plan = wishes.plan(target);
    plan.head_only = method == "HEAD";
    if let Content::Echo(echo) = &mut plan.content {
        *echo = EchoHead {
            method: method.to_owned(),
            target: target.to_owned(),
            version,
            headers: headers
                .iter()
                .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
                .collect(),
        };
    }
    plan
}

struct Wishes<'a> {
    query: &'a str,
    headers: &'a [httparse::Header<'a>],
}

impl Wishes<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        http1::query_value(self.query, key).or_else(|| {
            let named = |h: &&httparse::Header<'_>| {
                let (prefix, name) = h.name.split_at_checked("x-origin-".len()).unwrap_or_default();
                prefix.eq_ignore_ascii_case("x-origin-") && name.eq_ignore_ascii_case(key)
            };
            self.headers.iter().find(named).and_then(|h| std::str::from_utf8(h.value).ok())
        })
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key).and_then(|text| text.trim().parse().ok())
    }

    fn plan(&self, target: &str) -> Plan {
        let path = target.split('?').next().unwrap_or(target);
        let mut segments = path.trim_start_matches('/').split('/');
        let (first, second) =
            (segments.next().unwrap_or(""), segments.next().and_then(|s| s.parse::<u64>().ok()));
        let (status, content) = match (first, second) {
            ("bytes", Some(bytes)) => (200, Content::Pattern(bytes)),
            ("status", Some(code @ 200..=999)) => (code as u16, Content::Text("")),
            ("echo", _) => (200, Content::Echo(EchoHead::default())),
            _ => (404, Content::Text("ask for /bytes/N, /status/CODE or /echo\n")),
        };
        let asked = self.number("status").and_then(|code| u16::try_from(code).ok());
        let cut = match (self.text("reset"), self.number("reset"), self.number("truncate")) {
            (Some(_), Some(after), _) => Some(Cut::ResetAfter(after)),
            (Some(_), None, _) => Some(Cut::ResetBeforeHead),
            (None, _, after) => after.map(Cut::CloseAfter),
        };
        let unframed = self.text("unframed").is_some();
        Plan {
            status: asked.filter(|code| (200..=999).contains(code)).unwrap_or(status),
            content,
            chunk_bytes: self.number("chunked").filter(|&bytes| bytes > 0 && !unframed),
            unframed,
            delay: Duration::from_millis(self.number("delay").unwrap_or(0)),
            trickle: self.text("trickle").and_then(parse_trickle),
            cut,
            corrupt: self.text("corrupt").is_some(),
            head_only: false,
            keep_alive: !unframed && self.text("close").is_none(),
        }
    }
}

fn parse_trickle(text: &str) -> Option<(u64, Duration)> {
    let (bytes, ms) = text.split_once(',')?;
    let (bytes, ms) = (bytes.trim().parse().ok()?, ms.trim().parse().ok()?);
    (bytes > 0).then(|| (bytes, Duration::from_millis(ms)))
}

impl Default for EchoHead {
    fn default() -> Self {
        Self { method: String::new(), target: String::new(), version: "HTTP/1.1", headers: Vec::new() }
    }
}

impl Plan {
    /// Whether the answer is the same bytes at once, every time.
    pub fn is_plain(&self) -> bool {
        self.keep_alive
            && self.delay.is_zero()
            && self.trickle.is_none()
            && self.cut.is_none()
            && !self.corrupt
            && !matches!(self.content, Content::Echo(_))
    }

    pub fn content_bytes(&self, echo_bytes: u64) -> u64 {
        match &self.content {
            Content::Pattern(bytes) => *bytes,
            Content::Text(text) => text.len() as u64,
            Content::Echo(_) => echo_bytes,
        }
    }

    /// The response head for a body of `body_bytes`.
    pub fn head(&self, body_bytes: u64) -> Vec<u8> {
        let mut head =
            format!("HTTP/1.1 {} {}\r\nServer: ringway-bench\r\n", self.status, reason(self.status));
        let no_body = matches!(self.status, 204 | 304);
        head += match &self.content {
            Content::Echo(_) => "Content-Type: application/json\r\n",
            _ if no_body => "",
            _ => "Content-Type: text/plain\r\n",
        };
        match (no_body || self.unframed, self.chunk_bytes) {
            (true, _) => {}
            (false, Some(_)) => head += "Transfer-Encoding: chunked\r\n",
            (false, None) => head.extend(["Content-Length: ", &body_bytes.to_string(), "\r\n"]),
        }
        if !self.keep_alive {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        head.into_bytes()
    }

    pub fn has_body(&self) -> bool {
        !self.head_only && !matches!(self.status, 204 | 304)
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Content, Cut, Plan, parse_request};
    use crate::http1::{Framing, Malformed};

    fn plan_of(request: &str) -> Plan {
        parse_request(request.as_bytes()).expect("well-formed").expect("whole").plan
    }

    #[test]
    fn wishes_are_read_from_path_query_and_headers() {
        let get = |target: &str| plan_of(&format!("GET {target} HTTP/1.1\r\n\r\n"));
        assert_eq!(get("/bytes/1024").content, Content::Pattern(1024));
        assert!(get("/bytes/1024").is_plain());
        assert_eq!(get("/nowhere").status, 404);
        assert_eq!(get("/bytes/x").status, 404);
        assert_eq!((get("/status/503").status, get("/bytes/1?status=500").status), (503, 500));
        assert_eq!(get("/bytes/9?chunked=4&delay=7").chunk_bytes, Some(4));
        assert_eq!(get("/bytes/9?chunked=4&delay=7").delay, Duration::from_millis(7));
        assert_eq!(get("/bytes/9?chunked=0").chunk_bytes, None);
        assert_eq!(get("/bytes/9?trickle=2,30").trickle, Some((2, Duration::from_millis(30))));
        assert_eq!(get("/bytes/9?trickle=0,30").trickle, None);
        assert_eq!(get("/bytes/9?reset").cut, Some(Cut::ResetBeforeHead));
        assert_eq!(get("/bytes/9?reset=3").cut, Some(Cut::ResetAfter(3)));
        assert_eq!(get("/bytes/9?truncate=3").cut, Some(Cut::CloseAfter(3)));
        assert!(!get("/bytes/9?close").keep_alive);
        assert!(!get("/bytes/9?unframed").keep_alive);
        let by_header =
            plan_of("GET /bytes/9 HTTP/1.1\r\nX-Origin-Status: 418\r\nx-origin-truncate: 1\r\n\r\n");
        assert_eq!((by_header.status, by_header.cut), (418, Some(Cut::CloseAfter(1))));
    }

    #[test]
    fn the_head_says_how_the_body_ends() {
        let head = |target: &str| {
            String::from_utf8(plan_of(&format!("GET {target} HTTP/1.1\r\n\r\n")).head(5)).expect("ASCII")
        };
        assert!(head("/bytes/5").contains("\r\nContent-Length: 5\r\n"));
        assert!(head("/bytes/5?chunked=2").contains("\r\nTransfer-Encoding: chunked\r\n"));
        assert!(!head("/bytes/5?chunked=2").contains("Content-Length"));
        assert!(!head("/bytes/5?unframed").contains("Content-Length"));
        assert!(head("/bytes/5?unframed").contains("\r\nConnection: close\r\n"));
        assert!(!head("/status/204").contains("Content-Length"));
    }

    #[test]
    fn request_framing_is_told() {
        let parse = |text: &str| parse_request(text.as_bytes());
        let framing = |text: &str| parse(text).expect("well-formed").expect("whole").body;
        assert_eq!(framing("POST / HTTP/1.1\r\nContent-Length: 7\r\n\r\n"), Framing::Length(7));
        assert_eq!(framing("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Framing::Chunked);
        assert_eq!(framing("GET / HTTP/1.1\r\n\r\n"), Framing::Length(0));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
        assert_eq!(parse("\u{1}\r\n\r\n"), Err(Malformed::Head));
        assert!(!plan_of("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").keep_alive);
        assert!(!plan_of("GET / HTTP/1.0\r\n\r\n").keep_alive);
    }
}
