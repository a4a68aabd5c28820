//! Divides something bounded among accounts.

use std::{collections::HashMap, hash::Hash};

use crate::name::AccountId;

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
