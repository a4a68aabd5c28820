//! How much the invoker is asked to do at once, and for whom.

mod accounts;
mod state;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chatfn_domain::{lane::LANES, name::AccountId};
use chatfn_rpc::TaskGroup;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::state::{LetIn, State, Waiter};

/// Runs of one account that may wait before those are looked for that nobody waits for any more.
const MANY: usize = 2 * LANES as usize;

/// Lets a bounded number of runs through. Accounts take turns, and none takes all there are (`accounts`).
///
/// An invoker that cannot be reached is left alone for a while, then tried with a single run. One that
/// says it is overloaded gets fewer runs at once, and then slowly more again. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Tells the task that looks that something may have to be looked at earlier.
    changed: Notify,
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
    account: AccountId,
    is_trial: bool,
}

impl Gate {
    /// Lets through up to `most` runs at once. Starts a task, which looks when time lets somebody in; once it is stopped, only
    /// runs that end do.
    pub(crate) fn spawn(most: usize, tasks: &TaskGroup) -> Self {
        let state = Mutex::new(State::new(most));
        let gate = Self(Arc::new(Inner { state, changed: Notify::new() }));
        let looks = gate.clone();
        tasks.spawn("gate", |stop| async move {
            looks.look(stop).await;
            Ok::<_, Infallible>(())
        });
        gate
    }

    /// Waits for leave to start a run of an account. Cancel safe; whoever asks again goes behind the others of the account.
    pub(crate) async fn enter(&self, account: &AccountId) -> Permit {
        let answer = self.queue_up(account);
        let now = Instant::now();
        self.let_in(now);
        if self.state().is_tried_again(account, now) {
            // Which the task may not know.
            self.0.changed.notify_one();
        }
        match answer.await {
            Ok(permit) => permit,
            // Only of those that nobody waits for any more, the sender is dropped.
            Err(_) => std::future::pending().await,
        }
    }

    fn queue_up(&self, account: &AccountId) -> oneshot::Receiver<Permit> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.waiting.len_of(account) >= MANY {
            state.forget_closed(account);
        }
        state.waiting.push(account, Waiter { account: account.clone(), answer });
        receiver
    }

    /// Lets in whoever may be by now.
    fn let_in(&self, now: Instant) {
        let LetIn { waiters, has_changed } = self.state().let_in(now);
        if has_changed {
            self.0.changed.notify_one();
        }
        for (Waiter { account, answer }, is_trial) in waiters {
            // If nobody waits any more, dropping it lets the next one in.
            drop(answer.send(Permit { gate: self.clone(), account, is_trial }));
        }
    }

    /// Lets in whoever time lets in, until `stop` fires.
    async fn look(&self, stop: CancellationToken) {
        loop {
            // The same time for both, or what comes between is never looked at.
            let now = Instant::now();
            self.let_in(now);
            let again = self.state().look_again(now);
            let again = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = again => {}
                () = stop.cancelled() => return,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The account that it is for.
    pub(crate) fn account(&self) -> &AccountId {
        &self.account
    }

    /// The invoker is asked from now on.
    pub(crate) fn begins(&self) {
        if self.is_trial {
            self.gate.state().trial_begins(Instant::now());
            self.gate.0.changed.notify_one();
        }
    }

    /// The run is over.
    pub(crate) fn leave(mut self, verdict: Verdict) {
        let is_trial = std::mem::take(&mut self.is_trial);
        if self.gate.state().judge(&self.account, verdict, is_trial, Instant::now()) {
            self.gate.0.changed.notify_one();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = Instant::now();
        if self.gate.state().end(&self.account, self.is_trial, now) {
            self.gate.0.changed.notify_one();
        }
        self.gate.let_in(now);
    }
}
