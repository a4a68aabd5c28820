//! The control plane: templates, functions, versions, and what is live.
//!
//! Promises:
//!
//! * an account has at most one function per template, because a constraint of the database says so;
//! * a version never changes; a version number never means two different things, even when a function is
//!   deleted and created again;
//! * what cannot be built is never live, and a deploy that fails leaves the live version live;
//! * a change that is asked for again with the same `request_id` is made once, and every change has an entry in the
//!   audit: both are written by the transaction that makes it;
//! * whoever watches the deployments misses no change, whichever replica of the registry made it, and holds
//!   nobody else up;
//! * the value of a secret rests encrypted, is in no log and no answer to an admin, and is given to invokers alone;
//! * code of a function never runs here: an invoker is asked to prepare it.
//!
//! Where to start reading: [`run`] puts the service together; `grpc/function.rs` has the methods,
//! `functions.rs`, `deploy.rs` and `secrets/` what they do, `mutation.rs` what all changes have in common, `store/` all
//! SQL. `hub/` and `grpc/watch/` bring changes to the watchers. The templates are data files in `templates/` and in a
//! folder of the operator's, read by [`catalogue`].

mod audit;
mod build_error;
pub mod catalogue;
mod cli;
mod config;
mod deploy;
mod draft;
mod error;
mod functions;
mod grpc;
mod hub;
mod metrics;
mod mutation;
mod page;
mod permission;
mod prepare;
mod retention;
mod secrets;
mod store;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use chatfn_pg::{Background, PoolConfig, budget};
use chatfn_proto::registry::v1::{
    audit_service_server::{self, AuditServiceServer},
    deployment_watch_service_server::DeploymentWatchServiceServer,
    function_service_server::{self, FunctionServiceServer},
    secret_access_service_server::{self, SecretAccessServiceServer},
    secret_service_server::{self, SecretServiceServer},
    template_service_server::TemplateServiceServer,
};
use chatfn_rpc::{
    ClientConfig, ClientMetrics, MAX_MESSAGE_BYTES, MethodPolicy, Security, Server, Service, Shutdown,
    TaskGroup,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{
    catalogue::Catalogue,
    functions::Registry,
    grpc::{
        AuditHandler, FunctionHandler, SecretAccessHandler, SecretHandler, TemplateHandler, WatchHandler,
    },
    hub::Hub,
    metrics::RegistryMetrics,
    prepare::Invoker,
    retention::Retention,
    secrets::Secrets,
    store::deployments,
};
pub use self::{
    cli::{Cli, Command},
    config::{Config, SecretsConfig},
    metrics::METRICS,
};

/// Where metrics are served, unless the settings say otherwise.
const METRICS_PORT: u16 = 9090;
/// How long background tasks and connections have to end after the last call.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the registry on `listener` until `shutdown` begins, then drains.
///
/// Health says SERVING once the schema is known to be current and what is live has been read. Not cancel
/// safe: begin the shutdown instead of dropping the future.
///
/// # Errors
/// The settings are wrong, the database cannot be reached or has another schema than this release needs, or a
/// background task failed. Each says what to do.
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    // Until the very end.
    let telemetry = config.endpoint.start("registry", env!("CARGO_PKG_VERSION"), METRICS_PORT).await?;
    let metrics = RegistryMetrics::new(telemetry.metrics());
    let traces = config.traces.start("registry", env!("CARGO_PKG_VERSION"))?;
    let catalogue = Arc::new(Catalogue::load(config.templates.as_deref())?);
    // Until the last call is over, not only until the shutdown begins.
    let following = CancellationToken::new();
    let _stop_following = following.clone().drop_guard();
    let security = Security::start(&config.security, Service::Registry, &following)?;
    let clients = ClientMetrics::new(telemetry.metrics());
    let invoker = ClientConfig::secured(config.invoker, &security).counted(clients.of("invoker"));
    let invoker = chatfn_rpc::connect(invoker).context("--invoker")?;

    let db = chatfn_pg::connect(&config.database).await?;
    let background = Background::new(db.clone(), &config.database);
    chatfn_pg::migrate::require_current(&background).await?;
    // One of the connections for watches listens.
    let watching = for_watches(&config.database, "watch", config.watch_connections - 1);
    let watch_db = Background::new(chatfn_pg::connect(&watching).await?, &watching);
    let seen = watch_db
        .ask(deployments::revision(watch_db.pool()))
        .await
        .context("the deployments cannot be read")?;

    let pools = [("calls", db.clone()), ("watches", watch_db.pool().clone())];
    chatfn_pg::metrics::observe(telemetry.metrics(), pools);
    let hub = Arc::new(Hub::new(config.watch_backlog.try_into()?));
    RegistryMetrics::watch(telemetry.metrics(), &hub);
    let tasks = TaskGroup::new("registry", &shutdown);
    tasks.spawn("follow", |stop| hub::follow(Arc::clone(&hub), watch_db.pool().clone(), seen, stop));
    let listening = for_watches(&config.database, "listen", 1);
    tasks.spawn("listen", |stop| hub::listen(Arc::clone(&hub), listening, stop));

    let retention = Retention {
        requests: Duration::from_secs(u64::from(config.request_retention_hours) * 3_600),
        audit: Duration::from_secs(u64::from(config.audit_retention_days) * 86_400),
    };
    tasks.spawn("retention", |stop| retention.keep(background.clone(), stop));

    let serves_secret_access = config.secrets.serve_secret_access;
    let secrets = Secrets::start(config.secrets, &background, &tasks)?;

    let watch = WatchHandler {
        catalogue: Arc::clone(&catalogue),
        db: watch_db.clone(),
        hub: Arc::clone(&hub),
        stall: config.watch_stall,
        metrics: metrics.clone(),
    };
    let registry =
        Registry { catalogue, db: db.clone(), hub, invoker: Invoker::new(invoker), metrics: metrics.clone() };
    let mut server = Server::builder(config.rpc)
        .metrics(telemetry.metrics())
        .security(security)
        .traces(traces.clone())
        .service(
            TemplateServiceServer::new(TemplateHandler(registry.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .service(
            FunctionServiceServer::new(FunctionHandler(registry))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .service(
            DeploymentWatchServiceServer::new(watch)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .service(
            SecretServiceServer::new(SecretHandler(secrets.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .service(
            AuditServiceServer::new(AuditHandler(db.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .policy(
            "chatfn.registry.v1.DeploymentWatchService/WatchDeployments",
            // A replica that cannot watch goes stale.
            MethodPolicy::long_lived().with_reserve().ended_on_drain(),
        )
        .handlers_within(function_service_server::SERVICE_NAME, budget::within)
        .handlers_within(secret_service_server::SERVICE_NAME, budget::within)
        .handlers_within(audit_service_server::SERVICE_NAME, budget::within)
        .descriptors(chatfn_proto::FILE_DESCRIPTOR_SET);
    if serves_secret_access {
        server = server.handlers_within(secret_access_service_server::SERVICE_NAME, budget::within).service(
            SecretAccessServiceServer::new(SecretAccessHandler { secrets, metrics })
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        );
    }
    let server = server.build().await?;
    let health = server.health();
    health.set_ready().await;
    telemetry.ready_when(move || health.is_ready());
    shutdown.unless_forced(server.serve(listener, shutdown.soft())).await?;

    let stopped = tasks.stop(GRACE).await;
    // Polite, but not worth waiting for: Postgres notices closed sockets by itself.
    let _ = tokio::time::timeout(GRACE, async { tokio::join!(db.close(), watch_db.pool().close()) }).await;
    traces.finish().await;
    Ok(stopped?)
}

/// Apart from the calls, which a crowd of watchers must not shut out.
fn for_watches(config: &PoolConfig, purpose: &str, max_connections: u32) -> PoolConfig {
    PoolConfig {
        max_connections,
        application_name: format!("{}-{purpose}", config.application_name),
        ..config.clone()
    }
}
