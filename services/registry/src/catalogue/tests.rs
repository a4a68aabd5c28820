use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};

use super::*;

fn shipped(template: &str) -> Files {
    files::shipped().into_iter().find(|files| files.name == template).unwrap()
}

fn accepts(template: &str, change: impl FnOnce(&mut Value)) -> bool {
    let files = shipped(template);
    let validator = jsonschema::draft202012::new(&serde_json::from_str(&files.schema).unwrap()).unwrap();
    let mut payload: Value = serde_json::from_str(&files.sample).unwrap();
    change(&mut payload);
    validator.is_valid(&payload)
}

/// Writes a template into `folder`.
fn write(folder: &Path, files: &Files) {
    let folder = folder.join(&files.name);
    fs::create_dir_all(&folder).unwrap();
    for (name, text) in [
        ("template.json", &files.template),
        ("schema.json", &files.schema),
        ("sample.json", &files.sample),
        ("starter.js", &files.starter),
    ] {
        fs::write(folder.join(name), text.as_bytes()).unwrap();
    }
}

fn own(name: &str) -> Files {
    Files { name: name.to_owned(), ..shipped("chat.in_queue") }
}

#[test]
fn every_folder_is_a_sound_template_of_the_catalogue() {
    let catalogue = Catalogue::load(None).unwrap();
    let loaded: BTreeSet<String> =
        catalogue.all().iter().map(|it| it.name.replace("templates/", "")).collect();
    let folders: BTreeSet<String> = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/templates"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert_eq!(loaded, folders);
    assert!(catalogue.all().is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn what_messaging_events_share_is_the_same_in_each() {
    let general = |files: &Files| {
        let schema: Value = serde_json::from_str(&files.schema).unwrap();
        schema["properties"]["general"].clone()
    };
    let expected = general(&shipped("messaging.ttr"));
    assert!(expected.is_object());
    for files in files::shipped() {
        let general = general(&files);
        assert!(general.is_null() || general == expected, "{}", files.name);
    }
}

#[test]
fn an_operators_folder_adds_templates() {
    let folder = tempfile::tempdir().unwrap();
    // As a mounted volume has it: links to folders below a hidden one.
    write(&folder.path().join("..data"), &own("acme.shipped_parcel"));
    let link = folder.path().join("acme.shipped_parcel");
    std::os::unix::fs::symlink(folder.path().join("..data/acme.shipped_parcel"), link).unwrap();
    let catalogue = Catalogue::load(Some(folder.path())).unwrap();
    assert!(catalogue.get(&"acme.shipped_parcel".parse().unwrap()).is_some());
    assert!(catalogue.get(&"chat.start".parse().unwrap()).is_some());
    assert!(catalogue.all().is_sorted_by(|a, b| a.name < b.name));
}

#[test]
fn a_broken_template_is_refused_with_file_and_line() {
    let broken = |change: &dyn Fn(&mut Files)| {
        let folder = tempfile::tempdir().unwrap();
        let mut files = own("acme.x");
        change(&mut files);
        write(folder.path(), &files);
        let error = Catalogue::load(Some(folder.path())).unwrap_err();
        let place = Place(error.file.strip_prefix(folder.path()).unwrap(), error.position).to_string();
        (place, error.problem)
    };
    let (place, problem) = broken(&|it| it.name = "Chat".into());
    assert!(matches!(problem, Problem::Name(_)) && place == "Chat", "{place}");
    let (place, problem) = broken(&|it| it.name = "chat.start".into());
    assert!(matches!(problem, Problem::Shipped) && place == "chat.start", "{place}");
    let (place, problem) = broken(&|it| it.template = "{\n \"firing\": \"often\"}".into());
    assert!(matches!(problem, Problem::Description(_)) && place.starts_with("acme.x/template.json:2:"));
    let (place, problem) = broken(&|it| it.template = it.template.replace("Chat In-Queue", "").into());
    assert!(matches!(problem, Problem::DisplayName) && place == "acme.x/template.json:2:19", "{place}");
    let (place, problem) = broken(&|it| it.schema = "{\n\n".into());
    assert!(matches!(problem, Problem::Json(_)) && place == "acme.x/schema.json:3:0", "{place}");
    let (place, problem) = broken(&|it| it.schema = "{\n \"type\": \"text\"}".into());
    assert!(matches!(problem, Problem::Schema(_)) && place == "acme.x/schema.json:2:10", "{place}");
    let (place, problem) = broken(&|it| it.sample = "[]".into());
    assert!(matches!(problem, Problem::Sample(_)) && place == "acme.x/sample.json", "{place}");
    let (place, problem) =
        broken(&|it| it.sample = it.sample.replace("\"300", "300").replace("300\n", "true\n").into());
    assert!(
        matches!(problem, Problem::SampleBreaksSchema(_)) && place == "acme.x/sample.json:12:16",
        "{place}"
    );
    let (place, problem) = broken(&|it| it.starter = "let x;".into());
    assert!(matches!(problem, Problem::Starter) && place == "acme.x/starter.js", "{place}");
    let (place, problem) = broken(&|it| it.starter = "x".repeat(600_000).into());
    assert!(matches!(problem, Problem::FileTooLarge) && place == "acme.x/starter.js", "{place}");
}

#[test]
fn what_is_no_template_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let load = || Catalogue::load(Some(folder.path())).unwrap_err();
    fs::write(folder.path().join("notes.txt"), "").unwrap();
    assert!(matches!(load().problem, Problem::NotAFolder));
    fs::remove_file(folder.path().join("notes.txt")).unwrap();
    fs::create_dir(folder.path().join("acme.x")).unwrap();
    let error = load();
    assert!(matches!(error.problem, Problem::Unreadable(_)) && error.file.ends_with("acme.x/template.json"));
    fs::remove_dir(folder.path().join("acme.x")).unwrap();
    for number in 0..200 {
        write(folder.path(), &own(&format!("acme.x{number}")));
        let sample = format!(r#"{{"chatSessionKey": "{}"}}"#, "x".repeat(30_000));
        fs::write(folder.path().join(format!("acme.x{number}/sample.json")), sample).unwrap();
    }
    assert!(matches!(load().problem, Problem::TooMuch));
    let missing = folder.path().join("missing");
    assert!(matches!(Catalogue::load(Some(&missing)).unwrap_err().problem, Problem::Unreadable(_)));
}

#[test]
fn in_queue_is_strict_on_types_and_open_to_more() {
    assert!(accepts("chat.in_queue", |payload| payload["customField"] = json!({"a": [1]})));
    assert!(accepts("chat.in_queue", |payload| {
        *payload = json!({"chatSessionKey": payload["chatSessionKey"]});
    }));
    for field in ["campaignId", "chatSessionKey", "chatStartPageURL", "engagementId", "ipAddress"] {
        assert!(!accepts("chat.in_queue", |payload| payload[field] = json!(1)), "{field}");
        assert!(!accepts("chat.in_queue", |payload| payload[field] = json!(null)), "{field}");
    }
    assert!(!accepts("chat.in_queue", |payload| payload["preChatSurveyStructure"]["header"] = json!(1)));
    assert!(!accepts("chat.in_queue", |payload| payload["preChatSurveyStructure"] = json!("x")));
    assert!(!accepts("chat.in_queue", |payload| payload["ttr"]["newTtr"]["value"] = json!("300")));
    assert!(!accepts("chat.in_queue", |payload| {
        payload.as_object_mut().unwrap().remove("chatSessionKey");
    }));
}

#[test]
fn an_end_has_one_of_the_known_reasons() {
    for reason in ["agent", "consumer", "system", "disconnect", "timeout", "a2a-transfer"] {
        assert!(accepts("chat.end", |payload| payload["endReason"] = json!(reason)), "{reason}");
    }
    assert!(!accepts("chat.end", |payload| payload["endReason"] = json!("bored")));
}

/// Where the hosted product's tables and samples disagree on a type, both are taken: see `templates/README.md`.
#[test]
fn messaging_ids_are_numbers_or_texts() {
    for field in ["sessionId", "visitorId", "originatorId", "effectiveTTR", "manualETTR"] {
        for value in [json!(1528463744580_i64), json!("1528463744580")] {
            assert!(accepts("messaging.ttr", |payload| payload["general"][field] = value), "{field}");
        }
        assert!(!accepts("messaging.ttr", |payload| payload["general"][field] = json!(true)), "{field}");
    }
    for time in [json!(30), json!("30")] {
        let change = |payload: &mut Value| payload["idle"]["convNotTakenTime"]["time"] = time;
        assert!(accepts("messaging.conversation_idle", change));
    }
}

#[test]
fn what_can_happen_again_fires_more_than_once() {
    let once: Vec<_> = Catalogue::load(None)
        .unwrap()
        .all()
        .iter()
        .filter(|template| template.firing() == wire::Firing::OncePerConversation)
        .map(|template| template.name.replace("templates/", ""))
        .collect();
    assert_eq!(
        once,
        [
            "chat.end",
            "chat.in_queue",
            "chat.post_survey_email_transcript",
            "chat.start",
            "messaging.conversation_end",
            "messaging.new_conversation",
            "messaging.survey_ended",
            "messaging.survey_started",
        ]
    );
}
