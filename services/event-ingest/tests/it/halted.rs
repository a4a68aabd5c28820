//! A replica that is halted, or cut off without a word, in the middle of a transaction.

use std::time::Duration;

use chatfn_domain::retry::AfterLastAttempt;
use chatfn_event_ingest::Config;
use chatfn_pg::testing::Proxy;
use chatfn_proto::ingest::v1::{DeliveryState, SkipEventRequest};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{ACME, PATIENCE, Replica, World, event, eventually, patiently, settings},
    invoker::Answer,
    obstacle::Obstacle,
};

/// Longer than a test waits: what its session has locked must not last as long as the setting for all sessions says.
const IDLE: Duration = PATIENCE.saturating_mul(10);

/// A replica beside the world's, which is cut off from the database when its proxy falls silent.
async fn replica_behind(world: &World, adjust: impl FnOnce(&mut Config)) -> (Replica, Proxy) {
    let (proxy, url) = Proxy::before(&world.database).await;
    let config = world.config(|config| {
        config.database.url = url;
        adjust(config);
    });
    (Replica::start(config, world.deployments()).await, proxy)
}

fn with_short_leases(config: &mut Config) {
    config.dispatch.lease_ttl = Duration::from_secs(2);
    config.database.idle_in_transaction_session_timeout = IDLE;
}

/// So that what has died is given up soon.
fn with_short_limits(config: &mut Config) {
    config.database.acquire_timeout = Duration::from_secs(1);
    config.database.statement_timeout = Duration::from_secs(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_no_lane_from_the_publishers_of_others() {
    let world = World::start().await;
    let (other, proxy) = replica_behind(&world, with_short_leases).await;
    other.publish(event("c", "e1")).await.unwrap();
    let obstacle = Obstacle::within_commits(world.database.pool()).await;
    let halted = other.publish(event("c", "e2"));
    tokio::select! {
        () = obstacle.is_met() => {}
        answered = halted => panic!("{answered:?}"),
    }
    proxy.fall_silent();
    obstacle.lift().await;
    // To the lane whose head it had locked: what it had asked for went through without it.
    patiently(world.replica.publish(event("c", "e3"))).await.unwrap();
    assert!(world.replica.publish(event("c", "e2")).await.unwrap().duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_lanes_can_be_taken_over() {
    let mut settings = settings(1);
    settings.retry.after_last_attempt = AfterLastAttempt::Halt;
    settings.timeout = Duration::from_secs(1);
    let mut world = World::start_with(settings, |_| {}).await;
    world.replica.stop().await;
    let (other, proxy) = replica_behind(&world, with_short_leases).await;
    world.invoker.script("e1", [Answer::Throws]);
    other.publish(event("c", "e1")).await.unwrap();
    other.publish(event("c", "e2")).await.unwrap();
    other.reaches("e1", DeliveryState::Halted).await;
    let obstacle = Obstacle::within_interventions(world.database.pool()).await;
    let request = SkipEventRequest { name: format!("accounts/{ACME}/deliveries/e1") };
    other.deliveries().skip_event(request).await.unwrap();
    obstacle.is_met().await;
    proxy.fall_silent();
    obstacle.lift().await;
    // It has locked the lane, and there is more that it was to say.
    let successor = Replica::start(world.config(with_short_leases), world.deployments()).await;
    successor.reaches("e1", DeliveryState::DeadLettered).await;
    successor.reaches("e2", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("e2").len(), 1);
}

/// Longer than it takes to meet an obstacle.
fn with_limits(config: &mut Config) {
    config.database.acquire_timeout = Duration::from_secs(4);
    config.database.statement_timeout = Duration::from_secs(4);
}

/// Publishes events in many lanes, and waits until each has run.
async fn runs_events(replica: &Replica, round: &str) {
    let ids: Vec<String> = (0..16).map(|n| format!("{round}-{n}")).collect();
    let publish = async |id: &String| {
        eventually(async || replica.publish(event(id, id)).await.is_ok()).await;
    };
    join_all(ids.iter().map(publish)).await;
    have_run(replica, &ids).await;
}

/// Waits until each has run: one after another, because sixteen who ask keep the machine too busy to connect anew.
async fn have_run(replica: &Replica, ids: &[String]) {
    for id in ids {
        eventually(async || {
            let delivery = replica.delivery(id).await;
            delivery.is_ok_and(|delivery| delivery.state() == DeliveryState::Succeeded)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_lanes_read_on_over_other_connections() {
    let mut world = World::start().await;
    world.replica.stop().await;
    let (other, proxy) = replica_behind(&world, |config| {
        with_limits(config);
        // All of them die with a read under way.
        config.database.max_connections = 4;
    })
    .await;
    let answer = CancellationToken::new();
    let ids: Vec<String> = (0..16).map(|n| format!("e{n}")).collect();
    for id in &ids {
        world.invoker.script(id, [Answer::ThrowsAfter(answer.clone())]);
        other.publish(event(id, id)).await.unwrap();
        world.invoker.started(id, 1).await;
    }
    let obstacle = Obstacle::before_reads(world.database.pool()).await;
    // Each is read anew for its second attempt.
    answer.cancel();
    obstacle.is_met_by(4).await;
    proxy.deaden();
    obstacle.lift().await;
    have_run(&other, &ids).await;
    runs_events(&other, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_its_lanes_over_other_connections() {
    let mut settings = settings(1);
    // A run must not make a lease longer.
    settings.timeout = Duration::from_secs(1);
    let mut world = World::start_with(settings, |_| {}).await;
    world.replica.stop().await;
    let (other, proxy) = replica_behind(&world, |config| {
        config.dispatch.lease_ttl = Duration::from_secs(10);
        config.database.acquire_timeout = Duration::from_secs(2);
        config.database.statement_timeout = PATIENCE;
    })
    .await;
    eventually(async || world.shares().await == [64]).await;
    runs_events(&other, "before").await;
    let epochs = async || {
        let sum = "SELECT sum(epoch)::bigint FROM ingest.lanes";
        sqlx::query_scalar::<_, i64>(sum).fetch_one(world.database.pool()).await.unwrap()
    };
    let before = epochs().await;
    let polls = Obstacle::before_polls(world.database.pool()).await;
    polls.is_met_by(2).await;
    let renewals = Obstacle::before_renewals(world.database.pool()).await;
    renewals.is_met().await;
    proxy.deaden();
    polls.lift().await;
    renewals.lift().await;
    // Renewed when all that it had asked for until then has ended.
    let deadened: i64 = sqlx::query_scalar("SELECT extract(epoch FROM now())::bigint")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    eventually(async || {
        let all = "SELECT min(extract(epoch FROM lease_until)) > $1 + 20 FROM ingest.lanes";
        sqlx::query_scalar(all).bind(deadened).fetch_one(world.database.pool()).await.unwrap()
    })
    .await;
    assert_eq!(epochs().await, before, "no lane was lost");
    runs_events(&other, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_what_others_record_over_other_connections() {
    let world = World::start().await;
    let (other, proxy) = replica_behind(&world, with_limits).await;
    eventually(async || world.shares().await.len() == 2).await;
    runs_events(&world.replica, "before").await;
    let obstacle = Obstacle::before_polls(world.database.pool()).await;
    // Two of each replica.
    obstacle.is_met_by(4).await;
    proxy.deaden();
    obstacle.lift().await;
    runs_events(&world.replica, "after").await;
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_over_other_connections() {
    let world = World::start().await;
    let (other, proxy) = replica_behind(&world, with_limits).await;
    runs_events(&other, "before").await;
    proxy.deaden();
    // At once: its caller need not try again.
    other.delivery("before-0").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_over_other_connections() {
    let mut world = World::start().await;
    world.replica.stop().await;
    let (other, proxy) = replica_behind(&world, with_short_limits).await;
    // Over many lanes, so that whoever records anything has a connection, before and afterwards.
    let publish = async |round: &str| {
        let ids = (0..16).map(|n| format!("{round}-{n}"));
        let all = ids.map(|id| async {
            let id = id;
            // Clients are told to try again meanwhile.
            eventually(async || other.publish(event(&id, &id)).await.is_ok()).await;
        });
        join_all(all).await;
    };
    // Twice: a pool that goes on counting what has died has spare connections the first time.
    publish("before").await;
    proxy.deaden();
    publish("between").await;
    proxy.deaden();
    publish("after").await;
}
