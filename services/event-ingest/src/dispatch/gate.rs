//! How much the invoker is asked to do at once, and for whom.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chatfn_domain::{lane::LANES, name::AccountId};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    accounts::{Accounts, PAUSE},
    turns::Turns,
};

/// First pause after the invoker could not be reached; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: how late runs resume after an outage.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A first run after a pause that has not failed so long after it was asked for means that the invoker is back: failing to
/// connect takes less (2 s: `ClientConfig::connect_timeout`), running may take longer.
const TRIAL: Duration = Duration::from_millis(2_500);
/// The same since it was let in: until it is asked for, its start must become durable.
const TRIAL_BEGINS: Duration = Duration::from_secs(30);
/// The limit falls once for all the refusals of one moment.
const FALL_EVERY: Duration = Duration::from_millis(100);
/// Runs of one account that may wait before those are looked for that nobody waits for any more.
const MANY: usize = 2 * LANES as usize;

/// Lets a bounded number of runs through. Accounts take turns, and none takes all there are ([`Accounts`]).
///
/// An invoker that cannot be reached is left alone for a while, then tried with a single run. One that
/// says it is overloaded gets fewer runs at once, and then slowly more again. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    most: usize,
    state: Mutex<State>,
    /// Tells the one that looks that something may have to be looked at earlier.
    changed: Notify,
    /// Tells one of those that wait that nobody looks any more.
    vacant: Notify,
}

#[derive(Debug)]
struct State {
    invoker: Invoker,
    pause: Duration,
    /// Runs that may be in progress: between 1 and `most`.
    limit: f64,
    last_fall: Option<Instant>,
    /// When time last raised it.
    raised: Instant,
    /// When a run was last let in beyond it.
    last_beyond: Option<Instant>,
    /// Whether one of those that wait looks whether time lets somebody in.
    is_looked: bool,
    running: usize,
    accounts: Accounts,
    waiting: Turns<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    account: AccountId,
    answer: oneshot::Sender<Permit>,
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
    account: AccountId,
    is_trial: bool,
}

impl Gate {
    /// Lets through up to `most` runs at once.
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        let state = State {
            invoker: Invoker::Up,
            pause: FIRST_PAUSE,
            limit: most as f64,
            last_fall: None,
            raised: Instant::now(),
            last_beyond: None,
            is_looked: false,
            running: 0,
            accounts: Accounts::default(),
            waiting: Turns::default(),
        };
        let state = Mutex::new(state);
        Self(Arc::new(Inner { most, state, changed: Notify::new(), vacant: Notify::new() }))
    }

    /// Waits for leave to start a run of an account. Cancel safe; whoever asks again goes behind the others of the account.
    pub(crate) async fn enter(&self, account: &AccountId) -> Permit {
        let mut answer = self.queue_up(account);
        self.let_in();
        loop {
            let look = async {
                match Looking::begin(self) {
                    // One of them does, for all.
                    Some(looking) => looking.look().await,
                    None => self.0.vacant.notified().await,
                }
            };
            tokio::select! {
                biased;
                Ok(permit) = &mut answer => return permit,
                () = look => {}
            }
        }
    }

    fn queue_up(&self, account: &AccountId) -> oneshot::Receiver<Permit> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.state();
        if state.waiting.len_of(account) >= MANY {
            state.waiting.part(account, |_, waiter| !waiter.answer.is_closed());
        }
        state.waiting.push(account, Waiter { account: account.clone(), answer });
        receiver
    }

    /// Lets in whoever may be by now.
    fn let_in(&self) {
        let (let_in, has_changed) = self.state().let_in(self.0.most);
        if has_changed {
            self.0.changed.notify_waiters();
        }
        for (Waiter { account, answer }, is_trial) in let_in {
            // If nobody waits any more, dropping it lets the next one in.
            drop(answer.send(Permit { gate: self.clone(), account, is_trial }));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks whether time lets somebody in, until dropped.
struct Looking<'a>(&'a Gate);

impl<'a> Looking<'a> {
    /// Unless somebody does already.
    fn begin(gate: &'a Gate) -> Option<Self> {
        let is_looked = std::mem::replace(&mut gate.state().is_looked, true);
        (!is_looked).then(|| Self(gate))
    }

    /// Does not end.
    async fn look(&self) {
        loop {
            let changed = self.0.0.changed.notified();
            self.0.let_in();
            let again = self.0.state().look_again(self.0.0.most);
            let again = async {
                match again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changed => {}
                () = again => {}
            }
        }
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.state().is_looked = false;
        self.0.0.vacant.notify_one();
    }
}

impl State {
    /// Counts those that are let in, and says which of them is the trial; and whether that changes when to look again.
    fn let_in(&mut self, most: usize) -> (Vec<(Waiter, bool)>, bool) {
        let now = Instant::now();
        let limit = self.raise(most, now) as usize;
        let (mut let_in, mut has_changed) = (Vec::new(), false);
        loop {
            let is_trial = match self.invoker {
                Invoker::Up => false,
                Invoker::Down { until } | Invoker::Trial { until } if until > now => break,
                Invoker::Down { .. } => true,
                Invoker::Trial { .. } => {
                    self.invoker = Invoker::Up;
                    false
                }
            };
            let free = limit.saturating_sub(self.running);
            // An account that has more than the limit by now must not shut out the others.
            let is_beyond = free == 0;
            if is_beyond && self.next_beyond(most).is_none_or(|at| at > now) {
                break;
            }
            let accounts = &self.accounts;
            let may = |account: &AccountId| {
                if is_beyond {
                    accounts.is_new(account, now)
                } else {
                    accounts.may_run(account, limit, free, now)
                }
            };
            let Some(next) = self.waiting.next_where(may) else { break };
            if next.answer.is_closed() {
                // That costs its account no turn.
                let account = next.account.clone();
                self.waiting.part(&account, |_, waiter| !waiter.answer.is_closed());
                continue;
            }
            let Some(waiter) = self.waiting.pop_where(may) else { break };
            if is_trial {
                self.invoker = Invoker::Trial { until: now + TRIAL_BEGINS };
            }
            if is_beyond {
                self.last_beyond = Some(now);
            }
            self.running += 1;
            let has_enough = self.accounts.begin(&waiter.account, now);
            has_changed |= is_trial || is_beyond || has_enough;
            let_in.push((waiter, is_trial));
        }
        (let_in, has_changed)
    }

    /// When a run may be let in beyond the limit, of an account of which nothing runs: one after each [`PAUSE`].
    fn next_beyond(&self, most: usize) -> Option<Instant> {
        let is_some = self.running < most && self.limit < most as f64;
        is_some.then(|| self.last_beyond.map_or(self.raised, |last| last + PAUSE))
    }

    /// Raises a limit that has fallen, by one for each [`PAUSE`] without a fall: slow runs raise it late.
    fn raise(&mut self, most: usize, now: Instant) -> f64 {
        let pauses = now.saturating_duration_since(self.raised).as_millis() / PAUSE.as_millis();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        self.raised += PAUSE.saturating_mul(pauses);
        self.limit = (self.limit + f64::from(pauses)).min(most as f64);
        self.limit
    }

    /// When somebody may be let in although no run ends.
    fn look_again(&self, most: usize) -> Option<Instant> {
        let now = Instant::now();
        match self.invoker {
            Invoker::Down { until } | Invoker::Trial { until } if until > now => Some(until),
            _ => {
                let raise = (self.limit < most as f64).then(|| self.raised + PAUSE);
                let beyond = self.next_beyond(most).filter(|at| *at > now);
                let tries =
                    self.waiting.accounts().filter_map(|account| self.accounts.next_try(account, now));
                raise.into_iter().chain(beyond).chain(tries).min()
            }
        }
    }

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
    /// The account that it is for.
    pub(crate) fn account(&self) -> &AccountId {
        &self.account
    }

    /// The invoker is asked from now on.
    pub(crate) fn begins(&self) {
        if !self.is_trial {
            return;
        }
        if let Invoker::Trial { until } = &mut self.gate.state().invoker {
            *until = Instant::now() + TRIAL;
        }
        self.gate.0.changed.notify_waiters();
    }

    /// The run is over.
    pub(crate) fn leave(mut self, verdict: Verdict) {
        let is_trial = std::mem::take(&mut self.is_trial);
        let most = self.gate.0.most as f64;
        let mut state = self.gate.state();
        let now = Instant::now();
        let mut has_changed = matches!(verdict, Verdict::Busy | Verdict::Down) || is_trial;
        match verdict {
            Verdict::Declined => state.is_up(is_trial),
            Verdict::Busy => {
                state.is_up(is_trial);
                state.accounts.refused(&self.account, now);
            }
            Verdict::Took => {
                state.is_up(is_trial);
                state.limit = (state.limit + 1.0 / state.limit).min(most);
            }
            Verdict::Overloaded => {
                if is_trial {
                    state.invoker = Invoker::Up;
                }
                if state.last_fall.is_none_or(|last| now.duration_since(last) >= FALL_EVERY) {
                    state.limit = (state.limit * 0.7).max(1.0);
                    state.last_fall = Some(now);
                    state.raised = now;
                    has_changed = true;
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
        if has_changed {
            self.gate.0.changed.notify_waiters();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        let now = Instant::now();
        state.running -= 1;
        state.accounts.end(&self.account, now);
        if self.is_trial {
            // It did not find out: somebody else shall.
            state.invoker = Invoker::Down { until: now };
        }
        drop(state);
        if self.is_trial {
            self.gate.0.changed.notify_waiters();
        }
        self.gate.let_in();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    fn acme() -> AccountId {
        account("acme")
    }

    /// Enters if it need not wait.
    fn try_enter(gate: &Gate, account: &AccountId) -> Option<Permit> {
        gate.enter(account).now_or_never()
    }

    /// As many runs as need not wait.
    fn fill(gate: &Gate, account: &AccountId) -> Vec<Permit> {
        std::iter::from_fn(|| try_enter(gate, account)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_invoker_is_tried_seldom_and_one_run_at_a_time() {
        let gate = Gate::new(8);
        let start = Instant::now();
        let mut tries = 0;
        while start.elapsed() < Duration::from_secs(60) {
            let permit = gate.enter(&acme()).await;
            tries += 1;
            if tries > 1 {
                assert!(try_enter(&gate, &account("other")).is_none(), "a second trial at once");
            }
            permit.leave(Verdict::Down);
        }
        assert!((20..=45).contains(&tries), "{tries} tries in a minute");
        gate.enter(&acme()).await.leave(Verdict::Took);
        assert!(fill(&gate, &acme()).len() > 1, "it is back, and everything may run");
    }

    #[tokio::test(start_paused = true)]
    async fn an_invoker_that_drops_packets_is_not_back() {
        let gate = Gate::new(8);
        gate.enter(&acme()).await.leave(Verdict::Down);
        let trial = gate.enter(&acme()).await;
        // As long as it may take until its start is durable, and then as long as connecting may.
        assert!(tokio::time::timeout(Duration::from_secs(3), gate.enter(&acme())).await.is_err());
        trial.begins();
        let next = tokio::time::timeout(Duration::from_secs(2), gate.enter(&acme())).await;
        assert!(next.is_err(), "the trial has not failed yet");
        trial.leave(Verdict::Down);
        let slow = gate.enter(&acme()).await;
        slow.begins();
        let runs = tokio::time::timeout(2 * TRIAL, gate.enter(&acme())).await;
        assert!(runs.is_ok(), "it takes long, but it runs");
        slow.leave(Verdict::Took);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trial_that_is_dropped_lets_the_next_one_try() {
        let gate = Gate::new(2);
        gate.enter(&acme()).await.leave(Verdict::Down);
        let trial = gate.enter(&acme()).await;
        drop(trial);
        assert!(try_enter(&gate, &acme()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_overloaded_invoker_gets_less_and_then_more_again() {
        let gate = Gate::new(3);
        for _ in 0..50 {
            let permit = gate.enter(&acme()).await;
            tokio::time::sleep(FALL_EVERY).await;
            permit.leave(Verdict::Overloaded);
        }
        let one = gate.enter(&acme()).await;
        assert!(try_enter(&gate, &acme()).is_none(), "down to one at a time");
        one.leave(Verdict::Took);
        for _ in 0..1000 {
            gate.enter(&acme()).await.leave(Verdict::Declined);
        }
        assert!(fill(&gate, &acme()).len() < 3, "that it answers does not mean that it has room");
        for _ in 0..1000 {
            gate.enter(&acme()).await.leave(Verdict::Took);
        }
        assert_eq!(fill(&gate, &acme()).len(), 3, "never more than configured");
    }

    #[tokio::test(start_paused = true)]
    async fn an_overloaded_invoker_gets_more_again_while_slow_runs_last() {
        let gate = Gate::new(3);
        for _ in 0..50 {
            let permit = gate.enter(&acme()).await;
            tokio::time::sleep(FALL_EVERY).await;
            permit.leave(Verdict::Overloaded);
        }
        let start = Instant::now();
        let slow = [gate.enter(&acme()).await, gate.enter(&acme()).await, gate.enter(&acme()).await];
        assert!(start.elapsed() >= PAUSE && start.elapsed() <= 3 * PAUSE, "{:?}", start.elapsed());
        drop(slow);
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_whose_runs_hang_leaves_room_to_others() {
        let gate = Gate::new(8);
        let hanging = fill(&gate, &acme());
        assert_eq!(hanging.len(), 6);
        let other = account("other");
        for _ in 0..100 {
            try_enter(&gate, &other).expect("there is room").leave(Verdict::Took);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_with_more_than_a_fallen_limit_does_not_shut_out_others() {
        let gate = Gate::new(64);
        let hanging = fill(&gate, &acme());
        assert_eq!(hanging.len(), 48);
        // Some of the invokers have no room, until the limit is far below that.
        for _ in 0..10 {
            gate.enter(&account("other")).await.leave(Verdict::Overloaded);
            tokio::time::advance(FALL_EVERY).await;
        }
        assert!(gate.state().limit < 24.0, "{}", gate.state().limit);
        for _ in 0..10 {
            let start = Instant::now();
            gate.enter(&account("other")).await.leave(Verdict::Declined);
            assert!(start.elapsed() <= PAUSE, "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_those_that_wait_looks_for_all() {
        let gate = Gate::new(8);
        gate.enter(&acme()).await.leave(Verdict::Down);
        let names = ["a", "b", "c"].map(account);
        let mut waiting: Vec<_> = names.iter().map(|it| gate.enter(it).boxed()).collect();
        assert!(waiting.iter_mut().all(|it| it.now_or_never().is_none()));
        // The first looks, and gives up.
        drop(waiting.remove(0));
        let mut next = futures_util::future::select_all(waiting).await;
        let second = next.2.pop().unwrap();
        next.0.leave(Verdict::Took);
        assert_eq!(second.await.account(), &names[2]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_free_goes_to_accounts_in_turn() {
        let gate = Gate::new(3);
        // Few are not divided.
        let mut running: Vec<_> = (0..3).map(|_| try_enter(&gate, &acme()).unwrap()).collect();
        let others = ["a", "b", "acme", "acme", "c"].map(account);
        let mut waiting: Vec<_> = others.iter().map(|it| gate.enter(it).boxed()).collect();
        assert!(waiting.iter_mut().all(|it| it.now_or_never().is_none()));
        let mut waiting: futures_util::stream::FuturesUnordered<_> = waiting.into_iter().collect();
        let mut entered = Vec::new();
        while !waiting.is_empty() {
            running.pop();
            let next = futures_util::StreamExt::next(&mut waiting).await.unwrap();
            entered.push(next.account().to_string());
            running.insert(0, next);
        }
        assert_eq!(entered, ["a", "b", "acme", "c", "acme"]);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_holds_up_nobody() {
        let gate = Gate::new(1);
        let running = gate.enter(&acme()).await;
        for _ in 0..10 * MANY {
            assert!(try_enter(&gate, &acme()).is_none());
        }
        assert!(gate.state().waiting.len_of(&acme()) <= MANY, "they are forgotten");
        // One is let in and gives up before it hears of it.
        let acme = acme();
        let mut waits = gate.enter(&acme).boxed();
        assert!((&mut waits).now_or_never().is_none());
        drop(running);
        drop(waits);
        assert!(try_enter(&gate, &acme).is_some());
        assert_eq!(gate.state().running, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_the_invoker_refuses_is_tried_again_by_itself() {
        let gate = Gate::new(8);
        let hanging = gate.enter(&acme()).await;
        for _ in 0..3 {
            gate.enter(&acme()).await.leave(Verdict::Busy);
            assert!(try_enter(&gate, &acme()).is_none());
            assert!(try_enter(&gate, &account("other")).is_some(), "others need not wait");
            let start = Instant::now();
            drop(gate.enter(&acme()).await);
            assert_eq!(start.elapsed(), PAUSE);
        }
        drop(hanging);
    }
}
