//! Whose turn it is.

use std::collections::{HashMap, VecDeque};

use chatfn_domain::name::AccountId;

use super::ConversationKey;

/// Conversations that may go on. Accounts take turns, so that one with many holds nobody up; within an account it is first
/// come, first served.
#[derive(Debug, Default)]
pub(super) struct Turns {
    conversations: HashMap<AccountId, VecDeque<ConversationKey>>,
    /// Those accounts.
    accounts: VecDeque<AccountId>,
}

impl Turns {
    pub(super) fn push(&mut self, key: ConversationKey) {
        if let Some(line) = self.conversations.get_mut(&key.0) {
            line.push_back(key);
            return;
        }
        let account = key.0.clone();
        self.accounts.push_back(account.clone());
        self.conversations.insert(account, VecDeque::from([key]));
    }

    /// What [`Turns::pop`] would give.
    pub(super) fn next(&self) -> Option<&ConversationKey> {
        self.conversations.get(self.accounts.front()?)?.front()
    }

    pub(super) fn pop(&mut self) -> Option<ConversationKey> {
        let account = self.accounts.pop_front()?;
        let line = self.conversations.get_mut(&account)?;
        let key = line.pop_front();
        if line.is_empty() {
            self.conversations.remove(&account);
        } else {
            self.accounts.push_back(account);
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn accounts_take_turns() {
        let mut turns = Turns::default();
        let names = ["a/1", "a/2", "a/3", "b/1", "a/4", "c/1", "c/2"];
        for name in names {
            let (account, conversation) = name.split_once('/').unwrap();
            turns.push(Arc::new((account.parse().unwrap(), conversation.parse().unwrap())));
        }
        let mut taken = Vec::new();
        while let Some(next) = turns.next().cloned() {
            assert_eq!(turns.pop(), Some(next.clone()));
            taken.push(format!("{}/{}", next.0, next.1));
        }
        assert_eq!(taken, ["a/1", "b/1", "c/1", "a/2", "c/2", "a/3", "a/4"]);
        assert!(turns.pop().is_none() && turns.conversations.is_empty());
    }
}
