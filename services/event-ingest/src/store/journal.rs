//! Fenced writes of runs: several lanes in one transaction, each only if its owner still has it.
//!
//! Writing the same batch again, after a result that is not known, changes nothing.

use std::{collections::HashSet, time::Duration};

use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{Session, Time, days, interventions, millis, span};
use crate::failpoint;

/// By how many sequence numbers the cursor of a lane's row may lag behind.
const CURSOR_LAG: i64 = 128;

/// What a lane's owner must hold, and what the lane's row becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fence {
    pub(crate) lane: i16,
    pub(crate) epoch: i64,
    pub(crate) cursor: i64,
    /// Whether the row's cursor must be this one, however little it has gone on.
    pub(crate) is_exact: bool,
    /// The lease must last at least this long from now on.
    pub(crate) hold: Duration,
}

/// An attempt that is about to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) epoch: i64,
    pub(crate) number: i32,
}

/// An attempt that ended.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) epoch: i64,
    pub(crate) number: i32,
    /// Encoded `RunReport`.
    pub(crate) report: Option<Vec<u8>>,
    pub(crate) platform_error: String,
    pub(crate) platform_error_message: String,
}

/// An attempt that was started and did not run after all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Void {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) number: i32,
}

/// The outcome of an event.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) epoch: i64,
    /// A terminal `DeliveryState`.
    pub(crate) state: i16,
    pub(crate) reason: String,
    pub(crate) reason_message: String,
    pub(crate) account: String,
    pub(crate) accept_time: Time,
}

/// What a row of `parked` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub(crate) enum ParkKind {
    /// Another attempt.
    Retry = 0,
    /// An operator.
    Halted = 1,
    /// Its first attempt since an operator took it up again.
    Reopened = 2,
}

/// An event that waits for another attempt, or for an operator.
#[derive(Debug, Clone)]
pub(crate) struct Park {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) account: String,
    pub(crate) conversation_id: String,
    pub(crate) kind: ParkKind,
    /// Why, unless the attempts say all.
    pub(crate) reason: String,
    pub(crate) reason_message: String,
    /// Until the next attempt; of no meaning when it is halted.
    pub(crate) delay: Duration,
}

/// What an operator asked for, to be done or only to be struck off now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intervene {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) epoch: i64,
    pub(crate) is_wanted: bool,
}

/// What is written together. No event appears twice: statements of one transaction must not depend on
/// their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(crate) starts: Vec<Start>,
    pub(crate) ends: Vec<End>,
    pub(crate) voids: Vec<Void>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) parks: Vec<Park>,
    pub(crate) interventions: Vec<Intervene>,
}

/// Writes what belongs to lanes that `owner` holds with the given epoch; gives those lanes. Nothing of
/// the other lanes is written: they are lost.
pub(crate) async fn write(
    session: &mut Session,
    owner: Uuid,
    fences: &[Fence],
    mut batch: Batch,
) -> Result<HashSet<i16>, sqlx::Error> {
    let mut connection = session.take().await?;
    let held = if batch.voids.is_empty() && batch.interventions.is_empty() {
        // One message: what a replica that is halted meanwhile has locked does not stay locked.
        failpoint::sent("journal.sent", write_runs(&mut connection, owner, fences, &batch)).await?
    } else {
        let mut transaction = connection.begin().await?;
        let held = write_runs(&mut transaction, owner, fences, &batch).await?;
        batch.voids.retain(|row| held.contains(&row.lane));
        batch.interventions.retain(|row| held.contains(&row.lane));
        if !batch.voids.is_empty() {
            for part in days::parts(&batch.voids, |void| void.sequence) {
                delete_voids(&mut transaction, &part).await?;
            }
            failpoint::edge("journal.voided");
        }
        if !batch.interventions.is_empty() {
            interventions::apply(&mut transaction, &batch.interventions).await?;
            failpoint::edge("journal.intervened");
        }
        transaction.commit().await?;
        held
    };
    session.keep(connection);
    failpoint::edge("journal.durable");
    Ok(held)
}

/// Locks the rows of the lanes until the end of the transaction, so that a take-over comes before or
/// after it, moves their cursors, and writes what most batches consist of.
///
/// A cursor that has gone on a little is not written: it only says where a next owner starts to read, and each version of a row
/// costs more than the lock. One that has gone back is: what lies behind it now has no row in `parked` any more.
async fn write_runs(
    connection: &mut PgConnection,
    owner: Uuid,
    fences: &[Fence],
    batch: &Batch,
) -> Result<HashSet<i16>, sqlx::Error> {
    fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let Batch { starts, ends, outcomes, parks, .. } = batch;
    // A statement sees nothing of what its parts write, and needs not: no event appears twice.
    //
    // In `parked`, a release that does not know halted events must not take one for due.
    let held = sqlx::query_scalar!(
        r#"
        WITH mine AS MATERIALIZED (
            SELECT l.lane, l.cursor AS old_cursor, l.lease_until, f.cursor, f.is_exact,
                   now() + f.hold_ms * interval '1 millisecond' AS hold_until
            FROM ingest.lanes l
            JOIN unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::boolean[], $6::float8[])
                AS f(lane, epoch, cursor, is_exact, hold_ms) ON f.lane = l.lane
            WHERE l.owner = $1 AND l.epoch = f.epoch OR $7
            ORDER BY l.lane FOR UPDATE OF l
        ), moved AS (
            UPDATE ingest.lanes l
            SET cursor = mine.cursor, lease_until = greatest(mine.lease_until, mine.hold_until)
            FROM mine
            WHERE l.lane = mine.lane
              AND (mine.cursor < mine.old_cursor OR mine.cursor >= mine.old_cursor + $8
                   OR mine.is_exact AND mine.cursor <> mine.old_cursor OR mine.hold_until > mine.lease_until)
        ), held AS MATERIALIZED (
            SELECT coalesce(array_agg(lane), '{}') AS lanes FROM mine
        ), started AS (
            INSERT INTO ingest.attempts (lane, sequence, number, epoch)
            SELECT i.lane, i.sequence, i.number, i.epoch
            FROM unnest($9::smallint[], $10::bigint[], $11::integer[], $12::bigint[])
                AS i(lane, sequence, number, epoch)
            WHERE i.lane = ANY ((SELECT lanes FROM held)::smallint[])
            ON CONFLICT DO NOTHING
        ), ended AS (
            -- The row is there. An update that joined it might read the day's whole index instead, as long as the planner
            -- believes that the day is empty; and it would open the partitions of all days.
            INSERT INTO ingest.attempts AS a (lane, sequence, number, epoch, finish_time, report, platform_error,
                                              platform_error_message)
            SELECT i.lane, i.sequence, i.number, i.epoch, now(), i.report, i.platform_error, i.platform_error_message
            FROM unnest($13::smallint[], $14::bigint[], $15::integer[], $16::bigint[], $17::bytea[], $18::text[],
                        $19::text[])
                AS i(lane, sequence, number, epoch, report, platform_error, platform_error_message)
            WHERE i.lane = ANY ((SELECT lanes FROM held)::smallint[])
            ON CONFLICT (lane, sequence, number) DO UPDATE
            SET finish_time = excluded.finish_time, report = excluded.report,
                platform_error = excluded.platform_error, platform_error_message = excluded.platform_error_message
            WHERE a.finish_time IS NULL
        ), input AS MATERIALIZED (
            SELECT i.*
            FROM unnest($20::smallint[], $21::bigint[], $22::smallint[], $23::text[], $24::text[],
                        $25::bigint[], $26::text[], $27::timestamptz[])
                AS i(lane, sequence, state, reason, reason_message, epoch, account, accept_time)
            WHERE i.lane = ANY ((SELECT lanes FROM held)::smallint[])
        ), unparked AS (
            DELETE FROM ingest.parked p USING input i WHERE p.lane = i.lane AND p.sequence = i.sequence
        ), finished AS (
            INSERT INTO ingest.outcomes (lane, sequence, state, reason, reason_message, epoch, account, accept_time)
            SELECT * FROM input
            ON CONFLICT DO NOTHING
        ), waiting AS (
            INSERT INTO ingest.parked (lane, sequence, account, conversation_id, kind, reason, reason_message,
                                       next_attempt_time)
            SELECT i.lane, i.sequence, i.account, i.conversation_id, i.kind, i.reason, i.reason_message,
                   now() + CASE WHEN i.kind = 1 THEN interval '100 years'
                                ELSE i.delay_ms * interval '1 millisecond' END
            FROM unnest($28::smallint[], $29::bigint[], $30::text[], $31::text[], $32::smallint[], $33::text[],
                        $34::text[], $35::float8[])
                AS i(lane, sequence, account, conversation_id, kind, reason, reason_message, delay_ms)
            WHERE i.lane = ANY ((SELECT lanes FROM held)::smallint[])
            ON CONFLICT (lane, sequence) DO UPDATE
            SET next_attempt_time = excluded.next_attempt_time, kind = excluded.kind, reason = excluded.reason,
                reason_message = excluded.reason_message,
                park_time = CASE WHEN parked.kind = excluded.kind THEN parked.park_time ELSE now() END
        )
        SELECT lane AS "lane!" FROM mine
        "#,
        owner,
        &column(fences, |fence| fence.lane),
        &column(fences, |fence| fence.epoch),
        &column(fences, |fence| fence.cursor),
        &column(fences, |fence| fence.is_exact),
        &column(fences, |fence| millis(fence.hold)),
        failpoint::mutant("no_epoch_check"),
        CURSOR_LAG,
        &column(starts, |start| start.lane),
        &column(starts, |start| start.sequence),
        &column(starts, |start| start.number),
        &column(starts, |start| start.epoch),
        &column(ends, |end| end.lane),
        &column(ends, |end| end.sequence),
        &column(ends, |end| end.number),
        &column(ends, |end| end.epoch),
        &column(ends, |end| end.report.as_deref()) as _,
        &column(ends, |end| end.platform_error.as_str()) as _,
        &column(ends, |end| end.platform_error_message.as_str()) as _,
        &column(outcomes, |outcome| outcome.lane),
        &column(outcomes, |outcome| outcome.sequence),
        &column(outcomes, |outcome| outcome.state),
        &column(outcomes, |outcome| outcome.reason.as_str()) as _,
        &column(outcomes, |outcome| outcome.reason_message.as_str()) as _,
        &column(outcomes, |outcome| outcome.epoch),
        &column(outcomes, |outcome| outcome.account.as_str()) as _,
        &column(outcomes, |outcome| outcome.accept_time) as _,
        &column(parks, |park| park.lane),
        &column(parks, |park| park.sequence),
        &column(parks, |park| park.account.as_str()) as _,
        &column(parks, |park| park.conversation_id.as_str()) as _,
        &column(parks, |park| park.kind as i16),
        &column(parks, |park| park.reason.as_str()) as _,
        &column(parks, |park| park.reason_message.as_str()) as _,
        &column(parks, |park| millis(park.delay)),
    )
    .fetch_all(connection)
    .await?;
    Ok(held.into_iter().collect())
}

/// Of voids in days near each other.
async fn delete_voids(connection: &mut PgConnection, voids: &[&Void]) -> Result<(), sqlx::Error> {
    let (first, last) = span(voids.iter().map(|void| void.sequence));
    sqlx::query!(
        r#"
        DELETE FROM ingest.attempts a
        USING unnest($1::smallint[], $2::bigint[], $3::integer[]) AS i(lane, sequence, number)
        WHERE a.lane = i.lane AND a.sequence = i.sequence AND a.number = i.number AND a.finish_time IS NULL
          AND a.sequence BETWEEN $4 AND $5
        "#,
        &voids.iter().map(|void| void.lane).collect::<Vec<_>>(),
        &voids.iter().map(|void| void.sequence).collect::<Vec<_>>(),
        &voids.iter().map(|void| void.number).collect::<Vec<_>>(),
        first,
        last,
    )
    .execute(connection)
    .await?;
    Ok(())
}
