//! Replays: what matches, and how far each is. A replay goes on in steps, each one transaction, in whichever replica of
//! the service comes first: if a process dies, nothing is lost and nothing is asked for twice.

use std::time::Duration;

use chatfn_domain::name::{AccountId, ConversationId, TemplateName};
use chatfn_pg::Failure;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    Time, days,
    deliveries::Key,
    interventions::{self, Place},
    millis,
};
use crate::failpoint;

/// Events that one look goes through, at most.
const LOOK: i64 = 5_000;
/// Interventions that are not done yet, over all replays, beyond which none is asked for: the lanes come first.
const MOST_PENDING: i64 = 2_000;
/// Events of one account that replays have taken up, or are about to, and that have not had their outcome again: beyond,
/// its replays wait.
const MOST_IN_PROGRESS: i64 = 500;
/// Pause of a replay whose account has that many.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// Steps of a replay that may fail in a row; then it ends.
const MOST_FAILURES: i32 = 10;

/// Which events a replay runs again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) account: AccountId,
    /// Numbers of terminal `DeliveryState`s.
    pub(crate) states: Vec<i16>,
    pub(crate) template: Option<TemplateName>,
    pub(crate) conversation_id: Option<ConversationId>,
    /// Accepted from here on …
    pub(crate) start_time: Time,
    /// … and before this.
    pub(crate) end_time: Time,
}

impl Filter {
    /// Before the first event.
    pub(crate) fn start(&self) -> Key {
        Key { accept_time: self.start_time, lane: -1, sequence: -1 }
    }
}

/// A replay.
#[derive(Debug, Clone)]
pub(crate) struct ReplayRow {
    pub(crate) replay: Uuid,
    pub(crate) account: String,
    pub(crate) states: Vec<i16>,
    pub(crate) template: Option<String>,
    pub(crate) conversation_id: Option<String>,
    pub(crate) start_time: Time,
    pub(crate) end_time: Time,
    pub(crate) rerun: bool,
    pub(crate) events_per_second: i32,
    pub(crate) actor: String,
    pub(crate) create_time: Time,
    pub(crate) after_time: Time,
    pub(crate) requested: i64,
    pub(crate) finish_time: Option<Time>,
    pub(crate) cancel_actor: Option<String>,
    pub(crate) failures: i32,
    pub(crate) failure: String,
    pub(crate) reopened: i64,
}

/// `query_as!` of a replay's columns with the given rest of the statement.
macro_rules! replays {
    ($rest:tt, $($argument:expr),* $(,)?) => {
        sqlx::query_as!(
            ReplayRow,
            r#"
            SELECT r.replay, r.account, r.states, r.template, r.conversation_id, r.start_time AS "start_time: Time",
                   r.end_time AS "end_time: Time", r.rerun, r.events_per_second, r.actor,
                   r.create_time AS "create_time: Time", r.after_time AS "after_time: Time", r.requested,
                   r.finish_time AS "finish_time: Time", r.cancel_actor, r.failures, r.failure,
                   (SELECT count(*) FROM ingest.superseded s WHERE s.replay = r.replay) AS "reopened!"
            FROM ingest.replays r
            "# + $rest,
            $($argument),*
        )
    };
}

/// A replay that is to be started.
#[derive(Debug, Clone)]
pub(crate) struct NewReplay {
    pub(crate) replay: Uuid,
    pub(crate) filter: Filter,
    pub(crate) events_per_second: i32,
    pub(crate) rerun: bool,
    pub(crate) actor: String,
    /// By which a repetition is recognised.
    pub(crate) request_id: Option<Uuid>,
}

impl NewReplay {
    /// Whether that is what this one was started with.
    pub(crate) fn is(&self, row: &ReplayRow) -> bool {
        let Filter { account, states, template, conversation_id, start_time, end_time } = &self.filter;
        row.account == account.as_str()
            && row.states == *states
            && row.template.as_deref() == template.as_ref().map(TemplateName::as_str)
            && row.conversation_id.as_deref() == conversation_id.as_ref().map(ConversationId::as_str)
            && row.start_time == *start_time
            && row.end_time == (*end_time).min(row.create_time)
            && (row.rerun, row.events_per_second) == (self.rerun, self.events_per_second)
    }
}

/// Starts a replay, unless the account has `most` running, or has started one with the same request id.
pub(crate) async fn create(pool: &PgPool, new: &NewReplay, most: i64) -> Result<bool, sqlx::Error> {
    let filter = &new.filter;
    let done = sqlx::query!(
        r#"
        INSERT INTO ingest.replays (replay, account, states, template, conversation_id, start_time, end_time, rerun,
                                    events_per_second, actor, after_time, request_id)
        SELECT $1, $2, $3, $4, $5, $6, least($7, now()), $8, $9, $10, $6, $12
        WHERE (SELECT count(*) FROM ingest.replays WHERE account = $2 AND finish_time IS NULL) < $11
        ON CONFLICT ON CONSTRAINT replays_request_id_key DO NOTHING
        "#,
        new.replay,
        filter.account.as_str(),
        &filter.states,
        filter.template.as_ref().map(TemplateName::as_str),
        filter.conversation_id.as_ref().map(ConversationId::as_str),
        filter.start_time as _,
        filter.end_time as _,
        new.rerun,
        new.events_per_second,
        new.actor,
        most,
        new.request_id,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A replay of an account.
pub(crate) async fn get(
    pool: &PgPool,
    account: &AccountId,
    replay: Uuid,
) -> Result<Option<ReplayRow>, sqlx::Error> {
    replays!("WHERE r.account = $1 AND r.replay = $2", account.as_str(), replay).fetch_optional(pool).await
}

/// The replay of an account that was started with this request id.
pub(crate) async fn of_request(
    pool: &PgPool,
    account: &AccountId,
    request_id: Uuid,
) -> Result<Option<ReplayRow>, sqlx::Error> {
    replays!("WHERE r.account = $1 AND r.request_id = $2", account.as_str(), request_id)
        .fetch_optional(pool)
        .await
}

/// The replays of an account before `before`, newest first; their ids rise with time.
pub(crate) async fn list(
    pool: &PgPool,
    account: &AccountId,
    before: Uuid,
    rows: i64,
) -> Result<Vec<ReplayRow>, sqlx::Error> {
    replays!(
        "WHERE r.account = $1 AND r.replay < $2 ORDER BY r.replay DESC LIMIT $3",
        account.as_str(),
        before,
        rows,
    )
    .fetch_all(pool)
    .await
}

/// Ends a replay that has not ended.
pub(crate) async fn cancel(
    pool: &PgPool,
    account: &AccountId,
    replay: Uuid,
    actor: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        r#"
        UPDATE ingest.replays SET finish_time = now(), cancel_actor = $3
        WHERE account = $1 AND replay = $2 AND finish_time IS NULL
        "#,
        account.as_str(),
        replay,
        actor,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// What a look found.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Events that match, in the order in which they were accepted.
    pub(crate) places: Vec<Place>,
    /// Where to go on; `None` at the end.
    pub(crate) next: Option<Key>,
}

/// Looks for up to `most` events after `after` that match and had their outcome before `before`; goes through a bounded
/// number, so it may find fewer although there are more.
pub(crate) async fn look(
    connection: &mut PgConnection,
    filter: &Filter,
    after: Key,
    before: Option<Time>,
    most: i64,
) -> Result<Look, sqlx::Error> {
    let (account, conversation) =
        (filter.account.as_str(), filter.conversation_id.as_ref().map(ConversationId::as_str));
    let (first, past) =
        days::sequences(&mut *connection, after.accept_time.max(filter.start_time), filter.end_time).await?;
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
            first,
            past,
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
            filter.end_time as _,
            filter.template.as_ref().map(TemplateName::as_str),
            &filter.states,
            before as _,
            LOOK,
            first,
            past,
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
    Ok(Look { places, next: next.filter(|_| is_full) })
}

/// What a step did.
#[derive(Debug)]
pub(crate) enum Step {
    /// No replay is due.
    Nothing,
    /// The lanes have enough to do.
    TooMuch,
    /// These lanes were asked for more.
    Asked(Vec<i16>),
    /// This replay cannot go on for a reason of its own; it is tried again later, or has ended.
    Failed { replay: Uuid, has_ended: bool, error: sqlx::Error },
}

/// A replay that is due, locked by a step.
struct Due {
    replay: Uuid,
    account: String,
    states: Vec<i16>,
    template: Option<String>,
    conversation_id: Option<String>,
    start_time: Time,
    end_time: Time,
    rerun: bool,
    events_per_second: i32,
    actor: String,
    create_time: Time,
    after_time: Time,
    after_lane: i16,
    after_sequence: i64,
}

/// Goes one step on in the replay that has been due longest: as many events as it may have in `interval`.
///
/// # Errors
/// Those that are not the replay's own: the store cannot be reached, or has no time.
pub(crate) async fn step(pool: &PgPool, interval: Duration) -> Result<Step, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let due = sqlx::query_as!(
        Due,
        r#"
        SELECT replay, account, states, template, conversation_id, start_time AS "start_time: Time",
               end_time AS "end_time: Time", rerun, events_per_second, actor, create_time AS "create_time: Time",
               after_time AS "after_time: Time", after_lane, after_sequence
        FROM ingest.replays WHERE finish_time IS NULL AND next_step_time <= now()
        ORDER BY next_step_time LIMIT 1 FOR UPDATE SKIP LOCKED
        "#,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(due) = due else { return Ok(Step::Nothing) };
    if interventions::count_pending(&mut transaction).await? >= MOST_PENDING {
        return Ok(Step::TooMuch);
    }
    let replay = due.replay;
    match advance(&mut transaction, due, interval).await {
        Ok(asked) => {
            failpoint::edge("replay.asked");
            transaction.commit().await?;
            failpoint::edge("replay.durable");
            Ok(Step::Asked(asked))
        }
        Err(error) if is_its_own(&error) => {
            transaction.rollback().await?;
            let has_ended = fail(pool, replay, &chatfn_pg::error::describe(&error).to_string()).await?;
            Ok(Step::Failed { replay, has_ended, error })
        }
        Err(error) => Err(error),
    }
}

/// Whether an error is one that the same step would meet again.
fn is_its_own(error: &sqlx::Error) -> bool {
    let failure = chatfn_pg::classify(error);
    matches!(failure, Failure::StatementCanceled) || !failure.is_transient()
}

/// Asks the lanes for the next events of a replay, within a transaction; gives the lanes.
async fn advance(
    connection: &mut PgConnection,
    row: Due,
    interval: Duration,
) -> Result<Vec<i16>, sqlx::Error> {
    let free = MOST_IN_PROGRESS - in_progress(connection, &row.account).await?;
    let name = |error| sqlx::Error::Decode(Box::<chatfn_domain::name::NameError>::new(error));
    let filter = Filter {
        account: row.account.parse().map_err(name)?,
        states: row.states,
        template: row.template.as_deref().map(str::parse).transpose().map_err(name)?,
        conversation_id: row.conversation_id.as_deref().map(str::parse).transpose().map_err(name)?,
        start_time: row.start_time,
        end_time: row.end_time,
    };
    let after = Key { accept_time: row.after_time, lane: row.after_lane, sequence: row.after_sequence };
    let (look, pause) = if free > 0 {
        let most = (f64::from(row.events_per_second) * interval.as_secs_f64()).ceil() as i64;
        let look = look(connection, &filter, after, Some(row.create_time), most.min(free)).await?;
        let pause = look.places.len() as f64 / f64::from(row.events_per_second);
        (look, Duration::from_secs_f64(pause))
    } else {
        (Look { places: Vec::new(), next: Some(after) }, BUSY_PAUSE)
    };
    let asked =
        interventions::ask_for_replay(connection, row.replay, &row.actor, row.rerun, &look.places).await?;
    let (is_done, reached) = (look.next.is_none(), look.next.unwrap_or(after));
    sqlx::query!(
        r#"
        UPDATE ingest.replays
        SET after_time = $2, after_lane = $3, after_sequence = $4, requested = requested + $5,
            finish_time = CASE WHEN $6 THEN now() END, next_step_time = now() + $7::float8 * interval '1 millisecond',
            failures = 0, failure = ''
        WHERE replay = $1
        "#,
        row.replay,
        reached.accept_time as _,
        reached.lane,
        reached.sequence,
        i64::try_from(look.places.len()).unwrap_or(i64::MAX),
        is_done,
        millis(pause),
    )
    .execute(connection)
    .await?;
    Ok(asked)
}

/// Events of an account that operators have taken up again, or are about to, and that run or will.
async fn in_progress(connection: &mut PgConnection, account: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        SELECT (SELECT count(*) FROM (
                   SELECT FROM ingest.parked WHERE account = $1 AND attempts_before IS NOT NULL AND kind <> 1 LIMIT $2
               ) p)
             + (SELECT count(*) FROM ingest.interventions i
                   WHERE (SELECT r.account FROM ingest.replays r WHERE r.replay = i.replay) = $1) AS "count!"
        "#,
        account,
        MOST_IN_PROGRESS,
    )
    .fetch_one(connection)
    .await
}

/// Keeps what a step failed of, and lets others go first, longer and longer; ends the replay after [`MOST_FAILURES`]. Gives
/// whether it has ended.
async fn fail(pool: &PgPool, replay: Uuid, failure: &str) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query_scalar!(
        r#"
        UPDATE ingest.replays
        SET failures = failures + 1, failure = left($2, 500),
            next_step_time = now() + least(power(2, failures), 60) * interval '1 second',
            finish_time = CASE WHEN failures + 1 >= $3 THEN now() END
        WHERE replay = $1 AND finish_time IS NULL
        RETURNING finish_time IS NOT NULL AS "has_ended!"
        "#,
        replay,
        failure,
        MOST_FAILURES,
    )
    .fetch_optional(pool)
    .await?;
    Ok(ended.unwrap_or(true))
}

/// Forgets replays that ended more than `days` days ago.
pub(crate) async fn forget(pool: &PgPool, days: u16) -> Result<(), sqlx::Error> {
    // Their ids begin with the time of their creation, which spares looking at the younger ones.
    sqlx::query!(
        r#"
        DELETE FROM ingest.replays
        WHERE replay < (lpad(to_hex((extract(epoch FROM now() - $1::integer * interval '1 day') * 1000)::bigint), 12, '0')
                        || repeat('0', 20))::uuid
          AND finish_time < now() - $1::integer * interval '1 day'
        "#,
        i32::from(days),
    )
    .execute(pool)
    .await?;
    Ok(())
}
