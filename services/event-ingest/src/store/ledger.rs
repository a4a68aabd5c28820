//! How the counts add up.

use chatfn_domain::name::AccountId;
use sqlx::PgPool;

use super::{
    Time,
    days::{self, Part},
    deliveries::{Key, deliveries},
    interventions::Place,
    span,
};

/// A number of events of a template that are in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) template: String,
    pub(crate) state: i16,
    pub(crate) count: i64,
    /// Those of them that are unfinished and that no lane would ever run.
    pub(crate) unaccounted: i64,
}

/// Counts the next `events` events, at most, of an account that were accepted after `after` and before `end`, as of one moment;
/// and says where to go on, if there may be more. They are of a bounded number of days.
pub(crate) async fn page(
    pool: &PgPool,
    account: &AccountId,
    mut after: Key,
    end: Time,
    events: i64,
) -> Result<(Vec<Count>, Option<Key>), sqlx::Error> {
    loop {
        let part = days::first(pool, after.accept_time, end, days::MOST).await?;
        let last = page_end(pool, account, after, part, events).await?;
        let counts = counts(pool, account, after, last.unwrap_or(Key::START), part).await?;
        match last.or((part.end < end).then(|| Key::at(part.end))) {
            Some(next) if counts.is_empty() => after = next,
            next => return Ok((counts, next)),
        }
    }
}

/// The last of the next `events` events of an account after `after` in this part; `None` if there are not more than that.
async fn page_end(
    pool: &PgPool,
    account: &AccountId,
    after: Key,
    part: Part,
    events: i64,
) -> Result<Option<Key>, sqlx::Error> {
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
        part.end as _,
        events - 1,
        part.first,
        part.past,
    )
    .fetch_optional(pool)
    .await
}

/// Counts the events of an account after `after`, up to `last`, in this part.
///
/// An unfinished event is accounted for if its lane has not been read as far, or if `parked` has a row for it or for an
/// event before it in its conversation: what the cursor promises (see the crate's front page).
async fn counts(
    pool: &PgPool,
    account: &AccountId,
    after: Key,
    last: Key,
    part: Part,
) -> Result<Vec<Count>, sqlx::Error> {
    deliveries!(
        Count,
        r#"d.template AS "template!", d.state AS "state!", count(*) AS "count!",
           count(*) FILTER (WHERE d.state IN (1, 2, 8)
               AND d.sequence <= (SELECT l.cursor FROM ingest.lanes l WHERE l.lane = d.lane)
               AND NOT EXISTS (SELECT FROM ingest.parked p
                   WHERE p.account = d.account AND p.conversation_id = d.conversation_id
                     AND p.lane = d.lane AND p.sequence <= d.sequence)) AS "unaccounted!""#,
        "SELECT * FROM ingest.events
         WHERE account = $1 AND (accept_time, lane, sequence) > ($2, $3, $4)
           AND (accept_time, lane, sequence) <= ($5, $6, $7) AND accept_time < $8
           AND sequence >= $9 AND sequence < $10",
        "$9 AND $10",
        "GROUP BY d.template, d.state ORDER BY d.template, d.state",
        account.as_str(),
        after.accept_time as _,
        after.lane,
        after.sequence,
        last.accept_time as _,
        last.lane,
        last.sequence,
        part.end as _,
        part.first,
        part.past,
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
    /// The next look begins after this one, …
    pub(crate) after: i64,
    /// … if there may be more to see, at once.
    pub(crate) has_more: bool,
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

/// Looks at the next events of lanes up to their cursors, at most `rows` of each and of a bounded number of days, each lane's as
/// of one moment; what is accounted for is said at [`counts`]. Lanes that have none are left out.
pub(crate) async fn look(pool: &PgPool, next: &[Next], rows: i64) -> Result<Vec<Looked>, sqlx::Error> {
    let mut looked = Vec::new();
    for part in days::parts(&ahead(pool, next).await?, |ahead| ahead.next.after) {
        looked.extend(look_ahead(pool, &part, rows).await?);
    }
    Ok(looked)
}

/// What a look at a lane looks at.
struct Ahead {
    next: Next,
    /// The last event, at most.
    to: i64,
    /// Whether the lane's cursor is beyond that.
    has_more: bool,
}

/// What there is to look at in lanes.
async fn ahead(pool: &PgPool, next: &[Next]) -> Result<Vec<Ahead>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT l.cursor, least(l.cursor, (
            -- Before the first day that is too much.
            SELECT d.first_sequence - 1 FROM ingest.days d WHERE d.first_sequence > w.after
            ORDER BY d.first_sequence OFFSET $3::bigint - 1 LIMIT 1)) AS "to!"
        FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS w(lane, after, position)
        JOIN ingest.lanes l ON l.lane = w.lane
        ORDER BY w.position
        "#,
        &next.iter().map(|it| it.lane).collect::<Vec<_>>(),
        &next.iter().map(|it| it.after).collect::<Vec<_>>(),
        days::MOST,
    )
    .fetch_all(pool)
    .await?;
    let ahead = next.iter().zip(rows).map(|(next, row)| Ahead {
        next: *next,
        to: row.to,
        has_more: row.to < row.cursor,
    });
    Ok(ahead.filter(|ahead| ahead.to > ahead.next.after).collect())
}

async fn look_ahead(pool: &PgPool, lanes: &[&Ahead], rows: i64) -> Result<Vec<Looked>, sqlx::Error> {
    let (first, last) = span(lanes.iter().flat_map(|ahead| [ahead.next.after, ahead.to]));
    let seen = sqlx::query!(
        r#"
        SELECT seen.found AS "found!", seen.events AS "events!", seen.last, seen.unreachable AS "unreachable!"
        FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::bigint[]) WITH ORDINALITY
            AS w(lane, after, last, room, position)
        CROSS JOIN LATERAL (
            SELECT count(*) AS found, count(*) FILTER (WHERE has_room) AS events,
                   max(sequence) FILTER (WHERE has_room) AS last,
                   coalesce(array_agg(sequence) FILTER (WHERE is_unreachable AND has_room), '{}') AS unreachable
            FROM (
                SELECT sequence, is_unreachable,
                       count(*) FILTER (WHERE is_unreachable) OVER (ORDER BY sequence) <= w.room AS has_room
                FROM (
                    SELECT e.sequence,
                           (SELECT o.state FROM ingest.outcomes o
                            WHERE o.lane = e.lane AND o.sequence = e.sequence AND o.sequence BETWEEN $6 AND $7) IS NULL
                           AND NOT EXISTS (SELECT FROM ingest.parked p
                               WHERE p.account = e.account AND p.conversation_id = e.conversation_id
                                 AND p.lane = e.lane AND p.sequence <= e.sequence) AS is_unreachable
                    FROM ingest.events e
                    WHERE e.lane = w.lane AND e.sequence > w.after AND e.sequence <= w.last
                      AND e.sequence BETWEEN $6 AND $7
                      -- Which may have moved back.
                      AND e.sequence <= (SELECT l.cursor FROM ingest.lanes l WHERE l.lane = w.lane)
                    ORDER BY e.sequence LIMIT $5
                ) looked
            ) counted
        ) seen
        ORDER BY w.position
        "#,
        &lanes.iter().map(|ahead| ahead.next.lane).collect::<Vec<_>>(),
        &lanes.iter().map(|ahead| ahead.next.after).collect::<Vec<_>>(),
        &lanes.iter().map(|ahead| ahead.to).collect::<Vec<_>>(),
        &lanes.iter().map(|ahead| ahead.next.room).collect::<Vec<_>>(),
        rows,
        first,
        last,
    )
    .fetch_all(pool)
    .await?;
    let looked = lanes.iter().zip(seen).map(|(ahead, seen)| {
        let is_all = seen.found < rows && seen.events == seen.found;
        // Days before the cursor's get no events any more, so the next look need not begin in these again.
        let is_past = is_all && ahead.has_more;
        Looked {
            lane: ahead.next.lane,
            events: seen.events,
            after: if is_past { ahead.to } else { seen.last.unwrap_or(ahead.next.after) },
            has_more: is_past || seen.events >= rows,
            unreachable: seen.unreachable,
        }
    });
    Ok(looked.collect())
}

/// Those of these events, which lie before their lanes' cursors, that are still not accounted for, each lane's in their
/// order.
pub(crate) async fn unreachable(pool: &PgPool, places: &[Place]) -> Result<Vec<Unreachable>, sqlx::Error> {
    let mut unreachable = Vec::new();
    for part in days::parts(places, |place| place.sequence) {
        unreachable.extend(unreachable_of(pool, &part).await?);
    }
    Ok(unreachable)
}

async fn unreachable_of(pool: &PgPool, places: &[&Place]) -> Result<Vec<Unreachable>, sqlx::Error> {
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
