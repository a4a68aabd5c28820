//! What of a lane waits.

use std::time::Duration;

use chatfn_domain::name::{AccountId, ConversationId, NameError};
use sqlx::PgPool;

use super::{super::journal::ParkKind, from_millis, inconsistent};

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

/// The events of a lane that are parked, after sequence number `after`, in their order.
pub(crate) async fn parked(
    pool: &PgPool,
    lane: i16,
    epoch: i64,
    after: i64,
    rows: i64,
) -> Result<Vec<ParkedEvent>, sqlx::Error> {
    // First where they are: attempts are looked for in those days only. Nobody but the owner, who asks, changes what is parked.
    let span = sqlx::query!(
        r#"
        SELECT min(sequence) AS first, max(sequence) AS last
        FROM (SELECT sequence FROM ingest.parked WHERE lane = $1 AND sequence > $2 ORDER BY sequence LIMIT $3) p
        "#,
        lane,
        after,
        rows,
    )
    .fetch_one(pool)
    .await?;
    let (Some(first), Some(last)) = (span.first, span.last) else { return Ok(Vec::new()) };
    let rows = sqlx::query!(
        r#"
        SELECT p.sequence, p.account, p.conversation_id, p.kind,
               p.reason = 'RETRY_BUDGET_SPENT' AS "is_denied!",
               (extract(epoch FROM p.next_attempt_time - now()) * 1000)::float8 AS "due_in_ms!",
               coalesce((SELECT max(a.number) FROM ingest.attempts a
                   WHERE a.lane = $1 AND a.sequence = p.sequence AND a.sequence BETWEEN $3 AND $4), 0) AS "attempts!",
               EXISTS (SELECT FROM ingest.attempts a
                   WHERE a.lane = $1 AND a.sequence = p.sequence AND a.sequence BETWEEN $3 AND $4
                     AND a.finish_time IS NULL AND a.epoch < $2) AS "died!"
        FROM ingest.parked p WHERE p.lane = $1 AND p.sequence BETWEEN $3 AND $4 ORDER BY p.sequence
        "#,
        lane,
        epoch,
        first,
        last,
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
