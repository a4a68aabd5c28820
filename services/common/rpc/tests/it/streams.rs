//! Streams and their deadlines: tonic guards nothing after the headers.

use std::{error::Error as _, time::Duration};

use chatfn_rpc::{ErrorReport, RequestExt, ServerConfig, reasons};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tonic::{Code, Request, Status};

use crate::support::{
    Probe, UNARY, WATCH, chat, eventually, note, raw_call, raw_client, raw_status, start, start_with,
    then_silence, unread_client, watch, within,
};

/// Long enough for a stream to begin on a slow machine.
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_stream_that_has_begun_ends_in_its_trailers() {
    let server = start(Probe::new().watch(|_| Ok(then_silence(note("first"))))).await;
    let response = raw_call(&raw_client(), server.addr, WATCH, &[("grpc-timeout", "2S")]).await;
    assert!(!response.headers().contains_key("grpc-status"), "the headers said nothing yet");
    let (status, data) = raw_status(response).await;
    assert_eq!(ErrorReport::from_status(&status).reason.as_deref(), Some(reasons::DEADLINE_EXCEEDED.name()));
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(data > 0, "the first message arrived");
}

fn never_pauses() -> Probe {
    Probe::new().watch(|_| Ok(stream::repeat_with(|| Ok(note("again"))).boxed()))
}

#[tokio::test]
async fn the_server_ends_a_stream_that_never_pauses() {
    let server = start(never_pauses()).await;
    let response = raw_call(&raw_client(), server.addr, WATCH, &[("grpc-timeout", "2S")]).await;
    assert!(!response.headers().contains_key("grpc-status"), "the headers said nothing yet");
    let mut body = response.into_body();
    let mut data = 0;
    // One limit for all of it: each frame comes soon, however long the stream goes on.
    within(async {
        loop {
            match body.frame().await.expect("it does not end without a word") {
                Ok(frame) => match frame.into_data() {
                    Ok(bytes) => data += bytes.len(),
                    Err(frame) => {
                        let trailers = frame.into_trailers().expect("trailers");
                        assert_eq!(trailers["grpc-status"], "4");
                        break;
                    }
                },
                // A reader that is slower than the stream gets a reset instead of trailers: they would wait behind
                // what it has not read.
                Err(error) => {
                    assert!(is_reset(&error), "{error:?}");
                    break;
                }
            }
        }
    })
    .await;
    assert!(data > 0, "the stream had begun");
}

/// Whether the peer gave up this stream, and not its connection.
fn is_reset(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_reset() && cause.is_remote())
}

#[tokio::test]
async fn the_client_ends_a_stream_that_never_pauses() {
    let server = start(never_pauses()).await;
    let request = Request::new(note("x")).with_timeout(Duration::from_millis(300));
    let ended: Result<(), Status> = within(async {
        let mut stream = watch(&server.client(), request).await?;
        loop {
            stream.message().await?;
        }
    })
    .await;
    assert_eq!(ended.expect_err("expires").code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn the_client_ends_a_silent_stream() {
    let server = start(Probe::new().watch(|_| Ok(then_silence(note("first"))))).await;
    let mut stream =
        watch(&server.client(), Request::new(note("x")).with_timeout(SHORT)).await.expect("a stream");
    assert!(within(stream.message()).await.expect("no error").is_some());
    assert_eq!(within(stream.message()).await.expect_err("expires").code(), Code::DeadlineExceeded);
}

/// gRPC's interoperability case of that name.
#[tokio::test]
async fn timeout_on_sleeping_server() {
    let server = start(Probe::new().chat(|request| {
        // Keeps the requests and answers nothing.
        let requests = request.into_inner();
        stream::once(async move {
            let _requests = requests;
            std::future::pending().await
        })
        .boxed()
    }))
    .await;
    let requests = stream::iter([note("one")]).chain(stream::pending());
    let mut answers =
        chat(&server.client(), Request::new(requests).with_timeout(SHORT)).await.expect("a stream");
    assert_eq!(within(answers.message()).await.expect_err("expires").code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn requests_end_with_the_deadline_even_when_read_by_another_task() {
    let (ended, mut has_ended) = mpsc::channel(1);
    let server = start(Probe::new().chat(move |request| {
        let (mut requests, ended) = (request.into_inner(), ended.clone());
        tokio::spawn(async move {
            let error = loop {
                match requests.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break None,
                    Err(status) => break Some(status.code()),
                }
            };
            ended.send(error).await.expect("the test listens");
        });
        stream::pending().boxed()
    }))
    .await;
    let requests = stream::iter([note("one")]).chain(stream::pending());
    let mut answers =
        chat(&server.client(), Request::new(requests).with_timeout(SHORT)).await.expect("a stream");
    assert_eq!(within(answers.message()).await.expect_err("expires").code(), Code::DeadlineExceeded);
    assert_eq!(within(has_ended.recv()).await, Some(Some(Code::DeadlineExceeded)));
}

#[tokio::test]
async fn a_caller_that_drops_a_stream_cancels_although_its_requests_go_on() {
    let (cancelled, mut was_cancelled) = mpsc::channel(1);
    let server = start(Probe::new().chat(move |request| {
        let (token, cancelled) = (request.context().cancelled, cancelled.clone());
        tokio::spawn(async move {
            token.cancelled().await;
            cancelled.send(()).await.expect("the test listens");
        });
        then_silence(note("hello"))
    }))
    .await;
    let client = server.client();
    let mut answers =
        chat(&client, Request::new(stream::pending()).without_deadline()).await.expect("a stream");
    assert!(within(answers.message()).await.expect("no error").is_some());
    drop(answers);
    assert_eq!(within(was_cancelled.recv()).await, Some(()));
}

#[tokio::test]
async fn a_peer_that_stops_reading_cannot_keep_a_call() {
    // The only permit of the server tells whether the call is over.
    let config = ServerConfig { max_calls: 1, ..ServerConfig::default() };
    let big = "x".repeat(64 * 1024);
    let probe = Probe::new().watch(move |_| {
        let big = big.clone();
        Ok(stream::repeat_with(move || Ok(note(big.clone()))).boxed())
    });
    let server = start_with(probe, config).await;
    let mut unread = raw_call(&unread_client(), server.addr, WATCH, &[("grpc-timeout", "2S")]).await;
    assert!(within(unread.body_mut().frame()).await.is_some(), "the stream has begun");

    let other = raw_client();
    let unary = async || raw_status(raw_call(&other, server.addr, UNARY, &[]).await).await.0.code();
    assert_eq!(unary().await, Code::ResourceExhausted, "the unread stream holds the permit");
    eventually(async || (unary().await == Code::Ok).then_some(())).await;
    drop(unread);
}

#[tokio::test]
async fn a_handler_can_reset_a_call_whose_peer_does_not_read() {
    let config = ServerConfig { max_calls: 1, ..ServerConfig::default() };
    let big = "x".repeat(64 * 1024);
    let (tokens, mut resets) = mpsc::channel(1);
    let probe = Probe::new().watch(move |_| {
        tokens.try_send(chatfn_rpc::reset_token()).expect("called once");
        let big = big.clone();
        Ok(stream::repeat_with(move || Ok(note(big.clone()))).boxed())
    });
    let server = start_with(probe, config).await;
    let mut unread = raw_call(&unread_client(), server.addr, WATCH, &[("grpc-timeout", "1H")]).await;
    assert!(within(unread.body_mut().frame()).await.is_some(), "the stream has begun");

    let other = raw_client();
    let unary = async || raw_status(raw_call(&other, server.addr, UNARY, &[]).await).await.0.code();
    assert_eq!(unary().await, Code::ResourceExhausted, "the unread stream holds the permit");
    within(resets.recv()).await.expect("the handler gave one").cancel();
    eventually(async || (unary().await == Code::Ok).then_some(())).await;
    drop(unread);
}
