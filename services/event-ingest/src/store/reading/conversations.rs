//! What goes on in conversations of a lane.

use chatfn_domain::name::{AccountId, ConversationId};
use sqlx::PgPool;

use super::{
    super::{days, span},
    Row, StoredEvent, Time, into_events,
};

/// A conversation to read on in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) account: AccountId,
    pub(crate) conversation_id: ConversationId,
    /// Read from this sequence number …
    pub(crate) from: i64,
    /// … up to this one.
    pub(crate) to: i64,
    /// Events of the conversation that are looked at, at most.
    pub(crate) looked_at: i64,
    /// Unfinished ones that are found, at most.
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
    /// What comes after this sequence number was not looked at.
    pub(crate) looked_to: i64,
}

/// Unfinished events of conversations, each in its order; gives those of `conversations[i]` at `[i]`. It looks at a few days of each.
pub(crate) async fn resume(
    pool: &PgPool,
    lane: i16,
    epoch: i64,
    conversations: &[Resume],
) -> Result<Vec<Resumed>, sqlx::Error> {
    let mut resumed = Vec::with_capacity(conversations.len());
    let numbered: Vec<(usize, &Resume)> = conversations.iter().enumerate().collect();
    for part in days::parts(&numbered, |(_, wanted)| wanted.from) {
        let wanted: Vec<&Resume> = part.iter().map(|(_, wanted)| *wanted).collect();
        let found = resume_part(pool, lane, epoch, &wanted).await?;
        resumed.extend(part.iter().map(|(index, _)| *index).zip(found));
    }
    resumed.sort_by_key(|(index, _)| *index);
    Ok(resumed.into_iter().map(|(_, resumed)| resumed).collect())
}

/// The same of conversations that are read on from days near each other.
async fn resume_part(
    pool: &PgPool,
    lane: i16,
    epoch: i64,
    conversations: &[&Resume],
) -> Result<Vec<Resumed>, sqlx::Error> {
    let accounts: Vec<&str> = conversations.iter().map(|c| c.account.as_str()).collect();
    let ids: Vec<&str> = conversations.iter().map(|c| c.conversation_id.as_str()).collect();
    let looked_to = shortened(pool, conversations).await?;
    let (first, last) = span(conversations.iter().map(|c| c.from).chain(looked_to.iter().copied()));
    let rows = unfinished!(
        "wanted.position",
        "a.sequence BETWEEN $9 AND $10",
        "FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
             WITH ORDINALITY AS wanted(account, conversation_id, first, last, rows, bytes, position)
         CROSS JOIN LATERAL (
             SELECT *, sum(size) OVER (ORDER BY sequence) - size AS before, count(*) OVER () AS found
             FROM (
                 SELECT *, octet_length(payload) + coalesce(octet_length(headers), 0) AS size FROM ingest.events
                 WHERE account = wanted.account AND conversation_id = wanted.conversation_id
                   AND sequence >= wanted.first AND sequence <= wanted.last AND sequence BETWEEN $9 AND $10
                   AND (SELECT o.state FROM ingest.outcomes o
                        WHERE o.lane = $1 AND o.sequence = events.sequence
                          AND o.sequence BETWEEN $9 AND $10) IS NULL
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
        &looked_to,
        &conversations.iter().map(|c| c.rows).collect::<Vec<_>>(),
        &conversations.iter().map(|c| c.bytes).collect::<Vec<_>>(),
        first,
        last,
    )
    .fetch_all(pool)
    .await?;
    let places: Vec<(i64, i64)> = rows.iter().map(|row| (row.position, row.found)).collect();
    let nothing = |(wanted, looked_to): (&&Resume, i64)| Resumed {
        events: Vec::new(),
        is_complete: looked_to >= wanted.to,
        looked_to,
    };
    let mut resumed: Vec<Resumed> = conversations.iter().zip(looked_to).map(nothing).collect();
    for (event, (position, found)) in into_events(rows)?.into_iter().zip(places) {
        let Some(index) = usize::try_from(position - 1).ok().filter(|index| *index < resumed.len()) else {
            continue;
        };
        let (wanted, resumed) = (&conversations[index], &mut resumed[index]);
        resumed.events.push(event);
        let read = i64::try_from(resumed.events.len()).unwrap_or(i64::MAX);
        resumed.is_complete = resumed.looked_to >= wanted.to && read == found && found < wanted.rows;
    }
    Ok(resumed)
}

/// Up to where each of these conversations is looked at.
async fn shortened(pool: &PgPool, conversations: &[&Resume]) -> Result<Vec<i64>, sqlx::Error> {
    let mut looked_to: Vec<i64> = conversations.iter().map(|c| c.to.min(days::most_after(c.from))).collect();
    // A conversation has no more events than its lane has numbers: most need not be asked about.
    let long: Vec<(usize, &Resume)> = conversations
        .iter()
        .enumerate()
        .filter(|(index, c)| looked_to[*index].saturating_sub(c.from) >= c.looked_at)
        .map(|(index, c)| (index, *c))
        .collect();
    if long.is_empty() {
        return Ok(looked_to);
    }
    let (first, last) = span(long.iter().flat_map(|(index, c)| [c.from, looked_to[*index]]));
    let ends = sqlx::query_scalar!(
        r#"
        SELECT coalesce((SELECT sequence FROM ingest.events
            WHERE account = wanted.account AND conversation_id = wanted.conversation_id
              AND sequence >= wanted.first AND sequence <= wanted.last AND sequence BETWEEN $6 AND $7
            ORDER BY sequence OFFSET wanted.looked_at - 1 LIMIT 1), wanted.last) AS "looked_to!"
        FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
            WITH ORDINALITY AS wanted(account, conversation_id, first, last, looked_at, position)
        ORDER BY wanted.position
        "#,
        &long.iter().map(|(_, c)| c.account.as_str()).collect::<Vec<_>>() as _,
        &long.iter().map(|(_, c)| c.conversation_id.as_str()).collect::<Vec<_>>() as _,
        &long.iter().map(|(_, c)| c.from).collect::<Vec<_>>(),
        &long.iter().map(|(index, _)| looked_to[*index]).collect::<Vec<_>>(),
        &long.iter().map(|(_, c)| c.looked_at).collect::<Vec<_>>(),
        first,
        last,
    )
    .fetch_all(pool)
    .await?;
    for ((index, _), end) in long.into_iter().zip(ends) {
        looked_to[index] = end;
    }
    Ok(looked_to)
}
