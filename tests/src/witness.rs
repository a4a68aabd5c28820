//! A real HTTP server on loopback that lambdas call: it sees what they do outside.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// A call that a lambda made.
#[derive(Debug, Clone)]
pub struct Call {
    /// Path and query.
    pub path: String,
    /// The body as text.
    pub body: String,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// `traceparent`.
    pub traceparent: Option<String>,
}

/// The server. It ends when it is dropped.
pub struct Witness {
    /// `127.0.0.1:port`, as an entry of `allowed_hosts`.
    pub host: String,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

struct Shared {
    calls: Mutex<Vec<Call>>,
    seen: watch::Sender<usize>,
    abandoned: watch::Sender<usize>,
    /// Calls to `/gate` are answered one by one, as permits are given.
    gate: Semaphore,
}

impl Witness {
    /// Starts the server on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            calls: Mutex::new(Vec::new()),
            seen: watch::Sender::new(0),
            abandoned: watch::Sender::new(0),
            gate: Semaphore::new(0),
        });
        let mut server = JoinSet::new();
        let served = Arc::clone(&shared);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let shared = Arc::clone(&served);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { host: address.to_string(), shared, _server: server }
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// Waits until there were `count` calls.
    pub async fn seen(&self, count: usize) {
        let mut seen = self.shared.seen.subscribe();
        tokio::time::timeout(crate::PATIENCE, seen.wait_for(|seen| *seen >= count))
            .await
            .unwrap_or_else(|_| panic!("{count} calls expected, {} seen", self.calls().len()))
            .unwrap();
    }

    /// Waits until `count` calls were given up by their callers before they were answered.
    pub async fn abandoned(&self, count: usize) {
        let mut abandoned = self.shared.abandoned.subscribe();
        tokio::time::timeout(crate::PATIENCE, abandoned.wait_for(|abandoned| *abandoned >= count))
            .await
            .unwrap_or_else(|_| panic!("no {count} calls were given up"))
            .unwrap();
    }

    /// Lets `count` calls to `/gate` be answered.
    pub fn open_gate(&self, count: usize) {
        self.shared.gate.add_permits(count);
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let header = |name| request.headers().get(name).and_then(|it| it.to_str().ok()).map(str::to_owned);
    let (idempotency_key, traceparent) = (header("idempotency-key"), header("traceparent"));
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = String::from_utf8_lossy(&body).into_owned();
    let gated = path.starts_with("/gate");
    shared.calls.lock().unwrap().push(Call { path, body, idempotency_key, traceparent });
    shared.seen.send_modify(|seen| *seen += 1);
    if gated {
        // Dropped in the middle when the caller closes its connection.
        let given_up = GivenUp(&shared);
        shared.gate.acquire().await.unwrap().forget();
        std::mem::forget(given_up);
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"{}"))))
}

/// Counts a call whose answer is dropped before it is there.
struct GivenUp<'a>(&'a Shared);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        self.0.abandoned.send_modify(|abandoned| *abandoned += 1);
    }
}
