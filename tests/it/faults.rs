//! What is killed in the middle: every acknowledged event still ends in exactly one outcome.

use chatfn_proto::ingest::v1::DeliveryState;
use chatfn_tests::{
    api::{Api, event, settings},
    cluster::Cluster,
    witness::Witness,
};

/// Calls the witness, which answers when the test lets it.
const WAIT_AT_GATE: &str = r"
async function lambda(input, context) {
  await fetch(`${process.env.WITNESS}/gate/${context.eventId}`, { method: 'POST' });
  return context.attempt;
}";

#[tokio::test]
async fn the_invoker_dies_in_the_middle_of_a_run() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.participants_change", WAIT_AT_GATE, settings(&witness.host, 3)).await;

    api.publish(event("chat.participants_change", "e-1", "c-1")).await.unwrap();
    api.publish(event("chat.participants_change", "e-2", "c-1")).await.unwrap();
    witness.seen(1).await;
    cluster.invoker.kill();
    // An acknowledgement needs no invoker.
    api.publish(event("chat.participants_change", "e-3", "c-1")).await.unwrap();
    witness.open_gate(100);
    cluster.invoker.start();

    for id in ["e-1", "e-2", "e-3"] {
        assert_eq!(api.outcome(id).await.state(), DeliveryState::Succeeded, "{id}");
    }
    let first = api.delivery("e-1").await;
    assert_eq!(first.attempts.len(), 2, "the broken run counts: {first:?}");
    assert!(!first.attempts[0].platform_error.is_empty());
    let calls = witness.calls();
    let paths: Vec<_> = calls.iter().map(|call| call.path.as_str()).collect();
    assert_eq!(paths, ["/gate/e-1", "/gate/e-1", "/gate/e-2", "/gate/e-3"]);
    assert_eq!(calls[0].idempotency_key, calls[1].idempotency_key);
}

#[tokio::test]
async fn the_registry_is_gone_for_a_while() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.participants_change", WAIT_AT_GATE, settings(&witness.host, 1)).await;
    witness.open_gate(100);

    cluster.registry.kill();
    assert_eq!(
        api.run("chat.participants_change", "without-registry").await.state(),
        DeliveryState::Succeeded
    );
    cluster.registry.start();
    cluster.registry.serving().await;
    assert_eq!(api.run("chat.participants_change", "with-registry").await.state(), DeliveryState::Succeeded);
    // Both watchers are back, so that deployments reach them again.
    chatfn_tests::eventually("a deployment reaches both watchers", async || {
        let propagation = api.redeploy("chat.participants_change").await.ok()?.propagation?;
        (propagation.acknowledged == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn event_ingest_dies_in_the_middle_of_a_run() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.participants_change", WAIT_AT_GATE, settings(&witness.host, 3)).await;

    for number in 0..5 {
        api.publish(event("chat.participants_change", &format!("e-{number}"), "c-1")).await.unwrap();
    }
    witness.seen(1).await;
    cluster.event_ingest.kill();
    witness.open_gate(100);
    cluster.event_ingest.start();
    cluster.event_ingest.serving().await;

    for number in 0..5 {
        let delivery = api.outcome(&format!("e-{number}")).await;
        assert_eq!(delivery.state(), DeliveryState::Succeeded);
        assert_eq!(delivery.attempts.len(), if number == 0 { 2 } else { 1 }, "{delivery:?}");
    }
    let mut paths: Vec<_> = witness.calls().into_iter().map(|call| call.path).collect();
    paths.dedup();
    assert_eq!(paths, ["/gate/e-0", "/gate/e-1", "/gate/e-2", "/gate/e-3", "/gate/e-4"]);
}

#[tokio::test]
async fn an_event_that_always_kills_event_ingest_ends_as_a_dead_letter() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.participants_change", WAIT_AT_GATE, settings(&witness.host, 2)).await;

    api.publish(event("chat.participants_change", "poison", "c-1")).await.unwrap();
    for attempt in 1..=2 {
        witness.seen(attempt).await;
        cluster.event_ingest.kill();
        cluster.event_ingest.start();
    }
    cluster.event_ingest.serving().await;
    let delivery = api.outcome("poison").await;
    assert_eq!((delivery.state(), delivery.attempts.len()), (DeliveryState::DeadLettered, 2), "{delivery:?}");
    assert_eq!(witness.calls().len(), 2);
}

#[tokio::test]
async fn a_stop_lets_the_run_finish() {
    let (mut cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.participants_change", WAIT_AT_GATE, settings(&witness.host, 3)).await;

    api.publish(event("chat.participants_change", "e-1", "c-1")).await.unwrap();
    witness.seen(1).await;
    let stop = cluster.event_ingest.stop();
    witness.open_gate(100);
    stop.await;
    cluster.event_ingest.start();
    cluster.event_ingest.serving().await;
    let delivery = api.outcome("e-1").await;
    assert_eq!((delivery.state(), delivery.attempts.len()), (DeliveryState::Succeeded, 1), "{delivery:?}");

    cluster.invoker.stop().await;
    cluster.registry.stop().await;
}
