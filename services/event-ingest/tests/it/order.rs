//! Order within a conversation, and none between conversations.

use chatfn_domain::lane::lane_of;
use chatfn_proto::ingest::v1::{DeliveryState, Event, event::PayloadKind};
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{ACME, Replica, World, event, settings},
    invoker::{Answer, assert_in_order},
};

/// Conversations that share a lane.
fn neighbours(count: usize) -> Vec<String> {
    let lane = |id: &String| lane_of(&ACME.parse().unwrap(), &id.parse().unwrap());
    (0..).map(|n| format!("c{n}")).filter(|id| lane(id) == 0).take(count).collect()
}

/// An event of which a lane keeps a few in memory.
fn large_event(conversation: &str, id: &str) -> Event {
    let text = "x".repeat(200 * 1024);
    let payload = format!("{{\"text\":\"{text}\"}}");
    Event { payload_kind: Some(PayloadKind::PayloadJson(payload)), ..event(conversation, id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_run_in_the_order_of_their_acknowledgements() {
    let world = World::start().await;
    let other = Replica::start(world.config(|_| {}), world.deployments()).await;
    // Several publishers write to each of the conversations, of which some share a lane.
    let mut conversations = neighbours(3);
    conversations.extend((0..3).map(|n| format!("other{n}")));
    let mut publishers = Vec::new();
    for conversation in &conversations {
        for publisher in 0..4 {
            let replica = if publisher % 2 == 0 { &world.replica } else { &other };
            for n in (0..8).step_by(3) {
                world
                    .invoker
                    .script(&format!("{conversation}-{publisher}-{n}"), [Answer::Throws, Answer::Throws]);
            }
            publishers.push(async move {
                let mut acknowledged = Vec::new();
                for n in (0..8).step_by(2) {
                    let id = |n| format!("{conversation}-{publisher}-{n}");
                    let batch = vec![event(conversation, &id(n)), event(conversation, &id(n + 1))];
                    for (offset, result) in replica.publish_all(batch).await.into_iter().enumerate() {
                        acknowledged.push((result.unwrap().sequence, id(n + offset)));
                    }
                }
                assert!(
                    acknowledged.is_sorted(),
                    "one publisher's events keep their order: {acknowledged:?}"
                );
                (conversation.clone(), acknowledged)
            });
        }
    }
    let acknowledged = join_all(publishers).await;
    for conversation in &conversations {
        let mut expected: Vec<(i64, String)> = acknowledged
            .iter()
            .filter(|(of, _)| of == conversation)
            .flat_map(|(_, events)| events.clone())
            .collect();
        expected.sort();
        assert!(expected.windows(2).all(|pair| pair[0].0 < pair[1].0), "numbers rise: {expected:?}");
        let expected: Vec<String> = expected.into_iter().map(|(_, id)| id).collect();
        assert_eq!(expected.len(), 32);
        world.replica.reaches(expected.last().unwrap(), DeliveryState::Succeeded).await;
        assert_in_order(&world.invoker.runs(), conversation, &expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_runs_or_waits_holds_up_no_other() {
    let mut settings = settings(3);
    settings.retry.initial_backoff = std::time::Duration::from_secs(600);
    settings.retry.max_backoff = settings.retry.initial_backoff;
    let world = World::start_with(settings, |_| {}).await;
    let ids = neighbours(4);
    let release = CancellationToken::new();
    world.invoker.script("waits", [Answer::Throws]);
    world.invoker.script("runs", [Answer::ReturnsAfter(release.clone())]);
    let batch = vec![
        event(&ids[0], "waits"),
        event(&ids[0], "after-waits"),
        event(&ids[1], "runs"),
        event(&ids[1], "after-runs"),
    ];
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    world.invoker.started("runs", 1).await;
    let waits = world.replica.reaches("waits", DeliveryState::Retrying).await;
    assert!(waits.next_attempt_time.is_some() && waits.attempts.len() == 1);
    for n in 0..40 {
        world.replica.publish(event(&ids[2 + n % 2], &format!("free{n}"))).await.unwrap();
    }
    for n in 0..40 {
        world.replica.reaches(&format!("free{n}"), DeliveryState::Succeeded).await;
    }
    for id in ["runs", "after-runs", "after-waits"] {
        assert_eq!(world.replica.delivery(id).await.unwrap().state(), DeliveryState::Pending, "{id}");
    }
    release.cancel();
    world.replica.reaches("after-runs", DeliveryState::Succeeded).await;
    assert!(world.invoker.runs_of("after-waits").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_conversation_of_large_events_holds_up_no_other() {
    let world = World::start().await;
    let conversations = neighbours(2);
    let ids: Vec<String> = (0..10).map(|n| format!("e{n}")).collect();
    let release = CancellationToken::new();
    world.invoker.script(&ids[0], [Answer::ReturnsAfter(release.clone())]);
    world.replica.publish(large_event(&conversations[0], &ids[0])).await.unwrap();
    world.invoker.started(&ids[0], 1).await;
    for id in &ids[1..] {
        world.replica.publish(large_event(&conversations[0], id)).await.unwrap();
    }
    // It is read, and read again for its second attempt.
    world.invoker.script("other", [Answer::Throws]);
    world.replica.publish(event(&conversations[1], "other")).await.unwrap();
    world.replica.reaches("other", DeliveryState::Succeeded).await;
    assert_eq!(world.replica.delivery(&ids[0]).await.unwrap().state(), DeliveryState::Pending);
    release.cancel();
    world.replica.reaches(&ids[9], DeliveryState::Succeeded).await;
    assert_in_order(&world.invoker.runs(), &conversations[0], &ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_conversation_is_read_on_in_order() {
    let world = World::start().await;
    // Far more than is kept in memory for one conversation.
    let ids: Vec<String> = (0..100).map(|n| format!("e{n:03}")).collect();
    let release = CancellationToken::new();
    world.invoker.script(&ids[0], [Answer::ReturnsAfter(release.clone())]);
    world.invoker.script(&ids[50], [Answer::Throws]);
    world.replica.publish(event("c", &ids[0])).await.unwrap();
    world.invoker.started(&ids[0], 1).await;
    let rest = ids[1..].iter().map(|id| event("c", id)).collect();
    assert!(world.replica.publish_all(rest).await.iter().all(Result::is_ok));
    release.cancel();
    world.replica.reaches(&ids[99], DeliveryState::Succeeded).await;
    assert_in_order(&world.invoker.runs(), "c", &ids);
    assert_eq!(world.invoker.runs().len(), 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_are_read_a_few_at_a_time_and_all_of_them() {
    let world = World::start().await;
    // More than a lane keeps in memory, and more than is read at once in a conversation.
    let release = CancellationToken::new();
    let conversations = neighbours(2);
    for conversation in &conversations {
        world.invoker.script(&format!("{conversation}-0"), [Answer::ReturnsAfter(release.clone())]);
        // Drops what is in memory, so that the rest is read on.
        world.invoker.script(&format!("{conversation}-1"), [Answer::Throws]);
    }
    for n in 0..12 {
        for conversation in &conversations {
            let sent = large_event(conversation, &format!("{conversation}-{n}"));
            world.replica.publish(sent).await.unwrap();
        }
    }
    world.invoker.until(|runs| runs.len() == 2).await;
    release.cancel();
    for conversation in &conversations {
        let ids: Vec<String> = (0..12).map(|n| format!("{conversation}-{n}")).collect();
        world.replica.reaches(&ids[11], DeliveryState::Succeeded).await;
        assert_in_order(&world.invoker.runs(), conversation, &ids);
    }
}
