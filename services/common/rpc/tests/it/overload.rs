//! Admission and panics.

use std::time::Duration;

use chatfn_rpc::{ErrorReport, MethodPolicy, RequestExt, RetryClass, ServerConfig, classify, reasons};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::{Code, Request};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1;

use crate::support::{
    CHAT, Probe, UNARY, chat, eventually, just, note, raw_call, raw_client, raw_status, start, start_at,
    start_with, then_silence, unary, watch, within,
};

fn one_call() -> ServerConfig {
    ServerConfig { max_calls: 1, ..ServerConfig::default() }
}

fn long(text: &str) -> Request<crate::support::Note> {
    Request::new(note(text)).with_timeout(Duration::from_secs(50))
}

#[tokio::test]
async fn a_full_server_refuses_at_once_and_health_still_answers() {
    let server = start_with(Probe::new().watch(|_| Ok(then_silence(note("first")))), one_call()).await;
    server.health.set_ready().await;
    let client = server.client();
    let mut holding = watch(&client, long("hold")).await.expect("a stream");
    assert!(within(holding.message()).await.expect("no error").is_some());

    let refused = unary(&client, long("x")).await.expect_err("full");
    let report = ErrorReport::from_status(&refused);
    assert_eq!(report.code, Code::ResourceExhausted);
    assert_eq!(report.reason.as_deref(), Some(reasons::SERVER_BUSY.name()));
    assert_eq!(report.retry_after, Some(Duration::from_millis(250)));
    assert_eq!(classify(&refused), RetryClass::Safe);

    let health = HealthClient::new(client.clone()).check(HealthCheckRequest::default()).await;
    assert_eq!(health.expect("an answer").into_inner().status, 1, "SERVING");
    assert!(within(holding.message()).now_or_never().is_none(), "the stream was open all the time");
}

#[tokio::test]
async fn messages_of_calls_in_progress_are_bounded_together() {
    let (began, mut begun) = mpsc::channel(1);
    let config = ServerConfig { max_request_kib: 8, ..ServerConfig::default() };
    let server = start_with(
        Probe::new().unary(move |request| {
            let began = began.clone();
            async move {
                let text = request.into_inner().text;
                if text.starts_with("hold") {
                    began.send(()).await.expect("the test listens");
                    std::future::pending::<()>().await;
                }
                Ok(note(text))
            }
        }),
        config,
    )
    .await;
    let client = server.client();
    let large = |text: &str| long(&format!("{text}{}", "x".repeat(5_000)));
    let (holder, request) = (client.clone(), large("hold"));
    let holding = tokio::spawn(async move { unary(&holder, request).await });
    within(begun.recv()).await.expect("the handler has its message");
    let refused = unary(&client, large("")).await.expect_err("ten of eight KiB");
    assert_eq!(ErrorReport::from_status(&refused).reason.as_deref(), Some(reasons::SERVER_BUSY.name()));
    assert_eq!(classify(&refused), RetryClass::Safe);
    unary(&client, long("small")).await.expect("room for this one");
    holding.abort();
    eventually(async || unary(&client, large("")).await.ok()).await;
}

#[tokio::test]
async fn streams_that_anyone_may_open_are_bounded_and_take_no_place_from_calls() {
    let server = start_with(Probe::new(), one_call()).await;
    server.health.set_ready().await;
    let client = server.client();
    let watch_health = || {
        let mut health = HealthClient::new(client.clone());
        let request = Request::new(HealthCheckRequest::default()).without_deadline();
        async move { health.watch(request).await.map(|response| response.into_inner()) }
    };
    let mut first = within(watch_health()).await.expect("a stream");
    assert!(within(first.message()).await.expect("no error").is_some());
    let refused = within(watch_health()).await.expect_err("one is allowed");
    assert_eq!(ErrorReport::from_status(&refused).reason.as_deref(), Some(reasons::SERVER_BUSY.name()));
    // A stream of reflection is of the same kind.
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(client.clone());
    let asked = Request::new(stream::pending::<v1::ServerReflectionRequest>()).without_deadline();
    let refused = within(reflection.server_reflection_info(asked)).await.expect_err("one is allowed");
    assert_eq!(ErrorReport::from_status(&refused).reason.as_deref(), Some(reasons::SERVER_BUSY.name()));

    assert_eq!(unary(&client, long("x")).await.expect("calls have a place of their own"), "x");
    let health = HealthClient::new(client.clone()).check(HealthCheckRequest::default()).await;
    assert_eq!(health.expect("so have probes").into_inner().status, 1, "SERVING");
    drop(first);
    eventually(|| async { watch_health().await.ok() }).await;
}

#[tokio::test]
async fn the_permit_returns_when_the_body_ends() {
    let (finish, finished) = mpsc::channel::<()>(1);
    let finished = std::sync::Mutex::new(Some(finished));
    let probe = Probe::new().watch(move |_| {
        let mut finished = finished.lock().expect("not poisoned").take().expect("one call");
        let wait = stream::once(async move {
            finished.recv().await;
            Ok(note("last"))
        });
        Ok(just(note("first")).chain(wait).boxed())
    });
    let server = start_with(probe, one_call()).await;
    let client = server.client();
    let mut stream = watch(&client, long("x")).await.expect("a stream");
    assert!(within(stream.message()).await.expect("no error").is_some());
    assert_eq!(unary(&client, long("x")).await.expect_err("full").code(), Code::ResourceExhausted);

    finish.send(()).await.expect("the handler listens");
    assert_eq!(within(stream.message()).await.expect("no error"), Some(note("last")));
    assert_eq!(within(stream.message()).await.expect("no error"), None);
    // The permit is given back before the trailers are sent, so no retry is needed here.
    assert_eq!(unary(&client, long("x")).await.expect("free again"), "x");
}

#[tokio::test]
async fn the_permit_returns_when_the_caller_leaves() {
    let (hangs, mut is_hanging) = mpsc::channel(1);
    let probe = Probe::new().watch(|_| Ok(then_silence(note("first")))).unary(move |request| {
        let hangs = hangs.clone();
        async move {
            if request.get_ref().text == "hang" {
                hangs.send(()).await.expect("the test listens");
                std::future::pending::<()>().await;
            }
            Ok(request.into_inner())
        }
    });
    let server = start_with(probe, one_call()).await;
    let client = server.client();

    let mut stream = watch(&client, long("x")).await.expect("a stream");
    assert!(within(stream.message()).await.expect("no error").is_some());
    drop(stream);
    eventually(async || unary(&client, long("x")).await.ok()).await;

    let hanging = client.clone();
    let call = tokio::spawn(async move { unary(&hanging, long("hang")).await });
    assert_eq!(within(is_hanging.recv()).await, Some(()));
    assert_eq!(unary(&client, long("x")).await.expect_err("full").code(), Code::ResourceExhausted);
    call.abort();
    eventually(async || unary(&client, long("x")).await.ok()).await;
}

#[tokio::test]
async fn listed_methods_need_no_permit() {
    let probe = Probe::new().watch(|_| Ok(then_silence(note("first"))));
    let policies = [(UNARY, MethodPolicy::standard().without_admission())];
    let server = start_at("127.0.0.1:0".parse().expect("an address"), probe, one_call(), &policies).await;
    let client = server.client();
    let mut holding = watch(&client, long("hold")).await.expect("a stream");
    assert!(within(holding.message()).await.expect("no error").is_some());
    assert_eq!(unary(&client, long("x")).await.expect("exempt"), "x");
    assert_eq!(watch(&client, long("x")).await.expect_err("full").code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn some_permits_are_kept_for_those_who_look_into_it() {
    let probe = Probe::new().watch(|_| Ok(then_silence(note("first")))).chat(|_| then_silence(note("first")));
    let policies =
        [(UNARY, MethodPolicy::standard().with_reserve()), (CHAT, MethodPolicy::standard().with_reserve())];
    let server = start_at("127.0.0.1:0".parse().expect("an address"), probe, one_call(), &policies).await;
    let client = server.client();
    let mut holding = watch(&client, long("hold")).await.expect("a stream");
    assert!(within(holding.message()).await.expect("no error").is_some());
    assert_eq!(watch(&client, long("x")).await.expect_err("full").code(), Code::ResourceExhausted);
    for _ in 0..3 {
        eventually(async || (unary(&client, long("x")).await.ok()? == "x").then_some(())).await;
    }
    // The one that is kept is not without end, either.
    let requests = Request::new(stream::pending()).with_timeout(Duration::from_secs(50));
    let mut kept = chat(&client, requests).await.expect("a stream");
    assert!(within(kept.message()).await.expect("no error").is_some());
    assert_eq!(unary(&client, long("x")).await.expect_err("full").code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_panic_costs_one_call() {
    let probe = Probe::new()
        .unary(|request| async move {
            assert_ne!(request.get_ref().text, "bad", "expected by the test");
            Ok(request.into_inner())
        })
        .watch(|_| {
            Ok(just(note("first"))
                .chain(stream::once(async {
                    // Else tonic asks for both messages at once, and the panic takes the first one with it.
                    tokio::task::yield_now().await;
                    panic!("expected by the test")
                }))
                .boxed())
        });
    // A lost permit would make the second call fail.
    let server = start_with(probe, one_call()).await;
    let client = server.client();

    for _ in 0..3 {
        let report = ErrorReport::from_status(&unary(&client, long("bad")).await.expect_err("panics"));
        assert_eq!(report.code, Code::Internal);
        assert_eq!(report.reason.as_deref(), Some(reasons::INTERNAL.name()));
        assert!(!report.message.contains("expected by the test"), "opaque: {}", report.message);

        let mut stream = watch(&client, long("x")).await.expect("a stream");
        assert!(within(stream.message()).await.expect("no error").is_some());
        assert_eq!(within(stream.message()).await.expect_err("panics").code(), Code::Internal);
    }
    assert_eq!(unary(&client, long("good")).await.expect("lives"), "good");
}

#[tokio::test]
async fn a_large_error_still_fits_into_headers() {
    let server = start(Probe::new().unary(|_| async {
        let mut error = chatfn_rpc::ApiError::invalid_argument(reasons::INVALID_REQUEST, "é".repeat(100_000));
        for at in 0..10_000 {
            error = error.field(format!("events[{at}].payload"), "must be an object");
        }
        Err(error.into())
    }))
    .await;
    let response = raw_call(&raw_client(), server.addr, UNARY, &[]).await;
    let size: usize =
        response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
    assert!(size < 7 * 1024, "{size}");
    let report = ErrorReport::from_status(&raw_status(response).await.0);
    assert_eq!(report.reason.as_deref(), Some("INVALID_REQUEST"));
    assert!(report.fields.last().expect("violations").description.contains("more"));
}
