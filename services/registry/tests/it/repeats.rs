//! A change that is asked for again with the same `request_id` is made once.

use chatfn_proto::registry::v1::{
    CreateFunctionRequest, DeleteFunctionRequest, DeployFunctionRequest, DeployFunctionResponse, Function,
    UndeployFunctionRequest, UpdateFunctionRequest,
};
use futures_util::future::join_all;
use sqlx::Row as _;
use tonic::{Code, Status};

use crate::{
    audit::entries,
    harness::{ACME, Registry, START, World, deploy_request, eventually, refused},
    invoker::Answer,
    secrets::{access, key_lines, set_request, with_keys},
};

const ID: &str = "2f1c7a0e-5d3b-4c8e-9a51-0c2d6e7f8a90";
const OTHER_ID: &str = "b7a6f0d1-93c4-4f5e-8b1a-6d0e2c3f4a5b";

fn create_request() -> CreateFunctionRequest {
    CreateFunctionRequest {
        parent: ACME.into(),
        template: "chat.start".into(),
        request_id: ID.into(),
        ..Default::default()
    }
}

async fn create(registry: &Registry, request: CreateFunctionRequest) -> Result<Function, Status> {
    Ok(registry.functions().create_function(request).await?.into_inner().function.unwrap())
}

/// What a deploy has made, without how far it has reached.
fn made(response: DeployFunctionResponse) -> DeployFunctionResponse {
    DeployFunctionResponse { propagation: None, ..response }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_gets_the_first_answer_and_changes_nothing() {
    let world = World::start().await;
    let other = world.another().await;
    let first = create(&world.registry, create_request()).await.unwrap();
    let edited = world.registry.edit(START, "function lambda() {}").await;
    assert_eq!(create(&other, create_request()).await.unwrap(), first);
    assert_eq!(world.registry.get(START).await.unwrap(), edited);

    let function =
        Function { name: START.into(), description: "b".into(), etag: edited.etag, ..Default::default() };
    let update = UpdateFunctionRequest {
        function: Some(function),
        request_id: OTHER_ID.to_uppercase(),
        ..Default::default()
    };
    let updated = world.registry.functions().update_function(update.clone()).await.unwrap().into_inner();
    // Its etag is stale by now, and it is answered all the same.
    let again = UpdateFunctionRequest { request_id: OTHER_ID.into(), ..update };
    assert_eq!(other.functions().update_function(again).await.unwrap().into_inner(), updated);
    assert_eq!(entries(&world.registry).await.len(), 3, "create, edit, update");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_for_one_request_of_one_account() {
    let world = World::start().await;
    let registry = &world.registry;
    create(registry, create_request()).await.unwrap();
    let others = [
        CreateFunctionRequest { template: "chat.end".into(), ..create_request() },
        CreateFunctionRequest { function: Some(Function::default()), ..create_request() },
    ];
    for other in others {
        let report = refused(create(registry, other).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
        assert_eq!(report.fields[0].field, "request_id");
    }
    let delete = DeleteFunctionRequest { name: START.into(), request_id: ID.into(), ..Default::default() };
    let refusal = registry.functions().delete_function(delete).await;
    refused(refusal, Code::InvalidArgument, "REQUEST_ID_REUSED");
    let deploy = DeployFunctionRequest { request_id: ID.into(), ..deploy_request(START) };
    refused(registry.deploy_request(deploy).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert!(world.invoker.asked().is_empty(), "it is refused before an invoker is asked");
    // Another account's ids are its own.
    create(registry, CreateFunctionRequest { parent: "accounts/umbrella".into(), ..create_request() })
        .await
        .unwrap();
    let malformed = CreateFunctionRequest { request_id: "42".into(), ..create_request() };
    let report = refused(create(registry, malformed).await, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "request_id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_repetitions_one_makes_the_change_and_all_get_its_answer() {
    let world = World::start().await;
    let other = world.another().await;
    let registry = |caller: usize| if caller.is_multiple_of(2) { &world.registry } else { &other };
    let created = join_all((0..32).map(|caller| create(registry(caller), create_request()))).await;
    let first = world.registry.get(START).await.unwrap();
    for function in created {
        assert_eq!(function.unwrap(), first);
    }
    let deploy = DeployFunctionRequest { request_id: OTHER_ID.into(), ..deploy_request(START) };
    let deployed = join_all((0..16).map(|caller| registry(caller).deploy_request(deploy.clone()))).await;
    let mut deployed = deployed.into_iter().map(|answer| made(answer.unwrap()));
    let answer = deployed.next().unwrap();
    assert_eq!(answer.version.as_ref().unwrap().number, 1);
    assert!(deployed.all(|other| other == answer));
    assert_eq!(entries(&world.registry).await.len(), 2, "create, deploy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_deploy_asks_no_invoker_and_does_not_bring_back_what_was_undeployed() {
    let world = World::start().await;
    let registry = &world.registry;
    create(registry, create_request()).await.unwrap();
    let deploy = DeployFunctionRequest { request_id: OTHER_ID.into(), ..deploy_request(START) };
    world.invoker.push(Answer::Warns("reads the clock".into()));
    let first = made(registry.deploy_request(deploy.clone()).await.unwrap());
    assert_eq!(first.warnings, ["reads the clock"]);
    registry.undeploy(START).await.unwrap();
    assert_eq!(made(registry.deploy_request(deploy).await.unwrap()), first);
    assert_eq!(registry.get(START).await.unwrap().live_version, 0);
    assert_eq!(world.invoker.asked().len(), 1);

    // The same of undeploy, and of delete.
    let undeploy = UndeployFunctionRequest {
        name: START.into(),
        request_id: "00000000-0000-4000-8000-000000000001".into(),
        ..Default::default()
    };
    registry.functions().undeploy_function(undeploy.clone()).await.unwrap();
    registry.deploy(START).await.unwrap();
    registry.functions().undeploy_function(undeploy).await.unwrap();
    assert_eq!(registry.get(START).await.unwrap().live_version, 2);
    registry.undeploy(START).await.unwrap();
    let delete = DeleteFunctionRequest {
        name: START.into(),
        request_id: "00000000-0000-4000-8000-000000000002".into(),
        ..Default::default()
    };
    registry.functions().delete_function(delete.clone()).await.unwrap();
    registry.create(ACME, "chat.start").await.unwrap();
    registry.functions().delete_function(delete).await.unwrap();
    registry.get(START).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_is_not_kept() {
    let world = World::start().await;
    let registry = &world.registry;
    let deploy = DeployFunctionRequest { request_id: ID.into(), ..deploy_request(START) };
    refused(registry.deploy_request(deploy.clone()).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    registry.create(ACME, "chat.start").await.unwrap();
    world.invoker.push_broken(Default::default());
    refused(registry.deploy_request(deploy.clone()).await, Code::FailedPrecondition, "BUILD_FAILED");
    registry.deploy_request(deploy).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_of_a_secret_does_not_tell_its_value() {
    let world = World::start_with(with_keys(&["a"])).await;
    let request = |value: &str| chatfn_proto::registry::v1::SetSecretRequest {
        request_id: ID.into(),
        ..set_request(ACME, "crm", value)
    };
    let first = world.registry.secrets().set_secret(request("1234")).await.unwrap().into_inner();
    assert_eq!(world.registry.secrets().set_secret(request("1234")).await.unwrap().into_inner(), first);
    let other_value = world.registry.secrets().set_secret(request("1235")).await;
    refused(other_value, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert_eq!(access(&world.registry, "accounts/acme/secrets/crm").await.unwrap(), ("1234".into(), 1));

    // A registry with other keys cannot tell: the fingerprint needs them.
    let stranger = world.another_with(with_keys(&["b"])).await;
    let refusal = stranger.secrets().set_secret(request("1234")).await;
    refused(refusal, Code::InvalidArgument, "REQUEST_ID_REUSED");
    // One that has rotated still recognises it.
    let rotated =
        world.another_with(|config| config.secrets.secret_keys = Some(key_lines(&["b", "a"]).into())).await;
    assert_eq!(rotated.secrets().set_secret(request("1234")).await.unwrap().into_inner(), first);
    let kept = sqlx::query("SELECT response FROM registry.requests").fetch_one(world.database.pool()).await;
    let response: Vec<u8> = kept.unwrap().get(0);
    assert!(!response.windows(4).any(|window| window == b"1234"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_entries_are_removed_when_they_are_old() {
    let world = World::start().await;
    create(&world.registry, create_request()).await.unwrap();
    let pool = world.database.pool();
    sqlx::query("UPDATE registry.requests SET create_time = now() - interval '25 hours'")
        .execute(pool)
        .await
        .unwrap();
    // More than one batch.
    sqlx::query(
        "INSERT INTO registry.audit_entries (account, entry_time, caller, action, resource)
         SELECT 'acme', now() - interval '401 days', 'x', 'x', 'x' FROM generate_series(1, 1200)",
    )
    .execute(pool)
    .await
    .unwrap();
    // Each registry removes at its start, and now and then.
    let other = world.another().await;
    eventually(async || {
        let left: (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM registry.requests), (SELECT count(*) FROM registry.audit_entries)",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        left == (0, 1)
    })
    .await;
    // It is a new request by now.
    refused(create(&other, create_request()).await, Code::AlreadyExists, "FUNCTION_EXISTS");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repetition_is_answered_although_the_request_would_be_refused_by_now() {
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("acme.own");
    std::fs::create_dir(&template).unwrap();
    for (file, contents) in [
        ("template.json", r#"{"display_name": "Own", "firing": "repeated", "description": ["Ours."]}"#),
        ("schema.json", r#"{"type": "object"}"#),
        ("sample.json", "{}"),
        ("starter.js", "async function lambda() {}"),
    ] {
        std::fs::write(template.join(file), contents).unwrap();
    }
    let world = World::start_with(|config| config.templates = Some(folder.path().to_owned())).await;
    let request = CreateFunctionRequest { template: "acme.own".into(), ..create_request() };
    let first = create(&world.registry, request.clone()).await.unwrap();

    // The operator has taken the template out of the catalogue since.
    let other = world.another().await;
    assert_eq!(create(&other, request.clone()).await.unwrap(), first);
    let another = CreateFunctionRequest { request_id: OTHER_ID.into(), ..request };
    refused(create(&other, another).await, Code::NotFound, "TEMPLATE_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_its_newest_thousand_answers() {
    let world = World::start().await;
    let pool = world.database.pool();
    sqlx::query(
        "INSERT INTO registry.requests (account, caller, request_id, fingerprint, response, create_time)
         SELECT account, 'x', gen_random_uuid(), '', '', now() - number * interval '1 second'
         FROM generate_series(1, 1050) AS number, unnest('{acme,umbrella}'::text[]) AS account",
    )
    .execute(pool)
    .await
    .unwrap();
    let first = create(&world.registry, create_request()).await.unwrap();
    let kept: Vec<(String, i64)> =
        sqlx::query_as("SELECT account, count(*) FROM registry.requests GROUP BY account ORDER BY account")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(kept, [("acme".to_owned(), 1_000), ("umbrella".to_owned(), 1_050)]);
    // The newest answer is not one that went.
    assert_eq!(create(&world.registry, create_request()).await.unwrap(), first);
}
