//! Whose turn it is.

use std::collections::{HashMap, VecDeque};

use chatfn_domain::name::AccountId;

/// What waits for its turn. Accounts take turns, so that one with much holds nobody up; within an account it is first come,
/// first served.
#[derive(Debug)]
pub(super) struct Turns<T> {
    lines: HashMap<AccountId, VecDeque<T>>,
    /// Those accounts.
    accounts: VecDeque<AccountId>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), accounts: VecDeque::new() }
    }
}

impl<T> Turns<T> {
    /// How much of an account waits.
    pub(super) fn len_of(&self, account: &AccountId) -> usize {
        self.lines.get(account).map_or(0, VecDeque::len)
    }

    /// What of an account waits.
    pub(super) fn line(&self, account: &AccountId) -> impl Iterator<Item = &T> {
        self.lines.get(account).into_iter().flatten()
    }

    /// All lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = (&AccountId, &VecDeque<T>)> {
        self.lines.iter()
    }

    pub(super) fn push(&mut self, account: &AccountId, item: T) {
        if let Some(line) = self.lines.get_mut(account) {
            line.push_back(item);
            return;
        }
        self.accounts.push_back(account.clone());
        self.lines.insert(account.clone(), VecDeque::from([item]));
    }

    /// Puts items of an account before all others of it, in their order.
    pub(super) fn push_front(&mut self, account: &AccountId, items: Vec<T>) {
        if items.is_empty() {
            return;
        }
        let line = self.lines.entry(account.clone()).or_default();
        if line.is_empty() {
            self.accounts.push_back(account.clone());
        }
        items.into_iter().rev().for_each(|item| line.push_front(item));
    }

    /// The accounts of which something waits.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &AccountId> {
        self.accounts.iter()
    }

    /// What [`Turns::pop_where`] would give.
    pub(super) fn next_where(&self, may: impl Fn(&AccountId) -> bool) -> Option<&T> {
        self.lines.get(self.accounts.iter().find(|account| may(account))?)?.front()
    }

    /// Takes the next of those accounts that may have a turn; the others keep theirs.
    pub(super) fn pop_where(&mut self, may: impl Fn(&AccountId) -> bool) -> Option<T> {
        let turn = self.accounts.iter().position(may)?;
        let account = self.accounts.remove(turn)?;
        let line = self.lines.get_mut(&account)?;
        let item = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&account);
        } else {
            self.accounts.push_back(account);
        }
        item
    }

    /// Keeps what satisfies `keep` of an account, and gives the rest, in its order.
    pub(super) fn part(&mut self, account: &AccountId, mut keep: impl FnMut(usize, &T) -> bool) -> Vec<T> {
        let Some(line) = self.lines.get_mut(account) else { return Vec::new() };
        let (mut kept, mut rest) = (VecDeque::new(), Vec::new());
        for (at, item) in std::mem::take(line).into_iter().enumerate() {
            if keep(at, &item) {
                kept.push_back(item);
            } else {
                rest.push(item);
            }
        }
        if kept.is_empty() {
            self.lines.remove(account);
            self.accounts.retain(|it| it != account);
        } else {
            *line = kept;
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> AccountId {
        name.parse().unwrap()
    }

    fn turns(items: &[&'static str]) -> Turns<&'static str> {
        let mut turns = Turns::default();
        for item in items {
            turns.push(&account(item.split_once('/').unwrap().0), *item);
        }
        turns
    }

    #[test]
    fn accounts_take_turns() {
        let mut turns = turns(&["a/1", "a/2", "a/3", "b/1", "a/4", "c/1", "c/2"]);
        let mut taken = Vec::new();
        while let Some(next) = turns.next_where(|_| true).copied() {
            assert_eq!(turns.pop_where(|_| true), Some(next));
            taken.push(next);
        }
        assert_eq!(taken, ["a/1", "b/1", "c/1", "a/2", "c/2", "a/3", "a/4"]);
        assert!(turns.pop_where(|_| true).is_none() && turns.lines.is_empty());
    }

    #[test]
    fn an_account_that_may_not_keeps_its_turn() {
        let mut turns = turns(&["a/1", "a/2", "b/1", "b/2", "c/1"]);
        let others = |account: &AccountId| account.as_str() != "a";
        assert_eq!([turns.pop_where(others), turns.pop_where(others)], [Some("b/1"), Some("c/1")]);
        assert_eq!([turns.pop_where(|_| true), turns.pop_where(|_| true)], [Some("a/1"), Some("b/2")]);
        assert!(turns.pop_where(others).is_none());
        assert_eq!(turns.len_of(&account("a")), 1);
    }

    #[test]
    fn a_line_is_parted_in_its_order() {
        let mut turns = turns(&["a/1", "b/1", "a/2", "a/3", "a/4"]);
        assert_eq!(turns.part(&account("a"), |at, item| at < 1 || *item == "a/3"), ["a/2", "a/4"]);
        assert_eq!(turns.len_of(&account("a")), 2);
        assert_eq!(turns.part(&account("a"), |_, _| false), ["a/1", "a/3"]);
        assert!(turns.part(&account("c"), |_, _| false).is_empty());
        turns.push_front(&account("b"), vec!["b/-1", "b/0"]);
        assert_eq!(turns.pop_where(|_| true), Some("b/-1"));
        assert_eq!(turns.pop_where(|_| true), Some("b/0"));
        assert_eq!(turns.pop_where(|_| true), Some("b/1"));
        assert!(turns.pop_where(|_| true).is_none());
    }
}
