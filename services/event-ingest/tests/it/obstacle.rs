//! Ways to stop the service at a certain point.

use sqlx::{PgPool, Postgres, Transaction};

use crate::harness::eventually;

/// Keeps every committer from giving sequence numbers, until it is lifted.
pub(crate) struct Obstacle {
    transaction: Transaction<'static, Postgres>,
    pool: PgPool,
}

impl Obstacle {
    pub(crate) async fn before_commits(pool: &PgPool) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE ingest.lane_heads IN EXCLUSIVE MODE")
            .execute(&mut *transaction)
            .await
            .unwrap();
        Self { transaction, pool: pool.clone() }
    }

    /// Waits until a committer has run into it.
    pub(crate) async fn is_met(&self) {
        eventually(|| is_waiting(&self.pool, "commit")).await;
    }

    pub(crate) async fn lift(self) {
        self.transaction.rollback().await.unwrap();
    }
}

/// Whether a connection of the pool of that purpose waits for a lock.
pub(crate) async fn is_waiting(pool: &PgPool, purpose: &str) -> bool {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
             AND application_name LIKE '%-' || $1 AND wait_event_type = 'Lock')",
    )
    .bind(purpose)
    .fetch_one(pool)
    .await
    .unwrap()
}
