//! Makes versions live and takes them out of service.

use std::time::Duration;

use chatfn_domain::{
    name::{FunctionName, VersionName, VersionNumber},
    settings::FunctionSettings,
};
use chatfn_proto::registry::v1::{self as wire, AuditAction, Propagation};
use chatfn_rpc::CallContext;
use sqlx::PgConnection;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    audit::{Entry, State},
    build_error::BuildError,
    error::{RegistryError, commit},
    functions::{Registry, check_etag, locked, reread, shown},
    grpc::wire as to_wire,
    mutation::{Begun, Change, Mutation},
    permission,
    store::{audit, deployments, functions, functions::Function, versions, versions::Version},
};

/// Longest wait for the watchers.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How many of a function's newest versions are kept, of up to 100,000 characters each.
const KEPT_VERSIONS: i64 = 100;

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
    /// What was live when it was read.
    live: Option<State>,
    source: String,
    settings: FunctionSettings,
    digest: String,
}

impl Registry {
    /// Makes a version live once an invoker has prepared it; see `DeployFunction` in the contract.
    pub(crate) async fn deploy(
        &self,
        deploy: Deploy,
        mutation: Mutation,
        context: &CallContext,
    ) -> Result<wire::DeployFunctionResponse, RegistryError> {
        let is_dry = mutation.is_dry;
        let deployed = self.try_deploy(deploy, mutation, context).await;
        self.metrics.deployed(&deployed, is_dry);
        deployed
    }

    async fn try_deploy(
        &self,
        deploy: Deploy,
        mutation: Mutation,
        context: &CallContext,
    ) -> Result<wire::DeployFunctionResponse, RegistryError> {
        let is_dry = mutation.is_dry;
        let (mut answer, revision) = match self.repeated(&deploy, &mutation).await? {
            Some(answer) => (answer, None),
            None => {
                let candidate = self.candidate(&deploy).await?;
                // No connection is held meanwhile: an invoker that takes its time must not use up the pool.
                let asked = Instant::now();
                let Candidate { source, settings, .. } = &candidate;
                let prepared = self.invoker.prepare(&deploy.name, source, settings, context).await;
                self.metrics.prepared(asked.elapsed());
                let warnings = match prepared? {
                    Ok(warnings) => warnings,
                    Err(error) => {
                        if !is_dry {
                            self.keep_failure(&deploy, &candidate, &mutation, &error).await?;
                        }
                        return Err(RegistryError::BuildFailed {
                            function: deploy.name,
                            error: Box::new(error),
                        });
                    }
                };
                self.make_live(&deploy, &candidate, warnings, mutation).await?
            }
        };
        if !is_dry {
            answer.propagation = Some(self.propagate(&deploy.name, revision, context).await?);
        }
        Ok(answer)
    }

    /// Takes the live version, if any, out of service.
    pub(crate) async fn undeploy(
        &self,
        name: &FunctionName,
        etag: &str,
        mutation: Mutation,
        context: &CallContext,
    ) -> Result<wire::UndeployFunctionResponse, RegistryError> {
        let (mut answer, revision) = match Change::begin(&self.db, &name.account, mutation).await? {
            Begun::Change(change) => self.take_out(name, etag, change).await?,
            Begun::Repeated(answer) => (answer, None),
        };
        answer.propagation = Some(self.propagate(name, revision, context).await?);
        Ok(answer)
    }

    /// Takes the live version, if any, out of service; with the revision at which that happened.
    async fn take_out(
        &self,
        name: &FunctionName,
        etag: &str,
        mut change: Change,
    ) -> Result<(wire::UndeployFunctionResponse, Option<i64>), RegistryError> {
        let before = locked(change.db(), name).await?;
        check_etag(name, &before, etag)?;
        let answer = |function| wire::UndeployFunctionResponse {
            function: Some(to_wire::function(function)),
            propagation: None,
        };
        if before.live_version.is_none() {
            let revision = before.deployment_revision;
            return Ok((change.finish(None, answer(before)).await?, revision));
        }
        functions::undeployed(change.db(), name).await?;
        deployments::set(change.db(), name, None).await?;
        let after = reread(change.db(), name).await?;
        let revision = after.deployment_revision;
        let entry = Entry::new(AuditAction::UndeployFunction, name).before(State::live(&before));
        let answer = change.finish(Some(entry), answer(after)).await?;
        self.hub.ring();
        tracing::info!(function = %name, "undeployed");
        Ok((answer, revision))
    }

    /// The first answer to a deploy that is asked for again: nothing is prepared for it.
    async fn repeated(
        &self,
        deploy: &Deploy,
        mutation: &Mutation,
    ) -> Result<Option<wire::DeployFunctionResponse>, RegistryError> {
        if mutation.request_id.is_none() {
            return Ok(None);
        }
        mutation.repeated(&mut *self.db.acquire().await?, &deploy.name.account).await
    }

    /// Keeps why the deploy failed, unless the function is another one by now.
    async fn keep_failure(
        &self,
        deploy: &Deploy,
        candidate: &Candidate,
        mutation: &Mutation,
        error: &BuildError,
    ) -> Result<(), RegistryError> {
        let draft = deploy.version.is_none().then_some(candidate.digest.as_str());
        let entry = Entry {
            message: deploy.message.clone(),
            error_reason: chatfn_rpc::reasons::BUILD_FAILED.name(),
            ..Entry::new(AuditAction::DeployFunction, &deploy.name).before(candidate.live.clone())
        };
        let mut transaction = self.db.begin().await?;
        if functions::build_failed(&mut transaction, candidate.function_uid, &deploy.name, draft, error)
            .await?
        {
            audit::insert(&mut transaction, &deploy.name.account, mutation, &entry).await?;
        }
        commit(transaction).await
    }

    async fn candidate(&self, deploy: &Deploy) -> Result<Candidate, RegistryError> {
        let mut db = self.db.acquire().await?;
        let function = functions::get(&mut db, &deploy.name)
            .await?
            .ok_or_else(|| RegistryError::FunctionNotFound(deploy.name.clone()))?;
        check_etag(&deploy.name, &function, &deploy.etag)?;
        let live = State::live(&function);
        let Some(number) = deploy.version else {
            return Ok(Candidate {
                function_uid: function.uid,
                live,
                source: function.source,
                settings: function.settings.0,
                digest: function.draft_digest,
            });
        };
        let version = existing(&mut db, &deploy.name, number).await?;
        Ok(Candidate {
            function_uid: version.function_uid,
            live,
            source: version.source,
            settings: version.settings.0,
            digest: version.digest,
        })
    }

    /// Makes what was prepared live, if it is still what would be deployed; with the revision at which that happened.
    async fn make_live(
        &self,
        deploy: &Deploy,
        candidate: &Candidate,
        warnings: Vec<String>,
        mutation: Mutation,
    ) -> Result<(wire::DeployFunctionResponse, Option<i64>), RegistryError> {
        let name = &deploy.name;
        let mut change = match Change::begin(&self.db, &name.account, mutation).await? {
            Begun::Change(change) => change,
            Begun::Repeated(answer) => return Ok((answer, None)),
        };
        let before = locked(change.db(), name).await?;
        check_etag(name, &before, &deploy.etag)?;
        let is_same_function = before.uid == candidate.function_uid;
        let is_same_draft = deploy.version.is_some() || before.draft_digest == candidate.digest;
        if !(is_same_function && is_same_draft) {
            return Err(RegistryError::DraftChanged { function: name.clone(), current: before.etag() });
        }

        let number = match (deploy.version, before.live_version) {
            (Some(number), _) => number.get(),
            (None, Some(live)) if before.live_digest.as_deref() == Some(&candidate.digest) => live,
            (None, _) => {
                let author = change.caller().subject().to_owned();
                versions::insert_draft(change.db(), name, &deploy.message, &author).await?
            }
        };
        let is_change = before.live_version != Some(number);
        if deploy.version.is_some() && is_change {
            let live = live_settings(change.db(), name, &before).await?;
            permission::to_roll_back(change.caller(), name, &candidate.settings, [&before.settings, &live])?;
        }
        // The version to roll back to may have been removed meanwhile.
        let version =
            existing(change.db(), name, VersionNumber::new(number).ok_or(sqlx::Error::RowNotFound)?).await?;
        functions::deployed(change.db(), name, is_change).await?;
        match (is_change, change.is_dry()) {
            (false, _) => {}
            (true, false) => deployments::set(change.db(), name, Some(number)).await?,
            (true, true) => deployments::try_set(change.db(), name, number).await?,
        }
        if is_change && deploy.version.is_none() {
            // What was live until now must be there to go back to.
            versions::remove_up_to(change.db(), name, number - KEPT_VERSIONS, before.live_version).await?;
        }
        let after = reread(change.db(), name).await?;

        let revision = after.deployment_revision;
        let entry = Entry {
            message: deploy.message.clone(),
            ..Entry::new(AuditAction::DeployFunction, name)
                .before(State::live(&before))
                .after(State::live(&after))
        };
        let answer = wire::DeployFunctionResponse {
            function: Some(shown(&change, after)),
            version: Some(wire::Version { source: String::new(), ..to_wire::version(name, version) }),
            propagation: None,
            warnings,
        };
        let is_dry = change.is_dry();
        let answer = change.finish(is_change.then_some(entry), answer).await?;
        if !is_dry {
            self.hub.ring();
            tracing::info!(function = %name, version = number, "deployed");
        }
        Ok((answer, revision))
    }

    /// How far the function's deployment has reached the watchers, after giving them some time. `revision` is when it
    /// last changed, if that is known.
    async fn propagate(
        &self,
        function: &FunctionName,
        revision: Option<i64>,
        context: &CallContext,
    ) -> Result<Propagation, RegistryError> {
        let revision = match revision {
            Some(revision) => revision,
            None => {
                let mut db = self.db.acquire().await?;
                deployments::revision_of(&mut db, function).await?.unwrap_or(0)
            }
        };
        let longest = Instant::now() + LONGEST_WAIT;
        let until = context
            .deadline
            .map_or(longest, |deadline| deadline.shrink(ANSWER_MARGIN).instant().min(longest));
        Ok(self.hub.watchers.propagation(revision, until).await)
    }
}

/// The settings of what is live of the function; if nothing is, the default ones.
async fn live_settings(
    db: &mut PgConnection,
    name: &FunctionName,
    function: &Function,
) -> Result<FunctionSettings, RegistryError> {
    match function.live_version.and_then(VersionNumber::new) {
        Some(number) => Ok(existing(db, name, number).await?.settings.0),
        None => Ok(FunctionSettings::default()),
    }
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
