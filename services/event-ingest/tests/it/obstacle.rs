//! Ways to stop the service at a certain point.

use sqlx::{PgPool, Postgres, Transaction};

use crate::harness::eventually;

/// Stops every transaction of one kind at the same place, until it is lifted.
pub(crate) struct Obstacle {
    transaction: Transaction<'static, Postgres>,
    pool: PgPool,
    purpose: &'static str,
}

impl Obstacle {
    /// Keeps every committer from giving sequence numbers.
    pub(crate) async fn before_commits(pool: &PgPool) -> Self {
        Self::put(pool, "commit", "LOCK TABLE ingest.lane_heads IN EXCLUSIVE MODE").await
    }

    /// Keeps every committer from recording events that it has given sequence numbers: it has the lanes' heads.
    pub(crate) async fn within_commits(pool: &PgPool) -> Self {
        Self::put(pool, "commit", "LOCK TABLE ingest.events IN EXCLUSIVE MODE").await
    }

    /// Keeps every writer of the journal from doing what operators ask for: it has the lanes.
    pub(crate) async fn within_interventions(pool: &PgPool) -> Self {
        Self::put(pool, "journal", "LOCK TABLE ingest.superseded IN EXCLUSIVE MODE").await
    }

    /// Keeps whoever looks for news of lanes from an answer.
    pub(crate) async fn before_polls(pool: &PgPool) -> Self {
        let tables = "LOCK TABLE ingest.lane_heads, ingest.interventions IN ACCESS EXCLUSIVE MODE";
        Self::put(pool, "read", tables).await
    }

    /// Keeps leases from being renewed.
    pub(crate) async fn before_renewals(pool: &PgPool) -> Self {
        Self::put(pool, "lease", "LOCK TABLE ingest.lanes IN EXCLUSIVE MODE").await
    }

    /// Keeps lanes from reading events.
    pub(crate) async fn before_reads(pool: &PgPool) -> Self {
        Self::put(pool, "read", "LOCK TABLE ingest.events IN ACCESS EXCLUSIVE MODE").await
    }

    /// Keeps whoever looks for events that may have been recorded days ago from an answer.
    pub(crate) async fn before_looks(pool: &PgPool) -> Self {
        Self::put(pool, "look", "LOCK TABLE ingest.days IN ACCESS EXCLUSIVE MODE").await
    }

    async fn put(pool: &PgPool, purpose: &'static str, lock: &'static str) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query(lock).execute(&mut *transaction).await.unwrap();
        Self { transaction, pool: pool.clone(), purpose }
    }

    /// Waits until a connection has run into it.
    pub(crate) async fn is_met(&self) {
        eventually(|| is_waiting(&self.pool, self.purpose)).await;
    }

    /// Waits until so many connections have.
    pub(crate) async fn is_met_by(&self, connections: i64) {
        eventually(async || waiting(&self.pool, self.purpose).await >= connections).await;
    }

    pub(crate) async fn lift(self) {
        self.transaction.rollback().await.unwrap();
    }
}

/// Whether a connection of the pool of that purpose waits for a lock.
pub(crate) async fn is_waiting(pool: &PgPool, purpose: &str) -> bool {
    waiting(pool, purpose).await > 0
}

/// How many do.
async fn waiting(pool: &PgPool, purpose: &str) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name LIKE '%-' || $1 AND wait_event_type = 'Lock'",
    )
    .bind(purpose)
    .fetch_one(pool)
    .await
    .unwrap()
}
