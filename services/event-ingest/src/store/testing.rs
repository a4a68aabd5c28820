//! A database with many days, for the tests of what is asked about few of them.

use std::{collections::BTreeSet, time::Duration};

use chatfn_pg::{PoolConfig, testing::TestDatabase};
use sqlx::{AssertSqlSafe, PgPool};

use crate::with_session;

pub(super) const LANE: i16 = 5;
pub(super) const EPOCH: i64 = 1;
/// Days with partitions, of which the last is today.
pub(super) const DAYS: i32 = 60;

/// Some days, and events of one conversation: today's of lane [`LANE`].
pub(super) struct World {
    /// Of one connection.
    pub(super) pool: PgPool,
    /// The number before today's first event.
    pub(super) start: i64,
    _database: TestDatabase,
}

impl World {
    pub(super) async fn start(days: i32) -> Self {
        let database = TestDatabase::create().await;
        let config = PoolConfig {
            max_connections: 1,
            statement_timeout: Duration::from_secs(60),
            idle_in_transaction_session_timeout: Duration::from_secs(60),
            acquire_timeout: Duration::from_secs(60),
            ..PoolConfig::new(database.url().clone())
        };
        let pool = with_session(chatfn_pg::connect(&config).await.unwrap());
        let world = Self { pool, start: 0, _database: database };
        let today = "(now() AT TIME ZONE 'UTC')::date";
        world.execute(&format!("UPDATE ingest.days SET day = {today} - {days}")).await;
        for age in (0..days).rev() {
            world.execute(&format!("SELECT ingest.prepare_day({today} - {age})")).await;
        }
        world.execute("UPDATE ingest.days SET open_time = day::timestamp AT TIME ZONE 'UTC'").await;
        let start = format!("SELECT ingest.first_sequence({today})");
        let start = sqlx::query_scalar(AssertSqlSafe(start)).fetch_one(&world.pool).await.unwrap();
        Self { start, ..world }
    }

    pub(super) async fn execute(&self, statement: &str) {
        sqlx::query(AssertSqlSafe(statement)).execute(&self.pool).await.unwrap();
    }

    /// Records so many events, from today's first one on.
    pub(super) async fn record(&self, count: i64) {
        self.record_after(self.start, count, "c", "e").await;
    }

    /// Records so many events of a conversation after this number, with ids that begin with `prefix`.
    pub(super) async fn record_after(&self, start: i64, count: i64, conversation_id: &str, prefix: &str) {
        self.execute(&format!(
            "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                        content_hash)
             SELECT {LANE}, {start} + n, 'acme', '{prefix}' || n, 'chat.message', '{conversation_id}', '{{}}', ''
             FROM generate_series(1, {count}) n"
        ))
        .await;
    }

    /// Finishes the events from this one to that one.
    pub(super) async fn finish(&self, first: i64, last: i64) {
        self.execute(&format!(
            "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
             SELECT {LANE}, {} + n, 3, {EPOCH}, 'acme', now() FROM generate_series({first}, {last}) n",
            self.start
        ))
        .await;
    }

    /// Asserts that what is asked opens no partitions but today's, and gives the answer.
    pub(super) async fn opens_today<T>(
        &self,
        what: &str,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> T {
        self.opens(1, what, asked).await
    }

    /// Asserts that what is asked opens partitions of some days, but no more than so many, and gives the answer.
    pub(super) async fn opens<T>(
        &self,
        most: usize,
        what: &str,
        asked: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> T {
        // Whatever uses the pool's only connection is part of this: its locks stay.
        self.execute("BEGIN").await;
        let answer = asked.await.unwrap();
        let opened: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
             WHERE l.pid = pg_backend_pid() AND c.relkind = 'r' AND c.relname ~ '^(events|outcomes|attempts)_'",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        self.execute("ROLLBACK").await;
        let days: BTreeSet<&str> = opened.iter().filter_map(|name| Some(name.rsplit_once('_')?.1)).collect();
        assert!(
            (1..=most).contains(&days.len()),
            "{what} opens partitions of more than {most} days, or none: {days:?}"
        );
        answer
    }
}
