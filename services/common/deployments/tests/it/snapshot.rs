//! Starts from a file, and what is kept in it.

use std::{fs, path::Path, time::Duration};

use chatfn_deployments::{Deployments, NotReady, SnapshotFile, WatchConfig};
use chatfn_proto::registry::v1::{DeploymentRemoved, Resumed, watch_deployments_response::Change};
use chatfn_rpc::{ClientConfig, connect};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::harness::{COMPLETE, Fixture, START, change, change_to, deployed, version};

/// Returns when the file is there.
async fn written(file: &SnapshotFile) {
    until(|| file.path.is_file()).await;
}

/// Returns when `is_so` is. Nobody is told of what becomes of files, so this looks again and again; the sleep only lets
/// others work in between.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a file holds this text.
fn holds(file: &Path, text: &str) -> bool {
    fs::read(file).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// A file in which a version of a function is live, with a token to go on from.
async fn file_with(live: i64, token: &str) -> (TempDir, SnapshotFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile { path: folder.path().join("live"), max_bytes: 1 << 20, keep: true };
    let mut fixture = Fixture::start(1).await;
    let deployments = fixture.watch_with(Some(file.clone()));
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, live))).await.unwrap();
    call.send(change_to(token, 1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    assert_eq!(version(&deployments, START), Some(live));
    written(&file).await;
    fixture.shutdown.force();
    (folder, file)
}

#[tokio::test]
async fn a_file_is_served_when_the_registry_is_not_there() {
    let (_folder, file) = file_with(4, "a").await;
    // This registry answers no call until it is told how.
    let mut fixture = Fixture::start(0).await;
    let deployments = fixture.watch_with(Some(SnapshotFile { keep: false, ..file.clone() }));
    deployments.ready().await;
    assert_eq!(version(&deployments, START), Some(4));
    let (sender, receiver) = mpsc::channel(16);
    fixture.scripts.lock().unwrap().push_back(receiver);
    fixture.expect_start_from("a").await;
    sender.send(change(1, Change::Resumed(Resumed {}))).await.unwrap();
    sender.send(change_to("b", 2, deployed(START, 5))).await.unwrap();
    sender.send(change_to("b", 2, COMPLETE)).await.unwrap();
    let mut changed = deployments.changed();
    while version(&deployments, START) != Some(5) {
        changed.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_registry_that_is_there_is_asked_before_a_file_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile { path: folder.path().join("live"), max_bytes: 1 << 20, keep: true };
    let mut fixture = Fixture::start(2).await;
    let _first = fixture.watch_with(Some(file.clone()));
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 4))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    written(&file).await;

    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, Change::Resumed(Resumed {}))).await.unwrap();
    call.send(change(2, Change::Removed(DeploymentRemoved { function: START.into() }))).await.unwrap();
    call.send(change_to("b", 2, COMPLETE)).await.unwrap();
    let deployments = fixture.watch_with(Some(SnapshotFile { keep: false, ..file }));
    deployments.ready().await;
    assert_eq!(version(&deployments, START), None, "what was revoked is never seen");
}

#[tokio::test]
async fn a_file_is_served_when_the_registry_says_nothing() {
    let (_folder, file) = file_with(4, "a").await;
    // The system accepts connections for it, and nobody ever reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
    let registry = connect(ClientConfig::new(uri)).unwrap();
    let snapshot = Some(SnapshotFile { keep: false, ..file });
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let watch = WatchConfig { registry, watcher: "test", include_source: true, snapshot };
    let deployments = Deployments::spawn(watch, stop);
    deployments.ready().await;
    assert_eq!(version(&deployments, START), Some(4));
    drop(silent);
}

#[tokio::test]
async fn a_file_is_not_served_to_whom_the_registry_refuses() {
    for refusal in [Status::permission_denied("not you"), Status::unauthenticated("who are you?")] {
        let (_folder, file) = file_with(4, "a").await;
        let mut fixture = Fixture::start_refusing(0, refusal).await;
        let deployments = fixture.watch_with(Some(SnapshotFile { keep: false, ..file }));
        // At the second call the first refusal has been taken in.
        fixture.expect_refusals(2).await;
        assert_eq!(deployments.function(&START.parse().unwrap()), Err(NotReady));
        // What the file says is gone, whatever happens later.
        let (sender, receiver) = mpsc::channel(16);
        fixture.scripts.lock().unwrap().push_back(receiver);
        fixture.expect_start_from("").await;
        sender.send(change(7, deployed(START, 8))).await.unwrap();
        sender.send(change(7, COMPLETE)).await.unwrap();
        fixture.expect_ack(7).await;
        assert_eq!(version(&deployments, START), Some(8));
        fixture.shutdown.force();
    }
}

/// The last change before the registry was lost is in the file, although the watch broke before it could be written.
#[tokio::test]
async fn a_change_just_before_the_watch_broke_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile { path: folder.path().join("live"), max_bytes: 1 << 20, keep: true };
    let mut fixture = Fixture::start(1).await;
    let _deployments = fixture.watch_with(Some(file.clone()));
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 4))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    written(&file).await;
    // Within the pause after that.
    call.send(change_to("the-last-one", 2, deployed(START, 5))).await.unwrap();
    drop(call);
    until(|| holds(&file.path, "the-last-one")).await;
}

#[tokio::test]
async fn a_file_that_could_not_be_written_is_tried_again_although_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile { path: folder.path().join("live"), max_bytes: 1 << 20, keep: true };
    let unfinished = folder.path().join("live.new");
    // A folder cannot be replaced by a file.
    fs::create_dir(&file.path).unwrap();
    let mut fixture = Fixture::start(1).await;
    let _deployments = fixture.watch_with(Some(file.clone()));
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 4))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    until(|| holds(&unfinished, START)).await;
    fs::remove_dir(&file.path).unwrap();
    written(&file).await;
}
