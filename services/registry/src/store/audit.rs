//! The audit: written with every change, never changed, removed when it is old.

use std::time::Duration;

use chatfn_domain::name::AccountId;
use futures_util::Stream;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::{audit::Entry, mutation::Mutation};

/// An entry as it is stored.
#[derive(Debug)]
pub(crate) struct StoredEntry {
    pub(crate) uid: Uuid,
    pub(crate) entry_micros: i64,
    pub(crate) caller: String,
    pub(crate) action: String,
    pub(crate) resource: String,
    pub(crate) before_digest: Option<String>,
    pub(crate) before_version: Option<i64>,
    pub(crate) after_digest: Option<String>,
    pub(crate) after_version: Option<i64>,
    pub(crate) changed_fields: Vec<String>,
    pub(crate) message: String,
    pub(crate) request_id: Option<Uuid>,
    pub(crate) error_reason: String,
}

/// Where in an account's audit a page begins and ends. Times are microseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    /// The earliest time.
    pub(crate) from_micros: i64,
    /// Entries before this one, which lies at this time.
    pub(crate) before: (i64, Uuid),
}

/// Adds an entry for what `mutation` does.
pub(crate) async fn insert(
    db: &mut PgConnection,
    account: &AccountId,
    mutation: &Mutation,
    entry: &Entry,
) -> sqlx::Result<()> {
    let (before, after) = (entry.before.as_ref(), entry.after.as_ref());
    let changed_fields: Vec<String> = entry.changed_fields.iter().map(|&field| field.to_owned()).collect();
    sqlx::query!(
        "INSERT INTO registry.audit_entries
             (account, caller, action, resource, before_digest, before_version, after_digest, after_version,
              changed_fields, message, request_id, error_reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        account.as_str(),
        mutation.caller.subject(),
        entry.action.as_str_name(),
        entry.resource,
        before.map(|state| state.digest.as_str()),
        before.map(|state| state.version),
        after.map(|state| state.digest.as_str()),
        after.map(|state| state.version),
        &changed_fields,
        entry.message,
        mutation.request_id,
        entry.error_reason
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Reads entries, newest first; `$rest` narrows the range further.
macro_rules! select_entries {
    ($rest:literal, $account:expr, $range:expr $(, $argument:expr)*) => {
        sqlx::query_as!(
            StoredEntry,
            r#"SELECT uid, (extract(epoch FROM entry_time) * 1000000)::bigint AS "entry_micros!", caller, action,
                      resource, before_digest, before_version, after_digest, after_version, changed_fields,
                      message, request_id, error_reason
               FROM registry.audit_entries
               WHERE account = $1 AND entry_time >= 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'
                     AND (entry_time, uid) < ('epoch'::timestamptz + $3::bigint * interval '1 microsecond', $4) "#
                + $rest
                + " ORDER BY entry_time DESC, uid DESC LIMIT 201",
            $account.as_str(),
            $range.from_micros,
            $range.before.0,
            $range.before.1
            $(, $argument)*
        )
    };
}

/// An account's entries in a range, newest first: one more than the largest page has.
pub(crate) fn list<'a>(
    db: &'a mut PgConnection,
    account: &'a AccountId,
    range: Range,
) -> impl Stream<Item = sqlx::Result<StoredEntry>> + 'a {
    select_entries!("", account, range).fetch(db)
}

/// As [`list`], of one function or secret.
pub(crate) fn list_of<'a>(
    db: &'a mut PgConnection,
    account: &'a AccountId,
    resource: &'a str,
    range: Range,
) -> impl Stream<Item = sqlx::Result<StoredEntry>> + 'a {
    select_entries!("AND resource = $5", account, range, resource).fetch(db)
}

/// Removes up to `limit` entries that are older than `age`, and says how many.
pub(crate) async fn remove_older(db: impl PgExecutor<'_>, age: Duration, limit: i64) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "DELETE FROM registry.audit_entries WHERE (account, entry_time, uid) IN (
             SELECT account, entry_time, uid FROM registry.audit_entries
             WHERE entry_time < now() - $1::bigint * interval '1 second'
             ORDER BY entry_time LIMIT $2 FOR UPDATE SKIP LOCKED)",
        i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
        limit
    )
    .execute(db)
    .await?;
    Ok(removed.rows_affected())
}
