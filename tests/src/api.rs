//! The contract, in the words of the tests.

use std::time::Duration;

use chatfn_proto::{
    convert::to_duration,
    ingest::v1::{
        Acknowledgement, Delivery, DeliveryState, Event, GetConversationRequest, GetDeliveryRequest,
        PublishEventRequest, delivery_service_client::DeliveryServiceClient, event::PayloadKind,
        event_ingest_service_client::EventIngestServiceClient,
    },
    invoker::v1::{LambdaFailure, RunReport, run_report::Outcome},
    registry::v1::{
        CreateFunctionRequest, DeployFunctionRequest, DeployFunctionResponse, Function, FunctionSettings,
        RetryPolicy, UpdateFunctionRequest, function_service_client::FunctionServiceClient,
        template_service_client::TemplateServiceClient,
    },
};
use chatfn_rpc::Client;
use tonic::Status;

use crate::{cluster::Cluster, eventually};

/// The tests' account.
pub const ACCOUNT: &str = "acme";

/// Clients of a cluster. They outlive restarts of its services.
#[derive(Clone)]
pub struct Api {
    /// TemplateService.
    pub templates: TemplateServiceClient<Client>,
    /// FunctionService.
    pub functions: FunctionServiceClient<Client>,
    /// EventIngestService.
    pub events: EventIngestServiceClient<Client>,
    /// DeliveryService.
    pub deliveries: DeliveryServiceClient<Client>,
}

impl Api {
    /// Clients of `cluster`.
    pub fn of(cluster: &Cluster) -> Self {
        Self::new(cluster.registry.client(), cluster.event_ingest.client())
    }

    /// Clients of a registry and an event-ingest.
    pub fn new(registry: Client, event_ingest: Client) -> Self {
        Self {
            templates: TemplateServiceClient::new(registry.clone()),
            functions: FunctionServiceClient::new(registry),
            events: EventIngestServiceClient::new(event_ingest.clone()),
            deliveries: DeliveryServiceClient::new(event_ingest),
        }
    }

    /// Registers a function and makes it live everywhere.
    pub async fn deploy(&mut self, template: &str, source: &str, settings: FunctionSettings) {
        let function = Function { source: source.into(), settings: Some(settings), ..Function::default() };
        let request = CreateFunctionRequest {
            parent: format!("accounts/{ACCOUNT}"),
            template: template.into(),
            function: Some(function),
            ..Default::default()
        };
        self.functions.create_function(request).await.expect("the function is created");
        self.redeploy(template).await.expect("the function is deployed");
        // Deploying again changes nothing, and tells how far the deployment has reached.
        eventually("the invoker and event-ingest know the deployment", async || {
            let propagation = self.redeploy(template).await.ok()?.propagation?;
            let (watchers, acknowledged) = (propagation.watchers, propagation.acknowledged);
            // An invoker with a snapshot file is two.
            (watchers >= 2 && acknowledged == watchers).then_some(())
        })
        .await;
    }

    /// Replaces the source of the draft of a function that exists.
    pub async fn update(&mut self, template: &str, source: &str) {
        let name = format!("accounts/{ACCOUNT}/functions/{template}");
        let function = Function { name, source: source.into(), ..Function::default() };
        let request = UpdateFunctionRequest { function: Some(function), ..UpdateFunctionRequest::default() };
        self.functions.update_function(request).await.expect("the draft is changed");
    }

    /// Deploys the draft of a function that exists.
    pub async fn redeploy(&mut self, template: &str) -> Result<DeployFunctionResponse, Status> {
        let name = format!("accounts/{ACCOUNT}/functions/{template}");
        let request = DeployFunctionRequest { name, ..DeployFunctionRequest::default() };
        Ok(self.functions.deploy_function(request).await?.into_inner())
    }

    /// Publishes an event.
    pub async fn publish(&mut self, event: Event) -> Result<Acknowledgement, Status> {
        let response = self.events.publish_event(PublishEventRequest { event: Some(event) }).await?;
        Ok(response.into_inner().acknowledgement.expect("an acknowledgement"))
    }

    /// The delivery of an event.
    pub async fn delivery(&mut self, event_id: &str) -> Delivery {
        let request = GetDeliveryRequest { name: format!("accounts/{ACCOUNT}/deliveries/{event_id}") };
        self.deliveries
            .get_delivery(request)
            .await
            .expect("the delivery is known")
            .into_inner()
            .delivery
            .unwrap()
    }

    /// The delivery of an event once it has reached its outcome.
    pub async fn outcome(&mut self, event_id: &str) -> Delivery {
        eventually(&format!("{event_id} has an outcome"), async || {
            let delivery = self.delivery(event_id).await;
            let running = matches!(delivery.state(), DeliveryState::Pending | DeliveryState::Retrying);
            (!running).then_some(delivery)
        })
        .await
    }

    /// Publishes an event of a conversation of its own and waits for its outcome.
    pub async fn run(&mut self, template: &str, event_id: &str) -> Delivery {
        self.run_in(template, event_id, event_id).await
    }

    /// Publishes an event of a conversation and waits for its outcome.
    pub async fn run_in(&mut self, template: &str, event_id: &str, conversation: &str) -> Delivery {
        let published = self.publish(event(template, event_id, conversation)).await;
        assert!(!published.expect("the event is accepted").duplicate);
        self.outcome(event_id).await
    }

    /// The history of a conversation.
    pub async fn conversation(&mut self, conversation: &str) -> Vec<Delivery> {
        let name = format!("accounts/{ACCOUNT}/conversations/{conversation}");
        let request = GetConversationRequest { name, ..GetConversationRequest::default() };
        self.deliveries.get_conversation(request).await.expect("a history").into_inner().deliveries
    }
}

/// A small payload that satisfies the schema of every template of chats.
const PAYLOAD: &str = r#"{
    "chatSessionKey": "H1", "endReason": "agent",
    "participantChange": {"oldParticipants": [], "newParticipants": []}
}"#;

/// An event with a small payload.
pub fn event(template: &str, event_id: &str, conversation: &str) -> Event {
    Event {
        account: ACCOUNT.into(),
        event_id: event_id.into(),
        template: template.into(),
        conversation_id: conversation.into(),
        payload_kind: Some(PayloadKind::PayloadJson(PAYLOAD.into())),
        ..Event::default()
    }
}

/// Settings that allow a host and retry soon.
pub fn settings(allowed_host: &str, max_attempts: u32) -> FunctionSettings {
    FunctionSettings {
        allowed_hosts: vec![allowed_host.to_owned()],
        environment: [("WITNESS".to_owned(), format!("http://{allowed_host}"))].into(),
        timeout: Some(to_duration(Duration::from_secs(20))),
        retry: Some(RetryPolicy {
            max_attempts,
            initial_backoff: Some(to_duration(Duration::from_millis(50))),
            max_backoff: Some(to_duration(Duration::from_millis(200))),
            ..RetryPolicy::default()
        }),
        ..FunctionSettings::default()
    }
}

/// The report of the last attempt.
pub fn report(delivery: &Delivery) -> &RunReport {
    let attempt = delivery.attempts.last().expect("an attempt");
    attempt.report.as_ref().unwrap_or_else(|| panic!("no report: {}", attempt.platform_error))
}

/// The result of the last attempt.
pub fn result(delivery: &Delivery) -> serde_json::Value {
    match &report(delivery).outcome {
        Some(Outcome::ResultJson(json)) => serde_json::from_str(json).expect("a result is JSON"),
        other => panic!("no result: {other:?}"),
    }
}

/// The failure of the last attempt.
pub fn failure(delivery: &Delivery) -> &LambdaFailure {
    match &report(delivery).outcome {
        Some(Outcome::Failure(failure)) => failure,
        other => panic!("no failure: {other:?}"),
    }
}
