//! Which events a replay runs again.

use chatfn_domain::name::{ConversationId, TemplateName};
use sqlx::PgConnection;

use super::{
    super::{Time, days, deliveries::Key, interventions::Place},
    Filter,
};

/// Events that one look goes through, at most.
const LOOK: i64 = 5_000;

/// What a look found.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Events that match, in the order in which they were accepted.
    pub(crate) places: Vec<Place>,
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<Key>,
}

/// Looks for up to `most` events after `after` that match and had their outcome before `before`; goes through a bounded
/// number, of a bounded number of days, so it may find fewer although there are more.
pub(crate) async fn look(
    connection: &mut PgConnection,
    filter: &Filter,
    after: Key,
    before: Option<Time>,
    most: i64,
) -> Result<Look, sqlx::Error> {
    let (account, conversation) =
        (filter.account.as_str(), filter.conversation_id.as_ref().map(ConversationId::as_str));
    let start = after.accept_time.max(filter.start_time);
    // Within a transaction, whose locks add up: one part only.
    let part = days::first(&mut *connection, start, filter.end_time, days::MOST).await?;
    // Two statements, so that each has the index that it needs, whatever the planner knows.
    struct Row {
        lane: i16,
        sequence: i64,
        accept_time: Time,
        matches: bool,
    }
    let rows = if let Some(conversation) = conversation {
        sqlx::query_as!(
            Row,
            r#"
            SELECT e.lane, e.sequence, e.accept_time AS "accept_time: Time",
                   e.accept_time >= $4 AND e.accept_time < $5 AND ($6::text IS NULL OR e.template = $6)
                   AND coalesce((SELECT o.state = ANY($7) AND o.finish_time < coalesce($8::timestamptz, 'infinity')
                       FROM ingest.outcomes o WHERE o.lane = e.lane AND o.sequence = e.sequence
                         AND o.sequence >= $10 AND o.sequence < $11), false) AS "matches!"
            FROM ingest.events e
            WHERE e.account = $1 AND e.conversation_id = $2 AND e.sequence > $3
              AND e.sequence >= $10 AND e.sequence < $11
            ORDER BY e.sequence LIMIT $9
            "#,
            account,
            conversation,
            after.sequence,
            filter.start_time as _,
            filter.end_time as _,
            filter.template.as_ref().map(TemplateName::as_str),
            &filter.states,
            before as _,
            LOOK,
            part.first,
            part.past,
        )
        .fetch_all(connection)
        .await?
    } else {
        sqlx::query_as!(
            Row,
            r#"
            SELECT e.lane, e.sequence, e.accept_time AS "accept_time: Time",
                   ($6::text IS NULL OR e.template = $6)
                   AND coalesce((SELECT o.state = ANY($7) AND o.finish_time < coalesce($8::timestamptz, 'infinity')
                       FROM ingest.outcomes o WHERE o.lane = e.lane AND o.sequence = e.sequence
                         AND o.sequence >= $10 AND o.sequence < $11), false) AS "matches!"
            FROM ingest.events e
            WHERE e.account = $1 AND e.sequence >= $10 AND e.sequence < $11
              AND (e.accept_time, e.lane, e.sequence) > ($2, $3, $4) AND e.accept_time < $5
            ORDER BY e.accept_time, e.lane, e.sequence LIMIT $9
            "#,
            account,
            after.accept_time as _,
            after.lane,
            after.sequence,
            part.end as _,
            filter.template.as_ref().map(TemplateName::as_str),
            &filter.states,
            before as _,
            LOOK,
            part.first,
            part.past,
        )
        .fetch_all(connection)
        .await?
    };
    let is_full = i64::try_from(rows.len()).unwrap_or(i64::MAX) >= LOOK;
    let (mut places, mut next) = (Vec::new(), None);
    for row in rows {
        if i64::try_from(places.len()).unwrap_or(i64::MAX) >= most {
            return Ok(Look { places, next });
        }
        next = Some(Key { accept_time: row.accept_time, lane: row.lane, sequence: row.sequence });
        if row.matches {
            places.push(Place { lane: row.lane, sequence: row.sequence });
        }
    }
    // In a conversation all up to the part's last number has been looked at, otherwise all that was accepted before its end.
    let further = (part.end < filter.end_time).then_some(Key {
        accept_time: part.end,
        lane: -1,
        sequence: part.past - 1,
    });
    Ok(Look { places, next: if is_full { next } else { further } })
}
