//! Which failures are tried again, for how long, and how often when much fails.

use std::time::Duration;

use chatfn_domain::retry::RetryOn;
use chatfn_proto::{
    ingest::v1::{DeliveryState, ListDeliveriesRequest},
    invoker::v1::FailureKind,
};

use crate::{
    harness::{ACME, Replica, World, event, eventually, settings},
    invoker::Answer,
};

#[tokio::test(flavor = "multi_thread")]
async fn only_failures_that_the_policy_names_are_tried_again() {
    let mut settings = settings(3);
    settings.retry.retry_on = RetryOn { thrown: false, timeout: true, platform: true };
    let world = World::start_with(settings, |_| {}).await;
    world.invoker.script("throws", [Answer::Throws]);
    world.invoker.script("slow", [Answer::Fails(FailureKind::Timeout)]);
    world.invoker.script("crashes", [Answer::Fails(FailureKind::Crashed), Answer::Throws]);
    for id in ["throws", "slow", "crashes"] {
        world.replica.publish(event(id, id)).await.unwrap();
    }
    let delivery = world.replica.reaches("throws", DeliveryState::DeadLettered).await;
    assert_eq!(delivery.attempts.len(), 1);
    assert!(delivery.reason_message.contains("settings.retry.retry_on"), "{delivery:?}");
    assert_eq!(world.replica.reaches("slow", DeliveryState::Succeeded).await.attempts.len(), 2);
    assert_eq!(world.replica.reaches("crashes", DeliveryState::DeadLettered).await.attempts.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_starts_after_the_functions_max_age() {
    let mut settings = settings(20);
    settings.retry.max_age = Some(Duration::from_secs(3600));
    settings.retry.initial_backoff = Duration::from_secs(600);
    settings.retry.max_backoff = Duration::from_secs(3600);
    let world = World::start_with(settings, |_| {}).await;
    world.invoker.script("young", [Answer::Throws]);
    world.replica.publish(event("c", "young")).await.unwrap();
    world.replica.reaches("young", DeliveryState::Retrying).await;

    // An event that has waited for an hour and a half by now, and one for 55 minutes.
    let release = tokio_util::sync::CancellationToken::new();
    world.invoker.script("first", [Answer::ReturnsAfter(release.clone())]);
    world.invoker.script("aging", [Answer::Throws]);
    world.replica.publish(event("d", "first")).await.unwrap();
    world.invoker.started("first", 1).await;
    let ids = [("old", 90), ("aging", 55)];
    let batch = (0..20).map(|n| event("d", &format!("fill{n}"))).collect();
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    for (id, minutes) in ids {
        // Behind more than is kept in memory, so that it is read when its time is changed.
        world.replica.publish(event("d", id)).await.unwrap();
        sqlx::query("UPDATE ingest.events SET accept_time = accept_time - $1 * interval '1 minute' WHERE event_id = $2")
            .bind(minutes)
            .bind(id)
            .execute(world.database.pool())
            .await
            .unwrap();
    }
    release.cancel();
    let old = world.replica.reaches("old", DeliveryState::Expired).await;
    assert_eq!((old.reason.as_str(), old.attempts.len()), ("MAX_AGE_PASSED", 0));
    let aging = world.replica.reaches("aging", DeliveryState::Expired).await;
    assert_eq!((aging.reason.as_str(), aging.attempts.len()), ("MAX_AGE_PASSED", 1));
}

/// A dependency that is down: every run of every event throws.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_dependency_costs_little_more_than_one_attempt_each_and_nothing_is_lost() {
    let mut world = World::start_with(settings(5), |_| {}).await;
    world.invoker.fail_all(true);
    let ids: Vec<String> = (0..400).map(|n| format!("e{n}")).collect();
    let start = std::time::Instant::now();
    for part in ids.chunks(100) {
        let batch = part.iter().map(|id| event(id, id)).collect();
        assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    }
    world.invoker.until(|runs| runs.iter().filter(|run| run.attempt == 1).count() == 400).await;
    // Those whose retry could not be paid for say so.
    let waiting = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM ingest.parked WHERE reason = 'RETRY_BUDGET_SPENT'")
            .fetch_one(world.database.pool())
            .await
            .unwrap()
    };
    eventually(async || waiting().await > 300).await;
    let request = ListDeliveriesRequest {
        parent: format!("accounts/{ACME}"),
        state: DeliveryState::Retrying.into(),
        ..Default::default()
    };
    let listed = world.replica.deliveries().list_deliveries(request).await.unwrap().into_inner().deliveries;
    assert!(listed.iter().any(|delivery| delivery.reason == "RETRY_BUDGET_SPENT"), "{:?}", listed[0]);
    let retries = world.invoker.runs().iter().filter(|run| run.attempt > 1).count();
    // 0.15 of the first attempts, 10 to begin with, and one every 10 s.
    let most = 60 + 10 + usize::try_from(start.elapsed().as_secs() / 10).unwrap() + 1;
    assert!(retries <= most, "{retries} retries, at most {most}");

    // It is back, in another process by now: all of it runs at last.
    world.invoker.fail_all(false);
    world.replica.stop().await;
    let other = Replica::start(world.config(|_| {}), world.deployments()).await;
    // However long that takes: the budget lets one of them through every ten seconds until others have succeeded.
    for id in &ids {
        loop {
            let state = other.delivery(id).await.unwrap().state();
            if matches!(state, DeliveryState::Succeeded | DeliveryState::DeadLettered) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let outcomes: i64 = sqlx::query_scalar("SELECT count(*) FROM ingest.outcomes")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert_eq!(outcomes, 400);
}
