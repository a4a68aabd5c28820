//! What operators ask of a lane's owner. Asking is a row; doing it is a fenced write of the owner like all others, so that
//! an operator never races a run.

use chatfn_domain::name::{AccountId, ConversationId, NameError};
use chatfn_proto::ingest::v1::OperatorAction;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    days, deliveries,
    journal::{Intervene, ParkKind},
    span,
};

/// What an operator asks for, of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub(crate) enum Action {
    /// Run it again after its outcome.
    Replay = 1,
    /// Go on with the halted event.
    Resume = 2,
    /// Go on without the halted event.
    Skip = 3,
}

impl Action {
    fn from_stored(number: i16) -> Option<Self> {
        [Self::Replay, Self::Resume, Self::Skip].into_iter().find(|action| *action as i16 == number)
    }
}

impl From<Action> for OperatorAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Replay => Self::Replay,
            Action::Resume => Self::Resume,
            Action::Skip => Self::Skip,
        }
    }
}

/// What is asked of a lane's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) sequence: i64,
    /// The action, and the event's conversation; `None` if that makes no sense any more, and is only to be struck off.
    pub(crate) wanted: Option<(Action, AccountId, ConversationId)>,
}

/// What became of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asking {
    /// It is asked for: by this call, or by an earlier one.
    Recorded,
    /// Something else is asked for and not done yet.
    OtherPending,
    /// The event is not halted any more: what an earlier call asked for was just done.
    NotHalted,
}

/// Asks the owner of a lane to go on with a halted event, or without it.
pub(crate) async fn ask(
    pool: &PgPool,
    lane: i16,
    sequence: i64,
    action: Action,
    actor: &str,
) -> Result<Asking, sqlx::Error> {
    // It locks nothing that the owner has to have: this replica may be halted before it commits.
    let mut transaction = pool.begin().await?;
    sqlx::query!(
        r#"
        INSERT INTO ingest.interventions (lane, sequence, action, actor) VALUES ($1, $2, $3, $4)
        ON CONFLICT DO NOTHING
        "#,
        lane,
        sequence,
        action as i16,
        actor,
    )
    .execute(&mut *transaction)
    .await?;
    // Looked at after that: an action that is done is struck off in the transaction that does it, so that what this finds stays
    // as long as there is a row of interventions.
    let found = sqlx::query!(
        r#"
        SELECT (SELECT action FROM ingest.interventions WHERE lane = $1 AND sequence = $2) AS wanted,
               EXISTS (SELECT FROM ingest.parked WHERE lane = $1 AND sequence = $2 AND kind = $3) AS "is_halted!"
        "#,
        lane,
        sequence,
        ParkKind::Halted as i16,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !found.is_halted {
        transaction.rollback().await?;
        return Ok(Asking::NotHalted);
    }
    transaction.commit().await?;
    // One that was there may just have been struck off.
    Ok(if found.wanted == Some(action as i16) { Asking::Recorded } else { Asking::OtherPending })
}

/// What is asked of the owner of a lane, in the order in which it was asked for, up to `rows`; first what is about events
/// up to `read_to`, and of that what operators ask themselves: a replay may have asked for thousands before.
pub(crate) async fn pending(
    pool: &PgPool,
    lane: i16,
    read_to: i64,
    rows: i64,
) -> Result<Vec<Asked>, sqlx::Error> {
    // First what is asked for: the events are looked for in those days only. All that this depends on is written by the lane's
    // owner alone, who asks.
    let asked = sqlx::query!(
        r#"
        SELECT sequence, action FROM ingest.interventions
        WHERE lane = $1 ORDER BY sequence > $2, action = $4, number LIMIT $3
        "#,
        lane,
        read_to,
        rows,
        Action::Replay as i16,
    )
    .fetch_all(pool)
    .await?;
    let asked: Vec<(usize, i64, i16)> =
        asked.into_iter().enumerate().map(|(index, row)| (index, row.sequence, row.action)).collect();
    let mut pending = Vec::with_capacity(asked.len());
    for part in days::parts(&asked, |(_, sequence, _)| *sequence) {
        let found = what_is_asked(pool, lane, &part).await?;
        pending.extend(part.iter().map(|(index, ..)| *index).zip(found));
    }
    pending.sort_by_key(|(index, _)| *index);
    Ok(pending.into_iter().map(|(_, asked)| asked).collect())
}

/// What is asked for of these events, in days near each other: sequence numbers and actions.
async fn what_is_asked(
    pool: &PgPool,
    lane: i16,
    asked: &[&(usize, i64, i16)],
) -> Result<Vec<Asked>, sqlx::Error> {
    let (first, last) = span(asked.iter().map(|(_, sequence, _)| *sequence));
    let rows = sqlx::query!(
        r#"
        SELECT i.sequence AS "sequence!", i.action AS "action!", e.account AS "account?",
               e.conversation_id AS "conversation_id?",
               CASE i.action
                   WHEN 1 THEN coalesce((SELECT o.state FROM ingest.outcomes o
                       WHERE o.lane = $1 AND o.sequence = i.sequence AND o.sequence BETWEEN $4 AND $5), 5) <> 5
                   ELSE coalesce((SELECT p.kind FROM ingest.parked p
                       WHERE p.lane = $1 AND p.sequence = i.sequence), 0) = 1
               END AS "makes_sense!"
        FROM unnest($2::bigint[], $3::smallint[]) WITH ORDINALITY AS i(sequence, action, position)
        LEFT JOIN LATERAL (
            SELECT account, conversation_id FROM ingest.events
            WHERE lane = $1 AND sequence = i.sequence AND sequence BETWEEN $4 AND $5 LIMIT 1
        ) e ON true
        ORDER BY i.position
        "#,
        lane,
        &asked.iter().map(|(_, sequence, _)| *sequence).collect::<Vec<_>>(),
        &asked.iter().map(|(.., action)| *action).collect::<Vec<_>>(),
        first,
        last,
    )
    .fetch_all(pool)
    .await?;
    let asked = rows.into_iter().map(|row| {
        let action = Action::from_stored(row.action).filter(|_| row.makes_sense);
        let wanted = match (action, row.account, row.conversation_id) {
            (Some(action), Some(account), Some(id)) => Some((action, account.parse()?, id.parse()?)),
            _ => None,
        };
        Ok(Asked { sequence: row.sequence, wanted })
    });
    asked.collect::<Result<_, NameError>>().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The lanes of whose owners something is asked that is not done yet.
pub(crate) async fn lanes(pool: &PgPool) -> Result<Vec<i16>, sqlx::Error> {
    sqlx::query_scalar!("SELECT DISTINCT lane FROM ingest.interventions").fetch_all(pool).await
}

/// Does what is asked for these events and still wanted, within a transaction that holds their lanes, and strikes it off.
/// Once it is struck off, doing it again changes nothing.
pub(super) async fn apply(connection: &mut PgConnection, rows: &[Intervene]) -> Result<(), sqlx::Error> {
    for part in days::parts(rows, |row| row.sequence) {
        apply_part(connection, &part).await?;
    }
    Ok(())
}

async fn apply_part(connection: &mut PgConnection, rows: &[&Intervene]) -> Result<(), sqlx::Error> {
    let (first, last) = span(rows.iter().map(|row| row.sequence));
    sqlx::query!(
        r#"
        WITH asked AS (
            DELETE FROM ingest.interventions i
            USING unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::boolean[])
                AS w(lane, sequence, epoch, is_wanted)
            WHERE i.lane = w.lane AND i.sequence = w.sequence
            RETURNING i.lane, i.sequence, i.action, i.actor, i.replay, i.idempotency_key, w.epoch, w.is_wanted
        ), closed AS (
            DELETE FROM ingest.outcomes o USING asked a
            WHERE a.is_wanted AND a.action = 1 AND o.lane = a.lane AND o.sequence = a.sequence AND o.state <> 5
              AND o.sequence BETWEEN $6 AND $7
              -- Not after retention has dropped it.
              AND EXISTS (SELECT FROM ingest.events e
                  WHERE e.lane = a.lane AND e.sequence = a.sequence AND e.sequence BETWEEN $6 AND $7)
            RETURNING o.lane, o.sequence, o.state, o.reason, o.reason_message, o.finish_time, o.account
        ), halted AS (
            SELECT a.lane, a.sequence, a.action, a.actor, a.epoch, p.account, p.reason, p.reason_message, p.park_time
            FROM asked a JOIN ingest.parked p ON p.lane = a.lane AND p.sequence = a.sequence
            WHERE a.is_wanted AND a.action IN (2, 3) AND p.kind = 1
        ), past AS (
            SELECT lane, sequence, state, reason, reason_message, finish_time FROM closed
            UNION ALL
            SELECT lane, sequence, 8::smallint, reason, reason_message, park_time FROM halted
        ), kept AS (
            INSERT INTO ingest.superseded (lane, sequence, number, state, reason, reason_message, finish_time, attempts,
                                           action, actor, replay, idempotency_key)
            SELECT p.lane, p.sequence,
                   coalesce((SELECT max(s.number) FROM ingest.superseded s
                       WHERE s.lane = p.lane AND s.sequence = p.sequence), 0) + 1,
                   p.state, p.reason, p.reason_message, p.finish_time,
                   coalesce((SELECT max(t.number) FROM ingest.attempts t
                       WHERE t.lane = p.lane AND t.sequence = p.sequence AND t.sequence BETWEEN $6 AND $7), 0),
                   a.action, a.actor, a.replay,
                   coalesce(a.idempotency_key, (SELECT s.idempotency_key FROM ingest.superseded s
                       WHERE s.lane = p.lane AND s.sequence = p.sequence ORDER BY s.number DESC LIMIT 1))
            FROM past p JOIN asked a ON a.lane = p.lane AND a.sequence = p.sequence
            RETURNING lane, sequence, attempts, idempotency_key
        ), trimmed AS (
            -- More than this is never told.
            DELETE FROM ingest.superseded s USING past p
            WHERE s.lane = p.lane AND s.sequence = p.sequence
              AND s.number <= (SELECT max(n.number) FROM ingest.superseded n
                  WHERE n.lane = p.lane AND n.sequence = p.sequence) + 1 - $5
        ), reopened AS (
            INSERT INTO ingest.parked (lane, sequence, account, conversation_id, kind, next_attempt_time,
                                       attempts_before, idempotency_key)
            SELECT c.lane, c.sequence, c.account,
                   (SELECT e.conversation_id FROM ingest.events e
                       WHERE e.lane = c.lane AND e.sequence = c.sequence AND e.sequence BETWEEN $6 AND $7),
                   2, now(), k.attempts, k.idempotency_key
            FROM closed c JOIN kept k ON k.lane = c.lane AND k.sequence = c.sequence
            ON CONFLICT (lane, sequence) DO UPDATE
            SET kind = excluded.kind, next_attempt_time = excluded.next_attempt_time, reason = '', reason_message = '',
                attempts_before = excluded.attempts_before, idempotency_key = excluded.idempotency_key
        ), resumed AS (
            UPDATE ingest.parked p
            SET kind = 0, next_attempt_time = now(), reason = '', reason_message = '', park_time = now(),
                attempts_before = k.attempts
            FROM halted h JOIN kept k ON k.lane = h.lane AND k.sequence = h.sequence
            WHERE h.action = 2 AND p.lane = h.lane AND p.sequence = h.sequence
        ), unparked AS (
            DELETE FROM ingest.parked p USING halted h
            WHERE h.action = 3 AND p.lane = h.lane AND p.sequence = h.sequence
        )
        INSERT INTO ingest.outcomes (lane, sequence, state, reason, reason_message, epoch, account, accept_time)
        SELECT h.lane, h.sequence, 7, 'SKIPPED', format('%s had the conversation go on without it; %s', h.actor, h.reason_message),
               h.epoch, h.account,
               (SELECT e.accept_time FROM ingest.events e
                   WHERE e.lane = h.lane AND e.sequence = h.sequence AND e.sequence BETWEEN $6 AND $7)
        FROM halted h WHERE h.action = 3
        ON CONFLICT DO NOTHING
        "#,
        &rows.iter().map(|row| row.lane).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.sequence).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.epoch).collect::<Vec<_>>(),
        &rows.iter().map(|row| row.is_wanted).collect::<Vec<_>>(),
        deliveries::NEWEST_PAST,
        first,
        last,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An event that a replay is to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
}

/// Asks for these events to be run again; what is asked for already stays. With `rerun` they get new idempotency keys.
/// Gives the lanes.
pub(super) async fn ask_for_replay(
    connection: &mut PgConnection,
    replay: Uuid,
    actor: &str,
    rerun: bool,
    places: &[Place],
) -> Result<Vec<i16>, sqlx::Error> {
    // The same ones if the replay asks again.
    let key = |place: &Place| {
        rerun.then(|| Uuid::new_v5(&replay, format!("{}/{}", place.lane, place.sequence).as_bytes()))
    };
    let keys: Vec<Option<Uuid>> = places.iter().map(key).collect();
    let mut lanes = sqlx::query_scalar!(
        r#"
        INSERT INTO ingest.interventions (lane, sequence, action, actor, replay, idempotency_key)
        SELECT lane, sequence, 1, $3, $4, key
        FROM unnest($1::smallint[], $2::bigint[], $5::uuid[]) AS w(lane, sequence, key)
        ORDER BY lane, sequence
        ON CONFLICT DO NOTHING
        RETURNING lane
        "#,
        &places.iter().map(|place| place.lane).collect::<Vec<_>>(),
        &places.iter().map(|place| place.sequence).collect::<Vec<_>>(),
        actor,
        replay,
        &keys as _,
    )
    .fetch_all(connection)
    .await?;
    lanes.dedup();
    Ok(lanes)
}
