//! Versions, which never change.

use chatfn_domain::{
    name::{FunctionName, VersionNumber},
    settings::FunctionSettings,
};
use futures_util::Stream;
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

/// A version as it is stored.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) number: i64,
    /// Empty when it was read for a list.
    pub(crate) source: String,
    pub(crate) settings: Json<FunctionSettings>,
    pub(crate) digest: String,
    pub(crate) message: String,
    pub(crate) author: String,
    pub(crate) create_micros: i64,
    /// The function that it belongs to, which is not a later one of the same name.
    pub(crate) function_uid: Uuid,
}

/// Reads versions; `$source` is the SQL of the source column, `$rest` what follows `FROM`.
macro_rules! select_versions {
    ($source:literal, $rest:literal, $($argument:expr),+) => {
        sqlx::query_as!(
            Version,
            r#"SELECT v.number, "#
                + $source
                + r#" AS "source!", v.settings AS "settings: Json<FunctionSettings>", v.digest, v.message, v.author,
                      (extract(epoch FROM v.create_time) * 1000000)::bigint AS "create_micros!",
                      f.uid AS function_uid
               FROM registry.versions v
               JOIN registry.functions f ON f.account = v.account AND f.template = v.template "#
                + $rest,
            $($argument),+
        )
    };
}

/// The version, if it exists.
pub(crate) async fn get(
    db: &mut PgConnection,
    function: &FunctionName,
    number: VersionNumber,
) -> sqlx::Result<Option<Version>> {
    select_versions!(
        "v.source",
        "WHERE v.account = $1 AND v.template = $2 AND v.number = $3",
        function.account.as_str(),
        function.template.as_str(),
        number.get()
    )
    .fetch_optional(db)
    .await
}

/// Up to `limit` of a function's versions with lower numbers than `before`, newest first, without their
/// sources.
pub(crate) fn list<'a>(
    db: &'a mut PgConnection,
    function: &'a FunctionName,
    before: i64,
    limit: i64,
) -> impl Stream<Item = sqlx::Result<Version>> + 'a {
    select_versions!(
        "''",
        "WHERE v.account = $1 AND v.template = $2 AND v.number < $3 ORDER BY v.number DESC LIMIT $4",
        function.account.as_str(),
        function.template.as_str(),
        before,
        limit
    )
    .fetch(db)
}

/// Makes a version of the function's draft and gives its number: one more than the last that this function,
/// or an earlier one of the same name, has deployed.
pub(crate) async fn insert_draft(
    db: &mut PgConnection,
    function: &FunctionName,
    message: &str,
    author: &str,
) -> sqlx::Result<i64> {
    let row = sqlx::query!(
        "INSERT INTO registry.versions (account, template, number, source, settings, digest, message, author)
         SELECT f.account, f.template, coalesce(d.last_version, 0) + 1, f.source, f.settings, f.draft_digest,
                $3, $4
         FROM registry.functions f
         LEFT JOIN registry.deployments d ON d.account = f.account AND d.template = f.template
         WHERE f.account = $1 AND f.template = $2
         RETURNING number",
        function.account.as_str(),
        function.template.as_str(),
        message,
        author
    )
    .fetch_one(db)
    .await?;
    Ok(row.number)
}

/// Removes a function's versions up to a number, but for one.
pub(crate) async fn remove_up_to(
    db: &mut PgConnection,
    function: &FunctionName,
    number: i64,
    except: Option<i64>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM registry.versions
         WHERE account = $1 AND template = $2 AND number <= $3 AND number IS DISTINCT FROM $4",
        function.account.as_str(),
        function.template.as_str(),
        number,
        except
    )
    .execute(db)
    .await?;
    Ok(())
}
