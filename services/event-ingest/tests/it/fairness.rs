//! Accounts of which more is to run than may.

use std::{
    cell::Cell,
    time::{Duration, Instant, SystemTime},
};

use chatfn_domain::lane::lane_of;
use chatfn_proto::ingest::v1::{DeliveryState, Event};
use chatfn_telemetry::{EndpointArgs, Listen, testing::MetricsReader};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{ACME, BYSTANDER, World, event, eventually, patiently, settings},
    invoker::{Answer, Run},
    ledger::{all, reconcile},
};

/// Names of conversations of an account, all in the lane of those of others, which comes to them one after the other.
fn of_one_lane(account: &str, count: usize) -> Vec<String> {
    let lane = |id: &str| lane_of(&account.parse().unwrap(), &id.parse().unwrap());
    (0..).map(|n| format!("{account}-{n}")).filter(|id| lane(id) == 0).take(count).collect()
}

/// Publishes an event for each of these conversations, named as they are.
async fn publish(world: &World, account: &str, ids: &[String]) {
    for ids in ids.chunks(400) {
        let events = ids.iter().map(|id| Event { account: account.to_owned(), ..event(id, id) });
        for result in patiently(world.replica.publish_all(events.collect())).await {
            result.unwrap();
        }
    }
}

/// More than the lane keeps in memory, and more than it keeps places for.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_whose_runs_hang_makes_no_other_wait() {
    const RUNS: usize = 8;
    let world = World::start_with(settings(3), |config| config.dispatch.max_runs = RUNS).await;
    let release = CancellationToken::new();
    let hanging = of_one_lane(ACME, 1_200);
    for id in &hanging {
        world.invoker.script(id, [Answer::ReturnsAfter(release.clone())]);
    }
    publish(&world, ACME, &hanging).await;
    let others = of_one_lane(BYSTANDER, 50);
    publish(&world, BYSTANDER, &others).await;
    let has_ended =
        |account: &'static str| move |run: &&Run| run.end.is_some() && run.event_id.starts_with(account);
    world.invoker.until(|runs| runs.iter().filter(has_ended(BYSTANDER)).count() == others.len()).await;
    let hang = world.invoker.runs().iter().filter(|run| run.end.is_none()).count();
    assert_eq!(hang, 6, "of what hangs, it runs as much as leaves room");
    release.cancel();
    world.invoker.until(|runs| runs.iter().filter(has_ended(ACME)).count() == hanging.len()).await;
    eventually(async || {
        let ledger = reconcile(&world, all()).await;
        let succeeded = ledger.counts.iter().filter(|it| it.state() == DeliveryState::Succeeded);
        succeeded.map(|it| it.count).sum::<i64>() == 1_200
    })
    .await;
    assert_eq!(world.invoker.runs().len(), hanging.len() + others.len(), "each ran once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_invoker_does_not_take_counts_as_unstarted() {
    let metrics = MetricsReader::somewhere();
    let world = World::start_with(settings(3), |config| {
        config.endpoint =
            EndpointArgs { telemetry_listen: Some(Listen::At(metrics.address())), ..EndpointArgs::OFF };
    })
    .await;
    let oldest = async || metrics.value("chatfn_ingest_oldest_unstarted_seconds").await.unwrap();
    world.invoker.take(0);
    publish(&world, ACME, &of_one_lane(ACME, 1)).await;
    eventually(async || oldest().await >= 1).await;
    // Also while none of them is just being tried. What takes longer than a second to be refused is taken for a run: a machine that is so
    // slow begins anew.
    let since = Cell::new(world.invoker.refused());
    eventually(async || {
        if oldest().await == 0 {
            since.set(world.invoker.refused());
        }
        world.invoker.refused() > since.get() + 3
    })
    .await;
    world.invoker.take(usize::MAX);
    eventually(async || oldest().await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_expires_while_it_waits_for_leave_to_run() {
    let world = World::start_with(settings(3), |config| config.dispatch.max_runs = 1).await;
    world.invoker.script("hangs", [Answer::Hangs]);
    world.replica.publish(event("hangs", "hangs")).await.unwrap();
    world.invoker.started("hangs", 1).await;
    let in_a_second = SystemTime::now() + Duration::from_secs(1);
    let late = Event { deliver_by: Some(in_a_second.into()), ..event("late", "late") };
    world.replica.publish(late).await.unwrap();
    world.replica.reaches("late", DeliveryState::Expired).await;
    assert!(world.invoker.runs().iter().all(|run| run.end.is_none()), "nothing else has ended");
    assert!(world.invoker.runs_of("late").is_empty());
}

/// Each start is durable before the invoker is asked: asking in vain would cost the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_account_is_not_started_in_vain() {
    const RUNS: usize = 8;
    let world = World::start_with(settings(3), |config| config.dispatch.max_runs = RUNS).await;
    world.invoker.take(2);
    let ids = of_one_lane(ACME, 100);
    let release = CancellationToken::new();
    for id in &ids {
        world.invoker.script(id, [Answer::ReturnsAfter(release.clone())]);
    }
    let start = Instant::now();
    publish(&world, ACME, &ids).await;
    eventually(async || world.invoker.refused() >= RUNS + 2).await;
    // As many as may be asked for before the first refusal, and then one every 200 ms.
    let refused = world.invoker.refused();
    let most = RUNS as u128 + start.elapsed().as_millis() / 200;
    assert!(refused as u128 <= most, "{refused} were refused, {most} at most should be");
    release.cancel();
    for id in &ids {
        assert_eq!(world.replica.reaches(id, DeliveryState::Succeeded).await.attempts.len(), 1);
    }
}
