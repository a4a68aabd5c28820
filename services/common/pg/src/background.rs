//! What a service asks the database by itself, with no caller whose deadline would end it ([`budget`](crate::budget) is for
//! those that have one).
//!
//! A connection that dies without a word answers never, whatever the server's own limits are, and the system finds out after a
//! quarter of an hour, if at all. So what waits for an answer gives up by itself, a little after the server would have ended
//! the statement; the pool then leaves the connection aside ([`connect`](crate::connect)), and the next statement has another.

use std::{future::Future, io, time::Duration};

use sqlx::PgPool;
use tokio::time::timeout;

use crate::pool::{PoolConfig, WAY};

/// A pool for statements that no caller's deadline ends. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Background {
    pool: PgPool,
    /// How long one statement may take, with the wait for its connection.
    limit: Duration,
}

impl Background {
    /// On a pool of `config`.
    #[must_use]
    pub fn new(pool: PgPool, config: &PoolConfig) -> Self {
        Self { pool, limit: config.acquire_timeout + config.statement_timeout }
    }

    /// The pool, to give to what is asked.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Does one statement on this pool.
    ///
    /// # Errors
    /// Its own; when no answer comes, that of a lost connection.
    pub fn ask<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, sqlx::Error>> {
        self.ask_all(1, statement)
    }

    /// The same with work of several statements, at most about so many.
    ///
    /// # Errors
    /// As [`Background::ask`].
    pub fn ask_all<T>(
        &self,
        statements: u32,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, sqlx::Error>> {
        within(self.limit.saturating_mul(statements) + WAY, work)
    }

    /// The same with work that has errors of its own.
    ///
    /// # Errors
    /// That of a lost connection, when the work has not ended.
    pub async fn bound<T>(&self, statements: u32, work: impl Future<Output = T>) -> Result<T, sqlx::Error> {
        let limit = self.limit.saturating_mul(statements) + WAY;
        timeout(limit, work).await.map_err(|_elapsed| silence())
    }
}

/// Does work that is given up after so long, as if its connection was lost: it may have been done.
///
/// # Errors
/// Its own; when it takes longer, that of a lost connection.
pub fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> impl Future<Output = Result<T, sqlx::Error>> {
    // On the heap: whoever waits for it would hold it once more for each function in between.
    let work = timeout(limit, Box::pin(work));
    async move { work.await.unwrap_or_else(|_elapsed| Err(silence())) }
}

fn silence() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database has fallen silent"))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;
    use crate::{Failure, classify, testing::TestDatabase};

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
