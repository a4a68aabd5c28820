//! Shutdown: it finishes what it can and always returns.

use std::{
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use chatfn_rpc::{ErrorReport, RequestExt, Server, ServerConfig, reasons};
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tokio::{io::AsyncReadExt, net::TcpStream, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

use crate::support::{
    Probe, WATCH, eventually, note, raw_call, start, start_with, then_silence, unary, unread_client, watch,
    within,
};

fn quick() -> ServerConfig {
    ServerConfig { drain_timeout: Duration::from_millis(300), ..ServerConfig::default() }
}

fn long(text: &str) -> Request<crate::support::Note> {
    Request::new(note(text)).with_timeout(Duration::from_secs(50))
}

#[tokio::test]
async fn calls_in_progress_finish() {
    let (started, mut has_started) = mpsc::channel(1);
    let gate = CancellationToken::new();
    let opened = gate.clone();
    let server = start(Probe::new().unary(move |request| {
        let (started, opened) = (started.clone(), opened.clone());
        async move {
            started.send(()).await.expect("the test listens");
            opened.cancelled().await;
            Ok(request.into_inner())
        }
    }))
    .await;
    let (addr, client) = (server.addr, server.client());
    let call = tokio::spawn(async move { unary(&client, long("finished")).await });
    within(has_started.recv()).await.expect("the call started");

    server.shutdown.cancel();
    // New connections are refused while the old call goes on.
    eventually(async || TcpStream::connect(addr).await.err()).await;
    assert!(!server.served.is_finished());
    gate.cancel();
    assert_eq!(within(call).await.expect("no panic").expect("finished"), "finished");
    assert_eq!(within(server.served).await.expect("no panic").cut, 0);
}

#[tokio::test]
async fn a_stuck_call_is_told_and_dropped_at_the_limit() {
    let (started, mut has_started) = mpsc::channel(1);
    let server = start_with(
        Probe::new()
            .unary(move |_| {
                let started = started.clone();
                async move {
                    started.send(()).await.expect("the test listens");
                    std::future::pending().await
                }
            })
            .watch(|_| Ok(then_silence(note("first")))),
        quick(),
    )
    .await;
    let client = server.client();
    let mut stream = watch(&client, long("x")).await.expect("a stream");
    assert!(within(stream.message()).await.expect("no error").is_some());
    let call = tokio::spawn(async move { unary(&client, long("x")).await });
    within(has_started.recv()).await.expect("the call started");

    server.shutdown.cancel();
    let drained = within(server.served).await.expect("no panic");
    assert_eq!(drained.cut, 3, "a connection and two calls");
    let told = within(call).await.expect("no panic").expect_err("cut");
    assert_eq!(told.code(), Code::Unavailable);
    assert_eq!(ErrorReport::from_status(&told).reason.as_deref(), Some(reasons::SERVER_DRAINING.name()));
    let told = within(stream.message()).await.expect_err("cut");
    assert_eq!(ErrorReport::from_status(&told).reason.as_deref(), Some(reasons::SERVER_DRAINING.name()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_cannot_hold_the_process() {
    let (started, mut has_started) = mpsc::channel(1);
    let release = Arc::new(Barrier::new(2));
    let released = Arc::clone(&release);
    let config = quick();
    let longest = config.longest_drain();
    let server = start_with(
        Probe::new().unary(move |_| {
            let (started, released) = (started.clone(), Arc::clone(&released));
            async move {
                started.send(()).await.expect("the test listens");
                // What this is about: a handler that holds its thread and never awaits.
                released.wait();
                Ok(note(""))
            }
        }),
        config,
    )
    .await;
    let client = server.client();
    let call = tokio::spawn(async move { unary(&client, long("x")).await });
    within(has_started.recv()).await.expect("the call started");

    let asked = Instant::now();
    server.shutdown.cancel();
    let drained = within(server.served).await.expect("no panic");
    assert!(drained.cut > 0);
    assert!(asked.elapsed() >= longest, "every stage had its time");
    release.wait();
    call.abort();
}

#[tokio::test]
async fn a_peer_that_stops_reading_cannot_hold_a_call_beyond_the_drain() {
    let (over, mut is_over) = mpsc::channel(1);
    let big = "x".repeat(64 * 1024);
    let probe = Probe::new().watch(move |request| {
        let (cancelled, over, big) = (request.context().cancelled, over.clone(), big.clone());
        tokio::spawn(async move {
            cancelled.cancelled().await;
            over.send(()).await.expect("the test listens");
        });
        Ok(stream::repeat_with(move || Ok(note(big.clone()))).boxed())
    });
    let server = start_with(probe, quick()).await;
    let mut unread = raw_call(&unread_client(), server.addr, WATCH, &[("grpc-timeout", "50S")]).await;
    assert!(within(unread.body_mut().frame()).await.is_some(), "the stream has begun");

    server.shutdown.cancel();
    assert!(within(server.served).await.expect("no panic").cut > 0);
    assert_eq!(within(is_over.recv()).await, Some(()));
    drop(unread);
}

/// A peer that connected and never spoke once held a drain for ever (hyperium/hyper#4170).
#[tokio::test]
async fn a_silent_peer_does_not_hold_the_drain() {
    let config = ServerConfig {
        handshake_timeout: Duration::from_secs(3600),
        drain_timeout: Duration::from_secs(3600),
        ..ServerConfig::default()
    };
    let server = start_with(Probe::new(), config).await;
    let mut silent = TcpStream::connect(server.addr).await.expect("accepted by the kernel");
    // Connections are accepted in order: once this call is answered, the silent one is being served.
    unary(&server.client(), long("x")).await.expect("an answer");

    server.shutdown.cancel();
    assert_eq!(within(server.served).await.expect("no panic").cut, 0);
    let mut rest = Vec::new();
    // Closed, one way or the other.
    let _ = within(silent.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn dropping_the_server_closes_its_connections() {
    let server = start(Probe::new().watch(|_| Ok(then_silence(note("first"))))).await;
    let mut stream = watch(&server.client(), long("x")).await.expect("a stream");
    assert!(within(stream.message()).await.expect("no error").is_some());
    server.served.abort();
    assert_eq!(within(stream.message()).await.expect_err("lost").code(), Code::Unavailable);
}

#[tokio::test]
async fn only_loopback_is_served() {
    let server = Server::builder(ServerConfig::default()).service(Probe::new()).build().await.expect("valid");
    let everywhere = tokio::net::TcpListener::bind("0.0.0.0:0").await.expect("a free port");
    let error = server.serve(everywhere, CancellationToken::new()).await.expect_err("refused");
    assert!(error.to_string().contains("loopback"), "{error}");
}
