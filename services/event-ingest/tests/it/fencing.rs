//! A replica that has lost a lane and does not know it yet.

use chatfn_domain::lane::lane_of;
use chatfn_proto::ingest::v1::DeliveryState;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{ACME, World, event, eventually, settings},
    invoker::Answer,
    obstacle::is_waiting,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_it_writes_takes_no_effect() {
    let world = World::start().await;
    let lane = lane_of(&ACME.parse().unwrap(), &"c".parse().unwrap());
    let release = CancellationToken::new();
    world.invoker.script("e", [Answer::ReturnsAfter(release.clone())]);
    world.replica.publish(event("c", "e")).await.unwrap();
    world.invoker.started("e", 1).await;
    let pool = world.database.pool();
    let cursor = async || -> i64 {
        sqlx::query_scalar("SELECT cursor FROM ingest.lanes WHERE lane = $1")
            .bind(lane)
            .fetch_one(pool)
            .await
            .unwrap()
    };
    let before = cursor().await;

    // Another replica takes the lane over while the first is about to write the outcome.
    let mut theft = pool.begin().await.unwrap();
    sqlx::query(
        "UPDATE ingest.lanes SET owner = gen_random_uuid(), epoch = epoch + 1, lease_until = now() + interval '1 hour'
         WHERE lane = $1",
    )
    .bind(lane)
    .execute(&mut *theft)
    .await
    .unwrap();
    release.cancel();
    eventually(|| is_waiting(pool, "journal")).await;
    theft.commit().await.unwrap();

    // Every lane's records go through few writers, so that later ones show that the first was tried.
    for n in 0..64 {
        let id = format!("other{n}");
        if lane_of(&ACME.parse().unwrap(), &id.parse().unwrap()) != lane {
            world.replica.publish(event(&id, &id)).await.unwrap();
            world.replica.reaches(&id, DeliveryState::Succeeded).await;
        }
    }
    let delivery = world.replica.delivery("e").await.unwrap();
    assert_eq!(delivery.state(), DeliveryState::Pending, "{delivery:?}");
    assert!(delivery.attempts[0].report.is_none(), "{delivery:?}");
    assert_eq!(cursor().await, before);

    // The thief dies; the first attempt counts.
    sqlx::query("UPDATE ingest.lanes SET owner = NULL, lease_until = NULL WHERE lane = $1")
        .bind(lane)
        .execute(pool)
        .await
        .unwrap();
    let delivery = world.replica.reaches("e", DeliveryState::Succeeded).await;
    let errors: Vec<&str> = delivery.attempts.iter().map(|attempt| attempt.platform_error.as_str()).collect();
    assert_eq!(errors, ["INGEST_DIED", ""]);
    assert_eq!(world.invoker.runs_of("e").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_from_before_the_clock_was_set_back_does_not_last() {
    let world = World::start().await;
    let pool = world.database.pool();
    let owned = "SELECT count(*) FROM ingest.lanes WHERE owner IS NOT NULL";
    let number = async |statement: &'static str| -> i64 {
        sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
    };
    eventually(async || number(owned).await == 64).await;
    let epochs = "SELECT sum(epoch)::bigint FROM ingest.lanes";
    let before = number(epochs).await;
    sqlx::query("UPDATE ingest.lanes SET lease_until = now() + interval '1 hour'")
        .execute(pool)
        .await
        .unwrap();
    let long = "SELECT count(*) FROM ingest.lanes WHERE lease_until > now() + interval '10 minutes'";
    eventually(async || number(long).await == 0).await;
    assert_eq!((number(owned).await, number(epochs).await), (64, before), "they stay where they are");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ends_every_process_is_a_dead_letter_after_its_attempts() {
    let world = World::start_with(settings(3), |_| {}).await;
    let lane = lane_of(&ACME.parse().unwrap(), &"c".parse().unwrap());
    world.invoker.script("poison", vec![Answer::Hangs; 10]);
    let batch = vec![event("c", "poison"), event("c", "next")];
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    for attempt in 1..=3 {
        world.invoker.started("poison", attempt).await;
        // As if its process had died: the lane falls free, and nothing of the run is recorded.
        sqlx::query("UPDATE ingest.lanes SET owner = NULL, lease_until = NULL WHERE lane = $1")
            .bind(lane)
            .execute(world.database.pool())
            .await
            .unwrap();
    }
    let poison = world.replica.reaches("poison", DeliveryState::DeadLettered).await;
    let errors: Vec<&str> = poison.attempts.iter().map(|attempt| attempt.platform_error.as_str()).collect();
    assert_eq!((errors, poison.reason.as_str()), (vec!["INGEST_DIED"; 3], "INGEST_DIED"));
    world.replica.reaches("next", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("poison").len(), 3);
}
