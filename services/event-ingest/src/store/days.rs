//! Days, by which events, outcomes and attempts are kept: one partition of each for every day. See `migrations/0007_days.sql`.

use std::time::Duration;

use chatfn_domain::lane::LANES;
use sqlx::{PgExecutor, PgPool};

use super::{Time, millis};

/// A day with partitions of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Day {
    /// ISO 8601, UTC.
    pub(crate) day: String,
    pub(crate) first_sequence: i64,
    /// The first sequence number that is another day's.
    pub(crate) end_sequence: i64,
    /// How many days ago it was.
    pub(crate) age: i32,
}

/// The tables that have a partition for each day, in the order in which a day is dropped: what is not in the first is not
/// seen any more.
pub(crate) const PARTITIONED: [&str; 3] = ["events", "outcomes", "attempts"];

/// Makes the partitions of today and of the `ahead` days to come.
pub(crate) async fn prepare(pool: &PgPool, ahead: u16) -> Result<(), sqlx::Error> {
    for offset in 0..=i32::from(ahead) {
        // Each in a transaction of its own, so that what was made stays when the next fails.
        sqlx::query!("SELECT ingest.prepare_day((now() AT TIME ZONE 'UTC')::date + $1::integer)", offset)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// For how many days after today partitions exist; negative if not even for today.
pub(crate) async fn ahead(pool: &PgPool) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT coalesce(max(day) - (now() AT TIME ZONE 'UTC')::date, -1) AS "ahead!" FROM ingest.days"#
    )
    .fetch_one(pool)
    .await
}

/// Lets events go into today's partitions from now on. Waits for the transactions that are recording events.
pub(crate) async fn open(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT ingest.open_day((now() AT TIME ZONE 'UTC')::date)").execute(pool).await?;
    Ok(())
}

/// Most days that a [`Part`] has, but for those beside it: a statement locks each partition that it may open, with all of its
/// indexes, and all statements together have so many locks.
pub(crate) const MOST: i64 = 16;

/// A day has 2^32 sequence numbers.
const DAY_BITS: u32 = 32;

/// Days further apart than this are better asked about apart.
const NEAR: i64 = 3;

/// A part of the time, and between which sequence numbers (the second is not one of them) all events lie that were accepted in
/// it: so that a statement about it opens the partitions of its days only.
///
/// Which day an event belongs to is decided when it is recorded, a little before its `accept_time`; and by which day is open,
/// whatever the date. A clock that is set back by less than a day changes nothing. Parts that follow each other leave no
/// sequence number out between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: Time,
    pub(crate) end: Time,
    pub(crate) first: i64,
    pub(crate) past: i64,
}

/// `query_as!` of the [`Part`] from `$start` to `$end`.
macro_rules! part {
    ($start:tt, $end:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            Part,
            r#"
            WITH part AS MATERIALIZED (SELECT "# + $start + " AS start, " + $end + r#" AS end_time)
            SELECT part.start AS "start!: Time", part.end_time AS "end!: Time",
                   coalesce((SELECT max(first_sequence) FROM ingest.days WHERE open_time <= part.start - interval '1 day'),
                            -9223372036854775808) AS "first!",
                   -- What was there before there were days came to be one later than it was accepted. Days after the one that is
                   -- open have no events; one before it may never have been opened.
                   coalesce((SELECT min(first_sequence) FROM ingest.days
                             WHERE first_sequence > -9223372036854775808
                               AND (open_time > part.end_time + interval '1 day' OR first_sequence > (
                                   SELECT max(first_sequence) FROM ingest.days WHERE open_time IS NOT NULL))),
                            9223372036854775807) AS "past!"
            FROM part
            "#,
            $($argument),*
        )
    };
}

/// The first `days` days, at most, of the time from `start` to `end`.
pub(crate) async fn first(
    executor: impl PgExecutor<'_>,
    start: Time,
    end: Time,
    days: i64,
) -> Result<Part, sqlx::Error> {
    part!(
        "$1::timestamptz",
        "least($2::timestamptz, (
             SELECT open_time FROM ingest.days WHERE open_time > $1::timestamptz
             ORDER BY open_time OFFSET $3::bigint - 1 LIMIT 1))",
        start as _,
        end as _,
        days,
    )
    .fetch_one(executor)
    .await
}

/// The last `days` days, at most, of the time before `end`; its start is [`Time::MIN`] if there are no more.
pub(crate) async fn last(executor: impl PgExecutor<'_>, end: Time, days: i64) -> Result<Part, sqlx::Error> {
    part!(
        "greatest($1::timestamptz, (
             SELECT open_time FROM ingest.days WHERE open_time < $2::timestamptz
             ORDER BY open_time DESC OFFSET $3::bigint - 1 LIMIT 1))",
        "$2::timestamptz",
        Time::MIN as _,
        end as _,
        days,
    )
    .fetch_one(executor)
    .await
}

/// The last sequence number that may be looked at together with this one: [`MOST`] days later.
pub(crate) fn most_after(sequence: i64) -> i64 {
    sequence.saturating_add((MOST << DAY_BITS) - 1)
}

/// What lies at sequence numbers, in their order, in parts that each lie in a few days near each other: so that a statement about
/// one opens no other partitions to speak of.
pub(crate) fn parts<T>(of: &[T], sequence: impl Fn(&T) -> i64) -> Vec<Vec<&T>> {
    let day = |it: &T| sequence(it) >> DAY_BITS;
    let mut of: Vec<&T> = of.iter().collect();
    of.sort_by_key(|it| sequence(it));
    let mut parts: Vec<Vec<&T>> = Vec::new();
    let mut last = 0;
    for it in of {
        match parts.last_mut() {
            Some(part) if day(it) - last <= NEAR && day(it) - day(part[0]) < MOST => part.push(it),
            _ => parts.push(vec![it]),
        }
        last = day(it);
    }
    parts
}

/// The first sequence number of the day that was open so long ago: what was accepted since then lies from there on. Who opens a day notes
/// the time, and then waits for those who record events in the one before; the minute is more than that takes.
pub(crate) async fn open_before(pool: &PgPool, ago: Duration) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT coalesce(max(first_sequence), -9223372036854775808) AS "first!" FROM ingest.days
        WHERE open_time <= now() - $1::float8 * interval '1 millisecond' - interval '1 minute'
        "#,
        millis(ago),
    )
    .fetch_one(pool)
    .await
}

/// What Postgres knows of when an event may have been recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Its clock.
    pub(crate) now: Time,
    /// Since when no event has been dropped; [`Time::MIN`]: none ever was.
    pub(crate) kept_since: Time,
    /// Since when whatever was recorded lies in a day that stays among those in which each id is looked for, for [`FORESEEN`], and none of
    /// it was dropped.
    pub(crate) newest_since: Time,
}

/// How far ahead [`facts`] sees which days may be opened: today's, if it is not, and tomorrow's, shortly before midnight.
pub(crate) const FORESEEN: Duration = Duration::from_secs(600);

/// Asks for [`Facts`], where each id is looked for in the day that is open and `days` before it.
pub(crate) async fn facts(pool: &PgPool, days: u16) -> Result<Facts, sqlx::Error> {
    sqlx::query_as!(
        Facts,
        r#"
        WITH newest AS (
            SELECT first_sequence, open_time FROM ingest.days WHERE open_time IS NOT NULL ORDER BY day DESC
            LIMIT $1 + 1
                - (SELECT (max(day) < (now() AT TIME ZONE 'UTC')::date)::integer FROM ingest.days WHERE open_time IS NOT NULL)
                - ((now() AT TIME ZONE 'UTC')::date <> ((now() + $3::float8 * interval '1 millisecond') AT TIME ZONE 'UTC')::date)::integer
        ), kept AS (SELECT coalesce(max(kept_since), $2::timestamptz) AS since FROM ingest.days)
        SELECT now() AS "now!: Time", kept.since AS "kept_since!: Time",
               -- If it is none of them, it is not known of any.
               greatest(kept.since, coalesce(
                   (SELECT CASE WHEN min(first_sequence) = -9223372036854775808 THEN $2::timestamptz
                                ELSE min(open_time) + interval '1 minute' END FROM newest),
                   now())) AS "newest_since!: Time"
        FROM kept
        "#,
        i32::from(days),
        Time::MIN as _,
        millis(FORESEEN),
    )
    .fetch_one(pool)
    .await
}

/// The days that ended more than `keep` days ago, the oldest first. The one that is open is none of them.
///
/// A day ends when a later one is opened, which may be long after its date: until then it takes all events. One that was never
/// opened took none. How long ago that is both clocks must say, Postgres' and this process', whose time is `here`: what follows cannot
/// be undone, and one of them may have been set far ahead.
pub(crate) async fn ended(pool: &PgPool, keep: u16, here: Time) -> Result<Vec<Day>, sqlx::Error> {
    sqlx::query_as!(
        Day,
        r#"
        SELECT d.day::text AS "day!", d.first_sequence AS "first_sequence!", d.next AS "end_sequence!",
               (clock.now AT TIME ZONE 'UTC')::date - d.day AS "age!"
        FROM (SELECT least(now(), $2::timestamptz) AS now) clock,
             (SELECT day, first_sequence, open_time, lead(first_sequence) OVER (ORDER BY first_sequence) AS next
              FROM ingest.days) d
        WHERE d.day < (clock.now AT TIME ZONE 'UTC')::date - $1::integer
          AND d.day < (SELECT max(day) FROM ingest.days WHERE open_time IS NOT NULL)
          AND (d.open_time IS NULL
               OR (SELECT min(open_time) FROM ingest.days later WHERE later.first_sequence > d.first_sequence)
                  < clock.now - $1::integer * interval '1 day')
        ORDER BY d.day
        "#,
        i32::from(keep),
        here as _,
    )
    .fetch_all(pool)
    .await
}

/// Events of a day that wait for another attempt or for an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) count: i64,
    /// Whose one of those is that were counted: one that is halted, if any of them is.
    pub(crate) account: String,
    pub(crate) conversation_id: String,
}

/// What of a day waits, counted up to `most`; `None` if nothing does.
pub(crate) async fn waiting(pool: &PgPool, day: &Day, most: i64) -> Result<Option<Waiting>, sqlx::Error> {
    sqlx::query_as!(
        Waiting,
        r#"
        SELECT count(*) AS "count!", (array_agg(account ORDER BY kind <> 1, sequence))[1] AS "account!",
               (array_agg(conversation_id ORDER BY kind <> 1, sequence))[1] AS "conversation_id!"
        FROM (
            SELECT account, conversation_id, kind, sequence FROM ingest.parked
            WHERE lane = ANY($1) AND sequence >= $2 AND sequence < $3 LIMIT $4
        ) p
        HAVING count(*) > 0
        "#,
        &(0..LANES).collect::<Vec<_>>(),
        day.first_sequence,
        day.end_sequence,
        most,
    )
    .fetch_optional(pool)
    .await
}

/// What a look at some events of a lane and day found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Looked {
    /// The last of them; `None` if there are none.
    pub(crate) last: Option<i64>,
    /// The first of them that has no outcome.
    pub(crate) undecided: Option<i64>,
}

/// Looks for outcomes of the next `rows` events of a lane and day, from `from` on.
pub(crate) async fn undecided(
    pool: &PgPool,
    lane: i16,
    day: &Day,
    from: i64,
    rows: i64,
) -> Result<Looked, sqlx::Error> {
    sqlx::query_as!(
        Looked,
        r#"
        SELECT max(e.sequence) AS last, min(e.sequence) FILTER (WHERE e.state IS NULL) AS undecided
        FROM (
            SELECT sequence, (SELECT o.state FROM ingest.outcomes o
                WHERE o.lane = $1 AND o.sequence = events.sequence AND o.sequence >= $2 AND o.sequence < $3) AS state
            FROM ingest.events
            WHERE lane = $1 AND sequence >= $2 AND sequence < $3
            ORDER BY sequence LIMIT $4
        ) e
        "#,
        lane,
        from,
        day.end_sequence,
        rows,
    )
    .fetch_one(pool)
    .await
}

/// Forgets the latches that were set by the next `rows` events of a lane and day: a latch lasts as long as the event that
/// set it, which is not SUPPRESSED, as one with the same id may be. Gives the last of those events; `None` if there are no
/// more.
pub(crate) async fn forget_latches(
    pool: &PgPool,
    lane: i16,
    day: &Day,
    after: Option<i64>,
    rows: i64,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        WITH looked AS MATERIALIZED (
            SELECT sequence, account, conversation_id, template, event_id FROM ingest.events
            WHERE lane = $1 AND sequence >= $2 AND sequence < $3 AND ($4::bigint IS NULL OR sequence > $4)
            ORDER BY sequence LIMIT $5
        ), forgotten AS (
            DELETE FROM ingest.latches l USING looked
            WHERE l.account = looked.account AND l.conversation_id = looked.conversation_id
              AND l.template = looked.template AND l.event_id = looked.event_id
              AND coalesce((SELECT o.state FROM ingest.outcomes o
                  WHERE o.lane = $1 AND o.sequence = looked.sequence AND o.sequence >= $2 AND o.sequence < $3), 0) <> 5
        )
        SELECT max(sequence) FROM looked
        "#,
        lane,
        day.first_sequence,
        day.end_sequence,
        after,
        rows,
    )
    .fetch_one(pool)
    .await
}

/// Drops a day's partition of one of the [`PARTITIONED`] tables; gives whether it is gone. It stays if an event of
/// that day has come to wait for something again. Fails when the table is in use for longer than the pool waits for locks.
pub(crate) async fn drop_partition(pool: &PgPool, table: &str, day: &Day) -> Result<bool, sqlx::Error> {
    let gone = sqlx::query_scalar!("SELECT ingest.drop_partition($1, $2::text::date)", table, day.day);
    Ok(gone.fetch_one(pool).await?.unwrap_or_default())
}

/// Forgets a day whose partitions are gone, and what operators did about its events.
pub(crate) async fn forget(pool: &PgPool, day: &Day) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        WITH history AS (DELETE FROM ingest.superseded WHERE lane = ANY($4) AND sequence >= $2 AND sequence < $3)
        DELETE FROM ingest.days WHERE day = $1::text::date
        "#,
        day.day,
        day.first_sequence,
        day.end_sequence,
        &(0..LANES).collect::<Vec<_>>(),
    )
    .execute(pool)
    .await?;
    Ok(())
}
