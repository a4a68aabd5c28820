//! The TLS handshake of a connection.

use std::{io, sync::Arc};

use rustls::server::Acceptor;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::security::{H2, Peer, Tls};

/// Most handshakes at once; more wait, within the time that a connection has for its handshake. Each costs signatures,
/// and a crowd that comes back after a restart must not take the processor from the calls in progress.
const MAX_HANDSHAKES: usize = 256;

/// Makes connections secure, with the certificates that are current.
#[derive(Clone, Debug)]
pub(super) struct Handshakes {
    tls: watch::Receiver<Arc<Tls>>,
    running: Arc<Semaphore>,
}

impl Handshakes {
    pub(super) fn new(tls: watch::Receiver<Arc<Tls>>) -> Self {
        Self { tls, running: Arc::new(Semaphore::new(MAX_HANDSHAKES)) }
    }

    /// The secure connection, and who is at its other end. Give it a timeout: the peer may say nothing. Cancel safe, in
    /// that the connection is closed.
    pub(super) async fn shake(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Peer)> {
        // Whoever has not even begun takes no place from those who have.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let _running = self.running.acquire().await.map_err(io::Error::other)?;
        let tls = Arc::clone(&self.tls.borrow());
        let stream = hello.into_stream(Arc::clone(&tls.server)).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(H2) {
            return Err(io::Error::other("the peer does not offer HTTP/2 by ALPN"));
        }
        let peer = Peer::of(session.peer_certificates(), &tls.trust_domain);
        Ok((stream, peer))
    }
}
