//! Events that happened days ago: whether they were recorded then.

use std::time::{Duration, SystemTime};

use chatfn_pg::{
    migrate::{self, MIGRATIONS, RunOptions},
    testing::TestDatabase,
};
use chatfn_proto::ingest::v1::{DeliveryState, Event, PublishEventRequest};
use prost_types::Timestamp;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tonic::Code;

use crate::{
    harness::{Replica, World, event, eventually, refused},
    obstacle::{Obstacle, is_waiting},
    publisher::Publisher,
    retention::{execute, history_before, today},
};

/// Makes days before today's, each opened at its beginning.
async fn days_before_today(pool: &PgPool, count: i32) {
    let today = "(now() AT TIME ZONE 'UTC')::date";
    let first = format!("UPDATE ingest.days SET day = {today} - {count} - 1 WHERE suffix = 'before'");
    execute(pool, first).await;
    execute(pool, format!("SELECT ingest.prepare_day({today} - n) FROM generate_series(1, {count}) n")).await;
    let opened =
        format!("UPDATE ingest.days SET open_time = day::timestamp AT TIME ZONE 'UTC' WHERE day <= {today}");
    execute(pool, opened).await;
}

/// As if an event had been recorded so many days ago.
async fn recorded_earlier(pool: &PgPool, id: &str, days: i64) {
    let (lane, sequence): (i16, i64) =
        sqlx::query_as("SELECT lane, sequence FROM ingest.events WHERE event_id = $1")
            .bind(id)
            .fetch_one(pool)
            .await
            .unwrap();
    for table in ["attempts", "outcomes", "events"] {
        let moved = format!(
            "UPDATE ingest.{table} SET sequence = sequence - ({days}::bigint << 32) WHERE lane = {lane} AND sequence = {sequence}"
        );
        execute(pool, moved).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_known_as_long_as_its_event_if_that_is_said_to_be_old() {
    let world = today().await;
    let pool = world.database.pool();
    let ago = |days: u64| Some(Timestamp::from(SystemTime::now() - Duration::from_secs(days * 24 * 3600)));
    let (twenty, more) = (ago(20), ago(23));
    let old = |conversation_id, id| Event { occur_time: twenty, ..event(conversation_id, id) };
    let older = |conversation_id, id| Event { occur_time: more, ..event(conversation_id, id) };
    for (id, days) in [("early", 20), ("lost", 20), ("late", 4)] {
        let old = if id == "late" { older("c", id) } else { old("c", id) };
        world.replica.publish(old).await.unwrap();
        world.replica.reaches(id, DeliveryState::Succeeded).await;
        if id == "early" {
            days_before_today(pool, 25).await;
        }
        recorded_earlier(pool, id, days).await;
    }
    let first = world.replica.delivery("early").await.unwrap();

    // One that knows the days as they are now.
    let replica = Replica::start(world.config(|_| {}), world.deployments()).await;
    let events = [
        // In days that are not looked into together.
        event("c", "before"),
        old("c", "early"),
        old("d", "early"),
        older("c", "late"),
        old("c", "new"),
        event("c", "after"),
    ];
    let answers = replica.publish_all(events.into()).await;
    let [before, early, reused, late, new, after] = answers.try_into().unwrap();
    let early = early.unwrap();
    assert!(early.duplicate && early.sequence == first.sequence, "{early:?}");
    refused(reused, Code::AlreadyExists, "EVENT_ID_REUSED");
    assert!(late.unwrap().duplicate);
    let sequences = [before, new, after].map(|answer| answer.unwrap()).map(|it| (it.duplicate, it.sequence));
    assert!(sequences.is_sorted() && sequences.iter().all(|(duplicate, _)| !duplicate), "{sequences:?}");
    let mut publisher = Publisher::open(&replica).await;
    for (n, event) in
        [event("c", "s1"), old("c", "early"), old("c", "s2"), event("c", "s3")].into_iter().enumerate()
    {
        publisher.send(n as i64 + 1, event).await;
    }
    let mut answers = Vec::new();
    for n in 1..=4 {
        answers.push(publisher.answer(n).await.unwrap());
    }
    assert_eq!(answers.iter().map(|it| it.duplicate).collect::<Vec<_>>(), [false, true, false, false]);
    assert!(answers[0].sequence < answers[2].sequence && answers[2].sequence < answers[3].sequence);
    // Not every id is looked for in all days.
    assert!(!replica.publish(event("c", "early")).await.unwrap().duplicate);
    let runs = ["early", "lost", "late", "before", "new", "after", "s1", "s2", "s3", "early"];
    eventually(async || world.invoker.runs().len() == runs.len()).await;
    let ran: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert_eq!(ran, runs);

    // What is dropped is not known any more, however long days are to be kept from then on.
    let patient = world.config(|config| config.retention.retention_days = 300);
    let patient = Replica::start(patient, world.deployments()).await;
    let mut dropping = pool.begin().await.unwrap();
    let drop = "SELECT ingest.drop_partition('events', (now() AT TIME ZONE 'UTC')::date - 20)";
    assert!(sqlx::query_scalar::<_, bool>(drop).fetch_one(&mut *dropping).await.unwrap());
    let (meanwhile, ()) = tokio::join!(patient.publish(old("c", "lost")), async {
        eventually(|| is_waiting(pool, "look")).await;
        dropping.commit().await.unwrap();
    });
    for answer in
        [meanwhile, patient.publish(old("c", "lost")).await, patient.publish(old("c", "other")).await]
    {
        refused(answer, Code::OutOfRange, "OCCUR_TIME_OUT_OF_RANGE");
    }
    // What is there is found, however short they are to be kept.
    let short = world.config(|config| config.retention.retention_days = 20);
    let short = Replica::start(short, world.deployments()).await;
    assert!(short.publish(older("c", "late")).await.unwrap().duplicate);
    refused(short.publish(older("c", "another")).await, Code::OutOfRange, "OCCUR_TIME_OUT_OF_RANGE");
    let younger = Event { occur_time: ago(18), ..event("c", "younger") };
    assert!(!patient.publish(younger).await.unwrap().duplicate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_event_may_be_an_old_one_does_not_wait_for_the_store_alone() {
    let world = World::start().await;
    let mut publisher = Publisher::open(&world.replica).await;
    publisher.send(1, event("c", "e1")).await;
    assert!(publisher.answer(1).await.is_ok());
    let obstacle = Obstacle::before_looks(world.database.pool()).await;
    let occur_time = Some(Timestamp::default());
    publisher.send(2, Event { occur_time, ..event("c", "e2") }).await;
    obstacle.is_met().await;
    world.replica.shutdown.begin();
    refused(publisher.end().await, Code::Unavailable, "DRAINING");
    obstacle.lift().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_many_old_events_leaves_room_to_look_for_others() {
    /// As many as may wait, and some more.
    const CALLS: usize = 70;
    let world = World::start().await;
    let obstacle = Obstacle::before_looks(world.database.pool()).await;
    let old = |account: &str, id: &str| Event {
        account: account.to_owned(),
        occur_time: Some(Timestamp::default()),
        ..event("c", id)
    };
    let mut calls = JoinSet::new();
    for call in 0..CALLS {
        let (mut client, event) = (world.replica.events(), old("acme", &format!("e{call}")));
        calls.spawn(async move { client.publish_event(PublishEventRequest { event: Some(event) }).await });
    }
    // Half of them may wait.
    for _ in 0..CALLS - 32 {
        refused(calls.join_next().await.unwrap().unwrap(), Code::ResourceExhausted, "ACCOUNT_BUSY");
    }
    // Those of streams do, and those of other accounts.
    let mut publisher = Publisher::open(&world.replica).await;
    publisher.send(1, old("acme", "streamed")).await;
    let mut other = Publisher::open(&world.replica).await;
    other.send(1, old("other", "streamed")).await;
    obstacle.is_met().await;
    obstacle.lift().await;
    for answer in [publisher.answer(1).await, other.answer(1).await] {
        refused(answer, Code::OutOfRange, "OCCUR_TIME_OUT_OF_RANGE");
    }
    while let Some(answer) = calls.join_next().await {
        refused(answer.unwrap(), Code::OutOfRange, "OCCUR_TIME_OUT_OF_RANGE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_database_dropped_before_that_was_written_down_counts() {
    for drops in [false, true] {
        let database = TestDatabase::create_with(&history_before("0018").await).await;
        let pool = database.pool();
        days_before_today(pool, 6).await;
        if drops {
            let dropped =
                |days| format!("ingest.drop_partition('events', (now() AT TIME ZONE 'UTC')::date - {days})");
            execute(pool, format!("SELECT {}, {}", dropped(5), dropped(4))).await;
            // The other is not done yet.
            execute(pool, "DELETE FROM ingest.days WHERE day = (now() AT TIME ZONE 'UTC')::date - 5").await;
        }
        migrate::run(database.url(), &MIGRATIONS, RunOptions::default()).await.unwrap();
        let kept = "SELECT max(kept_since) = (now() AT TIME ZONE 'UTC')::date::timestamp AT TIME ZONE 'UTC'
                        - interval '3 days' + interval '1 minute' FROM ingest.days";
        let kept: Option<bool> = sqlx::query_scalar(kept).fetch_one(pool).await.unwrap();
        assert_eq!(kept, drops.then_some(true));
    }
}
