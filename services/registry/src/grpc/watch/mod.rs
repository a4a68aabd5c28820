//! `DeploymentWatchService`.

mod answers;
mod feed;
mod token;

use std::{sync::Arc, time::Duration};

use chatfn_pg::Background;
use chatfn_proto::{
    registry::v1::{
        WatchDeploymentsRequest, WatchStart, deployment_watch_service_server::DeploymentWatchService,
        watch_deployments_request::Message,
    },
    validate::{Validate as _, Violations},
};
use chatfn_rpc::{ApiError, RequestExt as _, Service, reasons, unreadable};
use tonic::{Code, Request, Response, Status, Streaming};

use self::{
    answers::{Answers, Teller, answers},
    feed::Feed,
};
use crate::{
    catalogue::Catalogue,
    error::RegistryError,
    hub::{Hub, Watchers},
    metrics::{RegistryMetrics, WatchEnd},
};

/// Longest wait for the first message.
const START_WAIT: Duration = Duration::from_secs(10);

/// What is live, for the services that act on it.
#[derive(Debug, Clone)]
pub(crate) struct WatchHandler {
    pub(crate) catalogue: Arc<Catalogue>,
    /// Not the pool of the admins' calls: a crowd of watchers that come back must not shut them out.
    pub(crate) db: Background,
    pub(crate) hub: Arc<Hub>,
    /// Longest time for which a watcher may read nothing of what waits for it.
    pub(crate) stall: Duration,
    pub(crate) metrics: RegistryMetrics,
}

#[tonic::async_trait]
impl DeploymentWatchService for WatchHandler {
    type WatchDeploymentsStream = Answers;

    async fn watch_deployments(
        &self,
        request: Request<Streaming<WatchDeploymentsRequest>>,
    ) -> Result<Response<Self::WatchDeploymentsStream>, Status> {
        let caller = request.caller();
        let mut requests = request.into_inner();
        let start = read_start(&mut requests).await?;
        if start.include_source && !caller.is_service(Service::Invoker) {
            return Err(sources_are_for_invokers().into());
        }
        let (teller, answers) = answers(self.stall);
        tokio::spawn(self.clone().serve(start, requests, teller));
        Ok(Response::new(answers))
    }
}

fn sources_are_for_invokers() -> ApiError {
    ApiError::permission_denied(
        reasons::SERVICE_REQUIRED,
        "only an invoker may watch with include_source, by certificate; leave it out",
    )
    .metadata("services", "invoker")
}

impl WatchHandler {
    /// Serves one watch until either side ends it.
    async fn serve(self, start: WatchStart, requests: Streaming<WatchDeploymentsRequest>, teller: Teller) {
        tracing::info!(watcher = start.watcher, "a watcher has come");
        let feed = Feed {
            catalogue: &self.catalogue,
            db: &self.db,
            hub: &self.hub,
            include_source: start.include_source,
            teller: &teller,
        };
        let (end, why) = tokio::select! {
            () = teller.is_hung_up() => (Ok(()), WatchEnd::Left),
            end = read_acks(requests, &self.hub.watchers) => {
                let is_wrong = end.as_ref().is_err_and(|status| status.code() == Code::InvalidArgument);
                (end, if is_wrong { WatchEnd::Failed } else { WatchEnd::Left })
            }
            end = feed.run(&start.resume_token) => {
                let why = match &end {
                    Ok(()) => WatchEnd::Left,
                    Err(RegistryError::WatcherTooSlow) => WatchEnd::TooSlow,
                    Err(RegistryError::RevisionWentBack) => WatchEnd::WentBack,
                    Err(_) => WatchEnd::Failed,
                };
                (end.map_err(Status::from), why)
            }
        };
        self.metrics.watch_ended(why);
        match end {
            Ok(()) => tracing::info!(watcher = start.watcher, "a watcher has left"),
            Err(status) => {
                tracing::info!(watcher = start.watcher, reason = status.message(), "a watch was ended");
                teller.end(status);
            }
        }
    }
}

async fn read_start(requests: &mut Streaming<WatchDeploymentsRequest>) -> Result<WatchStart, Status> {
    let must_start = || Violations::one("start", "the first message must be start");
    let first = tokio::time::timeout(START_WAIT, requests.message())
        .await
        .map_err(|_| must_start())?
        .map_err(unreadable)?;
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
    while let Some(request) = requests.message().await.map_err(unreadable)? {
        request.validate()?;
        match request.message {
            Some(Message::Ack(ack)) => registration.acknowledge(ack.revision),
            _ => return Err(Violations::one("ack", "every message after the first must be ack").into()),
        }
    }
    Ok(())
}
