//! What of each account the invoker is asked for at once.

use std::{collections::HashMap, time::Duration};

use chatfn_domain::{name::AccountId, shares};
use tokio::time::Instant;

/// Time after a refusal, or after one more run was tried, until one more is tried.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
/// Accounts beyond which those are forgotten of which nothing is in progress.
const MANY: usize = 4096;

/// The runs in progress, by account.
///
/// An account leaves room to others ([`shares::leaves_a_quarter`]). And each start is made durable before the invoker is asked, so
/// asking it in vain costs others more than it costs the account: one of which it refuses a run gets as many at once as are in
/// progress then, and one more after each [`PAUSE`] without another refusal, however long its runs take.
#[derive(Debug, Default)]
pub(super) struct Accounts(HashMap<AccountId, Account>);

#[derive(Debug, Default)]
struct Account {
    running: usize,
    refused: Option<Refusal>,
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    at: Instant,
    /// Runs that were in progress besides the one that was refused.
    taken: usize,
}

impl Accounts {
    /// Whether another run of the account may begin, while `free` of `all` are free.
    pub(super) fn may_run(&self, account: &AccountId, all: usize, free: usize, now: Instant) -> bool {
        let Some(it) = self.0.get(account) else { return free > 0 };
        !it.has_enough(now) && shares::leaves_a_quarter(all, free, it.running, 1)
    }

    /// Whether nothing of the account runs, and there is no reason why nothing should.
    pub(super) fn is_new(&self, account: &AccountId, now: Instant) -> bool {
        self.0.get(account).is_none_or(|it| it.running == 0 && !it.has_enough(now))
    }

    /// When one more is tried of an account that has as many as the invoker takes; `None` if it has not.
    pub(super) fn next_try(&self, account: &AccountId, now: Instant) -> Option<Instant> {
        let it = self.0.get(account).filter(|it| it.has_enough(now))?;
        let Refusal { at, taken } = it.refused?;
        let pauses = u32::try_from(it.running - taken + 1).unwrap_or(u32::MAX);
        Some(at + PAUSE.saturating_mul(pauses))
    }

    /// A run of the account begins. Gives whether the account has as many by that as the invoker takes.
    pub(super) fn begin(&mut self, account: &AccountId, now: Instant) -> bool {
        if let Some(it) = self.0.get_mut(account) {
            it.running += 1;
            return it.has_enough(now);
        }
        if self.0.len() >= MANY {
            self.0.retain(|_, it| it.running > 0 || it.has_enough(now));
        }
        self.0.insert(account.clone(), Account { running: 1, refused: None });
        false
    }

    /// A run of the account, which has not ended yet, was refused because the account has as many as it may.
    pub(super) fn refused(&mut self, account: &AccountId, now: Instant) {
        if let Some(it) = self.0.get_mut(account) {
            it.refused = Some(Refusal { at: now, taken: it.running.saturating_sub(1) });
        }
    }

    /// A run of the account has ended. The account is forgotten when nothing of it is in progress.
    pub(super) fn end(&mut self, account: &AccountId, now: Instant) {
        let Some(it) = self.0.get_mut(account) else { return };
        it.running -= 1;
        if it.running == 0 && !it.has_enough(now) {
            self.0.remove(account);
        }
    }
}

impl Account {
    /// Whether the invoker most likely takes no more of it now.
    fn has_enough(&self, now: Instant) -> bool {
        self.refused.is_some_and(|Refusal { at, taken }| {
            let more = now.saturating_duration_since(at).as_millis() / PAUSE.as_millis();
            self.running as u128 >= taken as u128 + more
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 1_000;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    /// Begins another run, if it may, while there is room for all.
    fn begins(accounts: &mut Accounts, account: &AccountId, now: Instant) -> bool {
        let may = accounts.may_run(account, ALL, ALL, now);
        if may {
            accounts.begin(account, now);
        }
        may
    }

    fn refuse(accounts: &mut Accounts, account: &AccountId, now: Instant) {
        accounts.refused(account, now);
        accounts.end(account, now);
    }

    #[test]
    fn an_account_that_is_refused_is_not_asked_for_more_than_it_has() {
        let (mut accounts, acme, mut now) = (Accounts::default(), account("acme"), Instant::now());
        let mut running = (0..50).filter(|_| begins(&mut accounts, &acme, now)).count();
        assert_eq!(running, 50);
        // An invoker with room for ten.
        for _ in 10..50 {
            refuse(&mut accounts, &acme, now);
            running -= 1;
        }
        assert!(!begins(&mut accounts, &acme, now));
        assert!(begins(&mut accounts, &account("other"), now), "others need not wait");
        // It has as many again as end, and now and then one more is tried.
        let mut refused = 0;
        for _ in 0..1_000 {
            now += PAUSE / 100;
            accounts.end(&acme, now);
            running -= 1;
            while begins(&mut accounts, &acme, now) {
                if running < 10 {
                    running += 1;
                } else {
                    refused += 1;
                    refuse(&mut accounts, &acme, now);
                }
            }
            assert_eq!(running, 10);
        }
        assert_eq!(refused, 10);
    }

    #[test]
    fn an_account_with_long_runs_gets_more_again_while_they_last() {
        let (mut accounts, acme, mut now) = (Accounts::default(), account("acme"), Instant::now());
        assert!(begins(&mut accounts, &acme, now) && begins(&mut accounts, &acme, now));
        refuse(&mut accounts, &acme, now);
        for _ in 0..20 {
            let again = accounts.next_try(&acme, now).unwrap();
            assert!(again > now && !begins(&mut accounts, &acme, again - Duration::from_millis(1)));
            now = again;
            assert!(begins(&mut accounts, &acme, now));
        }
        assert_eq!(accounts.0[&acme].running, 21);
    }

    #[test]
    fn an_account_whose_places_others_have_is_tried_seldom() {
        let (mut accounts, acme, mut now) = (Accounts::default(), account("acme"), Instant::now());
        let mut tries = 0;
        for _ in 0..2_000 {
            if begins(&mut accounts, &acme, now) {
                tries += 1;
                refuse(&mut accounts, &acme, now);
            }
            now += Duration::from_millis(1);
        }
        assert_eq!(tries, 10);
        now += PAUSE;
        assert!(accounts.next_try(&acme, now).is_none() && begins(&mut accounts, &acme, now));
        accounts.end(&acme, now);
        assert!(accounts.0.is_empty(), "forgotten");
    }
}
