//! What was passed over of an account.

use chatfn_domain::name::{AccountId, ConversationId};
use sqlx::PgPool;

use super::inconsistent;

/// A part of a lane, in which one account's events are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) lane: i16,
    /// From this sequence number …
    pub(crate) from: i64,
    /// … up to this one.
    pub(crate) to: i64,
    /// Events of the lane that are looked at, at most.
    pub(crate) looked_at: i64,
    /// Unfinished events of the account that are found, at most.
    pub(crate) rows: i64,
}

/// Events of an account that were passed over.
#[derive(Debug, Clone)]
pub(crate) struct PassedOver {
    /// In their order.
    pub(crate) events: Vec<(i64, AccountId, ConversationId)>,
    /// These are all up to here.
    pub(crate) looked_to: i64,
}

/// Finds the unfinished events of an account in a part of a lane, without what they hold.
pub(crate) async fn passed_over(
    pool: &PgPool,
    account: &AccountId,
    part: Part,
) -> Result<PassedOver, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        WITH looked AS MATERIALIZED (
            SELECT sequence, account, conversation_id FROM ingest.events
            WHERE lane = $1 AND sequence >= $2 AND sequence <= $3 ORDER BY sequence LIMIT $4
        )
        SELECT e.sequence AS "sequence?", e.conversation_id AS "conversation_id?",
               CASE WHEN l.count = $4 THEN l.last ELSE $3 END AS "looked_to!"
        FROM (SELECT count(*) AS count, max(sequence) AS last FROM looked) l
        LEFT JOIN LATERAL (
            SELECT sequence, conversation_id FROM looked
            WHERE account = $5 AND (SELECT o.state FROM ingest.outcomes o
                WHERE o.lane = $1 AND o.sequence = looked.sequence AND o.sequence >= $2 AND o.sequence <= $3) IS NULL
            ORDER BY sequence LIMIT $6
        ) e ON true
        ORDER BY e.sequence
        "#,
        part.lane,
        part.from,
        part.to,
        part.looked_at,
        account.as_str(),
        part.rows,
    )
    .fetch_all(pool)
    .await?;
    let mut looked_to = rows.first().map_or(part.to, |row| row.looked_to);
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        if let (Some(sequence), Some(id)) = (row.sequence, row.conversation_id) {
            events.push((sequence, account.clone(), id.parse().map_err(inconsistent)?));
        }
    }
    if i64::try_from(events.len()).unwrap_or(i64::MAX) >= part.rows {
        looked_to = events.last().map_or(looked_to, |(sequence, ..)| *sequence);
    }
    Ok(PassedOver { events, looked_to })
}
