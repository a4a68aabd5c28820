//! What the owner of a lane has to run.
//!
//! Look-ups beside an event are scalar subqueries on purpose: each is one probe of a primary key, whatever
//! the planner believes about the sizes of the tables. Each has bounds of its own that the statement is given: that an
//! event's are known does not tell the planner which days of another table matter, and all of them would be opened.

/// `query_as!` of a [`Row`]'s columns with the position and the given rest of the statement, where `e` is an unfinished event
/// of lane `$1`, whose owner's epoch is `$2`, and `p` its place in `parked`; `$bounds` say where attempts `a` may be.
macro_rules! unfinished {
    ($position:tt, $bounds:tt, $rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Row,
            r#"
            SELECT e.sequence AS "sequence!", e.account AS "account!", e.event_id AS "event_id!",
                   e.template AS "template!", e.conversation_id AS "conversation_id!", e.payload AS "payload!",
                   e.headers, e.traceparent, e.accept_time AS "accept_time!: Time",
                   CASE WHEN p.attempts_before IS NULL
                       THEN (extract(epoch FROM e.deliver_by - now()) * 1000)::float8 END AS deliver_within_ms,
                   CASE WHEN p.attempts_before IS NULL
                       THEN (extract(epoch FROM now() - e.accept_time) * 1000)::float8 END AS age_ms,
                   p.attempts_before AS "attempts_before?", p.idempotency_key AS "idempotency_key?",
                   coalesce(p.reason = 'RETRY_BUDGET_SPENT', false) AS "is_denied!",
                   coalesce((SELECT max(a.number) FROM ingest.attempts a
                       WHERE a.lane = $1 AND a.sequence = e.sequence AND "# + $bounds + r#"), 0) AS "attempts!",
                   EXISTS (SELECT FROM ingest.attempts a
                       WHERE a.lane = $1 AND a.sequence = e.sequence AND "# + $bounds + r#"
                         AND a.finish_time IS NULL AND a.epoch < $2) AS "died!",
                   e.found AS "found!", "# + $position + r#" AS "position!"
            "# + $rest,
            $($argument),*
        )
    };
}

mod ahead;
mod conversations;
mod parked;
mod passed_over;
mod scan;
#[cfg(test)]
mod tests;

use std::{mem, time::Duration};

use chatfn_domain::name::{AccountId, ConversationId, EventId, NameError, TemplateName};
use uuid::Uuid;

pub(crate) use self::{
    ahead::{Ahead, ahead},
    conversations::{Resume, Resumed, resume},
    parked::{ParkedEvent, parked},
    passed_over::{Part, PassedOver, passed_over},
    scan::{Range, scan},
};
use super::Time;
use crate::event::NewEvent;

/// A recorded event without an outcome.
#[derive(Debug, Clone)]
pub(crate) struct StoredEvent {
    pub(crate) sequence: i64,
    pub(crate) account: AccountId,
    pub(crate) event_id: EventId,
    pub(crate) template: TemplateName,
    pub(crate) conversation_id: ConversationId,
    /// JSON.
    pub(crate) payload: Vec<u8>,
    /// JSON; `None` when there are none.
    pub(crate) headers: Option<Vec<u8>>,
    pub(crate) traceparent: Option<String>,
    pub(crate) accept_time: Time,
    /// Time left until `deliver_by` when it was read, by the database's clock; zero when it has passed; `None` when
    /// nothing bounds it any more, because an operator took it up again.
    pub(crate) deliver_within: Option<Duration>,
    /// Time since it was accepted, when it was read; `None` for the same reason.
    pub(crate) age: Option<Duration>,
    /// Attempts so far.
    pub(crate) attempts: u32,
    /// Those of them that do not count any more, because an operator took it up again.
    pub(crate) attempts_before: u32,
    /// Whether the last of them was started by an earlier owner of the lane and never ended.
    pub(crate) died: bool,
    /// Whether its retry could not be paid for yet.
    pub(crate) is_denied: bool,
    /// The idempotency key of its runs; `None`: its own.
    pub(crate) idempotency_key: Option<Uuid>,
}

impl StoredEvent {
    /// What was just recorded: out of the event that it was, which keeps its names and its hash. Nobody has begun with it, and it has
    /// no age yet. `asked` is when Postgres was asked to, by its clock: what is left until `deliver_by` counts from there.
    pub(crate) fn new(event: &mut NewEvent, sequence: i64, accept_time: Time, asked: Time) -> Self {
        Self {
            sequence,
            account: event.account.clone(),
            event_id: event.event_id.clone(),
            template: event.template.clone(),
            conversation_id: event.conversation_id.clone(),
            payload: mem::take(&mut event.payload),
            headers: event.headers.take(),
            traceparent: event.traceparent.take(),
            accept_time,
            deliver_within: event.deliver_by.map(|time| time.since(asked)),
            age: Some(Duration::ZERO),
            attempts: 0,
            attempts_before: 0,
            died: false,
            is_denied: false,
            idempotency_key: None,
        }
    }
}

struct Row {
    sequence: i64,
    account: String,
    event_id: String,
    template: String,
    conversation_id: String,
    payload: Vec<u8>,
    headers: Option<Vec<u8>>,
    traceparent: Option<String>,
    accept_time: Time,
    deliver_within_ms: Option<f64>,
    age_ms: Option<f64>,
    attempts: i32,
    attempts_before: Option<i32>,
    died: bool,
    is_denied: bool,
    idempotency_key: Option<Uuid>,
    /// Number of events before those were left out that are too much.
    found: i64,
    /// Position of the conversation, from 1.
    position: i64,
}

fn into_events(rows: Vec<Row>) -> Result<Vec<StoredEvent>, sqlx::Error> {
    let event = |row: Row| {
        Ok(StoredEvent {
            sequence: row.sequence,
            account: row.account.parse()?,
            event_id: row.event_id.parse()?,
            template: row.template.parse()?,
            conversation_id: row.conversation_id.parse()?,
            payload: row.payload,
            headers: row.headers,
            traceparent: row.traceparent,
            accept_time: row.accept_time,
            deliver_within: row.deliver_within_ms.map(from_millis),
            age: row.age_ms.map(from_millis),
            attempts: u32::try_from(row.attempts).unwrap_or_default(),
            attempts_before: row
                .attempts_before
                .and_then(|before| u32::try_from(before).ok())
                .unwrap_or_default(),
            died: row.died,
            is_denied: row.is_denied,
            idempotency_key: row.idempotency_key,
        })
    };
    rows.into_iter().map(event).collect::<Result<_, NameError>>().map_err(inconsistent)
}

/// Zero for what has passed.
fn from_millis(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1000.0).unwrap_or(if millis > 0.0 {
        Duration::MAX
    } else {
        Duration::ZERO
    })
}

/// A stored name that is none: written by something else than this service.
fn inconsistent(error: NameError) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
