//! One trace, from who publishes an event to whom its lambda calls.

use chatfn_proto::ingest::v1::{DeliveryState, Event, PublishEventRequest, event::PayloadKind};
use chatfn_rpc::{RequestExt as _, TraceParent};
use chatfn_tests::{
    api::{Api, event, settings},
    cluster::Cluster,
    collector::{Collector, hex},
    witness::Witness,
};
use tonic::Request;

const TEMPLATE: &str = "chat.participants_change";
const CANARY: &str = "canary-4711";
const LAMBDA: &str = r"
async function lambda(input, context) {
  if (context.attempt < 2) throw new Error(input.payload.canary);
  await fetch(`${process.env.WITNESS}/crm?canary=${input.payload.canary}`, { method: 'POST', body: input.payload.canary });
  return input.payload.canary;
}";

#[tokio::test]
async fn an_event_is_one_trace_from_its_publisher_to_its_lambdas_calls() {
    let (collector, witness) = (Collector::start().await, Witness::start().await);
    let mut cluster = Cluster::start().await;
    for service in [&mut cluster.registry, &mut cluster.invoker, &mut cluster.event_ingest] {
        service.stop().await;
        service.flag("otlp-endpoint", &format!("http://{}", collector.address));
        service.flag("trace-ratio", "0");
        service.start();
    }
    for service in [&cluster.registry, &cluster.invoker, &cluster.event_ingest] {
        service.serving().await;
    }
    let mut api = Api::of(&cluster);
    api.deploy(TEMPLATE, LAMBDA, settings(&witness.host, 3)).await;

    let ours: TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let untold: TraceParent = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00".parse().unwrap();
    for (event_id, trace) in [("e-untold", untold), ("e-told", ours)] {
        let payload = format!(
            r#"{{"chatSessionKey": "H1", "participantChange": {{"oldParticipants": [], "newParticipants": []}}, "canary": "{CANARY}"}}"#
        );
        let event = Event {
            payload_kind: Some(PayloadKind::PayloadJson(payload)),
            ..event(TEMPLATE, event_id, "c-1")
        };
        let request = Request::new(PublishEventRequest { event: Some(event) }).with_trace(trace);
        api.events.publish_event(request).await.unwrap();
        assert_eq!(api.outcome(event_id).await.state(), DeliveryState::Succeeded);
    }

    // Each is a child of the one before.
    let trace_id = ours.trace_id();
    let chain = [
        ("event-ingest", "chatfn.ingest.v1.EventIngestService/PublishEvent"),
        ("event-ingest", "attempt 2"),
        ("invoker", "chatfn.invoker.v1.InvokerService/Invoke"),
        ("invoker", "POST"),
    ];
    let mut parent = ours.as_str()[36..52].to_owned();
    let first = collector.span(trace_id, "attempt 1").await;
    for (service, name) in chain {
        let invokes = |it: &&chatfn_tests::collector::Recorded| hex(&it.span.parent_span_id) == parent;
        let found = chatfn_tests::eventually(&format!("{name} is recorded below {parent}"), async || {
            collector.spans().iter().filter(invokes).find(|it| it.span.name == name).cloned()
        })
        .await;
        assert_eq!(
            (found.service.as_str(), hex(&found.span.trace_id).as_str()),
            (service, trace_id),
            "{found:?}"
        );
        parent = hex(&found.span.span_id);
        match name {
            "attempt 2" => {
                assert_eq!(found.span.parent_span_id, first.span.parent_span_id);
                assert_eq!(found.noted("chatfn.account").as_deref(), Some("acme"));
                assert_eq!(found.noted("chatfn.event_id").as_deref(), Some("e-told"));
                assert_eq!(found.noted("chatfn.outcome").as_deref(), Some("SUCCEEDED"));
                assert_eq!(first.noted("chatfn.outcome").as_deref(), Some("FAILURE_KIND_THROWN"));
            }
            "POST" => {
                assert_eq!(found.noted("server.address").as_deref(), Some(witness.host.as_str()));
                assert_eq!(found.noted("http.response.status_code").as_deref(), Some("200"));
            }
            _ => assert_eq!(found.noted("rpc.grpc.status_code").as_deref(), Some("0")),
        }
    }
    // Who is called learns the last of them.
    let calls = witness.calls();
    let [of_untold, of_told] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(of_told.traceparent.as_deref(), Some(format!("00-{trace_id}-{parent}-01").as_str()));
    assert_eq!(of_untold.traceparent.as_deref(), Some(untold.as_str()));
    let recorded = format!("{:?}", collector.spans());
    assert!(!recorded.contains(untold.trace_id()), "the caller said that it is not to be recorded");
    assert!(!recorded.contains(CANARY), "spans hold no payloads, URLs or messages");
}
