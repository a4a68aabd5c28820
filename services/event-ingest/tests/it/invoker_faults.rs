//! An invoker that is away, refuses, loses the connection, or is too slow.

use std::time::Duration;

use chatfn_proto::ingest::v1::DeliveryState;
use chatfn_rpc::{ApiError, reasons};

use crate::{
    harness::{World, event, eventually, settings},
    invoker::Answer,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_an_invoker_refuses_uses_up_no_attempt() {
    let world = World::start_with(settings(1), |_| {}).await;
    let refusals = [
        ApiError::unavailable(reasons::DRAINING, "it leaves"),
        ApiError::unavailable(reasons::NO_SNAPSHOT, "it has just come"),
        ApiError::resource_exhausted(reasons::OVERLOADED, "it is busy", Duration::from_millis(1)),
        ApiError::not_found(
            reasons::FUNCTION_NOT_DEPLOYED,
            "function",
            "accounts/acme/functions/chat.message",
        ),
    ];
    world.invoker.script("e", refusals.into_iter().map(Answer::Refuses));
    let batch = vec![event("c", "e"), event("c", "last")];
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    let delivery = world.replica.reaches("e", DeliveryState::Succeeded).await;
    assert_eq!((delivery.attempts.len(), delivery.attempts[0].number), (1, 1), "{delivery:?}");
    let attempts: Vec<u32> = world.invoker.runs_of("e").iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1; 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoker_that_is_away_uses_up_no_attempt() {
    let mut world = World::start_with(settings(1), |_| {}).await;
    world.proxy.down().await;
    let conversations: Vec<String> = (0..5).map(|n| format!("c{n}")).collect();
    for conversation in &conversations {
        world.replica.publish(event(conversation, conversation)).await.unwrap();
    }
    // An attempt is counted before it starts, and again taken back: both happen.
    let pool = world.database.pool().clone();
    let started = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM ingest.attempts").fetch_one(&pool).await.unwrap()
    };
    eventually(async || started().await > 0).await;
    eventually(async || started().await == 0).await;
    for conversation in &conversations {
        assert_eq!(world.replica.delivery(conversation).await.unwrap().state(), DeliveryState::Pending);
    }
    world.proxy.up().await;
    for conversation in &conversations {
        let delivery = world.replica.reaches(conversation, DeliveryState::Succeeded).await;
        let numbers: Vec<u32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, [1], "{delivery:?}");
    }
    assert_eq!(world.invoker.runs().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_during_a_run_counts() {
    let world = World::start_with(settings(2), |_| {}).await;
    world.invoker.script("e", [Answer::Hangs]);
    world.invoker.script("f", [Answer::Hangs, Answer::Hangs]);
    for (id, state, attempts) in [("e", DeliveryState::Succeeded, 2), ("f", DeliveryState::DeadLettered, 2)] {
        world.replica.publish(event("c", id)).await.unwrap();
        world.invoker.started(id, 1).await;
        world.proxy.sever();
        world.invoker.started(id, 2).await;
        if state == DeliveryState::DeadLettered {
            world.proxy.sever();
        }
        let delivery = world.replica.reaches(id, state).await;
        assert_eq!(delivery.attempts.len(), attempts);
        assert_eq!(delivery.attempts[0].platform_error, "INVOKER_CONNECTION_LOST");
        assert!(
            delivery.attempts[0].report.is_none() && !delivery.attempts[0].platform_error_message.is_empty()
        );
        if state == DeliveryState::DeadLettered {
            assert_eq!(delivery.reason, "INVOKER_CONNECTION_LOST");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invoker_that_is_too_slow_counts() {
    let mut settings = settings(2);
    settings.timeout = Duration::from_millis(100);
    let world = World::start_with(settings, |_| {}).await;
    world.invoker.script("e", [Answer::Hangs]);
    world.replica.publish(event("c", "e")).await.unwrap();
    let delivery = world.replica.reaches("e", DeliveryState::Succeeded).await;
    assert_eq!(delivery.attempts.len(), 2, "{delivery:?}");
    assert_eq!(delivery.attempts[0].platform_error, "INVOKER_DEADLINE_EXCEEDED");
    let runs = world.invoker.runs();
    assert!(runs[0].end.unwrap() <= runs[1].start, "the first was over when the second began: {runs:?}");
}
