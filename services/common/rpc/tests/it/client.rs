//! The client against servers that are gone, silent, or die.

use std::time::Duration;

use chatfn_rpc::{
    ApiError, Client, ClientConfig, ErrorReport, RequestExt, RetryClass, ServerConfig, TraceParent, classify,
    connect, reasons,
};
use futures_util::stream;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tonic::{Code, Request};

use crate::support::{
    Probe, chat, eventually, note, raw_call, raw_client, raw_status, start, start_at, then_silence, unary,
    watch, within,
};

fn long(text: &str) -> Request<crate::support::Note> {
    Request::new(note(text)).with_timeout(Duration::from_secs(50))
}

async fn client_of(listener: &TcpListener) -> Client {
    let addr = listener.local_addr().expect("bound");
    connect(ClientConfig::new(format!("http://{addr}").parse().expect("a URI"))).expect("valid")
}

#[tokio::test]
async fn connection_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = client_of(&listener).await;
    drop(listener);
    let error = unary(&client, long("x")).await.expect_err("nobody listens");
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(ErrorReport::from_status(&error).reason.as_deref(), Some(reasons::CONNECTION_FAILED.name()));
    assert_eq!(classify(&error), RetryClass::Safe);
    assert!(error.message().contains("refused"), "says why: {}", error.message());
}

/// A host that is gone says nothing, and neither does a network policy. Whoever calls must know that nothing was done.
#[tokio::test]
async fn a_call_whose_time_is_up_before_there_is_a_connection_was_not_begun() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("it listens");
    // Nobody accepts, and once its queue is full the kernel drops what comes.
    let addr = listener.local_addr().expect("bound");
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
        queued.push(stream.expect("it is queued"));
        assert!(queued.len() < 64, "the queue has an end");
    }
    let client = client_of(&listener).await;
    let request = Request::new(note("x")).with_timeout(Duration::from_millis(300));
    let error = unary(&client, request).await.expect_err("no connection");
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(ErrorReport::from_status(&error).reason.as_deref(), Some(reasons::CONNECTION_FAILED.name()));
    assert_eq!(classify(&error), RetryClass::Safe);
}

#[tokio::test]
async fn a_doomed_call_is_refused_before_any_work() {
    // Connecting would succeed and then hang, so that only a refusal gives this reason.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = client_of(&listener).await;
    for budget in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(9)] {
        let error = unary(&client, Request::new(note("x")).with_timeout(budget)).await.expect_err("doomed");
        assert_eq!(error.code(), Code::DeadlineExceeded, "{budget:?}");
        assert_eq!(
            ErrorReport::from_status(&error).reason.as_deref(),
            Some(reasons::BUDGET_TOO_SMALL.name())
        );
        assert_eq!(classify(&error), RetryClass::Safe);
    }
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_deadline() {
    // The kernel accepts for a listener that nobody serves.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = client_of(&listener).await;
    let request = Request::new(note("x")).with_timeout(Duration::from_millis(200));
    let error = unary(&client, request).await.expect_err("expires");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert_eq!(classify(&error), RetryClass::Unknown);
}

#[tokio::test]
async fn keepalive_finds_a_server_that_went_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let mut config = ClientConfig::new(format!("http://{addr}").parse().expect("a URI"));
    config.keepalive_interval = Duration::from_millis(100);
    config.keepalive_timeout = Duration::from_millis(100);
    let error = unary(&connect(config).expect("valid"), long("x")).await.expect_err("never answered");
    assert_eq!(error.code(), Code::Unavailable, "before the deadline of the call");
    assert_eq!(classify(&error), RetryClass::Unknown);
}

#[tokio::test]
async fn the_default_timeout_applies() {
    let server = start(Probe::new().unary(|_| std::future::pending())).await;
    let mut config = server.client_config();
    config.default_timeout = Duration::from_millis(100);
    let error = unary(&connect(config).expect("valid"), Request::new(note("x"))).await.expect_err("expires");
    assert_eq!(error.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn tonics_own_timeout_is_honoured() {
    let server = start(Probe::new().unary(|request| async move {
        Ok(note(request.deadline().expect("a deadline").remaining().as_secs().to_string()))
    }))
    .await;
    let mut request = Request::new(note("x"));
    request.set_timeout(Duration::from_secs(20));
    let left: u64 = unary(&server.client(), request).await.expect("an answer").parse().expect("a number");
    assert!(left <= 19, "{left}: less than asked for, by the margin");
}

#[tokio::test]
async fn a_server_that_dies_during_a_call() {
    let (started, mut has_started) = mpsc::channel(1);
    let server = start(
        Probe::new()
            .unary(move |_| {
                let started = started.clone();
                async move {
                    started.send(()).await.expect("the test listens");
                    std::future::pending().await
                }
            })
            .watch(|_| Ok(then_silence(note("first")))),
    )
    .await;
    let client = server.client();
    let mut streams = Vec::new();
    streams.push(watch(&client, long("x")).await.expect("a stream"));
    streams.push(chat(&client, Request::new(stream::iter([note("x")]))).await.expect("a stream"));
    for stream in &mut streams {
        assert!(within(stream.message()).await.expect("no error").is_some());
    }
    let call = tokio::spawn(async move { unary(&client, long("x")).await });
    within(has_started.recv()).await.expect("the call started");

    server.served.abort();
    let mut errors = vec![within(call).await.expect("no panic").expect_err("lost")];
    errors.push(within(streams[0].message()).await.expect_err("lost"));
    for error in errors {
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        assert_eq!(ErrorReport::from_status(&error).reason.as_deref(), Some(reasons::CONNECTION_LOST.name()));
        assert_eq!(classify(&error), RetryClass::Unknown);
    }
}

/// A server without any of our layers, whose calls `handle` answers.
async fn bare_server(handle: impl Fn(h2::server::SendResponse<bytes::Bytes>) + Send + 'static) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let client = client_of(&listener).await;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut connection = h2::server::handshake(stream).await.expect("a handshake");
        while let Some(Ok((_request, call))) = connection.accept().await {
            handle(call);
        }
    });
    client
}

#[tokio::test]
async fn the_client_itself_ends_a_stream_at_its_deadline() {
    let (open, _keeps_open) = std::sync::mpsc::channel();
    let client = bare_server(move |mut call| {
        open.send(call.send_response(http::Response::new(()), false)).expect("the test keeps it");
    })
    .await;
    let request = Request::new(note("x")).with_timeout(Duration::from_secs(2));
    let mut stream = watch(&client, request).await.expect("headers");
    assert_eq!(within(stream.message()).await.expect_err("expires").code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_reset_instead_of_an_answer() {
    for (reason, expected, class) in [
        (h2::Reason::REFUSED_STREAM, reasons::CONNECTION_FAILED, RetryClass::Safe),
        (h2::Reason::CANCEL, reasons::CONNECTION_LOST, RetryClass::Unknown),
        (h2::Reason::INTERNAL_ERROR, reasons::CONNECTION_LOST, RetryClass::Unknown),
    ] {
        let client = bare_server(move |mut call| call.send_reset(reason)).await;
        let error = unary(&client, long("x")).await.expect_err("reset");
        assert_eq!(error.code(), Code::Unavailable, "{reason:?}: {error:?}");
        assert_eq!(ErrorReport::from_status(&error).reason.as_deref(), Some(expected.name()), "{reason:?}");
        assert_eq!(classify(&error), class, "{reason:?}");
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_of_an_answer() {
    // hyper reports the first two as a clean end of the body.
    for reason in [h2::Reason::CANCEL, h2::Reason::NO_ERROR, h2::Reason::INTERNAL_ERROR] {
        let (open, opened) = std::sync::mpsc::channel();
        let client = bare_server(move |mut call| {
            let stream = call.send_response(http::Response::new(()), false).expect("open");
            open.send(stream).expect("the test takes it");
        })
        .await;
        let mut stream = watch(&client, long("x")).await.expect("headers");
        opened.try_recv().expect("sent before its headers").send_reset(reason);
        let error = within(stream.message()).await.expect_err("reset");
        assert_eq!(error.code(), Code::Unavailable, "{reason:?}: {error:?}");
        assert_eq!(ErrorReport::from_status(&error).reason.as_deref(), Some(reasons::CONNECTION_LOST.name()));
        assert_eq!(classify(&error), RetryClass::Unknown, "{reason:?}");
    }
}

#[tokio::test]
async fn the_client_finds_the_server_again() {
    let first = start(Probe::new()).await;
    let (addr, client) = (first.addr, first.client());
    assert_eq!(unary(&client, long("one")).await.expect("an answer"), "one");
    first.shutdown.cancel();
    within(first.served).await.expect("no panic");

    let _second = start_at(addr, Probe::new(), ServerConfig::default(), &[]).await;
    let answer = eventually(async || unary(&client, long("two")).await.ok()).await;
    assert_eq!(answer, "two");
}

#[tokio::test]
async fn traces_are_passed_on_or_begun() {
    let server =
        start(Probe::new().unary(|request| async move {
            Ok(note(request.context().trace.expect("always one").to_string()))
        }))
        .await;
    let client = server.client();
    let trace: TraceParent =
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().expect("a valid one");
    let seen = unary(&client, long("x").with_trace(trace)).await.expect("an answer");
    assert_eq!(seen, trace.to_string());
    let begun: TraceParent =
        unary(&client, long("x")).await.expect("an answer").parse().expect("a valid one");
    assert_ne!(begun, trace);
}

#[tokio::test]
async fn details_cross_the_wire() {
    let server = start(Probe::new().unary(|_| async {
        let error = ApiError::aborted(reasons::ETAG_MISMATCH, "it has changed");
        Err(error.resource("function", "functions/a").metadata("current_etag", "e-2").into())
    }))
    .await;
    let error = unary(&server.client(), long("x")).await.expect_err("refused");
    let report = ErrorReport::from_status(&error);
    assert_eq!(report.code, Code::Aborted);
    assert_eq!(report.reason.as_deref(), Some("ETAG_MISMATCH"));
    assert_eq!(report.metadata["current_etag"], "e-2");
    assert_eq!(report.resource.expect("a resource").name, "functions/a");
    assert_eq!(classify(&error), RetryClass::Never);
}

#[tokio::test]
async fn an_error_of_our_own_request_is_not_a_lost_connection() {
    let server = start(Probe::new()).await;
    let mut grpc = tonic::client::Grpc::new(server.client()).max_encoding_message_size(10);
    let path = http::uri::PathAndQuery::from_static(crate::support::UNARY);
    let codec = tonic_prost::ProstCodec::<crate::support::Note, crate::support::Note>::default();
    let error = within(grpc.unary(long("longer than ten bytes"), path, codec)).await.expect_err("too large");
    assert_eq!(error.code(), Code::OutOfRange, "{error:?}");
}

#[tokio::test]
async fn a_method_that_is_not_here_is_refused_with_what_is() {
    let server = start(Probe::new()).await;
    for path in
        ["/chatfn.test.v1.Probe/Nothing", "/chatfn.registry.v1.TemplateService/ListTemplates", "/nonsense"]
    {
        let report = ErrorReport::from_status(
            &raw_status(raw_call(&raw_client(), server.addr, path, &[]).await).await.0,
        );
        assert_eq!(report.code, Code::Unimplemented, "{path}");
        assert_eq!(report.reason.as_deref(), Some(reasons::METHOD_UNKNOWN.name()), "{path}");
        assert!(report.message.contains("but those of chatfn.test.v1.Probe"), "{}", report.message);
    }
}
