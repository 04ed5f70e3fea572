//! One question, one answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Response};
use tokio::net::{TcpListener, UnixListener};

use super::{Act, DEADLINE, Server, block_on, say};
use crate::control::prober::ask::{Failure, Question, ask};
use crate::control::prober::grpc::Serving;
use crate::http::grpc::GrpcStatus;
use crate::net::connect::Address;
use crate::net::proxied::ProxyVersion;
use crate::policy::health::check::{HttpProbe, HttpVersion, Probe};

fn http(version: HttpVersion, path: &str) -> Probe {
    Probe::Http(HttpProbe { version, host: None, path: path.into(), expected_statuses: Vec::new() })
}

fn grpc(service: &str) -> Probe {
    Probe::Grpc { service: service.into(), authority: None }
}

fn question(address: &Address, probe: Probe) -> Question {
    Question { address: address.clone(), authority: "api.test:81".into(), probe, tls: None, proxy: None }
}

/// The failure's name, or `ok`. `timeout` is what is expected of servers that never answer: only then does patience end.
async fn check(question: &Question, expected: &str) {
    let patience = if expected == "timeout" { Duration::from_millis(100) } else { DEADLINE };
    let got = match tokio::time::timeout(patience, ask(question)).await {
        Ok(Ok(())) => "ok",
        Ok(Err(failure)) => failure.name(),
        Err(_) => "timeout",
    };
    assert_eq!(got, expected, "{question:?}");
}

#[test]
fn what_http1_servers_say() {
    let endless = format!("HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n{}", "x".repeat(100_000));
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(40_000));
    let cases = [
        (say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"), "ok"),
        (say("HTTP/1.1 200 OK\r\n\r\nuntil it closes"), "ok"),
        (say("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), "ok"),
        (say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "ok"),
        (Act::SayAndStay(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()), "ok"),
        (Act::SayAndStay(endless.into_bytes()), "ok"),
        (say("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"), "status"),
        (say("HTTP/1.1 204 No Content\r\n\r\n"), "status"),
        (say("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"), "broken"),
        (say("SSH-2.0-OpenSSH_9.2\r\n\r\n"), "broken"),
        (say("HTTP/1.1 200"), "broken"),
        (say(&huge), "broken"),
        (say(""), "broken"),
        (Act::Close, "broken"),
        (Act::SayAndStay(Vec::new()), "timeout"),
        (Act::SayAndStay(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec()), "timeout"),
    ];
    block_on(async {
        for (act, expected) in cases {
            let server = Server::start(act.clone()).await;
            println!("{act:?}");
            check(&question(&server.address, http(HttpVersion::Http1, "/")), expected).await;
        }
    });
}

#[test]
fn what_is_asked() {
    block_on(async {
        let mut server = Server::start(say("HTTP/1.1 204 No Content\r\n\r\n")).await;
        let probe = HttpProbe {
            version: HttpVersion::Http1,
            host: Some("other.test".into()),
            path: "/healthz?deep=1".into(),
            expected_statuses: vec![200..=299],
        };
        let mut it = question(&server.address, Probe::Http(probe));
        assert_eq!(ask(&it).await, Ok(()));
        assert_eq!(
            server.head().await,
            "GET /healthz?deep=1 HTTP/1.1\r\nuser-agent: ringway-health/1\r\nhost: other.test\r\n\r\n"
        );
        // A server that reads PROXY headers gets one, and learns that nobody is behind it.
        it.probe = http(HttpVersion::Http1, "/");
        for (version, front) in
            [(ProxyVersion::V1, "PROXY UNKNOWN\r\n"), (ProxyVersion::V2, "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")]
        {
            it.proxy = Some(version);
            assert_eq!(ask(&it).await, Err(Failure::Status(204)));
            let head = server.head().await;
            assert!(head.starts_with(&format!("{front}GET / HTTP/1.1\r\n")), "{head:?}");
            assert!(head.contains("\r\nhost: api.test:81\r\n"), "{head:?}");
        }
    });
}

#[test]
fn what_can_not_be_reached_or_asked() {
    block_on(async {
        // Bound and dropped: nobody listens there.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let nobody = Address::Tcp(nobody);
        for probe in [Probe::Tcp, http(HttpVersion::Http1, "/"), http(HttpVersion::Http2, "/"), grpc("")] {
            check(&question(&nobody, probe), "connect").await;
        }
        let server = Server::start(Act::SayAndStay(Vec::new())).await;
        check(&question(&server.address, Probe::Tcp), "ok").await;
        check(&question(&server.address, http(HttpVersion::Http1, "/a b")), "unaskable").await;
        check(&question(&server.address, http(HttpVersion::Http2, "/")), "timeout").await;
        let other = Server::start(say("HTTP/1.1 400 Bad Request\r\n\r\n")).await;
        check(&question(&other.address, http(HttpVersion::Http2, "/")), "broken").await;
    });
}

#[test]
fn unix_sockets() {
    block_on(async {
        let path = std::env::temp_dir().join(format!("ringway-probe-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        check(&question(&Address::Unix(Arc::new(path.clone())), Probe::Tcp), "ok").await;
        drop(listener);
        check(&question(&Address::Unix(Arc::new(path.clone())), Probe::Tcp), "connect").await;
        std::fs::remove_file(&path).unwrap();
    });
}

/// An HTTP/2 server's answer: status, fields, message, fields of the trailer.
type Answer<'a> = (u16, &'a [(&'a str, &'a str)], Option<&'a [u8]>, &'a [(&'a str, &'a str)]);

/// Answers one request so, and gives what was asked.
async fn serve_h2(
    listener: &TcpListener,
    (status, fields, message, trailer): Answer<'_>,
) -> (String, Vec<u8>) {
    let (socket, _) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let (head, mut body) = request.into_parts();
    tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let mut asked = Vec::new();
    while let Some(data) = body.data().await {
        asked.extend_from_slice(&data.unwrap());
    }
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    let ends = message.is_none() && trailer.is_empty();
    let mut send = respond.send_response(response.body(()).unwrap(), ends).unwrap();
    if let Some(message) = message {
        send.send_data(Bytes::copy_from_slice(message), trailer.is_empty()).unwrap();
    }
    if !trailer.is_empty() {
        let mut map = HeaderMap::new();
        for (name, value) in trailer {
            map.insert(
                hyper::header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        send.send_trailers(map).unwrap();
    }
    (format!("{} {}", head.method, head.uri), asked)
}

async fn over_h2(probe: Probe, answer: Answer<'_>) -> (Result<(), Failure>, (String, Vec<u8>)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let it = question(&Address::Tcp(listener.local_addr().unwrap()), probe);
    tokio::join!(ask(&it), serve_h2(&listener, answer))
}

#[test]
fn what_http2_servers_say() {
    block_on(async {
        let probe = || http(HttpVersion::Http2, "/up?x");
        let (got, (asked, _)) = over_h2(probe(), (200, &[], Some(b"fine"), &[])).await;
        assert_eq!((got, &*asked), (Ok(()), "GET http://api.test:81/up?x"));
        assert_eq!(over_h2(probe(), (200, &[], None, &[])).await.0, Ok(()));
        assert_eq!(over_h2(probe(), (503, &[], None, &[])).await.0, Err(Failure::Status(503)));
    });
}

#[test]
fn what_health_services_say() {
    let typed: &[(&str, &str)] = &[("content-type", "application/grpc+proto")];
    let ok: &[(&str, &str)] = &[("grpc-status", "0")];
    let broken = |why: &str| Err(Failure::Broken(why.to_owned()));
    let cases: [(Answer<'_>, Result<(), Failure>); 11] = [
        ((200, typed, Some(b"\0\0\0\0\x02\x08\x01"), ok), Ok(())),
        ((200, typed, Some(b"\0\0\0\0\x02\x08\x02"), ok), Err(Failure::NotServing(Serving::NotServing))),
        ((200, typed, Some(b"\0\0\0\0\x02\x08\x03"), ok), Err(Failure::NotServing(Serving::ServiceUnknown))),
        ((200, typed, Some(b"\0\0\0\0\0"), ok), Err(Failure::NotServing(Serving::Unknown))),
        ((200, typed, None, &[("grpc-status", "5")]), Err(Failure::NotServing(Serving::ServiceUnknown))),
        (
            (200, typed, Some(b"\0\0\0\0\x02\x08\x01"), &[("grpc-status", "14")]),
            Err(Failure::Grpc(Some(GrpcStatus::Unavailable))),
        ),
        (
            (200, &[("content-type", "application/grpc"), ("grpc-status", "12")], None, &[]),
            Err(Failure::Grpc(Some(GrpcStatus::Unimplemented))),
        ),
        ((200, typed, Some(b"\0\0\0\0\x02\x08\x01"), &[]), Err(Failure::Grpc(None))),
        ((200, typed, Some(b"\0\0\0\0\x02\x0a\x01"), ok), broken("its message is no HealthCheckResponse")),
        ((200, &[("content-type", "text/html")], Some(b"hello"), ok), broken("the response is not gRPC's")),
        ((404, typed, None, &[]), Err(Failure::Status(404))),
    ];
    block_on(async {
        for (answer, expected) in cases {
            let (got, (asked, message)) = over_h2(grpc("a.B"), answer).await;
            assert_eq!(got, expected, "{answer:?}");
            assert_eq!(asked, "POST http://api.test:81/grpc.health.v1.Health/Check");
            assert_eq!(message, b"\0\0\0\0\x05\x0a\x03a.B");
        }
    });
}

mod tls {
    use std::sync::Arc;

    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::super::block_on;
    use super::{check, http, question};
    use crate::net::connect::Address;
    use crate::net::probe::{Offer, ProbeTls};
    use crate::net::tls::client::{Authorities, ClientSettings, ServerName, TlsClient, Trust};
    use crate::net::tls::{Protocol, Versions};
    use crate::policy::health::check::{HttpVersion, Probe};

    /// A server for `localhost` that agrees to these protocols and answers every connection, and who trusts it.
    async fn server(protocols: &[&str]) -> (Address, Arc<TlsClient>) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(socket).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|n| n > 0) {}
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        let client = TlsClient::new(&ClientSettings {
            trust: Trust::Authorities(Authorities::of(&[certificate])),
            certificate: None,
            versions: Versions::default(),
            protocols: vec![Protocol::H2],
        });
        (address, client.unwrap())
    }

    #[test]
    fn checks_trust_and_name_what_requests_do() {
        block_on(async {
            let (address, client) = server(&["http/1.1"]).await;
            let (_, stranger) = server(&[]).await;
            let only = Offer::Only;
            for (client, tls_name, offer, probe, expected) in [
                (&client, "localhost", Offer::Only(Protocol::Http11), http(HttpVersion::Http1, "/"), "ok"),
                (&client, "localhost", only(Protocol::Http11), Probe::Tcp, "ok"),
                (&client, "other.test", only(Protocol::Http11), Probe::Tcp, "tls"),
                (&stranger, "localhost", only(Protocol::Http11), Probe::Tcp, "tls"),
                // It offers what requests do, and the server knows nothing of that.
                (&client, "localhost", Offer::AsConfigured, Probe::Tcp, "tls"),
            ] {
                let mut it = question(&address, probe.clone());
                it.tls = Some(ProbeTls::new(client, ServerName::try_from(tls_name).unwrap(), offer));
                check(&it, expected).await;
            }
            // One that agrees to nothing at all.
            let (address, client) = server(&[]).await;
            let mut it = question(&address, http(HttpVersion::Http2, "/"));
            let localhost = ServerName::try_from("localhost").unwrap();
            it.tls = Some(ProbeTls::new(&client, localhost, Offer::Only(Protocol::H2)));
            check(&it, "no_http2").await;
        });
    }
}
