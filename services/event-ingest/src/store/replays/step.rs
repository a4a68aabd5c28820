//! How a replay goes on.

use std::time::Duration;

use chatfn_pg::Failure;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    super::{Time, deliveries::Key, interventions, millis},
    Filter, Look, look,
    taken_up::TakenUp,
};
use crate::failpoint;

/// Steps of a replay that may fail in a row; then it ends.
const MOST_FAILURES: i32 = 10;

/// What a step did.
#[derive(Debug)]
pub(crate) enum Step {
    /// No replay is due.
    Nothing,
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
            let has_ended = fail(pool, replay, told(&error)).await?;
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

/// What callers are told of such an error. Its own text is for the log only: it is the store's.
fn told(error: &sqlx::Error) -> &'static str {
    match chatfn_pg::classify(error) {
        Failure::StatementCanceled => {
            "the store did not find the next events in time; start another replay with a narrower filter, or ask the operator \
             for more time (--database-statement-timeout)"
        }
        _ => {
            "a step failed, by a mistake of ours; report it to the operator with the name of the replay, by which \
             event-ingest's log says what went wrong"
        }
    }
}

/// Asks the lanes for the next events of a replay, within a transaction; gives the lanes.
async fn advance(
    connection: &mut PgConnection,
    row: Due,
    interval: Duration,
) -> Result<Vec<i16>, sqlx::Error> {
    let room = TakenUp::count(connection, &row.account).await?.room();
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
    let (look, pause, waits_for) = match room {
        Ok(room) => {
            let most = (f64::from(row.events_per_second) * interval.as_secs_f64()).ceil() as i64;
            let look = look(connection, &filter, after, Some(row.create_time), most.min(room)).await?;
            let pause = look.places.len() as f64 / f64::from(row.events_per_second);
            (look, Duration::from_secs_f64(pause), String::new())
        }
        Err(wait) => (Look { places: Vec::new(), next: Some(after) }, wait.pause(), wait.told()),
    };
    let asked =
        interventions::ask_for_replay(connection, row.replay, &row.actor, row.rerun, &look.places).await?;
    let (is_done, reached) = (look.next.is_none(), look.next.unwrap_or(after));
    sqlx::query!(
        r#"
        UPDATE ingest.replays
        SET after_time = $2, after_lane = $3, after_sequence = $4, requested = requested + $5,
            finish_time = CASE WHEN $6 THEN now() END, next_step_time = now() + $7::float8 * interval '1 millisecond',
            failures = 0, failure = $8
        WHERE replay = $1
        "#,
        row.replay,
        reached.accept_time as _,
        reached.lane,
        reached.sequence,
        i64::try_from(look.places.len()).unwrap_or(i64::MAX),
        is_done,
        millis(pause),
        waits_for,
    )
    .execute(connection)
    .await?;
    Ok(asked)
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
