//! The account of events, for callers.

use chatfn_domain::name::{AccountId, ConversationId, EventId, TemplateName};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Time, days, interventions::Place, journal::ParkKind, span};

/// Events, or outcomes of a state, that a filtered page looks at, at most: bounds what one call can cost, however rare a match
/// is.
const SCAN: i64 = 5_000;
/// How often one call does that for what is parked, while it finds none: an operator who asks for it once should see some.
const SCANS: usize = 10;

/// Attempts, and past states, of one delivery that are read: it may be replayed without end.
const NEWEST: i64 = 100;
/// Past states of one delivery that are kept.
pub(super) const NEWEST_PAST: i32 = 100;
/// Bytes of the reports of one delivery that are read. A report has at most a little over 1 MiB, so the newest one is.
const REPORT_BYTES: i64 = 1536 * 1024;

/// Where an event stands. See the view `ingest.deliveries`.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryRow {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) account: String,
    pub(crate) event_id: String,
    pub(crate) template: String,
    pub(crate) conversation_id: String,
    pub(crate) occur_time: Option<Time>,
    pub(crate) deliver_by: Option<Time>,
    pub(crate) accept_time: Time,
    pub(crate) state: i16,
    pub(crate) reason: String,
    pub(crate) reason_message: String,
    pub(crate) finish_time: Option<Time>,
    pub(crate) next_attempt_time: Option<Time>,
}

/// A try to run an event.
#[derive(Debug, Clone)]
pub(crate) struct AttemptRow {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) number: i32,
    pub(crate) start_time: Time,
    pub(crate) finish_time: Option<Time>,
    /// Encoded `RunReport`.
    pub(crate) report: Option<Vec<u8>>,
    pub(crate) platform_error: String,
    pub(crate) platform_error_message: String,
}

/// What a delivery had come to before an operator acted.
#[derive(Debug, Clone)]
pub(crate) struct PastRow {
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
    pub(crate) state: i16,
    pub(crate) reason: String,
    pub(crate) reason_message: String,
    pub(crate) finish_time: Time,
    pub(crate) attempts: i32,
    pub(crate) action: i16,
    pub(crate) actor: String,
    pub(crate) action_time: Time,
    pub(crate) replay: Option<Uuid>,
}

/// Place of a delivery in a list, which is from new to old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) accept_time: Time,
    pub(crate) lane: i16,
    pub(crate) sequence: i64,
}

impl Key {
    /// Before every delivery: where the first page starts.
    pub(crate) const START: Self = Self { accept_time: Time::MAX, lane: i16::MAX, sequence: i64::MAX };
    /// After every delivery.
    const END: Self = Self { accept_time: Time::MIN, lane: -1, sequence: -1 };
}

impl DeliveryRow {
    pub(crate) fn key(&self) -> Key {
        Key { accept_time: self.accept_time, lane: self.lane, sequence: self.sequence }
    }
}

/// What a list shows.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) account: AccountId,
    pub(crate) state: Option<i16>,
    pub(crate) template: Option<TemplateName>,
}

/// `query_as!` of the view's columns with the given rest of the statement.
macro_rules! deliveries {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            DeliveryRow,
            r#"
            SELECT d.lane AS "lane!", d.sequence AS "sequence!", d.account AS "account!", d.event_id AS "event_id!",
                   d.template AS "template!", d.conversation_id AS "conversation_id!",
                   d.occur_time AS "occur_time: Time", d.deliver_by AS "deliver_by: Time",
                   d.accept_time AS "accept_time!: Time", d.state AS "state!", d.reason AS "reason!",
                   d.reason_message AS "reason_message!", d.finish_time AS "finish_time: Time",
                   d.next_attempt_time AS "next_attempt_time: Time"
            "# + $rest,
            $($argument),*
        )
    };
}

/// The delivery of an event.
pub(crate) async fn get(
    pool: &PgPool,
    account: &AccountId,
    event_id: &EventId,
) -> Result<Option<DeliveryRow>, sqlx::Error> {
    deliveries!(
        // An id that was used again after a long time stands for the last of its events, unless an earlier one is halted:
        // an operator must be able to see and skip it.
        "FROM ingest.deliveries d WHERE d.account = $1 AND d.event_id = $2
         ORDER BY d.state = 8 DESC, d.sequence DESC LIMIT 1",
        account.as_str(),
        event_id.as_str(),
    )
    .fetch_optional(pool)
    .await
}

/// The delivery that a conversation is halted at, if it is.
pub(crate) async fn halted(
    pool: &PgPool,
    account: &AccountId,
    conversation: &ConversationId,
) -> Result<Option<DeliveryRow>, sqlx::Error> {
    deliveries!(
        "FROM ingest.parked p JOIN ingest.deliveries d ON d.lane = p.lane AND d.sequence = p.sequence
         WHERE p.account = $1 AND p.conversation_id = $2 AND p.kind = 1 AND d.state = 8 LIMIT 1",
        account.as_str(),
        conversation.as_str(),
    )
    .fetch_optional(pool)
    .await
}

/// The deliveries in these places, each lane's in its order.
pub(crate) async fn in_places(pool: &PgPool, places: &[Place]) -> Result<Vec<DeliveryRow>, sqlx::Error> {
    let (first, last) = span(places.iter().map(|place| place.sequence));
    deliveries!(
        "FROM unnest($1::smallint[], $2::bigint[]) AS wanted(lane, sequence)
         CROSS JOIN LATERAL (
             SELECT * FROM ingest.deliveries v
             WHERE v.lane = wanted.lane AND v.sequence = wanted.sequence AND v.sequence BETWEEN $3 AND $4 LIMIT 1
         ) d
         ORDER BY d.lane, d.sequence",
        &places.iter().map(|place| place.lane).collect::<Vec<_>>(),
        &places.iter().map(|place| place.sequence).collect::<Vec<_>>(),
        first,
        last,
    )
    .fetch_all(pool)
    .await
}

/// The deliveries of a conversation after `after`, in its order.
pub(crate) async fn conversation(
    pool: &PgPool,
    account: &AccountId,
    conversation: &ConversationId,
    after: i64,
    rows: i64,
) -> Result<Vec<DeliveryRow>, sqlx::Error> {
    deliveries!(
        "FROM ingest.deliveries d WHERE d.account = $1 AND d.conversation_id = $2 AND d.sequence > $3
         ORDER BY d.sequence LIMIT $4",
        account.as_str(),
        conversation.as_str(),
        after,
        rows,
    )
    .fetch_all(pool)
    .await
}

/// Deliveries after `after` in a list, from new to old; and where to go on, if there may be more.
pub(crate) async fn list(
    pool: &PgPool,
    filter: &Filter,
    mut after: Key,
    rows: i64,
) -> Result<(Vec<DeliveryRow>, Option<Key>), sqlx::Error> {
    let parked = match filter.state {
        Some(2) => parked(pool, &filter.account, ParkKind::Retry).await?,
        Some(8) => parked(pool, &filter.account, ParkKind::Halted).await?,
        _ => None,
    };
    if let Some(places) = parked {
        let found = list_of(pool, filter, &places, after, rows).await?;
        let next = if is_full(&found, rows) { found.last().map(DeliveryRow::key) } else { None };
        return Ok((found, next));
    }
    let scans = if matches!(filter.state, Some(2 | 8)) { SCANS } else { 1 };
    for _ in 1..scans {
        match scan(pool, filter, after, rows).await? {
            (found, Some(next)) if found.is_empty() => after = next,
            page => return Ok(page),
        }
    }
    scan(pool, filter, after, rows).await
}

/// The same, found by looking at a part of the account's events or outcomes.
async fn scan(
    pool: &PgPool,
    filter: &Filter,
    after: Key,
    rows: i64,
) -> Result<(Vec<DeliveryRow>, Option<Key>), sqlx::Error> {
    let end = match (filter.state, &filter.template) {
        (None, None) => None,
        // Their index has each state's apart, but not each template's.
        (Some(4..=7), None) => None,
        (Some(state @ 4..=7), Some(_)) => end_of_outcomes(pool, &filter.account, state, after).await?,
        _ => end_of_scan(pool, &filter.account, after).await?,
    };
    let last = end.unwrap_or(Key::END);
    let (first, past) = days::sequences(pool, last.accept_time, after.accept_time).await?;
    let (account, template) = (filter.account.as_str(), filter.template.as_ref().map(TemplateName::as_str));
    let found = match filter.state {
        Some(state @ 4..=7) => {
            deliveries!(
                "FROM ingest.outcomes o JOIN ingest.deliveries d ON d.lane = o.lane AND d.sequence = o.sequence
                 WHERE o.account = $1 AND o.state = $2 AND o.state <> 3 AND ($3::text IS NULL OR d.template = $3)
                   AND (o.accept_time, o.lane, o.sequence) < ($4, $5, $6)
                   AND (o.accept_time, o.lane, o.sequence) >= ($8, $9, $10)
                   AND o.sequence >= $11 AND o.sequence < $12
                 ORDER BY o.accept_time DESC, o.lane DESC, o.sequence DESC LIMIT $7",
                account,
                state,
                template,
                after.accept_time as _,
                after.lane,
                after.sequence,
                rows,
                last.accept_time as _,
                last.lane,
                last.sequence,
                first,
                past,
            )
            .fetch_all(pool)
            .await?
        }
        state => {
            deliveries!(
                "FROM ingest.deliveries d
                 WHERE d.account = $1 AND ($2::smallint IS NULL OR d.state = $2) AND ($3::text IS NULL OR d.template = $3)
                   AND (d.accept_time, d.lane, d.sequence) < ($4, $5, $6)
                   AND (d.accept_time, d.lane, d.sequence) >= ($7, $8, $9)
                   AND d.sequence >= $11 AND d.sequence < $12
                 ORDER BY d.accept_time DESC, d.lane DESC, d.sequence DESC LIMIT $10",
                account,
                state,
                template,
                after.accept_time as _,
                after.lane,
                after.sequence,
                last.accept_time as _,
                last.lane,
                last.sequence,
                rows,
                first,
                past,
            )
            .fetch_all(pool)
            .await?
        }
    };
    let next = if is_full(&found, rows) { found.last().map(DeliveryRow::key) } else { end };
    Ok((found, next))
}

fn is_full(found: &[DeliveryRow], rows: i64) -> bool {
    i64::try_from(found.len()).unwrap_or(i64::MAX) >= rows
}

/// What of an account is parked in this way; `None` if that is more than one page may look at: then it is looked for among
/// the account's events, as PENDING ones are: `parked` does not know the order of the list.
async fn parked(
    pool: &PgPool,
    account: &AccountId,
    kind: ParkKind,
) -> Result<Option<Vec<Place>>, sqlx::Error> {
    let places = sqlx::query_as!(
        Place,
        "SELECT lane, sequence FROM ingest.parked WHERE account = $1 AND kind = $2 LIMIT $3",
        account.as_str(),
        kind as i16,
        SCAN + 1,
    )
    .fetch_all(pool)
    .await?;
    Ok((i64::try_from(places.len()).unwrap_or(i64::MAX) <= SCAN).then_some(places))
}

/// Those of the deliveries in these places that a list shows after `after`.
async fn list_of(
    pool: &PgPool,
    filter: &Filter,
    places: &[Place],
    after: Key,
    rows: i64,
) -> Result<Vec<DeliveryRow>, sqlx::Error> {
    let (first, last) = span(places.iter().map(|place| place.sequence));
    deliveries!(
        "FROM unnest($1::smallint[], $2::bigint[]) AS wanted(lane, sequence)
         CROSS JOIN LATERAL (
             SELECT * FROM ingest.deliveries v
             WHERE v.lane = wanted.lane AND v.sequence = wanted.sequence AND v.sequence BETWEEN $3 AND $4 LIMIT 1
         ) d
         WHERE d.account = $5 AND d.state = $6 AND ($7::text IS NULL OR d.template = $7)
           AND (d.accept_time, d.lane, d.sequence) < ($8, $9, $10)
         ORDER BY d.accept_time DESC, d.lane DESC, d.sequence DESC LIMIT $11",
        &places.iter().map(|place| place.lane).collect::<Vec<_>>(),
        &places.iter().map(|place| place.sequence).collect::<Vec<_>>(),
        first,
        last,
        filter.account.as_str(),
        filter.state,
        filter.template.as_ref().map(TemplateName::as_str),
        after.accept_time as _,
        after.lane,
        after.sequence,
        rows,
    )
    .fetch_all(pool)
    .await
}

/// The last event that a scan from `after` looks at; `None` if it looks at all.
async fn end_of_scan(pool: &PgPool, account: &AccountId, after: Key) -> Result<Option<Key>, sqlx::Error> {
    sqlx::query_as!(
        Key,
        r#"
        SELECT accept_time AS "accept_time: Time", lane, sequence FROM ingest.events
        WHERE account = $1 AND (accept_time, lane, sequence) < ($2, $3, $4)
        ORDER BY accept_time DESC, lane DESC, sequence DESC OFFSET $5 LIMIT 1
        "#,
        account.as_str(),
        after.accept_time as _,
        after.lane,
        after.sequence,
        SCAN - 1,
    )
    .fetch_optional(pool)
    .await
}

/// The same among the outcomes of one state, which is none that is parked, nor SUCCEEDED.
async fn end_of_outcomes(
    pool: &PgPool,
    account: &AccountId,
    state: i16,
    after: Key,
) -> Result<Option<Key>, sqlx::Error> {
    sqlx::query_as!(
        Key,
        r#"
        SELECT accept_time AS "accept_time: Time", lane, sequence FROM ingest.outcomes
        WHERE account = $1 AND state = $2 AND state <> 3 AND (accept_time, lane, sequence) < ($3, $4, $5)
        ORDER BY accept_time DESC, lane DESC, sequence DESC OFFSET $6 LIMIT 1
        "#,
        account.as_str(),
        state,
        after.accept_time as _,
        after.lane,
        after.sequence,
        SCAN - 1,
    )
    .fetch_optional(pool)
    .await
}

/// What the attempts of each of these deliveries weigh, in bytes, as [`attempts`] reads them.
pub(crate) async fn weights(pool: &PgPool, of: &[DeliveryRow]) -> Result<Vec<usize>, sqlx::Error> {
    let (first, last) = span(of.iter().map(|row| row.sequence));
    let weights = sqlx::query_scalar!(
        r#"
        SELECT least(coalesce((
            SELECT sum(octet_length(a.report)) FROM ingest.attempts a
            WHERE a.lane = wanted.lane AND a.sequence = wanted.sequence AND a.sequence BETWEEN $4 AND $5), 0), $3::bigint) AS "weight!: i64"
        FROM unnest($1::smallint[], $2::bigint[]) WITH ORDINALITY AS wanted(lane, sequence, position)
        ORDER BY wanted.position
        "#,
        &of.iter().map(|row| row.lane).collect::<Vec<_>>(),
        &of.iter().map(|row| row.sequence).collect::<Vec<_>>(),
        REPORT_BYTES,
        first,
        last,
    )
    .fetch_all(pool)
    .await?;
    Ok(weights.into_iter().map(|weight| usize::try_from(weight).unwrap_or(usize::MAX)).collect())
}

/// The newest attempts of deliveries, each delivery's in their order; the older ones without their reports when these are
/// more than fits.
pub(crate) async fn attempts(pool: &PgPool, of: &[DeliveryRow]) -> Result<Vec<AttemptRow>, sqlx::Error> {
    let (first, last) = span(of.iter().map(|row| row.sequence));
    sqlx::query_as!(
        AttemptRow,
        r#"
        SELECT a.lane AS "lane!", a.sequence AS "sequence!", a.number AS "number!",
               a.start_time AS "start_time!: Time", a.finish_time AS "finish_time: Time",
               CASE WHEN a.newer <= $4 THEN a.report END AS report,
               a.platform_error AS "platform_error!", a.platform_error_message AS "platform_error_message!"
        FROM unnest($1::smallint[], $2::bigint[]) AS wanted(lane, sequence)
        CROSS JOIN LATERAL (
            SELECT *, sum(octet_length(t.report)) OVER (ORDER BY t.number DESC) AS newer
            FROM (
                SELECT * FROM ingest.attempts
                WHERE lane = wanted.lane AND sequence = wanted.sequence AND sequence BETWEEN $5 AND $6
                ORDER BY number DESC LIMIT $3
            ) t
        ) a
        ORDER BY a.lane, a.sequence, a.number
        "#,
        &of.iter().map(|row| row.lane).collect::<Vec<_>>(),
        &of.iter().map(|row| row.sequence).collect::<Vec<_>>(),
        NEWEST,
        REPORT_BYTES,
        first,
        last,
    )
    .fetch_all(pool)
    .await
}

/// What deliveries had come to before operators acted, the newest of it, each delivery's in its order.
pub(crate) async fn past(pool: &PgPool, of: &[DeliveryRow]) -> Result<Vec<PastRow>, sqlx::Error> {
    sqlx::query_as!(
        PastRow,
        r#"
        SELECT s.lane, s.sequence, s.state, s.reason, s.reason_message, s.finish_time AS "finish_time: Time",
               s.attempts, s.action, s.actor, s.action_time AS "action_time: Time", s.replay
        FROM unnest($1::smallint[], $2::bigint[]) AS wanted(lane, sequence)
        CROSS JOIN LATERAL (
            SELECT * FROM ingest.superseded p
            WHERE p.lane = wanted.lane AND p.sequence = wanted.sequence
            ORDER BY p.number DESC LIMIT $3
        ) s
        ORDER BY s.lane, s.sequence, s.number
        "#,
        &of.iter().map(|row| row.lane).collect::<Vec<_>>(),
        &of.iter().map(|row| row.sequence).collect::<Vec<_>>(),
        NEWEST,
    )
    .fetch_all(pool)
    .await
}
