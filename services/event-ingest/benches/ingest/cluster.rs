//! event-ingest with a Postgres and an invoker of its own.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chatfn_deployments::{Deployment, Deployments, Template};
use chatfn_domain::{
    name::{FunctionName, VersionNumber},
    settings::FunctionSettings,
};
use chatfn_event_ingest::Config;
use chatfn_pg::{
    DatabaseUrl, PoolConfig,
    migrate::{self, MIGRATIONS, RunOptions},
    private::{Durability, PrivateOptions, PrivatePostgres},
};
use chatfn_proto::invoker::v1::{
    InvokeRequest, InvokeResponse, PrepareRequest, PrepareResponse, RunReport, TestInvokeRequest,
    TestInvokeResponse,
    invoker_service_server::{InvokerService, InvokerServiceServer},
    run_report::Outcome,
};
use chatfn_rpc::{Client, ClientConfig, Server, ServerConfig, Shutdown};
use chatfn_telemetry::EndpointArgs;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

pub(crate) const ACCOUNT: &str = "acme";
/// An account with a quota of one event per second.
pub(crate) const POOR: &str = "poor";
pub(crate) const TEMPLATE: &str = "chat.message";

/// Longest time of any call: Postgres may be away.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    postgres: Option<PrivatePostgres>,
    dir: PathBuf,
    port: u16,
    pool: PgPool,
    pub(crate) client: Client,
    pub(crate) invoker: FakeInvoker,
    _shutdown: Shutdown,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("chatfn-bench-{}", std::process::id()));
        let postgres = start_postgres(dir.clone(), None).await;
        let (port, url) = (postgres.port(), postgres.url("chatfn"));
        postgres.ensure_database("chatfn").await.expect("a database");
        migrate::run(&url, &MIGRATIONS, RunOptions::default()).await.expect("the schema");
        let pool = chatfn_pg::connect(&PoolConfig {
            statement_timeout: Duration::from_secs(3600),
            ..PoolConfig::new(url.clone())
        })
        .await
        .expect("a pool");

        let shutdown = Shutdown::new();
        let invoker = FakeInvoker::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut config = Config::new(PoolConfig::new(url));
        config.endpoint = EndpointArgs::OFF;
        config.invoker =
            format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URI");
        let server = Server::builder(ServerConfig::default())
            .service(InvokerServiceServer::new(invoker.clone()))
            .build()
            .await
            .expect("a server");
        tokio::spawn(server.serve(listener, shutdown.soft()));

        config.quotas.events_per_second = u32::MAX;
        config.quotas.kib_per_second = u32::MAX;
        let quotas = dir.with_extension("quotas");
        std::fs::write(&quotas, format!(r#"{{"{POOR}": {{"events_per_second": 1}}}}"#)).expect("a file");
        config.quotas.file = Some(quotas);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(chatfn_event_ingest::run_with(config, deployments(), listener, shutdown.clone()));
        let client = chatfn_rpc::connect(ClientConfig {
            default_timeout: PATIENCE,
            ..ClientConfig::new(format!("http://{address}").parse().expect("a URI"))
        })
        .expect("a client");
        Self { postgres: Some(postgres), dir, port, pool, client, invoker, _shutdown: shutdown }
    }

    pub(crate) fn url(&self) -> DatabaseUrl {
        self.postgres.as_ref().expect("it runs").url("chatfn")
    }

    /// Gives all lanes to nobody who would run them, so that nothing is delivered.
    pub(crate) async fn hold_lanes(&self) {
        self.execute(
            "UPDATE ingest.lanes SET owner = gen_random_uuid(), epoch = epoch + 1, lease_until = now() + interval '1 day'",
        )
        .await;
    }

    pub(crate) async fn release_lanes(&self) {
        self.execute("UPDATE ingest.lanes SET owner = NULL, lease_until = NULL, epoch = epoch + 1").await;
    }

    /// Waits until every event has its outcome.
    pub(crate) async fn until_done(&self) {
        let undone = "SELECT (SELECT count(*) FROM ingest.events) - (SELECT count(*) FROM ingest.outcomes)";
        while sqlx::query_scalar::<_, i64>(undone).fetch_one(&self.pool).await.expect("a count") > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stores events that are done, beside those that there are, and gives how many there are then.
    pub(crate) async fn store(&self, count: u64) -> i64 {
        const PART: u64 = 100_000;
        for part in 0..count.div_ceil(PART) {
            let (from, to) = (part * PART, ((part + 1) * PART).min(count));
            // Numbers that no lane gives today: the second half of the day's.
            sqlx::query(
                "WITH added AS (
                     INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
                     SELECT n % 64, d.first_sequence + (1::bigint << 31) + n, 'acme', 'old' || n, 'chat.message', 'old' || n / 4, $3,
                            sha256($3)
                     FROM generate_series($1::bigint, $2 - 1) n,
                          (SELECT max(first_sequence) AS first_sequence FROM ingest.days WHERE open_time IS NOT NULL) d
                     RETURNING lane, sequence, account, accept_time
                 ), decided AS (
                     INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
                     SELECT lane, sequence, 3, 1, account, accept_time FROM added
                 )
                 INSERT INTO ingest.attempts (lane, sequence, number, epoch, finish_time)
                 SELECT lane, sequence, 1, 1, now() FROM added",
            )
            .bind(from as i64)
            .bind(to as i64)
            .bind(crate::measure::PAYLOAD.as_bytes())
            .execute(&self.pool)
            .await
            .expect("rows");
            eprintln!("stored {to} of {count}");
        }
        self.execute("CHECKPOINT").await;
        sqlx::query_scalar("SELECT count(*) FROM ingest.events").fetch_one(&self.pool).await.expect("a count")
    }

    async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&self.pool).await.expect("a statement");
    }

    /// Kills Postgres, all of it, without a chance to write anything.
    pub(crate) fn kill_postgres(&mut self) {
        let file = std::fs::read_to_string(self.dir.join("postmaster.pid"))
            .or_else(|_| std::fs::read_to_string(self.dir.join("data/postmaster.pid")))
            .expect("the postmaster's file");
        let pid = file.lines().next().expect("a pid").to_owned();
        let killed = std::process::Command::new("kill").args(["-9", &pid]).status().expect("kill runs");
        assert!(killed.success());
        drop(self.postgres.take());
    }

    pub(crate) async fn restart_postgres(&mut self) {
        self.postgres = Some(start_postgres(self.dir.clone(), Some(self.port)).await);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.postgres.take());
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_file(self.dir.with_extension("quotas"));
    }
}

async fn start_postgres(dir: PathBuf, port: Option<u16>) -> PrivatePostgres {
    let options = PrivateOptions { dir: Some(dir), port, durability: Durability::Durable };
    PrivatePostgres::start(options).await.expect("a Postgres")
}

fn deployments() -> Deployments {
    let function = Deployment {
        function: FunctionName {
            account: ACCOUNT.parse().expect("an account"),
            template: TEMPLATE.parse().expect("a template"),
        },
        version: VersionNumber::new(1).expect("a version"),
        digest: "0".repeat(64),
        settings: FunctionSettings::default(),
        source: "".into(),
    };
    let template = Template {
        name: TEMPLATE.parse().expect("a template"),
        payload_schema_json: r#"{"type": "object", "required": ["chatSessionKey"]}"#.to_owned(),
        sample_payload_json: "{}".to_owned(),
        fires_once: false,
    };
    Deployments::fixed([function], [template])
}

/// Answers at once, and remembers when it was asked.
#[derive(Clone, Default)]
pub(crate) struct FakeInvoker {
    /// Whether starts are remembered.
    pub(crate) remembers: Arc<AtomicBool>,
    pub(crate) starts: Arc<Mutex<HashMap<String, Instant>>>,
    pub(crate) runs: Arc<AtomicU64>,
}

#[tonic::async_trait]
impl InvokerService for FakeInvoker {
    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        if self.remembers.load(Ordering::Relaxed)
            && let Some(event) = request.into_inner().event
        {
            self.starts.lock().expect("not poisoned").entry(event.event_id).or_insert_with(Instant::now);
        }
        self.runs.fetch_add(1, Ordering::Relaxed);
        let outcome = Some(Outcome::ResultJson("null".to_owned()));
        let report = Some(RunReport { outcome, version: 1, ..RunReport::default() });
        Ok(Response::new(InvokeResponse { report }))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Err(Status::unimplemented("nothing is deployed"))
    }

    async fn test_invoke(
        &self,
        _: Request<TestInvokeRequest>,
    ) -> Result<Response<TestInvokeResponse>, Status> {
        Err(Status::unimplemented("nothing is tested"))
    }
}
