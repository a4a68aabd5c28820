//! How accounts share the memory of a lane.
//!
//! What was read first is in memory, as long as there is room ([`Room`]). When there is none left although an account of which
//! nothing is there has something that could start, in the store, the account that has most there is *set aside*: of half of its
//! conversations that could start, and of those of it that come, only the places are kept, and they are loaded when it is their turn.
//! The one whose turn is next stays, unless another event of the account is pending. So an account whose events are more than can run,
//! or whose runs hang, makes no other wait. Its own conversations keep their turns, and it is set aside until nothing of it is left
//! to load.
//!
//! What is set aside is read twice, which costs much of the speed. So nothing is for accounts that are in memory, and the lane
//! looks whose events it has not read before it reads them ([`LaneQueue::looked_ahead`]).

use std::collections::{HashMap, VecDeque};

use chatfn_domain::name::AccountId;

use super::{Conversation, ConversationKey, LaneQueue, Load, Phase, Queued};

/// Accounts that are known to have events which have not been read; there may be more.
const AHEAD: usize = 1024;

/// What is known of events that have not been read.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Whose they are, each with the first that is known.
    accounts: HashMap<AccountId, i64>,
    /// How far the lane has been looked at.
    looked_to: i64,
}

impl Ahead {
    /// Everything up to `read_to` was read.
    pub(super) fn read(&mut self, read_to: i64) {
        let known = self.accounts.len();
        self.accounts.retain(|_, first| *first > read_to);
        if self.accounts.len() < known {
            // Of those accounts more may come, which is not known.
            self.looked_to = read_to;
        }
    }
}

impl<E: Queued> LaneQueue<E> {
    /// Whether there is room for more events that could start.
    pub(crate) fn has_room(&self) -> bool {
        let (events, bytes) = self.may_start();
        events < self.room.events && bytes < self.room.bytes
    }

    /// Sets accounts aside until there is room, if an account needs that of which nothing is in memory, and nothing is pending:
    /// for what may be read, or loaded.
    pub(crate) fn make_room(
        &mut self,
        may_read: bool,
        may_load: bool,
        is_pending: impl Fn(&AccountId) -> bool,
    ) {
        self.all_aside.retain(|account| is_pending(account));
        while !self.has_room()
            && self.needs_room(may_read, may_load, &is_pending)
            && self.set_aside(&is_pending)
        {}
    }

    fn needs_room(&self, may_read: bool, may_load: bool, is_pending: impl Fn(&AccountId) -> bool) -> bool {
        let has_nothing = |account: &AccountId| self.ready.len_of(account) == 0 && !is_pending(account);
        may_read && self.ahead.accounts.keys().any(has_nothing)
            || may_load && self.to_load.accounts().any(has_nothing)
    }

    /// After what sequence number to look whose events follow, up to `newest`; `None` if that is known, or of no use.
    pub(crate) fn look_ahead(&self, newest: i64) -> Option<i64> {
        let after = self.ahead.looked_to.max(self.read_to);
        (!self.has_room() && newest > after && self.ahead.accounts.len() < AHEAD).then_some(after)
    }

    /// What follows up to `looked_to` is of these accounts, each with its first event.
    pub(crate) fn looked_ahead(&mut self, accounts: Vec<(AccountId, i64)>, looked_to: i64) {
        // Of an account that has been read meanwhile, more may come.
        let is_old = accounts.iter().any(|(_, first)| *first <= self.read_to);
        for (account, first) in accounts {
            if first > self.read_to {
                let known = self.ahead.accounts.entry(account).or_insert(first);
                *known = first.min(*known);
            }
        }
        self.ahead.looked_to = if is_old { self.read_to } else { self.ahead.looked_to.max(looked_to) };
    }

    /// Sets the account aside that has most in memory; gives whether that makes room. What could start next stays, unless another
    /// event of its account is pending.
    pub(super) fn set_aside(&mut self, is_pending: impl Fn(&AccountId) -> bool) -> bool {
        let has_more = |line: &VecDeque<ConversationKey>| line.len() > 1 || self.has_followers(line.front());
        let lines = self.ready.lines().filter(|(account, line)| has_more(line) || is_pending(account));
        let largest = lines.max_by_key(|(_, line)| self.weight(line.iter()));
        let Some((account, line)) = largest.map(|(account, line)| (account.clone(), line)) else {
            return false;
        };
        let most = if has_more(line) { line.len().div_ceil(2) } else { 0 };
        let rest = self.ready.part(&account, |at, _| at < most);
        if most == 0 {
            self.all_aside.insert(account.clone());
        }
        for key in &rest {
            let Some(conversation) = self.conversations.get_mut(key) else { continue };
            let head = conversation.queue.front().map(Queued::head);
            // What the store tells is as good, else.
            conversation.head = head.filter(|it| it.attempts + it.refusals + it.denials > 0 || it.died);
            conversation.phase = Phase::Loading(0);
            self.forget(key, 0);
        }
        let kept: Vec<_> = self.ready.line(&account).cloned().collect();
        kept.iter().for_each(|key| self.forget(key, 1));
        self.to_load.push_front(&account, rest);
        if self.to_load.len_of(&account) > 0 {
            self.aside.insert(account);
        }
        true
    }

    /// Keeps only the first `most` events of a conversation in memory, none of which is behind one that runs.
    fn forget(&mut self, key: &ConversationKey, most: usize) {
        let forget = |it: &mut Conversation<E>| it.forget(most);
        let (events, bytes) = self.conversations.get_mut(key).map(forget).unwrap_or_default();
        self.in_memory -= events;
        self.bytes_in_memory -= bytes;
    }

    fn has_followers(&self, key: Option<&ConversationKey>) -> bool {
        key.and_then(|key| self.conversations.get(key)).is_some_and(|it| it.queue.len() > 1)
    }

    /// How much of the room conversations take.
    fn weight<'a>(&self, keys: impl Iterator<Item = &'a ConversationKey>) -> u128 {
        let kept = keys.filter_map(|key| self.conversations.get(key)).map(|it| it.kept());
        let (events, bytes) = kept.fold((0, 0), |(events, bytes), it| (events + it.0, bytes + it.1));
        events as u128 * self.room.bytes as u128 + bytes as u128 * self.room.events as u128
    }

    /// Has a conversation loaded when it is its turn.
    pub(super) fn load_in_turn(&mut self, key: ConversationKey) {
        let account = key.0.clone();
        self.to_load.push(&account, key);
    }

    /// What is to be loaded next, beside these.
    pub(super) fn next_load(&self, beside: &[Load]) -> Option<&ConversationKey> {
        self.to_load.next_where(|account| self.may_load(account, beside))
    }

    pub(super) fn pop_load(&mut self, beside: &[Load]) -> Option<ConversationKey> {
        let account = self.next_load(beside)?.0.clone();
        let key = self.to_load.pop_where(|it| *it == account);
        if self.to_load.len_of(&account) == 0 {
            self.aside.remove(&account);
            self.all_aside.remove(&account);
        }
        key
    }

    /// Of an account that is set aside, conversations are loaded shortly before it is their turn, and not so that others are set
    /// aside for them.
    fn may_load(&self, account: &AccountId, beside: &[Load]) -> bool {
        if !self.aside.contains(account) {
            return true;
        }
        let beside_of = beside.iter().filter(|load| load.conversation.0 == *account).count();
        let ready = self.ready.len_of(account) + beside_of;
        let is_next = ready == 0 && !self.all_aside.contains(account);
        is_next || (ready < self.room.ahead && beside.len() < self.ample_room())
    }

    /// How many events more half of the room is enough for, if they are as large as others.
    fn ample_room(&self) -> usize {
        let (events, bytes) = self.may_start();
        let free = (self.room.events / 2).saturating_sub(events);
        let free_bytes = (self.room.bytes / 2).saturating_sub(bytes);
        if events == 0 { free } else { free.min(free_bytes * events / bytes.max(1)) }
    }
}
