//! Who may ask for what on an admin listener. There are no passwords: who can connect is decided by the address and by a
//! Unix socket's permissions. What is kept out here is a web page in the browser of somebody who can connect.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HOST, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};

use super::{TEXT, reply};

/// What one listener allows.
#[derive(Debug)]
pub(super) struct Access {
    /// Names in Host besides localhost and addresses; `None`: Host is not looked at.
    pub(super) hosts: Option<Arc<[Box<str>]>>,
    /// Requests that change something are answered.
    pub(super) acts: bool,
}

impl Access {
    /// The answer to a request that is not for this listener, or not from one who may send it.
    pub(super) fn refuses<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        if !self.knows_host(request) {
            let text = "this host name is not known here; see admin.hosts of the configuration\n";
            return Some(reply(StatusCode::MISDIRECTED_REQUEST, TEXT, text));
        }
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        if !self.acts {
            let text = "only reading is open here; see admin.actions of the configuration\n";
            return Some(reply(StatusCode::FORBIDDEN, TEXT, text));
        }
        // A page in somebody's browser may send a POST here, but not without saying where it comes from.
        request
            .headers()
            .contains_key(ORIGIN)
            .then(|| reply(StatusCode::FORBIDDEN, TEXT, "not from a browser\n"))
    }

    /// A page can make its own name stand for our address (DNS rebinding), but a browser says the name in Host.
    fn knows_host<B>(&self, request: &Request<B>) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let fields = request.headers().get_all(HOST).iter().map(hyper::header::HeaderValue::as_bytes);
        let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        // A probe in HTTP/1.0 says none, and a browser always does.
        fields.chain(target).all(|host| std::str::from_utf8(host).is_ok_and(|host| is_known(host, hosts)))
    }
}

/// Whether a Host is this machine by a name that nobody else can give it. An address is: its pages are its own.
fn is_known(host: &str, hosts: &[Box<str>]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || hosts.iter().any(|known| **known == *name || **known == *"*")
}

#[cfg(test)]
mod tests {
    use super::{Access, is_known};
    use hyper::{Request, StatusCode};

    #[test]
    fn hosts() {
        let hosts = ["ringway.internal".into()];
        for (host, known) in [
            ("localhost", true),
            ("LocalHost:9901", true),
            ("localhost.", true),
            ("admin.localhost", true),
            ("127.0.0.1", true),
            ("127.0.0.1:9901", true),
            ("10.1.2.3:", true),
            ("[::1]", true),
            ("[::1]:9901", true),
            ("[::1", false),
            ("::1", false),
            ("ringway.internal:9901", true),
            ("RINGWAY.internal.", true),
            ("evil.ringway.internal", false),
            ("evil.example", false),
            ("evil.example:9901", false),
            ("127.0.0.1.evil.example", false),
            ("localhost.evil.example", false),
            ("evillocalhost", false),
            ("127.0.0.1:80:evil", false),
            ("user@localhost", false),
            ("", false),
        ] {
            assert_eq!(is_known(host, &hosts), known, "{host:?}");
        }
        assert!(is_known("evil.example", &["*".into()]));
    }

    #[test]
    fn who_may_do_what() {
        let refused = |acts: bool, checked: bool, method: &str, target: &str, fields: &[(&str, &str)]| {
            let access = Access { hosts: checked.then(|| ["known".into()].into()), acts };
            let mut request = Request::builder().method(method).uri(target);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            access.refuses(&request.body(()).unwrap()).map(|response| response.status())
        };
        let (known, unknown) = ([("host", "known")], [("host", "evil")]);
        let (misdirected, forbidden) = (Some(StatusCode::MISDIRECTED_REQUEST), Some(StatusCode::FORBIDDEN));
        for (acts, checked, method, target, fields, expected) in [
            (true, true, "GET", "/metrics", &known[..], None),
            (true, true, "GET", "/metrics", &unknown, misdirected),
            (true, true, "GET", "/ready", &[], None),
            (true, true, "GET", "http://evil/", &known, misdirected),
            (true, true, "GET", "/", &[("host", "known"), ("host", "evil")], misdirected),
            (true, false, "GET", "/", &unknown, None),
            (true, true, "POST", "/drain", &known, None),
            (true, true, "POST", "/drain", &unknown, misdirected),
            (true, true, "POST", "/drain", &[("host", "known"), ("origin", "null")], forbidden),
            (false, true, "POST", "/drain", &known, forbidden),
            (false, false, "POST", "/drain", &[], forbidden),
            (false, true, "HEAD", "/", &known, None),
            (true, false, "POST", "/drain", &[("origin", "http://evil")], forbidden),
        ] {
            let outcome = refused(acts, checked, method, target, fields);
            assert_eq!(outcome, expected, "{acts} {checked} {method} {target} {fields:?}");
        }
    }
}
