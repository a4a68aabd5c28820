//! Connections to the database that die without a word, in the middle of what the registry asks by itself.

use std::time::Duration;

use chatfn_pg::testing::Proxy;
use chatfn_registry::Config;
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use tonic::Code;

use crate::{
    harness::{ACME, Registry, START, World, eventually, refused},
    secret_rotation::until_under,
    secrets::{self, with_keys},
    watcher::Watcher,
};

/// A registry beside the world's, whose connections die when its proxy says so.
async fn registry_behind(world: &World, change: impl FnOnce(&mut Config)) -> (Registry, Proxy) {
    let (proxy, url) = Proxy::before(&world.database).await;
    let registry = Registry::start(&url, world.invoker_address, |config| {
        config.database.application_name = "other".to_owned();
        // Given up soon, but later than it takes to meet an obstacle.
        config.database.acquire_timeout = Duration::from_secs(4);
        config.database.statement_timeout = Duration::from_secs(3);
        change(config);
    });
    (registry.await, proxy)
}

/// Keeps whoever asks for anything of the table from an answer.
async fn obstacle(world: &World, table: &str) -> Transaction<'static, Postgres> {
    let mut transaction = world.database.pool().begin().await.unwrap();
    let lock = format!("LOCK TABLE registry.{table} IN ACCESS EXCLUSIVE MODE");
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *transaction).await.unwrap();
    transaction
}

/// Waits until the other registry has so many connections of that purpose, of which something is true.
async fn until(world: &World, purpose: &str, condition: &str, connections: i64) {
    let count = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'other{purpose}' AND {condition}"
    );
    let pool = world.database.pool();
    eventually(async || {
        let count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(count.as_str())).fetch_one(pool);
        count.await.unwrap() >= connections
    })
    .await;
}

const IS_WAITING: &str = "wait_event_type = 'Lock'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_go_on_over_other_connections() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let (other, proxy) = registry_behind(&world, |_| {}).await;
    let mut watcher = Watcher::start(&other, false).await;
    let mut seen = watcher.snapshot().await;
    until(&world, "-listen", "state = 'idle'", 1).await;

    // The registry looks for changes, and reads what is live for one who has just come.
    let obstacle = obstacle(&world, "deployment_revision").await;
    let mut beginning = Watcher::start(&other, false).await;
    until(&world, "-watch", IS_WAITING, 2).await;
    proxy.deaden();
    obstacle.rollback().await.unwrap();

    world.registry.deploy(START).await.unwrap();
    watcher.follow(&mut seen, |seen| seen.version(START) == 1).await;
    refused(Err::<(), _>(beginning.end().await), Code::Unavailable, "STORE_UNAVAILABLE");
    assert_eq!(Watcher::start(&other, false).await.snapshot().await.version(START), 1);
    // The one that has died, and another one.
    until(&world, "-listen", "state = 'idle'", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_are_sent_away_when_there_are_no_other_connections() {
    let world = World::start().await;
    let (other, proxy) = registry_behind(&world, |_| {}).await;
    let mut watcher = Watcher::start(&other, false).await;
    watcher.snapshot().await;
    proxy.fall_silent();
    refused(Err::<(), _>(watcher.end().await), Code::Unavailable, "STORE_UNAVAILABLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_goes_on_over_another_connection() {
    let world = secrets::start().await;
    secrets::set(&world.registry, "crm", "x").await.unwrap();
    let obstacle = obstacle(&world, "secrets").await;
    let (_other, proxy) = registry_behind(&world, with_keys(&["b", "a"])).await;
    until(&world, "", IS_WAITING, 1).await;
    proxy.deaden();
    obstacle.rollback().await.unwrap();
    until_under(&world, "b", 1).await;
}
