//! Fenced writes of runs: several lanes in one transaction, each only if its owner still has it.
//!
//! Writing the same batch again, after a result that is not known, changes nothing.

use std::{collections::HashSet, time::Duration};

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{Time, interventions, millis, span};
use crate::failpoint;

/// What a lane's owner must hold, and what the lane's row becomes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fence {
    pub(crate) lane: i16,
    pub(crate) epoch: i64,
    pub(crate) cursor: i64,
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

impl Batch {
    fn retain_lanes(&mut self, held: &HashSet<i16>) {
        self.starts.retain(|row| held.contains(&row.lane));
        self.ends.retain(|row| held.contains(&row.lane));
        self.voids.retain(|row| held.contains(&row.lane));
        self.outcomes.retain(|row| held.contains(&row.lane));
        self.parks.retain(|row| held.contains(&row.lane));
        self.interventions.retain(|row| held.contains(&row.lane));
    }
}

/// Writes what belongs to lanes that `owner` holds with the given epoch; gives those lanes. Nothing of
/// the other lanes is written: they are lost.
pub(crate) async fn write(
    pool: &PgPool,
    owner: Uuid,
    fences: &[Fence],
    mut batch: Batch,
) -> Result<HashSet<i16>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let held = pass_fences(&mut transaction, owner, fences).await?;
    failpoint::edge("journal.fenced");
    if held.len() < fences.len() {
        batch.retain_lanes(&held);
    }
    if !batch.starts.is_empty() {
        insert_starts(&mut transaction, &batch.starts).await?;
        failpoint::edge("journal.started");
    }
    if !batch.ends.is_empty() {
        update_ends(&mut transaction, &batch.ends).await?;
        failpoint::edge("journal.ended");
    }
    if !batch.voids.is_empty() {
        delete_voids(&mut transaction, &batch.voids).await?;
        failpoint::edge("journal.voided");
    }
    if !batch.outcomes.is_empty() {
        insert_outcomes(&mut transaction, &batch.outcomes).await?;
        failpoint::edge("journal.finished");
    }
    if !batch.parks.is_empty() {
        upsert_parks(&mut transaction, &batch.parks).await?;
        failpoint::edge("journal.parked");
    }
    if !batch.interventions.is_empty() {
        interventions::apply(&mut transaction, &batch.interventions).await?;
        failpoint::edge("journal.intervened");
    }
    failpoint::edge("journal.written");
    transaction.commit().await?;
    failpoint::edge("journal.durable");
    Ok(held)
}

/// Locks the rows of the lanes until the end of the transaction, so that a take-over comes before or
/// after it, and moves their cursors.
async fn pass_fences(
    connection: &mut PgConnection,
    owner: Uuid,
    fences: &[Fence],
) -> Result<HashSet<i16>, sqlx::Error> {
    let lanes: Vec<i16> = fences.iter().map(|fence| fence.lane).collect();
    if failpoint::mutant("no_epoch_check") {
        return Ok(lanes.into_iter().collect());
    }
    let epochs: Vec<i64> = fences.iter().map(|fence| fence.epoch).collect();
    let held = sqlx::query_scalar!(
        r#"
        WITH mine AS MATERIALIZED (
            SELECT l.lane FROM ingest.lanes l
            JOIN unnest($2::smallint[], $3::bigint[]) AS held(lane, epoch) USING (lane, epoch)
            WHERE l.owner = $1 ORDER BY l.lane FOR UPDATE OF l
        )
        UPDATE ingest.lanes l
        SET cursor = f.cursor,
            lease_until = greatest(l.lease_until, now() + f.hold_ms * interval '1 millisecond')
        FROM unnest($2::smallint[], $3::bigint[], $4::bigint[], $5::float8[]) AS f(lane, epoch, cursor, hold_ms)
        WHERE l.lane = f.lane AND l.epoch = f.epoch AND l.owner = $1 AND (SELECT count(*) FROM mine) > 0
        RETURNING l.lane
        "#,
        owner,
        &lanes,
        &epochs,
        &fences.iter().map(|fence| fence.cursor).collect::<Vec<_>>(),
        &fences.iter().map(|fence| millis(fence.hold)).collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await?;
    Ok(held.into_iter().collect())
}

async fn insert_starts(connection: &mut PgConnection, starts: &[Start]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        INSERT INTO ingest.attempts (lane, sequence, number, epoch)
        SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::integer[], $4::bigint[])
        ON CONFLICT DO NOTHING
        "#,
        &starts.iter().map(|start| start.lane).collect::<Vec<_>>(),
        &starts.iter().map(|start| start.sequence).collect::<Vec<_>>(),
        &starts.iter().map(|start| start.number).collect::<Vec<_>>(),
        &starts.iter().map(|start| start.epoch).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn update_ends(connection: &mut PgConnection, ends: &[End]) -> Result<(), sqlx::Error> {
    let (first, last) = span(ends.iter().map(|end| end.sequence));
    sqlx::query!(
        r#"
        UPDATE ingest.attempts a
        SET finish_time = now(), report = i.report,
            platform_error = i.platform_error, platform_error_message = i.platform_error_message
        FROM unnest($1::smallint[], $2::bigint[], $3::integer[], $4::bytea[], $5::text[], $6::text[])
            AS i(lane, sequence, number, report, platform_error, platform_error_message)
        WHERE a.lane = i.lane AND a.sequence = i.sequence AND a.number = i.number AND a.finish_time IS NULL
          AND a.sequence BETWEEN $7 AND $8
        "#,
        &ends.iter().map(|end| end.lane).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.sequence).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.number).collect::<Vec<_>>(),
        &ends.iter().map(|end| end.report.as_deref()).collect::<Vec<_>>() as _,
        &ends.iter().map(|end| end.platform_error.as_str()).collect::<Vec<_>>() as _,
        &ends.iter().map(|end| end.platform_error_message.as_str()).collect::<Vec<_>>() as _,
        first,
        last,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn delete_voids(connection: &mut PgConnection, voids: &[Void]) -> Result<(), sqlx::Error> {
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

async fn insert_outcomes(connection: &mut PgConnection, outcomes: &[Outcome]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        WITH input AS (
            SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::smallint[], $4::text[], $5::text[],
                                 $6::bigint[], $7::text[], $8::timestamptz[])
                AS i(lane, sequence, state, reason, reason_message, epoch, account, accept_time)
        ), unparked AS (
            DELETE FROM ingest.parked p USING input i WHERE p.lane = i.lane AND p.sequence = i.sequence
        )
        INSERT INTO ingest.outcomes (lane, sequence, state, reason, reason_message, epoch, account, accept_time)
        SELECT * FROM input
        ON CONFLICT DO NOTHING
        "#,
        &outcomes.iter().map(|outcome| outcome.lane).collect::<Vec<_>>(),
        &outcomes.iter().map(|outcome| outcome.sequence).collect::<Vec<_>>(),
        &outcomes.iter().map(|outcome| outcome.state).collect::<Vec<_>>(),
        &outcomes.iter().map(|outcome| outcome.reason.as_str()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|outcome| outcome.reason_message.as_str()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|outcome| outcome.epoch).collect::<Vec<_>>(),
        &outcomes.iter().map(|outcome| outcome.account.as_str()).collect::<Vec<_>>() as _,
        &outcomes.iter().map(|outcome| outcome.accept_time).collect::<Vec<_>>() as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn upsert_parks(connection: &mut PgConnection, parks: &[Park]) -> Result<(), sqlx::Error> {
    // A release that does not know halted events must not take one for due.
    sqlx::query!(
        r#"
        INSERT INTO ingest.parked (lane, sequence, account, conversation_id, kind, reason, reason_message,
                                   next_attempt_time)
        SELECT lane, sequence, account, conversation_id, kind, reason, reason_message,
               now() + CASE WHEN kind = 1 THEN interval '100 years' ELSE delay_ms * interval '1 millisecond' END
        FROM unnest($1::smallint[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[],
                    $8::float8[])
            AS i(lane, sequence, account, conversation_id, kind, reason, reason_message, delay_ms)
        ON CONFLICT (lane, sequence) DO UPDATE
        SET next_attempt_time = excluded.next_attempt_time, kind = excluded.kind, reason = excluded.reason,
            reason_message = excluded.reason_message,
            park_time = CASE WHEN parked.kind = excluded.kind THEN parked.park_time ELSE now() END
        "#,
        &parks.iter().map(|park| park.lane).collect::<Vec<_>>(),
        &parks.iter().map(|park| park.sequence).collect::<Vec<_>>(),
        &parks.iter().map(|park| park.account.as_str()).collect::<Vec<_>>() as _,
        &parks.iter().map(|park| park.conversation_id.as_str()).collect::<Vec<_>>() as _,
        &parks.iter().map(|park| park.kind as i16).collect::<Vec<_>>(),
        &parks.iter().map(|park| park.reason.as_str()).collect::<Vec<_>>() as _,
        &parks.iter().map(|park| park.reason_message.as_str()).collect::<Vec<_>>() as _,
        &parks.iter().map(|park| millis(park.delay)).collect::<Vec<_>>(),
    )
    .execute(connection)
    .await?;
    Ok(())
}
