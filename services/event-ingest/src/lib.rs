//! Records chat events durably and delivers each in conversation order.
//!
//! Promises:
//!
//! * **An acknowledged event is never lost.** The acknowledgement comes after the commit, and the commit
//!   does not depend on the call that asked for it (`committer/`).
//! * **It runs in conversation order.** Its place is given under a lock that is held until the commit; events of
//!   a conversation run one after another, and one that waits for another attempt makes its own
//!   conversation wait and no other (`dispatch/queue/`).
//! * **It ends in exactly one outcome.** The primary key of `ingest.outcomes` says so. An attempt is counted
//!   durably before it runs, so that an event that kills the process still runs out of attempts. After the last one the
//!   event is a dead letter, or its conversation halts, as its function says.
//! * **Operators decide, lanes act.** What an operator asks for (resume, skip, replay) is a row that the lane's owner acts
//!   on, fenced like all that it writes, and recorded with who asked (`dispatch/lane/operators.rs`). A replay takes an
//!   outcome back into `ingest.superseded`; the event ends in one outcome again.
//! * **A dependency that is down is not stormed.** Retries are paid for by first attempts; what cannot be paid for waits,
//!   and says so (`dispatch/budget.rs`).
//! * **One process at a time runs a lane.** Every write carries the lane's owner and epoch and takes effect only
//!   if both still hold; a process that cannot renew its lease stops before another may start (`lanes/`).
//!   A run's deadline lies within the lease, which is made longer for it if need be.
//!
//! # How progress is stored
//!
//! `events` only grows: a lane's owner reads on from the last sequence number it saw, and never updates a row to
//! say how far it is. What its own process has just recorded it takes from there (`dispatch/recent.rs`), when that comes
//! next. Outcomes are rows of their own. What remains to do after a take-over is everything after the lane's
//! `cursor` that has no outcome, plus the conversations in `parked`: those wait for another attempt or for an operator, and
//! the cursor passes them. The cursor is only a hint where to start, written along with outcomes, and it may move back; its
//! one rule (`dispatch/queue/` states it, and a property test checks it over random take-overs) is that
//! every unfinished event before it belongs to a parked conversation. The alternative, a state column on the
//! event with a partial index over what is unfinished, is simpler to query and costs two more versions of
//! each event's row and of all its index entries.
//!
//! # Where to start reading
//!
//! [`run`] puts the parts together. The way of an event: `grpc/publish.rs` or `grpc/stream.rs` → `publisher.rs` (quota) → `intake/` (checks) →
//! `earlier.rs` (was it recorded days ago?) → `committer/` (records) → `dispatch/lane/` (runs) → `dispatch/decide.rs` (what follows) →
//! `dispatch/journal.rs` (records that) → `grpc/delivery.rs` (tells). A replay: `grpc/replay.rs` → `replays.rs` → the
//! lanes. All SQL is in `store/`, but for the function that records events (`migrations/0017_record_events_in_rising_time.sql`); the tables with
//! their reasons are in `migrations/0002_ingest.sql` and `migrations/0006_operators.sql`.

mod cli;
mod committer;
mod config;
mod dispatch;
mod earlier;
mod error;
mod event;
mod failpoint;
mod grpc;
mod headers;
mod intake;
mod lanes;
mod ledger;
mod metrics;
mod publisher;
mod quota;
mod replays;
mod retention;
mod store;
#[cfg(test)]
mod testing;

use std::{convert::Infallible, time::Duration};

use anyhow::Context as _;
use chatfn_deployments::{Deployments, WatchConfig};
use chatfn_pg::{Background, PoolConfig, budget};
use chatfn_proto::ingest::v1::{
    delivery_service_server::{self, DeliveryServiceServer},
    event_ingest_service_server::EventIngestServiceServer,
    replay_service_server::{self, ReplayServiceServer},
};
use chatfn_rpc::{
    ClientConfig, ClientMetrics, Health, MAX_MESSAGE_BYTES, MethodPolicy, Security, Server, Service,
    Shutdown, TaskGroup,
};
use chatfn_telemetry::{Endpoint, EndpointError, Metrics};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::{
    cli::{Cli, Command},
    config::{CommitterConfig, Config, ConfigError, DispatchConfig, RetentionConfig, StreamConfig},
    metrics::METRICS,
    quota::{QuotaConfig, QuotaError},
};
use self::{
    committer::Committers,
    dispatch::{Gate, Heads, Interventions, Invoker, Journal, Notices, RetryBudgets, Shared},
    earlier::{Known, LOOKS, Looks},
    grpc::{DeliveryHandler, PublishHandler, ReplayHandler, Tails},
    intake::Intake,
    lanes::{LeaseTerms, Manager},
    metrics::IngestMetrics,
    publisher::Publisher,
    quota::Quotas,
    store::{Session, Sessions, events::DedupeDays},
};

/// Where metrics are served, unless the settings say otherwise.
const METRICS_PORT: u16 = 9092;
/// How long tasks have to empty their queues after the last call and the last run.
const FLUSH_GRACE: Duration = Duration::from_secs(5);
/// How long connections to Postgres have to be closed.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// The name under which it watches what is live.
const WATCHER: &str = "event-ingest";
/// Whether it watches the sources, too.
const WATCHES_SOURCE: bool = false;

/// Serves event-ingest on `listener` until `shutdown` begins, then drains: health says NOT_SERVING, no new
/// lane is taken, runs in progress end (for at most `drain_runs`), what they came to is recorded, and
/// leases are released.
///
/// Health says SERVING once what is live is known, from the registry or, when that cannot be reached, from the snapshot
/// file, and lanes can be held. Not cancel safe: begin the
/// shutdown instead of dropping the future.
///
/// # Errors
/// The settings are wrong, the database cannot be reached or has another schema than this release needs, or a
/// background task failed. Each says what to do.
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let following = CancellationToken::new();
    let _stop_following = following.clone().drop_guard();
    let security = Security::start(&config.security, Service::EventIngest, &following)?;
    let telemetry = Telemetry::start(&config).await?;
    let registry = ClientConfig::secured(config.registry.clone(), &security);
    let registry = registry.counted(telemetry.clients.of("registry"));
    let watch = WatchConfig {
        registry: chatfn_rpc::connect(registry).context("--registry")?,
        watcher: WATCHER,
        include_source: WATCHES_SOURCE,
        snapshot: config.snapshot.file(true),
    };
    let deployments = Deployments::spawn(watch, shutdown.soft());
    serve(config, security, deployments, telemetry, listener, shutdown).await
}

/// As [`run`], with what is live given by the caller, who may not need a registry, and for anonymous callers.
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
    serve(config, Security::none(), deployments, telemetry, listener, shutdown).await
}

/// What the process tells of itself.
struct Telemetry {
    endpoint: Endpoint,
    clients: ClientMetrics,
}

impl Telemetry {
    async fn start(config: &Config) -> Result<Self, EndpointError> {
        let endpoint = config.endpoint.start("event-ingest", env!("CARGO_PKG_VERSION"), METRICS_PORT).await?;
        Ok(Self { clients: ClientMetrics::new(endpoint.metrics()), endpoint })
    }
}

async fn serve(
    config: Config,
    security: Security,
    deployments: Deployments,
    // Told until the very end.
    Telemetry { endpoint, clients }: Telemetry,
    listener: TcpListener,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    config.validate()?;
    let metrics = IngestMetrics::new(endpoint.metrics());
    deployments.observe(endpoint.metrics());
    let traces = config.traces.start("event-ingest", env!("CARGO_PKG_VERSION"))?;
    let quotas = Quotas::new(config.quotas.load()?);
    let invoker = ClientConfig::secured(config.invoker.clone(), &security).counted(clients.of("invoker"));
    let invoker = chatfn_rpc::connect(invoker).context("--invoker")?;
    let pools = Pools::connect(&config).await?;
    pools.observe(endpoint.metrics());
    let replica = Uuid::now_v7();
    let (heads, interventions) = (Heads::new(), Interventions::new());

    // Stopped one after the other, each when nothing can reach it any more.
    let commit_tasks = TaskGroup::new("committers", &shutdown);
    let lane_tasks = TaskGroup::new("lanes", &shutdown);
    let journal_tasks = TaskGroup::new("journal", &shutdown);

    let dedupe = DedupeDays(config.retention.dedupe_days);
    let committers =
        Committers::spawn(&config.committers, dedupe, &pools.commit, &heads, &metrics, &commit_tasks);
    let queue = committers.clone();
    IngestMetrics::observe_queue(endpoint.metrics(), config.committers.queue, move || queue.in_use());
    let shared = Shared {
        reads: pools.read.clone(),
        deployments: deployments.clone(),
        invoker: Invoker::new(invoker, traces.clone()),
        gate: Gate::spawn(config.dispatch.max_runs, &lane_tasks),
        budgets: RetryBudgets::default(),
        journal: Journal::spawn(
            config.dispatch.journal_writers,
            replica,
            &pools.journal,
            &metrics,
            &journal_tasks,
        ),
        heads: heads.clone(),
        interventions: interventions.clone(),
        notices: Notices::new(),
        metrics: metrics.clone(),
    };
    let terms = LeaseTerms::new(config.dispatch.lease_ttl);
    let manager = Manager::new(replica, terms, pools.lease.clone(), shared);
    let works = manager.works();
    let (draining, grace) = (shutdown.soft(), config.dispatch.drain_runs);
    // Begins to drain together with the server, not after it.
    lane_tasks.spawn("manager", |_| manager.run(draining, grace));
    let (poll_heads, reads) = (heads.clone(), pools.read.clone());
    lane_tasks.spawn("heads", |stop| async move {
        poll_heads.poll(reads, stop).await;
        Ok::<_, Infallible>(())
    });
    let (poll_asked, reads) = (interventions.clone(), pools.read.clone());
    lane_tasks.spawn("interventions", |stop| async move {
        poll_asked.poll(reads, stop).await;
        Ok::<_, Infallible>(())
    });
    let served = Background::new(pools.serve.clone(), &config.database);
    let (asked, replays) = (interventions.clone(), served.clone());
    lane_tasks.spawn("replays", |stop| async move {
        replays::run(replays, asked, stop).await;
        Ok::<_, Infallible>(())
    });

    let intake = Intake::new(deployments.clone());
    let (retention, days, known) = (config.retention.clone(), pools.days.clone(), Known::default());
    let looks = Looks::new(pools.look.clone(), known.clone(), &retention);
    lane_tasks.spawn("retention", |stop| retention::run(retention, days, known, metrics.clone(), stop));
    lane_tasks.spawn("ledger", |stop| ledger::run(metrics.clone(), served.clone(), stop));
    let publisher = Publisher::new(intake, quotas, committers, config.rpc.max_calls, looks, metrics);
    let publish = PublishHandler { publisher, streams: config.streams, draining: shutdown.soft() };
    let deliver = DeliveryHandler { pool: pools.serve.clone(), interventions, tails: Tails::new(served) };
    let replay = ReplayHandler { pool: pools.serve.clone() };
    let server = Server::builder(config.rpc)
        .metrics(endpoint.metrics())
        .security(security)
        .traces(traces.clone())
        .service(
            EventIngestServiceServer::new(publish)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .service(
            DeliveryServiceServer::new(deliver)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .service(
            ReplayServiceServer::new(replay)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .policy(
            "chatfn.ingest.v1.DeliveryService/TailDeliveries",
            MethodPolicy::long_lived().ended_on_drain(),
        )
        // Publishers who are too many must not keep operators out.
        .policy("chatfn.ingest.v1.DeliveryService", MethodPolicy::standard().with_reserve())
        .policy("chatfn.ingest.v1.ReplayService", MethodPolicy::standard().with_reserve())
        // Ends by itself when the drain begins, after its last answer.
        .policy("chatfn.ingest.v1.EventIngestService/StreamEvents", MethodPolicy::long_lived())
        .handlers_within(delivery_service_server::SERVICE_NAME, budget::within)
        .handlers_within(replay_service_server::SERVICE_NAME, budget::within)
        .descriptors(chatfn_proto::FILE_DESCRIPTOR_SET)
        .build()
        .await?;
    let health = server.health();
    endpoint.ready_when(move || health.is_ready());
    let become_ready = become_ready(server.health(), deployments, works);
    let not_yet = shutdown.soft();
    tokio::spawn(async move { not_yet.run_until_cancelled(become_ready).await });
    shutdown.unless_forced(server.serve(listener, shutdown.soft())).await?;

    let committed = commit_tasks.stop(FLUSH_GRACE).await;
    let drained = lane_tasks.stop(grace + FLUSH_GRACE).await;
    let recorded = journal_tasks.stop(FLUSH_GRACE).await;
    pools.close().await;
    traces.finish().await;
    committed.and(drained).and(recorded)?;
    Ok(())
}

async fn become_ready(
    health: Health,
    deployments: Deployments,
    mut works: tokio::sync::watch::Receiver<bool>,
) {
    deployments.ready().await;
    if works.wait_for(|works| *works).await.is_ok() {
        health.set_ready().await;
    }
}

/// Pools apart, so that a flood of reads delays neither acknowledgements nor the renewal of leases.
struct Pools {
    commit: Sessions,
    journal: Sessions,
    /// Leases alone. One connection is enough, and the other there for when it dies.
    lease: PgPool,
    /// Partitions.
    days: Background,
    /// What lanes read, and what tells them that there is something to read.
    read: Background,
    /// What is asked about events that may have been recorded days ago: those who publish them wait for each other only.
    look: PgPool,
    /// What callers read, and what goes on by itself with nobody in a hurry.
    serve: PgPool,
}

impl Pools {
    async fn connect(config: &Config) -> anyhow::Result<Self> {
        let database = &short_locks(&config.database, config.dispatch.lease_ttl);
        let serve = with_session(chatfn_pg::connect(database).await?);
        chatfn_pg::migrate::require_current(&Background::new(serve.clone(), database)).await?;
        Ok(Self {
            commit: sessions(database, "commit", config.committers.committers).await?,
            journal: sessions(database, "journal", config.dispatch.journal_writers).await?,
            lease: pool(database, "lease", 2).await?,
            days: background(&days_config(database), "days", 1).await?,
            read: background(database, "read", database.max_connections).await?,
            look: pool(database, "look", LOOKS).await?,
            serve,
        })
    }

    fn observe(&self, metrics: &Metrics) {
        let pools = [
            ("commit", self.commit.pool()),
            ("journal", self.journal.pool()),
            ("lease", &self.lease),
            ("days", self.days.pool()),
            ("read", self.read.pool()),
            ("look", &self.look),
            ("serve", &self.serve),
        ];
        chatfn_pg::metrics::observe(metrics, pools.map(|(name, pool)| (name, pool.clone())));
    }

    /// Polite, but not worth waiting for: Postgres notices closed sockets by itself.
    async fn close(self) {
        let all = async {
            tokio::join!(
                self.commit.pool().close(),
                self.journal.pool().close(),
                self.lease.close(),
                self.days.pool().close(),
                self.read.pool().close(),
                self.look.close(),
                self.serve.close()
            )
        };
        let _ = tokio::time::timeout(CLOSE_GRACE, all).await;
    }
}

/// A replica that is halted in the middle of a transaction keeps locks: on heads of lanes, which publications to every replica
/// need, and on its lanes, which others are to take over when its lease ends. So its session ends before the lease does.
fn short_locks(config: &PoolConfig, lease: Duration) -> PoolConfig {
    let idle = config.idle_in_transaction_session_timeout.min(lease / 2);
    PoolConfig { idle_in_transaction_session_timeout: idle, ..config.clone() }
}

/// Looking through an old day takes longer than anything else; and whoever waits for a lock on a table holds everybody up.
fn days_config(config: &PoolConfig) -> PoolConfig {
    PoolConfig {
        statement_timeout: config.statement_timeout.max(Duration::from_secs(60)),
        lock_timeout: config.lock_timeout.min(Duration::from_millis(500)),
        ..config.clone()
    }
}

async fn pool(config: &PoolConfig, purpose: &str, max_connections: u32) -> anyhow::Result<PgPool> {
    let config = PoolConfig {
        max_connections,
        application_name: format!("{}-{purpose}", config.application_name),
        ..config.clone()
    };
    Ok(with_session(chatfn_pg::connect(&config).await?))
}

/// For what nobody's deadline bounds.
async fn background(config: &PoolConfig, purpose: &str, max_connections: u32) -> anyhow::Result<Background> {
    Ok(Background::new(pool(config, purpose, max_connections).await?, config))
}

/// For `count` tasks that write all the time.
async fn sessions(config: &PoolConfig, purpose: &str, count: usize) -> anyhow::Result<Sessions> {
    let connections = count.saturating_mul(Session::CONNECTIONS);
    let pool = pool(config, purpose, u32::try_from(connections).unwrap_or(u32::MAX)).await?;
    // They insert, and look up by key: to plan that anew for the values that it gets takes longer than to carry it out, and finds
    // nothing better.
    let options =
        pool.connect_options().as_ref().clone().options([("plan_cache_mode", "force_generic_plan")]);
    pool.set_connect_options(options);
    Ok(Sessions::new(pool, config))
}

/// Gives the connections of `pool` the settings that all statements of this service rely on.
fn with_session(pool: PgPool) -> PgPool {
    let options = pool.connect_options().as_ref().clone().options([
        // An acknowledgement is a promise, whatever the server's own setting is.
        ("synchronous_commit", "on"),
        // Every statement on a table that grows looks rows up by key. A plan that was made, and is kept, while the
        // table was small must not read it from end to end when it is large.
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        // Nor may it keep to an index that was as good as any while a day's partition was empty.
        ("plan_cache_mode", "force_custom_plan"),
        // A plan without any other choice counts as endlessly costly then, so Postgres would compile it each time: half a second
        // for what takes less than a millisecond.
        ("jit", "off"),
    ]);
    pool.set_connect_options(options);
    pool
}
