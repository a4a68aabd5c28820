//! Brings every secret under the active key, so that others can be taken out of the configuration.

use std::{convert::Infallible, slice, sync::Arc, time::Duration};

use chatfn_domain::name::SecretName;
use chatfn_pg::Background;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{envelope, keys::KeyRing};
use crate::store::secrets::{self, Wrapped};

/// Secrets of one transaction.
const BATCH: i64 = 100;

/// Statements of one transaction.
const STATEMENTS: u32 = 4;

/// Pause after everything is done: a registry with other keys may have added something.
const IDLE: Duration = Duration::from_secs(60);

/// Pause after the database failed, or left something that others had locked.
const RETRY: Duration = Duration::from_secs(1);

/// Rotates whenever the keys change, and looks for stragglers in between, until `stop` fires. Any number of
/// processes may do so at once: a row is another's while it is locked, and done when it names the active key, so
/// that a process that dies leaves nothing to clean up.
pub(crate) async fn rotate(
    db: Background,
    mut keys: watch::Receiver<Arc<KeyRing>>,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut progress = Progress::default();
    while !stop.is_cancelled() {
        let ring = Arc::clone(&keys.borrow_and_update());
        let pause = match stop.run_until_cancelled(pass(&db, &ring, &mut progress)).await {
            None => break,
            Some(Ok(true)) => IDLE,
            Some(Ok(false)) => RETRY,
            Some(Err(error)) => {
                if !std::mem::replace(&mut progress.is_failing, true) {
                    let error = chatfn_pg::error::describe(&error);
                    tracing::warn!(error, "secrets cannot be brought under the active key: trying on");
                }
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = keys.changed() => if changed.is_err() {
                // Keys from the environment never change.
                let _ = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            },
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// What has been said already, so that it is said once.
#[derive(Debug, Default)]
struct Progress {
    is_failing: bool,
    missing: Vec<(String, i64, String)>,
    /// The keys, the active one first, with which nothing was left to do.
    completed: Vec<String>,
}

/// Goes once through all secrets of retired keys; whether none is left of which the key is known.
async fn pass(db: &Background, keys: &KeyRing, progress: &mut Progress) -> sqlx::Result<bool> {
    let (active, retired) = (&keys.active().id, keys.retired());
    let (mut done, mut damaged) = (0, 0);
    let mut after = (String::new(), String::new());
    loop {
        let batch = db.ask_all(STATEMENTS, rewrap_batch(db.pool(), keys, &retired, &after)).await?;
        let Some(Batch { last, read, rewrapped }) = batch else { break };
        after = last;
        done += rewrapped;
        damaged += read - rewrapped;
        tracing::info!(active, done, "bringing secrets under the active key");
    }
    let (left, missing): (Vec<_>, Vec<_>) = db
        .ask(secrets::under_other_keys(db.pool(), active))
        .await?
        .into_iter()
        .partition(|(key_id, ..)| retired.contains(key_id));
    for (key_id, count, secret) in &missing {
        if !progress.missing.contains(&(key_id.clone(), *count, secret.clone())) {
            tracing::error!(
                key_id,
                count,
                secret,
                "secrets need a key that is not configured: add it again, or set them anew"
            );
        }
    }
    let left: i64 = left.iter().map(|(_, count, _)| count).sum();
    let is_complete = left <= i64::try_from(damaged).unwrap_or(i64::MAX);
    if is_complete && damaged > 0 {
        tracing::error!(damaged, "secrets do not decrypt and keep their old key: set them anew");
    }
    let ring = [slice::from_ref(active), &retired].concat();
    if is_complete && damaged == 0 && missing.is_empty() && !retired.is_empty() {
        // Also when another registry has done it, for each has keys of its own that can be taken out.
        if done > 0 || progress.completed != ring {
            tracing::info!(active, done, unneeded = ?retired, "all secrets are under the active key: none needs the others");
        }
        progress.completed = ring;
    } else {
        progress.completed.clear();
    }
    progress.is_failing = false;
    progress.missing = missing;
    Ok(is_complete)
}

/// What one transaction did.
struct Batch {
    /// Where the next one goes on: the account and the key.
    last: (String, String),
    read: usize,
    rewrapped: usize,
}

/// Rewraps some of the secrets of retired keys after an account's key; `None` when there is none.
async fn rewrap_batch(
    db: &PgPool,
    keys: &KeyRing,
    retired: &[String],
    after: &(String, String),
) -> sqlx::Result<Option<Batch>> {
    let mut transaction = db.begin().await?;
    let rows = secrets::lock_wrapped(&mut transaction, retired, (&after.0, &after.1), BATCH).await?;
    let Some(last) = rows.last().map(|row| (row.account.clone(), row.key.clone())) else { return Ok(None) };
    let read = rows.len();
    let rewrapped: Vec<_> = rows.into_iter().filter_map(|row| rewrap(keys, row)).collect();
    secrets::rewrap(&mut transaction, &rewrapped).await?;
    transaction.commit().await?;
    Ok(Some(Batch { last, read, rewrapped: rewrapped.len() }))
}

/// The row under the active key; `None`, and a line in the log, when it does not decrypt.
fn rewrap(keys: &KeyRing, row: Wrapped) -> Option<Wrapped> {
    let text = format!("accounts/{}/secrets/{}", row.account, row.key);
    let wrapped_key = text
        .parse::<SecretName>()
        .ok()
        .and_then(|name| envelope::rewrap(keys, &name, &row.key_id, &row.wrapped_key).ok());
    if wrapped_key.is_none() {
        tracing::error!(secret = text, key_id = row.key_id, "a secret does not decrypt");
    }
    Some(Wrapped { key_id: keys.active().id.clone(), wrapped_key: wrapped_key?, ..row })
}

#[cfg(test)]
mod tests {
    use chatfn_pg::{PoolConfig, testing::TestDatabase};
    use chatfn_telemetry::testing::Log;

    use super::{super::keys::testing::ring, *};

    #[tokio::test]
    async fn that_keys_are_not_needed_is_told_once_for_each_set_of_them() {
        let (log, _guard) = Log::of_thread("info");
        let database = TestDatabase::create().await;
        let config = PoolConfig::new(database.url().clone());
        let db = Background::new(database.pool().clone(), &config);
        let mut progress = Progress::default();
        let mut told = async |keys: &[&str]| {
            assert!(pass(&db, &ring(keys), &mut progress).await.unwrap());
            let log = log.take();
            let line = log.lines().find(|line| line.contains("all secrets are under the active key"));
            line.map(|line| line.split_once("active=").expect("it names the key").1.to_owned())
        };
        assert_eq!(told(&["old"]).await, None, "there are no others");
        assert_eq!(told(&["old", "new"]).await.as_deref(), Some(r#""old" done=0 unneeded=["new"]"#));
        assert_eq!(told(&["old", "new"]).await, None);
        assert_eq!(told(&["new", "old"]).await.as_deref(), Some(r#""new" done=0 unneeded=["old"]"#));
        assert_eq!(told(&["new", "old"]).await, None);
        assert_eq!(told(&["new"]).await, None);
    }
}
