//! Removes what has been kept long enough: answers for repetitions, entries of the audit, and the deployments' log.

use std::{convert::Infallible, time::Duration};

use chatfn_pg::Background;
use tokio_util::sync::CancellationToken;

use crate::store::{audit, deployments, requests};

/// Rows of one statement: few enough not to hold anybody up.
const BATCH: i64 = 500;

/// Pause after everything old is gone.
const IDLE: Duration = Duration::from_secs(60);

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) requests: Duration,
    pub(crate) audit: Duration,
}

impl Retention {
    /// Removes until `stop` fires. Any number of processes may do so at once: they pass over each other's rows.
    pub(crate) async fn keep(self, db: Background, stop: CancellationToken) -> Result<(), Infallible> {
        let mut is_failing = false;
        loop {
            match stop.run_until_cancelled(self.pass(&db)).await {
                None => return Ok(()),
                Some(Ok(())) => is_failing = false,
                Some(Err(error)) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        let error = chatfn_pg::error::describe(&error);
                        tracing::warn!(error, "what is too old cannot be removed: trying on");
                    }
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(IDLE)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn pass(self, db: &Background) -> sqlx::Result<()> {
        let full = BATCH.unsigned_abs();
        while db.ask(requests::remove_older(db.pool(), self.requests, BATCH)).await? == full {}
        while db.ask(audit::remove_older(db.pool(), self.audit, BATCH)).await? == full {}
        while db.ask(deployments::trim_log(db.pool(), BATCH)).await? == full {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chatfn_pg::{Failure, PoolConfig, classify, testing::TestDatabase};
    use sqlx::AssertSqlSafe;

    use super::*;

    /// As over a connection that has died: nothing ends the statement at the server.
    #[tokio::test]
    async fn a_pass_ends_when_nothing_answers() {
        let database = TestDatabase::create().await;
        let short = Duration::from_millis(100);
        let config = PoolConfig {
            acquire_timeout: short,
            statement_timeout: short,
            ..PoolConfig::new(database.url().clone())
        };
        let db = Background::new(database.pool().clone(), &config);
        let retention = Retention { requests: Duration::ZERO, audit: Duration::ZERO };
        for table in ["requests", "audit_entries", "deployment_log"] {
            let mut locking = database.pool().begin().await.unwrap();
            let lock = AssertSqlSafe(format!("LOCK TABLE registry.{table} IN ACCESS EXCLUSIVE MODE"));
            sqlx::query(lock).execute(&mut *locking).await.unwrap();
            let pass = tokio::time::timeout(Duration::from_secs(60), retention.pass(&db)).await;
            let error = pass.expect("it must end").unwrap_err();
            assert_eq!(classify(&error), Failure::ConnectionLost, "{table}");
            locking.rollback().await.unwrap();
        }
        retention.pass(&db).await.unwrap();
    }
}
