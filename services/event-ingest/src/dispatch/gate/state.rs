//! Who may be let in when, without any waiting.

use std::time::Duration;

use chatfn_domain::name::AccountId;
use tokio::{sync::oneshot, time::Instant};

use super::{
    super::turns::Turns,
    Permit, Verdict,
    accounts::{Accounts, PAUSE},
};

/// First pause after the invoker could not be reached; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: how late runs resume after an outage.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A first run after a pause that has not failed so long after it was asked for means that the invoker is back: failing to
/// connect takes less (2 s: `ClientConfig::connect_timeout`), running may take longer.
pub(super) const TRIAL: Duration = Duration::from_millis(2_500);
/// The same since it was let in: until it is asked for, its start must become durable.
const TRIAL_BEGINS: Duration = Duration::from_secs(30);
/// The limit falls once for all the refusals of one moment.
pub(super) const FALL_EVERY: Duration = Duration::from_millis(100);

/// What is known of the invoker, what is in progress, and who waits.
#[derive(Debug)]
pub(super) struct State {
    most: usize,
    invoker: Invoker,
    pause: Duration,
    /// Runs that may be in progress: between 1 and `most`.
    pub(super) limit: f64,
    last_fall: Option<Instant>,
    /// When time last raised it.
    raised: Instant,
    /// When a run was last let in beyond it.
    last_beyond: Option<Instant>,
    pub(super) running: usize,
    accounts: Accounts,
    pub(super) waiting: Turns<Waiter>,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) account: AccountId,
    pub(super) answer: oneshot::Sender<Permit>,
}

/// Those that are let in.
pub(super) struct LetIn {
    /// Each with whether it is the trial.
    pub(super) waiters: Vec<(Waiter, bool)>,
    /// Whether that changes when to look again.
    pub(super) has_changed: bool,
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

impl State {
    pub(super) fn new(most: usize) -> Self {
        let most = most.max(1);
        Self {
            most,
            invoker: Invoker::Up,
            pause: FIRST_PAUSE,
            limit: most as f64,
            last_fall: None,
            raised: Instant::now(),
            last_beyond: None,
            running: 0,
            accounts: Accounts::default(),
            waiting: Turns::default(),
        }
    }

    /// Lets in, and counts, whoever may be by now.
    pub(super) fn let_in(&mut self, now: Instant) -> LetIn {
        let limit = self.raise(now) as usize;
        let mut let_in = LetIn { waiters: Vec::new(), has_changed: false };
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
            if is_beyond && self.next_beyond().is_none_or(|at| at > now) {
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
                self.forget_closed(&account);
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
            let_in.has_changed |= is_trial || is_beyond || has_enough;
            let_in.waiters.push((waiter, is_trial));
        }
        let_in
    }

    /// Forgets those of an account that nobody waits for any more.
    pub(super) fn forget_closed(&mut self, account: &AccountId) {
        self.waiting.part(account, |_, waiter| !waiter.answer.is_closed());
    }

    /// When a run may be let in beyond the limit, of an account of which nothing runs: one after each [`PAUSE`].
    fn next_beyond(&self) -> Option<Instant> {
        let is_some = self.running < self.most && self.limit < self.most as f64;
        is_some.then(|| self.last_beyond.map_or(self.raised, |last| last + PAUSE))
    }

    /// Raises a limit that has fallen, by one for each [`PAUSE`] without a fall: slow runs raise it late.
    fn raise(&mut self, now: Instant) -> f64 {
        let pauses = now.saturating_duration_since(self.raised).as_millis() / PAUSE.as_millis();
        let pauses = u32::try_from(pauses).unwrap_or(u32::MAX);
        self.raised += PAUSE.saturating_mul(pauses);
        self.limit = (self.limit + f64::from(pauses)).min(self.most as f64);
        self.limit
    }

    /// Whether time alone lets another run of the account in, which the invoker has refused.
    pub(super) fn is_tried_again(&self, account: &AccountId, now: Instant) -> bool {
        self.accounts.next_try(account, now).is_some()
    }

    /// When somebody may be let in although no run ends.
    pub(super) fn look_again(&self, now: Instant) -> Option<Instant> {
        match self.invoker {
            Invoker::Down { until } | Invoker::Trial { until } if until > now => Some(until),
            _ => {
                let raise = (self.limit < self.most as f64).then(|| self.raised + PAUSE);
                let beyond = self.next_beyond().filter(|at| *at > now);
                let tries =
                    self.waiting.accounts().filter_map(|account| self.accounts.next_try(account, now));
                raise.into_iter().chain(beyond).chain(tries).min()
            }
        }
    }

    /// The trial's run is asked for.
    pub(super) fn trial_begins(&mut self, now: Instant) {
        if let Invoker::Trial { until } = &mut self.invoker {
            *until = now + TRIAL;
        }
    }

    /// A run of an account, maybe the trial, says this. Gives whether that changes when to look again.
    pub(super) fn judge(
        &mut self,
        account: &AccountId,
        verdict: Verdict,
        is_trial: bool,
        now: Instant,
    ) -> bool {
        match verdict {
            Verdict::Declined => {
                self.is_up(is_trial);
                is_trial
            }
            Verdict::Busy => {
                self.is_up(is_trial);
                self.accounts.refused(account, now);
                true
            }
            Verdict::Took => {
                self.is_up(is_trial);
                self.limit = (self.limit + 1.0 / self.limit).min(self.most as f64);
                is_trial
            }
            Verdict::Overloaded => {
                if is_trial {
                    self.invoker = Invoker::Up;
                }
                let falls = self.last_fall.is_none_or(|last| now.duration_since(last) >= FALL_EVERY);
                if falls {
                    self.limit = (self.limit * 0.7).max(1.0);
                    self.last_fall = Some(now);
                    self.raised = now;
                }
                falls || is_trial
            }
            // All that were in progress when it went down say so; only the first counts.
            Verdict::Down if self.invoker == Invoker::Up || is_trial => {
                if self.invoker == Invoker::Up && self.pause == FIRST_PAUSE {
                    tracing::warn!(
                        "the invoker cannot run events now: pausing, with longer and longer pauses"
                    );
                }
                self.invoker = Invoker::Down { until: now + self.pause };
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                true
            }
            Verdict::Down => false,
        }
    }

    /// A run of an account is over. Gives whether that changes when to look again.
    pub(super) fn end(&mut self, account: &AccountId, is_trial: bool, now: Instant) -> bool {
        self.running -= 1;
        self.accounts.end(account, now);
        if is_trial && matches!(self.invoker, Invoker::Trial { .. }) {
            // It did not find out: somebody else shall.
            self.invoker = Invoker::Down { until: now };
        }
        is_trial
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
