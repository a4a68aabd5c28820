//! A scripted registry.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
};

use chatfn_deployments::{Deployments, SnapshotFile, WatchConfig};
use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_proto::{
    convert::from_settings,
    registry::v1::{
        Deployment, SnapshotComplete, WatchDeploymentsRequest, WatchDeploymentsResponse,
        deployment_watch_service_server::{DeploymentWatchService, DeploymentWatchServiceServer},
        watch_deployments_request::Message,
        watch_deployments_response::Change,
    },
};
use chatfn_rpc::{Client, ClientConfig, MethodPolicy, Server, ServerConfig, Shutdown, connect};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// What the registry answers in one call, sent by the test as it goes.
pub(crate) type Script = mpsc::Receiver<WatchDeploymentsResponse>;

/// Serves one script per call and reports what the watcher says.
struct ScriptedRegistry {
    scripts: Arc<Mutex<VecDeque<Script>>>,
    heard: mpsc::Sender<Message>,
    refusal: Status,
    refused: watch::Sender<usize>,
}

#[tonic::async_trait]
impl DeploymentWatchService for ScriptedRegistry {
    type WatchDeploymentsStream =
        Pin<Box<dyn Stream<Item = Result<WatchDeploymentsResponse, Status>> + Send>>;

    async fn watch_deployments(
        &self,
        request: Request<Streaming<WatchDeploymentsRequest>>,
    ) -> Result<Response<Self::WatchDeploymentsStream>, Status> {
        let script = self.scripts.lock().unwrap().pop_front();
        let Some(script) = script else {
            self.refused.send_modify(|refused| *refused += 1);
            return Err(self.refusal.clone());
        };
        let (mut said, heard) = (request.into_inner(), self.heard.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                heard.send(message.message.unwrap()).await.unwrap();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(script).map(Ok))))
    }
}

/// A scripted registry, and who watches it.
pub(crate) struct Fixture {
    pub(crate) calls: VecDeque<mpsc::Sender<WatchDeploymentsResponse>>,
    pub(crate) scripts: Arc<Mutex<VecDeque<Script>>>,
    heard: mpsc::Receiver<Message>,
    client: Client,
    refused: watch::Receiver<usize>,
    pub(crate) shutdown: Shutdown,
}

impl Fixture {
    pub(crate) async fn start(calls: usize) -> Self {
        Self::start_refusing(calls, Status::unavailable("no script left")).await
    }

    /// As [`Fixture::start`]; what more calls come are refused so.
    pub(crate) async fn start_refusing(calls: usize, refusal: Status) -> Self {
        let (senders, scripts): (VecDeque<_>, VecDeque<_>) = (0..calls).map(|_| mpsc::channel(16)).unzip();
        let (say, heard) = mpsc::channel(64);
        let scripts = Arc::new(Mutex::new(scripts));
        let (refused, refusals) = watch::channel(0);
        let registry = ScriptedRegistry { scripts: Arc::clone(&scripts), heard: say, refusal, refused };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let method = "chatfn.registry.v1.DeploymentWatchService/WatchDeployments";
        let server = Server::builder(ServerConfig::default())
            .service(DeploymentWatchServiceServer::new(registry))
            .descriptors(chatfn_proto::FILE_DESCRIPTOR_SET)
            .policy(method, MethodPolicy::long_lived().ended_on_drain())
            .build()
            .await
            .unwrap();
        let shutdown = Shutdown::new();
        tokio::spawn(server.serve(listener, shutdown.soft()));
        let client = connect(ClientConfig::new(uri.parse().unwrap())).unwrap();
        Self { calls: senders, scripts, heard, client, refused: refusals, shutdown }
    }

    pub(crate) fn watch(&self) -> Deployments {
        self.watch_with(None)
    }

    pub(crate) fn watch_with(&self, snapshot: Option<SnapshotFile>) -> Deployments {
        let registry = self.client.clone();
        let config = WatchConfig { registry, watcher: "test", include_source: true, snapshot };
        Deployments::spawn(config, self.shutdown.soft())
    }

    pub(crate) async fn expect_start(&mut self) {
        self.expect_start_from("").await;
    }

    pub(crate) async fn expect_start_from(&mut self, token: &str) {
        let said = self.heard.recv().await;
        let Some(Message::Start(start)) = said else { panic!("{said:?}") };
        assert_eq!((start.include_source, start.resume_token.as_str()), (true, token));
    }

    /// Waits until so many calls have been refused.
    pub(crate) async fn expect_refusals(&mut self, count: usize) {
        self.refused.wait_for(|refused| *refused >= count).await.unwrap();
    }

    pub(crate) async fn expect_ack(&mut self, revision: i64) {
        assert!(matches!(self.heard.recv().await, Some(Message::Ack(ack)) if ack.revision == revision));
    }
}

pub(crate) fn change(revision: i64, change: Change) -> WatchDeploymentsResponse {
    WatchDeploymentsResponse { revision, change: Some(change), resume_token: String::new() }
}

/// The same, with a token to go on from.
pub(crate) fn change_to(token: &str, revision: i64, change: Change) -> WatchDeploymentsResponse {
    WatchDeploymentsResponse { revision, change: Some(change), resume_token: token.to_owned() }
}

pub(crate) fn deployed(function: &str, version: i64) -> Change {
    Change::Deployment(Deployment {
        function: function.into(),
        version,
        settings: Some(from_settings(&FunctionSettings::default())),
        source: "source".into(),
        ..Deployment::default()
    })
}

pub(crate) const COMPLETE: Change = Change::SnapshotComplete(SnapshotComplete {});
pub(crate) const START: &str = "accounts/acme/functions/chat.start";
pub(crate) const END: &str = "accounts/acme/functions/chat.end";

pub(crate) fn version(deployments: &Deployments, function: &str) -> Option<i64> {
    let name: FunctionName = function.parse().unwrap();
    deployments.function(&name).unwrap().map(|deployment| deployment.version.get())
}
