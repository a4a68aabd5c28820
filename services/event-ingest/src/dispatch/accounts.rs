//! How many runs of one account the invoker is asked for at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chatfn_domain::name::AccountId;
use tokio::time::Instant;

/// Pause after a run was refused while no other one of its account was in progress here: others have the account's places.
const PAUSE: Duration = Duration::from_millis(100);
/// Runs that must have ended at least before one more is tried: where few have room, a try in vain costs the more.
const FEWEST: f64 = 10.0;
/// Accounts beyond which those are forgotten of which nothing is in progress.
const MANY: usize = 4096;

/// What the invoker takes of each account, as far as its answers tell. Each start is made durable before the invoker is
/// asked, so asking in vain costs others more than it costs the account. Cheap to clone.
///
/// An account of which it refuses a run gets as many at once as are in progress then, and one more for each time that as many
/// have ended, or ten. It is forgotten when nothing of it is in progress.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts(Arc<Mutex<HashMap<AccountId, Share>>>);

#[derive(Debug)]
struct Share {
    running: usize,
    /// How many may; without end until one is refused.
    limit: f64,
    /// When the last one was refused.
    refused: Option<Instant>,
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
            shares.insert(account.clone(), Share { running: 1, limit: f64::INFINITY, refused: None });
        }
        Some(Place { accounts: self.clone(), account: account.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AccountId, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    fn is_full(&self, now: Instant) -> bool {
        if self.running == 0 {
            self.refused.is_some_and(|refused| now.saturating_duration_since(refused) < PAUSE)
        } else {
            self.running as f64 + 1.0 > self.limit
        }
    }
}

impl Place {
    /// The run was taken, and is over.
    pub(super) fn was_taken(self) {
        self.change(|share| share.limit += 1.0 / share.limit.max(FEWEST));
    }

    /// The run was refused, because the account has as many as it may.
    pub(super) fn was_refused(self) {
        self.change(|share| {
            share.refused = Some(Instant::now());
            let others = share.running.saturating_sub(1).max(1);
            share.limit = share.limit.min(others as f64);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Share)) {
        if let Some(share) = self.accounts.lock().get_mut(&self.account) {
            change(share);
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
        // It has as many again, and one more is tried once that many have ended.
        let mut refused = 0;
        for _ in 0..1_000 {
            places.remove(0).was_taken();
            while let Some(place) = accounts.enter(&acme) {
                if places.len() < 10 {
                    places.push(place);
                } else {
                    refused += 1;
                    place.was_refused();
                }
            }
        }
        assert!((50..=110).contains(&refused), "{refused} were refused");
        // An invoker with more room.
        for _ in 0..1_000 {
            places.remove(0).was_taken();
            places.extend(std::iter::from_fn(|| accounts.enter(&acme)));
        }
        assert!(places.len() > 30, "{}", places.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_whose_places_others_have_is_tried_seldom() {
        let (accounts, acme) = (Accounts::default(), account("acme"));
        let mut tries = 0;
        for _ in 0..1_000 {
            if let Some(place) = accounts.enter(&acme) {
                tries += 1;
                place.was_refused();
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(tries, 10);
        tokio::time::advance(PAUSE).await;
        accounts.enter(&acme).unwrap().was_taken();
        assert!(accounts.lock().is_empty(), "forgotten");
    }
}
