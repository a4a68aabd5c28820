//! Makes versions live and takes them out of service.

use std::time::Duration;

use chatfn_domain::{
    name::{FunctionName, VersionName, VersionNumber},
    settings::FunctionSettings,
};
use chatfn_proto::registry::v1::Propagation;
use chatfn_rpc::CallContext;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    error::{RegistryError, commit},
    functions::{Registry, check_etag, locked},
    store::{deployments, functions, functions::Function, versions, versions::Version},
};

/// Longest wait for the watchers.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What is kept of a call's time for its answer.
const ANSWER_MARGIN: Duration = Duration::from_millis(20);

/// What to deploy.
#[derive(Debug)]
pub(crate) struct Deploy {
    pub(crate) name: FunctionName,
    /// An existing version; `None` for the draft.
    pub(crate) version: Option<VersionNumber>,
    /// If not empty, it must be the current one.
    pub(crate) etag: String,
    /// What changed, for the list of versions.
    pub(crate) message: String,
}

/// What an invoker is asked to prepare.
struct Candidate {
    /// The function, which is not a later one of the same name.
    function_uid: Uuid,
    source: String,
    settings: FunctionSettings,
    digest: String,
}

impl Registry {
    /// Makes a version live once an invoker has prepared it; see `DeployFunction` in the contract.
    pub(crate) async fn deploy(
        &self,
        deploy: Deploy,
        context: &CallContext,
    ) -> Result<(Function, Version, Propagation), RegistryError> {
        let candidate = self.candidate(&deploy).await?;
        // No connection is held meanwhile: an invoker that takes its time must not use up the pool.
        if let Err(error) = self.invoker.prepare(&candidate.source, &candidate.settings, context).await? {
            let draft = deploy.version.is_none().then_some(candidate.digest.as_str());
            let mut db = self.db.acquire().await?;
            functions::build_failed(&mut db, candidate.function_uid, &deploy.name, draft, &error).await?;
            return Err(RegistryError::BuildFailed { function: deploy.name, error: Box::new(error) });
        }
        let (function, version) = self.make_live(&deploy, &candidate).await?;
        let propagation = self.propagate(&function, context).await;
        tracing::info!(
            function = %deploy.name,
            version = version.number,
            watchers = propagation.watchers,
            acknowledged = propagation.acknowledged,
            "deployed"
        );
        Ok((function, version, propagation))
    }

    /// Takes the live version, if any, out of service.
    pub(crate) async fn undeploy(
        &self,
        name: &FunctionName,
        etag: &str,
        context: &CallContext,
    ) -> Result<(Function, Propagation), RegistryError> {
        let mut transaction = self.db.begin().await?;
        let mut function = locked(&mut transaction, name).await?;
        check_etag(name, &function, etag)?;
        if function.live_version.is_some() {
            functions::undeployed(&mut transaction, name).await?;
            deployments::set(&mut transaction, name, None).await?;
            function = reread(&mut transaction, name).await?;
            commit(transaction).await?;
            self.hub.ring();
            tracing::info!(function = %name, "undeployed");
        }
        let propagation = self.propagate(&function, context).await;
        Ok((function, propagation))
    }

    async fn candidate(&self, deploy: &Deploy) -> Result<Candidate, RegistryError> {
        let mut db = self.db.acquire().await?;
        let function = functions::get(&mut db, &deploy.name)
            .await?
            .ok_or_else(|| RegistryError::FunctionNotFound(deploy.name.clone()))?;
        check_etag(&deploy.name, &function, &deploy.etag)?;
        let Some(number) = deploy.version else {
            return Ok(Candidate {
                function_uid: function.uid,
                source: function.source,
                settings: function.settings.0,
                digest: function.draft_digest,
            });
        };
        let version = existing(&mut db, &deploy.name, number).await?;
        Ok(Candidate {
            function_uid: version.function_uid,
            source: version.source,
            settings: version.settings.0,
            digest: version.digest,
        })
    }

    /// Makes what was prepared live, if it is still what would be deployed.
    async fn make_live(
        &self,
        deploy: &Deploy,
        candidate: &Candidate,
    ) -> Result<(Function, Version), RegistryError> {
        let name = &deploy.name;
        let mut transaction = self.db.begin().await?;
        let function = locked(&mut transaction, name).await?;
        check_etag(name, &function, &deploy.etag)?;
        let is_same_function = function.uid == candidate.function_uid;
        let is_same_draft = deploy.version.is_some() || function.draft_digest == candidate.digest;
        if !(is_same_function && is_same_draft) {
            return Err(RegistryError::DraftChanged { function: name.clone(), current: function.etag() });
        }

        let number = match (deploy.version, function.live_version) {
            (Some(number), _) => number.get(),
            (None, Some(live)) if function.live_digest.as_deref() == Some(&candidate.digest) => live,
            (None, _) => versions::insert_draft(&mut transaction, name, &deploy.message).await?,
        };
        let is_change = function.live_version != Some(number);
        functions::deployed(&mut transaction, name, is_change).await?;
        if is_change {
            deployments::set(&mut transaction, name, Some(number)).await?;
        }
        let function = reread(&mut transaction, name).await?;
        let number = VersionNumber::new(number).ok_or(sqlx::Error::RowNotFound)?;
        let version = existing(&mut transaction, name, number).await?;
        commit(transaction).await?;
        self.hub.ring();
        Ok((function, version))
    }

    /// How far the function's deployment has reached the watchers, after giving them some time.
    async fn propagate(&self, function: &Function, context: &CallContext) -> Propagation {
        let longest = Instant::now() + LONGEST_WAIT;
        let until = context
            .deadline
            .map_or(longest, |deadline| deadline.shrink(ANSWER_MARGIN).instant().min(longest));
        self.hub.watchers.propagation(function.deployment_revision.unwrap_or(0), until).await
    }
}

/// The function that this transaction has locked, with what it has changed.
async fn reread(db: &mut PgConnection, name: &FunctionName) -> Result<Function, RegistryError> {
    Ok(functions::get(db, name).await?.ok_or(sqlx::Error::RowNotFound)?)
}

/// The version.
pub(crate) async fn existing(
    db: &mut PgConnection,
    function: &FunctionName,
    number: VersionNumber,
) -> Result<Version, RegistryError> {
    versions::get(db, function, number).await?.ok_or_else(|| {
        let FunctionName { account, template } = function.clone();
        RegistryError::VersionNotFound(VersionName { account, template, number })
    })
}
