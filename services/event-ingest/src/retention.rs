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
use chatfn_pg::Background;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    config::RetentionConfig,
    earlier::{Asked, Known},
    metrics::IngestMetrics,
    store::{
        Time,
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
/// A look that has more to do with old days after so long goes on with it at the next one: days to come must not wait for it.
const LONGEST_LOOK: Duration = Duration::from_secs(5 * 60);
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
    known: Known,
    metrics: IngestMetrics,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    let mut keeper = Keeper { config, store, known, metrics, progress: HashMap::new() };
    loop {
        let looked = tokio::select! {
            looked = keeper.look() => looked,
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
    store: Background,
    known: Known,
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
        let store = self.store.clone();
        let (pool, keep) = (store.pool(), self.config.retention_days);
        let end = Instant::now() + LONGEST_LOOK;
        let asked = Asked::now();
        self.known.set(store.ask(days::facts(pool, self.config.dedupe_days)).await?, asked);
        store.ask_all(u32::from(AHEAD) + 1, days::prepare(pool, AHEAD)).await?;
        store.ask(days::open(pool)).await?;
        let ended = store.ask(days::ended(pool, keep, Time::now())).await?;
        self.progress.retain(|day, _| ended.iter().any(|it| it.day == *day));
        // Told first: a large day takes several looks.
        self.metrics.days(store.ask(days::ahead(pool)).await?.into(), ended.len());
        store.ask(replays::forget(pool, keep.saturating_add(REPLAYS_LONGER))).await?;
        for day in ended {
            if let Err(error) = self.end(&day, end).await {
                tracing::warn!(
                    day = day.day,
                    "cannot drop the events of {}, and tries again: {}",
                    day.day,
                    chatfn_pg::error::describe(&error)
                );
            }
        }
        let overdue = store.ask(days::ended(pool, keep, Time::now())).await?.len();
        self.metrics.days(store.ask(days::ahead(pool)).await?.into(), overdue);
        Ok(())
    }

    /// Drops an old day, unless something keeps it, or there is more to do than can be until `end`.
    async fn end(&mut self, day: &Day, end: Instant) -> Result<(), sqlx::Error> {
        let store = self.store.clone();
        let pool = store.pool();
        if let Some(Waiting { count, account, conversation_id }) =
            store.ask(days::waiting(pool, day, COUNTED)).await?
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
        loop {
            match self.go_on(day).await? {
                Step::Done => return self.drop_day(day).await,
                Step::Undecided(place) => return self.tell_undecided(day, place).await,
                Step::More if Instant::now() < end => {}
                Step::More => {
                    tracing::info!(
                        day = day.day,
                        "{} has so many events that it is dropped in several looks",
                        day.day
                    );
                    return Ok(());
                }
            }
        }
    }

    async fn tell_undecided(&self, day: &Day, place: Place) -> Result<(), sqlx::Error> {
        let Place { lane, sequence } = place;
        let rows = self.store.ask(deliveries::in_places(self.store.pool(), &[place])).await?;
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
        Ok(())
    }

    /// Looks at some of a day's events, from where it was the last time: a day is looked through once for outcomes, and once
    /// for latches.
    async fn go_on(&mut self, day: &Day) -> Result<Step, sqlx::Error> {
        let (store, pool) = (&self.store, self.store.pool());
        let progress =
            self.progress.entry(day.day.clone()).or_insert(Progress::Decided(0, day.first_sequence));
        *progress = match *progress {
            Progress::Forgotten => return Ok(Step::Done),
            Progress::Decided(LANES.., _) => Progress::Forgetting(0, None),
            Progress::Decided(lane, from) => {
                let Looked { last, undecided } =
                    store.ask(days::undecided(pool, lane, day, from, ROWS)).await?;
                if let Some(sequence) = undecided {
                    *progress = Progress::Decided(lane, sequence);
                    return Ok(Step::Undecided(Place { lane, sequence }));
                }
                match last {
                    Some(last) => Progress::Decided(lane, last + 1),
                    None => Progress::Decided(lane + 1, day.first_sequence),
                }
            }
            Progress::Forgetting(LANES.., _) => Progress::Forgotten,
            Progress::Forgetting(lane, after) => {
                match store.ask(days::forget_latches(pool, lane, day, after, ROWS)).await? {
                    None => Progress::Forgetting(lane + 1, None),
                    last => Progress::Forgetting(lane, last),
                }
            }
        };
        Ok(Step::More)
    }

    async fn drop_day(&mut self, day: &Day) -> Result<(), sqlx::Error> {
        let (store, pool) = (&self.store, self.store.pool());
        for table in PARTITIONED {
            if !store.ask(days::drop_partition(pool, table, day)).await? {
                return Ok(());
            }
        }
        store.ask(days::forget(pool, day)).await?;
        self.metrics.day_dropped();
        tracing::info!(day = day.day, "dropped the events of {}", day.day);
        Ok(())
    }
}

/// What became of looking at some of an old day's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// There are more to look at.
    More,
    /// This one has no outcome.
    Undecided(Place),
    /// The day can be dropped, as far as its events go.
    Done,
}

#[cfg(test)]
mod tests {
    use chatfn_pg::{PoolConfig, testing::TestDatabase};
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
        let store = Background::new(pool.clone(), &PoolConfig::new(database.url().clone()));
        let known = Known::default();
        let mut keeper = Keeper { config, store, known, metrics, progress: HashMap::new() };
        days::prepare(&pool, 0).await.unwrap();
        days::open(&pool).await.unwrap();
        let old = days::ended(&pool, 30, Time::now()).await.unwrap().remove(0);
        for lane in 1..3 {
            keeper.end(&old, Instant::now()).await.unwrap();
            assert_eq!(keeper.progress[&old.day], Progress::Decided(lane, old.first_sequence), "time is up");
        }
        keeper.look().await.unwrap();
        let undecided = old.first_sequence + 11_999;
        assert_eq!((old.age, keeper.progress[&old.day]), (40, Progress::Decided(4, undecided)));

        // What has been looked at is not looked at again: or it would be found that this one is gone.
        let forgotten = format!("DELETE FROM ingest.outcomes WHERE sequence = {}", old.first_sequence);
        sqlx::query(AssertSqlSafe(forgotten)).execute(&pool).await.unwrap();
        let place = Place { lane: 4, sequence: undecided };
        assert_eq!(keeper.go_on(&old).await.unwrap(), Step::Undecided(place));

        let decided = "INSERT INTO ingest.outcomes (lane, sequence, state, epoch, account, accept_time)
                       SELECT lane, sequence, 3, 0, account, now() FROM ingest.events WHERE event_id = 'e11999'";
        sqlx::query(decided).execute(&pool).await.unwrap();
        let latched = "INSERT INTO ingest.latches (account, conversation_id, template, event_id)
                       VALUES ('acme', 'c', 'chat.message', 'e0')";
        sqlx::query(latched).execute(&pool).await.unwrap();
        while !matches!(keeper.progress[&old.day], Progress::Forgetting(3, Some(_))) {
            assert_eq!(keeper.go_on(&old).await.unwrap(), Step::More);
        }
        // Not looked at again, either.
        sqlx::query(latched).execute(&pool).await.unwrap();
        keeper.look().await.unwrap();
        assert_eq!(days::ended(&pool, 30, Time::now()).await.unwrap(), []);
        let left = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM ingest.latches").fetch_one(&pool).await;
        assert_eq!(left.unwrap(), 1);
    }

    /// To drop a day cannot be undone, so one clock that was set wrong must not be enough.
    #[tokio::test]
    async fn a_day_has_ended_when_both_clocks_say_so() {
        let database = TestDatabase::create().await;
        let pool = database.pool().clone();
        for age in [60, 40, 0] {
            let day = format!("(now() AT TIME ZONE 'UTC')::date - {age}");
            let statement = format!(
                "SELECT ingest.prepare_day({day});
                 UPDATE ingest.days SET open_time = now() - {age} * interval '1 day' WHERE day = {day}"
            );
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
        }
        let ages = async |days_off: i64| -> Vec<i32> {
            let here = Time::from_micros(Time::now().micros() + days_off * 24 * 3600 * 1_000_000);
            days::ended(&pool, 30, here).await.unwrap().iter().map(|day| day.age).collect()
        };
        assert_eq!(ages(0).await, [60]);
        assert_eq!(ages(400).await, [60], "this clock is ahead");
        assert!(ages(-20).await.is_empty(), "Postgres' clock is ahead, as far as can be known");
    }

    #[tokio::test]
    async fn what_is_known_begins_when_a_day_was_opened_not_with_its_date() {
        let database = TestDatabase::create().await;
        let pool = database.pool();
        // Shortly before midnight, one of them is foreseen not to be looked into.
        let near = "SELECT ((now() + interval '10 minutes') AT TIME ZONE 'UTC')::date - (now() AT TIME ZONE 'UTC')::date";
        let near: i32 = sqlx::query_scalar(near).fetch_one(pool).await.unwrap();
        let known =
            async |days: u16| days::facts(pool, days - 1 + u16::try_from(near).unwrap()).await.unwrap();
        let facts = known(1).await;
        assert_eq!(facts.newest_since, facts.now, "today's is to be opened, and then it is the only one");
        let facts = known(2).await;
        assert_eq!(
            (facts.newest_since, facts.kept_since),
            (Time::MIN, Time::MIN),
            "there was nothing before"
        );
        let day = "(now() AT TIME ZONE 'UTC')::date + 1";
        let statement = format!(
            "SELECT ingest.prepare_day({day}), ingest.prepare_day({day} + 1);
             UPDATE ingest.days SET open_time = (day + time '20:00') AT TIME ZONE 'UTC' WHERE day >= {day}"
        );
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await.unwrap();
        let opened = format!("SELECT ({day} + time '20:01') AT TIME ZONE 'UTC'");
        let opened: Time = sqlx::query_scalar(AssertSqlSafe(opened)).fetch_one(pool).await.unwrap();
        assert_eq!(known(2).await.newest_since, opened);
        assert_eq!(known(3).await.newest_since, Time::MIN);
        // One of those that are left is older than others that were dropped.
        let dropped =
            "UPDATE ingest.days SET kept_since = '2026-01-02 00:00:00Z' WHERE open_time IS NOT NULL";
        sqlx::query(dropped).execute(pool).await.unwrap();
        let kept = known(3).await;
        assert_eq!(
            (kept.newest_since, kept.kept_since),
            (kept.kept_since, Time::from_micros(1_767_312_000_000_000))
        );
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
        let old = days::ended(&pool, 30, Time::now()).await.unwrap().remove(0);
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
