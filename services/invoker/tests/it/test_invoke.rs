//! Tests of what is not deployed.

use std::{sync::Arc, time::Duration};

use chatfn_domain::settings::FunctionSettings;
use chatfn_proto::{
    convert::to_duration,
    invoker::v1::{
        BuildErrorKind, FailureKind, Header, Language, RunReport, TestInvokeRequest, TestInvokeResponse,
        TestLambda, TestSettings, TestedSource, test_invoke_response::Outcome,
    },
};
use chatfn_rpc::RequestExt as _;
use chatfn_telemetry::testing::MetricsReader;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use crate::{
    FUNCTION, PATIENCE, drafts,
    service::{LOCAL, Service, failure, fetching, logged, reason, result, version},
    witness::{Answer, Witness},
};

/// Nothing listens there.
const NO_REGISTRY: &str = "--registry=http://127.0.0.1:1";

/// A lambda that has all the time it may have.
fn given(source: &str, hosts: &[&str]) -> TestInvokeRequest {
    let settings = TestSettings {
        timeout: Some(to_duration(PATIENCE)),
        allowed_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        ..TestSettings::default()
    };
    let lambda = TestLambda { source: source.into(), settings: Some(settings) };
    TestInvokeRequest { function: FUNCTION.into(), lambda: Some(lambda), ..TestInvokeRequest::default() }
}

fn draft() -> TestInvokeRequest {
    TestInvokeRequest { function: FUNCTION.into(), ..TestInvokeRequest::default() }
}

#[track_caller]
fn report(response: &TestInvokeResponse) -> &RunReport {
    match response.outcome.as_ref().expect("an outcome") {
        Outcome::Report(report) => report,
        Outcome::BuildError(error) => panic!("it does not build: {error:?}"),
    }
}

const ECHO: &str = "async function lambda(input, context) {
  console.info('testing', { attempt: context.attempt });
  return { input, context };
}";

#[tokio::test]
async fn a_given_lambda_runs_on_the_sample_payload() {
    let service = Service::start([], &[NO_REGISTRY]).await;
    let response = service.test_invoke(given(ECHO, &[])).await.unwrap();
    assert_eq!(response.source(), TestedSource::Given);
    assert!(response.payload_problems.is_empty(), "{:?}", response.payload_problems);
    let report = report(&response);
    let returned = result(report);
    assert_eq!(returned["input"], json!({"headers": [], "payload": {"text": "a sample"}}));
    let context = &returned["context"];
    assert_eq!((&context["account"], &context["template"]), (&json!("acme"), &json!("chat.start")));
    assert_eq!((&context["attempt"], &context["functionVersion"]), (&json!(1), &json!(0)));
    assert_eq!(report.version, 0);
    assert!(report.duration.is_some() && report.remaining_budget.is_some());
    assert!(logged(report)[0].starts_with("testing"));
    assert_eq!(report.logs[0].extras_json, r#"[{"attempt":1}]"#);

    let event = response.event.unwrap();
    assert!(event.event_id.starts_with("test-"), "{}", event.event_id);
    assert_eq!(context["eventId"], json!(event.event_id));
    assert_eq!(context["conversationId"], json!(event.conversation_id));
    assert_eq!(context["idempotencyKey"], json!(event.idempotency_key));
    let again = service.test_invoke(given(ECHO, &[])).await.unwrap().event.unwrap();
    assert_ne!(again.event_id, event.event_id);
    assert_ne!(again.idempotency_key, event.idempotency_key, "no test is a repetition of another");
}

#[tokio::test]
async fn what_the_request_says_reaches_the_lambda() {
    let service = Service::start([], &[NO_REGISTRY]).await;
    let request = TestInvokeRequest {
        payload_json: r#"{"text": "mine"}"#.into(),
        headers: vec![Header { key: "k".into(), value: "v".into() }],
        event_id: "e-1".into(),
        conversation_id: "c-1".into(),
        attempt: 3,
        idempotency_key: "key-1".into(),
        ..given(ECHO, &[])
    };
    let response = service.test_invoke(request).await.unwrap();
    let returned = result(report(&response));
    assert_eq!(
        returned["input"],
        json!({"headers": [{"key": "k", "value": "v"}], "payload": {"text": "mine"}})
    );
    let context = &returned["context"];
    let seen = ["eventId", "conversationId", "attempt", "idempotencyKey"].map(|name| context[name].clone());
    assert_eq!(seen, [json!("e-1"), json!("c-1"), json!(3), json!("key-1")]);
}

#[tokio::test]
async fn outbound_calls_are_made_under_the_same_rules_and_reported() {
    let crm = Witness::start(|_| Answer::new(201, "", "")).await;
    let host = crm.at("127.0.0.1");
    let source = format!(
        "async function lambda() {{
           const refused = await fetch('https://elsewhere.example/').catch((error) => error.code);
           return [refused, (await fetch('http://{host}/cases', {{ method: 'POST' }})).status];
         }}"
    );
    let service = Service::start([], &[NO_REGISTRY, LOCAL]).await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let response = service.test_invoke(given(&source, &[&host])).await.unwrap();
        let report = report(&response);
        assert_eq!(result(report), json!(["HOST_NOT_ALLOWED", 201]));
        let [refused, made] = &report.outbound_calls[..] else { panic!("{:?}", report.outbound_calls) };
        assert_eq!((refused.status, &*refused.error_reason), (0, "HOST_NOT_ALLOWED"));
        assert_eq!((&*made.method, made.status, made.duration.is_some()), ("POST", 201, true));
    }
    for request in crm.seen().requests {
        keys.push(request.header("idempotency-key").unwrap().to_owned());
    }
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0], keys[1], "each test has a key of its own");
}

#[tokio::test]
async fn a_payload_that_is_none_of_the_templates_is_run_and_flagged() {
    let service = Service::start([], &[NO_REGISTRY]).await;
    let request = TestInvokeRequest { payload_json: r#"{"text": 4711}"#.into(), ..given(ECHO, &[]) };
    let response = service.test_invoke(request).await.unwrap();
    assert_eq!(result(report(&response))["input"]["payload"], json!({"text": 4711}));
    let [problem] = &response.payload_problems[..] else { panic!("{:?}", response.payload_problems) };
    assert_eq!(problem.field, "payload.text");
    assert!(problem.description.contains("string") && !problem.description.contains("4711"), "{problem:?}");

    for payload_json in ["[1]", "{", r#"{"a": "\ud800"}"#] {
        let request = TestInvokeRequest { payload_json: payload_json.into(), ..given(ECHO, &[]) };
        let error = service.test_invoke(request).await.unwrap_err();
        assert_eq!((error.code, error.fields[0].field.as_str()), (Code::InvalidArgument, "payload_json"));
    }
}

#[tokio::test]
async fn what_is_seldom_meant_is_warned_of() {
    let service = Service::start([], &[NO_REGISTRY]).await;
    let lambda = "console.log('ready'); async function lambda() {}";
    let response = service.test_invoke(given(lambda, &[])).await.unwrap();
    assert!(report(&response).logs.is_empty());
    assert!(matches!(&*response.warnings, [logs] if logs.contains("logs")), "{:?}", response.warnings);
}

#[tokio::test]
async fn a_source_that_does_not_build_is_an_answer() {
    let service = Service::start([], &[NO_REGISTRY]).await;
    let response =
        service.test_invoke(given("async function lambda() {\n  const = 1;\n}", &[])).await.unwrap();
    let Some(Outcome::BuildError(error)) = response.outcome else { panic!("{response:?}") };
    assert_eq!((error.kind(), error.line, error.column), (BuildErrorKind::Syntax, 2, 9), "{error:?}");

    let mut typed = given("enum Colour { Red }\nasync function lambda() {}", &[]);
    typed.lambda.as_mut().unwrap().settings.as_mut().unwrap().language = Language::Typescript.into();
    let response = service.test_invoke(typed).await.unwrap();
    let Some(Outcome::BuildError(error)) = response.outcome else { panic!("{response:?}") };
    assert_eq!((error.kind(), error.line, error.column), (BuildErrorKind::Syntax, 1, 1), "{error:?}");
    assert!(error.message.contains("write it in JavaScript"), "{error:?}");
}

#[tokio::test]
async fn a_failing_lambda_is_a_report() {
    let service = Service::start([], &[NO_REGISTRY]).await;
    let source = "async function lambda() {\n  console.log('at work');\n  throw new RangeError('no');\n}";
    let response = service.test_invoke(given(source, &[])).await.unwrap();
    let thrown = failure(report(&response), FailureKind::Thrown);
    assert!(thrown.stack.contains("lambda.js:3:"), "{thrown:?}");
    assert_eq!(logged(report(&response)), ["at work"]);

    let mut endless = given("async function lambda() { console.log('at work'); while (true) {} }", &[]);
    endless.lambda.as_mut().unwrap().settings.as_mut().unwrap().timeout =
        Some(to_duration(Duration::from_secs(1)));
    let response = service.test_invoke(endless).await.unwrap();
    failure(report(&response), FailureKind::Timeout);
    assert_eq!(logged(report(&response)), ["at work"]);
}

#[tokio::test]
async fn a_draft_runs_with_its_own_settings() {
    let settings = FunctionSettings {
        timeout: PATIENCE,
        environment: [("CRM_URL".to_owned(), "https://crm.example".to_owned())].into(),
        ..FunctionSettings::default()
    };
    let registry =
        drafts::serve("async function lambda() { return ['draft', process.env.CRM_URL]; }", &settings).await;
    let live = version(7, "async function lambda() { return 'live'; }", &[""; 0]);
    let service = Service::start([live], &[&format!("--registry={registry}")]).await;
    let response = service.test_invoke(draft()).await.unwrap();
    assert_eq!(response.source(), TestedSource::Draft);
    assert_eq!(result(report(&response)), json!(["draft", "https://crm.example"]));
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), "live", "what is live stays as it is");
}

#[tokio::test]
async fn what_cannot_be_tested_is_refused_with_a_reason() {
    let registry = drafts::serve(ECHO, &FunctionSettings::default()).await;
    let service = Service::start([], &[&format!("--registry={registry}")]).await;
    for (function, code, reason) in [
        ("accounts/other/functions/chat.start", Code::NotFound, "FUNCTION_NOT_FOUND"),
        ("accounts/acme/functions/chat.nothing", Code::NotFound, "TEMPLATE_NOT_FOUND"),
        ("chat.start", Code::InvalidArgument, "INVALID_REQUEST"),
    ] {
        let request = TestInvokeRequest { function: function.into(), ..draft() };
        let error = service.test_invoke(request).await.unwrap_err();
        assert_eq!((error.code, error.reason.as_deref()), (code, Some(reason)), "{error:?}");
    }
    let mut settings = given(ECHO, &["http://crm.example/"]);
    let error = service.test_invoke(settings.clone()).await.unwrap_err();
    assert_eq!(error.fields[0].field, "lambda.settings.allowed_hosts[0]", "{error:?}");
    settings.lambda.as_mut().unwrap().source.clear();
    assert_eq!(service.test_invoke(settings).await.unwrap_err().fields[0].field, "lambda.source");

    let alone = Service::start([], &[NO_REGISTRY]).await;
    let error = alone.test_invoke(draft()).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_deref()), (Code::Unavailable, Some("REGISTRY_UNAVAILABLE")));
    assert!(error.retry_after.is_some(), "{error:?}");
}

#[tokio::test]
async fn a_test_counts_as_a_run() {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let slow = Witness::start(move |_| Answer::ok("").behind(&opened)).await;
    let host = slow.at("127.0.0.1");
    let live = version(1, &fetching(&format!("http://{host}/")), &[&host]);
    let service = Service::start([live], &[NO_REGISTRY, LOCAL, "--max-runs=1"]).await;
    let running = service.spawn_invoke("e-1");
    slow.until(|seen| seen.in_flight == 1).await;
    let refused = service.test_invoke(given(ECHO, &[])).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_deref()), (Code::ResourceExhausted, Some("OVERLOADED")));
    gate.cancel();
    running.await.unwrap().unwrap();

    let doomed = Request::new(given(ECHO, &[])).with_timeout(Duration::from_millis(5));
    let refused = service.test_invoke(doomed).await.unwrap_err();
    assert_eq!(refused.code, Code::DeadlineExceeded, "{refused:?}");
    assert_eq!(reason(service.invoke_within("e-2", Duration::from_millis(5)).await), refused.reason.unwrap());
}

#[tokio::test]
async fn tests_are_divided_among_accounts_and_counted_when_refused() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = format!("--registry=http://{}", mute.local_addr().unwrap());
    let metrics = MetricsReader::somewhere();
    let service = Arc::new(Service::start([], &[&registry, &metrics.flag()]).await);
    let mut testing = JoinSet::new();
    for _ in 0..13 {
        let tester = Arc::clone(&service);
        testing.spawn(async move { tester.test_invoke(draft()).await });
    }
    let refused = testing.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!((refused.code, refused.reason.as_deref()), (Code::ResourceExhausted, Some("ACCOUNT_BUSY")));
    let others = "accounts/other/functions/chat.start".to_owned();
    let response = service.test_invoke(TestInvokeRequest { function: others, ..given(ECHO, &[]) }).await;
    result(report(&response.unwrap()));
    let counted = metrics.value("chatfn_invoker_runs_refused_total{reason=\"account_busy\"}").await;
    assert_eq!(counted, Some(1));
}

#[tokio::test]
async fn a_test_that_waits_for_the_registry_takes_no_run() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = format!("--registry=http://{}", mute.local_addr().unwrap());
    let live = version(1, "async function lambda() { return 'ran' }", &[""; 0]);
    let service = Arc::new(Service::start([live], &[&registry, "--max-runs=1"]).await);
    let tester = Arc::clone(&service);
    let test = tokio::spawn(async move { tester.test_invoke(draft()).await });
    let _asked = mute.accept().await.unwrap();
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), json!("ran"));
    test.abort();
}
