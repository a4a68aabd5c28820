//! An invoker that answers as a test says.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use chatfn_proto::invoker::v1::{
    BuildError, InvokeRequest, InvokeResponse, PrepareRequest, PrepareResponse, PreparedSource,
    TestInvokeRequest, TestInvokeResponse,
    invoker_service_server::{InvokerService, InvokerServiceServer},
    prepare_response::Outcome,
};
use chatfn_rpc::{ApiError, Server, ServerConfig, Shutdown, reasons};
use tokio::{net::TcpListener, sync::Notify};
use tonic::{Code, Request, Response, Status};

/// One answer to `Prepare`.
pub(crate) enum Answer {
    /// The source does not build.
    Broken(BuildError),
    /// It builds, with this warning.
    Warns(String),
    /// The call fails.
    Fails(Code),
    /// The account has its share of the preparations.
    AccountBusy,
    /// The source builds, as soon as the test lets it.
    Waits(Gate),
}

/// Lets a test act while `Prepare` is under way.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    entered: Arc<Notify>,
    open: Arc<Notify>,
}

impl Gate {
    /// Waits until the invoker was asked.
    pub(crate) async fn entered(&self) {
        self.entered.notified().await;
    }

    /// Lets the invoker answer.
    pub(crate) fn open(&self) {
        self.open.notify_one();
    }
}

/// Answers with what the test has put in, one by one, and then that every source builds.
#[derive(Clone, Default)]
pub(crate) struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<PrepareRequest>>>,
}

impl Script {
    /// Adds an answer.
    pub(crate) fn push(&self, answer: Answer) {
        self.answers.lock().unwrap().push_back(answer);
    }

    /// Adds that a source does not build.
    pub(crate) fn push_broken(&self, error: BuildError) {
        self.push(Answer::Broken(error));
    }

    /// Adds an answer that waits.
    pub(crate) fn push_gate(&self) -> Gate {
        let gate = Gate::default();
        self.push(Answer::Waits(gate.clone()));
        gate
    }

    /// Everything that was asked so far.
    pub(crate) fn asked(&self) -> Vec<PrepareRequest> {
        self.asked.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl InvokerService for Script {
    async fn invoke(&self, _: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        Err(Status::unimplemented("the registry has no business here"))
    }

    async fn test_invoke(
        &self,
        _: Request<TestInvokeRequest>,
    ) -> Result<Response<TestInvokeResponse>, Status> {
        Err(Status::unimplemented("the registry has no business here"))
    }

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        let answer = self.answers.lock().unwrap().pop_front();
        let outcome = match answer {
            None => Outcome::Prepared(PreparedSource::default()),
            Some(Answer::Broken(error)) => Outcome::BuildError(error),
            Some(Answer::Warns(warning)) => {
                Outcome::Prepared(PreparedSource { warnings: vec![warning], ..Default::default() })
            }
            Some(Answer::Fails(code)) => return Err(Status::new(code, "as the test says")),
            Some(Answer::AccountBusy) => {
                let second = Duration::from_secs(1);
                return Err(ApiError::resource_exhausted(reasons::ACCOUNT_BUSY, "busy", second).into());
            }
            Some(Answer::Waits(gate)) => {
                gate.entered.notify_one();
                gate.open.notified().await;
                Outcome::Prepared(PreparedSource::default())
            }
        };
        Ok(Response::new(PrepareResponse { outcome: Some(outcome) }))
    }
}

/// Serves the script until `shutdown`.
pub(crate) async fn serve(script: Script, shutdown: &Shutdown) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder(ServerConfig::default())
        .service(InvokerServiceServer::new(script))
        .build()
        .await
        .unwrap();
    tokio::spawn(server.serve(listener, shutdown.soft()));
    address
}
