//! What the owner of a lane has to run.
//!
//! Look-ups beside an event are scalar subqueries on purpose: each is one probe of a primary key, whatever
//! the planner believes about the sizes of the tables.

use std::time::Duration;

use chatfn_domain::name::{AccountId, ConversationId, EventId, NameError, TemplateName};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Time, journal::ParkKind};

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

/// An event that waits for another attempt, or for an operator.
#[derive(Debug, Clone)]
pub(crate) struct ParkedEvent {
    pub(crate) sequence: i64,
    pub(crate) account: AccountId,
    pub(crate) conversation_id: ConversationId,
    /// Time left until the attempt is due.
    pub(crate) due_in: Duration,
    /// See [`StoredEvent::attempts`].
    pub(crate) attempts: u32,
    /// See [`StoredEvent::died`].
    pub(crate) died: bool,
    /// See [`StoredEvent::is_denied`].
    pub(crate) is_denied: bool,
    pub(crate) kind: ParkKind,
}

/// A part of a lane to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) lane: i16,
    /// Epoch of the lane's owner.
    pub(crate) epoch: i64,
    /// Read after this sequence number …
    pub(crate) after: i64,
    /// … up to this one.
    pub(crate) to: i64,
    /// The last of the lane. Numbers jump from day to day: when nothing is found up to `to`, what follows is looked for
    /// up to here.
    pub(crate) newest: i64,
    pub(crate) rows: i64,
    /// Bytes of payloads and headers; the first event is read however large it is.
    pub(crate) bytes: i64,
}

/// A conversation to read on in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) account: AccountId,
    pub(crate) conversation_id: ConversationId,
    /// Read from this sequence number …
    pub(crate) from: i64,
    /// … up to this one.
    pub(crate) to: i64,
    pub(crate) rows: i64,
    /// As in [`Range`].
    pub(crate) bytes: i64,
}

/// What was read on in a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Resumed {
    /// In their order.
    pub(crate) events: Vec<StoredEvent>,
    /// Whether these are all that is unfinished there.
    pub(crate) is_complete: bool,
}

/// Unfinished events of a lane in their order, and up to which sequence number that are all of them.
pub(crate) async fn scan(pool: &PgPool, range: Range) -> Result<(Vec<StoredEvent>, i64), sqlx::Error> {
    let rows = sqlx::query_as!(
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
                   WHERE a.lane = $1 AND a.sequence = e.sequence), 0) AS "attempts!",
               EXISTS (SELECT FROM ingest.attempts a
                   WHERE a.lane = $1 AND a.sequence = e.sequence
                     AND a.finish_time IS NULL AND a.epoch < $6) AS "died!",
               e.found AS "found!", 0::bigint AS "position!"
        FROM (
            SELECT *, sum(size) OVER (ORDER BY sequence) - size AS before, count(*) OVER () AS found
            FROM (
                SELECT *, octet_length(payload) + coalesce(octet_length(headers), 0) AS size FROM ingest.events
                WHERE lane = $1 AND sequence > $2 AND sequence <= $3
                  AND (SELECT o.state FROM ingest.outcomes o
                       WHERE o.lane = $1 AND o.sequence = events.sequence) IS NULL
                ORDER BY sequence LIMIT $4
            ) unfinished
        ) e
        LEFT JOIN LATERAL (
            SELECT * FROM ingest.parked WHERE lane = $1 AND sequence = e.sequence LIMIT 1
        ) p ON true
        WHERE e.before < $5
        ORDER BY e.sequence
        "#,
        range.lane,
        range.after,
        range.to,
        range.rows,
        range.bytes,
        range.epoch,
    )
    .fetch_all(pool)
    .await?;
    let found = rows.first().map_or(0, |row| row.found);
    let cut = found == range.rows || i64::try_from(rows.len()).unwrap_or(i64::MAX) < found;
    let complete_to = if cut {
        rows.last().map_or(range.after, |row| row.sequence)
    } else if rows.is_empty() && range.to < range.newest {
        before_next(pool, range).await?
    } else {
        range.to
    };
    Ok((into_events(rows)?, complete_to))
}

/// The sequence number before that of the first event after `range.to`; the newest if there is none.
async fn before_next(pool: &PgPool, range: Range) -> Result<i64, sqlx::Error> {
    let next = sqlx::query_scalar!(
        "SELECT sequence FROM ingest.events WHERE lane = $1 AND sequence > $2 AND sequence <= $3
         ORDER BY sequence LIMIT 1",
        range.lane,
        range.to,
        range.newest,
    )
    .fetch_optional(pool)
    .await?;
    Ok(next.map_or(range.newest, |next| next - 1))
}

/// A part of a lane, in which one account's events are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) lane: i16,
    /// From this sequence number …
    pub(crate) from: i64,
    /// … up to this one.
    pub(crate) to: i64,
    /// Events of the lane that are looked at, at most.
    pub(crate) looked_at: i64,
    /// Unfinished events of the account that are found, at most.
    pub(crate) rows: i64,
}

/// Events of an account that were passed over.
#[derive(Debug, Clone)]
pub(crate) struct PassedOver {
    /// In their order.
    pub(crate) events: Vec<(i64, AccountId, ConversationId)>,
    /// These are all up to here.
    pub(crate) looked_to: i64,
}

/// Finds the unfinished events of an account in a part of a lane, without what they hold.
pub(crate) async fn passed_over(
    pool: &PgPool,
    account: &AccountId,
    part: Part,
) -> Result<PassedOver, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        WITH looked AS MATERIALIZED (
            SELECT sequence, account, conversation_id FROM ingest.events
            WHERE lane = $1 AND sequence >= $2 AND sequence <= $3 ORDER BY sequence LIMIT $4
        )
        SELECT e.sequence AS "sequence?", e.conversation_id AS "conversation_id?",
               CASE WHEN l.count = $4 THEN l.last ELSE $3 END AS "looked_to!"
        FROM (SELECT count(*) AS count, max(sequence) AS last FROM looked) l
        LEFT JOIN LATERAL (
            SELECT sequence, conversation_id FROM looked
            WHERE account = $5 AND (SELECT o.state FROM ingest.outcomes o
                WHERE o.lane = $1 AND o.sequence = looked.sequence AND o.sequence >= $2 AND o.sequence <= $3) IS NULL
            ORDER BY sequence LIMIT $6
        ) e ON true
        ORDER BY e.sequence
        "#,
        part.lane,
        part.from,
        part.to,
        part.looked_at,
        account.as_str(),
        part.rows,
    )
    .fetch_all(pool)
    .await?;
    let mut looked_to = rows.first().map_or(part.to, |row| row.looked_to);
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        if let (Some(sequence), Some(id)) = (row.sequence, row.conversation_id) {
            events.push((sequence, account.clone(), id.parse().map_err(inconsistent)?));
        }
    }
    if i64::try_from(events.len()).unwrap_or(i64::MAX) >= part.rows {
        looked_to = events.last().map_or(looked_to, |(sequence, ..)| *sequence);
    }
    Ok(PassedOver { events, looked_to })
}

/// Unfinished events of conversations, each in its order; gives those of `conversations[i]` at `[i]`.
pub(crate) async fn resume(
    pool: &PgPool,
    lane: i16,
    epoch: i64,
    conversations: &[Resume],
) -> Result<Vec<Resumed>, sqlx::Error> {
    let accounts: Vec<&str> = conversations.iter().map(|c| c.account.as_str()).collect();
    let ids: Vec<&str> = conversations.iter().map(|c| c.conversation_id.as_str()).collect();
    let rows = sqlx::query_as!(
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
                   WHERE a.lane = $1 AND a.sequence = e.sequence), 0) AS "attempts!",
               EXISTS (SELECT FROM ingest.attempts a
                   WHERE a.lane = $1 AND a.sequence = e.sequence
                     AND a.finish_time IS NULL AND a.epoch < $2) AS "died!",
               e.found AS "found!", wanted.position AS "position!"
        FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
            WITH ORDINALITY AS wanted(account, conversation_id, first, last, rows, bytes, position)
        CROSS JOIN LATERAL (
            SELECT *, sum(size) OVER (ORDER BY sequence) - size AS before, count(*) OVER () AS found
            FROM (
                SELECT *, octet_length(payload) + coalesce(octet_length(headers), 0) AS size FROM ingest.events
                WHERE account = wanted.account AND conversation_id = wanted.conversation_id
                  AND sequence >= wanted.first AND sequence <= wanted.last
                  AND (SELECT o.state FROM ingest.outcomes o
                       WHERE o.lane = $1 AND o.sequence = events.sequence) IS NULL
                ORDER BY sequence LIMIT wanted.rows
            ) unfinished
        ) e
        LEFT JOIN LATERAL (
            SELECT * FROM ingest.parked WHERE lane = $1 AND sequence = e.sequence LIMIT 1
        ) p ON true
        WHERE e.before < wanted.bytes
        ORDER BY wanted.position, e.sequence
        "#,
        lane,
        epoch,
        &accounts as _,
        &ids as _,
        &conversations.iter().map(|c| c.from).collect::<Vec<_>>(),
        &conversations.iter().map(|c| c.to).collect::<Vec<_>>(),
        &conversations.iter().map(|c| c.rows).collect::<Vec<_>>(),
        &conversations.iter().map(|c| c.bytes).collect::<Vec<_>>(),
    )
    .fetch_all(pool)
    .await?;
    let places: Vec<(i64, i64)> = rows.iter().map(|row| (row.position, row.found)).collect();
    let mut resumed = vec![Resumed { events: Vec::new(), is_complete: true }; conversations.len()];
    for (event, (position, found)) in into_events(rows)?.into_iter().zip(places) {
        let Some(index) = usize::try_from(position - 1).ok().filter(|index| *index < resumed.len()) else {
            continue;
        };
        resumed[index].events.push(event);
        let read = i64::try_from(resumed[index].events.len()).unwrap_or(i64::MAX);
        resumed[index].is_complete = read == found && found < conversations[index].rows;
    }
    Ok(resumed)
}

/// The events of a lane that are parked, after sequence number `after`, in their order.
pub(crate) async fn parked(
    pool: &PgPool,
    lane: i16,
    epoch: i64,
    after: i64,
    rows: i64,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT p.sequence, p.account, p.conversation_id, p.kind,
               p.reason = 'RETRY_BUDGET_SPENT' AS "is_denied!",
               (extract(epoch FROM p.next_attempt_time - now()) * 1000)::float8 AS "due_in_ms!",
               coalesce((SELECT max(a.number) FROM ingest.attempts a
                   WHERE a.lane = $1 AND a.sequence = p.sequence), 0) AS "attempts!",
               EXISTS (SELECT FROM ingest.attempts a
                   WHERE a.lane = $1 AND a.sequence = p.sequence
                     AND a.finish_time IS NULL AND a.epoch < $2) AS "died!"
        FROM ingest.parked p WHERE p.lane = $1 AND p.sequence > $3 ORDER BY p.sequence LIMIT $4
        "#,
        lane,
        epoch,
        after,
        rows,
    )
    .fetch_all(pool)
    .await?;
    let parked = rows.into_iter().map(|row| {
        Ok(ParkedEvent {
            sequence: row.sequence,
            account: row.account.parse()?,
            conversation_id: row.conversation_id.parse()?,
            due_in: from_millis(row.due_in_ms),
            attempts: u32::try_from(row.attempts).unwrap_or_default(),
            died: row.died,
            is_denied: row.is_denied,
            kind: match row.kind {
                1 => ParkKind::Halted,
                2 => ParkKind::Reopened,
                _ => ParkKind::Retry,
            },
        })
    });
    parked.collect::<Result<_, NameError>>().map_err(inconsistent)
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
