//! One function per account and template, whoever asks and however many at once, through several registries.

use chatfn_proto::registry::v1::{
    AuditAction, CreateFunctionRequest, DeleteFunctionRequest, ListAuditEntriesRequest,
    audit_service_client::AuditServiceClient, function_service_client::FunctionServiceClient,
};
use chatfn_rpc::{Client, ErrorReport};
use chatfn_tests::cluster::Cluster;
use futures_util::{StreamExt as _, stream};
use tonic::{Code, Status};

const PARENT: &str = "accounts/acme";
const FUNCTION: &str = "accounts/acme/functions/chat.start";

async fn create(registry: Client) -> Result<(), Status> {
    let request = CreateFunctionRequest {
        parent: PARENT.into(),
        template: "chat.start".into(),
        ..CreateFunctionRequest::default()
    };
    FunctionServiceClient::new(registry).create_function(request).await.map(|_| ())
}

async fn delete(registry: Client) -> Result<(), Status> {
    let request = DeleteFunctionRequest { name: FUNCTION.into(), ..DeleteFunctionRequest::default() };
    FunctionServiceClient::new(registry).delete_function(request).await.map(|_| ())
}

/// Whether the call succeeded; it may only have failed with this.
fn won(result: Result<(), Status>, code: Code, reason: &str) -> bool {
    let Err(status) = result else { return true };
    let report = ErrorReport::from_status(&status);
    assert_eq!((report.code, report.reason.as_deref()), (code, Some(reason)), "{}", report.message);
    assert_eq!(report.resource.unwrap().name, FUNCTION);
    false
}

/// What was done to the function, oldest first.
async fn history(registry: Client) -> Vec<AuditAction> {
    let mut client = AuditServiceClient::new(registry);
    let mut request =
        ListAuditEntriesRequest { parent: PARENT.into(), resource: FUNCTION.into(), ..Default::default() };
    let mut actions = Vec::new();
    loop {
        let page = client.list_audit_entries(request.clone()).await.unwrap().into_inner();
        actions.extend(page.entries.iter().map(|entry| entry.action()));
        if page.next_page_token.is_empty() {
            actions.reverse();
            return actions;
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn of_64_creates_at_once_exactly_one_succeeds() {
    let cluster = Cluster::start().await;
    let other = cluster.another_registry().await;
    let registries = [cluster.registry.client(), other.client()];
    for round in 0..3 {
        let creates = stream::iter(0..64).map(|caller| create(registries[caller % 2].clone()));
        let results: Vec<_> = creates.buffer_unordered(64).collect().await;
        let created = results
            .into_iter()
            .filter_map(|result| won(result, Code::AlreadyExists, "FUNCTION_EXISTS").then_some(()));
        assert_eq!(created.count(), 1, "round {round}");
        delete(registries[round % 2].clone()).await.unwrap();
    }
}

#[tokio::test]
async fn hundreds_of_creates_and_deletes_take_turns() {
    let cluster = Cluster::start().await;
    let (second, third) = (cluster.another_registry().await, cluster.another_registry().await);
    let registries = [cluster.registry.client(), second.client(), third.client()];
    let calls = stream::iter(0..600).map(|number| {
        let registry = registries[number % registries.len()].clone();
        async move {
            if number % 2 == 0 {
                (
                    won(create(registry).await, Code::AlreadyExists, "FUNCTION_EXISTS"),
                    AuditAction::CreateFunction,
                )
            } else {
                (
                    won(delete(registry).await, Code::NotFound, "FUNCTION_NOT_FOUND"),
                    AuditAction::DeleteFunction,
                )
            }
        }
    });
    let results: Vec<_> = calls.buffer_unordered(48).collect().await;
    let count = |action| results.iter().filter(|result| **result == (true, action)).count();
    let (created, deleted) = (count(AuditAction::CreateFunction), count(AuditAction::DeleteFunction));
    assert!(created > 1, "they race");

    // Never two creates without a delete between them: there is no moment with two functions.
    let history = history(registries[0].clone()).await;
    assert_eq!(history.len(), created + deleted);
    for (number, action) in history.into_iter().enumerate() {
        let turn = if number % 2 == 0 { AuditAction::CreateFunction } else { AuditAction::DeleteFunction };
        assert_eq!(action, turn, "entry {number}");
    }
}
