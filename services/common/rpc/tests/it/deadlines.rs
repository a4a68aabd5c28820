//! Unary calls and their deadlines.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chatfn_rpc::{ErrorReport, MethodPolicy, RequestExt, ServerConfig, reasons};
use tokio::sync::mpsc;
use tonic::{Code, Request};

use crate::support::{
    Note, Probe, UNARY, just, note, raw_call, raw_client, raw_status, start, start_at, start_with, unary,
    watch, within,
};
use futures_util::StreamExt;

const SHORT: Duration = Duration::from_millis(200);
const ANY_PORT: &str = "127.0.0.1:0";

/// Answers with the milliseconds left, or "none".
fn tells_time_left() -> Probe {
    Probe::new().unary(|request| async move {
        Ok(note(match request.deadline() {
            Some(deadline) => deadline.remaining().as_millis().to_string(),
            None => "none".to_owned(),
        }))
    })
}

#[tokio::test]
async fn a_malformed_timeout_is_an_invalid_argument() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let server = start(Probe::new().unary(move |request| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move { Ok(request.into_inner()) }
    }))
    .await;
    let client = raw_client();
    for bad in ["abc", "", "-1m", "123456789m", "5X", "1.5S", "10"] {
        let response = raw_call(&client, server.addr, UNARY, &[("grpc-timeout", bad)]).await;
        let report = ErrorReport::from_status(&raw_status(response).await.0);
        assert_eq!(report.code, Code::InvalidArgument, "{bad:?}");
        assert_eq!(report.reason.as_deref(), Some(reasons::GRPC_TIMEOUT_MALFORMED.name()), "{bad:?}");
    }
    let twice = [("grpc-timeout", "1S"), ("grpc-timeout", "2S")];
    let (status, _) = raw_status(raw_call(&client, server.addr, UNARY, &twice).await).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(calls.load(Ordering::Relaxed), 0, "no handler ran");

    let (status, _) =
        raw_status(raw_call(&client, server.addr, UNARY, &[("grpc-timeout", "10S")]).await).await;
    assert_eq!(status.code(), Code::Ok);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_budget_too_small_is_refused_before_any_work() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let config = ServerConfig { min_budget: Duration::from_millis(50), ..ServerConfig::default() };
    let server = start_with(
        Probe::new().unary(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            async move { Ok(request.into_inner()) }
        }),
        config,
    )
    .await;
    for spent in ["0m", "1n", "49m"] {
        let response = raw_call(&raw_client(), server.addr, UNARY, &[("grpc-timeout", spent)]).await;
        let report = ErrorReport::from_status(&raw_status(response).await.0);
        assert_eq!(report.code, Code::DeadlineExceeded, "{spent}");
        assert_eq!(report.reason.as_deref(), Some(reasons::BUDGET_TOO_SMALL.name()), "{spent}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0, "no handler ran");
}

#[tokio::test]
async fn the_server_ends_a_sleeping_handler() {
    let server = start(Probe::new().unary(|_| std::future::pending())).await;
    let response = raw_call(&raw_client(), server.addr, UNARY, &[("grpc-timeout", "200m")]).await;
    let report = ErrorReport::from_status(&raw_status(response).await.0);
    assert_eq!(report.code, Code::DeadlineExceeded);
    assert_eq!(report.reason.as_deref(), Some(reasons::DEADLINE_EXCEEDED.name()));
}

#[tokio::test]
async fn a_client_always_sees_deadline_exceeded() {
    let server = start(Probe::new().unary(|_| std::future::pending())).await;
    let client = server.client();
    for _ in 0..20 {
        let request = Request::new(note("x")).with_timeout(Duration::from_millis(50));
        assert_eq!(unary(&client, request).await.expect_err("expires").code(), Code::DeadlineExceeded);
    }
}

#[tokio::test]
async fn default_and_cap() {
    let config = ServerConfig {
        default_timeout: Duration::from_secs(300),
        max_timeout: Duration::from_secs(600),
        ..ServerConfig::default()
    };
    let server = start_with(tells_time_left(), config).await;
    let client = server.client();
    let left =
        |request| async { unary(&client, request).await.expect("an answer").parse::<u64>().expect("a time") };

    let defaulted = left(Request::new(note("x")).without_deadline()).await;
    assert!((240_001..=300_000).contains(&defaulted), "{defaulted}");
    let capped = left(Request::new(note("x")).with_timeout(Duration::from_secs(7200))).await;
    assert!((540_001..=600_000).contains(&capped), "{capped}");
    let own = left(Request::new(note("x")).with_timeout(Duration::from_secs(200))).await;
    assert!((140_001..=190_000).contains(&own), "{own}: 5 % is the hop's margin");
}

#[tokio::test]
async fn methods_may_differ() {
    let policies = [(UNARY, MethodPolicy::long_lived())];
    let addr = ANY_PORT.parse().expect("an address");
    let server = start_at(addr, tells_time_left(), ServerConfig::default(), &policies).await;
    let client = server.client();
    let free = unary(&client, Request::new(note("x")).without_deadline()).await;
    assert_eq!(free.expect("an answer"), "none");
    let asked = unary(&client, Request::new(note("x")).with_timeout(Duration::from_secs(7200))).await;
    assert!(asked.expect("an answer").parse::<u64>().expect("a time") > 600_000, "not capped");

    let own = MethodPolicy::bounded(Duration::from_secs(1000), Duration::from_secs(2000));
    let server = start_at(addr, tells_time_left(), ServerConfig::default(), &[(UNARY, own)]).await;
    let client = server.client();
    let defaulted = unary(&client, Request::new(note("x")).without_deadline()).await.expect("an answer");
    assert!((940_001..=1_000_000).contains(&defaulted.parse::<u64>().expect("a time")), "{defaulted}");
}

#[tokio::test]
async fn nothing_behind_the_layer_sees_the_relative_value() {
    let server = start(Probe::new().unary(|request| async move {
        Ok(note(request.metadata().contains_key("grpc-timeout").to_string()))
    }))
    .await;
    let seen = unary(&server.client(), Request::new(note("x")).with_timeout(SHORT * 100)).await;
    assert_eq!(seen.expect("an answer"), "false");
}

#[tokio::test]
async fn what_was_held_back_has_less_time_or_is_refused() {
    let (sees, mut seen) = mpsc::channel(10);
    let server = start(Probe::new().unary(move |request| {
        let left = request.deadline().expect("a deadline").remaining().as_secs();
        sees.try_send((left, request.metadata().contains_key("chatfn-sent"))).expect("the test listens");
        async move { Ok(request.into_inner()) }
    }))
    .await;
    // One connection.
    let client = raw_client();
    let call = async |timeout: &str, sent: &str| {
        let headers = [("grpc-timeout", timeout), ("chatfn-sent", sent)];
        raw_status(raw_call(&client, server.addr, UNARY, &headers).await).await.0
    };
    // By the client's clock, which nobody else has, requests were sent now, or 10 minutes before.
    let (now, before) = ("c10c-1000000000", "c10c-400000000");
    assert_eq!(call("50S", now).await.code(), Code::Ok);
    let late = ErrorReport::from_status(&call("50S", before).await);
    assert_eq!(late.code, Code::DeadlineExceeded);
    assert_eq!(late.reason.as_deref(), Some(reasons::BUDGET_TOO_SMALL.name()));
    for sent in [now, "d00d-400000000", "not-400000000"] {
        assert_eq!(call("50S", sent).await.code(), Code::Ok, "{sent}");
    }
    assert_eq!(call("630S", before).await.code(), Code::Ok);

    let seen: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
    let [first, again, other_clock, no_clock, less] = seen[..] else { panic!("{seen:?}") };
    for (left, _) in [first, again, other_clock, no_clock] {
        assert!((30..=50).contains(&left), "{seen:?}");
    }
    assert!(less.0 <= 30, "{seen:?}");
    assert!(seen.iter().all(|(_, is_shown)| !is_shown), "handlers see the deadline alone");
}

#[tokio::test]
async fn the_budget_shrinks_at_every_hop() {
    // Each server adds what it has left, in microseconds, and asks the next one.
    async fn hop(next: Option<chatfn_rpc::Client>, request: Request<Note>) -> Result<Note, tonic::Status> {
        let context = request.context();
        let left = context.deadline.expect("a deadline").remaining().as_micros();
        let further = match next {
            Some(next) => unary(&next, Request::new(note("")).with_context(&context)).await?,
            None => String::new(),
        };
        Ok(note(format!("{left} {further}")))
    }
    let third = start(Probe::new().unary(|request| hop(None, request))).await.client();
    let second = start(Probe::new().unary(move |request| hop(Some(third.clone()), request))).await.client();
    let first = start(Probe::new().unary(move |request| hop(Some(second.clone()), request))).await;

    let budget = Duration::from_secs(40);
    let answer =
        unary(&first.client(), Request::new(note("")).with_timeout(budget)).await.expect("an answer");
    let mut left: Vec<u128> =
        answer.split_whitespace().map(|micros| micros.parse().expect("a number")).collect();
    left.insert(0, budget.as_micros());
    assert_eq!(left.len(), 4, "three hops: {answer}");
    for pair in left.windows(2) {
        assert!(pair[1] * 100 <= pair[0] * 95, "each hop keeps 5 %: {left:?}");
    }
}

#[tokio::test]
async fn a_caller_that_leaves_cancels() {
    let (events, mut seen) = mpsc::channel(4);
    let server = start(Probe::new().unary(move |request| {
        let (cancelled, events) = (request.context().cancelled, events.clone());
        // Outlives the handler, which is dropped when its caller leaves.
        tokio::spawn(async move {
            events.send("started").await.expect("the test listens");
            cancelled.cancelled().await;
            events.send("cancelled").await.expect("the test listens");
        });
        std::future::pending()
    }))
    .await;
    let client = server.client();
    let call = tokio::spawn(async move {
        unary(&client, Request::new(note("x")).with_timeout(Duration::from_secs(50))).await
    });
    assert_eq!(within(seen.recv()).await, Some("started"));
    call.abort();
    assert_eq!(within(seen.recv()).await, Some("cancelled"));
}

#[tokio::test]
async fn the_deadline_cancels() {
    let (events, mut seen) = mpsc::channel(4);
    let server = start(Probe::new().unary(move |request| {
        let (cancelled, events) = (request.context().cancelled, events.clone());
        tokio::spawn(async move {
            cancelled.cancelled().await;
            events.send("cancelled").await.expect("the test listens");
        });
        std::future::pending()
    }))
    .await;
    // Long enough for the handler to start on a slow machine.
    let response = raw_call(&raw_client(), server.addr, UNARY, &[("grpc-timeout", "2S")]).await;
    assert_eq!(raw_status(response).await.0.code(), Code::DeadlineExceeded);
    assert_eq!(within(seen.recv()).await, Some("cancelled"));
}

#[tokio::test]
async fn a_stream_is_not_cancelled_before_its_end() {
    let server = start(Probe::new().watch(|request| {
        let cancelled = request.context().cancelled;
        let state = move || note(cancelled.is_cancelled().to_string());
        let first = just(state());
        Ok(first.chain(futures_util::stream::once(async move { Ok(state()) })).boxed())
    }))
    .await;
    let mut stream = watch(&server.client(), Request::new(note("x"))).await.expect("a stream");
    for _ in 0..2 {
        let state = within(stream.message()).await.expect("no error").expect("a message");
        assert_eq!(state.text, "false");
    }
}
