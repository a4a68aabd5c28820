//! Several replicas on one database, of which some go away.

use std::time::{Duration, Instant};

use chatfn_domain::lane::lane_of;
use chatfn_proto::ingest::v1::{DeliveryState, GetConversationRequest};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{ACME, Replica, World, event, eventually, settings},
    invoker::{Answer, assert_in_order},
};

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_lanes_and_one_that_leaves_hands_its_lanes_on() {
    // A lease that is not given back would last longer than the test waits.
    let ttl = Duration::from_secs(120);
    let world = World::start_with(settings(1), |config| config.dispatch.lease_ttl = ttl).await;
    let mut other =
        Replica::start(world.config(|config| config.dispatch.lease_ttl = ttl), world.deployments()).await;
    eventually(async || world.shares().await == [32, 32]).await;

    // Runs in every lane, and more behind them.
    let release = CancellationToken::new();
    let conversations: Vec<String> = (0..40).map(|n| format!("c{n}")).collect();
    for conversation in &conversations {
        world.invoker.script(&format!("{conversation}-0"), [Answer::ReturnsAfter(release.clone())]);
        let batch = (0..3).map(|n| event(conversation, &format!("{conversation}-{n}"))).collect();
        assert!(other.publish_all(batch).await.iter().all(Result::is_ok));
    }
    world.invoker.until(|runs| runs.len() == 40).await;
    other.shutdown.begin();
    // It waits for its runs, and gives the other lanes up at once.
    eventually(async || world.shares().await.iter().any(|share| *share > 32)).await;
    release.cancel();
    let left = Instant::now();
    other.stop().await;
    assert!(left.elapsed() < ttl / 2, "took {:?}", left.elapsed());
    eventually(async || world.shares().await == [64]).await;
    for conversation in &conversations {
        let ids: Vec<String> = (0..3).map(|n| format!("{conversation}-{n}")).collect();
        for id in &ids {
            let delivery = world.replica.reaches(id, DeliveryState::Succeeded).await;
            assert_eq!(delivery.attempts.len(), 1, "no run was cut off: {delivery:?}");
        }
        assert_in_order(&world.invoker.runs(), conversation, &ids);
    }
    assert_eq!(world.invoker.runs().len(), 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_joins_gets_lanes_in_which_nothing_runs_first() {
    // Runs may last longer.
    let ttl = Duration::from_secs(10);
    let world = World::start_with(settings(1), |config| config.dispatch.lease_ttl = ttl).await;
    let lane = |id: &str| lane_of(&ACME.parse().unwrap(), &id.parse().unwrap());
    let in_lane = |wanted: i16, prefix: &str| {
        (0..).map(|n| format!("{prefix}{n}")).find(|id| lane(id) == wanted).unwrap()
    };
    let release = CancellationToken::new();
    for number in 0..12 {
        let long = in_lane(number, "long");
        world.invoker.script(&long, [Answer::ReturnsAfter(release.clone())]);
        world.replica.publish(event(&long, &long)).await.unwrap();
        world.invoker.started(&long, 1).await;
    }
    let _other =
        Replica::start(world.config(|config| config.dispatch.lease_ttl = ttl), world.deployments()).await;
    eventually(async || world.shares().await == [32, 32]).await;
    // Their neighbours go on.
    for number in 0..12 {
        let next = in_lane(number, "next");
        world.replica.publish(event(&next, &next)).await.unwrap();
        world.replica.reaches(&next, DeliveryState::Succeeded).await;
        let long = world.replica.delivery(&in_lane(number, "long")).await.unwrap();
        assert_eq!(long.state(), DeliveryState::Pending, "none had to wait for it");
    }
    release.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_replica_was_doing_is_taken_up_in_order() {
    let ttl = Duration::from_secs(2);
    let mut settings = settings(20);
    // A lease lasts as long as its runs may.
    settings.timeout = Duration::from_secs(6);
    let world = World::start_with(settings, |config| config.dispatch.lease_ttl = ttl).await;
    // Its own threads, which end in the middle of whatever they do.
    let doomed = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = world.config(|config| config.dispatch.lease_ttl = ttl);
    let other = doomed.spawn(Replica::start(config, world.deployments())).await.unwrap();
    eventually(async || world.shares().await == [32, 32]).await;

    let death = CancellationToken::new();
    let conversations: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    for conversation in &conversations {
        // All have come as far as this when it dies.
        world.invoker.script(&format!("{conversation}-0"), [Answer::Throws]);
        let until_death = Answer::ReturnsAfter(death.clone());
        world.invoker.script(&format!("{conversation}-2"), [until_death, Answer::Throws]);
        let batch = (0..6).map(|n| event(conversation, &format!("{conversation}-{n}"))).collect();
        assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    }
    world.invoker.until(|runs| runs.iter().filter(|run| run.event_id.ends_with("-2")).count() >= 20).await;
    std::mem::forget(other);
    doomed.shutdown_background();
    // Its runs are cut off with it; those of the other go on.
    world.invoker.until(|runs| runs.iter().filter(|run| run.end.is_none()).count() < 20).await;
    death.cancel();
    eventually(async || world.shares().await == [64]).await;

    let mut died = 0;
    for conversation in &conversations {
        let ids: Vec<String> = (0..6).map(|n| format!("{conversation}-{n}")).collect();
        for id in &ids {
            let delivery = world.replica.reaches(id, DeliveryState::Succeeded).await;
            let numbers: Vec<u32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=u32::try_from(numbers.len()).unwrap()).collect::<Vec<_>>());
            died +=
                delivery.attempts.iter().filter(|attempt| attempt.platform_error == "INGEST_DIED").count();
        }
        assert_in_order(&world.invoker.runs(), conversation, &ids);
        let name = format!("accounts/{ACME}/conversations/{conversation}");
        let request = GetConversationRequest { name, ..Default::default() };
        let history = world.replica.deliveries().get_conversation(request).await.unwrap().into_inner();
        assert_eq!(history.deliveries.len(), 6);
    }
    assert!(died > 0, "it died in the middle of runs");
    let outcomes: i64 = sqlx::query_scalar("SELECT count(*) FROM ingest.outcomes")
        .fetch_one(world.database.pool())
        .await
        .unwrap();
    assert_eq!(outcomes, 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_waits_for_its_runs_idles() {
    let mut settings = settings(20);
    settings.retry.initial_backoff = Duration::from_millis(300);
    settings.retry.max_backoff = settings.retry.initial_backoff;
    let mut world = World::start_with(settings, |_| {}).await;
    let lane = |id: &String| lane_of(&ACME.parse().unwrap(), &id.parse().unwrap());
    let ids: Vec<String> = (0..).map(|n| format!("c{n}")).filter(|id| lane(id) == 0).take(2).collect();
    let release = CancellationToken::new();
    world.invoker.script(&ids[0], [Answer::ReturnsAfter(release.clone())]);
    world.invoker.script(&ids[1], vec![Answer::Throws; 20]);
    for id in &ids {
        world.replica.publish(event(id, id)).await.unwrap();
        world.invoker.started(id, 1).await;
    }
    world.replica.shutdown.begin();
    // The other conversation of the lane becomes due, and must not be started any more.
    let is_due = "SELECT count(*) = 1 FROM ingest.parked WHERE next_attempt_time < now()";
    let pool = world.database.pool().clone();
    eventually(async || sqlx::query_scalar(is_due).fetch_one(&pool).await.unwrap()).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let busy =
        || -> Duration { (0..metrics.num_workers()).map(|n| metrics.worker_total_busy_duration(n)).sum() };
    // Not a wait for something, but the time over which is measured.
    let (before, window) = (busy(), Duration::from_secs(1));
    tokio::time::sleep(window).await;
    let worked = busy() - before;
    assert!(worked < window / 2, "worked for {worked:?} of {window:?} with nothing to do");
    release.cancel();
    world.replica.stop().await;
    let open: Vec<i64> = sqlx::query_scalar("SELECT count(*) FROM ingest.attempts WHERE finish_time IS NULL")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(open, [0], "what ran was recorded");
    assert_eq!(world.shares().await, Vec::<i64>::new(), "every lane was given back");
}

/// A claim that is cut off is recorded all the same, and nobody would run its lanes.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_database_is_slow_comes_to_run_lanes() {
    let mut world = World::start().await;
    world.replica.stop().await;
    let pool = world.database.pool();
    for statement in [
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$",
        "CREATE TRIGGER slow BEFORE INSERT ON ingest.replicas FOR EACH STATEMENT EXECUTE FUNCTION public.slow()",
        "CREATE TRIGGER slow BEFORE UPDATE OF owner ON ingest.lanes
             FOR EACH STATEMENT EXECUTE FUNCTION public.slow()",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
    // A statement may take 1.6 s of that.
    let config = world.config(|config| config.dispatch.lease_ttl = Duration::from_secs(6));
    let replica = Replica::start(config, world.deployments()).await;
    replica.publish(event("c", "e")).await.unwrap();
    replica.reaches("e", DeliveryState::Succeeded).await;
    world.replica = replica;
}
