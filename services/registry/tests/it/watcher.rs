//! A watcher of deployments that does what a test says.

use std::collections::BTreeMap;

use chatfn_proto::registry::v1::{
    Deployment, WatchAck, WatchDeploymentsRequest, WatchDeploymentsResponse, WatchStart,
    watch_deployments_request::Message, watch_deployments_response::Change,
};
use chatfn_rpc::RequestExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use crate::harness::{Registry, patiently};

/// One watch.
pub(crate) struct Watcher {
    say: mpsc::Sender<WatchDeploymentsRequest>,
    responses: Streaming<WatchDeploymentsResponse>,
}

/// What a snapshot, or the changes after it, have told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) templates: Vec<String>,
    pub(crate) functions: BTreeMap<String, Deployment>,
    pub(crate) revision: i64,
    /// Where a later watch can go on from.
    pub(crate) token: String,
}

impl Watcher {
    /// Calls, with what is said first.
    pub(crate) async fn call(
        registry: &Registry,
        first: impl IntoIterator<Item = Message>,
    ) -> Result<Self, Status> {
        let (say, queue) = mpsc::channel(1024);
        for message in first {
            say.send(WatchDeploymentsRequest { message: Some(message) }).await.unwrap();
        }
        let request = Request::new(ReceiverStream::new(queue)).without_deadline();
        let responses = patiently(registry.deployments().watch_deployments(request)).await?.into_inner();
        Ok(Self { say, responses })
    }

    /// Calls and starts.
    pub(crate) async fn start(registry: &Registry, include_source: bool) -> Self {
        Self::call(registry, [start(include_source)]).await.unwrap()
    }

    /// Says something more.
    pub(crate) async fn say(&self, message: Message) {
        self.say.send(WatchDeploymentsRequest { message: Some(message) }).await.unwrap();
    }

    /// Confirms everything up to a revision.
    pub(crate) async fn ack(&self, revision: i64) {
        self.say(Message::Ack(WatchAck { revision })).await;
    }

    /// The next change.
    pub(crate) async fn next(&mut self) -> Result<(i64, Change), Status> {
        let (revision, change, _) = self.next_with_token().await?;
        Ok((revision, change))
    }

    async fn next_with_token(&mut self) -> Result<(i64, Change, String), Status> {
        let response = patiently(self.responses.message()).await?.expect("the registry ended the watch");
        let change = response.change.expect("a change of a known kind");
        Ok((response.revision, change, response.resume_token))
    }

    /// How the watch ends, whatever comes before.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// Everything up to the end of the snapshot.
    pub(crate) async fn snapshot(&mut self) -> Seen {
        let (seen, is_resumed) = self.begin(Seen::default()).await;
        assert!(!is_resumed, "nothing to go on from was named");
        seen
    }

    /// Everything up to the first complete state, and whether the registry went on from what was `known`.
    pub(crate) async fn begin(&mut self, known: Seen) -> (Seen, bool) {
        let (mut seen, mut is_resumed) = (Seen::default(), false);
        loop {
            let (revision, change, token) = self.next_with_token().await.unwrap();
            assert!(revision >= seen.revision, "revisions rise");
            seen.revision = revision;
            match change {
                Change::Resumed(_) => {
                    assert!(!is_resumed && seen.templates.is_empty() && seen.functions.is_empty());
                    is_resumed = true;
                    seen.functions = known.functions.clone();
                }
                Change::SnapshotComplete(_) => {
                    seen.token = token;
                    return (seen, is_resumed);
                }
                change => {
                    assert_eq!(token, "", "there is nothing to go on from yet");
                    seen.apply(change);
                }
            }
        }
    }

    /// Applies changes until `done`.
    pub(crate) async fn follow(&mut self, seen: &mut Seen, done: impl Fn(&Seen) -> bool) {
        while !done(seen) {
            let (revision, change, token) = self.next_with_token().await.unwrap();
            assert!(revision > seen.revision, "revisions rise");
            (seen.revision, seen.token) = (revision, token);
            seen.apply(change);
        }
    }
}

impl Seen {
    /// The live version of a function; 0 when there is none.
    pub(crate) fn version(&self, function: &str) -> i64 {
        self.functions.get(function).map_or(0, |deployment| deployment.version)
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Template(template) => self.templates.push(template.name),
            Change::Deployment(deployment) => {
                self.functions.insert(deployment.function.clone(), deployment);
            }
            Change::Removed(removed) => _ = self.functions.remove(&removed.function),
            Change::Resumed(_) | Change::SnapshotComplete(_) => panic!("a second beginning"),
        }
    }
}

/// What every watcher says first.
pub(crate) fn start(include_source: bool) -> Message {
    resume("", include_source)
}

/// The same for one that goes on from a token.
pub(crate) fn resume(token: &str, include_source: bool) -> Message {
    let resume_token = token.to_owned();
    Message::Start(WatchStart { watcher: "test".into(), include_source, resume_token })
}
