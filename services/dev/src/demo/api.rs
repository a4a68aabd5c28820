//! The cluster's services, as the demo calls them.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use chatfn_proto::{
    ingest::v1::{
        Acknowledgement, Delivery, DeliveryState, Event, GetDeliveryRequest, PublishEventRequest,
        delivery_service_client::DeliveryServiceClient, event::PayloadKind,
        event_ingest_service_client::EventIngestServiceClient,
    },
    registry::v1::{
        CreateFunctionRequest, CreateFunctionResponse, DeployFunctionRequest, DeployFunctionResponse,
        Function, FunctionSettings, GetTemplateRequest, Template,
        function_service_client::FunctionServiceClient, template_service_client::TemplateServiceClient,
    },
};
use chatfn_rpc::{Client, ErrorReport};
use tonic::Status;

use crate::cluster::Cluster;

/// The demo's account.
pub(crate) const ACCOUNT: &str = "acme";

/// How long a deployment or an outcome may take. Generous: a slow machine is no failure.
const WAIT: Duration = Duration::from_secs(60);

pub(crate) struct Api {
    templates: TemplateServiceClient<Client>,
    functions: FunctionServiceClient<Client>,
    events: EventIngestServiceClient<Client>,
    deliveries: DeliveryServiceClient<Client>,
}

impl Api {
    pub(crate) fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let registry = cluster.client(cluster.registry)?;
        let event_ingest = cluster.client(cluster.event_ingest)?;
        Ok(Self {
            templates: TemplateServiceClient::new(registry.clone()),
            functions: FunctionServiceClient::new(registry),
            events: EventIngestServiceClient::new(event_ingest.clone()),
            deliveries: DeliveryServiceClient::new(event_ingest),
        })
    }

    pub(crate) async fn template(&mut self, template: &str) -> anyhow::Result<Template> {
        let request = GetTemplateRequest { name: format!("templates/{template}") };
        let response = self.templates.get_template(request).await.map_err(explain)?;
        response.into_inner().template.context("a template in the answer")
    }

    /// Registers a function; an empty source stands for the template's starter lambda.
    pub(crate) async fn create(
        &mut self,
        template: &str,
        source: &str,
        settings: FunctionSettings,
    ) -> Result<CreateFunctionResponse, Status> {
        let function =
            Function { source: source.to_owned(), settings: Some(settings), ..Function::default() };
        let request = CreateFunctionRequest {
            parent: format!("accounts/{ACCOUNT}"),
            template: template.to_owned(),
            function: Some(function),
            ..Default::default()
        };
        Ok(self.functions.create_function(request).await?.into_inner())
    }

    /// Deploys the draft, until every watcher has taken it over. Deploying what is live changes nothing and
    /// tells how far it has reached.
    pub(crate) async fn deploy(&mut self, template: &str) -> anyhow::Result<DeployFunctionResponse> {
        let request = DeployFunctionRequest {
            name: format!("accounts/{ACCOUNT}/functions/{template}"),
            message: "the demo".to_owned(),
            ..DeployFunctionRequest::default()
        };
        let reached = async {
            loop {
                let response =
                    self.functions.deploy_function(request.clone()).await.map_err(explain)?.into_inner();
                let propagation = response.propagation.context("a propagation in the answer")?;
                if propagation.watchers == 2 && propagation.acknowledged == 2 {
                    return anyhow::Ok(response);
                }
            }
        };
        tokio::time::timeout(WAIT, reached).await.with_context(|| {
            format!("{template} has not reached the invoker and event-ingest after {WAIT:?}")
        })?
    }

    pub(crate) async fn create_and_deploy(
        &mut self,
        template: &str,
        source: &str,
        settings: FunctionSettings,
    ) -> anyhow::Result<DeployFunctionResponse> {
        self.create(template, source, settings).await.map_err(explain)?;
        self.deploy(template).await
    }

    pub(crate) async fn publish(
        &mut self,
        template: &str,
        event_id: &str,
        conversation: &str,
        payload_json: &str,
    ) -> anyhow::Result<Acknowledgement> {
        let event = Event {
            account: ACCOUNT.to_owned(),
            event_id: event_id.to_owned(),
            template: template.to_owned(),
            conversation_id: conversation.to_owned(),
            payload_kind: Some(PayloadKind::PayloadJson(payload_json.to_owned())),
            ..Event::default()
        };
        let request = PublishEventRequest { event: Some(event) };
        let response = self.events.publish_event(request).await.map_err(explain)?;
        response.into_inner().acknowledgement.context("an acknowledgement in the answer")
    }

    /// Waits until an event has reached its outcome.
    pub(crate) async fn outcome(&mut self, event_id: &str) -> anyhow::Result<Delivery> {
        let request = GetDeliveryRequest { name: format!("accounts/{ACCOUNT}/deliveries/{event_id}") };
        let poll = async {
            loop {
                let response = self.deliveries.get_delivery(request.clone()).await.map_err(explain)?;
                let delivery = response.into_inner().delivery.context("a delivery in the answer")?;
                if !matches!(delivery.state(), DeliveryState::Pending | DeliveryState::Retrying) {
                    return anyhow::Ok(delivery);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(WAIT, poll)
            .await
            .with_context(|| format!("event {event_id} has no outcome after {WAIT:?}"))?
    }
}

/// A status with its reason, as an error of the demo.
pub(crate) fn explain(status: Status) -> anyhow::Error {
    let report = ErrorReport::from_status(&status);
    let reason = report.reason.unwrap_or_default();
    anyhow!("{:?} {reason}: {}", report.code, report.message)
}
