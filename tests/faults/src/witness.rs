//! A process of its own that lambdas call, and that writes down what it sees before it answers.

use std::{
    convert::Infallible,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

use crate::history::{Body, Effect, now};

/// Largest body that a lambda sends.
const BODY: usize = 64 * 1024;

/// Serves until it is ended. Prints its address as the first line of its output.
///
/// # Errors
/// The address is taken, or the ledger cannot be written.
pub async fn serve(ledger: &Path) -> anyhow::Result<Infallible> {
    let file = OpenOptions::new().create(true).append(true).open(ledger);
    let file = Arc::new(Mutex::new(file.with_context(|| format!("{} cannot be opened", ledger.display()))?));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let file = Arc::clone(&file);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&file), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    file: Arc<Mutex<File>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = match read(request).await {
        // Written while the lock is held: the order in the ledger is the order of the times.
        Some(mut effect) => {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            effect.at = now();
            let line = serde_json::to_string(&effect).unwrap_or_default() + "\n";
            match file.write_all(line.as_bytes()) {
                Ok(()) => StatusCode::OK,
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
            }
        }
        None => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    Ok(response)
}

async fn read(request: Request<Incoming>) -> Option<Effect> {
    // Two numbers: the attempt, and the lambda's clock in ms.
    let numbers: Vec<u64> =
        request.uri().path().split('/').skip(1).map(str::parse).collect::<Result<_, _>>().ok()?;
    let [attempt, called] = numbers[..] else { return None };
    let key = request.headers().get("idempotency-key");
    let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default().to_owned();
    let body = Limited::new(request.into_body(), BODY).collect().await.ok()?.to_bytes();
    let body: Body = serde_json::from_slice(&body).ok()?;
    Some(Effect { at: 0, called: called * 1_000, attempt: attempt.try_into().ok()?, key, body })
}

/// The ledger, read as it grows.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    reader: Option<BufReader<File>>,
    line: String,
    /// What has been read, in its order.
    pub effects: Vec<Effect>,
}

impl Ledger {
    /// Nothing read yet; the file need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path, reader: None, line: String::new(), effects: Vec::new() }
    }

    /// Reads what has come; gives where the new entries begin.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn read_on(&mut self) -> anyhow::Result<usize> {
        let begin = self.effects.len();
        if self.reader.is_none() {
            self.reader = File::open(&self.path).ok().map(BufReader::new);
        }
        let Some(reader) = &mut self.reader else { return Ok(begin) };
        // A line may be there in part.
        while reader.read_line(&mut self.line)? > 0 && self.line.ends_with('\n') {
            let effect = serde_json::from_str(&self.line);
            self.effects.push(effect.with_context(|| format!("{}: {}", self.path.display(), self.line))?);
            self.line.clear();
        }
        Ok(begin)
    }
}
