//! Makes the partitions of the days to come, opens the new day, and drops days that are old enough.
//!
//! Every replica does all of it: each step is safe to do twice, and two that meet do it one after another or find it
//! done. Nothing breaks when nobody does: events go into the last day that was opened for as long as that takes.
//!
//! A day goes as a whole, and only when each of its events has its outcome. One that waits for another attempt, or that
//! is halted and waits for an operator, keeps its day, whatever its age; the log says so at every look.

use std::{convert::Infallible, time::Duration};

use chatfn_domain::lane::LANES;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    config::RetentionConfig,
    store::days::{self, Day, PARTITIONED},
};

/// Time between looks: how late a day may begin.
const PERIOD: Duration = Duration::from_secs(60);
/// Partitions that exist ahead of time, in days.
const AHEAD: u16 = 3;
/// Events of an old day that are looked at in one statement.
const ROWS: i64 = 5_000;

/// Keeps the days until `stop`. `pool` should wait only shortly for locks, behind which everybody else waits.
pub(crate) async fn run(
    config: RetentionConfig,
    pool: PgPool,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        let looked = tokio::select! {
            looked = look(&config, &pool) => looked,
            () = stop.cancelled() => return Ok(()),
        };
        if let Err(error) = looked {
            tracing::warn!(
                "cannot keep the days of the event log, and tries again: {}",
                chatfn_pg::error::describe(&error)
            );
        }
        tokio::select! {
            // Not all replicas at the same time.
            () = tokio::time::sleep(PERIOD.mul_f64(0.75 + rand::random::<f64>() / 2.0)) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Does what has to be done now.
pub(crate) async fn look(config: &RetentionConfig, pool: &PgPool) -> Result<(), sqlx::Error> {
    days::prepare(pool, AHEAD).await?;
    days::open(pool).await?;
    for day in days::ended(pool, config.retention_days).await? {
        match undecided(pool, &day).await? {
            0 => drop_day(pool, &day).await?,
            undecided => tracing::warn!(
                day = day.day,
                undecided,
                "{} is {} days old and is kept: {undecided} of its events have no outcome; list those that are halted \
                 and resume or skip them",
                day.day,
                config.retention_days,
            ),
        }
    }
    Ok(())
}

async fn undecided(pool: &PgPool, day: &Day) -> Result<i64, sqlx::Error> {
    let mut undecided = 0;
    for lane in 0..LANES {
        undecided += days::undecided(pool, lane, day).await?;
    }
    Ok(undecided)
}

async fn forget_latches(pool: &PgPool, day: &Day) -> Result<(), sqlx::Error> {
    for lane in 0..LANES {
        let mut after = None;
        loop {
            after = match days::forget_latches(pool, lane, day, after, ROWS).await? {
                None => break,
                last => last,
            };
        }
    }
    Ok(())
}

async fn drop_day(pool: &PgPool, day: &Day) -> Result<(), sqlx::Error> {
    forget_latches(pool, day).await?;
    for table in PARTITIONED {
        if !days::drop_partition(pool, table, day).await? {
            return Ok(());
        }
    }
    days::forget(pool, day).await?;
    tracing::info!(day = day.day, "dropped the events of {}", day.day);
    Ok(())
}
