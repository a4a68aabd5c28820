use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use chatfn_domain::settings::FunctionSettings;
use tempfile::TempDir;

use super::*;
use crate::{Deployment, Template};

fn state() -> State {
    let deployment = Deployment {
        function: "accounts/acme/functions/chat.start".parse().unwrap(),
        version: "3".parse().unwrap(),
        digest: "d".into(),
        settings: FunctionSettings {
            allowed_hosts: vec!["crm.example.com".parse().unwrap()],
            environment: [("A".to_owned(), "b".to_owned())].into(),
            timeout: Duration::from_millis(1234),
            ..FunctionSettings::default()
        },
        source: "function lambda() {}".into(),
    };
    let template = Template {
        name: "chat.start".parse().unwrap(),
        payload_schema_json: "{}".into(),
        sample_payload_json: r#"{"a": 1}"#.into(),
        fires_once: true,
    };
    State {
        functions: [(deployment.function.clone(), Arc::new(deployment))].into(),
        templates: [(template.name.clone(), Arc::new(template))].into(),
        resume_token: "7.x".into(),
        has_gaps: false,
    }
}

fn now(state: &State) -> (&State, SystemTime) {
    (state, SystemTime::now())
}

fn file() -> (TempDir, SnapshotFile) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live");
    (folder, SnapshotFile { path, max_bytes: 1 << 20, keep: true })
}

#[test]
fn what_is_saved_is_read_again() {
    let (folder, file) = file();
    for round in 0..2 {
        let state = State { resume_token: round.to_string(), ..state() };
        // As a crash amid the writing leaves it.
        fs::write(folder.path().join("live.new"), "half").unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        file.save((&state, time), "test", true).unwrap();
        let saved = file.load("test", true).unwrap();
        assert_eq!(saved, Saved { state, time });
    }
    assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_file_that_was_changed_anywhere_is_not_used() {
    let (_folder, file) = file();
    file.save(now(&state()), "test", true).unwrap();
    let good = fs::read(&file.path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        assert!(matches!(decode(&bad, "test", true), Err(SnapshotError::Damaged)), "byte {at}");
        assert!(matches!(decode(&good[..at], "test", true), Err(SnapshotError::Damaged)), "{at} bytes");
    }
    assert!(decode(&good, "test", true).is_ok());
}

#[test]
fn a_file_of_another_kind_is_not_used() {
    let (_folder, file) = file();
    file.save(now(&state()), "test", true).unwrap();
    assert!(matches!(file.load("other", true), Err(SnapshotError::Foreign { watcher }) if watcher == "test"));
    assert!(matches!(file.load("test", false), Err(SnapshotError::Foreign { .. })));
    let later = format!("{}\n", r#"{"format": 2, "whatever": true}"#);
    let later = format!("{}{later}", checksum(later.as_bytes()));
    assert!(matches!(decode(later.as_bytes(), "test", true), Err(SnapshotError::Format(2))));
    for mode in [0o640, 0o660] {
        fs::set_permissions(&file.path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(file.load("test", true).is_ok(), "as a volume with an fsGroup has it");
    }
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o602)).unwrap();
    assert!(matches!(file.load("test", true), Err(SnapshotError::Untrusted(Untrusted::Others))));
    fs::remove_file(&file.path).unwrap();
    assert!(matches!(file.load("test", true), Err(SnapshotError::Io(_))));
}

#[test]
fn a_file_is_never_larger_than_allowed() {
    let (_folder, file) = file();
    file.save(now(&state()), "test", true).unwrap();
    let before = fs::read(&file.path).unwrap();
    let small = SnapshotFile { max_bytes: before.len() as u64 - 1, ..file };
    assert!(matches!(small.save(now(&state()), "test", true), Err(SnapshotError::TooLarge(_))));
    assert_eq!(fs::read(&small.path).unwrap(), before, "the old one stays");
    assert!(matches!(small.load("test", true), Err(SnapshotError::TooLarge(_))));
}

/// The contents of a file, written by another release and with another message at its end.
fn rewritten(file: &SnapshotFile, release: &str, message: &WatchDeploymentsResponse) -> Vec<u8> {
    let bytes = fs::read(&file.path).unwrap();
    let body = String::from_utf8_lossy(&bytes[CHECKSUM_LINE..]).into_owned();
    let header = body.lines().next().unwrap();
    let mut value: serde_json::Value = serde_json::from_str(header).unwrap();
    assert_eq!(value["release"], RELEASE);
    match release {
        "" => _ = value.as_object_mut().unwrap().remove("release"),
        release => value["release"] = release.into(),
    }
    let mut rest = format!("{value}\n").into_bytes();
    rest.extend(&bytes[CHECKSUM_LINE + header.len() + 1..]);
    message.encode_length_delimited(&mut rest).unwrap();
    [checksum(&rest).into_bytes(), rest].concat()
}

#[test]
fn a_file_of_another_release_is_used_and_not_gone_on_from() {
    let (_folder, file) = file();
    file.save(now(&state()), "test", true).unwrap();
    let template =
        chatfn_proto::registry::v1::Template { name: "templates/a.b".into(), ..Default::default() };
    let message = WatchDeploymentsResponse { change: Some(Change::Template(template)), ..Default::default() };
    for (release, token) in [(RELEASE, "7.x"), ("0.0.9", ""), ("", "")] {
        let saved = decode(&rewritten(&file, release, &message), "test", true).unwrap();
        assert_eq!(saved.state.resume_token, token, "{release:?}");
        assert_eq!((saved.state.functions.len(), saved.state.templates.len()), (1, 2));
    }
}

#[test]
fn what_a_later_release_has_written_is_left_out_and_the_rest_is_used() {
    let (_folder, file) = file();
    file.save(now(&state()), "test", true).unwrap();
    let settings = chatfn_proto::registry::v1::FunctionSettings { language: 99, ..Default::default() };
    let deployment = chatfn_proto::registry::v1::Deployment {
        function: "accounts/acme/functions/chat.end".into(),
        version: 1,
        settings: Some(settings),
        ..Default::default()
    };
    let message =
        WatchDeploymentsResponse { change: Some(Change::Deployment(deployment)), ..Default::default() };
    let saved = decode(&rewritten(&file, "9.9.9", &message), "test", true).unwrap();
    assert_eq!(saved.state, State { resume_token: String::new(), has_gaps: true, ..state() });
}
