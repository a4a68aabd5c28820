//! What operators ask of each lane's owner, as far as it is known.

use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::per_lane::PerLane;
use crate::store;

/// Pause between looks: how late an owner learns what was asked through another replica.
const PAUSE: Duration = Duration::from_millis(250);

/// The number of the newest intervention that each lane's owner is asked for. As with [`super::Heads`], what this process
/// is told rings at once, and what others are told is found by polling. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Interventions(PerLane);

impl Interventions {
    /// Nothing known yet.
    pub(crate) fn new() -> Self {
        Self(PerLane::new())
    }

    /// Something is asked of the owner of a lane.
    pub(crate) fn ring(&self, lane: i16, number: i64) {
        self.0.ring(lane, number);
    }

    /// Follows what is asked of the owner of a lane.
    pub(super) fn follow(&self, lane: i16) -> Option<watch::Receiver<i64>> {
        self.0.follow(lane)
    }

    /// Looks for what is asked through other replicas, until `stop`.
    pub(crate) async fn poll(self, pool: PgPool, stop: CancellationToken) {
        let mut is_failing = false;
        while !stop.is_cancelled() {
            let looked = tokio::select! {
                looked = store::interventions::newest(&pool) => looked,
                () = stop.cancelled() => return,
            };
            match looked {
                Ok(newest) => {
                    is_failing = false;
                    newest.into_iter().for_each(|(lane, number)| self.ring(lane, number));
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
