//! An invoker that answers as a test says, and keeps a record of what it was asked.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chatfn_proto::invoker::v1::{
    FailureKind, InvokeRequest, InvokeResponse, LambdaFailure, PrepareRequest, PrepareResponse, RunReport,
    TestInvokeRequest, TestInvokeResponse,
    invoker_service_server::{InvokerService, InvokerServiceServer},
    run_report::Outcome,
};
use chatfn_rpc::{ApiError, RequestExt as _, Server, ServerConfig, Shutdown, reasons};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::harness::patiently;

/// How one run goes.
#[derive(Clone)]
pub(crate) enum Answer {
    /// The lambda returns.
    Returns,
    /// The lambda throws.
    Throws,
    /// The lambda fails in this way.
    Fails(FailureKind),
    /// The lambda returns once the token fires.
    ReturnsAfter(CancellationToken),
    /// The lambda throws once the token fires.
    ThrowsAfter(CancellationToken),
    /// The lambda never ends by itself.
    Hangs,
    /// The run comes to this.
    Reports(Box<RunReport>),
    /// Nothing runs.
    Refuses(ApiError),
}

/// One run, as the invoker saw it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) function: String,
    pub(crate) event_id: String,
    pub(crate) conversation_id: String,
    pub(crate) attempt: u32,
    pub(crate) idempotency_key: String,
    pub(crate) payload_json: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) trace: Option<String>,
    /// Time that the run was given.
    pub(crate) budget: Duration,
    pub(crate) start: Instant,
    /// When it ended, or was cut off.
    pub(crate) end: Option<Instant>,
}

/// The invoker. Runs without a scripted answer return, unless all are to fail. Cheap to clone.
#[derive(Clone)]
pub(crate) struct FakeInvoker {
    script: Arc<Mutex<HashMap<String, VecDeque<Answer>>>>,
    runs: Arc<watch::Sender<Vec<Run>>>,
    fails_all: Arc<AtomicBool>,
    places: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl FakeInvoker {
    pub(crate) fn new() -> Self {
        let runs = Arc::new(watch::Sender::new(Vec::new()));
        Self {
            script: Arc::default(),
            runs,
            fails_all: Arc::default(),
            places: Arc::new(AtomicUsize::new(usize::MAX)),
            refused: Arc::default(),
        }
    }

    /// Whether runs without a scripted answer throw.
    pub(crate) fn fail_all(&self, fails: bool) {
        self.fails_all.store(fails, Ordering::Relaxed);
    }

    /// Takes so many runs at once, and refuses those beyond because of their account.
    pub(crate) fn take(&self, places: usize) {
        self.places.store(places, Ordering::Relaxed);
    }

    /// How many runs it refused for that reason.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Serves until `shutdown`.
    pub(crate) async fn serve(&self, shutdown: &Shutdown) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = InvokerServiceServer::new(self.clone());
        let server = Server::builder(ServerConfig::default()).service(service).build().await.unwrap();
        tokio::spawn(server.serve(listener, shutdown.soft()));
        address
    }

    /// Says how the next runs of an event go.
    pub(crate) fn script(&self, event_id: &str, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().entry(event_id.to_owned()).or_default().extend(answers);
    }

    /// Every run so far, in the order of their starts.
    pub(crate) fn runs(&self) -> Vec<Run> {
        self.runs.borrow().clone()
    }

    /// The runs of one event so far.
    pub(crate) fn runs_of(&self, event_id: &str) -> Vec<Run> {
        self.runs().into_iter().filter(|run| run.event_id == event_id).collect()
    }

    /// Waits until the runs so far are as `enough` says.
    #[track_caller]
    pub(crate) fn until(&self, mut enough: impl FnMut(&[Run]) -> bool) -> impl Future<Output = ()> {
        let mut runs = self.runs.subscribe();
        patiently(async move {
            runs.wait_for(|runs| enough(runs)).await.unwrap();
        })
    }

    /// Waits until attempt `attempt` of an event has started.
    #[track_caller]
    pub(crate) fn started(&self, event_id: &str, attempt: u32) -> impl Future<Output = ()> {
        let event_id = event_id.to_owned();
        self.until(move |runs| runs.iter().any(|run| run.event_id == event_id && run.attempt == attempt))
    }
}

/// Records the end of a run however it ends: the future of a call that is cut off is dropped.
struct Ending {
    runs: Arc<watch::Sender<Vec<Run>>>,
    index: usize,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.runs.send_modify(|runs| runs[self.index].end = Some(Instant::now()));
    }
}

#[tonic::async_trait]
impl InvokerService for FakeInvoker {
    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        let start = Instant::now();
        let context = request.context();
        let running = self.runs.borrow().iter().filter(|run| run.end.is_none()).count();
        if running >= self.places.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let pause = Duration::from_millis(20);
            return Err(ApiError::resource_exhausted(reasons::ACCOUNT_BUSY, "", pause).into());
        }
        let request = request.into_inner();
        let event = request.event.unwrap();
        let answer = self.script.lock().unwrap().get_mut(&event.event_id).and_then(VecDeque::pop_front);
        let run = Run {
            function: request.function,
            event_id: event.event_id,
            conversation_id: event.conversation_id,
            attempt: event.attempt,
            idempotency_key: event.idempotency_key,
            payload_json: event.payload_json,
            headers: event.headers.into_iter().map(|header| (header.key, header.value)).collect(),
            trace: context.trace.map(|trace| trace.to_string()),
            budget: context.deadline.map_or(Duration::MAX, |deadline| deadline.remaining()),
            start,
            end: None,
        };
        let mut index = 0;
        self.runs.send_modify(|runs| {
            index = runs.len();
            runs.push(run);
        });
        let _ending = Ending { runs: self.runs.clone(), index };
        let fails = |kind: FailureKind| {
            Outcome::Failure(LambdaFailure {
                kind: kind.into(),
                error_name: "Error".to_owned(),
                message: "as the test says".to_owned(),
                ..LambdaFailure::default()
            })
        };
        let unscripted =
            if self.fails_all.load(Ordering::Relaxed) { Answer::Throws } else { Answer::Returns };
        let outcome = match answer.unwrap_or(unscripted) {
            Answer::Returns => Outcome::ResultJson("null".to_owned()),
            Answer::Throws => fails(FailureKind::Thrown),
            Answer::Fails(kind) => fails(kind),
            Answer::ReturnsAfter(release) => {
                release.cancelled().await;
                Outcome::ResultJson("null".to_owned())
            }
            Answer::ThrowsAfter(release) => {
                release.cancelled().await;
                fails(FailureKind::Thrown)
            }
            Answer::Hangs => std::future::pending().await,
            Answer::Reports(report) => return Ok(Response::new(InvokeResponse { report: Some(*report) })),
            Answer::Refuses(error) => return Err(error.into()),
        };
        let report = RunReport { outcome: Some(outcome), version: 1, ..RunReport::default() };
        Ok(Response::new(InvokeResponse { report: Some(report) }))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Err(Status::unimplemented("event-ingest has no business here"))
    }

    async fn test_invoke(
        &self,
        _: Request<TestInvokeRequest>,
    ) -> Result<Response<TestInvokeResponse>, Status> {
        Err(Status::unimplemented("event-ingest has no business here"))
    }
}

/// Panics unless the runs of every conversation came one after another, in the order of `expected`: no run
/// starts before the one before it has ended, and none of an earlier event comes later.
#[track_caller]
pub(crate) fn assert_in_order(runs: &[Run], conversation_id: &str, expected: &[String]) {
    let mut place = 0;
    let mut last_end = None;
    for run in runs.iter().filter(|run| run.conversation_id == conversation_id) {
        let at = expected.iter().position(|event_id| *event_id == run.event_id).unwrap();
        assert!(
            at == place || at == place + 1,
            "{conversation_id}: {} after {}",
            run.event_id,
            expected[place]
        );
        place = at;
        if let Some(last_end) = last_end {
            let last_end: Instant = last_end;
            assert!(run.start >= last_end, "{conversation_id}: {} started too early", run.event_id);
        }
        last_end = Some(run.end.unwrap_or_else(|| panic!("{} has not ended", run.event_id)));
    }
    assert_eq!(place + 1, expected.len(), "{conversation_id}: not all of it ran");
}
