//! What goes on in conversations of a lane.

use chatfn_domain::name::{AccountId, ConversationId};
use sqlx::PgPool;

use super::{Row, StoredEvent, Time, into_events};

/// A conversation to read on in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) account: AccountId,
    pub(crate) conversation_id: ConversationId,
    /// Read from this sequence number …
    pub(crate) from: i64,
    /// … up to this one.
    pub(crate) to: i64,
    pub(crate) rows: i64,
    /// As in [`Range`].
    pub(crate) bytes: i64,
}

/// What was read on in a conversation.
#[derive(Debug, Clone)]
pub(crate) struct Resumed {
    /// In their order.
    pub(crate) events: Vec<StoredEvent>,
    /// Whether these are all that is unfinished there.
    pub(crate) is_complete: bool,
}

/// Unfinished events of conversations, each in its order; gives those of `conversations[i]` at `[i]`.
pub(crate) async fn resume(
    pool: &PgPool,
    lane: i16,
    epoch: i64,
    conversations: &[Resume],
) -> Result<Vec<Resumed>, sqlx::Error> {
    let accounts: Vec<&str> = conversations.iter().map(|c| c.account.as_str()).collect();
    let ids: Vec<&str> = conversations.iter().map(|c| c.conversation_id.as_str()).collect();
    let rows = unfinished!(
        "wanted.position",
        "FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
             WITH ORDINALITY AS wanted(account, conversation_id, first, last, rows, bytes, position)
         CROSS JOIN LATERAL (
             SELECT *, sum(size) OVER (ORDER BY sequence) - size AS before, count(*) OVER () AS found
             FROM (
                 SELECT *, octet_length(payload) + coalesce(octet_length(headers), 0) AS size FROM ingest.events
                 WHERE account = wanted.account AND conversation_id = wanted.conversation_id
                   AND sequence >= wanted.first AND sequence <= wanted.last
                   AND (SELECT o.state FROM ingest.outcomes o
                        WHERE o.lane = $1 AND o.sequence = events.sequence) IS NULL
                 ORDER BY sequence LIMIT wanted.rows
             ) unfinished
         ) e
         LEFT JOIN LATERAL (
             SELECT * FROM ingest.parked WHERE lane = $1 AND sequence = e.sequence LIMIT 1
         ) p ON true
         WHERE e.before < wanted.bytes
         ORDER BY wanted.position, e.sequence",
        lane,
        epoch,
        &accounts as _,
        &ids as _,
        &conversations.iter().map(|c| c.from).collect::<Vec<_>>(),
        &conversations.iter().map(|c| c.to).collect::<Vec<_>>(),
        &conversations.iter().map(|c| c.rows).collect::<Vec<_>>(),
        &conversations.iter().map(|c| c.bytes).collect::<Vec<_>>(),
    )
    .fetch_all(pool)
    .await?;
    let places: Vec<(i64, i64)> = rows.iter().map(|row| (row.position, row.found)).collect();
    let mut resumed = vec![Resumed { events: Vec::new(), is_complete: true }; conversations.len()];
    for (event, (position, found)) in into_events(rows)?.into_iter().zip(places) {
        let Some(index) = usize::try_from(position - 1).ok().filter(|index| *index < resumed.len()) else {
            continue;
        };
        resumed[index].events.push(event);
        let read = i64::try_from(resumed[index].events.len()).unwrap_or(i64::MAX);
        resumed[index].is_complete = read == found && found < conversations[index].rows;
    }
    Ok(resumed)
}
