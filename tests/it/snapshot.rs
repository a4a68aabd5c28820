//! Starts without the registry, on what was live when it was last there.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use chatfn_proto::ingest::v1::DeliveryState;
use chatfn_tests::{
    api::{Api, event, result, settings},
    cluster::{Cluster, Service},
    eventually,
};

const TEMPLATE: &str = "chat.participants_change";

/// Starts a service anew, with a snapshot file.
async fn with_snapshot_file(service: &mut Service, file: &Path) {
    service.stop().await;
    service.flag("snapshot-file", &file.display().to_string());
    service.start();
    service.serving().await;
}

/// Waits until a file holds this text.
async fn holds(file: &Path, text: &str) {
    eventually(&format!("{} holds {text}", file.display()), async || {
        let bytes = fs::read(file).ok()?;
        bytes.windows(text.len()).any(|window| window == text.as_bytes()).then_some(())
    })
    .await;
}

/// Processes that keep this file for somebody else.
fn keepers(file: &Path) -> usize {
    let flag = format!("--snapshot-file={}", file.display());
    let arguments = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        // A process may have ended meanwhile.
        fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()
    });
    let is_keeper = |arguments: &String| {
        arguments.split('\0').any(|it| it == flag) && arguments.contains("--keep-snapshot")
    };
    arguments.filter(is_keeper).count()
}

#[tokio::test]
async fn invoker_and_ingest_start_while_the_registry_is_gone() {
    let mut cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let folder = tempfile::tempdir().unwrap();
    let files = ["invoker", "event-ingest"].map(|name| folder.path().join(name));
    with_snapshot_file(&mut cluster.invoker, &files[0]).await;
    with_snapshot_file(&mut cluster.event_ingest, &files[1]).await;
    let source = "async function lambda() { return 'kept in a file' }";
    api.deploy(TEMPLATE, source, settings("127.0.0.1", 1)).await;
    holds(&files[0], "kept in a file").await;
    holds(&files[1], "accounts/acme/functions/chat.participants_change").await;
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let without_sources = fs::read(&files[1]).unwrap();
    assert!(!without_sources.windows(4).any(|window| window == b"kept"), "ingest needs no sources");

    // Nothing is stopped in order: a file that is there is whole.
    cluster.registry.kill();
    assert_eq!(keepers(&files[0]), 1);
    cluster.invoker.kill();
    eventually("the keeper ends with its invoker", async || (keepers(&files[0]) == 0).then_some(())).await;
    cluster.event_ingest.kill();
    cluster.invoker.start();
    cluster.event_ingest.start();
    cluster.invoker.serving().await;
    cluster.event_ingest.serving().await;
    let delivery = api.run(TEMPLATE, "without-registry").await;
    assert_eq!((delivery.state(), result(&delivery)), (DeliveryState::Succeeded, "kept in a file".into()));

    // What has changed since takes effect once the registry is back, and the file has it, too.
    cluster.registry.start();
    cluster.registry.serving().await;
    api.update(TEMPLATE, "async function lambda() { return 'changed since' }").await;
    api.redeploy(TEMPLATE).await.unwrap();
    let mut runs = 0;
    eventually("the new version runs", async || {
        runs += 1;
        (result(&api.run(TEMPLATE, &format!("after-{runs}")).await) == "changed since").then_some(())
    })
    .await;
    holds(&files[0], "changed since").await;
}

#[tokio::test]
async fn a_damaged_file_is_left_aside() {
    let mut cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("live");
    fs::write(&file, "not what a service writes").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    with_snapshot_file(&mut cluster.event_ingest, &file).await;

    // It neither kept the service from starting nor from writing a good one.
    assert!(api.publish(event("chat.start", "e-1", "c-1")).await.is_ok());
    holds(&file, "templates/chat.start").await;

    // Without the registry, and with a file that is damaged again, nothing is known and nothing is taken in.
    cluster.registry.kill();
    cluster.event_ingest.kill();
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    cluster.event_ingest.start();
    eventually("it refuses what it cannot check", async || {
        let refused = api.publish(event("chat.start", "e-2", "c-1")).await.err()?;
        let reason = chatfn_rpc::ErrorReport::from_status(&refused).reason?;
        (reason == "NO_SNAPSHOT").then_some(())
    })
    .await;
    assert!(!cluster.event_ingest.is_serving().await);
    cluster.registry.start();
    cluster.event_ingest.serving().await;
}
