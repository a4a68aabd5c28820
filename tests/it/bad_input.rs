//! A caller's mistake gets a typed status that says what to change, and writes nothing.

use std::time::Duration;

use chatfn_proto::{
    convert::to_duration,
    ingest::v1::{
        Event, GetConversationRequest, GetDeliveryRequest, ListDeliveriesRequest, PublishEventRequest,
        PublishEventsRequest, event::PayloadKind, publish_result,
    },
    invoker::v1::{
        InvocationEvent, InvokeRequest, Language, PrepareRequest, TestInvokeRequest, TestedSource,
        invoker_service_client::InvokerServiceClient, prepare_response, run_report, test_invoke_response,
    },
    registry::v1::{
        CreateFunctionRequest, DeleteFunctionRequest, DeployFunctionRequest, Function, FunctionSettings,
        GetFunctionRequest, GetTemplateRequest, GetVersionRequest, ListFunctionsRequest, ListVersionsRequest,
        UndeployFunctionRequest, UpdateFunctionRequest,
    },
};
use chatfn_rpc::ErrorReport;
use chatfn_tests::{
    api::{self, Api, event},
    cluster::Cluster,
    eventually,
};
use tonic::{Code, Status};

/// Checks that a call was refused with a code, a reason and, unless it is empty, a violation of a field.
#[track_caller]
fn refused<T>(answer: Result<T, Status>, code: Code, reason: &str, field: &str) {
    let Err(status) = answer else { panic!("accepted; {reason} {field} was expected") };
    let report = ErrorReport::from_status(&status);
    assert_eq!((report.code, report.reason.as_deref()), (code, Some(reason)), "{status:?}");
    assert!(!report.message.is_empty());
    if !field.is_empty() {
        assert!(
            report.fields.iter().any(|violation| violation.field == field),
            "{field}: {:?}",
            report.fields
        );
    }
}

const NAME: &str = "accounts/acme/functions/chat.start";

fn create(parent: &str, template: &str, function: Function) -> CreateFunctionRequest {
    CreateFunctionRequest {
        parent: parent.into(),
        template: template.into(),
        function: Some(function),
        ..Default::default()
    }
}

fn with_settings(settings: FunctionSettings) -> Function {
    Function { settings: Some(settings), ..Function::default() }
}

#[tokio::test]
async fn the_registry_refuses_bad_functions_and_writes_nothing() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let invalid = Code::InvalidArgument;

    let timeout = Some(to_duration(Duration::from_secs(31)));
    let hosts = vec!["http://crm.example.com/".to_owned()];
    let environment = [("NO SPACES".to_owned(), String::new())].into();
    for (request, field) in [
        (CreateFunctionRequest::default(), "parent"),
        (create("acme", "chat.start", Function::default()), "parent"),
        (create("accounts/acme", "", Function::default()), "template"),
        (create("accounts/acme", "Chat Start", Function::default()), "template"),
        (
            create(
                "accounts/acme",
                "chat.start",
                Function { source: "x".repeat(100_001), ..Default::default() },
            ),
            "function.source",
        ),
        (
            create("accounts/acme", "chat.start", Function { source: "a\0b".into(), ..Default::default() }),
            "function.source",
        ),
        (
            create(
                "accounts/acme",
                "chat.start",
                Function { display_name: "x".repeat(51), ..Default::default() },
            ),
            "function.display_name",
        ),
        (
            create(
                "accounts/acme",
                "chat.start",
                with_settings(FunctionSettings { timeout, ..Default::default() }),
            ),
            "function.settings.timeout",
        ),
        (
            create(
                "accounts/acme",
                "chat.start",
                with_settings(FunctionSettings { allowed_hosts: hosts, ..Default::default() }),
            ),
            "function.settings.allowed_hosts[0]",
        ),
        (
            create(
                "accounts/acme",
                "chat.start",
                with_settings(FunctionSettings { environment, ..Default::default() }),
            ),
            "function.settings.environment[\"NO SPACES\"]",
        ),
    ] {
        refused(api.functions.create_function(request).await, invalid, "INVALID_REQUEST", field);
    }
    let unknown = create("accounts/acme", "chat.nothing", Function::default());
    refused(api.functions.create_function(unknown).await, Code::NotFound, "TEMPLATE_NOT_FOUND", "");

    let list = ListFunctionsRequest { parent: "accounts/acme".into(), ..Default::default() };
    let functions = api.functions.list_functions(list.clone()).await.unwrap().into_inner().functions;
    assert!(functions.is_empty(), "nothing was written: {functions:?}");

    for (page_size, page_token, reason, field) in [
        (-1, "", "INVALID_REQUEST", "page_size"),
        (201, "", "INVALID_REQUEST", "page_size"),
        (0, "not a token", "INVALID_PAGE_TOKEN", ""),
    ] {
        let request = ListFunctionsRequest { page_size, page_token: page_token.into(), ..list.clone() };
        refused(api.functions.list_functions(request).await, invalid, reason, field);
    }
    let templates = [
        ("chat.start", invalid, "INVALID_REQUEST"),
        ("templates/chat.no", Code::NotFound, "TEMPLATE_NOT_FOUND"),
    ];
    for (name, code, reason) in templates {
        let request = GetTemplateRequest { name: name.into() };
        refused(api.templates.get_template(request).await, code, reason, "");
    }
}

#[tokio::test]
async fn the_registry_refuses_calls_on_what_is_not_there() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    for (name, code, reason, field) in [
        ("", Code::InvalidArgument, "INVALID_REQUEST", "name"),
        ("chat.start", Code::InvalidArgument, "INVALID_REQUEST", "name"),
        ("accounts/acme/functions/chat.start/x", Code::InvalidArgument, "INVALID_REQUEST", "name"),
        (NAME, Code::NotFound, "FUNCTION_NOT_FOUND", ""),
    ] {
        let functions = &mut api.functions;
        let name = || name.to_owned();
        let request = GetFunctionRequest { name: name() };
        refused(functions.get_function(request).await, code, reason, field);
        let request = DeleteFunctionRequest { name: name(), ..Default::default() };
        refused(functions.delete_function(request).await, code, reason, field);
        let request = DeployFunctionRequest { name: name(), ..Default::default() };
        refused(functions.deploy_function(request).await, code, reason, field);
        let request = UndeployFunctionRequest { name: name(), ..Default::default() };
        refused(functions.undeploy_function(request).await, code, reason, field);
        let function = Some(Function { name: name(), display_name: "x".into(), ..Default::default() });
        let request = UpdateFunctionRequest { function, update_mask: None, ..Default::default() };
        let field = if field.is_empty() { "" } else { "function.name" };
        refused(functions.update_function(request).await, code, reason, field);
        let request = ListVersionsRequest { parent: name(), ..Default::default() };
        let field = if field.is_empty() { "" } else { "parent" };
        refused(functions.list_versions(request).await, code, reason, field);
    }

    api.functions.create_function(create("accounts/acme", "chat.start", Function::default())).await.unwrap();
    let request = GetVersionRequest { name: format!("{NAME}/versions/1") };
    refused(api.functions.get_version(request).await, Code::NotFound, "VERSION_NOT_FOUND", "");
    let request = GetVersionRequest { name: format!("{NAME}/versions/0") };
    refused(api.functions.get_version(request).await, Code::InvalidArgument, "INVALID_REQUEST", "name");
    let request = DeployFunctionRequest { name: NAME.into(), version: 7, ..Default::default() };
    refused(api.functions.deploy_function(request).await, Code::NotFound, "VERSION_NOT_FOUND", "");
    let request = DeployFunctionRequest { name: NAME.into(), etag: "stale".into(), ..Default::default() };
    refused(api.functions.deploy_function(request).await, Code::Aborted, "ETAG_MISMATCH", "");
    let request = UpdateFunctionRequest {
        function: Some(Function { name: NAME.into(), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["live_version".into()] }),
        ..Default::default()
    };
    refused(
        api.functions.update_function(request).await,
        Code::InvalidArgument,
        "INVALID_REQUEST",
        "update_mask",
    );
}

#[tokio::test]
async fn a_source_that_does_not_build_is_refused_with_its_place() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    for (template, source, kind, place, advice) in [
        (
            "chat.start",
            "async function lambda() {\n  const = 1;\n}",
            "SYNTAX",
            Some(("2", "9")),
            "Correct the source there",
        ),
        (
            "chat.end",
            "async function handler() {}",
            "NO_LAMBDA",
            None,
            "write `async function lambda(input, context)",
        ),
        (
            "chat.in_queue",
            "\nfetch('http://crm.example.com');\nasync function lambda() {}",
            "FORBIDDEN_AT_TOP_LEVEL",
            Some(("2", "")),
            "move the call into the lambda",
        ),
        (
            "chat.participants_change",
            "const x = require('fs');\nasync function lambda() {}",
            "UNKNOWN_MODULE",
            Some(("1", "19")),
            "import one of these",
        ),
    ] {
        let function = Function { source: source.into(), ..Default::default() };
        api.functions.create_function(create("accounts/acme", template, function)).await.unwrap();
        let status = api.redeploy(template).await.expect_err(template);
        let report = ErrorReport::from_status(&status);
        assert_eq!((report.code, report.reason.as_deref()), (Code::FailedPrecondition, Some("BUILD_FAILED")));
        assert!(report.metadata["kind"].contains(kind), "{kind}: {report:?}");
        assert!(report.message.contains(advice), "{advice}: {}", report.message);
        if let Some((line, column)) = place {
            assert_eq!(report.metadata["line"], line, "{report:?}");
            assert!(report.metadata["column"] != "0", "{report:?}");
            let said = format!("line {line}, column {column}");
            assert!(report.message.contains(&said), "{said}: {}", report.message);
        }
        let request = GetFunctionRequest { name: format!("accounts/acme/functions/{template}") };
        let function = api.functions.get_function(request).await.unwrap().into_inner().function.unwrap();
        assert_eq!(function.live_version, 0);
        assert!(function.build_error.unwrap().kind().as_str_name().contains(kind));
    }
}

fn payload(json: &str) -> Event {
    Event {
        payload_kind: Some(PayloadKind::PayloadJson(json.into())),
        ..event("chat.in_queue", "e-1", "c-1")
    }
}

#[tokio::test]
async fn event_ingest_refuses_bad_events_and_writes_nothing() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let invalid = Code::InvalidArgument;
    let good = event("chat.in_queue", "e-1", "c-1");

    refused(
        api.events.publish_event(PublishEventRequest::default()).await,
        invalid,
        "INVALID_REQUEST",
        "event",
    );
    for (event, code, reason, field) in [
        (Event { account: "a/b".into(), ..good.clone() }, invalid, "INVALID_REQUEST", "event.account"),
        (Event { event_id: String::new(), ..good.clone() }, invalid, "INVALID_REQUEST", "event.event_id"),
        (Event { event_id: "x".repeat(129), ..good.clone() }, invalid, "INVALID_REQUEST", "event.event_id"),
        (
            Event { conversation_id: "a b".into(), ..good.clone() },
            invalid,
            "INVALID_REQUEST",
            "event.conversation_id",
        ),
        (Event { payload_kind: None, ..good.clone() }, invalid, "INVALID_REQUEST", "event.payload_kind"),
        (Event { template: "chat.nothing".into(), ..good.clone() }, Code::NotFound, "TEMPLATE_NOT_FOUND", ""),
        (payload("{"), invalid, "PAYLOAD_NOT_JSON", "event.payload_json"),
        (payload("[]"), invalid, "PAYLOAD_NOT_JSON", "event.payload_json"),
        (payload(r#"{"campaignId": "\ud800"}"#), invalid, "PAYLOAD_NOT_JSON", "event.payload_json"),
        (
            payload(&format!("{{\"a\":{}", "[".repeat(10_000))),
            invalid,
            "PAYLOAD_TOO_DEEP",
            "event.payload_json",
        ),
        (
            payload(&format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024))),
            invalid,
            "INVALID_REQUEST",
            "event.payload_json",
        ),
        (
            payload(r#"{"chatSessionKey": "H1", "ttr": {"newTtr": {"value": "soon"}}}"#),
            invalid,
            "PAYLOAD_SCHEMA",
            "event.payload.ttr.newTtr.value",
        ),
    ] {
        refused(api.publish(event).await, code, reason, field);
    }
    refused(
        api.events.publish_events(PublishEventsRequest::default()).await,
        invalid,
        "INVALID_REQUEST",
        "events",
    );
    let many = PublishEventsRequest { events: vec![good.clone(); 501] };
    refused(api.events.publish_events(many).await, invalid, "INVALID_REQUEST", "events");
    let list = ListDeliveriesRequest { parent: "accounts/acme".into(), ..Default::default() };
    let deliveries = api.deliveries.list_deliveries(list.clone()).await.unwrap().into_inner().deliveries;
    assert!(deliveries.is_empty(), "nothing was written: {deliveries:?}");

    // The same id with another payload is another event.
    api.publish(good.clone()).await.unwrap();
    let reused = api.publish(payload(r#"{"chatSessionKey": "H2"}"#)).await;
    refused(reused, Code::AlreadyExists, "EVENT_ID_REUSED", "");

    let request = ListDeliveriesRequest { page_token: "nonsense".into(), ..list };
    refused(api.deliveries.list_deliveries(request).await, invalid, "INVALID_PAGE_TOKEN", "");
    for (name, code, reason) in [
        ("e-1", invalid, "INVALID_REQUEST"),
        ("accounts/acme/deliveries/e-2", Code::NotFound, "DELIVERY_NOT_FOUND"),
        ("accounts/other/deliveries/e-1", Code::NotFound, "DELIVERY_NOT_FOUND"),
    ] {
        let request = GetDeliveryRequest { name: name.into() };
        refused(api.deliveries.get_delivery(request).await, code, reason, "");
    }
    let request = GetConversationRequest { name: "c-1".into(), ..Default::default() };
    refused(api.deliveries.get_conversation(request).await, invalid, "INVALID_REQUEST", "name");
}

#[tokio::test]
async fn a_bad_event_does_not_sink_its_neighbours() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let numbered = |number: u32| event("chat.in_queue", &format!("e-{number}"), &format!("c-{number}"));
    let events = vec![
        numbered(1),
        Event { account: String::new(), ..numbered(2) },
        Event { payload_kind: Some(PayloadKind::PayloadJson("{".into())), ..numbered(3) },
        numbered(4),
        numbered(1),
    ];
    let response = api.events.publish_events(PublishEventsRequest { events }).await.unwrap().into_inner();
    let results: Vec<_> = response.results.into_iter().map(|result| result.result.unwrap()).collect();
    assert_eq!(results.len(), 5);
    for (index, duplicate) in [(0, false), (3, false), (4, true)] {
        assert!(
            matches!(&results[index], publish_result::Result::Acknowledgement(it) if it.duplicate == duplicate),
            "{index}: {results:?}"
        );
    }
    for index in [1, 2] {
        let publish_result::Result::Error(error) = &results[index] else { panic!("{index}: {results:?}") };
        assert_eq!(error.code, i32::from(Code::InvalidArgument));
        assert!(!error.details.is_empty());
    }
    api.outcome("e-1").await;
    api.outcome("e-4").await;
}

#[tokio::test]
async fn the_invoker_refuses_bad_calls() {
    let cluster = Cluster::start().await;
    let mut invoker = InvokerServiceClient::new(cluster.invoker.client());
    let event = InvocationEvent {
        event_id: "e-1".into(),
        conversation_id: "c-1".into(),
        attempt: 1,
        payload_json: "{}".into(),
        ..Default::default()
    };
    let request = |function: &str, event: &InvocationEvent| InvokeRequest {
        function: function.into(),
        event: Some(event.clone()),
    };
    let invalid = Code::InvalidArgument;
    for (request, code, reason, field) in [
        (InvokeRequest::default(), invalid, "INVALID_REQUEST", "function"),
        (request("chat.start", &event), invalid, "INVALID_REQUEST", "function"),
        (
            request(NAME, &InvocationEvent { attempt: 0, ..event.clone() }),
            invalid,
            "INVALID_REQUEST",
            "event.attempt",
        ),
        (
            request(NAME, &InvocationEvent { payload_json: "{".into(), ..event.clone() }),
            invalid,
            "INVALID_REQUEST",
            "event.payload_json",
        ),
        (request(NAME, &event), Code::NotFound, "FUNCTION_NOT_DEPLOYED", ""),
    ] {
        refused(invoker.invoke(request).await, code, reason, field);
    }
    refused(invoker.prepare(PrepareRequest::default()).await, invalid, "INVALID_REQUEST", "source");
    let request =
        PrepareRequest { source: "function lambda() {".into(), memory_mib: 0, ..Default::default() };
    let answer = invoker.prepare(request).await.unwrap().into_inner().outcome.unwrap();
    assert!(
        matches!(answer, prepare_response::Outcome::BuildError(error) if error.line == 1),
        "an answer, not an error"
    );
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_by_every_service() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let giant = "x".repeat(5 * 1024 * 1024);
    let function = Function { description: giant.clone(), ..Default::default() };
    let answers = [
        api.functions.create_function(create("accounts/acme", "chat.start", function)).await.map(|_| ()),
        api.publish(Event { conversation_id: giant.clone(), ..api::event("chat.start", "e-1", "c-1") })
            .await
            .map(|_| ()),
        InvokerServiceClient::new(cluster.invoker.client())
            .prepare(PrepareRequest { source: giant, memory_mib: 0, ..Default::default() })
            .await
            .map(|_| ()),
    ];
    for answer in answers {
        refused(answer, Code::OutOfRange, "MESSAGE_TOO_LARGE", "");
    }
}

#[tokio::test]
async fn a_draft_can_be_tested_before_it_is_deployed() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let mut invoker = InvokerServiceClient::new(cluster.invoker.client());
    let source = "type Input = { payload: { chatSessionKey?: string } };\n\
        async function lambda(input: Input, context: any): Promise<unknown[]> {\n  \
          console.info('tested', { attempt: context.attempt as number });\n  \
          return [input.payload.chatSessionKey!.length > 0, context.functionVersion];\n\
        }";
    let settings = FunctionSettings {
        language: Language::Typescript.into(),
        timeout: Some(to_duration(Duration::from_secs(20))),
        ..Default::default()
    };
    let function = Function { source: source.into(), ..with_settings(settings) };
    api.functions.create_function(create("accounts/acme", "chat.in_queue", function)).await.unwrap();
    let function = "accounts/acme/functions/chat.in_queue";
    let request = |function: &str| TestInvokeRequest { function: function.into(), ..Default::default() };
    let response = eventually("the invoker knows the templates", async || {
        let mut invoker = InvokerServiceClient::new(cluster.invoker.client());
        invoker.test_invoke(request(function)).await.ok()
    })
    .await
    .into_inner();
    assert_eq!(response.source(), TestedSource::Draft);
    assert!(response.payload_problems.is_empty(), "the sample satisfies the schema: {response:?}");
    let Some(test_invoke_response::Outcome::Report(report)) = response.outcome else {
        panic!("{response:?}")
    };
    assert_eq!(report.outcome, Some(run_report::Outcome::ResultJson("[true,0]".into())));
    assert_eq!(report.logs[0].extras_json, r#"[{"attempt":1}]"#);

    let list = ListDeliveriesRequest { parent: "accounts/acme".into(), ..Default::default() };
    let deliveries = api.deliveries.list_deliveries(list).await.unwrap().into_inner().deliveries;
    assert!(deliveries.is_empty(), "a test is no delivery: {deliveries:?}");

    let missing = invoker.test_invoke(request("accounts/acme/functions/chat.end")).await;
    refused(missing, Code::NotFound, "FUNCTION_NOT_FOUND", "");
    let missing = invoker.test_invoke(request("accounts/acme/functions/chat.nothing")).await;
    refused(missing, Code::NotFound, "TEMPLATE_NOT_FOUND", "");
}
