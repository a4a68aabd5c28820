//! What comes next in a lane.

use sqlx::PgPool;

use super::{Row, StoredEvent, Time, into_events};

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
    /// Nobody has begun with what was recorded from this sequence number on.
    pub(crate) fresh_from: i64,
}

/// Unfinished events of a lane in their order, and up to which sequence number that are all of them.
pub(crate) async fn scan(pool: &PgPool, range: Range) -> Result<(Vec<StoredEvent>, i64), sqlx::Error> {
    let is_fresh = range.after + 1 >= range.fresh_from;
    let rows = if is_fresh { fresh(pool, range).await? } else { begun(pool, range).await? };
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

/// Unfinished events that may have been begun with.
async fn begun(pool: &PgPool, range: Range) -> Result<Vec<Row>, sqlx::Error> {
    unfinished!(
        "0::bigint",
        "a.sequence > $3 AND a.sequence <= $4",
        "FROM (
             SELECT *, sum(size) OVER (ORDER BY sequence) - size AS before, count(*) OVER () AS found
             FROM (
                 SELECT *, octet_length(payload) + coalesce(octet_length(headers), 0) AS size FROM ingest.events
                 WHERE lane = $1 AND sequence > $3 AND sequence <= $4
                   AND (SELECT o.state FROM ingest.outcomes o
                        WHERE o.lane = $1 AND o.sequence = events.sequence
                          AND o.sequence > $3 AND o.sequence <= $4) IS NULL
                 ORDER BY sequence LIMIT $5
             ) unfinished
         ) e
         LEFT JOIN LATERAL (
             SELECT * FROM ingest.parked WHERE lane = $1 AND sequence = e.sequence LIMIT 1
         ) p ON true
         WHERE e.before < $6
         ORDER BY e.sequence",
        range.lane,
        range.epoch,
        range.after,
        range.to,
        range.rows,
        range.bytes,
    )
    .fetch_all(pool)
    .await
}

/// Unfinished events that nobody has begun with: without looking for attempts and places in `parked`, which takes most of the
/// time of [`begun`].
async fn fresh(pool: &PgPool, range: Range) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query_as!(
        Row,
        r#"
        SELECT e.sequence AS "sequence!", e.account AS "account!", e.event_id AS "event_id!",
               e.template AS "template!", e.conversation_id AS "conversation_id!", e.payload AS "payload!",
               e.headers, e.traceparent, e.accept_time AS "accept_time!: Time",
               (extract(epoch FROM e.deliver_by - now()) * 1000)::float8 AS deliver_within_ms,
               (extract(epoch FROM now() - e.accept_time) * 1000)::float8 AS age_ms,
               NULL::integer AS attempts_before, NULL::uuid AS idempotency_key, false AS "is_denied!",
               0 AS "attempts!", false AS "died!", e.found AS "found!", 0::bigint AS "position!"
        FROM (
            SELECT *, sum(size) OVER (ORDER BY sequence) - size AS before, count(*) OVER () AS found
            FROM (
                SELECT *, octet_length(payload) + coalesce(octet_length(headers), 0) AS size FROM ingest.events
                WHERE lane = $1 AND sequence > $2 AND sequence <= $3
                  AND (SELECT o.state FROM ingest.outcomes o
                       WHERE o.lane = $1 AND o.sequence = events.sequence
                         AND o.sequence > $2 AND o.sequence <= $3) IS NULL
                ORDER BY sequence LIMIT $4
            ) unfinished
        ) e
        WHERE e.before < $5
        ORDER BY e.sequence
        "#,
        range.lane,
        range.after,
        range.to,
        range.rows,
        range.bytes,
    )
    .fetch_all(pool)
    .await
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
