//! The TLS handshake of a connection.

use std::{io, sync::Arc};

use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::security::{H2, Peer, Tls};

/// Makes connections secure, with the certificates that are current.
///
/// There is no bound of its own on handshakes in progress: one peer could hold all places by never finishing. What
/// bounds them is how many connections there may be, of all peers and of one, and the time that each has for this.
#[derive(Clone, Debug)]
pub(super) struct Handshakes {
    tls: watch::Receiver<Arc<Tls>>,
}

impl Handshakes {
    pub(super) fn new(tls: watch::Receiver<Arc<Tls>>) -> Self {
        Self { tls }
    }

    /// The secure connection, and who is at its other end. Give it a timeout: the peer may say nothing. Cancel safe, in
    /// that the connection is closed.
    pub(super) async fn shake(&self, stream: TcpStream) -> io::Result<(TlsStream<TcpStream>, Peer)> {
        let tls = Arc::clone(&self.tls.borrow());
        let stream = TlsAcceptor::from(Arc::clone(&tls.server)).accept(stream).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(H2) {
            return Err(io::Error::other("the peer does not offer HTTP/2 by ALPN"));
        }
        let peer = Peer::of(session.peer_certificates(), &tls.trust_domain);
        Ok((stream, peer))
    }
}
