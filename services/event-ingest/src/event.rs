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
