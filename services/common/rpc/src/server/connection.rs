//! One connection, from its first byte to its last.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, transport::server::TcpConnectInfo};
use tower_service::Service;

use super::{ServerConfig, call_task::CallExecutor, handshake::Handshakes, refused::Refused, stack::Stack};
use crate::{
    metrics::{RefusedConnection, ServerMetrics},
    security::Peer,
    transit::Arrivals,
};

/// Length of the HTTP/2 connection preface, the first thing that a client sends.
const PREFACE: usize = 24;

/// Streams that the peer opened and reset, and that wait to be noticed; beyond it the connection is closed.
/// The defence against rapid reset (CVE-2023-44487).
const MAX_PENDING_RESETS: usize = 20;

/// Streams reset because of the peer's errors, before the connection is closed.
const MAX_LOCAL_RESETS: usize = 1024;

/// Largest header list of a request, names and values and 32 bytes for each.
const MAX_HEADER_LIST: u32 = 16 * 1024;

/// Flow control windows: how much of a stream, and of all streams of a connection, is buffered unread.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// How hyper speaks HTTP/2 on every connection of a server.
pub(super) fn http2(
    config: &ServerConfig,
    executor: CallExecutor,
) -> hyper::server::conn::http2::Builder<CallExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(config.keepalive_interval)
        .keep_alive_timeout(config.keepalive_timeout)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

/// When a connection must end.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// Say GOAWAY, finish the calls in progress.
    pub(super) goaway: CancellationToken,
    /// Close now.
    pub(super) abort: CancellationToken,
}

/// What all connections of a server share.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) http2: hyper::server::conn::http2::Builder<CallExecutor>,
    pub(super) stack: Stack,
    /// `None`: plain text.
    pub(super) handshakes: Option<Handshakes>,
    pub(super) handshake_timeout: Duration,
    pub(super) refused: Refused,
    pub(super) metrics: ServerMetrics,
    pub(super) max_age: Duration,
    pub(super) ends: Ends,
}

impl Connections {
    /// Serves one connection until the peer leaves or [`Ends`] says so.
    pub(super) async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        let spoken_by = Instant::now() + self.handshake_timeout;
        // Small frames must not wait for the acknowledgement of others.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(net.peer = %peer, "cannot set TCP_NODELAY: {error}");
        }
        let info = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: Some(peer) };
        let Some(handshakes) = &self.handshakes else {
            return self.speak(stream, info, Peer(None), spoken_by).await;
        };
        let shaken = tokio::select! {
            shaken = tokio::time::timeout_at(spoken_by, handshakes.shake(stream)) => shaken,
            // Nobody has asked for anything yet.
            () = self.ends.abort.cancelled() => return,
            () = self.ends.goaway.cancelled() => return,
        };
        match shaken {
            Ok(Ok((stream, identity))) => self.speak(stream, info, identity, spoken_by).await,
            Ok(Err(error)) => {
                self.metrics.connection_refused(RefusedConnection::HandshakeFailed);
                self.refused.report(peer, format_args!("the TLS handshake failed: {error}"));
            }
            Err(_) => {
                self.metrics.connection_refused(RefusedConnection::HandshakeLate);
                let within = self.handshake_timeout;
                self.refused.report(peer, format_args!("no TLS handshake within {within:?}"));
            }
        }
    }

    /// HTTP/2, which must have begun by `spoken_by`.
    async fn speak(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        info: TcpConnectInfo,
        identity: Peer,
        spoken_by: Instant,
    ) {
        let Self { http2, stack, handshake_timeout, max_age, ends, metrics, .. } = self;
        let (peer, arrivals) = (info.remote_addr, Arrivals::new());
        // A peer that has a new certificate by then comes with it, and none of its calls is refused.
        let age = with_jitter(identity.cap(max_age));
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(info.clone());
            request.extensions_mut().insert(identity.clone());
            request.extensions_mut().insert(arrivals.clone());
            // Every layer is always ready, and so are the routes.
            stack.clone().call(request.map(Body::new))
        });

        let received = Arc::new(AtomicUsize::new(0));
        let has_spoken = || received.load(Ordering::Relaxed) >= PREFACE;
        let io = TokioIo::new(Counted { inner: stream, received: Arc::clone(&received) });
        let mut connection = pin!(http2.serve_connection(io, service));
        let mut handshake = pin!(tokio::time::sleep_until(spoken_by));
        let mut handshake_over = false;
        let mut aged = pin!(tokio::time::sleep(age));
        let mut going_away = false;

        loop {
            tokio::select! {
                result = connection.as_mut() => {
                    if let Err(error) = result {
                        tracing::debug!(net.peer = ?peer, "connection ended: {error}");
                    }
                    return;
                }
                () = ends.abort.cancelled() => return,
                () = ends.goaway.cancelled(), if !going_away => {
                    going_away = true;
                    // hyper waits for the preface before it says GOAWAY, possibly without end
                    // (hyperium/hyper#4170), and a peer that has said nothing loses nothing.
                    if !has_spoken() {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                }
                () = aged.as_mut(), if !going_away => {
                    going_away = true;
                    if !has_spoken() {
                        return;
                    }
                    // First without a last stream: what is under way when the client reads it is still served.
                    connection.as_mut().graceful_shutdown();
                }
                () = handshake.as_mut(), if !handshake_over => {
                    handshake_over = true;
                    // Keepalive starts after the preface; until then this is all that ends a silent peer.
                    if !has_spoken() {
                        metrics.connection_refused(RefusedConnection::Silent);
                        tracing::debug!(net.peer = ?peer, "closed: no HTTP/2 preface within {handshake_timeout:?}");
                        return;
                    }
                }
            }
        }
    }
}

/// Up to a tenth less: connections that were made together must not end together.
fn with_jitter(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(0.9..=1.0))
}

/// Counts what was received.
#[derive(Debug)]
struct Counted<S> {
    inner: S,
    received: Arc<AtomicUsize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.received.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
