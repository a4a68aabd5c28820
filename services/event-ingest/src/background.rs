//! What the service asks the database by itself.

use std::{io, time::Duration};

use chatfn_pg::PoolConfig;
use sqlx::PgPool;
use tokio::time::timeout;

/// Longest way of an answer that the server has given in time.
const WAY: Duration = Duration::from_secs(1);

/// A pool for statements that no caller's deadline ends. A connection that dies without a word answers never, whatever the
/// server's own limits are: what waits for it must give up by itself. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Background {
    pool: PgPool,
    /// How long one statement may take, with the wait for its connection.
    limit: Duration,
}

impl Background {
    /// On a pool of `config`.
    pub(crate) fn new(pool: PgPool, config: &PoolConfig) -> Self {
        Self { pool, limit: config.acquire_timeout + config.statement_timeout }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does one statement on this pool.
    ///
    /// # Errors
    /// Its own; when no answer comes, that of a lost connection.
    pub(crate) async fn ask<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        self.ask_all(1, statement).await
    }

    /// The same with work of several statements, at most about so many.
    pub(crate) async fn ask_all<T>(
        &self,
        statements: u32,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        within(self.limit.saturating_mul(statements) + WAY, work).await
    }

    /// The same with work that has errors of its own.
    pub(crate) async fn bound<T>(
        &self,
        statements: u32,
        work: impl Future<Output = T>,
    ) -> Result<T, sqlx::Error> {
        let limit = self.limit.saturating_mul(statements) + WAY;
        timeout(limit, work).await.map_err(|_elapsed| silence())
    }
}

/// Does work that is given up after so long, as if its connection was lost: it may have been done.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or_else(|_elapsed| Err(silence()))
}

fn silence() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database has fallen silent"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use chatfn_pg::{Failure, classify, testing::TestDatabase};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn silence_is_a_lost_connection() {
        let database = TestDatabase::create_empty().await;
        let config = PoolConfig::new(database.url().clone());
        let background = Background::new(database.pool().clone(), &config);
        tokio::time::pause();
        let start = Instant::now();
        let error = background.ask(pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(classify(&error), Failure::ConnectionLost);
        // The server's own limits come first, and say more.
        assert!(start.elapsed() > config.acquire_timeout + config.statement_timeout);
    }
}
