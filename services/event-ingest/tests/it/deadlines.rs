//! Callers of the read side whose time is up.

use std::time::Duration;

use chatfn_proto::ingest::v1::{DeliveryState, GetDeliveryRequest};
use chatfn_rpc::{RequestExt as _, reasons};
use tonic::{Code, Request};

use crate::{
    harness::{ACME, PATIENCE, World, event, eventually, patiently, refused, settings},
    obstacle::is_waiting,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_with_the_call_that_waits_for_it() {
    let world = World::start_with(settings(3), |config| {
        config.database.application_name = "test-serve".to_owned();
        // Only the call's own time ends its statement while the test waits.
        config.database.statement_timeout = 10 * PATIENCE;
        config.database.lock_timeout = 10 * PATIENCE;
    })
    .await;
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    let pool = world.database.pool();
    let mut transaction = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE ingest.events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    let request = Request::new(GetDeliveryRequest { name: format!("accounts/{ACME}/deliveries/e") });
    // Enough to run into the lock on a slow machine.
    let request = request.with_timeout(Duration::from_secs(4));
    let mut deliveries = world.replica.deliveries();
    let delivery = tokio::spawn(async move { deliveries.get_delivery(request).await });
    eventually(|| is_waiting(pool, "serve")).await;
    let delivery = patiently(delivery).await.unwrap();
    refused(delivery, Code::DeadlineExceeded, reasons::DEADLINE_EXCEEDED.name());
    eventually(async || !is_waiting(pool, "serve").await).await;
    transaction.rollback().await.unwrap();
    world.replica.delivery("e").await.unwrap();
}
