//! gRPC through the proxy, by tonic on both sides: calls of three kinds, an error status, a deadline, cancellation. The
//! messages are bytes, so no code is generated. `grpc` asks the same of gRPC's C core, where that is installed.

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use ringway_tests::config::Config;
use ringway_tests::for_each_driver;
use ringway_tests::proxy::{Driver, Proxy};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::server::{NamedService, ServerStreamingService, StreamingService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Outcome<T> = Result<Response<T>, Status>;

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The origin. It tells of each call that it was made to give up.
#[derive(Clone)]
struct Echo {
    given_up: UnboundedSender<()>,
}

impl NamedService for Echo {
    const NAME: &'static str = "ringway.Echo";
}

/// One call of it.
struct Call(Echo);

/// Says so when it is dropped.
struct GivenUp(UnboundedSender<()>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// Says what it was told; or fails, or hangs, where it is told to.
impl UnaryService<Bytes> for Call {
    type Response = Bytes;
    type Future = Boxed<Outcome<Bytes>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let given_up = self.0.given_up.clone();
        Box::pin(async move {
            match &request.get_ref()[..] {
                b"fail" => {
                    let mut status = Status::failed_precondition("not yet: 100 % \u{e4}");
                    status.metadata_mut().insert("x-why", "because".parse().expect("ASCII"));
                    Err(status)
                }
                b"hang" => {
                    let _held = GivenUp(given_up);
                    pending().await
                }
                _ => {
                    let asked = request.metadata().get("x-asked").cloned();
                    let mut response = Response::new(request.into_inner());
                    if let Some(asked) = asked {
                        response.metadata_mut().insert("x-told", asked);
                    }
                    Ok(response)
                }
            }
        })
    }
}

/// Counts to the number that it was told.
impl ServerStreamingService<Bytes> for Call {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Boxed<Outcome<Self::ResponseStream>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        let to: u32 = String::from_utf8_lossy(request.get_ref()).parse().unwrap_or(0);
        let (messages, stream) = channel(4);
        tokio::spawn(async move {
            for number in 0..to {
                if messages.send(Ok(number.to_string().into())).await.is_err() {
                    return;
                }
            }
            let _ = messages.send(Err(Status::out_of_range("no more"))).await;
        });
        Box::pin(async { Ok(Response::new(ReceiverStream::new(stream))) })
    }
}

/// Says again what it hears, message by message.
impl StreamingService<Bytes> for Call {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Boxed<Outcome<Self::ResponseStream>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (messages, stream) = channel(4);
        let mut heard = request.into_inner();
        let given_up = GivenUp(self.0.given_up.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = heard.message().await {
                if messages.send(Ok(message)).await.is_err() {
                    return;
                }
            }
            drop(given_up);
        });
        Box::pin(async { Ok(Response::new(ReceiverStream::new(stream))) })
    }
}

impl tower_service::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let call = Call(self.clone());
        Box::pin(async move {
            let mut server = tonic::server::Grpc::new(Raw);
            Ok(match request.uri().path() {
                "/ringway.Echo/Unary" => server.unary(call, request).await,
                "/ringway.Echo/Count" => server.server_streaming(call, request).await,
                "/ringway.Echo/Chat" => server.streaming(call, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

struct Client(tonic::client::Grpc<Channel>);

fn path(method: &str) -> PathAndQuery {
    format!("/ringway.Echo/{method}").parse().expect("a path")
}

impl Client {
    async fn connect(address: SocketAddr) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an endpoint");
        Client(tonic::client::Grpc::new(endpoint.connect().await.expect("a connection to the proxy")))
    }

    async fn unary(&mut self, request: Request<Bytes>) -> Outcome<Bytes> {
        self.0.ready().await.expect("a connection");
        self.0.unary(request, path("Unary"), Raw).await
    }
}

/// Runs this against a proxy before the origin, with what tells of the calls that were given up.
fn through<F: Future<Output = ()>>(
    driver: Driver,
    config: impl FnOnce(Config) -> Config,
    check: impl FnOnce(SocketAddr, UnboundedReceiver<()>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (given_up, told) = unbounded_channel();
    let origin = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the origin");
        let origin = listener.local_addr().expect("the port of a bound listener");
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(Server::builder().serve_with_incoming(Echo { given_up }, incoming));
        origin
    });
    // The proxy joins its threads when it ends, which must not be done within a runtime.
    let config = config(Config::to_addresses(&[origin.into()]).upstream("protocol: http2"));
    let proxy = Proxy::start(driver, &config);
    runtime.block_on(check(proxy.address(), told));
}

for_each_driver! {
    fn unary_calls(driver) {
        through(driver, |config| config, async |address, _| {
            let mut client = Client::connect(address).await;
            for bytes in [0, 1, 128, 20_000, 1_000_000] {
                let message = Bytes::from(vec![7; bytes]);
                let mut request = Request::new(message.clone());
                request.metadata_mut().insert("x-asked", "this".parse().expect("ASCII"));
                let answer = client.unary(request).await.expect("an answer");
                assert_eq!(answer.metadata().get("x-told").expect("metadata"), "this");
                assert!(answer.get_ref() == &message, "{bytes} bytes came back as {}", answer.get_ref().len());
            }
        });
    }

    fn an_error_status(driver) {
        through(driver, |config| config, async |address, _| {
            let mut client = Client::connect(address).await;
            let status = client.unary(Request::new("fail".into())).await.expect_err("a failure");
            assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not yet: 100 % \u{e4}"));
            assert_eq!(status.metadata().get("x-why").expect("metadata of a failure"), "because");
            client.0.ready().await.expect("a connection");
            let unknown = client.0.unary::<_, Bytes, _>(Request::new(Bytes::new()), path("Nothing"), Raw).await;
            assert_eq!(unknown.expect_err("a failure").code(), Code::Unimplemented);
            client.unary(Request::new("and on".into())).await.expect("the connection goes on");
        });
    }

    fn a_stream_from_the_server(driver) {
        through(driver, |config| config, async |address, _| {
            let mut client = Client::connect(address).await;
            client.0.ready().await.expect("a connection");
            let answer = client.0.server_streaming(Request::new(Bytes::from("1000")), path("Count"), Raw).await;
            let mut messages: Streaming<Bytes> = answer.expect("a stream").into_inner();
            for number in 0..1_000 {
                let message = messages.message().await.expect("a message").expect("not the end");
                assert_eq!(message, number.to_string());
            }
            // The status comes in the trailers, after all messages.
            assert_eq!(messages.message().await.expect_err("a status").code(), Code::OutOfRange);
        });
    }

    /// Each message is awaited before the next is sent: nothing may be held back on either way.
    fn a_chat(driver) {
        through(driver, |config| config, async |address, mut given_up| {
            let mut client = Client::connect(address).await;
            client.0.ready().await.expect("a connection");
            let (say, said) = channel(1);
            let said = Request::new(ReceiverStream::new(said));
            let mut heard: Streaming<Bytes> =
                client.0.streaming(said, path("Chat"), Raw).await.expect("a stream").into_inner();
            for number in 0..100 {
                let message = Bytes::from(vec![number; usize::from(number) * 200]);
                say.send(message.clone()).await.expect("sending");
                assert_eq!(heard.message().await.expect("a message"), Some(message));
            }
            drop(say);
            assert_eq!(heard.message().await.expect("status 0"), None);
            given_up.recv().await.expect("the origin has seen the end");
        });
    }

    fn a_deadline(driver) {
        // Of the client, which tonic sees to itself, and of the route, which only the proxy knows.
        let short = |config: Config| config.route("timeouts: { request: 300ms }");
        for (config, asked) in [(None, Some(300)), (Some(short), None)] {
            let configured = |base: Config| config.map_or(base.clone(), |change| change(base));
            through(driver, configured, async |address, mut given_up| {
                let mut client = Client::connect(address).await;
                let mut request = Request::new("hang".into());
                if let Some(asked) = asked {
                    request.set_timeout(Duration::from_millis(asked));
                }
                let started = Instant::now();
                let status = client.unary(request).await.expect_err("too late");
                assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
                let took = started.elapsed();
                assert!((Duration::from_millis(290)..Duration::from_secs(5)).contains(&took), "{took:?}");
                given_up.recv().await.expect("the origin was told");
                client.unary(Request::new("and on".into())).await.expect("the connection goes on");
            });
        }
    }

    fn a_cancelled_call(driver) {
        through(driver, |config| config, async |address, mut given_up| {
            let mut client = Client::connect(address).await;
            let hanging = client.unary(Request::new("hang".into()));
            assert!(tokio::time::timeout(Duration::from_millis(300), hanging).await.is_err());
            given_up.recv().await.expect("the origin was told");
            client.unary(Request::new("and on".into())).await.expect("the connection goes on");
        });
    }
}
