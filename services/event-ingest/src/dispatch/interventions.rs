//! Whether operators ask something of each lane's owner.

use std::time::Duration;

use chatfn_pg::Background;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::per_lane::PerLane;
use crate::store;

/// Pause between looks: how late an owner learns what was asked through another replica.
const PAUSE: Duration = Duration::from_millis(250);

/// Rings at the owner of each lane that something is asked of. As with [`super::Heads`], what this process is told rings at
/// once, and what others are told is found by polling.
///
/// Polling rings for as long as anything is asked for and not done. It does not remember how far it has seen: the numbers of
/// interventions do not rise in the order of their commits, and one that commits late must be found, too. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Interventions(PerLane<()>);

impl Interventions {
    /// Nothing known yet.
    pub(crate) fn new() -> Self {
        Self(PerLane::new())
    }

    /// Something is asked of the owner of a lane.
    pub(crate) fn ring(&self, lane: i16) {
        if let Some(bell) = self.0.of(lane) {
            bell.send_replace(());
        }
    }

    /// Changes whenever something may be asked of the owner of a lane.
    pub(super) fn follow(&self, lane: i16) -> Option<watch::Receiver<()>> {
        self.0.of(lane).map(watch::Sender::subscribe)
    }

    /// Looks for what is asked through other replicas, until `stop`.
    pub(crate) async fn poll(self, reads: Background, stop: CancellationToken) {
        let mut is_failing = false;
        while !stop.is_cancelled() {
            let looked = tokio::select! {
                looked = reads.ask(store::interventions::lanes(reads.pool())) => looked,
                () = stop.cancelled() => return,
            };
            match looked {
                Ok(lanes) => {
                    is_failing = false;
                    lanes.into_iter().for_each(|lane| self.ring(lane));
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(
                            "cannot look for what operators ask: {}",
                            chatfn_pg::error::describe(&error)
                        );
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}
