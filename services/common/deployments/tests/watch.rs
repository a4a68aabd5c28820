//! The watch against a scripted registry.

use std::{collections::VecDeque, pin::Pin, sync::Mutex};

use chatfn_deployments::{Deployments, NotReady};
use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_proto::{
    convert::from_settings,
    registry::v1::{
        Deployment, DeploymentRemoved, Firing, SnapshotComplete, Template, WatchDeploymentsRequest,
        WatchDeploymentsResponse,
        deployment_watch_service_server::{DeploymentWatchService, DeploymentWatchServiceServer},
        watch_deployments_request::Message,
        watch_deployments_response::Change,
    },
};
use chatfn_rpc::{Client, ClientConfig, MethodPolicy, Server, ServerConfig, Shutdown, connect};
use futures_util::{Stream, StreamExt as _};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// What the registry answers in one call, sent by the test as it goes.
type Script = mpsc::Receiver<WatchDeploymentsResponse>;

/// Serves one script per call and reports what the watcher says.
struct ScriptedRegistry {
    scripts: Mutex<VecDeque<Script>>,
    heard: mpsc::Sender<Message>,
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
        let Some(script) = script else { return Err(Status::unavailable("no script left")) };
        let (mut said, heard) = (request.into_inner(), self.heard.clone());
        tokio::spawn(async move {
            while let Ok(Some(message)) = said.message().await {
                heard.send(message.message.unwrap()).await.unwrap();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(script).map(Ok))))
    }
}

struct Fixture {
    calls: VecDeque<mpsc::Sender<WatchDeploymentsResponse>>,
    heard: mpsc::Receiver<Message>,
    client: Client,
    shutdown: Shutdown,
}

impl Fixture {
    async fn start(calls: usize) -> Self {
        let (senders, scripts): (VecDeque<_>, VecDeque<_>) = (0..calls).map(|_| mpsc::channel(16)).unzip();
        let (say, heard) = mpsc::channel(64);
        let registry = ScriptedRegistry { scripts: Mutex::new(scripts), heard: say };
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
        Self { calls: senders, heard, client, shutdown }
    }

    fn watch(&self) -> Deployments {
        Deployments::spawn(self.client.clone(), "test", true, self.shutdown.soft())
    }

    async fn expect_start(&mut self) {
        assert!(matches!(self.heard.recv().await, Some(Message::Start(start)) if start.include_source));
    }

    async fn expect_ack(&mut self, revision: i64) {
        assert!(matches!(self.heard.recv().await, Some(Message::Ack(ack)) if ack.revision == revision));
    }
}

fn change(revision: i64, change: Change) -> WatchDeploymentsResponse {
    WatchDeploymentsResponse { revision, change: Some(change) }
}

fn deployed(function: &str, version: i64) -> Change {
    Change::Deployment(Deployment {
        function: function.into(),
        version,
        settings: Some(from_settings(&FunctionSettings::default())),
        source: "source".into(),
        ..Deployment::default()
    })
}

const COMPLETE: Change = Change::SnapshotComplete(SnapshotComplete {});
const START: &str = "accounts/acme/functions/chat.start";
const END: &str = "accounts/acme/functions/chat.end";

fn version(deployments: &Deployments, function: &str) -> Option<i64> {
    let name: FunctionName = function.parse().unwrap();
    deployments.function(&name).unwrap().map(|deployment| deployment.version.get())
}

#[tokio::test]
async fn changes_are_seen_before_they_are_acknowledged() {
    let mut fixture = Fixture::start(1).await;
    let deployments = fixture.watch();
    assert_eq!(deployments.function(&START.parse().unwrap()), Err(NotReady));

    let call = fixture.calls.pop_front().unwrap();
    let template = Template {
        name: "templates/chat.start".into(),
        firing: Firing::OncePerConversation.into(),
        sample_payload_json: "{}".into(),
        ..Template::default()
    };
    call.send(change(7, Change::Template(template))).await.unwrap();
    call.send(change(7, deployed(START, 1))).await.unwrap();
    call.send(change(7, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(7).await;
    assert_eq!(version(&deployments, START), Some(1));
    let template = deployments.template(&"chat.start".parse().unwrap()).unwrap().unwrap();
    assert!(template.fires_once);
    assert_eq!(template.sample_payload_json, "{}");

    call.send(change(8, deployed(START, 2))).await.unwrap();
    fixture.expect_ack(8).await;
    assert_eq!(version(&deployments, START), Some(2));

    call.send(change(9, Change::Removed(DeploymentRemoved { function: START.into() }))).await.unwrap();
    fixture.expect_ack(9).await;
    assert_eq!(version(&deployments, START), None);
}

#[tokio::test]
async fn the_old_state_stays_until_the_new_snapshot_is_complete() {
    let mut fixture = Fixture::start(2).await;
    let deployments = fixture.watch();
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 1))).await.unwrap();
    call.send(change(1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;

    drop(call);
    fixture.expect_start().await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(5, deployed(END, 1))).await.unwrap();
    assert_eq!((version(&deployments, START), version(&deployments, END)), (Some(1), None));

    call.send(change(5, COMPLETE)).await.unwrap();
    fixture.expect_ack(5).await;
    assert_eq!((version(&deployments, START), version(&deployments, END)), (None, Some(1)));
}
