//! What services of any release must do on the schema of this one: `make test-upgrade` runs this with the binaries of an
//! earlier release, so it asks for nothing that is new.

use chatfn_proto::ingest::v1::DeliveryState;
use chatfn_tests::{
    api::{Api, event, result, settings},
    cluster::Cluster,
};

const TEMPLATE: &str = "chat.participants_change";

#[tokio::test]
async fn services_of_an_earlier_release_work_on_this_schema() {
    let mut cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    api.deploy(TEMPLATE, "async function lambda() { return 'one' }", settings("127.0.0.1", 2)).await;
    assert_eq!(result(&api.run(TEMPLATE, "e-1").await), "one");
    assert!(api.publish(event(TEMPLATE, "e-1", "e-1")).await.unwrap().duplicate);
    api.update(
        TEMPLATE,
        "async function lambda(_, context) { if (context.attempt < 2) throw 1; return 'two' }",
    )
    .await;
    api.redeploy(TEMPLATE).await.unwrap();
    let delivery = api.run(TEMPLATE, "e-2").await;
    assert_eq!((delivery.state(), delivery.attempts.len()), (DeliveryState::Succeeded, 2));
    assert_eq!(api.run("chat.end", "e-3").await.state(), DeliveryState::NoFunction);
    let first = api.run_in("chat.start", "s-1", "c-1").await;
    assert_eq!(first.state(), DeliveryState::NoFunction);
    assert_eq!(api.run_in("chat.start", "s-2", "c-1").await.state(), DeliveryState::Suppressed);

    // They find what they wrote when they start again.
    cluster.registry.stop().await;
    cluster.event_ingest.stop().await;
    cluster.registry.start();
    cluster.event_ingest.start();
    cluster.event_ingest.serving().await;
    assert_eq!(api.delivery("e-2").await.state(), DeliveryState::Succeeded);
    assert_eq!(result(&api.run(TEMPLATE, "e-4").await), "two");
}
