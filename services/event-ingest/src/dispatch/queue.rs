//! What of a lane may run next: the rules of order, without any I/O.
//!
//! Events are offered in the lane's order. Within a conversation they leave in that order, one at a time;
//! conversations do not wait for each other. A conversation that waits for another attempt keeps
//! nothing in memory but its place: the rest is read from the store again when it is due
//! ([`LaneQueue::take_loads`]), so that those who wait take no room from those who run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use chatfn_domain::name::{AccountId, ConversationId};
use tokio::time::Instant;

/// Events of one conversation that are kept in memory; a burst in one conversation must not fill the lane.
const PER_CONVERSATION: usize = 16;

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
}

/// A part of a conversation to read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) conversation: ConversationKey,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) rows: usize,
}

/// The events of a lane that are unfinished, as far as they have been read.
#[derive(Debug)]
pub(crate) struct LaneQueue<E> {
    conversations: HashMap<ConversationKey, Conversation<E>>,
    ready: VecDeque<ConversationKey>,
    waiting: BTreeSet<(Instant, ConversationKey)>,
    /// Waiting since before the take-over, at a place that reading has not reached yet.
    ahead: BTreeMap<i64, (ConversationKey, Instant)>,
    to_load: VecDeque<ConversationKey>,
    /// Conversations without a row in `parked`, each with a number that none of its unfinished events is below.
    uncovered: BTreeSet<(i64, ConversationKey)>,
    /// Everything up to here was offered.
    read_to: i64,
    in_memory: usize,
    bytes_in_memory: usize,
}

#[derive(Debug)]
struct Conversation<E> {
    phase: Phase,
    queue: VecDeque<E>,
    /// No event before this one is unfinished.
    first: i64,
    /// Whether `parked` has a row for `first`.
    parked: bool,
    /// The last event that was offered and not kept; 0: none.
    skipped_to: i64,
    head: Option<Head>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Ready,
    Running,
    Waiting(Instant),
    /// To be loaded, or being loaded up to this sequence number.
    Loading(i64),
}

impl<E: Queued> LaneQueue<E> {
    /// Nothing read yet; reading starts after `cursor`.
    pub(crate) fn new(cursor: i64) -> Self {
        Self {
            conversations: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            ahead: BTreeMap::new(),
            to_load: VecDeque::new(),
            uncovered: BTreeSet::new(),
            read_to: cursor,
            in_memory: 0,
            bytes_in_memory: 0,
        }
    }

    /// Adds a conversation that waits since before the take-over. Before anything is offered.
    pub(crate) fn add_parked(&mut self, conversation: ConversationKey, head: Head, due: Instant) {
        if head.sequence <= self.read_to {
            self.waiting.insert((due, conversation.clone()));
        } else {
            self.ahead.insert(head.sequence, (conversation.clone(), due));
        }
        let state = Conversation {
            phase: Phase::Waiting(due),
            queue: VecDeque::new(),
            first: head.sequence,
            parked: true,
            // Up to where reading starts there may be others of its conversation, which nobody will offer.
            skipped_to: self.read_to,
            head: Some(head),
        };
        self.conversations.insert(conversation, state);
    }

    /// Adds unfinished events that follow `read_to`, in their order, and moves `read_to` on.
    pub(crate) fn offer(&mut self, events: Vec<E>, read_to: i64) {
        for event in events {
            self.offer_one(event);
        }
        self.read_to = self.read_to.max(read_to);
        let further = self.ahead.split_off(&(self.read_to + 1));
        for (conversation, due) in std::mem::replace(&mut self.ahead, further).into_values() {
            self.waiting.insert((due, conversation));
        }
    }

    fn offer_one(&mut self, event: E) {
        let sequence = event.sequence();
        let key = event.conversation();
        let Some(conversation) = self.conversations.get_mut(&key) else {
            self.uncovered.insert((sequence, key.clone()));
            self.ready.push_back(key.clone());
            self.in_memory += 1;
            self.bytes_in_memory += event.bytes();
            let state = Conversation {
                phase: Phase::Ready,
                queue: VecDeque::from([event]),
                first: sequence,
                parked: false,
                skipped_to: 0,
                head: None,
            };
            self.conversations.insert(key, state);
            return;
        };
        if sequence <= conversation.first {
            // The head of a parked conversation, which is known already.
            return;
        }
        let keeps = matches!(conversation.phase, Phase::Ready | Phase::Running);
        if keeps && conversation.skipped_to == 0 && conversation.queue.len() < PER_CONVERSATION {
            self.in_memory += 1;
            self.bytes_in_memory += event.bytes();
            conversation.queue.push_back(event);
        } else {
            conversation.skipped_to = sequence;
        }
    }

    /// Takes the next event that may run. Its conversation waits until [`LaneQueue::finished`] or
    /// [`LaneQueue::wait`].
    pub(crate) fn next_ready(&mut self) -> Option<E> {
        let key = self.ready.pop_front()?;
        let conversation = self.conversations.get_mut(&key)?;
        conversation.phase = Phase::Running;
        let event = conversation.queue.pop_front()?;
        self.in_memory -= 1;
        self.bytes_in_memory -= event.bytes();
        Some(event)
    }

    /// The running event of a conversation has its outcome.
    pub(crate) fn finished(&mut self, key: &ConversationKey, sequence: i64) {
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        if !std::mem::take(&mut conversation.parked) {
            self.uncovered.remove(&(conversation.first, key.clone()));
        }
        conversation.head = None;
        if let Some(next) = conversation.queue.front() {
            conversation.first = next.sequence();
            conversation.phase = Phase::Ready;
            self.uncovered.insert((conversation.first, key.clone()));
            self.ready.push_back(key.clone());
        } else if conversation.skipped_to > sequence {
            conversation.first = sequence + 1;
            conversation.phase = Phase::Loading(0);
            self.uncovered.insert((conversation.first, key.clone()));
            self.to_load.push_back(key.clone());
        } else {
            self.conversations.remove(key);
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
        if let Some(last) = conversation.queue.back() {
            conversation.skipped_to = conversation.skipped_to.max(last.sequence());
        }
        self.in_memory -= conversation.queue.len();
        self.bytes_in_memory -= conversation.queue.iter().map(Queued::bytes).sum::<usize>();
        conversation.queue.clear();
        conversation.head = Some(head);
        conversation.phase = Phase::Waiting(due);
        self.waiting.insert((due, key.clone()));
    }

    /// When the next conversation is due; `None` if none waits.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Whether there is something to load: a conversation is due, or goes on in the store.
    pub(crate) fn has_loads(&self, now: Instant) -> bool {
        !self.to_load.is_empty() || self.next_due().is_some_and(|due| due <= now)
    }

    /// Takes up to `most` parts of conversations to load; each is answered with [`LaneQueue::loaded`].
    pub(crate) fn take_loads(&mut self, now: Instant, most: usize) -> Vec<Load> {
        let mut loads = Vec::new();
        while loads.len() < most {
            let key = if let Some(key) = self.to_load.pop_front() {
                key
            } else if self.next_due().is_some_and(|due| due <= now) {
                let Some((_, key)) = self.waiting.pop_first() else { break };
                key
            } else {
                break;
            };
            let Some(conversation) = self.conversations.get_mut(&key) else { continue };
            let to = self.read_to.max(conversation.first);
            conversation.phase = Phase::Loading(to);
            // After a failure only the event itself: it may well fail again.
            let rows = if conversation.head.is_some() { 1 } else { PER_CONVERSATION };
            loads.push(Load { conversation: key, from: conversation.first, to, rows });
        }
        loads
    }

    /// Puts a load back that could not be done.
    pub(crate) fn put_back(&mut self, load: Load) {
        self.to_load.push_back(load.conversation);
    }

    /// Adds the unfinished events that a load found, in their order. `is_complete`: there are no others up to
    /// where the load went; certain if it found none.
    pub(crate) fn loaded(&mut self, load: &Load, mut events: Vec<E>, is_complete: bool) {
        let key = &load.conversation;
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        let head = conversation.head.take();
        if let (Some(head), Some(first)) = (head, events.first_mut())
            && first.sequence() == head.sequence
        {
            first.remember(&head);
        }
        if is_complete && conversation.skipped_to <= load.to {
            conversation.skipped_to = 0;
        }
        let Some(first) = events.first().map(Queued::sequence) else {
            // All of it had an outcome.
            self.finished(key, load.to);
            return;
        };
        if !is_complete {
            let last = events.last().map_or(first, Queued::sequence);
            // There may be more; looking once too often is cheap.
            conversation.skipped_to = conversation.skipped_to.max(load.to).max(last + 1);
        }
        if !conversation.parked {
            self.uncovered.remove(&(conversation.first, key.clone()));
            self.uncovered.insert((first, key.clone()));
        }
        conversation.first = first;
        conversation.phase = Phase::Ready;
        self.in_memory += events.len();
        self.bytes_in_memory += events.iter().map(Queued::bytes).sum::<usize>();
        conversation.queue.extend(events);
        self.ready.push_back(key.clone());
    }

    /// Every unfinished event up to here belongs to a conversation that has a row in `parked`. May move back.
    pub(crate) fn cursor(&self) -> i64 {
        self.uncovered.first().map_or(self.read_to, |(first, _)| first - 1)
    }

    /// Everything up to here was offered.
    pub(crate) fn read_to(&self) -> i64 {
        self.read_to
    }

    /// Events in memory that have not been taken.
    pub(crate) fn in_memory(&self) -> usize {
        self.in_memory
    }

    /// Bytes of these events.
    pub(crate) fn bytes_in_memory(&self) -> usize {
        self.bytes_in_memory
    }

    /// Conversations with unfinished events.
    pub(crate) fn conversations(&self) -> usize {
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
#[path = "queue_tests.rs"]
mod tests;
