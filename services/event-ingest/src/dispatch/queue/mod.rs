//! What of a lane may run next: the rules of order, without any I/O.
//!
//! Events are offered in the lane's order. Within a conversation they leave in that order, one at a time;
//! conversations do not wait for each other. A conversation that waits, for another attempt or for an operator, keeps
//! nothing in memory but its place: the rest is read from the store again when it goes on
//! ([`LaneQueue::take_loads`]), so that those who wait take no room from those who run. A conversation that runs keeps what
//! follows only as far as a small share of the memory allows, which all of these have together: it may run for long, and
//! must not take the room of those that could start.
//!
//! An event that an operator takes up again after its outcome is a *detour*: it runs when the event has ended whose
//! turn it is, is read by itself, and then the conversation goes on where it was. Reading the conversation from that
//! event on instead would find events again whose outcomes are not written yet.
//!
//! Accounts share the places of a lane, and its memory: `places` and `aside` say how.

mod aside;
mod loads;
mod operators;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use chatfn_domain::name::{AccountId, ConversationId};
use tokio::time::Instant;

use self::{
    aside::Ahead,
    places::{CatchingUp, PassedOver},
};
pub(crate) use self::{loads::Load, operators::Parked, places::CatchUp};
use super::turns::Turns;

/// Events of one conversation that are kept in memory; a burst in one conversation must not fill the lane.
const PER_CONVERSATION: usize = 16;
/// Events of a lane that are kept in memory behind those that run.
const BEHIND: usize = 128;
/// Bytes of them.
const BEHIND_BYTES: usize = 256 * 1024;

/// How much of a lane is in memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    /// Conversations with unfinished events: of each its place.
    pub(crate) places: usize,
    /// Events that could start, and their bytes: what is beyond is to be set aside ([`LaneQueue::set_aside`]).
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    /// Conversations of an account that is set aside: how many of them are loaded before it is their turn.
    pub(crate) ahead: usize,
    /// And how many there may be, before others are passed over.
    pub(crate) aside: usize,
}

/// Names a conversation.
pub(crate) type ConversationKey = Arc<(AccountId, ConversationId)>;

/// An event that can be queued.
pub(crate) trait Queued {
    /// Its place in the lane.
    fn sequence(&self) -> i64;
    /// Its conversation.
    fn conversation(&self) -> ConversationKey;
    /// Memory that it takes.
    fn bytes(&self) -> usize;
    /// What is known of its attempts.
    fn head(&self) -> Head;
    /// Takes over what is known of its attempts; the store may be behind.
    fn remember(&mut self, head: &Head);
}

/// The first unfinished event of a conversation that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) sequence: i64,
    /// Attempts so far.
    pub(crate) attempts: u32,
    /// Whether the last of them was started by an earlier owner of the lane and never ended.
    pub(crate) died: bool,
    /// Starts in a row that came to nothing because no invoker took them.
    pub(crate) refusals: u32,
    /// Times in a row that its function's retry budget was spent when it was due.
    pub(crate) denials: u32,
}

/// The events of a lane that are unfinished, as far as they have been read.
#[derive(Debug)]
pub(crate) struct LaneQueue<E> {
    conversations: HashMap<ConversationKey, Conversation<E>>,
    ready: Turns<ConversationKey>,
    waiting: BTreeSet<(Instant, ConversationKey)>,
    /// Parked since before the take-over, at a place that reading has not reached yet, with the time from which on they may
    /// be loaded. A read that is under way could else offer them again after their outcome.
    parked_ahead: BTreeMap<i64, (ConversationKey, Option<Instant>)>,
    to_load: Turns<ConversationKey>,
    /// Accounts that have so much in memory that what else they have is only loaded when it is its turn.
    aside: HashSet<AccountId>,
    /// Those of them of which even what could start next is set aside: until the event that is pending no longer is.
    all_aside: HashSet<AccountId>,
    ahead: Ahead,
    /// Conversations without a row in `parked`, each with a number that none of its unfinished events is below.
    uncovered: BTreeSet<(i64, ConversationKey)>,
    /// Everything up to here was offered.
    read_to: i64,
    in_memory: usize,
    bytes_in_memory: usize,
    /// Those of them whose conversation runs.
    behind: Behind,
    halted: usize,
    room: Room,
    /// How many of them are each account's.
    held: HashMap<AccountId, usize>,
    passed_over: BTreeMap<AccountId, PassedOver>,
    /// Where they begin.
    first_passed_over: BTreeSet<(i64, AccountId)>,
    catching_up: Option<CatchingUp>,
    /// The account that last began to catch up.
    caught_up: Option<AccountId>,
}

/// Events in memory that cannot start before another one has ended.
#[derive(Debug, Default)]
struct Behind {
    events: usize,
    bytes: usize,
}

impl Behind {
    /// Adds an event, if there is room for it.
    fn add(&mut self, bytes: usize) -> bool {
        let fits = self.events < BEHIND && self.bytes + bytes <= BEHIND_BYTES;
        if fits {
            self.events += 1;
            self.bytes += bytes;
        }
        fits
    }

    fn remove(&mut self, (events, bytes): (usize, usize)) {
        self.events -= events;
        self.bytes -= bytes;
    }
}

#[derive(Debug)]
struct Conversation<E> {
    phase: Phase,
    queue: VecDeque<E>,
    /// The event whose turn it is; while its place is all that is known, a number that no unfinished event is below.
    first: i64,
    /// Whether `parked` has a row for `first`.
    parked: bool,
    /// Of the events up to here none is unfinished, but for `first` and `reopened`.
    done_to: i64,
    /// The last event that was offered and not kept; 0: none.
    skipped_to: i64,
    head: Option<Head>,
    /// Whether `first` is a detour.
    is_detour: bool,
    /// Whether events of it may have been passed over.
    is_behind: bool,
    /// Events that operators took up again and that are unfinished. Each has a row in `parked`.
    reopened: BTreeSet<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    Running,
    Waiting(Instant),
    /// Until an operator acts.
    Halted,
    /// To be loaded, or being loaded up to this sequence number.
    Loading(i64),
}

impl<E: Queued> Conversation<E> {
    fn new(phase: Phase, first: i64) -> Self {
        Self {
            phase,
            queue: VecDeque::new(),
            first,
            parked: false,
            done_to: first - 1,
            skipped_to: 0,
            head: None,
            is_detour: false,
            is_behind: false,
            reopened: BTreeSet::new(),
        }
    }

    /// How many events and bytes it keeps in memory.
    fn kept(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.iter().map(Queued::bytes).sum())
    }

    /// Keeps only the first `most` events in memory: the others are to be loaded. Gives how many events and bytes that frees.
    fn forget(&mut self, most: usize) -> (usize, usize) {
        // With nothing kept, not even the room for it is.
        let others = if most == 0 { std::mem::take(&mut self.queue) } else { self.queue.split_off(most) };
        if let Some(last) = others.back() {
            self.skipped_to = self.skipped_to.max(last.sequence());
        }
        (others.len(), others.iter().map(Queued::bytes).sum())
    }
}

impl<E: Queued> LaneQueue<E> {
    /// Nothing read yet; reading starts after `cursor`. Accounts share the room.
    pub(crate) fn new(cursor: i64, room: Room) -> Self {
        Self {
            conversations: HashMap::new(),
            ready: Turns::default(),
            waiting: BTreeSet::new(),
            parked_ahead: BTreeMap::new(),
            to_load: Turns::default(),
            aside: HashSet::new(),
            all_aside: HashSet::new(),
            ahead: Ahead::default(),
            uncovered: BTreeSet::new(),
            read_to: cursor,
            in_memory: 0,
            bytes_in_memory: 0,
            behind: Behind::default(),
            halted: 0,
            room,
            held: HashMap::new(),
            passed_over: BTreeMap::new(),
            first_passed_over: BTreeSet::new(),
            catching_up: None,
            caught_up: None,
        }
    }

    /// Adds unfinished events that follow `read_to`, in their order, and moves `read_to` on.
    pub(crate) fn offer(&mut self, events: Vec<E>, read_to: i64) {
        for event in events {
            self.offer_one(event);
        }
        self.read_to = self.read_to.max(read_to);
        self.ahead.read(self.read_to);
        let further = self.parked_ahead.split_off(&(self.read_to + 1));
        for (conversation, due) in std::mem::replace(&mut self.parked_ahead, further).into_values() {
            match due {
                Some(due) => {
                    self.waiting.insert((due, conversation));
                }
                None => self.load_in_turn(conversation),
            }
        }
    }

    fn offer_one(&mut self, event: E) {
        let sequence = event.sequence();
        let key = event.conversation();
        let has_passed_over = self.has_passed_over(&key.0);
        let Some(conversation) = self.conversations.get_mut(&key) else {
            if has_passed_over || !self.has_place(&key.0) {
                self.pass_over(&key.0, sequence);
                return;
            }
            self.uncovered.insert((sequence, key.clone()));
            if self.aside.contains(&key.0) {
                let mut conversation = Conversation::new(Phase::Loading(0), sequence);
                conversation.skipped_to = sequence;
                self.load_in_turn(key.clone());
                self.insert(key, conversation);
                return;
            }
            self.ready.push(&key.0, key.clone());
            self.in_memory += 1;
            self.bytes_in_memory += event.bytes();
            let mut conversation = Conversation::new(Phase::Ready, sequence);
            conversation.queue.push_back(event);
            self.insert(key, conversation);
            return;
        };
        if sequence == conversation.first || conversation.reopened.contains(&sequence) {
            // Known already, from `parked`.
            return;
        }
        conversation.is_behind &= has_passed_over;
        if conversation.is_behind {
            self.pass_over(&key.0, sequence);
            return;
        }
        let may_keep = conversation.skipped_to == 0 && conversation.queue.len() < PER_CONVERSATION;
        let keeps = match conversation.phase {
            Phase::Ready => may_keep,
            Phase::Running => may_keep && self.behind.add(event.bytes()),
            _ => false,
        };
        if keeps {
            self.in_memory += 1;
            self.bytes_in_memory += event.bytes();
            conversation.queue.push_back(event);
        } else {
            conversation.skipped_to = sequence;
        }
    }

    /// Takes the next event that may run, of an account of which more may. Its conversation waits until
    /// [`LaneQueue::finished`], [`LaneQueue::wait`] or [`LaneQueue::halt`].
    pub(crate) fn next_ready(&mut self, may: impl Fn(&AccountId) -> bool) -> Option<E> {
        let key = self.ready.pop_where(may)?;
        let conversation = self.conversations.get_mut(&key)?;
        conversation.phase = Phase::Running;
        let event = conversation.queue.pop_front()?;
        let followers = conversation.queue.iter().take_while(|follower| self.behind.add(follower.bytes()));
        let (events, bytes) = conversation.forget(followers.count());
        self.in_memory -= 1 + events;
        self.bytes_in_memory -= event.bytes() + bytes;
        Some(event)
    }

    /// The running event of a conversation, or the one that it is halted at, has its outcome.
    pub(crate) fn finished(&mut self, key: &ConversationKey, sequence: i64) {
        self.has_ended(key, sequence);
        if let Some(conversation) = self.conversations.get_mut(key) {
            conversation.reopened.remove(&sequence);
        }
        self.go_on(key, sequence);
    }

    /// All of a conversation up to this sequence number has its outcome, but for what was taken up again.
    fn go_on(&mut self, key: &ConversationKey, sequence: i64) {
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        if !std::mem::take(&mut conversation.parked) {
            self.uncovered.remove(&(conversation.first, key.clone()));
        }
        if conversation.phase == Phase::Halted {
            self.halted -= 1;
        }
        self.behind.remove(conversation.kept());
        conversation.head = None;
        conversation.is_detour = false;
        conversation.done_to = conversation.done_to.max(sequence);
        let next = conversation.queue.front().map_or(i64::MAX, Queued::sequence);
        if let Some(detour) = conversation.reopened.first().copied().filter(|detour| *detour < next) {
            // Or what is kept would wait for the detour, and the detour for room.
            let (events, bytes) = conversation.forget(0);
            self.in_memory -= events;
            self.bytes_in_memory -= bytes;
            conversation.first = detour;
            conversation.parked = true;
            conversation.is_detour = true;
            conversation.phase = Phase::Loading(0);
            if detour <= self.read_to {
                self.load_in_turn(key.clone());
            } else {
                self.parked_ahead.insert(detour, (key.clone(), None));
            }
        } else if let Some(next) = conversation.queue.front() {
            conversation.first = next.sequence();
            conversation.phase = Phase::Ready;
            self.uncovered.insert((conversation.first, key.clone()));
            self.ready.push(&key.0, key.clone());
        } else if conversation.skipped_to > conversation.done_to {
            conversation.first = conversation.done_to + 1;
            conversation.phase = Phase::Loading(0);
            self.uncovered.insert((conversation.first, key.clone()));
            self.load_in_turn(key.clone());
        } else {
            self.remove(key);
        }
    }

    /// The running event of a conversation, `head`, starts again at `due`. With `parked`, `parked` gets, or
    /// has, a row for it.
    pub(crate) fn wait(&mut self, key: &ConversationKey, head: Head, due: Instant, parked: bool) {
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        if parked && !conversation.parked {
            self.uncovered.remove(&(conversation.first, key.clone()));
            conversation.parked = true;
        }
        let (events, bytes) = conversation.forget(0);
        self.in_memory -= events;
        self.bytes_in_memory -= bytes;
        self.behind.remove((events, bytes));
        conversation.head = Some(head);
        conversation.phase = Phase::Waiting(due);
        self.waiting.insert((due, key.clone()));
    }

    /// Every unfinished event up to here belongs to a conversation that has a row in `parked` for it or an event before
    /// it. May move back.
    pub(crate) fn cursor(&self) -> i64 {
        let uncovered = self.uncovered.first().map(|(first, _)| *first);
        let first =
            uncovered.into_iter().chain(self.first_passed_over.first().map(|(first, _)| *first)).min();
        first.map_or(self.read_to, |first| first - 1)
    }

    /// Everything up to here was offered.
    pub(crate) fn read_to(&self) -> i64 {
        self.read_to
    }

    /// Events in memory whose conversation may go on as soon as it is its turn, and bytes of them.
    pub(crate) fn may_start(&self) -> (usize, usize) {
        (self.in_memory - self.behind.events, self.bytes_in_memory - self.behind.bytes)
    }

    /// How many more events there is room for behind those that run.
    pub(crate) fn room_behind(&self) -> usize {
        if self.behind.bytes < BEHIND_BYTES { BEHIND - self.behind.events } else { 0 }
    }

    /// The event that is the next whose turn it is.
    pub(crate) fn next_in_turn(&self) -> Option<&E> {
        self.conversations.get(self.ready.next_where(|_| true)?)?.queue.front()
    }

    /// How many conversations there are, how many of them wait for another attempt, and how many are halted.
    pub(crate) fn conversation_counts(&self) -> [usize; 3] {
        [self.conversations.len(), self.waiting.len(), self.halted]
    }

    /// Conversations that take a place.
    #[cfg(test)]
    fn conversations(&self) -> usize {
        self.conversations.len()
    }
}

/// The pause after `refusals` starts in a row that no invoker took: from 20 ms to 2 s, halved at most by
/// `jitter`, from 0 to 1.
pub(crate) fn refusal_pause(refusals: u32, jitter: f64) -> Duration {
    let full = Duration::from_millis(20 << refusals.min(7)).min(Duration::from_secs(2));
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
