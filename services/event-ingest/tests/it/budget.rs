//! How long a run may take.

use std::time::{Duration, SystemTime};

use chatfn_proto::ingest::v1::{DeliveryState, Event};
use prost_types::Timestamp;

use crate::{
    harness::{World, event, settings},
    invoker::Answer,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gets_its_functions_time_and_little_more_whatever_the_lease() {
    for lease_ttl in [Duration::from_secs(1), Duration::from_secs(60)] {
        let mut settings = settings(3);
        settings.timeout = Duration::from_secs(10);
        let world = World::start_with(settings, |config| config.dispatch.lease_ttl = lease_ttl).await;
        world.replica.publish(event("c", "e")).await.unwrap();
        world.replica.reaches("e", DeliveryState::Succeeded).await;
        let budget = world.invoker.runs()[0].budget;
        // Less by what a slow machine takes on the way; but not what the lease has.
        let allowed = Duration::from_secs(5)..=Duration::from_millis(11_750);
        assert!(allowed.contains(&budget), "{budget:?} with leases of {lease_ttl:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_at_deliver_by() {
    let mut settings = settings(20);
    // No other attempt fits in what is left.
    settings.retry.initial_backoff = Duration::from_secs(600);
    settings.retry.max_backoff = settings.retry.initial_backoff;
    let world = World::start_with(settings, |_| {}).await;
    let time = (SystemTime::now() + Duration::from_secs(2)).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let deliver_by =
        Timestamp { seconds: time.as_secs().cast_signed(), nanos: time.subsec_nanos().cast_signed() };
    world.invoker.script("e", [Answer::Hangs]);
    world.replica.publish(Event { deliver_by: Some(deliver_by), ..event("c", "e") }).await.unwrap();
    let delivery = world.replica.reaches("e", DeliveryState::Expired).await;
    for run in world.invoker.runs() {
        assert!(run.budget <= Duration::from_secs(2), "{run:?}");
    }
    assert!(delivery.attempts.len() <= 1, "{delivery:?}");
}
