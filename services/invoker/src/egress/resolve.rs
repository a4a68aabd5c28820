//! Names to addresses.

use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};

use crate::background::own_task;

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// It does not exist, or has none.
    #[error("it has no address")]
    NotFound,
    /// The name servers did not say.
    #[error("the name servers did not answer: {0}")]
    Failed(String),
}

/// Turns names into addresses. The answer is what is checked and connected to: nothing resolves a second time.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, which is absolute, in ASCII and without a trailing dot. Cancel safe; the caller
    /// bounds the time.
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Vec<IpAddr>, ResolveError>>;
}

/// Resolves through name servers. Search domains are not used: a name in an allow-list means the same everywhere.
#[derive(Debug)]
pub struct SystemResolver(TokioResolver);

impl SystemResolver {
    /// Asks the system's hosts file and name servers, both read once. Without a readable configuration only the hosts
    /// file answers; that is logged.
    ///
    /// # Errors
    /// The resolver cannot be built.
    pub fn new() -> Result<Self, NetError> {
        let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name servers are configured: lambdas reach only names of the hosts file");
            with_servers(Vec::new())
        });
        Self::build(builder, ResolveHosts::Always)
    }

    /// Asks these name servers and nothing else.
    ///
    /// # Errors
    /// The resolver cannot be built.
    pub fn with_name_servers(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        Self::build(with_servers(servers.collect()), ResolveHosts::Never)
    }

    fn build(
        mut builder: ResolverBuilder<TokioRuntimeProvider>,
        hosts_file: ResolveHosts,
    ) -> Result<Self, NetError> {
        let options = builder.options_mut();
        options.use_hosts_file = hosts_file;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(Self(builder.build()?))
    }
}

fn with_servers(servers: Vec<NameServerConfig>) -> ResolverBuilder<TokioRuntimeProvider> {
    TokioResolver::builder_with_config(
        ResolverConfig::from_parts(None, Vec::new(), servers),
        TokioRuntimeProvider::default(),
    )
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Vec<IpAddr>, ResolveError>> {
        // The trailing dot makes it absolute.
        let name = format!("{name}.");
        let resolver = self.0.clone();
        // A look-up that waits holds locks of the resolver.
        Box::pin(own_task(async move {
            match resolver.lookup_ip(name).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                    Err(ResolveError::NotFound)
                }
                Err(error) => Err(ResolveError::Failed(error.to_string())),
            }
        }))
    }
}
