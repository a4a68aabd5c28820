//! What is acknowledged, and what is refused.

use std::{collections::BTreeMap, time::SystemTime};

use chatfn_proto::ingest::v1::{
    DeliveryState, Event, EventHeader, PublishEventRequest, PublishEventsRequest, event::PayloadKind,
};
use chatfn_rpc::{RequestExt as _, TraceParent};
use chatfn_telemetry::{EndpointArgs, Listen, testing::MetricsReader};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use prost_types::{Struct, Timestamp, Value, value::Kind};
use tonic::{Code, Request};

use crate::{
    harness::{Replica, World, event, eventually, patiently, refused, settings},
    obstacle::Obstacle,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_recorded_run_and_accounted_for() {
    let world = World::start().await;
    let mut sent = event("c", "e");
    sent.headers = vec![EventHeader { key: "x-brand".to_owned(), value: "acme".to_owned() }];
    let occur_time = Some(Timestamp { nanos: 5_000, ..Timestamp::from(SystemTime::now()) });
    sent.occur_time = occur_time;
    let trace = TraceParent::generate();
    let request = Request::new(PublishEventRequest { event: Some(sent) }).with_trace(trace);
    let acknowledged = world.replica.publish_request(request).await.unwrap();
    assert_eq!(acknowledged.delivery, "accounts/acme/deliveries/e");
    assert!(!acknowledged.duplicate && acknowledged.sequence >= 1);

    let delivery = world.replica.reaches("e", DeliveryState::Succeeded).await;
    assert_eq!(delivery.name, acknowledged.delivery);
    assert_eq!(delivery.sequence, acknowledged.sequence);
    assert_eq!(delivery.occur_time, occur_time);
    assert!(delivery.accept_time.is_some() && delivery.finish_time.is_some());
    assert_eq!((delivery.reason.as_str(), delivery.attempts.len()), ("", 1));
    assert_eq!(delivery.attempts[0].report.as_ref().unwrap().version, 1);

    let runs = world.invoker.runs();
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0].function, "accounts/acme/functions/chat.message");
    assert_eq!((runs[0].event_id.as_str(), runs[0].conversation_id.as_str(), runs[0].attempt), ("e", "c", 1));
    assert_eq!(runs[0].payload_json, r#"{"text":"hello"}"#);
    assert_eq!(runs[0].headers, [("x-brand".to_owned(), "acme".to_owned())]);
    assert!(!runs[0].idempotency_key.is_empty());
    let carried: TraceParent = runs[0].trace.as_ref().unwrap().parse().unwrap();
    assert_eq!(carried.trace_id(), trace.trace_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_is_recorded_and_run_once() {
    let world = World::start().await;
    let first = world.replica.publish(event("c", "e")).await.unwrap();

    let again = world.replica.publish(event("c", "e")).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(again.sequence, first.sequence);

    let text = Value { kind: Some(Kind::StringValue("hello".to_owned())) };
    let mut as_struct = event("c", "e");
    as_struct.payload_kind =
        Some(PayloadKind::Payload(Struct { fields: [("text".to_owned(), text)].into_iter().collect() }));
    assert!(world.replica.publish(as_struct).await.unwrap().duplicate, "the same value in its other form");
    let mut spaced = event("c", "e");
    spaced.payload_kind = Some(PayloadKind::PayloadJson("{ \"text\" : \"hello\" }".to_owned()));
    assert!(world.replica.publish(spaced).await.unwrap().duplicate, "white space says nothing");

    let mut other = event("c", "e");
    other.payload_kind = Some(PayloadKind::PayloadJson(r#"{"text":"bye"}"#.to_owned()));
    let report = refused(world.replica.publish(other).await, Code::AlreadyExists, "EVENT_ID_REUSED");
    assert_eq!(report.fields[0].field, "event.event_id");
    assert!(report.message.contains("choose a new id"), "{report:?}");
    refused(world.replica.publish(event("d", "e")).await, Code::AlreadyExists, "EVENT_ID_REUSED");

    // What comes after it in its conversation shows that there is nothing else before.
    world.replica.publish(event("c", "last")).await.unwrap();
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("e").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_may_hold_the_same_event_twice() {
    let world = World::start().await;
    let mut other = event("c", "e");
    other.payload_kind = Some(PayloadKind::PayloadJson("{}".to_owned()));
    let batch = vec![event("c", "e"), event("c", "e"), other, event("c", "last")];
    let results = world.replica.publish_all(batch).await;
    let first = results[0].as_ref().unwrap();
    assert!(!first.duplicate);
    let second = results[1].as_ref().unwrap();
    assert!(second.duplicate);
    assert_eq!(second.sequence, first.sequence);
    refused(results[2].clone(), Code::AlreadyExists, "EVENT_ID_REUSED");
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("e").len(), 1);
}

/// As deep as the decoder of messages allows, which refuses the whole call beyond.
#[tokio::test(flavor = "multi_thread")]
async fn a_struct_may_be_32_levels_deep() {
    let world = World::start().await;
    let deep = |levels: usize| {
        let leaf = Value { kind: Some(Kind::StringValue("hello".to_owned())) };
        let object = |key: &str, value| Struct { fields: BTreeMap::from([(key.to_owned(), value)]) };
        let nested = (2..levels).fold(object("a", leaf.clone()), |inner, _| {
            object("a", Value { kind: Some(Kind::StructValue(inner)) })
        });
        let mut payload = object("text", leaf);
        payload.fields.insert("a".to_owned(), Value { kind: Some(Kind::StructValue(nested)) });
        Event { payload_kind: Some(PayloadKind::Payload(payload)), ..event("c", &format!("e{levels}")) }
    };
    assert!(world.replica.publish_all(vec![deep(32)]).await[0].is_ok());
    let events = vec![event("c", "neighbour"), deep(34)];
    let call = world.replica.events().publish_events(PublishEventsRequest { events }).await;
    refused(call, Code::InvalidArgument, "MESSAGE_UNREADABLE");
    refused(world.replica.delivery("neighbour").await, Code::NotFound, "DELIVERY_NOT_FOUND");
}

/// A burst shares its flush to disk, though each of its events comes in a call of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_queues_while_a_transaction_is_under_way_shares_the_next() {
    let metrics = MetricsReader::somewhere();
    let world = World::start_with(settings(3), |config| {
        config.endpoint =
            EndpointArgs { telemetry_listen: Some(Listen::At(metrics.address())), ..EndpointArgs::OFF };
        config.committers.committers = 1;
    })
    .await;
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    let mut calls: FuturesUnordered<_> = FuturesUnordered::new();
    let call = |n: usize| world.replica.publish(event(&format!("c{n}"), &format!("e{n}")));
    calls.push(call(0));
    tokio::select! {
        () = obstacle.is_met() => {}
        answered = calls.next() => panic!("{answered:?}"),
    }
    calls.extend((1..=100).map(call));
    let queued = async || metrics.value("chatfn_ingest_queue_events").await.unwrap();
    tokio::select! {
        () = eventually(async || queued().await == 101) => {}
        answered = calls.next() => panic!("{answered:?}"),
    }
    obstacle.lift().await;
    while let Some(answer) = patiently(calls.next()).await {
        answer.unwrap();
    }
    let by_transaction: Vec<i64> =
        sqlx::query_scalar("SELECT count(*) FROM ingest.events GROUP BY xmin::text ORDER BY 1")
            .fetch_all(world.database.pool())
            .await
            .unwrap();
    assert_eq!(by_transaction, [1, 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_while_it_commits_is_found_again() {
    let world = World::start().await;
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    let events = world.replica.events();
    let call = tokio::spawn(async move {
        let request = PublishEventRequest { event: Some(event("c", "e")) };
        events.clone().publish_event(request).await
    });
    obstacle.is_met().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    obstacle.lift().await;
    // Queues behind it.
    world.replica.publish(event("c", "last")).await.unwrap();
    assert!(world.replica.publish(event("c", "e")).await.unwrap().duplicate);
    world.replica.reaches("last", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs_of("e").len(), 1);
}

/// An acknowledgement is a promise, whatever the server's own setting is.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_was_flushed_to_disk() {
    let mut world = World::start().await;
    let pool = world.database.pool().clone();
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(&pool).await.unwrap();
    for statement in [
        format!("ALTER DATABASE {database} SET synchronous_commit = off"),
        "CREATE TABLE public.seen (of text, setting text)".to_owned(),
        "CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO public.seen VALUES (TG_ARGV[0], current_setting('synchronous_commit')); RETURN NEW;
         END $$"
            .to_owned(),
        "CREATE TRIGGER see BEFORE INSERT ON ingest.events FOR EACH ROW EXECUTE FUNCTION public.see('events')"
            .to_owned(),
        "CREATE TRIGGER see BEFORE INSERT ON ingest.attempts FOR EACH ROW EXECUTE FUNCTION public.see('attempts')"
            .to_owned(),
        "CREATE TRIGGER see BEFORE INSERT ON ingest.outcomes FOR EACH ROW EXECUTE FUNCTION public.see('outcomes')"
            .to_owned(),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    // Its sessions are new, so that they have the database's setting unless they have one of their own.
    let second = Replica::start(world.config(|_| {}), world.deployments()).await;
    world.replica.stop().await;
    world.replica = second;
    world.replica.publish(event("c", "e")).await.unwrap();
    world.replica.reaches("e", DeliveryState::Succeeded).await;
    let seen: Vec<(String, String)> =
        sqlx::query_as("SELECT DISTINCT of, setting FROM public.seen ORDER BY of")
            .fetch_all(&pool)
            .await
            .unwrap();
    let on = |of: &str| (of.to_owned(), "on".to_owned());
    assert_eq!(seen, [on("attempts"), on("events"), on("outcomes")]);
}
