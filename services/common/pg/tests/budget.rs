//! That a call whose time is over leaves nothing behind at the server.

use std::time::{Duration, Instant};

use chatfn_pg::{
    Failure, PoolConfig,
    budget::{Expired, within},
    classify, connect,
    testing::TestDatabase,
};
use sqlx::{AssertSqlSafe, Executor, PgPool};

/// Reached only when something hangs, and never the limit under test.
const LONG: Duration = Duration::from_secs(120);
const BUDGET: Duration = Duration::from_millis(300);
/// A statement that only a limit ends.
const ENDLESS: &str = "SELECT pg_sleep(100)";

/// A pool that nothing but a budget bounds.
async fn pool(database: &TestDatabase, max_connections: u32) -> PgPool {
    let config = PoolConfig {
        max_connections,
        acquire_timeout: LONG,
        statement_timeout: LONG,
        lock_timeout: LONG,
        application_name: "chatfn-budget".to_owned(),
        ..PoolConfig::new(database.url().clone())
    };
    connect(&config).await.unwrap()
}

/// Waits until no statement of the pool under test runs.
async fn nothing_runs(database: &TestDatabase) {
    let running = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'chatfn-budget' AND state <> 'idle'";
    while sqlx::query_scalar::<_, i64>(running).fetch_one(database.pool()).await.unwrap() > 0 {}
}

fn canceled<T: std::fmt::Debug>(result: Result<Result<T, sqlx::Error>, Expired>) {
    let error = result.expect("the server is asked for less time than the call has").expect_err("ends early");
    assert_eq!(classify(&error), Failure::StatementCanceled, "{error}");
}

#[tokio::test]
async fn the_server_ends_a_statement_in_time() {
    let database = TestDatabase::create_empty().await;
    let pool = pool(&database, 1).await;
    // New the first time, idle the second.
    for _ in 0..2 {
        let now = Instant::now();
        canceled(within(now + BUDGET, now + LONG, pool.execute(ENDLESS)).await);
        // Postgres counts whole milliseconds, rounded down here, from when the statement reaches it.
        assert!(now.elapsed() >= BUDGET.mul_f64(0.9), "not sooner");
        nothing_runs(&database).await;
    }
}

#[tokio::test]
async fn a_wait_for_a_lock_ends_as_well() {
    let database = TestDatabase::create_empty().await;
    database.pool().execute("CREATE TABLE thing (id int); INSERT INTO thing VALUES (1)").await.unwrap();
    let mut holder = database.pool().begin().await.unwrap();
    holder.execute("SELECT FROM thing FOR UPDATE").await.unwrap();

    let pool = pool(&database, 1).await;
    let now = Instant::now();
    let work = async {
        let mut transaction = pool.begin().await?;
        transaction.execute("UPDATE thing SET id = 2").await
    };
    canceled(within(now + BUDGET, now + LONG, work).await);
    nothing_runs(&database).await;
}

#[tokio::test]
async fn what_is_left_running_ends_without_its_caller() {
    let database = TestDatabase::create_empty().await;
    let pool = pool(&database, 1).await;
    let now = Instant::now();
    // Its caller's own end comes first.
    let left = within(now + BUDGET, now + BUDGET / 3, pool.execute(ENDLESS)).await;
    assert!(matches!(left, Err(Expired::Working | Expired::Waiting)), "{left:?}");
    nothing_runs(&database).await;
    pool.execute("SELECT 1").await.expect("the connection is free again, or another one is");
}

#[tokio::test]
async fn the_wait_for_a_connection_is_bounded() {
    let database = TestDatabase::create_empty().await;
    let pool = pool(&database, 1).await;
    let taken = pool.acquire().await.unwrap();
    let now = Instant::now();
    let waited = within(now + BUDGET, now + BUDGET, pool.execute("SELECT 1")).await;
    assert_eq!(waited.unwrap_err(), Expired::Waiting);
    drop(taken);
    within(now, Instant::now() + LONG, pool.acquire()).await.unwrap().expect("nobody has it");
}

#[tokio::test]
async fn no_limit_is_inherited() {
    let database = TestDatabase::create_empty().await;
    let pool = pool(&database, 1).await;
    let limit = || async {
        let millis = "SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'";
        sqlx::query_scalar::<_, i32>(millis).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(limit().await, 120_000);
    let now = Instant::now();
    let bounded = within(now + LONG / 2, now + LONG, limit()).await.unwrap();
    assert!((1..=60_000).contains(&bounded), "{bounded}");
    assert_eq!(limit().await, 120_000, "the one after it may take as long as ever");
    // A caller with more time than the pool allows gets no more than that.
    assert_eq!(within(now + 2 * LONG, now + 2 * LONG, limit()).await.unwrap(), 120_000);
}

#[tokio::test]
async fn a_server_that_was_restarted_is_no_error() {
    let database = TestDatabase::create_empty().await;
    let pool = pool(&database, 1).await;
    let pid = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
    let ended = format!("SELECT pg_terminate_backend({pid}, 60000)");
    database.pool().execute(AssertSqlSafe(ended)).await.unwrap();
    let other = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(&pool).await.unwrap();
    assert_ne!(pid, other);
}
