//! What one watcher is told.
//!
//! A watch begins with the database, read in batches: all of it, or what changed since the watcher's resume token. It
//! goes on with what changed meanwhile, and only then takes its changes from the hub. It subscribes to the hub
//! *before* the last look at the database: a change that was committed earlier is found by that look, a later one comes
//! through the hub. So none is missed, however long the beginning takes, and nothing is buffered for the watcher meanwhile.
//! Whether the database is still the one that the watcher was told of is looked up after that, too.

use chatfn_pg::Background;
use chatfn_proto::registry::v1::{
    Resumed, SnapshotComplete, WatchDeploymentsResponse, watch_deployments_response::Change,
};
use tokio::sync::broadcast::error::RecvError;

use super::{Teller, token};
use crate::{
    catalogue::Catalogue,
    error::RegistryError,
    grpc::wire,
    hub::{Event, Hub},
    store::deployments::{self, Revision},
};

/// Tells one watcher what is live.
pub(super) struct Feed<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) db: &'a Background,
    pub(super) hub: &'a Hub,
    pub(super) include_source: bool,
    pub(super) teller: &'a Teller,
}

/// Whether a change is a part of the watcher's beginning, whose end is the first state that it can go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Beginning,
    Watching,
}

impl Feed<'_> {
    /// Tells everything, from the beginning on.
    pub(super) async fn run(&self, resume_token: &str) -> Result<(), RegistryError> {
        let mut told = match self.known(resume_token).await? {
            Some(told) => self.resume(told).await?,
            None => self.snapshot().await?,
        };
        self.tell(Change::SnapshotComplete(SnapshotComplete {}), told, Phase::Watching).await?;
        // Without a subscription for as long as there is much to read, which would only lap it.
        self.catch_up(&mut told, Phase::Watching).await?;
        let mut events = self.hub.subscribe();
        self.catch_up(&mut told, Phase::Watching).await?;
        self.check(told).await?;
        loop {
            match events.recv().await {
                Ok(Event::Changed(row)) if row.revision > told.number => {
                    self.tell_change(&row, &mut told, Phase::Watching).await?;
                }
                // The last look at the database has seen it.
                Ok(Event::Changed(_)) => {}
                Ok(Event::WentBack) => return Err(RegistryError::RevisionWentBack),
                Ok(Event::Blind) => return Err(RegistryError::Store(sqlx::Error::PoolTimedOut)),
                Err(RecvError::Lagged(_)) => return Err(RegistryError::WatcherTooSlow),
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Refuses to go on from where the revision went back since the watcher was told: before the subscription nobody says so,
    /// and changes of lower numbers would be taken for known ones.
    async fn check(&self, told: Revision) -> Result<(), RegistryError> {
        let (_, went_back) = self.db.ask(deployments::revision_since(self.db.pool(), told)).await?;
        if went_back { Err(RegistryError::RevisionWentBack) } else { Ok(()) }
    }

    /// The revision up to which the watcher has been told all, if its token says one that it can go on from.
    async fn known(&self, resume_token: &str) -> Result<Option<Revision>, RegistryError> {
        let Some((number, id)) = token::revision(resume_token) else { return Ok(None) };
        let logged = self.db.ask(deployments::logged_id(self.db.pool(), number)).await?;
        Ok((logged == Some(id)).then_some(Revision { number, id: logged }))
    }

    /// Tells what there is besides what is `told`.
    async fn resume(&self, mut told: Revision) -> Result<Revision, RegistryError> {
        self.tell(Change::Resumed(Resumed {}), told, Phase::Beginning).await?;
        self.templates(told).await?;
        self.catch_up(&mut told, Phase::Beginning).await?;
        Ok(told)
    }

    /// Tells all that there is.
    async fn snapshot(&self) -> Result<Revision, RegistryError> {
        // Read before the deployments: what changes meanwhile is told again, as a change after this revision.
        let told = self.db.ask(deployments::revision(self.db.pool())).await?;
        self.templates(told).await?;
        let (mut account, mut template) = (String::new(), String::new());
        let mut limit = deployments::FIRST_ROWS;
        loop {
            let after = (account.as_str(), template.as_str());
            let read = deployments::live_after(self.db.pool(), after, self.include_source, limit);
            let batch = self.db.ask(read).await?;
            limit = batch.next_rows;
            for row in &batch.rows {
                self.tell(wire::change(row, self.include_source), told, Phase::Beginning).await?;
            }
            match batch.rows.into_iter().next_back() {
                Some(last) if !batch.is_last => (account, template) = (last.account, last.template),
                _ => return Ok(told),
            }
        }
    }

    async fn templates(&self, told: Revision) -> Result<(), RegistryError> {
        for template in self.catalogue.all() {
            self.tell(Change::Template(template.clone()), told, Phase::Beginning).await?;
        }
        Ok(())
    }

    /// Tells what changed after what is told.
    async fn catch_up(&self, told: &mut Revision, phase: Phase) -> Result<(), RegistryError> {
        let mut limit = deployments::FIRST_ROWS;
        loop {
            let read = deployments::changed_after(self.db.pool(), told.number, self.include_source, limit);
            let batch = self.db.ask(read).await?;
            limit = batch.next_rows;
            for row in &batch.rows {
                self.tell_change(row, told, phase).await?;
            }
            if batch.is_last {
                return Ok(());
            }
        }
    }

    async fn tell_change(
        &self,
        row: &deployments::Deployment,
        told: &mut Revision,
        phase: Phase,
    ) -> Result<(), RegistryError> {
        *told = row.revision();
        self.tell(wire::change(row, self.include_source), *told, phase).await
    }

    async fn tell(&self, change: Change, told: Revision, phase: Phase) -> Result<(), RegistryError> {
        let resume_token = match phase {
            Phase::Beginning => String::new(),
            Phase::Watching => token::token(told),
        };
        let response = WatchDeploymentsResponse { change: Some(change), revision: told.number, resume_token };
        self.teller.tell(response).await
    }
}
