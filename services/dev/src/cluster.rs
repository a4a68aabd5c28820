//! A cluster: database, registry, invoker, event-ingest.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use chatfn_pg::DatabaseUrl;
use chatfn_rpc::{Client, SecurityConfig, Shutdown, bind};
use chatfn_telemetry::{EndpointArgs, Listen};
use clap::{Args, Parser};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{certs::Certs, postgres::Database, secret_keys::secret_keys_file};

/// How long a service may take until it serves. The first start compiles the engine.
const READY_WAIT: Duration = Duration::from_secs(120);

/// What cluster to start.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Folder of the private Postgres and of caches.
    #[arg(long, env = "CHATFN_DATA_DIR", default_value = ".data")]
    pub data_dir: PathBuf,
    /// An existing Postgres to use instead of a private one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<DatabaseUrl>,
    /// Where the registry listens.
    #[arg(long, env = "CHATFN_REGISTRY_LISTEN", default_value = "127.0.0.1:50051")]
    pub registry_listen: SocketAddr,
    /// Where the invoker listens.
    #[arg(long, env = "CHATFN_INVOKER_LISTEN", default_value = "127.0.0.1:50052")]
    pub invoker_listen: SocketAddr,
    /// Where event-ingest listens.
    #[arg(long, env = "CHATFN_EVENT_INGEST_LISTEN", default_value = "127.0.0.1:50053")]
    pub event_ingest_listen: SocketAddr,
    /// Where the registry's metrics are served: an address and a port, or off.
    #[arg(
        long,
        env = "CHATFN_REGISTRY_TELEMETRY_LISTEN",
        value_name = "ADDRESS|off",
        default_value = "127.0.0.1:9090"
    )]
    pub registry_telemetry: Listen,
    /// Where the invoker's metrics are served, or off.
    #[arg(
        long,
        env = "CHATFN_INVOKER_TELEMETRY_LISTEN",
        value_name = "ADDRESS|off",
        default_value = "127.0.0.1:9091"
    )]
    pub invoker_telemetry: Listen,
    /// Where event-ingest's metrics are served, or off.
    #[arg(
        long,
        env = "CHATFN_EVENT_INGEST_TELEMETRY_LISTEN",
        value_name = "ADDRESS|off",
        default_value = "127.0.0.1:9092"
    )]
    pub event_ingest_telemetry: Listen,
    /// Folder of what `chatfn-dev dev-certs` made: with it the services speak TLS, and ask callers for tokens.
    #[arg(long, env = "CHATFN_CERTS_DIR")]
    pub certs_dir: Option<PathBuf>,
    /// Private address ranges that lambdas may call after all, for example 127.0.0.0/8.
    #[arg(long, env = "CHATFN_INVOKER_EGRESS_ALLOW_CIDR", value_delimiter = ',')]
    pub egress_allow_cidr: Vec<String>,
}

/// A running cluster. Dropped without [`Cluster::stop`], its services are cut off.
pub struct Cluster {
    /// Address of the registry.
    pub registry: SocketAddr,
    /// Address of the invoker.
    pub invoker: SocketAddr,
    /// Address of event-ingest.
    pub event_ingest: SocketAddr,
    /// In the order in which they are stopped.
    services: Vec<Service>,
    database: Database,
    certs: Certs,
}

impl Cluster {
    /// Starts everything and returns once every service reports SERVING.
    pub async fn start(args: ClusterArgs) -> anyhow::Result<Self> {
        // Ports first: a port that is taken must not cost the wait for a database.
        let (registry, registry_listener) = listen("registry", args.registry_listen).await?;
        let (invoker, invoker_listener) = listen("invoker", args.invoker_listen).await?;
        let (event_ingest, event_ingest_listener) = listen("event-ingest", args.event_ingest_listen).await?;

        let database = Database::open(args.database_url, args.data_dir.join("postgres")).await?;
        let url = database.url.expose().to_owned();
        let certs = Certs::open(args.certs_dir)?;
        let [registry_url, invoker_url] = [registry, invoker].map(|address| certs.url(address));
        let cache = args.data_dir.join("cache").display().to_string();

        let mut services = Vec::new();
        let flags =
            [("--database-url", url.as_str()), ("--registry", &registry_url), ("--invoker", &invoker_url)];
        let mut config: chatfn_event_ingest::Config =
            configure(&flags, &certs.flags(chatfn_rpc::Service::EventIngest))?;
        config.endpoint = at(args.event_ingest_telemetry);
        services.push(Service::spawn("event-ingest", event_ingest, |shutdown| {
            chatfn_event_ingest::run(config, event_ingest_listener, shutdown)
        }));
        let egress = args.egress_allow_cidr.iter().map(|range| ("--egress-allow-cidr", range.as_str()));
        let options = [("--registry", registry_url.as_str()), ("--cache-dir", cache.as_str())];
        let flags: Vec<_> = egress.chain(options).collect();
        let mut config: chatfn_invoker::Config =
            configure(&flags, &certs.flags(chatfn_rpc::Service::Invoker))?;
        config.endpoint = at(args.invoker_telemetry);
        services.push(Service::spawn("invoker", invoker, |shutdown| {
            // Not confined: this process starts and stops Postgres.
            chatfn_invoker::run(config, invoker_listener, shutdown)
        }));
        let secret_keys = secret_keys_file(&args.data_dir)?.display().to_string();
        let flags = [
            ("--database-url", url.as_str()),
            ("--invoker", &invoker_url),
            ("--secret-keys-file", &secret_keys),
        ];
        let mut config: chatfn_registry::Config =
            configure(&flags, &certs.flags(chatfn_rpc::Service::Registry))?;
        config.endpoint = at(args.registry_telemetry);
        services.push(Service::spawn("registry", registry, |shutdown| {
            chatfn_registry::run(config, registry_listener, shutdown)
        }));

        let cluster = Self { registry, invoker, event_ingest, services, database, certs };
        let serving = async {
            for service in &cluster.services {
                service.serving(&cluster.certs).await?;
            }
            Ok(())
        };
        match serving.await {
            Ok(()) => Ok(cluster),
            // A service that has ended says why when it is stopped.
            Err(late) => Err(cluster.stop().await.err().unwrap_or(late)),
        }
    }

    /// A client of the service at `address`. It does not say who calls.
    pub fn client(&self, address: SocketAddr) -> anyhow::Result<Client> {
        self.certs.client(address)
    }

    /// Waits until `stop` is cancelled or a service ends by itself, which is an error.
    pub async fn until(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let ended = async {
            loop {
                if let Some(service) = self.services.iter().find(|service| service.task.is_finished()) {
                    return service.name;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        match stop.run_until_cancelled(ended).await {
            Some(name) => Err(anyhow!("{name} ended by itself")),
            None => Ok(()),
        }
    }

    /// Drains and stops everything: first what takes work in, last the database.
    pub async fn stop(self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for service in self.services {
            outcome = outcome.and(service.stop().await);
        }
        outcome.and(self.database.close().await)
    }
}

async fn listen(service: &str, address: SocketAddr) -> anyhow::Result<(SocketAddr, TcpListener)> {
    let variable = service.to_uppercase().replace('-', "_");
    let listener = bind(address, &SecurityConfig::default()).await.with_context(|| {
        format!("{service} cannot listen; choose another address with CHATFN_{variable}_LISTEN")
    })?;
    Ok((listener.local_addr()?, listener))
}

/// On this machine, for this machine.
fn at(listen: Listen) -> EndpointArgs {
    EndpointArgs { telemetry_listen: Some(listen), telemetry_expose: false }
}

/// A service's configuration, by its own flags.
fn configure<C: Parser>(flags: &[(&str, &str)], identity: &[String]) -> anyhow::Result<C> {
    let flags = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
    let identity = identity.iter().map(String::as_str);
    Ok(C::try_parse_from([env!("CARGO_PKG_NAME")].into_iter().chain(flags).chain(identity))?)
}

/// A service that runs as a task of this process.
struct Service {
    name: &'static str,
    address: SocketAddr,
    shutdown: Shutdown,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    fn spawn<F>(name: &'static str, address: SocketAddr, run: impl FnOnce(Shutdown) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = Shutdown::new();
        let task = tokio::spawn(run(shutdown.clone()));
        Self { name, address, shutdown, task }
    }

    /// Waits until the service reports SERVING.
    async fn serving(&self, certs: &Certs) -> anyhow::Result<()> {
        let mut health = HealthClient::new(certs.client(self.address)?);
        let serving = async {
            loop {
                if self.task.is_finished() {
                    return Err(anyhow!("{} ended while starting", self.name));
                }
                let answer = health.check(HealthCheckRequest::default()).await;
                if answer.is_ok_and(|answer| answer.get_ref().status() == ServingStatus::Serving) {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match timeout(READY_WAIT, serving).await {
            Ok(outcome) => outcome,
            Err(_) => Err(anyhow!("{} does not serve after {READY_WAIT:?}; its log says why", self.name)),
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.begin();
        self.task.await.with_context(|| format!("{} panicked", self.name))?.with_context(|| self.name)
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, invoker, event_ingest, .. } = self;
        write!(f, "Cluster {{ registry: {registry}, invoker: {invoker}, event_ingest: {event_ingest} }}")
    }
}
