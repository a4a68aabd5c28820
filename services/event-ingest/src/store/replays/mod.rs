//! Replays: what matches, and how far each is. A replay goes on in steps, each one transaction, in whichever replica of
//! the service comes first: if a process dies, nothing is lost and nothing is asked for twice.

mod look;
mod step;
mod taken_up;

use chatfn_domain::name::{AccountId, ConversationId, TemplateName};
use sqlx::PgPool;
use uuid::Uuid;

pub(crate) use self::{
    look::{Look, look},
    step::{Step, step},
};
use super::{Time, deliveries::Key};

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
    /// Steps that failed in a row.
    pub(crate) failures: i32,
    /// What the last of them failed of; if none did, what the replay waits for.
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
                   (SELECT count(*) FROM (SELECT FROM ingest.superseded s WHERE s.replay = r.replay LIMIT 100000) few)
                       AS "reopened!"
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
