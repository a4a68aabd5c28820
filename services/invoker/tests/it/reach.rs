//! What a lambda reaches, with the system's own name resolution. The rest is in `egress_*.rs`.

use std::net::Ipv4Addr;

use chatfn_deployments::Deployment;
use chatfn_proto::invoker::v1::InvokeRequest;
use serde_json::{Value, json};
use tonic::Request;

use crate::{
    FUNCTION,
    service::{LOCAL, Service, request, result, version},
    witness::{Answer, Witness},
};

/// Calls each URL, and returns the codes of what it got.
fn calling(urls: &[String]) -> String {
    format!(
        "async function lambda() {{
           const codes = [];
           for (const url of {}) {{
             await fetch(url).then((it) => codes.push(it.status), (error) => codes.push(error.code ?? error.name));
           }}
           return codes;
         }}",
        serde_json::to_string(urls).unwrap()
    )
}

#[tokio::test]
async fn a_refused_host_is_on_the_record() {
    let server = Witness::forbidden_on((Ipv4Addr::LOCALHOST, 0).into()).await;
    let url = format!("http://user:password@{}/cases?key=secret", server.at("127.0.0.1"));
    let plain = format!("http://{}/cases?key=secret", server.at("127.0.0.1"));
    let live = version(1, &calling(&[plain, url]), &["crm.example"]);
    let service = Service::start([live], &[LOCAL]).await;
    let report = service.invoke("e-1").await.unwrap();

    assert_eq!(result(&report), json!(["HOST_NOT_ALLOWED", "INVALID_URL"]));
    let [refused, invalid] = &report.outbound_calls[..] else { panic!("{:?}", report.outbound_calls) };
    assert_eq!((&*refused.method, refused.status), ("GET", 0));
    assert_eq!(refused.error_reason, "HOST_NOT_ALLOWED");
    assert!(refused.error_message.contains("add it to settings.allowed_hosts"), "{}", refused.error_message);
    for call in [refused, invalid] {
        assert_eq!(call.url, format!("http://{}/cases", server.at("127.0.0.1")));
    }
    assert_eq!(server.seen().connections, 0);
}

#[tokio::test]
async fn a_lambda_does_not_reach_the_inside() {
    let inside = Witness::forbidden_on((Ipv4Addr::LOCALHOST, 0).into()).await;
    let port = inside.port();
    let forms = [
        "localhost",
        "localhost.",
        "LOCALHOST",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "①②⑦.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
    ];
    let urls: Vec<_> = forms.iter().map(|host| format!("http://{host}:{port}/")).collect();
    let hosts = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::7f00:1]", "[64:ff9b::7f00:1]"]
        .map(|host| format!("{host}:{port}"));
    let service = Service::start([version(1, &calling(&urls), &hosts)], &[]).await;
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(result(&report), Value::from(vec!["ADDRESS_NOT_ALLOWED"; forms.len()]));
    assert_eq!(report.outbound_calls.len(), forms.len());
    assert_eq!(inside.seen().connections, 0);
}

#[tokio::test]
async fn names_are_resolved_as_the_system_does() {
    let server = Witness::start(|_| Answer::ok("")).await;
    let urls = [format!("http://{}/", server.at("localhost"))];
    let service = Service::start([version(1, &calling(&urls), &[server.at("localhost")])], &[LOCAL]).await;
    assert_eq!(result(&service.invoke("e-1").await.unwrap()), json!([200]));
}

#[tokio::test]
async fn keys_last_over_attempts_and_replays_and_belong_to_one_call() {
    const OTHER: &str = "accounts/acme/functions/chat.end";
    let crm = Witness::start(|_| Answer::ok("")).await;
    let url = format!("http://{}/", crm.at("127.0.0.1"));
    let source = format!(
        "async function lambda() {{
           await fetch({url:?}, {{ method: 'POST', body: 'case' }});
           await fetch({url:?}, {{ method: 'POST', body: 'case' }});
           await fetch({url:?}, {{ method: 'PUT', headers: {{ 'Idempotency-Key': 'mine' }} }});
         }}"
    );
    let first = version(1, &source, &[crm.at("127.0.0.1")]);
    let second = Deployment { function: OTHER.parse().unwrap(), ..first.clone() };
    let service = Service::start([first, second], &[LOCAL, "--egress-rate=1000"]).await;

    // As event-ingest calls: for one attempt, and for a replay with the key of its event.
    let run = async |function: &str, event_id: &str, attempt: u32, key: &str| {
        let mut event = request(event_id).event.unwrap();
        event.attempt = attempt;
        event.idempotency_key = key.to_owned();
        let call = InvokeRequest { function: function.to_owned(), event: Some(event) };
        let before = crm.seen().requests.len();
        result(&service.call(Request::new(call)).await.unwrap());
        let requests = crm.seen().requests.split_off(before);
        let keys: Vec<_> =
            requests.iter().map(|request| request.header("idempotency-key").unwrap().to_owned()).collect();
        assert_eq!(keys[2], "mine", "the author's own stays");
        [keys[0].clone(), keys[1].clone()]
    };
    let keys = run(FUNCTION, "e-1", 1, "").await;
    assert_eq!(run(FUNCTION, "e-1", 2, "").await, keys, "an attempt");
    let given = run(FUNCTION, "e-1", 1, "a-key").await;
    assert_eq!(run(FUNCTION, "e-1", 7, "a-key").await, given, "a replay");

    let mut all = [keys, given].concat();
    all.extend(run(FUNCTION, "e-2", 1, "").await);
    all.extend(run(OTHER, "e-1", 1, "").await);
    all.extend(run(OTHER, "e-1", 1, "a-key").await);
    let calls = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), calls, "another call, event or function has another key");
}

#[tokio::test]
async fn a_call_ends_with_the_interest_in_it() {
    let silent = Witness::start(|_| Answer::never()).await;
    let url = format!("http://{}/", silent.at("127.0.0.1"));
    let source = format!(
        "async function lambda() {{
           const controller = new AbortController();
           const aborted = fetch({url:?}, {{ signal: controller.signal }}).catch((error) => error.name);
           setTimeout(() => controller.abort(), 500);
           const name = await aborted;
           fetch({url:?});
           return name;
         }}"
    );
    let service = Service::start([version(1, &source, &[silent.at("127.0.0.1")])], &[LOCAL]).await;
    let report = service.invoke("e-1").await.unwrap();
    assert_eq!(result(&report), "AbortError");
    let reasons: Vec<_> = report.outbound_calls.iter().map(|call| &*call.error_reason).collect();
    assert_eq!(reasons, ["ABORTED", "ABORTED"], "the second was not waited for");
    silent.until(|seen| seen.in_flight == 0 && seen.abandoned == seen.requests.len()).await;
}
