//! Divides something bounded among accounts.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::name::AccountId;

/// One in so many of a stock is kept for accounts that hold little of it.
const RESERVE: usize = 4;

/// Whether an account that holds `held` may take a `portion` of what is `free` of a `stock`, when a quarter of it is kept for
/// accounts that hold little.
///
/// Three quarters go to whoever comes first. Of the last quarter an account gets more only as long as it holds at most three
/// times what would stay free. So an account that takes without end leaves room to whoever comes, who leaves a quarter of that,
/// and so on: some accounts together cannot take all, either. A first portion only has to fit.
pub fn leaves_a_quarter(stock: usize, free: usize, held: usize, portion: usize) -> bool {
    free.checked_sub(portion)
        .is_some_and(|left| left >= stock / RESERVE || held == 0 || held + portion <= (RESERVE - 1) * left)
}

/// A stock of which an account may hold as much as is still free, but always one portion.
///
/// So an account that takes all it can get holds half of the stock, two of them hold a third each, and so on: a newcomer
/// finds room whatever the others do, and nothing lies idle for accounts that are not there.
#[derive(Debug)]
pub struct Shares<K = AccountId> {
    stock: usize,
    free: usize,
    held: HashMap<K, usize>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// Of `stock`, none of which is held.
    pub fn new(stock: usize) -> Self {
        Self { stock, free: stock, held: HashMap::new() }
    }

    /// How much all hold together.
    pub fn in_use(&self) -> usize {
        self.stock - self.free
    }

    /// Whether `account` may take another `portion`.
    pub fn allow(&self, account: &K, portion: usize) -> bool {
        let held = self.held.get(account).copied().unwrap_or(0);
        portion <= self.free && (held == 0 || held + portion <= self.free)
    }

    /// Takes what was allowed ([`Shares::allow`]); more than is free must not be taken.
    pub fn take(&mut self, account: &K, portion: usize) {
        self.free -= portion;
        match self.held.get_mut(account) {
            Some(held) => *held += portion,
            None => _ = self.held.insert(account.clone(), portion),
        }
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, account: &K, portion: usize) {
        self.free += portion;
        if let Some(held) = self.held.get_mut(account) {
            *held -= portion;
            if *held == 0 {
                self.held.remove(account);
            }
        }
    }
}

/// The same for tasks that share it: what one takes is held until it is dropped. Cheap to clone.
#[derive(Debug)]
pub struct Stock<K = AccountId>(Arc<Mutex<Shares<K>>>);

impl<K> Clone for Stock<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> Stock<K> {
    /// Of `stock`, none of which is held.
    pub fn new(stock: usize) -> Self {
        Self(Arc::new(Mutex::new(Shares::new(stock))))
    }

    /// Takes a portion, if `holder` may have it.
    pub fn take(&self, holder: K, portion: usize) -> Option<Held<K>> {
        let mut shares = self.lock();
        if !shares.allow(&holder, portion) {
            return None;
        }
        shares.take(&holder, portion);
        Some(Held { stock: self.clone(), holder, portion })
    }

    fn lock(&self) -> MutexGuard<'_, Shares<K>> {
        // Nothing under the lock can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A portion of a [`Stock`], given back when dropped.
#[derive(Debug)]
pub struct Held<K: Clone + Eq + Hash = AccountId> {
    stock: Stock<K>,
    holder: K,
    portion: usize,
}

impl<K: Clone + Eq + Hash> Held<K> {
    /// Who holds it.
    pub fn holder(&self) -> &K {
        &self.holder
    }

    /// Passes it on to `other`, and says whether it may have it; if not, it stays where it is. It need not be free twice.
    pub fn pass_on(&mut self, other: K) -> bool {
        let mut shares = self.stock.lock();
        shares.give_back(&self.holder, self.portion);
        let may_have = shares.allow(&other, self.portion);
        if may_have {
            self.holder = other;
        }
        shares.take(&self.holder, self.portion);
        may_have
    }
}

impl<K: Clone + Eq + Hash> Drop for Held<K> {
    fn drop(&mut self) {
        self.stock.lock().give_back(&self.holder, self.portion);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(n: usize) -> AccountId {
        format!("a{n}").parse().unwrap()
    }

    fn fill(shares: &mut Shares, account: &AccountId) -> usize {
        let mut held = 0;
        while shares.allow(account, 1) {
            shares.take(account, 1);
            held += 1;
        }
        held
    }

    #[test]
    fn whoever_takes_all_leaves_as_much_to_the_next() {
        let mut shares = Shares::new(100);
        assert_eq!(fill(&mut shares, &account(1)), 50);
        assert_eq!(fill(&mut shares, &account(2)), 25);
        assert!(shares.allow(&account(3), 25), "a first portion only has to fit");
        assert!(!shares.allow(&account(3), 26));
    }

    #[test]
    fn a_portion_of_the_whole_stock_can_be_had() {
        let mut shares = Shares::new(100);
        shares.take(&account(1), 1);
        assert!(!shares.allow(&account(2), 100));
        shares.give_back(&account(1), 1);
        assert!(shares.allow(&account(2), 100));
    }

    #[test]
    fn what_is_held_is_given_back_and_passed_on() {
        let stock = Stock::new(4);
        let mut first = stock.take(account(1), 2).unwrap();
        assert!(stock.take(account(1), 1).is_none());
        assert!(first.pass_on(account(2)) && *first.holder() == account(2));
        let second = stock.take(account(1), 2).unwrap();
        assert!(!first.pass_on(account(1)), "it has as much as is free");
        assert_eq!(*first.holder(), account(2));
        drop((first, second));
        assert!(stock.take(account(3), 4).is_some());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_overdrawn(steps in prop::collection::vec((0usize..4, 1usize..30), 0..200)) {
            let mut shares = Shares::new(100);
            let mut taken: Vec<(usize, usize)> = Vec::new();
            for (n, portion) in steps {
                if shares.allow(&account(n), portion) {
                    shares.take(&account(n), portion);
                    taken.push((n, portion));
                } else if let Some((n, portion)) = taken.pop() {
                    shares.give_back(&account(n), portion);
                }
                let held: usize = taken.iter().map(|(_, portion)| portion).sum();
                prop_assert_eq!(shares.free, 100 - held);
            }
            for (n, portion) in taken {
                shares.give_back(&account(n), portion);
            }
            prop_assert!(shares.free == 100 && shares.held.is_empty());
        }
    }
}
