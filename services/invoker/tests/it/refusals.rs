//! What is refused before anything of a lambda runs.

use std::time::Duration;

use chatfn_proto::invoker::v1::{FailureKind, InvokeRequest};
use chatfn_rpc::RequestExt as _;
use tokio::time::timeout;
use tonic::{Code, Request};

use crate::{
    PATIENCE,
    service::{LOCAL, Service, failure, fetching, of, request, result, version},
    witness::{Answer, Witness},
};

#[tokio::test]
async fn a_function_that_is_not_deployed() {
    let service = Service::start([version(1, "async function lambda() {}", &[""; 0])], &[]).await;
    let other = InvokeRequest { function: "accounts/acme/functions/chat.end".into(), ..request("e-1") };
    let error = service.call(Request::new(other)).await.unwrap_err();
    assert_eq!((error.code, error.reason.as_deref()), (Code::NotFound, Some("FUNCTION_NOT_DEPLOYED")));
    assert_eq!(error.resource.unwrap().name, "accounts/acme/functions/chat.end");
    assert!(error.message.contains("deploy it"), "{}", error.message);
}

#[tokio::test]
async fn a_malformed_request() {
    let service = Service::start([version(1, "async function lambda() {}", &[""; 0])], &[]).await;
    let changed = |change: fn(&mut InvokeRequest)| {
        let mut request = request("e-1");
        change(&mut request);
        Request::new(request)
    };
    for (request, field) in [
        (changed(|it| it.function = "acme/chat.start".into()), "function"),
        (changed(|it| it.event = None), "event"),
        (changed(|it| it.event.as_mut().unwrap().attempt = 0), "event.attempt"),
        (changed(|it| it.event.as_mut().unwrap().event_id = "a b".into()), "event.event_id"),
        (changed(|it| it.event.as_mut().unwrap().payload_json = "{".into()), "event.payload_json"),
        (changed(|it| it.event.as_mut().unwrap().payload_json = "[]".into()), "event.payload_json"),
        (
            changed(|it| it.event.as_mut().unwrap().payload_json = "{}, \"x\": {}".into()),
            "event.payload_json",
        ),
    ] {
        let error = service.call(request).await.unwrap_err();
        assert_eq!((error.code, error.reason.as_deref()), (Code::InvalidArgument, Some("INVALID_REQUEST")));
        let fields: Vec<_> = error.fields.iter().map(|violation| &*violation.field).collect();
        assert_eq!(fields, [field]);
    }
    assert!(service.invoke("e-1").await.is_ok());
}

#[tokio::test]
async fn a_call_without_enough_time() {
    let outside = Witness::start(|_| Answer::ok("")).await;
    let host = outside.at("127.0.0.1");
    let live = version(1, &fetching(&format!("http://{host}/")), &[&host]);
    let service = Service::start([live], &[LOCAL]).await;
    // On a slow machine the little that there is may be used up on the way.
    let refused = async {
        loop {
            let error = service.invoke_within("e-1", Duration::from_millis(18)).await.unwrap_err();
            assert_eq!(error.code, Code::DeadlineExceeded);
            if error.message.contains("to run a lambda") {
                break error;
            }
        }
    };
    let error = timeout(PATIENCE, refused).await.unwrap();
    assert_eq!(error.reason.as_deref(), Some("BUDGET_TOO_SMALL"));
    assert_eq!(outside.seen().connections, 0);
    assert!(service.invoke("e-2").await.is_ok());
}

#[tokio::test]
async fn a_version_that_this_engine_cannot_load() {
    let source = "throw new TypeError('no longer works');\nasync function lambda() {}";
    let service = Service::start([version(9, source, &[""; 0])], &[]).await;
    let report = service.invoke("e-1").await.unwrap();
    let failure = failure(&report, FailureKind::NotLoadable);
    assert_eq!(failure.error_name, "TypeError");
    for part in ["version 9", "no longer works", "nothing ran", "deploy"] {
        assert!(failure.message.contains(part), "{part}: {}", failure.message);
    }
    assert_eq!(report.version, 9);
    assert!(report.logs.is_empty() && report.outbound_calls.is_empty());
}

#[tokio::test]
async fn a_version_that_cannot_be_loaded_in_time() {
    // As any version on processors that are busy: this one never ends.
    let service =
        Service::start([version(9, "while (true) {} async function lambda() {}", &[""; 0])], &[]).await;
    let error = service.invoke("e-1").await.unwrap_err();
    assert_eq!((error.code, error.reason.as_deref()), (Code::ResourceExhausted, Some("LOADING_TOO_SLOW")));
    assert!(error.retry_after.is_some());
}

#[tokio::test]
async fn what_one_account_cannot_load_does_not_keep_others_from_loading() {
    let endless = |template: &str| {
        let bad =
            version(9, &format!("while (true) {{}} async function lambda() {{}} // {template}"), &[""; 0]);
        of(&format!("accounts/acme/functions/{template}"), bad)
    };
    // Some of many are not loaded before anybody asks.
    let others: Vec<_> = (0..10).map(|n| format!("accounts/other{n}/functions/chat.start")).collect();
    let source = |name: &str| format!("async function lambda() {{ return {name:?}; }}");
    let good = others.iter().map(|name| of(name, version(1, &source(name), &[""; 0])));
    let bad = ["chat.start", "chat.end"].map(endless);
    let names = bad.clone().map(|version| version.function.to_string());
    let service = Service::start(bad.into_iter().chain(good), &[]).await;
    for function in names {
        let begins = Request::new(InvokeRequest { function, ..request("e-1") });
        let error = service.call(begins.with_timeout(Duration::from_millis(300))).await.unwrap_err();
        // Whichever of the two notices first.
        let reason = error.reason.as_deref();
        assert!(matches!(reason, Some("BUDGET_TOO_SMALL" | "DEADLINE_EXCEEDED")), "{reason:?}");
    }
    let waits = service.spawn_invoke("e-1");
    for function in others {
        let call = Request::new(InvokeRequest { function: function.clone(), ..request("e-2") });
        assert_eq!(result(&service.call(call).await.unwrap()), function);
    }
    assert!(!waits.is_finished(), "they are not kept waiting for one of these");
    waits.abort();
}
