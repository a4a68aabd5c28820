//! A client of StreamEvents.

use chatfn_proto::ingest::v1::{
    Acknowledgement, Event, StreamEventsRequest, StreamEventsResponse,
    stream_events_response::Result as Answered,
};
use chatfn_rpc::RequestExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::harness::{Replica, patiently, status};

/// An open stream.
pub(crate) struct Publisher {
    pub(crate) requests: mpsc::Sender<StreamEventsRequest>,
    pub(crate) answers: Streaming<StreamEventsResponse>,
}

impl Publisher {
    pub(crate) async fn open(replica: &Replica) -> Self {
        Self::try_open(replica).await.unwrap()
    }

    pub(crate) async fn try_open(replica: &Replica) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(16);
        let request = Request::new(ReceiverStream::new(stream)).without_deadline();
        let answers = replica.events().stream_events(request).await?.into_inner();
        Ok(Self { requests, answers })
    }

    pub(crate) async fn send(&self, client_sequence: i64, event: Event) {
        patiently(self.requests.send(StreamEventsRequest { client_sequence, event: Some(event) }))
            .await
            .unwrap();
    }

    /// The next answer, which must be to this request.
    pub(crate) async fn answer(&mut self, client_sequence: i64) -> Result<Acknowledgement, Status> {
        let answer = patiently(self.answers.message()).await.unwrap().expect("an answer");
        assert_eq!(answer.client_sequence, client_sequence);
        match answer.result.unwrap() {
            Answered::Acknowledgement(ack) => Ok(ack),
            Answered::Error(error) => Err(status(&error)),
        }
    }

    /// How the stream ends, without another answer.
    pub(crate) async fn end(mut self) -> Result<(), Status> {
        match patiently(self.answers.message()).await {
            Ok(None) => Ok(()),
            Ok(Some(answer)) => panic!("another answer: {answer:?}"),
            Err(status) => Err(status),
        }
    }

    /// Has nothing more to send.
    pub(crate) fn finish(self) -> Self {
        Self { requests: mpsc::channel(1).0, ..self }
    }
}
