//! Templates that fire once per conversation.

use chatfn_proto::ingest::v1::{DeliveryState, Event};
use futures_util::future::join_all;

use crate::harness::{Replica, START, World, event};

fn start(conversation_id: &str, event_id: &str) -> Event {
    Event { template: START.to_owned(), ..event(conversation_id, event_id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_of_many_concurrent_signals_fires() {
    let world = World::start().await;
    let other = Replica::start(world.config(|_| {}), world.deployments()).await;
    let ids: Vec<String> = (0..32).map(|n| format!("e{n}")).collect();
    let publish = ids.iter().enumerate().map(|(n, id)| {
        let replica = if n % 2 == 0 { &world.replica } else { &other };
        replica.publish(start("c", id))
    });
    for result in join_all(publish).await {
        assert!(!result.unwrap().duplicate);
    }
    world.replica.publish(event("c", "last")).await.unwrap();
    world.replica.reaches("last", DeliveryState::Succeeded).await;

    let deliveries = join_all(ids.iter().map(|id| world.replica.delivery(id))).await;
    let deliveries: Vec<_> = deliveries.into_iter().map(Result::unwrap).collect();
    let fired: Vec<_> = deliveries.iter().filter(|it| it.state() == DeliveryState::Succeeded).collect();
    assert_eq!(fired.len(), 1, "{fired:?}");
    let first = deliveries.iter().map(|delivery| delivery.sequence).min();
    assert_eq!(Some(fired[0].sequence), first, "the first of them fires");
    for delivery in deliveries.iter().filter(|delivery| delivery.name != fired[0].name) {
        assert_eq!(delivery.state(), DeliveryState::Suppressed);
        assert_eq!(delivery.reason, "ALREADY_FIRED");
        assert!(delivery.reason_message.contains(&format!("event {} ", fired[0].event_id)), "{delivery:?}");
        assert!(delivery.attempts.is_empty() && delivery.finish_time.is_some());
    }
    let ran: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert_eq!(ran, [fired[0].event_id.as_str(), "last"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_signal_is_a_duplicate_and_stays_what_it_was() {
    let world = World::start().await;
    let batch =
        vec![start("c", "first"), start("c", "second"), start("d", "elsewhere"), event("c", "message")];
    assert!(world.replica.publish_all(batch).await.iter().all(Result::is_ok));
    for (id, state) in [
        ("first", DeliveryState::Succeeded),
        ("second", DeliveryState::Suppressed),
        ("elsewhere", DeliveryState::Succeeded),
        ("message", DeliveryState::Succeeded),
    ] {
        world.replica.reaches(id, state).await;
    }
    for (id, state) in [("first", DeliveryState::Succeeded), ("second", DeliveryState::Suppressed)] {
        assert!(world.replica.publish(start("c", id)).await.unwrap().duplicate);
        assert_eq!(world.replica.delivery(id).await.unwrap().state(), state);
    }
    world.replica.publish(start("c", "third")).await.unwrap();
    let third = world.replica.reaches("third", DeliveryState::Suppressed).await;
    assert!(third.reason_message.contains("event first "), "{third:?}");
    assert_eq!(world.invoker.runs_of("first").len(), 1);
}
