//! Functions with their drafts.

use chatfn_domain::{
    function::FunctionState,
    name::{AccountId, FunctionName},
    settings::FunctionSettings,
};
use futures_util::Stream;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use crate::{build_error::BuildError, draft::Draft};

/// Name of the constraint that keeps functions unique by account and template.
pub(crate) const UNIQUE_FUNCTION: &str = "functions_pkey";

/// A function as it is stored, with what is live of it.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) account: String,
    pub(crate) template: String,
    pub(crate) uid: Uuid,
    revision: i64,
    pub(crate) display_name: String,
    pub(crate) description: String,
    /// Empty when it was read for a list.
    pub(crate) source: String,
    pub(crate) settings: Json<FunctionSettings>,
    pub(crate) draft_digest: String,
    pub(crate) build_error: Option<Json<BuildError>>,
    pub(crate) create_micros: i64,
    pub(crate) update_micros: i64,
    pub(crate) live_version: Option<i64>,
    pub(crate) live_digest: Option<String>,
    /// Revision of the deployments at which the deployment last changed.
    pub(crate) deployment_revision: Option<i64>,
}

impl Function {
    /// Stands for this state of this function: differs for every change of draft or deployment, and for
    /// a function of the same name that was deleted and created again.
    pub(crate) fn etag(&self) -> String {
        Uuid::new_v5(&self.uid, &self.revision.to_be_bytes()).simple().to_string()
    }

    /// The state that follows from draft and live version.
    pub(crate) fn state(&self) -> FunctionState {
        FunctionState::derive(&self.draft_digest, self.live_digest.as_deref())
    }

    /// What its author edits.
    pub(crate) fn draft(&self) -> Draft {
        Draft {
            display_name: self.display_name.clone(),
            description: self.description.clone(),
            source: self.source.clone(),
            settings: self.settings.0.clone(),
        }
    }
}

/// Reads functions; `$source` is the SQL of the source column, `$rest` what follows `FROM`.
macro_rules! select_functions {
    ($source:literal, $rest:literal, $($argument:expr),+) => {
        sqlx::query_as!(
            Function,
            r#"SELECT f.account, f.template, f.uid, f.revision, f.display_name, f.description, "#
                + $source
                + r#" AS "source!", f.settings AS "settings: Json<FunctionSettings>", f.draft_digest,
                      f.build_error AS "build_error: Json<BuildError>",
                      (extract(epoch FROM f.create_time) * 1000000)::bigint AS "create_micros!",
                      (extract(epoch FROM f.update_time) * 1000000)::bigint AS "update_micros!",
                      d.live_version AS "live_version?", v.digest AS "live_digest?",
                      d.revision AS "deployment_revision?"
               FROM registry.functions f
               LEFT JOIN registry.deployments d ON d.account = f.account AND d.template = f.template
               LEFT JOIN registry.versions v ON v.account = f.account AND v.template = f.template
                     AND v.number = d.live_version "#
                + $rest,
            $($argument),+
        )
    };
}

/// The function, if it exists.
pub(crate) async fn get(db: &mut PgConnection, name: &FunctionName) -> sqlx::Result<Option<Function>> {
    select_functions!(
        "f.source",
        "WHERE f.account = $1 AND f.template = $2",
        name.account.as_str(),
        name.template.as_str()
    )
    .fetch_optional(db)
    .await
}

/// The function, if it exists, locked until the transaction ends.
pub(crate) async fn lock(db: &mut PgConnection, name: &FunctionName) -> sqlx::Result<Option<Function>> {
    // A statement of its own: one that waits for a lock goes on with the new row of the locked table, but
    // with the old rows of those that it joins.
    let is_locked = sqlx::query!(
        "SELECT 1 AS one FROM registry.functions WHERE account = $1 AND template = $2 FOR UPDATE",
        name.account.as_str(),
        name.template.as_str()
    )
    .fetch_optional(&mut *db)
    .await?
    .is_some();
    // If it was deleted while this waited, one that was created since is not locked, and another function.
    if is_locked { get(db, name).await } else { Ok(None) }
}

/// An account's functions after a template, sorted by template, without their sources.
pub(crate) fn list<'a>(
    db: &'a mut PgConnection,
    account: &'a AccountId,
    after: &'a str,
) -> impl Stream<Item = sqlx::Result<Function>> + 'a {
    select_functions!(
        "''",
        "WHERE f.account = $1 AND f.template > $2 ORDER BY f.template",
        account.as_str(),
        after
    )
    .fetch(db)
}

/// Registers a function.
///
/// # Errors
/// A violation of [`UNIQUE_FUNCTION`] when the account has one for this template.
pub(crate) async fn insert(db: &mut PgConnection, name: &FunctionName, draft: &Draft) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO registry.functions
             (account, template, display_name, description, source, settings, draft_digest)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        name.account.as_str(),
        name.template.as_str(),
        draft.display_name,
        draft.description,
        draft.source,
        Json(&draft.settings) as _,
        draft.digest()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Replaces the draft.
pub(crate) async fn update(db: &mut PgConnection, name: &FunctionName, draft: &Draft) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE registry.functions
         SET display_name = $3, description = $4, source = $5, settings = $6, draft_digest = $7,
             revision = revision + 1, update_time = now()
         WHERE account = $1 AND template = $2",
        name.account.as_str(),
        name.template.as_str(),
        draft.display_name,
        draft.description,
        draft.source,
        Json(&draft.settings) as _,
        draft.digest()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Says that the deployment has changed, or at least that the last deploy did not fail.
pub(crate) async fn deployed(db: &mut PgConnection, name: &FunctionName, changed: bool) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE registry.functions
         SET build_error = NULL,
             revision = CASE WHEN $3 THEN revision + 1 ELSE revision END,
             update_time = CASE WHEN $3 THEN now() ELSE update_time END
         WHERE account = $1 AND template = $2",
        name.account.as_str(),
        name.template.as_str(),
        changed
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Says that the deployment has been taken out of service.
pub(crate) async fn undeployed(db: &mut PgConnection, name: &FunctionName) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE registry.functions SET revision = revision + 1, update_time = now()
         WHERE account = $1 AND template = $2",
        name.account.as_str(),
        name.template.as_str()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Keeps why the last deploy failed, if the function `uid` still exists and, when `draft` is given, still
/// has that draft; says whether. The etag stays: neither draft nor deployment has changed.
pub(crate) async fn build_failed(
    db: &mut PgConnection,
    uid: Uuid,
    name: &FunctionName,
    draft: Option<&str>,
    error: &BuildError,
) -> sqlx::Result<bool> {
    let kept = sqlx::query!(
        "UPDATE registry.functions SET build_error = $4
         WHERE account = $1 AND template = $2 AND uid = $3 AND draft_digest = coalesce($5, draft_digest)",
        name.account.as_str(),
        name.template.as_str(),
        uid,
        Json(error) as _,
        draft
    )
    .execute(db)
    .await?;
    Ok(kept.rows_affected() == 1)
}

/// Deletes a function with its versions. Its deployment's row stays, with nothing live.
pub(crate) async fn delete(db: &mut PgConnection, name: &FunctionName) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM registry.functions WHERE account = $1 AND template = $2",
        name.account.as_str(),
        name.template.as_str()
    )
    .execute(db)
    .await?;
    Ok(())
}
