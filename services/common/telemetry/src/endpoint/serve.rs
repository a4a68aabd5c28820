//! The listener.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::State;

/// Most connections at a time: a scraper, its twin, probes, a person or two.
pub(super) const MAX_CONNECTIONS: usize = 32;
/// All that a connection may take: its request, and its reader's pace.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// A request's head must be there by then.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 8 * 1024;
/// Pause after the system refused a connection for want of file descriptors or memory: it would refuse the next one as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// Serves until it is dropped, and with it its connections.
pub(super) async fn run(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) if connections.len() >= MAX_CONNECTIONS => {
                drop(stream);
                tracing::debug!(net.peer = %peer, "closed: too many connections for metrics");
            }
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(&state)));
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection for metrics: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(move |request: Request<Incoming>| {
        // No body is read, and the connection ends with the answer.
        let answer = answer(request.method(), request.uri().path(), &state);
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIME, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a connection for metrics ended: {error}"),
        Err(_) => tracing::debug!("a connection for metrics was cut: it took {CONNECTION_TIME:?}"),
    }
}

fn answer(method: &Method, path: &str, state: &State) -> Response<Full<Bytes>> {
    if method != Method::GET {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    match path {
        "/metrics" => respond(StatusCode::OK, OPEN_METRICS, state.metrics.encode().into()),
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" if state.ready.get().is_some_and(|ready| ready()) => text(StatusCode::OK, "ok\n"),
        "/readyz" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: it starts, drains, or waits for what calls need (the registry, the database); its log says which\n",
        ),
        _ => text(StatusCode::NOT_FOUND, "there is /metrics, /livez and /readyz\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, TEXT, Bytes::from_static(text.as_bytes()))
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::atomic::{AtomicBool, Ordering},
    };

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::{Endpoint, EndpointArgs};

    async fn start() -> (Endpoint, SocketAddr) {
        let endpoint = EndpointArgs::default().start("registry", "1", 0).await.expect("a free port");
        let address = endpoint.address().expect("it listens");
        (endpoint, address)
    }

    /// All that comes back; empty if the connection is closed.
    async fn send(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        // It may be closed already, by a listener that has enough.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("text")
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        send(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }

    #[tokio::test]
    async fn three_paths_and_nothing_else() {
        let (endpoint, address) = start().await;
        let metrics = get(address, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains(OPEN_METRICS), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"), "nobody has said that it is");
        let ready = Arc::new(AtomicBool::new(true));
        let is_ready = Arc::clone(&ready);
        endpoint.ready_when(move || is_ready.load(Ordering::Relaxed));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        ready.store(false, Ordering::Relaxed);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        for path in ["/", "/metrics/", "/debug", "/../etc/passwd"] {
            assert!(get(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
        }
        let post =
            send(address, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET"), "{post}");
        drop(endpoint);
        // The task ends when it is next looked at.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let (_endpoint, address) = start().await;
        let head = format!("GET /metrics HTTP/1.1\r\nx: {}", "y".repeat(64 * 1024));
        let answer = send(address, &head).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn those_who_say_nothing_take_no_more_than_their_places() {
        let (_endpoint, address) = start().await;
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.expect("it accepts"));
        }
        // They are accepted in their order, so all of them have their places before this one comes.
        assert_eq!(get(address, "/livez").await, "", "one too many is closed at once");
        drop(silent.pop());
        // As soon as it is noticed that one has gone, its place is somebody else's.
        while get(address, "/livez").await.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_slow_are_cut() {
        let (_endpoint, address) = start().await;
        let began = tokio::time::Instant::now();
        assert_eq!(send(address, "GET /met").await, "");
        assert!(began.elapsed() <= CONNECTION_TIME, "{:?}", began.elapsed());
    }
}
