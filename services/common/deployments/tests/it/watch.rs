//! What look-ups see of a watch.

use chatfn_deployments::NotReady;
use chatfn_proto::registry::v1::{
    DeploymentRemoved, Firing, Resumed, Template, watch_deployments_response::Change,
};

use crate::harness::{COMPLETE, END, Fixture, START, change, change_to, deployed, version};

#[tokio::test]
async fn changes_are_seen_before_they_are_acknowledged() {
    let mut fixture = Fixture::start(1).await;
    let deployments = fixture.watch();
    assert_eq!(deployments.function(&START.parse().unwrap()), Err(NotReady));

    let call = fixture.calls.pop_front().unwrap();
    let template = Template {
        name: "templates/chat.start".into(),
        firing: Firing::OncePerConversation.into(),
        sample_payload_json: "{}".into(),
        ..Template::default()
    };
    call.send(change(7, Change::Template(template))).await.unwrap();
    call.send(change(7, deployed(START, 1))).await.unwrap();
    call.send(change(7, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(7).await;
    assert_eq!(version(&deployments, START), Some(1));
    let template = deployments.template(&"chat.start".parse().unwrap()).unwrap().unwrap();
    assert!(template.fires_once);
    assert_eq!(template.sample_payload_json, "{}");

    call.send(change(8, deployed(START, 2))).await.unwrap();
    fixture.expect_ack(8).await;
    assert_eq!(version(&deployments, START), Some(2));

    call.send(change(9, Change::Removed(DeploymentRemoved { function: START.into() }))).await.unwrap();
    fixture.expect_ack(9).await;
    assert_eq!(version(&deployments, START), None);
}

#[tokio::test]
async fn the_old_state_stays_until_the_new_snapshot_is_complete() {
    let mut fixture = Fixture::start(2).await;
    let deployments = fixture.watch();
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 1))).await.unwrap();
    call.send(change(1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;

    drop(call);
    fixture.expect_start().await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(5, deployed(END, 1))).await.unwrap();
    assert_eq!((version(&deployments, START), version(&deployments, END)), (Some(1), None));

    call.send(change(5, COMPLETE)).await.unwrap();
    fixture.expect_ack(5).await;
    assert_eq!((version(&deployments, START), version(&deployments, END)), (None, Some(1)));
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_token() {
    let mut fixture = Fixture::start(3).await;
    let deployments = fixture.watch();
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 1))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    call.send(change_to("b", 2, deployed(END, 1))).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    fixture.expect_ack(2).await;

    // What is live stays, but for what is told.
    drop(call);
    fixture.expect_start_from("b").await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(2, Change::Resumed(Resumed {}))).await.unwrap();
    call.send(change(3, Change::Removed(DeploymentRemoved { function: START.into() }))).await.unwrap();
    assert_eq!(version(&deployments, START), Some(1), "as long as it is not complete");
    call.send(change_to("c", 3, COMPLETE)).await.unwrap();
    fixture.expect_ack(3).await;
    assert_eq!((version(&deployments, START), version(&deployments, END)), (None, Some(1)));

    // A registry that does not know the token sends a snapshot.
    drop(call);
    fixture.expect_start_from("c").await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(9, deployed(START, 7))).await.unwrap();
    call.send(change_to("d", 9, COMPLETE)).await.unwrap();
    fixture.expect_ack(9).await;
    assert_eq!((version(&deployments, START), version(&deployments, END)), (Some(7), None));
}

#[tokio::test]
async fn templates_that_do_not_come_again_are_gone() {
    let mut fixture = Fixture::start(2).await;
    let deployments = fixture.watch();
    let template =
        |name: &str| Change::Template(Template { name: format!("templates/{name}"), ..Template::default() });
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, template("acme.old"))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    drop(call);
    fixture.expect_start_from("a").await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, Change::Resumed(Resumed {}))).await.unwrap();
    call.send(change(1, template("acme.new"))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    fixture.expect_ack(1).await;
    let known = |name: &str| deployments.template(&name.parse().unwrap()).unwrap().is_some();
    assert_eq!((known("acme.old"), known("acme.new")), (false, true));
}

#[tokio::test]
async fn what_this_release_cannot_read_stays_as_it_is_known() {
    let mut fixture = Fixture::start(2).await;
    let deployments = fixture.watch();
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 1))).await.unwrap();
    call.send(change(1, deployed(END, 1))).await.unwrap();
    call.send(change(1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    drop(call);
    // A snapshot in which one is of a later release, and another is gone.
    fixture.expect_start().await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(5, deployed(START, 0))).await.unwrap();
    call.send(change(5, COMPLETE)).await.unwrap();
    fixture.expect_ack(5).await;
    assert_eq!((version(&deployments, START), version(&deployments, END)), (Some(1), None));
}

#[tokio::test]
async fn what_this_release_cannot_read_is_asked_for_again() {
    let mut fixture = Fixture::start(2).await;
    let deployments = fixture.watch();
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 1))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    // Versions count from 1.
    call.send(change_to("b", 2, deployed(START, 0))).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    fixture.expect_ack(2).await;
    assert_eq!(version(&deployments, START), Some(1));
    drop(call);
    fixture.expect_start_from("").await;
}
