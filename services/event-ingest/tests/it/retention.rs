//! Days: which one an event belongs to, how long its id is known, and when it is dropped.

use std::{collections::HashMap, path::Path};

use chatfn_pg::{
    migrate::{self, MIGRATIONS, RunOptions},
    testing::TestDatabase,
};
use chatfn_proto::ingest::v1::{
    CreateReplayRequest, DeliveryState, Event, ReconcileRequest, Replay, ReplayFilter, event::PayloadKind,
};
use chatfn_rpc::Shutdown;
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, PgPool, migrate::Migrator};
use tokio::sync::watch;
use tonic::Code;

use crate::{
    harness::{Replica, START, World, config, deployments, event, eventually, patiently, refused, settings},
    invoker::{FakeInvoker, assert_in_order},
    obstacle::is_waiting,
};

pub(crate) async fn execute(pool: &PgPool, statement: impl Into<String>) {
    let statement: String = statement.into();
    sqlx::query(AssertSqlSafe(statement.as_str()))
        .execute(pool)
        .await
        .unwrap_or_else(|error| panic!("`{statement}`: {error}"));
}

async fn number(pool: &PgPool, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(pool).await.unwrap()
}

/// Which days take events or took some, from today on, as the number of days after today.
async fn is_open(pool: &PgPool, after_today: i32) -> bool {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM ingest.days WHERE open_time IS NOT NULL
             AND day = (now() AT TIME ZONE 'UTC')::date + $1)",
    )
    .bind(after_today)
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Lets events go into a later day than today's, as if that had come.
async fn open(pool: &PgPool, after_today: i32) {
    sqlx::query("SELECT ingest.open_day((now() AT TIME ZONE 'UTC')::date + $1)")
        .bind(after_today)
        .execute(pool)
        .await
        .unwrap();
    assert!(is_open(pool, after_today).await);
}

/// A world whose events go into today's partitions.
pub(crate) async fn today() -> World {
    let world = World::start().await;
    eventually(async || is_open(world.database.pool(), 0).await).await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_goes_into_the_partitions_of_its_day() {
    let world = today().await;
    let pool = world.database.pool();
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    for table in ["events", "outcomes", "attempts"] {
        let partition: String =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT tableoid::regclass::text FROM ingest.{table}")))
                .fetch_one(pool)
                .await
                .unwrap();
        let expected: String =
            sqlx::query_scalar("SELECT $1 || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')")
                .bind(format!("ingest.{table}_"))
                .fetch_one(pool)
                .await
                .unwrap();
        assert_eq!(partition, expected);
    }
    let prepared = number(pool, "SELECT count(*) FROM ingest.days WHERE open_time IS NULL").await;
    assert!(prepared >= 3, "{prepared} days are prepared");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_known_for_two_more_days() {
    let world = today().await;
    let pool = world.database.pool();
    let first = world.replica.publish(event("c", "e")).await.unwrap();
    for day in 1..=2 {
        open(pool, day).await;
        let again = world.replica.publish(event("c", "e")).await.unwrap();
        assert!(again.duplicate && again.sequence == first.sequence, "{again:?} on day {day}");
        refused(world.replica.publish(event("d", "e")).await, Code::AlreadyExists, "EVENT_ID_REUSED");
        let other = world.replica.publish(event("c", &format!("e{day}"))).await.unwrap();
        assert!(other.sequence >= first.sequence + (1 << 32), "it goes into another day");
    }
    open(pool, 3).await;
    assert!(!world.replica.publish(event("c", "e")).await.unwrap().duplicate);
    assert!(world.replica.publish(event("c", "e2")).await.unwrap().duplicate);
    let ids = ["e", "e1", "e2", "e"].map(str::to_owned);
    eventually(async || world.invoker.runs().len() == 4).await;
    let ran: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert_eq!(ran, ids, "in order over the days");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fires_once_does_not_fire_again_when_its_id_is_not_known_any_more() {
    let world = today().await;
    let pool = world.database.pool();
    let start = || Event { template: START.to_owned(), ..event("c", "e") };
    let first = world.replica.publish(start()).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    for day in 1..=3 {
        open(pool, day).await;
    }
    let again = world.replica.publish(start()).await.unwrap();
    assert!(!again.duplicate && again.sequence > first.sequence, "it is recorded: {again:?}");
    let told = world.replica.reaches("e", DeliveryState::Suppressed).await;
    assert_eq!((told.reason.as_str(), told.sequence), ("ALREADY_FIRED", again.sequence));
    world.replica.publish(event("c", "last")).await.unwrap();
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("e").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_recorded_once_whoever_publishes_it_while_days_change() {
    const IDS: usize = 60;
    let world = today().await;
    let other = Replica::start(world.config(|_| {}), world.deployments()).await;
    // The same ids in several conversations, hence over lanes and committers that know nothing of each other.
    let rounds = async |round: usize| {
        let calls = (0..8).map(|n| {
            let conversation = format!("c{}", (n + round) % 4);
            let events: Vec<Event> =
                (0..IDS).map(|id| event(&format!("{conversation}-{id}"), &format!("e{id}"))).collect();
            let replica = if n % 2 == 0 { &world.replica } else { &other };
            async move {
                let results = replica.publish_all(events).await;
                (0..IDS).map(|id| format!("{conversation}-{id}")).zip(results).collect::<Vec<_>>()
            }
        });
        join_all(calls).await
    };
    let pool = world.database.pool();
    let (begun, mut round_begun) = watch::channel(0);
    let (calls, ()) = tokio::join!(
        async {
            let mut calls = Vec::new();
            for round in 0..6 {
                begun.send_replace(round);
                calls.extend(rounds(round).await);
            }
            calls
        },
        async {
            // While calls of these rounds are on their way.
            for (day, round) in [(1, 1), (2, 3)] {
                round_begun.wait_for(|begun| *begun >= round).await.unwrap();
                open(pool, day).await;
            }
        }
    );
    let mut new: HashMap<usize, Vec<String>> = HashMap::new();
    for call in calls {
        for (id, (conversation, result)) in call.into_iter().enumerate() {
            match result {
                Ok(ack) if !ack.duplicate => new.entry(id).or_default().push(conversation),
                Ok(_) => {}
                Err(status) => drop(refused(Err::<(), _>(status), Code::AlreadyExists, "EVENT_ID_REUSED")),
            }
        }
    }
    assert!((0..IDS).all(|id| new[&id].len() == 1), "{new:?}");
    assert_eq!(number(pool, "SELECT count(*) FROM ingest.events").await, i64::try_from(IDS).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_another_lane_is_recording_is_waited_for() {
    let world = today().await;
    world.replica.publish(event("c", "model")).await.unwrap();
    let pool = world.database.pool();
    for is_recorded in [false, true] {
        let id = format!("e-{is_recorded}");
        let mut elsewhere = pool.begin().await.unwrap();
        sqlx::query(
            "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
             SELECT (lane + 1) % 64, sequence + 1000, account, $1, template, 'elsewhere', payload, content_hash
             FROM ingest.events WHERE event_id = 'model'",
        )
        .bind(&id)
        .execute(&mut *elsewhere)
        .await
        .unwrap();
        // Alone in its transaction, which nothing can be split off from.
        let publishing = world.replica.publish(event("c", &id));
        let ending = async {
            eventually(|| is_waiting(pool, "commit")).await;
            if is_recorded { elsewhere.commit().await } else { elsewhere.rollback().await }.unwrap();
        };
        let (acknowledged, ()) = tokio::join!(publishing, ending);
        assert_eq!(acknowledged.unwrap().duplicate, is_recorded);
    }
}

/// An event of a day before today, which has come to an outcome or waits for an operator.
async fn old_event(pool: &PgPool, days_ago: i32, id: &str, is_parked: bool) {
    let sequence = format!("ingest.first_sequence((now() AT TIME ZONE 'UTC')::date - {days_ago})");
    execute(
        pool,
        format!(
            "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
             VALUES (0, {sequence}, 'acme', '{id}', 'chat.start', '{id}', '{{}}', '')"
        ),
    )
    .await;
    execute(
        pool,
        format!(
            "INSERT INTO ingest.latches (account, conversation_id, template, event_id)
             VALUES ('acme', '{id}', 'chat.start', '{id}')"
        ),
    )
    .await;
    let rest = if is_parked {
        format!(
            "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, next_attempt_time)
             VALUES (0, {sequence}, 'acme', '{id}', now() + interval '1 year')"
        )
    } else {
        format!(
            "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
             VALUES (0, {sequence}, 3, 0, 'acme', now())"
        )
    };
    execute(pool, rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_dropped_when_it_is_old_and_nothing_waits_in_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool().clone();
    for (days_ago, id, is_parked) in [(33, "old", false), (32, "parked", true), (30, "young", false)] {
        execute(&pool, format!("SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date - {days_ago})"))
            .await;
        execute(
            &pool,
            format!("UPDATE ingest.days SET open_time = day WHERE day = (now() AT TIME ZONE 'UTC')::date - {days_ago}"),
        )
        .await;
        old_event(&pool, days_ago, id, is_parked).await;
    }
    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    let start =
        async || Replica::start(config(database.url(), address, |_| {}), deployments(&settings(3))).await;
    let mut replica = start().await;
    let gone = async |id: &str| match replica.delivery(id).await {
        Ok(_) => false,
        Err(status) => {
            refused(Err::<(), _>(status), Code::NotFound, "DELIVERY_NOT_FOUND");
            true
        }
    };
    eventually(async || gone("old").await).await;
    // Days are looked at in their order, so that the last has been when all of this holds.
    let days = "SELECT count(*) FROM ingest.days WHERE day < (now() AT TIME ZONE 'UTC')::date - 1";
    eventually(async || number(&pool, days).await == 2).await;
    assert!(!gone("parked").await && !gone("young").await);
    let left = number(&pool, "SELECT count(*) FROM ingest.latches").await;
    assert_eq!(left, 2, "a latch goes with the event that set it, and not before");
    let tables = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'ingest'::regnamespace
                  AND relname LIKE '%\\_' || to_char(now() AT TIME ZONE 'UTC' - interval '33 days', 'YYYYMMDD')";
    assert_eq!(number(&pool, tables).await, 0, "its tables are gone");
    replica.stop().await;

    // What waited has come to its outcome.
    execute(
        &pool,
        "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
         SELECT lane, sequence, 3, 0, account, now() FROM ingest.parked",
    )
    .await;
    execute(&pool, "DELETE FROM ingest.parked").await;
    let again = start().await;
    eventually(async || number(&pool, days).await == 1).await;
    refused(again.delivery("parked").await, Code::NotFound, "DELIVERY_NOT_FOUND");
    assert_eq!(again.delivery("young").await.unwrap().state(), DeliveryState::Succeeded);
    shutdown.force();
}

/// No later day was opened for long: all events went into it.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_is_as_old_as_the_last_event_that_it_may_have_taken() {
    let database = TestDatabase::create().await;
    let pool = database.pool().clone();
    for (days_ago, id, opened) in [(35, "old", "day"), (33, "late", "day"), (32, "never opened", "NULL")] {
        let day = format!("(now() AT TIME ZONE 'UTC')::date - {days_ago}");
        execute(&pool, format!("SELECT ingest.prepare_day({day})")).await;
        execute(&pool, format!("UPDATE ingest.days SET open_time = {opened} WHERE day = {day}")).await;
        old_event(&pool, days_ago, id, false).await;
    }
    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    // Opens today, and then looks at old days in their order.
    let _replica = Replica::start(config(database.url(), address, |_| {}), deployments(&settings(3))).await;
    let left = "SELECT count(*) FROM ingest.events";
    eventually(async || number(&pool, left).await == 1).await;
    let days = "SELECT count(*) FROM ingest.days WHERE day < (now() AT TIME ZONE 'UTC')::date - 1";
    eventually(async || number(&pool, days).await == 1).await;
    let kept: String =
        sqlx::query_scalar("SELECT event_id FROM ingest.events").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, "late");
    shutdown.force();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latch_stays_when_an_event_goes_that_it_suppressed() {
    let database = TestDatabase::create().await;
    let pool = database.pool().clone();
    execute(&pool, "SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date - 20)").await;
    old_event(&pool, 20, "e", false).await;
    // The same id on a day that goes before the one whose event has set the latch.
    execute(&pool, "SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date - 35)").await;
    for statement in [
        "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
         VALUES (0, ingest.first_sequence((now() AT TIME ZONE 'UTC')::date - 35), 'acme', 'e', 'chat.start', 'e', '{}', '')",
        "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
         VALUES (0, ingest.first_sequence((now() AT TIME ZONE 'UTC')::date - 35), 5, 0, 'acme', now())",
    ] {
        execute(&pool, statement).await;
    }
    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    let _replica = Replica::start(config(database.url(), address, |_| {}), deployments(&settings(3))).await;
    let old = "SELECT count(*) FROM ingest.days WHERE day = (now() AT TIME ZONE 'UTC')::date - 35";
    eventually(async || number(&pool, old).await == 0).await;
    assert_eq!(number(&pool, "SELECT count(*) FROM ingest.latches").await, 1);
    shutdown.force();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_cannot_be_dropped_keeps_no_other() {
    let database = TestDatabase::create().await;
    let pool = database.pool().clone();
    for (days_ago, id) in [(36, "held"), (35, "old")] {
        execute(&pool, format!("SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date - {days_ago})"))
            .await;
        old_event(&pool, days_ago, id, false).await;
    }
    for (age, is_kept) in [(31, true), (33, false)] {
        execute(
            &pool,
            format!(
                "INSERT INTO ingest.replays (replay, account, states, start_time, end_time, rerun, events_per_second, actor,
                                             after_time, finish_time)
                 SELECT (lpad(to_hex((extract(epoch FROM t) * 1000)::bigint), 12, '0') || repeat('7', 20))::uuid, 'acme', '{{7}}',
                        t, t, {is_kept}, 1, 'x', t, t + interval '1 hour'
                 FROM (SELECT now() - interval '{age} days' AS t) x"
            ),
        )
        .await;
    }
    // Somebody reads the partition of the first.
    let mut reader = pool.begin().await.unwrap();
    let partition: String = sqlx::query_scalar(
        "SELECT 'ingest.events_' || to_char((now() AT TIME ZONE 'UTC')::date - 36, 'YYYYMMDD')",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    sqlx::query(AssertSqlSafe(format!("LOCK TABLE {partition} IN ACCESS SHARE MODE")))
        .execute(&mut *reader)
        .await
        .unwrap();
    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    let _replica = Replica::start(config(database.url(), address, |_| {}), deployments(&settings(3))).await;
    let old = "SELECT count(*) FROM ingest.days WHERE day < (now() AT TIME ZONE 'UTC')::date - 30";
    eventually(async || number(&pool, old).await == 1).await;
    // Replays go after the days.
    eventually(async || number(&pool, "SELECT count(*) FROM ingest.replays").await == 1).await;
    assert_eq!(number(&pool, "SELECT count(*) FROM ingest.replays WHERE rerun").await, 1);
    assert_eq!(number(&pool, "SELECT count(*) FROM ingest.events").await, 1);
    reader.rollback().await.unwrap();
    shutdown.force();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_about_a_time_opens_no_partitions_of_other_days() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let day = |days_ago: i32| format!("(now() AT TIME ZONE 'UTC')::date - {days_ago}");
    for days_ago in [28, 20, 10] {
        execute(pool, format!("SELECT ingest.prepare_day({})", day(days_ago))).await;
        let opened = format!("UPDATE ingest.days SET open_time = day WHERE day = {}", day(days_ago));
        execute(pool, opened).await;
        old_event(pool, days_ago, &format!("e{days_ago}"), false).await;
        let accepted = format!(
            "UPDATE ingest.events SET accept_time = now() - interval '{days_ago} days'
                                WHERE event_id = 'e{days_ago}'"
        );
        execute(pool, accepted).await;
    }
    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    let replica = Replica::start(config(database.url(), address, |_| {}), deployments(&settings(3))).await;
    eventually(async || is_open(pool, 0).await).await;
    replica.publish(event("c", "new")).await.unwrap();
    replica.reaches("new", DeliveryState::Succeeded).await;

    // Whoever opened it would wait.
    let old: String = sqlx::query_scalar(AssertSqlSafe(format!("SELECT to_char({}, 'YYYYMMDD')", day(28))))
        .fetch_one(pool)
        .await
        .unwrap();
    let mut obstacle = pool.begin().await.unwrap();
    let lock = format!("LOCK TABLE ingest.events_{old} IN ACCESS EXCLUSIVE MODE");
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *obstacle).await.unwrap();

    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let days_ago = |days: u64| {
        let seconds = i64::try_from(seconds - days * 86_400).unwrap();
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    };
    let parent = "accounts/acme".to_owned();
    for (start, accepted) in [(5, 1), (12, 2)] {
        let request =
            ReconcileRequest { parent: parent.clone(), start_time: days_ago(start), ..Default::default() };
        let told = replica.deliveries().reconcile(request).await.unwrap().into_inner();
        assert_eq!((told.accepted_count, told.unaccounted_count), (accepted, 0));
        for conversation_id in ["", "c"] {
            let filter = ReplayFilter {
                states: vec![DeliveryState::Succeeded.into()],
                conversation_id: conversation_id.to_owned(),
                start_time: days_ago(start),
                ..Default::default()
            };
            let replay = Some(Replay { filter: Some(filter), ..Default::default() });
            let request =
                CreateReplayRequest { parent: parent.clone(), replay, dry_run: true, ..Default::default() };
            let told = replica.replays().create_replay(request).await.unwrap().into_inner();
            assert_eq!(told.matched_count, if conversation_id.is_empty() { accepted } else { 1 });
        }
    }
    obstacle.rollback().await.unwrap();
    let request = ReconcileRequest { parent, end_time: days_ago(5), ..Default::default() };
    assert_eq!(replica.deliveries().reconcile(request).await.unwrap().into_inner().accepted_count, 3);
    shutdown.force();
}

/// Whether a day's events are gone after an attempt to drop them.
async fn is_dropped(pool: &PgPool, days_ago: i32) -> bool {
    sqlx::query_scalar("SELECT ingest.drop_partition('events', (now() AT TIME ZONE 'UTC')::date - $1)")
        .bind(days_ago)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_in_which_something_waits_again_is_not_dropped() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    execute(pool, "SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date - 40)").await;
    execute(pool, "SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date)").await;
    execute(pool, "SELECT ingest.open_day((now() AT TIME ZONE 'UTC')::date)").await;
    old_event(pool, 40, "e", false).await;

    // A lane's owner takes the event up again, as it does in one transaction, while the day is being dropped.
    let mut owner = pool.begin().await.unwrap();
    for statement in [
        "DELETE FROM ingest.outcomes o WHERE EXISTS (
             SELECT FROM ingest.events e WHERE e.lane = o.lane AND e.sequence = o.sequence)",
        "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, next_attempt_time, kind)
         SELECT lane, sequence, account, conversation_id, now(), 2 FROM ingest.events",
    ] {
        assert_eq!(sqlx::query(statement).execute(&mut *owner).await.unwrap().rows_affected(), 1);
    }
    let dropping = tokio::spawn({
        let pool = pool.clone();
        async move { is_dropped(&pool, 40).await }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                 AND query LIKE '%drop_partition%'";
    eventually(async || number(pool, waits).await == 1).await;
    owner.commit().await.unwrap();
    assert!(!patiently(dropping).await.unwrap(), "what it waited for counts");
    assert_eq!(number(pool, "SELECT count(*) FROM ingest.events").await, 1);

    execute(pool, "DELETE FROM ingest.parked").await;
    assert!(is_dropped(pool, 40).await);
    assert!(is_dropped(pool, 40).await, "once more changes nothing");
    assert_eq!(number(pool, "SELECT count(*) FROM ingest.events").await, 0);
    assert!(!is_dropped(pool, 0).await, "the day that is open stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_an_event_whose_day_is_being_dropped_comes_to_nothing() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    execute(pool, "SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date - 20)").await;
    old_event(pool, 20, "e", false).await;
    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    let replica = Replica::start(config(database.url(), address, |_| {}), deployments(&settings(3))).await;
    eventually(async || is_open(pool, 0).await).await;
    // Its lane has been read further than that.
    let lane = |id: &str| chatfn_domain::lane::lane_of(&"acme".parse().unwrap(), &id.parse().unwrap());
    let conversation = (0..).map(|n| format!("c{n}")).find(|id| lane(id) == 0).unwrap();
    replica.publish(event(&conversation, "later")).await.unwrap();
    replica.reaches("later", DeliveryState::Succeeded).await;

    let mut dropping = pool.begin().await.unwrap();
    let drop = "SELECT ingest.drop_partition('events', (now() AT TIME ZONE 'UTC')::date - 20)";
    assert!(sqlx::query_scalar::<_, bool>(drop).fetch_one(&mut *dropping).await.unwrap());
    // Asked for after it was seen that nothing is.
    let ask = "INSERT INTO ingest.interventions (lane, sequence, action, actor)
               VALUES (0, ingest.first_sequence((now() AT TIME ZONE 'UTC')::date - 20), 1, 'x')";
    execute(pool, ask).await;
    eventually(|| is_waiting(pool, "read")).await;
    dropping.commit().await.unwrap();
    eventually(async || number(pool, "SELECT count(*) FROM ingest.interventions").await == 0).await;
    assert_eq!(number(pool, "SELECT count(*) FROM ingest.parked").await, 0);
    assert!(invoker.runs_of("e").is_empty());
    shutdown.force();
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_kept_by_those_who_record_events_and_new_ones_have_the_grants_of_the_tables() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    // Roles are the whole server's.
    let role = format!("r{}", uuid::Uuid::new_v4().simple());
    execute(pool, format!("CREATE ROLE {role}")).await;
    execute(pool, format!("GRANT USAGE ON SCHEMA ingest TO {role}")).await;
    execute(pool, format!("GRANT SELECT ON ingest.attempts TO {role}")).await;
    let today = "(now() AT TIME ZONE 'UTC')::date";
    for call in [
        format!("ingest.prepare_day({today} + 100)"),
        format!("ingest.open_day({today})"),
        format!("ingest.drop_partition('events', {today} - 100)"),
        "ingest.copy_grants('events', 'outcomes')".to_owned(),
    ] {
        let mut connection = pool.begin().await.unwrap();
        sqlx::query(AssertSqlSafe(format!("SET LOCAL ROLE {role}"))).execute(&mut *connection).await.unwrap();
        let error =
            sqlx::query(AssertSqlSafe(format!("SELECT {call}"))).execute(&mut *connection).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{call}: {error}");
    }
    execute(pool, format!("SELECT ingest.prepare_day({today} + 100)")).await;
    let may_read = async |table: &str| -> bool {
        let name = format!("'ingest.{table}_' || to_char({today} + 100, 'YYYYMMDD')");
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT has_table_privilege('{role}', {name}, 'SELECT')")))
            .fetch_one(pool)
            .await
            .unwrap()
    };
    assert!(may_read("attempts").await && !may_read("events").await);
    let paths: i64 = number(
        pool,
        "SELECT count(*) FROM pg_proc WHERE pronamespace = 'ingest'::regnamespace AND prosecdef
             AND NOT coalesce(proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false)",
    )
    .await;
    assert_eq!(paths, 0, "functions with their owner's rights look nowhere else");
    execute(pool, format!("DROP OWNED BY {role}")).await;
    execute(pool, format!("DROP ROLE {role}")).await;
}

/// The migrations before one.
pub(crate) async fn history_before(migration: &str) -> Migrator {
    let all = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations"));
    let some = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(all).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".sql") && name.as_str() < migration {
            std::fs::copy(entry.path(), some.path().join(name)).unwrap();
        }
    }
    Migrator::new(some.path()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_from_before_there_were_days_goes_on_where_it_was() {
    let database = TestDatabase::create_with(&history_before("0007").await).await;
    let pool = database.pool();
    // As the release before wrote them: one that is done, and two that wait in a conversation.
    let lane = chatfn_domain::lane::lane_of(&"acme".parse().unwrap(), &"c".parse().unwrap());
    for (sequence, id) in [(1, "done"), (2, "e1"), (3, "e2")] {
        execute(
            pool,
            format!(
                "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload, content_hash)
                 VALUES ({lane}, {sequence}, 'acme', '{id}', 'chat.message', 'c', '{{}}', '')"
            ),
        )
        .await;
    }
    execute(pool, format!("UPDATE ingest.lane_heads SET next_sequence = 4 WHERE lane = {lane}")).await;
    execute(
        pool,
        format!(
            "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
             VALUES ({lane}, 1, 3, 1, 'acme', now())"
        ),
    )
    .await;
    migrate::run(database.url(), &MIGRATIONS, RunOptions::default()).await.unwrap();

    let (shutdown, invoker) = (Shutdown::new(), FakeInvoker::new());
    let address = invoker.serve(&shutdown).await;
    let replica = Replica::start(config(database.url(), address, |_| {}), deployments(&settings(3))).await;
    eventually(async || is_open(pool, 0).await).await;
    assert_eq!(replica.delivery("done").await.unwrap().state(), DeliveryState::Succeeded);
    let new = replica.publish(event("c", "e3")).await.unwrap();
    assert!(new.sequence > 1 << 32);
    let mut reused = event("c", "e1");
    reused.payload_kind = Some(PayloadKind::PayloadJson(r#"{"text":"other"}"#.to_owned()));
    refused(replica.publish(reused).await, Code::AlreadyExists, "EVENT_ID_REUSED");
    replica.reaches("e3", DeliveryState::Succeeded).await;
    assert_in_order(&invoker.runs(), "c", &["e1", "e2", "e3"].map(str::to_owned));
    patiently(async { shutdown.force() }).await;
}
