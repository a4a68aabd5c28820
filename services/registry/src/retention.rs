//! Removes what has been kept long enough: answers for repetitions, entries of the audit, and the deployments' log.

use std::{convert::Infallible, time::Duration};

use sqlx::PgPool;
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
    pub(crate) async fn keep(self, db: PgPool, stop: CancellationToken) -> Result<(), Infallible> {
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

    async fn pass(self, db: &PgPool) -> sqlx::Result<()> {
        let full = BATCH.unsigned_abs();
        while requests::remove_older(db, self.requests, BATCH).await? == full {}
        while audit::remove_older(db, self.audit, BATCH).await? == full {}
        while deployments::trim_log(db, BATCH).await? == full {}
        Ok(())
    }
}
