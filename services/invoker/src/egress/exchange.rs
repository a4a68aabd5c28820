//! One request and its answer over one connection.

use std::{convert::Infallible, error::Error, future::Future, pin::Pin};

use bytes::Bytes;
use chatfn_domain::name::AccountId;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;

use super::{
    EgressError,
    body::{BodyError, Buffers},
    connect::Connection,
    redirect::Hop,
};
use crate::places::Place;

/// Most headers of an answer.
const MAX_HEADERS: usize = 100;
/// Most bytes of an answer's status line and headers.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// An exchange whose answer has begun. Owns the connection: dropping it closes that, whatever is still to come.
pub(super) struct Exchange {
    connection: Driver,
    host: String,
    /// The connection's.
    _place: Place,
}

/// Drives a connection, and never completes.
type Driver = Pin<Box<dyn Future<Output = Infallible> + Send>>;

impl Exchange {
    /// Sends the request of `hop`, and waits for the head of its answer. Cancel safe.
    pub(super) async fn start(
        connection: Connection,
        place: Place,
        hop: &Hop,
    ) -> Result<(Self, Response<Incoming>), EgressError> {
        let host = hop.target.authority().to_owned();
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(2 * MAX_HEAD_BYTES)
            .handshake(TokioIo::new(connection))
            .await
            .map_err(|error| broken(&host, &error))?;
        let connection: Driver = Box::pin(async move {
            // What goes wrong here reaches whoever waits for the answer as well.
            let _ = connection.await;
            std::future::pending().await
        });
        let mut exchange = Self { connection, host, _place: place };
        let request = request(hop)?;
        let response = exchange.drive(sender.send_request(request)).await;
        let response = response.map_err(|error| broken(&exchange.host, &error))?;
        Ok((exchange, response))
    }

    /// Reads the answer's body to its end. Cancel safe.
    pub(super) async fn read(
        mut self,
        account: &AccountId,
        body: Incoming,
        buffers: &Buffers,
    ) -> Result<Bytes, EgressError> {
        self.drive(buffers.read(account, body)).await.map_err(|error| match error {
            BodyError::Refused(error) => error,
            BodyError::Broken(error) => broken(&self.host, &error),
        })
    }

    async fn drive<F: Future>(&mut self, future: F) -> F::Output {
        tokio::select! {
            biased;
            output = future => output,
            never = &mut self.connection => match never {},
        }
    }
}

fn request(hop: &Hop) -> Result<Request<Full<Bytes>>, EgressError> {
    let mut request = Request::new(Full::new(hop.body.clone()));
    *request.method_mut() = hop.method.clone();
    *request.uri_mut() = hop
        .target
        .path_and_query()
        .parse()
        .map_err(|error: http::uri::InvalidUri| EgressError::InvalidUrl(error.to_string()))?;
    *request.headers_mut() = hop.headers.clone();
    Ok(request)
}

fn broken(host: &str, error: &hyper::Error) -> EgressError {
    if error.is_parse_too_large() {
        return EgressError::HeadersTooLarge { bytes: MAX_HEAD_BYTES, count: MAX_HEADERS };
    }
    let problem = match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    EgressError::ExchangeFailed { host: host.to_owned(), problem }
}
