//! `DeploymentWatchService`.
//!
//! A watch reads the snapshot from the database in batches, then what changed meanwhile, and only then
//! takes its changes from the hub. It subscribes to the hub *before* the last look at the database: a
//! change that was committed earlier is found by that look, a later one comes through the hub. So none is
//! missed, however long the snapshot takes, and nothing is buffered for the watcher meanwhile.

use std::{sync::Arc, time::Duration};

use chatfn_proto::{
    registry::v1::{
        SnapshotComplete, WatchDeploymentsRequest, WatchDeploymentsResponse, WatchStart,
        deployment_watch_service_server::DeploymentWatchService, watch_deployments_request::Message,
        watch_deployments_response::Change,
    },
    validate::{Validate as _, Violations},
};
use sqlx::PgPool;
use tokio::sync::{broadcast::error::RecvError, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::wire;
use crate::{
    catalogue::Catalogue,
    error::RegistryError,
    hub::{Event, Hub, Watchers},
    store::deployments,
};

/// Messages that may wait for the watcher to read them; what more comes waits in the hub's ring.
const QUEUE: usize = 16;

/// Longest wait for the first message.
const START_WAIT: Duration = Duration::from_secs(10);

/// What is live, for the services that act on it.
#[derive(Debug, Clone)]
pub(crate) struct WatchHandler {
    pub(crate) catalogue: Arc<Catalogue>,
    /// Not the pool of the admins' calls: a crowd of watchers that come back must not shut them out.
    pub(crate) db: PgPool,
    pub(crate) hub: Arc<Hub>,
}

#[tonic::async_trait]
impl DeploymentWatchService for WatchHandler {
    type WatchDeploymentsStream = ReceiverStream<Result<WatchDeploymentsResponse, Status>>;

    async fn watch_deployments(
        &self,
        request: Request<Streaming<WatchDeploymentsRequest>>,
    ) -> Result<Response<Self::WatchDeploymentsStream>, Status> {
        let mut requests = request.into_inner();
        let start = read_start(&mut requests).await?;
        let (responses, stream) = mpsc::channel(QUEUE);
        tokio::spawn(self.clone().serve(start, requests, responses));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

type Responses = mpsc::Sender<Result<WatchDeploymentsResponse, Status>>;

impl WatchHandler {
    /// Serves one watch until either side ends it. The end of the call drops the receiver of `responses`.
    async fn serve(
        self,
        start: WatchStart,
        requests: Streaming<WatchDeploymentsRequest>,
        responses: Responses,
    ) {
        tracing::info!(watcher = start.watcher, "a watcher has come");
        let feed = Feed {
            catalogue: &self.catalogue,
            db: &self.db,
            hub: &self.hub,
            include_source: start.include_source,
            responses: &responses,
        };
        let end = tokio::select! {
            () = responses.closed() => Ok(()),
            end = read_acks(requests, &self.hub.watchers) => end,
            end = feed.run() => end.map_err(Status::from),
        };
        match end {
            Ok(()) => tracing::info!(watcher = start.watcher, "a watcher has left"),
            Err(status) => {
                tracing::info!(watcher = start.watcher, reason = status.message(), "a watch was ended");
                let _ = responses.send(Err(status)).await;
            }
        }
    }
}

async fn read_start(requests: &mut Streaming<WatchDeploymentsRequest>) -> Result<WatchStart, Status> {
    let must_start = || Violations::one("start", "the first message must be start");
    let first = tokio::time::timeout(START_WAIT, requests.message()).await.map_err(|_| must_start())??;
    let first = first.ok_or_else(must_start)?;
    first.validate()?;
    match first.message {
        Some(Message::Start(start)) => Ok(start),
        _ => Err(must_start().into()),
    }
}

/// Takes acknowledgements until the watcher has no more to say.
async fn read_acks(
    mut requests: Streaming<WatchDeploymentsRequest>,
    watchers: &Watchers,
) -> Result<(), Status> {
    let registration = watchers.register();
    while let Some(request) = requests.message().await? {
        request.validate()?;
        match request.message {
            Some(Message::Ack(ack)) => registration.acknowledge(ack.revision),
            _ => return Err(Violations::one("ack", "every message after the first must be ack").into()),
        }
    }
    Ok(())
}

/// What one watcher is told.
struct Feed<'a> {
    catalogue: &'a Catalogue,
    db: &'a PgPool,
    hub: &'a Hub,
    include_source: bool,
    responses: &'a Responses,
}

impl Feed<'_> {
    /// Tells everything, from the snapshot on. Ends with `Ok` when nobody reads any more.
    async fn run(&self) -> Result<(), RegistryError> {
        let mut revision = self.snapshot().await?;
        // Without a subscription for as long as there is much to read, which would only lap it.
        self.catch_up(&mut revision).await?;
        let mut events = self.hub.subscribe();
        self.catch_up(&mut revision).await?;
        loop {
            match events.recv().await {
                Ok(Event::Changed(row)) if row.revision > revision => {
                    revision = row.revision;
                    self.tell(wire::change(&row, self.include_source), revision).await;
                }
                // The last look at the database has seen it.
                Ok(Event::Changed(_)) => {}
                Ok(Event::WentBack) => return Err(RegistryError::RevisionWentBack),
                Err(RecvError::Lagged(_)) => return Err(RegistryError::WatcherTooSlow),
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Tells what there is, and gives the revision up to which all of it is told.
    async fn snapshot(&self) -> Result<i64, RegistryError> {
        // Read before the deployments: what changes meanwhile is told again, as a change after this revision.
        let revision = deployments::revision(&mut *self.db.acquire().await?).await?;
        for template in self.catalogue.all() {
            self.tell(Change::Template(template.clone()), revision).await;
        }
        let (mut account, mut template) = (String::new(), String::new());
        loop {
            let after = (account.as_str(), template.as_str());
            let mut db = self.db.acquire().await?;
            let batch = deployments::live_after(&mut db, after, self.include_source).await?;
            drop(db);
            for row in &batch.rows {
                self.tell(wire::change(row, self.include_source), revision).await;
            }
            match batch.rows.into_iter().next_back() {
                Some(last) if !batch.is_last => (account, template) = (last.account, last.template),
                _ => break,
            }
        }
        self.tell(Change::SnapshotComplete(SnapshotComplete {}), revision).await;
        Ok(revision)
    }

    /// Tells what changed after `revision`, and moves it along.
    async fn catch_up(&self, revision: &mut i64) -> Result<(), RegistryError> {
        loop {
            let mut db = self.db.acquire().await?;
            let batch = deployments::changed_after(&mut db, *revision, self.include_source).await?;
            drop(db);
            for row in &batch.rows {
                *revision = row.revision;
                self.tell(wire::change(row, self.include_source), *revision).await;
            }
            if batch.is_last {
                return Ok(());
            }
        }
    }

    /// Waits until there is room for it. When nobody reads any more, `serve` ends the whole feed.
    async fn tell(&self, change: Change, revision: i64) {
        let _ = self.responses.send(Ok(WatchDeploymentsResponse { change: Some(change), revision })).await;
    }
}
