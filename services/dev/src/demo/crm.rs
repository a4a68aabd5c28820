//! A customer-relationship system of the demo: a real HTTP server on loopback that opens cases.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use anyhow::Context as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

/// A case as the CRM has it.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// `CASE-1`, `CASE-2`, …
    pub(crate) id: String,
    /// What the lambda sent.
    pub(crate) fields: Value,
    /// `Idempotency-Key` of the request that opened it.
    pub(crate) idempotency_key: Option<String>,
}

/// The running server. It ends when it is dropped.
pub(crate) struct Crm {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    cases: Arc<Mutex<Vec<Case>>>,
    _server: JoinSet<()>,
}

impl Crm {
    /// Starts the server on a free loopback port.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("the CRM cannot listen")?;
        let address = listener.local_addr()?;
        let cases = Arc::new(Mutex::new(Vec::new()));
        let mut server = JoinSet::new();
        let served = Arc::clone(&cases);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let cases = Arc::clone(&served);
                connections.spawn(async move {
                    let service = service_fn(move |request| handle(Arc::clone(&cases), request));
                    // A broken connection is the client's problem.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, cases, _server: server })
    }

    /// The cases so far, oldest first.
    pub(crate) fn cases(&self) -> Vec<Case> {
        self.cases.lock().expect("no handler panics").clone()
    }
}

/// Opens a case; a repeated `Idempotency-Key` gets the case that it opened before.
async fn handle(
    cases: Arc<Mutex<Vec<Case>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if (request.method(), request.uri().path()) != (&Method::POST, "/cases") {
        return Ok(answer(StatusCode::NOT_FOUND, &json!({"error": "only POST /cases is here"})));
    }
    let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned);
    let Ok(body) = Limited::new(request.into_body(), 64 * 1024).collect().await else {
        return Ok(answer(StatusCode::BAD_REQUEST, &json!({"error": "the body cannot be read"})));
    };
    let Ok(fields) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return Ok(answer(StatusCode::BAD_REQUEST, &json!({"error": "the body is not JSON"})));
    };
    let mut cases = cases.lock().expect("no handler panics");
    let known =
        cases.iter().find(|case| key.is_some() && case.idempotency_key == key).map(|case| case.id.clone());
    let id = known.unwrap_or_else(|| {
        let id = format!("CASE-{}", cases.len() + 1);
        cases.push(Case { id: id.clone(), fields, idempotency_key: key });
        id
    });
    Ok(answer(StatusCode::CREATED, &json!({ "id": id })))
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
