//! The way of a client's bytes, watched: how much of what waits for it has left, and an end to it when it must end.
//!
//! A client opens its connection by websocket, or by polling which it may upgrade later. Each gets an [`Outbox`], which
//! goes with the request that opens the connection and so is found at the socket. A polling answer has left when it is
//! made: there is one at a time, and it carries one packet or a few small ones. Of a websocket every byte is seen, for the
//! library is given a [`Wire`] in the place of the connection.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{self, HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socketioxide::socket::Sid;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::outbox::{Outbox, Outboxes};

/// The connection of a websocket, once the handshake is over.
pub(crate) type Connection = TokioIo<Upgraded>;

/// Takes over a websocket together with the request that it began with.
pub(crate) type Accept = Arc<dyn Fn(Wire<Connection>, http::Request<()>) + Send + Sync>;

/// What stands between the clients and the library.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) outboxes: Arc<Outboxes>,
    pub(crate) accept: Accept,
}

/// What a request asks of a transport.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    websocket: bool,
    /// The client it is of; nothing when it opens a connection. What no client can be called is the library's to refuse.
    client: Option<Option<Sid>>,
    /// Whether the library speaks the version.
    spoken: bool,
}

impl Asked {
    fn of(query: &str) -> Self {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        Self {
            websocket: value("transport") == Some("websocket"),
            client: value("sid").map(|sid| sid.parse().ok()),
            spoken: value("EIO") == Some("4"),
        }
    }
}

/// Passes a request to the library, and watches what goes back.
pub(crate) async fn carry(State(way): State<Way>, mut request: Request, next: Next) -> Response {
    let asked = Asked::of(request.uri().query().unwrap_or_default());
    let client = asked.client.flatten();
    let outbox = client.and_then(|client| way.outboxes.find(client));
    if outbox.is_some_and(|outbox| outbox.cutting().is_cancelled()) {
        return (StatusCode::BAD_REQUEST, "the connection was ended").into_response();
    }
    let opened = asked.client.is_none().then(Arc::<Outbox>::default);
    if let Some(opened) = &opened {
        request.extensions_mut().insert(opened.clone());
    }
    if asked.websocket {
        // The library upgrades whatever names this transport; a request that asks for no upgrade is a mistake.
        if !wants_upgrade(request.headers()) {
            let answer = "the websocket transport needs `Upgrade: websocket`";
            return (StatusCode::BAD_REQUEST, answer).into_response();
        }
        let known = client.is_some() || opened.is_some();
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        if let Some(key) = key.filter(|_| known && asked.spoken && request.method() == Method::GET)
        {
            let accepted = derive_accept_key(key.as_bytes());
            return upgrade(&way, request, client, opened, &accepted);
        }
    }
    let polls = request.method() == Method::GET;
    let response = next.run(request).await;
    if polls && let Some(outbox) = client.and_then(|client| way.outboxes.find(client)) {
        let bytes = response.body().size_hint().lower();
        outbox.left(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    response
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Answers a websocket's handshake; the library takes over when the answer has gone out.
fn upgrade(
    way: &Way,
    mut request: Request,
    client: Option<Sid>,
    opened: Option<Arc<Outbox>>,
    accepted: &str,
) -> Response {
    let upgraded = hyper::upgrade::on(&mut request);
    let (way, request) = (way.clone(), request.map(|_| ()));
    tokio::spawn(async move {
        match upgraded.await {
            Ok(connection) => {
                let wire = Wire {
                    stream: TokioIo::new(connection),
                    watch: opened.map(Watch::new),
                    client,
                    outboxes: way.outboxes,
                };
                (way.accept)(wire, request);
            }
            Err(error) => tracing::debug!(%error, "a chat websocket ended before it began"),
        }
    });
    let answer = [
        (header::UPGRADE, "websocket"),
        (header::CONNECTION, "Upgrade"),
        (header::SEC_WEBSOCKET_ACCEPT, accepted),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, answer, Body::empty()).into_response()
}

/// A websocket's connection. What is written to it has left the outbox; when the client is cut off it breaks.
pub(crate) struct Wire<S> {
    stream: S,
    watch: Option<Watch>,
    /// Whose it is, when the connection was opened by polling: the outbox is there when the client is let in.
    client: Option<Sid>,
    outboxes: Arc<Outboxes>,
}

/// An outbox, watched by the two tasks that read and write.
struct Watch {
    outbox: Arc<Outbox>,
    reading: Pin<Box<WaitForCancellationFutureOwned>>,
    writing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Watch {
    fn new(outbox: Arc<Outbox>) -> Self {
        let cut = || Box::pin(outbox.cutting().clone().cancelled_owned());
        let (reading, writing) = (cut(), cut());
        Self {
            outbox,
            reading,
            writing,
        }
    }
}

impl<S> Wire<S> {
    fn watch(&mut self) -> Option<&mut Watch> {
        if self.watch.is_none() {
            let outbox = self.client.and_then(|client| self.outboxes.find(client));
            self.watch = outbox.map(Watch::new);
        }
        self.watch.as_mut()
    }

    fn check_writing(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let watch = self.watch();
        ended(watch.is_some_and(|watch| watch.writing.as_mut().poll(context).is_ready()))
    }
}

fn ended(is_cut: bool) -> io::Result<()> {
    if is_cut {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let watch = self.watch();
        ended(watch.is_some_and(|watch| watch.reading.as_mut().poll(context).is_ready()))?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_writing(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        if let Some(watch) = self.watch() {
            watch.outbox.left(written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_writing(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_writing(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn wire(stream: DuplexStream, client: Sid, outboxes: &Arc<Outboxes>) -> Wire<DuplexStream> {
        Wire {
            stream,
            watch: None,
            client: Some(client),
            outboxes: outboxes.clone(),
        }
    }

    #[test]
    fn requests_are_read_as_the_library_reads_them() {
        let sid = Sid::new();
        let asked = Asked::of(&format!("EIO=4&transport=websocket&sid={sid}"));
        let client = Some(Some(sid));
        let expected = Asked {
            websocket: true,
            client,
            spoken: true,
        };
        assert_eq!(asked, expected);
        let asked = Asked::of("transport=polling&transport=websocket&EIO=3&sid=x");
        let expected = Asked {
            websocket: false,
            client: Some(None),
            spoken: false,
        };
        assert_eq!(asked, expected);
        assert_eq!(Asked::of("").client, None);
    }

    #[tokio::test]
    async fn what_is_written_has_left_and_who_is_cut_is_read_no_more() {
        let (outboxes, outbox, client) = (Arc::default(), Arc::default(), Sid::new());
        let (near, mut far) = duplex(16);
        let mut wire = wire(near, client, &outboxes);
        // Before the client is let in nothing is counted.
        wire.write_all(b"hello").await.unwrap();
        Outboxes::add(&outboxes, client, &outbox);
        Outbox::take(&outbox, 60, 60).unwrap();
        let (mut reader, mut writer) = tokio::io::split(wire);
        let writing = tokio::spawn(async move { writer.write_all(&[1; 60]).await });
        let reading = tokio::spawn(async move { reader.read_u8().await });
        let mut got = [0; 20];
        far.read_exact(&mut got).await.unwrap();
        tokio::task::yield_now().await;
        assert!(outbox.has_room(1, 60) && !outbox.has_room(60, 60));
        outbox.cut();
        let broken = writing.await.unwrap().unwrap_err();
        assert_eq!(broken.kind(), io::ErrorKind::ConnectionAborted);
        assert!(reading.await.unwrap().is_err());
    }
}
