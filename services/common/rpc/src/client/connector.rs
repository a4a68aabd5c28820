//! Connections to a server.

use std::{
    error::Error,
    io,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::net::TcpStream;
use tower_service::Service;

use super::resolve::Shuffled;
use crate::{layers::BoxFuture, security::ClientTls};

/// Makes connections: in plain text, or by TLS with the certificates that are current.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector<Shuffled>,
    tls: Option<ClientTls>,
    /// For all of it, the TLS handshake included.
    timeout: Duration,
}

type Connection = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn Error + Send + Sync>;

impl Connector {
    pub(super) fn new(timeout: Duration, tls: Option<ClientTls>) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Shuffled::new());
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        tcp.enforce_http(tls.is_none());
        Self { tcp, tls, timeout }
    }
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = BoxFuture<Result<Connection, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(tls) = &self.tls else {
            let connecting = self.tcp.call(uri);
            return Box::pin(async move { Ok(MaybeHttpsStream::Http(connecting.await?)) });
        };
        let connecting = HttpsConnector::from((self.tcp.clone(), tls.current())).call(uri);
        let timeout = self.timeout;
        Box::pin(async move {
            let late =
                |_| io::Error::new(io::ErrorKind::TimedOut, format!("no TLS connection within {timeout:?}"));
            tokio::time::timeout(timeout, connecting).await.map_err(late)?
        })
    }
}
