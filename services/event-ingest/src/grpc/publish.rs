//! `EventIngestService`.

use chatfn_proto::{
    ingest::v1::{
        Acknowledgement, PublishEventRequest, PublishEventResponse, PublishEventsRequest,
        PublishEventsResponse, PublishResult, StreamEventsRequest, StreamEventsResponse,
        event_ingest_service_server::EventIngestService, publish_result::Result as Outcome,
    },
    validate::{Violations, validated},
};
use chatfn_rpc::RequestExt as _;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::stream::Session;
use crate::{committer::Ack, config::StreamConfig, error, publisher::Publisher};

/// Answers of a stream that may wait for the client to take them.
const ANSWERS: usize = 64;

/// Takes events in.
pub(crate) struct PublishHandler {
    pub(crate) publisher: Publisher,
    pub(crate) streams: StreamConfig,
    /// Fires when the replica begins to shut down.
    pub(crate) draining: CancellationToken,
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
        let result = self.publisher.publish(vec![event], &context).await.pop();
        let ack = result.unwrap_or_else(|| Err(error::draining().into()))?;
        Ok(Response::new(PublishEventResponse { acknowledgement: Some(acknowledgement(ack)) }))
    }

    async fn publish_events(
        &self,
        request: Request<PublishEventsRequest>,
    ) -> Result<Response<PublishEventsResponse>, Status> {
        let context = request.context();
        let request = validated(request)?;
        let results = self.publisher.publish(request.events, &context).await;
        let results = results.into_iter().map(|result| {
            let result = match result {
                Ok(ack) => Outcome::Acknowledgement(acknowledgement(ack)),
                Err(status) => Outcome::Error(to_wire(status)),
            };
            PublishResult { result: Some(result) }
        });
        Ok(Response::new(PublishEventsResponse { results: results.collect() }))
    }

    type StreamEventsStream = ReceiverStream<Result<StreamEventsResponse, Status>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let context = request.context();
        let call = self.publisher.begin_stream(&context)?;
        let (answers, stream) = mpsc::channel(ANSWERS);
        let session = Session {
            context,
            call,
            requests: request.into_inner(),
            answers,
            reset: chatfn_rpc::reset_token(),
            publisher: self.publisher.clone(),
            config: self.streams.clone(),
            draining: self.draining.clone(),
        };
        tokio::spawn(session.run());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

pub(super) fn acknowledgement(ack: Ack) -> Acknowledgement {
    Acknowledgement { delivery: ack.delivery.to_string(), duplicate: ack.duplicate, sequence: ack.sequence }
}

/// The status that the event alone would have got.
pub(super) fn to_wire(status: Status) -> tonic_types::Status {
    tonic_types::Status::decode(status.details()).unwrap_or_else(|_| tonic_types::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}
