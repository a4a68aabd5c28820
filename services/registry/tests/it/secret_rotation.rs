//! A new key takes over, whatever happens meanwhile.

use chatfn_telemetry::testing::Log;
use futures_util::{StreamExt as _, stream};
use tonic::Code;

use crate::{
    harness::{Registry, World, eventually, patiently, refused},
    secrets::{CRM, access, key_lines, set, start, with_keys},
};

/// More than one batch of a rotation.
const MANY: usize = 150;

/// Advisory lock on which a rotation is made to wait.
const GATE: i64 = 4_711;

async fn under(world: &World, key_id: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM registry.secrets WHERE key_id = $1")
        .bind(key_id)
        .fetch_one(world.database.pool())
        .await
        .unwrap()
}

pub(crate) async fn until_under(world: &World, key_id: &str, count: usize) {
    eventually(async || under(world, key_id).await == i64::try_from(count).unwrap()).await;
}

async fn set_many(registry: &Registry) {
    let sets = (0..MANY).map(|n| async move {
        set(registry, &format!("s-{n:03}"), &format!("value {n}")).await.unwrap();
    });
    stream::iter(sets).buffer_unordered(8).collect::<Vec<()>>().await;
}

async fn all_are_as_they_were(registry: &Registry) {
    for n in 0..MANY {
        let name = format!("accounts/acme/secrets/s-{n:03}");
        assert_eq!(access(registry, &name).await.unwrap(), (format!("value {n}"), 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_is_killed_is_finished_by_another_process() {
    let world = start().await;
    set_many(&world.registry).await;
    // The second batch waits for this test.
    let gate = format!(
        "CREATE FUNCTION wait_for_gate() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN NEW; END $$;
         CREATE TRIGGER gate BEFORE UPDATE ON registry.secrets
         FOR EACH ROW WHEN (NEW.key = 's-120') EXECUTE FUNCTION wait_for_gate();"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(gate)).execute(world.database.pool()).await.unwrap();
    let mut held = world.database.pool().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(GATE).execute(&mut *held).await.unwrap();

    let mut killed = world.another_with(with_keys(&["b", "a"])).await;
    until_under(&world, "b", 100).await;
    killed.shutdown.force();
    killed.task.abort();
    let _ = patiently(&mut killed.task).await;
    assert_eq!((under(&world, "a").await, under(&world, "b").await), (50, 100));
    // In the middle of it, whoever has both keys reads everything.
    let heir = world.another_with(with_keys(&["b", "a"])).await;
    all_are_as_they_were(&heir).await;

    held.rollback().await.unwrap();
    until_under(&world, "b", MANY).await;
    let without_old = world.another_with(with_keys(&["b"])).await;
    all_are_as_they_were(&without_old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_rotate_together() {
    let world = start().await;
    set_many(&world.registry).await;
    let _others = [
        world.another_with(with_keys(&["b", "a"])).await,
        world.another_with(with_keys(&["b", "a"])).await,
        world.another_with(with_keys(&["b", "a"])).await,
    ];
    until_under(&world, "b", MANY).await;
    let without_old = world.another_with(with_keys(&["b"])).await;
    all_are_as_they_were(&without_old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_does_not_decrypt_does_not_stop_the_others() {
    let world = start().await;
    set_many(&world.registry).await;
    sqlx::query("UPDATE registry.secrets SET wrapped_key = '' WHERE key = 's-000'")
        .execute(world.database.pool())
        .await
        .unwrap();
    sqlx::query("UPDATE registry.secrets SET key_id = 'lost' WHERE key = 's-001'")
        .execute(world.database.pool())
        .await
        .unwrap();
    let _other = world.another_with(with_keys(&["b", "a"])).await;
    until_under(&world, "b", MANY - 2).await;
    assert_eq!((under(&world, "a").await, under(&world, "lost").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_takes_over_without_a_restart_and_a_broken_one_changes_nothing() {
    // The log is the process's: nextest gives each test its own.
    let log = Log::of_process("error");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, key_lines(&["a"])).unwrap();
    let path = file.clone();
    let world = World::start_with(|config| config.secrets.secret_keys_file = Some(path)).await;
    set(&world.registry, "crm", "x").await.unwrap();
    std::fs::write(&file, "not a key\n").unwrap();
    eventually(async || log.text().contains("the keys of secrets cannot be read again")).await;
    assert_eq!(access(&world.registry, CRM).await.unwrap().0, "x");
    std::fs::write(&file, key_lines(&["b", "a"])).unwrap();
    until_under(&world, "b", 1).await;
    std::fs::write(&file, key_lines(&["c"])).unwrap();
    eventually(async || access(&world.registry, CRM).await.is_err()).await;
    refused(access(&world.registry, CRM).await, Code::FailedPrecondition, "SECRET_KEY_MISSING");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_be_used_stops_the_start_and_says_why() {
    let world = World::start().await;
    let missing = |config: &mut chatfn_registry::Config| {
        config.secrets.secret_keys_file = Some("/nonexistent/keys".into());
    };
    let mut registry = world.another_with(missing).await;
    let error = format!("{:#}", patiently(&mut registry.task).await.unwrap().unwrap_err());
    assert!(error.contains("/nonexistent/keys") && error.contains("No such file"), "{error}");
}
