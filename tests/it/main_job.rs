//! The main job: an event becomes a call to another API, once, in order, on the record.

use chatfn_proto::{
    ingest::v1::{DeliveryState, Event, event::PayloadKind},
    registry::v1::GetTemplateRequest,
};
use chatfn_tests::{
    api::{self, Api, event, report, result, settings},
    cluster::Cluster,
    witness::Witness,
};

const CALL_WITNESS: &str = r"
async function lambda(input, context) {
  const response = await fetch(`${process.env.WITNESS}/${context.eventId}`, { method: 'POST', body: JSON.stringify(input.payload) });
  console.info(`answered ${response.status}`);
  return { attempt: context.attempt, key: context.idempotencyKey };
}";

#[tokio::test]
async fn an_event_runs_its_function_once() {
    let (cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.in_queue", CALL_WITNESS, settings(&witness.host, 3)).await;

    let request = GetTemplateRequest { name: "templates/chat.in_queue".into() };
    let template = api.templates.get_template(request).await.unwrap().into_inner().template.unwrap();
    let sample = template.sample_payload_json;
    let seed = Event {
        payload_kind: Some(PayloadKind::PayloadJson(sample.clone())),
        ..event("chat.in_queue", "e-1", "c-1")
    };
    assert!(!api.publish(seed.clone()).await.unwrap().duplicate);
    let delivery = api.outcome("e-1").await;

    assert_eq!(delivery.state(), DeliveryState::Succeeded);
    let report = report(&delivery);
    assert_eq!(report.logs[0].message, "answered 200");
    assert_eq!(report.version, 1);
    let timeout = 20.0;
    let seconds = |duration: &Option<prost_types::Duration>| {
        let duration = duration.as_ref().unwrap();
        duration.seconds as f64 + f64::from(duration.nanos) / 1e9
    };
    let (ran, left) = (seconds(&report.duration), seconds(&report.remaining_budget));
    assert!(ran > 0.0 && left > 0.0 && ran + left <= timeout, "{ran} s + {left} s");
    let [call] = &report.outbound_calls[..] else { panic!("one call: {report:?}") };
    assert_eq!((call.method.as_str(), call.status), ("POST", 200));

    // What arrived is what was published, every field of the seed's table.
    let [seen] = &witness.calls()[..] else { panic!("one call") };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(json(&seen.body), json(&sample));
    assert_eq!(json(&sample)["preChatSurveyStructure"]["header"], "1528463744663");
    assert_eq!(json(&sample)["ttr"]["newTtr"]["value"], 300);
    assert!(seen.idempotency_key.is_some());

    assert!(api.publish(seed).await.unwrap().duplicate);
    assert_eq!(api.conversation("c-1").await.len(), 1);
    assert_eq!(witness.calls().len(), 1);
}

#[tokio::test]
async fn events_of_a_conversation_run_one_after_another_in_order() {
    let (cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.participants_change", CALL_WITNESS, settings(&witness.host, 1)).await;

    // Below the 20 outbound calls a second that a function has.
    for number in 0..8 {
        for conversation in ["c-a", "c-b"] {
            let id = format!("{conversation}-{number:02}");
            api.publish(event("chat.participants_change", &id, conversation)).await.unwrap();
        }
    }
    for conversation in ["c-a", "c-b"] {
        api.outcome(&format!("{conversation}-07")).await;
        let prefix = format!("/{conversation}");
        let seen: Vec<_> = witness
            .calls()
            .into_iter()
            .map(|call| call.path)
            .filter(|path| path.starts_with(&prefix))
            .collect();
        let expected: Vec<_> = (0..8).map(|number| format!("{prefix}-{number:02}")).collect();
        assert_eq!(seen, expected);
        let history = api.conversation(conversation).await;
        assert!(history.is_sorted_by_key(|delivery| delivery.sequence));
        assert!(history.iter().all(|delivery| delivery.state() == DeliveryState::Succeeded));
    }
}

#[tokio::test]
async fn a_template_that_fires_once_fires_once() {
    let (cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    api.deploy("chat.start", CALL_WITNESS, settings(&witness.host, 1)).await;

    let deliveries =
        [api.run_in("chat.start", "s-1", "c-1").await, api.run_in("chat.start", "s-2", "c-1").await];
    assert_eq!(deliveries[0].state(), DeliveryState::Succeeded);
    assert_eq!(deliveries[1].state(), DeliveryState::Suppressed);
    assert_eq!(deliveries[1].reason, "ALREADY_FIRED");
    assert!(deliveries[1].reason_message.contains("s-1"), "{}", deliveries[1].reason_message);
    // Another conversation is another matter.
    assert_eq!(api.run_in("chat.start", "s-3", "c-2").await.state(), DeliveryState::Succeeded);
    assert_eq!(witness.calls().len(), 2);
}

#[tokio::test]
async fn an_event_without_a_function_is_recorded() {
    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let delivery = api.run("chat.end", "e-1").await;
    assert_eq!(delivery.state(), DeliveryState::NoFunction);
    assert!(delivery.attempts.is_empty());
}

#[tokio::test]
async fn a_failing_lambda_is_retried_and_then_dead_lettered() {
    let (cluster, witness) = (Cluster::start().await, Witness::start().await);
    let mut api = Api::of(&cluster);
    let source = r"async function lambda(input, context) {
      await fetch(`${process.env.WITNESS}/x`, { method: 'POST', body: String(context.attempt) });
      if (context.attempt < 3 || context.eventId === 'always') throw new TypeError('not yet');
      return context.attempt;
    }";
    api.deploy("chat.participants_change", source, settings(&witness.host, 3)).await;

    let delivery = api.run("chat.participants_change", "third-time").await;
    assert_eq!((delivery.state(), delivery.attempts.len()), (DeliveryState::Succeeded, 3));
    assert_eq!(result(&delivery), 3);

    let delivery = api.run("chat.participants_change", "always").await;
    assert_eq!((delivery.state(), delivery.attempts.len()), (DeliveryState::DeadLettered, 3));
    let failure = api::failure(&delivery);
    assert_eq!((failure.error_name.as_str(), failure.message.as_str()), ("TypeError", "not yet"));
    assert!(failure.stack.contains("lambda.js:3"), "{}", failure.stack);

    // The key of a write stays the same over the attempts of an event and differs between events.
    let calls = witness.calls();
    assert_eq!(calls.len(), 6);
    assert!(calls[..3].iter().all(|call| call.idempotency_key == calls[0].idempotency_key));
    assert!(calls[3..].iter().all(|call| call.idempotency_key == calls[3].idempotency_key));
    assert_ne!(calls[0].idempotency_key, calls[3].idempotency_key);
}

#[tokio::test]
async fn a_redeployed_function_runs_its_new_version_and_a_rollback_the_old_one() {
    use chatfn_proto::registry::v1::{DeployFunctionRequest, Function, UpdateFunctionRequest};

    let cluster = Cluster::start().await;
    let mut api = Api::of(&cluster);
    let template = "chat.participants_change";
    api.deploy(template, "async function lambda() { return 'one' }", settings("127.0.0.1", 1)).await;
    assert_eq!(result(&api.run(template, "e-1").await), "one");

    let name = format!("accounts/{}/functions/{template}", api::ACCOUNT);
    let update = |source: &str| UpdateFunctionRequest {
        function: Some(Function { name: name.clone(), source: source.into(), ..Function::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["source".into()] }),
        ..Default::default()
    };
    api.functions.update_function(update("async function lambda() { return 'two' }")).await.unwrap();
    assert_eq!(result(&api.run(template, "e-2").await), "one", "an edit is not a deploy");
    api.redeploy(template).await.unwrap();
    assert_eq!(result(&api.run(template, "e-3").await), "two");

    // A draft that cannot be built leaves the live version live.
    api.functions.update_function(update("async function lambda() {\n  return 'three'\n")).await.unwrap();
    let refused = chatfn_rpc::ErrorReport::from_status(&api.redeploy(template).await.unwrap_err());
    assert_eq!(refused.reason.as_deref(), Some("BUILD_FAILED"));
    assert_eq!(refused.metadata.get("line").map(String::as_str), Some("3"), "{refused:?}");
    assert_eq!(result(&api.run(template, "e-4").await), "two");

    let rollback = DeployFunctionRequest { name, version: 1, ..DeployFunctionRequest::default() };
    api.functions.deploy_function(rollback).await.unwrap();
    let delivery = api.run(template, "e-5").await;
    assert_eq!((result(&delivery), report(&delivery).version), ("one".into(), 1));
}
