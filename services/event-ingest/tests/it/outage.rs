//! Postgres goes away and comes back.

use std::time::Duration;

use chatfn_pg::{
    migrate::{self, MIGRATIONS, RunOptions},
    private::{Durability, PrivateOptions, PrivatePostgres},
};
use chatfn_proto::ingest::v1::{DeliveryState, Event, event::PayloadKind};
use chatfn_rpc::Shutdown;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::{
    harness::{Replica, World, config, deployments, event, eventually, refused, settings},
    invoker::{Answer, FakeInvoker, assert_in_order},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_is_said_and_survived() {
    let dir = std::env::temp_dir().join(format!("chatfn-ingest-outage-{}", uuid::Uuid::new_v4().simple()));
    let start = async |port| {
        let options = PrivateOptions {
            dir: Some(dir.clone()),
            port,
            durability: Durability::ThrowAway,
            ..PrivateOptions::default()
        };
        PrivatePostgres::start(options).await.unwrap()
    };
    let postgres = start(None).await;
    let (port, url) = (postgres.port(), postgres.url("chatfn"));
    postgres.ensure_database("chatfn").await.unwrap();
    migrate::run(&url, &MIGRATIONS, RunOptions::default()).await.unwrap();

    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    let config = config(&url, address, |config| {
        config.database.acquire_timeout = Duration::from_secs(2);
    });
    let mut replica = Replica::start(config, deployments(&settings(20))).await;
    let release = CancellationToken::new();
    invoker.script("e1", [Answer::ReturnsAfter(release.clone())]);
    let mut acknowledged = Vec::new();
    for n in 0..4 {
        let id = format!("e{n}");
        replica.publish(event("c", &id)).await.unwrap();
        acknowledged.push(id);
    }
    invoker.started("e1", 1).await;
    postgres.stop().await.unwrap();

    let report = refused(replica.publish(event("c", "lost")).await, Code::Unavailable, "STORE_UNAVAILABLE");
    assert!(report.retry_after.is_some());
    let report = refused(replica.delivery("e0").await, Code::Unavailable, "STORE_UNAVAILABLE");
    assert!(report.retry_after.is_some());
    // What comes of it is recorded when the store is back, as the lease is long.
    release.cancel();
    invoker.until(|runs| runs.iter().any(|run| run.event_id == "e1" && run.end.is_some())).await;

    let postgres = start(Some(port)).await;
    eventually(async || replica.publish(event("c", "lost")).await.is_ok()).await;
    eventually(async || replica.delivery("e0").await.is_ok()).await;
    acknowledged.push("lost".to_owned());
    for id in &acknowledged {
        let delivery = replica.reaches(id, DeliveryState::Succeeded).await;
        assert_eq!(delivery.attempts.len(), 1, "{delivery:?}");
    }
    assert_in_order(&invoker.runs(), "c", &acknowledged);
    replica.stop().await;
    postgres.stop().await.unwrap();
    shutdown.force();
    std::fs::remove_dir_all(&dir).unwrap();
}

/// More than one transaction takes, of which the first fails.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_an_event_that_the_store_fails_to_record_is_not_recorded_before_it() {
    let world = World::start().await;
    let pool = world.database.pool();
    for statement in [
        "CREATE TABLE public.failing (event_id text)",
        "INSERT INTO public.failing VALUES ('e0')",
        "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.event_id IN (SELECT event_id FROM public.failing) THEN
                 RAISE 'the disk is full' USING ERRCODE = 'disk_full';
             END IF;
             RETURN NEW;
         END $$",
        "CREATE TRIGGER fail BEFORE INSERT ON ingest.events FOR EACH ROW EXECUTE FUNCTION public.fail()",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
    let ids: Vec<String> = (0..40).map(|n| format!("e{n}")).collect();
    let large = |conversation, id| {
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
        Event { payload_kind: Some(PayloadKind::PayloadJson(payload)), ..event(conversation, id) }
    };
    let mut events: Vec<Event> = ids.iter().map(|id| large("c", id)).collect();
    events.push(large("d", "other"));

    let mut results = world.replica.publish_all(events.clone()).await;
    assert!(!results.pop().unwrap().unwrap().duplicate, "another conversation goes on");
    for result in results {
        refused(result, Code::Unavailable, "STORE_UNAVAILABLE");
    }
    sqlx::query("DELETE FROM public.failing").execute(pool).await.unwrap();
    let duplicates: Vec<bool> =
        world.replica.publish_all(events).await.into_iter().map(|result| result.unwrap().duplicate).collect();
    assert_eq!(duplicates.iter().filter(|it| **it).count(), 1);
    assert!(duplicates[40]);
    world.replica.reaches("e39", DeliveryState::Succeeded).await;
    assert_in_order(&world.invoker.runs(), "c", &ids);
}
