//! Statements that end when their caller's time does.
//!
//! [`within`] bounds all that a call asks of a pool: the wait for a connection, and each statement. A statement is ended by
//! Postgres itself, as `statement_timeout`: dropping the future of a query leaves the query running, and its connection
//! taken until it ends.
//!
//! The setting travels with a round trip that is there anyway: before a pool gives out an idle connection it asks the server
//! whether it is still there, and here that question is a `SET`. Every connection of a pool made by
//! [`connect`](crate::connect) is given out with the limit of whoever takes it, [`PoolConfig::statement_timeout`] where
//! nobody is bounded, so no limit is inherited from the call before.
//!
//! A limit counts from when its statement begins. So the last statement of a transaction may outlive the caller by as long as
//! the transaction took before it; a single one does not.
//!
//! [`PoolConfig::statement_timeout`]: crate::PoolConfig::statement_timeout

use std::{
    cell::Cell,
    future::Future,
    time::{Duration, Instant},
};

use sqlx::{AssertSqlSafe, Error, Executor as _, PgConnection};
use tokio::time::timeout_at;

tokio::task_local! {
    static BUDGET: Budget;
}

#[derive(Debug)]
struct Budget {
    /// When statements have to be over.
    statements: Instant,
    /// Whether a connection was got.
    connected: Cell<bool>,
}

/// How far a call was when its time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Expired {
    /// It had not got a connection: others had all of the pool, or the server could not be reached.
    #[error("the deadline passed while the call waited for a connection to the database")]
    Waiting,
    /// It had got one.
    #[error("the deadline passed before the call was over")]
    Working,
}

/// Does `work`, whose every statement has to be over by `statements`, and gives up at `end`. That is a little later, so that
/// what the server says of a statement that it ended arrives before.
///
/// Holds for connections that are got while `work` is polled, not for those of tasks that it spawns. Cancel safe if `work` is.
///
/// # Errors
/// How far it was at `end`.
pub async fn within<T>(
    statements: Instant,
    end: Instant,
    work: impl Future<Output = T>,
) -> Result<T, Expired> {
    let work = async {
        let work = std::pin::pin!(work);
        match timeout_at(end.into(), work).await {
            Ok(done) => Ok(done),
            Err(_) if BUDGET.with(|budget| budget.connected.get()) => Err(Expired::Working),
            Err(_) => Err(Expired::Waiting),
        }
    };
    BUDGET.scope(Budget { statements, connected: Cell::new(false) }, work).await
}

/// What is left of the time of whoever asks now; `None` when nothing bounds it.
fn left() -> Option<Duration> {
    let left = |budget: &Budget| {
        budget.connected.set(true);
        budget.statements.saturating_duration_since(Instant::now())
    };
    BUDGET.try_with(left).ok()
}

/// Limits the statements of a connection that was just made, which has the pool's own limit already.
pub(crate) async fn limit_new(connection: &mut PgConnection, default: Duration) -> Result<(), Error> {
    match left() {
        Some(left) => set(connection, left.min(default)).await,
        None => Ok(()),
    }
}

/// Limits the statements of a connection that lay idle, whoever had it before. `false`: it is broken.
pub(crate) async fn limit_idle(connection: &mut PgConnection, default: Duration) -> bool {
    let limit = left().map_or(default, |left| left.min(default));
    match set(connection, limit).await {
        Ok(()) => true,
        Err(error) => {
            // Not unexpected: the server may have been started anew since.
            tracing::info!("an idle connection is given up: {}", crate::error::describe(&error));
            false
        }
    }
}

async fn set(connection: &mut PgConnection, limit: Duration) -> Result<(), Error> {
    // Zero would be no limit at all.
    let limit = limit.as_millis().max(1);
    // As text, which is one round trip, and nothing to be prepared on each connection.
    connection.execute(AssertSqlSafe(format!("SET statement_timeout = {limit}"))).await?;
    Ok(())
}
