//! Streams of events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chatfn_proto::ingest::v1::{
    DeliveryState, Event, EventHeader, StreamEventsRequest, event::PayloadKind,
    stream_events_response::Result as Answered,
};
use chatfn_rpc::RequestExt as _;
use futures_util::{StreamExt as _, stream};
use tonic::{Code, Request};

use crate::{
    harness::{Replica, World, event, eventually, patiently, refused, settings},
    invoker::assert_in_order,
    obstacle::Obstacle,
    publisher::Publisher,
};

fn with_payload(event: Event, json: &str) -> Event {
    Event { payload_kind: Some(PayloadKind::PayloadJson(json.to_owned())), ..event }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_answered_in_order_and_bad_ones_do_not_end_the_stream() {
    let world = World::start().await;
    let mut publisher = Publisher::open(&world.replica).await;
    publisher.send(1, event("c", "e1")).await;
    publisher.send(5, with_payload(event("c", "e2"), "{")).await;
    publisher.send(6, event("c", "no id")).await;
    publisher.send(7, Event { account: "no account".to_owned(), ..event("c", "e3") }).await;
    publisher.requests.send(StreamEventsRequest { client_sequence: 8, event: None }).await.unwrap();
    publisher.send(9, event("c", "e1")).await;
    publisher.send(10, with_payload(event("c", "e1"), "{}")).await;
    publisher.send(11, event("c", "last")).await;
    assert!(!publisher.answer(1).await.unwrap().duplicate);
    refused(publisher.answer(5).await, Code::InvalidArgument, "PAYLOAD_NOT_JSON");
    for sequence in 6..9 {
        refused(publisher.answer(sequence).await, Code::InvalidArgument, "INVALID_REQUEST");
    }
    assert!(publisher.answer(9).await.unwrap().duplicate);
    refused(publisher.answer(10).await, Code::AlreadyExists, "EVENT_ID_REUSED");
    assert!(!publisher.answer(11).await.unwrap().duplicate);
    assert!(publisher.finish().end().await.is_ok());
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    assert_in_order(&world.invoker.runs(), "c", &["e1".to_owned(), "last".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_do_not_rise_end_the_stream_after_what_was_good() {
    let world = World::start().await;
    for bad in [0, 3, 4] {
        let mut publisher = Publisher::open(&world.replica).await;
        publisher.send(4, event("c", &format!("e{bad}"))).await;
        publisher.send(bad, event("c", &format!("f{bad}"))).await;
        assert!(publisher.answer(4).await.is_ok());
        refused(publisher.end().await, Code::InvalidArgument, "INVALID_REQUEST");
        refused(world.replica.delivery(&format!("f{bad}")).await, Code::NotFound, "DELIVERY_NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_sends_again_what_was_not_answered() {
    let world = World::start().await;
    let ids: Vec<String> = (1..=40).map(|n| format!("e{n}")).collect();
    let mut publisher = Publisher::open(&world.replica).await;
    for (id, n) in ids.iter().zip(1..).take(20) {
        publisher.send(n, event("c", id)).await;
    }
    for n in 1..=10 {
        assert!(publisher.answer(n).await.is_ok());
    }
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    for (id, n) in ids.iter().zip(1..).skip(20) {
        publisher.send(n, event("c", id)).await;
    }
    obstacle.is_met().await;
    // The connection is lost while some are being recorded.
    drop(publisher);
    obstacle.lift().await;

    let mut publisher = Publisher::open(&world.replica).await;
    for (id, n) in ids.iter().zip(1..).skip(10) {
        publisher.send(n, event("c", id)).await;
    }
    for n in 11..=40 {
        publisher.answer(n).await.unwrap();
    }
    assert!(publisher.finish().end().await.is_ok());
    world.replica.reaches("e40", DeliveryState::Succeeded).await;
    let ran: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert_eq!(ran, ids, "each once, in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_read_than_may_be_in_progress() {
    const EVENTS: usize = 100;
    let world = World::start_with(settings(3), |config| config.streams.window = 4).await;
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    let text = "x".repeat(200 * 1024);
    let pulled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&pulled);
    let requests = stream::iter((0..EVENTS).zip(1..)).map(move |(n, client_sequence)| {
        count.fetch_add(1, Ordering::Relaxed);
        let event = with_payload(event("c", &format!("e{n}")), &format!(r#"{{"text":"{text}"}}"#));
        StreamEventsRequest { client_sequence, event: Some(event) }
    });
    let request = Request::new(requests).without_deadline();
    let mut answers = world.replica.events().stream_events(request).await.unwrap().into_inner();
    obstacle.is_met().await;
    // HTTP/2 keeps some 1 MiB of the stream, and the client's buffers a little.
    let enough = 4 + 16;
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let pulled = pulled.load(Ordering::Relaxed);
        assert!(pulled <= enough, "{pulled} events have left the client, none is answered");
    }
    obstacle.lift().await;
    for _ in 0..EVENTS {
        let answer = patiently(answers.message()).await.unwrap().unwrap();
        assert!(matches!(answer.result, Some(Answered::Acknowledgement(_))), "{answer:?}");
    }
    assert!(patiently(answers.message()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_answers_is_cut_off() {
    let world = World::start_with(settings(3), |config| {
        config.streams.stall = Duration::from_millis(200);
        // The only call that may be in progress tells when the stream is over.
        config.rpc.max_calls = 1;
    })
    .await;
    let mut publisher = Publisher::open(&world.replica).await;
    // Each is answered by some 2 KiB, so that the client's window is full at some time.
    let bad =
        Event { headers: vec![EventHeader::default(); 16], event_id: " ".repeat(100), ..event("c", "e") };
    let mut sent = 0;
    while publisher
        .requests
        .send(StreamEventsRequest { client_sequence: sent + 1, event: Some(bad.clone()) })
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 1_000_000, "all was answered although nobody read");
    }
    eventually(async || world.replica.publish(event("c", "other")).await.is_ok()).await;
    // What had arrived can be read; then the stream turns out to be broken.
    let broken = loop {
        match patiently(publisher.answers.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_ne!(broken.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_streams_after_their_last_answer() {
    let mut world = World::start().await;
    let mut publisher = Publisher::open(&world.replica).await;
    publisher.send(1, event("c", "e1")).await;
    assert!(publisher.answer(1).await.is_ok());
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    for n in 2..=5 {
        publisher.send(n, event("c", &format!("e{n}"))).await;
    }
    obstacle.is_met().await;
    world.replica.shutdown.begin();
    obstacle.lift().await;
    let mut answered = 1;
    let end = loop {
        match patiently(publisher.answers.message()).await {
            Ok(Some(answer)) => {
                answered += 1;
                assert_eq!(answer.client_sequence, answered);
                assert!(matches!(answer.result, Some(Answered::Acknowledgement(_))), "{answer:?}");
            }
            Ok(None) => panic!("the stream ended as if nothing more could come"),
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(end), Code::Unavailable, "DRAINING");
    assert!(answered >= 2, "what was handed over is answered");
    world.replica.stop().await;

    // Another replica knows all that was acknowledged.
    let other = Replica::start(world.config(|_| {}), world.deployments()).await;
    for n in 1..=answered {
        let id = format!("e{n}");
        assert!(other.publish(event("c", &id)).await.unwrap().duplicate, "{id} was lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_events_end_and_so_do_old_ones() {
    let world = World::start_with(settings(3), |config| {
        config.streams.idle = Duration::from_millis(100);
    })
    .await;
    let publisher = Publisher::open(&world.replica).await;
    refused(publisher.end().await, Code::Unavailable, "STREAM_IDLE");

    let world = World::start_with(settings(3), |config| {
        config.streams.max_age = Duration::from_millis(100);
    })
    .await;
    let publisher = Publisher::open(&world.replica).await;
    refused(publisher.end().await, Code::Unavailable, "STREAM_AGED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_over_its_quota_is_slowed_down_and_not_refused() {
    let world = World::start_with(settings(3), |config| config.quotas.events_per_second = 100).await;
    let mut publisher = Publisher::open(&world.replica).await;
    let begun = std::time::Instant::now();
    for n in 1..=150 {
        publisher.send(n, event("c", &format!("e{n}"))).await;
    }
    for n in 1..=150 {
        publisher.answer(n).await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(450), "a second's worth is there, the rest must come");
    assert!(publisher.finish().end().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_bring_no_event_leave_calls_to_others() {
    let world = World::start_with(settings(3), |config| config.rpc.max_calls = 4).await;
    let mut streams = Vec::new();
    let refusal = loop {
        match Publisher::try_open(&world.replica).await {
            Ok(stream) => streams.push(stream),
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(refusal), Code::ResourceExhausted, "CALLER_BUSY");
    assert_eq!(streams.len(), 2, "half of the calls");
    // What is wrong with an event does not make it count for an account, and others can still publish.
    streams[0].send(1, Event { account: "no account".to_owned(), ..event("c", "e") }).await;
    refused(streams[0].answer(1).await, Code::InvalidArgument, "INVALID_REQUEST");
    world.replica.publish(event("c", "e1")).await.unwrap();
    let again = Publisher::try_open(&world.replica).await.map(drop);
    refused(again, Code::ResourceExhausted, "CALLER_BUSY");
    // One over which an event comes is its account's from then on.
    streams[1].send(1, event("c", "e2")).await;
    streams[1].answer(1).await.unwrap();
    Publisher::open(&world.replica).await;
}
