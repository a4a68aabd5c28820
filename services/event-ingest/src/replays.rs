//! Goes on with replays: asks the lanes for the next events, no faster than each replay says. Every replica does; the
//! store has each step done once.

use std::time::Duration;

use chatfn_pg::Background;
use tokio_util::sync::CancellationToken;

use crate::{
    dispatch::Interventions,
    store::replays::{self, Step},
};

/// Events of a replay are asked for in batches of this time.
const STEP: Duration = Duration::from_millis(200);
/// Pause when no replay is due.
const PAUSE: Duration = Duration::from_millis(200);
/// Statements of a step, about.
const STATEMENTS: u32 = 10;
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Goes on with whatever replay is due, until `stop`. Cancel safe: a step is done or not.
pub(crate) async fn run(store: Background, interventions: Interventions, stop: CancellationToken) {
    let mut pause = PAUSE;
    loop {
        let step = tokio::select! {
            step = store.ask_all(STATEMENTS, replays::step(store.pool(), STEP)) => step,
            () = stop.cancelled() => return,
        };
        pause = match step {
            Ok(Step::Asked(lanes)) => {
                lanes.into_iter().for_each(|lane| interventions.ring(lane));
                // The next step says itself when it is due.
                Duration::ZERO
            }
            Ok(Step::Nothing) => PAUSE,
            Ok(Step::Failed { replay, has_ended, error }) => {
                let next = if has_ended { "it has ended, FAILED" } else { "trying again later" };
                tracing::warn!(%replay, "a replay cannot go on; {next}: {}", chatfn_pg::error::describe(&error));
                Duration::ZERO
            }
            Err(error) => {
                tracing::warn!(
                    "cannot go on with replays; trying again: {}",
                    chatfn_pg::error::describe(&error)
                );
                (pause * 2).clamp(PAUSE, LONGEST_PAUSE)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}
