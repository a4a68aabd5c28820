//! Clients that call until they are told to stop, and make a call again that failed and may be.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chatfn_proto::{
    ingest::v1::{
        DeliveryState, GetDeliveryRequest, PublishEventRequest, StreamEventsRequest, StreamEventsResponse,
        stream_events_response::Result as Answered,
    },
    invoker::v1::{InvocationEvent, InvokeRequest, invoker_service_client::InvokerServiceClient},
    registry::v1::{DeployFunctionRequest, Function, GetFunctionRequest, UpdateFunctionRequest},
};
use chatfn_rpc::{Client, ErrorReport, RetryClass, classify, code_name};
use chatfn_tests::{
    PATIENCE,
    api::{ACCOUNT, Api, event},
    eventually,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::{PURE, TOLD};

/// Events of a conversation.
const CONVERSATION: usize = 5;
/// How long a client waits before it calls again.
const PAUSE: Duration = Duration::from_millis(100);

/// Names of the clients.
const CLIENTS: [&str; 6] = ["p1", "p2", "stream", "invoke", "read", "deploy"];

/// What came of the calls.
#[derive(Clone, Default)]
pub(super) struct Counts {
    /// How often each client has done what it does.
    rounds: BTreeMap<&'static str, usize>,
    /// Calls, however often each was made.
    pub(super) calls: usize,
    /// Calls that were made again, by what they had been told.
    pub(super) again: BTreeMap<String, usize>,
    /// How often the call was made that was made most often.
    pub(super) most_tries: usize,
    /// How long a call took with all its tries, at most.
    pub(super) slowest: Duration,
    /// Ids of the events that were acknowledged.
    pub(super) acknowledged: BTreeSet<String>,
    /// Streams that were opened, one after the other.
    pub(super) streams: usize,
}

/// Clients. A call that fails for good, or for [`PATIENCE`], panics.
#[derive(Clone)]
pub(super) struct Load {
    api: Api,
    counts: Arc<Mutex<Counts>>,
}

impl Load {
    /// Clients that call what `api` calls.
    pub(super) fn of(api: &Api) -> Self {
        Self { api: api.clone(), counts: Arc::default() }
    }

    /// What came of the calls so far.
    pub(super) fn counts(&self) -> Counts {
        self.counts.lock().unwrap().clone()
    }

    /// Waits until each client has done, from start to end, what it does over and over.
    pub(super) async fn goes_on(&self) {
        let before = self.counts().rounds;
        // Two, since one may have begun earlier.
        let done = |rounds: &BTreeMap<_, usize>| {
            CLIENTS.iter().all(|it| rounds.get(it).copied() >= Some(before.get(it).copied().unwrap_or(0) + 2))
        };
        eventually("every client goes on", async || done(&self.counts().rounds).then_some(())).await;
    }

    /// A client has come to the end of what it does over and over.
    fn round(&self, client: &'static str) {
        *self.counts.lock().unwrap().rounds.entry(client).or_default() += 1;
    }

    /// Publishes conversations, one after the other, each when the one before has run.
    pub(super) async fn publish(self, name: &'static str, stop: CancellationToken) {
        let mut conversations = 0..;
        while !stop.is_cancelled() {
            let conversation = format!("{name}-{}", conversations.next().unwrap_or_default());
            let mut last = String::new();
            for number in 0..CONVERSATION {
                last = format!("{conversation}-{number}");
                let event = event(TOLD, &last, &conversation);
                self.call(async || {
                    let request = PublishEventRequest { event: Some(event.clone()) };
                    self.api.events.clone().publish_event(request).await
                })
                .await;
                self.acknowledged(&last);
            }
            self.has_run(&last).await;
            self.round(name);
        }
    }

    /// Publishes conversations on a stream. When it breaks, another one goes on with what has no answer.
    pub(super) async fn stream(self, stop: CancellationToken) {
        let mut conversations = 0..;
        let mut sequence = 1..;
        let mut stream = None;
        while !stop.is_cancelled() {
            let conversation = format!("s-{}", conversations.next().unwrap_or_default());
            let ids = [0; CONVERSATION].map(|_| sequence.next().unwrap_or_default());
            let mut unanswered: VecDeque<_> = ids.into_iter().map(|id| numbered(id, &conversation)).collect();
            let last = unanswered.back().map(event_id).unwrap_or_default();
            while let Err(status) = self.exchange(&mut stream, &mut unanswered).await {
                stream = None;
                self.again(&status);
                tokio::time::sleep(PAUSE).await;
            }
            self.has_run(&last).await;
            self.round("stream");
        }
    }

    /// Sends events on a stream, opened if it is not, until each is acknowledged.
    async fn exchange(
        &self,
        stream: &mut Option<(mpsc::Sender<StreamEventsRequest>, Streaming<StreamEventsResponse>)>,
        unanswered: &mut VecDeque<StreamEventsRequest>,
    ) -> Result<(), Status> {
        let (requests, answers) = match stream {
            Some(open) => open,
            None => {
                let (requests, receiver) = mpsc::channel(CONVERSATION);
                let opened = self.api.events.clone().stream_events(ReceiverStream::new(receiver)).await?;
                self.counts.lock().unwrap().streams += 1;
                stream.insert((requests, opened.into_inner()))
            }
        };
        for request in unanswered.iter() {
            // That nobody takes them any more is told by the answers, with why.
            let _ = requests.send(request.clone()).await;
        }
        while let Some(request) = unanswered.front() {
            let ended = || Status::unavailable("the stream ended before all was answered");
            let answer = answers.message().await?.ok_or_else(ended)?;
            assert_eq!(answer.client_sequence, request.client_sequence, "answers come in order");
            match answer.result.expect("a result") {
                Answered::Acknowledgement(_) => self.acknowledged(&event_id(request)),
                Answered::Error(error) => {
                    let details = error.encode_to_vec().into();
                    return Err(Status::with_details(Code::from(error.code), error.message, details));
                }
            }
            unanswered.pop_front();
            self.counts.lock().unwrap().calls += 1;
        }
        Ok(())
    }

    /// Invokes a function directly.
    pub(super) async fn invoke(self, invoker: Client, stop: CancellationToken) {
        let invoker = InvokerServiceClient::new(invoker);
        while !stop.is_cancelled() {
            let event = InvocationEvent {
                event_id: "direct".into(),
                conversation_id: "direct".into(),
                attempt: 1,
                payload_json: "{}".into(),
                ..InvocationEvent::default()
            };
            let request = InvokeRequest { function: function(PURE), event: Some(event) };
            let response = self.call(async || invoker.clone().invoke(request.clone()).await).await;
            assert!(response.report.is_some(), "{response:?}");
            self.round("invoke");
        }
    }

    /// Reads a function.
    pub(super) async fn read(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let request = GetFunctionRequest { name: function(TOLD) };
            self.call(async || self.api.functions.clone().get_function(request.clone()).await).await;
            self.round("read");
        }
    }

    /// Changes a function and deploys it, over and over.
    pub(super) async fn deploy(self, stop: CancellationToken) {
        let mut numbers = 0..;
        while !stop.is_cancelled() {
            let number = numbers.next().unwrap_or_default();
            let source = format!("function lambda() {{ return {number} }}");
            let changed = Function { name: function(PURE), source, ..Function::default() };
            let request =
                UpdateFunctionRequest { function: Some(changed), ..UpdateFunctionRequest::default() };
            self.call(async || self.api.functions.clone().update_function(request.clone()).await).await;
            let request = DeployFunctionRequest { name: function(PURE), ..DeployFunctionRequest::default() };
            self.call(async || self.api.functions.clone().deploy_function(request.clone()).await).await;
            self.round("deploy");
        }
    }

    /// Waits until an event has its outcome.
    async fn has_run(&self, event_id: &str) {
        let request = GetDeliveryRequest { name: format!("accounts/{ACCOUNT}/deliveries/{event_id}") };
        eventually(&format!("{event_id} has an outcome"), async || {
            let get = async || self.api.deliveries.clone().get_delivery(request.clone()).await;
            let state = self.call(get).await.delivery.expect("a delivery").state();
            (!matches!(state, DeliveryState::Pending | DeliveryState::Retrying)).then_some(())
        })
        .await;
    }

    /// Makes a call, again while its failure allows that.
    async fn call<T>(&self, mut call: impl AsyncFnMut() -> Result<tonic::Response<T>, Status>) -> T {
        let start = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            match call().await {
                Ok(response) => {
                    let mut counts = self.counts.lock().unwrap();
                    counts.calls += 1;
                    counts.most_tries = counts.most_tries.max(tries);
                    counts.slowest = counts.slowest.max(start.elapsed());
                    return response.into_inner();
                }
                Err(status) => {
                    assert!(start.elapsed() < PATIENCE, "the call failed {tries} times: {status}");
                    self.again(&status);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Writes down why a call is made again.
    fn again(&self, status: &Status) {
        assert_ne!(classify(status), RetryClass::Never, "{status}");
        let reason = ErrorReport::from_status(status).reason.unwrap_or_default();
        let told = format!("{} {reason}", code_name(status.code()));
        *self.counts.lock().unwrap().again.entry(told).or_default() += 1;
    }

    fn acknowledged(&self, event_id: &str) {
        self.counts.lock().unwrap().acknowledged.insert(event_id.to_owned());
    }
}

/// A request of a stream: an event that sorts by its number.
fn numbered(client_sequence: i64, conversation: &str) -> StreamEventsRequest {
    let event = event(TOLD, &format!("{conversation}-{client_sequence:09}"), conversation);
    StreamEventsRequest { client_sequence, event: Some(event) }
}

fn event_id(request: &StreamEventsRequest) -> String {
    request.event.as_ref().expect("an event").event_id.clone()
}

fn function(template: &str) -> String {
    format!("accounts/{ACCOUNT}/functions/{template}")
}
