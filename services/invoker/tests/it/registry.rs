//! A registry that says what the test tells it to.

use std::{pin::Pin, sync::Mutex};

use chatfn_deployments::Deployment;
use chatfn_proto::{
    convert::from_settings,
    registry::v1::{
        self as wire, DeploymentRemoved, SnapshotComplete, WatchDeploymentsRequest, WatchDeploymentsResponse,
        deployment_watch_service_server::{DeploymentWatchService, DeploymentWatchServiceServer},
        watch_deployments_request::Message,
        watch_deployments_response::Change,
    },
};
use chatfn_rpc::{MethodPolicy, Server, ServerConfig, Shutdown};
use futures_util::{Stream, StreamExt as _};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{FUNCTION, PATIENCE};

/// A registry with one watcher, until the test ends.
pub(crate) struct Registry {
    pub(crate) uri: String,
    changes: mpsc::Sender<WatchDeploymentsResponse>,
    revision: i64,
    acked: watch::Receiver<i64>,
    shutdown: Shutdown,
}

struct Watched {
    script: Mutex<Option<mpsc::Receiver<WatchDeploymentsResponse>>>,
    acked: watch::Sender<i64>,
}

#[tonic::async_trait]
impl DeploymentWatchService for Watched {
    type WatchDeploymentsStream =
        Pin<Box<dyn Stream<Item = Result<WatchDeploymentsResponse, Status>> + Send>>;

    async fn watch_deployments(
        &self,
        request: Request<Streaming<WatchDeploymentsRequest>>,
    ) -> Result<Response<Self::WatchDeploymentsStream>, Status> {
        let script = self.script.lock().unwrap().take();
        let script = script.ok_or_else(|| Status::unavailable("nothing more to say"))?;
        let (mut said, acked) = (request.into_inner(), self.acked.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                match message.message.unwrap() {
                    Message::Start(start) => assert!(start.include_source),
                    Message::Ack(ack) => drop(acked.send_replace(ack.revision)),
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(script).map(Ok))))
    }
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let (changes, script) = mpsc::channel(16);
        let (ack, acked) = watch::channel(0);
        let watched = Watched { script: Mutex::new(Some(script)), acked: ack };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let method = "chatfn.registry.v1.DeploymentWatchService/WatchDeployments";
        let server = Server::builder(ServerConfig::default())
            .service(DeploymentWatchServiceServer::new(watched))
            .descriptors(chatfn_proto::FILE_DESCRIPTOR_SET)
            .policy(method, MethodPolicy::long_lived().ended_on_drain())
            .build()
            .await
            .unwrap();
        let shutdown = Shutdown::new();
        tokio::spawn(server.serve(listener, shutdown.soft()));
        Self { uri, changes, revision: 0, acked, shutdown }
    }

    /// The first snapshot: this version alone.
    pub(crate) async fn snapshot(&mut self, live: &Deployment) {
        self.revision += 1;
        self.say(deployed(live)).await;
        self.say(Change::SnapshotComplete(SnapshotComplete {})).await;
        self.until_acked().await;
    }

    /// The version goes live. Returns when the watcher has said that look-ups see it.
    pub(crate) async fn deploy(&mut self, live: &Deployment) {
        self.revision += 1;
        self.say(deployed(live)).await;
        self.until_acked().await;
    }

    /// The function has no live version any more.
    pub(crate) async fn remove(&mut self) {
        self.revision += 1;
        self.say(Change::Removed(DeploymentRemoved { function: FUNCTION.into() })).await;
        self.until_acked().await;
    }

    /// The end of the registry.
    pub(crate) fn stop(self) {
        self.shutdown.begin();
    }

    async fn say(&self, change: Change) {
        let message =
            WatchDeploymentsResponse { revision: self.revision, change: Some(change), ..Default::default() };
        self.changes.send(message).await.unwrap();
    }

    async fn until_acked(&self) {
        let mut acked = self.acked.clone();
        let waited = timeout(PATIENCE, acked.wait_for(|revision| *revision == self.revision)).await;
        waited.expect("an acknowledgement").unwrap();
    }
}

fn deployed(live: &Deployment) -> Change {
    Change::Deployment(wire::Deployment {
        function: live.function.to_string(),
        version: live.version.get(),
        digest: live.digest.clone(),
        settings: Some(from_settings(&live.settings)),
        source: live.source.to_string(),
        ..wire::Deployment::default()
    })
}
