//! How accounts share the places of a lane, and what is passed over when one has no place left.
//!
//! A conversation with unfinished events takes a place, also while it waits or is halted. An account may have as many of
//! them as are still free: so one of which everything is halted takes half of them, and leaves room to whoever comes.
//! What it has beyond that is *passed over*: reading goes on for the others, the cursor stays before the first such event,
//! and when the account has places again, it *catches up* from there ([`LaneQueue::begin_catch_up`]).
//!
//! As long as something of an account is passed over, so is each event of a conversation that is not known, or an earlier
//! one of that conversation would be overtaken. A conversation that is known covers all of its events up to `read_to`
//! itself; but for one that came to be known by an operator's doing ([`LaneQueue::reopen`]): it is *behind*, until catching up
//! comes to its first event.

use std::{
    collections::HashMap,
    ops::Bound::{Excluded, Unbounded},
};

use chatfn_domain::name::AccountId;

use super::{Conversation, ConversationKey, LaneQueue, Phase, Queued};

/// Events of an account that were passed over lie from `first` to `last`.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassedOver {
    first: i64,
    last: i64,
}

/// A part of the lane to read for one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CatchUp {
    pub(crate) account: AccountId,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// A catch-up that has begun.
#[derive(Debug)]
pub(super) struct CatchingUp {
    account: AccountId,
    /// What has ended since, of which the store may not know when it is read: the last such event of each conversation.
    ended: HashMap<ConversationKey, i64>,
}

impl<E: Queued> LaneQueue<E> {
    /// Whether a conversation of the account finds a place. While older owners' leave none at all, there is one for each.
    pub(super) fn has_place(&self, account: &AccountId) -> bool {
        if self.aside.contains(account) && self.to_load.len_of(account) >= self.room.aside {
            return false;
        }
        let (taken, held) = (self.conversations.len(), self.held.get(account).copied().unwrap_or_default());
        held < self.room.places.saturating_sub(taken) || (held == 0 && !self.is_full())
    }

    /// Whether nobody finds a place: reading must not go on.
    pub(crate) fn is_full(&self) -> bool {
        self.conversations.len() >= 2 * self.room.places
    }

    pub(super) fn insert(&mut self, key: ConversationKey, conversation: Conversation<E>) {
        *self.held.entry(key.0.clone()).or_default() += 1;
        self.conversations.insert(key, conversation);
    }

    pub(super) fn remove(&mut self, key: &ConversationKey) {
        self.conversations.remove(key);
        if let Some(held) = self.held.get_mut(&key.0) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&key.0);
            }
        }
    }

    pub(super) fn has_passed_over(&self, account: &AccountId) -> bool {
        self.passed_over.contains_key(account)
    }

    pub(super) fn pass_over(&mut self, account: &AccountId, sequence: i64) {
        match self.passed_over.get_mut(account) {
            Some(passed) => passed.last = passed.last.max(sequence),
            None => self.set_passed_over(account, Some(PassedOver { first: sequence, last: sequence })),
        }
    }

    fn set_passed_over(&mut self, account: &AccountId, passed: Option<PassedOver>) {
        let before = match passed {
            Some(passed) => self.passed_over.insert(account.clone(), passed),
            None => self.passed_over.remove(account),
        };
        if let Some(before) = before {
            self.first_passed_over.remove(&(before.first, account.clone()));
        }
        if let Some(PassedOver { first, .. }) = passed {
            self.first_passed_over.insert((first, account.clone()));
        }
    }

    /// Whether there is something to catch up with, and room for it.
    pub(crate) fn can_catch_up(&self) -> bool {
        self.catching_up.is_none() && self.next_to_catch_up().is_some()
    }

    /// Accounts in turn.
    fn next_to_catch_up(&self) -> Option<(&AccountId, &PassedOver)> {
        let after = self.caught_up.as_ref().map_or(Unbounded, Excluded);
        let all = self.passed_over.range::<AccountId, _>((after, Unbounded)).chain(&self.passed_over);
        // Not for each that is loaded: catching up costs more than that.
        let is_served =
            |account| self.aside.contains(account) && self.to_load.len_of(account) > self.room.aside / 2;
        let mut with_place = all.filter(|(account, _)| self.has_place(account) && !is_served(*account));
        with_place.next()
    }

    /// Begins to catch up for an account that has places again; answered with [`LaneQueue::catch_up`] or
    /// [`LaneQueue::give_up_catch_up`]. The store must be read after all that was recorded until now is durable.
    pub(crate) fn begin_catch_up(&mut self) -> Option<CatchUp> {
        if self.catching_up.is_some() {
            return None;
        }
        let (account, passed) = self.next_to_catch_up()?;
        let wanted = CatchUp { account: account.clone(), from: passed.first, to: passed.last };
        self.caught_up = Some(wanted.account.clone());
        self.catching_up = Some(CatchingUp { account: wanted.account.clone(), ended: HashMap::new() });
        Some(wanted)
    }

    /// The store could not be read.
    pub(crate) fn give_up_catch_up(&mut self) {
        self.catching_up = None;
    }

    /// Gives places to the conversations of these events: unfinished ones of the account in their order, all that there
    /// are up to `looked_to`.
    pub(crate) fn catch_up(&mut self, events: Vec<(i64, ConversationKey)>, looked_to: i64) {
        let Some(CatchingUp { account, ended }) = self.catching_up.take() else { return };
        let Some(PassedOver { last, .. }) = self.passed_over.get(&account).copied() else { return };
        let mut first = (looked_to < last).then_some(looked_to + 1);
        for (sequence, key) in events {
            if ended.get(&key).is_some_and(|ended| sequence <= *ended) {
                continue;
            }
            if let Some(conversation) = self.conversations.get_mut(&key) {
                let is_known = sequence == conversation.first || conversation.reopened.contains(&sequence);
                if conversation.is_behind && !is_known {
                    conversation.is_behind = false;
                    conversation.done_to = sequence - 1;
                    conversation.skipped_to = self.read_to;
                }
            } else if self.has_place(&account) {
                let mut conversation = Conversation::new(Phase::Loading(0), sequence);
                conversation.skipped_to = self.read_to;
                self.uncovered.insert((sequence, key.clone()));
                self.load_in_turn(key.clone());
                self.insert(key, conversation);
            } else {
                first = Some(sequence);
                break;
            }
        }
        self.set_passed_over(&account, first.map(|first| PassedOver { first, last }));
    }

    /// An event of a conversation has its outcome, which is not durable yet.
    pub(super) fn has_ended(&mut self, key: &ConversationKey, sequence: i64) {
        if let Some(catching_up) = self.catching_up.as_mut().filter(|it| it.account == key.0) {
            let last = catching_up.ended.entry(key.clone()).or_insert(sequence);
            *last = sequence.max(*last);
        }
    }
}
