//! From a target to a connection: resolve, check every address, connect to a checked one.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{AddressPolicy, EgressError, Resolve, target::Target};
use crate::places::Places;

/// Addresses of one name that are tried before giving up.
const MAX_ADDRESSES: usize = 4;

/// Connections of all runs at once, if the system lets the process have twice as many files. Each may keep 128 KiB of what it has
/// read.
const MAX_CONNECTIONS: u64 = 4096;

/// Places for connections, divided among accounts. Lets the process have as many files as the system allows it.
pub(super) fn places() -> Arc<Places> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    // Many systems give 1,024, lest programs break that use select().
    let files = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let most = (files / 2).min(MAX_CONNECTIONS);
    Places::new("connections", usize::try_from(most).unwrap_or(usize::MAX))
}

/// Makes connections. A connection serves one request: nothing is shared between accounts.
pub(super) struct Connector {
    pub(super) resolver: Arc<dyn Resolve>,
    pub(super) policy: AddressPolicy,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) dns_timeout: Duration,
    pub(super) connect_timeout: Duration,
}

impl Connector {
    /// A connection to a checked address of `target`, with TLS for https. Cancel safe.
    pub(super) async fn connect(&self, target: &Target) -> Result<Connection, EgressError> {
        let addresses = self.addresses(target).await?;
        let tcp = self.connect_any(target, &addresses).await?;
        // Requests are written in one piece; waiting for more would only add latency.
        let _ = tcp.set_nodelay(true);
        if !target.is_tls() {
            return Ok(Connection::Plain(tcp));
        }
        let failed =
            |problem: String| EgressError::TlsFailed { host: target.authority().to_owned(), problem };
        let name = ServerName::try_from(target.name()).map_err(|error| failed(error.to_string()))?;
        match timeout(self.connect_timeout, TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp))
            .await
        {
            Ok(Ok(stream)) => Ok(Connection::Tls(Box::new(stream))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no handshake within {:?}", self.connect_timeout))),
        }
    }

    /// The addresses of `target` that may be reached; at least one.
    async fn addresses(&self, target: &Target) -> Result<Vec<IpAddr>, EgressError> {
        let found = match target.literal() {
            Some(address) => vec![address],
            None => self.resolve(target).await?,
        };
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len().min(MAX_ADDRESSES));
        for address in found {
            match self.policy.check(address) {
                Ok(_) if allowed.len() == MAX_ADDRESSES => {}
                Ok(address) => allowed.push(address),
                Err(denied) => {
                    // Not the host: a lambda may put a secret into the part that a wildcard stands for. An address that
                    // is not resolved from a name is in the settings as it is.
                    tracing::debug!(%address, kind = denied.kind, "refused an address");
                    refused = Some(denied);
                }
            }
        }
        match refused {
            Some(denied) if allowed.is_empty() => {
                Err(EgressError::AddressNotAllowed { host: target.name(), kind: denied.kind })
            }
            _ => Ok(allowed),
        }
    }

    async fn resolve(&self, target: &Target) -> Result<Vec<IpAddr>, EgressError> {
        let host = target.name();
        let failed = |problem: String| EgressError::DnsFailed { host: host.clone(), problem };
        match timeout(self.dns_timeout, self.resolver.resolve(&host)).await {
            Ok(Ok(addresses)) if addresses.is_empty() => Err(failed("it has no address".to_owned())),
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no answer within {:?}", self.dns_timeout))),
        }
    }

    /// Tries one address after the other, so that a dead one does not hide a live one.
    async fn connect_any(&self, target: &Target, addresses: &[IpAddr]) -> Result<TcpStream, EgressError> {
        let mut problem = "it has no address".to_owned();
        for address in addresses {
            match timeout(self.connect_timeout, TcpStream::connect(SocketAddr::new(*address, target.port())))
                .await
            {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => problem = error.to_string(),
                Err(_) => problem = format!("no answer within {:?}", self.connect_timeout),
            }
        }
        Err(EgressError::ConnectFailed { host: target.authority().to_owned(), problem })
    }
}

/// A connection, with or without TLS.
pub(super) enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use chatfn_telemetry::testing::Log;
    use futures_util::{FutureExt as _, future::BoxFuture};

    use super::{
        super::{ResolveError, tls},
        *,
    };

    /// All names are of this machine.
    struct Local;

    impl Resolve for Local {
        fn resolve(&self, _: &str) -> BoxFuture<'_, Result<Vec<IpAddr>, ResolveError>> {
            async { Ok(vec!["127.0.0.1".parse().unwrap()]) }.boxed()
        }
    }

    #[tokio::test]
    async fn a_host_may_hold_a_secret_and_is_not_logged() {
        let (log, _guard) = Log::of_thread("trace");
        let connector = Connector {
            resolver: Arc::new(Local),
            policy: AddressPolicy::default(),
            tls: tls::client_config(None).unwrap(),
            dns_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
        };
        let target = Target::parse("https://token.tenant.example/").unwrap();
        let refused = connector.connect(&target).await.err();
        assert!(matches!(refused, Some(EgressError::AddressNotAllowed { .. })), "{refused:?}");
        let log = log.text();
        assert!(log.contains("refused an address") && !log.contains("token"), "{log}");
    }
}
