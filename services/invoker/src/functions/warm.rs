//! Prepares what is deployed before anybody runs it.

use std::convert::Infallible;

use chatfn_deployments::{Deployments, Fresh};
use futures_util::{StreamExt as _, stream};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Functions;

/// Prepares every deployment as it arrives, for as long as there is room, until `stop`. `concurrency` at once when many
/// arrive together; a deploy by itself costs the same however many functions there are.
pub(crate) async fn keep_warm(
    functions: Functions,
    deployments: Deployments,
    concurrency: u32,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    // Before the first look: what comes in between is told.
    let mut fresh = deployments.fresh();
    let warm = async {
        loop {
            let live = deployments.functions().unwrap_or_default();
            stream::iter(&live)
                .for_each_concurrent(concurrency as usize, |deployment| functions.warm(deployment))
                .await;
            drop(live);
            loop {
                match fresh.recv().await {
                    Ok(Fresh::One(deployment)) => functions.warm(&deployment).await,
                    Ok(Fresh::All) | Err(RecvError::Lagged(_)) => break,
                    Err(RecvError::Closed) => return,
                }
            }
        }
    };
    stop.run_until_cancelled(warm).await;
    Ok(())
}
