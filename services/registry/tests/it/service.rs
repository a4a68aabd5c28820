//! The process: health, start, drain, and a store that fails.

use std::{pin::pin, time::Duration};

use chatfn_pg::testing::TestDatabase;
use chatfn_rpc::RequestExt as _;
use futures_util::future::{Either, select};
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    harness::{ACME, Registry, START, World, patiently, refused},
    watcher::Watcher,
};

/// Health's number for SERVING.
const SERVING: i32 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_serves_says_so() {
    let world = World::start().await;
    let mut health = HealthClient::new(world.registry.client.clone());
    for service in ["", "chatfn.registry.v1.FunctionService", "chatfn.registry.v1.DeploymentWatchService"] {
        let request = HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, SERVING, "{service}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_schema_it_does_not_start_and_says_what_to_run() {
    let database = TestDatabase::create_empty().await;
    let mut registry = Registry::start(database.url(), ([127, 0, 0, 1], 1).into(), |_| {}).await;
    let error = patiently(&mut registry.task).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("chatfn-db migrate"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_does_not_wait_for_watchers() {
    let world = World::start().await;
    let mut watcher = Watcher::start(&world.registry, false).await;
    watcher.snapshot().await;
    let other = world.another().await;
    let mut stays = Watcher::start(&other, false).await;
    stays.snapshot().await;

    let started = std::time::Instant::now();
    world.registry.shutdown.begin();
    let status = watcher.end().await;
    assert_eq!(status.code(), Code::Unavailable);
    let mut world = world;
    patiently(&mut world.registry.task).await.unwrap().unwrap();
    // The default drain timeout is 20 s; a drain that waits for watchers would take all of it.
    assert!(started.elapsed() < Duration::from_secs(15));
}

/// A lock on the function's row, for as long as the transaction lives.
async fn lock(world: &World) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut transaction = world.database.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM registry.functions FOR UPDATE").execute(&mut *transaction).await.unwrap();
    transaction
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_pool_is_unavailable_and_says_when_to_come_back() {
    let world = World::start_with(|config| {
        config.database.max_connections = 1;
        config.database.acquire_timeout = Duration::from_millis(500);
    })
    .await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let lock = lock(&world).await;
    // Of two calls, one has the only connection and waits for the lock, so the other gets none.
    let (first, second) = (pin!(world.registry.undeploy(START)), pin!(world.registry.undeploy(START)));
    let (refusal, other) = match patiently(select(first, second)).await {
        Either::Left(ended) | Either::Right(ended) => ended,
    };
    let report = refused(refusal, Code::Unavailable, "STORE_UNAVAILABLE");
    assert!(report.retry_after.is_some());
    lock.rollback().await.unwrap();
    patiently(other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_not_granted_is_unavailable() {
    let world = World::start_with(|config| config.database.lock_timeout = Duration::from_millis(50)).await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let _lock = lock(&world).await;
    let report = refused(world.registry.delete(START).await, Code::Unavailable, "STORE_UNAVAILABLE");
    assert!(report.retry_after.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_exceeds_its_deadline() {
    let world =
        World::start_with(|config| config.database.statement_timeout = Duration::from_millis(200)).await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let _lock = lock(&world).await;
    refused(world.registry.delete(START).await, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_deadline_bounds_the_wait_for_the_store() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let _lock = lock(&world).await;
    let request = chatfn_proto::registry::v1::DeleteFunctionRequest {
        name: START.into(),
        etag: String::new(),
        ..Default::default()
    };
    let request = Request::new(request).with_timeout(Duration::from_millis(200));
    let result = patiently(world.registry.functions().delete_function(request)).await;
    refused(result, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
}
