//! Hears of commits of other processes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use sqlx::{PgPool, postgres::PgListener};
use tokio_util::sync::CancellationToken;

use super::Hub;
use crate::store::deployments::CHANNEL;

/// Pause after the listening connection could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Rings the hub's bell for every commit that changed a deployment, until `stop` fires. Only makes things
/// faster: without it changes of other processes are seen at the next poll.
pub(crate) async fn listen(hub: Arc<Hub>, db: PgPool, stop: CancellationToken) -> Result<(), Infallible> {
    let mut is_failing = false;
    while !stop.is_cancelled() {
        let result = tokio::select! {
            result = ring_on_commits(&hub, &db, &mut is_failing) => result,
            () = stop.cancelled() => break,
        };
        if let Err(error) = result
            && !is_failing
        {
            is_failing = true;
            let error = chatfn_pg::error::describe(&error);
            tracing::warn!(error, "commits of other processes cannot be heard: polling finds them");
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// Returns when the connection cannot be made again.
async fn ring_on_commits(hub: &Hub, db: &PgPool, is_failing: &mut bool) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(db).await?;
    listener.listen(CHANNEL).await?;
    *is_failing = false;
    loop {
        // Also rings when the connection was lost and made again: a commit may have gone unheard.
        listener.try_recv().await?;
        hub.ring();
    }
}
