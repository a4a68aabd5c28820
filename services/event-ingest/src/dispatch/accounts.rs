//! How many runs of one account the invoker is asked for at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chatfn_domain::name::AccountId;
use tokio::time::Instant;

/// Time after a refusal, or after one more run was tried, until one more is tried.
const PAUSE: Duration = Duration::from_millis(200);
/// Accounts beyond which those are forgotten of which nothing is in progress.
const MANY: usize = 4096;

/// What the invoker takes of each account, as far as its answers tell. Each start is made durable before the invoker is
/// asked, so asking in vain costs others more than it costs the account. Cheap to clone.
///
/// An account of which it refuses a run gets as many at once as are in progress then, and one more after each [`PAUSE`] without
/// another refusal, however long its runs take. It is forgotten when nothing of it is in progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts(Arc<Mutex<HashMap<AccountId, Share>>>);

#[derive(Debug)]
struct Share {
    running: usize,
    refused: Option<Refusal>,
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    at: Instant,
    /// Runs that were in progress besides the one that was refused.
    taken: usize,
}

/// Leave for one run of an account, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    accounts: Accounts,
    account: AccountId,
}

impl Accounts {
    /// Whether the invoker most likely has no place for the account now.
    pub(super) fn is_busy(&self, account: &AccountId) -> bool {
        self.lock().get(account).is_some_and(|share| share.is_full(Instant::now()))
    }

    /// Takes a place of the account, unless it is busy.
    pub(super) fn enter(&self, account: &AccountId) -> Option<Place> {
        let now = Instant::now();
        let mut shares = self.lock();
        if let Some(share) = shares.get_mut(account) {
            if share.is_full(now) {
                return None;
            }
            share.running += 1;
        } else {
            if shares.len() >= MANY {
                shares.retain(|_, share| share.running > 0 || share.is_full(now));
            }
            shares.insert(account.clone(), Share { running: 1, refused: None });
        }
        Some(Place { accounts: self.clone(), account: account.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AccountId, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    fn is_full(&self, now: Instant) -> bool {
        self.refused.is_some_and(|Refusal { at, taken }| {
            let more = now.saturating_duration_since(at).as_millis() / PAUSE.as_millis();
            self.running as u128 >= taken as u128 + more
        })
    }
}

impl Place {
    /// The run was refused, because the account has as many as it may.
    pub(super) fn was_refused(self) {
        if let Some(share) = self.accounts.lock().get_mut(&self.account) {
            share.refused = Some(Refusal { at: Instant::now(), taken: share.running.saturating_sub(1) });
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut shares = self.accounts.lock();
        let Some(share) = shares.get_mut(&self.account) else { return };
        share.running -= 1;
        if share.running == 0 && !share.is_full(Instant::now()) {
            shares.remove(&self.account);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_is_refused_is_not_asked_for_more_than_it_has() {
        let (accounts, acme) = (Accounts::default(), account("acme"));
        let mut places: Vec<_> = (0..50).map(|_| accounts.enter(&acme).unwrap()).collect();
        // An invoker with room for ten.
        places.drain(10..).for_each(Place::was_refused);
        assert!(accounts.is_busy(&acme) && accounts.enter(&acme).is_none());
        assert!(accounts.enter(&account("other")).is_some(), "others need not wait");
        // It has as many again as end, and now and then one more is tried.
        let mut refused = 0;
        for _ in 0..1_000 {
            tokio::time::advance(PAUSE / 100).await;
            places.pop();
            while let Some(place) = accounts.enter(&acme) {
                if places.len() < 10 {
                    places.push(place);
                } else {
                    refused += 1;
                    place.was_refused();
                }
            }
            assert_eq!(places.len(), 10);
        }
        assert_eq!(refused, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_with_long_runs_gets_more_again_while_they_last() {
        let (accounts, acme) = (Accounts::default(), account("acme"));
        let mut places = vec![accounts.enter(&acme).unwrap()];
        accounts.enter(&acme).unwrap().was_refused();
        for _ in 0..20 {
            tokio::time::advance(PAUSE).await;
            places.extend(std::iter::from_fn(|| accounts.enter(&acme)));
        }
        assert_eq!(places.len(), 21);
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_whose_places_others_have_is_tried_seldom() {
        let (accounts, acme) = (Accounts::default(), account("acme"));
        let mut tries = 0;
        for _ in 0..2_000 {
            if let Some(place) = accounts.enter(&acme) {
                tries += 1;
                place.was_refused();
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(tries, 10);
        tokio::time::advance(PAUSE).await;
        drop(accounts.enter(&acme).unwrap());
        assert!(accounts.lock().is_empty(), "forgotten");
    }
}
