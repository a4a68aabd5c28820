//! What a lambda reaches, with the system's own name resolution. The rest is in `egress_*.rs`.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::{
    service::{LOCAL, Service, result, version},
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
