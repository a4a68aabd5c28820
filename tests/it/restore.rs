//! The drill of docs/OPERATIONS.md: a backup taken while everything runs becomes the database.

use std::{path::Path, process::Command};

use chatfn_pg::testing::TestDatabase;
use chatfn_proto::{
    ingest::v1::{DeliveryState, GetDeliveryRequest, ReconcileRequest},
    registry::v1::{SetSecretRequest, secret_service_client::SecretServiceClient},
};
use chatfn_tests::{
    api::{ACCOUNT, Api, event, result, settings},
    cluster::Cluster,
    witness::Witness,
};
use tempfile::TempDir;
use tonic::Code;

const TEMPLATE: &str = "chat.participants_change";

/// Tells the witness what it is, and waits for its answer if the event is one that should.
const FIRST: &str = r"
const { SecretClient } = require('core-functions-toolbelt');
async function lambda(input, context) {
  const secret = await new SecretClient().readSecret('crm');
  const wait = context.conversationId === 'waits' ? '/gate' : '';
  await fetch(`${process.env.WITNESS}${wait}/${context.eventId}`, { method: 'POST' });
  return `first, ${secret.value.length} characters`;
}";
const SECOND: &str = "function lambda() { return 'second' }";

#[tokio::test]
async fn a_backup_becomes_the_database_and_all_goes_on_from_there() {
    let (mut cluster, witness, folder) = (secretive().await, Witness::start().await, TempDir::new().unwrap());
    let mut api = Api::of(&cluster);
    let secret = SetSecretRequest {
        parent: format!("accounts/{ACCOUNT}"),
        key: "crm".into(),
        value: "the-secret".into(),
        ..SetSecretRequest::default()
    };
    SecretServiceClient::new(cluster.registry.client()).set_secret(secret).await.unwrap();
    api.deploy(TEMPLATE, FIRST, settings(&witness.host, 5)).await;
    assert_eq!(result(&api.run(TEMPLATE, "done").await), "first, 10 characters");
    assert_eq!(api.run("chat.end", "nobody").await.state(), DeliveryState::NoFunction);
    // One is running and one waits for it when the backup is taken.
    api.publish(event(TEMPLATE, "running", "waits")).await.unwrap();
    api.publish(event(TEMPLATE, "waiting", "waits")).await.unwrap();
    witness.seen(2).await;

    let backup = folder.path().join("chatfn.dump");
    tool("pg_dump", &["--format=custom", "--no-owner", "--no-privileges"], &cluster.database, &backup);

    // What happens after it is not in it.
    witness.open_gate(2);
    assert_eq!(api.outcome("waiting").await.state(), DeliveryState::Succeeded);
    api.update(TEMPLATE, SECOND).await;
    api.redeploy(TEMPLATE).await.unwrap();
    assert_eq!(result(&api.run(TEMPLATE, "late").await), "second");

    // The invoker runs on: it knows of a later state than the registry will.
    cluster.event_ingest.stop().await;
    cluster.registry.stop().await;
    let restored = TestDatabase::create_empty().await;
    tool("pg_restore", &["--no-owner", "--no-privileges", "--exit-on-error"], &restored, &backup);
    guard(&restored).await;
    for service in [&mut cluster.registry, &mut cluster.event_ingest] {
        service.flag("database-url", restored.url().expose());
        service.start();
    }
    let _replaced = std::mem::replace(&mut cluster.database, restored);
    cluster.registry.serving().await;
    cluster.event_ingest.serving().await;

    let done = api.delivery("done").await;
    assert_eq!((done.state(), done.attempts.len()), (DeliveryState::Succeeded, 1));
    assert_eq!(result(&done), "first, 10 characters");
    assert_eq!(api.delivery("nobody").await.state(), DeliveryState::NoFunction);
    assert!(api.publish(event(TEMPLATE, "done", "done")).await.unwrap().duplicate);
    // What was unfinished runs: again, which its receiver can tell by the key.
    witness.open_gate(2);
    let running = api.outcome("running").await;
    assert_eq!((running.state(), running.attempts.len()), (DeliveryState::Succeeded, 2), "{running:?}");
    assert_eq!(api.outcome("waiting").await.state(), DeliveryState::Succeeded);
    let calls: Vec<_> = witness.calls().into_iter().map(|call| (call.path, call.idempotency_key)).collect();
    let keys =
        |path: &str| calls.iter().filter(|call| call.0 == path).map(|call| &call.1).collect::<Vec<_>>();
    for path in ["/gate/running", "/gate/waiting"] {
        let [first, second] = keys(path)[..] else { panic!("{path} was called twice: {calls:?}") };
        assert!(first.is_some() && first == second, "{path}: {calls:?}");
    }

    // What came after the backup is unknown: who published it does so again.
    let request = GetDeliveryRequest { name: format!("accounts/{ACCOUNT}/deliveries/late") };
    assert_eq!(api.deliveries.get_delivery(request).await.unwrap_err().code(), Code::NotFound);
    chatfn_tests::eventually("everybody is back at what the backup has", async || {
        let propagation = api.redeploy(TEMPLATE).await.ok()?.propagation?;
        (propagation.watchers == 2 && propagation.acknowledged == 2).then_some(())
    })
    .await;
    assert_eq!(result(&api.run(TEMPLATE, "late").await), "first, 10 characters");

    let request = ReconcileRequest { parent: format!("accounts/{ACCOUNT}"), ..ReconcileRequest::default() };
    let ledger = api.deliveries.reconcile(request).await.unwrap().into_inner();
    let accounted: i64 = ledger.counts.iter().map(|count| count.count).sum();
    assert_eq!((ledger.accepted_count, accounted, ledger.unaccounted_count), (5, 5, 0), "{ledger:?}");
}

/// A cluster that keeps secrets.
async fn secretive() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.registry.stop().await;
    cluster.registry.variable("CHATFN_REGISTRY_SECRET_KEYS", &format!("k1: {}", "A".repeat(43) + "="));
    cluster.registry.start();
    cluster.registry.serving().await;
    cluster
}

/// Runs one of Postgres' programs on a database and a file.
fn tool(program: &str, flags: &[&str], database: &TestDatabase, file: &Path) {
    let (database, file) = (format!("--dbname={}", database.url().expose()), file.display().to_string());
    let mut command = Command::new(program);
    command.args(flags).arg(database);
    match program {
        "pg_dump" => command.arg(format!("--file={file}")),
        _ => command.arg(file),
    };
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Takes back what was restored for everybody, as the page says.
async fn guard(restored: &TestDatabase) {
    let open = async || {
        // Functions that run as their owner.
        let functions = "SELECT p.oid::regprocedure::text FROM pg_proc p
                         WHERE p.prosecdef AND p.pronamespace = ANY ('{registry,ingest}'::regnamespace[])
                           AND has_function_privilege('public', p.oid, 'EXECUTE')";
        sqlx::query_scalar::<_, String>(functions).fetch_all(restored.pool()).await.unwrap()
    };
    assert_ne!(open().await, [""; 0], "or the page need not say so");
    let page = include_str!("../../docs/OPERATIONS.md");
    let statement = page.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert!(statement.trim().starts_with("REVOKE EXECUTE ON FUNCTION"), "{statement}");
    sqlx::raw_sql(statement).execute(restored.pool()).await.unwrap();
    assert_eq!(open().await, [""; 0]);
}
