//! Places for runs, divided among accounts.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chatfn_domain::name::AccountId;

use crate::error::InvokerError;

/// One in so many places is kept for accounts that have few.
const RESERVE: usize = 4;

/// A number of places, one for each run.
///
/// Three quarters go to whoever comes first. The last quarter is for accounts that hold less than their share: what each
/// would have if all that run something now, and one more, had the same. So an account that sends without end leaves
/// room to whoever comes, and what it leaves cannot be taken by one other account alone.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_account: HashMap<AccountId, usize>,
}

/// Leave to run a lambda, as long as it is held.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    places: &'a Places,
    account: AccountId,
}

impl Places {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, taken: Mutex::default() }
    }

    /// How many there are.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many are taken.
    pub(crate) fn in_use(&self) -> usize {
        self.taken().all
    }

    /// Takes a place at once, or says why there is none.
    pub(crate) fn take(&self, account: &AccountId) -> Result<Place<'_>, InvokerError> {
        let mut taken = self.taken();
        if taken.all >= self.max {
            return Err(InvokerError::Overloaded {
                what: "as many runs as this invoker allows",
                limit: self.max,
            });
        }
        let held = taken.by_account.get(account).copied().unwrap_or(0);
        let share = self.max / (taken.by_account.len() + 1 + usize::from(held == 0));
        if self.max - taken.all <= self.max / RESERVE && held > 0 && held >= share {
            return Err(InvokerError::AccountBusy { account: account.clone(), held });
        }
        taken.all += 1;
        *taken.by_account.entry(account.clone()).or_default() += 1;
        Ok(Place { places: self, account: account.clone() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics while it is locked.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        if let Some(held) = taken.by_account.get_mut(&self.account) {
            *held -= 1;
            if *held == 0 {
                taken.by_account.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(n: usize) -> AccountId {
        format!("a{n}").parse().unwrap()
    }

    fn fill(places: &Places, n: usize) -> Vec<Place<'_>> {
        std::iter::from_fn(|| places.take(&account(n)).ok()).collect()
    }

    #[test]
    fn a_flood_leaves_room_to_whoever_comes() {
        let places = Places::new(100);
        let flood = fill(&places, 1);
        assert_eq!(flood.len(), 75);
        assert!(matches!(places.take(&account(1)), Err(InvokerError::AccountBusy { held: 75, .. })));
        let second = fill(&places, 2);
        assert_eq!(second.len(), 25, "less than a third of all");
        assert!(matches!(places.take(&account(3)), Err(InvokerError::Overloaded { limit: 100, .. })));
        drop(second);
        let many: Vec<_> = (2..27).filter_map(|n| places.take(&account(n)).ok()).collect();
        assert_eq!(many.len(), 25, "each of them gets a first place");
    }

    #[test]
    fn few_places_are_not_divided() {
        for max in 1..RESERVE {
            assert_eq!(fill(&Places::new(max), 1).len(), max);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_overdrawn(
            max in 1usize..40,
            steps in prop::collection::vec((0usize..5, any::<bool>()), 0..300),
        ) {
            let places = Places::new(max);
            let mut held = Vec::new();
            for (n, takes) in steps {
                if takes {
                    let had_none = !held.iter().any(|(holder, _)| *holder == n);
                    let before = held.len();
                    held.extend(places.take(&account(n)).map(|place| (n, place)));
                    if had_none && before < max {
                        prop_assert_eq!(held.len(), before + 1, "a first place is never refused while one is free");
                    }
                } else if !held.is_empty() {
                    held.swap_remove(n % held.len());
                }
                prop_assert!(held.len() <= max);
                prop_assert_eq!(places.taken().all, held.len());
            }
            held.clear();
            prop_assert!(places.taken().all == 0 && places.taken().by_account.is_empty());
        }
    }
}
