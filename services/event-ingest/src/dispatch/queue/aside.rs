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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use tokio::time::Instant;

    use super::{
        super::{Head, Room},
        *,
    };

    const ROOM: Room = Room { places: 100, events: 16, bytes: 1600, ahead: 4, aside: 32 };

    #[derive(Debug)]
    struct Event {
        sequence: i64,
        key: ConversationKey,
        bytes: usize,
        attempts: u32,
    }

    impl Queued for Event {
        fn sequence(&self) -> i64 {
            self.sequence
        }

        fn conversation(&self) -> ConversationKey {
            self.key.clone()
        }

        fn bytes(&self) -> usize {
            self.bytes
        }

        fn head(&self) -> Head {
            Head { sequence: self.sequence, attempts: self.attempts, died: false, refusals: 0, denials: 0 }
        }

        fn remember(&mut self, head: &Head) {
            self.attempts = head.attempts;
        }
    }

    /// An event, the only one of its conversation.
    fn event(account: &str, sequence: i64) -> Event {
        let key = Arc::new((account.parse().unwrap(), format!("c{sequence}").parse().unwrap()));
        Event { sequence, key, bytes: 1, attempts: 0 }
    }

    fn offer(queue: &mut LaneQueue<Event>, account: &str, sequences: std::ops::RangeInclusive<i64>) {
        let to = *sequences.end();
        queue.offer(sequences.map(|sequence| event(account, sequence)).collect(), to);
    }

    /// Loads what may be, as often as that is something; gives how many.
    fn load(queue: &mut LaneQueue<Event>) -> usize {
        let mut loaded = 0;
        loop {
            let loads = queue.take_loads(Instant::now(), 2);
            if loads.is_empty() {
                return loaded;
            }
            for load in loads {
                let found = event(load.conversation.0.as_str(), load.from);
                queue.loaded(&load, vec![found], true);
                loaded += 1;
            }
        }
    }

    /// Runs what is ready, of whoever it is, and loads what may be; gives their numbers.
    fn run_all(queue: &mut LaneQueue<Event>) -> Vec<i64> {
        let mut ran = Vec::new();
        load(queue);
        while let Some(event) = queue.next_ready(|_| true) {
            ran.push(event.sequence);
            queue.finished(&event.key, event.sequence);
            load(queue);
        }
        ran
    }

    #[test]
    fn an_account_with_more_than_there_is_room_for_leaves_room_and_keeps_its_order() {
        let mut queue = LaneQueue::new(0, ROOM);
        offer(&mut queue, "hog", 1..=16);
        assert!(queue.set_aside(|_| false));
        assert_eq!((queue.may_start().0, queue.cursor()), (8, 0));
        offer(&mut queue, "hog", 17..=20);
        assert_eq!(queue.may_start().0, 8, "what comes of it takes no room");
        assert_eq!(load(&mut queue), 0, "it is not its turn");
        offer(&mut queue, "other", 21..=22);
        assert_eq!(queue.may_start().0, 10, "of the others, it does");
        let ran = run_all(&mut queue);
        assert_eq!(ran[..4], [1, 21, 2, 22]);
        assert_eq!(ran[4..], (3..=20).collect::<Vec<_>>());
        assert_eq!((queue.cursor(), queue.conversations(), queue.aside.len()), (22, 0, 0));
        offer(&mut queue, "hog", 23..=24);
        assert_eq!(queue.may_start().0, 2, "that is over");
    }

    #[test]
    fn what_is_large_counts_and_attempts_are_not_forgotten() {
        let mut queue = LaneQueue::new(0, ROOM);
        offer(&mut queue, "small", 1..=10);
        let large = (11..=14).map(|sequence| Event { bytes: 400, attempts: 3, ..event("large", sequence) });
        queue.offer(large.collect(), 14);
        assert!(queue.set_aside(|_| false));
        assert_eq!(queue.may_start(), (12, 810));
        let attempts: Vec<_> = std::iter::from_fn(|| {
            load(&mut queue);
            let event = queue.next_ready(|account| account.as_str() == "large")?;
            queue.finished(&event.key, event.sequence);
            Some((event.sequence, event.attempts))
        })
        .collect();
        assert_eq!(attempts, [(11, 3), (12, 3), (13, 3), (14, 3)]);
    }

    /// A lane with conversations of so many accounts, of which one event each waits to run, as `Pending` has it.
    struct Lane {
        queue: LaneQueue<Event>,
        pending: BTreeMap<AccountId, Event>,
        loaded: usize,
        ran: i64,
    }

    impl Lane {
        /// Runs the pending event of one of the accounts.
        fn run(&mut self, which: usize) {
            let Some(account) = self.pending.keys().nth(which % self.pending.len().max(1)).cloned() else {
                return;
            };
            let event = self.pending.remove(&account).unwrap();
            self.ran += 1;
            self.queue.finished(&event.key, event.sequence);
            self.settle(false);
        }

        /// What a lane does by itself until it has to wait.
        fn settle(&mut self, is_more: bool) {
            for _ in 0..1_000 {
                while let Some(event) = self.queue.next_ready(|account| !self.pending.contains_key(account)) {
                    self.pending.insert(event.key.0.clone(), event);
                }
                self.queue.make_room(is_more, true, |account| self.pending.contains_key(account));
                let loads = if self.queue.has_room() {
                    self.queue.take_loads(Instant::now(), 16)
                } else {
                    Vec::new()
                };
                if loads.is_empty() {
                    return;
                }
                for load in loads {
                    self.loaded += 1;
                    let key = load.conversation.clone();
                    let found = Event { sequence: load.from, key, bytes: load_bytes(load.from), attempts: 0 };
                    self.queue.loaded(&load, vec![found], true);
                }
            }
            panic!("it never comes to rest: {} loads", self.loaded);
        }
    }

    fn load_bytes(sequence: i64) -> usize {
        usize::try_from(sequence % 7).unwrap() * 60
    }

    #[test]
    fn what_is_loaded_is_not_set_aside_for_what_is_loaded() {
        for accounts in 1..60 {
            let room = Room { places: 10_000, events: 64, bytes: 64 * 200, ahead: 8, aside: 100 };
            let mut lane =
                Lane { queue: LaneQueue::new(0, room), pending: BTreeMap::new(), loaded: 0, ran: 0 };
            let mut sequence = 0;
            // As much as there is room for, until there is no more.
            while sequence < accounts * 20 {
                let next = format!("a{}", (sequence + 1) % accounts).parse().unwrap();
                lane.queue.looked_ahead(vec![(next, sequence + 1)], sequence + 1);
                lane.settle(true);
                if !lane.queue.has_room() {
                    // Nothing is read before something runs.
                    lane.run(0);
                    continue;
                }
                while lane.queue.has_room() && sequence < accounts * 20 {
                    sequence += 1;
                    let event = event(&format!("a{}", sequence % accounts), sequence);
                    lane.queue.offer(vec![Event { bytes: load_bytes(sequence), ..event }], sequence);
                }
            }
            lane.settle(false);
            // The accounts in turn, as the gate has them.
            while !lane.pending.is_empty() {
                for turn in 0..lane.pending.len() {
                    lane.run(turn);
                }
            }
            let ran = lane.ran;
            assert_eq!((ran, lane.queue.conversations()), (accounts * 20, 0), "of {accounts} accounts");
            assert!(lane.loaded as i64 <= 2 * ran, "{} loads for {ran} events of {accounts}", lane.loaded);
        }
    }

    /// Or accounts with large events whose runs hang would shut out all others.
    #[test]
    fn what_could_start_next_is_set_aside_behind_a_pending_event() {
        let mut queue = LaneQueue::new(0, ROOM);
        let accounts = ["a", "b", "c", "d"];
        let large = |(sequence, account): (i64, &&str)| Event { bytes: 400, ..event(account, sequence) };
        queue.offer((1..).zip(&accounts).map(large).collect(), 4);
        let first: Vec<_> = std::iter::from_fn(|| queue.next_ready(|_| true)).collect();
        queue.offer((5..).zip(&accounts).map(large).collect(), 8);
        queue.looked_ahead(vec![("other".parse().unwrap(), 9)], 9);
        queue.make_room(true, true, |_| false);
        assert!(!queue.has_room(), "each is the next of its account");
        let is_pending = |account: &AccountId| accounts.contains(&account.as_str());
        queue.make_room(true, true, is_pending);
        assert_eq!(queue.may_start(), (3, 1200));
        assert_eq!(load(&mut queue), 0, "or the others' room would be taken again");
        offer(&mut queue, "other", 9..=9);
        let is_aside = |account: &str| queue.all_aside.contains(&account.parse().unwrap());
        let aside = accounts.iter().position(|account| is_aside(account)).unwrap();
        queue.finished(&first[aside].key, first[aside].sequence);
        queue.make_room(true, true, |account| is_pending(account) && account.as_str() != accounts[aside]);
        assert_eq!(load(&mut queue), 1, "it is its turn");
        let mut ran = run_all(&mut queue);
        ran.sort();
        assert_eq!(ran, (5..=9).collect::<Vec<_>>());
    }

    #[test]
    fn what_follows_in_a_conversation_is_set_aside_too() {
        let mut queue = LaneQueue::new(0, ROOM);
        let of_one =
            |sequence| Event { bytes: 400, ..Event { key: event("hog", 1).key, ..event("hog", sequence) } };
        queue.offer((1..=4).map(of_one).collect(), 4);
        assert!(!queue.has_room());
        queue.make_room(true, true, |_| false);
        assert!(!queue.has_room(), "nobody needs it");
        queue.looked_ahead(vec![("hog".parse().unwrap(), 5), ("other".parse().unwrap(), 6)], 6);
        queue.make_room(true, true, |account| account.as_str() == "other");
        assert!(!queue.has_room(), "nobody needs it");
        queue.make_room(true, true, |_| false);
        assert_eq!(queue.may_start(), (1, 400), "the event whose turn it is");
        for sequence in 1..=4 {
            let event = queue.next_ready(|_| true).unwrap();
            assert_eq!(event.sequence, sequence);
            queue.finished(&event.key, sequence);
            for load in queue.take_loads(Instant::now(), 16) {
                queue.loaded(&load, vec![of_one(load.from)], load.from == 4);
            }
        }
        assert_eq!(queue.conversations(), 0);
    }

    /// Or what came first might wait for ever.
    #[test]
    fn what_is_set_aside_again_comes_before_what_came_later() {
        let mut queue = LaneQueue::new(0, ROOM);
        offer(&mut queue, "hog", 1..=16);
        assert!(queue.set_aside(|_| false) && queue.set_aside(|_| false));
        offer(&mut queue, "hog", 17..=20);
        assert_eq!(run_all(&mut queue), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_far_from_its_turn_is_passed_over_and_found_again() {
        let mut queue = LaneQueue::new(0, ROOM);
        offer(&mut queue, "hog", 1..=16);
        assert!(queue.set_aside(|_| false));
        offer(&mut queue, "hog", 17..=56);
        assert_eq!((queue.conversations(), queue.cursor()), (8 + 32, 0));
        assert!(!queue.can_catch_up());
        let mut ran = Vec::new();
        while !queue.can_catch_up() {
            let event = queue.next_ready(|_| true).unwrap();
            ran.push(event.sequence);
            queue.finished(&event.key, event.sequence);
            load(&mut queue);
        }
        assert!(ran.len() >= 16, "not for each that has run: {}", ran.len());
        let wanted = queue.begin_catch_up().unwrap();
        assert_eq!((wanted.from, wanted.to), (41, 56));
        queue.catch_up((41..=56).map(|n| (n, event("hog", n).key)).collect(), 56);
        ran.extend(run_all(&mut queue));
        assert_eq!(ran, (1..=56).collect::<Vec<_>>());
        assert_eq!((queue.cursor(), queue.conversations()), (56, 0));
    }
}
