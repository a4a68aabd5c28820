//! How much a call may take: time, bytes, connections, requests per second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chatfn_invoker::egress::EgressConfig;
use futures_util::future::join_all;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    PATIENCE,
    outside::{Outside, SILENT, call, call_once, get, post},
    witness::{Answer, Witness},
};

/// Makes one call to a server that answers like this.
pub(crate) async fn answered(
    config: EgressConfig,
    answer: impl Fn() -> Answer + Send + Sync + 'static,
) -> Result<u16, &'static str> {
    let server = Witness::start(move |_| answer()).await;
    let host = server.at("crm.example");
    let outcome = call_once(&Outside::local(config), &[&host], get(format!("http://{host}/"))).await;
    assert_eq!(server.seen().connections, 1);
    outcome
}

#[tokio::test]
async fn bodies_are_read_up_to_the_limit() {
    let config = || EgressConfig { body_bytes: 1000, ..EgressConfig::default() };
    let with_length = |length: usize| move || Answer::ok(&"x".repeat(length));
    assert_eq!(answered(config(), with_length(1000)).await, Ok(200));
    assert_eq!(answered(config(), with_length(1001)).await, Err("RESPONSE_TOO_LARGE"));
    // Announced is enough: nothing of it is waited for.
    let announced = || Answer::raw("HTTP/1.1 200 \r\ncontent-length: 1001\r\n\r\n").and_hold();
    assert_eq!(answered(config(), announced).await, Err("RESPONSE_TOO_LARGE"));
    // Without a length, and without an end.
    let chunks =
        || Answer::raw("HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n").and_repeat("4\r\nmore\r\n");
    assert_eq!(answered(config(), chunks).await, Err("RESPONSE_TOO_LARGE"));
    let until_closed = || Answer::raw("HTTP/1.1 200 \r\n\r\n").and_repeat("more");
    assert_eq!(answered(config(), until_closed).await, Err("RESPONSE_TOO_LARGE"));
    // An answer that is redirected away is not read at all.
    let redirect = || {
        Answer::raw("HTTP/1.1 302 \r\nlocation: http://a.example/\r\ncontent-length: 9999\r\n\r\n").and_hold()
    };
    assert_eq!(answered(config(), redirect).await, Err("HOST_NOT_ALLOWED"));
}

#[tokio::test]
async fn heads_are_read_up_to_the_limit() {
    let config = EgressConfig::default;
    let with_headers = |count: usize| move || Answer::new(200, &"x: y\r\n".repeat(count), "");
    assert_eq!(answered(config(), with_headers(90)).await, Ok(200));
    assert_eq!(answered(config(), with_headers(101)).await, Err("HEADERS_TOO_LARGE"));
    let large = || Answer::new(200, &format!("x: {}\r\n", "y".repeat(70 * 1024)), "");
    assert_eq!(answered(config(), large).await, Err("HEADERS_TOO_LARGE"));
    let endless = || Answer::raw("HTTP/1.1 200 \r\n").and_repeat("x: yyyyyyyyyyyyyyyy\r\n");
    assert_eq!(answered(config(), endless).await, Err("HEADERS_TOO_LARGE"));
    let endless_line = || Answer::raw("HTTP/1.1 200 \r\nx: ").and_repeat("yyyyyyyyyyyyyyyyyyyyyyyy");
    assert_eq!(answered(config(), endless_line).await, Err("HEADERS_TOO_LARGE"));
}

#[tokio::test]
async fn failures_before_the_exchange_are_said() {
    let config = EgressConfig { dns_timeout: Duration::from_millis(50), ..EgressConfig::default() };
    let outside = Outside::local(config);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    outside.names.add("empty.example", &[]);
    for (host, reason) in [
        (format!("crm.example:{}", closed.port()), "CONNECT_FAILED"),
        ("unknown.example".to_owned(), "DNS_FAILED"),
        ("empty.example".to_owned(), "DNS_FAILED"),
        (SILENT.to_owned(), "DNS_FAILED"),
    ] {
        assert_eq!(
            call_once(&outside, &[&host], get(format!("http://{host}/"))).await,
            Err(reason),
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_call_ends_at_the_deadline_wherever_it_is() {
    let slow_body = || Answer::raw("HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\nx").and_hold();
    let trickle = || Answer::raw("HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n").and_hold();
    let answers: [fn() -> Answer; 3] = [Answer::never, slow_body, trickle];
    for answer in answers {
        let server = Witness::start(move |_| answer()).await;
        let host = server.at("crm.example");
        let begun = Instant::now();
        let run = Outside::local(EgressConfig::default()).run_until(&[&host], Duration::from_secs(1));
        let outcome = timeout(PATIENCE, call(&run, get(format!("http://{host}/")))).await;
        assert_eq!(outcome, Ok(Err("DEADLINE")));
        assert!(begun.elapsed() >= Duration::from_secs(1));
        server.until(|seen| seen.abandoned == 1).await;
        let (calls, _) = run.calls();
        assert_eq!(calls[0].error.as_ref().unwrap().reason(), "DEADLINE");
    }
}

#[tokio::test]
async fn dropping_a_call_closes_its_connection() {
    let server = Witness::start(|_| Answer::never()).await;
    let host = server.at("crm.example");
    let run = Outside::local(EgressConfig::default()).run(&[&host]);
    let task = tokio::spawn(run.fetch(get(format!("http://{host}/"))));
    server.until(|seen| seen.requests.len() == 1).await;
    task.abort();
    server.until(|seen| seen.abandoned == 1).await;
    assert_eq!(run.calls().0[0].error.as_ref().unwrap().reason(), "ABORTED");
}

#[tokio::test]
async fn a_function_calls_at_its_rate() {
    let server = Witness::start(|request| match &*request.target {
        "/loop" => Answer::redirect(302, "/loop"),
        _ => Answer::ok(""),
    })
    .await;
    let host = server.at("crm.example");
    let outside = Outside::local(EgressConfig { rate: 1, ..EgressConfig::default() });
    // All are begun in one go, in far less than the second after which one more would be due.
    let run = outside.run(&[&host]);
    let outcomes = join_all((0..10).map(|_| call(&run, get(format!("http://{host}/"))))).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Ok(200)).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err("RATE_LIMITED")).count(), 9);
    assert_eq!(server.seen().connections, 1);
    // Redirects count: ten of them would take ten seconds.
    let outside = Outside::local(EgressConfig { rate: 1, ..EgressConfig::default() });
    assert_eq!(call_once(&outside, &[&host], get(format!("http://{host}/loop"))).await, Err("RATE_LIMITED"));
}

#[tokio::test]
async fn a_run_makes_so_many_calls_at_once() {
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let server = Witness::start(move |_| Answer::ok("").behind(&opened)).await;
    let host = server.at("crm.example");
    let run = Outside::local(EgressConfig { rate: 1000, ..EgressConfig::default() }).run(&[&host]);
    let calls = join_all((0..64).map(|_| call(&run, get(format!("http://{host}/")))));
    let release = async {
        server.until(|seen| seen.in_flight == 16).await;
        gate.cancel();
    };
    let (outcomes, ()) = tokio::join!(calls, release);
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(200)), "the others waited: {outcomes:?}");
    assert_eq!(server.seen().most_in_flight, 16);
}

#[tokio::test]
async fn bodies_share_one_budget_of_memory() {
    let server = Witness::start(|_| Answer::ok(&"x".repeat(600))).await;
    let host = server.at("crm.example");
    let outside =
        Outside::local(EgressConfig { body_bytes: 1000, buffer_bytes: 1000, ..EgressConfig::default() });
    let run = outside.run(&[&host]);
    let url = format!("http://{host}/");
    let held = run.fetch(get(&*url)).await.unwrap();
    assert_eq!(call(&run, get(&*url)).await, Err("OVERLOADED"));
    drop(held);
    assert_eq!(call(&run, get(&*url)).await, Ok(200));
    assert_eq!(call(&Arc::clone(&run), post(&*url, "x")).await, Ok(200), "all of it is given back");
}

#[tokio::test]
async fn no_account_takes_all_memory_for_bodies() {
    let server = Witness::start(|_| Answer::ok(&"x".repeat(200))).await;
    let host = server.at("crm.example");
    let outside =
        Outside::local(EgressConfig { body_bytes: 1000, buffer_bytes: 1000, ..EgressConfig::default() });
    let url = format!("http://{host}/");
    let run = outside.run(&[&host]);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(run.fetch(get(&*url)).await.unwrap());
    }
    assert_eq!(call(&run, get(&*url)).await, Err("OVERLOADED"), "what is left is for others");
    let other = outside.run_of("accounts/other/functions/chat.start", &[&host], PATIENCE);
    assert_eq!(call(&other, get(&*url)).await, Ok(200));
    drop(held);
    assert_eq!(call(&run, get(&*url)).await, Ok(200));
}
