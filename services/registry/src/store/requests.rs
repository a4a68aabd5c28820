//! Answers to requests that may be repeated.

use std::time::Duration;

use chatfn_domain::name::AccountId;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::mutation::Fingerprint;

/// What is kept of a request.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) response: Vec<u8>,
}

/// Claims the id for this transaction, which has to call [`answer`]; `false` when the id has an answer. Waits for
/// another transaction that has claimed it.
pub(crate) async fn claim(
    db: &mut PgConnection,
    account: &AccountId,
    caller: &str,
    id: Uuid,
    fingerprint: &Fingerprint,
) -> sqlx::Result<bool> {
    let claimed = sqlx::query!(
        "INSERT INTO registry.requests (account, caller, request_id, fingerprint, response)
         VALUES ($1, $2, $3, $4, '') ON CONFLICT ON CONSTRAINT requests_pkey DO NOTHING",
        account.as_str(),
        caller,
        id,
        fingerprint.as_slice()
    )
    .execute(db)
    .await?;
    Ok(claimed.rows_affected() == 1)
}

/// Removes some of the account's oldest answers if it has more than `most`: no account fills the table.
pub(crate) async fn keep_newest(db: &mut PgConnection, account: &AccountId, most: i64) -> sqlx::Result<()> {
    // Materialized, so that it is found by its account, however the planner thinks of the index by time.
    sqlx::query!(
        "WITH own AS MATERIALIZED (
             SELECT caller, request_id, create_time FROM registry.requests WHERE account = $1
         ), old AS (
             SELECT caller, request_id FROM own ORDER BY create_time DESC, caller, request_id OFFSET $2 LIMIT 100
         )
         DELETE FROM registry.requests WHERE (account, caller, request_id) IN (
             SELECT r.account, r.caller, r.request_id FROM registry.requests r
             JOIN old ON r.account = $1 AND r.caller = old.caller AND r.request_id = old.request_id
             FOR UPDATE OF r SKIP LOCKED)",
        account.as_str(),
        most
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Keeps the answer to the request whose id this transaction has claimed.
pub(crate) async fn answer(
    db: &mut PgConnection,
    account: &AccountId,
    caller: &str,
    id: Uuid,
    response: &[u8],
) -> sqlx::Result<()> {
    sqlx::query!(
        "UPDATE registry.requests SET response = $4 WHERE account = $1 AND caller = $2 AND request_id = $3",
        account.as_str(),
        caller,
        id,
        response
    )
    .execute(db)
    .await?;
    Ok(())
}

/// What is kept of the request, if it was answered.
pub(crate) async fn find(
    db: &mut PgConnection,
    account: &AccountId,
    caller: &str,
    id: Uuid,
) -> sqlx::Result<Option<Kept>> {
    sqlx::query_as!(
        Kept,
        "SELECT fingerprint, response FROM registry.requests
         WHERE account = $1 AND caller = $2 AND request_id = $3",
        account.as_str(),
        caller,
        id
    )
    .fetch_optional(db)
    .await
}

/// Removes up to `limit` answers that are older than `age`, and says how many.
pub(crate) async fn remove_older(db: impl PgExecutor<'_>, age: Duration, limit: i64) -> sqlx::Result<u64> {
    let removed = sqlx::query!(
        "DELETE FROM registry.requests WHERE (account, caller, request_id) IN (
             SELECT account, caller, request_id FROM registry.requests
             WHERE create_time < now() - $1::bigint * interval '1 second'
             ORDER BY create_time LIMIT $2 FOR UPDATE SKIP LOCKED)",
        i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
        limit
    )
    .execute(db)
    .await?;
    Ok(removed.rows_affected())
}
