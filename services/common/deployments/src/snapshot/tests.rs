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
        file.save(&state, "test", true).unwrap();
        let saved = file.load("test", true).unwrap();
        assert_eq!(saved.state, state);
        assert!(saved.time <= SystemTime::now());
    }
    assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn a_file_that_was_changed_anywhere_is_not_used() {
    let (_folder, file) = file();
    file.save(&state(), "test", true).unwrap();
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
    file.save(&state(), "test", true).unwrap();
    assert!(matches!(file.load("other", true), Err(SnapshotError::Foreign { watcher }) if watcher == "test"));
    assert!(matches!(file.load("test", false), Err(SnapshotError::Foreign { .. })));
    let later = format!("{}\n", r#"{"format": 2, "whatever": true}"#);
    let later = format!("{}{later}", checksum(later.as_bytes()));
    assert!(matches!(decode(later.as_bytes(), "test", true), Err(SnapshotError::Format(2))));
    fs::set_permissions(&file.path, fs::Permissions::from_mode(0o620)).unwrap();
    assert!(matches!(file.load("test", true), Err(SnapshotError::Writable)));
    fs::remove_file(&file.path).unwrap();
    assert!(matches!(file.load("test", true), Err(SnapshotError::Io(_))));
}

#[test]
fn a_file_is_never_larger_than_allowed() {
    let (_folder, file) = file();
    file.save(&state(), "test", true).unwrap();
    let before = fs::read(&file.path).unwrap();
    let small = SnapshotFile { max_bytes: before.len() as u64 - 1, ..file };
    assert!(matches!(small.save(&state(), "test", true), Err(SnapshotError::TooLarge(_))));
    assert_eq!(fs::read(&small.path).unwrap(), before, "the old one stays");
    assert!(matches!(small.load("test", true), Err(SnapshotError::TooLarge(_))));
}
