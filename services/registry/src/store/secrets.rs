//! Secrets, encrypted. What is in here sees no value and no key.

use chatfn_domain::name::{AccountId, SecretName};
use futures_util::Stream;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::secrets::Sealed;

/// What there is to know about a secret, but not its value.
#[derive(Debug)]
pub(crate) struct Secret {
    pub(crate) account: String,
    pub(crate) key: String,
    uid: Uuid,
    pub(crate) revision: i64,
    pub(crate) create_micros: i64,
    pub(crate) update_micros: i64,
}

impl Secret {
    /// Stands for this value of this secret: differs whenever it is set, and for a secret of the same name that
    /// was deleted and set again.
    pub(crate) fn etag(&self) -> String {
        Uuid::new_v5(&self.uid, &self.revision.to_be_bytes()).simple().to_string()
    }
}

/// Reads secrets; `$rest` is what follows `FROM`.
macro_rules! select_secrets {
    ($rest:literal, $($argument:expr),+) => {
        sqlx::query_as!(
            Secret,
            r#"SELECT account, key, uid, revision,
                      (extract(epoch FROM create_time) * 1000000)::bigint AS "create_micros!",
                      (extract(epoch FROM update_time) * 1000000)::bigint AS "update_micros!"
               FROM registry.secrets "#
                + $rest,
            $($argument),+
        )
    };
}

/// The secret, if it exists.
pub(crate) async fn get(db: &mut PgConnection, name: &SecretName) -> sqlx::Result<Option<Secret>> {
    select_secrets!("WHERE account = $1 AND key = $2", name.account.as_str(), name.key.as_str())
        .fetch_optional(db)
        .await
}

/// The secret, if it exists, locked until the transaction ends.
pub(crate) async fn lock(db: &mut PgConnection, name: &SecretName) -> sqlx::Result<Option<Secret>> {
    select_secrets!("WHERE account = $1 AND key = $2 FOR UPDATE", name.account.as_str(), name.key.as_str())
        .fetch_optional(db)
        .await
}

/// An account's secrets after a key, sorted by key.
pub(crate) fn list<'a>(
    db: &'a mut PgConnection,
    account: &'a AccountId,
    after: &'a str,
) -> impl Stream<Item = sqlx::Result<Secret>> + 'a {
    select_secrets!("WHERE account = $1 AND key > $2 ORDER BY key", account.as_str(), after).fetch(db)
}

/// Until the transaction ends, no other one that calls this adds a secret to the account.
pub(crate) async fn lock_account(db: &mut PgConnection, account: &AccountId) -> sqlx::Result<()> {
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('registry.secrets/' || $1::text, 0))::text AS locked",
        account.as_str()
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

/// How many secrets the account has.
pub(crate) async fn count(db: &mut PgConnection, account: &AccountId) -> sqlx::Result<i64> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!" FROM registry.secrets WHERE account = $1"#,
        account.as_str()
    )
    .fetch_one(db)
    .await?;
    Ok(row.count)
}

/// Creates the secret or replaces its value.
pub(crate) async fn set(db: &mut PgConnection, name: &SecretName, sealed: &Sealed) -> sqlx::Result<()> {
    sqlx::query!(
        "INSERT INTO registry.secrets (account, key, key_id, wrapped_key, ciphertext)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT ON CONSTRAINT secrets_pkey DO UPDATE
         SET key_id = excluded.key_id, wrapped_key = excluded.wrapped_key, ciphertext = excluded.ciphertext,
             revision = secrets.revision + 1, update_time = now()",
        name.account.as_str(),
        name.key.as_str(),
        sealed.key_id,
        sealed.wrapped_key,
        sealed.ciphertext
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes the secret.
pub(crate) async fn delete(db: &mut PgConnection, name: &SecretName) -> sqlx::Result<()> {
    sqlx::query!(
        "DELETE FROM registry.secrets WHERE account = $1 AND key = $2",
        name.account.as_str(),
        name.key.as_str()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The encrypted value with its revision, if the secret exists.
pub(crate) async fn sealed(
    db: impl PgExecutor<'_>,
    name: &SecretName,
) -> sqlx::Result<Option<(Sealed, i64)>> {
    let row = sqlx::query!(
        "SELECT key_id, wrapped_key, ciphertext, revision FROM registry.secrets WHERE account = $1 AND key = $2",
        name.account.as_str(),
        name.key.as_str()
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| {
        let sealed = Sealed { key_id: row.key_id, wrapped_key: row.wrapped_key, ciphertext: row.ciphertext };
        (sealed, row.revision)
    }))
}

/// A data key, wrapped by a master key.
#[derive(Debug)]
pub(crate) struct Wrapped {
    pub(crate) account: String,
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) wrapped_key: Vec<u8>,
}

/// Up to `limit` data keys that one of the master keys `key_ids` wraps, after the secret `(account, key)`, in the
/// order of names, locked until the transaction ends. Those that others have locked are left out.
pub(crate) async fn lock_wrapped(
    db: &mut PgConnection,
    key_ids: &[String],
    (account, key): (&str, &str),
    limit: i64,
) -> sqlx::Result<Vec<Wrapped>> {
    sqlx::query_as!(
        Wrapped,
        "SELECT account, key, key_id, wrapped_key FROM registry.secrets
         WHERE key_id = ANY($1) AND (account, key) > ($2, $3)
         ORDER BY account, key LIMIT $4
         FOR UPDATE SKIP LOCKED",
        key_ids,
        account,
        key,
        limit
    )
    .fetch_all(db)
    .await
}

/// Replaces data keys by the same ones, wrapped otherwise. Values, revisions and times stay.
pub(crate) async fn rewrap(db: &mut PgConnection, rows: &[Wrapped]) -> sqlx::Result<()> {
    let column = |of: fn(&Wrapped) -> &String| rows.iter().map(|row| of(row).clone()).collect::<Vec<_>>();
    let wrapped_keys: Vec<Vec<u8>> = rows.iter().map(|row| row.wrapped_key.clone()).collect();
    sqlx::query!(
        "UPDATE registry.secrets s SET key_id = n.key_id, wrapped_key = n.wrapped_key
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) AS n (account, key, key_id, wrapped_key)
         WHERE s.account = n.account AND s.key = n.key",
        &column(|row| &row.account),
        &column(|row| &row.key),
        &column(|row| &row.key_id),
        &wrapped_keys
    )
    .execute(db)
    .await?;
    Ok(())
}

/// How many secrets each master key protects, except `active`, with the name of one of them.
pub(crate) async fn under_other_keys(
    db: impl PgExecutor<'_>,
    active: &str,
) -> sqlx::Result<Vec<(String, i64, String)>> {
    let rows = sqlx::query!(
        r#"SELECT key_id, count(*) AS "count!",
                  min('accounts/' || account || '/secrets/' || key) AS "example!"
           FROM registry.secrets WHERE key_id <> $1 GROUP BY key_id ORDER BY key_id"#,
        active
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.key_id, row.count, row.example)).collect())
}
