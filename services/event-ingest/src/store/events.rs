//! Records published events.

use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};

use sqlx::{Connection as _, PgConnection, PgPool};

use super::{Session, Time, days};
use crate::{event::NewEvent, failpoint};

/// What became of an event that was to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// It is recorded now.
    New {
        /// Its place in its lane.
        sequence: i64,
    },
    /// An event with its id was recorded before.
    Existing(Earlier),
}

/// An event that was recorded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Earlier {
    /// Its place in its lane.
    pub(crate) sequence: i64,
    pub(crate) hash: [u8; 32],
}

/// How far back ids are looked for: over the day that takes events and this many days before it that did.
///
/// Exact over that time, whoever publishes an id where and when: within a day by a unique key, over the days before
/// because they do not change any more (`ingest.record_events` sees to that).
#[derive(Debug, Clone, Copy)]
pub(crate) struct DedupeDays(pub(crate) u16);

/// What a transaction has recorded.
#[derive(Debug)]
pub(crate) struct Inserted {
    /// What became of each event, in their order.
    pub(crate) recorded: Vec<Recorded>,
    /// For each lane written to, the sequence numbers that were taken.
    pub(crate) lanes: BTreeMap<i16, Range<i64>>,
    /// How many of them ended in SUPPRESSED at once.
    pub(crate) suppressed: u64,
    /// When they were accepted, by the database's clock.
    pub(crate) accept_time: Time,
    /// When the transaction began, by that clock: before it waited for those who had its lanes.
    pub(crate) began: Time,
}

/// Records `events` in one transaction; when this returns `Ok`, they are durable. No two of them may
/// have the same account and id.
///
/// Sequence numbers rise with the position in `events` and are given while the heads of their lanes are
/// locked, so that within a lane they become visible in their order. Events of templates that fire once
/// and have fired get their outcome here.
///
/// # Errors
/// Nothing is recorded, unless the connection was lost while committing: then it is unknown.
pub(crate) async fn insert(
    session: &mut Session,
    events: &[&NewEvent],
    dedupe: DedupeDays,
) -> Result<Inserted, sqlx::Error> {
    let (places, counts) = places(events);
    let row = if failpoint::mutant("ack_before_commit") {
        let mut connection = session.take().await?;
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        let row = record(&mut connection, events, &places, &counts, dedupe).await?;
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            sqlx::raw_sql("COMMIT").execute(&mut *connection).await
        });
        row
    } else {
        let mut connection = session.take().await?;
        let recording = record(&mut connection, events, &places, &counts, dedupe);
        let row = failpoint::sent("commit.sent", recording).await?;
        session.keep(connection);
        row
    };
    failpoint::edge("commit.durable");

    let first = |lane: i16| usize::try_from(lane).ok().and_then(|lane| row.firsts.get(lane)).copied();
    let inserted: HashSet<(i16, i64)> =
        row.recorded_lanes.iter().copied().zip(row.recorded_sequences.iter().copied()).collect();
    let mut recorded: Vec<Option<Recorded>> = places
        .iter()
        .map(|(lane, rank)| {
            let sequence = first(*lane)? + rank;
            inserted.contains(&(*lane, sequence)).then_some(Recorded::New { sequence })
        })
        .collect();
    if inserted.len() < events.len() {
        find_existing(session, events, &mut recorded, row.window_first).await?;
    }
    // A conflicting row that cannot be found was dropped this very moment by retention.
    let recorded: Option<Vec<Recorded>> = recorded.into_iter().collect();
    let recorded = recorded.ok_or(sqlx::Error::RowNotFound)?;
    let taken = |(lane, count)| first(lane).map(|first| (lane, first..first + count));
    let lanes = counts.into_iter().filter_map(taken).collect();
    let suppressed = u64::try_from(row.suppressed).unwrap_or_default();
    Ok(Inserted { recorded, lanes, suppressed, accept_time: row.accept_time, began: row.began })
}

/// The lane of each event, with how many of them come before it there; and how many there are in each.
fn places(events: &[&NewEvent]) -> (Vec<(i16, i64)>, BTreeMap<i16, i64>) {
    let mut counts = BTreeMap::new();
    let place = |event: &&NewEvent| {
        let lane = event.lane();
        let count = counts.entry(lane).or_default();
        *count += 1;
        (lane, *count - 1)
    };
    let places = events.iter().map(place).collect();
    (places, counts)
}

/// What `ingest.record_events` tells (migrations 13 and 17).
struct Row {
    firsts: Vec<i64>,
    window_first: i64,
    recorded_lanes: Vec<i16>,
    recorded_sequences: Vec<i64>,
    suppressed: i64,
    accept_time: Time,
    began: Time,
}

/// One message and its answer: what a replica that is halted meanwhile has locked does not stay locked.
async fn record(
    connection: &mut PgConnection,
    events: &[&NewEvent],
    places: &[(i16, i64)],
    counts: &BTreeMap<i16, i64>,
    dedupe: DedupeDays,
) -> Result<Row, sqlx::Error> {
    fn column<'a, T>(events: &[&'a NewEvent], of: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
        events.iter().map(|event| of(event)).collect()
    }
    // All rows, so that it ends with the server's word that it is ready again: only then it has committed.
    let mut rows = sqlx::query_as!(
        Row,
        r#"
        SELECT firsts AS "firsts!", window_first AS "window_first!", recorded_lanes AS "recorded_lanes!",
               recorded_sequences AS "recorded_sequences!", suppressed AS "suppressed!",
               accepted AS "accept_time!: Time", now() AS "began!: Time"
        FROM ingest.record_events($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        "#,
        i32::from(dedupe.0),
        &counts.keys().copied().collect::<Vec<_>>(),
        &counts.values().copied().collect::<Vec<_>>(),
        &places.iter().map(|(lane, _)| *lane).collect::<Vec<_>>(),
        &places.iter().map(|(_, rank)| *rank).collect::<Vec<_>>(),
        &column(events, |e| e.account.as_str()) as _,
        &column(events, |e| e.event_id.as_str()) as _,
        &column(events, |e| e.template.as_str()) as _,
        &column(events, |e| e.conversation_id.as_str()) as _,
        &column(events, |e| e.payload.as_slice()) as _,
        &column(events, |e| e.headers.as_deref()) as _,
        &column(events, |e| e.hash.as_slice()) as _,
        &column(events, |e| e.occur_time) as _,
        &column(events, |e| e.deliver_by) as _,
        &column(events, |e| e.traceparent.as_deref()) as _,
        &column(events, |e| e.fires_once && !failpoint::mutant("no_latch")),
    )
    .fetch_all(connection)
    .await?;
    rows.pop().ok_or(sqlx::Error::RowNotFound)
}

/// Finds those that were recorded before.
async fn find_existing(
    session: &mut Session,
    events: &[&NewEvent],
    recorded: &mut [Option<Recorded>],
    window_first: i64,
) -> Result<(), sqlx::Error> {
    let mut connection = session.take().await?;
    // A plan from when today's partition was small may take an index that is bad for what it has become.
    let mut transaction =
        connection.begin_with("BEGIN READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan").await?;
    let missing: Vec<usize> = (0..events.len()).filter(|index| recorded[*index].is_none()).collect();
    let ids: Vec<&NewEvent> = missing.iter().map(|index| events[*index]).collect();
    for (position, earlier) in find(&mut transaction, &ids, (window_first, i64::MAX)).await? {
        recorded[missing[position]] = Some(Recorded::Existing(earlier));
    }
    transaction.commit().await?;
    session.keep(connection);
    Ok(())
}

/// Events that are looked for in one statement.
const LOOK: usize = 64;

/// Finds events with the ids of these that were recorded since the time that is given with each; gives them with the position of the one that
/// they were found for, the newest of an id last. For connections whose statements are planned anew.
pub(crate) async fn find_since(
    pool: &PgPool,
    wanted: &[(&NewEvent, Time)],
) -> Result<Vec<(usize, Earlier)>, sqlx::Error> {
    let mut found = Vec::new();
    let Some(mut start) = wanted.iter().map(|(_, since)| *since).min() else { return Ok(found) };
    loop {
        let part = days::first(pool, start, Time::MAX, days::MOST).await?;
        let here: Vec<usize> = (0..wanted.len()).filter(|position| wanted[*position].1 <= part.end).collect();
        for chunk in here.chunks(LOOK) {
            let events: Vec<&NewEvent> = chunk.iter().map(|position| wanted[*position].0).collect();
            let mut connection = pool.acquire().await?;
            let of_chunk = find(&mut connection, &events, (part.first, part.past)).await?;
            found.extend(of_chunk.into_iter().map(|(index, earlier)| (chunk[index], earlier)));
        }
        if part.end == Time::MAX {
            return Ok(found);
        }
        start = part.end;
    }
}

/// The same of those that lie between these sequence numbers, the second not being one of them.
async fn find(
    connection: &mut PgConnection,
    wanted: &[&NewEvent],
    (first, past): (i64, i64),
) -> Result<Vec<(usize, Earlier)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT wanted.position AS "position!", e.sequence, e.content_hash
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(account, event_id, position)
        JOIN ingest.events e ON e.account = wanted.account AND e.event_id = wanted.event_id
            AND e.sequence >= $3 AND e.sequence < $4
        ORDER BY e.sequence
        "#,
        &wanted.iter().map(|event| event.account.as_str()).collect::<Vec<_>>() as _,
        &wanted.iter().map(|event| event.event_id.as_str()).collect::<Vec<_>>() as _,
        first,
        past,
    )
    .fetch_all(connection)
    .await?;
    let found = rows.into_iter().map(|row| {
        let position = usize::try_from(row.position - 1).unwrap_or_default();
        // A hash of another length equals none.
        (position, Earlier { sequence: row.sequence, hash: row.content_hash.try_into().unwrap_or_default() })
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use chatfn_pg::testing::TestDatabase;

    use super::*;
    use crate::testing::new_event;

    async fn record_one(connection: &mut PgConnection, id: &str) -> Row {
        let event = new_event("acme", id, b"{}".to_vec());
        let (places, counts) = places(&[&event]);
        record(connection, &[&event], &places, &counts, DedupeDays(0)).await.unwrap()
    }

    /// Replays go by this time, and have to find the events of a conversation in their order.
    #[tokio::test]
    async fn times_rise_with_numbers_whichever_transaction_began_first() {
        let database = TestDatabase::create().await;
        let pool = crate::with_session(database.pool().clone());
        let mut first_to_begin = pool.begin().await.unwrap();
        let began: Time = sqlx::query_scalar("SELECT now()").fetch_one(&mut *first_to_begin).await.unwrap();

        let lower = record_one(&mut pool.acquire().await.unwrap(), "e1").await;
        let higher = record_one(&mut first_to_begin, "e2").await;
        first_to_begin.commit().await.unwrap();

        assert!(began < lower.accept_time && lower.recorded_sequences < higher.recorded_sequences);
        assert!(lower.accept_time < higher.accept_time);
        let stored: Vec<Time> = sqlx::query_scalar("SELECT accept_time FROM ingest.events ORDER BY sequence")
            .fetch_all(&pool)
            .await
            .unwrap();
        assert_eq!(stored, [lower.accept_time, higher.accept_time]);
    }
}
