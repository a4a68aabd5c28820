//! `validate_only`: everything is checked and told, and nothing is changed.

use chatfn_proto::registry::v1::{
    CreateFunctionRequest, DeployFunctionRequest, Function, FunctionState, UpdateFunctionRequest,
};
use tonic::Code;

use crate::{
    audit::entries,
    harness::{ACME, START, World, deploy_request, patiently, refused},
};

fn create_request() -> CreateFunctionRequest {
    CreateFunctionRequest {
        parent: ACME.into(),
        template: "chat.start".into(),
        validate_only: true,
        // Not used up by a trial.
        request_id: "2f1c7a0e-5d3b-4c8e-9a51-0c2d6e7f8a90".into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_that_is_tried_tells_what_would_be() {
    let world = World::start().await;
    let mut client = world.registry.functions();
    let tried = client.create_function(create_request()).await.unwrap().into_inner().function.unwrap();
    assert_eq!((tried.name.as_str(), tried.etag.as_str(), tried.state()), (START, "", FunctionState::Draft));
    refused(world.registry.get(START).await, Code::NotFound, "FUNCTION_NOT_FOUND");

    let real = CreateFunctionRequest { validate_only: false, ..create_request() };
    let real = client.create_function(real).await.unwrap().into_inner().function.unwrap();
    assert_eq!((real.draft_digest, real.display_name), (tried.draft_digest, tried.display_name));
    refused(client.create_function(create_request()).await, Code::AlreadyExists, "FUNCTION_EXISTS");
    let unknown = CreateFunctionRequest { template: "chat.nothing".into(), ..create_request() };
    refused(client.create_function(unknown).await, Code::NotFound, "TEMPLATE_NOT_FOUND");
    assert_eq!(entries(&world.registry).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_that_is_tried_changes_nothing() {
    let world = World::start().await;
    let stored = world.registry.create(ACME, "chat.start").await.unwrap();
    let update = |etag: &str| UpdateFunctionRequest {
        function: Some(Function {
            name: START.into(),
            source: "function lambda() {}".into(),
            etag: etag.into(),
            ..Default::default()
        }),
        validate_only: true,
        ..Default::default()
    };
    let mut client = world.registry.functions();
    let tried = client.update_function(update(&stored.etag)).await.unwrap().into_inner().function.unwrap();
    assert_eq!((tried.source.as_str(), tried.etag.as_str()), ("function lambda() {}", ""));
    assert_eq!(world.registry.get(START).await.unwrap(), stored);
    refused(client.update_function(update("x")).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(entries(&world.registry).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_is_tried_is_prepared_and_changes_nothing() {
    let world = World::start().await;
    let stored = world.registry.create(ACME, "chat.start").await.unwrap();
    let dry = || DeployFunctionRequest { validate_only: true, ..deploy_request(START) };
    let tried = world.registry.deploy_request(dry()).await.unwrap();
    let function = tried.function.unwrap();
    assert_eq!((function.state(), function.live_version), (FunctionState::Productive, 1));
    assert_eq!(function.etag, "");
    let version = tried.version.unwrap();
    assert_eq!((version.number, version.digest), (1, stored.draft_digest.clone()));
    assert_eq!(tried.propagation, None);
    assert_eq!(world.invoker.asked().len(), 1);
    assert_eq!(world.registry.get(START).await.unwrap(), stored);

    // Why a source does not build is told, and not kept.
    world.invoker.push_broken(Default::default());
    refused(world.registry.deploy_request(dry()).await, Code::FailedPrecondition, "BUILD_FAILED");
    assert_eq!(world.registry.get(START).await.unwrap(), stored);

    // A rollback can be tried, too.
    world.registry.deploy(START).await.unwrap();
    world.registry.edit(START, "function lambda() {}").await;
    let live = world.registry.deploy(START).await.unwrap().function.unwrap();
    let back = DeployFunctionRequest { version: 1, ..dry() };
    let tried = world.registry.deploy_request(back).await.unwrap().function.unwrap();
    assert_eq!((tried.live_version, tried.state()), (1, FunctionState::Modified));
    assert_eq!(world.registry.get(START).await.unwrap(), live);
    let missing = DeployFunctionRequest { version: 9, ..dry() };
    refused(world.registry.deploy_request(missing).await, Code::NotFound, "VERSION_NOT_FOUND");
    assert_eq!(entries(&world.registry).await.len(), 4, "create, deploy, edit, deploy");
}

/// Every deploy waits for every other one. One that is only tried does not: it tells nobody of anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_that_is_tried_waits_for_no_other_account() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let mut deploying = world.database.pool().begin().await.unwrap();
    let lock = "SELECT FROM registry.deployment_revision FOR UPDATE";
    sqlx::query(lock).execute(&mut *deploying).await.unwrap();
    let dry = || DeployFunctionRequest { validate_only: true, ..deploy_request(START) };
    let tried = patiently(world.registry.deploy_request(dry())).await.unwrap();
    assert_eq!(tried.version.unwrap().number, 1);
    deploying.commit().await.unwrap();

    // Nor does it when there is a deployment already.
    world.registry.deploy(START).await.unwrap();
    world.registry.edit(START, "function lambda() {}").await;
    let mut deploying = world.database.pool().begin().await.unwrap();
    sqlx::query(lock).execute(&mut *deploying).await.unwrap();
    let tried = patiently(world.registry.deploy_request(dry())).await.unwrap();
    assert_eq!(tried.version.unwrap().number, 2);
    deploying.commit().await.unwrap();
    assert_eq!(world.registry.get(START).await.unwrap().live_version, 1);
}
