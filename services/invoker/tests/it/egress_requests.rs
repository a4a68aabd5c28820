//! What a call looks like on the wire.

use std::time::Duration;

use bytes::Bytes;
use chatfn_engine::FetchRequest;
use chatfn_invoker::egress::EgressConfig;

use crate::{
    outside::{Outside, TRACE, call, call_once, get, post, request, with_headers},
    witness::{Answer, Witness},
};

async fn server() -> (Witness, String, Outside) {
    let server = Witness::start(|_| Answer::new(201, "content-type: application/json\r\n", "{}")).await;
    let host = server.at("crm.example");
    (server, host, Outside::local(EgressConfig::default()))
}

#[tokio::test]
async fn a_call_carries_what_the_platform_says() {
    let (server, host, outside) = server().await;
    let run = outside.run_until(&[&host], Duration::from_secs(20));
    let request =
        with_headers(post(format!("http://{host}/cases?kind=chat#top"), "{\"id\":7}"), &[("x-own", "1")]);
    let response = run.fetch(request).await.unwrap();
    assert_eq!((response.status, &*response.body), (201, &b"{}"[..]));

    let seen = server.only_request();
    assert_eq!((&*seen.method, &*seen.target, &*seen.body), ("POST", "/cases?kind=chat", "{\"id\":7}"));
    assert_eq!(seen.header("host"), Some(&*host));
    assert_eq!(seen.header("x-own"), Some("1"));
    assert_eq!(seen.header("traceparent"), Some(TRACE));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert!(seen.header("user-agent").unwrap().starts_with("chatfn/"));
    assert!(seen.header("idempotency-key").is_some());
    let budget: u64 = seen.header("x-chatfn-budget-ms").unwrap().parse().unwrap();
    assert!((1..=20_000).contains(&budget), "{budget}");
}

#[tokio::test]
async fn writes_of_an_event_have_keys_that_last() {
    let (server, host, outside) = server().await;
    let methods = ["POST", "GET", "PUT", "HEAD", "PATCH", "OPTIONS", "DELETE", "POST"];
    // Twice the same event, as for a retry.
    for _ in 0..2 {
        let run = outside.run(&[&host]);
        for method in methods {
            call(&run, request(method, format!("http://{host}/"))).await.unwrap();
        }
    }
    let requests = server.seen().requests;
    let keys: Vec<_> = requests.iter().map(|request| request.header("idempotency-key")).collect();
    let (first, second) = keys.split_at(methods.len());
    assert_eq!(first, second);
    let writes: Vec<_> = first.iter().map(Option::is_some).collect();
    assert_eq!(writes, [true, false, true, false, true, false, true, true]);
    let mut distinct: Vec<_> = first.iter().flatten().collect();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), 5, "one for each write");
}

#[tokio::test]
async fn the_key_of_a_call_depends_on_its_order_and_not_on_its_luck() {
    let (server, host, outside) = server().await;
    let run = outside.run(&[&host]);
    call(&run, post(format!("http://{host}/"), "")).await.unwrap();
    call(&run, post(format!("http://{host}/"), "")).await.unwrap();
    // The next attempt: the first call is refused this time.
    let run = outside.run(&[&host]);
    call(&run, post("http://nowhere.example/", "")).await.unwrap_err();
    call(&run, post(format!("http://{host}/"), "")).await.unwrap();
    let requests = server.seen().requests;
    assert_eq!(requests[2].header("idempotency-key"), requests[1].header("idempotency-key"));
}

#[tokio::test]
async fn headers_of_the_connection_and_the_platform_are_not_the_authors() {
    let (server, host, outside) = server().await;
    let request = with_headers(
        post(format!("http://{host}/"), "whole body"),
        &[
            ("host", "evil.example"),
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("connection", "keep-alive, x-own"),
            ("proxy-authorization", "x"),
            ("x-chatfn-budget-ms", "999999"),
            ("accept-encoding", "gzip"),
            ("idempotency-key", "mine"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"),
        ],
    );
    assert_eq!(call_once(&outside, &[&host], request).await, Ok(201));
    let seen = server.only_request();
    assert_eq!(seen.body, "whole body");
    assert_eq!(seen.header("host"), Some(&*host));
    assert_eq!(seen.header("transfer-encoding"), None);
    assert_eq!(seen.header("connection"), Some("close"));
    assert_eq!(seen.header("proxy-authorization"), None);
    assert_ne!(seen.header("x-chatfn-budget-ms"), Some("999999"));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    // These are the author's to choose.
    assert_eq!(seen.header("idempotency-key"), Some("mine"));
    assert!(seen.header("traceparent").unwrap().ends_with("-00"));
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_is_not_begun() {
    let (server, host, _) = server().await;
    let outside = Outside::local(EgressConfig { body_bytes: 1000, ..EgressConfig::default() });
    let url = format!("http://{host}/");
    let many = vec![("x", "y"); 101];
    let large = "y".repeat(33 * 1024);
    let body = |bytes| FetchRequest { body: Some(Bytes::from(vec![b'x'; bytes])), ..request("POST", &*url) };
    for (request, reason) in [
        (with_headers(get(&*url), &[("x", "1\r\nx-smuggled: 1")]), "INVALID_REQUEST"),
        (with_headers(get(&*url), &[("x", "1\nx-smuggled: 1")]), "INVALID_REQUEST"),
        (with_headers(get(&*url), &[("x", "1\0")]), "INVALID_REQUEST"),
        (with_headers(get(&*url), &[("x", "\u{10a}x-smuggled: 1")]), "INVALID_REQUEST"),
        (with_headers(get(&*url), &[("x: 1\r\nx-smuggled", "1")]), "INVALID_REQUEST"),
        (with_headers(get(&*url), &[("x y", "1")]), "INVALID_REQUEST"),
        (with_headers(get(&*url), &[("x", "\u{20ac}")]), "INVALID_REQUEST"),
        (with_headers(get(&*url), &many), "REQUEST_TOO_LARGE"),
        (with_headers(get(&*url), &[("x", &large)]), "REQUEST_TOO_LARGE"),
        (body(1001), "REQUEST_TOO_LARGE"),
        (FetchRequest { method: "GET".to_owned(), ..body(1) }, "INVALID_REQUEST"),
        (request("GET / HTTP/1.1\r\nx-smuggled: 1\r\n\r\nGET", &*url), "INVALID_REQUEST"),
        (request("", &*url), "INVALID_REQUEST"),
        (request("CONNECT", &*url), "INVALID_REQUEST"),
        (request("TRACE", &*url), "INVALID_REQUEST"),
        (get(format!("{url}{}", "x".repeat(8 * 1024))), "INVALID_URL"),
    ] {
        assert_eq!(call_once(&outside, &[&host], request).await, Err(reason));
    }
    assert_eq!(server.seen().connections, 0);
    assert_eq!(call_once(&outside, &[&host], body(1000)).await, Ok(201));
}

#[tokio::test]
async fn paths_arrive_as_they_were_written() {
    let (server, host, outside) = server().await;
    for target in
        ["/a|b^c/%zz", "//evil.example/x", "/*", "/:8080@x", "/?", "/?q={\"a\":[1|2]}&b=`^`", "/%00%0d%0a"]
    {
        let url = url::Url::parse(&format!("http://{host}{target}")).unwrap();
        assert_eq!(call_once(&outside, &[&host], get(url.as_str())).await, Ok(201), "{target}");
        let seen = server.seen().requests.pop().unwrap().target;
        assert_eq!(format!("http://{host}{seen}"), url.as_str(), "{target}");
    }
}

#[tokio::test]
async fn a_url_cannot_smuggle_a_header_or_a_request() {
    let (server, host, outside) = server().await;
    for (target, sent) in [
        // URL parsers drop line ends, wherever they are.
        ("/a HTTP/1.1\r\nx-smuggled: 1\r\n\r\n", "/a%20HTTP/1.1x-smuggled:%201"),
        ("/a\r\n\r\nGET /b HTTP/1.1", "/aGET%20/b%20HTTP/1.1"),
        ("/?q=a b\r\nx-smuggled: 1", "/?q=a%20bx-smuggled:%201"),
        ("/\u{560d}\u{560a}x-smuggled: 1", "/%E5%98%8D%E5%98%8Ax-smuggled:%201"),
    ] {
        assert_eq!(call_once(&outside, &[&host], get(format!("http://{host}{target}"))).await, Ok(201));
        let seen = server.seen().requests.pop().unwrap();
        assert_eq!(seen.target, sent);
        assert_eq!(seen.header("x-smuggled"), None);
    }
    assert_eq!(server.seen().requests.len(), 4);
}
