//! How events end.

use std::time::{Duration, SystemTime};

use chatfn_proto::{
    ingest::v1::{DeliveryState, Event},
    invoker::v1::run_report::Outcome,
};
use prost_types::Timestamp;

use crate::{
    harness::{UNUSED, World, event, settings},
    invoker::Answer,
};

fn from_now(duration: Duration) -> Option<Timestamp> {
    let time = (SystemTime::now() + duration).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Some(Timestamp { seconds: time.as_secs().cast_signed(), nanos: time.subsec_nanos().cast_signed() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_a_function_says_so_and_lets_the_next_one_run() {
    let world = World::start().await;
    let unused = Event { template: UNUSED.to_owned(), ..event("c", "unused") };
    assert!(world.replica.publish_all(vec![unused, event("c", "last")]).await.iter().all(Result::is_ok));
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    let delivery = world.replica.reaches("unused", DeliveryState::NoFunction).await;
    assert_eq!(delivery.reason, "NO_FUNCTION");
    assert!(delivery.reason_message.contains("accounts/acme/functions/chat.unused"), "{delivery:?}");
    assert!(delivery.attempts.is_empty() && world.invoker.runs_of("unused").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_comes_too_late_never_runs() {
    let world = World::start().await;
    let late = Event { deliver_by: Some(Timestamp { seconds: 1, nanos: 0 }), ..event("c", "late") };
    let timely = Event { deliver_by: from_now(Duration::from_secs(600)), ..event("c", "timely") };
    assert!(world.replica.publish_all(vec![late, timely]).await.iter().all(Result::is_ok));
    let timely = world.replica.reaches("timely", DeliveryState::Succeeded).await;
    assert!(timely.deliver_by.is_some());
    let late = world.replica.reaches("late", DeliveryState::Expired).await;
    assert_eq!(late.reason, "DELIVER_BY_PASSED");
    assert!(late.attempts.is_empty() && world.invoker.runs_of("late").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_attempt_is_planned_after_deliver_by() {
    let mut settings = settings(20);
    settings.retry.initial_backoff = Duration::from_secs(600);
    settings.retry.max_backoff = Duration::from_secs(600);
    let world = World::start_with(settings, |_| {}).await;
    world.invoker.script("e", [Answer::Throws]);
    let sent = Event { deliver_by: from_now(Duration::from_secs(120)), ..event("c", "e") };
    world.replica.publish(sent).await.unwrap();
    let delivery = world.replica.reaches("e", DeliveryState::Expired).await;
    assert_eq!((delivery.reason.as_str(), delivery.attempts.len()), ("DELIVER_BY_PASSED", 1));
    world.replica.publish(event("c", "last")).await.unwrap();
    world.replica.reaches("last", DeliveryState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_expires_while_it_waits_behind_another() {
    let world = World::start().await;
    let release = tokio_util::sync::CancellationToken::new();
    world.invoker.script("first", [Answer::ReturnsAfter(release.clone())]);
    world.replica.publish(event("c", "first")).await.unwrap();
    world.invoker.started("first", 1).await;
    let deliver_by = SystemTime::now() + Duration::from_millis(300);
    let sent = Event { deliver_by: from_now(Duration::from_millis(300)), ..event("c", "second") };
    world.replica.publish(sent).await.unwrap();
    crate::harness::eventually(async || SystemTime::now() > deliver_by).await;
    release.cancel();
    world.replica.reaches("second", DeliveryState::Expired).await;
    assert!(world.invoker.runs_of("second").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_run_is_tried_again_with_the_same_key() {
    let world = World::start().await;
    world.invoker.script("e", [Answer::Throws, Answer::Throws]);
    world.replica.publish(event("c", "e")).await.unwrap();
    let delivery = world.replica.reaches("e", DeliveryState::Succeeded).await;
    assert!(delivery.next_attempt_time.is_none());
    let numbers: Vec<u32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    for (index, attempt) in delivery.attempts.iter().enumerate() {
        let failed = matches!(attempt.report.as_ref().unwrap().outcome, Some(Outcome::Failure(_)));
        assert_eq!(failed, index < 2, "{attempt:?}");
    }
    let runs = world.invoker.runs();
    assert_eq!(runs.iter().map(|run| run.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(runs.iter().all(|run| run.idempotency_key == runs[0].idempotency_key), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_always_fails_is_a_dead_letter_after_its_last_attempt() {
    let world = World::start_with(settings(4), |_| {}).await;
    world.invoker.script("e", vec![Answer::Throws; 10]);
    world.replica.publish(event("c", "e")).await.unwrap();
    let delivery = world.replica.reaches("e", DeliveryState::DeadLettered).await;
    assert_eq!((delivery.reason.as_str(), delivery.attempts.len()), ("LAMBDA_FAILED", 4));
    assert!(delivery.reason_message.contains("as the test says"), "{delivery:?}");
    world.replica.publish(event("c", "last")).await.unwrap();
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("e").len(), 4);
}
