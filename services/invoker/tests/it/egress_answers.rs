//! Servers that answer with what is no proper HTTP, or with more of it than anyone needs.

use std::time::Duration;

use chatfn_invoker::egress::EgressConfig;
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::{
    PATIENCE,
    egress_limits::answered,
    outside::{Outside, call, get, with_headers},
    witness::{Answer, Witness},
};

async fn answered_with(bytes: &'static str) -> Result<u16, &'static str> {
    answered(EgressConfig::default(), move || Answer::raw(bytes)).await
}

/// The body that comes of an answer.
async fn body_of(bytes: &'static str) -> String {
    let server = Witness::start(move |_| Answer::raw(bytes)).await;
    let host = server.at("crm.example");
    let run = Outside::local(EgressConfig::default()).run(&[&host]);
    let response = run.fetch(get(format!("http://{host}/"))).await.unwrap();
    String::from_utf8(response.body.to_vec()).unwrap()
}

#[tokio::test]
async fn what_is_no_usable_answer_is_said() {
    for bytes in [
        "HELO\r\n\r\n",
        "",
        "HTTP/0.9 200 \r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/1.1 200 \r\ncontent-length: 10\r\n\r\nshort",
        "HTTP/1.1 101 \r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "HTTP/1.1 999 \r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 20 \r\n\r\n",
        "HTTP/1.1 200 \r\nx\0y: 1\r\n\r\n",
        "HTTP/1.1 200 \r\nx y: 1\r\n\r\n",
        "HTTP/1.1 200 \r\n: 1\r\n\r\n",
    ] {
        assert_eq!(answered_with(bytes).await, Err("EXCHANGE_FAILED"), "{bytes:?}");
    }
}

#[tokio::test]
async fn lengths_that_contradict_one_another_are_refused() {
    for head in [
        "content-length: 2\r\ncontent-length: 3\r\n",
        "content-length: 2, 3\r\n",
        "content-length: -2\r\n",
        "content-length: +2\r\n",
        "content-length: 0x2\r\n",
        "content-length: 2 3\r\n",
        "content-length: 99999999999999999999\r\n",
    ] {
        let answer = move || Answer::raw(format!("HTTP/1.1 200 \r\n{head}\r\nabc"));
        assert_eq!(answered(EgressConfig::default(), answer).await, Err("EXCHANGE_FAILED"), "{head}");
    }
}

#[tokio::test]
async fn chunks_that_are_none_are_refused() {
    for chunks in [
        "x\r\nabc\r\n0\r\n\r\n",
        "-1\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcdef\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\r\n",
        "\r\n\r\n",
    ] {
        let answer =
            move || Answer::raw(format!("HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n{chunks}"));
        assert_eq!(answered(EgressConfig::default(), answer).await, Err("EXCHANGE_FAILED"), "{chunks:?}");
    }
}

#[tokio::test]
async fn what_comes_after_an_answer_belongs_to_nobody() {
    // A second answer, as for a request that someone smuggled in.
    assert_eq!(
        body_of("HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 \r\ncontent-length: 4\r\n\r\nevil")
            .await,
        "ok"
    );
    // Chunks decide when there is a length as well, as RFC 9112 says; the connection is not used again anyway.
    assert_eq!(
        body_of(
            "HTTP/1.1 200 \r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nevil"
        )
        .await,
        "ok"
    );
    // Trailers are dropped.
    assert_eq!(
        body_of(
            "HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nset-cookie: evil\r\n\r\n"
        )
        .await,
        "ok"
    );
}

#[tokio::test]
async fn whatever_never_ends_is_ended() {
    let chunked = "HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\n\r\n";
    for (start, part) in [
        // Trailers without end, extensions of a chunk without end, a chunk's size without end.
        (format!("{chunked}0\r\n"), "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
        (format!("{chunked}0\r\nx: "), "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"),
        (format!("{chunked}1;"), "extension"),
        (format!("{chunked}1"), "0"),
    ] {
        let start_of = start.clone();
        let outcome =
            answered(EgressConfig::default(), move || Answer::raw(start_of.clone()).and_repeat(part)).await;
        assert_eq!(outcome, Err("EXCHANGE_FAILED"), "{start:?} {part:?}");
    }
}

#[tokio::test]
async fn answers_that_only_promise_one_end_at_the_deadline() {
    let server = Witness::start(|_| Answer::raw("").and_repeat("HTTP/1.1 100 Continue\r\n\r\n")).await;
    let host = server.at("crm.example");
    let run = Outside::local(EgressConfig::default()).run_until(&[&host], Duration::from_secs(1));
    let outcome = timeout(PATIENCE, call(&run, get(format!("http://{host}/")))).await;
    assert_eq!(outcome, Ok(Err("DEADLINE")));
    server.until(|seen| seen.abandoned == 1).await;
}

#[tokio::test]
async fn nothing_is_decompressed() {
    // Ten bytes that would become gigabytes, and the same of an encoding nobody knows: not even waited for.
    for head in [
        "content-encoding: gzip\r\n",
        "content-encoding: GZIP\r\n",
        "content-encoding: br\r\n",
        "content-encoding: gzip, gzip\r\n",
        "content-encoding: identity\r\ncontent-encoding: gzip\r\n",
    ] {
        let answer =
            move || Answer::raw(format!("HTTP/1.1 200 \r\n{head}content-length: 10\r\n\r\n")).and_hold();
        assert_eq!(answered(EgressConfig::default(), answer).await, Err("UNSUPPORTED_ENCODING"), "{head}");
    }
    let plain = || Answer::new(200, "content-encoding: identity\r\n", "plain");
    assert_eq!(answered(EgressConfig::default(), plain).await, Ok(200));
}

#[tokio::test]
async fn a_connection_serves_one_request_of_one_account() {
    let server = Witness::start(|_| {
        // As if it could be used again.
        Answer::raw("HTTP/1.1 200 \r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n").and_hold()
    })
    .await;
    let host = server.at("crm.example");
    let outside = Outside::local(EgressConfig::default());
    let run = outside.run(&[&host]);
    for _ in 0..2 {
        let secret = with_headers(get(format!("http://{host}/")), &[("authorization", "Bearer secret")]);
        assert_eq!(call(&run, secret).await, Ok(200));
    }
    // Others, one after the other and at once.
    let others: Vec<_> = (0..3).map(|_| outside.run(&[&host])).collect();
    let outcomes = join_all(others.iter().map(|run| call(run, get(format!("http://{host}/"))))).await;
    assert_eq!(outcomes, [Ok(200); 3]);
    let seen = server.seen();
    assert_eq!(seen.connections, 5, "each call has its own");
    let secrets = seen.requests.iter().filter(|request| request.header("authorization").is_some()).count();
    assert_eq!(secrets, 2);
}
