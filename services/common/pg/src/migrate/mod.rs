//! The schema's history: applies it (a job's work) and checks it (a service's work).
//!
//! * [`run()`] applies what is missing. It differs from sqlx's own runner in how it takes turns: sqlx waits
//!   *inside* `pg_advisory_lock`, and a session that waits there holds a snapshot, for which another
//!   runner's `CREATE INDEX CONCURRENTLY` waits in turn, so the two pods stall each other. This runner polls
//!   `pg_try_advisory_lock` and holds nothing between polls.
//! * [`require_current`] is what a service calls at start. Services never migrate.
//!
//! The record is sqlx's table `_sqlx_migrations`, so sqlx's own tools can read it. `migrations/README.md`
//! has the rules for authors.

mod plan;
mod run;

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgPool};

pub use plan::{Record, Schema};
pub use run::{Applied, RunOptions, run};

use crate::{Background, pool::ConnectError};

/// chatfn's history, embedded at build time from `migrations/`.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../../migrations");

/// Returns if the database has every migration that this build knows, and none that shuts this build out.
///
/// A database that is *ahead* is accepted, with a warning in the log: during a rollout the migration job
/// runs before the pods are replaced, and an old pod that restarts meanwhile, or a release that is rolled
/// back, must still start. The expand/contract rule makes that safe; a file that ends it for old builds
/// says so in its name (`…_needs_<version>.sql`), which old builds read from the database's record.
///
/// # Errors
/// [`MigrateError::Behind`], [`MigrateError::Ahead`], [`MigrateError::Edited`], each of which says what to
/// do, or [`MigrateError::Query`].
pub async fn require_current(database: &Background) -> Result<(), MigrateError> {
    let look = require(database.pool(), &MIGRATIONS);
    // Whether there is a record, and the record.
    database.bound(2, look).await.map_err(MigrateError::Query)?
}

/// [`require_current`] for another history than chatfn's own.
///
/// # Errors
/// As [`require_current`].
pub async fn require(pool: &PgPool, migrator: &Migrator) -> Result<(), MigrateError> {
    let mut connection = pool.acquire().await.map_err(MigrateError::Query)?;
    let schema = schema(&mut connection, migrator).await?;
    if !schema.pending.is_empty() {
        return Err(MigrateError::Behind { pending: schema.pending });
    }
    if let Some(newest) = schema.unknown.last() {
        tracing::warn!(
            schema.version = newest.version,
            "the database is ahead of this build (migration {newest}); the release it belongs to is not rolled out yet"
        );
    }
    Ok(())
}

/// How the database stands to `migrator`: what is applied, what is missing, what is newer.
///
/// # Errors
/// [`MigrateError::Ahead`], [`MigrateError::Edited`] or [`MigrateError::Query`].
pub async fn schema(connection: &mut PgConnection, migrator: &Migrator) -> Result<Schema, MigrateError> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(MigrateError::Query)?;
    let mut records = Vec::new();
    if exists {
        let rows: Vec<(i64, String, Vec<u8>)> =
            sqlx::query_as("SELECT version, description, checksum FROM _sqlx_migrations ORDER BY version")
                .fetch_all(connection)
                .await
                .map_err(MigrateError::Query)?;
        records = rows
            .into_iter()
            .map(|(version, description, checksum)| (Record { version, description }, checksum))
            .collect();
    }
    plan::compare(migrator, records)
}

/// Why the schema is not, or cannot be made, what this build needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The server cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Another runner kept the lock for the whole wait.
    #[error(
        "another migration has been running for {waited:?}; nothing was changed, run `chatfn-db migrate` again"
    )]
    Locked {
        /// How long this runner waited.
        waited: Duration,
    },
    /// The database lacks migrations that this build needs.
    #[error("the database lacks {}; run `chatfn-db migrate` with this release", plan::list(.pending))]
    Behind {
        /// What is missing, in order.
        pending: Vec<Record>,
    },
    /// The database has a migration that shuts this build out.
    #[error(
        "the database has migration {record}, which only builds that know migration {needs} can use, and this one does not; start a newer release"
    )]
    Ahead {
        /// The migration that this build does not know.
        record: Record,
        /// The migration that a build must know to live with it.
        needs: i64,
    },
    /// A file was changed after it had been applied.
    #[error(
        "migration {record} was edited after it had been applied; restore the file and put the change into a new one (a development database may be dropped and made anew instead)"
    )]
    Edited {
        /// The edited migration.
        record: Record,
    },
    /// A migration failed. Its transaction was rolled back; a no-transaction file may have left traces.
    #[error("migration {record} failed; correct it and run `chatfn-db migrate` again")]
    Failed {
        /// The failed migration.
        record: Record,
        /// What the server reported.
        #[source]
        source: sqlx::Error,
    },
    /// A table was in use for so long that the migration gave up, so as not to make everybody wait behind it.
    #[error(
        "migration {record} did not get its locks within {lock_timeout:?} and was rolled back; run `chatfn-db migrate` again, at a quieter time if it persists"
    )]
    Busy {
        /// The migration that gave up.
        record: Record,
        /// How long it waited for a lock.
        lock_timeout: Duration,
    },
    /// A concurrent index build ended with an index that Postgres will not use.
    #[error(
        "migration {record} left index {index} invalid; run `DROP INDEX CONCURRENTLY {index}`, then `chatfn-db migrate` again"
    )]
    InvalidIndex {
        /// The migration.
        record: Record,
        /// The index, qualified as the search path requires.
        index: String,
    },
    /// The record could not be read or written.
    #[error("cannot read or write the record of migrations")]
    Query(#[source] sqlx::Error),
}
