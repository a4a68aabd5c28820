//! Records published events.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::{PgConnection, PgPool};

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
    Existing {
        /// That event's place in its lane.
        sequence: i64,
        /// That event's hash.
        hash: [u8; 32],
    },
}

/// How far back ids are looked for: over the day that takes events and this many days before it that did.
///
/// Exact over that time, whoever publishes an id where and when: within a day by a unique key, over the days before
/// because they do not change any more ([`insert`] sees to that).
#[derive(Debug, Clone, Copy)]
pub(crate) struct DedupeDays(pub(crate) u16);

/// The part of the log in which an id stands for one event.
#[derive(Debug, Clone, Copy)]
struct Window {
    /// First sequence number of the window.
    from: i64,
    /// First sequence number of the day that takes events.
    today: i64,
}

/// What a transaction has recorded.
#[derive(Debug)]
pub(crate) struct Inserted {
    /// What became of each event, in their order.
    pub(crate) recorded: Vec<Recorded>,
    /// For each lane written to, the sequence number that comes next.
    pub(crate) heads: BTreeMap<i16, i64>,
    /// How many of them ended in SUPPRESSED at once.
    pub(crate) suppressed: u64,
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
    pool: &PgPool,
    events: &[&NewEvent],
    dedupe: DedupeDays,
) -> Result<Inserted, sqlx::Error> {
    // Until the commit no other day is opened: so all events of a day are visible before the next day has any.
    let mut transaction = pool.begin_with("BEGIN; SELECT ingest.hold_day()").await?;
    failpoint::edge("commit.begun");
    let lanes: Vec<i16> = events.iter().map(|event| event.lane()).collect();
    let (heads, window) = take_sequences(&mut transaction, &lanes, dedupe).await?;
    failpoint::edge("commit.sequenced");
    let mut next: HashMap<i16, i64> = heads.iter().map(|(lane, (first, _))| (*lane, *first)).collect();
    let sequences: Vec<i64> = lanes
        .iter()
        .map(|lane| {
            let next = next.entry(*lane).or_default();
            *next += 1;
            *next - 1
        })
        .collect();

    let (inserted, suppressed) = insert_rows(&mut transaction, events, &lanes, &sequences, window).await?;
    let mut recorded: Vec<Option<Recorded>> = lanes
        .iter()
        .zip(&sequences)
        .map(|(lane, sequence)| {
            inserted.contains(&(*lane, *sequence)).then_some(Recorded::New { sequence: *sequence })
        })
        .collect();
    if inserted.len() < events.len() {
        find_existing(&mut transaction, events, &mut recorded, window).await?;
    }
    // A conflicting row that cannot be found was dropped this very moment by retention.
    let recorded: Option<Vec<Recorded>> = recorded.into_iter().collect();
    let recorded = recorded.ok_or(sqlx::Error::RowNotFound)?;
    failpoint::edge("commit.inserted");
    if failpoint::mutant("ack_before_commit") {
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            transaction.commit().await
        });
        return Ok(Inserted { recorded, heads: BTreeMap::new(), suppressed });
    }
    transaction.commit().await?;
    failpoint::edge("commit.durable");
    let heads = heads.into_iter().map(|(lane, (_, next))| (lane, next)).collect();
    Ok(Inserted { recorded, heads, suppressed })
}

/// Locks the heads of `lanes` until the end of the transaction and takes a sequence number for each
/// entry. Gives the first number taken from each lane and the next one that is free; and which part of the log counts.
async fn take_sequences(
    connection: &mut PgConnection,
    lanes: &[i16],
    dedupe: DedupeDays,
) -> Result<(BTreeMap<i16, (i64, i64)>, Window), sqlx::Error> {
    let mut counts: BTreeMap<i16, i64> = BTreeMap::new();
    for lane in lanes {
        *counts.entry(*lane).or_default() += 1;
    }
    let (lanes, counts): (Vec<i16>, Vec<i64>) = counts.into_iter().unzip();
    // The locks are taken in the order of lanes, so that committers never wait in a circle; the count
    // makes Postgres take all of them before the first update.
    let rows = sqlx::query!(
        r#"
        WITH locked AS MATERIALIZED (
            SELECT lane FROM ingest.lane_heads WHERE lane = ANY($1) ORDER BY lane FOR UPDATE
        ), days AS MATERIALIZED (
            SELECT max(first_sequence) AS today, min(first_sequence) AS first
            FROM (
                SELECT first_sequence FROM ingest.days WHERE open_time IS NOT NULL ORDER BY day DESC LIMIT $3
            ) latest
        )
        UPDATE ingest.lane_heads h
        SET next_sequence = greatest(h.next_sequence, days.today) + taken.count
        FROM unnest($1::smallint[], $2::bigint[]) AS taken(lane, count), days
        WHERE h.lane = taken.lane AND (SELECT count(*) FROM locked) > 0
        RETURNING h.lane, h.next_sequence - taken.count AS "first!", h.next_sequence AS next,
                  days.today AS "today!", days.first AS "window_first!"
        "#,
        &lanes,
        &counts,
        i64::from(dedupe.0) + 1,
    )
    .fetch_all(connection)
    .await?;
    // Every lane has a head.
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let window = Window { from: first.window_first, today: first.today };
    Ok((rows.into_iter().map(|row| (row.lane, (row.first, row.next))).collect(), window))
}

/// Inserts what does not exist yet; gives what was inserted, and how many of these were suppressed.
async fn insert_rows(
    connection: &mut PgConnection,
    events: &[&NewEvent],
    lanes: &[i16],
    sequences: &[i64],
    window: Window,
) -> Result<(HashSet<(i16, i64)>, u64), sqlx::Error> {
    fn column<'a, T>(events: &[&'a NewEvent], of: impl Fn(&'a NewEvent) -> T) -> Vec<T> {
        events.iter().map(|event| of(event)).collect()
    }
    // Rows go in by id, so that two transactions with the same new ids wait for each other in one order.
    let rows = sqlx::query!(
        r#"
        WITH input AS (
            SELECT * FROM unnest(
                $1::smallint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[],
                $8::bytea[], $9::bytea[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::bool[]
            ) AS i(lane, sequence, account, event_id, template, conversation_id, payload,
                   headers, content_hash, occur_time, deliver_by, traceparent, fires_once)
        ), inserted AS (
            INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                       headers, content_hash, occur_time, deliver_by, traceparent)
            SELECT lane, sequence, account, event_id, template, conversation_id, payload,
                   headers, content_hash, occur_time, deliver_by, traceparent
            FROM input
            WHERE NOT EXISTS (SELECT FROM ingest.events e
                WHERE e.account = input.account AND e.event_id = input.event_id
                  AND e.sequence >= $14 AND e.sequence < $15)
            ORDER BY account COLLATE "C", event_id COLLATE "C"
            -- Whichever unique key it is: that of account and event_id is each partition's own.
            ON CONFLICT DO NOTHING
            RETURNING lane, sequence, account, event_id, template, conversation_id, accept_time
        ), once AS (
            SELECT inserted.* FROM inserted JOIN input USING (lane, sequence) WHERE input.fires_once
        ), latched AS (
            INSERT INTO ingest.latches (account, conversation_id, template, event_id)
            SELECT DISTINCT ON (account, conversation_id, template) account, conversation_id, template, event_id
            FROM once ORDER BY account, conversation_id, template, sequence
            ON CONFLICT DO NOTHING
            RETURNING account, conversation_id, template, event_id
        ), first AS (
            SELECT once.*, coalesce(
                -- Only one of the two is there: what this statement inserts, it does not see.
                (SELECT l.event_id FROM ingest.latches l WHERE l.account = once.account
                    AND l.conversation_id = once.conversation_id AND l.template = once.template),
                (SELECT l.event_id FROM latched l WHERE l.account = once.account
                    AND l.conversation_id = once.conversation_id AND l.template = once.template)
            ) AS first_event_id
            FROM once
        ), suppressed AS (
            INSERT INTO ingest.outcomes (lane, sequence, state, reason, reason_message, epoch, account, accept_time)
            SELECT lane, sequence, 5, 'ALREADY_FIRED',
                   format('%s fires once per conversation, and event %s has fired it', template, first_event_id),
                   0, account, accept_time
            -- Whichever id it has: after the days over which ids are known, that which has fired may come again.
            FROM first WHERE NOT EXISTS (SELECT FROM latched l WHERE l.account = first.account
                AND l.conversation_id = first.conversation_id AND l.template = first.template
                AND l.event_id = first.event_id)
            RETURNING lane
        )
        SELECT lane, sequence, (SELECT count(*) FROM suppressed) AS "suppressed!" FROM inserted
        "#,
        lanes,
        sequences,
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
        &column(events, |e| e.fires_once),
        window.from,
        window.today,
    )
    .fetch_all(connection)
    .await?;
    let suppressed = rows.first().map_or(0, |row| u64::try_from(row.suppressed).unwrap_or_default());
    Ok((rows.into_iter().map(|row| (row.lane, row.sequence)).collect(), suppressed))
}

async fn find_existing(
    connection: &mut PgConnection,
    events: &[&NewEvent],
    recorded: &mut [Option<Recorded>],
    window: Window,
) -> Result<(), sqlx::Error> {
    let missing: Vec<usize> = (0..events.len()).filter(|index| recorded[*index].is_none()).collect();
    let accounts: Vec<&str> = missing.iter().map(|index| events[*index].account.as_str()).collect();
    let ids: Vec<&str> = missing.iter().map(|index| events[*index].event_id.as_str()).collect();
    let rows = sqlx::query!(
        r#"
        SELECT wanted.position AS "position!", e.sequence, e.content_hash
        FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS wanted(account, event_id, position)
        JOIN ingest.events e ON e.account = wanted.account AND e.event_id = wanted.event_id AND e.sequence >= $3
        "#,
        &accounts as _,
        &ids as _,
        window.from,
    )
    .fetch_all(connection)
    .await?;
    for row in rows {
        let index = usize::try_from(row.position - 1).ok().and_then(|position| missing.get(position));
        // A hash of another length equals none.
        let hash = row.content_hash.try_into().unwrap_or_default();
        if let Some(index) = index {
            recorded[*index] = Some(Recorded::Existing { sequence: row.sequence, hash });
        }
    }
    Ok(())
}
