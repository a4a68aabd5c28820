//! Messages that no method takes: those that are too large, and those that cannot be read.

use std::collections::BTreeMap;

use chatfn_proto::ingest::v1::{
    DeliveryState, Event, PublishEventRequest, PublishEventsRequest, StreamEventsRequest, event::PayloadKind,
};
use chatfn_rpc::MAX_MESSAGE_BYTES;
use prost::Message;
use prost_types::{Struct, Value, value::Kind};
use tonic::Code;

use crate::{
    harness::{World, event, patiently, refused, settings},
    obstacle::Obstacle,
    publisher::Publisher,
};

fn with_text(event_id: &str, characters: usize) -> Event {
    let json = format!(r#"{{"text":"{}"}}"#, "x".repeat(characters));
    Event { payload_kind: Some(PayloadKind::PayloadJson(json)), ..event("c", event_id) }
}

/// A message of so many bytes: what `make` makes of a text of about as many characters as are said.
fn of_size<M: Message>(bytes: usize, about: usize, make: impl Fn(usize) -> M) -> M {
    let missing = bytes - make(about).encoded_len();
    let message = make(about + missing);
    assert_eq!(message.encoded_len(), bytes);
    message
}

/// Events that each are small enough, together so large.
fn many(bytes: usize) -> PublishEventsRequest {
    of_size(bytes, 50_000, |characters| {
        let events = (0..16).map(|n| with_text(&format!("e{n}"), 250 * 1024));
        PublishEventsRequest { events: events.chain([with_text("e16", characters)]).collect() }
    })
}

/// One event as the only one of a call.
fn single(bytes: usize) -> PublishEventRequest {
    of_size(bytes, bytes - 1024, |characters| PublishEventRequest {
        event: Some(with_text("large", characters)),
    })
}

/// The same as the request `client_sequence` of a stream.
fn streamed(client_sequence: i64, bytes: usize) -> StreamEventsRequest {
    of_size(bytes, bytes - 1024, |characters| StreamEventsRequest {
        client_sequence,
        event: Some(with_text("large", characters)),
    })
}

/// An event whose payload is nested deeper than the decoder of messages goes.
fn unreadable(event_id: &str) -> Event {
    let leaf = Value { kind: Some(Kind::BoolValue(true)) };
    let object = |inner| Struct { fields: BTreeMap::from([("a".to_owned(), inner)]) };
    let nested = (0..40).fold(leaf, |inner, _| Value { kind: Some(Kind::StructValue(object(inner))) });
    Event { payload_kind: Some(PayloadKind::Payload(object(nested))), ..event("c", event_id) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_4_mib_is_taken_and_one_byte_more_is_refused() {
    let world = World::start_with(settings(3), |config| config.quotas.kib_per_second = u32::MAX).await;
    let mut client = world.replica.events();
    let refusal = client.publish_events(many(MAX_MESSAGE_BYTES + 1)).await;
    refused(refusal, Code::OutOfRange, "MESSAGE_TOO_LARGE");
    refused(world.replica.delivery("e0").await, Code::NotFound, "DELIVERY_NOT_FOUND");
    let answers = client.publish_events(many(MAX_MESSAGE_BYTES)).await.unwrap().into_inner().results;
    assert_eq!(answers.len(), 17);
    // The last one tells of the others, which come before it in its conversation.
    world.replica.reaches("e16", DeliveryState::Succeeded).await;
    assert_eq!(world.invoker.runs().len(), 17);

    // No single event may be as large, but only what is larger is not even looked at.
    let refusal = client.publish_event(single(MAX_MESSAGE_BYTES)).await;
    let report = refused(refusal, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "event.payload_json");
    let refusal = client.publish_event(single(MAX_MESSAGE_BYTES + 1)).await;
    refused(refusal, Code::OutOfRange, "MESSAGE_TOO_LARGE");
    refused(world.replica.delivery("large").await, Code::NotFound, "DELIVERY_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_takes_4_mib_and_ends_at_one_byte_more() {
    let world = World::start().await;
    let mut publisher = Publisher::open(&world.replica).await;
    patiently(publisher.requests.send(streamed(1, MAX_MESSAGE_BYTES))).await.unwrap();
    let report = refused(publisher.answer(1).await, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "event.payload_json");
    ends_at(&world, publisher, streamed(4, MAX_MESSAGE_BYTES + 1), Code::OutOfRange, "MESSAGE_TOO_LARGE")
        .await;
    refused(world.replica.delivery("large").await, Code::NotFound, "DELIVERY_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_what_cannot_be_read() {
    let world = World::start().await;
    let publisher = Publisher::open(&world.replica).await;
    let bad = StreamEventsRequest { client_sequence: 4, event: Some(unreadable("deep")) };
    ends_at(&world, publisher, bad, Code::InvalidArgument, "MESSAGE_UNREADABLE").await;
    refused(world.replica.delivery("deep").await, Code::NotFound, "DELIVERY_NOT_FOUND");
}

/// Sends the requests 2 and 3, then a bad one as 4, and 5. The stream must end at the bad one, after the answers to what came
/// before; that stays recorded, and nothing else is.
async fn ends_at(
    world: &World,
    mut publisher: Publisher,
    bad: StreamEventsRequest,
    code: Code,
    reason: &str,
) {
    publisher.send(2, event("c", "acknowledged")).await;
    assert!(!publisher.answer(2).await.unwrap().duplicate);
    let obstacle = Obstacle::before_commits(world.database.pool()).await;
    publisher.send(3, event("c", "in_progress")).await;
    obstacle.is_met().await;
    patiently(publisher.requests.send(bad)).await.unwrap();
    publisher.send(5, event("c", "after")).await;
    obstacle.lift().await;
    assert!(!publisher.answer(3).await.unwrap().duplicate, "what was read is answered first");
    refused(publisher.end().await, code, reason);
    refused(world.replica.delivery("after").await, Code::NotFound, "DELIVERY_NOT_FOUND");

    // As the contract says: resumed without the event that was next to be answered.
    let mut publisher = Publisher::open(&world.replica).await;
    for (id, n) in ["acknowledged", "in_progress", "after"].into_iter().zip(1..) {
        publisher.send(n, event("c", id)).await;
        assert_eq!(publisher.answer(n).await.unwrap().duplicate, id != "after", "{id}");
    }
    assert!(publisher.finish().end().await.is_ok());
    world.replica.reaches("after", DeliveryState::Succeeded).await;
    let ran: Vec<String> = world.invoker.runs().into_iter().map(|run| run.event_id).collect();
    assert_eq!(ran, ["acknowledged", "in_progress", "after"]);
}
