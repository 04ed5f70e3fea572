//! Peers that finish a TLS handshake and then send what no sound peer sends: their own connection ends, and the process
//! serves on. Every sequence is in the engine's own tests; here are those that ended the process once.

use ringway_tests::config::Config;
use ringway_tests::folder::Folder;
use ringway_tests::for_each_driver;
use ringway_tests::forge::Forger;
use ringway_tests::origin::Origin;
use ringway_tests::proxy::Proxy;
use ringway_tests::stream::Stream;
use ringway_tests::tls::{Authority, Dialer, Leaf, Wanted, forge, listener_tls, serve_raw};
use rustls::ContentType;
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};

type Made = fn(&mut Forger) -> Vec<u8>;

const SEQUELS: [Made; 5] = [
    |forger| forger.record(ContentType::Alert, &[2, 40]),
    |forger| forger.record(ContentType::Alert, &[1, 0]),
    |forger| forger.record(ContentType::ApplicationData, b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"),
    |_| [&[23, 3, 3, 0, 40][..], &[7; 40]].concat(),
    |forger| forger.record(ContentType::Handshake, &[255; 8]),
];

for_each_driver! {
    fn a_client_ends_its_own_connection_only(driver) {
        let origin = Origin::start();
        let folder = Folder::new(&format!("tls-hostile-{}", driver.name()));
        let authority = Authority::new();
        authority.issue_to(&folder, "server", &Leaf::default());
        let proxy = Proxy::start(driver, &Config::to(&origin).listener(&listener_tls(folder.path(), &["server"], "")));
        let mut bystander = Dialer::plain(&authority).connect(proxy.address(), "localhost");
        for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
            let dialer = Dialer::new(&authority, &Wanted { versions, ..Wanted::default() });
            for sequel in SEQUELS {
                let client = dialer.connect(proxy.address(), "localhost");
                let Stream::Tls(stream) = client.wire.stream else { panic!("no TLS") };
                let (connection, cut) = stream.into_parts();
                let mut socket = cut.socket;
                let mut forger = forge(connection.into());
                let mut records = forger.record(ContentType::Handshake, &[24]);
                records.extend(sequel(&mut forger));
                socket.write_all(&records).unwrap();
                // The end of it, orderly or by a reset, behind whatever the proxy has said.
                let _ = socket.read_to_end(&mut Vec::new());
                bystander.get("/").expect(200);
            }
        }
    }

    fn an_origin_ends_its_own_connection_only(driver) {
        let authority = Authority::new();
        let folder = Folder::new(&format!("tls-hostile-up-{}", driver.name()));
        folder.write("ca.pem", authority.pem());
        let served = AtomicUsize::new(0);
        let address = serve_raw(&authority.issue(&Leaf::default()), move |mut raw| {
            let mut byte = [0];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && matches!(raw.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let sequel = SEQUELS[served.fetch_add(1, Ordering::Relaxed) % SEQUELS.len()];
            let (connection, mut socket) = raw.into_parts();
            let mut forger = forge(connection.into());
            let mut records =
                forger.record(ContentType::ApplicationData, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhi");
            records.extend(forger.record(ContentType::Handshake, &[24]));
            records.extend(sequel(&mut forger));
            let _ = socket.write_all(&records);
            let _ = socket.read_to_end(&mut Vec::new());
        });
        let url = format!("https://localhost:{}", address.port());
        let tls = format!("tls: {{ ca: {} }}", folder.join("ca.pem").display());
        let proxy = Proxy::start(driver, &Config::to_urls(&[&url]).upstream(&tls));
        for _ in SEQUELS {
            let mut client = proxy.connect();
            client.send(ringway_tests::client::get("/"));
            // A body without its end, or no response at all, if the record that broke it came with the head.
            let outcome = client.try_response("GET");
            assert!(!matches!(&outcome, Ok(response) if response.status < 500), "{outcome:?}");
        }
        assert!(proxy.metrics().sum("ringway_refused_total", &[]) >= SEQUELS.len() as f64);
    }
}
