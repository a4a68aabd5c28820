//! The toolbelt's calls to the world outside are a lambda's calls like any other.

use serde_json::json;

use crate::{
    service::{LOCAL, Service, result, version},
    vault::Vault,
    witness::{Answer, Witness},
};

/// Calls the service `msgHist`, and returns the status or the error.
const CALLS: &str = "const { Toolbelt } = require('lp-faas-toolbelt');
async function lambda() {
  return Toolbelt.LpClient()('msgHist', '/search?v=2', { method: 'POST', body: '{}', appKeySecretName: 'key' })
    .then(({ status }) => status, ({ code, message }) => [code, message]);
}";

#[tokio::test]
async fn lp_client_calls_the_address_that_the_operator_has_set() {
    let vault = Vault::start(&[("accounts/acme/secrets/key", "token-1")]).await;
    let platform = Witness::start(|_| Answer::ok("{}")).await;
    let host = platform.at("127.0.0.1");
    let flag = format!("--lp-base-url=http://{host}/{{service}}/{{account}}");
    let service = Service::start([version(1, CALLS, &[&host])], &[LOCAL, &flag, &vault.flag]).await;
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(result(&report), 200);
    let request = platform.only_request();
    assert_eq!((&*request.method, &*request.target), ("POST", "/msgHist/acme/search?v=2"));
    assert_eq!(request.header("authorization"), Some("Bearer token-1"));
    assert_eq!(request.header("x-request-id").map(str::len), Some(36));
    for platforms in ["idempotency-key", "x-chatfn-budget-ms", "traceparent"] {
        assert!(request.header(platforms).is_some(), "{platforms}");
    }
    let [call] = &report.outbound_calls[..] else { panic!("{:?}", report.outbound_calls) };
    assert_eq!(call.url, format!("http://{host}/msgHist/acme/search"));
}

#[tokio::test]
async fn lp_client_obeys_the_allow_list_and_needs_an_address() {
    let vault = Vault::start(&[("accounts/acme/secrets/key", "token-1")]).await;
    let platform = Witness::forbidden_on("127.0.0.1:0".parse().unwrap()).await;
    let flag = format!("--lp-base-url=http://{}", platform.at("127.0.0.1"));
    let service = Service::start([version(1, CALLS, &["other.example"])], &[LOCAL, &flag, &vault.flag]).await;
    assert_eq!(result(&service.invoke("e-1").await.unwrap())[0], "HOST_NOT_ALLOWED");
    assert_eq!(platform.seen().connections, 0);

    let service = Service::start([version(1, CALLS, &["other.example"])], &[LOCAL, &vault.flag]).await;
    let result = result(&service.invoke("e-1").await.unwrap());
    assert_eq!(result[0], "com.liveperson.faas.csds.op-failed");
    assert!(result[1].as_str().unwrap().contains("--lp-base-url"), "{result}");
}

#[tokio::test]
async fn http_client_is_a_lambdas_fetch() {
    let crm = Witness::start(|request| match &*request.target {
        "/missing" => Answer::new(404, "content-type: application/json\r\n", r#"{"why":"gone"}"#),
        "/moved" => Answer::redirect(302, "/cases"),
        _ => Answer::new(201, "content-type: application/json\r\nset-cookie: a=1\r\n", r#"{"id":7}"#),
    })
    .await;
    let host = crm.at("127.0.0.1");
    let source = format!(
        "import {{ HTTPClient }} from 'core-functions-toolbelt';
         export async function lambda() {{
           const at = (path, options) => HTTPClient('http://{host}' + path, {{ json: true, ...options }});
           const made = await at('/cases', {{ method: 'POST', body: {{ text: 'ä' }}, resolveWithFullResponse: true }});
           return [
             made.statusCode, made.body.id, made.headers['set-cookie'],
             await at('/missing').catch((it) => [it.name, it.statusCode, it.error.why]),
             (await at('/moved')).id,
             await at('/moved', {{ method: 'POST' }}).catch((it) => it.statusCode),
             await HTTPClient('http://elsewhere.example/').catch((it) => [it.name, it.code]),
           ];
         }}"
    );
    let service = Service::start([version(1, &source, &[&host])], &[LOCAL]).await;
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(
        result(&report),
        json!([
            201,
            7,
            ["a=1"],
            ["StatusCodeError", 404, "gone"],
            7,
            302,
            ["RequestError", "HOST_NOT_ALLOWED"]
        ])
    );
    let first = &crm.seen().requests[0];
    assert_eq!(first.body, r#"{"text":"ä"}"#);
    assert!(first.header("idempotency-key").is_some());
    assert_eq!(report.outbound_calls.len(), 5);
}
