//! event-ingest with a Postgres and an invoker of its own.

use std::{path::PathBuf, time::Duration};

use chatfn_event_ingest::Config;
use chatfn_pg::{
    DatabaseUrl, PoolConfig,
    migrate::{self, MIGRATIONS, RunOptions},
    private::{Durability, PrivateOptions, PrivatePostgres},
};
use chatfn_rpc::{Client, ClientConfig, Shutdown};
use chatfn_telemetry::EndpointArgs;
use clap::Parser as _;
use http::Uri;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::invoker::{FakeInvoker, deployments, listen, start_real};

pub(crate) const ACCOUNT: &str = "acme";
/// An account with a quota of one event per second.
pub(crate) const POOR: &str = "poor";
/// An account with a quota of [`LIMIT`].
pub(crate) const LIMITED: &str = "limited";
/// Events per second.
pub(crate) const LIMIT: u32 = 1000;
/// An account with the quota that accounts have by default, which publishes as much as it can.
pub(crate) const CROWD: &str = "crowd";
/// An account of which more is to run than can.
pub(crate) const HOG: &str = "hog";
/// [`ACCOUNT`] and [`HOG`] have functions for it.
pub(crate) const TEMPLATE: &str = "chat.message";
/// A template that fires once per conversation. Nobody has a function for it.
pub(crate) const ONCE: &str = "chat.start";

/// Longest time of any call: Postgres may be away.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who runs lambdas.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runs {
    /// Nobody: what answers is [`Cluster::invoker`].
    Nothing,
    /// The real invoker.
    Lambdas,
}

pub(crate) struct Cluster {
    postgres: Option<PrivatePostgres>,
    dir: PathBuf,
    port: u16,
    pool: PgPool,
    uri: Uri,
    pub(crate) client: Client,
    pub(crate) invoker: FakeInvoker,
    shutdown: Shutdown,
}

impl Cluster {
    pub(crate) async fn start(runs: Runs) -> Self {
        let name = if runs == Runs::Lambdas { "lambdas" } else { "events" };
        let dir = std::env::temp_dir().join(format!("chatfn-bench-{name}-{}", std::process::id()));
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
        // As event-ingest does: what looks for unfinished events must not read all that there are.
        let off = ["enable_seqscan", "enable_hashjoin", "enable_mergejoin"].map(|method| (method, "off"));
        pool.set_connect_options(pool.connect_options().as_ref().clone().options(off));

        let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::default());
        // So that other settings can be tried, by their variables.
        let mut config = Config::parse_from(["chatfn-event-ingest", "--database-url", url.expose()]);
        config.endpoint = EndpointArgs::OFF;
        config.invoker = match runs {
            Runs::Nothing => invoker.start(&shutdown).await,
            Runs::Lambdas => start_real(&shutdown).await,
        };
        let by_default = config.quotas.events_per_second;
        config.quotas.events_per_second = u32::MAX;
        config.quotas.kib_per_second = u32::MAX;
        let quotas = dir.with_extension("quotas");
        let rates = [(POOR, 1), (LIMITED, LIMIT), (CROWD, by_default)]
            .map(|(account, rate)| (account.to_owned(), json!({ "events_per_second": rate })));
        let rates = Value::Object(rates.into_iter().collect());
        std::fs::write(&quotas, rates.to_string()).expect("a file");
        config.quotas.file = Some(quotas);
        let (listener, uri) = listen().await;
        tokio::spawn(chatfn_event_ingest::run_with(config, deployments(), listener, shutdown.clone()));
        let client = connect(&uri);
        Self { postgres: Some(postgres), dir, port, pool, uri, client, invoker, shutdown }
    }

    /// A client with a connection of its own.
    pub(crate) fn another_client(&self) -> Client {
        connect(&self.uri)
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

    /// Waits until every event that was published has its outcome.
    pub(crate) async fn until_done(&self) {
        // Looks no further than the first that has none, by the key, however many are stored.
        let undone = "SELECT EXISTS (
            SELECT FROM ingest.lanes l JOIN ingest.lane_heads h ON h.lane = l.lane, LATERAL (
                SELECT e.sequence FROM ingest.events e
                WHERE e.lane = l.lane AND e.sequence > l.cursor AND e.sequence < h.next_sequence
                  AND NOT EXISTS (SELECT FROM ingest.outcomes o WHERE o.lane = l.lane AND o.sequence = e.sequence)
                ORDER BY e.sequence LIMIT 1
            ) first
        ) OR EXISTS (SELECT FROM ingest.parked)";
        while sqlx::query_scalar(undone).fetch_one(&self.pool).await.expect("an answer") {
            // Rarely enough that asking takes next to nothing of what is measured over seconds.
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
        // As it would have been done long before there are so many; autovacuum would begin with it now.
        eprintln!("vacuuming");
        self.execute("VACUUM ANALYZE").await;
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
        self.shutdown.force();
        drop(self.postgres.take());
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_file(self.dir.with_extension("quotas"));
    }
}

fn connect(uri: &Uri) -> Client {
    chatfn_rpc::connect(ClientConfig { default_timeout: PATIENCE, ..ClientConfig::new(uri.clone()) })
        .expect("a client")
}

async fn start_postgres(dir: PathBuf, port: Option<u16>) -> PrivatePostgres {
    let settings = std::env::var("CHATFN_BENCH_POSTGRES").unwrap_or_default();
    let settings = settings.split_whitespace().map(str::to_owned).collect();
    let options = PrivateOptions { dir: Some(dir), port, durability: Durability::Durable, settings };
    PrivatePostgres::start(options).await.expect("a Postgres")
}
