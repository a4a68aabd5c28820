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
            let from = conversation.first;
            let to = if conversation.is_detour { from } else { self.read_to.max(from) };
            conversation.phase = Phase::Loading(to);
            // After a failure only the event itself: it may well fail again.
            let rows =
                if conversation.head.is_some() || conversation.is_detour { 1 } else { PER_CONVERSATION };
            loads.push(Load { conversation: key, from, to, rows });
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
        self.ready.push_back(key.clone());
    }
}
