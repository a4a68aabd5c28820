//! Who runs which lane. Every time is the database's: replicas' clocks need not agree.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use super::millis;

/// Longer than a run takes, with all that its lane's lease is extended for beyond it: a lambda has 30 s at most.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// A lane that was just taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) lane: i16,
    pub(crate) epoch: i64,
    /// Where to start reading.
    pub(crate) cursor: i64,
}

/// Says that `replica` lives for another `ttl`; gives how many replicas live, itself included.
pub(crate) async fn heartbeat(pool: &PgPool, replica: Uuid, ttl: Duration) -> Result<usize, sqlx::Error> {
    sqlx::query!(
        r#"
        INSERT INTO ingest.replicas (replica, alive_until)
        VALUES ($1, now() + $2::float8 * interval '1 millisecond')
        ON CONFLICT (replica) DO UPDATE SET alive_until = excluded.alive_until
        "#,
        replica,
        millis(ttl),
    )
    .execute(pool)
    .await?;
    let live =
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM ingest.replicas WHERE alive_until > now()"#)
            .fetch_one(pool)
            .await?;
    Ok(usize::try_from(live).unwrap_or_default())
}

/// Forgets `replica` and those that have been silent for an hour.
pub(crate) async fn leave(pool: &PgPool, replica: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM ingest.replicas WHERE replica = $1 OR alive_until < now() - interval '1 hour'",
        replica,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Renews the leases of lanes, given with their epochs; gives those that are still `owner`'s.
pub(crate) async fn renew(
    pool: &PgPool,
    owner: Uuid,
    lanes: &[(i16, i64)],
    ttl: Duration,
) -> Result<Vec<i16>, sqlx::Error> {
    let (lanes, epochs): (Vec<i16>, Vec<i64>) = lanes.iter().copied().unzip();
    // Locked in the order of lanes, as in the journal, so that the two never wait in a circle. A longer
    // lease, which the journal got for a long run, stays; but not one that was given before the database's clock was set back, after
    // whose owner nobody would have the lane until it has caught up.
    sqlx::query_scalar!(
        r#"
        WITH mine AS MATERIALIZED (
            SELECT l.lane FROM ingest.lanes l
            JOIN unnest($2::smallint[], $3::bigint[]) AS held(lane, epoch) USING (lane, epoch)
            WHERE l.owner = $1 ORDER BY l.lane FOR UPDATE OF l
        )
        UPDATE ingest.lanes l
        SET lease_until = least(greatest(l.lease_until, now() + $4::float8 * interval '1 millisecond'),
                                now() + ($4::float8 + $5::float8) * interval '1 millisecond')
        FROM unnest($2::smallint[], $3::bigint[]) AS held(lane, epoch)
        WHERE l.lane = held.lane AND l.epoch = held.epoch AND l.owner = $1
          AND (SELECT count(*) FROM mine) > 0
        RETURNING l.lane
        "#,
        owner,
        &lanes,
        &epochs,
        millis(ttl),
        millis(LONGEST_RUN),
    )
    .fetch_all(pool)
    .await
}

/// Takes over up to `most` lanes that nobody holds.
pub(crate) async fn claim(
    pool: &PgPool,
    owner: Uuid,
    most: usize,
    ttl: Duration,
) -> Result<Vec<Claimed>, sqlx::Error> {
    sqlx::query_as!(
        Claimed,
        r#"
        WITH free AS MATERIALIZED (
            SELECT lane FROM ingest.lanes
            WHERE owner IS NULL OR lease_until < now()
            ORDER BY lane LIMIT $2 FOR UPDATE SKIP LOCKED
        )
        UPDATE ingest.lanes l
        SET owner = $1, epoch = l.epoch + 1, lease_until = now() + $3::float8 * interval '1 millisecond'
        FROM free WHERE l.lane = free.lane
        RETURNING l.lane, l.epoch, l.cursor
        "#,
        owner,
        i64::try_from(most).unwrap_or(i64::MAX),
        millis(ttl),
    )
    .fetch_all(pool)
    .await
}

/// Gives lanes up, each with its epoch, so that other replicas can have them at once.
pub(crate) async fn release(pool: &PgPool, owner: Uuid, lanes: &[(i16, i64)]) -> Result<(), sqlx::Error> {
    let (lanes, epochs): (Vec<i16>, Vec<i64>) = lanes.iter().copied().unzip();
    sqlx::query!(
        r#"
        UPDATE ingest.lanes l SET owner = NULL, lease_until = NULL
        FROM unnest($1::smallint[], $2::bigint[]) AS given(lane, epoch)
        WHERE l.lane = given.lane AND l.epoch = given.epoch AND l.owner = $3
        "#,
        &lanes,
        &epochs,
        owner,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The next free sequence number of every lane. All below it are committed.
pub(crate) async fn heads(pool: &PgPool) -> Result<Vec<(i16, i64)>, sqlx::Error> {
    let rows = sqlx::query!("SELECT lane, next_sequence FROM ingest.lane_heads").fetch_all(pool).await?;
    Ok(rows.into_iter().map(|row| (row.lane, row.next_sequence)).collect())
}

/// The next free sequence number of one lane.
pub(crate) async fn head(pool: &PgPool, lane: i16) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!("SELECT next_sequence FROM ingest.lane_heads WHERE lane = $1", lane)
        .fetch_one(pool)
        .await
}
