//! The account of events, for callers.

/// `query_as!` of a `$row`'s `$columns` of deliveries `d`, and the rest of the statement: what the view `ingest.deliveries` has of
/// the events that `$events` selects. The view would look for their outcomes in the partitions of all days; `$bounds` say where
/// they may be.
macro_rules! deliveries {
    ($row:ident, $columns:tt, $events:tt, $bounds:tt, $rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            $row,
            "SELECT " + $columns + r#"
            FROM (
                SELECT e.lane, e.sequence, e.account, e.event_id, e.template, e.conversation_id, e.occur_time, e.deliver_by,
                       e.accept_time,
                       coalesce(o.state, CASE WHEN p.sequence IS NULL OR p.kind = 2 THEN 1 WHEN p.kind = 1 THEN 8
                           ELSE 2 END::smallint) AS state,
                       coalesce(o.reason, p.reason, '') AS reason,
                       coalesce(o.reason_message, p.reason_message, '') AS reason_message, o.finish_time,
                       CASE WHEN p.kind = 0 THEN p.next_attempt_time END AS next_attempt_time
                FROM ("# + $events + r#") e
                LEFT JOIN LATERAL (
                    SELECT * FROM ingest.outcomes v
                    WHERE v.lane = e.lane AND v.sequence = e.sequence AND v.sequence BETWEEN "# + $bounds + r#" LIMIT 1
                ) o ON true
                LEFT JOIN LATERAL (
                    SELECT * FROM ingest.parked v WHERE v.lane = e.lane AND v.sequence = e.sequence LIMIT 1
                ) p ON true
            ) d
            "# + $rest,
            $($argument),*
        )
    };
}

mod attempts;
mod list;
#[cfg(test)]
mod tests;

use chatfn_domain::name::{AccountId, ConversationId, EventId, TemplateName};
use sqlx::PgPool;

pub(super) use self::attempts::NEWEST_PAST;
pub(crate) use self::{
    attempts::{AttemptRow, PastRow, attempts, past, weights},
    list::{Filter, list},
};
use super::{Time, days, interventions::Place, span};
pub(super) use deliveries;

/// The state of a delivery that waits for an operator.
const HALTED: i16 = 8;

/// Where an event stands.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRow {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) account: String,
    pub(crate) event_id: String,
    pub(crate) template: String,
    pub(crate) conversation_id: String,
    pub(crate) occur_time: Option<Time>,
    pub(crate) deliver_by: Option<Time>,
    pub(crate) accept_time: Time,
    pub(crate) state: i16,
    pub(crate) reason: String,
    pub(crate) reason_message: String,
    pub(crate) finish_time: Option<Time>,
    pub(crate) next_attempt_time: Option<Time>,
}

/// Place of a delivery in a list, which is from new to old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) accept_time: Time,
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
}

impl Key {
    /// Before every delivery: where the first page starts.
    pub(crate) const START: Self = Self { accept_time: Time::MAX, lane: i16::MAX, sequence: i64::MAX };

    /// Between what was accepted before this time and what was accepted from then on.
    pub(crate) const fn at(accept_time: Time) -> Self {
        Self { accept_time, lane: -1, sequence: -1 }
    }
}

impl DeliveryRow {
    pub(crate) fn key(&self) -> Key {
        Key { accept_time: self.accept_time, lane: self.lane, sequence: self.sequence }
    }
}

/// The delivery of an event.
///
/// An id that was used again after a long time stands for the last of its events, unless an earlier one is halted: an operator
/// must be able to see and skip it.
pub(crate) async fn get(
    pool: &PgPool,
    account: &AccountId,
    event_id: &EventId,
) -> Result<Option<DeliveryRow>, sqlx::Error> {
    // One probe of `parked_halted_idx`.
    let first_halted = sqlx::query_scalar!(
        "SELECT min(sequence) FROM ingest.parked WHERE account = $1 AND kind = 1",
        account.as_str(),
    )
    .fetch_one(pool)
    .await?;
    let (mut end, mut size, mut newest) = (Time::MAX, 1, None);
    loop {
        let part = days::last(pool, end, size).await?;
        let places = sqlx::query_as!(
            Place,
            "SELECT lane, sequence FROM ingest.events
             WHERE account = $1 AND event_id = $2 AND sequence >= $3 AND sequence < $4",
            account.as_str(),
            event_id.as_str(),
            part.first,
            part.past,
        )
        .fetch_all(pool)
        .await?;
        let mut found = in_places(pool, &places).await?;
        found.sort_unstable_by_key(|row| (row.state == HALTED, row.sequence));
        newest = match found.pop() {
            Some(halted) if halted.state == HALTED => return Ok(Some(halted)),
            found => newest.or(found),
        };
        let may_be_halted = first_halted.is_some_and(|first| first < part.first);
        if part.start == Time::MIN || newest.is_some() && !may_be_halted {
            return Ok(newest);
        }
        (end, size) = (part.start, days::MOST.min(size * 4));
    }
}

/// The delivery that a conversation is halted at, if it is.
pub(crate) async fn halted(
    pool: &PgPool,
    account: &AccountId,
    conversation: &ConversationId,
) -> Result<Option<DeliveryRow>, sqlx::Error> {
    let places = sqlx::query_as!(
        Place,
        "SELECT lane, sequence FROM ingest.parked WHERE account = $1 AND conversation_id = $2 AND kind = 1",
        account.as_str(),
        conversation.as_str(),
    )
    .fetch_all(pool)
    .await?;
    // It may have gone on since.
    Ok(in_places(pool, &places).await?.into_iter().find(|row| row.state == HALTED))
}

/// The deliveries in these places, each lane's in its order.
pub(crate) async fn in_places(pool: &PgPool, places: &[Place]) -> Result<Vec<DeliveryRow>, sqlx::Error> {
    let mut found = among(pool, places, None, Key::START, i64::MAX).await?;
    found.sort_unstable_by_key(|row| (row.lane, row.sequence));
    Ok(found)
}

/// The deliveries of a conversation after `after`, in its order.
pub(crate) async fn conversation(
    pool: &PgPool,
    account: &AccountId,
    conversation: &ConversationId,
    after: Key,
    rows: i64,
) -> Result<Vec<DeliveryRow>, sqlx::Error> {
    let Key { accept_time: mut start, sequence: mut after, .. } = after;
    let mut places = Vec::new();
    // Nothing tells in which days a conversation has events: all are asked for, part after part.
    loop {
        let part = days::first(pool, start, Time::MAX, days::MOST).await?;
        let room = rows - count(&places);
        let found = sqlx::query_as!(
            Place,
            "SELECT lane, sequence FROM ingest.events
             WHERE account = $1 AND conversation_id = $2 AND sequence > $3 AND sequence >= $4 AND sequence < $5
             ORDER BY sequence LIMIT $6",
            account.as_str(),
            conversation.as_str(),
            after,
            part.first,
            part.past,
            room,
        )
        .fetch_all(pool)
        .await?;
        places.extend(found);
        if count(&places) >= rows || part.end == Time::MAX {
            return in_places(pool, &places).await;
        }
        (start, after) = (part.end, after.max(part.past - 1));
    }
}

/// Those of the deliveries in these places that come after `after` in a list, the first `rows` of it, from new to old: all, or
/// what a filter wants.
async fn among(
    pool: &PgPool,
    places: &[Place],
    wanted: Option<&Filter>,
    after: Key,
    rows: i64,
) -> Result<Vec<DeliveryRow>, sqlx::Error> {
    let mut found = Vec::new();
    for part in days::parts(places, |place| place.sequence) {
        let (first, last) = span(part.iter().map(|place| place.sequence));
        let of_part = deliveries!(
            DeliveryRow,
            r#"d.lane AS "lane!", d.sequence AS "sequence!", d.account AS "account!", d.event_id AS "event_id!",
               d.template AS "template!", d.conversation_id AS "conversation_id!", d.occur_time AS "occur_time: Time",
               d.deliver_by AS "deliver_by: Time", d.accept_time AS "accept_time!: Time", d.state AS "state!",
               d.reason AS "reason!", d.reason_message AS "reason_message!", d.finish_time AS "finish_time?: Time",
               d.next_attempt_time AS "next_attempt_time?: Time""#,
            "SELECT v.* FROM unnest($1::smallint[], $2::bigint[]) AS wanted(lane, sequence)
             CROSS JOIN LATERAL (
                 SELECT * FROM ingest.events v
                 WHERE v.lane = wanted.lane AND v.sequence = wanted.sequence AND v.sequence BETWEEN $3 AND $4 LIMIT 1
             ) v",
            "$3 AND $4",
            "WHERE ($5::text IS NULL OR d.account = $5) AND ($6::smallint IS NULL OR d.state = $6)
               AND ($7::text IS NULL OR d.template = $7) AND (d.accept_time, d.lane, d.sequence) < ($8, $9, $10)
             ORDER BY d.accept_time DESC, d.lane DESC, d.sequence DESC LIMIT $11",
            &part.iter().map(|place| place.lane).collect::<Vec<_>>(),
            &part.iter().map(|place| place.sequence).collect::<Vec<_>>(),
            first,
            last,
            wanted.map(|filter| filter.account.as_str()),
            wanted.and_then(|filter| filter.state),
            wanted.and_then(|filter| filter.template.as_ref().map(TemplateName::as_str)),
            after.accept_time as _,
            after.lane,
            after.sequence,
            rows,
        );
        found.extend(of_part.fetch_all(pool).await?);
    }
    found.sort_unstable_by_key(|row| std::cmp::Reverse(row.key()));
    found.truncate(usize::try_from(rows).unwrap_or(usize::MAX));
    Ok(found)
}

fn count<T>(of: &[T]) -> i64 {
    i64::try_from(of.len()).unwrap_or(i64::MAX)
}
