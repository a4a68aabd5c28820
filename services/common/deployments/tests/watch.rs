//! The watch against a scripted registry.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use chatfn_deployments::{Deployments, NotReady, SnapshotFile, WatchConfig};
use chatfn_domain::{name::FunctionName, settings::FunctionSettings};
use chatfn_proto::{
    convert::from_settings,
    registry::v1::{
        Deployment, DeploymentRemoved, Firing, Resumed, SnapshotComplete, Template, WatchDeploymentsRequest,
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
    scripts: Arc<Mutex<VecDeque<Script>>>,
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
    scripts: Arc<Mutex<VecDeque<Script>>>,
    heard: mpsc::Receiver<Message>,
    client: Client,
    shutdown: Shutdown,
}

impl Fixture {
    async fn start(calls: usize) -> Self {
        let (senders, scripts): (VecDeque<_>, VecDeque<_>) = (0..calls).map(|_| mpsc::channel(16)).unzip();
        let (say, heard) = mpsc::channel(64);
        let scripts = Arc::new(Mutex::new(scripts));
        let registry = ScriptedRegistry { scripts: Arc::clone(&scripts), heard: say };
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
        Self { calls: senders, scripts, heard, client, shutdown }
    }

    fn watch(&self) -> Deployments {
        self.watch_with(None)
    }

    fn watch_with(&self, snapshot: Option<SnapshotFile>) -> Deployments {
        let registry = self.client.clone();
        let config = WatchConfig { registry, watcher: "test", include_source: true, snapshot };
        Deployments::spawn(config, self.shutdown.soft())
    }

    async fn expect_start(&mut self) {
        self.expect_start_from("").await;
    }

    async fn expect_start_from(&mut self, token: &str) {
        let said = self.heard.recv().await;
        let Some(Message::Start(start)) = said else { panic!("{said:?}") };
        assert_eq!((start.include_source, start.resume_token.as_str()), (true, token));
    }

    async fn expect_ack(&mut self, revision: i64) {
        assert!(matches!(self.heard.recv().await, Some(Message::Ack(ack)) if ack.revision == revision));
    }
}

fn change(revision: i64, change: Change) -> WatchDeploymentsResponse {
    WatchDeploymentsResponse { revision, change: Some(change), resume_token: String::new() }
}

/// The same, with a token to go on from.
fn change_to(token: &str, revision: i64, change: Change) -> WatchDeploymentsResponse {
    WatchDeploymentsResponse { revision, change: Some(change), resume_token: token.to_owned() }
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

#[tokio::test]
async fn a_watch_goes_on_from_the_last_token() {
    let mut fixture = Fixture::start(3).await;
    let deployments = fixture.watch();
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 1))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    call.send(change_to("b", 2, deployed(END, 1))).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    fixture.expect_ack(2).await;

    // What is live stays, but for what is told.
    drop(call);
    fixture.expect_start_from("b").await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(2, Change::Resumed(Resumed {}))).await.unwrap();
    call.send(change(3, Change::Removed(DeploymentRemoved { function: START.into() }))).await.unwrap();
    assert_eq!(version(&deployments, START), Some(1), "as long as it is not complete");
    call.send(change_to("c", 3, COMPLETE)).await.unwrap();
    fixture.expect_ack(3).await;
    assert_eq!((version(&deployments, START), version(&deployments, END)), (None, Some(1)));

    // A registry that does not know the token sends a snapshot.
    drop(call);
    fixture.expect_start_from("c").await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(9, deployed(START, 7))).await.unwrap();
    call.send(change_to("d", 9, COMPLETE)).await.unwrap();
    fixture.expect_ack(9).await;
    assert_eq!((version(&deployments, START), version(&deployments, END)), (Some(7), None));
}

#[tokio::test]
async fn templates_that_do_not_come_again_are_gone() {
    let mut fixture = Fixture::start(2).await;
    let deployments = fixture.watch();
    let template =
        |name: &str| Change::Template(Template { name: format!("templates/{name}"), ..Template::default() });
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, template("acme.old"))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    drop(call);
    fixture.expect_start_from("a").await;
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, Change::Resumed(Resumed {}))).await.unwrap();
    call.send(change(1, template("acme.new"))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    fixture.expect_ack(1).await;
    let known = |name: &str| deployments.template(&name.parse().unwrap()).unwrap().is_some();
    assert_eq!((known("acme.old"), known("acme.new")), (false, true));
}

#[tokio::test]
async fn what_this_release_cannot_read_is_asked_for_again() {
    let mut fixture = Fixture::start(2).await;
    let deployments = fixture.watch();
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 1))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    // Versions count from 1.
    call.send(change_to("b", 2, deployed(START, 0))).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    fixture.expect_ack(2).await;
    assert_eq!(version(&deployments, START), Some(1));
    drop(call);
    fixture.expect_start_from("").await;
}

/// Returns when the file is there. Nobody is told of that, so this looks again and again; the sleep only lets others
/// work in between.
async fn written(file: &SnapshotFile) {
    while !file.path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_file_is_served_when_the_registry_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile { path: folder.path().join("live"), max_bytes: 1 << 20, keep: true };
    let mut fixture = Fixture::start(1).await;
    let deployments = fixture.watch_with(Some(file.clone()));
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 4))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    fixture.expect_start().await;
    fixture.expect_ack(1).await;
    assert_eq!(version(&deployments, START), Some(4));
    written(&file).await;

    // This registry answers no call until it is told how.
    let mut fixture = Fixture::start(0).await;
    let deployments = fixture.watch_with(Some(SnapshotFile { keep: false, ..file.clone() }));
    deployments.ready().await;
    assert_eq!(version(&deployments, START), Some(4));
    let (sender, receiver) = mpsc::channel(16);
    fixture.scripts.lock().unwrap().push_back(receiver);
    fixture.expect_start_from("a").await;
    sender.send(change(1, Change::Resumed(Resumed {}))).await.unwrap();
    sender.send(change_to("b", 2, deployed(START, 5))).await.unwrap();
    sender.send(change_to("b", 2, COMPLETE)).await.unwrap();
    let mut changed = deployments.changed();
    while version(&deployments, START) != Some(5) {
        changed.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_registry_that_is_there_is_asked_before_a_file_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile { path: folder.path().join("live"), max_bytes: 1 << 20, keep: true };
    let mut fixture = Fixture::start(2).await;
    let _first = fixture.watch_with(Some(file.clone()));
    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, deployed(START, 4))).await.unwrap();
    call.send(change_to("a", 1, COMPLETE)).await.unwrap();
    written(&file).await;

    let call = fixture.calls.pop_front().unwrap();
    call.send(change(1, Change::Resumed(Resumed {}))).await.unwrap();
    call.send(change(2, Change::Removed(DeploymentRemoved { function: START.into() }))).await.unwrap();
    call.send(change_to("b", 2, COMPLETE)).await.unwrap();
    let deployments = fixture.watch_with(Some(SnapshotFile { keep: false, ..file }));
    deployments.ready().await;
    assert_eq!(version(&deployments, START), None, "what was revoked is never seen");
}
