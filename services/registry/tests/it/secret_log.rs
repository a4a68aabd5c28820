//! What is logged at the finest level holds no value. In a test of its own process (nextest), because the
//! subscriber is the process's.

use chatfn_proto::registry::v1::SetSecretRequest;
use chatfn_telemetry::testing::Log;
use tonic::Code;

use crate::{
    harness::{ACME, refused},
    secrets::{CANARY, CRM, access, set, set_request, start, with_keys},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_is_logged_at_any_level() {
    // Everything but the frames of HTTP/2, which are the wire itself and logged at TRACE by its crate alone.
    let log = Log::of_process("trace,h2=debug,hyper=debug,hyper_util=debug");
    let world = start().await;
    let registry = &world.registry;

    set(registry, "crm", CANARY).await.unwrap();
    assert_eq!(access(registry, CRM).await.unwrap().0, CANARY);
    refused(set(registry, "a/b", CANARY).await, Code::InvalidArgument, "INVALID_REQUEST");
    let stale = SetSecretRequest { etag: "stale".into(), ..set_request(ACME, "crm", CANARY) };
    refused(registry.secrets().set_secret(stale).await, Code::Aborted, "ETAG_MISMATCH");
    let long = CANARY.repeat(2_000);
    refused(set(registry, "crm", &long).await, Code::InvalidArgument, "INVALID_REQUEST");
    let keyless = world.another().await;
    refused(set(&keyless, "crm", CANARY).await, Code::FailedPrecondition, "SECRETS_DISABLED");
    let other_key = world.another_with(with_keys(&["b"])).await;
    refused(access(&other_key, CRM).await, Code::FailedPrecondition, "SECRET_KEY_MISSING");
    sqlx::query("UPDATE registry.secrets SET ciphertext = ''").execute(world.database.pool()).await.unwrap();
    assert_eq!(access(registry, CRM).await.unwrap_err().code(), Code::Internal);
    sqlx::query("DROP TABLE registry.secrets").execute(world.database.pool()).await.unwrap();
    assert_eq!(set(registry, "crm", CANARY).await.unwrap_err().code(), Code::Internal);

    tracing::trace!(target: "chatfn_registry", "probe of the finest level");
    let text = log.text();
    assert!(text.contains(CRM) && text.contains("probe of the finest level"), "the log was captured");
    assert!(text.contains("registry.secrets"), "so was the store's failure");
    let shows_a_value = |line: &&str| line.contains(CANARY) || line.contains(&hex::encode(CANARY));
    assert_eq!(text.lines().find(shows_a_value), None);
}
