//! That a connection which answers never does not keep its place in a pool.

use std::time::{Duration, Instant};

use chatfn_pg::{PoolConfig, connect, testing::TestDatabase};
use sqlx::Executor;
use tokio::time::timeout;

/// Longer than any wait under test.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test]
async fn an_abandoned_statement_does_not_keep_its_connection() {
    let database = TestDatabase::create_empty().await;
    let config = PoolConfig {
        max_connections: 1,
        acquire_timeout: LONG,
        statement_timeout: Duration::from_millis(100),
        ..PoolConfig::new(database.url().clone())
    };
    let pool = connect(&config).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    // As good as dead: not even the server ends what it does.
    connection.execute("SET statement_timeout = 0").await.unwrap();
    let asked = timeout(Duration::from_millis(100), connection.execute("SELECT pg_sleep(120)")).await;
    assert!(asked.is_err(), "{asked:?}");
    drop(connection);
    let now = Instant::now();
    pool.execute("SELECT 1").await.unwrap();
    assert!(now.elapsed() < LONG / 2, "{:?}", now.elapsed());
}

#[tokio::test]
async fn a_statement_that_is_answered_late_keeps_it() {
    let database = TestDatabase::create_empty().await;
    let config = PoolConfig {
        max_connections: 1,
        acquire_timeout: LONG,
        statement_timeout: LONG,
        ..PoolConfig::new(database.url().clone())
    };
    let pool = connect(&config).await.unwrap();
    let pid =
        async |pool| sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()").fetch_one(pool).await.unwrap();
    let first = pid(&pool).await;
    // Those of calls that were cancelled must not add up at the server.
    let asked = timeout(Duration::from_millis(100), pool.execute("SELECT pg_sleep(1.5)")).await;
    assert!(asked.is_err(), "{asked:?}");
    assert_eq!(pid(&pool).await, first);
}
