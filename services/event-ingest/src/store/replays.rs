//! Replays: what matches, and how far each is. A replay goes on in steps, each one transaction, in whichever replica of
//! the service comes first: if a process dies, nothing is lost and nothing is asked for twice.

use std::time::Duration;

use chatfn_domain::name::{AccountId, ConversationId, TemplateName};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    Time,
    deliveries::Key,
    interventions::{self, Place},
    millis,
};

/// Events that one look goes through, at most.
const LOOK: i64 = 5_000;
/// Interventions that are not done yet, over all replays, beyond which none is asked for: the lanes come first.
const MOST_PENDING: i64 = 2_000;

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
                   r.finish_time AS "finish_time: Time", r.cancel_actor,
                   (SELECT count(*) FROM ingest.superseded s WHERE s.replay = r.replay) AS "reopened!"
            FROM ingest.replays r
            "# + $rest,
            $($argument),*
        )
    };
}

/// Starts a replay, unless the account has `most` running.
pub(crate) async fn create(
    pool: &PgPool,
    replay: Uuid,
    filter: &Filter,
    events_per_second: i32,
    rerun: bool,
    actor: &str,
    most: i64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        r#"
        INSERT INTO ingest.replays (replay, account, states, template, conversation_id, start_time, end_time, rerun,
                                    events_per_second, actor, after_time)
        SELECT $1, $2, $3, $4, $5, $6, least($7, now()), $8, $9, $10, $6
        WHERE (SELECT count(*) FROM ingest.replays WHERE account = $2 AND finish_time IS NULL) < $11
        "#,
        replay,
        filter.account.as_str(),
        &filter.states,
        filter.template.as_ref().map(TemplateName::as_str),
        filter.conversation_id.as_ref().map(ConversationId::as_str),
        filter.start_time as _,
        filter.end_time as _,
        rerun,
        events_per_second,
        actor,
        most,
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
                       FROM ingest.outcomes o WHERE o.lane = e.lane AND o.sequence = e.sequence), false) AS "matches!"
            FROM ingest.events e
            WHERE e.account = $1 AND e.conversation_id = $2 AND e.sequence > $3
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
                       FROM ingest.outcomes o WHERE o.lane = e.lane AND o.sequence = e.sequence), false) AS "matches!"
            FROM ingest.events e
            WHERE e.account = $1 AND (e.accept_time, e.lane, e.sequence) > ($2, $3, $4) AND e.accept_time < $5
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// No replay is due.
    Nothing,
    /// The lanes have enough to do.
    TooMuch,
    /// These lanes were asked for more.
    Asked(Vec<i16>),
}

/// Goes one step on in the replay that has been due longest: as many events as it may have in `interval`.
pub(crate) async fn step(pool: &PgPool, interval: Duration) -> Result<Step, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let row = sqlx::query!(
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
    let Some(row) = row else { return Ok(Step::Nothing) };
    if interventions::count_pending(&mut transaction).await? >= MOST_PENDING {
        return Ok(Step::TooMuch);
    }
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
    let most = (f64::from(row.events_per_second) * interval.as_secs_f64()).ceil();
    let look = look(&mut transaction, &filter, after, Some(row.create_time), most as i64).await?;
    let found = look.places.len();
    let asked =
        interventions::ask_for_replay(&mut transaction, row.replay, &row.actor, row.rerun, &look.places)
            .await?;
    let (is_done, reached) = (look.next.is_none(), look.next.unwrap_or(after));
    let pause = Duration::from_secs_f64(found as f64 / f64::from(row.events_per_second));
    sqlx::query!(
        r#"
        UPDATE ingest.replays
        SET after_time = $2, after_lane = $3, after_sequence = $4, requested = requested + $5,
            finish_time = CASE WHEN $6 THEN now() END, next_step_time = now() + $7::float8 * interval '1 millisecond'
        WHERE replay = $1
        "#,
        row.replay,
        reached.accept_time as _,
        reached.lane,
        reached.sequence,
        i64::try_from(found).unwrap_or(i64::MAX),
        is_done,
        millis(pause),
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Step::Asked(asked))
}
