//! Conversations that halt, and events that operators take up again.

use tokio::time::Instant;

use super::{Conversation, ConversationKey, Head, LaneQueue, Phase, Queued};

/// A row of `parked`, as a new owner of the lane finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parked {
    /// It gets another attempt at this time.
    Waits(Instant),
    /// It waits for an operator.
    Halted,
    /// An operator has taken it up again, and it has not started yet.
    Reopened(Instant),
}

impl<E: Queued> LaneQueue<E> {
    /// Adds what is parked since before the take-over. Before anything is offered; those that wait or are halted, of
    /// which a conversation has one at most, before those that are reopened, and these in their order.
    pub(crate) fn add_parked(&mut self, key: ConversationKey, head: Head, parked: Parked) {
        if let Some(conversation) = self.conversations.get_mut(&key) {
            conversation.reopened.insert(head.sequence);
            return;
        }
        let (phase, head_known) = match parked {
            Parked::Waits(due) => (Phase::Waiting(due), Some(head)),
            Parked::Reopened(due) => (Phase::Waiting(due), None),
            Parked::Halted => (Phase::Halted, Some(head)),
        };
        self.place(&key, head.sequence, phase);
        let mut conversation = Conversation::new(phase, head.sequence);
        conversation.parked = true;
        conversation.head = head_known;
        // Up to where reading starts there may be others of its conversation, which nobody will offer.
        conversation.skipped_to = self.read_to;
        self.insert(key, conversation);
    }

    fn place(&mut self, key: &ConversationKey, sequence: i64, phase: Phase) {
        match phase {
            Phase::Waiting(due) if sequence <= self.read_to => {
                self.waiting.insert((due, key.clone()));
            }
            Phase::Waiting(due) => {
                self.parked_ahead.insert(sequence, (key.clone(), Some(due)));
            }
            _ => self.halted += 1,
        }
    }

    /// The running event of a conversation, `head`, had its last attempt, and `parked` gets, or has, a row that says so:
    /// the conversation waits for [`LaneQueue::resume`] or [`LaneQueue::finished`].
    pub(crate) fn halt(&mut self, key: &ConversationKey, head: Head, now: Instant) {
        self.wait(key, head, now, true);
        self.waiting.remove(&(now, key.clone()));
        if let Some(conversation) = self.conversations.get_mut(key) {
            conversation.phase = Phase::Halted;
            self.halted += 1;
        }
    }

    /// Whether a conversation is halted at this event.
    pub(crate) fn is_halted_at(&self, key: &ConversationKey, sequence: i64) -> bool {
        self.conversations
            .get(key)
            .is_some_and(|conversation| conversation.phase == Phase::Halted && conversation.first == sequence)
    }

    /// A halted conversation goes on with the event that it is halted at, as the store has it by now.
    pub(crate) fn resume(&mut self, key: &ConversationKey, sequence: i64) {
        if !self.is_halted_at(key, sequence) {
            return;
        }
        let Some(conversation) = self.conversations.get_mut(key) else { return };
        self.halted -= 1;
        conversation.head = None;
        conversation.phase = Phase::Loading(0);
        self.load_in_turn(key.clone());
    }

    /// An event that reading has passed is unfinished again, and has a row in `parked`.
    pub(crate) fn reopen(&mut self, key: &ConversationKey, sequence: i64) {
        if let Some(conversation) = self.conversations.get_mut(key) {
            conversation.reopened.insert(sequence);
            return;
        }
        let mut conversation = Conversation::new(Phase::Loading(0), sequence);
        conversation.parked = true;
        conversation.is_detour = true;
        // Else it would be known.
        conversation.done_to = self.read_to;
        conversation.is_behind = self.has_passed_over(&key.0);
        self.insert(key.clone(), conversation);
        self.load_in_turn(key.clone());
    }
}
