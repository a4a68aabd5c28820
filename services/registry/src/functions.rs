//! The life of a function, apart from what is live of it (`deploy.rs`).

use std::sync::Arc;

use chatfn_domain::name::{AccountId, FunctionName, TemplateName, VersionName};
use chatfn_proto::registry::v1::{self as wire, AuditAction};
use futures_util::TryStreamExt as _;
use prost_types::FieldMask;
use sqlx::{PgConnection, PgPool};

use crate::{
    audit::{Entry, State},
    catalogue::Catalogue,
    deploy::existing,
    draft::Draft,
    error::RegistryError,
    grpc::wire as to_wire,
    hub::Hub,
    metrics::RegistryMetrics,
    mutation::{Begun, Change, Mutation},
    page::{ListKey, Page, fill},
    permission,
    prepare::Invoker,
    store::{functions, functions::Function, versions, versions::Version},
};

/// Most rows that one page of versions looks at: one more than the largest page.
const MAX_VERSIONS: i64 = 201;

/// What the methods of the registry work with.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) db: PgPool,
    pub(crate) hub: Arc<Hub>,
    pub(crate) invoker: Invoker,
    pub(crate) metrics: RegistryMetrics,
}

impl Registry {
    /// The template.
    pub(crate) fn template(&self, name: &TemplateName) -> Result<&wire::Template, RegistryError> {
        self.catalogue.get(name).ok_or_else(|| RegistryError::TemplateNotFound(name.clone()))
    }

    /// Registers a function as a draft.
    pub(crate) async fn create(
        &self,
        name: FunctionName,
        function: wire::Function,
        mutation: Mutation,
    ) -> Result<wire::CreateFunctionResponse, RegistryError> {
        let mut change = match Change::begin(&self.db, &name.account, mutation).await? {
            Begun::Change(change) => change,
            Begun::Repeated(answer) => return Ok(answer),
        };
        let draft = Draft::new(self.template(&name.template)?, function)?;
        permission::to_create(change.caller(), &name, &draft)?;
        match functions::insert(change.db(), &name, &draft).await {
            Err(error) if chatfn_pg::classify(&error).violates(functions::UNIQUE_FUNCTION) => {
                return Err(RegistryError::FunctionExists(name));
            }
            result => result?,
        }
        let function = reread(change.db(), &name).await?;
        let entry = Entry::new(AuditAction::CreateFunction, &name).after(State::draft(&function));
        let function = Some(shown(&change, function));
        change.finish(Some(entry), wire::CreateFunctionResponse { function }).await
    }

    /// The function.
    pub(crate) async fn get(&self, name: &FunctionName) -> Result<Function, RegistryError> {
        let mut db = self.db.acquire().await?;
        functions::get(&mut db, name).await?.ok_or_else(|| RegistryError::FunctionNotFound(name.clone()))
    }

    /// A page of an account's functions, as far as the filter lets them through.
    pub(crate) async fn list(
        &self,
        account: &AccountId,
        filter: FunctionFilter,
        size: i32,
        token: &str,
    ) -> Result<Page<wire::Function>, RegistryError> {
        let key_parts = ["functions", account.as_str(), filter.state.as_str_name(), &filter.template];
        let key = ListKey(&key_parts);
        let after = key.position(token)?.unwrap_or_default();
        let mut db = self.db.acquire().await?;
        // Filtered here: an account has no more functions than there are templates.
        let items = functions::list(&mut db, account, &after)
            .map_ok(to_wire::function)
            .try_filter(|item| std::future::ready(filter.lets_through(item)));
        fill(key, size, items, |item| template_of(item).to_owned()).await
    }

    /// Edits the draft.
    pub(crate) async fn update(
        &self,
        name: &FunctionName,
        function: wire::Function,
        mask: Option<FieldMask>,
        mutation: Mutation,
    ) -> Result<wire::UpdateFunctionResponse, RegistryError> {
        let mut change = match Change::begin(&self.db, &name.account, mutation).await? {
            Begun::Change(change) => change,
            Begun::Repeated(answer) => return Ok(answer),
        };
        let stored = locked(change.db(), name).await?;
        check_etag(name, &stored, &function.etag)?;
        // A template may have left the catalogue since.
        let default_name =
            self.catalogue.get(&name.template).map_or(name.template.as_str(), |it| &it.display_name);
        let draft = stored.draft();
        let updated = draft.clone().updated(&function, mask.as_ref(), default_name)?;
        if updated == draft {
            let function = Some(shown(&change, stored));
            return change.finish(None, wire::UpdateFunctionResponse { function }).await;
        }
        let changed_fields = draft.differing(&updated);
        permission::to_change(change.caller(), name, &changed_fields)?;
        functions::update(change.db(), name, &updated).await?;
        let function = reread(change.db(), name).await?;
        let entry = Entry {
            changed_fields,
            ..Entry::new(AuditAction::UpdateFunction, name)
                .before(State::draft(&stored))
                .after(State::draft(&function))
        };
        let function = Some(shown(&change, function));
        change.finish(Some(entry), wire::UpdateFunctionResponse { function }).await
    }

    /// Deletes a function that is not deployed.
    pub(crate) async fn delete(
        &self,
        name: &FunctionName,
        etag: &str,
        mutation: Mutation,
    ) -> Result<wire::DeleteFunctionResponse, RegistryError> {
        let mut change = match Change::begin(&self.db, &name.account, mutation).await? {
            Begun::Change(change) => change,
            Begun::Repeated(answer) => return Ok(answer),
        };
        let function = locked(change.db(), name).await?;
        check_etag(name, &function, etag)?;
        if function.live_version.is_some() {
            return Err(RegistryError::FunctionDeployed(name.clone()));
        }
        functions::delete(change.db(), name).await?;
        let entry = Entry::new(AuditAction::DeleteFunction, name).before(State::draft(&function));
        let answer = change.finish(Some(entry), wire::DeleteFunctionResponse {}).await?;
        tracing::info!(function = %name, "deleted");
        Ok(answer)
    }

    /// The version.
    pub(crate) async fn version(&self, name: &VersionName) -> Result<Version, RegistryError> {
        let mut db = self.db.acquire().await?;
        existing(&mut db, &name.function(), name.number).await
    }

    /// A page of a function's versions, newest first.
    pub(crate) async fn list_versions(
        &self,
        function: &FunctionName,
        size: i32,
        token: &str,
    ) -> Result<Page<wire::Version>, RegistryError> {
        let parent = function.to_string();
        let key_parts = ["versions", &parent];
        let key = ListKey(&key_parts);
        let before = match key.position(token)? {
            None => i64::MAX,
            Some(position) => position.parse().map_err(|_| RegistryError::InvalidPageToken)?,
        };
        let mut db = self.db.acquire().await?;
        let items = versions::list(&mut db, function, before, MAX_VERSIONS)
            .map_ok(|version| to_wire::version(function, version));
        let page = fill(key, size, items, |version| version.number.to_string()).await?;
        // Versions go with their function, so only an empty page leaves the question open.
        if page.items.is_empty() && functions::get(&mut db, function).await?.is_none() {
            return Err(RegistryError::FunctionNotFound(function.clone()));
        }
        Ok(page)
    }
}

/// Which functions to list.
#[derive(Debug)]
pub(crate) struct FunctionFilter {
    /// Those in this state; unspecified: all.
    pub(crate) state: wire::FunctionState,
    /// Those for this template, or with a final `.*` for those that begin so; empty: all.
    pub(crate) template: String,
}

impl FunctionFilter {
    fn lets_through(&self, function: &wire::Function) -> bool {
        let template = template_of(function);
        let is_wanted = match self.template.strip_suffix('*') {
            _ if self.template.is_empty() => true,
            Some(start) => template.starts_with(start),
            None => template == self.template,
        };
        is_wanted
            && (self.state == wire::FunctionState::Unspecified || function.state == i32::from(self.state))
    }
}

fn template_of(function: &wire::Function) -> &str {
    function.name.rsplit_once('/').map_or("", |(_, template)| template)
}

/// The function as the answer shows it. What was only tried has no etag: nothing has it.
pub(crate) fn shown(change: &Change, function: Function) -> wire::Function {
    let function = to_wire::function(function);
    if change.is_dry() { wire::Function { etag: String::new(), ..function } } else { function }
}

/// The function that this transaction has written, as it is now.
pub(crate) async fn reread(db: &mut PgConnection, name: &FunctionName) -> Result<Function, RegistryError> {
    Ok(functions::get(db, name).await?.ok_or(sqlx::Error::RowNotFound)?)
}

/// The function, locked until the transaction ends.
pub(crate) async fn locked(db: &mut PgConnection, name: &FunctionName) -> Result<Function, RegistryError> {
    functions::lock(db, name).await?.ok_or_else(|| RegistryError::FunctionNotFound(name.clone()))
}

/// Refuses an etag that is not empty and not the current one.
pub(crate) fn check_etag(name: &FunctionName, function: &Function, etag: &str) -> Result<(), RegistryError> {
    let current = function.etag();
    if etag.is_empty() || etag == current {
        Ok(())
    } else {
        Err(RegistryError::EtagMismatch { function: name.clone(), current })
    }
}
