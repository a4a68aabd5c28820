//! An event on its way in.

use chatfn_domain::{
    lane::lane_of,
    name::{AccountId, ConversationId, EventId, TemplateName},
};

use crate::store::Time;

/// A checked event that is not recorded yet.
#[derive(Debug, Clone)]
pub(crate) struct NewEvent {
    pub(crate) account: AccountId,
    pub(crate) event_id: EventId,
    pub(crate) template: TemplateName,
    pub(crate) conversation_id: ConversationId,
    /// JSON as it was received.
    pub(crate) payload: Vec<u8>,
    /// JSON; `None` when there are none.
    pub(crate) headers: Option<Vec<u8>>,
    /// The same for all publications of the same event.
    pub(crate) hash: [u8; 32],
    pub(crate) occur_time: Option<Time>,
    pub(crate) deliver_by: Option<Time>,
    pub(crate) traceparent: Option<String>,
    /// Whether its template fires once per conversation.
    pub(crate) fires_once: bool,
    /// Whether its id may have been recorded on a day in which not every id is looked for.
    pub(crate) is_old: bool,
    /// What was found there.
    pub(crate) earlier: Option<Earlier>,
}

/// An event with the same id that was recorded earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Earlier {
    /// Its place in its lane.
    pub(crate) sequence: i64,
    pub(crate) hash: [u8; 32],
}

impl NewEvent {
    pub(crate) fn lane(&self) -> i16 {
        lane_of(&self.account, &self.conversation_id)
    }

    /// Bytes that it takes in a queue and in the store, roughly.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.headers.as_ref().map_or(0, Vec::len) + 512
    }
}
