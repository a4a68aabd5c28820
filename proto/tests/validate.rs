//! The rules beside the fields of the contract are enforced.

use chatfn_proto::{
    ingest::v1::{Event, EventHeader, PublishEventRequest, PublishEventsRequest, event::PayloadKind},
    invoker::v1::PrepareRequest,
    registry::v1::{
        CreateFunctionRequest, Function, FunctionSettings, ListFunctionsRequest, WatchDeploymentsRequest,
    },
    validate::Validate,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn fields(message: &impl Validate) -> Vec<String> {
    match message.validate() {
        Ok(()) => Vec::new(),
        Err(found) => found.iter().map(|violation| violation.field.clone()).collect(),
    }
}

fn event() -> Event {
    Event {
        account: "acme".into(),
        event_id: "e-1".into(),
        template: "chat.in_queue".into(),
        conversation_id: "c-1".into(),
        payload_kind: Some(PayloadKind::PayloadJson("{}".into())),
        ..Event::default()
    }
}

#[test]
fn a_good_event_passes() {
    assert_eq!(fields(&PublishEventRequest { event: Some(event()) }), Vec::<String>::new());
}

#[test]
fn every_missing_field_is_named() {
    assert_eq!(fields(&PublishEventRequest { event: None }), ["event"]);
    let empty = fields(&PublishEventRequest { event: Some(Event::default()) });
    assert_eq!(
        empty,
        ["event.account", "event.event_id", "event.template", "event.conversation_id", "event.payload_kind"]
    );
}

#[test]
fn nested_repeated_and_map_fields_are_named_by_path() {
    let headers = vec![EventHeader { key: "k".into(), value: String::new() }, EventHeader::default()];
    let event = Event { headers, ..event() };
    assert_eq!(fields(&PublishEventRequest { event: Some(event) }), ["event.headers[1].key"]);

    let settings = FunctionSettings {
        memory_mib: 8,
        timeout: Some(prost_types::Duration { seconds: 31, nanos: 0 }),
        environment: [("1x".to_owned(), "v".to_owned())].into(),
        ..FunctionSettings::default()
    };
    let function = Function { settings: Some(settings), ..Function::default() };
    let request = CreateFunctionRequest {
        parent: "accounts/acme".into(),
        template: "chat.start".into(),
        function: Some(function),
        ..Default::default()
    };
    assert_eq!(
        fields(&request),
        [
            "function.settings.timeout",
            "function.settings.memory_mib",
            "function.settings.environment[\"1x\"]"
        ]
    );
}

#[test]
fn a_batch_is_checked_as_a_whole_and_its_events_are_not() {
    assert_eq!(fields(&PublishEventsRequest { events: vec![] }), ["events"]);
    assert_eq!(fields(&PublishEventsRequest { events: vec![Event::default()] }), Vec::<String>::new());
    assert_eq!(fields(&PublishEventsRequest { events: vec![Event::default(); 501] }), ["events"]);
}

#[test]
fn zero_means_default_where_the_contract_says_so() {
    assert!(fields(&PrepareRequest { source: "x".into(), memory_mib: 0, ..Default::default() }).is_empty());
    assert_eq!(
        fields(&PrepareRequest { source: "x".into(), memory_mib: 15, ..Default::default() }),
        ["memory_mib"]
    );
}

#[test]
fn enums_and_oneofs_are_checked() {
    let request = ListFunctionsRequest { parent: "accounts/acme".into(), state: 99, ..Default::default() };
    assert_eq!(fields(&request), ["state"]);
    assert_eq!(fields(&WatchDeploymentsRequest { message: None }), ["message"]);
}

#[test]
fn every_limit_has_a_reason_of_its_own() {
    let function = |function| CreateFunctionRequest {
        parent: "accounts/acme".into(),
        template: "chat.start".into(),
        function: Some(function),
        request_id: "42".into(),
        ..Default::default()
    };
    let settings = FunctionSettings {
        memory_mib: 257,
        allowed_hosts: vec!["a.com".into(); 65],
        environment: [("A".to_owned(), "x".repeat(4_097)), ("1".to_owned(), String::new())].into(),
        language: 9,
        ..FunctionSettings::default()
    };
    let source = "x".repeat(100_001);
    let found = function(Function { source, settings: Some(settings), ..Function::default() }).validate();
    let told: Vec<_> = found.unwrap_err().iter().map(|it| (it.field.clone(), it.reason)).collect();
    let expected = [
        ("function.source", "TOO_LONG"),
        ("function.settings.memory_mib", "OUT_OF_RANGE"),
        ("function.settings.allowed_hosts", "TOO_MANY"),
        ("function.settings.environment[\"1\"]", "MALFORMED"),
        ("function.settings.environment[\"A\"]", "TOO_LONG"),
        ("function.settings.language", "UNKNOWN_VALUE"),
        ("request_id", "MALFORMED"),
    ];
    assert_eq!(told, expected.map(|(field, reason)| (field.to_owned(), reason)));
}

#[test]
fn characters_are_counted_not_bytes() {
    let request = |source: String| PrepareRequest { source, memory_mib: 0, ..Default::default() };
    assert!(fields(&request("ä".repeat(100_000))).is_empty());
    assert_eq!(fields(&request("ä".repeat(100_001))), ["source"]);
}

#[test]
fn violations_become_a_typed_status_of_bounded_size() {
    let headers = vec![EventHeader::default(); 64];
    let violations =
        PublishEventRequest { event: Some(Event { headers, ..event() }) }.validate().unwrap_err();
    let status = Status::from(violations);
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "INVALID_REQUEST");
    assert_eq!(details.bad_request().unwrap().field_violations.len(), 16);
    assert!(status.details().len() < 4096);
}
