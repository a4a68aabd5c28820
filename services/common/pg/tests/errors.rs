//! What real failures of a real server are classified as, and that a pool's timeouts are in force.

use std::time::Duration;

use chatfn_pg::testing::TestDatabase;
use chatfn_pg::{Failure, PoolConfig, classify, connect};
use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool};

const SCHEMA: &str = "
    CREATE TABLE parent (id int CONSTRAINT parent_key PRIMARY KEY, label text NOT NULL DEFAULT '');
    CREATE TABLE child (
        parent int CONSTRAINT child_parent REFERENCES parent,
        size int CONSTRAINT child_size CHECK (size > 0)
    );
    INSERT INTO parent VALUES (1), (2);";

async fn database() -> TestDatabase {
    let database = TestDatabase::create_empty().await;
    database.pool().execute(SCHEMA).await.unwrap();
    database
}

/// A configuration under which a slow machine runs into no timeout but the one that a test is about.
fn config(database: &TestDatabase) -> PoolConfig {
    let long = Duration::from_secs(60);
    PoolConfig {
        acquire_timeout: long,
        statement_timeout: long,
        lock_timeout: long,
        idle_in_transaction_session_timeout: long,
        ..PoolConfig::new(database.url().clone())
    }
}

async fn fail(pool: &PgPool, sql: &'static str) -> sqlx::Error {
    pool.execute(sql).await.expect_err(sql)
}

#[tokio::test]
async fn a_server_that_cannot_write_now_may_do_so_later() {
    let database = database().await;
    let mut connection = database.pool().acquire().await.unwrap();
    connection.execute("SET default_transaction_read_only = on").await.unwrap();
    let error = connection.execute("INSERT INTO parent VALUES (3)").await.unwrap_err();
    assert_eq!(classify(&error), Failure::CannotWrite);
    for code in ["53100", "53200", "58030"] {
        let raise =
            AssertSqlSafe(format!("DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"));
        let error = database.pool().execute(raise).await.unwrap_err();
        assert_eq!(classify(&error), Failure::CannotWrite, "{code}");
        assert!(classify(&error).is_transient());
    }
}

#[tokio::test]
async fn constraints_are_reported_by_name() {
    let database = database().await;
    let pool = database.pool();

    let error = fail(pool, "INSERT INTO parent VALUES (1)").await;
    assert_eq!(classify(&error), Failure::UniqueViolation { constraint: "parent_key" });
    assert!(classify(&error).violates("parent_key"));
    assert!(!classify(&error).violates("child_parent"));
    assert!(!classify(&error).is_transient());

    let error = fail(pool, "INSERT INTO child VALUES (3, 1)").await;
    assert_eq!(classify(&error), Failure::ForeignKeyViolation { constraint: "child_parent" });
    let error = fail(pool, "INSERT INTO child VALUES (1, 0)").await;
    assert_eq!(classify(&error), Failure::CheckViolation { constraint: "child_size" });
    let error = fail(pool, "INSERT INTO parent VALUES (4, NULL)").await;
    assert_eq!(classify(&error), Failure::NotNullViolation { column: "label" });
    let error = fail(pool, "SELECT nonsense").await;
    assert_eq!(classify(&error), Failure::Other { code: Some("42703") });
    let error = sqlx::query("SELECT FROM parent WHERE id = 9").fetch_one(pool).await.unwrap_err();
    assert_eq!(classify(&error), Failure::RowNotFound);
}

async fn update(connection: &mut PgConnection, id: i32) -> Result<(), sqlx::Error> {
    let sql = format!("UPDATE parent SET label = label || 'x' WHERE id = {id}");
    connection.execute(AssertSqlSafe(sql)).await.map(drop)
}

#[tokio::test]
async fn a_concurrent_write_is_a_serialization_failure() {
    let database = database().await;
    let mut first = database.pool().begin().await.unwrap();
    first.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    first.execute("SELECT FROM parent").await.unwrap();
    update(&mut database.pool().acquire().await.unwrap(), 1).await.unwrap();
    let error = update(&mut first, 1).await.unwrap_err();
    assert_eq!(classify(&error), Failure::SerializationFailure);
    assert!(classify(&error).is_transient());
}

#[tokio::test]
async fn a_deadlock_is_reported_to_one_side() {
    let database = database().await;
    let mut first = database.pool().begin().await.unwrap();
    let mut second = database.pool().begin().await.unwrap();
    update(&mut first, 1).await.unwrap();
    update(&mut second, 2).await.unwrap();
    // Whoever gets an error rolls back, which lets the other one through.
    let (a, b) = tokio::join!(async { (update(&mut first, 2).await, first.rollback().await).0 }, async {
        (update(&mut second, 1).await, second.rollback().await).0
    });
    let error = a.and(b).expect_err("one of the two must lose");
    assert_eq!(classify(&error), Failure::Deadlock);
}

#[tokio::test]
async fn the_statement_timeout_holds() {
    let database = database().await;
    let config = PoolConfig { statement_timeout: Duration::from_millis(50), ..config(&database) };
    let error = fail(&connect(&config).await.unwrap(), "SELECT pg_sleep(600)").await;
    assert_eq!(classify(&error), Failure::StatementCanceled);
}

#[tokio::test]
async fn the_lock_timeout_holds() {
    let database = database().await;
    let config = PoolConfig { lock_timeout: Duration::from_millis(20), ..config(&database) };
    let mut holder = database.pool().begin().await.unwrap();
    update(&mut holder, 1).await.unwrap();
    let error = fail(&connect(&config).await.unwrap(), "UPDATE parent SET label = 'y' WHERE id = 1").await;
    assert_eq!(classify(&error), Failure::LockTimeout);
}

#[tokio::test]
async fn a_forgotten_transaction_is_ended_and_its_locks_with_it() {
    let database = database().await;
    let config =
        PoolConfig { idle_in_transaction_session_timeout: Duration::from_millis(50), ..config(&database) };
    let pool = connect(&config).await.unwrap();
    let mut forgotten = pool.acquire().await.unwrap();
    // One message, so that the session is never idle in between.
    forgotten.execute("BEGIN; UPDATE parent SET label = 'y' WHERE id = 2").await.unwrap();
    update(&mut database.pool().acquire().await.unwrap(), 2).await.unwrap();
    let error = update(&mut forgotten, 2).await.unwrap_err();
    assert_eq!(classify(&error), Failure::ConnectionLost, "{error:?}");
}

#[tokio::test]
async fn the_pools_sessions_carry_its_name() {
    let database = database().await;
    let config = PoolConfig { application_name: "a name with spaces".to_owned(), ..config(&database) };
    let pool = connect(&config).await.unwrap();
    let name: String = sqlx::query_scalar("SHOW application_name").fetch_one(&pool).await.unwrap();
    assert_eq!(name, "a name with spaces");
}

#[tokio::test]
async fn a_killed_session_is_a_lost_connection_and_the_pool_recovers() {
    let database = database().await;
    let pool = connect(&config(&database)).await.unwrap();
    let mut victim = pool.acquire().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *victim).await.unwrap();
    sqlx::query("SELECT pg_terminate_backend($1, 60000)").bind(pid).execute(database.pool()).await.unwrap();
    let error = victim.execute("SELECT 1").await.unwrap_err();
    assert_eq!(classify(&error), Failure::ConnectionLost, "{error:?}");
    drop(victim);
    pool.execute("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn an_exhausted_pool_times_out() {
    let database = database().await;
    let config = PoolConfig { max_connections: 1, ..config(&database) };
    let pool = connect(&config).await.unwrap();
    let _held = pool.acquire().await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "`connect` needs longer to prove that the server answers")]
    let impatient = sqlx::postgres::PgPoolOptions::new();
    let impatient = impatient
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(10))
        .parent(pool.clone())
        .connect_lazy_with(config.connect_options().unwrap());
    let error = fail(&impatient, "SELECT 1").await;
    assert_eq!(classify(&error), Failure::PoolTimeout);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_without_the_password() {
    // Port 1 is reserved and never served on loopback.
    let config = PoolConfig::new("postgres://me:hunter2@127.0.0.1:1/chatfn".into());
    let error = connect(&config).await.unwrap_err();
    let text = chatfn_pg::error::describe(&error);
    assert!(text.contains("postgres://me@127.0.0.1:1/chatfn"), "{text}");
    assert!(text.contains("refused"), "the cause must be told, not just a timeout: {text}");
    assert!(!format!("{text} {error:?}").contains("hunter2"), "{text}");
}
