//! From URLs to bytes that are ready to be sent, grouped by the address they go to.

use std::{fmt, io, sync::OnceLock};

use bytes::Bytes;
use rustls::pki_types::ServerName;

use super::{Config, Digest, Error, Grpc, Protocol, resolve};
use crate::{
    grpc,
    http1::{self, BodyExpected},
    net::Address,
};

/// One URL of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where connections go: what the URL names, unless told otherwise.
    pub address: Address,
    /// With `https`: who must answer there.
    pub server_name: Option<ServerName<'static>>,
    /// For the Host field.
    pub authority: String,
    /// Path and query, never empty.
    pub path: String,
    /// Its part of the requests, relative to the others'.
    pub weight: u32,
}

#[derive(Debug)]
pub enum BadTarget {
    NotAUrl(String),
    /// A scheme that this build does not speak.
    Scheme(String),
    Name(String, io::Error),
    /// No certificate can be for this name.
    ServerName(String),
}

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAUrl(url) => write!(f, "{url:?} is no URL like http://host:port/path"),
            Self::Scheme(scheme) => {
                write!(f, "the scheme {scheme:?} is not spoken here, only http and https")
            }
            Self::Name(name, cause) => write!(f, "no address for {name:?}: {cause}"),
            Self::ServerName(name) => write!(f, "{name:?} is no host name that a certificate can be for"),
        }
    }
}

impl std::error::Error for BadTarget {}

impl Target {
    pub fn parse(url: &str, weight: u32) -> Result<Self, BadTarget> {
        Self::parse_with(url, weight, None)
    }

    /// The same, with connections to `address` whatever host the URL names.
    pub fn parse_to(url: &str, weight: u32, address: Address) -> Result<Self, BadTarget> {
        Self::parse_with(url, weight, Some(address))
    }

    fn parse_with(url: &str, weight: u32, address: Option<Address>) -> Result<Self, BadTarget> {
        let parts = http1::split_url(url).ok_or_else(|| BadTarget::NotAUrl(url.to_owned()))?;
        let default_port = match parts.scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err(BadTarget::Scheme(parts.scheme)),
        };
        let authority = url[parts.authority].to_owned();
        let path = match &url[parts.path] {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        let server_name = match default_port {
            443 => Some(server_name(&authority)?),
            _ => None,
        };
        let address = match address {
            Some(address) => address,
            None => resolve(&authority, default_port).map_err(|e| BadTarget::Name(authority.clone(), e))?,
        };
        Ok(Self { address, server_name, authority, path, weight })
    }

    pub fn url(&self) -> String {
        let scheme = if self.server_name.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path)
    }
}

/// The authority's host, as certificates name it.
fn server_name(authority: &str) -> Result<ServerName<'static>, BadTarget> {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    ServerName::try_from(host.to_owned()).map_err(|_| BadTarget::ServerName(host.to_owned()))
}

/// What is sent to every target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// In addition to Host, User-Agent and Content-Length; one of these names replaces ours.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Default for Request {
    fn default() -> Self {
        Self { method: "GET".to_owned(), headers: Vec::new(), body: Vec::new() }
    }
}

impl Request {
    /// The whole request on the wire.
    fn encode(&self, target: &Target, close: Close) -> Vec<u8> {
        let given = |name: &str| self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut wire = format!("{} {} HTTP/1.1\r\n", self.method, target.path);
        let mut field = |name: &str, value: &str| wire.extend([name, ": ", value, "\r\n"]);
        if !given("host") {
            field("Host", &target.authority);
        }
        if !given("user-agent") {
            field("User-Agent", "ringway-bench");
        }
        let has_body = !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH");
        if has_body && !given("content-length") {
            field("Content-Length", &self.body.len().to_string());
        }
        for (name, value) in &self.headers {
            field(name, value);
        }
        if close == Close::Yes && !given("connection") {
            field("Connection", "close");
        }
        wire += "\r\n";
        let mut wire = wire.into_bytes();
        wire.extend_from_slice(&self.body);
        wire
    }

    fn body_expected(&self) -> BodyExpected {
        if self.method == "HEAD" { BodyExpected::Never } else { BodyExpected::AsFramed }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    Yes,
    No,
}

/// All that goes to one server at one address, and so over the same connections.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) address: Address,
    pub(super) server_name: Option<ServerName<'static>>,
    pub(super) weight: u64,
    pub(super) encoded: Vec<Encoded>,
    /// Order in which the targets take turns: indices into `encoded`, evenly mixed by weight.
    pub(super) turns: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) wire: Vec<u8>,
    /// The same, for the last request of a connection.
    pub(super) wire_close: Vec<u8>,
    pub(super) body_expected: BodyExpected,
    pub(super) http2: Option<Http2Request>,
    /// What the digest must be, once known.
    pub(super) digest: OnceLock<u64>,
}

/// RFC 9113, section 8.2.2: what concerns one HTTP/1.1 connection has no place in HTTP/2.
const NOT_IN_HTTP2: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// The same request for HTTP/2.
#[derive(Debug)]
pub(super) struct Http2Request {
    pub(super) head: http::Request<()>,
    /// None: the head ends the stream.
    pub(super) body: Option<Bytes>,
    /// With gRPC, where the method is known.
    pub(super) messages_back: Option<u64>,
}

impl Http2Request {
    fn new(target: &Target, request: &Request, call: Option<Grpc>) -> Result<Self, Error> {
        let mut body = request.body.clone();
        let mut fields = request.headers.clone();
        let mut set = |name: &str, value: &str| {
            if !fields.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
                fields.push((name.to_owned(), value.to_owned()));
            }
        };
        set("user-agent", "ringway-bench");
        let mut method = request.method.as_str();
        let mut messages_back = None;
        if let Some(call) = call {
            method = "POST";
            set("content-type", "application/grpc");
            set("te", "trailers");
            let path = target.path.split('?').next().unwrap_or_default();
            let (there, back) = match grpc::Method::of_path(path) {
                Some(method) => {
                    let (there, back) = method.messages(call.messages);
                    (there, Some(back))
                }
                None => (call.messages, None),
            };
            if there == 1 && call.messages != 1 {
                set("x-bench-messages", &call.messages.to_string());
            }
            messages_back = back;
            body.clear();
            for _ in 0..there {
                grpc::encode(&vec![b'x'; call.message_bytes], &mut body);
            }
        } else if !body.is_empty() {
            set("content-length", &body.len().to_string());
        }
        let mut authority = target.authority.clone();
        let mut head = http::Request::builder().method(method).version(http::Version::HTTP_2);
        for (name, value) in fields {
            let lower = name.to_ascii_lowercase();
            if NOT_IN_HTTP2.contains(&lower.as_str()) {
                return Err(Error::Request(format!("the field {name:?} has no place in HTTP/2")));
            }
            if lower == "host" {
                authority = value;
            } else {
                head = head.header(lower, value);
            }
        }
        let scheme = if target.server_name.is_some() { "https" } else { "http" };
        let head = head.uri(format!("{scheme}://{authority}{}", target.path)).body(());
        let head = head.map_err(|e| Error::Request(format!("{}: {e}", target.url())))?;
        Ok(Self { head, body: (!body.is_empty()).then(|| Bytes::from(body)), messages_back })
    }
}

pub(super) fn lanes(config: &Config) -> Result<Vec<Lane>, Error> {
    let (request, check) = (&config.request, &config.check);
    let mut lanes: Vec<(Lane, Vec<u32>)> = Vec::new();
    for target in &config.targets {
        let digest = OnceLock::new();
        let http2 = match config.protocol {
            Protocol::Http1 => None,
            Protocol::Http2 { .. } => Some(Http2Request::new(target, request, config.grpc)?),
        };
        if let Digest::Exactly(expected) = check.digest {
            let _ = digest.set(expected);
        }
        let encoded = Encoded {
            wire: request.encode(target, Close::No),
            wire_close: request.encode(target, Close::Yes),
            body_expected: request.body_expected(),
            http2,
            digest,
        };
        let same = |lane: &Lane| lane.address == target.address && lane.server_name == target.server_name;
        if let Some((lane, weights)) = lanes.iter_mut().find(|(lane, _)| same(lane)) {
            lane.encoded.push(encoded);
            lane.weight += u64::from(target.weight);
            weights.push(target.weight);
        } else {
            let (address, weight) = (target.address.clone(), u64::from(target.weight));
            let server_name = target.server_name.clone();
            let lane = Lane { address, server_name, weight, encoded: vec![encoded], turns: Vec::new() };
            lanes.push((lane, vec![target.weight]));
        }
    }
    let with_turns = |(lane, weights): (Lane, Vec<u32>)| Lane { turns: turns(&weights), ..lane };
    Ok(lanes.into_iter().map(with_turns).collect())
}

/// Smooth weighted round-robin, as nginx balances: 2,1 gives 0 1 0, not 0 0 1.
pub(super) fn turns(weights: &[u32]) -> Vec<usize> {
    let total: i64 = weights.iter().map(|&w| i64::from(w)).sum();
    let mut credit = vec![0_i64; weights.len()];
    let turn = |_| {
        for (credit, &weight) in credit.iter_mut().zip(weights) {
            *credit += i64::from(weight);
        }
        // The first of equals: max_by_key would take the last.
        let best = (0..credit.len()).rev().max_by_key(|&i| credit[i]).unwrap_or(0);
        credit[best] -= total;
        best
    };
    (0..total).map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::{BadTarget, Config, Error, Lane, Protocol, Request, Target, lanes, turns};
    use crate::{
        load::{Extent, Grpc},
        net::Address,
    };

    fn lanes_of(targets: &[Target], request: Request) -> Vec<Lane> {
        let config = Config { request, ..Config::new(targets.to_vec(), Extent::Requests(1)) };
        lanes(&config).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn urls_become_targets() {
        let target = Target::parse("http://127.0.0.1:81/a?b", 1).expect("a good URL");
        assert_eq!((target.address.to_string(), target.path), ("127.0.0.1:81".to_owned(), "/a?b".to_owned()));
        let target = Target::parse("http://127.0.0.1", 1).expect("a good URL");
        assert_eq!((target.address.to_string(), target.path), ("127.0.0.1:80".to_owned(), "/".to_owned()));
        let target = Target::parse("http://[::1]?x", 1).expect("a good URL");
        assert_eq!((target.server_name.as_ref(), target.url()), (None, "http://[::1]/?x".to_owned()));
        assert_eq!((target.address.to_string(), target.path), ("[::1]:80".to_owned(), "/?x".to_owned()));
        let target = Target::parse("https://127.0.0.1/a", 1).expect("a good URL");
        assert_eq!(
            (target.address.to_string(), target.url().as_str()),
            ("127.0.0.1:443".to_owned(), "https://127.0.0.1/a")
        );
        let elsewhere = Address::resolve("127.0.0.1:9").expect("an address");
        let hosts =
            [("a.test:1", "a.test"), ("A.test", "A.test"), ("[::1]:2", "::1"), ("1.2.3.4:5", "1.2.3.4")];
        for (authority, name) in hosts {
            let target = Target::parse_to(&format!("https://{authority}/"), 1, elsewhere.clone());
            let target = target.unwrap_or_else(|e| panic!("{authority}: {e}"));
            assert_eq!(target.address, elsewhere, "{authority}");
            assert_eq!(target.server_name.map(|name| name.to_str().into_owned()).as_deref(), Some(name));
        }
        let nobody = Target::parse_to("https://a b/", 1, elsewhere.clone());
        assert!(matches!(nobody, Err(BadTarget::NotAUrl(_))));
        assert!(matches!(Target::parse_to("https://-/", 1, elsewhere), Err(BadTarget::ServerName(_))));
        assert!(matches!(Target::parse("gopher://x/", 1), Err(BadTarget::Scheme(_))));
        assert!(matches!(Target::parse("nonsense", 1), Err(BadTarget::NotAUrl(_))));
        assert!(matches!(Target::parse("http://127.0.0.1:notaport/", 1), Err(BadTarget::Name(..))));
    }

    #[test]
    fn requests_are_encoded_once() {
        let target = Target::parse("http://127.0.0.1:81/x", 1).expect("a good URL");
        let lane = &lanes_of(std::slice::from_ref(&target), Request::default())[0];
        assert_eq!(
            String::from_utf8_lossy(&lane.encoded[0].wire),
            "GET /x HTTP/1.1\r\nHost: 127.0.0.1:81\r\nUser-Agent: ringway-bench\r\n\r\n"
        );
        let request = Request {
            method: "POST".to_owned(),
            headers: vec![("host".to_owned(), "other".to_owned()), ("X-A".to_owned(), "b".to_owned())],
            body: b"body".to_vec(),
        };
        let lane = &lanes_of(&[target], request)[0];
        assert_eq!(
            String::from_utf8_lossy(&lane.encoded[0].wire_close),
            "POST /x HTTP/1.1\r\nUser-Agent: ringway-bench\r\nContent-Length: 4\r\nhost: other\r\nX-A: b\r\n\
             Connection: close\r\n\r\nbody"
        );
    }

    #[test]
    fn targets_share_a_lane_by_address_and_take_turns_by_weight() {
        let target = |url, weight| Target::parse(url, weight).expect("a good URL");
        let targets = [
            target("http://127.0.0.1:1/a", 2),
            target("http://127.0.0.1:2/", 5),
            target("http://127.0.0.1:1/b", 1),
        ];
        let lanes = lanes_of(&targets, Request::default());
        assert_eq!(lanes.len(), 2);
        assert_eq!((lanes[0].weight, lanes[1].weight), (3, 5));
        assert_eq!(lanes[0].turns, [0, 1, 0]);
        assert_eq!(turns(&[3, 1]), [0, 0, 1, 0]);
    }
    #[test]
    fn requests_are_put_into_http2() {
        let target = Target::parse("https://127.0.0.1:81/x?y", 1).expect("a good URL");
        let mut config = Config::new(vec![target.clone()], Extent::Requests(1));
        config.protocol = Protocol::Http2 { streams: 1 };
        config.request.headers =
            vec![("Host".to_owned(), "a.test".to_owned()), ("X-A".to_owned(), "b".to_owned())];
        let encoded = &lanes(&config).unwrap_or_else(|e| panic!("{e}"))[0].encoded[0];
        let http2 = encoded.http2.as_ref().expect("it is HTTP/2");
        assert_eq!(http2.head.uri().to_string(), "https://a.test/x?y");
        assert_eq!(http2.head.headers()["x-a"], "b");
        assert!(http2.body.is_none() && !http2.head.headers().contains_key("host"));
        config.request.headers = vec![("Connection".to_owned(), "close".to_owned())];
        assert!(matches!(lanes(&config), Err(Error::Request(_))));

        let cases = [
            ("/bench.Echo/Unary", 1, 105, Some(1)),
            ("/bench.Echo/ServerStream", 4, 105, Some(4)),
            ("/bench.Echo/ClientStream", 4, 420, Some(1)),
            ("/bench.Echo/Bidi", 4, 420, Some(4)),
            ("/other.Service/Method", 2, 210, None),
        ];
        for (path, messages, body_bytes, messages_back) in cases {
            config.targets[0].path = path.to_owned();
            config.request = Request::default();
            config.grpc = Some(Grpc { message_bytes: 100, messages });
            let encoded = &lanes(&config).unwrap_or_else(|e| panic!("{e}"))[0].encoded[0];
            let http2 = encoded.http2.as_ref().expect("it is HTTP/2");
            assert_eq!(http2.body.as_ref().map_or(0, bytes::Bytes::len), body_bytes, "{path}");
            assert_eq!(
                (http2.messages_back, http2.head.method().as_str()),
                (messages_back, "POST"),
                "{path}"
            );
            assert_eq!(http2.head.headers()["te"], "trailers");
        }
    }
}
