//! Secrets: set, read by invokers alone, encrypted at rest, bounded.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chatfn_proto::registry::v1::{
    AccessSecretRequest, DeleteSecretRequest, GetSecretRequest, ListSecretsRequest, Secret, SetSecretRequest,
};
use chatfn_registry::Config;
use futures_util::{StreamExt as _, future::join_all, stream};
use sqlx::Row as _;
use tonic::{Code, Status};

use crate::harness::{ACME, Registry, World, refused};

/// Bytes that occur nowhere but in values.
pub(crate) const CANARY: &str = "canary-7f3a91";
/// The secret of most tests.
pub(crate) const CRM: &str = "accounts/acme/secrets/crm";

/// Lines of a file of keys: each id with a key of its own.
pub(crate) fn key_lines(ids: &[&str]) -> String {
    ids.iter().map(|id| format!("{id}: {}\n", BASE64_STANDARD.encode([id.as_bytes()[0]; 32]))).collect()
}

/// Gives a registry these keys.
pub(crate) fn with_keys(ids: &[&str]) -> impl FnOnce(&mut Config) {
    let lines = key_lines(ids);
    move |config| config.secrets.secret_keys = Some(lines.into())
}

pub(crate) async fn start() -> World {
    World::start_with(with_keys(&["a"])).await
}

pub(crate) fn set_request(parent: &str, key: &str, value: &str) -> SetSecretRequest {
    SetSecretRequest {
        parent: parent.into(),
        key: key.into(),
        value: value.into(),
        etag: String::new(),
        ..Default::default()
    }
}

pub(crate) async fn set(registry: &Registry, key: &str, value: &str) -> Result<Secret, Status> {
    let response = registry.secrets().set_secret(set_request(ACME, key, value)).await?;
    Ok(response.into_inner().secret.unwrap())
}

/// The value and its revision.
pub(crate) async fn access(registry: &Registry, name: &str) -> Result<(String, i64), Status> {
    let request = AccessSecretRequest { name: name.into() };
    let response = registry.secret_access().access_secret(request).await?.into_inner();
    Ok((String::from_utf8(response.value.into()).unwrap(), response.revision))
}

async fn get(registry: &Registry, name: &str) -> Result<Secret, Status> {
    let request = GetSecretRequest { name: name.into() };
    Ok(registry.secrets().get_secret(request).await?.into_inner().secret.unwrap())
}

async fn delete(registry: &Registry, name: &str, etag: &str) -> Result<(), Status> {
    let request = DeleteSecretRequest { name: name.into(), etag: etag.into(), ..Default::default() };
    registry.secrets().delete_secret(request).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_life_of_a_secret() {
    let world = start().await;
    let registry = &world.registry;
    refused(access(registry, CRM).await, Code::NotFound, "SECRET_NOT_FOUND");
    let first = set(registry, "crm", "one").await.unwrap();
    assert_eq!((first.name.as_str(), first.key.as_str(), first.revision), (CRM, "crm", 1));
    assert_eq!(access(registry, CRM).await.unwrap(), ("one".into(), 1));
    assert_eq!(get(registry, CRM).await.unwrap(), first);

    let second = set(registry, "crm", "zwei ä").await.unwrap();
    assert_eq!((second.revision, second.create_time), (2, first.create_time));
    assert_ne!(second.etag, first.etag);
    assert_eq!(access(registry, CRM).await.unwrap(), ("zwei ä".into(), 2));

    delete(registry, CRM, "").await.unwrap();
    refused(access(registry, CRM).await, Code::NotFound, "SECRET_NOT_FOUND");
    refused(get(registry, CRM).await, Code::NotFound, "SECRET_NOT_FOUND");
    refused(delete(registry, CRM, "").await, Code::NotFound, "SECRET_NOT_FOUND");
    let again = set(registry, "crm", "one").await.unwrap();
    assert_eq!(again.revision, 1);
    assert_ne!(again.etag, first.etag, "another secret of the same name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_etag_changes_nothing() {
    let world = start().await;
    let registry = &world.registry;
    let with_etag = |etag: &str| SetSecretRequest { etag: etag.into(), ..set_request(ACME, "crm", "new") };
    let missing = registry.secrets().set_secret(with_etag("x")).await;
    refused(missing, Code::NotFound, "SECRET_NOT_FOUND");

    let first = set(registry, "crm", "one").await.unwrap();
    let second = set(registry, "crm", "two").await.unwrap();
    let report =
        refused(registry.secrets().set_secret(with_etag(&first.etag)).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(report.metadata["current_etag"], second.etag);
    refused(delete(registry, CRM, &first.etag).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(access(registry, CRM).await.unwrap(), ("two".into(), 2));

    registry.secrets().set_secret(with_etag(&second.etag)).await.unwrap();
    let third = get(registry, CRM).await.unwrap();
    delete(registry, CRM, &third.etag).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_sets_with_one_etag_one_wins_and_without_one_all_count() {
    let world = start().await;
    let other = world.another_with(with_keys(&["a"])).await;
    let registry = |caller: usize| if caller.is_multiple_of(2) { &world.registry } else { &other };
    let values: Vec<String> = (0..16).map(|caller| format!("by {caller}")).collect();
    for secret in join_all((0..16).map(|caller| set(registry(caller), "crm", &values[caller]))).await {
        secret.unwrap();
    }
    let stored = get(&other, CRM).await.unwrap();
    assert_eq!(stored.revision, 16);
    let calls = (0..16).map(|caller| {
        let request =
            SetSecretRequest { etag: stored.etag.clone(), ..set_request(ACME, "crm", &values[caller]) };
        async move { registry(caller).secrets().set_secret(request).await.map(|_| caller) }
    });
    let (winners, losers): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(losers.len(), 15);
    for loser in losers {
        refused(loser, Code::Aborted, "ETAG_MISMATCH");
    }
    let winner = winners.into_iter().next().unwrap().unwrap();
    assert_eq!(access(&world.registry, CRM).await.unwrap(), (values[winner].clone(), 17));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_sees_its_own_secrets_page_by_page() {
    let world = start().await;
    let registry = &world.registry;
    for key in ["c", "a", "B-_9", "b"] {
        set(registry, key, "x").await.unwrap();
    }
    registry.secrets().set_secret(set_request("accounts/other", "a", "theirs")).await.unwrap();
    let (mut keys, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListSecretsRequest { parent: ACME.into(), page_size: 3, page_token };
        let page = registry.secrets().list_secrets(request).await.unwrap().into_inner();
        keys.extend(page.secrets.into_iter().map(|secret| secret.key));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(keys, ["B-_9", "a", "b", "c"]);
    let forged = ListSecretsRequest { parent: ACME.into(), page_token: "x".into(), ..Default::default() };
    refused(registry.secrets().list_secrets(forged).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    assert_eq!(access(registry, "accounts/acme/secrets/a").await.unwrap().0, "x");
    assert_eq!(access(registry, "accounts/other/secrets/a").await.unwrap().0, "theirs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_and_malformed_requests_name_the_field() {
    let world = start().await;
    let registry = &world.registry;
    for (parent, key, value, field) in [
        ("", "crm", "x", "parent"),
        ("acme", "crm", "x", "parent"),
        (ACME, "", "x", "key"),
        (ACME, "a/b", "x", "key"),
        (ACME, &"x".repeat(101), "x", "key"),
        (ACME, "crm", "", "value"),
        (ACME, "crm", &"x".repeat(16_385), "value"),
        (ACME, "crm", &format!("{}ä", "x".repeat(16_383)), "value"),
    ] {
        let result = registry.secrets().set_secret(set_request(parent, key, value)).await;
        let report = refused(result, Code::InvalidArgument, "INVALID_REQUEST");
        assert_eq!(report.fields[0].field, field);
        assert!(value.is_empty() || !report.message.contains(&"x".repeat(50)), "{}", report.message);
    }
    for bad in ["", "crm", "accounts/acme/secrets/", "accounts/acme/secrets/a/b"] {
        refused(access(registry, bad).await, Code::InvalidArgument, "INVALID_REQUEST");
        refused(get(registry, bad).await, Code::InvalidArgument, "INVALID_REQUEST");
        refused(delete(registry, bad, "").await, Code::InvalidArgument, "INVALID_REQUEST");
    }
    let largest = "\0".repeat(16_384);
    set(registry, &"k".repeat(100), &largest).await.unwrap();
    assert_eq!(access(registry, &format!("{ACME}/secrets/{}", "k".repeat(100))).await.unwrap().0, largest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_has_at_most_500_however_many_ask_at_once() {
    let world = start().await;
    let other = world.another_with(with_keys(&["a"])).await;
    sqlx::query(
        "INSERT INTO registry.secrets (account, key, key_id, wrapped_key, ciphertext)
         SELECT 'acme', 'filler-' || n, 'a', '', '' FROM generate_series(1, 495) n",
    )
    .execute(world.database.pool())
    .await
    .unwrap();
    let keys: Vec<String> = (0..20).map(|n| format!("new-{n}")).collect();
    let calls = keys
        .iter()
        .enumerate()
        .map(|(n, key)| set(if n.is_multiple_of(2) { &world.registry } else { &other }, key, "x"));
    let (added, refusals): (Vec<_>, Vec<_>) = join_all(calls).await.into_iter().partition(Result::is_ok);
    assert_eq!(added.len(), 5);
    for refusal in refusals {
        refused(refusal, Code::ResourceExhausted, "SECRET_LIMIT_REACHED");
    }
    let existing = added.into_iter().next().unwrap().unwrap();
    assert_eq!(set(&other, &existing.key, "y").await.unwrap().revision, 2, "replacing adds nothing");
    other.secrets().set_secret(set_request("accounts/other", "a", "x")).await.unwrap();
    delete(&other, &existing.name, "").await.unwrap();
    set(&other, "one-more", "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_secrets_are_off_and_it_says_which_setting() {
    let world = start().await;
    set(&world.registry, "crm", "x").await.unwrap();
    let keyless = world.another().await;
    let report = refused(set(&keyless, "crm", "x").await, Code::FailedPrecondition, "SECRETS_DISABLED");
    assert!(report.message.contains("--secret-keys-file"), "{}", report.message);
    refused(access(&keyless, CRM).await, Code::FailedPrecondition, "SECRETS_DISABLED");
    assert_eq!(get(&keyless, CRM).await.unwrap().key, "crm", "what is known about it needs no key");
    delete(&keyless, CRM, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn access_can_be_refused_as_a_whole() {
    let world = start().await;
    set(&world.registry, "crm", "x").await.unwrap();
    let closed = world
        .another_with(|config| {
            with_keys(&["a"])(config);
            config.secrets.serve_secret_access = false;
        })
        .await;
    set(&closed, "crm", "y").await.unwrap();
    assert_eq!(access(&closed, CRM).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(access(&world.registry, CRM).await.unwrap().0, "y");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_key_and_a_wrong_one_are_told_apart() {
    let world = start().await;
    set(&world.registry, "crm", CANARY).await.unwrap();
    let other = world.another_with(with_keys(&["b"])).await;
    let report = refused(access(&other, CRM).await, Code::FailedPrecondition, "SECRET_KEY_MISSING");
    assert_eq!(report.metadata["key_id"], "a");
    let wrong = key_lines(&["b"]).replace("b:", "a:");
    let wrong = world.another_with(|config| config.secrets.secret_keys = Some(wrong.into())).await;
    assert_eq!(access(&wrong, CRM).await.unwrap_err().code(), Code::Internal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_cannot_be_swapped() {
    let world = start().await;
    let registry = &world.registry;
    set(registry, "mine", "mine").await.unwrap();
    registry.secrets().set_secret(set_request("accounts/other", "mine", "theirs")).await.unwrap();
    set(registry, "third", "third").await.unwrap();
    // Whoever writes to the database gives another secret's bytes to one that they may read.
    for (account, key, columns) in [
        ("other", "mine", "wrapped_key = o.wrapped_key, ciphertext = o.ciphertext"),
        ("acme", "third", "ciphertext = o.ciphertext"),
        ("acme", "third", "wrapped_key = o.wrapped_key"),
    ] {
        set(registry, "mine", "mine").await.unwrap();
        assert_eq!(access(registry, "accounts/acme/secrets/mine").await.unwrap().0, "mine");
        let swap = format!(
            "UPDATE registry.secrets s SET {columns} FROM registry.secrets o
             WHERE s.account = 'acme' AND s.key = 'mine' AND o.account = '{account}' AND o.key = '{key}'"
        );
        let done = sqlx::query(sqlx::AssertSqlSafe(swap)).execute(world.database.pool()).await.unwrap();
        assert_eq!(done.rows_affected(), 1);
        let status = access(registry, "accounts/acme/secrets/mine").await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{account}/{key}: {columns}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_holds_no_value() {
    let world = start().await;
    stream::iter(["a", "b"])
        .for_each(|key| async { _ = set(&world.registry, key, CANARY).await.unwrap() })
        .await;
    let rows = sqlx::query("SELECT s::text AS dump, s.wrapped_key, s.ciphertext FROM registry.secrets s")
        .fetch_all(world.database.pool())
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let (dump, wrapped, value): (String, Vec<u8>, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
        assert!(dump.contains("acme") && !dump.contains(CANARY));
        assert!(!dump.contains(&hex::encode(CANARY)));
        let has_canary = |bytes: &[u8]| bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!has_canary(&wrapped) && !has_canary(&value));
    }
}
