//! The migration runner against a real server.

use std::path::Path;
use std::time::Duration;

use chatfn_pg::DatabaseUrl;
use chatfn_pg::migrate::{self, Applied, MigrateError, RunOptions};
use chatfn_pg::testing::TestDatabase;
use sqlx::PgPool;
use sqlx::migrate::Migrator;
use tempfile::TempDir;

/// A folder of migrations that a test adds to and edits.
struct History(TempDir);

impl History {
    fn new(files: &[(&str, &str)]) -> Self {
        let history = Self(tempfile::tempdir().unwrap());
        for (name, sql) in files {
            history.write(name, sql);
        }
        history
    }

    fn write(&self, name: &str, sql: &str) {
        std::fs::write(self.0.path().join(name), sql).unwrap();
    }

    async fn load(&self) -> Migrator {
        Migrator::new(Path::new(self.0.path())).await.unwrap()
    }

    async fn run(&self, database: &TestDatabase) -> Result<Vec<i64>, MigrateError> {
        run(database.url(), &self.load().await, RunOptions::default()).await
    }
}

async fn run(url: &DatabaseUrl, migrator: &Migrator, options: RunOptions) -> Result<Vec<i64>, MigrateError> {
    let versions = |applied: Vec<Applied>| applied.iter().map(|a| a.record.version).collect();
    migrate::run(url, migrator, options).await.map(versions)
}

async fn count(pool: &PgPool, table: &'static str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await.unwrap()
}

/// Returns when a session of a migration waits for a lock on a table. Postgres tells nobody, so this looks
/// again and again; the sleep only lets others work in between.
async fn migration_waits_for_a_lock(pool: &PgPool) {
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                   AND application_name = 'chatfn-db' AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(pool).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const ITEMS: (&str, &str) = ("0001_create_items.sql", "CREATE TABLE items (name text NOT NULL)");

#[tokio::test]
async fn applies_in_order_and_the_second_run_is_a_no_op() {
    let database = TestDatabase::create_empty().await;
    // 10 sorts before 2 as text, and needs it.
    let history = History::new(&[
        ("0010_fill_items.sql", "INSERT INTO items VALUES ('a'); INSERT INTO items VALUES ('b')"),
        ("2_create_items.sql", ITEMS.1),
    ]);
    assert_eq!(history.run(&database).await.unwrap(), [2, 10]);
    assert_eq!(history.run(&database).await.unwrap(), [0; 0]);
    assert_eq!(count(database.pool(), "items").await, 2);
    // sqlx's own tools agree that there is nothing to do.
    history.load().await.run(database.pool()).await.unwrap();
    assert_eq!(count(database.pool(), "items").await, 2);
}

#[tokio::test]
async fn of_concurrent_runs_one_applies_even_when_it_builds_an_index_concurrently() {
    let database = TestDatabase::create_empty().await;
    let history = History::new(&[
        ITEMS,
        (
            "0002_index_items.sql",
            "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS items_name ON items (name)",
        ),
    ]);
    let (a, b, c) = tokio::join!(history.run(&database), history.run(&database), history.run(&database));
    let mut applied = [a.unwrap(), b.unwrap(), c.unwrap()].concat();
    applied.sort_unstable();
    assert_eq!(applied, [1, 2]);
}

#[tokio::test]
async fn a_run_gives_up_on_a_lock_that_another_run_keeps() {
    let database = TestDatabase::create_empty().await;
    let history = History::new(&[ITEMS]);
    history.run(&database).await.unwrap();
    history.write("0002_add_size.sql", "ALTER TABLE items ADD COLUMN size int");
    let migrator = history.load().await;

    let mut reader = database.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM items").execute(&mut *reader).await.unwrap();
    let patient = RunOptions { lock_timeout: Duration::from_secs(600), ..RunOptions::default() };
    let (first, second) = tokio::join!(run(database.url(), &migrator, patient), async {
        migration_waits_for_a_lock(database.pool()).await;
        let hasty = RunOptions { lock_wait: Duration::from_millis(1), ..RunOptions::default() };
        let second = run(database.url(), &migrator, hasty).await;
        reader.commit().await.unwrap();
        second
    });
    assert!(matches!(second, Err(MigrateError::Locked { .. })), "{second:?}");
    assert_eq!(first.unwrap(), [2]);
}

#[tokio::test]
async fn a_migration_does_not_queue_everybody_behind_a_long_transaction() {
    let database = TestDatabase::create_empty().await;
    let history = History::new(&[ITEMS]);
    history.run(&database).await.unwrap();
    history.write("0002_add_size.sql", "ALTER TABLE items ADD COLUMN size int");
    let mut reader = database.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM items").execute(&mut *reader).await.unwrap();

    let hasty = RunOptions { lock_timeout: Duration::from_millis(10), ..RunOptions::default() };
    let error = run(database.url(), &history.load().await, hasty).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Busy { record, .. } if record.version == 2), "{error:?}");

    reader.commit().await.unwrap();
    assert_eq!(history.run(&database).await.unwrap(), [2]);
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_and_those_before_it_stay() {
    let database = TestDatabase::create_empty().await;
    let history = History::new(&[ITEMS, ("0002_break.sql", "INSERT INTO items VALUES ('a'); SELECT 1/0")]);
    let error = history.run(&database).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Failed { record, .. } if record.version == 2), "{error:?}");
    assert_eq!(count(database.pool(), "items").await, 0);
    history.write("0002_break.sql", "INSERT INTO items VALUES ('a')");
    assert_eq!(history.run(&database).await.unwrap(), [2]);
}

#[tokio::test]
async fn an_index_that_postgres_will_not_use_is_not_recorded_as_built() {
    let database = TestDatabase::create_empty().await;
    let history = History::new(&[
        ITEMS,
        ("0002_duplicates.sql", "INSERT INTO items VALUES ('a'), ('a')"),
        (
            "0003_index_items.sql",
            "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS items_name ON items (name)",
        ),
    ]);
    let error = history.run(&database).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Failed { .. }), "{error:?}");
    // The broken index is there now, so IF NOT EXISTS would pass over it.
    let error = history.run(&database).await.unwrap_err();
    assert!(matches!(&error, MigrateError::InvalidIndex { index, .. } if index == "items_name"), "{error:?}");

    for repair in ["DROP INDEX CONCURRENTLY items_name", "DELETE FROM items"] {
        sqlx::query(repair).execute(database.pool()).await.unwrap();
    }
    assert_eq!(history.run(&database).await.unwrap(), [3]);
}

#[tokio::test]
async fn an_edited_file_is_refused_and_nothing_after_it_is_applied() {
    let database = TestDatabase::create_empty().await;
    let history = History::new(&[ITEMS]);
    history.run(&database).await.unwrap();
    history.write(ITEMS.0, "CREATE TABLE items (name text NOT NULL, size int)");
    history.write("0002_create_more.sql", "CREATE TABLE more (x int)");
    let error = history.run(&database).await.unwrap_err();
    assert!(matches!(&error, MigrateError::Edited { record } if record.version == 1), "{error:?}");
    let error = migrate::require(database.pool(), &history.load().await).await.unwrap_err();
    assert!(matches!(error, MigrateError::Edited { .. }), "{error:?}");
    let more: Option<String> =
        sqlx::query_scalar("SELECT to_regclass('more')::text").fetch_one(database.pool()).await.unwrap();
    assert_eq!(more, None);
}

#[tokio::test]
async fn a_service_starts_only_on_a_schema_it_can_live_with() {
    let database = TestDatabase::create_empty().await;
    let (pool, history) = (database.pool(), History::new(&[ITEMS]));
    let old = history.load().await;

    let error = migrate::require(pool, &old).await.unwrap_err();
    assert!(matches!(error, MigrateError::Behind { .. }), "{error:?}");
    assert!(error.to_string().contains("`chatfn-db migrate`"), "{error}");

    history.run(&database).await.unwrap();
    migrate::require(pool, &old).await.unwrap();

    // A rollout has begun: the old release must still start, and its own job must still succeed.
    history.write("0002_add_size.sql", "ALTER TABLE items ADD COLUMN size int");
    history.run(&database).await.unwrap();
    migrate::require(pool, &old).await.unwrap();
    assert_eq!(run(database.url(), &old, RunOptions::default()).await.unwrap(), [0; 0]);
    let middle = history.load().await;

    history.write("0003_drop_name_needs_0002.sql", "ALTER TABLE items DROP COLUMN name");
    history.run(&database).await.unwrap();
    migrate::require(pool, &middle).await.unwrap();
    let error = migrate::require(pool, &old).await.unwrap_err();
    assert!(matches!(error, MigrateError::Ahead { needs: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("start a newer release"), "{error}");
}
