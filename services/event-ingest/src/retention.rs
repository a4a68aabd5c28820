//! Makes the partitions of the days to come, opens the new day, and drops days that are old enough.
//!
//! Every replica does all of it: each step is safe to do twice, and two that meet do it one after another or find it
//! done. Nothing breaks when nobody does: events go into the last day that was opened for as long as that takes.
//!
//! A day goes as a whole, and only when each of its events has its outcome. One that waits for another attempt, or that
//! is halted and waits for an operator, keeps its day, whatever its age; the log says so at every look. A day that cannot be
//! dropped keeps no other from it.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use chatfn_domain::lane::LANES;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    background::Background,
    config::RetentionConfig,
    metrics::IngestMetrics,
    store::{
        days::{self, Day, Looked, PARTITIONED, Waiting},
        deliveries,
        interventions::Place,
        replays,
    },
};

/// Time between looks: how late a day may begin.
const PERIOD: Duration = Duration::from_secs(60);
/// Partitions that exist ahead of time, in days.
const AHEAD: u16 = 3;
/// A look is over when as many statements could have taken as long as they may. Most are short, so it is many more of them;
/// one that has more to do goes on at the next look.
const STATEMENTS: u32 = 10;
/// Events of an old day that are looked at in one statement.
const ROWS: i64 = 5_000;
/// Events that wait in an old day are counted up to here.
const COUNTED: i64 = 1_000;
/// Days for which ended replays are kept beyond the events that they may have run.
const REPLAYS_LONGER: u16 = 1;

/// Keeps the days until `stop`. `store` should wait only shortly for locks, behind which everybody else waits.
pub(crate) async fn run(
    config: RetentionConfig,
    store: Background,
    metrics: IngestMetrics,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut keeper = Keeper { config, pool: store.pool().clone(), metrics, progress: HashMap::new() };
    loop {
        let looked = tokio::select! {
            looked = store.ask_all(STATEMENTS, keeper.look()) => looked,
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

struct Keeper {
    config: RetentionConfig,
    pool: PgPool,
    metrics: IngestMetrics,
    /// Of old days that are still there.
    progress: HashMap<String, Progress>,
}

/// How far an old day has been looked through. It gets no more events, and one that has had its outcome and is taken up
/// again is parked, which is looked at each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// All events before this lane and sequence number have their outcomes.
    Decided(i16, i64),
    /// All have, and the latches are forgotten that were set before this lane and after this sequence number.
    Forgetting(i16, Option<i64>),
    /// All have, and their latches are forgotten.
    Forgotten,
}

impl Keeper {
    /// Does what has to be done now.
    async fn look(&mut self) -> Result<(), sqlx::Error> {
        days::prepare(&self.pool, AHEAD).await?;
        days::open(&self.pool).await?;
        let ended = days::ended(&self.pool, self.config.retention_days).await?;
        self.progress.retain(|day, _| ended.iter().any(|it| it.day == *day));
        // Told first: a large day takes several looks.
        self.metrics.days(days::ahead(&self.pool).await?.into(), ended.len());
        replays::forget(&self.pool, self.config.retention_days.saturating_add(REPLAYS_LONGER)).await?;
        for day in ended {
            if let Err(error) = self.end(&day).await {
                tracing::warn!(
                    day = day.day,
                    "cannot drop the events of {}, and tries again: {}",
                    day.day,
                    chatfn_pg::error::describe(&error)
                );
            }
        }
        let overdue = days::ended(&self.pool, self.config.retention_days).await?.len();
        self.metrics.days(days::ahead(&self.pool).await?.into(), overdue);
        Ok(())
    }

    /// Drops an old day, unless something keeps it.
    async fn end(&mut self, day: &Day) -> Result<(), sqlx::Error> {
        if let Some(Waiting { count, account, conversation_id }) =
            days::waiting(&self.pool, day, COUNTED).await?
        {
            let or_more = if count == COUNTED { " or more" } else { "" };
            tracing::warn!(
                day = day.day,
                waiting = count,
                account,
                conversation_id,
                "{} is {} days ago and is kept: {count}{or_more} of its events wait for another attempt or for an \
                 operator, one of them in accounts/{account}/conversations/{conversation_id}; list those that are HALTED, \
                 and resume or skip them",
                day.day,
                day.age,
            );
            return Ok(());
        }
        if let Some((lane, sequence)) = self.undecided(day).await? {
            let rows = deliveries::in_places(&self.pool, &[Place { lane, sequence }]).await?;
            let names = rows.first().map(|it| (&*it.account, &*it.conversation_id, &*it.event_id));
            let (account, conversation_id, event_id) = names.unwrap_or_default();
            tracing::warn!(
                day = day.day,
                account,
                conversation_id,
                event_id,
                lane,
                sequence,
                "{} is {} days ago and is kept: accounts/{account}/deliveries/{event_id} has no outcome, and others may \
                 have none; if its conversation is HALTED at an earlier event, resume or skip that",
                day.day,
                day.age,
            );
            return Ok(());
        }
        self.drop_day(day).await
    }

    /// The first event without an outcome. Goes on from where it was the last time: a day is looked through once.
    async fn undecided(&mut self, day: &Day) -> Result<Option<(i16, i64)>, sqlx::Error> {
        let progress =
            self.progress.entry(day.day.clone()).or_insert(Progress::Decided(0, day.first_sequence));
        while let Progress::Decided(lane, from) = *progress {
            if lane >= LANES {
                break;
            }
            let Looked { last, undecided } = days::undecided(&self.pool, lane, day, from, ROWS).await?;
            *progress = match (undecided, last) {
                (Some(undecided), _) => Progress::Decided(lane, undecided),
                (None, Some(last)) => Progress::Decided(lane, last + 1),
                (None, None) => Progress::Decided(lane + 1, day.first_sequence),
            };
            if let Some(undecided) = undecided {
                return Ok(Some((lane, undecided)));
            }
        }
        Ok(None)
    }

    /// Forgets latches of some of a day's events, which all have their outcomes; goes on from where it was.
    async fn forget_latches(&mut self, day: &Day) -> Result<Progress, sqlx::Error> {
        let progress = self.progress.entry(day.day.clone()).or_insert(Progress::Forgetting(0, None));
        let (lane, after) = match *progress {
            Progress::Decided(..) => (0, None),
            Progress::Forgetting(lane, after) => (lane, after),
            Progress::Forgotten => return Ok(Progress::Forgotten),
        };
        *progress = if lane >= LANES {
            Progress::Forgotten
        } else {
            match days::forget_latches(&self.pool, lane, day, after, ROWS).await? {
                None => Progress::Forgetting(lane + 1, None),
                last => Progress::Forgetting(lane, last),
            }
        };
        Ok(*progress)
    }

    async fn drop_day(&mut self, day: &Day) -> Result<(), sqlx::Error> {
        while self.forget_latches(day).await? != Progress::Forgotten {}
        for table in PARTITIONED {
            if !days::drop_partition(&self.pool, table, day).await? {
                return Ok(());
            }
        }
        days::forget(&self.pool, day).await?;
        self.metrics.day_dropped();
        tracing::info!(day = day.day, "dropped the events of {}", day.day);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chatfn_pg::testing::TestDatabase;
    use sqlx::AssertSqlSafe;

    use super::*;

    #[tokio::test]
    async fn a_day_that_is_kept_is_looked_through_once() {
        let database = TestDatabase::create().await;
        let pool = database.pool().clone();
        let day = "(now() AT TIME ZONE 'UTC')::date - 40";
        // More than is looked at in one statement, in two lanes, and the last one has no outcome.
        for statement in [
            format!("SELECT ingest.prepare_day({day})"),
            format!(
                "INSERT INTO ingest.events (lane, sequence, account, event_id, template, conversation_id, payload,
                                            content_hash)
                 SELECT n % 2 + 3, ingest.first_sequence({day}) + n, 'acme', 'e' || n, 'chat.message', 'c', '{{}}', ''
                 FROM generate_series(0, 12000) n"
            ),
            format!(
                "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
                 SELECT n % 2 + 3, ingest.first_sequence({day}) + n, 3, 0, 'acme', now()
                 FROM generate_series(0, 12000) n WHERE n <> 11999"
            ),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
        }
        let config = RetentionConfig::default();
        let metrics = IngestMetrics::new(&chatfn_telemetry::Metrics::new());
        let mut keeper = Keeper { config, pool: pool.clone(), metrics, progress: HashMap::new() };
        keeper.look().await.unwrap();
        let old = days::ended(&pool, 30).await.unwrap().remove(0);
        let undecided = old.first_sequence + 11_999;
        assert_eq!((old.age, keeper.progress[&old.day]), (40, Progress::Decided(4, undecided)));

        // What has been looked at is not looked at again: or it would be found that this one is gone.
        let forgotten = format!("DELETE FROM ingest.outcomes WHERE sequence = {}", old.first_sequence);
        sqlx::query(AssertSqlSafe(forgotten)).execute(&pool).await.unwrap();
        assert_eq!(keeper.undecided(&old).await.unwrap(), Some((4, undecided)));

        let decided = "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
                       SELECT lane, sequence, 3, 0, account, now() FROM ingest.events WHERE event_id = 'e11999'";
        sqlx::query(decided).execute(&pool).await.unwrap();
        assert_eq!(keeper.undecided(&old).await.unwrap(), None);

        let latched = "INSERT INTO ingest.latches (account, conversation_id, template, event_id)
                       VALUES ('acme', 'c', 'chat.message', 'e0')";
        sqlx::query(latched).execute(&pool).await.unwrap();
        for lane in 1..4 {
            assert_eq!(keeper.forget_latches(&old).await.unwrap(), Progress::Forgetting(lane, None));
        }
        let Progress::Forgetting(3, Some(_)) = keeper.forget_latches(&old).await.unwrap() else {
            panic!("it remembers how far it has come: {:?}", keeper.progress);
        };
        // Not looked at again, either.
        sqlx::query(latched).execute(&pool).await.unwrap();
        keeper.look().await.unwrap();
        assert_eq!(days::ended(&pool, 30).await.unwrap(), []);
        let left = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM ingest.latches").fetch_one(&pool).await;
        assert_eq!(left.unwrap(), 1);
    }

    #[tokio::test]
    async fn of_what_waits_a_halted_conversation_is_named() {
        let database = TestDatabase::create().await;
        let pool = database.pool().clone();
        let day = "(now() AT TIME ZONE 'UTC')::date - 40";
        for day in [day, "(now() AT TIME ZONE 'UTC')::date"] {
            let statement = format!("SELECT ingest.prepare_day({day}), ingest.open_day({day})");
            sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
        }
        let old = days::ended(&pool, 30).await.unwrap().remove(0);
        assert_eq!(days::waiting(&pool, &old, COUNTED).await.unwrap(), None);
        let parked = format!(
            "INSERT INTO ingest.parked (lane, sequence, account, conversation_id, next_attempt_time, kind)
             SELECT n, ingest.first_sequence({day}) + n, 'acme', 'c' || n, now(), (n = 2)::int FROM generate_series(0, 3) n"
        );
        sqlx::query(AssertSqlSafe(parked)).execute(&pool).await.unwrap();
        let waiting = days::waiting(&pool, &old, COUNTED).await.unwrap().unwrap();
        let halted = Waiting { count: 4, account: "acme".to_owned(), conversation_id: "c2".to_owned() };
        assert_eq!(waiting, halted);
    }
}
