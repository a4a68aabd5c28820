//! How much the invoker is asked to do at once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// First pause after the invoker could not be reached; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: how late runs resume after an outage.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A first run after a pause that has not failed by now means that the invoker is back: failing to
/// connect takes less, running may take longer.
const TRIAL: Duration = Duration::from_millis(500);
/// The limit falls once for all the refusals of one moment.
const FALL_EVERY: Duration = Duration::from_millis(100);

/// Lets a bounded number of runs through. First come, first served, so that lanes share evenly.
///
/// An invoker that cannot be reached is left alone for a while, then tried with a single run. One that
/// says it is overloaded gets fewer runs at once, and then slowly more again. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    permits: Arc<Semaphore>,
    most: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    invoker: Invoker,
    pause: Duration,
    /// Runs that may be in progress: between 1 and `most`.
    limit: f64,
    /// Permits that exist. More than the limit while runs that exceed it have not ended.
    permits: usize,
    last_fall: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Invoker {
    Up,
    Down {
        until: Instant,
    },
    /// One run was let through to see.
    Trial {
        until: Instant,
    },
}

/// What a run says about the invoker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It took the run.
    Took,
    /// It refused for a reason that concerns this run alone.
    Declined,
    /// It refused because the run's account has enough to do.
    Busy,
    /// It refused because it has enough to do.
    Overloaded,
    /// It could not be reached, or cannot run anything.
    Down,
}

/// Leave for one run. Dropping it without a verdict says nothing about the invoker.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Gate,
    permit: Option<OwnedSemaphorePermit>,
    is_trial: bool,
}

impl Gate {
    /// Lets through up to `most` runs at once.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let state = State {
            invoker: Invoker::Up,
            pause: FIRST_PAUSE,
            limit: most as f64,
            permits: most,
            last_fall: None,
        };
        Self(Arc::new(Inner {
            permits: Arc::new(Semaphore::new(most)),
            most,
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }

    /// Waits for leave to start a run. Cancel safe.
    pub(crate) async fn enter(&self) -> Permit {
        let permit = self.0.permits.clone().acquire_owned().await.ok();
        let mut permit = Permit { gate: self.clone(), permit, is_trial: false };
        loop {
            let changed = self.0.changed.notified();
            let Some(until) = self.pass(&mut permit) else { return permit };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = changed => {}
            }
        }
    }

    /// Lets the run through, or says when to ask again.
    fn pass(&self, permit: &mut Permit) -> Option<Instant> {
        let mut state = self.state();
        let now = Instant::now();
        match state.invoker {
            Invoker::Up => None,
            Invoker::Down { until } if until > now => Some(until),
            Invoker::Down { .. } => {
                state.invoker = Invoker::Trial { until: now + TRIAL };
                permit.is_trial = true;
                None
            }
            Invoker::Trial { until } if until > now => Some(until),
            Invoker::Trial { .. } => {
                state.invoker = Invoker::Up;
                None
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A run was answered, maybe the trial.
    fn is_up(&mut self, is_trial: bool) {
        if self.invoker != Invoker::Up && is_trial {
            tracing::info!("the invoker is back: runs go on");
        }
        if is_trial || matches!(self.invoker, Invoker::Trial { .. }) {
            self.invoker = Invoker::Up;
        }
        self.pause = FIRST_PAUSE;
    }
}

impl Permit {
    /// The run is over.
    pub(crate) fn leave(mut self, verdict: Verdict) {
        let gate = self.gate.clone();
        let is_trial = std::mem::take(&mut self.is_trial);
        let mut state = gate.state();
        let now = Instant::now();
        match verdict {
            Verdict::Declined | Verdict::Busy => state.is_up(is_trial),
            Verdict::Took => {
                state.is_up(is_trial);
                state.limit = (state.limit + 1.0 / state.limit).min(gate.0.most as f64);
                while state.permits < gate.0.most && state.permits as f64 + 1.0 <= state.limit {
                    state.permits += 1;
                    gate.0.permits.add_permits(1);
                }
            }
            Verdict::Overloaded => {
                if is_trial {
                    state.invoker = Invoker::Up;
                }
                if state.last_fall.is_none_or(|last| now.duration_since(last) >= FALL_EVERY) {
                    state.limit = (state.limit * 0.7).max(1.0);
                    state.last_fall = Some(now);
                }
            }
            // All that were in progress when it went down say so; only the first counts.
            Verdict::Down if state.invoker == Invoker::Up || is_trial => {
                if state.invoker == Invoker::Up && state.pause == FIRST_PAUSE {
                    tracing::warn!(
                        "the invoker cannot run events now: pausing, with longer and longer pauses"
                    );
                }
                state.invoker = Invoker::Down { until: now + state.pause };
                state.pause = (state.pause * 2).min(LONGEST_PAUSE);
            }
            Verdict::Down => {}
        }
        drop(state);
        gate.0.changed.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if self.is_trial {
            // It did not find out: somebody else shall.
            state.invoker = Invoker::Down { until: Instant::now() };
        }
        // A limit that fell is reached by ending runs, not by cutting them.
        if state.permits as f64 > state.limit.max(1.0)
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
            state.permits -= 1;
        }
        drop(state);
        if self.is_trial {
            self.gate.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_dead_invoker_is_tried_seldom_and_one_run_at_a_time() {
        let gate = Gate::new(8);
        let start = Instant::now();
        let mut tries = 0;
        while start.elapsed() < Duration::from_secs(60) {
            let permit = gate.enter().await;
            tries += 1;
            if tries > 1 {
                assert!(gate.enter().now_or_never().is_none(), "a second trial at once");
            }
            permit.leave(Verdict::Down);
        }
        assert!((20..=45).contains(&tries), "{tries} tries in a minute");
        gate.enter().await.leave(Verdict::Took);
        let all: Vec<_> = (0..8).map(|_| gate.enter().now_or_never()).collect();
        assert!(all.iter().all(Option::is_some), "it is back, and everything may run");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_dropped_lets_the_next_one_try() {
        let gate = Gate::new(2);
        gate.enter().await.leave(Verdict::Down);
        let trial = gate.enter().await;
        drop(trial);
        assert!(gate.enter().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_overloaded_invoker_gets_less_and_then_more_again() {
        let gate = Gate::new(16);
        for _ in 0..50 {
            let permit = gate.enter().await;
            tokio::time::sleep(FALL_EVERY).await;
            permit.leave(Verdict::Overloaded);
        }
        let one = gate.enter().await;
        assert!(gate.enter().now_or_never().is_none(), "down to one at a time");
        one.leave(Verdict::Took);
        for _ in 0..1000 {
            gate.enter().await.leave(Verdict::Declined);
        }
        let few: Vec<_> = (0..3).map(|_| gate.enter().now_or_never()).collect();
        assert!(few[2].is_none(), "that it answers does not mean that it has room");
        drop(few);
        for _ in 0..1000 {
            gate.enter().await.leave(Verdict::Took);
        }
        let all: Vec<_> = (0..16).map(|_| gate.enter().now_or_never()).collect();
        assert!(all.iter().all(Option::is_some));
        assert!(gate.enter().now_or_never().is_none(), "never more than configured");
    }
}
