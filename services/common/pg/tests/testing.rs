//! That each test's database is its own, made from one template, and gone afterwards.

use chatfn_pg::testing::TestDatabase;
use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Executor, PgPool};

/// A history that no other run has a template of.
fn unique_history() -> Migrator {
    let sql = format!("CREATE TABLE notes (text text); COMMENT ON TABLE notes IS '{}'", uuid::Uuid::new_v4());
    let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
    Migrator::with_migrations(vec![Migration::new(1, "notes".into(), MigrationType::Simple, sql, false)])
}

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM notes").fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_made_at_once_are_migrated_and_separate() {
    let history = unique_history();
    let (a, b, c) = tokio::join!(
        TestDatabase::create_with(&history),
        TestDatabase::create_with(&history),
        TestDatabase::create_with(&history)
    );
    a.pool().execute("INSERT INTO notes VALUES ('mine')").await.unwrap();
    assert_eq!([count(a.pool()).await, count(b.pool()).await, count(c.pool()).await], [1, 0, 0]);
}

#[tokio::test]
async fn a_dropped_value_drops_its_database_in_spite_of_open_connections() {
    let witness = TestDatabase::create_empty().await;
    let database = TestDatabase::create_with(&unique_history()).await;
    let name = database.url().connect_options().unwrap().get_database().unwrap().to_owned();
    let exists = || async {
        sqlx::query_scalar::<_, bool>("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(&name)
            .fetch_one(witness.pool())
            .await
            .unwrap()
    };
    assert!(exists().await);
    let _open = database.pool().acquire().await.unwrap();
    drop(database);
    assert!(!exists().await);
}
