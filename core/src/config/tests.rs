//! The whole way from text to snapshot, and what a person is told on the way.

use super::raw::{Io, RawConfig, Workers};
use super::snapshot::Action;
use super::{compile, load};

const MINIMAL: &str = "\
version: 1
listeners:
  - name: public
    address: 0.0.0.0:8080
upstreams:
  - name: users
    endpoints: [http://127.0.0.1:9001]
routes:
  - name: all
    upstream: users
";

#[test]
fn minimal_file_loads() {
    let snapshot = load(MINIMAL.as_bytes(), "a.yaml", 7).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(snapshot.version, 7);
    assert_eq!(snapshot.upstreams[0].endpoints[0].authority.as_ref(), "127.0.0.1:9001");
    assert!(matches!(snapshot.routes[0].action, Action::Upstream(0)));
}

#[test]
fn proxy_profile_compiles() {
    let raw = RawConfig::proxy(
        &["127.0.0.1:0", "unix:/run/a.sock"],
        &["http://127.0.0.1:9001"],
        Workers::Count(1),
        Io::Epoll,
    );
    let snapshot = compile(&raw, 1).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(snapshot.workers, Some(1));
    assert_eq!(snapshot.listeners[0].addresses.len(), 2);
    assert_eq!(snapshot.admin, None);
}
