//! Full queues and publishers in a hurry.

use std::time::Duration;

use chatfn_domain::lane::lane_of;
use chatfn_proto::ingest::v1::{
    Acknowledgement, DeliveryState, Event, PublishEventRequest, event::PayloadKind,
};
use chatfn_rpc::RequestExt as _;
use chatfn_telemetry::{EndpointArgs, Listen, testing::MetricsReader};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tonic::{Code, Request, Status};

use crate::{
    harness::{ACME, PATIENCE, World, event, eventually, patiently, refused, settings},
    obstacle::Obstacle,
};

/// As many events as one account can have in the smallest queue while one is being recorded.
const SHARE: usize = 250;

fn events(ids: std::ops::Range<usize>) -> Vec<Event> {
    ids.map(|n| event("c", &format!("e{n}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once_and_records_nothing() {
    let world = World::start_with(settings(3), |config| {
        config.committers.committers = 1;
        config.committers.queue = 500;
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
    calls.extend((1..SHARE + 7).map(|n| call(format!("e{n}"))));
    let mut refused_ids = Vec::new();
    while refused_ids.len() < 7 {
        let (id, result) = patiently(calls.next()).await.unwrap();
        let report = refused(result, Code::ResourceExhausted, "OVERLOADED");
        assert!(report.retry_after.is_some_and(|pause| pause > Duration::ZERO));
        refused_ids.push(id);
    }
    obstacle.lift().await;
    let mut acknowledged = 0;
    while let Some((_, result)) = patiently(calls.next()).await {
        result.unwrap();
        acknowledged += 1;
    }
    assert_eq!(acknowledged, SHARE, "one was being recorded, and the others had queued");
    for id in refused_ids {
        refused(world.replica.delivery(&id).await, Code::NotFound, "DELIVERY_NOT_FOUND");
        assert!(!world.replica.publish(event("c", &id)).await.unwrap().duplicate);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_account_leaves_room_to_others() {
    const OTHERS: u64 = 200;
    let metrics = MetricsReader::somewhere();
    let world = World::start_with(settings(3), |config| {
        config.endpoint =
            EndpointArgs { telemetry_listen: Some(Listen::At(metrics.address())), ..EndpointArgs::OFF };
        config.committers.committers = 1;
        config.committers.queue = 2_000;
    })
    .await;
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    let mut flood: FuturesUnordered<_> = FuturesUnordered::new();
    flood.push(world.replica.publish_all(events(0..1)));
    tokio::select! {
        () = obstacle.is_met() => {}
        answered = flood.next() => panic!("{answered:?}"),
    }
    // Ten times what the other account publishes, and more than there is room for.
    for n in 0..5 {
        flood.push(world.replica.publish_all(events(1 + n * 490..1 + (n + 1) * 490)));
    }
    // The flood has all that it can get when the first part of it is refused.
    let mut flooded = patiently(flood.next()).await.unwrap();
    assert!(flooded.iter().any(Result::is_err), "{flooded:?}");
    // In the lane of the flood, where sequence numbers tell the order among them.
    let lane = |account: &str, id: &str| lane_of(&account.parse().unwrap(), &id.parse().unwrap());
    let near = (0..).map(|n| format!("c{n}")).find(|id| lane("other", id) == lane(ACME, "c")).unwrap();
    let others = (0..OTHERS).map(|n| Event { account: "other".to_owned(), ..event(&near, &format!("o{n}")) });
    let others = world.replica.publish_all(others.collect()).boxed();
    let queued = async || metrics.value("chatfn_ingest_queue_events").await.unwrap();
    let flood_alone = queued().await;
    let (other, ()) = patiently(async {
        tokio::join!(others, async {
            // Behind the flood, all of which has queued.
            eventually(async || queued().await >= flood_alone + OTHERS).await;
            obstacle.lift().await;
        })
    })
    .await;
    let sequences = |results: &[Result<Acknowledgement, Status>]| {
        results.iter().flatten().map(|ack| ack.sequence).collect::<Vec<_>>()
    };
    assert!(other.iter().all(Result::is_ok), "the other account is refused nothing: {other:?}");
    while let Some(results) = patiently(flood.next()).await {
        flooded.extend(results);
    }
    assert!(sequences(&flooded).len() >= 981, "what was accepted of the flood is recorded");
    // They take turns, byte for byte, and all events are about as large: the last of the others comes after about as many of the
    // flood, not after all that had queued before.
    let last = sequences(&other).into_iter().max().unwrap();
    let before = sequences(&flooded).into_iter().filter(|sequence| *sequence < last).count();
    assert!(before < 400, "{before} events of the flood were recorded before the last of the other account");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_in_queues_refuses_too() {
    let world = World::start_with(settings(3), |config| {
        config.committers.committers = 1;
        config.committers.queue_kib = 25_576;
        config.quotas.kib_per_second = u32::MAX;
    })
    .await;
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    let text = "x".repeat(250 * 1024);
    let large = |ids: std::ops::Range<usize>| {
        let with_text = |event| Event {
            payload_kind: Some(PayloadKind::PayloadJson(format!(r#"{{"text":"{text}"}}"#))),
            ..event
        };
        world.replica.publish_all(events(ids).into_iter().map(with_text).collect())
    };
    // 15 take 3,765 KiB, and the account may have 12,788 KiB.
    let mut calls: FuturesUnordered<_> = (0..4).map(|n| large(n * 15..(n + 1) * 15)).collect();
    let results = patiently(calls.next()).await.unwrap();
    for result in results {
        refused(result, Code::ResourceExhausted, "OVERLOADED");
    }
    obstacle.lift().await;
    while let Some(results) = patiently(calls.next()).await {
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }
    let again = large(100..115).await;
    assert!(again.iter().all(Result::is_ok), "the memory of what was recorded is free again: {again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_over_its_quota_is_refused_and_told_when_to_come_back() {
    let world = World::start_with(settings(3), |config| config.quotas.events_per_second = 1).await;
    let first = world.replica.publish_all(events(0..500)).await;
    assert!(first.iter().all(Result::is_ok), "a quota can be overdrawn once: {first:?}");
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    // Nothing is asked of the store.
    let report =
        refused(world.replica.publish(event("c", "e")).await, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    let pause = report.retry_after.unwrap();
    assert!(pause > PATIENCE && pause <= Duration::from_secs(500), "{pause:?}");
    assert_eq!((report.metadata["account"].as_str(), report.metadata["quota"].as_str()), ("acme", "events"));
    let mixed = [event("c", "e"), Event { account: "other".to_owned(), ..event("c", "e") }];
    let mixed = world.replica.publish_all(mixed.to_vec());
    obstacle.lift().await;
    let mixed = patiently(mixed).await;
    refused(mixed[0].clone(), Code::ResourceExhausted, "QUOTA_EXCEEDED");
    assert!(mixed[1].is_ok(), "one account's quota is no other's: {:?}", mixed[1]);
    refused(world.replica.delivery("e").await, Code::NotFound, "DELIVERY_NOT_FOUND");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_many_accounts_counts_as_one() {
    let world = World::start_with(settings(1), |config| config.rpc.max_calls = 4).await;
    let of_each = (0..100).map(|n| Event { account: format!("a{n}"), ..event("c", "e") });
    let published = world.replica.publish_all(of_each.collect()).await;
    assert!(published.iter().all(Result::is_ok), "{published:?}");
}
