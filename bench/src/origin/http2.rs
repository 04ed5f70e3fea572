//! One HTTP/2 connection of the origin: a stream is answered by a task of its own, unless its answer is ready.

use std::{
    cell::Cell,
    future::poll_fn,
    hash::Hasher,
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, Connection, SendResponse},
};
use http::{HeaderMap, HeaderValue, Request, Response, header};

use super::{
    Shared,
    exchange::{describe, echo_body},
    pattern,
    plan::{self, Content, Cut, Plan},
};
use crate::{
    grpc::{self, Method},
    http2::{self, CONNECTION_WINDOW_BYTES, Link, STREAM_WINDOW_BYTES},
    stream::Stream,
};

/// More than any load asks for.
const STREAMS_MAX: u32 = 10_000;
/// Answers up to this size are given at once when the same is asked for again.
const PREPARED_BYTES_MAX: u64 = 64 * 1024;

/// `inbox` is what has come already.
pub(super) async fn serve(stream: Stream, inbox: Vec<u8>, shared: Rc<Shared>) {
    let tls = stream.session().map(describe);
    let (link, driver) = http2::link(stream, inbox, shared.buffers.clone());
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX);
    let mut shaking = pin!(builder.handshake::<_, Bytes>(link));
    let Ok(mut connection) = driver.drive(|cx| shaking.as_mut().poll(cx)).await else { return };
    let room = Rc::new(Room { shared, tls, closing: Cell::new(false) });
    let mut last = None;
    driver.drive(|cx| accept(&mut connection, &room, &mut last, cx)).await;
    driver.finish();
}

/// What a connection's streams share.
struct Room {
    shared: Rc<Shared>,
    tls: Option<serde_json::Value>,
    /// A stream has asked for the connection's end.
    closing: Cell<bool>,
}

/// The last answer that is the same each time.
struct Prepared {
    target: String,
    head: Response<()>,
    body: Bytes,
}

fn accept(
    connection: &mut Connection<Link, Bytes>,
    room: &Rc<Room>,
    last: &mut Option<Prepared>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    loop {
        if room.closing.take() {
            connection.graceful_shutdown();
        }
        match connection.poll_accept(cx) {
            Poll::Pending => return Poll::Pending,
            // Whatever broke, the client has seen it.
            Poll::Ready(None | Some(Err(_))) => return Poll::Ready(()),
            Poll::Ready(Some(Ok((request, mut respond)))) => {
                if let Some(prepared) = prepared(&request, room, last) {
                    // It fails for streams that the client has given up.
                    if let Ok(mut send) =
                        respond.send_response(prepared.head.clone(), prepared.body.is_empty())
                        && !prepared.body.is_empty()
                    {
                        let _ = send.send_data(prepared.body.clone(), true);
                    }
                } else {
                    monoio::spawn(answer(request, respond, room.clone()));
                }
            }
        }
    }
}

/// The answer to a plain request, made if it differs from the last.
fn prepared<'a>(
    request: &Request<RecvStream>,
    room: &Room,
    last: &'a mut Option<Prepared>,
) -> Option<&'a Prepared> {
    let asks_by_header = request.headers().keys().any(|name| name.as_str().starts_with("x-origin-"));
    let is_simple = request.method() == http::Method::GET && request.body().is_end_stream();
    if !is_simple || asks_by_header || room.shared.stall.is_some() {
        return None;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if last.as_ref().is_none_or(|last| last.target != target) {
        let plan = plan::plan("GET", target, "HTTP/2.0", &[]);
        let content_bytes = plan.content_bytes(0);
        if !plan.is_plain() || plan.chunk_bytes.is_some() || content_bytes > PREPARED_BYTES_MAX {
            return None;
        }
        let body = match plan.content {
            _ if !plan.has_body() => Bytes::new(),
            Content::Pattern(bytes) => Bytes::from_static(pattern::piece(0, bytes)),
            Content::Text(text) => Bytes::from_static(text.as_bytes()),
            Content::Echo(_) => return None,
        };
        *last = Some(Prepared { target: target.to_owned(), head: head(&plan, content_bytes), body });
    }
    last.as_ref()
}

fn head(plan: &Plan, content_bytes: u64) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(plan.status).unwrap_or(http::StatusCode::OK);
    let fields = head.headers_mut();
    fields.insert(header::SERVER, HeaderValue::from_static("ringway-bench"));
    let no_body = matches!(plan.status, 204 | 304);
    match plan.content {
        Content::Echo(_) => {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        _ if no_body => {}
        _ => {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
    }
    if !no_body && !plan.unframed && plan.chunk_bytes.is_none() {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(content_bytes));
    }
    head
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, room: Rc<Room>) {
    let is_call = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    // Whatever broke, the client has seen it, or has broken it.
    let _ = if is_call {
        answer_call(request, &mut respond, &room).await
    } else {
        answer_request(request, &mut respond, &room).await
    };
}

async fn answer_request(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    room: &Room,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
    let pseudo = httparse::Header { name: ":authority", value: authority.as_bytes() };
    let fields = parts
        .headers
        .iter()
        .map(|(name, value)| httparse::Header { name: name.as_str(), value: value.as_bytes() });
    let fields: Vec<_> = std::iter::once(pseudo).chain(fields).collect();
    let plan = plan::plan(parts.method.as_str(), target, "HTTP/2.0", &fields);

    let mut hasher = twox_hash::XxHash3_64::new();
    let mut body_bytes = 0;
    while let Some(piece) = body.data().await.transpose()? {
        body_bytes += piece.len() as u64;
        if matches!(plan.content, Content::Echo(_)) {
            hasher.write(&piece);
        }
        body.flow_control().release_capacity(piece.len())?;
    }
    room.shared.wait_out_stall().await;
    if !plan.delay.is_zero() {
        monoio::time::sleep(plan.delay).await;
    }
    if plan.cut == Some(Cut::ResetBeforeHead) {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return Ok(());
    }
    let echo = match &plan.content {
        Content::Echo(head) => Bytes::from(echo_body(head, body_bytes, hasher.finish(), room.tls.clone())),
        Content::Pattern(_) | Content::Text(_) => Bytes::new(),
    };
    if !plan.keep_alive {
        room.closing.set(true);
    }
    send_answer(&plan, &echo, respond).await
}

async fn send_answer(plan: &Plan, echo: &Bytes, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let total = plan.content_bytes(echo.len() as u64);
    let end = match plan.cut {
        Some(Cut::ResetAfter(n) | Cut::CloseAfter(n)) => n.min(total),
        _ => total,
    };
    let has_body = plan.has_body();
    let mut send = respond.send_response(head(plan, total), !has_body)?;
    if !has_body {
        return Ok(());
    }
    let mut offset = 0;
    while offset < end {
        let mut left = end - offset;
        if let Some((bytes, pause)) = plan.trickle {
            monoio::time::sleep(pause).await;
            left = left.min(bytes);
        }
        left = left.min(plan.chunk_bytes.unwrap_or(u64::MAX));
        let mut piece = match &plan.content {
            Content::Pattern(_) => Bytes::from_static(pattern::piece(offset, left)),
            Content::Text(text) => {
                Bytes::from_static(&text.as_bytes()[offset as usize..(offset + left) as usize])
            }
            Content::Echo(_) => echo.slice(offset as usize..(offset + left) as usize),
        };
        offset += piece.len() as u64;
        if plan.corrupt && offset == piece.len() as u64 {
            let mut wrong = piece.to_vec();
            wrong[0] ^= 1;
            piece = Bytes::from(wrong);
        }
        send_within_window(&mut send, piece).await?;
    }
    match plan.cut {
        Some(Cut::ResetAfter(_)) => {
            // A reset drops what h2 has not written yet: the connection's task, awake already, goes first.
            let mut waited = false;
            poll_fn(|cx| {
                if waited {
                    return Poll::Ready(());
                }
                waited = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            send.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
        _ => send.send_data(Bytes::new(), true),
    }
}

/// Sends as the peer's windows allow, so that what is unsent does not pile up here.
async fn send_within_window(send: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let mut capacity = send.capacity();
        while capacity == 0 {
            match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(granted) => capacity = granted?,
                // The stream is over.
                None => return Err(Reason::CANCEL.into()),
            }
        }
        send.send_data(data.split_to(capacity.min(data.len())), false)?;
    }
    Ok(())
}

/// Echoes a call's messages as its method says, byte by byte.
async fn answer_call(
    request: Request<RecvStream>,
    respond: &mut SendResponse<Bytes>,
    room: &Room,
) -> Result<(), h2::Error> {
    let (parts, mut body) = request.into_parts();
    let number = |name: &str| parts.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    let mut head = Response::new(());
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let status = match Method::of_path(parts.uri.path()) {
        Some(_) => number("x-origin-grpc-status").unwrap_or(0),
        // UNIMPLEMENTED
        None => 12,
    };
    let method = Method::of_path(parts.uri.path()).filter(|_| status == 0);
    room.shared.wait_out_stall().await;
    let Some(method) = method else {
        head.headers_mut().insert("grpc-status", HeaderValue::from(status));
        respond.send_response(head, true)?;
        return Ok(());
    };
    let mut send = respond.send_response(head, false)?;
    let mut first = Vec::new();
    while let Some(piece) = body.data().await.transpose()? {
        let bytes = piece.len();
        match method {
            Method::Unary | Method::Bidi => send_within_window(&mut send, piece).await?,
            Method::ServerStream | Method::ClientStream => grpc::keep_first(&mut first, &piece),
        }
        body.flow_control().release_capacity(bytes)?;
    }
    let copies = match method {
        Method::Unary | Method::Bidi => 0,
        Method::ClientStream => 1,
        Method::ServerStream => number("x-bench-messages").unwrap_or(1),
    };
    let first = Bytes::from(first);
    for _ in 0..copies {
        send_within_window(&mut send, first.clone()).await?;
    }
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)
}
