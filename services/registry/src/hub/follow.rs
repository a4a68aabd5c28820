//! Reads what changed.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use chatfn_pg::background::within;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{Event, Hub};
use crate::store::deployments::{self, Revision};

/// Longest time for which a change of another process stays unseen when nothing rings.
const POLL: Duration = Duration::from_millis(250);

/// Longest wait for an answer of the database, which a connection that has died without a word never gives: short enough that
/// another connection is tried before anybody is sent away.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A registry that has not been able to look for so long sends its watchers away. Another one may see what is deployed; if none
/// does, watchers know at least that they do not.
const BLIND: Duration = Duration::from_secs(10);

/// Publishes every change of the deployments after the revision `seen` until `stop` fires. Outlives outages of
/// the database: it goes on from where it was.
pub(crate) async fn follow(
    hub: Arc<Hub>,
    db: PgPool,
    mut seen: Revision,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut failing_since = None;
    hub.has_seen(seen.number);
    loop {
        let began = Instant::now();
        let result = tokio::select! {
            result = look(&hub, &db, &mut seen) => result,
            () = stop.cancelled() => return Ok(()),
        };
        hub.has_seen(seen.number);
        match result {
            Ok(()) => {
                if failing_since.take().is_some() {
                    tracing::info!(revision = seen.number, "deployments are followed again");
                }
            }
            Err(error) => {
                let since: &mut Instant = failing_since.get_or_insert_with(|| {
                    let error = chatfn_pg::error::describe(&error);
                    tracing::warn!(
                        error,
                        "deployments cannot be followed: watchers are sent away if that lasts"
                    );
                    began
                });
                if since.elapsed() >= BLIND {
                    hub.publish(Event::Blind);
                }
            }
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
    let (now, went_back) = within(LONGEST_WAIT, deployments::revision_since(db, *seen)).await?;
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
    let mut limit = deployments::FIRST_ROWS;
    while seen.number < now.number {
        let batch = within(LONGEST_WAIT, deployments::changed_after(db, seen.number, true, limit)).await?;
        limit = batch.next_rows;
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
