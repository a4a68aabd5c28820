//! Applies what is missing, one process at a time.

use std::time::{Duration, Instant};

use sqlx::migrate::{Migrate, Migration, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};

use super::{MigrateError, Record, plan, schema};
use crate::error::{Failure, classify};
use crate::pool::{ConnectError, DatabaseUrl};

/// Advisory locks belong to one database, so one constant serves every database. The bytes of "chatfn".
const LOCK_KEY: i64 = 0x6368_6174_666e;

/// How often a waiting runner asks for the lock.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// How long a run may wait, for other runners and for other sessions' locks.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// Longest wait for another runner to finish.
    pub lock_wait: Duration,
    /// Longest wait of a transactional migration for a table lock. While it waits, every later statement on
    /// that table waits behind it, so it is short. No-transaction files have no such limit: a concurrent
    /// index build waits for old transactions by design and blocks nobody.
    pub lock_timeout: Duration,
}

impl Default for RunOptions {
    /// 60 s for other runners, 5 s for locks.
    fn default() -> Self {
        Self { lock_wait: Duration::from_secs(60), lock_timeout: Duration::from_secs(5) }
    }
}

/// A migration that this run applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Which one.
    pub record: Record,
    /// How long its SQL and its commit took.
    pub elapsed: Duration,
}

/// Applies every migration of `migrator` that `database` lacks, in order, each in its own transaction
/// (files that start with `-- no-transaction` excepted), and returns those that it applied.
///
/// Of several concurrent runs one applies and the others wait, then find nothing to do. Uses a connection of
/// its own, which must go to the server directly (a transaction-pooling PgBouncer loses the lock). Dropping
/// the future closes that connection: the server rolls the open migration back and frees the lock.
///
/// # Errors
/// [`MigrateError`]. Migrations applied before the failing one stay applied.
pub async fn run(
    database: &DatabaseUrl,
    migrator: &Migrator,
    options: RunOptions,
) -> Result<Vec<Applied>, MigrateError> {
    let mut connection = connect(database).await?;
    take_turn(&mut connection, options.lock_wait).await?;
    connection
        .ensure_migrations_table("_sqlx_migrations")
        .await
        .map_err(|error| MigrateError::Query(sqlx::Error::from(error)))?;
    // Read under the lock: the runner before us may just have applied everything.
    let pending = schema(&mut connection, migrator).await?.pending;
    let mut applied = Vec::new();
    for migration in plan::forward(migrator) {
        if !pending.iter().any(|record| record.version == migration.version) {
            continue;
        }
        let record = Record::from(migration);
        tracing::info!(schema.version = record.version, "applying migration {record}");
        let start = Instant::now();
        if migration.no_tx {
            apply_without_transaction(&mut connection, migration, start).await?;
        } else {
            apply_in_transaction(&mut connection, migration, start, options.lock_timeout).await?;
        }
        applied.push(Applied { record, elapsed: start.elapsed() });
    }
    // Ends the session, and with it the lock.
    connection.close().await.map_err(MigrateError::Query)?;
    Ok(applied)
}

/// A connection without the services' timeouts: a migration takes as long as it takes.
async fn connect(database: &DatabaseUrl) -> Result<PgConnection, MigrateError> {
    let options = database.connect_options()?.application_name("chatfn-db").options([
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ]);
    options
        .connect()
        .await
        .map_err(|source| ConnectError::Unreachable { server: database.to_string(), source }.into())
}

/// Waits for the runners' lock without ever blocking inside the server; see the module's documentation.
async fn take_turn(connection: &mut PgConnection, wait: Duration) -> Result<(), MigrateError> {
    let start = Instant::now();
    loop {
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(LOCK_KEY)
            .fetch_one(&mut *connection)
            .await
            .map_err(MigrateError::Query)?;
        if taken {
            return Ok(());
        }
        let waited = start.elapsed();
        if waited >= wait {
            return Err(MigrateError::Locked { waited });
        }
        tokio::time::sleep(LOCK_POLL.min(wait - waited)).await;
    }
}

async fn apply_in_transaction(
    connection: &mut PgConnection,
    migration: &Migration,
    start: Instant,
    lock_timeout: Duration,
) -> Result<(), MigrateError> {
    let failed = |source| {
        let record = Record::from(migration);
        match classify(&source) {
            Failure::LockTimeout => MigrateError::Busy { record, lock_timeout },
            _ => MigrateError::Failed { record, source },
        }
    };
    let mut transaction = connection.begin().await.map_err(failed)?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(lock_timeout.as_millis().to_string())
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
    sqlx::raw_sql(migration.sql.clone()).execute(&mut *transaction).await.map_err(failed)?;
    record(&mut transaction, migration, start).await?;
    transaction.commit().await.map_err(failed)
}

/// `CREATE INDEX CONCURRENTLY` and its like. If the process dies between the statement and the record, the
/// statement runs again: such files say `IF NOT EXISTS`, and what a broken build left behind is found here.
async fn apply_without_transaction(
    connection: &mut PgConnection,
    migration: &Migration,
    start: Instant,
) -> Result<(), MigrateError> {
    sqlx::raw_sql(migration.sql.clone())
        .execute(&mut *connection)
        .await
        .map_err(|source| MigrateError::Failed { record: migration.into(), source })?;
    // Partitioned indexes (relkind I) are rightly invalid until every partition has its part.
    let invalid: Option<String> = sqlx::query_scalar(
        "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
         WHERE NOT indisvalid AND relkind = 'i' ORDER BY 1 LIMIT 1",
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(MigrateError::Query)?;
    match invalid {
        Some(index) => Err(MigrateError::InvalidIndex { record: migration.into(), index }),
        None => record(connection, migration, start).await,
    }
}

/// Notes that `migration` is applied, in the columns that sqlx's own tools read.
async fn record(
    connection: &mut PgConnection,
    migration: &Migration,
    start: Instant,
) -> Result<(), MigrateError> {
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES ($1, $2, TRUE, $3, $4)",
    )
    .bind(migration.version)
    .bind(&*migration.description)
    .bind(&*migration.checksum)
    .bind(i64::try_from(start.elapsed().as_nanos()).unwrap_or(i64::MAX))
    .execute(connection)
    .await
    .map_err(MigrateError::Query)?;
    Ok(())
}
