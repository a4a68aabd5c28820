//! `EventIngestService`.

use std::sync::Arc;

use chatfn_proto::{
    ingest::v1::{
        Acknowledgement, Event, PublishEventRequest, PublishEventResponse, PublishEventsRequest,
        PublishEventsResponse, PublishResult, event_ingest_service_server::EventIngestService,
        publish_result::Result as Outcome,
    },
    validate::{Violations, validated},
};
use chatfn_rpc::RequestExt as _;
use prost::Message as _;
use tonic::{Request, Response, Status};

use crate::{
    committer::{Ack, Committers},
    intake::Intake,
};

/// Takes events in.
pub(crate) struct PublishHandler {
    pub(crate) intake: Arc<Intake>,
    pub(crate) committers: Committers,
}

#[tonic::async_trait]
impl EventIngestService for PublishHandler {
    async fn publish_event(
        &self,
        request: Request<PublishEventRequest>,
    ) -> Result<Response<PublishEventResponse>, Status> {
        let context = request.context();
        let event = request.into_inner().event;
        // Its own rules are checked by the intake, in the same way as those of many events.
        let event = event.ok_or_else(|| Violations::one("event", "is required"))?;
        let event = self.intake.check(event, &context)?;
        let answers = self.committers.record(vec![event], context.deadline).await;
        let answer = answers.into_iter().next().unwrap_or_else(|| Err(crate::error::draining()))?;
        Ok(Response::new(PublishEventResponse { acknowledgement: Some(acknowledgement(answer)) }))
    }

    async fn publish_events(
        &self,
        request: Request<PublishEventsRequest>,
    ) -> Result<Response<PublishEventsResponse>, Status> {
        let context = request.context();
        let request = validated(request)?;
        let checked: Vec<_> =
            request.events.into_iter().map(|event: Event| self.intake.check(event, &context)).collect();
        let mut good = Vec::with_capacity(checked.len());
        let refused: Vec<Option<Status>> =
            checked.into_iter().map(|event| event.map(|event| good.push(event)).err()).collect();
        let mut answers = self.committers.record(good, context.deadline).await.into_iter();
        let results = refused.into_iter().map(|refused| {
            let result = match refused {
                Some(status) => Outcome::Error(to_wire(status)),
                None => match answers.next() {
                    Some(Ok(ack)) => Outcome::Acknowledgement(acknowledgement(ack)),
                    Some(Err(error)) => Outcome::Error(to_wire(error.into())),
                    None => Outcome::Error(to_wire(crate::error::draining().into())),
                },
            };
            PublishResult { result: Some(result) }
        });
        Ok(Response::new(PublishEventsResponse { results: results.collect() }))
    }
}

fn acknowledgement(ack: Ack) -> Acknowledgement {
    Acknowledgement { delivery: ack.delivery.to_string(), duplicate: ack.duplicate, sequence: ack.sequence }
}

/// The status that the event alone would have got.
fn to_wire(status: Status) -> tonic_types::Status {
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}
