//! Names to addresses.

use std::net::IpAddr;

use futures_util::future::BoxFuture;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};

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

/// Resolves through the system's hosts file and name servers, both read once. Search domains are not used: a name
/// in an allow-list means the same everywhere.
#[derive(Debug)]
pub struct SystemResolver(TokioResolver);

impl SystemResolver {
    /// Reads the system's configuration. Without a readable one only the hosts file answers; that is logged.
    ///
    /// # Errors
    /// The resolver cannot be built.
    pub fn new() -> Result<Self, NetError> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name servers are configured: lambdas reach only names of the hosts file");
            TokioResolver::builder_with_config(
                ResolverConfig::from_parts(None, Vec::new(), Vec::new()),
                TokioRuntimeProvider::default(),
            )
        });
        let options = builder.options_mut();
        options.use_hosts_file = ResolveHosts::Always;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        Ok(Self(builder.build()?))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Vec<IpAddr>, ResolveError>> {
        // The trailing dot makes it absolute.
        let name = format!("{name}.");
        Box::pin(async move {
            match self.0.lookup_ip(name).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                    Err(ResolveError::NotFound)
                }
                Err(error) => Err(ResolveError::Failed(error.to_string())),
            }
        })
    }
}
