//! Every change has an entry, which tells who did what, and what it was before and after.

use chatfn_proto::registry::v1::{
    AuditAction, AuditEntry, CreateFunctionRequest, DeleteSecretRequest, DeployFunctionRequest, Function,
    FunctionSettings, ListAuditEntriesRequest, ListAuditEntriesResponse, UpdateFunctionRequest,
    audit_service_client::AuditServiceClient,
};
use prost_types::Timestamp;
use tonic::{Code, Status};

use crate::{
    harness::{ACME, Registry, START, World, deploy_request, refused},
    secrets::{set, with_keys},
};

pub(crate) async fn list(
    registry: &Registry,
    request: ListAuditEntriesRequest,
) -> Result<ListAuditEntriesResponse, Status> {
    let mut client = AuditServiceClient::new(registry.client.clone());
    Ok(client.list_audit_entries(request).await?.into_inner())
}

fn of_acme() -> ListAuditEntriesRequest {
    ListAuditEntriesRequest { parent: ACME.into(), ..Default::default() }
}

/// All entries of the account of most tests, newest first.
pub(crate) async fn entries(registry: &Registry) -> Vec<AuditEntry> {
    let mut entries = Vec::new();
    let mut request = ListAuditEntriesRequest { page_size: 3, ..of_acme() };
    loop {
        let page = list(registry, request.clone()).await.unwrap();
        entries.extend(page.entries);
        if page.next_page_token.is_empty() {
            return entries;
        }
        request.page_token = page.next_page_token;
    }
}

/// Digest and version.
type Told<'a> = Option<(&'a str, i64)>;

/// What was done, and what there was before and after.
fn told(entry: &AuditEntry) -> (AuditAction, Told<'_>, Told<'_>) {
    let before = entry.before.as_ref().map(|state| (state.digest.as_str(), state.version));
    let after = entry.after.as_ref().map(|state| (state.digest.as_str(), state.version));
    (entry.action(), before, after)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_a_function_is_told() {
    let world = World::start().await;
    let registry = &world.registry;
    let created = registry.create(ACME, "chat.start").await.unwrap();
    let edit = Function {
        name: START.into(),
        source: "function lambda() {}".into(),
        settings: Some(FunctionSettings { memory_mib: 32, ..Default::default() }),
        ..Default::default()
    };
    let request_id = "2f1c7a0e-5d3b-4c8e-9a51-0c2d6e7f8a90";
    let edit =
        UpdateFunctionRequest { function: Some(edit), request_id: request_id.into(), ..Default::default() };
    let edited = registry.functions().update_function(edit).await.unwrap().into_inner().function.unwrap();
    world.invoker.push_broken(Default::default());
    refused(registry.deploy(START).await, Code::FailedPrecondition, "BUILD_FAILED");
    let deploy = DeployFunctionRequest { message: "the first".into(), ..deploy_request(START) };
    let version = registry.deploy_request(deploy).await.unwrap().version.unwrap();
    assert_eq!(version.author, "anonymous");
    // What changes nothing has no entry.
    registry.deploy(START).await.unwrap();
    registry.edit(START, "function lambda() {}").await;
    refused(registry.delete(START).await, Code::FailedPrecondition, "FUNCTION_DEPLOYED");
    registry.undeploy(START).await.unwrap();
    registry.undeploy(START).await.unwrap();
    registry.delete(START).await.unwrap();

    let entries = entries(registry).await;
    let (first, second) = (created.draft_digest.as_str(), edited.draft_digest.as_str());
    let told: Vec<_> = entries.iter().rev().map(told).collect();
    assert_eq!(
        told,
        [
            (AuditAction::CreateFunction, None, Some((first, 0))),
            (AuditAction::UpdateFunction, Some((first, 0)), Some((second, 0))),
            (AuditAction::DeployFunction, None, None),
            (AuditAction::DeployFunction, None, Some((second, 1))),
            (AuditAction::UndeployFunction, Some((second, 1)), None),
            (AuditAction::DeleteFunction, Some((second, 0)), None),
        ]
    );
    assert!(
        entries.iter().all(|entry| (entry.caller.as_str(), entry.resource.as_str()) == ("anonymous", START))
    );
    let reasons: Vec<_> = entries.iter().rev().map(|entry| entry.error_reason.as_str()).collect();
    assert_eq!(reasons, ["", "", "BUILD_FAILED", "", "", ""]);
    assert_eq!(entries[4].changed_fields, ["source", "settings.memory_mib"]);
    assert_eq!((entries[4].request_id.as_str(), entries[5].request_id.as_str()), (request_id, ""));
    assert_eq!(entries[2].message, "the first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_told_by_name_alone() {
    let world = World::start_with(with_keys(&["a"])).await;
    let registry = &world.registry;
    set(registry, "crm", "hunter2").await.unwrap();
    set(registry, "crm", "hunter3").await.unwrap();
    let delete = DeleteSecretRequest { name: "accounts/acme/secrets/crm".into(), ..Default::default() };
    registry.secrets().delete_secret(delete).await.unwrap();
    let entries = entries(registry).await;
    let told: Vec<_> = entries.iter().rev().map(told).collect();
    assert_eq!(
        told,
        [
            (AuditAction::SetSecret, None, Some(("", 1))),
            (AuditAction::SetSecret, Some(("", 1)), Some(("", 2))),
            (AuditAction::DeleteSecret, Some(("", 2)), None),
        ]
    );
    assert!(entries.iter().all(|entry| entry.resource == "accounts/acme/secrets/crm"));
    assert!(!format!("{entries:?}").contains("hunter"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_can_be_picked_by_thing_and_time_and_are_of_one_account() {
    let world = World::start().await;
    let registry = &world.registry;
    for template in ["chat.start", "chat.end", "chat.in_queue"] {
        registry.create(ACME, template).await.unwrap();
    }
    registry.create("accounts/umbrella", "chat.start").await.unwrap();
    registry.delete(START).await.unwrap();
    let all = entries(registry).await;
    assert_eq!(all.len(), 4);
    let time = |entry: &AuditEntry| entry.time.unwrap();
    assert!(all.is_sorted_by_key(|entry| std::cmp::Reverse((time(entry).seconds, time(entry).nanos))));

    let start =
        list(registry, ListAuditEntriesRequest { resource: START.into(), ..of_acme() }).await.unwrap();
    let actions: Vec<_> = start.entries.iter().map(AuditEntry::action).collect();
    assert_eq!(actions, [AuditAction::DeleteFunction, AuditAction::CreateFunction]);

    // From the second entry's time on, and before the last one's: the last is the newest.
    let between = ListAuditEntriesRequest {
        start_time: Some(time(&all[2])),
        end_time: Some(time(&all[0])),
        ..of_acme()
    };
    let page = list(registry, ListAuditEntriesRequest { page_size: 1, ..between.clone() }).await.unwrap();
    assert_eq!(page.entries, all[1..2]);
    let rest = ListAuditEntriesRequest { page_token: page.next_page_token.clone(), ..between };
    assert_eq!(list(registry, rest).await.unwrap().entries, all[2..3]);

    // A token holds for its list alone.
    for other in [
        ListAuditEntriesRequest { parent: "accounts/umbrella".into(), ..Default::default() },
        ListAuditEntriesRequest { resource: START.into(), ..of_acme() },
        of_acme(),
    ] {
        let request = ListAuditEntriesRequest { page_token: page.next_page_token.clone(), ..other };
        refused(list(registry, request).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    }
    for (request, field) in [
        (
            ListAuditEntriesRequest {
                resource: "accounts/umbrella/functions/chat.start".into(),
                ..of_acme()
            },
            "resource",
        ),
        (ListAuditEntriesRequest { resource: "x".into(), ..of_acme() }, "resource"),
        (
            ListAuditEntriesRequest {
                start_time: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
                ..of_acme()
            },
            "start_time",
        ),
        (
            ListAuditEntriesRequest { end_time: Some(Timestamp { seconds: 0, nanos: -1 }), ..of_acme() },
            "end_time",
        ),
    ] {
        let report = refused(list(registry, request).await, Code::InvalidArgument, "INVALID_REQUEST");
        assert_eq!(report.fields[0].field, field);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_never_changes_and_no_change_is_without_one() {
    let world = World::start().await;
    world.registry.create(ACME, "chat.start").await.unwrap();
    let pool = world.database.pool();
    let update = sqlx::query("UPDATE registry.audit_entries SET caller = 'nobody'").execute(pool).await;
    assert!(update.unwrap_err().to_string().contains("never changes"));

    // When the entry cannot be written, the change is not made.
    sqlx::query("ALTER TABLE registry.audit_entries ADD CONSTRAINT none CHECK (false) NOT VALID")
        .execute(pool)
        .await
        .unwrap();
    let request = CreateFunctionRequest {
        parent: ACME.into(),
        template: "chat.end".into(),
        request_id: "2f1c7a0e-5d3b-4c8e-9a51-0c2d6e7f8a90".into(),
        ..Default::default()
    };
    let refusal = world.registry.functions().create_function(request.clone()).await;
    assert_eq!(refusal.unwrap_err().code(), Code::Internal);
    refused(
        world.registry.get("accounts/acme/functions/chat.end").await,
        Code::NotFound,
        "FUNCTION_NOT_FOUND",
    );
    // Nor is an answer kept.
    sqlx::query("ALTER TABLE registry.audit_entries DROP CONSTRAINT none").execute(pool).await.unwrap();
    world.registry.functions().create_function(request).await.unwrap();
    assert_eq!(entries(&world.registry).await.len(), 2);
}
