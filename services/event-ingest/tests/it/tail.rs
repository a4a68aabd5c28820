//! Deliveries as they change.

use std::collections::BTreeMap;

use chatfn_domain::{lane::lane_of, retry::AfterLastAttempt};
use chatfn_proto::ingest::v1::{
    Delivery, DeliveryState, Event, ResumeConversationRequest, TailDeliveriesRequest, TailDeliveriesResponse,
};
use chatfn_rpc::RequestExt as _;
use tonic::{Code, Request, Status, Streaming};

use crate::{
    harness::{ACME, Replica, UNUSED, World, event, patiently, refused, settings},
    invoker::Answer,
};

fn all() -> TailDeliveriesRequest {
    TailDeliveriesRequest { parent: format!("accounts/{ACME}"), ..TailDeliveriesRequest::default() }
}

async fn tail(
    replica: &Replica,
    request: TailDeliveriesRequest,
) -> Result<Streaming<TailDeliveriesResponse>, Status> {
    let request = Request::new(request).without_deadline();
    Ok(replica.deliveries().tail_deliveries(request).await?.into_inner())
}

/// The next response with deliveries, and its token.
async fn next(stream: &mut Streaming<TailDeliveriesResponse>) -> (Vec<Delivery>, String) {
    loop {
        let response = patiently(stream.message()).await.unwrap().unwrap();
        if !response.deliveries.is_empty() {
            return (response.deliveries, response.resume_token);
        }
    }
}

/// Reads on until every one of these events was last told in its state.
async fn until(
    stream: &mut Streaming<TailDeliveriesResponse>,
    expected: &[(&str, DeliveryState)],
) -> (Vec<(String, DeliveryState)>, String) {
    let (mut told, mut last) = (Vec::new(), BTreeMap::new());
    loop {
        let (deliveries, token) = next(stream).await;
        for delivery in deliveries {
            told.push((delivery.event_id.clone(), delivery.state()));
            last.insert(delivery.event_id.clone(), delivery.state());
        }
        if expected.iter().all(|(id, state)| last.get(*id) == Some(state)) {
            return (told, token);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_through_any_replica_and_filtered() {
    let mut settings = settings(2);
    settings.retry.initial_backoff = std::time::Duration::from_secs(600);
    settings.retry.max_backoff = settings.retry.initial_backoff;
    let world = World::start_with(settings, |_| {}).await;
    let other = Replica::start(world.config(|_| {}), world.deployments()).await;
    world.replica.publish(event("c", "before")).await.unwrap();
    world.replica.reaches("before", DeliveryState::Succeeded).await;

    let mut everything = tail(&other, all()).await.unwrap();
    let states = vec![DeliveryState::NoFunction.into(), DeliveryState::Retrying.into()];
    let mut problems = tail(&other, TailDeliveriesRequest { states, ..all() }).await.unwrap();
    let one = TailDeliveriesRequest { conversation_id: "d".to_owned(), ..all() };
    let mut one = tail(&other, one).await.unwrap();
    for stream in [&mut everything, &mut problems, &mut one] {
        let first = patiently(stream.message()).await.unwrap().unwrap();
        assert!(first.deliveries.is_empty() && !first.resume_token.is_empty());
    }

    world.invoker.script("fails", [Answer::Throws]);
    let unused = Event { template: UNUSED.to_owned(), ..event("d", "unused") };
    for sent in [event("c", "runs"), event("e", "fails"), unused] {
        world.replica.publish(sent).await.unwrap();
    }
    let expected = [
        ("runs", DeliveryState::Succeeded),
        ("fails", DeliveryState::Retrying),
        ("unused", DeliveryState::NoFunction),
    ];
    let (told, _) = until(&mut everything, &expected).await;
    assert!(told.iter().all(|(id, _)| id != "before"), "{told:?}");
    let (told, _) = until(&mut problems, &expected[1..]).await;
    assert_eq!(told.len(), 2, "{told:?}");
    let (told, _) = until(&mut one, &expected[2..]).await;
    assert!(told.iter().all(|(id, _)| id == "unused"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_stream_misses_nothing() {
    let world = World::start().await;
    let release = tokio_util::sync::CancellationToken::new();
    world.invoker.script("long", [Answer::ReturnsAfter(release.clone())]);
    let mut stream = tail(&world.replica, all()).await.unwrap();
    patiently(stream.message()).await.unwrap().unwrap();
    world.replica.publish(event("c", "long")).await.unwrap();
    world.replica.publish(event("d", "short")).await.unwrap();
    let expected = [("long", DeliveryState::Pending), ("short", DeliveryState::Succeeded)];
    let (_, token) = until(&mut stream, &expected).await;
    drop(stream);
    for n in 0..300 {
        world.replica.publish(event(&format!("c{n}"), &format!("e{n}"))).await.unwrap();
    }
    release.cancel();
    world.replica.reaches("long", DeliveryState::Succeeded).await;
    let resumed = TailDeliveriesRequest { resume_token: token.clone(), ..all() };
    let mut stream = tail(&world.replica, resumed.clone()).await.unwrap();
    let ids: Vec<String> = (0..300).map(|n| format!("e{n}")).collect();
    let mut expected: Vec<_> = ids.iter().map(|id| (id.as_str(), DeliveryState::Succeeded)).collect();
    expected.push(("long", DeliveryState::Succeeded));
    until(&mut stream, &expected).await;

    let foreign = TailDeliveriesRequest { template: UNUSED.to_owned(), ..resumed };
    let report = refused(tail(&world.replica, foreign).await, Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    assert_eq!(report.fields[0].field, "resume_token");
    let no_state = TailDeliveriesRequest { states: vec![0], ..all() };
    let report = refused(tail(&world.replica, no_state).await, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(report.fields[0].field, "states");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halted_delivery_is_told_to_who_resumes_and_nothing_that_came_after_it_is_told_again() {
    let mut settings = settings(1);
    settings.retry.after_last_attempt = AfterLastAttempt::Halt;
    let world = World::start_with(settings, |_| {}).await;
    let account = ACME.parse().unwrap();
    let lane = |conversation: &str| lane_of(&account, &conversation.parse().unwrap());
    let other = (0..).map(|n| format!("c{n}")).find(|other| lane(other) == lane("c")).unwrap();
    let mut stream = tail(&world.replica, all()).await.unwrap();
    let unused = TailDeliveriesRequest { template: UNUSED.to_owned(), ..all() };
    let mut filtered = tail(&world.replica, unused.clone()).await.unwrap();
    patiently(stream.message()).await.unwrap().unwrap();
    let filtered_token = patiently(filtered.message()).await.unwrap().unwrap().resume_token;
    drop(filtered);

    world.invoker.script("halts", [Answer::Throws]);
    world.replica.publish(event("c", "halts")).await.unwrap();
    until(&mut stream, &[("halts", DeliveryState::Halted)]).await;
    world.replica.publish(event("c", "behind")).await.unwrap();
    world.replica.publish(event(&other, "before")).await.unwrap();
    let expected = [("behind", DeliveryState::Pending), ("before", DeliveryState::Succeeded)];
    until(&mut stream, &expected).await;
    world.replica.publish(Event { template: UNUSED.to_owned(), ..event(&other, "unused") }).await.unwrap();
    patiently(async {
        // A response's token may stand before what it tells itself, and before what was told just before.
        for n in 0.. {
            let (last, after) = (format!("last{n}"), format!("after{n}"));
            world.replica.publish(event(&other, &last)).await.unwrap();
            let (_, token) = until(&mut stream, &[(&last, DeliveryState::Succeeded)]).await;
            world.replica.publish(event(&other, &after)).await.unwrap();
            stream =
                tail(&world.replica, TailDeliveriesRequest { resume_token: token, ..all() }).await.unwrap();
            let expected = [("halts", DeliveryState::Halted), (&after, DeliveryState::Succeeded)];
            let (told, _) = until(&mut stream, &expected).await;
            if told.iter().all(|(id, _)| id != "before" && id != "behind") {
                break;
            }
        }
    })
    .await;
    // What was behind it is told when it goes on.
    let name = format!("accounts/{ACME}/conversations/c");
    let go_on = ResumeConversationRequest { name, event_id: String::new() };
    world.replica.deliveries().resume_conversation(go_on).await.unwrap();
    until(&mut stream, &[("halts", DeliveryState::Succeeded), ("behind", DeliveryState::Succeeded)]).await;

    let resumed = TailDeliveriesRequest { resume_token: filtered_token, ..unused };
    let mut stream = tail(&world.replica, resumed).await.unwrap();
    let (told, _) = until(&mut stream, &[("unused", DeliveryState::NoFunction)]).await;
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_streams_and_a_drain_ends_them() {
    let mut world = World::start().await;
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(tail(&world.replica, all()).await.unwrap());
    }
    refused(tail(&world.replica, all()).await, Code::ResourceExhausted, "TOO_MANY_TAILS");
    let other = TailDeliveriesRequest { parent: "accounts/other".to_owned(), ..all() };
    streams.insert(0, tail(&world.replica, other).await.expect("one account cannot have them all"));
    drop(streams.pop());
    // Its place is free again once the server has seen it go.
    streams.push(
        patiently(async {
            loop {
                match tail(&world.replica, all()).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        })
        .await,
    );
    world.replica.stop().await;
    for mut stream in streams {
        let end = loop {
            match patiently(stream.message()).await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        refused(end, Code::Unavailable, "SERVER_DRAINING");
    }
}
