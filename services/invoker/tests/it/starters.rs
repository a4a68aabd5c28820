//! The shipped templates, as far as they are code: every starter runs as it is on its template's sample.

use std::{fs, path::Path};

use chatfn_deployments::{Deployments, Template};
use chatfn_proto::{
    convert::to_duration,
    invoker::v1::{TestInvokeRequest, TestLambda, TestSettings, test_invoke_response::Outcome},
};
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    service::{LOCAL, Service, result},
    witness::{Answer, Witness},
};

/// A shipped template: its name and its starter, beside what services know of it.
struct Shipped {
    name: String,
    starter: String,
    sample: Value,
}

/// Reads the folders of the registry, which embeds the same files.
fn shipped() -> (Vec<Shipped>, Vec<Template>) {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../registry/templates");
    let folders = fs::read_dir(folders).unwrap().map(|entry| entry.unwrap().path());
    folders
        .filter(|path| path.is_dir())
        .map(|folder| {
            let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            let sample = read("sample.json");
            let template = Template {
                name: name.parse().unwrap(),
                payload_schema_json: read("schema.json"),
                sample_payload_json: sample.clone(),
                fires_once: false,
            };
            let sample = serde_json::from_str(&sample).unwrap();
            (Shipped { name, starter: read("starter.js"), sample }, template)
        })
        .unzip()
}

/// Runs a starter on its template's sample, which need not be given, with these settings.
async fn run(service: &Service, shipped: &Shipped, settings: TestSettings) -> (Value, Vec<String>) {
    let settings = TestSettings { timeout: Some(to_duration(PATIENCE)), ..settings };
    let request = TestInvokeRequest {
        function: format!("accounts/acme/functions/{}", shipped.name),
        lambda: Some(TestLambda { source: shipped.starter.clone(), settings: Some(settings) }),
        ..TestInvokeRequest::default()
    };
    let response = service.test_invoke(request).await.unwrap();
    assert!(response.payload_problems.is_empty(), "{}: {:?}", shipped.name, response.payload_problems);
    match response.outcome {
        Some(Outcome::Report(report)) => {
            let refused = report.outbound_calls.iter().map(|call| call.error_message.clone());
            (result(&report), refused.filter(|message| !message.is_empty()).collect())
        }
        other => panic!("{}: {other:?}", shipped.name),
    }
}

#[tokio::test]
async fn every_starter_runs_as_it_is_on_its_sample() {
    let (all, templates) = shipped();
    assert!(all.len() >= 15, "only {} templates", all.len());
    let service = Service::start_with(Deployments::fixed([], templates), &[]).await;
    for shipped in &all {
        let (result, refused) = run(&service, shipped, TestSettings::default()).await;
        // It finds its way through the sample, and calls nobody before it is told whom.
        assert!(result.as_object().is_some_and(|fields| !fields.is_empty()), "{}: {result}", shipped.name);
        assert!(refused.is_empty(), "{}: {refused:?}", shipped.name);
        let text = result.to_string();
        let address = shipped.sample.pointer("/general/clientIpAdress").or(shipped.sample.get("ipAddress"));
        if let Some(address) = address.and_then(Value::as_str) {
            assert!(!text.contains(address), "{}: personal data in {text}", shipped.name);
        }
    }
}

#[tokio::test]
async fn every_starter_that_can_call_a_crm_does_so_once_it_is_told_where() {
    let (all, templates) = shipped();
    let service = Service::start_with(Deployments::fixed([], templates), &[LOCAL]).await;
    let mut callers = 0;
    for shipped in all.iter().filter(|shipped| shipped.starter.contains("process.env.CRM_URL;")) {
        let crm =
            Witness::start(|_| Answer::new(200, "content-type: application/json\r\n", r#"{"id": 7}"#)).await;
        let host = crm.at("127.0.0.1");
        let settings = TestSettings {
            allowed_hosts: vec![host.clone()],
            environment: [("CRM_URL".to_owned(), format!("http://{host}/x"))].into(),
            ..TestSettings::default()
        };
        let (result, refused) = run(&service, shipped, settings).await;
        assert!(refused.is_empty(), "{}: {refused:?}", shipped.name);
        let seen = crm.only_request();
        let body: Value = serde_json::from_str(&seen.body).unwrap();
        assert!(body.as_object().is_some_and(|fields| !fields.is_empty()), "{}", shipped.name);
        assert_ne!(result, json!(null), "{}", shipped.name);
        callers += 1;
    }
    assert!(callers >= 13, "only {callers} starters call a CRM");
}
