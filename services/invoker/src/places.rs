//! Places for runs and whatever else accounts compete for, divided among them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chatfn_domain::{name::AccountId, shares};

/// A run takes a place for each so many MiB that it may use, or a part of them: what functions may use by default.
const PLACE_MIB: u32 = 64;

/// A number of places, for runs; or of bytes. An account leaves room to others ([`shares::leaves_a_quarter`]).
#[derive(Debug)]
pub(crate) struct Places {
    /// What they are for, in the plural.
    what: &'static str,
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_account: HashMap<AccountId, usize>,
}

/// Leave to run a lambda, or whatever the places are for, as long as it is held.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    account: AccountId,
    size: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPlace {
    /// All are taken.
    #[error("as many {what} as this invoker allows ({limit}) are in progress, or nearly")]
    Full {
        /// What is limited.
        what: &'static str,
        /// How many at once.
        limit: usize,
    },
    /// An account has more than its share.
    #[error("{held} {what} of account {account} are in progress, and what is free is kept for others")]
    Busy {
        /// What is limited.
        what: &'static str,
        /// The account.
        account: AccountId,
        /// How many it has.
        held: usize,
    },
}

impl Places {
    /// `max` places for `what`, which is in the plural.
    pub(crate) fn new(what: &'static str, max: usize) -> Arc<Self> {
        Arc::new(Self { what, max, taken: Mutex::default() })
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
    pub(crate) fn take(self: &Arc<Self>, account: &AccountId) -> Result<Place, NoPlace> {
        self.take_many(account, 1)
    }

    /// Takes those of a run that may use so much memory: what all may use together is bounded by their number. A run that would take
    /// more than there are takes all.
    pub(crate) fn take_run(self: &Arc<Self>, account: &AccountId, mib: u32) -> Result<Place, NoPlace> {
        self.take_many(account, (mib.div_ceil(PLACE_MIB) as usize).min(self.max).max(1))
    }

    /// Takes so many as one.
    pub(crate) fn take_many(self: &Arc<Self>, account: &AccountId, size: usize) -> Result<Place, NoPlace> {
        let mut taken = self.taken();
        let free = self.max - taken.all;
        if size > free {
            return Err(NoPlace::Full { what: self.what, limit: self.max });
        }
        let held = taken.by_account.get(account).copied().unwrap_or(0);
        if !shares::leaves_a_quarter(self.max, free, held, size) {
            return Err(NoPlace::Busy { what: self.what, account: account.clone(), held });
        }
        taken.all += size;
        *taken.by_account.entry(account.clone()).or_default() += size;
        Ok(Place { places: Arc::clone(self), account: account.clone(), size })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics while it is locked.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// How many it holds.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Holds another one of the same account's as well, as one.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.size += std::mem::take(&mut other.size);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= self.size;
        if let Some(held) = taken.by_account.get_mut(&self.account) {
            *held -= self.size;
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

    fn fill(places: &Arc<Places>, n: usize) -> Vec<Place> {
        std::iter::from_fn(|| places.take(&account(n)).ok()).collect()
    }

    #[test]
    fn a_flood_leaves_room_to_whoever_comes() {
        let places = Places::new("runs", 100);
        let flood = fill(&places, 1);
        assert_eq!(flood.len(), 75);
        assert!(matches!(places.take(&account(1)), Err(NoPlace::Busy { held: 75, .. })));
        let others: Vec<_> = (2..7).map(|n| fill(&places, n)).collect();
        assert_eq!(others.iter().map(Vec::len).collect::<Vec<_>>(), [18, 5, 1, 1, 0]);
        assert!(matches!(places.take(&account(7)), Err(NoPlace::Full { limit: 100, .. })));
        drop(others);
        let many: Vec<_> = (2..27).filter_map(|n| places.take(&account(n)).ok()).collect();
        assert_eq!(many.len(), 25, "each of them gets a first place");
    }

    #[test]
    fn bytes_are_divided_by_their_number() {
        let places = Places::new("bytes", 1000);
        let mut flood = places.take_many(&account(1), 600).unwrap();
        assert!(matches!(places.take_many(&account(1), 151), Err(NoPlace::Busy { held: 600, .. })));
        flood.merge(places.take_many(&account(1), 150).unwrap());
        let second = places.take_many(&account(2), 200).unwrap();
        assert!(matches!(places.take_many(&account(2), 100), Err(NoPlace::Full { limit: 1000, .. })));
        drop(flood);
        assert_eq!(places.in_use(), 200);
        drop(second);
        assert!(places.taken().all == 0 && places.taken().by_account.is_empty());
    }

    #[test]
    fn runs_take_places_by_their_memory() {
        let places = Places::new("runs", 8);
        let size = |mib| places.take_run(&account(1), mib).map(|place| place.size);
        assert_eq!([1, 64, 65, 128, 256].map(|mib| size(mib).unwrap()), [1, 1, 2, 2, 4]);
        let _held = places.take_run(&account(1), 256).unwrap();
        assert!(matches!(size(256), Err(NoPlace::Busy { held: 4, .. })));
        assert!(places.take_run(&account(2), 256).is_ok(), "all that are left");
        assert_eq!(Places::new("runs", 2).take_run(&account(1), 256).unwrap().size, 2, "one can always run");
        assert!(Places::new("runs", 0).take_run(&account(1), 64).is_err());
    }

    #[test]
    fn few_places_are_not_divided() {
        for max in 1..4 {
            assert_eq!(fill(&Places::new("runs", max), 1).len(), max);
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_overdrawn(
            max in 1usize..40,
            steps in prop::collection::vec((0usize..5, any::<bool>()), 0..300),
        ) {
            let places = Places::new("runs", max);
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
