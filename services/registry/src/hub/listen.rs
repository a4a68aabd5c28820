//! Hears of commits of other processes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use chatfn_pg::{Background, PoolConfig};
use sqlx::{Executor as _, postgres::PgListener};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Hub;
use crate::store::deployments::CHANNEL;

/// Pause after the listening connection could not be made.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest silence after which the connection is asked whether it is still there: one that has died without a word says no more
/// than one over which there is nothing to say.
const SILENCE: Duration = Duration::from_secs(5);

/// Rings the hub's bell for every commit that changed a deployment, until `stop` fires. Only makes things
/// faster: without it changes of other processes are seen at the next poll.
///
/// Takes one connection, of a pool that is made anew with it: one that has died keeps its place.
pub(crate) async fn listen(
    hub: Arc<Hub>,
    config: PoolConfig,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut is_failing = false;
    while !stop.is_cancelled() {
        let result = tokio::select! {
            result = ring_on_commits(&hub, &config, &mut is_failing) => result,
            () = stop.cancelled() => break,
        };
        if let Err(error) = result
            && !is_failing
        {
            is_failing = true;
            let error = chatfn_pg::error::describe(error.as_ref());
            tracing::warn!(error, "commits of other processes cannot be heard: polling finds them");
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// Returns when the connection cannot be made again, or has died without a word.
async fn ring_on_commits(hub: &Hub, config: &PoolConfig, is_failing: &mut bool) -> anyhow::Result<()> {
    let db = Background::new(chatfn_pg::connect(config).await?, config);
    let mut listener = db.ask(PgListener::connect_with(db.pool())).await?;
    db.ask(listener.listen(CHANNEL)).await?;
    *is_failing = false;
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            // Also rings when the connection was lost and made again: a commit may have gone unheard.
            Ok(heard) => {
                heard?;
                hub.ring();
            }
            Err(_elapsed) => _ = db.ask(listener.execute("SELECT 1")).await?,
        }
    }
}
