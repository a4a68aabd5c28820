//! What has been done about deliveries.

use sqlx::PgPool;
use uuid::Uuid;

use super::{
    super::{Time, days, span},
    DeliveryRow,
};

/// Attempts, and past states, of one delivery that are read: it may be replayed without end.
const NEWEST: i64 = 100;
/// Past states of one delivery that are kept.
pub(in crate::store) const NEWEST_PAST: i32 = 100;
/// Bytes of the reports of one delivery that are read. A report has at most a little over 1 MiB, so the newest one is.
const REPORT_BYTES: i64 = 1536 * 1024;

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

/// What the attempts of each of these deliveries weigh, in bytes, as [`attempts`] reads them.
pub(crate) async fn weights(pool: &PgPool, of: &[DeliveryRow]) -> Result<Vec<usize>, sqlx::Error> {
    let mut weights = vec![0; of.len()];
    let of: Vec<_> = of.iter().enumerate().collect();
    for part in days::parts(&of, |(_, row)| row.sequence) {
        let rows: Vec<_> = part.iter().map(|(_, row)| *row).collect();
        for ((index, _), weight) in part.iter().zip(weights_of(pool, &rows).await?) {
            weights[*index] = usize::try_from(weight).unwrap_or(usize::MAX);
        }
    }
    Ok(weights)
}

async fn weights_of(pool: &PgPool, of: &[&DeliveryRow]) -> Result<Vec<i64>, sqlx::Error> {
    let (first, last) = span(of.iter().map(|row| row.sequence));
    sqlx::query_scalar!(
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
    .await
}

/// The newest attempts of deliveries, each delivery's in their order; the older ones without their reports when these are
/// more than fits.
pub(crate) async fn attempts(pool: &PgPool, of: &[DeliveryRow]) -> Result<Vec<AttemptRow>, sqlx::Error> {
    let mut attempts = Vec::new();
    for part in days::parts(of, |row| row.sequence) {
        attempts.extend(attempts_of(pool, &part).await?);
    }
    Ok(attempts)
}

async fn attempts_of(pool: &PgPool, of: &[&DeliveryRow]) -> Result<Vec<AttemptRow>, sqlx::Error> {
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
