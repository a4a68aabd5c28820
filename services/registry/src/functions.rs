//! The life of a function, apart from what is live of it (`deploy.rs`).

use std::sync::Arc;

use chatfn_domain::name::{AccountId, FunctionName, TemplateName, VersionName};
use chatfn_proto::registry::v1 as wire;
use futures_util::TryStreamExt as _;
use prost_types::FieldMask;
use sqlx::{PgConnection, PgPool};

use crate::{
    catalogue::Catalogue,
    deploy::existing,
    draft::Draft,
    error::{RegistryError, commit},
    grpc::wire as to_wire,
    hub::Hub,
    page::{ListKey, Page, fill},
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
    ) -> Result<Function, RegistryError> {
        let draft = Draft::new(self.template(&name.template)?, function)?;
        let mut transaction = self.db.begin().await?;
        match functions::insert(&mut transaction, &name, &draft).await {
            Err(error) if chatfn_pg::classify(&error).violates(functions::UNIQUE_FUNCTION) => {
                return Err(RegistryError::FunctionExists(name));
            }
            result => result?,
        }
        let function = functions::get(&mut transaction, &name).await?.ok_or(sqlx::Error::RowNotFound)?;
        commit(transaction).await?;
        Ok(function)
    }

    /// The function.
    pub(crate) async fn get(&self, name: &FunctionName) -> Result<Function, RegistryError> {
        let mut db = self.db.acquire().await?;
        functions::get(&mut db, name).await?.ok_or_else(|| RegistryError::FunctionNotFound(name.clone()))
    }

    /// A page of an account's functions, those in `state` if one is given.
    pub(crate) async fn list(
        &self,
        account: &AccountId,
        state: wire::FunctionState,
        size: i32,
        token: &str,
    ) -> Result<Page<wire::Function>, RegistryError> {
        let key_parts = ["functions", account.as_str(), state.as_str_name()];
        let key = ListKey(&key_parts);
        let after = key.position(token)?.unwrap_or_default();
        let mut db = self.db.acquire().await?;
        // Filtered here: an account has no more functions than there are templates.
        let items = functions::list(&mut db, account, &after).map_ok(to_wire::function).try_filter(|item| {
            std::future::ready(state == wire::FunctionState::Unspecified || item.state == i32::from(state))
        });
        let template_of = |item: &wire::Function| {
            item.name.rsplit_once('/').map_or_else(String::new, |(_, template)| template.to_owned())
        };
        fill(key, size, items, template_of).await
    }

    /// Edits the draft.
    pub(crate) async fn update(
        &self,
        name: &FunctionName,
        function: wire::Function,
        mask: Option<FieldMask>,
    ) -> Result<Function, RegistryError> {
        let mut transaction = self.db.begin().await?;
        let stored = locked(&mut transaction, name).await?;
        check_etag(name, &stored, &function.etag)?;
        // A template may have left the catalogue since.
        let default_name =
            self.catalogue.get(&name.template).map_or(name.template.as_str(), |it| &it.display_name);
        let draft = stored.draft();
        let updated = draft.clone().updated(&function, mask.as_ref(), default_name)?;
        if updated == draft {
            return Ok(stored);
        }
        functions::update(&mut transaction, name, &updated).await?;
        let function = functions::get(&mut transaction, name).await?.ok_or(sqlx::Error::RowNotFound)?;
        commit(transaction).await?;
        Ok(function)
    }

    /// Deletes a function that is not deployed.
    pub(crate) async fn delete(&self, name: &FunctionName, etag: &str) -> Result<(), RegistryError> {
        let mut transaction = self.db.begin().await?;
        let function = locked(&mut transaction, name).await?;
        check_etag(name, &function, etag)?;
        if function.live_version.is_some() {
            return Err(RegistryError::FunctionDeployed(name.clone()));
        }
        functions::delete(&mut transaction, name).await?;
        commit(transaction).await?;
        tracing::info!(function = %name, "deleted");
        Ok(())
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
