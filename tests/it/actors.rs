//! Whoever acts on deliveries is remembered by name.

use chatfn_proto::{
    ingest::v1::{
        CancelReplayRequest, CreateReplayRequest, Delivery, DeliveryState, GetReplayRequest,
        ListReplaysRequest, OperatorAction, PublishEventsRequest, Replay, ReplayFilter, ReplayState,
        ResumeConversationRequest, SkipEventRequest, delivery_service_client::DeliveryServiceClient,
        replay_service_client::ReplayServiceClient,
    },
    registry::v1::AfterLastAttempt,
};
use chatfn_rpc::{Client, Role};
use chatfn_tests::{
    api::{ACCOUNT, Api, event, settings},
    cluster::Cluster,
    eventually,
    identities::Identities,
};
use serde_json::json;

const TEMPLATE: &str = "chat.participants_change";
/// A template without a function.
const UNUSED: &str = "chat.end";

/// Someone with a token of their own.
struct Person {
    deliveries: DeliveryServiceClient<Client>,
    replays: ReplayServiceClient<Client>,
}

impl Person {
    fn named(name: &str, role: Role, cluster: &Cluster, identities: &Identities) -> Self {
        let mut claims = identities.claims(ACCOUNT, &[role]);
        claims["sub"] = json!(name);
        let token = identities.key.sign(&claims).expect("a token");
        let client = cluster.event_ingest.client_as(&identities.call(&token));
        Self {
            deliveries: DeliveryServiceClient::new(client.clone()),
            replays: ReplayServiceClient::new(client),
        }
    }

    async fn resume(&mut self, conversation: &str) {
        let name = format!("accounts/{ACCOUNT}/conversations/{conversation}");
        let request = ResumeConversationRequest { name, ..Default::default() };
        self.deliveries.resume_conversation(request).await.expect("it is resumed");
    }

    async fn skip(&mut self, event_id: &str) {
        let name = format!("accounts/{ACCOUNT}/deliveries/{event_id}");
        self.deliveries.skip_event(SkipEventRequest { name }).await.expect("it is skipped");
    }

    /// Starts a replay of what is in this state.
    async fn replay(&mut self, state: DeliveryState, events_per_second: i32) -> Replay {
        let filter = Some(ReplayFilter { states: vec![state.into()], ..Default::default() });
        let request = CreateReplayRequest {
            parent: format!("accounts/{ACCOUNT}"),
            replay: Some(Replay { filter, events_per_second, ..Default::default() }),
            ..Default::default()
        };
        self.replays.create_replay(request).await.expect("it is started").into_inner().replay.unwrap()
    }

    async fn cancel(&mut self, name: &str) -> Replay {
        let request = CancelReplayRequest { name: name.to_owned() };
        self.replays.cancel_replay(request).await.expect("it is canceled").into_inner().replay.unwrap()
    }
}

/// A delivery, once operators have acted on it so often and it has come to this.
async fn acted_on(api: &mut Api, event_id: &str, times: usize, state: DeliveryState) -> Delivery {
    eventually(&format!("{event_id} has been acted on {times} times"), async || {
        let delivery = api.delivery(event_id).await;
        (delivery.past_states.len() == times && delivery.state() == state).then_some(delivery)
    })
    .await
}

/// What was done about a delivery, and by whom.
fn acts(delivery: &Delivery) -> Vec<(OperatorAction, &str)> {
    delivery.past_states.iter().map(|past| (past.action(), past.actor.as_str())).collect()
}

#[tokio::test]
async fn each_act_is_told_with_the_name_of_who_did_it() {
    let identities = Identities::make();
    let cluster = Cluster::start_secure(&identities).await;
    let mut api = Api::of(&cluster);
    let mut ann = Person::named("ann@acme.test", Role::Admin, &cluster, &identities);
    let mut bob = Person::named("bob@acme.test", Role::Developer, &cluster, &identities);
    let mut settings = settings("127.0.0.1", 1);
    settings.retry.as_mut().unwrap().after_last_attempt = AfterLastAttempt::Halt.into();
    api.deploy(TEMPLATE, "async function lambda() { throw new Error('always') }", settings).await;
    for id in ["resumed", "skipped"] {
        assert_eq!(api.run(TEMPLATE, id).await.state(), DeliveryState::Halted);
    }

    ann.resume("resumed").await;
    let resumed = acted_on(&mut api, "resumed", 1, DeliveryState::Halted).await;
    assert_eq!(acts(&resumed), [(OperatorAction::Resume, "ann@acme.test")]);

    bob.skip("skipped").await;
    let skipped = acted_on(&mut api, "skipped", 1, DeliveryState::DeadLettered).await;
    assert_eq!(acts(&skipped), [(OperatorAction::Skip, "bob@acme.test")]);
    assert_eq!(skipped.reason, "SKIPPED");
    assert!(skipped.reason_message.contains("bob@acme.test"), "{skipped:?}");

    let replay = ann.replay(DeliveryState::DeadLettered, 50).await;
    assert_eq!(replay.actor, "ann@acme.test");
    let replayed = acted_on(&mut api, "skipped", 2, DeliveryState::Halted).await;
    assert_eq!(
        acts(&replayed),
        [(OperatorAction::Skip, "bob@acme.test"), (OperatorAction::Replay, "ann@acme.test")]
    );
    assert_eq!(replayed.past_states[1].replay, replay.name);

    // More than a replay gets done before it is canceled.
    let events = (0..60).map(|n| event(UNUSED, &format!("unused-{n}"), &format!("unused-{n}")));
    let published = api.events.publish_events(PublishEventsRequest { events: events.collect() }).await;
    assert_eq!(published.unwrap().into_inner().results.len(), 60);
    for n in 0..60 {
        assert_eq!(api.outcome(&format!("unused-{n}")).await.state(), DeliveryState::NoFunction);
    }
    let slow = bob.replay(DeliveryState::NoFunction, 1).await;
    assert_eq!((slow.actor.as_str(), slow.cancel_actor.as_str()), ("bob@acme.test", ""));
    let canceled = ann.cancel(&slow.name).await;
    assert_eq!(canceled.state(), ReplayState::Canceled);
    assert_eq!((canceled.actor.as_str(), canceled.cancel_actor.as_str()), ("bob@acme.test", "ann@acme.test"));

    // Whoever asks later is told the same.
    let request = GetReplayRequest { name: slow.name.clone() };
    let told = bob.replays.get_replay(request).await.unwrap().into_inner().replay.unwrap();
    assert_eq!((told.actor, told.cancel_actor), (canceled.actor, canceled.cancel_actor));
    let request = ListReplaysRequest { parent: format!("accounts/{ACCOUNT}"), ..Default::default() };
    let listed = bob.replays.list_replays(request).await.unwrap().into_inner().replays;
    let actors: Vec<_> = listed.iter().map(|it| (it.actor.as_str(), it.cancel_actor.as_str())).collect();
    assert_eq!(actors, [("bob@acme.test", "ann@acme.test"), ("ann@acme.test", "")]);
}
