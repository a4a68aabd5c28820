//! Runs lambdas: each run in a fresh sandbox, never past its deadline.
//!
//! Promises: a run ends before its call's deadline, early enough for the report to arrive, and at once when the
//! caller goes away, with its outbound calls; what is not live or not affordable is refused before any work; a lambda
//! that fails is a report, not an RPC error. Holds nothing that has to survive: what is live is watched from the
//! registry, and keeps being served when that is gone.
//!
//! Start reading at [`run`]; then `invoke.rs` for a call, `run.rs` for one run, `test_invoke.rs` for tests, `functions/` for
//! what is kept ready, `host.rs` for what a lambda may ask for, [`egress`] for what it may reach, `secrets/` and
//! `children.rs` for the rest of its world, the crate `chatfn-engine` for the sandbox, and [`confine`] for what is left if
//! that breaks.

mod background;
mod children;
mod cli;
mod config;
pub mod confine;
mod drafts;
pub mod egress;
mod error;
mod event;
mod functions;
mod grpc;
mod host;
mod invoke;
pub mod keeper;
mod lines;
mod metrics;
mod places;
mod prepare;
mod rate;
mod report;
mod run;
mod secrets;
mod service_url;
mod source;
mod test_invoke;

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chatfn_deployments::{Deployments, Schemas};
use chatfn_engine::Engine;
use chatfn_proto::invoker::v1::invoker_service_server::InvokerServiceServer;
use chatfn_rpc::{
    ClientConfig, ClientMetrics, MAX_MESSAGE_BYTES, Security, Server, Service, Shutdown, TaskGroup, connect,
};
use chatfn_telemetry::{Endpoint, EndpointError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use cli::{Cli, Command};
pub use config::{Config, ConfigError};
pub use metrics::METRICS;
pub use service_url::{ServiceUrl, ServiceUrlError};

use self::{
    children::Children,
    confine::Confinement,
    drafts::Drafts,
    egress::{Egress, SystemResolver},
    functions::{Functions, keep_warm},
    grpc::Handlers,
    invoke::Invoker,
    metrics::InvokerMetrics,
    places::Places,
    prepare::Preparer,
    run::Runner,
    secrets::Secrets,
    test_invoke::{MAX_TESTS, Tester},
};

/// Where metrics are served, unless the settings say otherwise.
const METRICS_PORT: u16 = 9091;
/// How long background tasks may take to stop; none of them has anything to finish.
const TASK_GRACE: Duration = Duration::from_secs(1);

/// Serves on `listener` until `shutdown`, then drains. Reports SERVING once what is live is known: from the registry or,
/// when that cannot be reached, from the snapshot file, if somebody keeps one ([`keeper`]). Confines nothing: the process may do more than this.
///
/// # Errors
/// The settings contradict one another, the engine or the outbound HTTP cannot be set up, or a background task failed.
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    run_confined(config, Confinement::none(), listener, shutdown).await
}

/// As [`run`], in a process that has taken the first step of its confinement. It takes the second when everything is
/// loaded, before any untrusted code runs.
///
/// # Errors
/// As [`run`], or the kernel does not offer the confinement that the settings insist on.
pub async fn run_confined(
    config: Config,
    confinement: Confinement,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    // Watched until the last run is over, not only until the shutdown begins.
    let watching = CancellationToken::new();
    let _stop_watching = watching.clone().drop_guard();
    let security = Security::start(&config.security, Service::Invoker, &watching)?;
    let telemetry = Telemetry::start(&config).await?;
    let registry = ClientConfig::secured(config.registry.clone(), &security);
    let registry = registry.counted(telemetry.clients.of("registry"));
    let deployments = Deployments::spawn(keeper::watch(&config, registry, false)?, watching);
    serve(config, security, confinement, deployments, telemetry, listener, shutdown).await
}

/// As [`run`], with what is live given by the caller, who needs a registry only to test drafts, and for anonymous callers.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    deployments: Deployments,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let telemetry = Telemetry::start(&config).await?;
    serve(config, Security::none(), Confinement::none(), deployments, telemetry, listener, shutdown).await
}

/// What the process tells of itself.
struct Telemetry {
    endpoint: Endpoint,
    clients: ClientMetrics,
}

impl Telemetry {
    /// Before the seal, after which no port can be had.
    async fn start(config: &Config) -> Result<Self, EndpointError> {
        let endpoint = config.endpoint.start("invoker", env!("CARGO_PKG_VERSION"), METRICS_PORT).await?;
        Ok(Self { clients: ClientMetrics::new(endpoint.metrics()), endpoint })
    }
}

async fn serve(
    config: Config,
    security: Security,
    confinement: Confinement,
    deployments: Deployments,
    // Told until the very end.
    Telemetry { endpoint, clients }: Telemetry,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    config.validate()?;
    // Before the seal, like all that has to be reached.
    let traces = config.traces.start("invoker", env!("CARGO_PKG_VERSION"))?;
    let engine = start_engine(&config).await?;
    let resolver = match &config.egress.name_servers[..] {
        [] => SystemResolver::new(),
        servers => SystemResolver::with_name_servers(servers),
    };
    let resolver = resolver.context("cannot set up name resolution")?;
    let metrics = InvokerMetrics::new(endpoint.metrics());
    let egress = Egress::new(&config.egress, Arc::new(resolver)).context("cannot set up outbound HTTP")?;
    let egress = egress.counted(metrics.clone());
    // Everything is read that has to be; from here on untrusted code runs.
    let in_force = confinement.seal()?;
    InvokerMetrics::observe_engine(endpoint.metrics(), &engine, in_force);
    deployments.observe(endpoint.metrics());

    let registry = ClientConfig::secured(config.registry, &security).counted(clients.of("registry"));
    let registry = connect(registry).context("--registry")?;
    let functions =
        Functions::new(engine.clone(), config.prepared_bytes, config.max_prepares, metrics.clone());
    InvokerMetrics::observe_functions(endpoint.metrics(), &functions);
    let places = Places::new("runs", config.max_runs as usize);
    InvokerMetrics::observe_places(endpoint.metrics(), &places);

    let runner = Runner {
        engine: engine.clone(),
        egress: Arc::new(egress),
        secrets: Secrets::new(registry.clone()),
        children: Children::new(deployments.clone(), functions.clone(), config.max_children),
        traces: traces.clone(),
        services: config.lp_base_url.clone(),
        metrics: metrics.clone(),
    };

    let tasks = TaskGroup::new("invoker", &shutdown);
    tasks.spawn("warm", |stop| keep_warm(functions.clone(), deployments.clone(), config.max_prepares, stop));
    let preparer = Arc::new(Preparer::new(engine, config.max_prepares));
    let invoker = Arc::new(Invoker {
        deployments: deployments.clone(),
        functions,
        runner: Arc::new(runner),
        places,
        metrics,
    });
    let tester = Tester {
        tests: Places::new("tests", MAX_TESTS),
        drafts: Drafts::new(registry),
        schemas: Schemas::default(),
        invoker: Arc::clone(&invoker),
        preparer: Arc::clone(&preparer),
    };
    let handlers = Handlers { invoker, preparer, tester };
    let server = Server::builder(config.rpc)
        .metrics(endpoint.metrics())
        .security(security)
        .traces(traces.clone())
        .service(
            InvokerServiceServer::new(handlers)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .descriptors(chatfn_proto::FILE_DESCRIPTOR_SET)
        .build()
        .await?;

    let health = server.health();
    endpoint.ready_when(move || health.is_ready());
    let (health, draining) = (server.health(), shutdown.soft());
    tasks.spawn("readiness", |_| async move {
        if draining.run_until_cancelled(deployments.ready()).await.is_some() {
            health.set_ready().await;
        }
        Ok::<_, Infallible>(())
    });
    shutdown.unless_forced(server.serve(listener, shutdown.soft())).await?;
    let stopped = tasks.stop(TASK_GRACE).await;
    traces.finish().await;
    Ok(stopped?)
}

/// Compiles the engine into the cache folder, unless it is there already, and says so on standard output.
///
/// # Errors
/// There is no folder, or the engine cannot be made or kept.
pub fn compile_engine(config: &Config) -> anyhow::Result<()> {
    let settings = config.engine();
    let dir = settings.cache_dir.clone().context("--cache-dir is not set, and this user has no home")?;
    let engine = Engine::new(settings.clone()).context("cannot compile the engine")?;
    let state = if engine.is_from_cache() { "was in" } else { "is now in" };
    drop(engine);
    // What cannot be kept is no error for a service; here it is the point.
    let kept = Engine::new(settings).context("cannot load what was compiled")?.is_from_cache();
    anyhow::ensure!(kept, "{} does not keep the engine; it must be writable", dir.display());
    println!("the compiled engine {state} {}", dir.display());
    Ok(())
}

/// Loads or compiles the engine, and says which: it decides how long a start takes and how fast runs are.
async fn start_engine(config: &Config) -> anyhow::Result<Engine> {
    let begun = Instant::now();
    let settings = config.engine();
    let engine = tokio::task::spawn_blocking(move || Engine::new(settings))
        .await
        .context("the engine's start was aborted")?
        .context("cannot start the engine")?;
    tracing::info!(
        engine.load_ms = begun.elapsed().as_millis(),
        engine.from_cache = engine.is_from_cache(),
        engine.reset_path = engine.reset_path().as_str(),
        engine.guest_sha256 = chatfn_engine::MADE_OF.guest,
        engine.sources_sha256 = chatfn_engine::MADE_OF.sources,
        "the engine is ready after {:?}",
        begun.elapsed(),
    );
    Ok(engine)
}
