//! What is read again from the store: conversations that go on after a wait, or of which not all was kept.

use tokio::time::Instant;

use super::{ConversationKey, LaneQueue, PER_CONVERSATION, Phase, Queued};

/// A part of a conversation to read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) conversation: ConversationKey,
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) rows: usize,
}

impl<E: Queued> LaneQueue<E> {
    /// When the next conversation is due; `None` if none waits.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Whether there is something to load: a conversation is due, or goes on in the store, and it is its turn.
    pub(crate) fn has_loads(&self, now: Instant) -> bool {
        self.next_due().is_some_and(|due| due <= now) || self.next_load(&[]).is_some()
    }

    /// Has conversations loaded that are due by now, in turn.
    pub(crate) fn load_due(&mut self, now: Instant) {
        while self.next_due().is_some_and(|due| due <= now) {
            let Some((_, key)) = self.waiting.pop_first() else { break };
            if let Some(conversation) = self.conversations.get_mut(&key) {
                conversation.phase = Phase::Loading(0);
            }
            self.load_in_turn(key);
        }
    }

    /// Takes up to `most` parts of conversations to load; each is answered with [`LaneQueue::loaded`],
    /// [`LaneQueue::found_nothing`] or [`LaneQueue::put_back`].
    pub(crate) fn take_loads(&mut self, now: Instant, most: usize) -> Vec<Load> {
        // Behind each other, so that what fails again and again holds up nobody for more than its turn.
        self.load_due(now);
        let mut loads = Vec::new();
        while loads.len() < most {
            // Or others would fail with it for ever.
            let has_failed = self.next_load(&loads).is_some_and(|key| self.was_put_back(key));
            if has_failed && !loads.is_empty() {
                break;
            }
            let is_aside = self.next_load(&loads).is_some_and(|key| self.aside.contains(&key.0));
            let Some(key) = self.pop_load(&loads) else { break };
            let Some(conversation) = self.conversations.get_mut(&key) else { continue };
            let from = conversation.first;
            // After a failure only the event itself: it may well fail again, and what follows may be of another day.
            let is_alone = conversation.head.is_some() || conversation.is_detour;
            // Of what is set aside, it is known how far it goes.
            let read_to = if is_aside { conversation.skipped_to } else { self.read_to };
            let to = if is_alone { from } else { read_to.max(from) };
            let rows = if is_alone || is_aside { 1 } else { PER_CONVERSATION };
            conversation.phase = Phase::Loading(to);
            loads.push(Load { conversation: key, from, to, rows });
            if has_failed {
                break;
            }
        }
        loads
    }

    /// Whether a conversation that is to be loaded was being loaded before.
    fn was_put_back(&self, key: &ConversationKey) -> bool {
        self.conversations.get(key).is_some_and(|it| matches!(it.phase, Phase::Loading(to) if to > 0))
    }

    /// Puts a load back that could not be done; it is tried again without others.
    pub(crate) fn put_back(&mut self, load: Load) {
        self.load_in_turn(load.conversation);
    }

    /// A load found nothing unfinished up to here, and looked no further: the next one goes on from there.
    pub(crate) fn found_nothing(&mut self, load: &Load, looked_to: i64) {
        let Some(conversation) = self.conversations.get_mut(&load.conversation) else { return };
        conversation.skipped_to = conversation.skipped_to.max(load.to);
        self.go_on(&load.conversation, looked_to);
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
        let is_complete = is_complete || events.last().is_some_and(|last| last.sequence() >= load.to);
        if !conversation.is_detour && is_complete && conversation.skipped_to <= load.to {
            conversation.skipped_to = 0;
        }
        let Some(first) = events.first().map(Queued::sequence) else {
            // All of it had an outcome when it was read. What was taken up again since is not among it.
            if conversation.is_detour {
                self.finished(key, load.to);
            } else {
                self.go_on(key, load.to);
            }
            return;
        };
        if !conversation.is_detour && !is_complete {
            // There may be more up to there; but not further, which the next read of the lane offers.
            conversation.skipped_to = conversation.skipped_to.max(load.to);
        }
        if !conversation.parked {
            self.uncovered.remove(&(conversation.first, key.clone()));
            self.uncovered.insert((first, key.clone()));
        }
        conversation.first = first;
        conversation.phase = Phase::Ready;
        self.in_memory += events.len();
        self.bytes_in_memory += events.iter().map(Queued::bytes).sum::<usize>();
        // Nothing is loaded while there is something in memory.
        conversation.queue.extend(events);
        self.ready.push(&key.0, key.clone());
    }
}
