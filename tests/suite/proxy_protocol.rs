//! PROXY headers: taken off the front of a connection before anything else is read of it, and sent in front of
//! connections to origins that ask for one.

use ringway_tests::client::{Client, get};
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::origin::Origin;
use ringway_tests::proxy::{Driver, Proxy};
use ringway_tests::stream::Address;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

/// The same in version 2, and `LOCAL`, which a health check of the proxy before us sends.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn proxied(driver: Driver, origin: &Origin) -> Proxy {
    let config =
        Config::to(origin).listener("proxy_protocol: true").listener("timeouts: { tls_handshake: 300ms }");
    Proxy::start(driver, &config)
}

for_each_driver! {
    fn a_header_tells_the_client(driver) {
        let origin = Origin::start();
        let proxy = proxied(driver, &origin);
        for (header, client) in [(V1, "192.0.2.7"), (V2, "192.0.2.7"), (LOCAL, "127.0.0.1")] {
            let mut connection = proxy.connect();
            connection.send([header, get("/first").as_bytes()].concat());
            connection.response("GET").expect(200);
            connection.get("/second").expect(200);
            let records = origin.requests();
            for record in &records[records.len() - 2..] {
                assert_eq!(record.field("x-forwarded-for"), Some(client));
            }
        }
    }

    fn a_header_may_come_in_any_pieces(driver) {
        let origin = Origin::start();
        let proxy = proxied(driver, &origin);
        for header in [V1, V2] {
            for cut in 1..header.len() {
                let mut connection = proxy.connect();
                let bytes = [header, get("/").as_bytes()].concat();
                connection.send_split(&bytes, &[cut]).expect("the proxy reads");
                connection.response("GET").expect(200);
                let record = origin.requests().pop().expect("a request");
                assert_eq!(record.field("x-forwarded-for"), Some("192.0.2.7"), "cut at {cut}");
            }
        }
    }

    /// Nobody may choose whether to be believed: whoever sends no header, or half of one, is not served.
    fn without_a_header_nothing_is_served(driver) {
        let origin = Origin::start();
        let proxy = proxied(driver, &origin);
        for (bytes, reason) in [
            (get("/").into_bytes(), "proxy_signature"),
            (b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\nGET / HTTP/1.1\r\n\r\n".to_vec(), "proxy_address"),
            (V1[..20].to_vec(), "proxy_header_timeout"),
            (Vec::new(), "proxy_header_timeout"),
        ] {
            let before = proxy.metrics().sum("ringway_refused_total", &[("reason", reason)]);
            let mut connection = proxy.connect();
            connection.send(&bytes);
            connection.expect_end();
            proxy.await_metric("ringway_refused_total", &[("reason", reason)], |n| n > before);
        }
        assert_eq!(origin.request_count(), 0);
        proxy.await_metric("ringway_downstream_connections", &[], |open| open == 0.0);
    }

    /// Through one proxy that sends headers and one that reads them: the origin sees the client, for each of them.
    fn origins_are_told_each_client(driver) {
        let origin = Origin::start();
        let back = Proxy::start(driver, &Config::to(&origin).listener("proxy_protocol: true"));
        for version in ["v1", "v2"] {
            let config = Config::to_addresses(&[Address::from(back.address())])
                .listener("proxy_protocol: true")
                .upstream(&format!("proxy_protocol: {version}"))
                .top("forwarding: { x_forwarded: false }");
            let front = Proxy::start(driver, &config);
            for client in 1..=3 {
                let mut connection: Client = front.connect();
                connection.send(format!("PROXY TCP4 192.0.2.{client} 198.51.100.1 4711 443\r\n"));
                for _ in 0..2 {
                    connection.get("/").expect(200);
                    let record = origin.requests().pop().expect("a request");
                    assert_eq!(record.field("x-forwarded-for"), Some(&*format!("192.0.2.{client}")));
                }
            }
            let connects = front.metrics().sum("ringway_upstream_connects_total", &[]);
            assert_eq!(connects, 6.0, "a connection that names a client carries one request");
        }
    }
}
