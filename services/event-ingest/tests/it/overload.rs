//! Full queues and publishers in a hurry.

use std::time::Duration;

use chatfn_proto::ingest::v1::{DeliveryState, PublishEventRequest};
use chatfn_rpc::RequestExt as _;
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tonic::{Code, Request};

use crate::{
    harness::{World, event, patiently, refused, settings},
    obstacle::Obstacle,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_records_nothing() {
    let world = World::start_with(settings(3), |config| {
        config.committers.committers = 1;
        config.committers.queue = 2;
    })
    .await;
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    let mut calls: FuturesUnordered<_> = FuturesUnordered::new();
    let call = |id: String| world.replica.publish(event("c", &id)).map(|result| (id, result)).boxed();
    calls.push(call("e0".to_owned()));
    tokio::select! {
        () = obstacle.is_met() => {}
        answered = calls.next() => panic!("{answered:?}"),
    }
    calls.extend((1..10).map(|n| call(format!("e{n}"))));
    let mut refusals = Vec::new();
    while refusals.len() < 7 {
        let (id, result) = patiently(calls.next()).await.unwrap();
        let report = refused(result, Code::ResourceExhausted, "OVERLOADED");
        assert!(report.retry_after.is_some_and(|pause| pause > Duration::ZERO));
        refusals.push(id);
    }
    obstacle.lift().await;
    let mut acknowledged = 0;
    while let Some((id, result)) = patiently(calls.next()).await {
        result.unwrap();
        world.replica.reaches(&id, DeliveryState::Succeeded).await;
        acknowledged += 1;
    }
    assert_eq!(acknowledged, 3, "one was being recorded, and two had queued");
    for id in refusals {
        refused(world.replica.delivery(&id).await, Code::NotFound, "DELIVERY_NOT_FOUND");
        assert!(!world.replica.publish(event("c", &id)).await.unwrap().duplicate);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_in_queues_refuses_too() {
    let world = World::start_with(settings(3), |config| {
        config.committers.committers = 1;
        config.committers.queue_kib = 3;
    })
    .await;
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    // One KiB each, as they are rounded up.
    let results = world.replica.publish_all((0..4).map(|n| event("c", &format!("e{n}"))).collect());
    for result in patiently(results).await {
        refused(result, Code::ResourceExhausted, "OVERLOADED");
    }
    obstacle.lift().await;
    let fits = world.replica.publish_all((0..3).map(|n| event("c", &format!("e{n}"))).collect()).await;
    assert!(fits.iter().all(Result::is_ok), "{fits:?}");
    let again = world.replica.publish_all((3..6).map(|n| event("c", &format!("e{n}"))).collect()).await;
    assert!(again.iter().all(Result::is_ok), "the memory of what was recorded is free again: {again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_callers_time_is_up_is_not_recorded_or_found_again() {
    let world = World::start_with(settings(3), |config| config.committers.committers = 1).await;
    // Connected, and the functions of Postgres' own are known: what follows is only as slow as it must be.
    world.replica.publish(event("c", "warm")).await.unwrap();
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    let hurried = |id: &str| {
        let request = Request::new(PublishEventRequest { event: Some(event("c", id)) });
        world.replica.publish_request(request.with_timeout(Duration::from_secs(1)))
    };
    let (committing, queued) = tokio::join!(hurried("committing"), async {
        obstacle.is_met().await;
        hurried("queued").await
    });
    refused(committing, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    refused(queued, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    obstacle.lift().await;
    // Queues behind both.
    world.replica.publish(event("c", "last")).await.unwrap();
    refused(world.replica.delivery("queued").await, Code::NotFound, "DELIVERY_NOT_FOUND");
    assert!(!world.replica.publish(event("c", "queued")).await.unwrap().duplicate);
    assert!(world.replica.publish(event("c", "committing")).await.unwrap().duplicate);
    world.replica.reaches("queued", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("committing").len(), 1);
}
