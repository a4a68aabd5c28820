//! Tells in the log of what waits for people: metrics carry no accounts, and no call lists them.

use std::{sync::Arc, time::Instant};

use chatfn_domain::{name::EventId, reasons::Reason};
use chatfn_telemetry::{Line, LogQuota};

use super::queue::ConversationKey;

/// Lines in a second of each kind: of many at once, some tell enough.
const LINES: u32 = 10;

/// What lanes tell. Cheap to clone: clones share their limits.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    halted: LogQuota,
    dead_lettered: LogQuota,
}

impl Notices {
    pub(crate) fn new() -> Self {
        let quota = || LogQuota::new(LINES, Instant::now());
        Self { halted: quota(), dead_lettered: quota() }
    }

    /// A conversation goes no further than this event.
    pub(crate) fn halted(&self, conversation: &ConversationKey, event_id: &EventId, reason: Option<Reason>) {
        let what = "a conversation has halted: ResumeConversation has it go on with this event, SkipEvent without it";
        tell(&self.halted, conversation, event_id, reason, what);
    }

    /// An event will not be tried again.
    pub(crate) fn dead_lettered(
        &self,
        conversation: &ConversationKey,
        event_id: &EventId,
        reason: Option<Reason>,
    ) {
        let what = "an event is dead-lettered: GetDelivery tells of its failures, CreateReplay has such events run again";
        tell(&self.dead_lettered, conversation, event_id, reason, what);
    }
}

fn tell(
    quota: &LogQuota,
    conversation: &ConversationKey,
    event_id: &EventId,
    reason: Option<Reason>,
    what: &str,
) {
    let Line::Write { withheld } = quota.line(Instant::now()) else { return };
    let (account, conversation_id) = Arc::as_ref(conversation);
    let reason = reason.map(Reason::name);
    tracing::warn!(%account, %conversation_id, %event_id, reason, withheld, "{what}");
}
