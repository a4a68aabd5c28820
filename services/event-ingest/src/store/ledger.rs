//! How the counts add up.

use chatfn_domain::name::AccountId;
use sqlx::PgPool;

use super::{Time, days, deliveries::Key, interventions::Place, span};

/// A number of events of a template that are in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) template: String,
    pub(crate) state: i16,
    pub(crate) count: i64,
    /// Those of them that are unfinished and that no lane would ever run.
    pub(crate) unaccounted: i64,
}

/// The last of the next `events` events of an account that were accepted after `after` and before `end`; `None` if there
/// are not more than that.
pub(crate) async fn page_end(
    pool: &PgPool,
    account: &AccountId,
    after: Key,
    end: Time,
    events: i64,
) -> Result<Option<Key>, sqlx::Error> {
    let (first, past) = days::sequences(pool, after.accept_time, end).await?;
    sqlx::query_as!(
        Key,
        r#"
        SELECT accept_time AS "accept_time: Time", lane, sequence FROM ingest.events
        WHERE account = $1 AND (accept_time, lane, sequence) > ($2, $3, $4) AND accept_time < $5
          AND sequence >= $7 AND sequence < $8
        ORDER BY accept_time, lane, sequence OFFSET $6 LIMIT 1
        "#,
        account.as_str(),
        after.accept_time as _,
        after.lane,
        after.sequence,
        end as _,
        events - 1,
        first,
        past,
    )
    .fetch_optional(pool)
    .await
}

/// Counts the events of an account that were accepted after `after`, up to `last` and before `end`, as of one moment.
///
/// An unfinished event is accounted for if its lane has not been read as far, or if `parked` has a row for it or for an
/// event before it in its conversation: what the cursor promises (see the crate's front page).
pub(crate) async fn counts(
    pool: &PgPool,
    account: &AccountId,
    after: Key,
    last: Key,
    end: Time,
) -> Result<Vec<Count>, sqlx::Error> {
    let (first, past) = days::sequences(pool, after.accept_time, end.min(last.accept_time)).await?;
    sqlx::query_as!(
        Count,
        r#"
        SELECT e.template AS "template!", e.state AS "state!", count(*) AS "count!",
               count(*) FILTER (WHERE e.is_unaccounted) AS "unaccounted!"
        FROM (
            SELECT d.template, d.state,
                   d.state IN (1, 2, 8)
                   AND d.sequence <= (SELECT l.cursor FROM ingest.lanes l WHERE l.lane = d.lane)
                   AND NOT EXISTS (SELECT FROM ingest.parked p
                       WHERE p.account = d.account AND p.conversation_id = d.conversation_id
                         AND p.lane = d.lane AND p.sequence <= d.sequence) AS is_unaccounted
            FROM ingest.deliveries d
            WHERE d.account = $1 AND (d.accept_time, d.lane, d.sequence) > ($2, $3, $4)
              AND (d.accept_time, d.lane, d.sequence) <= ($5, $6, $7) AND d.accept_time < $8
              AND d.sequence >= $9 AND d.sequence < $10
        ) e
        GROUP BY e.template, e.state
        ORDER BY e.template, e.state
        "#,
        account.as_str(),
        after.accept_time as _,
        after.lane,
        after.sequence,
        last.accept_time as _,
        last.lane,
        last.sequence,
        end as _,
        first,
        past,
    )
    .fetch_all(pool)
    .await
}

/// Where a look at a lane begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) lane: i16,
    pub(crate) after: i64,
    /// It ends before it would find more than so many events that the lane would never run.
    pub(crate) room: i64,
}

/// What a look at a lane found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looked {
    pub(crate) lane: i16,
    /// Events that were looked at.
    pub(crate) events: i64,
    /// The last of them.
    pub(crate) last: Option<i64>,
    /// Those of them that are unfinished and that the lane would never run.
    pub(crate) unreachable: Vec<i64>,
}

/// An unfinished event that its lane would never run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreachable {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) account: String,
    pub(crate) conversation_id: String,
    pub(crate) event_id: String,
}

/// The cursors of lanes.
pub(crate) async fn cursors(pool: &PgPool, lanes: &[i16]) -> Result<Vec<(i16, i64)>, sqlx::Error> {
    let rows = sqlx::query!("SELECT lane, cursor FROM ingest.lanes WHERE lane = ANY($1)", lanes);
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.lane, row.cursor)).collect())
}

/// Looks at the next events of lanes up to their cursors, at most `rows` of each, as of one moment; what is accounted for is
/// said at [`counts`].
pub(crate) async fn look(pool: &PgPool, next: &[Next], rows: i64) -> Result<Vec<Looked>, sqlx::Error> {
    sqlx::query_as!(
        Looked,
        r#"
        SELECT w.lane AS "lane!", seen.events AS "events!", seen.last, seen.unreachable AS "unreachable!"
        FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS w(lane, after, room)
        CROSS JOIN LATERAL (
            SELECT count(*) AS events, max(sequence) AS last,
                   coalesce(array_agg(sequence) FILTER (WHERE is_unreachable), '{}') AS unreachable
            FROM (
                SELECT sequence, is_unreachable, count(*) FILTER (WHERE is_unreachable) OVER (ORDER BY sequence) AS found
                FROM (
                    SELECT e.sequence,
                           (SELECT o.state FROM ingest.outcomes o
                            WHERE o.lane = e.lane AND o.sequence = e.sequence AND o.sequence > w.after) IS NULL
                           AND NOT EXISTS (SELECT FROM ingest.parked p
                               WHERE p.account = e.account AND p.conversation_id = e.conversation_id
                                 AND p.lane = e.lane AND p.sequence <= e.sequence) AS is_unreachable
                    FROM ingest.events e
                    WHERE e.lane = w.lane AND e.sequence > w.after
                      AND e.sequence <= (SELECT l.cursor FROM ingest.lanes l WHERE l.lane = w.lane)
                    ORDER BY e.sequence LIMIT $4
                ) looked
            ) counted
            WHERE found <= w.room
        ) seen
        "#,
        &next.iter().map(|it| it.lane).collect::<Vec<_>>(),
        &next.iter().map(|it| it.after).collect::<Vec<_>>(),
        &next.iter().map(|it| it.room).collect::<Vec<_>>(),
        rows,
    )
    .fetch_all(pool)
    .await
}

/// Those of these events, which lie before their lanes' cursors, that are still not accounted for, in their order.
pub(crate) async fn unreachable(pool: &PgPool, places: &[Place]) -> Result<Vec<Unreachable>, sqlx::Error> {
    let (first, last) = span(places.iter().map(|place| place.sequence));
    sqlx::query_as!(
        Unreachable,
        r#"
        SELECT e.lane AS "lane!", e.sequence AS "sequence!", e.account AS "account!",
               e.conversation_id AS "conversation_id!", e.event_id AS "event_id!"
        FROM unnest($1::smallint[], $2::bigint[]) AS wanted(lane, sequence)
        CROSS JOIN LATERAL (
            SELECT v.lane, v.sequence, v.account, v.conversation_id, v.event_id FROM ingest.events v
            WHERE v.lane = wanted.lane AND v.sequence = wanted.sequence AND v.sequence BETWEEN $3 AND $4 LIMIT 1
        ) e
        WHERE (SELECT o.state FROM ingest.outcomes o
               WHERE o.lane = e.lane AND o.sequence = e.sequence AND o.sequence BETWEEN $3 AND $4) IS NULL
          AND NOT EXISTS (SELECT FROM ingest.parked p
              WHERE p.account = e.account AND p.conversation_id = e.conversation_id
                AND p.lane = e.lane AND p.sequence <= e.sequence)
        ORDER BY e.lane, e.sequence
        "#,
        &places.iter().map(|place| place.lane).collect::<Vec<_>>(),
        &places.iter().map(|place| place.sequence).collect::<Vec<_>>(),
        first,
        last,
    )
    .fetch_all(pool)
    .await
}

/// Most parked events that are counted.
const MOST_PARKED: i64 = 100_000;

/// How many events of these lanes are parked: for another attempt, for an operator, to run again. Of more than
/// [`MOST_PARKED`], some are left out.
pub(crate) async fn parked(pool: &PgPool, lanes: &[i16]) -> Result<[i64; 3], sqlx::Error> {
    let counts = sqlx::query!(
        r#"
        SELECT count(*) FILTER (WHERE kind = 0) AS "retry!", count(*) FILTER (WHERE kind = 1) AS "operator!",
               count(*) FILTER (WHERE kind = 2) AS "reopened!"
        FROM (SELECT kind FROM ingest.parked WHERE lane = ANY($1) LIMIT $2) p
        "#,
        lanes,
        MOST_PARKED,
    )
    .fetch_one(pool)
    .await?;
    Ok([counts.retry, counts.operator, counts.reopened])
}
