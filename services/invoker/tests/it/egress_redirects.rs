//! Redirects, as fetch has them. Where they may lead is in `egress_addresses.rs`.

use chatfn_engine::{FetchRequest, Redirect};
use chatfn_invoker::egress::EgressConfig;

use crate::{
    outside::{Outside, call_once, get, post, request, with_headers},
    witness::{Answer, Witness},
};

/// Redirects `/{status}` to `/landed`, or to the URL in the query.
async fn redirecting() -> Witness {
    Witness::start(|request| match request.target.trim_start_matches('/') {
        "landed" => Answer::ok("landed"),
        "loop" => Answer::redirect(302, "/loop"),
        target => {
            let (status, location) = target.split_once('?').unwrap_or((target, "/landed#fragment"));
            Answer::redirect(status.parse().unwrap(), location)
        }
    })
    .await
}

fn outside() -> Outside {
    Outside::local(EgressConfig { rate: 1000, ..EgressConfig::default() })
}

#[tokio::test]
async fn methods_and_bodies_change_as_fetch_says() {
    for (method, status, expected) in [
        ("POST", 301, "GET"),
        ("POST", 302, "GET"),
        ("POST", 303, "GET"),
        ("POST", 307, "POST"),
        ("POST", 308, "POST"),
        ("PUT", 302, "PUT"),
        ("PUT", 303, "GET"),
        ("DELETE", 303, "GET"),
    ] {
        let server = redirecting().await;
        let host = server.at("crm.example");
        let request =
            FetchRequest { method: method.to_owned(), ..post(format!("http://{host}/{status}"), "a case") };
        let request = with_headers(request, &[("content-type", "text/plain"), ("x-own", "stays")]);
        let response = outside().run(&[&host]).fetch(request).await.unwrap();
        assert_eq!((response.status, &*response.body), (200, &b"landed"[..]));
        assert!(response.redirected);
        assert_eq!(response.url, format!("http://{host}/landed#fragment").trim_end_matches("#fragment"));

        let [first, second] = &server.seen().requests[..] else { panic!("{method} {status}") };
        assert_eq!((&*first.method, &*first.body), (method, "a case"));
        assert_eq!(second.target, "/landed");
        assert_eq!(second.method, expected, "{method} {status}");
        let keeps = method == expected;
        assert_eq!(second.body, if keeps { "a case" } else { "" }, "{method} {status}");
        let kept = |name| if keeps { first.header(name) } else { None };
        assert_eq!(second.header("content-type"), kept("content-type"), "{method} {status}");
        assert_eq!(second.header("idempotency-key"), kept("idempotency-key"), "{method} {status}");
        assert_eq!(second.header("x-own"), Some("stays"));
    }
}

#[tokio::test]
async fn a_head_request_stays_one() {
    let server = redirecting().await;
    let host = server.at("crm.example");
    let head = request("HEAD", format!("http://{host}/303"));
    assert_eq!(call_once(&outside(), &[&host], head).await, Ok(200));
    assert_eq!(server.seen().requests[1].method, "HEAD");
}

#[tokio::test]
async fn credentials_are_not_carried_to_another_origin() {
    let server = redirecting().await;
    let outside = outside();
    outside.names.add("other.example", &["127.0.0.1"]);
    let hosts = [server.at("crm.example"), server.at("other.example")];
    let secrets = [("authorization", "Bearer secret"), ("cookie", "session=secret")];

    let url = format!("http://{}/307", hosts[0]);
    assert_eq!(call_once(&outside, &hosts, with_headers(get(url), &secrets)).await, Ok(200));
    let url = format!("http://{}/307?http://{}/landed", hosts[0], hosts[1]);
    assert_eq!(call_once(&outside, &hosts, with_headers(get(url), &secrets)).await, Ok(200));

    let [_, same, first, other] = &server.seen().requests[..] else { panic!() };
    assert_eq!(same.header("authorization"), Some("Bearer secret"));
    assert_eq!(same.header("cookie"), Some("session=secret"));
    assert_eq!(first.header("authorization"), Some("Bearer secret"));
    assert_eq!(other.header("authorization"), None);
    assert_eq!(other.header("cookie"), None);
    assert_eq!(first.header("host"), Some(&*hosts[0]));
    assert_eq!(other.header("host"), Some(&*hosts[1]));
}

#[tokio::test]
async fn a_loop_ends() {
    let server = redirecting().await;
    let host = server.at("crm.example");
    let outcome = call_once(&outside(), &[&host], get(format!("http://{host}/loop"))).await;
    assert_eq!(outcome, Err("TOO_MANY_REDIRECTS"));
    assert_eq!(server.seen().requests.len(), 11, "ten redirects are followed");
}

#[tokio::test]
async fn redirects_are_followed_only_when_wanted() {
    let server = redirecting().await;
    let host = server.at("crm.example");
    let run = outside().run(&[&host]);
    let with_mode = |redirect| FetchRequest { redirect, ..get(format!("http://{host}/302")) };

    let manual = run.fetch(with_mode(Redirect::Manual)).await.unwrap();
    assert_eq!((manual.status, manual.redirected), (302, false));
    assert!(manual.headers.contains(&("location".to_owned(), "/landed#fragment".to_owned())));
    let refused = run.fetch(with_mode(Redirect::Error)).await.unwrap_err();
    assert_eq!(refused.reason(), "REDIRECT_REFUSED");
    assert_eq!(server.seen().requests.len(), 2, "neither was followed");
}
