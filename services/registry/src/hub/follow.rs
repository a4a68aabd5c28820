//! Reads what changed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Event, Hub};
use crate::store::deployments::{self, Revision};

/// Longest time for which a change of another process stays unseen when nothing rings.
const POLL: Duration = Duration::from_millis(250);

/// Longest look at the database: a connection whose other end has vanished answers nothing, ever.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// Publishes every change of the deployments after the revision `seen` until `stop` fires. Outlives outages of
/// the database: it goes on from where it was.
pub(crate) async fn follow(
    hub: Arc<Hub>,
    db: PgPool,
    mut seen: Revision,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut is_failing = false;
    hub.has_seen(seen.number);
    loop {
        let look = tokio::time::timeout(LONGEST_LOOK, look(&hub, &db, &mut seen));
        let result = tokio::select! {
            result = look => result.unwrap_or(Err(sqlx::Error::PoolTimedOut)),
            () = stop.cancelled() => return Ok(()),
        };
        hub.has_seen(seen.number);
        match result {
            Ok(()) if is_failing => {
                tracing::info!(revision = seen.number, "deployments are followed again");
                is_failing = false;
            }
            Err(error) if !is_failing => {
                let error = chatfn_pg::error::describe(&error);
                tracing::warn!(error, "deployments cannot be followed: watchers stay as they are");
                is_failing = true;
            }
            _ => {}
        }
        tokio::select! {
            () = hub.bell.notified() => {}
            () = tokio::time::sleep(POLL) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Publishes what changed after `seen`, and moves `seen` along with it.
async fn look(hub: &Hub, db: &PgPool, seen: &mut Revision) -> sqlx::Result<()> {
    let mut connection = db.acquire().await?;
    let (now, went_back) = deployments::revision_since(&mut connection, *seen).await?;
    if went_back {
        tracing::warn!(
            seen = seen.number,
            revision = now.number,
            "the database was replaced by an older one: watchers start anew"
        );
        *seen = now;
        hub.publish(Event::WentBack);
        return Ok(());
    }
    while seen.number < now.number {
        let batch = deployments::changed_after(&mut connection, seen.number, true).await?;
        for row in batch.rows {
            *seen = row.revision();
            hub.publish(Event::Changed(Arc::new(row)));
        }
        // Rows are never deleted, so the newest has at least this revision already.
        if batch.is_last && seen.number < now.number {
            *seen = now;
        }
    }
    Ok(())
}
