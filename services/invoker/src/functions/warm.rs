//! Prepares what is deployed before anybody runs it.

use std::{collections::HashSet, convert::Infallible};

use chatfn_deployments::Deployments;
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::Functions;

/// Prepares every deployment as it arrives, `concurrency` at once, for as long as there is room, until `stop`.
pub(crate) async fn keep_warm(
    functions: Functions,
    deployments: Deployments,
    concurrency: u32,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut changed = deployments.changed();
    let mut known = HashSet::new();
    let warm = async {
        loop {
            // Before the look: a change in between brings us back here.
            changed.mark_unchanged();
            let live = deployments.functions().unwrap_or_default();
            let fresh: Vec<_> = live.iter().filter(|it| !known.contains(&it.digest)).cloned().collect();
            known = live.iter().map(|it| it.digest.clone()).collect();
            stream::iter(&fresh)
                .for_each_concurrent(concurrency as usize, |deployment| functions.warm(deployment))
                .await;
            if changed.changed().await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(warm).await;
    Ok(())
}
