//! Deploying, rolling back, undeploying; what an invoker says about it.

use std::time::Duration;

use chatfn_proto::{
    invoker::v1::{BuildError, BuildErrorKind},
    registry::v1::{
        DeployFunctionRequest, FunctionState, GetVersionRequest, ListVersionsRequest, ListVersionsResponse,
        Version,
    },
};
use chatfn_rpc::RequestExt as _;
use tonic::{Code, Request, Status};

use crate::{
    harness::{ACME, Registry, START, World, deploy_request, patiently, refused},
    invoker::Answer,
};

const FIRST: &str = "function lambda() { return 1; }";
const SECOND: &str = "function lambda() { return 2; }";

async fn started() -> World {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    world.registry.edit(START, FIRST).await;
    world
}

async fn version(registry: &Registry, number: i64) -> Result<Version, Status> {
    let request = GetVersionRequest { name: format!("{START}/versions/{number}") };
    Ok(registry.functions().get_version(request).await?.into_inner().version.unwrap())
}

async fn versions(registry: &Registry, request: ListVersionsRequest) -> Result<ListVersionsResponse, Status> {
    Ok(registry.functions().list_versions(request).await?.into_inner())
}

async fn numbers(registry: &Registry) -> Vec<i64> {
    let request = ListVersionsRequest { parent: START.into(), ..Default::default() };
    versions(registry, request).await.unwrap().versions.into_iter().map(|version| version.number).collect()
}

fn syntax_error() -> BuildError {
    BuildError {
        kind: BuildErrorKind::Syntax.into(),
        message: "syntax error at line 3, column 7: unexpected token '}'".into(),
        line: 3,
        column: 7,
        stack: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_makes_a_version_live_and_an_edit_leaves_it_live() {
    let world = started().await;
    let request = DeployFunctionRequest { message: "the first".into(), ..deploy_request(START) };
    let deployed = world.registry.deploy_request(request).await.unwrap();
    let function = deployed.function.unwrap();
    assert_eq!((function.state(), function.live_version), (FunctionState::Productive, 1));
    let made = deployed.version.unwrap();
    assert_eq!((made.number, made.message.as_str(), made.source.as_str()), (1, "the first", ""));
    assert_eq!(made.digest, function.draft_digest);

    let asked = world.invoker.asked();
    assert_eq!((asked.len(), asked[0].source.as_str(), asked[0].memory_mib), (1, FIRST, 64));

    let edited = world.registry.edit(START, SECOND).await;
    assert_eq!((edited.state(), edited.live_version), (FunctionState::Modified, 1));
    assert_eq!(version(&world.registry, 1).await.unwrap().source, FIRST);
    // The same text again is what is live.
    assert_eq!(world.registry.edit(START, FIRST).await.state(), FunctionState::Productive);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_that_is_live_makes_no_new_version() {
    let world = started().await;
    let first = world.registry.deploy(START).await.unwrap();
    let again = world.registry.deploy(START).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(numbers(&world.registry).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_version_can_be_deployed_again() {
    let world = started().await;
    world.registry.deploy(START).await.unwrap();
    world.registry.edit(START, SECOND).await;
    world.registry.deploy(START).await.unwrap();

    let back = DeployFunctionRequest { version: 1, ..deploy_request(START) };
    let rolled_back = world.registry.deploy_request(back.clone()).await.unwrap();
    let function = rolled_back.function.unwrap();
    assert_eq!((function.state(), function.live_version), (FunctionState::Modified, 1));
    assert_eq!(function.source, SECOND, "the draft stays");
    assert_eq!(world.invoker.asked().last().unwrap().source, FIRST, "it was prepared again");
    assert_eq!(numbers(&world.registry).await, [2, 1]);
    // And forward: the draft equals version 2, but that is not live, so it becomes a version of its own.
    assert_eq!(world.registry.deploy(START).await.unwrap().version.unwrap().number, 3);

    let unknown = DeployFunctionRequest { version: 9, ..back };
    let report = refused(world.registry.deploy_request(unknown).await, Code::NotFound, "VERSION_NOT_FOUND");
    assert_eq!(report.resource.unwrap().name, format!("{START}/versions/9"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_can_be_listed_in_pages() {
    let world = started().await;
    for number in 1..=5 {
        world.registry.edit(START, &format!("function lambda() {{ return {number}; }}")).await;
        world.registry.deploy(START).await.unwrap();
    }
    let mut request = ListVersionsRequest { parent: START.into(), page_size: 2, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = versions(&world.registry, request.clone()).await.unwrap();
        assert!(page.versions.iter().all(|version| version.source.is_empty()));
        found.extend(page.versions.into_iter().map(|version| version.number));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(found, [5, 4, 3, 2, 1]);

    request.page_token.push('0');
    refused(versions(&world.registry, request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    let unknown =
        ListVersionsRequest { parent: "accounts/x/functions/chat.start".into(), ..Default::default() };
    refused(versions(&world.registry, unknown).await, Code::NotFound, "FUNCTION_NOT_FOUND");
    refused(version(&world.registry, 6).await, Code::NotFound, "VERSION_NOT_FOUND");
    let name = format!("{START}/versions/3");
    assert_eq!(version(&world.registry, 3).await.unwrap().name, name);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_versions_are_kept_and_the_one_to_go_back_to() {
    let world = started().await;
    world.registry.deploy(START).await.unwrap();
    for statement in [
        "INSERT INTO registry.versions (account, template, number, source, settings, digest, message, author)
         SELECT account, template, n, source, settings, digest, message, author
         FROM registry.versions, generate_series(2, 149) n",
        "UPDATE registry.deployments SET last_version = 149",
    ] {
        sqlx::query(statement).execute(world.database.pool()).await.unwrap();
    }
    let kept = async || {
        let request = ListVersionsRequest { parent: START.into(), page_size: 200, ..Default::default() };
        let listed = versions(&world.registry, request).await.unwrap().versions;
        listed.into_iter().map(|version| version.number).collect::<Vec<_>>()
    };
    world.registry.edit(START, SECOND).await;
    assert_eq!(world.registry.deploy(START).await.unwrap().version.unwrap().number, 150);
    assert_eq!(kept().await, (51..=150).rev().chain([1]).collect::<Vec<_>>(), "1 was live");

    let back = DeployFunctionRequest { version: 51, ..deploy_request(START) };
    world.registry.deploy_request(back).await.unwrap();
    world.registry.edit(START, FIRST).await;
    let try_out = DeployFunctionRequest { validate_only: true, ..deploy_request(START) };
    world.registry.deploy_request(try_out).await.unwrap();
    assert_eq!(kept().await.len(), 101, "nothing was deployed");
    world.registry.edit(START, "function lambda() { return 3; }").await;
    world.registry.deploy(START).await.unwrap();
    assert_eq!(kept().await, (51..=151).rev().collect::<Vec<_>>(), "51 was live");
    refused(version(&world.registry, 1).await, Code::NotFound, "VERSION_NOT_FOUND");
    assert_eq!(version(&world.registry, 51).await.unwrap().number, 51);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_cannot_be_changed_even_in_the_database() {
    let world = started().await;
    world.registry.deploy(START).await.unwrap();
    let update = sqlx::query("UPDATE registry.versions SET source = 'x'").execute(world.database.pool());
    assert!(update.await.unwrap_err().to_string().contains("never changes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_build_is_kept_and_leaves_what_is_live() {
    let world = started().await;
    world.registry.deploy(START).await.unwrap();
    let broken = world.registry.edit(START, "function lambda() {").await;
    world.invoker.push_broken(syntax_error());
    let report = refused(world.registry.deploy(START).await, Code::FailedPrecondition, "BUILD_FAILED");
    assert!(report.message.contains("line 3, column 7: unexpected token '}'"), "{}", report.message);
    assert_eq!(
        (&*report.metadata["kind"], &*report.metadata["line"], &*report.metadata["column"]),
        ("SYNTAX", "3", "7")
    );

    let function = world.registry.get(START).await.unwrap();
    assert_eq!(function.build_error, Some(syntax_error()));
    assert_eq!((function.state(), function.live_version), (FunctionState::Modified, 1));
    assert_eq!(function.etag, broken.etag, "neither draft nor deployment has changed");
    assert_eq!(numbers(&world.registry).await, [1]);

    world.registry.edit(START, SECOND).await;
    let fixed = world.registry.deploy(START).await.unwrap().function.unwrap();
    assert_eq!((fixed.build_error, fixed.live_version), (None, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_top_level_code_throws_can_be_kept() {
    let world = started().await;
    let thrown = BuildError {
        kind: BuildErrorKind::TopLevelThrow.into(),
        message: format!("\0\u{ffff}{}", "ü".repeat(50_000)),
        stack: "\0".repeat(50_000),
        ..syntax_error()
    };
    world.invoker.push_broken(thrown);
    refused(world.registry.deploy(START).await, Code::FailedPrecondition, "BUILD_FAILED");
    let kept = world.registry.get(START).await.unwrap().build_error.unwrap();
    assert_eq!(kept.kind(), BuildErrorKind::TopLevelThrow);
    assert!(kept.message.starts_with("\u{fffd}\u{ffff}ü"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_invoker_nothing_changes() {
    let world = World::start_with(|config| {
        // Nobody listens there: the port was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        config.invoker = format!("http://{free}").parse().unwrap();
    })
    .await;
    let created = world.registry.create(ACME, "chat.start").await.unwrap();
    let report = refused(world.registry.deploy(START).await, Code::Unavailable, "INVOKER_UNAVAILABLE");
    assert!(report.retry_after.is_some());
    assert_eq!(world.registry.get(START).await.unwrap(), created);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoker_that_fails_changes_nothing() {
    let world = started().await;
    let before = world.registry.get(START).await.unwrap();
    for code in [Code::Internal, Code::Unimplemented, Code::InvalidArgument] {
        world.invoker.push(Answer::Fails(code));
        refused(world.registry.deploy(START).await, Code::Unavailable, "INVOKER_UNAVAILABLE");
    }
    let busy =
        [(Answer::Fails(Code::ResourceExhausted), "OVERLOADED"), (Answer::AccountBusy, "ACCOUNT_BUSY")];
    for (answer, reason) in busy {
        world.invoker.push(answer);
        let report = refused(world.registry.deploy(START).await, Code::ResourceExhausted, reason);
        assert!(report.retry_after.is_some());
    }
    assert!(
        world.invoker.asked().iter().all(|asked| asked.function == START),
        "preparations are shared by account"
    );
    assert_eq!(world.registry.get(START).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_callers_deadline_bounds_the_preparation() {
    let world = started().await;
    let _never_opened = world.invoker.push_gate();
    let request = Request::new(deploy_request(START)).with_timeout(Duration::from_millis(300));
    let result = patiently(world.registry.functions().deploy_function(request)).await;
    refused(result, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!(world.registry.get(START).await.unwrap().live_version, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_during_the_preparation_is_not_deployed() {
    let world = started().await;
    let gate = world.invoker.push_gate();
    let edit = async {
        gate.entered().await;
        let edited = world.registry.edit(START, SECOND).await;
        gate.open();
        edited
    };
    let (deployed, edited) = tokio::join!(world.registry.deploy(START), edit);
    let report = refused(deployed, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(report.metadata["current_etag"], edited.etag);
    assert_eq!(world.registry.get(START).await.unwrap(), edited);
    assert_eq!(numbers(&world.registry).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_took_the_place_of_the_prepared_one_is_not_deployed() {
    let world = started().await;
    let gate = world.invoker.push_gate();
    let replace = async {
        gate.entered().await;
        world.registry.delete(START).await.unwrap();
        world.registry.create(ACME, "chat.start").await.unwrap();
        world.registry.edit(START, FIRST).await;
        gate.open();
    };
    let (deployed, ()) = tokio::join!(world.registry.deploy(START), replace);
    refused(deployed, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(world.registry.get(START).await.unwrap().live_version, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_invoker_holds_no_connection() {
    let world = World::start_with(|config| config.database.max_connections = 1).await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let gate = world.invoker.push_gate();
    let read = async {
        gate.entered().await;
        patiently(world.registry.get(START)).await.unwrap();
        gate.open();
    };
    let (deployed, ()) = tokio::join!(world.registry.deploy(START), read);
    deployed.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_with_a_stale_etag_asks_no_invoker() {
    let world = started().await;
    let etag = world.registry.get(START).await.unwrap().etag;
    world.registry.edit(START, SECOND).await;
    let request = DeployFunctionRequest { etag, ..deploy_request(START) };
    refused(world.registry.deploy_request(request).await, Code::Aborted, "ETAG_MISMATCH");
    assert!(world.invoker.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_function_must_be_undeployed_before_it_is_deleted() {
    let world = started().await;
    world.registry.deploy(START).await.unwrap();
    let report = refused(world.registry.delete(START).await, Code::FailedPrecondition, "FUNCTION_DEPLOYED");
    assert!(report.message.contains("UndeployFunction"), "{}", report.message);

    let undeployed = world.registry.undeploy(START).await.unwrap().function.unwrap();
    assert_eq!((undeployed.state(), undeployed.live_version), (FunctionState::Draft, 0));
    assert_eq!(undeployed.source, FIRST);
    // Once more is fine, and changes nothing.
    assert_eq!(world.registry.undeploy(START).await.unwrap().function.unwrap(), undeployed);
    assert_eq!(numbers(&world.registry).await, [1]);
    world.registry.delete(START).await.unwrap();
    refused(version(&world.registry, 1).await, Code::NotFound, "VERSION_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn version_numbers_are_never_used_twice() {
    let world = started().await;
    assert_eq!(world.registry.deploy(START).await.unwrap().version.unwrap().number, 1);
    world.registry.undeploy(START).await.unwrap();
    assert_eq!(world.registry.deploy(START).await.unwrap().version.unwrap().number, 2);
    world.registry.undeploy(START).await.unwrap();
    world.registry.delete(START).await.unwrap();
    world.registry.create(ACME, "chat.start").await.unwrap();
    assert_eq!(world.registry.deploy(START).await.unwrap().version.unwrap().number, 3);
    assert_eq!(numbers(&world.registry).await, [3]);
}
