//! Callers whose time is up, and those who are too many.

use std::time::Duration;

use chatfn_proto::registry::v1::{Function, GetFunctionRequest, UpdateFunctionRequest};
use chatfn_registry::Config;
use chatfn_rpc::{RequestExt as _, reasons};
use sqlx::{PgPool, Postgres, Transaction};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

use crate::{
    harness::{ACME, PATIENCE, START, World, patiently, refused},
    watcher::Watcher,
};

/// So much that only a call's own time ends a statement while the test waits.
fn without_limits(config: &mut Config) {
    config.database.statement_timeout = 10 * PATIENCE;
    config.database.lock_timeout = 10 * PATIENCE;
}

/// Keeps the function from being changed, until it is dropped.
async fn obstacle(world: &World) -> Transaction<'static, Postgres> {
    let mut transaction = world.database.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM registry.functions FOR UPDATE").execute(&mut *transaction).await.unwrap();
    transaction
}

/// Waits until so many statements of calls run, all of which wait for the obstacle.
async fn running(pool: &PgPool, count: i64) {
    let running = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'chatfn' AND wait_event_type = 'Lock'";
    patiently(async {
        while sqlx::query_scalar::<_, i64>(running).fetch_one(pool).await.unwrap() != count {}
    })
    .await;
}

fn update(world: &World, budget: Duration) -> JoinHandle<Result<(), Status>> {
    let function = Function { name: START.to_owned(), source: "changed".to_owned(), ..Default::default() };
    let request = UpdateFunctionRequest { function: Some(function), update_mask: None, ..Default::default() };
    let mut functions = world.registry.functions();
    let request = Request::new(request).with_timeout(budget);
    tokio::spawn(async move { functions.update_function(request).await.map(drop) })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_with_the_call_that_waits_for_it() {
    let world = World::start_with(without_limits).await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let obstacle = obstacle(&world).await;
    // Enough to run into the obstacle on a slow machine.
    let update = update(&world, Duration::from_secs(4));
    running(world.database.pool(), 1).await;
    refused(patiently(update).await.unwrap(), Code::DeadlineExceeded, reasons::DEADLINE_EXCEEDED.name());
    running(world.database.pool(), 0).await;
    obstacle.rollback().await.unwrap();
    assert_eq!(world.registry.get(START).await.unwrap(), created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_does_not_wait_longer_for_a_connection_than_it_has_time() {
    let world = World::start_with(|config| {
        without_limits(config);
        config.database.max_connections = 1;
        config.database.acquire_timeout = 10 * PATIENCE;
    })
    .await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let obstacle = obstacle(&world).await;
    let update = update(&world, PATIENCE);
    running(world.database.pool(), 1).await;
    let request = Request::new(GetFunctionRequest { name: START.to_owned() });
    let get = world.registry.functions().get_function(request.with_timeout(Duration::from_millis(300))).await;
    refused(get, Code::DeadlineExceeded, reasons::DEADLINE_EXCEEDED.name());
    obstacle.rollback().await.unwrap();
    patiently(update).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_gets_in_when_callers_are_too_many() {
    let world = World::start_with(|config| {
        without_limits(config);
        config.rpc.max_calls = 1;
    })
    .await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let obstacle = obstacle(&world).await;
    let update = update(&world, PATIENCE);
    running(world.database.pool(), 1).await;
    refused(world.registry.get(START).await, Code::ResourceExhausted, reasons::SERVER_BUSY.name());
    let mut watcher = Watcher::start(&world.registry, false).await;
    watcher.snapshot().await;
    // The few that are kept are not without end, either.
    let another = Watcher::call(&world.registry, []).await.map(drop);
    refused(another, Code::ResourceExhausted, reasons::SERVER_BUSY.name());
    obstacle.rollback().await.unwrap();
    patiently(update).await.unwrap().unwrap();
}
